"""Is a gradient right? Asked of values alone, without any rule of differentiation.

The judge is the complex step: an evaluation with complex numbers gives the slope along one direction to all digits.
Of a few numbers each has an evaluation of its own. Of many, one evaluation along random signs, each divided by the
size of its entry, weighs every entry alike, whether it is large or small: one entry that is wrong by a millionth
stands out among a hundred thousand. Halving the entries that take part finds it.

A claimed gradient is compared with the exact one entry by entry, and where they differ the judge decides between them.
What rounding may do to either is measured, so that nothing right is called wrong because numbers are small. Exactly at
a kink there is a slope on either side, and any number between them is a matter of convention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Array, Node
from service.engine.graph.operations import sum_over
from service.engine.graph.quiet import quietly
from service.engine.insight.differences import QUARTERS, STEPS, DifferenceCurve, Taylor, curve_along, taylor_along
from service.engine.insight.subject import SMALLEST_SLOPE, Located, Path, Subject
from service.engine.network.vectors import Piece, Space

VERDICTS = ("right", "kink", "unsure", "wrong", "undefined")
"""From good to bad."""
EACH = 200
"""Up to so many numbers, every one has an evaluation of its own."""
MOST_EVALUATED = 100_000
"""Operations that these evaluations make together, at most."""
PROBES = 3
"""Random directions through all entries of a larger tensor."""
DIRECTIONS = 3
"""Random directions of Taylor remainders."""
TOLERANCES = {"float64": 1e-7, "float32": 1e-3}
"""Relative differences that are not called wrong."""
ROUNDINGS = 10.0
"""How many times the measured noise an error may be: it was measured a few times only."""
DIGITS = 64.0
"""Last digits of the largest entry of a tensor that any entry may be off."""
LARGEST_NOISE = 1e-6
"""Noise that hides an error leaves a verdict in doubt where it is larger than this, beside gradient and value."""
SMALLEST_WEIGHT = 1e-8
"""Entries that are smaller than this, beside the largest of their tensor, weigh less in probes."""
MOST_EXAMINED = 8
"""Entries of a tensor that are judged one by one where a claim differs in many."""
MOST_HALVINGS = 200
"""Evaluations that a search for wrong entries takes."""
ASIDE = 1e-6
"""How far beside a kink its slopes are looked at."""
ASIDE_TOLERANCE = 1e-4
JUMP = 0.1
"""Slopes of two sides that differ by this share of it still when they are a hundred times nearer differ by a jump."""
MOST_SIDES = 50
"""Entries whose slopes on both sides of a kink are looked at one by one."""


@dataclass
class CheckedEntry:
    """One number of a gradient."""

    label: str
    """Such as `hidden.kernel[0][1]`."""
    gradient: float
    """As it is claimed, or computed here."""
    reference: float
    """By the complex step."""
    error: float
    """Their difference, as a share of the larger one."""


@dataclass
class TensorCheck:
    """What there is to say of one parameter or variable."""

    path: Path
    size: int
    verdict: str
    compared: str
    """`each`: every entry by itself; `probes`: along random directions through all of them; `exact`: a claim, entry by
    entry with the exact gradient, which was checked by one of these."""
    error: float
    """The largest relative error found: of an entry, or along a direction."""
    wrong: int = 0
    """Entries that differ by more than rounding."""
    worst: CheckedEntry | None = None
    """The entry with the largest error; None: none was compared by itself, or all agree exactly."""
    ratio: float | None = None
    """Of all entries to what they should be, where that is one number."""
    sides: tuple[float, float] | None = None
    """At a kink, the slopes on either side of the worst entry."""
    curve: DifferenceCurve | None = None
    """Along a random direction of this tensor."""


@dataclass
class Report:
    """Whether a gradient is right, and what speaks for it."""

    verdict: str
    value: float
    gradient: Array
    """What was checked, flat."""
    space: Space
    """Where its parts are."""
    tensors: list[TensorCheck] = field(default_factory=list)
    curve: DifferenceCurve | None = None
    """Along a random direction through everything."""
    taylor: list[Taylor] = field(default_factory=list)
    declared: list[Node] = field(default_factory=list)
    """Nodes with a slope that is declared in place of 0: it was taken as it is."""
    second: Report | None = None
    """Of the second derivatives, where they were asked for."""

    def parts(self) -> dict[Path, Array]:
        """The gradient that was checked, in parts."""
        return {piece.path: self.gradient[piece.start : piece.stop].reshape(piece.shape) for piece in self.space.pieces}

    @property
    def is_right(self) -> bool:
        """Whether nothing speaks against the gradient; at a kink it follows a convention."""
        return self.verdict in ("right", "kink") and (self.second is None or self.second.is_right)


def check_gradient(
    output: Node,
    wrt: Sequence[tuple[Path, Node]],
    values: Mapping[Node, Array],
    order: int = 1,
    claimed: Mapping[Path, Array] | None = None,
    seed: int = 0,
) -> Report:
    """Check the gradient of a scalar of a float64 graph with respect to some of its inputs.

    `values` are those of all inputs of the graph. With `order` 2, the second derivatives are checked too: those of the
    product of the gradient with a random vector. No watch is looked at.
    """
    subject = Subject(output, wrt)
    here = Located(subject, values)
    asked = None if claimed is None else subject_vector(subject, claimed)
    report = check_at(here, asked, "float64", seed)
    if order > 1:
        generator = np.random.default_rng([seed, 2])
        nodes = [node for _, node in wrt]
        total = output.graph.constant(0.0)
        vectors = dict(values)
        for place, gradient in enumerate(dense(differentiate(output, nodes).nodes, nodes)):
            vector = output.graph.input(f"second/{order}/{place}", gradient.shape)
            vectors[vector] = generator.standard_normal(gradient.shape)
            total = total + sum_over(vector * gradient)
        report.second = check_gradient(total, wrt, vectors, order - 1, None, seed)
    return report


def subject_vector(subject: Subject, claimed: Mapping[Path, Array]) -> Array:
    """A claimed gradient as a flat vector; NaN stands for what is not claimed."""
    flat = np.full(subject.space.size, math.nan)
    for piece in subject.space.pieces:
        if piece.path in claimed:
            flat[piece.start : piece.stop] = np.asarray(claimed[piece.path], np.float64).reshape(-1)
    return flat


def check_at(
    here: Located,
    claimed: Array | None,
    dtype: str,
    seed: int,
    tolerance: float | None = None,
    computed: Located | None = None,
    steps: Sequence[float] | None = None,
    *,
    curves_of_tensors: bool = True,
) -> Report:
    """Check a gradient at a point of a float64 graph.

    `claimed` is flat, NaN where nothing is claimed; None: that of `computed` is checked, which is the same subject in
    `dtype`, or the same as `here`. Differences are made of the values of `computed`. `steps` are those of all
    differences. Raises `DeadlineExceeded`.
    """
    return quietly(_Check(here, claimed, dtype, seed, tolerance, computed or here).report, steps, curves_of_tensors)


class _Check:
    def __init__(
        self,
        here: Located,
        claimed: Array | None,
        dtype: str,
        seed: int,
        tolerance: float | None,
        computed: Located,
    ) -> None:
        self.here, self.computed = here, computed
        self.space = here.subject.space
        self.generator = np.random.default_rng([seed, 1])
        self.tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
        self.digit = float(np.finfo(dtype).eps)
        self.value = here.value(here.point)
        self.exact = here.gradient()
        self.tested = claimed
        if claimed is None:
            self.tested = self.exact if computed is here else computed.gradient()
        self.claimed_nothing = claimed is None
        self.is_own = claimed is None and computed is here
        evaluations = self.space.size * len(here.subject.moving)
        self.judges_each = self.space.size <= EACH and evaluations <= MOST_EVALUATED
        """Whether every entry has an evaluation of its own."""
        self.labels: list[str] | None = None

    def report(self, steps: Sequence[float] | None, curves_of_tensors: bool) -> Report:
        assert self.tested is not None
        report = Report("right", self.value, self.tested, self.space, declared=list(self.here.declared))
        asked = ~np.isnan(self.tested)
        if self.claimed_nothing and not asked.all():
            report.verdict = "undefined"
            return report
        finite = np.isfinite(self.exact).all() and not np.isinf(self.tested).any()
        if not (math.isfinite(self.value) and finite):
            report.verdict = "undefined"
            return report
        self.has_ties = self.here.ties()
        quiet = np.zeros(self.space.size)
        self.noise = quiet if self.has_ties else self.here.noise(self.generator, self.digit)
        for piece in self.space.pieces:
            part = slice(piece.start, piece.stop)
            if piece.stop > piece.start and asked[part].any():
                report.tensors.append(self._tensor(piece))
        report.verdict = max((each.verdict for each in report.tensors), key=VERDICTS.index, default="right")
        everything = np.nan_to_num(self.tested)
        direction = self._direction(asked)
        report.curve = curve_along(self.computed, direction, _product(everything, direction), steps or STEPS)
        for tensor, piece in zip(report.tensors, self._asked_pieces(asked), strict=True):
            if curves_of_tensors:
                mask = np.zeros(self.space.size, bool)
                mask[piece.start : piece.stop] = True
                along = self._direction(mask & asked)
                tensor.curve = curve_along(self.computed, along, _product(everything, along), steps or STEPS)
        for _ in range(DIRECTIONS):
            along = self._direction(asked)
            report.taylor.append(self._remainders(along, steps or QUARTERS))
        return report

    def _remainders(self, direction: Array, steps: Sequence[float]) -> Taylor:
        assert self.tested is not None
        slope = _product(np.nan_to_num(self.tested), direction)
        return taylor_along(self.here, direction, slope, self.digit, steps)

    def _asked_pieces(self, asked: Array) -> list[Piece]:
        return [each for each in self.space.pieces if asked[each.start : each.stop].any()]

    def _direction(self, mask: Array) -> Array:
        """A random direction of length 1 through some entries."""
        direction = self.generator.standard_normal(self.space.size) * mask
        length = math.sqrt(_product(direction, direction))
        unit: Array = direction / length if length > 0.0 else direction
        return unit

    # --- one tensor ---

    def _tensor(self, piece: Piece) -> TensorCheck:
        assert self.tested is not None
        part = slice(piece.start, piece.stop)
        if self.is_own:
            return self._proved(piece)
        proved = self._judged_quickly(piece)
        if proved.verdict == "wrong":
            # Not even the gradient of this service is right here: the claim has to face the judge itself.
            return self._judged(piece, np.arange(piece.start, piece.stop)[:EACH], "each")
        tested, exact = self.tested[part], self.exact[part]
        differs = np.abs(tested - exact) > self._allowed(piece)
        suspects = np.flatnonzero(differs) + piece.start
        errors = _relative(tested, exact)
        if not suspects.size:
            found = TensorCheck(piece.path, piece.stop - piece.start, proved.verdict, "exact", _largest(errors))
            if proved.verdict != "right":
                found.sides, found.worst = proved.sides, proved.worst
                return found
            worst = int(np.nanargmax(errors)) + piece.start
            if errors[worst - piece.start] > 0.0:
                found.worst = self._entry(worst, float(self.exact[worst]))
            return found
        order = np.argsort(-np.abs(tested - exact)[suspects - piece.start], kind="stable")
        examined = self._judged(piece, suspects[order][:MOST_EXAMINED], "exact")
        if examined.verdict == "wrong":
            examined.wrong += max(0, suspects.size - MOST_EXAMINED)
            examined.ratio = _ratio(tested, exact)
        return examined

    def _judged_quickly(self, piece: Piece) -> TensorCheck:
        """The check of the exact gradient itself."""
        tested, self.tested = self.tested, self.exact
        tolerance, self.tolerance = self.tolerance, TOLERANCES["float64"]
        try:
            return self._proved(piece)
        finally:
            self.tested, self.tolerance = tested, tolerance

    def _proved(self, piece: Piece) -> TensorCheck:
        if self.judges_each:
            found = self._judged(piece, np.arange(piece.start, piece.stop), "each")
        else:
            found = self._probed(piece)
        if found.verdict == "right" and self.has_ties:
            kink = self._kink(piece)
            if kink is not None:
                found.verdict = "kink"
                found.worst, found.sides = kink
        return found

    def _kink(self, piece: Piece) -> tuple[CheckedEntry, tuple[float, float]] | None:
        """An entry whose slopes on both sides of the point differ, or a random direction through all; None: none."""
        assert self.tested is not None
        places = range(piece.start, piece.stop) if piece.stop - piece.start <= MOST_SIDES else ()
        for place in places:
            unit = np.zeros(self.space.size)
            unit[place] = 1.0
            if self._jumps(unit):
                return self._entry(place, self.here.along(unit)), self._sides(unit)
        mask = np.zeros(self.space.size, bool)
        mask[piece.start : piece.stop] = True
        direction = self._direction(mask)
        if places or not self._jumps(direction):
            return None
        slope, reference = float(np.nan_to_num(self.tested) @ direction), self.here.along(direction)
        return CheckedEntry(".".join(piece.path), slope, reference, 0.0), self._sides(direction)

    def _jumps(self, direction: Array) -> bool:
        """Whether the slope along a direction is another before and behind the point."""
        (a, b), (c, d) = self._sides(direction), self._sides(direction, 0.01 * ASIDE)
        return abs(c - d) > JUMP * abs(a - b) and abs(c - d) > ASIDE_TOLERANCE * max(abs(c), abs(d))

    def _allowed(self, piece: Piece) -> Array:
        """How far each entry of a tensor may be off."""
        part = slice(piece.start, piece.stop)
        exact = np.abs(self.exact[part])
        rounding = ROUNDINGS * self.noise[part] + DIGITS * self.digit * exact.max()
        allowed: Array = rounding + self.tolerance * exact
        return allowed

    def _judged(self, piece: Piece, places: Array, compared: str) -> TensorCheck:
        """Entries, each by an evaluation of its own."""
        assert self.tested is not None
        found = TensorCheck(piece.path, piece.stop - piece.start, "right", compared, 0.0)
        allowed = self._allowed(piece)
        for place in places.tolist():
            claimed = float(self.tested[place])
            if math.isnan(claimed):
                continue
            verdict, reference, sides = self._judge(place, claimed, float(allowed[place - piece.start]))
            entry = self._entry(place, reference)
            found.wrong += verdict == "wrong"
            worse = VERDICTS.index(verdict) - VERDICTS.index(found.verdict)
            if worse > 0 or (worse == 0 and entry.error > found.error):
                found.verdict, found.worst, found.sides = verdict, entry, sides
                found.error = entry.error
        if found.verdict == "wrong" and len(places) > 1:
            found.ratio = self._ratio_of(piece)
        return found

    def _ratio_of(self, piece: Piece) -> float | None:
        assert self.tested is not None
        part = slice(piece.start, piece.stop)
        return _ratio(self.tested[part], self.exact[part])

    def _judge(self, place: int, claimed: float, allowed: float) -> tuple[str, float, tuple[float, float] | None]:
        """Verdict and slope of one entry; at a kink, the slopes on both sides."""
        unit = np.zeros(self.space.size)
        unit[place] = 1.0
        reference = self.here.along(unit)
        off = abs(claimed - reference)
        noise = ROUNDINGS * float(self.noise[place])
        if off > allowed and not self.has_ties:  # there, other digits are another branch
            noise += ROUNDINGS * self.here.along_with_noise(unit, self.generator).noise
        if off <= allowed - ROUNDINGS * float(self.noise[place]) or (off <= allowed + noise and self._is_small(noise)):
            return "right", reference, None
        if off <= max(allowed + noise, SMALLEST_SLOPE):
            return "unsure", reference, None
        sides = self._sides(unit) if self.has_ties else None
        if sides is not None and _between(claimed, reference, sides):
            return "right" if _between(sides[0], sides[1], (sides[1], sides[1])) else "kink", reference, sides
        return "wrong", reference, None

    def _is_small(self, noise: float) -> bool:
        """Whether noise is small beside the gradient and the value."""
        return noise <= LARGEST_NOISE * max(float(np.abs(self.exact).max()), abs(self.value), LARGEST_NOISE)

    def _sides(self, unit: Array, distance: float = ASIDE) -> tuple[float, float]:
        """Slopes along a direction just before and just behind the point."""
        size = distance * max(1.0, float(np.abs(self.here.point @ unit)))
        before, behind = (self.here.moved(self.here.point + sign * size * unit).along(unit) for sign in (-1.0, 1.0))
        return before, behind

    def _entry(self, place: int, reference: float) -> CheckedEntry:
        assert self.tested is not None
        if self.labels is None:
            self.labels = self.space.labels() if self.space.size <= 10_000 else []
        label = self.labels[place] if self.labels else self._label(place)
        claimed = float(self.tested[place])
        error = float(_relative(np.array([claimed]), np.array([reference]))[0])
        return CheckedEntry(label, claimed, reference, error)

    def _label(self, place: int) -> str:
        piece = next(each for each in self.space.pieces if each.start <= place < each.stop)
        index = np.unravel_index(place - piece.start, piece.shape)
        return ".".join(piece.path) + "".join(f"[{n}]" for n in index)

    # --- many entries ---

    def _probed(self, piece: Piece) -> TensorCheck:
        """A tensor along random directions that weigh its entries alike."""
        found = TensorCheck(piece.path, piece.stop - piece.start, "right", "probes", 0.0)
        part = slice(piece.start, piece.stop)
        size = np.abs(self.exact[part])
        floor = max(SMALLEST_WEIGHT * float(size.max()), float(np.finfo(np.float64).tiny))
        weights = np.zeros(self.space.size)
        weights[part] = 1.0 / np.maximum(size, np.maximum(floor, self.noise[part] / SMALLEST_WEIGHT))
        if not size.any():
            weights[part] = 1.0
        self._halvings = MOST_HALVINGS
        for _ in range(PROBES):
            signs = self.generator.choice((-1.0, 1.0), self.space.size)
            places = np.arange(piece.start, piece.stop)
            error, is_off = self._residual(places, signs * weights)
            found.error = max(found.error, error)
            if is_off:
                wrong = self._search(places, signs * weights)
                judged = self._judged(piece, np.array(sorted(wrong)[:MOST_EXAMINED]), "probes")
                if judged.verdict != "right":
                    judged.wrong = max(judged.wrong, len(wrong) if judged.verdict == "wrong" else 0)
                    return judged
                found.verdict = "wrong" if not wrong else found.verdict
        return found

    def _residual(self, places: Array, weights: Array) -> tuple[float, bool]:
        """How far the gradient is off along some entries, as a share of what it is made of; and whether too far."""
        assert self.tested is not None
        direction = np.zeros(self.space.size)
        direction[places] = weights[places]
        parts = self.tested[places] * direction[places]
        total, summed = float(parts.sum()), float(np.abs(parts).sum())
        reference = self.here.along(direction)
        eps = float(np.finfo(np.float64).eps)
        noise = ROUNDINGS * float(np.linalg.norm(self.noise[places] * direction[places]))
        allowed = noise + DIGITS * eps * (float(np.linalg.norm(parts)) + math.sqrt(summed))
        off = abs(total - reference)
        if off > allowed:
            off_by_rounding = self.here.along_with_noise(direction, self.generator).noise
            allowed += ROUNDINGS * off_by_rounding
        scale = max(float(np.linalg.norm(parts)), abs(reference))
        return off / scale if scale > 0.0 else 0.0, off > allowed

    def _search(self, places: Array, weights: Array) -> list[int]:
        """Wrong entries, by halving; the first few of them."""
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


def _product(a: Array, b: Array) -> float:
    """The inner product; without BLAS, so that every processor gives the same one of a few numbers."""
    return float(np.sum(a * b))


def _relative(a: Array, b: Array) -> Array:
    """Differences as shares of the larger of both."""
    scale = np.maximum(np.abs(a), np.abs(b))
    shares: Array = np.divide(np.abs(a - b), scale, out=np.zeros_like(scale), where=scale > 0.0)
    return shares


def _largest(errors: Array) -> float:
    return float(np.nanmax(errors)) if errors.size else 0.0


def _ratio(tested: Array, exact: Array) -> float | None:
    """The one number that all entries are too large by."""
    used = (np.abs(exact) > 1e-6 * np.abs(exact).max(initial=0.0)) & ~np.isnan(tested)
    if used.sum() < 2:
        return None
    ratios = tested[used] / exact[used]
    middle = float(np.median(ratios))
    return middle if np.abs(ratios - middle).max() <= 1e-6 * abs(middle) else None


def _between(slope: float, convention: float, sides: tuple[float, float]) -> bool:
    """Whether a slope is one that another convention may give: of several kinks, each may be on its other side."""
    choices = (*sides, convention, sum(sides) - convention)
    room = ASIDE_TOLERANCE * max(map(abs, choices))
    return min(choices) - room <= slope <= max(choices) + room
