"""An expression as a graph at one point: every value of the forward pass, and every adjoint of the backward pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from service.engine.arrays import Array
from service.engine.functions.compiled import MOST_NODES, ExpressionTask, build, naming_limit
from service.engine.functions.expression import Expression
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Graph, Node, NoGradient
from service.engine.graph.plan import Program, WorkspacePool
from service.engine.limits import Limits
from service.engine.watch import Watch


class GraphValue(NamedTuple):
    """A vertex of the shown graph: a variable, a number, or the value of an operation."""

    name: str
    """The name of a variable; v1, v2, … for computed values, in the order of computation; c1, c2, … for numbers."""
    operation: str
    inputs: tuple[str, ...]
    text: str
    """The part of the expression with this value; empty for a value that no part has."""


class Dependence(NamedTuple):
    """An edge of the shown graph: the value `target` is computed from the value `source`."""

    source: str
    target: str


class Backpropagation(NamedTuple):
    """All numbers of the forward and the backward pass at one point."""

    values: Array
    """The value of each vertex."""
    adjoints: Array
    """The derivative of the expression by each vertex."""
    derivatives: Array
    """For each edge, the derivative of its target by its source."""
    contributions: Array
    """For each edge, the share of its target in the adjoint of its source."""


class GraphTask(ExpressionTask):
    """The task of compiling the graph of an expression, for showing it."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> ExpressionGraph:
        return ExpressionGraph(self.expression)


class ExpressionGraph:
    """The graph of an expression, compiled, with its vertices and edges and a program for their numbers."""

    def __init__(self, expression: Expression) -> None:
        """Build the graph and its program. Raises `LimitExceeded` when there are too many vertices."""
        graph = Graph("float64", MOST_NODES)
        with naming_limit("vertices of the graph"):
            variables = [graph.input(name, ()) for name in expression.variables]
            steps = build(expression, graph, variables)
            shown = _shown([*variables, steps[-1]])
            uses: dict[tuple[int, int], Node] = {}
            adjoints = dense(differentiate(steps[-1], shown, uses=uses).nodes, shown)
            arrows = _arrows(shown)
            contributions = [_sum_of_uses(source, target, uses) for source, target, _ in arrows]
        texts = dict(zip(variables, expression.variables, strict=True))
        words: dict[Node, str] = {}
        for node, step in zip(steps, expression.steps, strict=True):
            texts.setdefault(node, expression.quoted(step))
            words.setdefault(node, step.word)
        names = _names(shown)
        self.vertices = [
            GraphValue(
                names[node],
                words[node] if node.operation.name == "with_slope" else node.operation.name,
                tuple(names[x] for x in _inputs(node)),
                texts.get(node, ""),
            )
            for node in shown
        ]
        """The vertices, in an order of computation."""
        self.edges = [Dependence(names[source], names[target]) for source, target, _ in arrows]
        """The edges in the order of the backward pass, from the value of the expression on."""
        self.value = names[steps[-1]]
        """The vertex that is the value of the expression."""
        place = {node: position for position, node in enumerate(shown)}
        self._output = place[steps[-1]]
        # One vector has values, adjoints, the derivatives along edges and their contributions.
        derivatives = [derivative for _, _, derivative in arrows]
        self.program = Program({}, variables, [*shown, *adjoints, *derivatives, *contributions])
        self.weight = len(graph.nodes)

    def run(self, point: Array) -> Backpropagation:
        """Return the values, adjoints and derivatives at one point, an array (variables,)."""
        count = len(self.vertices)
        with self.program.workspace() as workspace:
            workspace.parameters[...] = point
            workspace.run()
            found = workspace.gradients + 0.0
        values, adjoints = found[:count], found[count : 2 * count]
        derivatives, contributions = found[2 * count :].reshape(2, -1)
        if math.isnan(values[self._output]):
            adjoints[...], contributions[...] = math.nan, math.nan  # formulas such as 1/x continue where log x ends
        return Backpropagation(values, adjoints, derivatives, contributions)


def _inputs(node: Node) -> tuple[Node, ...]:
    """Return the inputs of a value that the graph shows. A value with a declared slope depends on the argument of this
    slope only."""
    return node.inputs[1:2] if node.operation.name == "with_slope" else node.inputs


def _shown(outputs: list[Node]) -> list[Node]:
    found: set[Node] = set()
    wanted = list(outputs)
    while wanted:
        node = wanted.pop()
        if node not in found:
            found.add(node)
            wanted.extend(_inputs(node))
    return sorted(found, key=lambda node: node.index)


def _names(nodes: list[Node]) -> dict[Node, str]:
    names, computed, numbers = {}, 0, 0
    for node in nodes:
        if node.operation.name == "input":
            names[node] = node.attributes[0]
        elif node.inputs:
            computed += 1
            names[node] = f"v{computed}"
        else:
            numbers += 1
            names[node] = f"c{numbers}"
    return names


def _sum_of_uses(source: Node, target: Node, uses: Mapping[tuple[int, int], Node]) -> Node:
    """Return the sum of all that a target adds to the adjoint of a source, which may be an input of it twice."""
    parts = [uses.get((target.index, place)) for place, operand in enumerate(target.inputs) if operand is source]
    return sum((part for part in parts if part is not None), start=target.graph.constant(0.0))


def _arrows(nodes: list[Node]) -> list[tuple[Node, Node, Node]]:
    """Return each dependence as source, target and derivative of target by source, the last target first."""
    arrows: list[tuple[Node, Node, Node]] = []
    for node in reversed(nodes):
        one = node.graph.constant(1.0)
        for x in _inputs(node):
            derivative: Node | None = None
            for position, operand in enumerate(node.inputs):
                if operand is x:
                    part = node.operation.pullback(position)(one, node, *node.inputs)
                    if not isinstance(part, NoGradient):
                        derivative = part if derivative is None else derivative + part
            found = node.graph.constant(0.0) if derivative is None else derivative
            if (x, node, found) not in arrows[-len(node.inputs) :]:
                arrows.append((x, node, found))
    return arrows
