"""Training a network: batches, checkpoints and a trace around the one loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution, caution
from service.engine.compiling import Compiler
from service.engine.descent.batches import Batches
from service.engine.descent.checkpoint import Checkpoint, StateReader, progress_of
from service.engine.descent.cost import Admit, TrainingCost, admission, no_need
from service.engine.descent.loop import Descent
from service.engine.descent.objective import BatchObjective, NetworkObjective
from service.engine.descent.sharded_objective import ShardedObjective
from service.engine.descent.trace import Recorded, Tracer
from service.engine.descent.training_plan import Plan
from service.engine.errors import DeadlineExceeded, Fault, InvalidRequest, Path
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.limits import Limits
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.feed import Feed
from service.engine.network.shard_sums import Spread
from service.engine.network.task import Task
from service.engine.watch import Watch


@dataclass
class Outcome:
    """The result of a training: its status, final losses and parameters, and warnings."""

    status: str
    """completed, stopped, diverged or cancelled."""
    reason: str
    step: int
    """Steps done, those before a checkpoint included."""
    epoch: int
    loss: float | None
    """The loss over all samples at the final parameters. None: there was no time to compute it."""
    validation_loss: float | None
    parameters: dict[str, dict[str, Array]]
    checkpoint: Checkpoint | None
    """None where numbers are not finite, since no training can go on from there."""
    finite: bool
    warnings: list[Caution]
    shared: list[Caution]
    """The warnings about the network and the data, which do not depend on the optimizer."""


class Training:
    """A training of a network, made step by step. It holds memory until `close`."""

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
        spread: Spread | None = None,
    ) -> None:
        """Check the whole request and get ready for the first step.

        `place` is the optimizer's place in the request. `admit` is called with the cost of the steps, then `reserve`
        with the bytes, before memory is taken. `watch` may end a long step in the middle; this step is then undone, and
        the training cancelled. `spread` computes blocks of shards, if the plan has shards.

        Raises `InvalidRequest` when something does not fit, `LimitExceeded` when the training would cost too much.
        """
        if checkpoint is not None:
            feed.parameters, feed.seed = checkpoint.parameters, checkpoint.seed
        self._compile = compile
        plan.recipe.check()
        if not task.samples:
            compile(EvaluationTask(task))  # raises, and says what the inputs should be
        self.plan = plan
        self.seed = feed.seed
        batches = plan.batches_of(task.samples, feed.seed)
        self.steps = plan.steps_with(batches)
        limits.check_steps(self.steps, ("epochs",) if plan.steps is None else ("steps",))
        self.status: str | None = None
        self.reason = ""
        self._lost: Caution | None = None
        """The first value that is not finite, if the loss or the gradient of the last step is not."""
        self._misread: list[Caution] = []
        """Warnings about outputs of the first step, if that step failed."""
        self.lowest = (math.inf, 0)
        """The lowest loss of any step, and the number of this step."""
        self.loss: float | None = None
        self.learning_rate: float | None = None
        """The loss and the learning rate of the last step."""
        try:
            admitting = admission(admit, plan.recipe, self.steps)
            self.objective = self._objective(task, feed, batches, validation, limits, reserve, admitting, watch, spread)
        except InvalidRequest as error:
            raise error if checkpoint is None else InvalidRequest(map(_of_checkpoint, error.faults)) from None
        try:
            self._prepare(limits, feed, checkpoint, reserve, place)
        except BaseException:
            self.close()
            raise

    def _objective(
        self,
        task: Task,
        feed: Feed,
        batches: Batches,
        validation: tuple[Task, Feed] | None,
        limits: Limits,
        reserve: Callable[[int], None],
        admit: Callable[[BatchObjective], None],
        watch: Watch | None,
        spread: Spread | None,
    ) -> BatchObjective:
        size = self.plan.shards
        if size is None:
            return NetworkObjective(self._compile, task, feed, batches, validation, reserve, admit, watch)
        return ShardedObjective(
            self._compile, task, feed, batches, validation, size, limits, reserve, admit, watch, spread
        )

    def _prepare(
        self, limits: Limits, feed: Feed, checkpoint: Checkpoint | None, reserve: Callable[[int], None], place: Path
    ) -> None:
        objective, recipe = self.objective, self.plan.recipe
        self.plan.check_weights(objective.largest, feed)
        vector = objective.vector
        if not vector.trained_size:
            if objective.largest.frozen:
                raise InvalidRequest([Fault(("frozen",), "leaves no parameters to train")])
            raise InvalidRequest([Fault(("network",), "has no parameters that are trained")])
        self.cost = TrainingCost(self._compile, objective, self.steps)
        self.memory = self.cost.memory(recipe)
        """The bytes that the training takes, roughly."""
        reserve(self.memory)
        limits.check_operations(self.cost.work(recipe, place))
        objective.feeder.fill_parameters(objective.flat, feed)
        self.descent = Descent(objective, recipe, None if checkpoint is None else progress_of(checkpoint))
        if checkpoint is not None:
            StateReader(self.descent, vector.trained).restore(checkpoint)
        self.before = self.descent.progress.step
        """The steps before the first one: those of the checkpoint."""
        self.last = self.before + self.steps
        self.trace_elements = self.cost.trace_elements(self.descent, self.plan)
        """The number of entries of the whole trace."""
        limits.check_trace(self.trace_elements)
        self._tracer = Tracer(objective, self.descent, self.plan, self.seed)

    def saved(self) -> dict[str, Any]:
        """Return all that the training remembers between two steps, which `restore` takes in another process.

        It says nothing of a cancellation: a training that was cancelled goes on as if it had not been. The next step
        changes the arrays.
        """
        cancelled = self.status == "cancelled"
        return {
            "parameters": self.objective.flat,
            "descent": self.descent.saved(),
            "trace": self._tracer.saved(),
            "steps": self.steps,
            "status": None if cancelled else self.status,
            "reason": "" if cancelled else self.reason,
            "lost": None if self._lost is None else self._lost.saved(),
            "misread": [caution.saved() for caution in self._misread],
            "lowest": self.lowest,
            "loss": self.loss,
            "learning_rate": self.learning_rate,
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `saved` returned of a training that was made alike, as if it had never stopped.

        If this training has more steps, an end of the other one is none here, unless it diverged.
        """
        np.copyto(self.objective.flat, saved["parameters"])
        self.descent.restore(saved["descent"])
        self._tracer.restore(saved["trace"])
        self.status, self.reason = saved["status"], saved["reason"]
        if self.steps > saved["steps"] and self.status in ("completed", "stopped"):
            self.status, self.reason = None, ""
        self._lost = Caution.restored(saved["lost"])
        self._misread = [caution for each in saved["misread"] if (caution := Caution.restored(each)) is not None]
        self.lowest, self.loss, self.learning_rate = saved["lowest"], saved["loss"], saved["learning_rate"]

    @property
    def finished(self) -> bool:
        return self.status is not None

    @property
    def done(self) -> int:
        """The steps that are done, without those before a checkpoint."""
        return self.descent.progress.step - self.before

    def advance(self) -> Recorded | None:
        """Make one step. Return the record of this step if the trace holds it, else None."""
        self._tracer.begin()
        descent = self.descent
        search = descent.update.declaration.search
        # A search moves the parameters while it works, and replaces the arrays of its state.
        before = (self.objective.flat.copy(), copy(descent.state)) if search else None
        try:
            step = descent.advance()
        except DeadlineExceeded:
            # The step is not whole: undo it.
            if before is not None:
                self.objective.flat[...], descent.state = before
            self.cancel("the time ran out in the middle of a step")
            return None
        self.loss, self.learning_rate = step.loss, step.learning_rate
        if step.loss < self.lowest[0]:
            self.lowest = step.loss, step.number
        if descent.status is not None:
            self.status, self.reason = descent.status, descent.reason
        elif step.number == self.last:
            self.status = "completed"
            self.reason = f"all {self.steps:,} steps are done"
        if not (math.isfinite(step.loss) and math.isfinite(step.gradient_norm)):
            self._lost = self.objective.non_finite()
            self._tracer.see(step.number, "gradient" if math.isfinite(step.loss) else "loss", np.array(math.nan))
            if not descent.has_moved:
                self._misread = self.objective.misread()
                self.reason = _with_place(self.reason, [*self._misread, self._lost])
        return self._tracer.record(step, is_last=self.finished)

    def cancel(self, reason: str) -> None:
        """Make no more steps."""
        if self.status is None:
            self.status, self.reason = "cancelled", reason

    @ignoring_float_warnings
    def outcome(self) -> Outcome:
        """Return the result of the training, after its last step."""
        objective, descent = self.objective, self.descent
        tracer = copy(self._tracer)  # a training that was cancelled may go on: what its end is like is not remembered
        done = descent.progress.step
        loss, validation_loss = objective.final_losses(done)
        misread = objective.misread(everything=True) if loss is not None else []
        parameters = tracer.parameters()
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
            tracer.see(done, name, np.asarray(math.nan))
        if not whole:
            tracer.see(done, "parameters", objective.flat)
        tracer.see(done, "loss", np.asarray(loss or 0.0))
        tracer.see(done, "validation_loss", np.asarray(validation_loss or 0.0))
        shared = list(dict.fromkeys([*objective.warnings, *(self._misread or misread)]))
        warnings = [*shared, *self._warnings(status, loss)]
        non_finite = self._lost or tracer.non_finite
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
            checkpoint=tracer.checkpoint_with(parameters) if sound and not lost else None,
            finite=tracer.non_finite is None,
            warnings=warnings,
            shared=shared,
        )

    def _warnings(self, status: str, loss: float | None) -> list[Caution]:
        warnings = []
        declaration = self.plan.recipe.optimizer.declaration
        if declaration.full_batch and not self.objective.whole:
            warnings.append(caution("full_batch", quantity="gradient", optimizer=declaration.name))
        # The losses of batches differ anyway.
        if self.objective.whole and status != "diverged" and loss is not None:
            growth = self.descent.growth(loss)
            if growth is not None:
                warnings.append(Caution.of(growth))
        return warnings

    def close(self) -> None:
        """Give the borrowed memory back to the pool. A second call does no harm."""
        self.objective.close()


def _with_place(reason: str, cautions: Sequence[Caution]) -> str:
    """Append to a reason the first clause of the first caution, which names the value that is not finite."""
    return f"{reason}: {cautions[0].message.partition('; ')[0]}" if cautions else reason


def _of_checkpoint(fault: Fault) -> Fault:
    """Return a fault whose path leads to the parameters in the checkpoint, where these came from."""
    return replace(fault, path=("checkpoint", *fault.path)) if fault.path[:1] == ("parameters",) else fault
