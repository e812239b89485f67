"""A sweep over initialisations: networks of every depth, activation, initializer and seed, each diagnosed at its start.

A network has `depth` hidden dense layers of equal width and an output layer. All see the same samples. Networks are
compiled one after the other and forgotten: nobody asks for the same ones again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.errors import DeadlineExceeded, LimitExceeded
from service.engine.findings import Found
from service.engine.graph.ir import sealing
from service.engine.insight.health.diagnosis import INCLUDE, bytes_of, diagnose, verdict_of
from service.engine.insight.health.measures import Health
from service.engine.limits import Limits
from service.engine.network.activations import Activation, activations
from service.engine.network.definition import INPUT, LayerDefinition
from service.engine.network.evaluate import Evaluation, EvaluationTask
from service.engine.network.feed import Feed
from service.engine.network.initializers import Initializer
from service.engine.network.layered import NetworkDefinition
from service.engine.network.layers import layers
from service.engine.network.losses import SHARES, SIGNS, Loss
from service.engine.network.task import Task
from service.engine.watch import Watch

MOST_COMBINATIONS = 10_000
NUMBERS_OF_LAYER = 5
"""Numbers of an answer for each layer of a network."""
NUMBERS_OF_RUN = 8
OUTPUT_ACTIVATIONS = {"probabilities": "sigmoid", "distributions": "softmax", "rates": "softplus"}
"""The activation of the outputs, by the outputs that a loss takes."""


@dataclass(frozen=True)
class AskedSweep:
    """The question that a request asks of a sweep: the combinations, and the common parts of all networks."""

    depths: Sequence[int]
    activations: Sequence[Selection[Activation]]
    initializers: Sequence[Selection[Initializer]]
    seeds: Sequence[int]
    units: int
    outputs: int
    loss: Selection[Loss]
    dtype: str

    @property
    def count(self) -> int:
        return len(self.depths) * len(self.activations) * len(self.initializers) * len(self.seeds)


@dataclass
class Run:
    """The diagnosis of one network of a sweep."""

    number: int
    """Counted from 1."""
    depth: int
    activation: Selection[Activation]
    initializer: Selection[Initializer]
    seed: int
    verdict: str
    loss: float
    health: Health
    findings: list[Found]


@dataclass
class SweepRow:
    """The diagnoses of all seeds of one depth, activation and initializer, summed up."""

    depth: int
    activation: Selection[Activation]
    initializer: Selection[Initializer]
    runs: int
    ratio: float | None
    """The median over the seeds, as the factor; None where no network has one."""
    factor: float | None
    verdicts: dict[str, int]
    findings: dict[str, int]
    """The count of networks that have a finding with this code, without notes."""


class NetworkSweep:
    """The diagnosis of many networks, made one after the other."""

    def __init__(
        self, asked: AskedSweep, inputs: Array, targets: Array, limits: Limits, watch: Watch | None = None
    ) -> None:
        """Prepare the sweep. Raises `LimitExceeded` when it would cost too much."""
        if asked.count > MOST_COMBINATIONS:
            raise LimitExceeded("combinations", asked.count, MOST_COMBINATIONS, ("sweep",))
        self.asked, self.inputs, self.targets = asked, inputs, targets
        self.limits, self.watch = limits, watch
        self._recipes = list(product(asked.depths, asked.activations, asked.initializers))
        self._place = 0
        self._evaluation: Evaluation | None = None
        self.runs: list[Run] = []
        self.done = 0
        self.rows: list[SweepRow] = []
        self.worst: dict[tuple[str, str], tuple[Found, int]] = {}
        """For each code and severity, the first finding and the count of networks with one."""
        self.status, self.reason = "completed", f"all {asked.count:,} networks were diagnosed"
        layers_in_all = sum(depth + 1 for depth in asked.depths) * (asked.count // len(asked.depths))
        self.numbers = NUMBERS_OF_LAYER * layers_in_all + NUMBERS_OF_RUN * asked.count
        """Numbers of the answer."""
        limits.check_layers(max(asked.depths) + 1)
        limits.check_trace(self.numbers)

    @property
    def largest(self) -> EvaluationTask:
        """The task of evaluating the deepest network, by which the cost of the sweep is estimated."""
        depth = max(self.asked.depths)
        return self._task(depth, self.asked.activations[0], self.asked.initializers[0])

    def admit(self, largest: Evaluation) -> float:
        """Return roughly the floating-point operations of the whole sweep. Raises `LimitExceeded` for too many."""
        deepest = max(self.asked.depths) + 1
        share = sum(depth + 1 for depth in self.asked.depths) / deepest
        work: float = largest.program.work * share * (self.asked.count / len(self.asked.depths))
        self.limits.check_operations(work)
        return work

    @staticmethod
    def memory_of(largest: Evaluation) -> int:
        """Return the bytes that one network takes with its numbers, at most: those of the largest."""
        return int(largest.program.weight) + 8 * int(largest.program.result_size) + bytes_of(largest)

    @property
    def finished(self) -> bool:
        return self._place == len(self._recipes)

    def advance(self) -> Run | None:
        """Diagnose the next network; return None, and end the sweep, where the time ran out meanwhile."""
        try:
            run = self._advance(self.asked.seeds[len(self.runs)])
        except DeadlineExceeded:
            self.cancel("the time ran out while a network was diagnosed")
            return None
        return self.take(run)

    def take(self, run: Run) -> Run:
        """Add the diagnosis of the next network, which was made here or elsewhere, and return it with its number."""
        self.done += 1
        run.number = self.done
        self.runs.append(run)
        self._count(run.findings)
        if len(self.runs) == len(self.asked.seeds):
            self._end_recipe()
        return run

    @property
    def recipes(self) -> int:
        """The number of combinations of depth, activation and initializer."""
        return len(self._recipes)

    def of_recipe(self, place: int) -> list[Run]:
        """Diagnose the networks of one combination, with all seeds, for the sweep of another process to take."""
        self._place = place
        return [self._advance(seed) for seed in self.asked.seeds]

    def _advance(self, seed: int) -> Run:
        depth, activation, initializer = self._recipes[self._place]
        if self._evaluation is None:
            with sealing():
                self._evaluation = self._task(depth, activation, initializer).compile(self.limits, None, self.watch)
        diagnosis = diagnose(self._evaluation, self.feed(seed), self.watch)
        loss = math.nan if diagnosis.result.loss is None else float(diagnosis.result.loss)
        verdict, _ = verdict_of(diagnosis.findings)
        health = diagnosis.health
        return Run(self.done + 1, depth, activation, initializer, seed, verdict, loss, health, diagnosis.findings)

    def feed(self, seed: int) -> Feed:
        """Return the inputs, targets and seed for one network."""
        return Feed({INPUT: self.inputs}, None, {"output": self.targets}, None, seed)

    def _count(self, these: list[Found]) -> None:
        for key, each in {(each.code, each.severity): each for each in reversed(these)}.items():
            first, count = self.worst.get(key, (each, 0))
            self.worst[key] = first, count + 1

    def _end_recipe(self) -> None:
        """Add the row of the present depth, activation and initializer, and go on to the next."""
        if self.runs:
            first = self.runs[0]
            verdicts: dict[str, int] = {}
            codes: dict[str, int] = {}
            for run in self.runs:
                verdicts[run.verdict] = verdicts.get(run.verdict, 0) + 1
                for code in {each.code for each in run.findings if each.severity != "note"}:
                    codes[code] = codes.get(code, 0) + 1
            ratio = _median([run.health.ratio for run in self.runs])
            factor = _median([run.health.factor for run in self.runs])
            count = len(self.runs)
            ordered = dict(sorted(codes.items()))
            self.rows.append(
                SweepRow(first.depth, first.activation, first.initializer, count, ratio, factor, verdicts, ordered)
            )
        self.runs = []
        self._evaluation = None
        self._place += 1

    def cancel(self, reason: str) -> None:
        """End the sweep with this reason. The networks diagnosed so far are kept."""
        if not self.finished:
            self._end_recipe()
            self._place = len(self._recipes)
            self.status, self.reason = (
                "cancelled",
                f"{reason}; {self.done:,} of {self.asked.count:,} networks were diagnosed",
            )

    def close(self) -> None:
        self._evaluation = None
        self.runs = []

    def _task(
        self, depth: int, activation: Selection[Activation], initializer: Selection[Initializer]
    ) -> EvaluationTask:
        asked = self.asked
        parts = [_dense(f"hidden_{place + 1}", asked.units, activation, initializer) for place in range(depth)]
        options = asked.loss.options
        raw = options.get("from_logits") or options.get("log_input")
        kind = None if raw else asked.loss.declaration.outputs
        last = activations.select("linear" if kind is None else OUTPUT_ACTIVATIONS[kind])
        parts.append(_dense("output", asked.outputs, last, initializer))
        task = Task(
            NetworkDefinition(tuple(parts)),
            asked.dtype,
            ((INPUT, self.inputs.shape),),
            include=INCLUDE,
            losses=(asked.loss,),
            targets=(("output", self.targets.shape),),
        )
        return EvaluationTask(task)


def _dense(
    name: str, units: int, activation: Selection[Activation], initializer: Selection[Initializer]
) -> LayerDefinition:
    chosen = layers.select("dense", units=units, activation=activation, kernel_initializer=initializer)
    return LayerDefinition(name, chosen)


def _median(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return float(np.median(known)) if known else None


def drawn_inputs(samples: int, features: int, seed: int, dtype: str) -> Array:
    """Return inputs from a standard normal distribution, (samples, features)."""
    return _generator(seed, 0).standard_normal((samples, features)).astype(dtype)


def drawn_targets(loss: Selection[Loss], samples: int, outputs: int, seed: int, dtype: str) -> Array:
    """Return random targets of the kind that a loss takes. At the start of a network their meaning does not matter."""
    generator, declaration = _generator(seed, 1), loss.declaration
    if declaration.indices:
        return generator.integers(0, outputs, samples)
    if declaration.outputs == "distributions":
        drawn: Array = np.eye(outputs)[generator.integers(0, outputs, samples)]
    elif declaration.outputs == "rates":
        drawn = generator.poisson(1.0, (samples, outputs))
    elif declaration.targets is SIGNS:
        drawn = 2.0 * generator.integers(0, 2, (samples, outputs)) - 1.0
    elif declaration.targets is SHARES:
        drawn = generator.integers(0, 2, (samples, outputs))
    else:
        drawn = generator.standard_normal((samples, outputs))
    return np.asarray(drawn, dtype)


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, 2, stream]))
