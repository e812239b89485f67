"""`/v1/forward` and `/v1/gradients`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Blueprint

from schemas.evaluation import ForwardRequest, ForwardResponse, GradientsRequest, GradientsResponse
from schemas.tensor import Array
from service.api.examples import FORWARD, GRADIENTS
from service.api.operation import Context, post
from service.engine.errors import Fault, InvalidRequest
from service.engine.network.evaluate import Evaluation, LayerValues, Result, Task, compile_task

blueprint = Blueprint("evaluation", __name__)

# Below this many operations a run is over before a look at the clock could matter.
WATCHED_OPERATIONS = 1e6


@post(
    blueprint,
    "/v1/forward",
    takes=ForwardRequest(),
    gives=ForwardResponse(),
    summary="Outputs of a network",
    tag="Networks",
    examples=FORWARD,
)
def forward(request: dict[str, Any], context: Context) -> dict[str, Any]:
    """Run a network forward. With `include: ["layers"]` every layer's pre-activation and output come too."""
    return _answer(request, _evaluate(request, context, None))


@post(
    blueprint,
    "/v1/gradients",
    takes=GradientsRequest(),
    gives=GradientsResponse(),
    summary="Loss and exact gradients",
    tag="Networks",
    examples=GRADIENTS,
)
def gradients(request: dict[str, Any], context: Context) -> dict[str, Any]:
    """Loss, outputs and the exact gradient of the loss with respect to every parameter.

    Gradients come in the tree of the parameters, so that `parameters - learning_rate * gradients` is a step of
    descent. `include` adds `layers` (pre-activation, output and delta = dL/dz of each), `input_gradients`,
    `per_sample` (every sample's own loss and gradients) and `parameters`.
    """
    names = request["network"].output_names
    targets = request["targets"]
    if isinstance(targets, dict):
        _match_targets(targets, names, request, context)
        return _answer(request, _evaluate(request, context, targets))
    if len(names) > 1:
        _check_network(request, context)
        detail = f"takes one tensor for each output: an object with {', '.join(map(repr, names))}"
        raise InvalidRequest([Fault(("targets",), detail, names)])
    try:
        return _answer(request, _evaluate(request, context, {names[0]: targets}))
    except InvalidRequest as error:
        # The engine names targets by output; here there is but one, and the request does not name it.
        raise InvalidRequest([_without_name(fault) for fault in error.faults]) from None


def _match_targets(
    targets: dict[str, Array], names: tuple[str, ...], request: dict[str, Any], context: Context
) -> None:
    """Refuse targets that are not one for each output of the network."""
    faults = [Fault(("targets", name), "is no output of the network", names) for name in targets if name not in names]
    faults += [Fault(("targets", name), "is missing") for name in names if name not in targets]
    if faults:
        _check_network(request, context)
        raise InvalidRequest(faults)


def _check_network(request: dict[str, Any], context: Context) -> None:
    """Raise what is wrong with the network itself before anything that follows from it."""
    _compile(Task(request["network"], request["dtype"], request["inputs"].shape), context)


def _without_name(fault: Fault) -> Fault:
    path = fault.path
    return replace(fault, path=("targets", *path[2:])) if path[0] == "targets" else fault


def _evaluate(request: dict[str, Any], context: Context, targets: dict[str, Array] | None) -> Result:
    parameters = request.get("parameters")
    weights = request.get("sample_weights")
    task = Task(
        definition=request["network"],
        dtype=request["dtype"],
        inputs=request["inputs"].shape,
        training=request["training"],
        include=request["include"],
        loss=request.get("loss"),
        targets=None if targets is None else tuple((name, array.shape) for name, array in targets.items()),
        reduction=request.get("reduction", "mean"),
        weighted=weights is not None,
        normalize_weights=request.get("normalize_weights", False),
        parameters=_unusual_shapes(parameters),
    )
    runtime = context.runtime
    try:
        evaluation = runtime.evaluations.get(task, lambda: _compile(task, context))
    except InvalidRequest as error:
        raise InvalidRequest([*error.faults, *_faults_of_parameters(task, parameters, context)]) from None
    context.timer.mark("compile")
    deadline = context.deadline if evaluation.program.work > WATCHED_OPERATIONS else None
    # The arena, as much again at most for the arrays of the answer, and their text.
    context.memory.need(context.loaded_bytes + 4 * evaluation.program.nbytes)
    result = evaluation.run(request["inputs"], parameters, targets, weights, request["seed"], deadline)
    context.timer.mark("compute")
    return result


def _compile(task: Task, context: Context) -> Evaluation:
    return compile_task(task, context.runtime.settings.limits, context.runtime.workspaces)


def _faults_of_parameters(task: Task, parameters: dict[str, dict[str, Array]] | None, context: Context) -> list[Fault]:
    """What else is wrong with a request whose targets do not fit, so that one answer tells all."""
    if parameters is None or task.loss is None:
        return []
    try:
        forward_only = task._replace(loss=None, targets=None, weighted=False, include=frozenset())
        return _compile(forward_only, context).faults_of_parameters(parameters)
    except InvalidRequest:
        return []  # the network itself is wrong, which is already told


def _unusual_shapes(
    parameters: dict[str, dict[str, Array]] | None,
) -> tuple[tuple[tuple[str, str], tuple[int, ...]], ...]:
    """Shapes that decide between the forms a parameter may have: one number for all instead of one each."""
    if parameters is None:
        return ()
    return tuple(
        [
            ((layer, name), array.shape)
            for layer, arrays in parameters.items()
            for name, array in arrays.items()
            if array.size == 1
        ]
    )


def _answer(request: dict[str, Any], result: Result) -> dict[str, Any]:
    """The answer, what matters most first."""
    outputs = result.outputs
    answer: dict[str, Any] = {"dtype": request["dtype"]}
    if result.loss is not None:
        answer["loss"] = _number(result.loss)
        answer["data_loss"] = _number(result.data_loss)
        answer["regularization_loss"] = _number(result.regularization_loss)
    answer["outputs"] = outputs if len(outputs) > 1 else next(iter(outputs.values()))
    if result.loss is not None:
        answer["gradients"] = result.gradients
        answer["gradient_norm"] = result.gradient_norm
    answer["finite"] = result.finite
    answer["warnings"] = [
        {"code": caution.code, "message": caution.message}
        | ({"layer": caution.layer} if caution.layer else {})
        | ({"quantity": caution.quantity} if caution.quantity else {})
        for caution in result.warnings
    ]
    if result.parameters is not None:
        answer["parameters"] = result.parameters
    elif "parameters" in request["include"]:
        answer["parameters"] = request["parameters"]
    if result.input_gradients is not None:
        answer["input_gradients"] = result.input_gradients
    if result.layers is not None:
        answer["layers"] = [_layer(layer) for layer in result.layers]
    if result.per_sample_loss is not None:
        answer["per_sample"] = {"loss": result.per_sample_loss, "gradients": result.per_sample_gradients}
    return answer


def _number(loss: Array | None) -> Any:
    """A scalar loss as a number, in either encoding of tensors; with reduction `none` it is a vector."""
    return loss if loss is None or loss.ndim else loss.item()


def _layer(layer: LayerValues) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": layer.name,
        "type": layer.type,
        "shape": list(layer.shape),
        "pre_activation": layer.pre_activation,
        "output": layer.output,
    }
    if layer.delta is not None:
        entry["delta"] = layer.delta
    return entry | {"norms": layer.norms}
