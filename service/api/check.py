"""The view of `/v1/gradients/check`, which compares a gradient with slopes computed from values alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any, cast

from flask import Blueprint

from schemas.check import CheckRequest, CheckResponse, LoadedCheck
from schemas.evaluation import LoadedNetwork
from service.api.answers import listed, or_null
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import GRADIENTS, Example
from service.api.function_answers import cautions_of
from service.api.insight_examples import CHECK
from service.api.network_request import built, in_terms_of, task_and_feed
from service.engine.cautions import Caution
from service.engine.insight.check_report import TensorCheck
from service.engine.insight.check_words import of_curve, of_report, of_taylor, of_tensor
from service.engine.insight.checked import EVALUATIONS, Checked, CheckOptions, FunctionCheckTask, NetworkCheckTask
from service.engine.insight.differences import DifferenceCurve
from service.engine.texts import Sentence, Tell, say, telling

blueprint = Blueprint("check", __name__)


@post(
    blueprint,
    "/v1/gradients/check",
    takes=CheckRequest(),
    gives=CheckResponse(),
    summary="Is the gradient right?",
    tag="Insight",
    examples=CHECK,
    mistake=Example(
        "The claimed bias has three numbers, and the layer has two units.",
        **{key: value for key, value in GRADIENTS["xor"].items() if key != "include"}
        | {"claimed": {"hidden": {"bias": [0, 0, 0]}}},
    ),
)
def check(request: LoadedCheck, context: Context) -> dict[str, Any]:
    """Check a gradient against slopes that come from values alone, without any rule of differentiation.

    The gradient is that of this service or one that you claim (`claimed`), of the loss of a network or of an
    `expression` at a `point`. The complex step judges every entry, or random directions through all entries if there
    are many. The evidence has the error of central differences for each step length, and the order of Taylor
    remainders, where 2 is right.
    """
    steps = request.get("steps")
    ordered = None if steps is None else tuple(sorted(steps, reverse=True))
    wanted = CheckOptions(request.get("claimed"), request["seed"], request.get("tolerance"), ordered)
    checked, warnings = (_of_function if "expression" in request else _of_network)(request, wanted, context)
    context.timer.mark("compute")
    return _answer(checked, request.get("dtype", "float64"), warnings, context.language)


def _of_function(request: LoadedCheck, wanted: CheckOptions, context: Context) -> tuple[Checked, list[Caution]]:
    ready = context.compiled(FunctionCheckTask(request["expression"]))
    context.mark_compiled(ready.nbytes)
    context.memory.need(context.loaded_bytes + ready.nbytes)
    return ready.run(request["point"], wanted, context.ticket), cautions_of(request["expression"])


def _of_network(request: LoadedCheck, wanted: CheckOptions, context: Context) -> tuple[Checked, list[Caution]]:
    with in_terms_of(request):
        task, feed = task_and_feed(cast("LoadedNetwork", request), context.limits)
        ready = built(NetworkCheckTask(task), feed, context)
        context.mark_compiled(ready.nbytes)
        context.reserve(ready.subject.program, EVALUATIONS * ready.twin.work, ready.nbytes)
        return ready.run(feed, wanted, context.ticket), list(ready.warnings)


def _answer(checked: Checked, dtype: str, warnings: list[Caution], language: str) -> dict[str, Any]:
    tell, report = telling(language), checked.report
    declared = dict.fromkeys(node.scope or node.operation.name for node in report.declared)
    warnings += [
        Caution("declared_slope", tell(say("check.declared_slope", layer=f"`{layer}`")), layer) for layer in declared
    ]
    if checked.curves_left_out:
        warnings.append(Caution("curves_left_out", tell(say("check.curve.left_out")), quantity="curve"))
    finite = report.verdict != "undefined"
    answer: dict[str, Any] = {
        "verdict": report.verdict,
        "text": tell(of_report(report)),
        "dtype": dtype,
        "value": or_null(report.value),
        "checks": [_tensor(tensor, tell) for tensor in report.tensors],
        "missing": checked.missing,
    }
    if report.curve is not None:
        answer["curve"] = _curve(report.curve, tell)
    answer["taylor"] = [
        {
            "slope": or_null(taylor.slope),
            "order": taylor.order,
            "text": tell(of_taylor(taylor)),
            "remainders": [_finite(row._asdict()) for row in taylor.rows],
        }
        for taylor in report.taylor
    ]
    if checked.parameters is not None:
        answer["parameters"] = checked.parameters
    return answer | {"finite": finite, "warnings": listed(warnings, language)}


def _tensor(tensor: TensorCheck, tell: Tell) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": ".".join(tensor.path),
        "size": tensor.size,
        "verdict": tensor.verdict,
        "text": _text_of(of_tensor(tensor), tell),
        "compared": tensor.compared,
        "error": tensor.error,
        "wrong": tensor.wrong,
    }
    if tensor.worst is not None:
        entry["worst"] = _finite(vars(tensor.worst))
    if tensor.ratio is not None:
        entry["ratio"] = tensor.ratio
    if tensor.sides is not None:
        entry["sides"] = list(map(or_null, tensor.sides))
    if tensor.curve is not None:
        entry["curve"] = _curve(tensor.curve, tell)
    return entry


def _curve(curve: DifferenceCurve, tell: Tell) -> dict[str, Any]:
    entry: dict[str, Any] = {"slope": or_null(curve.slope), "text": _text_of(of_curve(curve), tell)}
    if curve.best is not None:
        entry["best"] = _finite(curve.best._asdict())
    found = {"truncation": curve.truncation, "rounding": curve.rounding, "kink": curve.kink}
    entry |= {key: value for key, value in found.items() if value is not None}
    return entry | {"steps": [_finite(row._asdict()) for row in curve.rows]}


def _finite(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: or_null(value) if isinstance(value, float) else value for key, value in entry.items()}


def _text_of(sentences: list[Sentence], tell: Tell) -> str:
    return (
        tell(reduce(lambda first, second: say("check.and", first=first, second=second), sentences)) if sentences else ""
    )
