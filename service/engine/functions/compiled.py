"""A typed expression as a program: value, gradient and Hessian at many points at once.

Each variable is one input of shape (points,), so every operation is elementwise over the points. The results of a run
are one matrix with a column for each point. Its rows are the value, the derivatives by each variable, and the second
derivatives by each pair of variables.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.errors import LimitExceeded
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.expression import Expression, ExpressionStep
from service.engine.functions.vocabulary import Singularity, vocabulary
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, Node, is_fixed
from service.engine.graph.operations import broadcast
from service.engine.graph.operations.signs import positive
from service.engine.graph.plan import Program, Workspace, WorkspacePool
from service.engine.limits import Limits
from service.engine.watch import Watch

MOST_NODES = 1_100
"""Most operations of an expression together with its derivatives; more would take too long to compile."""
MOST_PROBLEMS = 8
"""Most problems that are reported of one point."""
BLOCK = 4_096
"""Points of one run: their rows fit into the cache, and memory stays bounded."""

_ARITHMETIC: dict[str, Callable[..., float]] = {
    "negate": operator.neg,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
}


@dataclass(frozen=True)
class ExpressionTask:
    """A task about an expression alone. Subclasses add `compile`."""

    expression: Expression

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Equal for equal tasks of one kind."""
        return self.expression.key

    @property
    def effort(self) -> float:
        """The most graph nodes that compiling makes."""
        return MOST_NODES


class FunctionTask(NamedTuple):
    """The task of compiling an expression and its derivatives up to `order`, for `points` points at once."""

    expression: Expression
    points: int
    order: int

    @property
    def key(self) -> tuple[str, tuple[str, ...], int, int]:
        """Equal for equal tasks."""
        return *self.expression.key, self.points, self.order

    @property
    def effort(self) -> float:
        return MOST_NODES

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Function:
        return Function(self, limits, pool)  # `MOST_NODES` are made too quickly for the watch to matter


@contextmanager
def naming_limit(what: str) -> Iterator[None]:
    """Raise `LimitExceeded` with `what` as the name of the limit, if the graph built within grows too large."""
    try:
        yield
    except LimitExceeded as error:
        raise LimitExceeded(what, error.asked, error.allowed, ("expression",)) from None


def literals_of(expression: Expression) -> list[float | None]:
    """Return for each step its number, if it is computed from literals and constants alone; else None."""
    literals: list[float | None] = []
    for step in expression.steps:
        literal: float | None = None
        numbers = [literals[place] for place in step.operands]
        if step.word == "number":
            literal = float(step.text)
        elif step.word != "variable" and not numbers:
            literal = float(vocabulary[step.word].build())
        elif step.word in _ARITHMETIC and None not in numbers:
            try:
                literal = _ARITHMETIC[step.word](*numbers)
            except ZeroDivisionError:
                literal = None
        literals.append(literal)
    return literals


def build(
    expression: Expression,
    graph: Graph,
    variables: Sequence[Node],
    leaf: Callable[[ExpressionStep, float], Node] | None = None,
) -> list[Node]:
    """Return the node of each step of an expression; the last one is its value.

    `leaf` makes the nodes of numbers and constants for formulas; words are then built in their textbook form. By
    default these nodes are constants of the graph.
    """
    by_name = dict(zip(expression.variables, variables, strict=True))
    literals = literals_of(expression)
    nodes: list[Node] = []
    for step, literal in zip(expression.steps, literals, strict=True):
        if step.word == "variable":
            node = by_name[step.text]
        elif not step.operands:
            assert literal is not None
            node = graph.constant(literal) if leaf is None else leaf(step, literal)
        else:
            word = vocabulary[step.word]
            operands = [nodes[place] for place in step.operands]
            make = word.build if leaf is None or word.plain is None else word.plain
            if word.takes_literals:
                node = make(*operands, *[literals[place] for place in step.operands])
            else:
                node = make(*operands)
        nodes.append(node)
    return nodes


class Check(NamedTuple):
    """A singularity that one step of an expression may meet, with the steps that are its arguments."""

    step: int
    singularity: Singularity
    operands: tuple[int, ...]


def checks_of(expression: Expression) -> list[Check]:
    """Return the singularities to check for at each point; most expressions have none."""
    literals = literals_of(expression)
    checks = []
    constant = _constant_between_jumps(expression)
    for place, step in enumerate(expression.steps):
        if step.word in ("number", "variable"):
            continue
        singularities = vocabulary[step.word].singularities
        if vocabulary[step.word].chooses and constant[step.operands[0]]:
            continue  # the jumps of the condition are checked already
        if singularities:
            arguments = [literals[operand] for operand in step.operands]
            checks += [
                Check(place, singularity, step.operands)
                for singularity in singularities
                if not singularity.harmless(*arguments)
            ]
    return checks


def _constant_between_jumps(expression: Expression) -> list[bool]:
    """Return for each step whether it changes only where a word in it jumps, as `x > 0` does."""
    constant: list[bool] = []
    for step in expression.steps:
        if step.word in ("number", "variable"):
            constant.append(step.word == "number")
            continue
        word = vocabulary[step.word]
        operands = step.operands[1:] if word.chooses else step.operands
        constant.append(word.flat or all(constant[place] for place in operands))
    return constant


class PointProblem(NamedTuple):
    """A reason why an expression has no value, or no certain derivative, at a point."""

    kind: str
    """The kind of the singularity, or `not_finite` for a number that float64 cannot hold."""
    step: ExpressionStep | None
    """The step where it arises; None for a derivative."""
    text: str


class Results(NamedTuple):
    """Values, gradients and Hessians of a function at several points."""

    values: Array
    """(points,)"""
    gradients: Array
    """(points, variables)"""
    hessians: Array | None
    """(points, variables, variables)"""


class Function:
    """A compiled expression with its derivatives. Many threads may run it, each in a workspace of its own."""

    def __init__(self, task: FunctionTask, limits: Limits | None = None, pool: WorkspacePool | None = None) -> None:
        """Build and plan the program. Raises `LimitExceeded` when the expression and its derivatives are too long
        together."""
        expression, points, order = task.expression, task.points, task.order
        self.task = task
        self.expression = expression
        self.dimension = len(expression.variables)
        shape = (points,)
        graph = Graph("float64", MOST_NODES)
        what = ("", " and its gradient", " and its second derivatives")[order]
        with naming_limit(f"operations of the expression{what}"):
            variables = [graph.input(name, shape) for name in expression.variables]
            nodes = build(expression, graph, variables)
            rows = _rows(graph, nodes[-1], variables, order, shape)
        self.checks = checks_of(expression)
        self.kinks = _kinks(self.checks, nodes)
        """Texts of kinks, vertical slopes and jumps: reasons why the gradient need not vanish at a minimum."""
        self.program = Program({}, variables, rows, pool=pool)
        self.weight = len(graph.nodes)
        if limits is not None:
            limits.check_program(self.program)
        self.rows = len(rows)
        index = np.zeros((self.dimension, self.dimension), np.intp)
        for row, (i, j) in enumerate(combinations_with_replacement(range(self.dimension), 2), 1 + self.dimension):
            index[i, j] = index[j, i] = row
        self._index = index
        """The row of each entry of the Hessian."""

    def work_at(self, points: int) -> float:
        """Return roughly how many floating-point operations a run at this many points takes."""
        return self.program.work * math.ceil(points / self.task.points)

    def columns(self, workspace: Workspace) -> tuple[Array, Array]:
        """Return views of a workspace: the variables, (variables, points), and the results, (rows, points)."""
        points = self.task.points
        return workspace.parameters.reshape(-1, points), workspace.gradients.reshape(-1, points)

    def run(self, points: Array, watch: Watch | None = None) -> Results:
        """Compute value, gradient and Hessian at each row of `points`, (points, variables). Raises as `watch` does."""
        count, size = len(points), self.task.points
        with self.program.workspace() as workspace:
            variables, rows = self.columns(workspace)
            if count == size:
                variables[...] = points.T
                workspace.run()
                return self.split(rows + 0.0)  # so that -0 becomes 0
            found = np.empty((self.rows, count))
            for start in range(0, count, size):
                if watch is not None:
                    watch.look()
                block = points[start : start + size]
                variables[:, : len(block)] = block.T
                variables[:, len(block) :] = block[-1:].T
                workspace.run()
                found[:, start : start + size] = rows[:, : len(block)]
        found += 0.0
        return self.split(found)

    def split(self, found: Array) -> Results:
        """Split the matrix of all results, (rows, points), into values, gradients and Hessians."""
        hessians = found.take(self._index, 0).transpose(2, 0, 1) if self.task.order > 1 else None
        return Results(found[0], found[1 : 1 + self.dimension].T, hessians)

    def problems(self, points: Array, results: Results) -> dict[int, list[PointProblem]]:
        """Return the problems of each point that has any, by the row of the point, at most `MOST_PROBLEMS` each."""
        if not self.checks and all(part is None or without_float_warnings(is_finite, part) for part in results):
            return {}
        return without_float_warnings(self._problems, points, results)

    def _problems(self, points: Array, results: Results) -> dict[int, list[PointProblem]]:
        lost = ~(np.isfinite(results.values) & np.isfinite(results.gradients).all(-1))
        if results.hessians is not None:
            lost |= ~np.isfinite(results.hessians).all((-1, -2))
        values = self._values(points)
        found: dict[int, list[PointProblem]] = {}
        counts = self._counts(values)
        for check in self.checks:
            met = check.singularity.where(*[values[place] for place in check.operands])
            if counts is not None:
                met = met & counts[check.step]
            step = self.expression.steps[check.step]
            for point in np.flatnonzero(np.broadcast_to(met, lost.shape)).tolist():
                problems = found.setdefault(point, [])
                if len(problems) < MOST_PROBLEMS:
                    problems.append(PointProblem(check.singularity.kind, step, check.singularity.text))
        for point in np.flatnonzero(lost).tolist():
            if point not in found:
                found[point] = [self._not_finite(point, values, counts)]
        return found

    def _values(self, points: Array) -> list[Array]:
        """Return the value of each step at each point."""
        with Graph("float64") as graph:
            variables = [graph.input(name, (len(points),)) for name in self.expression.variables]
            nodes = build(self.expression, graph, variables)
        values = interpret(nodes, dict(zip(variables, points.T, strict=True)))
        return [np.broadcast_to(values[node], len(points)) for node in nodes]

    def _counts(self, values: Sequence[Array]) -> list[Array] | None:
        """Return at which points each step counts, because no choice hides it; None if there is no choice."""
        steps = self.expression.steps
        if not any(step.word in vocabulary and vocabulary[step.word].chooses for step in steps):
            return None
        counts = [np.zeros(values[0].shape, bool) for _ in steps]
        counts[-1][...] = True
        for place in range(len(steps) - 1, -1, -1):
            word, operands, _, _, _ = steps[place]
            chooses = word in vocabulary and vocabulary[word].chooses
            for position, operand in enumerate(operands):
                condition = values[operands[0]]
                chosen = np.isnan(condition) | ((condition != 0.0) == (position == 1)) if chooses and position else True
                counts[operand] |= counts[place] & chosen
        return counts

    def _not_finite(self, point: int, values: Sequence[Array], counts: Sequence[Array] | None) -> PointProblem:
        for place, (step, value) in enumerate(zip(self.expression.steps, values, strict=True)):
            if not math.isfinite(value[point]) and (counts is None or counts[place][point]):
                return PointProblem("not_finite", step, "the value is beyond what 64-bit numbers hold")
        return PointProblem("not_finite", None, "a derivative is not finite here")


def _kinks(checks: Sequence[Check], nodes: Sequence[Node]) -> list[str]:
    """Return the texts of singularities where an expression has no gradient. Roots of sums that are never 0 are left
    out."""
    texts = [
        check.singularity.text
        for check in checks
        if check.singularity.kind in ("kink", "jump")
        or (check.singularity.kind == "vertical" and not positive(nodes[check.operands[0]]))
    ]
    return list(dict.fromkeys(texts))


def _rows(graph: Graph, value: Node, variables: Sequence[Node], order: int, shape: tuple[int, ...]) -> list[Node]:
    """Return the nodes of value, derivatives and second derivatives up to `order`, all of one shape."""
    one = broadcast(graph.constant(1.0), shape)
    value = broadcast(value, shape)
    rows = [value]
    if order:
        first = dense(differentiate(value, variables, one).nodes, variables)
        rows += first
        if order > 1:
            for place, derivative in enumerate(first):
                wrt = variables[place:]
                if is_fixed(derivative):
                    rows += [graph.constant(0.0)] * len(wrt)
                    continue
                rows += dense(differentiate(broadcast(derivative, shape), wrt, one).nodes, wrt)
    return [broadcast(row, shape) for row in rows]
