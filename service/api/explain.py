"""The view of `/v1/gradients/explain`, which derives a gradient step by step."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from schemas.explain import ExplainRequest, ExplainResponse, LoadedExplain
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import XOR_DATA, XOR_NETWORK, XOR_PARAMETERS, Example
from service.api.insight_examples import EXPLAIN
from service.api.network_request import built, in_terms_of, task_and_feed
from service.engine.insight.explain import ExplainTask, WorkedDerivation
from service.engine.insight.meaning import Meaning
from service.engine.insight.outline import DerivationStep, Quantity
from service.engine.limits import WATCHED_OPERATIONS
from service.engine.texts import Tell, say, telling

blueprint = Blueprint("explain", __name__)

STEP_BYTES = 4_000
"""Bytes that a step of a response takes, as objects and as text."""


@post(
    blueprint,
    "/v1/gradients/explain",
    takes=ExplainRequest(),
    gives=ExplainResponse(),
    summary="How a gradient comes about",
    tag="Insight",
    examples=EXPLAIN,
    mistake=Example(
        "The parameter has no such row.",
        network=XOR_NETWORK,
        parameters=XOR_PARAMETERS,
        **XOR_DATA,
        loss="half_squared_error",
        parameter="hidden.kernel[2][0]",
    ),
)
def explain(request: LoadedExplain, context: Context) -> dict[str, Any]:
    """Derive gradients with every number on the way: sums, activations, errors, deltas, gradients and the update.

    Each step has its formula in LaTeX, the formula with the numbers put in, a sentence, and the ids of the steps that
    it uses. The steps are the computation of the service, read from its graph, for layers of every type. `meanings` say
    for each parameter which way to change it, and for a gradient of 0 why it is 0.
    """
    with in_terms_of(request):
        task, feed = task_and_feed(request, context.limits)
        asked = ExplainTask(
            task, request.get("parameter"), request.get("sample"), request.get("depth"), request["convention"]
        )
        explanation = built(asked, feed, context)
        context.mark_compiled(explanation.nbytes)
        context.memory.need(context.loaded_bytes + explanation.nbytes + STEP_BYTES * explanation.most_steps)
        watch = context.ticket if explanation.work > WATCHED_OPERATIONS else None
        derivation = explanation.run(feed, request["learning_rate"], watch)
    context.timer.mark("compute")
    return _answer(request, context, derivation)


def _answer(request: LoadedExplain, context: Context, derivation: WorkedDerivation) -> dict[str, Any]:
    """Return the JSON object of the response; its keys come most important first."""
    tell = telling(context.language)
    answer: dict[str, Any] = {
        "dtype": request["dtype"],
        "convention": request["convention"],
        "language": context.language,
        "sample": request.get("sample"),
        "loss": derivation.loss,
        "meanings": [_meaning(meaning, tell) for meaning in derivation.meanings],
        "steps": [_step(*step, tell) for step in derivation.steps],
        "quantities": [_quantity(quantity, value) for quantity, value in derivation.quantities],
        "finite": derivation.finite,
        "warnings": [],
    }
    if derivation.lost is not None:
        message = tell(say("explain.warning.non_finite", id=derivation.lost))
        answer["warnings"] = [{"code": "non_finite", "message": message, "quantity": derivation.lost}]
    if derivation.parameters is not None and "parameters" not in request["exclude"]:
        answer["parameters"] = derivation.parameters
    return answer


def _step(step: DerivationStep, value: float, numbers: str, tell: Tell) -> dict[str, Any]:
    return {
        "id": step.id,
        "kind": step.kind,
        "quantity": step.quantity,
        "layer": step.layer,
        "unit": step.unit,
        "sample": step.sample,
        "symbol": step.symbol,
        "latex": step.latex,
        "numbers": numbers,
        "expression": step.expression,
        "text": tell(step.sentence),
        "value": value,
        "uses": step.uses,
    }


def _quantity(quantity: Quantity, value: float) -> dict[str, Any]:
    return {
        "id": quantity.id,
        "quantity": quantity.quantity,
        "layer": quantity.layer,
        "unit": quantity.index,
        "sample": quantity.sample,
        "symbol": quantity.symbol,
        "value": value,
    }


def _meaning(meaning: Meaning, tell: Tell) -> dict[str, Any]:
    return {
        "parameter": meaning.asked.path,
        "value": meaning.value,
        "gradient": meaning.gradient,
        "updated": meaning.updated,
        "advice": meaning.advice,
        "reasons": [
            {"code": reason.code, "layer": reason.layer, "samples": reason.samples, "text": tell(reason.text)}
            for reason in meaning.reasons
        ],
        "text": tell(meaning.text),
        "step": meaning.asked.gradient,
    }
