"""Expansions of functions along rays from a point: what they do just beside the point, on one side.

Along a ray p + t d, t > 0, every elementwise operation gives a sum of powers of t, with fractional powers below a root.
A `Series` holds the first terms. The first term decides whether |x| is x or -x, a root halves the exponents, and 0 · ∞
is the product of two powers. So the first two derivatives along a ray can be read off, also where no formula for a
derivative has a value.

Each coefficient has a bound on its rounding error. A first term within its error counts as 0.
"""

from __future__ import annotations

import numpy as np

from service.engine.arrays import Array

EPS = float(np.finfo(np.float64).eps)
DEPTH = 6
"""Terms are kept up to this power of t above the first one."""
FINEST = 12
"""The finest step between powers of t is one over this."""
MOST_DENOMINATOR = 12
FAR = 10**7
"""The first power of an exact zero, in steps."""
KERNEL = 8.0 * EPS
"""The rounding error of one call of a kernel, relative to its result."""


class Finer(Exception):
    """Raised where a root needs smaller steps between powers of t: `steps` of them for each whole power."""

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
        """(rays, terms): the coefficients; unknown ones are 0."""
        self.errors = errors
        """(rays, terms): a bound on the error of each coefficient."""
        self.known = known
        """(rays,): the number of known terms."""
        self.gone = gone
        """(rays,): true where the function has no value beside the point."""
        self.ends = np.zeros(len(first), bool) if ends is None else ends
        """(rays,): true where the series ends with these terms."""
        self.steps = steps

    @property
    def length(self) -> int:
        return int(self.terms.shape[1])

    @property
    def zero(self) -> Array:
        """(rays,): true where the series is exactly 0."""
        found: Array = self.first >= FAR // 2
        return found

    @property
    def vague(self) -> Array:
        """(rays,): true for a ray along which not even the first term of the series is known."""
        found: Array = self.known == 0
        return found & ~self.zero

    @property
    def degree(self) -> Array:
        """The position of the last term; 0 for an exact zero."""
        there = self.terms != 0.0
        last: Array = np.where(self.zero, -self.first, self.length - 1 - there[:, ::-1].argmax(1))
        return np.where(there.any(1) | self.zero, last, 0)

    def normal(self) -> Series:
        """Remove first terms that are 0 within their errors, in place; return the series."""
        length = self.length
        places = np.arange(length)
        self.known = np.where(self.ends, length, np.clip(self.known, 0, length))
        self._forget(np.isnan(self.terms).any(1) & ~self.gone)
        inside = places < self.known[:, None]
        # An infinite term, or one that is not a number, stays: no later term is known.
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
        """Make the series unknown along the given rays, in place."""
        if rows.any():
            self.terms, self.errors = (
                np.where(rows[:, None], 0.0, self.terms),
                np.where(rows[:, None], 0.0, self.errors),
            )
            self.first, self.known = np.where(rows, -FAR // 4, self.first), np.where(rows, 0, self.known)
            self.ends = self.ends & ~rows

    def at(self, first: Array) -> tuple[Array, Array, Array]:
        """Return terms, errors and the number of known terms, counted from the power `first` of each ray. `first` is at
        or before the first term."""
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
        """Return the coefficient of t^0 and its error; infinite where the series has negative powers."""
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
        return zeros(self) if other is self else self + -other

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
        return product.where(self.zero | other.zero, zeros(self)).where(endless, lost(self)).normal()

    def where(self, rows: Array, other: Series) -> Series:
        """Return `other` along the given rays, and this series along all others."""
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
        """Return the series with only the first `known` terms of each ray known."""
        ends = self.ends & (known >= self.length)
        return Series(
            self.first, self.terms, self.errors, np.minimum(self.known, known), self.gone, self.steps, ends
        ).normal()

    def varying(self) -> Series:
        """Return the series without its term of t^0, if that is the first one: what changes along the ray."""
        terms, errors = self.terms.copy(), self.errors.copy()
        rows = (self.first == 0) & (self.known > 0)
        terms[rows, 0], errors[rows, 0] = 0.0, 0.0
        return Series(self.first, terms, errors, self.known, self.gone, self.steps, self.ends.copy()).normal()

    def sign(self) -> Array:
        """Return the sign just beside the point, -1, 0 or 1 for each ray; NaN where it is unknown."""
        found: Array = np.sign(self.terms[:, 0])
        return np.where(self.zero, 0.0, np.where(self.known > 0, found, np.nan))


def zeros(like: Series) -> Series:
    """Return the series that is exactly 0, along as many rays as `like` has."""
    rows, length = like.terms.shape
    nothing = np.zeros((rows, length))
    gone, ends = np.zeros(rows, bool), np.ones(rows, bool)
    return Series(np.full(rows, FAR), nothing, nothing, np.full(rows, length), gone, like.steps, ends)


def lost(like: Series) -> Series:
    """Return a series of which nothing is known, along as many rays as `like` has."""
    found = zeros(like)
    found.first, found.known = np.full_like(found.first, -FAR // 4), np.zeros_like(found.known)
    found.ends = np.zeros_like(found.ends)
    return found


def uniform(like: Series, value: Array | float, error: Array | float = 0.0) -> Series:
    """Return a series that does not change along the rays of `like`: a number, or one for each ray."""
    found = zeros(like)
    values = np.broadcast_to(np.asarray(value, float), found.first.shape)
    errors = np.broadcast_to(np.asarray(error, float), found.first.shape)
    found.first = np.where((values == 0.0) & (errors == 0.0), FAR, 0)
    found.terms, found.errors = found.terms.copy(), found.errors.copy()
    found.terms[:, 0], found.errors[:, 0] = values, errors
    return found.normal()


def rays(point: Array, directions: Array, steps: int) -> Series:
    """Return the series of one variable, point + t direction, given both numbers for each ray."""
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
