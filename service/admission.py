"""Who computes now, who waits, and who is sent away: the slots of a worker.

A worker computes on one core, so it computes few requests at once. Each request takes a slot of a lane, by what it
costs:

    system   requests without a body: the catalogue, pages, metrics
    tiny     up to 0.005 seconds; small bodies start here, for the cost of a request is known once it is validated
    small    up to 0.05 seconds
    medium   up to 1 second
    heavy    everything longer
    storage  requests that ask the database: they wait for it more than they compute

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
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from service.engine.errors import Abandoned, DeadlineExceeded
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
STORAGE_SLOTS = 4
"""Requests that ask the database at once: where it is slow or gone, all others have their slots still."""
LONGER_QUEUE = 16
"""How many times longer the queues of short requests are: their waiting holds no thread, and is over soon."""
BODY_SECONDS = 2e-8
"""What a byte of a body costs to read and validate, roughly."""
LOOK_SECONDS = 0.01
"""How often a computation asks whether its client has left."""
MEMORY, MOST_MEMORY = 0.1, 0.3
"""The weight of the last request in a moving average: of a short one, and of one that took long.

Ten long ones take minutes, and what the first tells is true for those who wait now. Where there were few yet, all weigh
the same.
"""
LEAST_DOUBT, MOST_DOUBT = 0.15, 0.5
"""The pace of a machine changes by the first in half a minute, however like each other its requests are.

With the second a lane still promises waits up to two thirds of the time limit, however unlike its requests are.
"""
OVERRUN = 1.5
"""How many times its estimate a request costs at most in a lane that is for less.

Without that, one estimated at just below a second computes for a second, moves on, and may be refused there: its work
is lost.
"""
RECHECK_SECONDS = 0.5
"""How often the waits in a lane are foreseen anew."""
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
        self.storage = Lane("storage", STORAGE_SLOTS, queue, math.inf, 0.005, seconds)
        self.streams = Lane("streams", streams, streams, math.inf, 10.0, seconds)
        self.computing = (self.tiny, self.small, self.medium, self.heavy)
        """The lanes for requests with a body, by what these cost."""
        self.lanes = (self.system, *self.computing, self.storage, self.streams)
        self.closed = False

    @property
    def most_threads(self) -> int:
        """Threads that requests may hold at once: those with a slot or a stream, and those that wait in the core."""
        waiting = (self.small, self.medium, self.heavy, self.storage)
        return sum(lane.slots for lane in self.lanes) + sum(lane.room for lane in waiting)

    def ticket(self, client: str, arrived: float) -> Ticket:
        """The way of a request whose first byte came at the reading `arrived` of the clock."""
        return Ticket(self, client, arrived)

    def close(self) -> None:
        """The server stops: who waits is refused, and so is everybody who asks for a slot from now on."""
        calls = []
        with self.lock:
            self.closed = True
            for lane in (self.system, *self.computing, self.storage):
                while (ticket := lane.next()) is not None:
                    calls.append(ticket._refuse(self._stopping()))
        _call(calls)

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
        _call(calls)

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


def _call(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _nothing() -> None:
    """What to call where nobody waits."""


@dataclass(eq=False, slots=True)
class Ticket:
    """The way of one request through the lanes. It is the watch of its computation too.

    `begin`, `leave`, `expire` and `end` may be called from any thread; the other methods belong to the thread that
    computes.
    """

    admission: Admission
    client: str
    arrived: float
    """When its first byte came."""
    deadline: float = field(init=False)
    waited: float = 0.0
    """Seconds in queues so far."""
    refusal: Problem | None = None
    """Why the request was refused while it waited."""
    gone: bool = False
    """Whether the client has left."""
    left: Callable[[], bool] | None = None
    """Asks whether the client has left, where nobody calls `leave`."""
    settled: bool = False
    """Whether the request keeps its lane whatever it costs: it would wait where it must not."""
    lane: Lane | None = None
    cost: float = 0.0
    asked: float = 0.0
    queued_in: Lane | None = None
    ready: Callable[[], None] = _nothing
    ended: bool = False
    streams: bool = False
    _next_look: float = 0.0
    _started: float | None = None
    """The processor time of its thread at the first look since it was given its slot: few requests live to see one."""

    def __post_init__(self) -> None:
        self.deadline = self.arrived + self.admission.seconds

    @property
    def may_wait(self) -> bool:
        """Whether it may wait for memory while it holds its slot: tiny requests are many, and have few slots."""
        return self.lane is not self.admission.tiny

    def begin(self, nbytes: int, ready: Callable[[], None]) -> bool:
        """Ask for a slot in which a body of so many bytes is read and validated; without a body, for one of the system.

        True: the slot is there. False: the request waits, and `ready` is called once, from any thread, when it has its
        slot or is refused; then `refusal` says why. Raises `Problem` 503 when it is refused at once.
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
        """Wait for the slot that `begin` asks for. Raises `Problem` 503 and `Abandoned`."""
        gate = threading.Lock()
        gate.acquire()
        if not self.begin(nbytes, gate.release):
            self._wait(gate)

    def weigh(self, cost: float, *, alone: bool = False) -> None:
        """The rest of the request costs so many seconds: wait for a slot of a lane for that, unless it has one.

        `alone`: it takes a slot of the heavy lane whatever it costs. Raises `Problem` 503, `DeadlineExceeded` and
        `Abandoned`.
        """
        lane = self.lane
        if lane is not None and (cost > lane.most or (alone and lane is not self.admission.heavy)):
            self._move(self.admission.heavy if alone else self.admission.lane_of(cost), cost)
        else:
            self.cost = max(self.cost, cost)

    def look(self) -> float:
        """Let the computation go on, or wait for a slot of the next lane if it costs more than its lane is for.

        Gives the reading of the clock at which to look again. Raises `DeadlineExceeded`, `Abandoned`, and `Problem`
        503 where such a wait would be too long.
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
            cost = max(2.0 * lane.most, spent)
            self._move(admission.lane_of(cost), cost)

    def ask(self, cost: float, ready: Callable[[], None], *, alone: bool = False) -> bool:
        """Give the slot back and ask for one of the lane for this cost, or of the heavy lane, as `begin` does."""
        admission = self.admission
        return self._ask(admission.heavy if alone else admission.lane_of(cost), cost, ready)

    def go_to_storage(self) -> None:
        """Give the slot back and wait for one of those that ask the database. Raises as `weigh` does."""
        self._move(self.admission.storage, self.admission.storage.service)

    def come_back(self, cost: float) -> None:
        """The database has answered: wait for a slot of the lane for this cost. Raises as `weigh` does."""
        self._move(self.admission.lane_of(cost), cost)

    def _ask(self, lane: Lane, cost: float, ready: Callable[[], None]) -> bool:
        self.give_slot_back()
        with self.admission.lock:
            return self.admission._enter(self, lane, cost, ready)

    def _move(self, lane: Lane, cost: float) -> None:
        gate = threading.Lock()
        gate.acquire()
        if not self._ask(lane, cost, gate.release):
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
        """Take a place among the streams, beside the slot. Raises `Problem` 503 when there is none for this client."""
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
        """Go on without a slot: a stream computes in turns."""
        with self.admission.lock:
            calls = self.admission._give_back(self)
        _call(calls)

    def leave(self) -> None:
        """The client has left: who waits is told, and the computation stops at its next look."""
        call = _nothing
        with self.admission.lock:
            self.gone = True
            self._next_look = 0.0
            if self.queued_in is not None:
                self.queued_in.drop(self)
                call = self._refuse(Problem("busy", "The client has left.", headers=retry_after(1.0)))
        call()

    def expire(self) -> None:
        """The deadline has come: a request that still waits is refused."""
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
        """Give back everything. May be called twice."""
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
        _call(calls)

    def _refuse(self, problem: Problem) -> Callable[[], None]:
        """Whom to call, now that the request, which is in no queue any more, is refused."""
        self.refusal = problem
        self.waited += self.admission.clock() - self.asked
        return self._tell()

    def _tell(self) -> Callable[[], None]:
        call, self.ready, self.queued_in = self.ready, _nothing, None
        return call
