"""The view of `/v1/graph`, which shows the computational graph of a network or a typed function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
from flask import Blueprint

from schemas.evaluation import LoadedNetwork
from schemas.graph import GraphRequest, GraphResponse, LoadedGraph
from service.api.answers import NUMBER_BYTES, listed
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import Example
from service.api.function_answers import cautions_of
from service.api.insight_examples import GRAPH
from service.api.network_request import built, in_terms_of, task_and_feed
from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.ir import Node
from service.engine.insight import graph_text
from service.engine.insight.computation import ComputedValues, FunctionGraphTask, NetworkGraphTask
from service.engine.insight.graph_view import View, ViewVertex, by_layer, by_operation, chosen_detail
from service.engine.texts import Tell, say, telling

VERTEX_BYTES = 2_000
"""Bytes that a node of a response takes while it is put together, beside its numbers."""

blueprint = Blueprint("graph", __name__)


@post(
    blueprint,
    "/v1/graph",
    takes=GraphRequest(),
    gives=GraphResponse(),
    summary="The computational graph, forward and backward",
    tag="Insight",
    examples=GRAPH,
    mistake=Example("The point has one number, and the function has two variables.", expression="x^2 - y^2", point=[3]),
)
def graph(request: LoadedGraph, context: Context) -> dict[str, Any]:
    """Show every operation on the way to the loss and back to the gradients, with its value and its adjoint.

    The graph is that of a network, or of an `expression` at a `point`. `code` is the same graph as straight-line code,
    and `operations` gives the NumPy expression of each operation. A large graph is collapsed to a node for each layer
    and direction, unless `detail` asks for `operations`. `include` adds drawings for Graphviz (`dot`) and Mermaid, and
    the way back to the inputs.
    """
    tell = telling(context.language)
    count, values, view, warnings = (_of_function if "expression" in request else _of_network)(request, context)
    if "detail" not in request and view.detail == "layers":
        warnings.append(Caution("collapsed", tell(say("graph.shown_by_layer", count=count))))
    answer = _answer(view, values, request, tell)
    sources = [node for vertex in view.vertices for node in (vertex.source, vertex.adjoint_source) if node is not None]
    finite = without_float_warnings(_all_finite, [values.of[node] for node in sources if node.dtype != "int64"])
    if not finite:
        warnings.append(Caution("non_finite", tell(say("graph.not_finite")), quantity="graph"))
    context.timer.mark("compute")
    return answer | {"finite": finite, "warnings": listed(warnings, context.language)}


Shown = tuple[int, ComputedValues, View, list[Caution]]
"""The number of operations, their values, the part that is shown, and warnings."""


def _of_function(request: LoadedGraph, context: Context) -> Shown:
    shown = context.compiled(FunctionGraphTask(request["expression"]))
    context.mark_compiled(shown.nbytes)
    chosen_detail(shown.computation, "operations")
    context.memory.need(context.loaded_bytes + VERTEX_BYTES * len(shown.computation.nodes))
    values = shown.run(list(map(np.asarray, request["point"])), context.ticket)
    count = len(shown.computation.nodes)
    return count, values, by_operation(shown.computation), cautions_of(request["expression"])


def _of_network(request: LoadedGraph, context: Context) -> Shown:
    include = request["include"] & {"input_gradients"}
    with in_terms_of(request):
        task, feed = task_and_feed(cast("LoadedNetwork", request), context.limits, include)
        shown = built(NetworkGraphTask(task), feed, context)
        context.mark_compiled(shown.nbytes)
        detail = chosen_detail(shown.computation, request.get("detail"))
        view = by_operation(shown.computation) if detail == "operations" else by_layer(shown)
        if request["values"]:
            view.check_numbers()
        nbytes = NUMBER_BYTES * view.numbers if request["values"] else 0
        context.memory.need(context.loaded_bytes + shown.nbytes + nbytes + VERTEX_BYTES * len(view.vertices))
        values = shown.run(feed, context.ticket)
    return len(shown.computation.nodes), values, view, list(shown.warnings)


def _all_finite(arrays: Iterable[Array]) -> bool:
    return all(map(is_finite, arrays))


def _answer(view: View, values: ComputedValues, request: LoadedGraph, tell: Tell) -> dict[str, Any]:
    by_operations = view.detail == "operations"
    results: dict[str, Any] = {"outputs": view.outputs}
    if view.loss is not None:
        results["loss"] = view.loss
    results["gradients"] = {".".join(path): name for path, name in view.gradients.items()}
    answer: dict[str, Any] = {"detail": view.detail, "dtype": request.get("dtype", "float64"), "results": results}
    if by_operations:
        answer["code"] = graph_text.code(view, tell)
    of = values.of if request["values"] else {}
    answer["nodes"] = [_node(vertex, of, tell) for vertex in view.vertices]
    answer["edges"] = [
        {"source": source, "target": vertex.name} for vertex in view.vertices for source in dict.fromkeys(vertex.inputs)
    ]
    answer["groups"] = list(_groups(view.vertices)) if by_operations else []
    answer["operations"] = [
        {"name": each.name, "signature": each.signature, "numpy": each.numpy, "latex": each.latex} for each in view.used
    ]
    numbers = {vertex.name: of[vertex.source] for vertex in view.vertices if vertex.source is not None and of}
    if "dot" in request["include"]:
        answer["dot"] = graph_text.dot(view, numbers, tell)
    if "mermaid" in request["include"]:
        answer["mermaid"] = graph_text.mermaid(view, numbers, tell)
    if values.parameters is not None:
        answer["parameters"] = values.parameters
    return answer


def _node(vertex: ViewVertex, values: Mapping[Node, Array], tell: Tell) -> dict[str, Any]:
    node: dict[str, Any] = {"name": vertex.name, "operation": vertex.operation, "inputs": list(vertex.inputs)}
    text = graph_text.label_of(vertex, tell)
    if text:
        node["text"] = text
    if vertex.source is not None and values:
        node["value"] = _number(values[vertex.source])
    if vertex.adjoint_source is not None and values:
        node["adjoint"] = _number(values[vertex.adjoint_source])
    if vertex.attributes:
        node["attributes"] = dict(vertex.attributes)
    if vertex.latex:
        node["latex"] = vertex.latex
    node |= {"shape": list(vertex.shape), "dtype": vertex.dtype, "phase": vertex.phase}
    optional = {"layer": vertex.layer, "serves": vertex.serves, "adjoint_node": vertex.adjoint}
    node |= {key: value for key, value in optional.items() if value is not None}
    return node | ({} if vertex.latex else {"operations": vertex.operations})


def _number(value: Array) -> Any:
    return value if value.ndim else value.item()


def _groups(vertices: Iterable[ViewVertex]) -> Iterable[dict[str, Any]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for vertex in vertices:
        if vertex.layer is not None:
            groups.setdefault((vertex.layer, vertex.phase), []).append(vertex.name)
    for (layer, phase), names in groups.items():
        yield {"layer": layer, "phase": phase, "nodes": names}
