"""An expression and its derivatives as formulas, in LaTeX and in text that can be typed as an expression."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.functions.compiled import MOST_NODES as MOST_COMPILED
from service.engine.functions.compiled import ExpressionTask, build
from service.engine.functions.expression import DEEPEST_NESTING, MOST_STEPS, Expression, ExpressionStep, parse
from service.engine.functions.formula_reader import Leaf
from service.engine.functions.formula_writer import FormulaWriter, Printed
from service.engine.functions.printing import as_written
from service.engine.functions.vocabulary import Word
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Graph, Node
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits
from service.engine.watch import Watch

MOST_NODES = 600
"""Most operations of a formula; nobody would read a longer one."""
FEW_STEPS = MOST_STEPS // 3
"""Most steps of an expression that certainly compiles with its gradient: softplus, the longest, takes 5 nodes each."""


_PARENTHESES = re.compile("[()]")


class Formulas(NamedTuple):
    """An expression and its derivatives as formulas. A formula too long to be of use is None."""

    function: str
    """The expression as typed, in LaTeX, to show how it was understood."""
    gradient: list[Printed | None]
    hessian: list[list[Printed | None]]

    @property
    def weight(self) -> int:
        """Roughly how many graph nodes take as much memory as the formulas, for the cache of compiled tasks."""
        return 10 * (1 + len(self.gradient)) ** 2


class FormulasTask(ExpressionTask):
    """The task of writing an expression and its derivatives as formulas."""

    @property
    def effort(self) -> float:
        return MOST_NODES

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Formulas:
        return formulas_of(self.expression)


def formulas_of(expression: Expression) -> Formulas:
    """Return the formulas of an expression, of its derivatives and of its second derivatives."""
    graph = Graph("float64", MOST_NODES)
    leaves: dict[Node, Leaf] = {}

    def leaf(step: ExpressionStep, literal: float) -> Node:
        # An input, so that no arithmetic in floating point uses it.
        node = graph.input(step.text or step.word, ())
        leaves[node] = Fraction(step.text) if step.word == "number" else step.word
        return node

    variables = [graph.input(name, ()) for name in expression.variables]
    leaves.update(zip(variables, expression.variables, strict=True))
    count = len(variables)
    missing: list[Printed | None] = [None] * count
    found = Formulas(as_written(expression), missing, [list(missing) for _ in variables])
    decimals = any(step.word == "number" and "." in step.text for step in expression.steps)
    try:
        value = build(expression, graph, variables, leaf)[-1]
        writer = FormulaWriter(value, leaves, decimals=decimals)
        first = dense(differentiate(value, variables).nodes, variables)
        found.gradient[:] = [_sendable(formula, expression) for formula in writer.printed(first)]
        if None not in found.gradient:
            pairs = [(row, column) for row in range(count) for column in range(row, count)]
            second = [
                node
                for row, derivative in enumerate(first)
                for node in dense(differentiate(derivative, variables[row:]).nodes, variables[row:])
            ]
            for (row, column), formula in zip(pairs, writer.printed(second), strict=True):
                found.hessian[row][column] = found.hessian[column][row] = _sendable(formula, expression)
    except LimitExceeded:
        pass  # the formulas so far are kept
    return found


def _sendable(formula: Printed | None, expression: Expression) -> Printed | None:
    """Return the formula; None if its text is too long to be sent as an expression and compiled with its gradient."""
    if formula is None:
        return None
    text = formula.text
    # Each step takes a character at least, words with long derivatives have long names, and no parenthesis holds nested
    # exponents, so most formulas need not be parsed.
    if len(text) <= MOST_STEPS and 2 * _levels(text) < DEEPEST_NESTING:
        return formula
    try:
        again = parse(text, expression.variables)
        if len(again.steps) > FEW_STEPS:
            graph = Graph("float64", MOST_COMPILED)
            variables = [graph.input(name, ()) for name in expression.variables]
            differentiate(build(again, graph, variables)[-1], variables)
    except (InvalidRequest, LimitExceeded):
        return None
    return formula


def _levels(text: str) -> int:
    """Return the depth of nested parentheses."""
    level = deepest = 0
    for mark in _PARENTHESES.findall(text):
        level += 1 if mark == "(" else -1
        deepest = max(deepest, level)
    return deepest


def slopes_of(word: Word) -> list[str]:
    """Return the LaTeX of the derivatives of a word by each of its arguments, which are called a, b and c."""
    names = ("a", "b", "c")[: word.arguments]
    if not names:
        return []
    steps = [ExpressionStep("variable", (), 0, 1, name) for name in names]
    expression = Expression(word.name, names, (*steps, ExpressionStep(word.name, tuple(range(len(names))), 0, 1)))
    return [partial.latex for partial in formulas_of(expression).gradient if partial is not None]
