"""The ticket of a request: its way through the lanes, and the watch of its computation."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.capacity.lanes import Lane
from service.engine.errors import Abandoned, DeadlineExceeded
from service.problems import Problem, retry_after

if TYPE_CHECKING:
    from service.capacity.admission import Admission

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


def call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _nothing() -> None:
    """Do nothing: nobody waits."""


@dataclass(eq=False, slots=True)
class Ticket:
    """The way of one request through the lanes, and the watch of its computation.

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
    lane: Lane | None = None
    cost: float = 0.0
    asked: float = 0.0
    queued_in: Lane | None = None
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
        """Whether the request may wait for memory while it holds its slot. Tiny requests may not: they are many,
        with few slots."""
        return self.lane is not self.admission.tiny

    def begin(self, nbytes: int, ready: Callable[[], None]) -> bool:
        """Ask for a slot to read and validate a body of so many bytes; a request without a body gets one of the system
        lane.

        Return True if the slot is granted. Otherwise the request waits, and `ready` is called once, from any thread,
        when it is granted or refused; `refusal` is set then. Raise `Problem` 503 if it is refused at once.
        """
        admission = self.admission
        cost = nbytes * BODY_SECONDS
        lane = admission.lane_of(cost) if nbytes else admission.system
        with admission.lock:
            if len(lane.running) < lane.slots and not admission.closed:
                # As `_enter` has it, without its calls: most requests find a slot at once.
                self.cost, self.lane = cost, lane
                lane.running[self] = admission.clock()
                return True
            return admission._enter(self, lane, cost or lane.service, ready)

    def begin_blocking(self, nbytes: int) -> None:
        """Wait for the slot that `begin` asks for. Raise `Problem` 503 and `Abandoned`."""
        gate = threading.Lock()
        gate.acquire()
        if not self.begin(nbytes, gate.release):
            self._wait(gate)

    def weigh(self, cost: float, *, alone: bool = False) -> None:
        """Announce the cost of the rest of the request in seconds, and wait for a slot of a lane for it if need be.

        With `alone` it takes a slot of the heavy lane whatever it costs. Raise `Problem` 503, `DeadlineExceeded` and
        `Abandoned`.
        """
        lane = self.lane
        if lane is not None and (cost > lane.most or (alone and lane is not self.admission.heavy)):
            self._move(cost, alone=alone)
        else:
            self.cost = max(self.cost, cost)

    def look(self) -> float:
        """Return at once, or wait for a slot of the next lane if the computation costs more than its lane allows.

        Return the reading of the clock at which to look again. Raise `DeadlineExceeded`, `Abandoned`, and `Problem` 503
        if the wait would be too long.
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
            # It has cost as much as its lane is for; nobody knows how much more, so as much again is likely.
            self._move(max(2.0 * lane.most, spent))

    def ask(self, cost: float, ready: Callable[[], None], *, alone: bool = False) -> bool:
        """Give the slot back and ask for one of the lane for this cost, or of the heavy lane; return as `begin`
        does."""
        admission = self.admission
        self.give_slot_back()
        with admission.lock:
            return admission._enter(self, admission.heavy if alone else admission.lane_of(cost), cost, ready)

    def _move(self, cost: float, *, alone: bool = False) -> None:
        gate = threading.Lock()
        gate.acquire()
        if not self.ask(cost, gate.release, alone=alone):
            self._wait(gate)
        self._started = self.admission.cpu()

    def _wait(self, gate: threading.Lock) -> None:
        """Wait until the gate opens, with a slot or without."""
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
        """Take a place among the streams, beside the slot. Raise `Problem` 503 if there is none for this client."""
        admission = self.admission
        lane = admission.streams
        with admission.lock:
            now = admission.clock()
            mine = [ticket for ticket in lane.running if ticket.client == self.client]
            if len(lane.running) >= lane.slots or len(mine) >= lane.share:
                full = len(lane.running) >= lane.slots
                ends = min(ticket.deadline for ticket in (lane.running if full else mine))
                detail = f"As many streams are open as a worker of this server serves at once: {lane.slots}."
                if not full:
                    detail = f"As many streams of this client are open as a worker serves at once: {lane.share}."
                # One ends when its time is over at the latest; of late, so often as the mean says.
                again = min(ends - now, lane.service / lane.slots)
                raise Problem("busy", detail, headers=retry_after(again))
            lane.running[self] = now
            self.streams = True

    def give_slot_back(self) -> None:
        """Give the slot back and go on without one: a stream computes in turns."""
        with self.admission.lock:
            calls = self.admission._give_back(self)
        call_all(calls)

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
        """Refuse the request if it still waits: its deadline has come."""
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
        """Give everything back. It may be called twice."""
        if self.ended:
            return
        self.ended = True
        admission = self.admission
        call = _nothing
        with admission.lock:
            lane = self.lane
            if lane is admission.tiny and not (lane.length or self.streams or self.queued_in):
                # Nobody waits, so nobody is to be told how long that takes: most requests end like this.
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
        call_all(calls)

    def _refuse(self, problem: Problem) -> Callable[[], None]:
        """Refuse the request, which is in no queue any more, and return the callback to call."""
        self.refusal = problem
        self.waited += self.admission.clock() - self.asked
        return self._tell()

    def _tell(self) -> Callable[[], None]:
        call, self.ready, self.queued_in = self.ready, _nothing, None
        return call
