"""The rules that expand every elementwise operation along rays, as a `Series` (see `series.py`).

A function is expanded by its value and by the expansion of its derivative, integrated term by term.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node
from service.engine.graph.series import (
    EPS,
    FAR,
    FINEST,
    KERNEL,
    MOST_DENOMINATOR,
    Finer,
    Series,
    lost,
    rays,
    uniform,
    zeros,
)


def _power(a: Series, exponent: float, *, root: bool = False) -> Series:
    """Return the expansion of `a` to a power that is the same along all rays. `root` is for cube roots, also of
    negative numbers."""
    whole = float(exponent).is_integer()
    if exponent == 0.0:
        return uniform(a, 1.0)
    starts = a.first * exponent
    live = ~(a.zero | a.gone)
    broken = live & (np.abs(starts - np.rint(starts)) > 1e-9)
    if broken.any():
        steps = a.steps * Fraction(exponent).limit_denominator(MOST_DENOMINATOR).denominator
        if a.steps < steps <= FINEST:
            raise Finer(steps)
    lead = np.where(a.known > 0, a.terms[:, 0], 1.0)
    if whole or root:
        scale = np.power(lead, exponent) if whole else np.cbrt(lead)
        outside = np.zeros_like(a.gone)
    else:
        scale = np.power(lead, exponent)
        outside = live & ~a.vague & (lead < 0.0)
    rest, wrong = a.terms / lead[:, None], a.errors / np.abs(lead)[:, None] + EPS * np.abs(a.terms / lead[:, None])
    relative = np.where(a.known > 0, wrong[:, 0], 0.0)
    terms, errors = np.zeros_like(rest), np.zeros_like(rest)
    terms[:, 0] = 1.0
    used = [k for k in range(1, a.length) if rest[:, k].any() or wrong[:, k].any()]
    for n in range(1, a.length):
        for k in used:
            if k > n:
                break
            weight = (k * exponent - (n - k)) / n
            terms[:, n] += weight * rest[:, k] * terms[:, n - k]
            errors[:, n] += abs(weight) * (
                np.abs(rest[:, k]) * (errors[:, n - k] + 4.0 * EPS * np.abs(terms[:, n - k]))
                + wrong[:, k] * np.abs(terms[:, n - k])
            )
    errors = np.abs(scale)[:, None] * (errors + np.abs(terms) * (KERNEL + abs(exponent) * relative[:, None]))
    starts = np.floor(starts + 1e-9).astype(np.int64)
    product = whole and exponent > 0.0
    ends = a.ends & ((a.degree == 0) | (product & (a.degree * exponent < a.length)))
    known = np.where(broken, 0, a.known)
    found = Series(starts, scale[:, None] * terms, errors, known, a.gone | outside, a.steps, ends & ~broken)
    endless = np.isinf(lead)
    if exponent < 0.0:
        found.gone = found.gone | a.zero  # a division by 0
        return found.where(a.zero | a.vague | endless, lost(a)).normal()
    return found.where(a.zero, zeros(a)).where(endless, lost(a)).normal()


def _derived(a: Series) -> Series:
    exponents = (a.first[:, None] + np.arange(a.length)) / a.steps
    found = Series(
        a.first - a.steps, a.terms * exponents, a.errors * np.abs(exponents), a.known, a.gone, a.steps, a.ends
    )
    return found.where(a.zero, zeros(a)).normal()


def _integrated(a: Series) -> Series:
    """Return the integral of a series from t = 0 on; nothing is known of it where it is infinite."""
    exponents = (a.first[:, None] + np.arange(a.length)) / a.steps + 1.0
    found = Series(
        a.first + a.steps,
        a.terms / exponents,
        a.errors / np.abs(exponents) + EPS * np.abs(a.terms / exponents),
        a.known,
        a.gone,
        a.steps,
    )
    endless = (a.first <= -a.steps) & ~a.zero
    return found.where(a.zero, zeros(a)).where(endless, lost(a)).normal()


def _unbounded(a: Series) -> Array:
    """Return a mask of the rays along which a series is infinite or unknown at t = 0."""
    return ((a.first < 0) & ~a.zero) | (a.vague & (a.first <= 0)) | np.isinf(a.constant()[0])


def _by_slope(value: Callable[[Array], Array], slope: Callable[[Series], Series]) -> Callable[[Series], Series]:
    """Return the expansion rule of a function of bounded arguments, given its value and the rule of its derivative."""

    def rule(a: Series) -> Series:
        start, error = a.constant()
        steep = slope(a)
        gain = np.abs(steep.constant()[0])
        begin = value(start)
        begin_error = KERNEL * np.abs(begin) + np.where(error > 0.0, gain * error, 0.0)
        change = _derived(a)
        found = _integrated(steep * change) + uniform(a, begin, begin_error)
        # An argument that does not change along the ray needs no slope.
        found.gone = np.where(change.zero, a.gone, found.gone) | (np.isnan(begin) & ~np.isnan(start))
        # After an infinite value no term is known, but it can be compared.
        found = found.where(np.isinf(begin), uniform(a, begin))
        return found.where(_unbounded(a), lost(a)).normal()

    return rule


def _entire(*cycle: Callable[[Array], Array]) -> Callable[[Series], Series]:
    """Return the expansion rule of a function from the cycle of its derivatives, as of sin: sin, cos, -sin, -cos."""

    def rule(a: Series) -> Series:
        start, error = a.constant()
        values = [derivative(start) for derivative in cycle]
        moving = a.varying()
        order = 1 if moving.zero.all() else a.length // max(1, int(np.where(moving.zero, FAR, moving.first).min())) + 1
        dense = moving.at(np.minimum(moving.first, 0))
        base = Series(np.zeros_like(a.first), *dense, moving.gone, a.steps)
        inner = zeros(a)
        for k in range(order, 0, -1):
            value, onwards = values[k % len(cycle)], values[(k + 1) % len(cycle)]
            factor = 1.0 / math.factorial(min(k, 170))
            coefficient = uniform(a, factor * value, factor * (KERNEL * np.abs(value) + np.abs(onwards) * error))
            inner = inner * base + coefficient
        begin = uniform(a, values[0], KERNEL * np.abs(values[0]) + np.abs(values[1 % len(cycle)]) * error)
        return (begin + moving * inner).where(_unbounded(a), lost(a)).normal()

    return rule


_exp_bounded = _entire(np.exp)


def _exp(a: Series) -> Series:
    # exp(-1/t) is less than every power of t.
    return _exp_bounded(a).where((a.first < 0) & (a.known > 0) & (a.terms[:, 0] < 0.0), zeros(a))


def _plus(a: Series, number: float) -> Series:
    return a + uniform(a, number)


def _times(a: Series, number: float) -> Series:
    return a * uniform(a, number)


def _reciprocal(a: Series) -> Series:
    return _power(a, -1.0)


def _sqrt(a: Series) -> Series:
    return _power(a, 0.5)


def _square(a: Series) -> Series:
    return a * a


def _inverse_cosh_square(a: Series) -> Series:
    return _power(_cosh(a), -2.0)


def _one_minus_square(a: Series) -> Series:
    one = uniform(a, 1.0)
    return (one - a) * (one + a)


def _bell(a: Series) -> Series:
    return _times(_exp(-(a * a)), 2.0 / math.sqrt(math.pi))


_erf = np.vectorize(math.erf, otypes=[float])
_erfc = np.vectorize(math.erfc, otypes=[float])


def _logistic(x: Array) -> Array:
    found: Array = 1.0 / (1.0 + np.exp(-x))
    return found


def _softplus(x: Array) -> Array:
    found: Array = np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))
    return found


_cosh = _entire(np.cosh, np.sinh)
_sin = _entire(np.sin, np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x))
_cos = _entire(np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x), np.sin)
_log = _by_slope(np.log, _reciprocal)
_sigmoid = _by_slope(_logistic, lambda a: _times(_inverse_cosh_square(_times(a, 0.5)), 0.25))


def _choose(a: Series, b: Series, sign: Array, difference: Series) -> Series:
    """Return `b` where the sign is negative, else `a`. Where the sign is unknown, return the terms that both have in
    common."""
    chosen = a.where(sign < 0.0, b)
    close = np.isnan(sign)
    common = a.only(np.maximum(difference.first - a.first, 0))
    common.first = np.where(a.zero | (difference.first < a.first), difference.first, a.first)
    common.ends = np.where(close, False, common.ends)
    chosen = chosen.where(close, common)
    chosen.gone = a.gone | b.gone
    return chosen


def _maximum(a: Series, b: Series) -> Series:
    difference = a - b
    return _choose(a, b, difference.sign(), difference)


def _minimum(a: Series, b: Series) -> Series:
    difference = a - b
    return _choose(a, b, -difference.sign(), difference)


def _where(condition: Series, a: Series, b: Series) -> Series:
    """Return a where the condition is not 0 beside the point, else b; nothing is known where that is unknown."""
    sign = condition.sign()
    unknown = np.isnan(sign)
    chosen = a.where(sign == 0.0, b).where(unknown, lost(a))
    chosen.gone = condition.gone | np.where(unknown, a.gone | b.gone, np.where(sign == 0.0, b.gone, a.gone))
    return chosen


def _stepped(a: Series, values: Array) -> Series:
    found = uniform(a, np.nan_to_num(values)).where(np.isnan(values), lost(a))
    found.gone = a.gone
    return found


def _greater(a: Series, b: Series) -> Series:
    sign = (a - b).sign()
    return _stepped(a - b, np.where(np.isnan(sign), np.nan, sign > 0.0))


def _greater_equal(a: Series, b: Series) -> Series:
    sign = (a - b).sign()
    return _stepped(a - b, np.where(np.isnan(sign), np.nan, sign >= 0.0))


def _whole(at: Callable[[Array], Array], jumps_at: float) -> Callable[[Series], Series]:
    """Return the expansion rule of floor, ceil or round, which jump at whole numbers plus `jumps_at`."""

    def rule(a: Series) -> Series:
        start, error = a.constant()
        edge = np.rint(start - jumps_at) + jumps_at
        on_edge = np.abs(start - edge) <= error
        side = a.varying().sign()
        beside = np.where(side == 0.0, at(edge), at(edge + 0.25 * side))
        values = np.where(on_edge, beside, at(start))
        return _stepped(a, np.where(np.isfinite(start), values, np.nan))

    return rule


_floor = _whole(np.floor, 0.0)


def _quotient(a: Series, b: Series) -> Series:
    return uniform(a, 1.0).where(a.zero | a.vague, lost(a)) if a is b else a * _reciprocal(b)


def _atan2(a: Series, b: Series) -> Series:
    first = np.minimum(a.first, b.first)
    lead_a, lead_b = (np.where(x.first == first, x.terms[:, 0], 0.0) for x in (a, b))
    # On the branch cut, the side decides.
    lead_a = np.where((lead_a == 0.0) & (a.sign() < 0.0), -0.0, lead_a)
    begin = np.arctan2(lead_a, lead_b)
    slope = (b * _derived(a) - a * _derived(b)) * _reciprocal(a * a + b * b)
    found = _integrated(slope) + uniform(a, begin, KERNEL * np.abs(begin))
    found = found.where(a.zero & b.zero, zeros(a))
    found.gone = a.gone | b.gone
    return found.where((a.vague & (a.first <= b.first)) | (b.vague & (b.first <= a.first)), lost(a)).normal()


def _general_power(a: Series, b: Series) -> Series:
    exponent, _ = b.constant()
    moving = b.varying()
    fixed = moving.zero
    found = lost(a)
    for value in np.unique(exponent[np.isfinite(exponent)]):
        rows = exponent == value
        # a^b is a^(b at t = 0) times exp(change of b · ln a), which is smaller than any power of t.
        found = found.where(rows, _power(a, float(value)).only(np.where(fixed, a.length, moving.first)))
    regular = ~fixed & (a.first == 0) & (a.terms[:, 0] > 0.0)
    if regular.any():
        found = found.where(regular, _exp(b * _log(a.where(~regular, uniform(a, 1.0)))))
    outside = ~fixed & ~a.zero & (a.sign() < 0.0)
    found = found.where((~fixed & ~(exponent > 0.0) & ~regular) | (~fixed & a.vague), lost(a))
    found.gone = a.gone | b.gone | outside | (found.gone & fixed)
    return found.normal()


RULES: dict[str, Callable[..., Series]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": _quotient,
    "negate": lambda a: -a,
    "square": _square,
    "power": _general_power,
    "exp": _exp,
    "gaussian": lambda a: _exp(-_square(a)),
    "expm1": _by_slope(np.expm1, _exp),
    "log": _log,
    "log1p": _by_slope(np.log1p, lambda a: _reciprocal(_plus(a, 1.0))),
    "log2": _by_slope(np.log2, lambda a: _times(_reciprocal(a), 1.0 / math.log(2.0))),
    "log10": _by_slope(np.log10, lambda a: _times(_reciprocal(a), 1.0 / math.log(10.0))),
    "sqrt": _sqrt,
    "cbrt": lambda a: _power(a, 1.0 / 3.0, root=True),
    "sin": _sin,
    "cos": _cos,
    "tan": lambda a: _sin(a) * _reciprocal(_cos(a)),
    "asin": _by_slope(np.arcsin, lambda a: _power(_one_minus_square(a), -0.5)),
    "acos": _by_slope(np.arccos, lambda a: -_power(_one_minus_square(a), -0.5)),
    "atan": _by_slope(np.arctan, lambda a: _reciprocal(_plus(a * a, 1.0))),
    "atan2": _atan2,
    "sinh": _entire(np.sinh, np.cosh),
    "cosh": _cosh,
    "tanh": _by_slope(np.tanh, _inverse_cosh_square),
    "asinh": _by_slope(np.arcsinh, lambda a: _power(_plus(a * a, 1.0), -0.5)),
    "acosh": _by_slope(np.arccosh, lambda a: _power(_plus(a, -1.0) * _plus(a, 1.0), -0.5)),
    "atanh": _by_slope(np.arctanh, lambda a: _reciprocal(_one_minus_square(a))),
    "sigmoid": _sigmoid,
    "softplus": _by_slope(_softplus, _sigmoid),
    "erf": _by_slope(_erf, _bell),
    "erfc": _by_slope(_erfc, lambda a: -_bell(a)),
    "absolute": lambda a: a.where(a.sign() < 0.0, -a),
    "maximum": _maximum,
    "minimum": _minimum,
    "sign": lambda a: _stepped(a, a.sign()),
    "greater": _greater,
    "greater_equal": _greater_equal,
    "floor": _floor,
    "ceil": _whole(np.ceil, 0.0),
    "round": _whole(np.rint, 0.5),
    "mod": lambda a, b: a - b * _floor(_quotient(a, b)),
    "hypot": lambda a, b: _sqrt(a * a + b * b),
    "where": _where,
}
"""The expansion of each operation, by name, as a function of the expansions of its inputs."""


def expand(output: Node, nodes: Sequence[Node], variables: Mapping[Node, tuple[Array, Array]]) -> Series | None:
    """Return the expansion of `output` along rays; None where an operation has no rule. `nodes` are the nodes that
    `output` needs, in order; `variables` maps each variable to its points and directions, one number for each ray."""
    steps = 1
    while True:
        try:
            return _expanded(output, nodes, variables, steps)
        except Finer as finer:
            steps = finer.steps


def _expanded(
    output: Node, nodes: Sequence[Node], variables: Mapping[Node, tuple[Array, Array]], steps: int
) -> Series | None:
    found: dict[Node, Series] = {node: rays(*numbers, steps) for node, numbers in variables.items()}
    like = next(iter(found.values()))
    for node in nodes:
        if node in found:
            continue
        if node.value is not None:
            found[node] = uniform(like, node.value)
        elif node.operation.view is not None:
            found[node] = found[node.inputs[0]]
        else:
            rule = RULES.get(node.operation.name)
            if rule is None:
                return None
            found[node] = rule(*[found[x] for x in node.inputs])
    return found[output]
