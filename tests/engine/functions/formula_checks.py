"""A comparison of the formulas of an expression with its values, for the tests and for scripts/check_formulas.py."""

import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import latex2mathml.converter
import mpmath
import numpy as np

from service.engine.arrays import Array
from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.compiled import Function, FunctionTask
from service.engine.functions.expression import Expression, parse
from service.engine.functions.formulas import Formulas, formulas_of
from service.engine.functions.printing import latex_names
from tests.engine.functions.formula_values import DIGITS, FLOATS, Table, Undecidable, tree_of, value_of
from tests.engine.functions.latex_reader import Misprint, Tree, read

POINTS = 12
CLOSE = 1e-9
"""Largest relative difference of two values in float64; beyond it 50 digits decide."""
HELD = 1e-4
"""Largest error of the engine for a value that float64 holds."""
PLATEAUS = frozenset(("floor", "ceil", "round", "step", "sign", "relu", "max", "min", "mod", "abs", "atan2"))
PLATEAUS |= {"where", "less", "greater", "less_equal", "greater_equal"}
"""Words that may stay 0: b^y ln b is no number there, though the slope of b^y is 0."""
MANY_DIGITS = 9
FEW_STEPS = 150
"""Most steps of an expression that is compiled; compiling takes long."""
MOST_DECIDED = 3
"""Most points that 50 digits decide."""


class Report(NamedTuple):
    """The comparison of one expression."""

    faults: list[str]
    formulas: int
    """The count of formulas that were read, in both notations."""
    values: int
    """The count of their values that were compared."""


@functools.lru_cache(maxsize=10_000)
def sets(latex: str) -> str:
    """Return the reason that LaTeX cannot be set; empty if it can."""
    try:
        mathml = latex2mathml.converter.convert(latex)
    except Exception as error:
        return repr(error)
    if "\\" in mathml:
        return f"an unknown command in {mathml}"
    return "" if latex.count("{") == latex.count("}") else "unbalanced braces"


def checked(text: str) -> Report:
    """Set and read every formula of an expression, and compare its values with those of the engine."""
    expression = parse(text)
    formulas = formulas_of(expression)
    faults: list[str] = []
    read_so_far = compared = 0
    names = latex_names(expression.variables)
    if len(set(names.values())) < len(names):
        faults.append(f"two variables look the same: {names}")
    points = _points(len(expression.variables), text)
    found = _results(expression, points)
    for orders, latex, typed in _printed(formulas, len(expression.variables)):
        trees: list[tuple[str, Tree, Mapping[str, str]]] = []
        if sets(latex):
            faults.append(f"{text}: {latex} does not set, {sets(latex)}")
        try:
            trees.append((latex, read(latex), names | {"pi": r"\pi", "e": "e"}))
        except Misprint as error:
            faults.append(f"{text}: {error}")
        if typed is not None:
            try:
                again = parse(typed, expression.variables)
                if len(again.steps) > FEW_STEPS:
                    Function(FunctionTask(again, 1, 1))
                trees.append((typed, tree_of(again), {name: name for name in (*names, "pi", "e")}))
            except (InvalidRequest, LimitExceeded) as error:
                faults.append(f"{text}: {typed} cannot be sent again, {error!r}")
        for shown, tree, symbols in trees:
            read_so_far += 1
            if found is None:
                continue
            expected = found[orders]
            try:
                wrong, count = _compared(expression, orders, tree, symbols, points, expected)
            except KeyError as error:
                faults.append(f"{text}: {shown} has an unknown symbol {error}")
                continue
            compared += count
            if wrong:
                faults.append(f"{text}: {orders} {shown} is {wrong}")
    return Report(faults, read_so_far, compared)


def _printed(formulas: Formulas, count: int) -> Iterator[tuple[tuple[int, ...], str, str | None]]:
    """Yield every formula: the variables it is derived by, its LaTeX, and its text if it has one."""
    yield (), formulas.function, None
    for place, formula in enumerate(formulas.gradient):
        if formula:
            yield (place,), formula.latex, formula.text
    for row, column in itertools.combinations_with_replacement(range(count), 2):
        formula = formulas.hessian[row][column]
        if formula:
            yield (row, column), formula.latex, formula.text


def _points(dimension: int, seed: str) -> Array:
    """Return places near and far, of both signs, without round numbers."""
    chance = random.Random(seed)
    kinds: tuple[Callable[[], float], ...] = (
        lambda: chance.uniform(0.05, 0.95),
        lambda: chance.uniform(0.2, 3.0),
        lambda: chance.uniform(-2.0, 2.0),
        lambda: chance.gauss(0.0, 8.0),
    )
    return np.array([[kinds[place % 4]() for _ in range(dimension)] for place in range(POINTS)])


def _results(expression: Expression, points: Array) -> dict[tuple[int, ...], Array] | None:
    """Compute the engine's results by the variables of each derivative; None if the expression is too long."""
    order = 2
    while order >= 0:
        try:
            function = Function(FunctionTask(expression, POINTS, order))
            break
        except LimitExceeded:
            order -= 1
    else:
        return None
    values, gradients, hessians = function.run(points)
    found: dict[tuple[int, ...], Array] = {(): values}
    undefined = ~np.isfinite(values)
    for row in range(function.dimension):
        found[(row,)] = np.where(undefined, np.nan, gradients[:, row]) if order else np.full(POINTS, np.nan)
        for column in range(row, function.dimension):
            second = np.full(POINTS, np.nan) if hessians is None else hessians[:, row, column]
            found[row, column] = np.where(undefined, np.nan, second)
    return found


def _compared(
    expression: Expression,
    orders: tuple[int, ...],
    tree: Tree,
    symbols: Mapping[str, str],
    points: Array,
    expected: Array,
) -> tuple[str, int]:
    """Return the first wrong value of a formula in words, if there is one, and the count of compared values."""
    columns = dict(zip(expression.variables, points.T, strict=True)) | {"pi": math.pi, "e": math.e}
    value = without_float_warnings(value_of, tree, FLOATS, {symbols[name]: column for name, column in columns.items()})
    value = np.broadcast_to(value, expected.shape)
    finite = np.isfinite(expected)
    with np.errstate(all="ignore"):
        far = finite & ~(np.abs(value - expected) <= CLOSE * np.abs(expected))
    for place in np.flatnonzero(far)[:MOST_DECIDED].tolist():
        wrong = _decided(expression, orders, tree, symbols, points[place], float(expected[place]))
        if wrong:
            return f"{wrong} at {points[place].tolist()}, computed {value[place]}, the engine {expected[place]}", 0
    return "", int(finite.sum())


def _decided(
    expression: Expression,
    orders: tuple[int, ...],
    tree: Tree,
    symbols: Mapping[str, str],
    point: Array,
    computed: float,
) -> str:
    """Compare a formula with the expression in many digits; return the difference in words, if there is one.

    Values that float64 cannot hold, such as sin(1e30 x), are not compared. Neither are values that depend on the last
    digits of the printed numbers.
    """
    whole = tree_of(expression)

    def at(*numbers: Any) -> Any:
        named = dict(zip(expression.variables, numbers, strict=True))
        return value_of(whole, DIGITS, named | {"pi": mpmath.pi, "e": mpmath.e})

    def worth(table: Table) -> Any:
        return value_of(tree, table, {symbols[name]: number for name, number in named.items()})

    wrong = ""
    for digits in (50, 600):  # softplus(-700) as ln(1 + e^a) needs more than 50
        with mpmath.workdps(digits):
            numbers = [mpmath.mpf(number) for number in point.tolist()]
            named = dict(zip(expression.variables, numbers, strict=True)) | {"pi": +mpmath.pi, "e": +mpmath.e}
            try:
                value = worth(DIGITS)
                expected = at(*numbers)
                if orders and not mpmath.isnan(expected):
                    counts = tuple(orders.count(place) for place in range(len(numbers)))
                    one = len(numbers) == 1
                    expected = mpmath.diff(at, numbers[0] if one else tuple(numbers), counts[0] if one else counts)
            except Undecidable:
                return ""
            rounding = mpmath.mpf(10) ** (-digits // 2)  # of a difference quotient
            if mpmath.isnan(expected) or abs(value - expected) <= CLOSE * abs(expected) + rounding:
                return ""
            if mpmath.isnan(value) and any(step.word in PLATEAUS for step in expression.steps):
                return ""
            moved = [abs(worth(_rounded(seed)) - value) for seed in range(4)]
            if max(moved) > 0.1 * abs(value - expected):
                return ""
            wrong = f"{mpmath.nstr(value, 17)} and not {mpmath.nstr(expected, 17)}"
    return wrong if abs(computed - expected) <= HELD * abs(expected) else ""


def _rounded(seed: int) -> Table:
    """Return meanings of words where numbers of many digits may be off by their last one."""
    chance = random.Random(seed)

    def number(literal: str) -> Any:
        digits = literal.lower().partition("e")[0].replace(".", "").strip("0")
        off = chance.choice((-1, 1)) if len(digits) >= MANY_DIGITS else 0
        return mpmath.mpf(literal) * (1 + off * mpmath.mpf("1e-16"))

    return {**DIGITS, "number": number}
