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
from dataclasses import dataclass, field

from service.capacity.lanes import Lane, Load
from service.engine.errors import Abandoned, DeadlineExceeded
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
STORAGE_SLOTS = 4
"""Requests that ask the database at once. If the database is slow or gone, all others still have their slots."""
LONGER_QUEUE = 16
"""Queues of short requests are this many times longer: their waiting holds no thread, and is over soon."""
BODY_SECONDS = 2e-8
"""The cost of a byte of a body, to read and validate it."""
LOOK_SECONDS = 0.01
"""Seconds between two checks whether the client has left."""
OVERRUN = 1.5
"""The cost of a request in too small a lane, at most, in multiples of its estimate.

Otherwise a request estimated at just below a second would compute for a second, move on, and perhaps be refused there:
its work would be lost.
"""
RECHECK_SECONDS = 0.5
"""Seconds between two forecasts of the waits in a lane."""


class Admission:
    """The lanes of a worker: they decide which requests compute, wait or are refused.

    Threads may share it. It is created before the fork and starts no thread.
    """

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
        """Make the lanes. `seconds` is the time limit of a request, from its first byte to its last.

        The small, the medium and the heavy lane have `slots` slots each, and each queues at most `queue` requests.
        `streams` bounds the open streams. `cpu` returns the processor time of the calling thread.
        """
        self.seconds = seconds
        self.clock, self.cpu = clock, cpu
        self.lock = threading.Lock()
        short = LONGER_QUEUE * queue
        self.system = Lane[Ticket]("system", SYSTEM_SLOTS, short, math.inf, 0.005, seconds)
        self.tiny = Lane[Ticket]("tiny", TINY_SLOTS, short, TINY_SECONDS, 0.005, seconds)
        self.small = Lane[Ticket]("small", slots, queue, SMALL_SECONDS, 0.03, seconds)
        self.medium = Lane[Ticket]("medium", slots, queue, MEDIUM_SECONDS, 0.3, seconds)
        self.heavy = Lane[Ticket]("heavy", slots, queue, math.inf, 3.0, seconds)
        self.streams = Lane[Ticket]("streams", streams, streams, math.inf, 10.0, seconds)
        self.computing = (self.tiny, self.small, self.medium, self.heavy)
        """The lanes for requests with a body, cheapest first."""
        self.storage = Lane[Ticket]("storage", STORAGE_SLOTS, queue, math.inf, 0.005, seconds)
        self.lanes = (self.system, *self.computing, self.storage, self.streams)
        self.closed = False

    def ticket(self, client: str, arrived: float) -> Ticket:
        """Return a ticket for a request of this client; `arrived` is the clock's reading at its first byte."""
        return Ticket(self, client, arrived)

    def close(self) -> None:
        """Refuse all waiting and all later requests, because the server stops."""
        calls = []
        with self.lock:
            self.closed = True
            for lane in (self.system, *self.computing, self.storage):
                while (ticket := lane.next()) is not None:
                    calls.append(ticket._refuse(self._stopping()))
        _call(calls)

    def load(self) -> Iterator[Load]:
        """Yield the number of computing and waiting requests of each lane, for the metrics."""
        for lane in self.lanes:
            yield Load(lane.name, len(lane.running), lane.length, lane.slots)

    def backlog(self) -> float:
        """Return the seconds until all requests that wait for slots now will have one, by the forecast."""
        with self.lock:
            now = self.clock()
            return max(lane.wait_of("", now) for lane in self.computing)

    def lane_of(self, cost: float) -> Lane[Ticket]:
        """Return the lane for requests of this cost, in seconds of processor time."""
        return next(lane for lane in self.computing if cost <= lane.most)

    def _stopping(self) -> Problem:
        return Problem("busy", "This server is stopping.", headers=retry_after(1.0))

    def _enter(self, ticket: Ticket, lane: Lane[Ticket], cost: float, ready: Callable[[], None]) -> bool:
        """Grant a slot of the lane if one is free, and return True; else queue the request, and return False.

        Raise `Problem` 503 if it would wait too long, and `Abandoned` if it has ended. The lock must be held.
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
        # An admitted request should not be refused later, so there must be spare time for surprises.
        needed = (wait + own) * (1.0 + lane.doubt())
        if now + needed > ticket.deadline:
            # A client that comes again has its whole time once more.
            again = max(needed - self.seconds, lane.service / lane.slots)
            detail = (
                f"The wait for a computation of this size is {wait:.1f} seconds, too long for the time limit of "
                f"{self.seconds:g} seconds."
            )
            raise Problem("busy", detail, headers=retry_after(again))
        mine = len(lane.waiting.get(ticket.client, ()))
        if mine >= lane.share:
            detail = f"{mine} requests of this client wait for computations of this size, the most that may wait."
            raise Problem("busy", detail, headers=retry_after(lane.wait_of(ticket.client, now, 0)))
        if lane.length >= lane.room:
            detail = f"{lane.length} requests wait for computations of this size, the most that may wait."
            raise Problem("busy", detail, headers=retry_after(lane.rest(now)))
        ticket.cost, ticket.asked, ticket.queued_in, ticket.ready = cost, now, lane, ready
        lane.add(ticket)
        return False

    def _grant(self, ticket: Ticket, lane: Lane[Ticket], cost: float, now: float) -> None:
        ticket.cost, ticket.lane = cost, lane
        lane.running[ticket] = now

    def _open_stream(self, ticket: Ticket) -> None:
        """Count a request among the open streams. Raise `Problem` 503 if they, or those of its client, are too many."""
        lane = self.streams
        with self.lock:
            now = self.clock()
            mine = [other for other in lane.running if other.client == ticket.client]
            full = len(lane.running) >= lane.slots
            if full or len(mine) >= lane.share:
                ends = min(other.deadline for other in (lane.running if full else mine))
                detail = f"As many streams are open as a worker of this server serves at once: {lane.slots}."
                if not full:
                    detail = f"As many streams of this client are open as a worker serves at once: {lane.share}."
                # A stream ends at its deadline at the latest; on average, one ends every `service / slots` seconds.
                # The stream of a run has no deadline, and may stay for hours.
                again = min(ends - now, lane.service / lane.slots, self.seconds)
                raise Problem("busy", detail, headers=retry_after(again))
            lane.running[ticket] = now

    def _give_back(self, ticket: Ticket) -> list[Callable[[], None]]:
        """Take the slot from a request and grant it to the next. Return callbacks to call without the lock."""
        lane = ticket.lane
        if lane is None:
            return []
        ticket.lane = None
        now = self.clock()
        seconds = now - lane.running.pop(ticket)
        if not ticket.gone:  # otherwise it was cut short
            lane.learn(ticket.cost, seconds)
        if not lane.length:
            return []
        calls = self._fill(lane, now)
        calls += self._refuse_overdue(lane, now)
        return calls

    def recheck(self, lane: Lane[Ticket]) -> None:
        """Forecast the waits in a lane anew, and refuse the requests that cannot end in time any more."""
        with self.lock:
            calls = self._refuse_overdue(lane, self.clock())
        _call(calls)

    def _refuse_overdue(self, lane: Lane[Ticket], now: float) -> list[Callable[[], None]]:
        """Refuse the requests that cannot end in time any more, so that nobody waits in vain until the deadline.

        Return callbacks as `_give_back` does. The lock must be held.
        """
        if now < lane.checked + RECHECK_SECONDS:
            return []
        lane.checked = now
        calls = []
        for ticket, again in list(lane.overdue(now)):
            lane.drop(ticket)
            detail = (
                f"Earlier requests take longer than foreseen; after {now - ticket.arrived:.1f} seconds, too "
                "little time is left for this computation."
            )
            # All present waits are over by the time limit.
            again = min(max(again, lane.service / lane.slots), self.seconds)
            calls.append(ticket._refuse(Problem("busy", detail, headers=retry_after(again))))
        return calls

    def _fill(self, lane: Lane[Ticket], now: float) -> list[Callable[[], None]]:
        calls = []
        while len(lane.running) < lane.slots and (ticket := lane.next()) is not None:
            # A request that cannot end in time leaves the slot to others.
            if now > ticket.deadline or (lane.length and now + lane.takes(ticket.cost) > ticket.deadline):
                detail = f"The wait of {now - ticket.arrived:.1f} seconds left too little time for this computation."
                calls.append(ticket._refuse(Problem("busy", detail, headers=retry_after(lane.wait_of("", now)))))
                continue
            ticket.waited += now - ticket.asked
            self._grant(ticket, lane, ticket.cost, now)
            calls.append(ticket._tell())
        return calls


def _call(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _nothing() -> None:
    """Do nothing, in place of a callback: nobody waits."""


@dataclass(eq=False, slots=True)
class Ticket:
    """One request on its way through the lanes; its computation calls `look` to learn whether it may go on.

    Any thread may call `begin`, `leave`, `expire` and `end`; the other methods belong to the thread that computes.
    """

    admission: Admission
    client: str
    arrived: float
    """The time of its first byte."""
    deadline: float = field(init=False)
    waited: float = 0.0
    """Seconds in queues so far."""
    refusal: Problem | None = None
    """The reason why the request was refused while it waited."""
    gone: bool = False
    """Whether the client has left."""
    left: Callable[[], bool] | None = None
    """Returns whether the client has left, if nobody calls `leave`."""
    settled: bool = False
    """Whether the request keeps its lane whatever it costs, because it must not wait."""
    lane: Lane[Ticket] | None = None
    cost: float = 0.0
    asked: float = 0.0
    queued_in: Lane[Ticket] | None = None
    ready: Callable[[], None] = _nothing
    ended: bool = False
    streams: bool = False
    _next_look: float = 0.0
    _started: float | None = None
    """The thread's processor time at the first look in this slot; few requests live to see a look."""

    def __post_init__(self) -> None:
        self.deadline = self.arrived + self.admission.seconds

    @property
    def may_wait(self) -> bool:
        """Whether the request may wait for memory with its slot. Tiny ones may not: they are many, with few slots."""
        return self.lane is not self.admission.tiny

    def begin(self, nbytes: int, ready: Callable[[], None]) -> bool:
        """Ask for a slot to read and validate a body of `nbytes` bytes; without a body, for one of the system lane.

        Return True if the slot is granted. Otherwise the request waits, and `ready` is called once, from any thread,
        when it is granted or refused; `refusal` is set then. Raise `Problem` 503 if it is refused at once.
        """
        admission = self.admission
        cost = nbytes * BODY_SECONDS
        lane = admission.lane_of(cost) if nbytes else admission.system
        with admission.lock:
            if len(lane.running) < lane.slots and not admission.closed:
                # `_enter` without its calls: most requests find a slot at once.
                self.cost, self.lane = cost, lane
                lane.running[self] = admission.clock()
                return True
            return admission._enter(self, lane, cost or lane.service, ready)

    def begin_blocking(self, nbytes: int) -> None:
        """Ask for a slot as `begin` does, and wait for it. Raise `Problem` 503 and `Abandoned`."""
        gate = threading.Lock()
        gate.acquire()
        if not self.begin(nbytes, gate.release):
            self._wait(gate)

    def weigh(self, cost: float, *, alone: bool = False) -> None:
        """Announce the cost of the rest of the request, in seconds, and wait for a slot of another lane if it needs
        one.

        `alone` sends it to the heavy lane whatever it costs. Raise `Problem` 503 for too long a wait,
        `DeadlineExceeded` and `Abandoned`.
        """
        lane = self.lane
        if lane is not None and (cost > lane.most or (alone and lane is not self.admission.heavy)):
            self._move(self.admission.heavy if alone else self.admission.lane_of(cost), cost)
        else:
            self.cost = max(self.cost, cost)

    def look(self) -> float:
        """Check whether the computation may go on; wait for a slot of the next lane if it costs more than its lane
        allows.

        Return the clock's reading from which to look again. Raise `DeadlineExceeded`, `Abandoned`, and `Problem` 503
        for too long a wait.
        """
        if self.admission.clock() >= self._next_look:
            self._look()
        return self._next_look

    def _look(self) -> None:
        admission = self.admission
        now = admission.clock()
        if self.gone or (self.left is not None and self.left()):
            self.gone = True
            raise Abandoned
        if now > self.deadline:
            raise DeadlineExceeded
        self._next_look = min(now + LOOK_SECONDS, self.deadline)
        lane = self.lane
        if lane is None or self.settled or lane.most == math.inf:
            return
        cpu = admission.cpu()
        if self._started is None:
            self._started = cpu
        spent = cpu - self._started
        if spent > max(lane.most, min(OVERRUN * self.cost, 2.0 * lane.most)):
            # It has cost as much as its lane allows. Its rest is unknown, so as much again is likely.
            cost = max(2.0 * lane.most, spent)
            self._move(admission.lane_of(cost), cost)

    def ask(self, cost: float, ready: Callable[[], None], *, alone: bool = False) -> bool:
        """Give the slot back, and ask as `begin` does for one of the lane for this cost, or of the heavy lane if
        `alone`.
        """
        admission = self.admission
        return self._ask(admission.heavy if alone else admission.lane_of(cost), cost, ready)

    def go_to_storage(self) -> None:
        """Give the slot back and wait for one of those that ask the database. Raise as `weigh` does."""
        self._move(self.admission.storage, self.admission.storage.service)

    def come_back(self, cost: float) -> None:
        """Wait for a slot of the lane for this cost, after the database has answered. Raise as `weigh` does."""
        self._move(self.admission.lane_of(cost), cost)

    def _ask(self, lane: Lane[Ticket], cost: float, ready: Callable[[], None]) -> bool:
        self.give_slot_back()
        with self.admission.lock:
            return self.admission._enter(self, lane, cost, ready)

    def _move(self, lane: Lane[Ticket], cost: float) -> None:
        gate = threading.Lock()
        gate.acquire()
        if not self._ask(lane, cost, gate.release):
            self._wait(gate)
        self._started = self.admission.cpu()

    def _wait(self, gate: threading.Lock) -> None:
        """Wait until the gate opens. Raise `refusal` if the request was refused, and `Abandoned` if its client left."""
        admission = self.admission
        while not gate.acquire(timeout=min(max(0.0, self.deadline - admission.clock()), RECHECK_SECONDS)):
            lane = self.queued_in
            if admission.clock() >= self.deadline:
                self.expire()
                break
            if lane is not None:
                admission.recheck(lane)
        if self.gone:
            raise Abandoned
        if self.refusal is not None:
            raise self.refusal

    def open_stream(self) -> None:
        """Count the request among the open streams too. Raise `Problem` 503 if there are too many."""
        self.admission._open_stream(self)
        self.streams = True

    def give_slot_back(self) -> None:
        """Give the slot back and go on without one: a stream computes in the turns of `Turns`."""
        with self.admission.lock:
            calls = self.admission._give_back(self)
        _call(calls)

    def leave(self) -> None:
        """Note that the client has left: a waiting request is refused, a computation stops at its next look."""
        call = _nothing
        with self.admission.lock:
            self.gone = True
            self._next_look = 0.0
            if self.queued_in is not None:
                self.queued_in.drop(self)
                call = self._refuse(Problem("busy", "The client has left.", headers=retry_after(1.0)))
        call()

    def expire(self) -> None:
        """Refuse the request if it still waits, because its deadline has come."""
        call = _nothing
        with self.admission.lock:
            if self.queued_in is not None:
                lane = self.queued_in
                lane.drop(self)
                again = lane.wait_of(self.client, self.admission.clock())
                detail = f"The turn of this request did not come within {self.admission.seconds:g} seconds."
                call = self._refuse(Problem("busy", detail, headers=retry_after(again)))
        call()

    def end(self) -> None:
        """Give the slot and the place among the streams back. A second call does nothing."""
        if self.ended:
            return
        self.ended = True
        admission = self.admission
        call = _nothing
        with admission.lock:
            lane = self.lane
            if lane is admission.tiny and not (lane.length or self.streams or self.queued_in):
                # Nobody waits, so there is nothing to learn or to grant: most requests end like this.
                self.lane = None
                del lane.running[self]
                return
            if self.queued_in is not None:
                self.queued_in.drop(self)
                call = self._refuse(Problem("busy", "The request has ended."))
            calls = admission._give_back(self)
            if self.streams:
                streams = admission.streams
                streams.learn(0.0, admission.clock() - streams.running.pop(self))
        call()
        _call(calls)

    def _refuse(self, problem: Problem) -> Callable[[], None]:
        """Set the refusal of a request that is in no queue any more; return the callback to call."""
        self.refusal = problem
        self.waited += self.admission.clock() - self.asked
        return self._tell()

    def _tell(self) -> Callable[[], None]:
        call, self.ready, self.queued_in = self.ready, _nothing, None
        return call


class FreeTicket(Ticket):
    """The ticket of a computation that is no request: it waits for no slot and has no deadline.

    Its process computes nothing else. `left` returns whether the computation must stop.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        self.deadline = math.inf

    def weigh(self, cost: float, *, alone: bool = False) -> None:
        """Note the cost."""
        self.cost = cost

    def go_to_storage(self) -> None:
        """Go on at once."""

    def come_back(self, cost: float) -> None:
        """Go on at once."""
