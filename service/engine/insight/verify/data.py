"""Right rules with wrong data: other samples, other targets, or weights that were updated too early.

What depends on numbers that nobody knows is solved for. A gradient is a sum over samples, so the share of each sample
in a claim is a least-squares solution, and the shares tell what was done: one sample alone, one left out, one twice. A
delta that passed weights updated with the rate η is linear in η in the first layer that it changes, which gives η.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from service.engine.errors import LimitExceeded
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Array, Node
from service.engine.graph.operations import sum_over
from service.engine.graph.plan import Program, WorkspacePool
from service.engine.insight.mistakes import Change, Network
from service.engine.insight.mistakes.layers import through_updated
from service.engine.insight.verify.budget import NODE, OPERATION, Budget, cost
from service.engine.insight.verify.search import FEW, ClaimDiagnosis, Reading
from service.engine.insight.verify.sketch import inputs_of, sketch
from service.engine.insight.verify.variants import RATE, Made, Path, Trees, Variant, fill
from service.engine.limits import Limits
from service.engine.network.task import Task, prepare
from service.engine.watch import Watch

MOST_SAMPLES = 256
"""Shares of more samples are not solved for."""
MOST_WORK = 5e7
"""Floating-point operations that single samples may take."""
MOST_PERMUTED = 4
"""Of so many samples, every order of the targets is tried."""
MOST_UPDATED = 8
"""Layers whose weights alone may have been updated too early."""
STRAIGHT = 1e-2
"""What a tensor that is linear in the learning rate leaves over at most, as a share of its error;"""
BENT = 0.3
"""and one that is not. So much is left after each better guess, too."""
MOST_REFINED = 2
MOST_STEPS = 10
MOST_RATES = 4
"""Learning rates that are tried of each way."""
LEAST_RATE, LARGEST_RATE = 1e-6, 1e3
"""Learning rates that somebody may have used."""
SHARES = "verify/shares"
NEAR = 1e-6
"""How near shares lie to whole multiples."""


@dataclass(frozen=True)
class DataTask:
    """Asks for the gradients of single samples, and for gradients through updated weights."""

    task: Task

    @property
    def key(self) -> Task:
        return self.task

    @property
    def effort(self) -> float:
        return 3.0 * self.task.effort

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Data:
        return Data(self.task, limits, pool, watch)


class Data:
    """Gradients of single samples and through updated weights, as pictures."""

    def __init__(
        self, task: Task, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
    ) -> None:
        prepared = prepare(task._replace(dtype="float64"), limits, watch, distinct_layers=True)
        self.network = network = Network(prepared)
        graph, trees = network.graph, Trees(network)
        self.samples = task.samples
        self.paths = network.paths
        outputs: dict[str, Node] = {}
        self.outputs = task.definition.output_names
        self.has_shares = not (task.normalize_weights and task.reduction == "mean")
        if self.has_shares:
            total = graph.constant(0.0)
            weights = task.loss_weights or (1.0,) * len(self.outputs)
            for name, weight, values in zip(self.outputs, weights, network.values_of_samples(), strict=True):
                shares = graph.input(f"{SHARES}/{name}", (self.samples,))
                total = total + weight * sum_over(shares * values)
            found = differentiate(total, network.targets).nodes
            for number, node in enumerate(dense(found, network.targets)):
                outputs[f"shares/{number}"] = sketch(node)
        for number, path in enumerate(self.paths):
            penalty = trees.penalties.get(path)
            if penalty is not None:
                outputs[f"penalty/{number}"] = sketch(penalty)
        self.updated: Program | None = None
        made: dict[str, Node] = {}
        self.forms = 0
        """Ways to have updated weights too early: all of them, or those of one layer."""
        try:
            rate = graph.input(RATE, ())
            owners = [name for name in network.order if any(each.layer == name for each in network.trained)] + [
                layer.name for layer in task.definition.layers if layer.shares is not None
            ]
            several = [owners, *([owner] for owner in reversed(owners[-MOST_UPDATED:]))]
            for penalties in ({}, trees.penalties) if trees.penalties else ({},):
                for layers in several:
                    changes = through_updated(network, layers, rate, penalties)
                    if changes.rules:
                        tree = trees.of(Change(changes=changes))
                        for number, path in enumerate(self.paths):
                            made[f"updated/{self.forms}/{number}"] = sketch(tree[path])
                        self.forms += 1
            if made:
                self.updated = Program(made, network.targets, pool=pool, watch=watch)
                limits.check_program(self.updated)
        except LimitExceeded:
            self.updated = None
        self.program = Program(outputs, network.targets, pool=pool, watch=watch) if outputs else None
        if self.program is not None and self.program.nbytes > limits.workspace_bytes:
            self.program = None
        self.cost, self.updated_cost = (
            0.0 if program is None else cost(program.nodes) for program in (self.program, self.updated)
        )
        """Seconds that a run of each program takes, roughly."""
        self.making = NODE * len(graph.nodes)
        """Seconds that it takes to make this, roughly."""
        self.inputs = {node.attributes[0]: node for node in graph.nodes if node.operation.name == "input"}
        self.signs = inputs_of(graph)
        self.weight = len(graph.nodes)
        """How much of a cache it takes."""
        numbers = sum(node.size for node in outputs.values()) + sum(node.size for node in made.values())
        self.nbytes = 8 * numbers + sum(each.nbytes for each in (self.program, self.updated) if each is not None)

    @property
    def right_share(self) -> float:
        """What each sample's loss counts in the loss."""
        return 1.0 / self.samples if self.network.task.reduction == "mean" else 1.0

    def _run(
        self, program: Program, leaves: Mapping[str, Array], more: Mapping[str, Array], watch: Watch | None
    ) -> dict[str, Array]:
        return next(self._runs(program, leaves, [more], watch))

    def _runs(
        self,
        program: Program,
        leaves: Mapping[str, Array],
        several: Iterable[Mapping[str, Array]],
        watch: Watch | None,
    ) -> Iterator[dict[str, Array]]:
        """What a program gives with one change of its inputs after the other; each names the inputs that it changes,
        and the next one starts from the leaves again."""
        with program.workspace(watch) as workspace:
            plain = {**self.signs, **leaves}
            fill(workspace.inputs, plain, self.inputs)
            workspace.parameters[...] = np.concatenate(
                [leaves[node.attributes[0]].reshape(-1) for node in self.network.targets]
            )
            for more in several:
                rooms = [(workspace.inputs[name], name) for name in more if name in workspace.inputs]
                for room, name in rooms:
                    room[...] = more[name]
                workspace.run(watch)
                yield {name: output.copy() for name, output in workspace.outputs.items()}
                for room, name in rooms:
                    if name in plain:
                        room[...] = plain[name]

    def look(
        self,
        readings: Sequence[Reading],
        right: Mapping[Path, Array],
        leaves: Mapping[str, Array],
        budget: Budget,
        cache: dict[str, object],
    ) -> list[ClaimDiagnosis]:
        """Mistakes of data that explain a whole claim. `right` are the pictures of the right gradient; `cache` is for
        the claims of one request."""
        if any(not reading.options or reading.options[0].codes for reading in readings):
            return []
        found = self._updated(readings, right, leaves, budget, cache)
        if self._is_solved:
            found += self._shares(readings, right, leaves, budget, cache)
        found += self._shuffled(readings, right, leaves, budget, cache)
        return found

    @property
    def _is_solved(self) -> bool:
        """Whether the shares of samples are solved for; where that takes long, only the usual ones are tried."""
        work = 0.0 if self.program is None else self.program.work
        unknown = self.samples * len(self.outputs)
        return self.has_shares and 1 < unknown <= MOST_SAMPLES and unknown * work <= MOST_WORK

    # --- weights that were updated too early ---

    def _updated(
        self,
        readings: Sequence[Reading],
        right: Mapping[Path, Array],
        leaves: Mapping[str, Array],
        budget: Budget,
        cache: dict[str, object],
    ) -> list[ClaimDiagnosis]:
        if self.updated is None:
            return []
        unit = cache.get("updated")
        if unit is None:
            if not budget.may("data", self.updated_cost):
                return []
            unit = cache["updated"] = self._run(self.updated, leaves, {RATE: np.asarray(1.0)}, budget.watch)
        assert isinstance(unit, dict)
        refined = 0
        for form in range(self.forms):
            tried: list[float] = []
            for reading in readings:
                number = self.paths.index(reading.path)
                direction = unit[f"updated/{form}/{number}"] - right[reading.path]
                size = float(direction @ direction)
                if not reading.is_wrong or size == 0.0 or not np.isfinite(size):
                    continue
                off = reading.options[0].picture - right[reading.path]
                rate = float(off @ direction) / size
                left, length = float(np.linalg.norm(off - rate * direction)), float(np.linalg.norm(off))
                if (
                    left > reading.tolerance * length
                    and left <= BENT * length
                    and refined < MOST_REFINED
                    and reading.size >= FEW
                ):
                    refined += 1
                    rate = self._refined(form, reading, rate, right, leaves, budget)
                    left = 0.0
                known = any(abs(rate - each) <= 1e-6 * abs(each) for each in tried)
                if known or not LEAST_RATE <= abs(rate) <= LARGEST_RATE:
                    continue
                if not left <= STRAIGHT * length < math.inf:
                    continue
                if not budget.may("data", self.updated_cost):
                    return []
                tried.append(rate)
                given = self._run(self.updated, leaves, {RATE: np.asarray(rate)}, budget.watch)
                pictures = {path: given[f"updated/{form}/{place}"] for place, path in enumerate(self.paths)}
                precision = _precision(readings, pictures)
                if precision is not None:
                    return [_diagnosis("updated_weights", readings, precision, rate=rate)]
                if len(tried) >= MOST_RATES:
                    break
        return []

    def _refined(
        self,
        form: int,
        reading: Reading,
        rate: float,
        right: Mapping[Path, Array],
        leaves: Mapping[str, Array],
        budget: Budget,
    ) -> float:
        """The learning rate that fits a tensor which is not linear in it, by the secant method."""
        assert self.updated is not None
        claim, before, picture_before = reading.options[0].picture, 0.0, right[reading.path]
        left = float(np.linalg.norm(claim - picture_before))
        for _ in range(MOST_STEPS):
            if not budget.may("data", self.updated_cost):
                break
            given = self._run(self.updated, leaves, {RATE: np.asarray(rate)}, budget.watch)
            picture = given[f"updated/{form}/{self.paths.index(reading.path)}"]
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

    # --- the shares of samples ---

    def _shares(
        self,
        readings: Sequence[Reading],
        right: Mapping[Path, Array],
        leaves: Mapping[str, Array],
        budget: Budget,
        cache: dict[str, object],
    ) -> list[ClaimDiagnosis]:
        unknown = self.samples * len(self.outputs)
        of_samples = cache.get("samples")
        if of_samples is None:
            if not budget.may("data", unknown * self.cost):
                return []
            of_samples = cache["samples"] = self._of_samples(leaves, budget.watch)
        assert isinstance(of_samples, dict)
        rows, sides = [], []
        for reading in readings:
            picture = reading.options[0].picture
            size = float(np.linalg.norm(right[reading.path]))
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
        if not budget.may("data", OPERATION * len(side) * unknown * unknown):
            return []
        shares, _, rank, singular = np.linalg.lstsq(matrix, side, rcond=None)
        if rank < unknown or singular[-1] < 1e-9 * singular[0]:
            return []
        pictures = {path: shares @ of_samples[path][0] + of_samples[path][1] for path in self.paths}
        precision = _precision(readings, pictures)
        if precision is None:
            return []
        tolerance = max(NEAR, *(reading.tolerance for reading in readings)) * singular[0] / singular[-1]
        weights = leaves.get("sample_weights")
        ratios = (shares / self.right_share).reshape(len(self.outputs), self.samples)
        return list(self._told(readings, ratios, min(tolerance, 0.05), precision, weights))

    def _of_samples(self, leaves: Mapping[str, Array], watch: Watch | None) -> dict[Path, tuple[Array, Array]]:
        """The pictures of the gradient of each sample's loss at each output, (outputs times samples, numbers), and of
        the penalties."""
        assert self.program is not None
        rows: dict[Path, list[Array]] = {path: [] for path in self.paths}
        penalties: dict[Path, Array] = {}
        for given in self._runs(self.program, leaves, self._single(), watch):
            for number, path in enumerate(self.paths):
                rows[path].append(given[f"shares/{number}"])
                penalties[path] = given.get(f"penalty/{number}", np.zeros_like(rows[path][-1]))
        return {path: (np.stack(several), penalties[path]) for path, several in rows.items()}

    def _single(self) -> Iterator[dict[str, Array]]:
        """Shares of which one is 1: that of each sample at each output."""
        for output in self.outputs:
            for sample in range(self.samples):
                chosen = {f"{SHARES}/{name}": np.zeros(self.samples) for name in self.outputs}
                chosen[f"{SHARES}/{output}"][sample] = 1.0
                yield chosen

    def _told(
        self, readings: Sequence[Reading], ratios: Array, near: float, precision: float, weights: Array | None
    ) -> Iterator[ClaimDiagnosis]:
        """What shares of samples, beside the right ones, mean: (outputs, samples)."""
        said = [_of_shares(own, near, weights) for own in ratios]
        wrong = [place for place, each in enumerate(said) if each != ("", -1)]
        if not wrong or any(said[place][0] == "?" for place in wrong) or len({said[place] for place in wrong}) > 1:
            return
        code, sample = said[wrong[0]]
        places = () if len(wrong) == len(said) else tuple(self.outputs[place] for place in wrong)
        facts = {"sample": float(sample)} if sample >= 0 else {}
        yield _diagnosis(code, readings, precision, places, **facts)

    # --- targets that belong to other samples ---

    def _shuffled(
        self,
        readings: Sequence[Reading],
        right: Mapping[Path, Array],
        leaves: Mapping[str, Array],
        budget: Budget,
        cache: dict[str, object],
    ) -> list[ClaimDiagnosis]:
        if not self.has_shares or self.program is None or self.samples < 2:
            return []
        versions = cache.get("shuffled")
        if versions is None:
            several = [self.outputs, *((name,) for name in self.outputs if len(self.outputs) > 1)]
            tried = [(names, order) for names in several for order in self._orders() if budget.may("data", self.cost)]
            plain = {f"{SHARES}/{name}": np.full(self.samples, self.right_share) for name in self.outputs}
            changes = [
                plain | {f"targets/{name}": leaves[f"targets/{name}"][order] for name in names}
                for names, order in tried
            ]
            runs = self._runs(self.program, leaves, changes, budget.watch)
            versions = cache["shuffled"] = [
                (names, self._whole(given)) for (names, _), given in zip(tried, runs, strict=True)
            ]
        assert isinstance(versions, list)
        best: tuple[float, tuple[str, ...]] | None = None
        for names, pictures in versions:
            precision = _precision(readings, pictures)
            if precision is not None and (best is None or precision < best[0]):
                best = precision, names
        if best is None:
            return []
        places = () if best[1] == self.outputs else best[1]
        return [_diagnosis("shuffled_samples", readings, best[0], places)]

    def _orders(self) -> Iterator[Array]:
        places = np.arange(self.samples)
        if self.samples <= MOST_PERMUTED:
            yield from (np.array(order) for order in permutations(range(self.samples)) if order != tuple(places))
        else:
            yield from (np.roll(places, 1), np.roll(places, -1), places[::-1])

    def _whole(self, given: Mapping[str, Array]) -> dict[Path, Array]:
        """The pictures of gradients, those of the penalties included."""
        return {
            path: given[f"shares/{number}"] + given.get(f"penalty/{number}", 0.0)
            for number, path in enumerate(self.paths)
        }

    # --- together with other mistakes ---

    def versions(
        self, right: Mapping[Path, Array], leaves: Mapping[str, Array], budget: Budget
    ) -> tuple[list[Variant], list[dict[str, Array]], dict[Path, Array]]:
        """Wrong gradients of the usual mistakes of data: as variants, with what each changes of the leaves, and as
        pictures of all versions of each tensor."""
        variants: list[Variant] = []
        changes: list[dict[str, Array]] = []
        pictures: dict[Path, list[Array]] = {path: [right[path]] for path in self.paths}
        if not self.has_shares or self.program is None or self.samples < 2:
            return variants, changes, {path: np.stack(several) for path, several in pictures.items()}
        count, places = self.samples, np.arange(self.samples)
        weights = leaves["sample_weights"]
        if not weights.all():
            return variants, changes, {path: np.stack(several) for path, several in pictures.items()}
        ratios: list[tuple[Made, Array]] = []
        for sample in (count - 1, 0):
            one = np.where(places == sample, 1.0, 0.0)
            ratios += [(Made("stale_sample"), one), (Made("stale_sample"), count * one)]
            ratios += [(Made("sample_left_out"), 1.0 - one)]
        if (weights > 0.0).all() and len(set(weights.tolist())) > 1:
            ratios += [(Made("sample_weights_forgotten"), 1.0 / weights), (Made("sample_weights_doubled"), weights)]
        plain = {f"{SHARES}/{name}": np.full(count, self.right_share) for name in self.outputs}
        tried = [(made, {"sample_weights": weights * ratio}) for made, ratio in ratios]
        for order in (np.roll(places, 1), np.roll(places, -1), places[::-1]):
            turned = {f"targets/{name}": leaves[f"targets/{name}"][order] for name in self.outputs}
            tried.append((Made("shuffled_samples"), turned))
        tried = [each for each in tried if budget.may("pairs", self.cost)]
        mores = []
        for _, change in tried:
            more = change
            if "sample_weights" in change:
                ratio = change["sample_weights"] / weights
                more = {f"{SHARES}/{name}": self.right_share * ratio for name in self.outputs}
            mores.append({**plain, **more})
        runs = self._runs(self.program, leaves, mores, budget.watch)
        for place, ((made, change), given) in enumerate(zip(tried, runs, strict=True), 1):
            for path, array in self._whole(given).items():
                pictures[path].append(array)
            variants.append(Variant((made,), Change(), dict.fromkeys(self.paths, place)))
            changes.append(change)
        return variants, changes, {path: np.stack(several) for path, several in pictures.items()}


def _of_shares(ratios: Array, near: float, weights: Array | None) -> tuple[str, int]:
    """The mistake that shares of samples, beside the right ones, tell of, and the sample in question; no code: none,
    and a question mark: none that is known."""
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
    """The largest relative error that pictures leave; None: they do not explain the claim."""
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
