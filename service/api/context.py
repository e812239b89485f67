"""The context that a view gets beside its request: the running service, and its memory, slot and choices.

A run, and a part of a computation, have such a context too, without a client.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flask import current_app

from schemas.requests import recipes
from service import wire
from service.capacity.admission import Admission, FreeTicket, Ticket
from service.capacity.collector import Collector
from service.capacity.costs import CALL_SECONDS, NODE_SECONDS, NUMBER_SECONDS, OPERATION_SECONDS, Costs
from service.capacity.memory import Account, Reservation
from service.cluster.executors import executor_of
from service.cluster.pool import Pool
from service.config import Settings
from service.engine.compiling import Compiler
from service.engine.graph.plan import Program, WorkspacePool
from service.engine.limits import WATCHED_NODES, WATCHED_OPERATIONS, Limits
from service.engine.onnx import files
from service.engine.parallel import Executor, InTurn
from service.engine.texts import LANGUAGES
from service.engine.watch import Watch
from service.observing.timer import Timer
from service.store.store import Store

WORTH_LEARNING = 0.001
"""Estimated seconds below which nothing is weighed or learned: that would take a few percent of such a request."""


@dataclass(frozen=True)
class Runtime:
    """Objects that all requests of a worker share: settings, compiler, memory, slots and learned costs."""

    settings: Settings
    compiled: Compiler
    """Returns the compiled form of a task, out of the cache if an earlier request compiled an equal one."""
    memory: Account
    admission: Admission
    store: Store
    costs: Costs = field(default_factory=Costs)
    executor: Executor = field(default_factory=InTurn)
    """Computes the parts of a computation that can be split: in turn, here, unless settings name other processes."""


def runtime_of(settings: Settings) -> Runtime:
    """Return the objects that all computations of a process share, with these settings."""
    admission = Admission(
        seconds=settings.max_seconds, slots=settings.slots, queue=settings.queue, streams=settings.streams
    )
    store = Store(settings)
    pool = WorkspacePool(settings.pooled_bytes)
    compiler = Compiler(settings.limits, settings.cached_bytes, pool, Collector().made)
    executor = executor_of(settings)
    caches = (pool, compiler, recipes, files, store.loaded, *([executor] if isinstance(executor, Pool) else ()))
    memory = Account(settings.max_memory_bytes, caches, aside=settings.aside_bytes)
    return Runtime(settings, compiler, memory, admission, store, executor=executor)


class _Weighed(NamedTuple):
    """The estimated cost of a computation, kept until its measured cost is known."""

    program: Program
    kind: str
    estimated: float
    began: float
    """The processor time of the thread when the computation began."""


@dataclass
class Context:
    """The memory, slot, timer and chosen form of one request; a view gets it beside the loaded request."""

    runtime: Runtime
    timer: Timer
    memory: Reservation
    loaded_bytes: int
    """An estimate of the bytes that the loaded request takes."""
    ticket: Ticket
    """The way of the request through the slots of the worker, and the watch of its computation."""
    environ: Mapping[str, Any]
    form: wire.Form
    """`json`, unless the endpoint streams and the client asked for a stream."""
    base64: bool
    """Whether tensors are to be typed arrays. `post` encodes a document, the view encodes a stream itself."""
    language: str = LANGUAGES[0]
    """The language of sentences (see `service/engine/texts`)."""
    layout: str | None = None
    """The layout of parameters and gradients that the query asks for."""
    answer_layout: str = "nabla"
    """Their layout in the response."""
    own_limits: Limits | None = None
    """The limits of this computation, if they are not those of requests."""

    compiled: Compiler = field(init=False)
    """Returns the compiled form of a task; the request waits for a slot before a long compilation."""
    in_steps: bool = False
    """Whether the request was computed in steps and ended in time: its response is sent even if it is a bit late."""
    status: int = 200
    """The status of the response; a view may change it."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further headers of the response; a view may add some."""
    _weighed: _Weighed | None = None

    def __post_init__(self) -> None:
        ticket = self.ticket  # not `self`: a reference cycle would keep the request until the garbage collector runs
        self.compiled = self.runtime.compiled.watched(ticket, lambda nodes: ticket.weigh(nodes * NODE_SECONDS))

    @property
    def limits(self) -> Limits:
        """The most that this computation may cost."""
        return self.own_limits or self.runtime.settings.limits

    @property
    def executor(self) -> Executor:
        """The executor for the parts of a computation that can be split."""
        return self.runtime.executor

    def reserve(self, program: Program, work: float, nbytes: int, *, calls: float = 0.0, numbers: float = 0.0) -> None:
        """Wait for a slot as `weigh` does, and then for `nbytes` bytes beside those of the request itself.

        Three lanes compute side by side. A request that takes more than a third of the memory goes to the heavy lane.
        There it waits in a queue with a forecast, instead of holding a slot of another lane while it waits for memory.
        """
        whole = self.loaded_bytes + nbytes
        self.weigh(program, work, calls, numbers, alone=3 * whole > self.memory.account.total)
        self.memory.need(whole)

    def weigh(
        self, program: Program, work: float, calls: float = 0.0, numbers: float = 0.0, *, alone: bool = False
    ) -> None:
        """Wait for a slot that suits the coming computation of `work` floating-point operations, mostly of `program`.

        Call it before memory is reserved: a request that waits for a slot must not hold what those with a slot need.

        `calls` is the number of NumPy calls beyond one run of the program, `numbers` the count of numbers in the
        response. With `alone` the slot is one of the heavy lane. Raise `Problem` 503 if the wait would be too long,
        `DeadlineExceeded` if the time limit has passed, and `Abandoned` if the client has left.
        """
        calls += len(program.nodes)
        estimated = work * OPERATION_SECONDS + calls * CALL_SECONDS + numbers * NUMBER_SECONDS
        if estimated > WORTH_LEARNING or alone:
            kind: str = self.environ["PATH_INFO"]
            self.ticket.weigh(estimated * self.runtime.costs.factor(program, kind), alone=alone)
            self._weighed = _Weighed(program, kind, estimated, self.runtime.admission.cpu())

    def hand_over(self) -> None:
        """Learn nothing from the processor time of this request: other processes compute it."""
        self._weighed = None

    def learn(self) -> None:
        """Correct later cost estimates by the time that this request's computation took. Call it when that is done."""
        if self._weighed is not None:
            program, kind, estimated, began = self._weighed
            self.runtime.costs.learn(program, kind, estimated, self.runtime.admission.cpu() - began)

    def watch_over(self, program: Program, work: float) -> Watch | None:
        """Return the ticket, by which a computation of `work` operations can be stopped; None if it is short."""
        return self.ticket if work > WATCHED_OPERATIONS or len(program.nodes) > WATCHED_NODES else None

    def mark_compiled(self, nbytes: int) -> None:
        """End the timer's compile stage, and note the memory of the compiled programs for Server-Timing."""
        self.timer.mark("compile")
        self.timer.memory = nbytes


def free_ticket(running: Runtime, must_stop: Callable[[], bool] | None) -> FreeTicket:
    """Return the ticket of a computation without a request. Its `look` raises `Abandoned` once `must_stop` returns
    True."""
    ticket = FreeTicket(running.admission, "", time.monotonic())
    ticket.left = must_stop
    return ticket


def free_context(
    running: Runtime,
    memory: Reservation,
    nbytes: int,
    ticket: FreeTicket,
    kind: str,
    limits: Limits,
    *,
    base64: bool = False,
    language: str = LANGUAGES[0],
) -> Context:
    """Return the context of a computation without a request: it has no client, no deadline and no slot.

    `kind` stands in the place of a path: costs are learned by it.
    """
    environ = {"PATH_INFO": kind, "REQUEST_METHOD": "RUN", "nabla.request_id": ""}
    return Context(running, Timer(), memory, nbytes, ticket, environ, "ndjson", base64, language, own_limits=limits)


def runtime() -> Runtime:
    """Return the `Runtime` of the Flask application that handles the present request."""
    found: Runtime = current_app.extensions["nabla"]
    return found
