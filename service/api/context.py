"""What a view knows beside the content of its request: the running service, and the way of the request through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flask import current_app

from service import wire
from service.capacity.admission import Admission
from service.capacity.costs import CALL_SECONDS, NODE_SECONDS, NUMBER_SECONDS, OPERATION_SECONDS, Costs
from service.capacity.memory import Account, Reservation
from service.capacity.ticket import Ticket
from service.config import Settings
from service.engine.compiling import Compiler
from service.engine.graph.plan import Program
from service.engine.limits import WATCHED_NODES, WATCHED_OPERATIONS
from service.engine.texts import LANGUAGES
from service.engine.watch import Watch
from service.observing.timer import Timer

WORTH_LEARNING = 0.001
"""Estimated seconds below which nothing is weighed or learned: that would take a few percent of such a request."""


@dataclass(frozen=True)
class Runtime:
    """What operations need of the running service."""

    settings: Settings
    compiled: Compiler
    """Gives what tasks are compiled to, out of the memory of earlier requests."""
    memory: Account
    admission: Admission
    costs: Costs = field(default_factory=Costs)


class _Weighed(NamedTuple):
    """What a request was estimated to cost, to be compared with what it does cost."""

    program: Program
    kind: str
    estimated: float
    began: float
    """The processor time of the thread."""


@dataclass
class Context:
    """What an operation knows of the request beside its content."""

    runtime: Runtime
    timer: Timer
    memory: Reservation
    loaded_bytes: int
    """An estimate of what the request itself takes, now that it is loaded."""
    ticket: Ticket
    """The way of the request through the slots of the worker; the watch of its computation."""
    environ: Mapping[str, Any]
    form: wire.Form
    """`json`, unless the operation may stream and a stream was asked for."""
    base64: bool
    """Whether tensors are to be typed arrays. Documents are written by whoever called the view, streams are not."""
    language: str = LANGUAGES[0]
    """The language of sentences (see `service/engine/texts`)."""

    compiled: Compiler = field(init=False)
    """Gives what tasks are compiled to; the request waits for a slot before it compiles what takes long."""
    in_steps: bool = False
    """Whether it was computed in steps and ended in time: where it stands is told, even if that is late by a little."""
    _weighed: _Weighed | None = None

    def __post_init__(self) -> None:
        ticket = self.ticket  # not `self`: a cycle of references would keep the request until the collector comes
        self.compiled = self.runtime.compiled.watched(ticket, lambda nodes: ticket.weigh(nodes * NODE_SECONDS))

    def reserve(self, program: Program, work: float, nbytes: int, *, calls: float = 0.0, numbers: float = 0.0) -> None:
        """Wait for a slot as `weigh` does, and then for so many bytes beside those of the request itself.

        Three lanes compute beside each other. What takes more than a third of the memory goes to the heavy one, where
        it waits in a queue that foresees the wait, instead of holding a slot of another lane while it waits for memory.
        """
        whole = self.loaded_bytes + nbytes
        self.weigh(program, work, calls, numbers, alone=3 * whole > self.memory.account.total)
        self.memory.need(whole)

    def weigh(
        self, program: Program, work: float, calls: float = 0.0, numbers: float = 0.0, *, alone: bool = False
    ) -> None:
        """Wait for a slot that suits what comes now: so many floating-point operations, mostly of this program.

        Before memory is reserved: whoever waits for a slot must not hold what those with one need.

        `calls` are those of NumPy, beyond one run of the program, and `numbers` those of the answer; with `alone` it is
        a slot of the heavy lane. Raises `Problem` 503 where the wait would be too long, `DeadlineExceeded` and
        `Abandoned`.
        """
        calls += len(program.nodes)
        estimated = work * OPERATION_SECONDS + calls * CALL_SECONDS + numbers * NUMBER_SECONDS
        if estimated > WORTH_LEARNING or alone:
            kind: str = self.environ["PATH_INFO"]
            self.ticket.weigh(estimated * self.runtime.costs.factor(program, kind), alone=alone)
            self._weighed = _Weighed(program, kind, estimated, self.runtime.admission.cpu())

    def learn(self) -> None:
        """The request is computed: remember what it cost."""
        if self._weighed is not None:
            program, kind, estimated, began = self._weighed
            self.runtime.costs.learn(program, kind, estimated, self.runtime.admission.cpu() - began)

    def watch_over(self, program: Program, work: float) -> Watch | None:
        """What a computation of so many floating-point operations looks at; small ones are over before that matters."""
        return self.ticket if work > WATCHED_OPERATIONS or len(program.nodes) > WATCHED_NODES else None

    def mark_compiled(self, nbytes: int) -> None:
        """End the stage in which programs are made, which take so many bytes."""
        self.timer.mark("compile")
        self.timer.memory = nbytes


def runtime() -> Runtime:
    """The running service's own state."""
    found: Runtime = current_app.extensions["nabla"]
    return found
