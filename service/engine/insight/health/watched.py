"""A training that is diagnosed while it runs: the numbers of its steps, and now and then its network."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field, replace

import numpy as np

from service.engine.arrays import Array
from service.engine.descent.training import Outcome, Training
from service.engine.errors import DeadlineExceeded
from service.engine.findings import Found, found, found_if
from service.engine.insight.health.diagnosis import Diagnosis, diagnose
from service.engine.insight.health.measures import Health
from service.engine.insight.health.rules import ranked
from service.engine.insight.health.story import COLUMNS, Record, judge_record, ratios_of, record_of
from service.engine.network.evaluate import Evaluation
from service.engine.network.feed import Feed
from service.engine.network.flat import tree_of
from service.engine.watch import Watch

LOOKS = 16
"""Diagnoses of the whole network after the one at the start."""
RATIOS = 64
"""Comparisons of updates with weights."""
AT_THE_END = frozenset(
    (
        "saturated_left",
        "saturated_right",
        "vanishing_gradient",
        "exploding_gradient",
        "learning_slowdown",
        "zero_gradient",
    )
)
"""Findings of interest after a training that did not lower the loss."""

WARNED = frozenset(("loss_grew", "full_batch", "non_finite"))
"""Warnings of a training that are found here too, with more care about the network at the end."""


@dataclass
class Look:
    """The health of the network after a step."""

    step: int
    health: Health


@dataclass
class Watched:
    """A training in progress, with everything that findings about it need."""

    training: Training
    evaluation: Evaluation
    feed: Feed
    """With the parameters that the training began with."""
    watch: Watch | None = None
    rows: array[float] = field(default_factory=lambda: array("d"))
    """`COLUMNS` numbers for each step."""
    updates: dict[str, list[float]] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    start: Diagnosis | None = None
    curvature: float | None = None

    def begin(self) -> None:
        """Diagnose the network before the first step. Raises what `watch` raises."""
        self.start = self._diagnose()
        self.curvature = self.training.descent.curvature()

    @property
    def finished(self) -> bool:
        return self.training.finished

    def advance(self) -> None:
        """Make one step, record its numbers, and now and then diagnose the network."""
        training = self.training
        number = len(self.rows) // COLUMNS
        compares = not number % max(1, training.steps // RATIOS)
        before = training.objective.flat.copy() if compares else None
        recorded = training.advance()
        if recorded is None:
            return
        step = recorded.step
        validation = math.nan if step.validation_loss is None else step.validation_loss
        self.rows.extend((step.number, step.epoch, step.loss, step.gradient_norm, validation))
        if before is not None and step.effective_learning_rate is not None:
            self._compare(before)
        if not (number + 1) % max(1, training.steps // LOOKS) or training.finished:
            self._look(step.number)

    def _compare(self, before: Array) -> None:
        parts = self.training.objective.vector.pieces
        weights = tree_of(parts, before)
        updates = tree_of(parts, self.training.objective.flat - before)
        for layer, ratio in ratios_of(updates, weights).items():
            self.updates.setdefault(layer, []).append(ratio)

    def _look(self, step: int) -> None:
        try:
            self.looks.append(Look(step, self._diagnose().health))
        except DeadlineExceeded:
            self.training.cancel("the time ran out while the network was looked at")

    def _diagnose(self) -> Diagnosis:
        objective = self.training.objective
        parameters = tree_of(objective.vector.pieces, objective.flat.copy())
        return diagnose(self.evaluation, replace(self.feed, parameters=parameters), self.watch)

    def record(self) -> Record:
        record = record_of(np.array(self.rows))
        record.updates = self.updates
        return record

    def findings(self, outcome: Outcome) -> list[Found]:
        """Return all findings, the gravest first: about the start, the course and the end of the training."""
        assert self.start is not None
        these = list(self.start.findings)
        record = self.record()
        if self.rows:
            status = "diverged" if outcome.status == "diverged" else None
            these += judge_record(record, status)
            known = {(each.code, each.layer) for each in these}
            warned = [caution.found for caution in outcome.warnings if caution.found is not None]
            these += [each for each in warned if each.code in WARNED and (each.code, each.layer) not in known]
            these += self._curved(these)
            these += self._died()
            if outcome.status != "diverged" and record.ends_high:
                these += self._at_the_end({(each.code, each.layer) for each in these})
        if any(each.code == "loss_grew" for each in these):
            these = [each for each in these if each.code != "loss_rose"]
        return ranked(these)

    def _curved(self, these: list[Found]) -> list[Found]:
        """Return the finding that the learning rate is too large for the curvature at the start, if it is."""
        update = self.training.descent.update
        if self.curvature is None or update.stable_factor is None or update.sign < 0.0:
            return []
        rate = update.rate(0).learning_rate
        limit = update.stable_factor / self.curvature
        if rate <= limit:
            return []
        matters = any(each.code in ("diverged", "loss_grew", "loss_rose", "oscillation") for each in these)
        return [
            found(
                "learning_rate_too_large",
                value=rate / limit,
                severity="warning" if matters else "note",
                quantity="learning_rate",
                rate=rate,
                limit=limit,
                curvature=self.curvature,
            )
        ]

    def _died(self) -> list[Found]:
        """Return findings about units that are inactive for every sample now and were not at the start."""
        assert self.start is not None
        these: list[Found] = []
        if not self.looks:
            return these
        for name, layer in self.start.health.layers.items():
            dead = [look.health.layers[name].dead for look in self.looks]
            if layer.dead is None or any(share is None for share in dead):
                continue
            units = self.evaluation.model.layers[name].output.shape[-1]
            shares = np.array(dead, np.float64) - layer.dead
            grown = float(shares[-1])
            if grown <= 0.0:
                continue
            place = int((shares >= 0.5 * grown).argmax())
            step = self.looks[place].step
            words = {"number": round(grown * units), "units": units}
            these += found_if("units_died", grown, layer=name, quantity="output", step=step, **words)
        return these

    def _at_the_end(self, known: set[tuple[str, str | None]]) -> list[Found]:
        try:
            last = self._diagnose()
        except DeadlineExceeded:
            return []
        step = int(self.rows[-COLUMNS])
        return [
            replace(each, step=step)
            for each in last.findings
            if each.code in AT_THE_END and (each.code, each.layer) not in known
        ]
