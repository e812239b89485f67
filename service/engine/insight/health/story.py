"""Findings about the course of a training, from the numbers of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.descent.loop import RUNAWAY
from service.engine.findings import Found, findings, found, found_if
from service.engine.float_warnings import ignoring_float_warnings, without_float_warnings

FEWEST = 50
"""Fewest steps of a plateau."""
STILL = 0.005
"""A loss that changes by less than this share of the first one stands still."""
SHARE = 0.5
"""Smallest share of all steps that a plateau at the end takes."""
FELL = 0.1
"""Fall of the loss after a plateau, as a share of the first loss."""
HIGH = 0.5
"""A loss above this share of the first one is high still."""
LOW = 0.1
"""A loss below this share of the first one is low: small gradients and updates are as they should be."""
ROSE = 0.05
"""A rise by less than this share of the first loss is no rise."""
SWINGS = 0.05
"""A step upward by less than this share of the loss is no swing."""
SWINGS_OF_MEANS = 0.2
"""A step upward by less than this share is no swing of means over batches, which differ anyway."""
PROGRESS = 0.9
"""Losses that fall to less than this share of what they were make progress in spite of swings."""
ALIVE = 1e-3
"""Swings of losses below this share of the first one are of no interest."""
FEWEST_SWINGS, FEWEST_MEANS = 10, 20
"""Fewest losses for a finding about swings."""
ABRUPT = 0.01
"""A gradient that falls to less than this share from one step to the next does not fade, it breaks off."""
VALIDATED = 0.02
"""A rise of the validation loss by less than this share of its first value is noise."""
WINDOWS, FEWEST_IN_WINDOW = 40, 5
"""Windows of a series that are averaged where steps see different samples, and the fewest steps of a window."""


@dataclass
class Record:
    """The numbers of a training's steps, an entry for each step; NaN where there is none."""

    steps: Array
    """Their numbers."""
    epochs: Array
    losses: Array
    norms: Array
    """The norms of the gradients."""
    validation: Array
    updates: dict[str, list[float]] = field(default_factory=dict)
    """By layer, the norms of updates relative to those of its weights."""

    @property
    def first(self) -> float:
        """The absolute value of the first loss, which other losses are measured by."""
        return abs(float(self.losses[0]))

    @property
    def ends_high(self) -> bool:
        """True if the last loss is not far below the first one."""
        return bool(self.losses[-1] >= HIGH * self.losses[0])


@dataclass(frozen=True)
class LossSeries:
    """Losses that can be compared with each other: each over all samples, or averaged over several steps."""

    steps: Array
    losses: Array
    averaged: bool


def judge_record(record: Record, status: str | None = None) -> list[Found]:
    """Return the findings in the numbers of a training's steps, in no order. `status` is how the training ended, if
    known. The record may hold few of all steps; findings about neighbours are then about steps of the record."""
    return without_float_warnings(lambda: list(_judge(record, status)))


def _judge(record: Record, status: str | None) -> Iterator[Found]:
    lost = _diverged_at(record)
    if lost is not None:
        before = None if lost == 0 else float(record.losses[lost - 1])
        yield found("diverged", quantity="loss", step=int(record.steps[lost]), before=before)
    elif status == "diverged":
        step = int(record.steps[-1]) + 1
        yield found("diverged", quantity="loss", step=step, before=float(record.losses[-1]))
    sound = record if lost is None else _until(record, lost)
    yield from _spike(sound)
    yield from _updates(sound)
    if lost is not None or status == "diverged" or len(sound.losses) < 2:
        return
    series = comparable(sound)
    if series.averaged and len(series.losses) < FEWEST_SWINGS:
        return
    yield from _rose(series)
    still = list(_plateau(series, sound))
    yield from still or _passed(series)
    yield from _faded(sound)
    yield from _swings(series)
    yield from _overfits(sound)


def _diverged_at(record: Record) -> int | None:
    most = RUNAWAY * max(1.0, record.first if math.isfinite(record.first) else 1.0)
    wrong = ~(np.abs(record.losses) <= most) | ~np.isfinite(record.norms)
    return int(wrong.argmax()) if wrong.any() else None


def _until(record: Record, place: int) -> Record:
    return replace(
        record,
        steps=record.steps[:place],
        epochs=record.epochs[:place],
        losses=record.losses[:place],
        norms=record.norms[:place],
        validation=record.validation[:place],
    )


def comparable(record: Record) -> LossSeries:
    """Return losses that can be compared: as they are, or for batches averaged over epochs or windows."""
    losses, steps, epochs = record.losses, record.steps, record.epochs
    if not (np.diff(epochs) == 0).any():
        return LossSeries(steps, losses, False)
    edges = np.flatnonzero(np.diff(epochs)) + 1
    if len(edges) + 1 < FEWEST_SWINGS:
        windows = max(1, min(WINDOWS, len(losses) // FEWEST_IN_WINDOW))
        edges = np.linspace(0, len(losses), windows + 1).astype(np.intp)[1:-1]
    ends = np.append(edges, len(losses)) - 1
    means = np.array([part.mean() for part in np.split(losses, edges)])
    return LossSeries(steps[ends], means, True)


def _rose(series: LossSeries) -> Iterator[Found]:
    losses = series.losses
    place, first, last = int(losses.argmin()), float(losses[0]), float(losses[-1])
    lowest = float(losses[place])
    if not 0 < place < len(losses) - 1 or last - lowest < ROSE * abs(first) or first <= lowest:
        return
    step, share = int(series.steps[place]), (last - lowest) / (first - lowest)
    yield from found_if("loss_rose", share, quantity="loss", step=step, lowest=lowest, last=last)


def _plateau(series: LossSeries, record: Record) -> Iterator[Found]:
    """Yield a finding about a stretch without progress that lasts until the end."""
    losses, steps = series.losses, series.steps
    highest = np.maximum.accumulate(losses[::-1])[::-1]
    lowest = np.minimum.accumulate(losses[::-1])[::-1]
    start = int((highest - lowest <= STILL * abs(float(losses[0]))).argmax())
    first, last = int(steps[start]), int(steps[-1])
    whole = last - int(record.steps[0])
    if last - first < max(FEWEST, SHARE * whole) or not losses[0]:
        return
    gained = (float(losses[0]) - float(losses.min())) / abs(float(losses[0]))
    change = float(highest[start] - lowest[start])
    words: dict[str, Any] = {"first": first, "last": last, "loss": float(losses[-1]), "change": change}
    if findings["plateau"].judge(gained) is not None:
        yield found("plateau", value=gained, quantity="loss", step=first, **words)


def _passed(series: LossSeries) -> Iterator[Found]:
    """Yield a finding about the longest stretch without progress, if the loss fell afterwards."""
    losses, steps = series.losses, series.steps
    still, start, best = STILL * abs(float(losses[0])), 0, (0, 0, 0)
    highest = lowest = float(losses[0])
    for place, loss in enumerate(losses.tolist()):
        highest, lowest = max(highest, loss), min(lowest, loss)
        if highest - lowest > still:
            start, highest, lowest = place, loss, loss
        length = int(steps[place] - steps[start])
        if length > best[0]:
            best = length, start, place
    length, start, end = best
    whole = int(steps[-1] - steps[0])
    if length < FEWEST or not whole or not losses[0] or losses[end] - losses[-1] < FELL * abs(float(losses[0])):
        return
    first, last = int(steps[start]), int(steps[end])
    yield from found_if(
        "passed_plateau", length / whole, quantity="loss", step=first, first=first, last=last, loss=float(losses[end])
    )


def _faded(record: Record) -> Iterator[Found]:
    """Yield a finding about a gradient that became tiny and stayed so, while the loss stayed high."""
    norms = record.norms
    largest = np.maximum.accumulate(norms)
    tiny = norms <= findings["gradient_vanished"].bound("note") * largest
    if not tiny[-1] or not record.ends_high or not largest[-1] > 0.0:
        return
    place = int(len(tiny) - tiny[::-1].argmin()) if not tiny.all() else 0
    before = float(largest[place])
    abrupt = place > 0 and norms[place] <= ABRUPT * norms[place - 1]
    severity = "problem" if norms[-1] == 0.0 else "warning" if abrupt else "note"
    yield found(
        "gradient_vanished",
        value=float(norms[place]) / before,
        severity=severity,
        quantity="gradient",
        step=int(record.steps[place]),
        norm=float(norms[place]),
        before=before,
        loss=float(record.losses[-1]),
    )


def _spike(record: Record) -> Iterator[Found]:
    norms = record.norms
    if len(norms) < 2:
        return
    before = np.maximum.accumulate(norms)[:-1]
    jumps = np.where(before > 0.0, norms[1:] / np.where(before > 0.0, before, 1.0), 0.0)
    place = int(jumps.argmax())
    step = int(record.steps[place + 1])
    words: dict[str, Any] = {"norm": float(norms[place + 1]), "before": float(before[place])}
    yield from found_if("gradient_spike", float(jumps[place]), quantity="gradient", step=step, **words)


def _updates(record: Record) -> Iterator[Found]:
    is_low = len(record.losses) > 0 and record.losses[-1] < LOW * record.first
    for layer, ratios in record.updates.items():
        known = [ratio for ratio in ratios if math.isfinite(ratio)]
        if not known:
            continue
        ratio = float(np.median(known))
        yield from found_if("updates_too_large", ratio, layer=layer, quantity="updates", ratio=ratio)
        if not is_low:
            yield from found_if("updates_too_small", ratio, layer=layer, quantity="updates", ratio=ratio)


def _swings(series: LossSeries) -> Iterator[Found]:
    half = len(series.losses) // 2
    losses = series.losses[half:]
    alive, swings = (LOW, SWINGS_OF_MEANS) if series.averaged else (ALIVE, SWINGS)
    fewest = FEWEST_MEANS if series.averaged else FEWEST_SWINGS
    if len(losses) < fewest or np.median(losses) < alive * abs(float(series.losses[0])):
        return
    quarter = len(losses) // 2
    if np.median(losses[quarter:]) < PROGRESS * np.median(losses[:quarter]):
        return  # up and down, but down on the whole
    up = np.diff(losses) > swings * np.abs(losses[:-1])
    share = float(up.mean())
    step = int(series.steps[half])
    yield from found_if("oscillation", share, quantity="loss", step=step, percent=100.0 * share, first=step)


def _overfits(record: Record) -> Iterator[Found]:
    places = np.flatnonzero(np.isfinite(record.validation))
    if len(places) < 2:
        return
    values = record.validation[places]
    best = int(values.argmin())
    lowest, last = float(values[best]), float(values[-1])
    falls = record.losses[places[-1]] < record.losses[places[best]]
    if best == len(values) - 1 or not falls or last - lowest < VALIDATED * abs(float(values[0])) or lowest <= 0.0:
        return
    step = int(record.steps[places[best]])
    yield from found_if("overfitting", last / lowest, quantity="validation_loss", step=step, best=lowest, last=last)


@ignoring_float_warnings
def ratios_of(
    updates: Mapping[str, Mapping[str, Array]], weights: Mapping[str, Mapping[str, Array]]
) -> dict[str, float]:
    """Return for each layer the norm of its update divided by the norm of its weights. Layers with weights of 0 are
    left out."""
    found_ratios = {}
    for layer, arrays in updates.items():
        pairs = [
            (update, weights[layer][name])
            for name, update in arrays.items()
            if update.ndim >= 2 and name in weights.get(layer, {})
        ]
        size = math.hypot(*[float(np.linalg.norm(weight)) for _, weight in pairs])
        if pairs and size > 0.0:
            found_ratios[layer] = math.hypot(*[float(np.linalg.norm(update)) for update, _ in pairs]) / size
    return found_ratios


COLUMNS = 5
"""Numbers of a step: its number, its epoch, loss, norm of the gradient, loss of validation."""


def record_of(numbers: Array) -> Record:
    """Return the record of an array with `COLUMNS` numbers for each step."""
    table = np.asarray(numbers, np.float64).reshape(-1, COLUMNS)
    return Record(table[:, 0], table[:, 1], table[:, 2], table[:, 3], table[:, 4])
