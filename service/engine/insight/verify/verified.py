"""Verdicts on claimed gradients of a network: what is right, where it goes wrong, and which mistake explains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from service.engine.compiling import Compilable
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, LimitExceeded
from service.engine.errors import Path as Place
from service.engine.graph.ir import Array, reachable
from service.engine.graph.plan import WorkspacePool
from service.engine.graph.quiet import quietly
from service.engine.insight.leaves import leaves_of
from service.engine.insight.mistakes import Network
from service.engine.insight.subject import Located, Subject
from service.engine.insight.verify.budget import MOST, Budget, Reserve, cost
from service.engine.insight.verify.claims import Claim, Claims, undone
from service.engine.insight.verify.data import Data, DataTask
from service.engine.insight.verify.judging import NEAR, Judge
from service.engine.insight.verify.rounding import Rounding
from service.engine.insight.verify.search import (
    FEW,
    ClaimDiagnosis,
    Factors,
    Interpretation,
    Reading,
    VariantSearch,
    interpretation,
    ranked,
)
from service.engine.insight.verify.sketch import is_whole, picture
from service.engine.insight.verify.variants import RATE, UPDATED, Made, Path, Variants, VariantsTask
from service.engine.insight.verify.verdict import FirstWrong, TensorVerdict, Verdicts
from service.engine.limits import Limits
from service.engine.network.cautions import doubtful
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.feed import Feed, Feeder
from service.engine.network.task import Caution, Task, prepare
from service.engine.network.vectors import ParametersSide, Piece
from service.engine.watch import Watch

Compile = Callable[[Compilable[Any]], Any]
"""Gives what a task is compiled to."""

EVALUATIONS = 20
"""How many evaluations a verdict takes at least, roughly."""


class Submission(NamedTuple):
    """One claim of a request."""

    claimed: Any
    place: Place
    """Where it is written."""


@dataclass(frozen=True)
class VerifyOptions:
    """How to judge."""

    submissions: Sequence[Submission]
    layout: str = "nabla"
    tolerance: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class NetworkVerifyTask:
    """Asks for verdicts on gradients of a network's loss."""

    task: Task

    @property
    def key(self) -> Task:
        return self.task

    @property
    def effort(self) -> float:
        return 3.0 * self.task.effort

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> NetworkVerify:
        return NetworkVerify(self.task, limits, pool, watch)


class NetworkVerify:
    """The right gradient of a network's loss in float64, ready to be compared with claims."""

    def __init__(
        self, task: Task, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
    ) -> None:
        """Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when it is large, and
        what `watch` raises.
        """
        self.task, self.limits = task, limits
        self.prepared = prepare(task, limits, watch)
        self.feeder = Feeder(self.prepared, limits)
        model = self.prepared.model
        self.side = ParametersSide(task, model)
        if not self.side.size:
            detail = "has no parameters that are trained, so there is no gradient to compare with"
            raise InvalidRequest([Fault(("network",), detail)])
        self.warnings: list[Caution] = doubtful(task, model)
        self.claims = Claims(self.side, task.definition)
        twin = prepare(task._replace(dtype="float64"), limits, watch, distinct_layers=True)
        self.network = Network(twin)
        wrt = list(zip(self.network.paths, self.network.targets, strict=True))
        self.subject = Subject(self.network.objective.total, wrt, pool)
        self.inputs = {node.attributes[0]: node for node in self.network.forward if node.operation.name == "input"}
        limits.check_operations(EVALUATIONS * self.subject.work)
        program, forward = self.subject.program, self.subject.forward
        largest = max(node.size for node in program.nodes)
        self.nbytes = 4 * program.nbytes + forward.nbytes + 64 * self.side.size + 16 * largest
        """What a verdict takes without the search, roughly. Measured: half of it to all of it."""
        if self.nbytes > limits.workspace_bytes:
            raise LimitExceeded("workspace_bytes", self.nbytes, limits.workspace_bytes)
        self.cost = cost(self.subject.program.nodes)
        """Seconds that the gradient takes, roughly."""
        self.weight = 2 * len(self.network.graph.nodes)
        """How much of a cache it takes."""

    def run(
        self,
        feed: Feed,
        wanted: VerifyOptions,
        compiled: Compile,
        reserve: Reserve = lambda program, work, nbytes: True,
        most: float = MOST,
        watch: Watch | None = None,
    ) -> Verdicts:
        """Judge every claim. The search for mistakes may take `most` seconds, as `Budget` counts them.

        Raises `InvalidRequest` when the numbers do not fit, and what `reserve` and `watch` raise.
        """
        read, faults = [], []
        for submission in wanted.submissions:
            claim = self.claims.read(submission.claimed, wanted.layout, submission.place)
            faults += claim.faults
            read.append(claim)
            if len(faults) >= MOST_ERRORS:
                break
        try:
            leaves = leaves_of(self.prepared, self.feeder, feed, watch)
        except InvalidRequest as error:
            raise InvalidRequest([*error.faults, *faults]) from None
        if faults:
            raise InvalidRequest(faults[:MOST_ERRORS])
        named = {node.attributes[0]: _wide(value) for node, value in leaves.values().items()}
        named.setdefault("sample_weights", np.ones(self.task.samples))
        here = Located(self.subject, {node: named[name] for name, node in self.inputs.items() if name in named}, watch)
        rounding = Rounding(here, feed.seed, wanted.tolerance)
        if not (math.isfinite(rounding.value) and np.isfinite(rounding.exact).all()):
            detail = "the loss or its gradient is not finite for these numbers, so there is nothing to compare with"
            raise InvalidRequest([Fault(("inputs",), detail)])
        budget = Budget(self.cost, most, self.nbytes + 16 * self.side.size * len(read), reserve, watch)
        judge = NetworkJudge(self, rounding, named, compiled, wanted, budget, feed)
        verdicts = [quietly(judge.verdict, claim) for claim in read]
        tree = leaves.tree() if feed.parameters is None else None
        return Verdicts(rounding.value, verdicts, tree, True, tuple(budget.missed))


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


class NetworkJudge(Judge):
    """Judges the claims of one request about a network."""

    def __init__(
        self,
        verify: NetworkVerify,
        rounding: Rounding,
        leaves: Mapping[str, Array],
        compiled: Compile,
        wanted: VerifyOptions,
        budget: Budget,
        feed: Feed,
    ) -> None:
        super().__init__(verify.subject.space, rounding, verify.task.dtype, budget.watch)
        self.verify, self.leaves, self.compiled, self.wanted = verify, leaves, compiled, wanted
        self.budget, self.feed = budget, feed
        network = verify.network
        self.factors = Factors.of(replace(network.counts, learning_rate=wanted.learning_rate), _of_positions(network))
        last = len(network.order)
        self.order = {path: last - network.order.index(path[0]) for path in network.paths}
        """How far from the loss a tensor is."""
        self._searches: dict[VariantsTask, tuple[Variants, VariantSearch] | None] = {}
        self._data: Data | None = None
        exact = {piece.path: self.exact[piece.start : piece.stop].reshape(piece.shape) for piece in self.space.pieces}
        self.right = {path: picture(array) for path, array in exact.items()}
        """The pictures of the right gradient."""
        self._cache: dict[str, object] = {}
        self._of_data: tuple[list[dict[str, Array]], VariantSearch] | None = None
        self._at_data: dict[int, VariantSearch] = {}
        self._arrays: dict[tuple[Variants, Path, int], Array] = {}

    @cached_property
    def own(self) -> Array:
        result = self.compiled(EvaluationTask(self.verify.task)).run(self.feed, self.watch)
        return np.concatenate([result.gradients[layer][name].reshape(-1) for layer, name in self.right])

    def other_readings(self, piece: Piece, array: Array, claim: Claim) -> Iterator[Interpretation]:
        kind = self.verify.network.types[piece.path[0]]
        for code, turned in undone(array, piece.shape, kind):
            yield interpretation((code,), turned)
        alike = [path for path, other in claim.tensors.items() if path != piece.path and other.shape == piece.shape]
        place = self.order[piece.path]
        for path in sorted(alike, key=lambda path: abs(self.order[path] - place))[:MOST_SWAPPED]:
            yield interpretation(("tensors_swapped",), claim.tensors[path])
        if array.shape == piece.shape and self._is_of_another(piece, array):
            yield interpretation(("tensors_swapped",), self.exact[piece.start : piece.stop].reshape(piece.shape))

    def _is_of_another(self, piece: Piece, array: Array) -> bool:
        """Whether a tensor is the right gradient of another one."""
        length, near = float(np.linalg.norm(array)), NEAR[self.dtype]
        for place in np.flatnonzero(np.abs(self._lengths - length) <= near * length).tolist():
            other = self.space.pieces[place]
            if other.shape == piece.shape and other.path != piece.path:
                exact = self.exact[other.start : other.stop].reshape(piece.shape)
                if float(np.linalg.norm(array - exact)) <= near * length:
                    return True
        return False

    @cached_property
    def _lengths(self) -> Array:
        return np.array([np.linalg.norm(self.exact[piece.start : piece.stop]) for piece in self.space.pieces])

    def diagnoses(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        """The cheapest families first; each as far as the budget reaches."""
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
            found += self._exactly(search.look(readings, fits), readings, variants)
            if found and all(len(each.made) == 1 for each in found):
                return ranked(found)
        of_data = self._of_mistaken_data(readings)
        if of_data:
            return ranked(of_data)
        if tried[0][0] is None:
            self.budget.missed["pairs"] = None
        begun = False
        for variants, search, fits in looked:
            found += self._exactly(search.look(readings, fits, pairs=True), readings, variants)
            begun = begun or search.begins(readings, fits, self.order)
            for row in search.bases(readings, fits, self.order) if variants is not None else ():
                variant = search.variants[row]
                assert variant is not None and variants is not None
                made = self._made("pairs", variant.made[0], variants.forms[id(variant)], like=variants)
                if made is not None and self.budget.may("pairs", made[1].cost(readings)):
                    found += self._exactly(made[1].look(readings, pairs=True), readings, made[0])
        if not found:
            found += self._with_data(readings)
        if not found and begun:
            found += self._with_updates(readings)
        if not found:
            for variants, search, fits in looked:
                found += self._exactly(search.parts(readings, fits), readings, variants)
        return ranked(found)

    @cached_property
    def _plain(self) -> tuple[Variants | None, VariantSearch]:
        """The right gradient alone, for factors and arrangements."""
        return None, VariantSearch(
            list(self.right), [], {path: one[None] for path, one in self.right.items()}, self.factors
        )

    def _made(
        self, family: str, base: Made | None = None, form: int = 0, *, layer: str = "", like: Variants | None = None
    ) -> tuple[Variants, VariantSearch] | None:
        """The wrong gradients of the rules, or those with one mistake more than `base`; None: they cost too much.

        `like` are some that cost as much, as far as anybody knows before they are made.
        """
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
        """The pictures of wrong gradients; None: that costs too much."""
        if not self.budget.may(family, variants.cost):
            return None
        if not self.budget.reserve(family, variants.program, variants.nbytes):
            return None
        return variants.run(leaves, self.watch)

    def _of_mistaken_data(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        if self._data is None:
            if not self.budget.may("data", BEFORE * self.verify.cost):
                return []
            self._data = self.compiled(DataTask(self.verify.task))
            self.budget.spend(self._data.making - BEFORE * self.verify.cost)
        program = self._data.updated or self._data.program
        if program is None or not self.budget.reserve("data", program, self._data.nbytes):
            return []
        return self._data.look(readings, self.right, self.leaves, self.budget, self._cache)

    def _with_data(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        """A mistake of data together with another one."""
        data, made = self._data, self._made("rules")
        if data is None or made is None:
            return []
        variants, _ = made
        if self._of_data is None:
            mistaken, changes, pictures = data.versions(self.right, self.leaves, self.budget)
            self._of_data = changes, VariantSearch(data.paths, mistaken, pictures, self.factors)
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
        """Weights that were updated too early, together with another mistake."""
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

    def _exactly(
        self, found: Sequence[ClaimDiagnosis], readings: Sequence[Reading], variants: Variants | None
    ) -> list[ClaimDiagnosis]:
        """Those diagnoses that hold number by number, where only pictures of large tensors were compared."""
        pieces = {piece.path: piece for piece in self.space.pieces}
        whole = {path: is_whole(piece.shape) for path, piece in pieces.items()}
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
                    piece = pieces[path]
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
        """A wrong gradient, whole; None: that costs too much."""
        key = (variants, path, place)
        if key not in self._arrays:
            nodes = reachable([variants.versions[path][place]])
            if not self.budget.may("rules", cost(nodes)):
                return None
            if not self.budget.reserve("rules", variants.program, 8 * (MOST_KEPT + sum(node.size for node in nodes))):
                return None
            if sum(array.size for array in self._arrays.values()) > MOST_KEPT:
                self._arrays.clear()
            self._arrays[key] = variants.array(path, place, self.leaves, self.watch)
        return self._arrays[key]

    def first_wrong(self, tensors: Sequence[TensorVerdict]) -> FirstWrong | None:
        wrong = [each for each in tensors if each.verdict == "mismatch"]
        if not wrong:
            return None
        first = min(wrong, key=lambda each: self.order[each.path])
        layer = first.path[0]
        right = dict.fromkeys(each.path[0] for each in tensors if self.order[each.path] < self.order[first.path])
        ordered = sorted(right, key=lambda name: -self.verify.network.order.index(name))
        return FirstWrong(layer, [each.path for each in wrong if each.path[0] == layer], ordered)


def _of_positions(network: Network) -> dict[Path, tuple[tuple[str, float], ...]]:
    """The factors of biases that are means over positions, with the samples or without."""
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
    """Learning rates that fit the tensors nearest to the loss, for any version of them, whole or times a factor.

    Where weights change a tensor first, it is linear in the rate: a times the version plus b times the change.
    """
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


LINEAR = 1e-4
"""How near a tensor is to one that is linear in the learning rate."""
MOST_RATES = 6
MOST_UPDATED = 4
"""Layers whose weights alone may have been updated too early, beside another mistake."""
MOST_SWAPPED = 6
"""Tensors of the same shape that one is compared with, the nearest first."""
BEFORE = 10.0
"""What wrong gradients are expected to cost before they are made, in gradients."""
MOST_KEPT = 4_000_000
"""Numbers of wrong gradients that are kept for the claims of one request."""
