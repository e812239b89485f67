"""The search for right rules with wrong data: other samples, other targets, or weights that were updated too early.

The search solves for unknown numbers. A gradient is a sum over samples, so least squares give the share of each sample
in a claim, and the shares reveal the mistake: one sample alone, one left out, one twice. A delta that passed weights
updated with the rate η is linear in η in the first layer that it changes, which gives η.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.insight.mistakes import Change
from service.engine.insight.verify.budget import OPERATION, Budget
from service.engine.insight.verify.data import SHARES, DataGradients
from service.engine.insight.verify.search import FEW, ClaimDiagnosis, Reading
from service.engine.insight.verify.variants import RATE, Made, Path, Variant

MOST_SAMPLES = 256
"""Shares of more samples are not solved for."""
MOST_WORK = 5e7
"""Floating-point operations that single samples may take."""
MOST_PERMUTED = 4
"""Most samples for which every order of the targets is tried."""
STRAIGHT = 1e-2
"""Largest residual of a tensor that is linear in the learning rate, as a share of its error."""
BENT = 0.3
"""Largest residual of a tensor that is not linear in it, and after each better guess."""
MOST_REFINED = 2
MOST_STEPS = 10
MOST_RATES = 4
"""Learning rates that are tried of each way."""
LEAST_RATE, LARGEST_RATE = 1e-6, 1e3
"""Learning rates that somebody may have used."""
NEAR = 1e-6
"""Largest distance of shares from whole multiples."""


class _OneSearch:
    """The base of the searches for one kind of mistaken data, in the claims of one request."""

    def __init__(
        self, data: DataGradients, right: Mapping[Path, Array], leaves: Mapping[str, Array], budget: Budget
    ) -> None:
        """Prepare. `right` are the pictures of the right gradient, `leaves` the numbers of the request by input."""
        self.data, self.right, self.leaves, self.budget = data, right, leaves, budget


class _UpdatedWeights(_OneSearch):
    """The search for weights that were updated too early, and for the learning rate."""

    _unit: dict[str, Array] | None = None
    """Pictures at the learning rate 1."""

    def look(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        if self.data.updated is None:
            return []
        if self._unit is None:
            if not self.budget.may("data", self.data.updated_cost):
                return []
            self._unit = self.data.run(self.data.updated, self.leaves, {RATE: np.asarray(1.0)}, self.budget.watch)
        refined = 0
        for form in range(self.data.forms):
            tried: list[float] = []
            for reading in readings:
                number = self.data.paths.index(reading.path)
                direction = self._unit[f"updated/{form}/{number}"] - self.right[reading.path]
                size = float(direction @ direction)
                if not reading.is_wrong or size == 0.0 or not np.isfinite(size):
                    continue
                off = reading.options[0].picture - self.right[reading.path]
                rate = float(off @ direction) / size
                left, length = float(np.linalg.norm(off - rate * direction)), float(np.linalg.norm(off))
                if (
                    left > reading.tolerance * length
                    and left <= BENT * length
                    and refined < MOST_REFINED
                    and reading.size >= FEW
                ):
                    refined += 1
                    rate = self._refined(form, reading, rate)
                    left = 0.0
                known = any(abs(rate - each) <= 1e-6 * abs(each) for each in tried)
                if known or not LEAST_RATE <= abs(rate) <= LARGEST_RATE:
                    continue
                if not left <= STRAIGHT * length < math.inf:
                    continue
                if not self.budget.may("data", self.data.updated_cost):
                    return []
                tried.append(rate)
                pictures = self.data.at_rate(form, self.leaves, rate, self.budget.watch)
                precision = _precision(readings, pictures)
                if precision is not None:
                    return [_diagnosis("updated_weights", readings, precision, rate=rate)]
                if len(tried) >= MOST_RATES:
                    break
        return []

    def _refined(self, form: int, reading: Reading, rate: float) -> float:
        """Return the learning rate that fits one claimed tensor, improved by the secant method. The tensor is not
        linear in the rate; `rate` is the first guess, `form` the set of layers that were updated."""
        claim, before, picture_before = reading.options[0].picture, 0.0, self.right[reading.path]
        left = float(np.linalg.norm(claim - picture_before))
        for _ in range(MOST_STEPS):
            if not self.budget.may("data", self.data.updated_cost):
                break
            picture = self.data.at_rate(form, self.leaves, rate, self.budget.watch)[reading.path]
            left, left_before = float(np.linalg.norm(claim - picture)), left
            if not left <= BENT * left_before:
                break
            slope = (picture - picture_before) / (rate - before)
            size = float(slope @ slope)
            step = float((claim - picture) @ slope) / size if size > 0.0 else 0.0
            if not math.isfinite(step) or step == 0.0:
                break
            before, picture_before, rate = rate, picture, rate + step
            if abs(step) <= 1e-13 * abs(rate):
                break
        return rate


class _SampleShares(_OneSearch):
    """The search for the share of each sample in a claim, by least squares."""

    _of_samples: dict[Path, tuple[Array, Array]] | None = None

    @property
    def _is_solved(self) -> bool:
        """True if the search solves for shares. Where that takes long, only usual shares are tried."""
        work = 0.0 if self.data.program is None else self.data.program.work
        unknown = self.data.samples * len(self.data.outputs)
        return self.data.has_shares and 1 < unknown <= MOST_SAMPLES and unknown * work <= MOST_WORK

    def look(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        if not self._is_solved:
            return []
        unknown = self.data.samples * len(self.data.outputs)
        if self._of_samples is None:
            if not self.budget.may("data", unknown * self.data.cost):
                return []
            self._of_samples = self.data.of_samples(self.leaves, self.budget.watch)
        of_samples = self._of_samples
        rows, sides = [], []
        for reading in readings:
            picture = reading.options[0].picture
            size = float(np.linalg.norm(self.right[reading.path]))
            if size <= reading.noise:
                continue
            matrix, penalty = of_samples[reading.path]
            rows.append(matrix.T / size)
            sides.append((picture - penalty) / size)
        if not rows:
            return []
        matrix, side = np.concatenate(rows), np.concatenate(sides)
        if len(side) < unknown or not np.isfinite(matrix).all():
            return []
        if not self.budget.may("data", OPERATION * len(side) * unknown * unknown):
            return []
        shares, _, rank, singular = np.linalg.lstsq(matrix, side, rcond=None)
        if rank < unknown or singular[-1] < 1e-9 * singular[0]:
            return []
        pictures = {path: shares @ of_samples[path][0] + of_samples[path][1] for path in self.data.paths}
        precision = _precision(readings, pictures)
        if precision is None:
            return []
        tolerance = max(NEAR, *(reading.tolerance for reading in readings)) * singular[0] / singular[-1]
        weights = self.leaves.get("sample_weights")
        ratios = (shares / self.data.right_share).reshape(len(self.data.outputs), self.data.samples)
        return list(self._mistakes_of(readings, ratios, min(tolerance, 0.05), precision, weights))

    def _mistakes_of(
        self, readings: Sequence[Reading], ratios: Array, near: float, precision: float, weights: Array | None
    ) -> Iterator[ClaimDiagnosis]:
        """Yield the mistake that the shares of samples show. `ratios` are the shares divided by the right ones,
        (outputs, samples)."""
        said = [_of_shares(own, near, weights) for own in ratios]
        wrong = [place for place, each in enumerate(said) if each != ("", -1)]
        if not wrong or any(said[place][0] == "?" for place in wrong) or len({said[place] for place in wrong}) > 1:
            return
        code, sample = said[wrong[0]]
        places = () if len(wrong) == len(said) else tuple(self.data.outputs[place] for place in wrong)
        facts = {"sample": float(sample)} if sample >= 0 else {}
        yield _diagnosis(code, readings, precision, places, **facts)


class _ShuffledTargets(_OneSearch):
    """The search for targets that belong to other samples."""

    _versions: list[tuple[tuple[str, ...], dict[Path, Array]]] | None = None
    """Pictures for each order of the targets, with the outputs whose targets are in that order."""

    def look(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        if not self.data.has_shares or self.data.program is None or self.data.samples < 2:
            return []
        if self._versions is None:
            several = [self.data.outputs, *((name,) for name in self.data.outputs if len(self.data.outputs) > 1)]
            tried = [
                (names, order)
                for names in several
                for order in self._orders()
                if self.budget.may("data", self.data.cost)
            ]
            plain = {
                f"{SHARES}/{name}": np.full(self.data.samples, self.data.right_share) for name in self.data.outputs
            }
            changes = [
                plain | {f"targets/{name}": self.leaves[f"targets/{name}"][order] for name in names}
                for names, order in tried
            ]
            runs = self.data.runs(self.data.program, self.leaves, changes, self.budget.watch)
            self._versions = [(names, self.data.whole(given)) for (names, _), given in zip(tried, runs, strict=True)]
        best: tuple[float, tuple[str, ...]] | None = None
        for names, pictures in self._versions:
            precision = _precision(readings, pictures)
            if precision is not None and (best is None or precision < best[0]):
                best = precision, names
        if best is None:
            return []
        places = () if best[1] == self.data.outputs else best[1]
        return [_diagnosis("shuffled_samples", readings, best[0], places)]

    def _orders(self) -> Iterator[Array]:
        places = np.arange(self.data.samples)
        if self.data.samples <= MOST_PERMUTED:
            yield from (np.array(order) for order in permutations(range(self.data.samples)) if order != tuple(places))
        else:
            yield from (np.roll(places, 1), np.roll(places, -1), places[::-1])


class DataSearch(_OneSearch):
    """The search for mistakes of data, in the claims of one request."""

    def __init__(self, *request: Any) -> None:
        super().__init__(*request)
        self._searches = [search(*request) for search in (_UpdatedWeights, _SampleShares, _ShuffledTargets)]

    def look(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        """Return the mistakes of data that explain a whole claim. `readings` has an entry for each claimed tensor."""
        if any(not reading.options or reading.options[0].codes for reading in readings):
            return []
        return [found for search in self._searches for found in search.look(readings)]

    def versions(self) -> tuple[list[Variant], list[dict[str, Array]], dict[Path, Array]]:
        """Return wrong gradients of the usual mistakes of data, to combine them with other mistakes. They come as
        variants, with the changed leaves of each, and as pictures of all versions of each tensor."""
        variants: list[Variant] = []
        changes: list[dict[str, Array]] = []
        pictures: dict[Path, list[Array]] = {path: [self.right[path]] for path in self.data.paths}
        if not self.data.has_shares or self.data.program is None or self.data.samples < 2:
            return variants, changes, {path: np.stack(several) for path, several in pictures.items()}
        count, places = self.data.samples, np.arange(self.data.samples)
        weights = self.leaves["sample_weights"]
        if not weights.all():
            return variants, changes, {path: np.stack(several) for path, several in pictures.items()}
        ratios: list[tuple[Made, Array]] = []
        for sample in (count - 1, 0):
            one = np.where(places == sample, 1.0, 0.0)
            ratios += [(Made("stale_sample"), one), (Made("stale_sample"), count * one)]
            ratios += [(Made("sample_left_out"), 1.0 - one)]
        if (weights > 0.0).all() and len(set(weights.tolist())) > 1:
            ratios += [(Made("sample_weights_forgotten"), 1.0 / weights), (Made("sample_weights_doubled"), weights)]
        plain = {f"{SHARES}/{name}": np.full(count, self.data.right_share) for name in self.data.outputs}
        tried = [(made, {"sample_weights": weights * ratio}) for made, ratio in ratios]
        for order in (np.roll(places, 1), np.roll(places, -1), places[::-1]):
            turned = {f"targets/{name}": self.leaves[f"targets/{name}"][order] for name in self.data.outputs}
            tried.append((Made("shuffled_samples"), turned))
        tried = [each for each in tried if self.budget.may("pairs", self.data.cost)]
        mores = []
        for _, change in tried:
            more = change
            if "sample_weights" in change:
                ratio = change["sample_weights"] / weights
                more = {f"{SHARES}/{name}": self.data.right_share * ratio for name in self.data.outputs}
            mores.append({**plain, **more})
        runs = self.data.runs(self.data.program, self.leaves, mores, self.budget.watch)
        for place, ((made, change), given) in enumerate(zip(tried, runs, strict=True), 1):
            for path, array in self.data.whole(given).items():
                pictures[path].append(array)
            variants.append(Variant((made,), Change(), dict.fromkeys(self.data.paths, place)))
            changes.append(change)
        return variants, changes, {path: np.stack(several) for path, several in pictures.items()}


def _of_shares(ratios: Array, near: float, weights: Array | None) -> tuple[str, int]:
    """Return the mistake that shares of samples show, and the sample in question or -1. `ratios` are the shares divided
    by the right ones. An empty code means right shares, and `?` an unknown mistake."""
    count = len(ratios)

    def are(values: Array | float) -> Array:
        return np.abs(ratios - values) <= near * np.maximum(1.0, np.abs(values))

    if are(1.0).all():
        return "", -1
    zero = are(0.0)
    used = np.flatnonzero(~zero)
    if len(used) == 1 and (are(1.0) | are(float(count)))[used[0]]:
        return "stale_sample", int(used[0])
    if zero.sum() == 1 and count > 1 and ((are(1.0) | zero).all() or (are(count / (count - 1.0)) | zero).all()):
        return "sample_left_out", int(np.flatnonzero(zero)[0])
    whole = bool((are(0.0) | are(1.0) | are(2.0) | are(3.0)).all())
    if zero.any() and whole and abs(float(ratios.sum()) - count) < 0.1:
        return "stale_sample", int(ratios.argmax())
    if weights is not None and (weights > 0.0).all() and len(set(weights.tolist())) > 1:
        if (np.abs(ratios * weights - 1.0) <= near).all():
            return "sample_weights_forgotten", -1
        if (np.abs(ratios / weights - 1.0) <= near).all():
            return "sample_weights_doubled", -1
    return "?", -1


def _precision(readings: Sequence[Reading], pictures: Mapping[Path, Array]) -> float | None:
    """Return the largest relative error that pictures leave in a claim; None if they do not explain the claim."""
    largest = 0.0
    for reading in readings:
        claim, picture = reading.options[0].picture, pictures[reading.path]
        size = max(float(np.linalg.norm(picture)), float(np.linalg.norm(claim)))
        off = float(np.linalg.norm(claim - picture))
        error = off / size if off > reading.noise else 0.0
        if not error <= reading.tolerance:
            return None
        largest = max(largest, error)
    return largest


def _diagnosis(
    code: str, readings: Sequence[Reading], precision: float, places: tuple[str, ...] = (), **facts: float
) -> ClaimDiagnosis:
    explains = tuple(reading.path for reading in readings if reading.is_wrong)
    return ClaimDiagnosis((Made(code, places),), explains, precision, facts=facts)
