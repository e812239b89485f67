"""One lane: the requests of a size that hold a slot or wait for one, and a forecast of their waits."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.capacity.ticket import Ticket

MEMORY, MOST_MEMORY = 0.1, 0.3
"""The weight of the last request in a moving average: of a short one, and of one that took long.

Ten long ones take minutes, and what the first tells is true for those who wait now. Where there were few yet, all weigh
the same.
"""
LEAST_DOUBT, MOST_DOUBT = 0.15, 0.5
"""The pace of a machine changes by the first in half a minute, however like each other its requests are.

With the second a lane still promises waits up to two thirds of the time limit, however unlike its requests are.
"""
LEAST_SLOWDOWN, MOST_SLOWDOWN = 0.2, 20.0


class Lane:
    """Requests of one kind: those that hold a slot, and those that wait for one. The lock of `Admission` guards it."""

    def __init__(self, name: str, slots: int, room: int, most: float, service: float, longest: float) -> None:
        self.name = name
        self.slots = slots
        self.room = room
        """How many may wait."""
        self.share = room - room // 4
        """How many of one client may wait, or stream."""
        self.most = most
        """Seconds that a request of this lane costs at most."""
        self.longest = max(longest, 1e-9)  # it divides
        """Seconds that any request may take from its first byte to its last."""
        self.running: dict[Ticket, float] = {}
        """When each was given its slot."""
        self.waiting: OrderedDict[str, deque[Ticket]] = OrderedDict()
        """The queue of each client, in the order of their turns."""
        self.length = 0
        self.slowdown = 1.0
        """Seconds on the clock for each second of cost, in the mean of late: how much others slow a request down."""
        self.learned = 0
        """Requests that the mean is of."""
        self.spread = 0.0
        """How far the slowdown of a request is from that mean, in the mean of late."""
        self.service = service
        """Seconds on the clock that a request holds its slot, in the mean of late."""
        self.checked = -math.inf
        """When the waits were foreseen last."""

    def takes(self, cost: float, slowdown: float | None = None) -> float:
        """Seconds on the clock that a request of this cost will take."""
        return min(cost * (self.slowdown if slowdown is None else slowdown), self.longest)

    def wait_of(self, client: str, now: float, place: int | None = None) -> float:
        """Seconds until a request of this client will have a slot, as far as can be foreseen.

        `place` is that in the queue of its client; None: the last one, of a request that comes now.
        """
        if len(self.running) < self.slots and not self.length:
            return 0.0
        slowdown = self.pace(now)
        before = sum(self._rest(ticket, now - since, now) for ticket, since in self.running.items())
        # In each round of turns every client has one; so many rounds come before this request has its turn.
        rounds = len(self.waiting.get(client, ())) if place is None else place
        for other, queue in self.waiting.items():
            ahead = rounds if other == client else rounds + 1
            known = sum(self.takes(ticket.cost, slowdown) for ticket in islice(queue, ahead))
            # Whoever waits now asks again, so it has a turn in each round, of about the same cost.
            before += known * max(1.0, ahead / len(queue))
        return before / self.slots

    def pace(self, now: float) -> float:
        """The slowdown, with what will be learned at least from those that run longer than they were said to take."""
        slowdown = self.slowdown
        for ticket, since in self.running.items():
            if now - since > ticket.cost * slowdown > 0.0:
                change, weight = self._news(ticket.cost, now - since)
                slowdown = max(slowdown, self.slowdown + weight * change)
        return slowdown

    def overdue(self, now: float) -> Iterator[tuple[Ticket, float]]:
        """Requests that wait and cannot end in time any more, as far as can be foreseen.

        With each go the seconds after which it would fit again, once those before it have come again too. This plays
        the turns to come in one pass over the queues.
        """
        slowdown = self.pace(now)
        taken = sum(self._rest(ticket, now - since, now) for ticket, since in self.running.items())
        asked_again = refused = 0.0
        turns = [(iter(queue), 0.0) for queue in self.waiting.values()]
        while turns:
            taken += asked_again
            following = []
            for queue, last in turns:
                for ticket in queue:
                    own = self.takes(ticket.cost, slowdown)
                    wait = taken / self.slots
                    if now + wait + own <= ticket.deadline:
                        taken += own
                        following.append((queue, own))
                        break
                    yield ticket, wait + refused / self.slots + own - self.longest
                    refused += own
                else:
                    asked_again += last  # whoever had all its turns asks again, for about the same cost
            turns = following

    def doubt(self) -> float:
        """How much longer than foreseen a wait may become, as a share of it."""
        return min(max(self.spread / self.slowdown, LEAST_DOUBT), MOST_DOUBT) if self.learned else 0.0

    def rest(self, now: float) -> float:
        """Seconds until the next of those with a slot gives it back."""
        return min(self._rest(ticket, now - since, now) for ticket, since in self.running.items())

    def _rest(self, ticket: Ticket, elapsed: float, now: float) -> float:
        """Seconds that a request will hold its slot from now on."""
        rest = self.takes(ticket.cost) - elapsed
        if rest <= 0.0:
            rest = 0.5 * elapsed  # the estimate was too low; nobody knows by how much
        return min(rest, max(0.0, ticket.deadline - now))

    def add(self, ticket: Ticket) -> None:
        """Put a request at the end of its client's queue."""
        self.waiting.setdefault(ticket.client, deque()).append(ticket)
        self.length += 1

    def drop(self, ticket: Ticket) -> None:
        """Take a request out of its queue."""
        queue = self.waiting[ticket.client]
        queue.remove(ticket)
        self.length -= 1
        if not queue:
            del self.waiting[ticket.client]

    def next(self) -> Ticket | None:
        """Take the request with the next turn out of its queue. The turn after this one is another client's."""
        if not self.waiting:
            return None
        client, queue = next(iter(self.waiting.items()))
        ticket = queue.popleft()
        self.length -= 1
        if queue:
            self.waiting.move_to_end(client)
        else:
            del self.waiting[client]
        return ticket

    def learn(self, cost: float, seconds: float) -> None:
        """A request of this cost held its slot for so many seconds on the clock."""
        self.service += MEMORY * (seconds - self.service)
        if cost > 0.0:
            change, weight = self._news(cost, seconds)
            self.slowdown += weight * change
            self.spread += weight * (abs(change) - self.spread)
            self.learned += 1

    def _news(self, cost: float, seconds: float) -> tuple[float, float]:
        """How far the slowdown of a request is from the mean, once it has held its slot for so long; its weight."""
        slowdown = min(max(seconds / min(cost, self.longest), LEAST_SLOWDOWN), MOST_SLOWDOWN)
        weight = max(min(max(seconds / self.longest, MEMORY), MOST_MEMORY), 1.0 / (1 + self.learned))
        return slowdown - self.slowdown, weight


@dataclass(frozen=True)
class Load:
    """What goes on in a lane."""

    lane: str
    busy: int
    """Slots that are taken."""
    waiting: int
    slots: int
