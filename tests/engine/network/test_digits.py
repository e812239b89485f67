"""Activations over the whole range of numbers: value, slope and second derivative, compared with 60 digits.

A float is compared with the exact answer for its rounded argument. `CLOSED_FORMS` holds formulas of the classical
activations, independent of their declarations. The others are compared with their own formulas, computed with many
digits: the derivatives must hold, and nothing may overflow or cancel on the way. So is a new activation.

At a kink, where the two one-sided derivatives differ, only the value is compared: `test_activations.py` states the
conventions there. `EXCEPTIONS` lists the numbers that do not keep their digits, with the reason.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from mpmath import mp, mpf

from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, Node
from service.engine.graph.operations import broadcast, logsumexp
from service.engine.network.activations import activations
from tests import series
from tests.reference import expand, settled, ulps
from tests.series import ONE, Series, constant, function_of, number
from tests.support import every

MOST_ULPS = 8.0
ELEMENTWISE = [each.name for each in activations if each.acts_on == "element"]
ROWS = [each.name for each in activations if each.acts_on == "row"]
OPTIONS = [
    ("step", {"surrogate": "sigmoid"}),
    ("step", {"surrogate": "sigmoid", "threshold": 2.0}),
    ("leaky_relu", {"alpha": 0.3}),
    ("elu", {"alpha": 0.5}),
    ("celu", {"alpha": 2.0}),
    ("hard_shrink", {"threshold": 0.0}),
    ("soft_shrink", {"threshold": 3.0}),
]
"""Options to test besides the defaults."""


# --- what is exact ------------------------------------------------------------------------------


def _of(name: str) -> Callable[[Series], Series]:
    return lambda x: function_of(name, x)


def _gelu_tanh(x: Series) -> Series:
    scale = constant(2 * mp.sqrt(2 / mp.pi))
    return x * function_of("sigmoid", scale * (x + constant(mpf("0.044715")) * x * x * x))


def _step_with_surrogate(threshold: float) -> Callable[[Series], Series]:
    """Return a step function with the derivatives of the sigmoid."""

    def step(x: Series) -> Series:
        soft = function_of("sigmoid", x - constant(number(threshold)))
        return Series(ONE if x.value >= threshold else mpf(0), soft.first, soft.second)

    return step


CLOSED_FORMS: Mapping[str, Callable[[Series], Series]] = {
    "sigmoid": _of("sigmoid"),
    "tanh": _of("tanh"),
    "softplus": _of("softplus"),
    "exponential": _of("exp"),
    "log_sigmoid": lambda x: -function_of("softplus", -x),
    "silu": lambda x: x * function_of("sigmoid", x),
    "mish": lambda x: x * function_of("tanh", function_of("softplus", x)),
    "gelu": lambda x: x * constant(mpf("0.5")) * function_of("erfc", -x / constant(mp.sqrt(2))),
    "gelu_tanh": _gelu_tanh,
    "softsign": lambda x: x / (constant(ONE) + series.absolute(x)),
    "tanh_shrink": lambda x: x - function_of("tanh", x),
    "step {'surrogate': 'sigmoid'}": _step_with_surrogate(0.0),
    "step {'surrogate': 'sigmoid', 'threshold': 2.0}": _step_with_surrogate(2.0),
}

SIMPLE = (
    "linear", "step", "sign", "relu", "leaky_relu", "prelu", "elu", "selu", "celu", "hard_sigmoid", "hard_tanh",
    "relu6", "hard_silu", "hard_shrink", "soft_shrink",
)  # fmt: skip
"""Activations whose formulas have only exact zeros and no kinks but `KINKS`: one side of each number is enough."""


# --- what does not keep its digits --------------------------------------------------------------


class Case(NamedTuple):
    """One number computed by an activation."""

    activation: str
    order: int
    """0: value, 1: slope, 2: second derivative."""
    dtype: str
    x: float
    found: float
    exact: mpf

    @property
    def error(self) -> float:
        return float(abs(number(self.found) - self.exact))


class Allowance(NamedTuple):
    """An exception: for which numbers, how large the error may be, and why."""

    activations: tuple[str, ...]
    orders: tuple[int, ...]
    holds: Callable[[Case], bool]
    reason: str


def _tiny(case: Case) -> float:
    return float(np.finfo(case.dtype).tiny)


def _roundings(case: Case, count: float, size: float) -> bool:
    """Return whether the error is at most `count` roundings of a number of this size."""
    return case.error <= count * float(np.finfo(case.dtype).eps) * size


def _exponent(x: float) -> float:
    return abs(2.0 * np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))


EXCEPTIONS = [
    Allowance(
        ("sigmoid", "tanh", "softplus", "log_sigmoid", "gelu", "gelu_tanh", "tanh_shrink", "step"),
        (0, 1, 2),
        lambda case: abs(case.exact) < _tiny(case) and case.error < _tiny(case) / 2.0,
        "the result is below the smallest normal number; it may come out as 0, because its reciprocal is infinite",
    ),
    Allowance(
        ("silu", "gelu"),
        (0, 1, 2),
        lambda case: abs(case.exact) < 1e3 * _tiny(case) and case.error < 1e3 * _tiny(case),
        "the share that x is multiplied with is below the smallest normal number",
    ),
    Allowance(
        ("gelu", "gelu_tanh", "silu", "mish"),
        (1,),
        lambda case: -1.6 < case.x < -0.5 and _roundings(case, 8.0, 0.25),
        "the slope is 0 near here, as a sum of two terms of this size",
    ),
    Allowance(
        ("gelu_tanh", "silu", "mish"),
        (2,),
        lambda case: 1.0 < abs(case.x) < 3.2 and _roundings(case, 8.0, 0.25),
        "the second derivative is 0 near here, as a sum of terms of this size",
    ),
    Allowance(
        ("gelu",),
        (2,),
        lambda case: case.dtype == "float32" and 1.3 < abs(case.x) < 1.5 and _roundings(case, 4.0, 0.25),
        "the second derivative is 0 at the square root of 2, whose rest is for float64",
    ),
    Allowance(
        ("gelu_tanh",),
        (0, 1, 2),
        lambda case: (
            abs(case.x) > 2.0
            and ulps(case.found, case.exact, case.dtype) <= MOST_ULPS + 4.0 * min(_exponent(case.x), 800.0)
        ),
        "it falls as e^-2u, and u = √(2/π) (x + 0.044715 x³) is rounded; to keep its digits would double the cost",
    ),
]


def _is_excused(case: Case) -> bool:
    name = case.activation.split(" ")[0]
    if name not in (*CLOSED_FORMS, *SIMPLE) and abs(case.exact) < _tiny(case) and case.error < _tiny(case):
        return True  # a new activation need not keep the digits of the smallest numbers
    return any(name in each.activations and case.order in each.orders and each.holds(case) for each in EXCEPTIONS)


# --- where ----------------------------------------------------------------------------------------

# fmt: off
MAGNITUDES = (
    0.0, 5e-324, 1e-310, 1e-300, 1e-150, 1e-45, 1e-30, 1e-16, 1e-8, 1e-4, 0.01, 0.1, 0.25, 0.75, 0.9, 1.2, 1.5, 2.0,
    2.4, 4.0, 5.0, 8.0, 10.0, 15.0, 20.0, 26.5, 30.0, 36.0, 37.4, 38.0, 40.0, 45.0, 60.0, 80.0, 88.0, 90.0, 100.0,
    104.0, 150.0, 300.0, 354.0, 356.0, 400.0, 700.0, 709.0, 710.0, 720.0, 745.0, 746.0, 1e4, 1e10, 1e19, 1e20, 1e30,
    1e38, 1e77, 1e100, 1e150, 1e155, 1e200, 1e300, 1e308,
)
# fmt: on
KINKS = (-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0)


def points(dtype: str) -> np.ndarray:
    """Return numbers of every magnitude and sign, both sides of every kink, random numbers, and the largest."""
    rng = np.random.default_rng(0)
    kinks = np.array(KINKS, dtype)
    limits = np.finfo(dtype)
    middle = 10.0 ** rng.uniform(-3.0, 3.0, 40) * rng.choice([-1.0, 1.0], 40)
    lowest, highest = np.log10(float(limits.smallest_subnormal)), np.log10(float(limits.max))
    anywhere = 10.0 ** rng.uniform(lowest, highest, 20) * rng.choice([-1.0, 1.0], 20)
    ends = np.array([limits.max, limits.tiny, limits.smallest_subnormal])
    with np.errstate(over="ignore"):
        plain = np.concatenate([MAGNITUDES, np.negative(MAGNITUDES), middle, anywhere]).astype(dtype)
    beside = [kinks, np.nextafter(kinks, dtype_inf(dtype)), np.nextafter(kinks, -dtype_inf(dtype))]
    found = np.unique(np.concatenate([plain, *beside, ends, -ends]).astype(dtype))
    return found[np.isfinite(found)]


def dtype_inf(dtype: str) -> np.floating:
    return np.dtype(dtype).type(np.inf)


# --- comparison -----------------------------------------------------------------------------------


def build(name: str, x: Node, options: dict) -> Node:
    selected = activations.select(name, **options)
    own = [x.graph.constant(selected.options[each]) for each in selected.declaration.parameters]
    return selected.declaration.build(x, *own, **selected.options)


def computed(name: str, at: np.ndarray, dtype: str, options: dict) -> list[np.ndarray]:
    """Compute value, slope and second derivative with the engine."""
    graph = Graph(dtype)
    x = graph.input("x", at.shape)
    found = [build(name, x, options)]
    for _ in range(2):
        ones = broadcast(graph.constant(1.0), x.shape)
        found += dense(differentiate(found[-1], [x], ones).nodes, [x])
    values = interpret(found, {x: at})
    return [np.broadcast_to(values[node], at.shape) for node in found]


def exact(name: str, dtype: str, options: dict, at: list[float]) -> list[list[mpf]]:
    """Return the exact value, slope and second derivative at each number, without derivatives at a kink."""
    closed = CLOSED_FORMS.get(f"{name} {options}" if options else name)
    exact_zeros = name in SIMPLE  # their zeros are no differences
    together = exact_zeros and closed is None

    def along(x: Sequence[float], direction: int) -> list[list[mpf]]:
        if closed is not None:
            (each,) = x
            one = settled(lambda: closed(Series(number(each), mpf(direction))).parts, believe_zeros=exact_zeros)
            return [one]
        graph = Graph(dtype)
        node = graph.input("x", (len(x),))
        y = broadcast(build(name, node, options), node.shape)

        def parts() -> Sequence[mpf]:
            (found,) = expand([y], {node: x}, {node: direction})
            return np.stack(found, 1).ravel()

        several = settled(parts, believe_zeros=exact_zeros)
        return [several[start : start + 3] for start in range(0, len(several), 3)]

    def everywhere(x: Sequence[float], direction: int) -> dict[float, list[mpf]]:
        # To walk through a graph takes longer than to compute one number in it.
        groups = [x] if together and x else [[each] for each in x]
        return dict(zip(x, [found for group in groups for found in along(group, direction)], strict=True))

    def same(a: mpf, b: mpf) -> bool:
        return bool(abs(a - b) <= abs(a) * mpf(10) ** -20)

    # Closed forms have no kinks but that of |x|.
    kinks = (0.0,) if closed is not None else KINKS if exact_zeros else at
    right = everywhere(at, 1)
    left = everywhere([x for x in at if x in kinks], -1)
    with mp.workdps(60):
        for x, (_, slope, curvature) in left.items():
            smooth = same(right[x][1], -slope)
            right[x] = right[x][: 1 + smooth + (smooth and same(right[x][2], curvature))]
    return [right[x] for x in at]


@pytest.mark.long
@every("dtype", ["float64", "float32"])
@every(("name", "options"), [*[(name, {}) for name in ELEMENTWISE], *OPTIONS], ids=lambda value: str(value))
def test_activations_keep_their_digits_over_the_whole_range(name, options, dtype):
    at = points(dtype)
    found = computed(name, at, dtype, options)
    wrong = []
    for place, (x, answer) in enumerate(zip(at.tolist(), exact(name, dtype, options, at.tolist()), strict=True)):
        for order, wanted in enumerate(answer):
            actual = float(found[order][place])
            distance = ulps(actual, wanted, dtype)
            case = Case(f"{name} {options}" if options else name, order, dtype, x, actual, wanted)
            if distance > MOST_ULPS and not _is_excused(case):
                what = ("value", "slope", "second derivative")[order]
                wrong.append(f"{what} at {x!r}: {actual!r} is {distance:.3g} ulp from {mp.nstr(wanted, 20)}")
    advice = (
        f"state the slope of {name} with with_slope, or list an exception with its reason in EXCEPTIONS of {__file__}"
    )
    assert not wrong, "\n".join([*wrong, advice])


@every("name", ELEMENTWISE)
def test_activations_are_right_at_numbers_of_ordinary_size(name):
    at = np.array([sign * each for each in (0.01, 0.3, 0.7, 1.3, 2.6, 7.0, 11.0, 300.0) for sign in (-1.0, 1.0)])
    found = computed(name, at, "float64", {})
    for place, (x, answer) in enumerate(zip(at.tolist(), exact(name, "float64", {}, at.tolist()), strict=True)):
        for order, wanted in enumerate(answer):
            actual = number(float(found[order][place]))
            assert abs(actual - wanted) <= 1e-9 * abs(wanted) + 1e-13, (order, x, float(actual), float(wanted))


def test_closed_forms_are_of_activations_that_exist():
    for name in [*CLOSED_FORMS, *SIMPLE, *[name for each in EXCEPTIONS for name in each.activations]]:
        assert name.split(" ")[0] in activations


# --- rows -------------------------------------------------------------------------------------------

SPREADS = (
    (0.0, 0.0, 0.0),
    (0.5, -1.0, 2.0),
    (20.0, 0.0, -3.0),
    (40.0, 0.5, 0.25),
    (-40.0, 40.0, 39.0),
    (300.0, 0.0, -300.0),
    (708.0, 1.0, 0.0),
    (1e4, -1e4, 0.0),
    (1e-8, 1e-300, -1e-8),
    (50.0, 49.0, 13.0),
)
"""Logits of three classes. Those of one row may be farther apart than the exponents of float32."""


@every("dtype", ["float64", "float32"])
@every("name", [*ROWS, "logsumexp"])
def test_rows_keep_the_digits_of_values_jacobians_and_second_derivatives(name, dtype):
    def make(x: Node) -> Node:
        return broadcast(logsumexp(x), (3,)) if name == "logsumexp" else build(name, x, {})

    graph = Graph(dtype)
    x, cotangent, direction = (graph.input(each, (3,)) for each in ("x", "cotangent", "direction"))
    y = make(x)
    (slope,) = differentiate(y, [x], cotangent).nodes
    (curvature,) = differentiate(slope, [x], direction).nodes
    wrong = []
    for row in SPREADS:
        at = np.array(row, dtype)
        for k in range(3):
            unit = np.eye(3, dtype=dtype)[k]
            parts = [settled(lambda at=at, way=unit, part=part: _row(y, x, at, way)[part]) for part in range(3)]
            value = interpret([y], {x: at})[y]
            for i in range(3):
                inputs = {x: at, cotangent: np.eye(3, dtype=dtype)[i], direction: unit}
                found = interpret([slope, curvature], inputs)
                numbers = (value[i], found[slope][k], found[curvature][k])
                for order, actual in enumerate(map(float, numbers)):
                    wanted = parts[order][i]
                    small = abs(wanted) < np.finfo(dtype).tiny and abs(actual) < np.finfo(dtype).tiny
                    if ulps(actual, wanted, dtype) > MOST_ULPS and not small:
                        wrong.append(f"order {order} of {row}, {i} by {k}: {actual!r}, not {mp.nstr(wanted, 20)}")
    assert not wrong, "\n".join(wrong)


def _row(y: Node, x: Node, at: np.ndarray, way: np.ndarray) -> list[list[mpf]]:
    (found,) = expand([y], {x: at.astype(float)}, {x: way.astype(float)})
    return [list(part) for part in found]


def test_logits_farther_apart_than_any_number_have_a_distribution():
    graph = Graph("float64")
    x = graph.input("x", (2,))
    shares, total = build("softmax", x, {}), logsumexp(x)
    found = interpret([shares, total], {x: np.array([1e308, -1e308])})
    assert found[shares].tolist() == [1.0, 0.0]
    assert float(found[total]) == 1e308
