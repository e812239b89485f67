"""The loss of a network on batches of samples, as the objective that a descent minimises."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.compiling import Compiler
from service.engine.descent.batches import Batches, FullBatch
from service.engine.errors import DeadlineExceeded, Fault, InvalidRequest, LimitExceeded
from service.engine.graph.plan import Program, Workspace
from service.engine.limits import WATCHED_OPERATIONS
from service.engine.network.answer_warnings import first_non_finite, misread, unfit
from service.engine.network.derivatives import DerivativeTask
from service.engine.network.evaluate import Evaluation, EvaluationTask
from service.engine.network.feed import Feed, Feeder
from service.engine.network.flat import tree_of
from service.engine.network.parameters import ParameterVector
from service.engine.network.task import Task
from service.engine.watch import Watch

QUICK_OPERATIONS = 1e9
"""Floating-point operations that are made even when the time is over."""


class BatchObjective(ABC):
    """The loss of a network as a function of its trained parameters, for the loop in `loop.py`, and what a training
    knows of it: costs, the layout of the parameters, and warnings."""

    watch: Watch | None
    batches: Batches
    steps_per_epoch: int
    whole: bool
    """True if every step uses all samples."""
    nbytes: int
    """The memory of all programs together."""
    work: float
    """The floating-point operations of one evaluation of the largest batch."""
    calls: float
    """Calls of NumPy of this evaluation."""
    validation_work: float
    total_work: float
    program: Program
    """The program of the largest batch, or of its largest shard."""
    feeder: Feeder
    vector: ParameterVector
    flat: Array
    """All parameters, the trained ones first."""
    parameters: Array
    elsewhere = False
    """Whether other processes compute most of it, for which it waits."""
    rows: Array | None
    """The indices of the samples of the step that began last; None: all samples."""
    samples: int
    _compile: Compiler
    _feed: Feed
    _step: int

    @abstractmethod
    def begin(self, step: int) -> None: ...

    @abstractmethod
    def evaluate(self) -> tuple[float, Array]: ...

    def hessian(self, most_work: float = math.inf) -> Array:
        """Return the Hessian of the loss on the batch that began last. Raise `LimitExceeded` if it is more work."""
        derivation = self._compile(hessian_of(self.current))
        if derivation.work > most_work:
            raise LimitExceeded("operations", derivation.work, most_work)
        feed = rows_of(self._feed, self.rows, self.current.definition.known_inputs)
        feed.parameters, feed.step = tree_of(self.vector.pieces, self.flat), self._step
        return np.asarray(derivation.run(feed, watch=self.watch).result)

    @abstractmethod
    def finish(self) -> None: ...

    @abstractmethod
    def validate(self) -> float | None: ...

    @abstractmethod
    def total(self, step: int) -> float:
        """Return the loss over all samples, with the random numbers of step `step`."""

    @abstractmethod
    def close(self) -> None:
        """Give the borrowed memory back to the pool."""

    @abstractmethod
    def non_finite(self) -> Caution:
        """Return the caution about the first value that is not finite in the step that began last."""

    @property
    @abstractmethod
    def current(self) -> Task:
        """The task of computing the loss and its gradient on the batch that began last."""

    @property
    @abstractmethod
    def largest(self) -> Task:
        """The task of computing the loss and its gradient on the largest batch."""

    @property
    @abstractmethod
    def warnings(self) -> list[Caution]:
        """Warnings about the network, the loss, the targets and the weights."""

    @abstractmethod
    def misread(self, *, everything: bool = False) -> list[Caution]:
        """Return cautions about outputs that the loss reads as probabilities or rates although they are none.

        The outputs are those of the step that began last; with `everything`, those of all samples at the last call of
        `total`.
        """

    def final_losses(self, step: int) -> tuple[float | None, float | None]:
        """Return the loss over all samples and the loss on validation data, after the last step. The second is None
        without such data. Both are None if the time is over."""
        if self.total_work + self.validation_work <= QUICK_OPERATIONS:
            self.watch = None
        try:
            return self.total(step), self.validate()
        except DeadlineExceeded:
            return None, None


class _Run(NamedTuple):
    """The program for batches of one size, with its own memory and views of what the loop reads and writes."""

    evaluation: Evaluation
    workspace: Workspace
    calls: Sequence[Callable[[], object]]
    parameters: Array
    gradients: Array
    loss: Array
    carried: Sequence[tuple[Array, slice]]
    """The new values of arrays that layers carry along, and their places among the parameters."""


class NetworkObjective(BatchObjective):
    """The loss of a network, each batch of which is computed by one program."""

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        task: Task,
        feed: Feed,
        batches: Batches,
        validation: tuple[Task, Feed] | None,
        reserve: Callable[[int], None],
        admit: Callable[[NetworkObjective], None] = lambda objective: None,
        watch: Watch | None = None,
    ) -> None:
        """Compile the programs of all batch sizes and take their memory. Before memory is taken, `admit` is called with
        this objective, then `reserve` with the bytes."""
        self._stack = ExitStack()
        self.watch = watch
        self.batches = batches
        self.steps_per_epoch = batches.steps_per_epoch
        self._compile = compile
        self._task, self._feed = task, feed
        self.rows: Array | None = None
        self.samples = task.samples
        self._step = 0
        whole = self.whole = isinstance(batches, FullBatch)
        # The whole task comes first: its shapes are those of the request, while batches always have valid ones.
        everything = compile(EvaluationTask(task if whole else task._replace(differentiated=False)))
        everything.feeder.check(feed)
        sizes = sorted(batches.sizes, reverse=True)
        evaluations = {size: everything if whole else compile(EvaluationTask(task.of_size(size))) for size in sizes}
        main = evaluations[sizes[0]]
        validating = None if validation is None else self._validating(main, *validation)
        used = {id(each): each for each in (*evaluations.values(), everything, validating) if each is not None}
        self.nbytes = sum(each.program.nbytes for each in used.values())
        self.work: float = max(each.program.work for each in evaluations.values())
        self.validation_work: float = 0.0 if validating is None else validating.program.work
        self.total_work: float = everything.program.work
        self.program = main.program
        self.calls = len(self.program.nodes)
        admit(self)
        reserve(self.nbytes)
        self._runs = {size: self._open(evaluation) for size, evaluation in evaluations.items()}
        self._run = self._main = next(iter(self._runs.values()))
        self.feeder = self._main.evaluation.feeder
        self.vector = self.feeder.parameters
        self.flat = self._main.parameters
        self.parameters = self.flat[: self.vector.trained_size]
        self._everything = self._main if whole else self._open(everything)
        self._everything.evaluation.feeder.fill_samples(self._everything.workspace, feed)
        self._validation = None if validating is None else self._open(validating)
        """The program for the validation data, with training off."""
        if self._validation is not None and validation is not None:
            self._validation.evaluation.feeder.fill_samples(self._validation.workspace, validation[1])

    def _open(self, evaluation: Evaluation) -> _Run:
        workspace = self._stack.enter_context(evaluation.program.workspace(self.watch))
        read, frozen = workspace.outputs, frozenset(evaluation.task.frozen)
        places = {piece.path: slice(piece.start, piece.stop) for piece in evaluation.parameters.pieces}
        carried = [
            (read[f"state/{layer}.{name}"].reshape(-1), places[layer, name])
            for (layer, name), *_ in evaluation.state
            if f"{layer}.{name}" not in frozen
        ]
        flat, gradients = workspace.parameters, workspace.gradients
        return _Run(evaluation, workspace, workspace.calls, flat, gradients, read["loss"], carried)

    def _validating(self, main: Evaluation, task: Task, feed: Feed) -> Evaluation:
        with of_validation():
            evaluation = self._compile(EvaluationTask(task))
            check_layout(evaluation.parameters, main.parameters)
            evaluation.feeder.check(feed)
        return evaluation

    def close(self) -> None:
        self._stack.close()

    def begin(self, step: int) -> None:
        self._step = step
        rows = self.rows = self.batches.rows(step)
        run = self._run = self._main if rows is None else self._runs[len(rows)]
        if rows is not None:
            run.evaluation.feeder.fill_samples(run.workspace, self._feed, rows)
        if run.evaluation.model.noises:
            run.evaluation.feeder.fill_noises(run.workspace, self._feed.seed, step)

    def evaluate(self) -> tuple[float, Array]:
        run = self._run
        return self._compute(run), run.gradients

    def _compute(self, run: _Run) -> float:
        if run is not self._main:
            np.copyto(run.parameters, self.flat)
        if self.watch is not None and run.evaluation.program.work > WATCHED_OPERATIONS:
            run.workspace.run(self.watch)
        else:
            for call in run.calls:
                call()
        loss: float = run.loss.item()
        return loss

    def non_finite(self) -> Caution:
        run = self._run
        evaluation = run.evaluation
        return first_non_finite(
            evaluation.program, run.workspace, evaluation.model, evaluation.parameters.pieces, self.watch
        )

    def finish(self) -> None:
        for value, place in self._run.carried:
            self.flat[place] = value

    def validate(self) -> float | None:
        return None if self._validation is None else self._compute(self._validation)

    def total(self, step: int) -> float:
        run = self._everything
        if run.evaluation.model.noises:
            run.evaluation.feeder.fill_noises(run.workspace, self._feed.seed, step)
        return self._compute(run)

    @property
    def current(self) -> Task:
        return self._run.evaluation.task

    @property
    def largest(self) -> Task:
        return self._main.evaluation.task

    @property
    def warnings(self) -> list[Caution]:
        run = self._everything
        main = self._main.evaluation
        found = [*main.warnings, *unfit(run.evaluation.task, self._feed, self.whole, main.bounded)]
        if self.whole and math.isfinite(run.loss.item()):
            found += run.evaluation.surprises.found(run.workspace)
        return found

    def misread(self, *, everything: bool = False) -> list[Caution]:
        run = self._everything if everything else self._run
        outputs = {name: run.workspace.outputs[f"outputs/{name}"] for name in self._task.definition.output_names}
        return misread(run.evaluation.watched, outputs)


@contextmanager
def of_validation() -> Iterator[None]:
    """Move faults to the validation data of a request."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest([replace(each, path=("validation", *each.path)) for each in error.faults]) from None


def check_layout(validated: ParameterVector, trained: ParameterVector) -> None:
    """Raise `InvalidRequest` if the network has other parameters on validation data."""
    if validated.pieces != trained.pieces:
        detail = "have another shape than those that are trained on, so that the parameters do not fit both"
        raise InvalidRequest([Fault(("inputs",), detail)])


def hessian_of(task: Task) -> DerivativeTask:
    """Return the task that computes the Hessian of the loss with respect to the trained parameters."""
    return DerivativeTask(task, "hessian", "loss", "parameters")


def rows_of(feed: Feed, rows: Array | None, known: frozenset[str]) -> Feed:
    """Return the feed of some samples; None: of all. The inputs `known` are no samples."""
    if rows is None:
        return replace(feed)
    weights = feed.sample_weights
    return replace(
        feed,
        inputs={name: array if name in known else array[rows] for name, array in feed.inputs.items()},
        targets={name: array[rows] for name, array in feed.targets.items()},
        sample_weights=None if weights is None else weights[rows],
    )
