"""The view of `/v1/derivatives`: Jacobians, Hessians, and their products with vectors."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from schemas.derivatives import DerivativesRequest, DerivativesResponse, LoadedDerivatives
from service.api.answers import listed, number, unnamed
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import DERIVATIVES, Example
from service.api.network_request import compiled, in_terms_of, task_and_feed
from service.engine.network.derivatives import Derivative, DerivativeTask

blueprint = Blueprint("derivatives", __name__)

# The numbers of a response as arrays, as a copy of them, and as text.
RESULT_FACTOR = 5


@post(
    blueprint,
    "/v1/derivatives",
    takes=DerivativesRequest(),
    gives=DerivativesResponse(),
    summary="Jacobians, Hessians and products with vectors",
    tag="Networks",
    examples=DERIVATIVES,
    mistake=Example(
        "The direction has three numbers, and the inputs have two.",
        **DERIVATIVES["jvp"] | {"vectors": [[[1, 0, 0]]]},
    ),
)
def derivatives(request: LoadedDerivatives, context: Context) -> dict[str, Any]:
    """Compute exact derivatives `of` the outputs or the loss, with respect to (`wrt`) the inputs or trainable
    parameters.

    `jvp` is the change of the outputs along a tangent (J v), `vjp` the pullback of a cotangent of the outputs to the
    inputs or parameters (vᵀ J), `hvp` the change of the gradient of the loss along a direction (H v): each for as many
    `vectors` as you send. `jacobian` and `hessian` are the whole matrices J and H.
    """
    return _answer(request, _derive(request, context))


def _derive(request: LoadedDerivatives, context: Context) -> Derivative:
    vectors = request.get("vectors", ())
    with in_terms_of(request):
        task, feed = task_and_feed(request, context.limits)
        asked = DerivativeTask(task, request["kind"], request["of"], request["wrt"], len(vectors))
        derivation = compiled(asked, feed, context)
        nbytes = 2 * derivation.program.nbytes + RESULT_FACTOR * derivation.result_bytes
        context.reserve(
            derivation.program,
            derivation.work,
            nbytes,
            calls=derivation.blocks * len(derivation.program.nodes),
            numbers=derivation.size,
        )
        result = derivation.run(feed, vectors, context.watch_over(derivation.program, derivation.work))
    context.timer.mark("compute")
    return result


def _answer(request: LoadedDerivatives, derived: Derivative) -> dict[str, Any]:
    """Return the JSON object of the response; its keys come most important first."""
    answer: dict[str, Any] = {
        "dtype": request["dtype"],
        "values": _entry(request, request["of"], derived.values),
        "result": _result(request, derived.result),
    }
    if derived.labels is not None:
        answer["labels"] = derived.labels
    answer["finite"] = derived.finite
    answer["warnings"] = listed(derived.warnings)
    if derived.parameters is not None and "parameters" not in request["exclude"]:
        answer["parameters"] = derived.parameters
    return answer


def _result(request: LoadedDerivatives, result: Any) -> Any:
    kind, of, wrt = request["kind"], request["of"], request["wrt"]
    match kind:
        case "jvp":
            return [_entry(request, of, entry) for entry in result]
        case "vjp" | "hvp":
            return [_entry(request, wrt, entry) for entry in result]
        case "jacobian" if of == "loss":
            return _entry(request, wrt, result)
        case "jacobian":
            rows = {name: _entry(request, wrt, entry) for name, entry in result.items()}
            return _entry(request, of, rows)
    return result if of == "loss" else _entry(request, of, result)


def _entry(request: LoadedDerivatives, side: str, entry: Any) -> Any:
    """Return the values of inputs, outputs, parameters or loss (`side`) as a response has them."""
    match side:
        case "inputs":
            return unnamed(entry, request["network"].inputs)
        case "outputs":
            return unnamed(entry, request["network"].output_names)
        case "loss":
            return number(entry)
    return entry
