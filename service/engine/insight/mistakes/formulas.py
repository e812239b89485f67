"""The mistakes in the derivative of a typed expression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from service.engine.functions.compiled import literals_of
from service.engine.functions.expression import Expression
from service.engine.graph.differentiate import Changes, differentiate
from service.engine.graph.ir import Node, NoGradient
from service.engine.insight.mistakes.arrangements import anything
from service.engine.insight.mistakes.declaration import Change, declare
from service.engine.insight.mistakes.network import handed, times, unchanged


class FormulaInGraph:
    """An expression in the graph, with what the rules of mistakes need to know of it."""

    def __init__(self, expression: Expression, variables: Sequence[Node], nodes: Sequence[Node]) -> None:
        self.expression, self.variables, self.nodes = expression, tuple(variables), tuple(nodes)
        self.value = nodes[-1]
        self.literals = literals_of(expression)
        graph = self.value.graph
        depends: dict[int, frozenset[Node]] = {node.index: frozenset((node,)) for node in variables}
        for node in graph.nodes:
            if node.index not in depends:
                depends[node.index] = frozenset().union(*(depends[x.index] for x in node.inputs))
        self.depends = depends
        """The variables that each node depends on."""

    def variables_of(self, node: Node) -> list[Node]:
        """Return the variables that a part of the expression depends on, in their order."""
        return [variable for variable in self.variables if variable in self.depends[node.index]]

    def slope(self, node: Node, variable: Node) -> Node:
        """Return the node of the derivative of a part by a variable."""
        (found,) = differentiate(node, [variable]).nodes
        return node.graph.constant(0.0) if isinstance(found, NoGradient) else found

    def parts(self, *words: str) -> Iterator[FormulaPart]:
        """Yield the parts that one of these words makes and that depend on a variable."""
        for place, step in enumerate(self.expression.steps):
            node = self.nodes[place]
            if step.word in words and node.inputs and self.depends[node.index]:
                yield FormulaPart(
                    node, [self.nodes[k] for k in step.operands], [self.literals[k] for k in step.operands]
                )


@dataclass(frozen=True)
class FormulaPart:
    """A part of an expression: its node, and the nodes and numbers of its operands."""

    node: Node
    operands: list[Node]
    literals: list[float | None]


@declare("inner_derivative_missing", "function", wrong="d sin(x^2) = cos(x^2)", right="d sin(x^2) = cos(x^2) * 2x")
def inner_derivative_missing(formula: FormulaInGraph) -> Iterator[Change]:
    seen: set[int] = set()
    for place, step in enumerate(formula.expression.steps):
        if step.word in ("add", "subtract", "negate", "multiply"):
            continue
        for operand in step.operands:
            inner = formula.nodes[operand]
            variables = formula.variables_of(inner)
            if not inner.inputs or not variables or inner.index in seen or inner is formula.nodes[place]:
                continue
            seen.add(inner.index)
            jump = handed(*((each, unchanged) for each in variables))
            yield Change(changes=Changes(jumps={inner.index: jump}))


@declare("product_rule", "function", wrong="d (x * sin(x)) = cos(x)", right="d (x * sin(x)) = sin(x) + x * cos(x)")
def product_rule(formula: FormulaInGraph) -> Iterator[Change]:
    for part in formula.parts("multiply"):
        first, second = part.operands
        if not formula.variables_of(first) or not formula.variables_of(second):
            continue
        for kept, other in ((first, second), (second, first)):
            yield Change(changes=Changes(jumps={part.node.index: handed((kept, times(other)))}))
        both = [
            (each, times(formula.slope(first, each), formula.slope(second, each)))
            for each in formula.variables_of(part.node)
        ]
        yield Change(changes=Changes(jumps={part.node.index: handed(*both)}))


@declare("quotient_rule", "function", wrong="d (u / v) = (u v' - u' v) / v^2", right="d (u / v) = (u' v - u v') / v^2")
def quotient_rule(formula: FormulaInGraph) -> Iterator[Change]:
    for part in formula.parts("divide"):
        top, bottom = part.operands
        if not formula.variables_of(bottom):
            continue
        reciprocal = 1.0 / bottom
        of_bottom = top * reciprocal * reciprocal
        rules = [
            [(top, -reciprocal), (bottom, of_bottom)],
            [(top, reciprocal), (bottom, of_bottom)],
            [(top, top.graph.constant(1.0)), (bottom, -(top * reciprocal))],
            [(top, reciprocal)],
        ]
        if formula.variables_of(top):
            rules.append(
                [
                    (each, formula.slope(top, each) / formula.slope(bottom, each))
                    for each in formula.variables_of(bottom)
                ]
            )
        for rule in rules:
            reached = [(node, times(slope)) for node, slope in rule if formula.depends[node.index]]
            yield Change(changes=Changes(jumps={part.node.index: handed(*reached)}))


@declare("power_rule", "function", wrong="d x^3 = x^2", right="d x^3 = 3 x^2")
def power_rule(formula: FormulaInGraph) -> Iterator[Change]:
    for part in formula.parts("power"):
        base, exponent = part.operands[0], part.literals[1]
        if exponent is None or (not base.inputs and base.is_constant) or part.node is base:
            continue
        y = part.node
        less = y / base
        for slope in (exponent * y, less, (exponent - 1.0) * less):
            yield Change(changes=Changes(jumps={y.index: handed((base, times(slope)))}))


declare("variables_swapped", "function", wrong="gradient = [df_dy, df_dx]", right="gradient = [df_dx, df_dy]")(anything)
