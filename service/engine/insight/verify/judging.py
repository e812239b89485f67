"""The judgement of claims: which entries are right, and how a wrong tensor may be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from service.engine.arrays import Array
from service.engine.insight.comparison import ratio as ratio_of
from service.engine.insight.mistakes import mistakes
from service.engine.insight.verify.claims import Claim
from service.engine.insight.verify.rounding import NOISES, Rounding, is_float32, largest
from service.engine.insight.verify.search import ClaimDiagnosis, Interpretation, Reading, interpretation
from service.engine.insight.verify.variants import Made, Path
from service.engine.insight.verify.verdict import ClaimedEntry, FirstWrong, TensorVerdict, Tolerance, Verdict
from service.engine.network.flat import Piece, Space
from service.engine.watch import Watch

WORST = 3
"""Entries that a verdict shows of a tensor."""
NEAR = {"float64": 1e-7, "float32": 1e-4}
"""Relative error of a tensor as a whole up to which a mistake explains it."""
OWN_DIGITS = 4.0
"""Last digits by which a claim may differ from the service's own answer."""
FARTHEST = 0.02
"""Relative error up to which a mistake explains a tensor where rounding is large."""
HARMLESS = frozenset(mistake.name for mistake in mistakes if mistake.kind == "noise")
"""Differences that are no mistakes."""


class Judge:
    """The judge of claims about one gradient, which finds mistakes. Subclasses know networks or typed functions."""

    def __init__(self, space: Space, rounding: Rounding, dtype: str, watch: Watch | None) -> None:
        self.space, self.rounding, self.dtype, self.watch = space, rounding, dtype, watch
        self.exact = rounding.exact

    def other_readings(self, piece: Piece, array: Array, claim: Claim) -> Iterator[Interpretation]:
        """Yield interpretations of a wrong tensor, beside the literal one, such as its transpose."""
        raise NotImplementedError

    def diagnoses(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        """Return the mistakes that explain a wrong claim, the likeliest first."""
        raise NotImplementedError

    def first_wrong(self, tensors: Sequence[TensorVerdict]) -> FirstWrong | None:
        """Return where a gradient first goes wrong on its way back; None if the tensors have no order."""
        return None

    @cached_property
    def own(self) -> Array:
        """The gradient as this service answers it, flat. A claim that equals it is right."""
        return self.exact

    # --- right or wrong ---

    def verdict(self, claim: Claim) -> Verdict:
        """Return the verdict on one claim."""
        if self.watch is not None:
            self.watch.look()
        vector = np.full(self.space.size, math.nan)
        for piece in self.space.pieces:
            if piece.path in claim.tensors:
                vector[piece.start : piece.stop] = self._of(claim, piece).reshape(-1)
        missing = [
            piece.path for piece in self.space.pieces if piece.path not in claim.tensors and piece.path not in claim.odd
        ]
        if not claim.odd and self.rounding.agrees(vector):
            return self._matched(vector, "float64", missing)
        if not claim.odd and self._is_own(vector):
            verdict = self._matched(vector, self.dtype, missing, own=True)
            return verdict if self.dtype == "float64" else self._noted(verdict, "float32_noise")
        wrong = self._wrong(vector, "float64")
        if not claim.odd and not wrong.any():
            return self._matched(vector, "float64", missing)
        narrow = self.dtype == "float32" or claim.narrow or is_float32(vector)
        dtype = "float32" if narrow else "float64"
        if narrow:
            wrong = self._wrong(vector, "float32")
            if not claim.odd and not wrong.any():
                return self._noted(self._matched(vector, "float32", missing), "float32_noise")
        if not claim.odd:
            found = self._as_differences(vector, wrong, missing)
            if found is not None:
                return found
        return self._mismatch(claim, vector, wrong, dtype, missing)

    def _is_own(self, vector: Array) -> bool:
        """Return whether every entry equals the service's own answer but for the last digits."""
        digits = OWN_DIGITS * float(np.finfo(self.dtype).eps)
        return bool((np.abs(vector - self.own) <= digits * np.abs(self.own))[~np.isnan(vector)].all())

    def _of(self, claim: Claim, piece: Piece) -> Array:
        """Return a claimed tensor; of two claims of one tensor, the one that is farther from the right one."""
        array, twin = claim.tensors[piece.path], claim.twins.get(piece.path)
        if twin is None:
            return array
        exact = self.exact[piece.start : piece.stop].reshape(piece.shape)
        return max(array, twin, key=lambda each: float(np.nan_to_num(np.abs(each - exact)).max(initial=0.0)))

    def _wrong(self, vector: Array, dtype: str) -> Array:
        """Return a mask of the entries that are off by more than rounding in this precision allows."""
        wrong: Array = np.abs(vector - self.exact) > self.rounding.allowed(dtype)
        return wrong

    def _as_differences(self, vector: Array, wrong: Array, missing: list[Path]) -> Verdict | None:
        pieces = [
            slice(piece.start, piece.stop) for piece in self.space.pieces if wrong[piece.start : piece.stop].any()
        ]
        strict = self._wrong(vector, "float64")
        for dtype in ("float64", "float32"):
            off = strict if dtype == "float64" else wrong
            found = self.rounding.differences(vector, off, pieces, dtype)
            if found is not None:
                verdict = self._matched(vector, dtype, missing, found.noise)
                verdict.tolerance.step = found.step
                return self._noted(verdict, found.kind, step=found.step)
        return None

    def _matched(
        self, vector: Array, dtype: str, missing: list[Path], more: float | None = None, *, own: bool = False
    ) -> Verdict:
        tensors = [
            self._tensor(piece, vector, dtype, np.zeros(self.space.size, bool), more, own=own)
            for piece in self.space.pieces
            if not np.isnan(vector[piece.start : piece.stop]).all()
        ]
        return Verdict("match", self._tolerance(dtype), missing, tensors)

    def _tolerance(self, dtype: str) -> Tolerance:
        relative = self.rounding.relative_float32 if dtype == "float32" else self.rounding.relative
        return Tolerance(relative, NOISES, dtype)

    def _noted(self, verdict: Verdict, code: str, **facts: float) -> Verdict:
        paths = tuple(each.path for each in verdict.tensors)
        precision = max((each.relative for each in verdict.tensors), default=0.0)
        verdict.diagnoses = [ClaimDiagnosis((Made(code),), paths, precision, facts=facts)]
        return verdict

    def _tensor(
        self, piece: Piece, vector: Array, dtype: str, wrong: Array, more: float | None, *, own: bool = False
    ) -> TensorVerdict:
        part = slice(piece.start, piece.stop)
        claimed, exact = vector[part], self.exact[part]
        off = np.nan_to_num(np.abs(claimed - exact))
        places = largest(off, WORST)
        worst = int(places[0])
        size = float(np.linalg.norm(exact))
        length = float(np.linalg.norm(np.nan_to_num(claimed - exact)))
        relative = length / size if size > 0.0 else math.inf if length > 0.0 else 0.0
        count = int(wrong[part].sum())
        allowed = more if more is not None else self._allowed_at(piece.start + worst, dtype, float(off[worst]), own=own)
        entries = [
            ClaimedEntry(
                tuple(int(n) for n in np.unravel_index(place, piece.shape)), float(exact[place]), float(claimed[place])
            )
            for place in places.tolist()
            if off[place] > 0.0 and (count or place == worst)
        ]
        ratio = ratio_of(claimed, exact) if count else None
        verdict = "mismatch" if count else "match"
        return TensorVerdict(
            piece.path, verdict, piece.shape, float(off[worst]), relative, allowed, count, entries, ratio
        )

    def _allowed_at(self, place: int, dtype: str, off: float, *, own: bool) -> float:
        """Return the error that one entry may have. The service's own answer is right as it is."""
        relative = self.rounding.relative_float32 if dtype == "float32" else self.rounding.relative
        plain = relative * abs(float(self.exact[place]))
        return max(plain, off) if off <= plain or own else float(self.rounding.allowed(dtype)[place])

    # --- what is wrong ---

    def _mismatch(self, claim: Claim, vector: Array, wrong: Array, dtype: str, missing: list[Path]) -> Verdict:
        tensors, readings = [], []
        for piece in self.space.pieces:
            part = slice(piece.start, piece.stop)
            if piece.path in claim.odd:
                array = claim.odd[piece.path]
                tensors.append(TensorVerdict(piece.path, "mismatch", array.shape, math.inf, math.inf, 0.0, array.size))
                readings.append(self._reading(piece, None, array, dtype, claim, is_wrong=True))
            elif piece.path in claim.tensors:
                tensor = self._tensor(piece, vector, dtype, wrong, None)
                tensors.append(tensor)
                array = vector[part].reshape(piece.shape)
                readings.append(self._reading(piece, array, array, dtype, claim, is_wrong=tensor.verdict == "mismatch"))
        verdict = Verdict("mismatch", self._tolerance(dtype), missing, tensors)
        verdict.diagnoses = self.diagnoses(readings)
        if verdict.diagnoses and all(made.code in HARMLESS for made in verdict.diagnoses[0].made):
            verdict.verdict, verdict.diagnoses = "match", verdict.diagnoses[:1]
            for tensor in tensors:
                tensor.verdict = "match"
            return verdict
        verdict.first_wrong = self.first_wrong(tensors)
        return verdict

    def _reading(
        self, piece: Piece, array: Array | None, whole: Array, dtype: str, claim: Claim, *, is_wrong: bool
    ) -> Reading:
        options = [] if array is None else [interpretation((), np.nan_to_num(array))]
        if is_wrong:
            options += self.other_readings(piece, whole, claim)
        part = slice(piece.start, piece.stop)
        size = float(np.linalg.norm(self.exact[part]))
        noise = float(np.linalg.norm(self.rounding.noise(dtype)[part]))
        tolerance = max(NEAR[dtype], 2.0 * NOISES * noise / size if size > 0.0 else 0.0)
        count = piece.stop - piece.start
        return Reading(piece.path, options, min(tolerance, FARTHEST), is_wrong, count, 2.0 * NOISES * noise)
