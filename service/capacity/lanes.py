"""One lane: the requests of similar cost that hold a slot or wait for one, and a forecast of their waits."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, TypeVar

MEMORY, MOST_MEMORY = 0.1, 0.3
"""The weight of the last request in a moving average, for a short and for a long request.

Ten long requests take minutes, and the first of them tells what those who wait now will see. Among the first few
requests, all weigh the same.
"""
LEAST_DOUBT, MOST_DOUBT = 0.15, 0.5
"""Bounds of the doubt about a forecast.

The pace of a machine changes by the lower one in half a minute, however like each other its requests are. With the
upper one a lane still promises waits up to two thirds of the time limit, however unlike its requests are.
"""
LEAST_SLOWDOWN, MOST_SLOWDOWN = 0.2, 20.0


class Request(Protocol):
    """The part of a request that a lane uses; `Ticket` is one."""

    @property
    def client(self) -> str:
        """The name of the request's client."""

    @property
    def cost(self) -> float:
        """The estimated cost of the request, in seconds of processor time."""

    @property
    def deadline(self) -> float:
        """The reading of the clock at which the request must have ended."""


R = TypeVar("R", bound=Request)


class Lane(Generic[R]):
    """Requests of similar cost: some hold a slot, the others wait. Callers must hold the lock of `Admission`."""

    def __init__(self, name: str, slots: int, room: int, most: float, service: float, longest: float) -> None:
        self.name = name
        self.slots = slots
        self.room = room
        """The number of requests that may wait."""
        self.share = room - room // 4
        """The number of requests of one client that may wait, or stream."""
        self.most = most
        """The cost of a request at most, in seconds."""
        self.longest = max(longest, 1e-9)  # it divides
        """Seconds that any request may take from its first byte to its last."""
        self.running: dict[R, float] = {}
        """The time at which each request was given its slot."""
        self.waiting: OrderedDict[str, deque[R]] = OrderedDict()
        """The queue of each client, in the order of their turns."""
        self.length = 0
        self.slowdown = 1.0
        """Seconds on the clock for each second of cost, as a moving average: other requests slow a request down."""
        self.learned = 0
        """The number of requests in the average."""
        self.spread = 0.0
        """The distance between a request's slowdown and that average, as a moving average."""
        self.service = service
        """Seconds on the clock that a request holds its slot, as a moving average."""
        self.checked = -math.inf
        """The time of the last forecast."""

    def takes(self, cost: float, slowdown: float | None = None) -> float:
        """Return the seconds on the clock that a request of this cost will take, by the measured or given slowdown."""
        return min(cost * (self.slowdown if slowdown is None else slowdown), self.longest)

    def wait_of(self, client: str, now: float, place: int | None = None) -> float:
        """Return the forecast of the seconds until a request of this client gets a slot.

        `place` is its position in the queue of its client; None means the end, where a new request goes.
        """
        if len(self.running) < self.slots and not self.length:
            return 0.0
        slowdown = self.pace(now)
        before = sum(self._rest(request, now - since, now) for request, since in self.running.items())
        # Every client has one turn in each round; so many rounds pass before the turn of this request.
        rounds = len(self.waiting.get(client, ())) if place is None else place
        for other, queue in self.waiting.items():
            ahead = rounds if other == client else rounds + 1
            known = sum(self.takes(request.cost, slowdown) for request in islice(queue, ahead))
            # A waiting client asks again, so it has a turn in each round, of about the same cost.
            before += known * max(1.0, ahead / len(queue))
        return before / self.slots

    def pace(self, now: float) -> float:
        """Return the slowdown to forecast with: the measured one, raised if requests run longer than it says now."""
        slowdown = self.slowdown
        for request, since in self.running.items():
            if now - since > request.cost * slowdown > 0.0:
                change, weight = self._news(request.cost, now - since)
                slowdown = max(slowdown, self.slowdown + weight * change)
        return slowdown

    def overdue(self, now: float) -> Iterator[tuple[R, float]]:
        """Yield the waiting requests that, by the forecast, cannot end in time any more.

        Each comes with the seconds after which it would fit again, once those before it have come again too. The method
        plays the turns to come in one pass over the queues.
        """
        slowdown = self.pace(now)
        taken = sum(self._rest(request, now - since, now) for request, since in self.running.items())
        asked_again = refused = 0.0
        turns = [(iter(queue), 0.0) for queue in self.waiting.values()]
        while turns:
            taken += asked_again
            following = []
            for queue, last in turns:
                for request in queue:
                    own = self.takes(request.cost, slowdown)
                    wait = taken / self.slots
                    if now + wait + own <= request.deadline:
                        taken += own
                        following.append((queue, own))
                        break
                    yield request, wait + refused / self.slots + own - self.longest
                    refused += own
                else:
                    asked_again += last  # its client asks again, for about the same cost
            turns = following

    def doubt(self) -> float:
        """Return the share by which a wait may exceed its forecast, from how much slowdowns vary."""
        return min(max(self.spread / self.slowdown, LEAST_DOUBT), MOST_DOUBT) if self.learned else 0.0

    def rest(self, now: float) -> float:
        """Return the forecast of the seconds until the next slot of the lane becomes free."""
        return min(self._rest(request, now - since, now) for request, since in self.running.items())

    def _rest(self, request: R, elapsed: float, now: float) -> float:
        """Return the forecast of the seconds that a request still holds its slot after `elapsed` seconds with it."""
        rest = self.takes(request.cost) - elapsed
        if rest <= 0.0:
            rest = 0.5 * elapsed  # the estimate was too low; nobody knows by how much
        return min(rest, max(0.0, request.deadline - now))

    def add(self, request: R) -> None:
        """Put a request at the end of its client's queue."""
        self.waiting.setdefault(request.client, deque()).append(request)
        self.length += 1

    def drop(self, request: R) -> None:
        """Take a waiting request out of its client's queue."""
        queue = self.waiting[request.client]
        queue.remove(request)
        self.length -= 1
        if not queue:
            del self.waiting[request.client]

    def next(self) -> R | None:
        """Take the request whose turn it is out of its queue. Clients take turns. Return None if nobody waits."""
        if not self.waiting:
            return None
        client, queue = next(iter(self.waiting.items()))
        request = queue.popleft()
        self.length -= 1
        if queue:
            self.waiting.move_to_end(client)
        else:
            del self.waiting[client]
        return request

    def learn(self, cost: float, seconds: float) -> None:
        """Update the averages with a request of this cost that held its slot for `seconds` on the clock."""
        self.service += MEMORY * (seconds - self.service)
        if cost > 0.0:
            change, weight = self._news(cost, seconds)
            self.slowdown += weight * change
            self.spread += weight * (abs(change) - self.spread)
            self.learned += 1

    def _news(self, cost: float, seconds: float) -> tuple[float, float]:
        """Return the difference of a request's slowdown from the average, and the weight with which it counts."""
        slowdown = min(max(seconds / min(cost, self.longest), LEAST_SLOWDOWN), MOST_SLOWDOWN)
        weight = max(min(max(seconds / self.longest, MEMORY), MOST_MEMORY), 1.0 / (1 + self.learned))
        return slowdown - self.slowdown, weight


@dataclass(frozen=True)
class Load:
    """The number of computing and waiting requests of a lane."""

    lane: str
    busy: int
    """The number of slots that are taken."""
    waiting: int
    slots: int
