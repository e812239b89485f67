"""The rounding of right gradients: by their precision, or as quotients of differences.

An entry is right within a relative tolerance of its own size, or within its own rounding. Rounding is measured: the
computation is repeated with random last digits of every value, and of every term of a sum (Monte Carlo arithmetic;
Parker 1997). So an entry is not right because it is small beside others, and not wrong because large numbers cancel.

Two more ways to compute a right gradient are recognised by their effect: float32, and quotients of differences with a
fitting step. Each allows as much as it explains, and no more. Numbers that are no float32, or no multiple of a possible
difference of two losses, are not excused as noise of that size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from service.engine.arrays import Array
from service.engine.insight.other_programs import OtherPrograms
from service.engine.insight.subject import Located

RELATIVE = 1e-7
"""Relative differences of an entry that are not called wrong."""
RELATIVE_FLOAT32 = 1e-5
"""Relative differences that are not called wrong in a gradient that was computed in float32."""
NOISES = 16.0
"""Largest error as a multiple of the measured noise, which was measured only a few times."""
REPEATS = 5
FEWER = 3
"""Repeats of large computations, where neighbours show what was missed."""
LARGE = 1e6
"""Operations of a large computation."""
STEPS = tuple(float(f"1e-{k}") for k in range(1, 13))
FINER = (5.0, 2.0)
LEAST = 0.09
"""Steps are tried between this share of a power of ten and the power."""
MOST_FITTING = 8
"""Steps that fit one number."""
FAR = 0.5
"""Largest error of differences with a sensible step, as a share of the largest entry."""
SMALLEST = {"float64": 1e-9, "float32": 1e-5}
"""The smallest step that is tried, by its rounding."""
FEWEST = 4
"""Fewest numbers that must fit an unusual step."""
USUAL = (1.4901161193847656e-08, 6.055454452393343e-06, 0.0003452669770922512, 0.004921566601151848)
"""Roots of the last digits, which many use as steps."""
TABLED = frozenset((*STEPS, *USUAL, *(factor * step for step in STEPS for factor in FINER)))
VISIBLE = 0.02
"""Noise of differences explains nothing by itself up to this share of the largest error of a tensor."""
MOST_VALUES = 10_000
TELLS = 0.05
"""Multiples with less rounding than this are significant."""
WHOLE_NUMBERS = 1e-3
"""Largest distance of a multiple from a whole number."""
MOSTLY = 0.95
"""Share of a tensor that must consist of such multiples."""
MOST_JUDGED = 400
"""Most numbers that are compared with a difference each; of more, some are chosen."""
CHOSEN = 24
SAMPLED = 64
"""Numbers whose digits are counted."""
TELLING = 6
"""Digits of a number that proves float32; others, such as 0.5, may be anything."""


@dataclass(frozen=True)
class Differences:
    """The finding that a claim was made of quotients of differences: (f(x + h) - f(x - h)) / 2h, or one-sided."""

    kind: str
    """`central_differences` or `forward_differences`."""
    step: float
    noise: float
    """The error that each may have."""


class Rounding:
    """The errors that rounding allows each entry of the gradient at a point."""

    def __init__(self, here: Located, seed: int, tolerance: float | None) -> None:
        self.here = here
        self.exact = here.gradient()
        self.value = here.value(here.point)
        self.relative = RELATIVE if tolerance is None else tolerance
        self.relative_float32 = RELATIVE_FLOAT32 if tolerance is None else tolerance
        self._others = OtherPrograms(here)
        self._generator = np.random.default_rng([seed, 3])
        self._values: dict[tuple[int, float], float] = {}
        self._allowed: dict[str, Array] = {}
        self.repeats = FEWER if here.subject.work > LARGE else REPEATS

    @cached_property
    def _float64(self) -> tuple[Array, float]:
        return self._others.spread(self._generator, float(np.finfo(np.float64).eps), self.repeats)

    @cached_property
    def _float32(self) -> tuple[Array, float]:
        return self._others.spread(self._generator, float(np.finfo(np.float32).eps), self.repeats)

    def noise(self, dtype: str) -> Array:
        """Return the noise of each entry of the gradient, flat, in a precision."""
        return (self._float32 if dtype == "float32" else self._float64)[0]

    def noise_of_value(self, dtype: str) -> float:
        """Return the noise of the loss in a precision."""
        digit = float(np.finfo(dtype).eps)
        return max(self._float64[1] * digit / float(np.finfo(np.float64).eps), digit * abs(self.value))

    def agrees(self, claim: Array) -> bool:
        """Return whether every entry of a claim agrees within the relative tolerance alone: a quick test."""
        return bool((np.abs(claim - self.exact) <= self.relative * np.abs(self.exact))[~np.isnan(claim)].all())

    def allowed(self, dtype: str) -> Array:
        """Return the error that each entry may have in a precision, flat."""
        if dtype not in self._allowed:
            relative = self.relative_float32 if dtype == "float32" else self.relative
            self._allowed[dtype] = relative * np.abs(self.exact) + NOISES * self.noise(dtype)
        return self._allowed[dtype]

    # --- quotients of differences ---

    def differences(self, claim: Array, wrong: Array, pieces: list[slice], dtype: str) -> Differences | None:
        """Return quotients of differences that give a claim; None if none do. `wrong` marks the entries that differ
        from the exact gradient, `pieces` are the tensors with such entries."""
        off = np.where(wrong, np.abs(claim - self.exact), 0.0)
        worst = int(off.argmax())
        noise = self.noise_of_value(dtype)
        if off[worst] > max(FAR * float(np.abs(self.exact).max()), NOISES * noise / SMALLEST[dtype]):
            return None
        asked = ~np.isnan(claim)
        first = largest(off, FEWEST)
        for kind, step in self._candidates(worst, float(claim[worst]), noise, SMALLEST[dtype]):
            allowed = NOISES * noise / abs(step)
            if not all(self._is_quotient(kind, int(place), step, claim, allowed) for place in first if asked[place]):
                continue
            found = Differences(kind, abs(step), allowed)
            if not self._is_evident(allowed, claim, off, pieces, step, kind, dtype):
                continue
            if abs(step) not in TABLED and int((off > allowed).sum()) < FEWEST:
                continue  # some step explains any single number
            if all(self._is_quotient(kind, place, step, claim, allowed) for place in self._places(off, asked, pieces)):
                return found
        return None

    def _is_quotient(self, kind: str, place: int, step: float, claim: Array, allowed: float) -> bool:
        off = abs(self._quotient(kind, place, step) - claim[place])
        return bool(off <= allowed + self.relative * abs(claim[place]))

    def _candidates(self, place: int, claimed: float, noise: float, least: float) -> Iterator[tuple[str, float]]:
        """Yield kinds of differences and steps that give the claimed number at a place. The largest step of each kind
        comes first."""
        exact = float(self.exact[place])
        error = claimed - exact
        for kind, order in (("central_differences", 2.0), ("forward_differences", 1.0)):
            for sign in (1.0, -1.0) if order == 1.0 else (1.0,):
                fitting = 0
                for step in STEPS:
                    if step < 0.9 * least:
                        break
                    quotient = self._quotient(kind, place, sign * step)
                    finer: list[float] = []
                    fits = abs(quotient - claimed) <= NOISES * noise / step
                    if fits:
                        finer = [factor * step for factor in FINER]
                        finer += [usual for usual in USUAL if step < usual < 10.0 * step]
                    ratio = error / (quotient - exact) if quotient != exact else 0.0
                    if not fitting and not fits and LEAST**order <= ratio < 1.0:
                        finer = self._near(kind, place, sign, claimed, step * ratio ** (1.0 / order), noise)
                    for each in finer:
                        if abs(self._quotient(kind, place, sign * each) - claimed) <= NOISES * noise / each:
                            yield kind, sign * each
                            fitting += 1
                    if fits:
                        yield kind, sign * step
                        fitting += 1
                    if fitting > MOST_FITTING:
                        break

    def _near(self, kind: str, place: int, sign: float, claimed: float, guess: float, noise: float) -> list[float]:
        """Return usual steps near a guess, and the guess itself, that give the claimed number."""
        tried = [step for step in sorted(TABLED) if abs(step / guess - 1.0) < 0.3] + [guess]
        return [
            step
            for step in tried
            if abs(self._quotient(kind, place, sign * step) - claimed)
            <= NOISES * noise / step + 1e-3 * abs(claimed - float(self.exact[place])) * (step == guess)
        ]

    def _quotient(self, kind: str, place: int, step: float) -> float:
        ahead = self._value(place, step)
        if kind == "forward_differences":
            return (ahead - self.value) / step
        return (ahead - self._value(place, -step)) / (2.0 * step)

    def _value(self, place: int, step: float) -> float:
        """Return the loss with one parameter moved by a step, computed once for all claims."""
        found = self._values.get((place, step))
        if found is None:
            moved = self.here.point.copy()
            moved[place] += step
            if len(self._values) >= MOST_VALUES:
                self._values.clear()
            found = self._values[place, step] = self.here.value(moved)
        return found

    def _is_evident(
        self, allowed: float, claim: Array, off: Array, pieces: list[slice], step: float, kind: str, dtype: str
    ) -> bool:
        """Return whether quotients of differences are a better explanation of a claim than its noise.

        They are if they explain much more than their allowed noise in each differing tensor, or if the claim consists
        of possible differences: multiples of the last digit of the loss.
        """
        evident = False
        for piece in pieces:
            if allowed <= VISIBLE * float(off[piece].max(initial=0.0)):
                evident = True
                continue
            span = abs(step) * (2.0 if kind == "central_differences" else 1.0)
            unit = float(np.spacing(np.asarray(abs(self.value), dtype))) / span / 2.0
            multiples = claim[piece][~np.isnan(claim[piece])] / unit
            whole = np.rint(multiples)
            room = WHOLE_NUMBERS + 4.0 * np.finfo(np.float64).eps * np.abs(multiples)
            near = np.where(whole == 0.0, multiples == 0.0, (np.abs(multiples - whole) <= room) & (room < TELLS))
            if np.mean(near) < MOSTLY:
                return False
            evident = evident or bool(whole.any())
        return evident

    def _places(self, off: Array, chosen_from: Array, pieces: list[slice]) -> list[int]:
        """Return the entries to compare with a difference each, the farthest off first."""
        asked = np.flatnonzero(chosen_from)
        if asked.size <= MOST_JUDGED and self.exact.size <= MOST_JUDGED:
            return [int(place) for place in asked[np.argsort(-off[asked], kind="stable")]]
        chosen = set(asked[np.argsort(-off[asked], kind="stable")][: CHOSEN // 4].tolist())
        for piece in pieces:
            inside = np.arange(piece.start, piece.stop)
            chosen |= set(inside[np.argsort(-off[piece], kind="stable")][:2].tolist())
        chosen |= set(self._generator.choice(asked, min(CHOSEN, asked.size), replace=False).tolist())
        return sorted((place for place in chosen if chosen_from[place]), key=lambda place: -off[place])


def largest(numbers: Array, count: int) -> Array:
    """Return the places of the `count` largest numbers, the largest first, without sorting all numbers."""
    if count >= numbers.size:
        return np.argsort(-numbers, kind="stable")
    chosen = np.sort(np.argpartition(-numbers, count)[:count])
    ordered: Array = chosen[np.argsort(-numbers[chosen], kind="stable")]
    return ordered


def is_float32(numbers: Array) -> bool:
    """Return whether numbers are float32, exactly or as the shortest decimals of them, and not all of few digits."""
    numbers = numbers[~np.isnan(numbers)]
    if not numbers.size:
        return False
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    other = np.flatnonzero(narrow.astype(np.float64) != numbers)
    sample = other[:: max(1, other.size // SAMPLED)]
    if not all(float(str(narrow[place])) == float(numbers[place]) for place in sample):
        return False
    return any(_digits(str(number)) >= TELLING for number in narrow[:: max(1, narrow.size // SAMPLED)])


def _digits(text: str) -> int:
    """Return how many significant digits a decimal has."""
    return len(text.split("e")[0].lstrip("-0.").replace(".", "").rstrip("0"))
