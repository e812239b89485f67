"""Random expressions and their derivatives by mpmath, for the tests and for scripts/fuzz_derivatives.py.

The reference knows nothing of the graph. It evaluates the steps of an expression with many digits, at a point and just
beside it, to all sides; one-sided derivatives are quotients of differences there. An answer is right if it is the
derivative from every side where the function exists. Where the sides differ, a slope may follow a convention, which
lies between them and must come with a problem, and a second derivative must be null.

Rounding is allowed for in three ways. Each step with an inexact value in 64 bits is changed by a few units in its last
place, several times; an answer may differ by a multiple of the change of the reference, and by 1e-11 of itself.
Derivatives of exact values round too, so all steps are changed as well, as long as the reference changes too little for
a kink. And 1e-14 of the largest intermediate value, divided by the variables, is allowed for cancellation. Points are
skipped where rounding changes the value itself by a millionth, or where an intermediate value is so small that the
neighbours of the point are beyond it, or as large as 64-bit numbers become.
"""

import itertools
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import mpmath
from mpmath import mp, mpf

from service.engine.functions.expression import Expression

sys.set_int_max_str_digits(0)  # mpmath writes exponents of any length

DIGITS = 130
BESIDE = mpf(10) ** -32
"""The distance of neighbours. Terms of the power 2.5 are then 1e-16 of those of the power 2."""
NEARER = mpf(10) ** -36
TRIALS = 3
UNIT = mpf(2) ** -52
TOLERANCE = 1e-11
SMALLEST, LARGEST = mpf(10) ** -25, mpf(10) ** 200
CANCELLED = mpf(10) ** -14
TIMES = 64.0

NAN = mpf("nan")


def _logarithm(a: Any) -> Any:
    if a > 0:
        return mp.log(a)
    return mpf("-inf") if a == 0 else NAN


def _power(a: Any, b: Any) -> Any:
    if b == 0:
        return mpf(1)
    if a == 0:
        return mpf(0) if b > 0 else NAN
    if a < 0:
        return NAN if b != mp.floor(b) else mp.power(-a, b) * (1 if mp.floor(b / 2) * 2 == b else -1)
    return mp.power(a, b)


def _inside_one(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda a: function(a) if abs(a) <= 1 else NAN


REFERENCE: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b if b else NAN,
    "negate": lambda a: -a,
    "power": _power,
    "pow": _power,
    "exp": mp.exp,
    "expm1": mp.expm1,
    "log": _logarithm,
    "log1p": lambda a: _logarithm(1 + a),
    "log2": lambda a: _logarithm(a) / mp.log(2),
    "log10": lambda a: _logarithm(a) / mp.log(10),
    "sqrt": lambda a: mp.sqrt(a) if a >= 0 else NAN,
    "cbrt": lambda a: mp.sign(a) * mp.cbrt(abs(a)),
    "sin": mp.sin,
    "cos": mp.cos,
    "tan": mp.tan,
    "asin": _inside_one(mp.asin),
    "acos": _inside_one(mp.acos),
    "atan": mp.atan,
    "atan2": lambda a, b: mp.atan2(a, b) if a or b else mpf(0),
    "sinh": mp.sinh,
    "cosh": mp.cosh,
    "tanh": mp.tanh,
    "asinh": mp.asinh,
    "acosh": lambda a: mp.acosh(a) if a >= 1 else NAN,
    "atanh": lambda a: mp.atanh(a) if abs(a) < 1 else NAN,
    "sigmoid": lambda a: 1 / (1 + mp.exp(-a)),
    "relu": lambda a: max(a, mpf(0)),
    "softplus": lambda a: mp.log1p(mp.exp(a)),
    "erf": mp.erf,
    "erfc": mp.erfc,
    "gaussian": lambda a: mp.exp(-a * a),
    "step": lambda a: mpf(a >= 0),
    "sign": mp.sign,
    "abs": abs,
    "floor": mp.floor,
    "ceil": mp.ceil,
    "round": mp.nint,
    "min": min,
    "max": max,
    "mod": lambda a, b: a - b * mp.floor(a / b) if b else NAN,
    "hypot": mp.hypot,
    "less": lambda a, b: mpf(a < b),
    "greater": lambda a, b: mpf(a > b),
    "less_equal": lambda a, b: mpf(a <= b),
    "greater_equal": lambda a, b: mpf(a >= b),
    "where": lambda a, b, c: a if mp.isnan(a) else b if a else c,
    "pi": lambda: mpf(math.pi),
    "e": lambda: mpf(math.e),
}
"""The meaning of each word."""


def evaluate(expression: Expression, point: Sequence[Any], factors: Sequence[Any] | None = None) -> list[Any]:
    """Compute the value of each step, times its factor; NaN from the first step without a value on."""
    by_name = dict(zip(expression.variables, point, strict=True))
    values: list[Any] = []
    for place, step in enumerate(expression.steps):
        if step.word == "variable":
            values.append(by_name[step.text])
        elif step.word == "number":
            values.append(mpf(float(step.text)))
        else:
            arguments = [values[operand] for operand in step.operands]
            value = NAN
            needed = arguments if step.word != "where" else arguments[:1]
            if not any(mp.isnan(argument) for argument in needed):
                try:
                    value = REFERENCE[step.word](*arguments)
                except (ValueError, ZeroDivisionError, OverflowError):
                    value = NAN
            if isinstance(value, mpmath.mpc):
                value = NAN
            values.append(value if factors is None else value * factors[place])
    return values


class Beside(NamedTuple):
    """The function along one ray."""

    slope: Any
    """The one-sided derivative; infinite, or NaN where there is no value."""
    slope_error: Any
    curvature: Any
    curvature_error: Any
    jump: bool


class Truth:
    """An expression at a point, as mpmath sees it."""

    def __init__(
        self, expression: Expression, point: Sequence[float], chance: random.Random | None = None, exact: bool = True
    ) -> None:
        with mp.workdps(DIGITS):
            self.expression = expression
            self.point = [mpf(number) for number in point]
            values = evaluate(expression, self.point)
            sizes = [abs(value) for value in values if value and mp.isfinite(value)]
            self.largest = max(sizes, default=mpf(0))
            self.holds = all(SMALLEST < size < LARGEST for size in sizes)
            """True if all intermediate values are well within the range of 64-bit numbers."""
            self.factors = None
            if chance is not None:
                self.factors = [
                    mpf(1)
                    if not step.operands or not mp.isfinite(value) or (exact and mpf(float(value)) == value)
                    else 1 + chance.choice((-3, -1, 1, 3)) * UNIT
                    for step, value in zip(expression.steps, values, strict=True)
                ]
                values = evaluate(expression, self.point, self.factors)
            self.value = values[-1]

    def beside(self, direction: Sequence[float]) -> Beside:
        """Compute the derivatives to one side."""
        with mp.workdps(DIGITS):
            slopes, curvatures = [], []
            for h in (BESIDE, NEARER):
                near, far = (self._at(direction, times * h) for times in (1, 2))
                if mp.isnan(near) or mp.isnan(far):
                    return Beside(NAN, 0, NAN, 0, False)
                if abs(near - self.value) > mpf(10) ** -5 * max(1, abs(self.value)):
                    return Beside(NAN, 0, NAN, 0, True)
                slopes.append((4 * near - far - 3 * self.value) / (2 * h))
                curvatures.append((far - 2 * near + self.value) / (h * h))
            size = 1 + abs(self.value)
            slope, slope_error = self._limit(*slopes, size)
            curvature, curvature_error = self._limit(*curvatures, size)
            if not mp.isfinite(slope):
                curvature = mpf("inf")
            return Beside(slope, slope_error, curvature, curvature_error, False)

    def _at(self, direction: Sequence[float], h: Any) -> Any:
        there = [x + h * mpf(d) for x, d in zip(self.point, direction, strict=True)]
        return evaluate(self.expression, there, self.factors)[-1]

    @staticmethod
    def _limit(coarse: Any, fine: Any, size: Any) -> tuple[Any, Any]:
        """Return the limit of two numbers, the second from nearer, and its error; infinite if they grow."""
        error = 3 * abs(fine - coarse)
        grows = abs(fine) > abs(coarse) + mpf(10) ** -6 * abs(fine) + mpf(10) ** -40 * size
        return (mpf("inf"), mpf(0)) if grows else (fine, error)


# --- judging an answer --------------------------------------------------------------------------

CONVENTIONS = ("kink", "vertical", "jump", "pole")


class Answer(NamedTuple):
    """The answer for a point; None stands for null."""

    value: float | None
    gradient: list[float | None]
    hessian: list[list[float | None]]
    problems: list[tuple[str, str]]
    """Kinds and texts."""


class Verdict(NamedTuple):
    """The wrong parts of an answer, and the derivatives that it leaves out although they exist."""

    wrong: list[str]
    missing: list[str]


Number = Callable[[int], tuple[Any, Any]]
"""A number and its error by the reference (-1), and by those with other roundings (0, …)."""


def _agree(numbers: Sequence[tuple[Any, Any]]) -> bool:
    """Return whether there are numbers and all agree."""
    if not numbers or not all(mp.isfinite(number) for number, _ in numbers):
        return False
    first, first_error = numbers[0]
    return all(
        abs(number - first) <= mpf(10) ** -13 * max(abs(number), abs(first)) + error + first_error
        for number, error in numbers
    )


class Judge:
    """Compares answers at one point with the reference, and looks at its conditioning if they differ."""

    def __init__(self, expression: Expression, point: Sequence[float], seed: int = 0) -> None:
        self.expression, self.point = expression, point
        self.truth = Truth(expression, point)
        self._seed = seed
        self._others: list[Truth] | None = None
        self._known: dict[tuple[int, tuple[float, ...]], Beside] = {}

    def _beside(self, which: int, direction: tuple[float, ...]) -> Beside:
        key = (which, direction)
        if key not in self._known:
            truth = self.truth if which < 0 else self.others[which]
            self._known[key] = truth.beside(direction)
        return self._known[key]

    @property
    def others(self) -> list[Truth]:
        if self._others is None:
            chance = random.Random(self._seed)
            self._others = [Truth(self.expression, self.point, chance, which < TRIALS) for which in range(2 * TRIALS)]
        return self._others

    def same(self, answered: float, of: Number, scale: float = 0.0) -> bool:
        """Return whether a number is `of(-1)`, within the rounding seen in `of(0)`, …"""
        true, error = of(-1)
        if not mp.isfinite(true):
            return any(mp.isfinite(of(which)[0]) for which in range(TRIALS))
        apart = abs(mpf(answered) - true)
        allowed = mpf(TOLERANCE) * abs(true) + mpf(scale) + error + mpf(10) ** -290
        if apart <= allowed:
            return True
        for which in range(2 * TRIALS):
            other, _ = of(which)
            if not mp.isfinite(other):
                if which >= TRIALS:
                    continue
                return True  # rounding decides whether there is such a number
            change = abs(other - true)
            if which < TRIALS or change <= mpf(10) ** -8 * (1 + abs(true)):
                allowed += mpf(TIMES) * change
        return bool(apart <= allowed)

    def judge(self, answer: Answer) -> Verdict:
        """Return the wrong and the missing parts of an answer."""
        with mp.workdps(DIGITS):
            return self._judge(answer)

    def _judge(self, answer: Answer) -> Verdict:
        wrong: list[str] = []
        missing: list[str] = []
        if answer.value is None:
            return Verdict(wrong, missing)
        if mp.isnan(self.truth.value) and any(kind == "pole" for kind, _ in answer.problems):
            return Verdict(
                wrong, missing
            )  # an infinite value on the way, of which 64-bit numbers can make a finite one
        if not self.truth.holds or self._blurred():
            return Verdict(wrong, missing)
        values: Number = lambda which: ((self.truth if which < 0 else self.others[which]).value, 0)  # noqa: E731
        if not self.same(answer.value, values) and not any("angle" in text for _, text in answer.problems):
            wrong.append(f"value {answer.value!r}, not {mp.nstr(self.truth.value, 17)}")
            return Verdict(wrong, missing)
        dimension = len(self.point)
        kinds = {kind for kind, _ in answer.problems}
        smooth = True
        for i in range(dimension):
            smooth &= self._gradient(f"d{i}", answer.gradient[i], i, kinds, wrong, missing)
        if answer.hessian:
            for i, j in itertools.combinations_with_replacement(range(dimension), 2):
                sides = self._curvatures(i) if i == j else self._mixed(i, j)
                hidden = answer.gradient[i] is None or answer.gradient[j] is None
                smooth &= self._second(
                    f"d{i}{j}", answer.hessian[i][j], sides, self._scales(i, j), hidden, wrong, missing
                )
                smooth &= i == j or self._straight(i, j)
        if smooth and kinds & {"kink", "vertical", "jump"}:
            missing.append("a problem is answered where there is none")
        return Verdict(wrong, missing)

    def _blurred(self) -> bool:
        """Return whether rounding decides about the value."""
        value = self.truth.value
        return any(not abs(other.value - value) <= abs(value) * mpf(10) ** -6 + mpf(10) ** -14 for other in self.others)

    def _scale(self, *variables: int) -> float:
        """Return the size of a derivative by these variables without cancellation, times the rounding of it."""
        product = CANCELLED * self.truth.largest
        for i in variables:
            product /= abs(self.truth.point[i]) or 1
        return float(product)

    def _axis(self, i: int, sign: float) -> tuple[float, ...]:
        return tuple(sign if place == i else 0.0 for place in range(len(self.point)))

    def _slopes(self, i: int) -> list[Number]:
        """Return the partial derivative from each existing side of its axis."""

        def of(which: int, sign: float) -> tuple[Any, Any]:
            beside = self._beside(which, self._axis(i, sign))
            return sign * beside.slope, beside.slope_error

        return [partial(of, sign=sign) for sign in (1.0, -1.0) if not mp.isnan(of(-1, sign)[0])]

    def _gradient(
        self, name: str, answered: float | None, i: int, kinds: set[str], wrong: list[str], missing: list[str]
    ) -> bool:
        """Check a partial derivative; return whether it exists."""
        sides = self._slopes(i)
        jumps = any(self._beside(-1, self._axis(i, sign)).jump for sign in (1.0, -1.0))
        found = [side(-1) for side in sides]
        shown = [mp.nstr(number, 12) for number, _ in found]
        exists = _agree(found) and not jumps
        if answered is None:
            if exists:
                missing.append(f"{name} is null, though {shown}")
        elif not found and not jumps:
            missing.append(f"{name} {answered!r} is answered at a point that stands alone")
        elif exists or not kinds & set(CONVENTIONS):
            if not any(self.same(answered, side, self._scale(i)) for side in sides):
                wrong.append(f"{name} {answered!r}, not {shown}")
        elif not jumps and not kinds & {"jump", "pole"}:
            low, high = min(number for number, _ in found), max(number for number, _ in found)
            margin = mpf(TOLERANCE) * (abs(low) + abs(high))
            if not low - margin <= answered <= high + margin or not (mp.isfinite(low) and mp.isfinite(high)):
                wrong.append(f"{name} {answered!r} is not between {shown}")
        return exists

    def _straight(self, i: int, j: int) -> bool:
        """Return whether slopes between two axes follow from those along them."""
        for a, b in itertools.product((1.0, -1.0), repeat=2):
            along = [self._beside(-1, self._axis(i, a)), self._beside(-1, self._axis(j, b))]
            both = self._beside(-1, tuple(a * (k == i) + b * (k == j) for k in range(len(self.point))))
            errors = both.slope_error + sum(beside.slope_error for beside in along)
            if not _agree([(both.slope, errors), (sum(beside.slope for beside in along), errors)]):
                return False
        return True

    def _second(
        self,
        name: str,
        answered: float | None,
        sides: list[Number],
        scale: float,
        hidden: bool,
        wrong: list[str],
        missing: list[str],
    ) -> bool:
        """Check a second derivative, which may be hidden where there is no slope; return whether it exists."""
        found = [side(-1) for side in sides]
        shown = [mp.nstr(number, 12) for number, _ in found]
        exists = _agree(found)
        if answered is None:
            if exists and not hidden:
                missing.append(f"{name} is null, though {shown}")
        elif exists:
            if not any(self.same(answered, side, scale) for side in sides):
                wrong.append(f"{name} {answered!r}, not {shown}")
        elif not sides:
            missing.append(f"{name} {answered!r} is answered at a point that stands alone")
        elif not any(self.same(answered, side, scale) and self._rounded(sides) for side in sides):
            wrong.append(f"{name} {answered!r}, though the sides are {shown}")
        return exists

    def _scales(self, i: int, j: int) -> float:
        """Return the rounding of a second derivative."""
        bends = [abs(self._beside(-1, self._axis(k, 1.0)).curvature) for k in (i, j)]
        mean = float(mp.sqrt(bends[0] * bends[1])) if all(map(mp.isfinite, bends)) else 0.0
        return self._scale(i, j) + (TOLERANCE * mean if i != j else 0.0)

    def _rounded(self, sides: list[Number]) -> bool:
        """Return whether rounding alone decides if the sides agree."""
        return any(_agree([side(which) for side in sides]) for which in range(TRIALS))

    def _curvatures(self, i: int) -> list[Number]:
        def of(which: int, sign: float) -> tuple[Any, Any]:
            beside = self._beside(which, self._axis(i, sign))
            return beside.curvature, beside.curvature_error

        return [
            partial(of, sign=sign)
            for sign in (1.0, -1.0)
            if not mp.isnan(self._beside(-1, self._axis(i, sign)).slope) or self._beside(-1, self._axis(i, sign)).jump
        ]

    def _mixed(self, i: int, j: int) -> list[Number]:
        def of(which: int, a: float, b: float) -> tuple[Any, Any]:
            both = self._beside(which, tuple(a * x + b * y for x, y in zip(*axes, strict=True)))
            along = [self._beside(which, self._axis(i, a)), self._beside(which, self._axis(j, b))]
            errors = both.curvature_error + sum(beside.curvature_error for beside in along)
            return (both.curvature - sum(beside.curvature for beside in along)) / (2 * a * b), errors

        axes = self._axis(i, 1.0), self._axis(j, 1.0)
        found = []
        for a, b in itertools.product((1.0, -1.0), repeat=2):
            beside = self._beside(-1, tuple(a * x + b * y for x, y in zip(*axes, strict=True)))
            dead = any(mp.isnan(self._beside(-1, self._axis(k, c)).slope) for k, c in ((i, a), (j, b)))
            if beside.jump or not (mp.isnan(beside.slope) or dead):
                found.append(partial(of, a=a, b=b))
        return found


# --- random expressions -------------------------------------------------------------------------

KINKED = ("abs", "relu", "sqrt", "cbrt", "abs", "relu", "sqrt", "floor", "step", "sign")
SMOOTH = (
    *("exp", "expm1", "log", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh"),
    *("acosh", "atanh", "sigmoid", "softplus", "erf", "erfc", "gaussian", "log2", "log10"),
)
PAIRS = ("max", "min", "max", "min", "hypot", "atan2", "mod", "pow")
NUMBERS = ("0", "1", "2", "3", "0.5", "0.25", "1.5", "10")
SPECIAL = (0.0, 0.0, 0.0, 1.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5, 3.0)
WIDE = (1e-9, -1e-9, 1e-3, 20.0, -20.0, 40.0, 1e4, -1e4, 700.0)


def random_expression(chance: random.Random, names: Sequence[str], depth: int) -> str:
    """Draw an expression of any words, with kinks more often than others."""
    kind = chance.random()
    if depth == 0 or kind < 0.08:
        return chance.choice(names) if chance.random() < 0.8 else chance.choice(NUMBERS)
    inner = lambda: random_expression(chance, names, depth - 1)  # noqa: E731
    if kind < 0.30:
        return f"{chance.choice(KINKED)}({inner()})"
    if kind < 0.42:
        return f"{chance.choice(SMOOTH)}({inner()})"
    if kind < 0.56:
        return f"{chance.choice(PAIRS)}({inner()}, {inner()})"
    if kind < 0.60:
        return f"where({inner()} {chance.choice(('<', '>', '<=', '>='))} {inner()}, {inner()}, {inner()})"
    if kind < 0.62:
        return f"where({inner()}, {inner()}, {inner()})"
    if kind < 0.70:
        return f"({inner()})^{chance.choice(('2', '2', '3', '4', '0.5', '1.5', '(1/3)', '-1', '2.5'))}"
    operator = chance.choice(("+", "-", "*", "*", "/"))
    return f"({inner()}) {operator} ({inner()})"


def random_point(chance: random.Random, dimension: int) -> list[float]:
    """Draw a point, with special numbers and ties more often than others."""
    kind = chance.random()
    if kind < 0.55:
        point = [chance.choice(SPECIAL) for _ in range(dimension)]
    elif kind < 0.7:
        point = [chance.choice((*SPECIAL, *WIDE)) for _ in range(dimension)]
    else:
        point = [chance.choice((chance.choice(SPECIAL), chance.uniform(-2.0, 2.0))) for _ in range(dimension)]
    if chance.random() < 0.2:
        point = [point[0]] * dimension
    return point


def random_cases(seed: int) -> Iterator[tuple[str, list[str], list[list[float]]]]:
    """Yield expressions, their variables, and points."""
    chance = random.Random(seed)
    while True:
        names = ["x", "y", "z"][: chance.choice((1, 1, 2, 2, 2, 3))]
        text = random_expression(chance, names, chance.choice((2, 3, 3, 4)))
        yield text, names, [random_point(chance, len(names)) for _ in range(2)]


def answers(calculus: Any) -> list[Answer]:
    """Return the answer for each point."""

    def answered(number: float) -> float | None:
        return float(number) if math.isfinite(number) else None

    found = []
    for place, value in enumerate(calculus.results.values):
        problems = calculus.problems.get(place, [])
        found.append(
            Answer(
                answered(value),
                [answered(number) for number in calculus.results.gradients[place]],
                [[answered(number) for number in row] for row in calculus.results.hessians[place]],
                [(problem.kind, problem.text) for problem in problems],
            )
        )
    return found
