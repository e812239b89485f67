"""The views of `/v1/forward` and `/v1/gradients`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from schemas.evaluation import ForwardRequest, ForwardResponse, GradientsRequest, GradientsResponse, LoadedEvaluation
from service.api.answers import answer_bytes, listed, number, unnamed
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import FORWARD, GRADIENTS, Example
from service.api.layouts import layout_of
from service.api.network_request import also_parameters, compiled, in_terms_of, task_and_feed
from service.api.parts import spread_of
from service.engine.graph.blocks import ITEMSIZE
from service.engine.network.evaluate import EvaluationTask, LayerValues, Result
from service.engine.network.feed import Feed
from service.engine.network.sharded import Sharded
from service.engine.network.task import Task

blueprint = Blueprint("evaluation", __name__)


@post(
    blueprint,
    "/v1/forward",
    takes=ForwardRequest(),
    gives=ForwardResponse(),
    summary="Outputs of a network",
    tag="Networks",
    examples=FORWARD,
    files=True,
    mistake=Example(
        "The samples have three numbers, and the first kernel takes two.",
        **FORWARD["xor"] | {"inputs": [[0, 0, 1], [0, 1, 1]]},
    ),
)
def forward(request: LoadedEvaluation, context: Context) -> dict[str, Any]:
    """Run a network forward. With `include: ["layers"]` the response has each layer's pre-activation and output."""
    return _answer(request, context)


@post(
    blueprint,
    "/v1/gradients",
    takes=GradientsRequest(),
    gives=GradientsResponse(),
    summary="Loss and exact gradients",
    tag="Networks",
    examples=GRADIENTS,
    files=True,
    mistake=Example(
        "There are four samples and three targets.",
        **GRADIENTS["xor"] | {"targets": [[0], [1], [1]]},
    ),
)
def gradients(request: LoadedEvaluation, context: Context) -> dict[str, Any]:
    """Compute loss, outputs and the exact gradient of the loss with respect to every parameter.

    Gradients have the tree of the parameters, so that `parameters - learning_rate * gradients` is a step of descent.
    `include` adds `layers` (pre-activation, output and delta = dL/dz of each), `input_gradients`, `norms` (of the
    gradients by parameter and of the deltas by layer), `per_sample` (every sample's own loss and gradients) and
    `parameters`; `exclude` leaves out `gradients`, or `parameters` that were initialised here. `shards` has the samples
    computed in parts of that size, where all together are too many for the memory or for one process.
    """
    return _answer(request, context)


def _evaluate(request: LoadedEvaluation, context: Context) -> Result:
    include = request["include"]
    with in_terms_of(request, may_have_shards="targets" in request):
        task, feed = task_and_feed(request, context.limits, include)
        if "shards" in request:
            return _in_shards(request, context, task, feed)
        evaluation = compiled(EvaluationTask(task), feed, context)
        program = evaluation.program
        initialised = 0 if "parameters" in request else sum(node.size for node in program.parameters)
        answered = answer_bytes(program.result_size + initialised, request["dtype"])
        context.reserve(program, program.work, program.weight + answered, numbers=program.result_size)
        if "parameters" not in include:
            request.pop("parameters", None)  # nobody else holds them, so they are freed once they are copied
        result = evaluation.run(feed, context.watch_over(program, program.work), consume=True)
    context.timer.mark("compute")
    return result


def _in_shards(request: LoadedEvaluation, context: Context, task: Task, feed: Feed) -> Result:
    with also_parameters(task, feed, context):
        sharded = Sharded(context.compiled, task, request["shards"], context.limits)
    context.mark_compiled(sharded.nbytes)
    program = sharded.program
    parameters = sum(node.size for node in program.parameters)
    initialised = 0 if "parameters" in request else parameters
    answered = answer_bytes(sharded.result_size + initialised, request["dtype"])
    # The rows of all shards are put together before they are copied into the result.
    assembled = (sharded.result_size + parameters) * ITEMSIZE[request["dtype"]]
    calls = sharded.calls - len(program.nodes)
    context.reserve(
        program, sharded.work, sharded.nbytes + assembled + answered, calls=calls, numbers=sharded.result_size
    )
    if "parameters" not in request["include"]:
        request.pop("parameters", None)
    spread = spread_of(request, context)
    result = sharded.run(feed, context.ticket, spread=spread, consume=True)
    if spread is not None:
        context.hand_over()
    context.timer.mark("compute")
    return result


def _answer(request: LoadedEvaluation, context: Context) -> dict[str, Any]:
    """Return the JSON object of the response; its keys come most important first."""
    layout = layout_of(request, context)
    context.answer_layout = layout.name
    result = _evaluate(request, context)
    outputs = result.outputs
    answer: dict[str, Any] = {"dtype": request["dtype"]}
    if result.loss is not None:
        answer["loss"] = number(result.loss)
        if len(result.losses) > 1:
            answer["losses"] = {name: number(loss) for name, loss in result.losses.items()}
        answer["data_loss"] = number(result.data_loss)
        answer["regularization_loss"] = number(result.regularization_loss)
    answer["outputs"] = unnamed(outputs, request["network"].output_names)
    if result.loss is not None:
        answer["gradients"] = {} if "gradients" in request["exclude"] else layout.gradients(result.gradients)
        answer["gradient_norm"] = result.gradient_norm
    answer["finite"] = result.finite
    answer["warnings"] = [*listed(result.warnings), *layout.warnings]
    if result.norms is not None:
        answer["norms"] = vars(result.norms)
    if result.parameters is not None:
        if "parameters" not in request["exclude"]:
            answer["parameters"] = layout.parameters(result.parameters)
    elif "parameters" in request["include"]:
        answer["parameters"] = layout.parameters(request["parameters"])
    if result.state is not None:
        answer["state"] = layout.parameters(result.state)
    if result.input_gradients is not None:
        answer["input_gradients"] = unnamed(result.input_gradients, request["network"].inputs)
    if result.layers is not None:
        answer["layers"] = [_layer(layer) for layer in result.layers]
    if result.per_sample_loss is not None:
        answer["per_sample"] = {
            "loss": result.per_sample_loss,
            "gradients": layout.per_sample(result.per_sample_gradients or {}),
        }
    return answer


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
