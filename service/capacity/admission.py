"""Who computes now, who waits, and who is sent away: the slots of a worker.

A worker computes on one core, so it computes few requests at once. Each request takes a slot of a lane, by what it
costs:

    system   requests without a body: the catalogue, pages, metrics
    tiny     up to 0.005 seconds; small bodies start here, for the cost of a request is known once it is validated
    small    up to 0.05 seconds
    medium   up to 1 second
    heavy    everything longer

`Admission` holds the lanes of a worker, and `Ticket` is the way of one request through them. Each lane has a queue that
is bounded, fair between clients, and refuses at once a request whose turn would come too late for its deadline. A
request that turns out to cost more than its lane is for moves on to the next lane, and waits there in the middle of
its computation. Costs are seconds of processor time, so a busy machine makes no request heavy.

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
"""What a tiny request costs at most: sixty clients of such requests let an example wait for 0.15 seconds."""
SMALL_SECONDS = 0.05
"""What a small request costs at most: about the first request for a network that needs some hundred nodes."""
MEDIUM_SECONDS = 1.0
"""What a medium request costs at most: shorter than this, nobody should wait for a heavy one."""
TINY_SLOTS = 4
"""Tiny requests that are worked on at once: one that waits for memory leaves the others some."""
SYSTEM_SLOTS = 2
LONGER_QUEUE = 16
"""How many times longer the queues of short requests are: their waiting holds no thread, and is over soon."""


class Admission:
    """The lanes of a worker. For many threads; it is made before the fork and starts none."""

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
        """`seconds` is the time of a request from its first byte to its last.

        `slots` are those of the small, the medium and the heavy lane each, `queue` bounds how many wait in each of
        them, and `streams` how many streams are open. `cpu` tells the processor time of the calling thread.
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
        """The lanes for requests with a body, by what these cost."""
        self.lanes = (self.system, *self.computing, self.streams)
        self.closed = False

    @property
    def most_threads(self) -> int:
        """Threads that requests may hold at once: those with a slot or a stream, and those that wait in the core."""
        waiting = (self.small, self.medium, self.heavy)
        return sum(lane.slots for lane in self.lanes) + sum(lane.room for lane in waiting)

    def ticket(self, client: str, arrived: float) -> Ticket:
        """The way of a request whose first byte came at the reading `arrived` of the clock."""
        return Ticket(self, client, arrived)

    def close(self) -> None:
        """The server stops: who waits is refused, and so is everybody who asks for a slot from now on."""
        calls = []
        with self.lock:
            self.closed = True
            for lane in (self.system, *self.computing):
                while (ticket := lane.next()) is not None:
                    calls.append(ticket._refuse(self._stopping()))
        call_all(calls)

    def load(self) -> Iterator[Load]:
        """What goes on in each lane."""
        for lane in self.lanes:
            yield Load(lane.name, len(lane.running), lane.length, lane.slots)

    def backlog(self) -> float:
        """In how many seconds the work is done that waits for slots now."""
        with self.lock:
            now = self.clock()
            return max(lane.wait_of("", now) for lane in self.computing)

    def lane_of(self, cost: float) -> Lane:
        """The lane for requests of this cost."""
        return next(lane for lane in self.computing if cost <= lane.most)

    def _stopping(self) -> Problem:
        return Problem("busy", "This server is stopping.", headers=retry_after(1.0))

    def _enter(self, ticket: Ticket, lane: Lane, cost: float, ready: Callable[[], None]) -> bool:
        """A slot for a request, whether it has it at once. Raises `Problem`, and `Abandoned` where it has ended.

        Called with the lock held.
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
        """Take the slot from a request, and give it to the next; whom to tell. Called with the lock held."""
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
        """Foresee the waits in a lane anew, whether or not somebody gives a slot back."""
        with self.lock:
            calls = self._refuse_overdue(lane, self.clock())
        call_all(calls)

    def _refuse_overdue(self, lane: Lane, now: float) -> list[Callable[[], None]]:
        """Refuse at once who cannot be in time any more: nobody waits in vain until the deadline."""
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
