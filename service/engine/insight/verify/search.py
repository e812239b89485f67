"""The search for mistakes that explain a claim: each tensor against every wrong version of it, up to a factor.

A diagnosis is a wrong gradient of the rules, or the right one, together with factors and arrangements. It has to give
every tensor of the claim, those included that are right. Fewer mistakes explain better than more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.insight.mistakes import Counts, mistakes
from service.engine.insight.verify.budget import FIT, OPERATION
from service.engine.insight.verify.sketch import picture
from service.engine.insight.verify.variants import Made, Path, Variant

BETTER = 0.1
"""A mistake explains a wrong tensor if it leaves at most this share of the error of the right gradient."""
EQUAL = 10.0
"""Explanations whose errors differ by no more than this factor are equally good."""
ROUNDING = 1e-12
"""Errors below this are equally good, too."""
MOST_DIAGNOSES = 5
MOST_EQUIVALENT = 12
MOST_BASES = 6
"""Mistakes that are tried together with every other."""
FEW = 3
"""Numbers that a factor, or two mistakes together, may match by chance."""


@dataclass
class ClaimDiagnosis:
    """Mistakes that together explain a claim, or a part of it."""

    made: tuple[Made, ...]
    explains: tuple[Path, ...]
    """The wrong tensors that they give."""
    precision: float
    """The largest relative error that they leave, of a tensor as a whole."""
    equivalent: list[tuple[str, ...]] = field(default_factory=list)
    """Other mistakes that give the same numbers."""
    facts: dict[str, float] = field(default_factory=dict)
    """Numbers that were found, such as a learning rate."""
    versions: dict[Path, tuple[int, float, Array]] = field(default_factory=dict)
    """For each tensor its version, the factor and the claim as it is arranged, for the exact comparison."""

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(sorted(each.code for each in self.made))


class Interpretation(NamedTuple):
    """One way to read a claimed tensor: as it is, or with a known rearrangement such as a transpose undone."""

    codes: frozenset[str]
    array: Array
    picture: Array


@dataclass
class Reading:
    """A claimed tensor with its possible interpretations and its tolerance."""

    path: Path
    options: list[Interpretation]
    tolerance: float
    is_wrong: bool
    size: int
    noise: float = 0.0
    """The length of a difference that may be rounding."""


class Fit(NamedTuple):
    """The fit of each version of a tensor, the right gradient and the wrong ones, to one interpretation of a claim."""

    plain: Array
    """The relative error of each version."""
    factors: Array
    scaled: Array
    """The relative error of each version times its factor."""
    off: float
    """The distance of the claim from the right version."""


def fit(claim: Array, versions: Array, squares: Array, noise: float = 0.0) -> Fit:
    """Compare the picture of a claim, (numbers,), with those of all versions, (versions, numbers). `squares` are the
    squared lengths of the versions. Differences up to the length of `noise` count as 0."""
    with np.errstate(all="ignore"):
        size = math.sqrt(float(claim @ claim))
        sizes = np.sqrt(squares)
        off = np.linalg.norm(versions - claim, axis=1)
        plain = np.where(off <= noise, 0.0, off / np.maximum(sizes, size))
        factors = versions @ claim / squares
        scaled = np.linalg.norm(factors[:, None] * versions - claim, axis=1) / size
    if size == 0.0:
        zero = squares == 0.0
        return Fit(np.where(zero, 0.0, 1.0), np.ones(len(versions)), np.where(zero, 0.0, 1.0), float(off[0]))
    bad = ~np.isfinite(plain)
    return Fit(np.where(bad, 1.0, plain), factors, np.where(np.isfinite(scaled), scaled, 1.0), float(off[0]))


@dataclass(frozen=True)
class Factors:
    """The numbers that a gradient may be multiplied by, each with the mistake that does so."""

    single: tuple[tuple[str, float], ...]
    own: Mapping[Path, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    """More of them for single tensors."""

    @classmethod
    def of(cls, counts: Counts, own: Mapping[Path, tuple[tuple[str, float], ...]] | None = None) -> Factors:
        """Return the factors that mistakes about these counts give, without 1. `own` has more for single tensors."""
        found: dict[tuple[str, float], None] = {}
        for mistake in mistakes:
            if mistake.kind == "factor":
                for value in mistake.build(counts):
                    if value != 1.0 and math.isfinite(value) and value != 0.0:
                        found[mistake.name, value] = None
        return cls(tuple(found), own or {})

    def named(self, path: Path, value: float, tolerance: float, *, pairs: bool) -> Iterator[frozenset[str]]:
        """Yield the mistakes that multiply a tensor by a number; with `pairs`, two of them together too."""
        several = (*self.single, *self.own.get(path, ()))
        for code, factor in several:
            if abs(value - factor) <= tolerance * abs(factor):
                yield frozenset((code,))
        if pairs:
            for (one, first), (two, second) in combinations(several, 2):
                if one != two and abs(value - first * second) <= tolerance * abs(first * second):
                    yield frozenset((one, two))


class VariantSearch:
    """The search among the wrong gradients of one compiled set, for any number of claims."""

    def __init__(
        self, paths: Sequence[Path], variants: Sequence[Variant], pictures: Mapping[Path, Array], factors: Factors
    ) -> None:
        self.paths = list(paths)
        self.variants: list[Variant | None] = [None, *variants]
        self.pictures = pictures
        self.squares = {path: np.einsum("ij,ij->i", array, array) for path, array in pictures.items()}
        self.factors = factors
        self.places = np.zeros((len(self.variants), len(self.paths)), np.int64)
        for row, variant in enumerate(variants, 1):
            for path, place in variant.places.items():
                self.places[row, self.paths.index(path)] = place

    def cost(self, readings: Sequence[Reading]) -> float:
        """Return roughly how many seconds `fits` takes."""
        return sum(
            len(reading.options) * (FIT + 2.0 * OPERATION * self.pictures[reading.path].size) for reading in readings
        )

    def fits(self, readings: Sequence[Reading]) -> dict[Path, list[Fit]]:
        """Return for each tensor how its versions fit each of its interpretations."""
        return {
            reading.path: [
                fit(each.picture, self.pictures[reading.path], self.squares[reading.path], reading.noise)
                for each in reading.options
            ]
            for reading in readings
        }

    def _possible(self, readings: Sequence[Reading], fits: Mapping[Path, list[Fit]]) -> Array:
        """Return a mask of the variants that fit all readings, perhaps up to factors."""
        possible = np.ones(len(self.variants), bool)
        for reading in readings:
            near = np.zeros(len(self.pictures[reading.path]), bool)
            for each in fits[reading.path]:
                near |= (each.plain <= reading.tolerance) | (each.scaled <= reading.tolerance)
            possible &= near[self.places[:, self.paths.index(reading.path)]]
        return possible

    def look(
        self, readings: Sequence[Reading], fits: Mapping[Path, list[Fit]] | None = None, *, pairs: bool = False
    ) -> list[ClaimDiagnosis]:
        """Return the diagnoses that explain the whole claim with as few mistakes as possible. `fits` are those of the
        readings, if they are known. With `pairs`, two mistakes may come together."""
        fits = self.fits(readings) if fits is None else fits
        return self._fewest(self._possible(readings, fits), readings, fits, pairs=pairs)

    def _fewest(
        self, possible: Array, readings: Sequence[Reading], fits: Mapping[Path, list[Fit]], *, pairs: bool = False
    ) -> list[ClaimDiagnosis]:
        found: list[ClaimDiagnosis] = []
        if not any(_tells(each, fits[each.path]) for each in readings):
            return []
        for row in np.flatnonzero(possible).tolist():
            found += self._of_variant(row, readings, fits, pairs)
        if not found:
            return []
        fewest = min(len(each.made) for each in found)
        return [each for each in found if len(each.made) == fewest]

    def _of_variant(
        self, row: int, readings: Sequence[Reading], fits: Mapping[Path, list[Fit]], pairs: bool
    ) -> Iterator[ClaimDiagnosis]:
        variant = self.variants[row]
        ways = []
        for reading in readings:
            place = int(self.places[row, self.paths.index(reading.path)])
            of_tensor = list(self._ways(reading, fits[reading.path], place, pairs))
            if not of_tensor:
                return
            ways.append((reading, place, of_tensor))
        own = () if variant is None else variant.made
        limit = (2 if pairs else 1) - len(own)
        for codes in _covers([[way[0] for way in of_tensor] for _, _, of_tensor in ways], limit):
            if not own and not codes:
                continue
            yield self._diagnosis(own, codes, ways)

    def _ways(
        self, reading: Reading, fits: Sequence[Fit], place: int, pairs: bool
    ) -> Iterator[tuple[frozenset[str], float, float, Array]]:
        """Yield each way in which one version explains a tensor: mistakes, error left, factor, claim as read."""
        tolerance = reading.tolerance
        for interpretation, each in zip(reading.options, fits, strict=True):
            if not _is_better(reading, each.plain[place], fits, interpretation):
                continue
            if each.plain[place] <= tolerance:
                yield interpretation.codes, float(each.plain[place]), 1.0, interpretation.array
        for interpretation, each in zip(reading.options, fits, strict=True):
            error, factor = float(each.scaled[place]), float(each.factors[place])
            if error > tolerance or not math.isfinite(factor) or each.plain[place] <= tolerance:
                continue
            if not _is_better(reading, error, fits, interpretation):
                continue
            for codes in self.factors.named(reading.path, factor, tolerance, pairs=pairs):
                yield interpretation.codes | codes, error, factor, interpretation.array

    def _diagnosis(
        self,
        own: tuple[Made, ...],
        codes: frozenset[str],
        ways: Sequence[tuple[Reading, int, list[tuple[frozenset[str], float, float, Array]]]],
    ) -> ClaimDiagnosis:
        precision, explains = 0.0, []
        where: dict[str, list[Path]] = {}
        versions: dict[Path, tuple[int, float, Array]] = {}
        for reading, place, of_tensor in ways:
            chosen = min((way for way in of_tensor if way[0] <= codes), key=lambda way: (len(way[0]), way[1]))
            precision = max(precision, chosen[1])
            if reading.is_wrong:
                explains.append(reading.path)
            for code in chosen[0]:
                where.setdefault(code, []).append(reading.path)
            versions[reading.path] = (place, chosen[2], chosen[3])
        wrong = [reading.path for reading, _, _ in ways if reading.is_wrong]
        made = [*own]
        for code in sorted(codes):
            paths = where.get(code, [])
            name = code
            if (
                code in ("mean_doubled", "mean_instead_of_sum")
                and len(paths) < len(ways)
                and all(path[-1].endswith(("bias", "beta")) for path in paths)
            ):
                name = "bias_mean"
            everywhere = len(paths) == len(wrong) and len(wrong) == len(ways)
            made.append(Made(name, () if everywhere else tuple(".".join(path) for path in paths)))
        return ClaimDiagnosis(tuple(made), tuple(explains), precision, versions=versions)

    # --- parts ---

    def bases(
        self, readings: Sequence[Reading], fits: Mapping[Path, list[Fit]], order: Mapping[Path, int]
    ) -> list[int]:
        """Return the variants that explain the wrong tensors nearest to the loss and contradict no right one. Those
        that explain most tensors come first. `order` is the distance of a tensor from the loss."""
        wrong = [each for each in readings if each.is_wrong]
        if not wrong:
            return []
        nearest = min(order[each.path] for each in wrong)
        explained = np.zeros(len(self.variants), np.int64)
        possible, first = np.ones(len(self.variants), bool), np.zeros(len(self.variants), bool)
        possible[0] = False
        for reading in readings:
            if not reading.options or reading.options[0].codes:
                continue
            plain = fits[reading.path][0].plain[self.places[:, self.paths.index(reading.path)]]
            near = plain <= reading.tolerance
            if reading.is_wrong:
                near &= plain <= BETTER * fits[reading.path][0].plain[0]
                explained += near
            if order[reading.path] < nearest:
                possible &= near
            elif reading.is_wrong and order[reading.path] == nearest:
                first |= near
        rows = np.flatnonzero(possible & first)
        return [int(row) for row in rows[np.argsort(-explained[rows], kind="stable")][:MOST_BASES]]

    def begins(self, readings: Sequence[Reading], fits: Mapping[Path, list[Fit]], order: Mapping[Path, int]) -> bool:
        """Return whether the tensors nearest to the loss are right, or fit a version up to a factor. Otherwise no pairs
        of mistakes are searched in the layers before them."""
        nearest = min((order[each.path] for each in readings if each.is_wrong), default=0)
        for reading in readings:
            if not reading.is_wrong and order[reading.path] < nearest:
                return True
            if order[reading.path] != nearest or reading.size < FEW:
                continue
            if any(bool((each.scaled <= reading.tolerance).any()) for each in fits[reading.path]):
                return True
        return False

    def parts(self, readings: Sequence[Reading], fits: Mapping[Path, list[Fit]] | None = None) -> list[ClaimDiagnosis]:
        """Return mistakes that explain some of the wrong tensors and contradict no right one."""
        found: list[ClaimDiagnosis] = []
        fits = self.fits(readings) if fits is None else fits
        right = [each for each in readings if not each.is_wrong]
        possible = self._possible(right, fits)
        for reading in readings:
            if reading.size < FEW or not _tells(reading, fits[reading.path]):
                continue
            found += self._fewest(possible & self._possible([reading], fits), [*right, reading], fits)
        merged: dict[tuple[Made, ...], ClaimDiagnosis] = {}
        for each in found:
            key = tuple(Made(made.code, made.layers if made.layers in self._layers else ()) for made in each.made)
            if key in merged:
                known = merged[key]
                merged[key] = replace(
                    known,
                    explains=tuple(dict.fromkeys((*known.explains, *each.explains))),
                    precision=max(known.precision, each.precision),
                    versions={**known.versions, **each.versions},
                )
            else:
                merged[key] = each
        return sorted(merged.values(), key=lambda each: (-len(each.explains), len(each.made), each.precision))

    @property
    def _layers(self) -> set[tuple[str, ...]]:
        return {made.layers for variant in self.variants if variant is not None for made in variant.made}


def _tells(reading: Reading, fits: Sequence[Fit]) -> bool:
    """Return whether a tensor is so wrong that rounding cannot make a wrong version fit."""
    if not (reading.is_wrong and reading.options):
        return False
    return bool(reading.options[0].codes) or reading.noise <= BETTER * fits[0].off


def _is_better(reading: Reading, error: float, fits: Sequence[Fit], way: Interpretation) -> bool:
    """Return whether an explanation of a wrong tensor leaves a much smaller error than the right gradient does."""
    if not reading.is_wrong or way.codes:
        return True
    return bool(error <= BETTER * fits[0].plain[0])


def _covers(ways: Sequence[Sequence[frozenset[str]]], limit: int) -> Iterator[frozenset[str]]:
    """Yield the smallest sets of mistakes, of at most `limit`, that explain every tensor in one of its ways."""
    if limit < 0:
        return
    if all(frozenset() in of_tensor for of_tensor in ways):
        yield frozenset()
        return
    codes = sorted({code for of_tensor in ways for way in of_tensor for code in way})
    for count in range(1, limit + 1):
        found = [
            frozenset(chosen)
            for chosen in combinations(codes, count)
            if all(any(way <= set(chosen) for way in of_tensor) for of_tensor in ways)
        ]
        if found:
            yield from found
            return


def ranked(found: Iterable[ClaimDiagnosis]) -> list[ClaimDiagnosis]:
    """Return the diagnoses of one claim, the best first.

    Those with the same numbers become one, with the others as its equivalents. Among equals, a mistake in all layers
    comes before one in some, and then the order of the table counts.
    """
    names = {mistake.name: place for place, mistake in enumerate(mistakes)}

    def key(each: ClaimDiagnosis) -> tuple[float, ...]:
        return (
            -len(each.explains),
            len(each.made),
            math.ceil(math.log10(max(each.precision, ROUNDING)) / math.log10(EQUAL)),
            sum(len(made.layers) > 0 for made in each.made),
            *(names.get(made.code, len(names)) for made in each.made),
        )

    ordered: list[ClaimDiagnosis] = []
    for each in sorted(found, key=key):
        for known in ordered:
            if set(known.explains) == set(each.explains) and (
                each.precision <= max(EQUAL * known.precision, ROUNDING) or len(each.made) > len(known.made)
            ):
                codes = tuple(made.code for made in each.made)
                fewer = len(each.made) <= len(known.made)
                others = [tuple(made.code for made in known.made), *known.equivalent]
                if fewer and codes not in others and len(known.equivalent) < MOST_EQUIVALENT:
                    known.equivalent.append(codes)
                break
        else:
            ordered.append(each)
    return ordered[:MOST_DIAGNOSES]


Look = Callable[[Sequence[Reading]], list[ClaimDiagnosis]]


def interpretation(codes: Iterable[str], array: Array) -> Interpretation:
    """Return an interpretation of a claimed tensor: `array` is the tensor with these mistakes undone."""
    return Interpretation(frozenset(codes), array, picture(array))
