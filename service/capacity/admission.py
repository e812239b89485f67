"""The slots of a worker: which requests compute now, which wait, and which are refused.

A worker computes on one core, so it computes few requests at once. Each request takes a slot of a lane, by its cost:

    system   requests without a body: the catalogue, pages, metrics
    tiny     up to 0.005 seconds; small bodies start here, for a request's cost is known once it is validated
    small    up to 0.05 seconds
    medium   up to 1 second
    heavy    everything longer

`Admission` holds the lanes of a worker, and a `Ticket` takes one request through them. The queue of a lane is bounded
and fair between clients. It refuses at once a request whose turn would come too late for its deadline. A request that
costs more than its lane allows moves on to the next lane, and waits there in the middle of its computation. Costs are
seconds of processor time, so a busy machine makes no request heavy.

Streams compute in turns (`service/api/streaming.py`) and hold a place among the streams instead of a slot.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator

from service.capacity.lanes import Lane, Load
from service.capacity.ticket import RECHECK_SECONDS, Ticket, call_all
from service.engine.errors import Abandoned
from service.problems import Problem, retry_after

TINY_SECONDS = 0.005
"""The cost of a tiny request at most: while sixty clients send such requests, an example waits for 0.15 seconds."""
SMALL_SECONDS = 0.05
"""The cost of a small request at most: about the first request for a network of some hundred nodes."""
MEDIUM_SECONDS = 1.0
"""The cost of a medium request at most: a shorter request should not wait for a heavy one."""
TINY_SLOTS = 4
"""Tiny requests that compute at once: one that waits for memory leaves slots to the others."""
SYSTEM_SLOTS = 2
LONGER_QUEUE = 16
"""Queues of short requests are this many times longer: their waiting holds no thread, and is over soon."""


class Admission:
    """The lanes of a worker. Thread-safe. It is created before the fork and starts no thread."""

    def __init__(
        self,
        *,
        seconds: float,
        slots: int = 1,
        queue: int = 64,
        streams: int = 32,
        clock: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """`seconds` is the time limit of a request, from its first byte to its last.

        The small, the medium and the heavy lane have `slots` slots each, and each queues at most `queue` requests.
        `streams` bounds the open streams. `cpu` returns the processor time of the calling thread.
        """
        self.seconds = seconds
        self.clock, self.cpu = clock, cpu
        self.lock = threading.Lock()
        short = LONGER_QUEUE * queue
        self.system = Lane("system", SYSTEM_SLOTS, short, math.inf, 0.005, seconds)
        self.tiny = Lane("tiny", TINY_SLOTS, short, TINY_SECONDS, 0.005, seconds)
        self.small = Lane("small", slots, queue, SMALL_SECONDS, 0.03, seconds)
        self.medium = Lane("medium", slots, queue, MEDIUM_SECONDS, 0.3, seconds)
        self.heavy = Lane("heavy", slots, queue, math.inf, 3.0, seconds)
        self.streams = Lane("streams", streams, streams, math.inf, 10.0, seconds)
        self.computing = (self.tiny, self.small, self.medium, self.heavy)
        """The lanes for requests with a body, cheapest first."""
        self.lanes = (self.system, *self.computing, self.streams)
        self.closed = False

    @property
    def most_threads(self) -> int:
        """Threads that requests may hold at once: with a slot, with a stream, or while they wait in their
        computation."""
        waiting = (self.small, self.medium, self.heavy)
        return sum(lane.slots for lane in self.lanes) + sum(lane.room for lane in waiting)

    def ticket(self, client: str, arrived: float) -> Ticket:
        """Return the ticket of a request whose first byte came at the reading `arrived` of the clock."""
        return Ticket(self, client, arrived)

    def close(self) -> None:
        """Refuse all waiting requests, and every later one: the server stops."""
        calls = []
        with self.lock:
            self.closed = True
            for lane in (self.system, *self.computing):
                while (ticket := lane.next()) is not None:
                    calls.append(ticket._refuse(self._stopping()))
        call_all(calls)

    def load(self) -> Iterator[Load]:
        """Yield the load of each lane."""
        for lane in self.lanes:
            yield Load(lane.name, len(lane.running), lane.length, lane.slots)

    def backlog(self) -> float:
        """Return the number of seconds until the work is done that waits for slots now."""
        with self.lock:
            now = self.clock()
            return max(lane.wait_of("", now) for lane in self.computing)

    def lane_of(self, cost: float) -> Lane:
        """Return the lane for requests of this cost."""
        return next(lane for lane in self.computing if cost <= lane.most)

    def _stopping(self) -> Problem:
        return Problem("busy", "This server is stopping.", headers=retry_after(1.0))

    def _enter(self, ticket: Ticket, lane: Lane, cost: float, ready: Callable[[], None]) -> bool:
        """Return True and grant a slot if one is free; else queue the request and return False. The lock is held.

        Raise `Problem` if it would wait too long, and `Abandoned` if it has ended.
        """
        if ticket.ended:
            raise Abandoned  # the slot would never come back
        if self.closed:
            raise self._stopping()
        now = self.clock()
        if len(lane.running) < lane.slots:  # then nobody waits
            self._grant(ticket, lane, cost, now)
            return True
        wait = lane.wait_of(ticket.client, now)
        own = lane.takes(cost)
        # Whoever is let in shall not be refused later, so there must be time for what cannot be foreseen.
        needed = (wait + own) * (1.0 + lane.doubt())
        if now + needed > ticket.deadline:
            # Whoever comes again has all its time once more.
            again = max(needed - self.seconds, lane.service / lane.slots)
            detail = (
                f"The wait for a computation of this size is {wait:.1f} seconds, too long for the time limit of "
                f"{self.seconds:g} seconds."
            )
            raise Problem("busy", detail, headers=retry_after(again))
        mine = len(lane.waiting.get(ticket.client, ()))
        if mine >= lane.share:
            detail = f"{mine} requests of this client wait for computations of this size, as many as may."
            raise Problem("busy", detail, headers=retry_after(lane.wait_of(ticket.client, now, 0)))
        if lane.length >= lane.room:
            detail = f"{lane.length} requests wait for computations of this size, as many as may."
            raise Problem("busy", detail, headers=retry_after(lane.rest(now)))
        ticket.cost, ticket.asked, ticket.queued_in, ticket.ready = cost, now, lane, ready
        lane.add(ticket)
        return False

    def _grant(self, ticket: Ticket, lane: Lane, cost: float, now: float) -> None:
        ticket.cost, ticket.lane = cost, lane
        lane.running[ticket] = now

    def _give_back(self, ticket: Ticket) -> list[Callable[[], None]]:
        """Take the slot from a request and grant it to the next. Return the callbacks to call. The lock is held."""
        lane = ticket.lane
        if lane is None:
            return []
        ticket.lane = None
        now = self.clock()
        seconds = now - lane.running.pop(ticket)
        if not ticket.gone:  # else it was cut short
            lane.learn(ticket.cost, seconds)
        if not lane.length:
            return []
        calls = self._fill(lane, now)
        calls += self._refuse_overdue(lane, now)
        return calls

    def recheck(self, lane: Lane) -> None:
        """Forecast the waits in a lane anew, even if no slot was given back."""
        with self.lock:
            calls = self._refuse_overdue(lane, self.clock())
        call_all(calls)

    def _refuse_overdue(self, lane: Lane, now: float) -> list[Callable[[], None]]:
        """Refuse the requests that cannot end in time any more, so that nobody waits in vain until the deadline."""
        if now < lane.checked + RECHECK_SECONDS:
            return []
        lane.checked = now
        calls = []
        for ticket, again in list(lane.overdue(now)):
            lane.drop(ticket)
            detail = (
                f"Those before this request take longer than foreseen; after {now - ticket.arrived:.1f} seconds, too "
                "little time is left for this computation."
            )
            # Whatever waits now is over by the time limit.
            again = min(max(again, lane.service / lane.slots), self.seconds)
            calls.append(ticket._refuse(Problem("busy", detail, headers=retry_after(again))))
        return calls

    def _fill(self, lane: Lane, now: float) -> list[Callable[[], None]]:
        calls = []
        while len(lane.running) < lane.slots and (ticket := lane.next()) is not None:
            # Who cannot end in time leaves the slot to others who can.
            if now > ticket.deadline or (lane.length and now + lane.takes(ticket.cost) > ticket.deadline):
                detail = f"The wait of {now - ticket.arrived:.1f} seconds left too little time for this computation."
                calls.append(ticket._refuse(Problem("busy", detail, headers=retry_after(lane.wait_of("", now)))))
                continue
            ticket.waited += now - ticket.asked
            self._grant(ticket, lane, ticket.cost, now)
            calls.append(ticket._tell())
        return calls
