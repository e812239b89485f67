"""One run from its claim to its end: compute steps, keep records and states, finish.

What is kept together belongs together: a state is only stored with all records up to it. Records may be ahead of the
state: after a crash the work goes on from the state, computes those records again, with the same bytes, and does not
store them twice.

If the database is away or full, the computation pauses, holds what it has, and tries again every second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from service.api.context import Runtime, free_context, free_ticket
from service.api.long_work import LongWork, Standing
from service.api.run_kinds import KINDS
from service.api.run_requests import KEY, read_request, within
from service.api.state_file import size_of, state_bytes, state_of
from service.api.stored import Names
from service.capacity.memory import Reservation
from service.engine.errors import Abandoned
from service.engine.fingerprint import fingerprint
from service.engine.texts import LANGUAGES
from service.observing.metrics import count_run_end, count_run_work
from service.problems import Problem
from service.runner.lease import Lease
from service.runner.results import CANCELLED, End, end_of, failure
from service.store.run_entries import BY_OWNER
from service.store_errors import QuotaExceeded, StoreError
from service.wire.writing import dump, written

if TYPE_CHECKING:
    from service.store.runs import Claim, Progress, Runs

T = TypeVar("T")

KEEP_SECONDS, LONGEST_KEEP_SECONDS = 0.25, 0.5
"""Bounds of the time in seconds between two writes to the database."""
STATE_SECONDS = 1.0
"""Least time in seconds between two states."""
SHARE = 20.0
"""The time between two writes, and between two states, as a multiple of what the last one took."""
HELD_BYTES = 2**20
"""Bytes of records that are written before their time. No more are held while the database is away."""
SLICE_SECONDS = 10.0
"""Seconds after which a run gives its place to others that wait."""
GRACE_SECONDS = 5.0
"""Seconds that a step may go on after a stop. Then it is given up, and computed again by the next runner."""
SPARE_BYTES = 4096
"""Bytes of a run that are left free for what its end says in words."""
LOOK_SECONDS = 0.01
"""Seconds between two looks at what others want: a look at each of many short steps would cost some percent."""
RETRY_SECONDS = 1.0
"""Seconds between two attempts to reach the database."""
BUSY = 503
"""The status of a problem that is over some time later."""
POSTPONED = "postponed"
"""The result of `compute` for a run that cannot be computed now."""

log = logging.getLogger("nabla.runner")


class Dropped(Exception):
    """Nothing more is to be written to this run here: another runner has it, it was removed, or the process ends."""


class Execution:
    """The computation of one claimed run. `compute` does everything; then the object is of no use any more."""

    def __init__(self, runtime: Runtime, claim: Claim, stop: threading.Event) -> None:
        self.runtime, self.claim, self.stop = runtime, claim, stop
        self.lease = Lease(runtime.store, claim, self._progress)
        self.standing = Standing(claim.step, claim.of, None, None)
        self.lines: list[bytes] = []
        """The records that are not stored yet."""
        self.held = 0
        """Their bytes."""
        self.first = 0
        """The number of the first of them."""
        self.last = claim.last_record
        """The number of the last record, stored or not."""
        self.state = claim.state
        """The latest stored state."""
        self.known = claim.step
        """The step that was reached before this work began, with the records up to it; the state may lie before."""
        self.caught_up = False
        """Whether this work has reached that step again: until then the run is not cancelled."""
        self.size = claim.size
        """The bytes that are stored of the run."""
        self.longest = 0
        """The bytes of the longest record of this work."""
        self.at_end = 0.0
        """The bytes that the state and the result take, if the run ends now."""
        self.full = False
        """Whether a state did not fit into what may be stored of a run."""
        self.cancelled = ""
        """The reason for which this runner cancelled the work."""
        self.fingerprints = {claim.fingerprint} - {""} if claim.state or claim.last_record >= 0 else set()
        """The arithmetics that computed what is stored."""
        self.began = time.monotonic()
        self.paused = 0.0
        """Seconds of waiting for the database."""
        self.next_keep = self.began + KEEP_SECONDS
        self.next_state = self.began + STATE_SECONDS
        self.unwanted_since: float | None = None
        """When a look first found the present step unwanted."""
        self.counted = (claim.step, 0.0)
        """The steps and seconds that are in the metrics."""

    @property
    def runs(self) -> Runs:
        """The runs in the database. Raises `StoreError`."""
        return self.runtime.store.runs

    @property
    def seconds(self) -> float:
        """The seconds for which all runners together have computed this run."""
        return self.claim.seconds + self._own_seconds()

    def _own_seconds(self) -> float:
        return time.monotonic() - self.began - self.paused

    def _progress(self) -> Progress:
        from service.store.runs import Progress

        standing = self.standing
        return Progress(standing.step, standing.loss, standing.learning_rate, self.seconds)

    # The way of a run

    def compute(self) -> str:
        """Compute the run until it ends, has to be given back, or is lost. Return a word for which of these it was."""
        try:
            with self.lease:
                return self._compute()
        except Dropped:
            return "dropped"
        finally:
            self._count()

    def _compute(self) -> str:
        try:
            with self.runtime.memory.reservation() as memory:
                try:
                    with closing(self._begin(memory)) as work, self._noting(work):
                        return self._advance(work)
                except Abandoned:
                    return self._given_up(memory)
        except Dropped:
            raise
        except QuotaExceeded as error:
            return self._cut_off(error)
        except Exception as error:
            if isinstance(error, Problem) and error.status == BUSY:
                log.warning("run %s has to wait: %s", self.claim.id, error.detail)
                self._release()
                return POSTPONED
            return self._failed(failure(error, self.claim.id))

    def _begin(self, memory: Reservation) -> LongWork:
        """Return the work of the run as its state has it. Raises what works raise for wrong requests, and `Problem`."""
        from service.store.runs import network_owner

        claim, runtime = self.claim, self.runtime
        kind = KINDS[claim.kind]
        self.unwanted_since, self.cancelled = None, ""
        self.known = max(claim.step, self.standing.step)
        self.caught_up = self.known == 0
        ticket = memory.waiter = free_ticket(runtime, self._is_unwanted)
        names = Names(runtime.store, network_owner(claim.id), ticket, memory)
        request = self._patiently(lambda: read_request(kind, claim.spec, memory.need, names))
        context = free_context(
            runtime,
            memory,
            request.nbytes,
            ticket,
            f"run:{claim.kind}",
            runtime.settings.run_limits,
            base64=claim.base64,
            language=request.loaded.get("language") or LANGUAGES[0],
        )
        state = None
        if self.state is not None:
            kept = state_of(self.state)
            state = kept["work"]
            self.fingerprints |= set(kept["fingerprints"])
        self.fingerprints |= {fingerprint()} - {""}
        with within(KEY, request.value):
            return kind.works(request.loaded, context, state, claim.extra_steps)

    @contextmanager
    def _noting(self, work: LongWork) -> Iterator[None]:
        """Note how far the work came if a step raises."""
        try:
            yield
        except Exception:
            self.standing = work.standing()
            raise

    def _advance(self, work: LongWork) -> str:
        """Compute steps until the run ends or is given back."""
        self.at_end = KINDS[self.claim.kind].end_size(size_of(work.state()))
        next_look, now = 0.0, time.monotonic()
        # The slice begins here: a run that takes long to compile or to restore must not be given back without a step.
        turn_ends = now + SLICE_SECONDS
        while not work.finished:
            if now >= next_look:
                next_look = now + LOOK_SECONDS
                if self.stop.is_set() or (self.lease.others_wait and now > turn_ends):
                    return self._give_back(work)
                self.caught_up = self.caught_up or work.standing().step >= self.known
                if not self.cancelled and (reason := self._reason_to_cancel()):
                    self.cancelled = reason
                    work.cancel(reason)
                    continue
            self._collect(work.advance())
            if self._has_no_room():
                next_look = 0.0
            now = time.monotonic()  # after the step: what a long one has computed is stored at once
            if now >= self.next_keep or self.held >= HELD_BYTES:
                self._keep(work)
        return self._finish(work)

    def _collect(self, record: Mapping[str, Any] | None) -> None:
        """Write a record, at once because the next step may reuse its arrays, unless it was stored before."""
        if record is None or record["step"] <= self.last:
            return
        line = b"".join((*written(record, base64=True), b"\n")) if self.claim.base64 else dump(record) + b"\n"
        if not self.lines:
            self.first = record["step"]
        self.lines.append(line)
        self.held += len(line)
        self.longest = max(self.longest, len(line))
        self.last = record["step"]

    # What others want

    def _reason_to_cancel(self) -> str:
        """Return why the work is to be cancelled, "" if it is not: its end must not lie before what callers saw."""
        settings = self.runtime.settings
        if not self.caught_up:
            return ""
        if self.lease.cancelled:
            return BY_OWNER
        if self.seconds > settings.max_run_seconds:
            return f"the limit of this server, {settings.max_run_seconds:g} seconds for one run, was reached"
        if self.full or self._has_no_room():
            return f"the limit of this server, {settings.max_run_bytes:,} bytes for one run, was reached"
        return ""

    def _has_no_room(self) -> bool:
        """Return whether the next record would leave too little of what may be stored of a run for its end."""
        kept = self.size - len(self.state or b"") + self.held
        return kept + self.at_end + self.longest + SPARE_BYTES > self.runtime.settings.max_run_bytes

    def _is_unwanted(self) -> bool:
        """Return whether a step is to be given up in its middle: the lease is lost, or the run should have stopped."""
        if self.lease.lost:
            return True
        if not (self.stop.is_set() or self._reason_to_cancel()):
            return False
        now = time.monotonic()
        if self.unwanted_since is None:
            self.unwanted_since = now
        return now > self.unwanted_since + GRACE_SECONDS

    # What the database keeps

    def _keep(self, work: LongWork) -> None:
        """Store the records so far and the progress, and the state if it is time for that."""
        began = time.monotonic()
        self.standing = work.standing()
        state = self._state(work) if began >= self.next_state else None
        self._store(state)
        now = time.monotonic()
        if state is not None:
            self.next_state = now + max(STATE_SECONDS, SHARE * (now - began))
        self.next_keep = now + min(max(KEEP_SECONDS, SHARE * (now - began)), LONGEST_KEEP_SECONDS)

    def _state(self, work: LongWork) -> bytes | None:
        """Return the present state; None, and note it, if it is more than may be stored of a run."""
        state = state_bytes({"fingerprints": sorted(self.fingerprints), "work": work.state()})
        self.at_end = KINDS[self.claim.kind].end_size(len(state))
        self.full = self.size + self.held + len(state) - len(self.state or b"") > self.runtime.settings.max_run_bytes
        return None if self.full else state

    def _store(self, state: bytes | None) -> None:
        """Store the records so far with the progress and perhaps a state. Raises `Dropped` if the lease is lost."""
        lines = b"".join(self.lines) or None
        if not self._patiently(lambda: self.lease.keep(lines, self.first, self.last, self._progress(), state)):
            raise Dropped
        self._stored(state)

    def _stored(self, state: bytes | None) -> None:
        self.size += self.held
        self.lines.clear()
        self.held = 0
        if state is not None:
            self.size += len(state) - len(self.state or b"")
            self.state = state
        self._count()

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Return what `ask` returns, as soon as the database answers.

        Raises `Dropped` if another runner has the run meanwhile, or the process has to end.
        """
        began = None
        while True:
            try:
                found = ask()
            except QuotaExceeded:
                raise
            except StoreError as error:
                if self.lease.lost or self.stop.is_set():
                    raise Dropped from None
                if began is None:
                    began = time.monotonic()
                    log.warning("run %s waits with %d bytes for the database: %s", self.claim.id, self.held, error)
                self.stop.wait(RETRY_SECONDS)
                continue
            if began is not None:
                self.paused += time.monotonic() - began
                log.info("run %s goes on", self.claim.id)
            return found

    # The ends

    def _finish(self, work: LongWork) -> str:
        """Store the last records, the state and the result."""
        self.standing = work.standing()
        end = end_of(work.summary(), self.cancelled, mixed=len(self.fingerprints) > 1)
        return self._store_end(end, self._state(work))

    def _store_end(self, end: End, state: bytes | None) -> str:
        claim, lines = self.claim, b"".join(self.lines) or None

        def finish() -> bool:
            return self.runs.finish(
                claim, end.status, end.reason, lines, self.first, self.last, self._progress(), state, end.result
            )

        if not self._patiently(finish):
            raise Dropped
        self._stored(state)
        return self._ended(end.status, end.reason)

    def _give_back(self, work: LongWork) -> str:
        """Store everything, and put the run back into the queue for the next runner."""
        self.standing = work.standing()
        self._store(self._state(work))
        return self._release()

    def _release(self) -> str:
        self._patiently(lambda: self.runs.release(self.claim))
        log.info("run %s is given back at step %d", self.claim.id, self.standing.step)
        return "released"

    def _given_up(self, memory: Reservation) -> str:
        """End the run after a step that was given up in its middle, whose work is of no use any more."""
        if self.lease.lost:
            raise Dropped
        if self.stop.is_set():
            return self._release()
        reason = self._reason_to_cancel()
        try:
            # As it was at the last stored state. It is cancelled when it has caught up.
            with closing(self._begin(memory)) as work, self._noting(work):
                return self._advance(work)
        except Abandoned:
            if self.lease.lost or self.stop.is_set():
                return self._given_up(memory)
            return self._store_end(End(CANCELLED, reason, None), None)

    def _cut_off(self, error: QuotaExceeded) -> str:
        """End the run where the store takes no more of it. What was stored stays, and the run may be resumed later."""
        name = error.name.replace("_", " ")
        self.lines.clear()
        self.held = 0
        return self._store_end(
            End(CANCELLED, f"the limit of this server, {error.allowed:,} {name}, was reached", None), None
        )

    def _failed(self, reason: str) -> str:
        """End the run as failed, with the records so far if there is room for them."""
        if self.lines:
            with suppress(QuotaExceeded):
                self._store(None)
        self._patiently(lambda: self.runs.fail(self.claim, reason))
        return self._ended("failed", reason)

    def _ended(self, status: str, reason: str) -> str:
        count_run_end(status)
        words = f": {reason}" if reason else ""
        log.info("run %s ends %s at step %d%s", self.claim.id, status, self.standing.step, words)
        return status

    def _count(self) -> None:
        """Bring the metrics up to date."""
        steps, seconds = self.counted
        self.counted = now = max(steps, self.standing.step), self._own_seconds()
        count_run_work(self.claim.kind, now[0] - steps, now[1] - seconds)
