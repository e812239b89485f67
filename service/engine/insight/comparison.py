"""The comparison of a gradient with the complex step: entry by entry, or along random directions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array
from service.engine.insight.check_report import VERDICTS, CheckedEntry, TensorCheck
from service.engine.insight.subject import SMALLEST_SLOPE, Located
from service.engine.network.flat import Piece

EACH = 200
"""Most numbers with an evaluation each."""
MOST_EVALUATED = 100_000
"""Operations that these evaluations make together, at most."""
PROBES = 3
"""Random directions through all entries of a larger tensor."""
ROUNDINGS = 10.0
"""Largest error as a multiple of the measured noise, which was measured only a few times."""
DIGITS = 64.0
"""Last digits of the largest entry of a tensor that any entry may be off."""
LARGEST_NOISE = 1e-6
"""Noise that hides an error leaves a verdict in doubt above this share of gradient and value."""
SMALLEST_WEIGHT = 1e-8
"""Entries below this share of the largest of their tensor weigh less in probes."""
MOST_EXAMINED = 8
"""Entries of a tensor that are judged one by one where a claim differs in many."""
MOST_HALVINGS = 200
"""Evaluations that a search for wrong entries takes."""
ASIDE = 1e-6
"""The distance from a kink at which its slopes are taken."""
ASIDE_TOLERANCE = 1e-4
JUMP = 0.1
"""Slopes of two sides that differ by this share of it still when they are a hundred times nearer differ by a jump."""
MOST_SIDES = 50
"""Most entries with slopes on both sides of a kink."""


@dataclass
class Evidence:
    """The measurements of a check at its point, to judge any tested gradient there."""

    here: Located
    exact: Array
    """The exact gradient, flat."""
    value: float
    digit: float
    """The relative rounding of a number in the precision that is checked."""
    generator: np.random.Generator
    has_ties: bool
    """True if an operation stands exactly at a kink or a jump."""
    noise: Array
    """The noise of each entry of the gradient."""

    @property
    def judges_each(self) -> bool:
        """True if there are few enough entries for an evaluation of each."""
        size = self.here.subject.space.size
        return size <= EACH and size * len(self.here.subject.moving) <= MOST_EVALUATED

    def direction(self, mask: Array) -> Array:
        """Return a random direction of length 1 through the entries that `mask` marks, flat."""
        direction = self.generator.standard_normal(self.here.subject.space.size) * mask
        length = math.sqrt(product(direction, direction))
        unit: Array = direction / length if length > 0.0 else direction
        return unit


class EntryComparison:
    """The comparison of a tested gradient with the complex step, entry by entry."""

    def __init__(self, evidence: Evidence, tested: Array, tolerance: float) -> None:
        self.evidence, self.tested, self.tolerance = evidence, tested, tolerance
        self.here, self.exact = evidence.here, evidence.exact
        self.space = self.here.subject.space
        self.labels: list[str] | None = None

    def judged(self, piece: Piece, places: Array, compared: str) -> TensorCheck:
        """Judge the entries of a tensor at these places of the flat gradient, each by an evaluation. `compared` names
        the kind of comparison in the result."""
        found = TensorCheck(piece.path, piece.stop - piece.start, "right", compared, 0.0)
        allowed = self.allowed(piece)
        for place in places.tolist():
            claimed = float(self.tested[place])
            if math.isnan(claimed):
                continue
            verdict, reference, sides = self._judge(place, claimed, float(allowed[place - piece.start]))
            entry = self.entry(place, reference)
            found.wrong += verdict == "wrong"
            worse = VERDICTS.index(verdict) - VERDICTS.index(found.verdict)
            if worse > 0 or (worse == 0 and entry.error > found.error):
                found.verdict, found.worst, found.sides = verdict, entry, sides
                found.error = entry.error
        if found.verdict == "wrong" and len(places) > 1:
            found.ratio = self._ratio_of(piece)
        return found

    def _ratio_of(self, piece: Piece) -> float | None:
        part = slice(piece.start, piece.stop)
        return ratio(self.tested[part], self.exact[part])

    def _judge(self, place: int, claimed: float, allowed: float) -> tuple[str, float, tuple[float, float] | None]:
        """Return the verdict on one entry, its slope and, at a kink, the slopes on both sides."""
        unit = np.zeros(self.space.size)
        unit[place] = 1.0
        reference = self.here.along(unit)
        off = abs(claimed - reference)
        noise = ROUNDINGS * float(self.evidence.noise[place])
        if off > allowed and not self.evidence.has_ties:  # at a tie, other digits take another branch
            noise += ROUNDINGS * self.here.along_with_noise(unit, self.evidence.generator).noise
        if off <= allowed - ROUNDINGS * float(self.evidence.noise[place]) or (
            off <= allowed + noise and self._is_small(noise)
        ):
            return "right", reference, None
        if off <= max(allowed + noise, SMALLEST_SLOPE):
            return "unsure", reference, None
        sides = self._sides(unit) if self.evidence.has_ties else None
        if sides is not None and between(claimed, reference, sides):
            return "right" if between(sides[0], sides[1], (sides[1], sides[1])) else "kink", reference, sides
        return "wrong", reference, None

    def _is_small(self, noise: float) -> bool:
        """Return whether noise is negligible beside the gradient and the value."""
        return noise <= LARGEST_NOISE * max(float(np.abs(self.exact).max()), abs(self.evidence.value), LARGEST_NOISE)

    def _sides(self, unit: Array, distance: float = ASIDE) -> tuple[float, float]:
        """Return the slopes along a direction of length 1, just before and just behind the point."""
        size = distance * max(1.0, float(np.abs(self.here.point @ unit)))
        before, behind = (self.here.moved(self.here.point + sign * size * unit).along(unit) for sign in (-1.0, 1.0))
        return before, behind

    def _jumps(self, direction: Array) -> bool:
        """Return whether the slope along a direction jumps at the point."""
        (a, b), (c, d) = self._sides(direction), self._sides(direction, 0.01 * ASIDE)
        return abs(c - d) > JUMP * abs(a - b) and abs(c - d) > ASIDE_TOLERANCE * max(abs(c), abs(d))

    def allowed(self, piece: Piece) -> Array:
        """Return the largest error that each entry of a tensor may have and still be right."""
        part = slice(piece.start, piece.stop)
        exact = np.abs(self.exact[part])
        rounding = ROUNDINGS * self.evidence.noise[part] + DIGITS * self.evidence.digit * exact.max()
        allowed: Array = rounding + self.tolerance * exact
        return allowed

    def _kink(self, piece: Piece) -> tuple[CheckedEntry, tuple[float, float]] | None:
        """Return an entry with different slopes on both sides of the point, and these slopes. For a large tensor, a
        random direction through all entries takes the place of an entry. None if there is no kink."""
        places = range(piece.start, piece.stop) if piece.stop - piece.start <= MOST_SIDES else ()
        for place in places:
            unit = np.zeros(self.space.size)
            unit[place] = 1.0
            if self._jumps(unit):
                return self.entry(place, self.here.along(unit)), self._sides(unit)
        mask = np.zeros(self.space.size, bool)
        mask[piece.start : piece.stop] = True
        direction = self.evidence.direction(mask)
        if places or not self._jumps(direction):
            return None
        slope, reference = float(np.nan_to_num(self.tested) @ direction), self.here.along(direction)
        return CheckedEntry(".".join(piece.path), slope, reference, 0.0), self._sides(direction)

    def entry(self, place: int, reference: float) -> CheckedEntry:
        if self.labels is None:
            self.labels = self.space.labels() if self.space.size <= 10_000 else []
        label = self.labels[place] if self.labels else self._label(place)
        claimed = float(self.tested[place])
        error = float(relative(np.array([claimed]), np.array([reference]))[0])
        return CheckedEntry(label, claimed, reference, error)

    def _label(self, place: int) -> str:
        piece = next(each for each in self.space.pieces if each.start <= place < each.stop)
        index = np.unravel_index(place - piece.start, piece.shape)
        return ".".join(piece.path) + "".join(f"[{n}]" for n in index)


class TensorComparison(EntryComparison):
    """The comparison of a tested gradient with the complex step, a whole tensor at a time."""

    def __init__(self, evidence: Evidence, tested: Array, tolerance: float) -> None:
        super().__init__(evidence, tested, tolerance)
        self._halvings = 0

    def proved(self, piece: Piece) -> TensorCheck:
        if self.evidence.judges_each:
            found = self.judged(piece, np.arange(piece.start, piece.stop), "each")
        else:
            found = self._probed(piece)
        if found.verdict == "right" and self.evidence.has_ties:
            kink = self._kink(piece)
            if kink is not None:
                found.verdict = "kink"
                found.worst, found.sides = kink
        return found

    def _probed(self, piece: Piece) -> TensorCheck:
        """Check a tensor along random directions, in which all its entries have like weights."""
        found = TensorCheck(piece.path, piece.stop - piece.start, "right", "probes", 0.0)
        part = slice(piece.start, piece.stop)
        size = np.abs(self.exact[part])
        floor = max(SMALLEST_WEIGHT * float(size.max()), float(np.finfo(np.float64).tiny))
        weights = np.zeros(self.space.size)
        weights[part] = 1.0 / np.maximum(size, np.maximum(floor, self.evidence.noise[part] / SMALLEST_WEIGHT))
        if not size.any():
            weights[part] = 1.0
        self._halvings = MOST_HALVINGS
        for _ in range(PROBES):
            signs = self.evidence.generator.choice((-1.0, 1.0), self.space.size)
            places = np.arange(piece.start, piece.stop)
            error, is_off = self._residual(places, signs * weights)
            found.error = max(found.error, error)
            if is_off:
                wrong = self._search(places, signs * weights)
                judged = self.judged(piece, np.array(sorted(wrong)[:MOST_EXAMINED]), "probes")
                if judged.verdict != "right":
                    judged.wrong = max(judged.wrong, len(wrong) if judged.verdict == "wrong" else 0)
                    return judged
                found.verdict = "wrong" if not wrong else found.verdict
        return found

    def _residual(self, places: Array, weights: Array) -> tuple[float, bool]:
        """Return the relative error of the gradient along some entries, and whether it is too large. `weights` are the
        components of the direction, for all entries."""
        direction = np.zeros(self.space.size)
        direction[places] = weights[places]
        parts = self.tested[places] * direction[places]
        total, summed = float(parts.sum()), float(np.abs(parts).sum())
        reference = self.here.along(direction)
        eps = float(np.finfo(np.float64).eps)
        noise = ROUNDINGS * float(np.linalg.norm(self.evidence.noise[places] * direction[places]))
        allowed = noise + DIGITS * eps * (float(np.linalg.norm(parts)) + math.sqrt(summed))
        off = abs(total - reference)
        if off > allowed:
            off_by_rounding = self.here.along_with_noise(direction, self.evidence.generator).noise
            allowed += ROUNDINGS * off_by_rounding
        scale = max(float(np.linalg.norm(parts)), abs(reference))
        return off / scale if scale > 0.0 else 0.0, off > allowed

    def _search(self, places: Array, weights: Array) -> list[int]:
        """Return the first few wrong entries among `places`, found by halving the set."""
        found: list[int] = []
        pending = [places]
        while pending and self._halvings > 0 and len(found) < MOST_EXAMINED:
            several = pending.pop()
            if len(several) == 1:
                found.append(int(several[0]))
                continue
            middle = len(several) // 2
            for half in (several[middle:], several[:middle]):
                self._halvings -= 1
                if self._residual(half, weights)[1]:
                    pending.append(half)
        return found


def product(a: Array, b: Array) -> float:
    """Return the inner product of two vectors without BLAS, so that every processor gives the same digits."""
    return float(np.sum(a * b))


def relative(a: Array, b: Array) -> Array:
    """Return the difference of two arrays, elementwise, as a share of the larger number."""
    scale = np.maximum(np.abs(a), np.abs(b))
    shares: Array = np.divide(np.abs(a - b), scale, out=np.zeros_like(scale), where=scale > 0.0)
    return shares


def largest(errors: Array) -> float:
    return float(np.nanmax(errors)) if errors.size else 0.0


def ratio(tested: Array, exact: Array) -> float | None:
    """Return the quotient of tested by exact entries if it is the same for all of them, else None. A single factor,
    such as 2, points to a mistake."""
    used = (np.abs(exact) > 1e-6 * np.abs(exact).max(initial=0.0)) & ~np.isnan(tested)
    if used.sum() < 2:
        return None
    ratios = tested[used] / exact[used]
    middle = float(np.median(ratios))
    return middle if np.abs(ratios - middle).max() <= 1e-6 * abs(middle) else None


def between(slope: float, convention: float, sides: tuple[float, float]) -> bool:
    """Return whether another convention at kinks may give this slope. With several kinks, each may be on its other
    side; `sides` are the slopes on both."""
    choices = (*sides, convention, sum(sides) - convention)
    room = ASIDE_TOLERANCE * max(map(abs, choices))
    return min(choices) - room <= slope <= max(choices) + room
