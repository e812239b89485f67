"""Verdicts on claimed gradients of a network: what is right, where it goes wrong, and which mistake explains it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from service.engine.compiling import Compilable
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, LimitExceeded
from service.engine.errors import Path as Place
from service.engine.graph.ir import Array
from service.engine.graph.plan import WorkspacePool
from service.engine.insight.leaves import leaves_of
from service.engine.insight.mistakes import Network
from service.engine.insight.subject import Located, Subject
from service.engine.insight.verify.claims import Claim, Claims, undone
from service.engine.insight.verify.data import Data, DataTask
from service.engine.insight.verify.judging import Judge
from service.engine.insight.verify.rounding import Rounding
from service.engine.insight.verify.search import FEW, Diagnosis, Factors, Option, Reading, Search, option, ranked
from service.engine.insight.verify.variants import RATE, UPDATED, Made, Path, Variants, VariantsTask
from service.engine.insight.verify.verdict import FirstWrong, TensorVerdict, Verdicts
from service.engine.limits import Limits
from service.engine.network.cautions import doubtful
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
class Wanted:
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
        self.nbytes = self.subject.nbytes
        if self.nbytes > limits.workspace_bytes:
            raise LimitExceeded("workspace_bytes", self.nbytes, limits.workspace_bytes)
        self.weight = 2 * len(self.network.graph.nodes)
        """How much of a cache it takes."""

    def run(self, feed: Feed, wanted: Wanted, compiled: Compile, watch: Watch | None = None) -> Verdicts:
        """Judge every claim. Raises `InvalidRequest` when the numbers do not fit, and what `watch` raises."""
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
        judge = _Judge(self, rounding, named, compiled, wanted, watch)
        verdicts = [judge.verdict(claim) for claim in read]
        tree = leaves.tree() if feed.parameters is None else None
        return Verdicts(rounding.value, verdicts, tree, True, judge.left_out)


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


class _Judge(Judge):
    """Judges the claims of one request about a network."""

    def __init__(
        self,
        verify: NetworkVerify,
        rounding: Rounding,
        leaves: Mapping[str, Array],
        compiled: Compile,
        wanted: Wanted,
        watch: Watch | None,
    ) -> None:
        super().__init__(verify.subject.space, rounding, verify.task.dtype, watch)
        self.verify, self.leaves, self.compiled, self.wanted = verify, leaves, compiled, wanted
        network = verify.network
        self.factors = Factors.of(replace(network.counts, learning_rate=wanted.learning_rate), _of_positions(network))
        last = len(network.order)
        self.order = {path: last - network.order.index(path[0]) for path in network.paths}
        """How far from the loss a tensor is."""
        self.left_out = False
        self._searches: dict[tuple[Made, int] | None, tuple[Variants, Search]] = {}
        self._cache: dict[str, object] = {}
        self._of_data: tuple[list[dict[str, Array]], Search] | None = None
        self._at_data: dict[int, Search] = {}
        self._arrays: dict[tuple[tuple[Made, int] | None, Path, int], Array] = {}

    def other_readings(self, piece: Piece, array: Array, claim: Claim) -> Iterator[Option]:
        kind = self.verify.network.types[piece.path[0]]
        for code, turned in undone(array, piece.shape, kind):
            yield option((code,), turned)
        for path, other in claim.tensors.items():
            if path != piece.path and other.shape == piece.shape:
                yield option(("tensors_swapped",), other)

    def diagnoses(self, readings: Sequence[Reading]) -> list[Diagnosis]:
        variants, search = self._search(None)
        fits = search.fits(readings)
        found = self._exactly(search.look(readings, fits), readings, None)
        if found and all(len(each.made) == 1 for each in found):
            return ranked(found)
        right = {path: pictures[0] for path, pictures in search.pictures.items()}
        data: Data = self.compiled(DataTask(self.verify.task))
        of_data = data.look(readings, right, self.leaves, self.watch, self._cache)
        if of_data:
            return ranked(of_data)
        found += self._exactly(search.look(readings, fits, pairs=True), readings, None)
        begun = search.begins(readings, fits, self.order)
        for row in search.bases(readings, fits, self.order):
            variant = search.variants[row]
            assert variant is not None
            base = (variant.made[0], variants.forms[id(variant)])
            _, more = self._search(base)
            found += self._exactly(more.look(readings, pairs=True), readings, base)
            self._look()
        if not found:
            found += self._with_data(data, readings, right)
        if not found and begun:
            found += self._with_updates(readings)
        return ranked(found or self._exactly(search.parts(readings, fits), readings, None))

    def _look(self) -> None:
        if self.watch is not None:
            self.watch.look()

    def _with_data(self, data: Data, readings: Sequence[Reading], right: Mapping[Path, Array]) -> list[Diagnosis]:
        """A mistake of data together with another one."""
        if self._of_data is None:
            made, changes, pictures = data.versions(right, self.leaves, self.watch)
            self._of_data = changes, Search(data.paths, made, pictures, self.factors)
        changes, search = self._of_data
        fits = search.fits(readings)
        found = search.look(readings, fits) or search.look(readings, fits, pairs=True)
        for row in search.bases(readings, fits, self.order) if not found else ():
            base = search.variants[row]
            assert base is not None
            if row not in self._at_data:
                variants, _ = self._search(None)
                pictures = variants.run({**self.leaves, **changes[row - 1]}, self.watch)
                self._at_data[row] = Search(variants.paths, variants.variants, pictures, self.factors)
            found += [replace(each, made=(*base.made, *each.made)) for each in self._at_data[row].look(readings)]
            self._look()
        return found

    def _with_updates(self, readings: Sequence[Reading]) -> list[Diagnosis]:
        """Weights that were updated too early, together with another mistake."""
        network = self.verify.network
        nearest = sorted((each for each in readings if each.is_wrong), key=lambda each: self.order[each.path])
        owners = [name for name in network.order if any(path[0] == name for path in network.paths)]
        several = [tuple(owners), *((name,) for name in reversed(owners[-MOST_UPDATED:]))]
        for form in range(2 if network.has_penalties else 1):
            for layers in several:
                base = Made(UPDATED, layers)
                variants: Variants = self.compiled(VariantsTask(self.verify.task, base, form))
                if not variants.variants:
                    continue
                at_zero, at_one = (self._at_rate(variants, rate) for rate in (0.0, 1.0))
                for rate in _rates(nearest, at_zero.pictures, at_one.pictures):
                    found = self._at_rate(variants, rate).look(readings, pairs=True)
                    found = [each for each in found if any(made.code == UPDATED for made in each.made)]
                    if found:
                        return [_with_rate(each, rate, layers == several[0]) for each in found]
                self._look()
        return []

    def _at_rate(self, variants: Variants, rate: float) -> Search:
        pictures = variants.run({**self.leaves, RATE: np.asarray(rate)}, self.watch)
        return Search(variants.paths, variants.variants, pictures, self.factors)

    def _search(self, base: tuple[Made, int] | None) -> tuple[Variants, Search]:
        found = self._searches.get(base)
        if found is None:
            made, form = base if base is not None else (None, 0)
            variants: Variants = self.compiled(VariantsTask(self.verify.task, made, form))
            self.left_out = self.left_out or variants.left_out
            pictures = variants.run(self.leaves, self.watch)
            found = variants, Search(variants.paths, variants.variants, pictures, self.factors)
            self._searches[base] = found
        return found

    def _exactly(
        self, found: Sequence[Diagnosis], readings: Sequence[Reading], base: tuple[Made, int] | None
    ) -> list[Diagnosis]:
        """Those diagnoses that hold number by number, where only pictures of large tensors were compared."""
        variants, _ = self._search(base)
        if all(variants.whole[reading.path] for reading in readings):
            return list(found)
        tolerances = {reading.path: reading.tolerance for reading in readings}
        kept = []
        for each in found:
            holds = True
            for path, (place, factor, array) in each.versions.items():
                if variants.whole[path]:
                    continue
                version = factor * self._array(base, variants, path, place)
                size = float(np.linalg.norm(version))
                error = float(np.linalg.norm(version - array)) / size if size > 0.0 else float(np.abs(array).max())
                holds = holds and error <= tolerances[path]
                each.precision = max(each.precision, error)
            if holds:
                kept.append(each)
        return kept

    def _array(self, base: tuple[Made, int] | None, variants: Variants, path: Path, place: int) -> Array:
        key = (base, path, place)
        if key not in self._arrays:
            if sum(array.size for array in self._arrays.values()) > MOST_KEPT:
                self._arrays.clear()
            self._arrays[key] = variants.arrays([(path, place)], self.leaves, self.watch)[path, place]
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


def _with_rate(diagnosis: Diagnosis, rate: float, everywhere: bool) -> Diagnosis:
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
MOST_KEPT = 8_000_000
"""Numbers of wrong gradients that are kept for the claims of one request."""
