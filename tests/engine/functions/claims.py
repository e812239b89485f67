"""The claims of a search for stationary points, against 50-digit numbers, on random functions.

A claim is false if no stationary point of its class is at its place. The search must report the minimum of a quadratic,
or warn that it may be missing.
"""

import collections
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import mpmath as mp
import numpy as np

from service.engine.functions.calculus import DEGENERATE, MAXIMUM, MINIMUM, SADDLE, analyse
from service.engine.functions.compiled import Function, FunctionTask
from service.engine.functions.expression import Expression, parse
from service.engine.functions.ranges import kinks_within
from service.engine.functions.stationary import StationarySearch, search

Key = TypeVar("Key")
DIGITS = 60
APART = 1e-6
"""Largest distance of a claim from the true point, in the size of the box."""
BESIDE = 6
"""Places on the sides of a point."""
MOST_POINTS = 48
"""Most points of one search that are checked."""
STARTS, MORE_STARTS = 256, 2_048
FEW = 0.02
"""The chance that one more start finds a new place, above which the starts are said to be few."""
LOWER = 1e-9
"""A minimum is lower than another one by this share of the values."""
BLOCK = 1_024
FUNCTIONS: dict[str, Callable[[Any], tuple[Any, Any, Any]]] = {
    "exp": lambda a: (mp.exp(a),) * 3,
    "sin": lambda a: (mp.sin(a), mp.cos(a), -mp.sin(a)),
    "cos": lambda a: (mp.cos(a), -mp.sin(a), -mp.cos(a)),
    "sqrt": lambda a: (mp.sqrt(a), 1 / (2 * mp.sqrt(a)), -1 / (4 * mp.sqrt(a) ** 3)),
    "log": lambda a: (mp.log(a), 1 / a, -1 / a**2),
    "tanh": lambda a: (mp.tanh(a), 1 - mp.tanh(a) ** 2, -2 * mp.tanh(a) * (1 - mp.tanh(a) ** 2)),
    "abs": lambda a: (abs(a), mp.sign(a), mp.mpf(0)),
}
"""Value, slope and second derivative."""


class Jet(NamedTuple):
    """A value with its gradient and Hessian, in many digits."""

    value: Any
    gradient: Any
    hessian: Any


def jet(expression: Expression, point: Sequence[Any]) -> Jet:
    """Compute an expression with its derivatives by the variables, by the chain rule."""
    count = len(point)
    found: list[_Terms] = []
    for step in expression.steps:
        operands = [found[place] for place in step.operands]
        if step.word == "number":
            made = _Terms(mp.mpf(float(step.text)))
        elif step.word == "variable":
            place = expression.variables.index(step.text)
            made = _Terms(mp.mpf(point[place]), {place: mp.mpf(1)})
        else:
            made = _combined(step.word, operands)
        found.append(made)
    gradient, hessian = mp.zeros(count, 1), mp.zeros(count, count)
    for place, slope in found[-1].gradient.items():
        gradient[place] = slope
    for (row, column), curvature in found[-1].hessian.items():
        hessian[row, column] = hessian[column, row] = curvature
    return Jet(found[-1].value, gradient, hessian)


class _Terms(NamedTuple):
    """A value with its derivatives: those that are there, by variables. mpmath's matrices would take five times as
    long for two or three variables."""

    value: Any
    gradient: Mapping[int, Any] = MappingProxyType({})
    hessian: Mapping[tuple[int, int], Any] = MappingProxyType({})
    """By pairs of variables in order."""


def _combined(word: str, operands: list[_Terms]) -> _Terms:
    a = operands[0]
    if word == "negate":
        return _Terms(-a.value, _times(a.gradient, -1), _times(a.hessian, -1))
    if word in ("add", "subtract"):
        b, sign = operands[1], 1 if word == "add" else -1
        return _Terms(
            a.value + sign * b.value,
            _sum(a.gradient, _times(b.gradient, sign)),
            _sum(a.hessian, _times(b.hessian, sign)),
        )
    if word in ("multiply", "divide"):
        b = operands[1] if word == "multiply" else _through(operands[1], *_power(operands[1].value, -1))
        hessian = _sum(_times(a.hessian, b.value), _times(b.hessian, a.value))
        cross = {}
        for i, j in itertools.combinations_with_replacement(sorted({*a.gradient, *b.gradient}), 2):
            terms = [a.gradient[k] * b.gradient[m] for k, m in ((i, j), (j, i)) if k in a.gradient and m in b.gradient]
            if terms:
                cross[i, j] = sum(terms)
        gradient = _sum(_times(a.gradient, b.value), _times(b.gradient, a.value))
        return _Terms(a.value * b.value, gradient, _sum(hessian, cross))
    if word == "power":
        return _through(a, *_power(a.value, int(operands[1].value)))
    return _through(a, *FUNCTIONS[word](a.value))


def _power(value: Any, exponent: int) -> tuple[Any, Any, Any]:
    return tuple(
        mp.mpf(factor) * value**power if factor else mp.mpf(0)
        for factor, power in ((1, exponent), (exponent, exponent - 1), (exponent * (exponent - 1), exponent - 2))
    )  # type: ignore[return-value]


def _through(a: _Terms, value: Any, slope: Any, second: Any) -> _Terms:
    pairs = itertools.combinations_with_replacement(sorted(a.gradient), 2)
    squares = {(i, j): a.gradient[i] * a.gradient[j] * second for i, j in pairs} if second else {}
    return _Terms(value, _times(a.gradient, slope), _sum(_times(a.hessian, slope), squares))


def _times(parts: Mapping[Key, Any], factor: Any) -> Mapping[Key, Any]:
    return {key: part * factor for key, part in parts.items()}


def _sum(a: Mapping[Key, Any], b: Mapping[Key, Any]) -> Mapping[Key, Any]:
    return {**a, **{key: a[key] + part if key in a else part for key, part in b.items()}}


def true_point(expression: Expression, point: Sequence[float], size: Sequence[float]) -> tuple[Any, list[Any]] | None:
    """Follow Newton's method from a point in many digits; return the end and the curvatures there, in the size of the
    box."""
    there = mp.matrix([mp.mpf(coordinate) for coordinate in point])
    scale = mp.diag([mp.mpf(length) for length in size])
    for _ in range(20):
        found = jet(expression, list(there))
        try:
            step = mp.lu_solve(scale * found.hessian * scale, -(scale * found.gradient))
        except ZeroDivisionError:
            return None
        if any(mp.im(number) for number in step):
            return None  # beyond the domain
        there += scale * step.apply(mp.re)
        if mp.norm(step, mp.inf) < mp.mpf(10) ** (-DIGITS // 2):
            curved = scale * jet(expression, list(there)).hessian * scale
            return there, list(mp.eigsy(curved, eigvals_only=True))
    return None


def class_of(curvatures: list[Any]) -> str:
    """Return the class by the signs of curvatures."""
    if all(curvature > 0 for curvature in curvatures):
        return MINIMUM
    return MAXIMUM if all(curvature < 0 for curvature in curvatures) else SADDLE


def classes_beside(expression: Expression, point: Any, size: np.ndarray) -> set[str]:
    """Return the classes by the second derivatives on all sides of a point, with `degenerate` where these differ: on
    kinks with vanishing slopes, such as the saddle point of |x|·y at 0."""
    scale = mp.diag(size.tolist())
    found, hessians = set(), []
    for place in range(BESIDE):
        # To sides of no particular kind.
        ways = [mp.mpf(APART) * mp.sin(1 + place * len(size) + number) for number in range(len(size))]
        there = [a + mp.mpf(b) * way for a, b, way in zip(point, size.tolist(), ways, strict=True)]
        hessian = scale * jet(expression, there).hessian * scale
        if any(mp.im(number) for number in hessian):
            continue
        hessians.append(hessian)
        found.add(class_of(list(mp.eigsy(hessian, eigvals_only=True))))
    largest = max((abs(number) for hessian in hessians for number in hessian), default=0)
    changes = max((abs(number) for hessian in hessians for number in hessian - hessians[0]), default=0)
    return found | {DEGENERATE} if changes > 1e-3 * largest else found


class Case(NamedTuple):
    """A function and a box to search."""

    kind: str
    text: str
    names: tuple[str, ...]
    low: np.ndarray
    high: np.ndarray
    quadratic: bool


def quadratics(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Yield quadratics: axis-aligned, rotated, expanded or not, badly scaled, far from 0, steep and flat."""
    for place in range(count):
        dimension = int(rng.integers(1, 7))
        names = tuple(f"x{number}" for number in range(dimension))
        kind = ("aligned", "squares", "expanded", "scaled")[place % 4]
        condition = 10.0 ** rng.uniform(0, 16)
        curvatures = condition ** -rng.uniform(0, 1, dimension)
        curvatures[0] = 1.0
        if dimension > 1:
            curvatures[-1] = 1.0 / condition
        factor = 10.0 ** rng.choice([0, rng.uniform(-30, 30)])
        if rng.random() < 0.15:
            curvatures[rng.integers(dimension)] *= -1.0
        spans = 10.0 ** rng.uniform(-6, 6, dimension) if kind == "scaled" else np.ones(dimension)
        centre = rng.choice([0.0, 1.0, 1e3]) * rng.normal(size=dimension)
        turn = np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
        if kind in ("aligned", "scaled") or dimension == 1:
            turn = np.eye(dimension)
        if kind == "expanded":
            matrix = factor * turn.T @ np.diag(curvatures) @ turn
            matrix = 0.5 * (matrix + matrix.T)
            linear = -2.0 * matrix @ centre
            parts = [
                f"{_number((1 if i == j else 2) * matrix[i, j])}*{names[i]}*{names[j]}"
                for i in range(dimension)
                for j in range(i, dimension)
            ]
            parts += [f"{_number(linear[i])}*{names[i]}" for i in range(dimension)]
            parts.append(_number(centre @ matrix @ centre))
        else:
            parts = []
            digits = 17 if dimension < 5 else 9  # long expressions are refused
            for row, curvature in zip(turn, curvatures, strict=True):
                inside = [
                    f"{_number(weight / span, digits)}*({name} - {_number(middle * span, digits)})"
                    for weight, name, middle, span in zip(row, names, centre, spans, strict=True)
                    if weight
                ]
                parts.append(f"{_number(factor * curvature)}*({' + '.join(inside)})^2")
        width = rng.uniform(1.0, 4.0, dimension) * rng.choice([1.0, 1e3]) * spans
        middle = centre * spans + rng.uniform(-0.4, 0.4, dimension) * width
        yield Case(kind, " + ".join(parts), names, middle - 0.5 * width, middle + 0.5 * width, True)


def _number(value: float, digits: int = 17) -> str:
    text = f"{value:.{digits}g}"
    return f"({text})" if value < 0 else text


def others(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Yield sums and products of waves, exponentials, polynomials, rationals, roots and absolute values."""
    for _ in range(count):
        dimension = int(rng.integers(1, 4))
        names = ("x", "y", "z")[:dimension]

        terms = []
        for _ in range(int(rng.integers(1, 4))):
            term = "*".join(_part(rng, names) for _ in range(int(rng.integers(1, 3))))
            terms.append(f"{10.0 ** rng.uniform(-3, 3):.3g}*{term}")
        half = 10.0 ** rng.uniform(0, 1)
        yield Case("other", " + ".join(terms), names, np.full(dimension, -half), np.full(dimension, half), False)


def _inner(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    parts = [f"({rng.uniform(-3, 3):.3g}*{name})" for name in names if rng.random() < 0.8] or [f"({names[0]})"]
    return " + ".join([*parts, f"({rng.uniform(-1, 1):.2g})"])


def _part(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    inner = _inner(rng, names)
    choices = [
        f"sin({inner})",
        f"cos({inner})",
        f"exp(-({inner})^2)",
        f"exp({inner})",
        f"({inner})^{int(rng.integers(1, 5))}",
        f"1/(1 + ({inner})^2)",
        f"sqrt(1 + ({inner})^2)",
        f"sqrt({inner})",
        f"abs({inner})",
        f"tanh({inner})",
        f"log(1 + ({inner})^2)",
    ]
    return str(rng.choice(choices))


def warned(found: StationarySearch) -> bool:
    """Return whether the search warns that something may be missing."""
    return bool(found.curves or not found.complete or len(found.hidden) or found.unseen > FEW)


def faults(case: Case) -> tuple[list[str], str]:
    """Return the false claims, and the outcome in a word."""
    expression = parse(case.text, case.names)
    function = Function(FunctionTask(expression, BLOCK, 2))
    found = search(function, case.low, case.high, STARTS)
    size = case.high - case.low
    classes = analyse(function, found.points, np.inf, None, found.flat).classes or []
    wrong = []
    every = -(-len(classes) // MOST_POINTS) or 1
    for point, kind in zip(found.points[::every], classes[::every], strict=True):
        degenerate = kind == DEGENERATE and not case.quadratic
        true = None if degenerate else true_point(expression, point.tolist(), size.tolist())
        if true is None and not case.quadratic:
            wrong += _degenerate(expression, point, size, kind)
            continue
        if true is None:
            wrong.append(f"{kind} at {point.tolist()}: Newton's method leads nowhere")
            continue
        apart = max(
            abs(float((a - mp.mpf(b)) / mp.mpf(c)))
            for a, b, c in zip(true[0], point.tolist(), size.tolist(), strict=True)
        )
        if apart > APART:
            wrong.append(f"{kind} at {point.tolist()}: the true one is {apart:g} away")
        elif kind not in {class_of(true[1])} | classes_beside(expression, true[0], size):
            wrong.append(f"{kind} at {point.tolist()}: it is a {class_of(true[1])}")
    outcome = "nothing" if not len(found.points) else "found"
    if case.quadratic:
        true = true_point(expression, (0.5 * (case.low + case.high)).tolist(), size.tolist())
        assert true is not None
        inside = all(a < b < c for a, b, c in zip(case.low.tolist(), true[0], case.high.tolist(), strict=True))
        if len(found.points) > 1:
            wrong.append(f"{len(found.points)} points")
        # That rounding hides it is the only true reason why it may be missing: there is one point, and no curve.
        outcome = "outside" if not inside else "admitted" if len(found.hidden) and not len(found.points) else outcome
        if inside and not len(found.points) and not len(found.hidden):
            wrong.append(f"the one at {[float(a) for a in true[0]]} is missing")
        if found.curves or not found.complete:
            wrong.append("it has one point")
    elif warned(found):
        outcome += ", with a warning"
    else:
        wrong += _missed(case, expression, function, found.points)
    return wrong, outcome


def _missed(case: Case, expression: Expression, function: Function, points: np.ndarray) -> list[str]:
    """Return the lowest minimum of a search from many more places, if it is lower than all points found before."""
    more = search(function, case.low, case.high, MORE_STARTS)
    classes = analyse(function, more.points, np.inf, None, more.flat).classes or []
    if MINIMUM not in classes:
        return []
    point = more.points[classes.index(MINIMUM)]
    true = true_point(expression, point.tolist(), (case.high - case.low).tolist())
    values = function.run(np.concatenate([point[None], points])).values
    if true is None or (values[1:] <= values[0] + LOWER * np.abs(values).max()).any():
        return []
    beside = point + 1e-3 * (case.high - case.low) * np.concatenate([np.eye(len(point)), -np.eye(len(point))])
    if kinks_within(function, case.low, case.high) and not np.isfinite(function.run(beside).values).all():
        return []  # that of a root is next to it, where it is said that minima may be missing
    return [f"the minimum at {point.tolist()} is missing"]


def _degenerate(expression: Expression, point: np.ndarray, size: np.ndarray, kind: str) -> list[str]:
    """Return nothing if the gradient is small relative to curvatures around, and one of the curvatures too."""
    scale = mp.diag(size.tolist())
    here = jet(expression, point.tolist())
    if any(mp.im(number) for number in here.hessian):
        return [f"{kind} at {point.tolist()}: it is beyond the domain"]
    around = [jet(expression, (point + 0.02 * size * sign).tolist()) for sign in (-1.0, 1.0)]
    largest = max(abs(number) for other in (here, *around) for number in scale * other.hessian * scale)
    curvatures = mp.eigsy((scale * here.hessian * scale).apply(mp.re), eigvals_only=True)
    wrong = []
    if mp.norm(scale * here.gradient) > 1e-9 * largest:
        wrong.append(f"{kind} at {point.tolist()}: its gradient is {mp.nstr(here.gradient.T)}")
    if min(map(abs, curvatures)) > 1e-4 * largest and DEGENERATE not in classes_beside(
        expression, point.tolist(), size
    ):
        wrong.append(f"{kind} at {point.tolist()}: its curvatures are {mp.nstr(curvatures.T)}")
    if kind not in (DEGENERATE, SADDLE) or (kind == SADDLE and not min(curvatures) < 0 < max(curvatures)):
        wrong.append(f"{kind} at {point.tolist()}: it is degenerate")
    return wrong


def check(cases: Iterator[Case]) -> tuple[list[str], dict[str, int]]:
    """Return all faults of all cases, and the count of each outcome."""
    mp.mp.dps = DIGITS
    wrong: list[str] = []
    outcomes: collections.Counter[str] = collections.Counter()
    for case in cases:
        found, outcome = faults(case)
        outcomes[f"{case.kind}: {outcome}"] += 1
        wrong += [f"{case.text} in {case.low.tolist()}, {case.high.tolist()}: {fault}" for fault in found]
    return wrong, dict(sorted(outcomes.items()))
