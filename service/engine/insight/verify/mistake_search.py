"""The search for mistakes in the claims of one request about a network: cheapest families first, within a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from service.engine.arrays import Array
from service.engine.compiling import Compilable
from service.engine.graph.ir import reachable
from service.engine.insight.mistakes import Network
from service.engine.insight.subject import Subject
from service.engine.insight.verify.budget import Budget, cost
from service.engine.insight.verify.data import DataGradients, DataTask
from service.engine.insight.verify.data_search import DataSearch
from service.engine.insight.verify.search import FEW, ClaimDiagnosis, Factors, Reading, VariantSearch, ranked
from service.engine.insight.verify.sketch import is_whole, picture
from service.engine.insight.verify.variants import RATE, UPDATED, Made, Path, Variants, VariantsTask
from service.engine.network.task import Task

Compile = Callable[[Compilable[Any]], Any]
"""Returns the compiled form of a task."""
LINEAR = 1e-4
"""Largest distance of a tensor from one that is linear in the learning rate."""
MOST_RATES = 6
MOST_UPDATED = 4
"""Layers whose weights alone may have been updated too early, beside another mistake."""
BEFORE = 10.0
"""Expected cost of wrong gradients before they are made, in gradients."""
MOST_KEPT = 4_000_000
"""Numbers of wrong gradients that are kept for the claims of one request."""


class VerifiedNetwork(Protocol):
    """A network with its right gradient, as the search for mistakes uses it."""

    task: Task
    network: Network
    subject: Subject
    cost: float


class WholeComparison:
    """The comparison of diagnoses with a claim number by number. The search compares only pictures of large tensors."""

    def __init__(self, verify: VerifiedNetwork, exact: Array, leaves: Mapping[str, Array], budget: Budget) -> None:
        self.pieces = {piece.path: piece for piece in verify.subject.space.pieces}
        self.exact, self.leaves, self.budget = exact, leaves, budget
        self._arrays: dict[tuple[Variants, Path, int], Array] = {}

    def exactly(
        self, found: Sequence[ClaimDiagnosis], readings: Sequence[Reading], variants: Variants | None
    ) -> list[ClaimDiagnosis]:
        """Return those diagnoses that hold number by number. `variants` made their wrong gradients."""
        whole = {path: is_whole(piece.shape) for path, piece in self.pieces.items()}
        if all(whole[reading.path] for reading in readings):
            return list(found)
        tolerances = {reading.path: reading.tolerance for reading in readings}
        kept = []
        for each in found:
            holds = True
            for path, (place, factor, array) in each.versions.items():
                if whole[path] or not holds:
                    continue
                if variants is None or not place:
                    piece = self.pieces[path]
                    right: Array | None = self.exact[piece.start : piece.stop].reshape(piece.shape)
                else:
                    right = self._array(variants, path, place)
                if right is None:
                    holds = False
                    continue
                version = factor * right
                size = float(np.linalg.norm(version))
                error = float(np.linalg.norm(version - array)) / size if size > 0.0 else float(np.abs(array).max())
                holds = error <= tolerances[path]
                each.precision = max(each.precision, error)
            if holds:
                kept.append(each)
        return kept

    def _array(self, variants: Variants, path: Path, place: int) -> Array | None:
        """Return one wrong gradient of a parameter whole; None if that costs too much."""
        key = (variants, path, place)
        if key not in self._arrays:
            nodes = reachable([variants.versions[path][place]])
            if not self.budget.may("rules", cost(nodes)):
                return None
            if not self.budget.reserve("rules", variants.program, 8 * (MOST_KEPT + sum(node.size for node in nodes))):
                return None
            if sum(array.size for array in self._arrays.values()) > MOST_KEPT:
                self._arrays.clear()
            self._arrays[key] = variants.array(path, place, self.leaves, self.budget.watch)
        return self._arrays[key]


class MistakeSearch:
    """The search for mistakes in the claims of one request about a network."""

    def __init__(
        self,
        verify: VerifiedNetwork,
        exact: Array,
        leaves: Mapping[str, Array],
        compiled: Compile,
        learning_rate: float | None,
        budget: Budget,
    ) -> None:
        """Prepare. `exact` is the right gradient, flat, and `leaves` are the numbers of the request by input."""
        self.verify, self.leaves, self.compiled, self.budget = verify, leaves, compiled, budget
        network = verify.network
        self.factors = Factors.of(replace(network.counts, learning_rate=learning_rate), _of_positions(network))
        last = len(network.order)
        self.order = {path: last - network.order.index(path[0]) for path in network.paths}
        """The distance of each tensor from the loss, in layers."""
        self.right = {
            piece.path: picture(exact[piece.start : piece.stop].reshape(piece.shape))
            for piece in verify.subject.space.pieces
        }
        """The pictures of the right gradient."""
        self._whole = WholeComparison(verify, exact, leaves, budget)
        self._searches: dict[VariantsTask, tuple[Variants, VariantSearch] | None] = {}
        self._data: DataSearch | None = None
        self._of_data: tuple[list[dict[str, Array]], VariantSearch] | None = None
        self._at_data: dict[int, VariantSearch] = {}

    def diagnoses(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        """Return the mistakes that explain a claim, from the cheapest families first, as the budget allows."""
        wrong = min((each for each in readings if each.is_wrong), key=lambda each: self.order[each.path])
        tried: list[tuple[Variants | None, VariantSearch]] = []
        general = self._made("rules")
        if general is not None and self.budget.may("rules", general[1].cost(readings)):
            tried.append(general)
        if general is None or general[0].left_out:
            self.budget.missed["rules"] = None
            near = self._made("rules", layer=wrong.path[0])
            if near is not None and self.budget.may("rules", near[1].cost(readings)):
                tried.append(near)
        if not tried:
            tried.append(self._plain)
        found: list[ClaimDiagnosis] = []
        looked = []
        for variants, search in tried:
            fits = search.fits(readings)
            looked.append((variants, search, fits))
            found += self._whole.exactly(search.look(readings, fits), readings, variants)
            if found and all(len(each.made) == 1 for each in found):
                return ranked(found)
        of_data = self._of_mistaken_data(readings)
        if of_data:
            return ranked(of_data)
        if tried[0][0] is None:
            self.budget.missed["pairs"] = None
        begun = False
        for variants, search, fits in looked:
            found += self._whole.exactly(search.look(readings, fits, pairs=True), readings, variants)
            begun = begun or search.begins(readings, fits, self.order)
            for row in search.bases(readings, fits, self.order) if variants is not None else ():
                variant = search.variants[row]
                assert variant is not None and variants is not None
                made = self._made("pairs", variant.made[0], variants.forms[id(variant)], like=variants)
                if made is not None and self.budget.may("pairs", made[1].cost(readings)):
                    found += self._whole.exactly(made[1].look(readings, pairs=True), readings, made[0])
        if not found:
            found += self._with_data(readings)
        if not found and begun:
            found += self._with_updates(readings)
        if not found:
            for variants, search, fits in looked:
                found += self._whole.exactly(search.parts(readings, fits), readings, variants)
        return ranked(found)

    @cached_property
    def _plain(self) -> tuple[Variants | None, VariantSearch]:
        """The search with the right gradient alone, for factors and arrangements."""
        return None, VariantSearch(
            list(self.right), [], {path: one[None] for path, one in self.right.items()}, self.factors
        )

    def _made(
        self, family: str, base: Made | None = None, form: int = 0, *, layer: str = "", like: Variants | None = None
    ) -> tuple[Variants, VariantSearch] | None:
        """Return the wrong gradients of the rules, with a search among them; None if they cost too much. With `base`,
        they have one more mistake beside this one. `like` are others with probably the same cost."""
        asked = VariantsTask(self.verify.task, base, form, layer)
        if asked not in self._searches:
            self._searches[asked] = None
            expected = BEFORE * self.verify.cost if like is None else like.cost + like.making
            if self.budget.may(family, expected):
                variants: Variants = self.compiled(asked)
                self.budget.spend(variants.making - expected)
                pictures = self._run(family, variants, self.leaves)
                if pictures is not None:
                    self.budget.keep(8 * variants.numbers)
                    self._searches[asked] = variants, self._search(variants, pictures)
        return self._searches[asked]

    def _search(self, variants: Variants, pictures: Mapping[Path, Array]) -> VariantSearch:
        return VariantSearch(variants.paths, variants.variants, pictures, self.factors)

    def _run(self, family: str, variants: Variants, leaves: Mapping[str, Array]) -> dict[Path, Array] | None:
        """Return the pictures of wrong gradients by parameter; None if that costs too much."""
        if not self.budget.may(family, variants.cost):
            return None
        if not self.budget.reserve(family, variants.program, variants.nbytes):
            return None
        return variants.run(leaves, self.budget.watch)

    def _of_mistaken_data(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        if self._data is None:
            if not self.budget.may("data", BEFORE * self.verify.cost):
                return []
            made: DataGradients = self.compiled(DataTask(self.verify.task))
            self.budget.spend(made.making - BEFORE * self.verify.cost)
            self._data = DataSearch(made, self.right, self.leaves, self.budget)
        data = self._data.data
        program = data.updated or data.program
        if program is None or not self.budget.reserve("data", program, data.nbytes):
            return []
        return self._data.look(readings)

    def _with_data(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        """Return diagnoses of a claim with a mistake of data and another mistake."""
        data, made = self._data, self._made("rules")
        if data is None or made is None:
            return []
        variants, _ = made
        if self._of_data is None:
            mistaken, changes, pictures = data.versions()
            self._of_data = changes, VariantSearch(data.data.paths, mistaken, pictures, self.factors)
        changes, search = self._of_data
        if not self.budget.may("pairs", search.cost(readings)):
            return []
        fits = search.fits(readings)
        found = search.look(readings, fits) or search.look(readings, fits, pairs=True)
        for row in search.bases(readings, fits, self.order) if not found else ():
            base = search.variants[row]
            assert base is not None
            if row not in self._at_data:
                at_data = self._run("pairs", variants, {**self.leaves, **changes[row - 1]})
                if at_data is None:
                    break
                self.budget.keep(8 * variants.numbers)
                self._at_data[row] = self._search(variants, at_data)
            if not self.budget.may("pairs", self._at_data[row].cost(readings)):
                break
            found += [replace(each, made=(*base.made, *each.made)) for each in self._at_data[row].look(readings)]
        return found

    def _with_updates(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        """Return diagnoses of a claim with weights updated too early and another mistake."""
        network, general = self.verify.network, self._made("rules")
        if general is None:
            return []
        nearest = sorted((each for each in readings if each.is_wrong), key=lambda each: self.order[each.path])
        owners = [name for name in network.order if any(path[0] == name for path in network.paths)]
        several = [tuple(owners), *((name,) for name in reversed(owners[-MOST_UPDATED:]))]
        expected = general[0].making
        for form in range(2 if network.has_penalties else 1):
            for layers in several:
                base = Made(UPDATED, layers)
                if not self.budget.may("pairs", expected):
                    return []
                variants: Variants = self.compiled(VariantsTask(self.verify.task, base, form))
                self.budget.spend(variants.making - expected)
                if not variants.variants:
                    continue
                ends = [self._at_rate(variants, rate) for rate in (0.0, 1.0)]
                if ends[0] is None or ends[1] is None:
                    return []
                for rate in _rates(nearest, ends[0].pictures, ends[1].pictures):
                    search = self._at_rate(variants, rate)
                    if search is None or not self.budget.may("pairs", search.cost(readings)):
                        return []
                    found = search.look(readings, pairs=True)
                    found = [each for each in found if any(made.code == UPDATED for made in each.made)]
                    if found:
                        return [_with_rate(each, rate, layers == several[0]) for each in found]
        return []

    def _at_rate(self, variants: Variants, rate: float) -> VariantSearch | None:
        pictures = self._run("pairs", variants, {**self.leaves, RATE: np.asarray(rate)})
        return None if pictures is None else self._search(variants, pictures)


def _of_positions(network: Network) -> dict[Path, tuple[tuple[str, float], ...]]:
    """Return the factors of biases that are means over positions, with or without samples, by parameter."""
    found: dict[Path, tuple[tuple[str, float], ...]] = {}
    for path, node in zip(network.paths, network.targets, strict=True):
        z = network.model.layers[path[0]].pre_activation
        positions = z.size // z.shape[0] // max(1, node.size)
        if len(node.shape) == 1 and path[1].endswith(("bias", "beta")) and positions > 1:
            found[path] = (("bias_mean", 1.0 / positions), ("bias_mean", 1.0 / (positions * z.shape[0])))
    return found


def _with_rate(diagnosis: ClaimDiagnosis, rate: float, everywhere: bool) -> ClaimDiagnosis:
    made = tuple(Made(each.code) if each.code == UPDATED and everywhere else each for each in diagnosis.made)
    return replace(diagnosis, made=made, facts={"rate": rate})


def _rates(readings: Sequence[Reading], at_zero: Mapping[Path, Array], at_one: Mapping[Path, Array]) -> list[float]:
    """Return learning rates that fit the tensors nearest to the loss, for any version of them, whole or times a factor.
    Where weights first change a tensor, it is linear in the rate: a times the version plus b times the change."""
    found: list[float] = []
    for reading in readings:
        if not reading.options or reading.options[0].codes or reading.size < FEW:
            continue
        claim, whole = reading.options[0].picture, at_zero[reading.path]
        change = at_one[reading.path] - whole
        with np.errstate(all="ignore"):
            ww, wc, cc = ((x * y).sum(1) for x, y in ((whole, whole), (whole, change), (change, change)))
            w, c = whole @ claim, change @ claim
            below = ww * cc - wc * wc
            a, b = (cc * w - wc * c) / below, (ww * c - wc * w) / below
            left = np.linalg.norm(a[:, None] * whole + b[:, None] * change - claim, axis=1)
            rates = b / a
        near = np.isfinite(rates) & (left <= LINEAR * float(np.linalg.norm(claim))) & (rates > 0.0)
        for rate in rates[near].tolist():
            if all(abs(rate - other) > 1e-5 * rate for other in found):
                found.append(rate)
        if found:
            break
    return found[:MOST_RATES]
