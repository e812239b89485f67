"""The view of `/v1/gradients/diagnose`, with a `Work` for each kind: network, training, trace and sweep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from flask import Blueprint, Response

from schemas.common import Trace
from schemas.diagnose import DiagnoseRequest, LoadedDiagnose, LoadedSweep, TracedStep
from schemas.diagnose_answers import DiagnoseResponse, DiagnoseStepSchema, DiagnoseSummary
from schemas.evaluation import LoadedNetwork
from schemas.training import LoadedTraining
from service.api.answers import NUMBER_BYTES, or_null
from service.api.context import Context
from service.api.diagnose_answers import curve_of, findings_of, health_of, row_entry, run_entry
from service.api.endpoint import post
from service.api.examples import Example
from service.api.insight_examples import DIAGNOSE
from service.api.network_request import built, compiled, in_terms_of, task_and_feed
from service.api.sharing import InOrder, Surroundings, part_context, seconds_of, shared_by, surroundings_of
from service.api.streaming import admission_of, collect, respond
from service.api.training_request import reserving, start
from service.capacity.costs import NODE_SECONDS
from service.engine.arrays import Array
from service.engine.errors import DeadlineExceeded, Fault, InvalidRequest, LimitExceeded
from service.engine.findings import Found
from service.engine.insight.health.diagnosis import INCLUDE, bytes_of, diagnose, verdict_of
from service.engine.insight.health.rules import ranked
from service.engine.insight.health.story import judge_record, ratios_of, record_of
from service.engine.insight.health.sweep import AskedSweep, NetworkSweep, Run, drawn_inputs, drawn_targets
from service.engine.insight.health.watched import LOOKS, Watched
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.losses import losses
from service.engine.texts import telling

blueprint = Blueprint("diagnose", __name__)

MOST_DRAWN = 1_000_000
"""The numbers of inputs or targets that are drawn for a sweep, at most."""
SAMPLES = 64
"""The samples of a sweep without inputs."""
STEP_BYTES, LOOK_BYTES = 200, 1_000
"""Bytes that are kept of a step, several times while it is judged, and of a layer at some steps."""


@post(
    blueprint,
    "/v1/gradients/diagnose",
    takes=DiagnoseRequest(),
    gives=DiagnoseResponse(),
    summary="Why does my network not learn?",
    tag="Insight",
    examples=DIAGNOSE,
    mistake=Example(
        "There is no such activation, and a depth of 0 is none.",
        sweep={"depths": [0, 5], "activations": ["sigmod"], "seeds": [0, 1]},
        seed=0,
        inputs=[[0.5, 1], [1, 0.5]],
    ),
    streams=(DiagnoseStepSchema, DiagnoseSummary),
)
def diagnose_gradients(request: LoadedDiagnose, context: Context) -> dict[str, Any] | Response:
    """Diagnose why a network does not learn: vanishing gradients, dead or saturated units, badly scaled inputs.

    Each finding has its number, the threshold that it crossed and the source of that, its meaning and advice. With an
    `optimizer` the network is trained as by `/v1/train`, and the response says what went wrong at which step; a `trace`
    is that of an earlier training. A `sweep` diagnoses a network for every combination of depth, activation,
    initializer and seed: a table of gradient norms by layer. With `Accept: application/x-ndjson` or `text/event-stream`
    findings and networks are sent as they are found, and the rest at the end.
    """
    with in_terms_of(request):
        work = _work(request, context)
    if context.form != "json":
        return respond(work, context)
    records, summary = collect(work, context)
    context.timer.mark("compute")
    named = {"runs": records} if "sweep" in request else {}
    # The most important part comes first.
    first = {key: summary[key] for key in ("status", "reason", "verdict", "text") if key in summary}
    rest = {key: value for key, value in summary.items() if key not in first}
    return {**first, "findings": work.listed_findings(), **rest, **named}


def _work(request: LoadedDiagnose, context: Context) -> _Work:
    if "sweep" in request:
        return SweepWork(request, context)
    if "trace" in request:
        return TraceWork(request["trace"], context)
    if "optimizer" in request:
        return TrainingDiagnosis(request, context)
    return NetworkDiagnosis(request, context)


class _Work:
    """The base of all kinds of diagnoses. A stream sends each finding as a record."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.found: list[Found] = []
        self.networks: list[int] | None = None
        """For a sweep: the number of networks with each finding."""
        self.status, self.reason = "completed", ""
        self._waiting: Iterator[dict[str, Any]] | None = None
        self._finished = False

    def listed_findings(self) -> list[dict[str, Any]]:
        """Return all findings as the response lists them, in its language."""
        return findings_of(self.found, self.context.language, self.networks)

    @property
    def elsewhere(self) -> bool:
        return False

    @property
    def finished(self) -> bool:
        return self._finished

    def advance(self) -> Mapping[str, Any] | None:
        """Compute one part, and return its record if there is one; once all is computed, return one finding per call.

        Findings are returned only if the response is a stream.
        """
        if self._waiting is None:
            record = self.compute()
            if self.is_computed:
                self.conclude()
                streamed = self.listed_findings() if self._streams_findings else []
                self._waiting = iter([{"step": place, "finding": each} for place, each in enumerate(streamed, 1)])
                self._finished = not streamed
            return record
        record = next(self._waiting)
        self._finished = record["step"] == len(self.found)
        return record

    @property
    def _streams_findings(self) -> bool:
        return self.context.form != "json"

    def compute(self) -> Mapping[str, Any] | None:
        """Compute the next part of the diagnosis; return a record if a stream sends one for it."""
        raise NotImplementedError

    @property
    def is_computed(self) -> bool:
        return True

    def conclude(self) -> None:
        """Set `found` to the findings, once everything is computed."""

    def cancel(self, reason: str) -> None:
        if not self._finished:
            self.status, self.reason = "cancelled", reason
            self._finished = True

    @property
    def is_begun(self) -> bool:
        """Whether a summary can be given: something has been computed."""
        return self._waiting is not None

    def summary(self) -> Mapping[str, Any]:
        """Return the response without the findings. Raise `DeadlineExceeded` if nothing was computed in time."""
        if not self.is_begun:
            raise DeadlineExceeded
        verdict, text = verdict_of(self.found)
        tell = telling(self.context.language)
        answer: dict[str, Any] = {"status": self.status}
        if self.reason:
            answer["reason"] = self.reason
        return answer | {"verdict": verdict, "text": tell(text)} | self.more() | {"warnings": []}

    def more(self) -> dict[str, Any]:
        return {"finite": True}

    def close(self) -> None:
        pass


class NetworkDiagnosis(_Work):
    """The diagnosis of a network with the parameters that were sent, without any training."""

    def __init__(self, request: LoadedDiagnose, context: Context) -> None:
        super().__init__(context)
        self.dtype = request["dtype"]
        task, self.feed = task_and_feed(cast("LoadedNetwork", request), context.limits, INCLUDE)
        self.evaluation = compiled(EvaluationTask(task), self.feed, context)
        program = self.evaluation.program
        admission_of(context)(program, program.work, 0.0, 1)
        self.evaluation.feeder.check(self.feed)
        context.memory.need(context.loaded_bytes + program.weight + 8 * program.result_size + bytes_of(self.evaluation))

    def compute(self) -> None:
        program = self.evaluation.program
        self.diagnosis = diagnose(self.evaluation, self.feed, self.context.watch_over(program, program.work))

    def conclude(self) -> None:
        self.found = self.diagnosis.findings

    def more(self) -> dict[str, Any]:
        result = self.diagnosis.result
        assert result.loss is not None
        answer = {
            "dtype": self.dtype,
            "loss": or_null(float(result.loss.sum())),
            "gradient_norm": or_null(result.gradient_norm),
        }
        return answer | health_of(self.diagnosis.health) | {"finite": result.finite}


class TrainingDiagnosis(_Work):
    """The diagnosis of a network while this request trains it."""

    def __init__(self, request: LoadedDiagnose, context: Context) -> None:
        super().__init__(context)
        self.dtype = request["dtype"]
        task, self.feed = task_and_feed(cast("LoadedNetwork", request), context.limits)
        wanted = cast("LoadedTraining", {**request, "trace": Trace(1)})
        watched = EvaluationTask(task._replace(include=INCLUDE))
        evaluation = built(watched, self.feed, context)
        admission_of(context)(evaluation.program, evaluation.program.work * (LOOKS + 2), 0.0, 1)
        training = start(
            wanted, context, task, self.feed, request["optimizer"], reserving(context), admission_of(context)
        )
        self.watched = Watched(training, evaluation, self.feed, context.ticket)
        try:
            context.mark_compiled(training.memory + evaluation.program.nbytes)
            looked_at = evaluation.program.weight + 8 * evaluation.program.result_size + bytes_of(evaluation)
            remembered = STEP_BYTES * training.steps + LOOK_BYTES * LOOKS * len(evaluation.model.layers)
            context.memory.need(context.loaded_bytes + 4 * training.memory + looked_at + remembered)
        except BaseException:
            self.close()
            raise

    def compute(self) -> None:
        if self.watched.start is None:
            self.watched.begin()
        else:
            self.watched.advance()

    @property
    def is_computed(self) -> bool:
        return self.watched.finished

    def conclude(self) -> None:
        self.outcome = self.watched.training.outcome()
        self.found = self.watched.findings(self.outcome)

    @property
    def is_begun(self) -> bool:
        return self.watched.start is not None

    def cancel(self, reason: str) -> None:
        if self._waiting is not None:
            super().cancel(reason)
            return
        self.watched.training.cancel(reason)
        if self.watched.start is not None:
            self.conclude()
        self._waiting = iter(())
        super().cancel(reason)

    def more(self) -> dict[str, Any]:
        start_ = self.watched.start
        assert start_ is not None
        record, outcome = self.watched.record(), self.outcome
        training = {
            "status": outcome.status,
            "reason": outcome.reason,
            "steps_done": outcome.step,
            "loss": or_null(outcome.loss),
            "curve": curve_of(record),
        }
        result = start_.result
        assert result.loss is not None
        answer = {
            "dtype": self.dtype,
            "loss": or_null(float(result.loss.sum())),
            "gradient_norm": or_null(result.gradient_norm),
        }
        return answer | {"training": training} | health_of(start_.health) | {"finite": outcome.finite and result.finite}

    def close(self) -> None:
        self.watched.training.close()


class TraceWork(_Work):
    """The diagnosis of an earlier training, by the steps that its response had."""

    def __init__(self, steps: Sequence[TracedStep], context: Context) -> None:
        super().__init__(context)
        self.steps = steps

    def compute(self) -> None:
        steps = self.steps
        # Steps without norms are not judged by them: any constant will do.
        with_norms = all(step.gradient_norm is not None for step in steps)
        rows = [
            (
                step.step,
                step.epoch,
                step.loss,
                1.0 if step.gradient_norm is None or not with_norms else step.gradient_norm,
                step.validation_loss,
            )
            for step in steps
        ]
        self.record = record_of(np.array(rows))
        for step in steps:
            for layer, ratio in ratios_of(step.updates or {}, step.parameters or {}).items():
                self.record.updates.setdefault(layer, []).append(ratio)

    def conclude(self) -> None:
        self.found = ranked(judge_record(self.record))

    def more(self) -> dict[str, Any]:
        record = self.record
        finite = bool(np.isfinite(record.losses).all() and np.isfinite(record.norms).all())
        return {"training": {"steps_done": int(record.steps[-1]), "curve": curve_of(record)}, "finite": finite}


class SweepWork(_Work):
    """The diagnosis of one network for each combination of depth, activation, initializer and seed."""

    def __init__(self, request: LoadedDiagnose, context: Context) -> None:
        super().__init__(context)
        self.dtype = request["dtype"]
        asked, inputs, targets = _asked(request, request["sweep"])
        limits = context.limits
        try:
            self.sweep = NetworkSweep(asked, inputs, targets, limits, context.ticket)
            largest = context.compiled(self.sweep.largest)
            work = self.sweep.admit(largest)
        except LimitExceeded as error:
            # The caller sent no network that could be made smaller.
            raise error.at(("sweep",)) from None
        context.mark_compiled(largest.program.nbytes)
        largest.feeder.check(self.sweep.feed(0))
        admission_of(context)(largest.program, work, len(largest.program.nodes) * asked.count, 1)
        numbers = NUMBER_BYTES * self.sweep.numbers + inputs.nbytes + targets.nbytes
        context.memory.need(context.loaded_bytes + self.sweep.memory_of(largest) + numbers)
        self._parts: InOrder[int, list[Run]] | None = None
        """The combinations of depth, activation and initializer that are left, if other processes diagnose them."""
        self._taken: list[Run] = []
        """Diagnoses of one combination that are still to be told, the last one first."""
        making = NODE_SECONDS * self.sweep.largest.effort * self.sweep.recipes
        calls = len(largest.program.nodes) * asked.count
        executor = shared_by(context, making + seconds_of(work, calls))
        if executor is not None and self.sweep.recipes > 1:
            places = range(self.sweep.recipes)
            self._parts = InOrder(executor, diagnoses_of, (asked, inputs, targets), places, surroundings_of(context))
            context.hand_over()

    @property
    def elsewhere(self) -> bool:
        """Whether other processes compute, and this one waits."""
        return self._parts is not None

    @property
    def is_begun(self) -> bool:
        return True  # an empty table is a result too

    @property
    def _streams_findings(self) -> bool:
        return False  # the networks are the records of its stream

    def advance(self) -> Mapping[str, Any] | None:
        record = super().advance()
        if self._waiting is not None:
            self._finished = True
        return record

    def compute(self) -> Mapping[str, Any] | None:
        run = self.sweep.advance() if self._parts is None else self._next(self._parts)
        if run is None:
            return None
        if self.context.form == "json":
            return run_entry(run)
        return {"step": run.number, "run": run_entry(run)}

    def _next(self, parts: InOrder[int, list[Run]]) -> Run | None:
        if not self._taken:
            self._taken = (parts.next() or [])[::-1]
        return self.sweep.take(self._taken.pop()) if self._taken else None

    @property
    def is_computed(self) -> bool:
        return self.sweep.finished

    def conclude(self) -> None:
        worst = sorted(self.sweep.worst.values(), key=lambda pair: -pair[0].rank)
        self.found, self.networks = [each for each, _ in worst], [count for _, count in worst]
        self.status, self.reason = self.sweep.status, self.sweep.reason

    def cancel(self, reason: str) -> None:
        if not self._finished:
            self.sweep.cancel(reason)
            self.conclude()
            self._finished = True

    def more(self) -> dict[str, Any]:
        rows = [row_entry(row) for row in self.sweep.rows]
        findings = self.listed_findings() if self.context.form != "json" else None
        answer: dict[str, Any] = {"dtype": self.dtype, "networks": self.sweep.done}
        return answer | ({} if findings is None else {"findings": findings}) | {"table": rows, "finite": True}

    def close(self) -> None:
        if self._parts is not None:
            self._parts.close()
        self.sweep.close()


def diagnoses_of(sweep: tuple[AskedSweep, Array, Array], place: int, surroundings: Surroundings) -> list[Run]:
    """Diagnose the networks of one combination of a sweep, with all seeds, in another process."""
    with part_context(surroundings) as context:
        return NetworkSweep(*sweep, context.limits, context.ticket).of_recipe(place)


def _asked(request: LoadedDiagnose, sweep: LoadedSweep) -> tuple[AskedSweep, Array, Array]:
    """Return the sweep to compute, with the inputs and targets that all its networks share.

    Inputs and targets that were not sent are drawn from the seed. Raise `InvalidRequest` and `LimitExceeded`.
    """
    dtype, seed = request["dtype"], request["seed"]
    loss = request.get("loss")
    if isinstance(loss, dict):
        raise InvalidRequest([Fault(("loss",), "takes one loss: the networks of a sweep have one output")])
    chosen = losses.select("mean_squared_error") if loss is None else loss
    inputs, targets = request.get("inputs"), request.get("targets")
    faults = []
    samples, features = sweep.samples or SAMPLES, sweep.features or sweep.units
    if inputs is None:
        if samples * features > MOST_DRAWN:
            raise LimitExceeded("numbers to draw", samples * features, MOST_DRAWN, ("sweep", "samples"))
        inputs = drawn_inputs(samples, features, seed, dtype)
    else:
        faults = [
            Fault(("sweep", key), "has no use beside inputs, which say it")
            for key in ("samples", "features")
            if getattr(sweep, key) is not None
        ]
        if inputs.ndim != 2 or 0 in inputs.shape:  # type: ignore[union-attr]
            shape = list(inputs.shape)  # type: ignore[union-attr]
            detail = f"have shape {shape}; a sweep takes one row per sample: [samples, features]"
            faults.append(Fault(("inputs",), detail))
    if targets is not None and sweep.outputs is not None and not chosen.declaration.indices:
        faults.append(Fault(("sweep", "outputs"), "has no use beside targets, which say it"))
    of_classes = chosen.declaration.indices or chosen.declaration.outputs == "distributions"
    outputs = sweep.outputs or (2 if of_classes else 1)
    if targets is None and not faults and len(inputs) * outputs > MOST_DRAWN:
        raise LimitExceeded("numbers to draw", len(inputs) * outputs, MOST_DRAWN, ("sweep", "outputs"))
    if faults:
        raise InvalidRequest(faults)
    if targets is None:
        targets = drawn_targets(chosen, len(inputs), outputs, seed, dtype)
    elif chosen.declaration.indices:
        classes = int(targets.max(initial=0)) + 1  # type: ignore[union-attr]
        outputs = sweep.outputs or max(2, min(classes, 2**31))
    else:
        outputs = targets.shape[-1] if targets.ndim == 2 else 1  # type: ignore[union-attr]
    asked = AskedSweep(
        sweep.depths, sweep.activations, sweep.initializers, sweep.seeds, sweep.units, max(1, outputs), chosen, dtype
    )
    return asked, cast("Array", inputs), cast("Array", targets)
