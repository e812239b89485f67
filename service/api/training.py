"""The views of `/v1/train` and `/v1/train/compare`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Response

from schemas.training import CompareRequest, LoadedCompare, LoadedTrain, LoadedTraining, TrainRequest
from schemas.training_answers import CompareResponse, TrainingStepSchema, TrainResponse, TrainSummary
from service.api.answers import NUMBER_BYTES, listed
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import COMPARE, TRAIN, Example
from service.api.layouts import layout_of
from service.api.long_work import Standing
from service.api.network_request import in_terms_of, task_and_feed, validation_of
from service.api.parts import spread_of
from service.api.sharing import (
    InOrder,
    Surroundings,
    is_later,
    part_context,
    seconds_of,
    shared_by,
    surroundings_of,
)
from service.api.streaming import admission_of, collect, respond
from service.engine.declarations import Selection
from service.engine.descent.checkpoint import Checkpoint
from service.engine.descent.comparison import Comparison, Contender, Row, check_runs
from service.engine.descent.cost import Admit, no_need
from service.engine.descent.loop import Recipe, Stop
from service.engine.descent.optimizers import Optimizer
from service.engine.descent.trace import Recorded
from service.engine.descent.training import Training
from service.engine.descent.training_plan import Plan
from service.engine.errors import Path
from service.engine.network.feed import Feed
from service.engine.network.shard_sums import Spread
from service.engine.network.task import Task
from service.problems import Problem

blueprint = Blueprint("training", __name__)


@post(
    blueprint,
    "/v1/train",
    takes=TrainRequest(),
    gives=TrainResponse(),
    summary="Optimizer steps, exact and live",
    tag="Training",
    examples=TRAIN,
    mistake=Example(
        "The optimizer has an option that belongs to another one.",
        **TRAIN["xor"] | {"optimizer": {"type": "sgd", "beta_1": 0.9}},
    ),
    streams=(TrainingStepSchema, TrainSummary),
    files=True,
)
def train(request: LoadedTrain, context: Context) -> dict[str, Any] | Response:
    """Train a network step by step, and report each step.

    Each entry of `steps` has loss and gradient norm before its update; `trace` adds gradients, updates, parameters,
    optimizer state and effective learning rates, or reduces the steps. The `checkpoint` of the response, sent back,
    continues the training as if it had never stopped. With `Accept: application/x-ndjson` or `text/event-stream` each
    step is sent as it is computed, and everything else at the end; closing the connection stops the training.
    """
    with in_terms_of(request, may_have_shards=True):
        work = TrainingWork(request, context)
    if context.form != "json":
        return respond(work, context)
    steps, summary = collect(work, context)
    context.timer.mark("compute")
    # Long parts that people seldom read come last.
    last = {name: summary[name] for name in ("parameters", "checkpoint") if name in summary}
    first = {name: value for name, value in summary.items() if name not in last}
    return {**first, "steps": steps, **last}


@post(
    blueprint,
    "/v1/train/compare",
    takes=CompareRequest(),
    gives=CompareResponse(),
    summary="Several optimizers on one problem",
    tag="Training",
    examples=COMPARE,
    mistake=Example(
        "The name of an optimizer is misspelt.",
        **COMPARE["xor"] | {"optimizers": ["sgd", "rmsporp"]},
    ),
)
def compare(request: LoadedCompare, context: Context) -> dict[str, Any]:
    """Train the same network on the same data with several optimizers, learning rates and seeds.

    Every optimizer runs with every learning rate and every seed. The response has the curves of all runs over the same
    steps, and a table of their ends.
    """
    with in_terms_of(request, may_have_shards=True):
        work = ComparisonWork(request, context)
    _, summary = collect(work, context)
    context.timer.mark("compute")
    return dict(summary)


class TrainingWork:
    """A `LongWork` that trains a network, and describes its steps and its end as responses do."""

    def __init__(
        self, request: LoadedTrain, context: Context, state: dict[str, Any] | None = None, more_steps: int = 0
    ) -> None:
        """Go on from `state`, if there is one; make `more_steps` after those that the request asks for."""
        self.dtype = request["dtype"]
        self.exclude = request["exclude"]
        self.layout = layout_of(request, context)
        context.answer_layout = self.layout.name
        task, feed = task_and_feed(request, context.limits)
        self.training = start(
            request,
            context,
            task,
            feed,
            request["optimizer"],
            reserving(context),
            admission_of(context),
            request.get("checkpoint"),
            more_steps=more_steps,
            spread=spread_of(request, context),
        )
        try:
            if state is not None:
                self.training.restore(state)
            nbytes = self.training.memory
            context.mark_compiled(nbytes)
            if self.elsewhere:
                context.hand_over()
            if context.form == "json":
                context.memory.need(context.loaded_bytes + 4 * nbytes + NUMBER_BYTES * self.training.trace_elements)
        except BaseException:
            self.close()
            raise

    @property
    def elsewhere(self) -> bool:
        """Whether its steps mostly wait for other processes, and need no turn."""
        return self.training.objective.elsewhere

    @property
    def finished(self) -> bool:
        return self.training.finished

    def advance(self) -> Mapping[str, Any] | None:
        recorded = self.training.advance()
        return None if recorded is None else self._laid_out(record_of(recorded))

    def standing(self) -> Standing:
        training = self.training
        return Standing(training.done, training.steps, training.loss, training.learning_rate)

    def state(self) -> dict[str, Any]:
        return self.training.saved()

    def _laid_out(self, record: dict[str, Any]) -> dict[str, Any]:
        for name, lay_out in (
            ("gradients", self.layout.gradients),
            ("updates", self.layout.parameters),
            ("parameters", self.layout.parameters),
        ):
            if name in record:
                record[name] = lay_out(record[name])
        return record

    def cancel(self, reason: str) -> None:
        self.training.cancel(reason)

    def summary(self) -> Mapping[str, Any]:
        outcome = self.training.outcome()
        summary: dict[str, Any] = {
            "dtype": self.dtype,
            "status": outcome.status,
            "reason": outcome.reason,
            "steps_done": outcome.step,
            "epochs_done": outcome.epoch,
            "loss": outcome.loss,
        }
        if outcome.validation_loss is not None:
            summary["validation_loss"] = outcome.validation_loss
        summary |= {
            "finite": outcome.finite,
            "warnings": [*listed(outcome.warnings), *self.layout.warnings],
            "parameters": {} if "parameters" in self.exclude else self.layout.parameters(outcome.parameters),
        }
        if outcome.checkpoint is not None and "checkpoint" not in self.exclude:
            summary["checkpoint"] = vars(outcome.checkpoint)
        return summary

    def close(self) -> None:
        self.training.close()


class ComparisonWork:
    """A `LongWork` that runs all trainings of a comparison, and describes them as the response does.

    Its records are the rows of the table, each when its training has ended.
    """

    def __init__(self, request: LoadedCompare, context: Context, state: dict[str, Any] | None = None) -> None:
        """Go on from `state`, if there is one."""
        self.dtype = request["dtype"]
        self.validated = "validation" in request
        self.streamed = context.form != "json"
        self.context = context
        self.comparison = comparison_of(request, context)
        self._parts: InOrder[int, dict[str, Any]] | None = None
        """The trainings that have not ended, if other processes make them."""
        self._before_end: dict[str, Any] | None = None
        """The state before the comparison was cancelled, if it was."""
        try:
            if not self.streamed:
                context.weigh(self.comparison.program, self.comparison.work, self.comparison.calls)
            reserving(context)(self.comparison.nbytes)  # once for all, because no run may wait during its turn
            if state is not None:
                self.comparison.restore(state)
            self._share(request)
        except BaseException:
            self.close()
            raise
        context.timer.mark("compile")

    def _share(self, request: LoadedCompare) -> None:
        """Let other processes make the trainings, if it is worth while."""
        comparison, context = self.comparison, self.context
        executor = shared_by(context, seconds_of(comparison.work, comparison.calls))
        if executor is None or comparison.finished or comparison.ended + 1 == comparison.count:
            return
        comparison.leave()
        numbers = range(comparison.ended, comparison.count)
        self._parts = InOrder(executor, contender_of, request, numbers, surroundings_of(context))
        context.hand_over()

    @property
    def elsewhere(self) -> bool:
        """Whether other processes compute, and this one waits."""
        return self._parts is not None

    @property
    def finished(self) -> bool:
        return self.comparison.finished

    def advance(self) -> Mapping[str, Any] | None:
        row = self.comparison.advance() if self._parts is None else self._next()
        return {"step": self.comparison.ended, **_row(row)} if row is not None and self.streamed else None

    def _next(self) -> Row | None:
        """Return the row of the next training, once another process has made it."""
        assert self._parts is not None
        try:
            saved = self._parts.next()
        except Problem as problem:
            # A request is told at once; a run goes on here.
            if self.context.own_limits is None or not is_later(problem):
                raise
            self._parts.close()
            self._parts = None
            self.comparison.go_on()
            return None
        return None if saved is None else self.comparison.take(saved)

    def standing(self) -> Standing:
        comparison, training = self.comparison, self.comparison.present
        of = comparison.steps_each * comparison.count
        # A training that ends early has made all steps that it makes.
        done = comparison.steps_each * comparison.ended
        if training is None:
            return Standing(done, of, None, None)
        return Standing(done + training.done, of, training.loss, training.learning_rate)

    def state(self) -> dict[str, Any]:
        return self._before_end or self.comparison.saved()

    def cancel(self, reason: str) -> None:
        if self.streamed and not self.finished:
            self._before_end = deepcopy(self.comparison.saved())
        if self._parts is not None:
            self._parts.close()
        self.comparison.cancel(reason)

    def summary(self) -> Mapping[str, Any]:
        comparison = self.comparison
        return {
            "dtype": self.dtype,
            "best": comparison.best,
            "table": [_row(row) for row in comparison.rows],
            "warnings": listed(comparison.warnings),
            "steps": comparison.steps.tolist(),
            "curves": [
                {name: curve for name, curve in curves.items() if self.validated or name != "validation_loss"}
                for curves in comparison.curves
            ],
        }

    def close(self) -> None:
        if self._parts is not None:
            self._parts.close()
        self.comparison.close()


def comparison_of(request: LoadedCompare, context: Context, only: int | None = None) -> Comparison:
    """Return the comparison that a request asks for, or the training of one contender, counted from 0."""
    # The curves are kept in memory until the end, wherever the records go.
    limits = replace(context.limits, trace_elements=context.runtime.settings.limits.trace_elements)
    task, feed = task_and_feed(request, context.limits)
    spread = spread_of(request, context)

    def begin(contender: Contender) -> Training:
        numbers, place = replace(feed, seed=contender.seed), ("optimizers", contender.place)
        return start(
            request,
            context,
            task,
            numbers,
            contender.optimizer,
            lambda _: None,
            no_need,
            place=place,
            spread=spread,
        )

    rates = request.get("learning_rates", (None,))
    seeds = request.get("seeds", (feed.seed,))
    # Before they are made: short lists may have many combinations.
    check_runs(len(request["optimizers"]) * len(rates) * len(seeds), ("optimizers",))
    contenders = [
        Contender(_with_rate(optimizer, rate), seed, place)
        for place, optimizer in enumerate(request["optimizers"])
        for rate in rates
        for seed in seeds
    ]
    if only is not None:
        contenders = [contenders[only]]
    return Comparison(contenders, plan_of(request, contenders[0].optimizer).recipe, begin, limits)


def contender_of(request: LoadedCompare, number: int, surroundings: Surroundings) -> dict[str, Any]:
    """Make the training of one contender in another process; return what `Comparison.take` takes."""
    with part_context(surroundings) as context:
        comparison = comparison_of(request, context, number)
        try:
            reserving(context)(comparison.nbytes)
            while not comparison.finished:
                context.ticket.look()
                comparison.advance()
        finally:
            comparison.close()
        return comparison.saved()


def _with_rate(optimizer: Selection[Optimizer], rate: float | None) -> Selection[Optimizer]:
    if rate is None:
        return optimizer
    return Selection(optimizer.declaration, MappingProxyType({**optimizer.options, "learning_rate": rate}))


def _row(row: Row) -> dict[str, Any]:
    optimizer = row.contender.optimizer
    entry: dict[str, Any] = {
        "optimizer": {"type": optimizer.name, **optimizer.options},
        "seed": row.contender.seed,
        "status": row.status,
        "reason": row.reason,
        "steps_done": row.steps_done,
        "loss": row.loss,
        "best_loss": row.best_loss,
        "best_step": row.best_step,
    }
    return entry if row.validation_loss is None else entry | {"validation_loss": row.validation_loss}


def reserving(context: Context) -> Callable[[int], None]:
    """Return a function that reserves four times the given bytes of a training: for its response and its text too."""
    return lambda nbytes: context.memory.need(context.loaded_bytes + 4 * nbytes)


def start(
    request: LoadedTraining,
    context: Context,
    task: Task,
    feed: Feed,
    optimizer: Selection[Optimizer],
    reserve: Callable[[int], None],
    admit: Admit,
    checkpoint: Checkpoint | None = None,
    place: Path = ("optimizer",),
    more_steps: int = 0,
    spread: Spread | None = None,
) -> Training:
    """Return a training that is ready for its first step.

    `reserve` is called with the bytes it needs, `admit` waits for a slot, and `place` is the path of the optimizer in
    the request, for messages. It makes `more_steps` after those that the request asks for. `spread`
    computes blocks of shards.
    """
    task = task._replace(frozen=request["frozen"])
    return Training(
        context.compiled,
        context.limits,
        task,
        feed,
        plan_of(request, optimizer, more_steps),
        validation_of(request, task),
        checkpoint,
        reserve=reserve,
        admit=admit,
        watch=context.ticket,
        place=place,
        spread=spread,
    )


def plan_of(request: LoadedTraining, optimizer: Selection[Optimizer], more_steps: int = 0) -> Plan:
    """Return the engine's plan of a training with this optimizer, the request's other settings, and more steps."""
    trace = request["trace"]
    recipe = Recipe(optimizer, request.get("schedule"), request.get("clip"), request.get("stop", Stop()))
    return Plan(
        recipe,
        steps=request.get("steps"),
        epochs=request.get("epochs"),
        batch_size=request.get("batch_size"),
        shuffle=request["shuffle"],
        batches=request.get("batches"),
        every=trace.every,
        include=trace.include,
        checkpoint_every=trace.checkpoint_every,
        more_steps=more_steps,
        shards=request.get("shards"),
    )


def record_of(recorded: Recorded) -> dict[str, Any]:
    step = recorded.step
    record: dict[str, Any] = {
        "step": step.number,
        "epoch": step.epoch,
        "loss": step.loss,
        "learning_rate": step.learning_rate,
        "gradient_norm": step.gradient_norm,
    }
    if step.validation_loss is not None:
        record["validation_loss"] = step.validation_loss
    record.update(recorded.more)
    if "checkpoint" in record:
        record["checkpoint"] = vars(record["checkpoint"])
    return record
