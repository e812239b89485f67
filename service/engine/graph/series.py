"""What a computation does just beside a point: its expansion along rays, on one side.

Along a ray p + t d, t > 0, everything that the elementwise operations compute is a sum of powers of t, with broken
powers below a root. Here each such value is its first terms. |x| is x or -x as the first term says, a root halves
the exponents, and 0 · ∞ is the product of two powers. So the first two derivatives along a ray are read off, also
where no formula for a derivative has a value.

Each coefficient has a bound of its rounding error. A first term within its error counts as 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction

import numpy as np

from service.engine.graph.ir import Array, Node

EPS = float(np.finfo(np.float64).eps)
DEPTH = 6
"""Terms are kept up to this power of t above the first one."""
FINEST = 12
"""Powers of t are multiples of one over at most this."""
MOST_DENOMINATOR = 12
FAR = 10**7
"""Where the terms of an exact zero would begin, in steps."""
KERNEL = 8.0 * EPS
"""What one call of a kernel rounds, beside its result."""


class Finer(Exception):
    """A root needs powers that are multiples of a smaller step: `steps` of them for each whole power."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.steps = steps


class Series:
    """Expansions along several rays: `terms[r, k]` is the coefficient of t^((first[r] + k) / steps)."""

    __slots__ = ("ends", "errors", "first", "gone", "known", "steps", "terms")

    def __init__(
        self,
        first: Array,
        terms: Array,
        errors: Array,
        known: Array,
        gone: Array,
        steps: int,
        ends: Array | None = None,
    ) -> None:
        self.first = first
        """(rays,) whole numbers"""
        self.terms = terms
        """(rays, terms); those that are not known are 0."""
        self.errors = errors
        """(rays, terms): how wrong each coefficient may be."""
        self.known = known
        """(rays,): how many of the terms are known; of the rest only where it begins."""
        self.gone = gone
        """(rays,): where there is no value beside the point."""
        self.ends = np.zeros(len(first), bool) if ends is None else ends
        """(rays,): where there are no more terms than these."""
        self.steps = steps

    @property
    def length(self) -> int:
        return int(self.terms.shape[1])

    @property
    def zero(self) -> Array:
        """Where it is 0 all along the ray."""
        found: Array = self.first >= FAR // 2
        return found

    @property
    def vague(self) -> Array:
        """Where not even the first term is known."""
        found: Array = self.known == 0
        return found & ~self.zero

    @property
    def degree(self) -> Array:
        """The place of the last term; 0 of an exact zero."""
        there = self.terms != 0.0
        last: Array = np.where(self.zero, -self.first, self.length - 1 - there[:, ::-1].argmax(1))
        return np.where(there.any(1) | self.zero, last, 0)

    def normal(self) -> Series:
        """The same without first terms that are 0 within their errors."""
        length = self.length
        places = np.arange(length)
        self.known = np.where(self.ends, length, np.clip(self.known, 0, length))
        self._forget(np.isnan(self.terms).any(1) & ~self.gone)
        inside = places < self.known[:, None]
        # What is infinite, or no number, stands: nothing is known of what comes after it.
        significant = inside & ~((np.abs(self.terms) <= self.errors) & np.isfinite(self.terms))
        some = significant.any(1)
        shift = np.where(some, significant.argmax(1), self.known)
        shift[self.zero] = 0
        self.first = np.where(self.ends & ~some, FAR, self.first)
        if shift.any():
            index = places + shift[:, None]
            beyond = index >= length
            index = np.minimum(index, length - 1)
            self.terms = np.where(beyond, 0.0, np.take_along_axis(self.terms, index, 1))
            self.errors = np.where(beyond, 0.0, np.take_along_axis(self.errors, index, 1))
            self.first = self.first + shift
            self.known = np.where(self.ends, length, self.known - shift)
        outside = places >= self.known[:, None]
        self.terms = np.where(outside, 0.0, self.terms)
        self.errors = np.where(outside, 0.0, self.errors)
        return self

    def _forget(self, rows: Array) -> None:
        """Where a term is not a number nothing is known."""
        if rows.any():
            self.terms, self.errors = (
                np.where(rows[:, None], 0.0, self.terms),
                np.where(rows[:, None], 0.0, self.errors),
            )
            self.first, self.known = np.where(rows, -FAR // 4, self.first), np.where(rows, 0, self.known)
            self.ends = self.ends & ~rows

    def at(self, first: Array) -> tuple[Array, Array, Array]:
        """Terms, errors and known, counted from another place at or before the first term."""
        lag = np.minimum(self.first - first, self.length)
        if not lag.any():
            return self.terms, self.errors, self.known
        index = np.arange(self.length) - lag[:, None]
        before = index < 0
        index = np.maximum(index, 0)
        terms = np.where(before, 0.0, np.take_along_axis(self.terms, index, 1))
        errors = np.where(before, 0.0, np.take_along_axis(self.errors, index, 1))
        return terms, errors, np.minimum(self.known + lag, self.length)

    def constant(self) -> tuple[Array, Array]:
        """The term of t^0 and its error; infinite where powers below it come first."""
        value = np.where((self.first == 0) & (self.known > 0), self.terms[:, 0], 0.0)
        error = np.where((self.first == 0) & (self.known > 0), self.errors[:, 0], 0.0)
        unbounded = (self.first < 0) & ~self.zero
        value = np.where(unbounded, np.where(self.known > 0, np.copysign(np.inf, self.terms[:, 0]), np.nan), value)
        return np.where((self.first == 0) & (self.known == 0), np.nan, value), error

    def __add__(self, other: Series) -> Series:
        first = np.minimum(self.first, other.first)
        a, a_errors, a_known = self.at(first)
        b, b_errors, b_known = other.at(first)
        terms = a + b
        errors = a_errors + b_errors + EPS * np.abs(terms)
        # Terms beyond the last place would be lost.
        ends = self.ends & other.ends & (self.first + self.degree < first + self.length)
        ends &= other.first + other.degree < first + self.length
        known = np.minimum(a_known, b_known)
        return Series(first, terms, errors, known, self.gone | other.gone, self.steps, ends).normal()

    def __neg__(self) -> Series:
        return Series(self.first, -self.terms, self.errors, self.known, self.gone, self.steps, self.ends)

    def __sub__(self, other: Series) -> Series:
        return _zeros(self) if other is self else self + -other

    def __mul__(self, other: Series) -> Series:
        terms, errors = np.zeros_like(self.terms), np.zeros_like(self.terms)
        sizes, other_sizes = np.abs(self.terms), np.abs(other.terms)
        for k in range(self.length):
            column, wrong = self.terms[:, k : k + 1], self.errors[:, k : k + 1]
            if not (column.any() or wrong.any()):
                continue
            rest = self.length - k
            terms[:, k:] += column * other.terms[:, :rest]
            errors[:, k:] += sizes[:, k : k + 1] * (other.errors[:, :rest] + 2.0 * EPS * other_sizes[:, :rest])
            errors[:, k:] += wrong * (other_sizes[:, :rest] + other.errors[:, :rest])
        first = np.minimum(self.first + other.first, FAR)
        product = Series(first, terms, errors, np.minimum(self.known, other.known), self.gone | other.gone, self.steps)
        endless = np.isinf(self.terms[:, 0]) | np.isinf(other.terms[:, 0])
        return product.where(self.zero | other.zero, _zeros(self)).where(endless, _lost(self)).normal()

    def where(self, rows: Array, other: Series) -> Series:
        """The other one in some rows."""
        if not rows.any():
            return self
        column = rows[:, None]
        return Series(
            np.where(rows, other.first, self.first),
            np.where(column, other.terms, self.terms),
            np.where(column, other.errors, self.errors),
            np.where(rows, other.known, self.known),
            np.where(rows, other.gone | self.gone, self.gone),
            self.steps,
            np.where(rows, other.ends, self.ends),
        )

    def only(self, known: Array) -> Series:
        """The same with no more terms than so many known."""
        ends = self.ends & (known >= self.length)
        return Series(
            self.first, self.terms, self.errors, np.minimum(self.known, known), self.gone, self.steps, ends
        ).normal()

    def varying(self) -> Series:
        """Without its term of t^0, where that is the first one."""
        terms, errors = self.terms.copy(), self.errors.copy()
        rows = (self.first == 0) & (self.known > 0)
        terms[rows, 0], errors[rows, 0] = 0.0, 0.0
        return Series(self.first, terms, errors, self.known, self.gone, self.steps, self.ends.copy()).normal()

    def sign(self) -> Array:
        """-1, 0 or 1 beside the point; not a number where that is not known."""
        found: Array = np.sign(self.terms[:, 0])
        return np.where(self.zero, 0.0, np.where(self.known > 0, found, np.nan))


def _zeros(like: Series) -> Series:
    rows, length = like.terms.shape
    nothing = np.zeros((rows, length))
    gone, ends = np.zeros(rows, bool), np.ones(rows, bool)
    return Series(np.full(rows, FAR), nothing, nothing, np.full(rows, length), gone, like.steps, ends)


def _lost(like: Series) -> Series:
    """Of which nothing is known."""
    found = _zeros(like)
    found.first, found.known = np.full_like(found.first, -FAR // 4), np.zeros_like(found.known)
    found.ends = np.zeros_like(found.ends)
    return found


def _constant(like: Series, value: Array | float, error: Array | float = 0.0) -> Series:
    found = _zeros(like)
    values = np.broadcast_to(np.asarray(value, float), found.first.shape)
    errors = np.broadcast_to(np.asarray(error, float), found.first.shape)
    found.first = np.where((values == 0.0) & (errors == 0.0), FAR, 0)
    found.terms, found.errors = found.terms.copy(), found.errors.copy()
    found.terms[:, 0], found.errors[:, 0] = values, errors
    return found.normal()


def rays(point: Array, directions: Array, steps: int) -> Series:
    """One variable along each ray: point + t direction, arrays of one number for each ray."""
    length = DEPTH * steps + 1
    terms = np.zeros((len(point), length))
    moves, there = directions != 0.0, point != 0.0
    terms[:, 0] = np.where(there, point, directions)
    both = moves & there
    terms[both, steps] = directions[both]
    first = np.where(there, 0, np.where(moves, steps, FAR))
    count = len(point)
    gone, ends = np.zeros(count, bool), np.ones(count, bool)
    return Series(first, terms, np.zeros_like(terms), np.full(count, length), gone, steps, ends)


# --- functions ----------------------------------------------------------------------------------


def _power(a: Series, exponent: float, *, root: bool = False) -> Series:
    """a to a power that is the same along all rays; `root`: a cube root, which negative numbers have too."""
    whole = float(exponent).is_integer()
    if exponent == 0.0:
        return _constant(a, 1.0)
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
        return found.where(a.zero | a.vague | endless, _lost(a)).normal()
    return found.where(a.zero, _zeros(a)).where(endless, _lost(a)).normal()


def _derived(a: Series) -> Series:
    exponents = (a.first[:, None] + np.arange(a.length)) / a.steps
    found = Series(
        a.first - a.steps,
        a.terms * exponents,
        a.errors * np.abs(exponents),
        a.known,
        a.gone,
        a.steps,
        a.ends,
    )
    return found.where(a.zero, _zeros(a)).normal()


def _integrated(a: Series) -> Series:
    """From t = 0 on; nothing is known where that is infinite."""
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
    return found.where(a.zero, _zeros(a)).where(endless, _lost(a)).normal()


def _unbounded(a: Series) -> Array:
    """Where an argument is infinite, or may be anything."""
    return ((a.first < 0) & ~a.zero) | (a.vague & (a.first <= 0)) | np.isinf(a.constant()[0])


def _by_slope(value: Callable[[Array], Array], slope: Callable[[Series], Series]) -> Callable[[Series], Series]:
    """A function of a bounded argument from its value at a number and its slope."""

    def rule(a: Series) -> Series:
        start, error = a.constant()
        steep = slope(a)
        gain = np.abs(steep.constant()[0])
        begin = value(start)
        begin_error = KERNEL * np.abs(begin) + np.where(error > 0.0, gain * error, 0.0)
        change = _derived(a)
        found = _integrated(steep * change) + _constant(a, begin, begin_error)
        # What does not change along the ray needs no slope.
        found.gone = np.where(change.zero, a.gone, found.gone) | (np.isnan(begin) & ~np.isnan(start))
        # An infinite value ends what can be said, but it can be compared.
        found = found.where(np.isinf(begin), _constant(a, begin))
        return found.where(_unbounded(a), _lost(a)).normal()

    return rule


def _entire(*cycle: Callable[[Array], Array]) -> Callable[[Series], Series]:
    """A function from its derivatives, which repeat."""

    def rule(a: Series) -> Series:
        start, error = a.constant()
        values = [derivative(start) for derivative in cycle]
        moving = a.varying()
        order = 1 if moving.zero.all() else a.length // max(1, int(np.where(moving.zero, FAR, moving.first).min())) + 1
        dense = moving.at(np.minimum(moving.first, 0))
        base = Series(np.zeros_like(a.first), *dense, moving.gone, a.steps)
        inner = _zeros(a)
        for k in range(order, 0, -1):
            value, onwards = values[k % len(cycle)], values[(k + 1) % len(cycle)]
            factor = 1.0 / math.factorial(min(k, 170))
            coefficient = _constant(a, factor * value, factor * (KERNEL * np.abs(value) + np.abs(onwards) * error))
            inner = inner * base + coefficient
        begin = _constant(a, values[0], KERNEL * np.abs(values[0]) + np.abs(values[1 % len(cycle)]) * error)
        return (begin + moving * inner).where(_unbounded(a), _lost(a)).normal()

    return rule


_exp_bounded = _entire(np.exp)


def _exp(a: Series) -> Series:
    # exp(-1/t) is less than every power of t.
    return _exp_bounded(a).where((a.first < 0) & (a.known > 0) & (a.terms[:, 0] < 0.0), _zeros(a))


def _plus(a: Series, number: float) -> Series:
    return a + _constant(a, number)


def _times(a: Series, number: float) -> Series:
    return a * _constant(a, number)


def _reciprocal(a: Series) -> Series:
    return _power(a, -1.0)


def _sqrt(a: Series) -> Series:
    return _power(a, 0.5)


def _square(a: Series) -> Series:
    return a * a


def _inverse_cosh_square(a: Series) -> Series:
    return _power(_cosh(a), -2.0)


def _one_minus_square(a: Series) -> Series:
    one = _constant(a, 1.0)
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


def _tan(a: Series) -> Series:
    return _sin(a) * _reciprocal(_cos(a))


def _absolute(a: Series) -> Series:
    return a.where(a.sign() < 0.0, -a)


def _choose(a: Series, b: Series, sign: Array, difference: Series) -> Series:
    """b where the sign is negative, else a; where the two cannot be told apart, what they have in common."""
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


def _stepped(a: Series, values: Array) -> Series:
    found = _constant(a, np.nan_to_num(values)).where(np.isnan(values), _lost(a))
    found.gone = a.gone
    return found


def _sign(a: Series) -> Series:
    return _stepped(a, a.sign())


def _greater(a: Series, b: Series) -> Series:
    sign = (a - b).sign()
    return _stepped(a - b, np.where(np.isnan(sign), np.nan, sign > 0.0))


def _greater_equal(a: Series, b: Series) -> Series:
    sign = (a - b).sign()
    return _stepped(a - b, np.where(np.isnan(sign), np.nan, sign >= 0.0))


def _whole(at: Callable[[Array], Array], jumps_at: float) -> Callable[[Series], Series]:
    """Floor, ceil or round, which jump at whole numbers plus something."""

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
    return _constant(a, 1.0).where(a.zero | a.vague, _lost(a)) if a is b else a * _reciprocal(b)


def _mod(a: Series, b: Series) -> Series:
    return a - b * _floor(_quotient(a, b))


def _hypot(a: Series, b: Series) -> Series:
    return _sqrt(a * a + b * b)


def _atan2(a: Series, b: Series) -> Series:
    first = np.minimum(a.first, b.first)
    lead_a, lead_b = (np.where(x.first == first, x.terms[:, 0], 0.0) for x in (a, b))
    # On the cut the side decides.
    lead_a = np.where((lead_a == 0.0) & (a.sign() < 0.0), -0.0, lead_a)
    begin = np.arctan2(lead_a, lead_b)
    slope = (b * _derived(a) - a * _derived(b)) * _reciprocal(a * a + b * b)
    found = _integrated(slope) + _constant(a, begin, KERNEL * np.abs(begin))
    found = found.where(a.zero & b.zero, _zeros(a))
    found.gone = a.gone | b.gone
    return found.where((a.vague & (a.first <= b.first)) | (b.vague & (b.first <= a.first)), _lost(a)).normal()


def _general_power(a: Series, b: Series) -> Series:
    exponent, _ = b.constant()
    moving = b.varying()
    fixed = moving.zero
    found = _lost(a)
    for value in np.unique(exponent[np.isfinite(exponent)]):
        rows = exponent == value
        # a^b is a^(its exponent here) times exp of what b adds, times ln a: less than any power of t.
        found = found.where(rows, _power(a, float(value)).only(np.where(fixed, a.length, moving.first)))
    regular = ~fixed & (a.first == 0) & (a.terms[:, 0] > 0.0)
    if regular.any():
        found = found.where(regular, _exp(b * _log(a.where(~regular, _constant(a, 1.0)))))
    outside = ~fixed & ~a.zero & (a.sign() < 0.0)
    found = found.where((~fixed & ~(exponent > 0.0) & ~regular) | (~fixed & a.vague), _lost(a))
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
    "tan": _tan,
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
    "absolute": _absolute,
    "maximum": _maximum,
    "minimum": _minimum,
    "sign": _sign,
    "greater": _greater,
    "greater_equal": _greater_equal,
    "floor": _floor,
    "ceil": _whole(np.ceil, 0.0),
    "round": _whole(np.rint, 0.5),
    "mod": _mod,
    "hypot": _hypot,
}
"""By the name of an operation: its expansion from those of its inputs."""


def expand(output: Node, nodes: Sequence[Node], variables: Mapping[Node, tuple[Array, Array]]) -> Series | None:
    """The expansion of `output` along rays; None where an operation has no rule.

    `nodes` are those it needs, in order; `variables` gives the points and the directions, a number for each ray.
    """
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
            found[node] = _constant(like, node.value)
        elif node.operation.view is not None:
            found[node] = found[node.inputs[0]]
        else:
            rule = RULES.get(node.operation.name)
            if rule is None:
                return None
            found[node] = rule(*[found[x] for x in node.inputs])
    return found[output]
