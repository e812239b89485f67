"""Views of a computation for people: operation by operation, or collapsed to a vertex for each layer and pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from service.engine.graph.ir import OPERATIONS, Node, Operation, Shape
from service.engine.graph.operations.selecting import Table
from service.engine.insight.computation import Computation, Label, NetworkGraph, check_size
from service.engine.texts import say

DETAILS = ("operations", "layers")
MOST_OPERATIONS = 5_000
"""Operations that are shown one by one."""
MOST_NUMBERS = 1_000_000
"""Numbers in the values and adjoints of an answer."""
READABLE_OPERATIONS = 150
READABLE_NUMBERS = 50_000
"""Up to these limits a view shows single operations unless the request says otherwise."""
FORWARD, BACKWARD = "forward", "backward"


class ViewVertex(NamedTuple):
    """A vertex of a view: an operation, or a layer in one of the two passes."""

    name: str
    """`%7`, or the name of a layer."""
    operation: str
    """The name of the operation, or the type of the layer."""
    inputs: tuple[str, ...]
    shape: Shape
    phase: str
    layer: str | None = None
    serves: str | None = None
    """For a backward vertex, the forward vertex whose inputs get their adjoints with its help."""
    adjoint: str | None = None
    """For a forward vertex, the vertex with the derivative by it."""
    labels: tuple[Label, ...] = ()
    attributes: Mapping[str, Any] = {}
    dtype: str = ""
    latex: str = ""
    operations: int = 1
    """The count of operations that the vertex stands for."""
    source: Node | None = None
    """The node with its value."""
    adjoint_source: Node | None = None


@dataclass
class View:
    """A computation as an answer shows it."""

    detail: str
    vertices: list[ViewVertex]
    outputs: dict[str, str]
    """Vertices by the names of what they are."""
    loss: str | None = None
    gradients: dict[tuple[str, ...], str] = field(default_factory=dict)
    used: list[Operation] = field(default_factory=list)
    """The operations of the table that occur."""

    @property
    def numbers(self) -> int:
        """The count of numbers in all values and adjoints of the view."""
        return sum(
            (vertex.source.size if vertex.source else 0) + (vertex.adjoint_source.size if vertex.adjoint_source else 0)
            for vertex in self.vertices
        )

    def check_numbers(self) -> None:
        """Raise `InvalidRequest` where an answer with all values would have too many numbers."""
        instead = "set values to false" if self.detail == "layers" else "set values to false, or detail to layers"
        check_size(self.numbers, MOST_NUMBERS, ("values",), "numbers in its values and adjoints", instead)


def chosen_detail(computation: Computation, asked: str | None) -> str:
    """Return the detail of a view, `operations` or `layers`, that a request asks for.

    Without a request, single operations are shown if they are few enough to read. Raises `InvalidRequest` when
    operations are requested and there are too many.
    """
    count = len(computation.nodes)
    if asked == "operations":
        check_size(count, MOST_OPERATIONS, ("detail",), "operations", "ask for detail: layers")
    if asked is not None:
        return asked
    return "operations" if count <= READABLE_OPERATIONS and computation.numbers <= READABLE_NUMBERS else "layers"


def by_operation(computation: Computation) -> View:
    """Return a view with a vertex for each operation, named `%` and its place in the straight-line code."""
    roots, nodes = computation.roots, computation.nodes
    names = {node: f"%{place}" for place, node in enumerate(nodes)}
    forward = set(computation.forward)
    roles: dict[Node, list[Label]] = {}
    for path, node in computation.gradients.items():
        roles.setdefault(node, []).append(say("graph.gradient", name=".".join(path)))
    for node, layer in roots.deltas.items():
        adjoint = computation.adjoints.get(node)
        if adjoint is not None:
            roles.setdefault(adjoint, []).append(say("graph.delta", layer=layer))
    vertices = []
    for node in nodes:
        ahead = node in forward
        served = computation.serves.get(node)
        labels = [*roots.labels.get(node, ()), *roles.get(node, ())]
        if served is not None and not labels:
            labels.append(say("graph.back", name=names[served]))
        adjoint = computation.adjoints.get(node) if ahead else None
        vertices.append(
            ViewVertex(
                names[node],
                node.operation.name,
                tuple(names[x] for x in node.operands),
                node.shape,
                FORWARD if ahead else BACKWARD,
                node.scope,
                names[served] if served is not None else None,
                names.get(adjoint) if adjoint is not None else None,
                tuple(labels),
                {name: _plain(each) for name, each in node.operation.named(node.attributes).items()},
                node.dtype,
                node.operation.latex,
                1,
                node,
                adjoint,
            )
        )
    return View(
        "operations",
        vertices,
        {name: names[node] for name, node in roots.outputs.items()},
        None if roots.total is None else names[roots.total],
        {path: names[node] for path, node in computation.gradients.items()},
        [operation for operation in OPERATIONS.values() if operation.name in {node.operation.name for node in nodes}],
    )


def by_layer(graph: NetworkGraph) -> View:
    """Return a view with a vertex for each input, each layer and the loss, and one for each adjoint of these."""
    computation, model, definition = graph.computation, graph.model, graph.task.definition
    ahead = Counter(node.scope for node in computation.forward if node.inputs)
    back = Counter(node.scope for node in computation.backward)
    total = computation.roots.total
    loss = "loss" if "loss" not in model.layers and "loss" not in model.inputs else "network.loss"
    known = set(computation.forward)
    takes: dict[str, tuple[str, ...]] = {}
    # Nodes of a file that were known before anything ran, or simplified away, are not computed. Others take their
    # inputs.
    past: dict[str, tuple[str, ...]] = {}
    for place, layer in enumerate(definition.layers):
        sources = tuple(dict.fromkeys(own for each in definition.inputs_of(place) for own in past.get(each, (each,))))
        (takes if model.layers[layer.name].output in known else past)[layer.name] = sources
    taken_by: dict[str, list[str]] = {}
    for name, sources in takes.items():
        for source in sources:
            taken_by.setdefault(source, []).append(name)
    for name in definition.output_names if total is not None else ():
        taken_by.setdefault(name, []).append(loss)

    nodes = {name: node for name, node in model.inputs.items() if node.dtype != "int64" or name in taken_by}
    nodes |= {name: layer.output for name, layer in model.layers.items() if name in takes}
    types = {layer.name: layer.layer.name for layer in definition.layers}
    reached = {name for name, node in nodes.items() if node in computation.adjoints}
    if total is not None:
        nodes[loss] = total
        if reached:
            reached.add(loss)
    vertices = []
    for name, node in nodes.items():
        adjoint = computation.adjoints.get(node)
        vertices.append(
            ViewVertex(
                name,
                types.get(name, "loss" if name == loss else "input"),
                definition.output_names if name == loss else takes.get(name, ()),
                node.shape,
                FORWARD,
                name if name in types else None,
                None,
                f"{name}.backward" if name in reached else None,
                _collapsed(ahead["loss" if name == loss else name]),
                dtype=node.dtype,
                operations=ahead["loss" if name == loss else name],
                source=node if node in known else None,  # an input of which only the shape counts has no value here
                adjoint_source=adjoint,
            )
        )
    for vertex in reversed(vertices.copy()):
        name = vertex.name
        if name in reached:
            count = back["loss" if name == loss else name]
            vertices.append(
                ViewVertex(
                    f"{name}.backward",
                    vertex.operation,
                    tuple(f"{each}.backward" for each in taken_by.get(name, ()) if each in reached),
                    vertex.shape,
                    BACKWARD,
                    vertex.layer,
                    name,
                    None,
                    _collapsed(count),
                    dtype=vertex.dtype,
                    operations=count,
                    source=vertex.adjoint_source,
                )
            )
    gradients = {path: f"{path[0]}.backward" for path in computation.gradients if path[0] in reached}
    outputs = {name: name for name in definition.output_names}
    return View("layers", vertices, outputs, None if total is None else loss, gradients)


def _plain(attribute: Any) -> Any:
    """Return an attribute as an answer shows it: of an array its type and shape. The node's value has its numbers."""
    if isinstance(attribute, Table):
        return f"{attribute.array.dtype.name}[{', '.join(map(str, attribute.array.shape))}]"
    return attribute


def _collapsed(count: int) -> tuple[Label, ...]:
    return (say("graph.collapsed", count=count),) if count else ()
