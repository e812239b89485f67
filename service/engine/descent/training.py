"""Training a network: batches, checkpoints and a trace around the one loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array, first_true, is_finite
from service.engine.cautions import Caution, caution
from service.engine.compiling import Compiler
from service.engine.descent.batches import Batches, FullBatch, ListedBatches, MiniBatches
from service.engine.descent.checkpoint import Checkpoint, StateReader, checkpoint_of, progress_of, told
from service.engine.descent.loop import RULE_CALLS, Admit, Descent, Recipe, Step, no_need
from service.engine.descent.objective import NetworkObjective, hessian_of
from service.engine.errors import MOST_ERRORS, DeadlineExceeded, Fault, InvalidRequest, LimitExceeded, Path
from service.engine.findings import found
from service.engine.float_warnings import without_float_warnings
from service.engine.limits import Limits
from service.engine.network.derivatives import Derivation
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.feed import Feed
from service.engine.network.parameters import tree_of
from service.engine.network.task import Task
from service.engine.watch import Watch

MOST_SECOND_ORDER = 500
"""Trained parameters up to which whole Hessians are computed at each step."""
MOST_BATCH_SIZES = 16
"""Different lengths of listed batches: each has a program and memory of its own."""
RULE_OPERATIONS = 20
"""What a rule takes for each parameter, roughly."""
STATE_ROWS = 6
"""Vectors like the parameters that an optimizer keeps and works with, at most."""
QUICK_OPERATIONS = 1e9
"""What is computed even when the time is over."""
SCALARS = 6
"""Numbers of a recorded step beside its trees."""
TRACED = ("gradients", "parameters", "state", "updates", "effective_learning_rate", "batch")
"""What a trace may include of each step."""


@dataclass(frozen=True)
class Plan:
    """How a network is trained: the recipe of the descent, how long, on which batches, and what is recorded."""

    recipe: Recipe
    steps: int | None = None
    epochs: int | None = None
    """Either steps or epochs are given."""
    batch_size: int | None = None
    """None: all samples at each step."""
    shuffle: bool = True
    batches: Sequence[Array] | None = None
    """Indices of samples, a list for each step; from the first again after the last."""
    every: int = 1
    """Steps 1, 1 + every, … are recorded, and the last."""
    include: frozenset[str] = frozenset()
    """Out of `TRACED`."""
    checkpoint_every: int | None = None
    """Steps so many, twice as many, … are recorded too, each with a checkpoint."""


class Recorded(NamedTuple):
    """A step of the trace, and what the trace includes of it by name: trees, numbers, indices of samples.

    `checkpoint` is among it after steps where the plan asks for it, if the step was made and all numbers are finite.
    """

    step: Step
    more: dict[str, Any]


@dataclass
class Outcome:
    """Where a training ended."""

    status: str
    """completed, stopped, diverged or cancelled."""
    reason: str
    step: int
    """Steps done, those before a checkpoint included."""
    epoch: int
    loss: float | None
    """Over all samples, as the next step would find it; None: there was no time to compute it."""
    validation_loss: float | None
    parameters: dict[str, dict[str, Array]]
    checkpoint: Checkpoint | None
    """None where numbers are not finite: there is nothing to go on from."""
    finite: bool
    warnings: list[Caution]
    shared: list[Caution]
    """Those of the warnings that have to do with the network and the data, and nothing with the optimizer."""


class Training:
    """One training at work. It holds memory until `close`."""

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        limits: Limits,
        task: Task,
        feed: Feed,
        plan: Plan,
        validation: tuple[Task, Feed] | None = None,
        checkpoint: Checkpoint | None = None,
        reserve: Callable[[int], None] = lambda nbytes: None,
        admit: Admit = no_need,
        watch: Watch | None = None,
        place: Path = ("optimizer",),
    ) -> None:
        """Check everything and get ready for the first step. `place` names the optimizer where it is refused.

        `reserve` is told the bytes needed before they are taken, and before that `admit` what the steps will cost. A
        step that raises what `watch` raises is not whole; callers cancel before that, unless one step takes so long.

        Raises `InvalidRequest` when something does not fit, `LimitExceeded` when it would cost too much.
        """
        if checkpoint is not None:
            feed.parameters, feed.seed = checkpoint.parameters, checkpoint.seed
        self._compile = compile
        plan.recipe.check()
        if not task.samples:
            compile(EvaluationTask(task))  # which says what inputs should be
        self.plan = plan
        self.seed = feed.seed
        batches = _batches(plan, task.samples, feed.seed)
        self.steps = _count_steps(plan, batches)
        limits.check_steps(self.steps, ("epochs",) if plan.steps is None else ("steps",))
        self.status: str | None = None
        self.reason = ""
        self._validation_loss: float | None = None
        """Of the last epoch that ended, until a step tells it."""
        self._non_finite: Caution | None = None
        """What was the first thing told that is not finite."""
        self._lost: Caution | None = None
        """The place where the loss or the gradient of the last step stopped being finite."""
        self._misread: list[Caution] = []
        """The fault of the outputs before anything had moved."""
        self.lowest = (math.inf, 0)
        """The lowest loss that a step found, and which step."""
        try:
            self.objective = NetworkObjective(
                compile, task, feed, batches, validation, reserve, self._admission(admit), watch
            )
        except InvalidRequest as error:
            raise error if checkpoint is None else InvalidRequest(map(_of_checkpoint, error.faults)) from None
        try:
            self._prepare(limits, feed, checkpoint, reserve, place)
        except BaseException:
            self.close()
            raise

    def _admission(self, admit: Admit) -> Callable[[NetworkObjective], None]:
        evaluations = self.plan.recipe.optimizer.declaration.most_evaluations(**self.plan.recipe.own_options)

        def told(objective: NetworkObjective) -> None:
            work = objective.work * evaluations * self.steps + objective.total_work
            admit(objective.program, work, len(objective.program.nodes) * evaluations + RULE_CALLS, self.steps)

        return told

    def _prepare(
        self,
        limits: Limits,
        feed: Feed,
        checkpoint: Checkpoint | None,
        reserve: Callable[[int], None],
        place: Path,
    ) -> None:
        objective, recipe = self.objective, self.plan.recipe
        _check_weights(self.plan, objective.largest, feed)
        vector = objective.vector
        if not vector.trained_size:
            if objective.largest.frozen:
                raise InvalidRequest([Fault(("frozen",), "leaves no parameters to train")])
            raise InvalidRequest([Fault(("network",), "has no parameters that are trained")])
        self.memory = self.memory_of(recipe)
        """Bytes that it takes, roughly."""
        reserve(self.memory)
        limits.check_operations(self.work_of(recipe, place))
        objective.feeder.fill_parameters(objective.flat, feed)
        self.descent = Descent(objective, recipe, None if checkpoint is None else progress_of(checkpoint))
        if checkpoint is not None:
            StateReader(self.descent, vector.trained).restore(checkpoint)
        self.last = self.descent.progress.step + self.steps
        limits.check_trace(self.trace_elements)
        self.before = np.empty_like(objective.parameters) if "updates" in self.plan.include else None

    def work_of(self, recipe: Recipe, path: Path = ("optimizer",)) -> float:
        """Floating-point operations that a training like this takes with a recipe, at most and roughly.

        Raises `LimitExceeded` where an optimizer, which `path` names, is not made for so many parameters.
        """
        objective, declaration = self.objective, recipe.optimizer.declaration
        size = objective.vector.trained_size
        step: float = objective.work * declaration.most_evaluations(**recipe.own_options) + RULE_OPERATIONS * size
        if declaration.second_order:
            if size > MOST_SECOND_ORDER:
                raise LimitExceeded(f"parameters for {declaration.name}", size, MOST_SECOND_ORDER, path)
            step += self._derivation.work + 10 * size**3
        epochs = math.ceil(self.steps / objective.steps_per_epoch)
        return step * self.steps + objective.validation_work * epochs + objective.total_work

    @property
    def _derivation(self) -> Derivation:
        return self._compile(hessian_of(self.objective.largest))

    def memory_of(self, recipe: Recipe) -> int:
        """Bytes that a training like this takes with a recipe: the programs, and what its optimizer keeps."""
        parameters = self.objective.parameters
        nbytes = self.objective.nbytes + (STATE_ROWS + self._history(recipe)) * parameters.nbytes
        if recipe.optimizer.declaration.second_order and parameters.size <= MOST_SECOND_ORDER:
            nbytes += self._derivation.program.nbytes + 4 * parameters.size * parameters.nbytes
        return nbytes

    def _history(self, recipe: Recipe) -> int:
        """Rows that the histories of the optimizer's state may have together in the end."""
        declaration = recipe.optimizer.declaration
        return len(declaration.histories) * min(declaration.most_rows(**recipe.own_options), self.steps)

    @property
    def trace_elements(self) -> int:
        """How many numbers the whole trace will hold."""
        include, trained = self.plan.include, self.objective.parameters.size
        remembered = (*vars(self.descent.state).values(), *without_float_warnings(self.descent.shown).values())
        arrays = [value.size for value in remembered if isinstance(value, np.ndarray)]
        each = SCALARS
        each += trained * len(include & {"gradients", "updates", "effective_learning_rate"})
        each += self.objective.flat.size if "parameters" in include else 0
        each += sum(arrays) + self._history(self.plan.recipe) * trained if "state" in include else 0
        each += max(self.objective.batches.sizes) if "batch" in include else 0
        told = each * (math.ceil(self.steps / self.plan.every) + 1)
        if self.plan.checkpoint_every is None:
            return told
        kept = SCALARS + self.objective.flat.size + sum(arrays) + self._history(self.plan.recipe) * trained
        return told + (each + kept) * (self.steps // self.plan.checkpoint_every + 1)

    @property
    def finished(self) -> bool:
        return self.status is not None

    def advance(self) -> Recorded | None:
        """Make one step; gives it if it belongs to the trace."""
        if self.before is not None:
            self.before[...] = self.objective.parameters
        descent = self.descent
        search = descent.update.declaration.search
        # A search moves while it looks; what it keeps it replaces.
        before = (self.objective.flat.copy(), copy(descent.state)) if search else None
        try:
            step = descent.advance()
        except DeadlineExceeded:
            # The step is not whole: the training stands where it stood before it.
            if before is not None:
                self.objective.flat[...], descent.state = before
            self.cancel("the time ran out in the middle of a step")
            return None
        if step.loss < self.lowest[0]:
            self.lowest = step.loss, step.number
        if descent.status is not None:
            self.status, self.reason = descent.status, descent.reason
        elif step.number == self.last:
            self.status = "completed"
            self.reason = f"all {self.steps:,} steps are done"
        if not (math.isfinite(step.loss) and math.isfinite(step.gradient_norm)):
            self._lost = self.objective.non_finite()
            self._see(step.number, "gradient" if math.isfinite(step.loss) else "loss", np.array(math.nan))
            if not descent.has_moved:
                self._misread = self.objective.misread()
                self.reason = _with_place(self.reason, [*self._misread, self._lost])
        if step.validation_loss is not None:
            self._validation_loss = step.validation_loss
        asked = self.plan.checkpoint_every
        kept = asked is not None and not step.number % asked
        if self.status is None and not kept and (step.number - 1) % self.plan.every:
            return None
        if not math.isfinite(step.learning_rate):
            self._see(step.number, "learning_rate", np.asarray(step.learning_rate))
        # Told once, with the first step that is told since: thinning must not hide it.
        step = step._replace(validation_loss=self._validation_loss)
        self._validation_loss = None
        more = without_float_warnings(self._more, step) if self.plan.include else {}
        made = descent.progress.step == step.number  # one that finds the loss run away is not
        checkpoint = without_float_warnings(self._checkpoint) if kept and made else None
        return Recorded(step, more if checkpoint is None else more | {"checkpoint": checkpoint})

    def _checkpoint(self) -> Checkpoint | None:
        """Where the training stands; None where numbers are not finite, for there is nothing to go on from."""
        objective, descent = self.objective, self.descent
        remembered = [objective.flat, *map(np.asarray, vars(descent.state).values())]
        if not all(map(is_finite, remembered)):
            return None
        parameters = tree_of(objective.vector.parts, objective.flat.copy())
        return checkpoint_of(descent, self.seed, parameters, objective.vector.trained)

    def _more(self, step: Step) -> dict[str, Any]:
        """What the trace includes of a step, in copies."""
        include, descent, objective = self.plan.include, self.descent, self.objective
        more: dict[str, Any] = {}
        if "batch" in include:
            rows = objective.rows
            more["batch"] = np.arange(objective.samples) if rows is None else rows
        if "gradients" in include:
            more["gradients"] = tree_of(objective.vector.trained, descent.gradient.copy())
        if step.effective_learning_rate is None:
            return more  # it changed nothing
        if "effective_learning_rate" in include:
            more["effective_learning_rate"] = self._told(step, "effective_learning_rate", step.effective_learning_rate)
        if self.before is not None:
            more["updates"] = self._told(step, "updates", objective.parameters - self.before)
        if "parameters" in include:
            flat = objective.flat.copy()
            self._see(step.number, "parameters", flat)
            more["parameters"] = tree_of(objective.vector.parts, flat)
        if "state" in include:
            values = {**vars(descent.state), **descent.shown()}
            more["state"] = {name: self._told(step, name, value) for name, value in values.items()}
        return more

    def _told(self, step: Step, name: str, value: Any) -> Any:
        """What the trace tells of a number or a flat array."""
        self._see(step.number, name, np.asarray(value))
        return told(self.objective.vector.trained, value)

    def cancel(self, reason: str) -> None:
        """Make no more steps."""
        if self.status is None:
            self.status, self.reason = "cancelled", reason

    def outcome(self) -> Outcome:
        """Where the training stands now that it is over."""
        return without_float_warnings(self._outcome)

    def _losses(self) -> tuple[float | None, float | None]:
        """Over all samples and of validation; None where there is no such data, or no time."""
        objective = self.objective
        if objective.total_work + objective.validation_work <= QUICK_OPERATIONS:
            objective.watch = None
        try:
            return objective.total(self.descent.progress.step), objective.validate()
        except DeadlineExceeded:
            return None, None

    def _outcome(self) -> Outcome:
        objective, descent = self.objective, self.descent
        done = descent.progress.step
        loss, validation_loss = self._losses()
        misread = objective.misread(everything=True) if loss is not None else []
        parameters = tree_of(objective.vector.parts, objective.flat.copy())
        status, reason = self.status or "cancelled", self.reason
        whole = is_finite(objective.flat)
        sound = whole and (loss is None or math.isfinite(loss))
        if not sound and status != "diverged":
            status = "diverged"
            reason = descent.why_diverged_at_the_end(math.nan if loss is None else loss)
            if not descent.has_moved:
                reason = _with_place(reason, misread)
        lost = [name for name, value in vars(descent.state).items() if not is_finite(np.asarray(value))]
        for name in lost:
            self._see(done, name, np.asarray(math.nan))
        if not whole:
            self._see(done, "parameters", objective.flat)
        self._see(done, "loss", np.asarray(loss or 0.0))
        self._see(done, "validation_loss", np.asarray(validation_loss or 0.0))
        checkpoint = None
        if sound and not lost:
            checkpoint = checkpoint_of(descent, self.seed, parameters, objective.vector.trained)
        shared = list(dict.fromkeys([*objective.warnings, *(self._misread or misread)]))
        warnings = [*shared, *self._warnings(status, loss)]
        non_finite = self._lost or self._non_finite
        if non_finite is not None:
            warnings.append(non_finite)
        return Outcome(
            status=status,
            reason=reason,
            step=done,
            epoch=math.ceil(done / objective.steps_per_epoch),
            loss=loss,
            validation_loss=validation_loss,
            parameters=parameters,
            checkpoint=checkpoint,
            finite=self._non_finite is None,
            warnings=warnings,
            shared=shared,
        )

    def _see(self, step: int, name: str, array: Array) -> None:
        """Remember the first thing told that is not finite."""
        if self._non_finite is None and not is_finite(array):
            self._non_finite = Caution.of(found("non_finite", quantity=name, step=step, name=name))

    def _warnings(self, status: str, loss: float | None) -> list[Caution]:
        warnings = []
        declaration = self.plan.recipe.optimizer.declaration
        if declaration.full_batch and not self.objective.whole:
            warnings.append(caution("full_batch", quantity="gradient", optimizer=declaration.name))
        # Of batches the losses differ anyway.
        if self.objective.whole and status != "diverged" and loss is not None:
            growth = self.descent.growth(loss)
            if growth is not None:
                warnings.append(Caution.of(growth))
        return warnings

    def close(self) -> None:
        """Give back the memory; once is enough, twice does no harm."""
        self.objective.close()


def _with_place(reason: str, cautions: Sequence[Caution]) -> str:
    """A reason that goes on with the first of the cautions, of which the first clause says what is wrong."""
    return f"{reason}: {cautions[0].message.partition('; ')[0]}" if cautions else reason


def _of_checkpoint(fault: Fault) -> Fault:
    """A checkpoint holds the parameters of its request."""
    return replace(fault, path=("checkpoint", *fault.path)) if fault.path[:1] == ("parameters",) else fault


def _batches(plan: Plan, samples: int, seed: int) -> Batches:
    if plan.batches is not None:
        _check_listed(plan.batches, samples)
        return ListedBatches(plan.batches)
    if plan.batch_size is None or plan.batch_size >= samples:
        return FullBatch(samples)
    return MiniBatches(samples, plan.batch_size, seed, plan.shuffle)


def _check_weights(plan: Plan, task: Task, feed: Feed) -> None:
    """Refuse batches that may hold only weights of 0, by whose sum the mean would be divided."""
    weights = feed.sample_weights
    if weights is None or not (task.normalize_weights and task.reduction == "mean"):
        return
    needs = "with normalize_weights, which divides by the sum of a batch's weights, each batch needs one that is not 0"
    if plan.batches is not None:
        faults = [
            Fault(("batches", place), f"has only weights of 0; {needs}")
            for place, rows in enumerate(plan.batches)
            if not weights[rows].any()
        ]
        if faults:
            raise InvalidRequest(faults[:MOST_ERRORS])
    elif plan.batch_size is not None and plan.batch_size < weights.size:
        zeros = int((weights == 0.0).sum())
        fewest = (weights.size - 1) % plan.batch_size + 1
        if zeros >= fewest:
            detail = f"{zeros} weights are 0, and a batch may have but {fewest} samples; {needs}"
            raise InvalidRequest([Fault(("sample_weights",), detail)])


def _check_listed(batches: Sequence[Array], samples: int) -> None:
    faults = []
    for position, rows in enumerate(batches):
        place = first_true((rows < 0) | (rows >= samples))
        if place is not None:
            detail = f"takes the index of a sample, from 0 to {samples - 1}, got {int(rows[place])}"
            faults.append(Fault(("batches", position, *place), detail))
            if len(faults) >= MOST_ERRORS:
                break
    if faults:
        raise InvalidRequest(faults)
    sizes = {len(rows) for rows in batches}
    if len(sizes) > MOST_BATCH_SIZES:
        raise LimitExceeded("different batch sizes", len(sizes), MOST_BATCH_SIZES, ("batches",))


def _count_steps(plan: Plan, batches: Batches) -> int:
    if plan.steps is not None:
        return plan.steps
    assert plan.epochs is not None
    return plan.epochs * batches.steps_per_epoch
