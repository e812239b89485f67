"""The views of `/v1/train` and `/v1/train/compare`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response

from schemas.training import CompareRequest, LoadedCompare, LoadedTrain, TrainRequest
from schemas.training_answers import CompareResponse, TrainingStepSchema, TrainResponse, TrainSummary
from service.api.answers import NUMBER_BYTES, listed
from service.api.comparisons import ComparisonWork
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import COMPARE, TRAIN, Example
from service.api.layouts import layout_of
from service.api.long_work import Standing
from service.api.network_request import in_terms_of, task_and_feed
from service.api.parts import spread_of
from service.api.streaming import admission_of, collect, respond
from service.api.training_request import reserving, start
from service.engine.descent.trace import Recorded

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
