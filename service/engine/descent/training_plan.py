"""The plan of a training: its recipe, its length, its batches, and what the trace records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.engine.arrays import Array, first_true
from service.engine.descent.batches import Batches, FullBatch, ListedBatches, MiniBatches
from service.engine.descent.loop import Recipe
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, LimitExceeded
from service.engine.network.feed import Feed
from service.engine.network.task import Task

MOST_BATCH_SIZES = 16
"""Different lengths of listed batches. Each length has a program and memory of its own."""


@dataclass(frozen=True)
class Plan:
    """The plan of a training. Exactly one of `steps` and `epochs` is given."""

    recipe: Recipe
    steps: int | None = None
    epochs: int | None = None
    batch_size: int | None = None
    """None: each step takes all samples."""
    shuffle: bool = True
    batches: Sequence[Array] | None = None
    """Indices of samples, a list for each step. After the last list the first comes again."""
    every: int = 1
    """The trace holds steps 1, 1 + every, … and the last."""
    include: frozenset[str] = frozenset()
    """Names out of `trace.TRACED`."""
    checkpoint_every: int | None = None
    """The trace also holds each step whose number this divides, with a checkpoint."""
    more_steps: int = 0
    """Steps that are made after those of `steps` or `epochs`."""
    shards: int | None = None
    """The samples of a shard; None: a batch is computed as a whole."""

    def batches_of(self, samples: int, seed: int) -> Batches:
        """Return the batches of a training on this many samples. Raises `InvalidRequest` for listed batches with wrong
        indices, `LimitExceeded` for too many batch sizes."""
        if self.batches is not None:
            _check_listed(self.batches, samples)
            return ListedBatches(self.batches)
        if self.batch_size is None or self.batch_size >= samples:
            return FullBatch(samples)
        return MiniBatches(samples, self.batch_size, seed, self.shuffle)

    def steps_with(self, batches: Batches) -> int:
        """Return the number of all steps, computed from epochs and batches where the request gives epochs."""
        if self.steps is not None:
            return self.steps + self.more_steps
        assert self.epochs is not None
        return self.epochs * batches.steps_per_epoch + self.more_steps

    def check_weights(self, task: Task, feed: Feed) -> None:
        """Raise `InvalidRequest` if a batch may have only sample weights of 0 and the mean divides by their sum."""
        weights = feed.sample_weights
        if weights is None or not (task.normalize_weights and task.reduction == "mean"):
            return
        needs = (
            "with normalize_weights, which divides by the sum of a batch's weights, each batch needs one that is not 0"
        )
        if self.batches is not None:
            faults = [
                Fault(("batches", place), f"has only weights of 0; {needs}")
                for place, rows in enumerate(self.batches)
                if not weights[rows].any()
            ]
            if faults:
                raise InvalidRequest(faults[:MOST_ERRORS])
        elif self.batch_size is not None and self.batch_size < weights.size:
            zeros = int((weights == 0.0).sum())
            fewest = (weights.size - 1) % self.batch_size + 1
            if zeros >= fewest:
                detail = f"{zeros} weights are 0, and the smallest batch has {fewest} samples; {needs}"
                raise InvalidRequest([Fault(("sample_weights",), detail)])


def _check_listed(batches: Sequence[Array], samples: int) -> None:
    faults = []
    for position, rows in enumerate(batches):
        place = first_true((rows < 0) | (rows >= samples))
        if place is not None:
            detail = f"takes the index of a sample, from 0 to {samples - 1}, got {int(rows[place])}"
            faults.append(Fault(("batches", position, *place), detail))
            if len(faults) >= MOST_ERRORS:
                break
    if faults:
        raise InvalidRequest(faults)
    sizes = {len(rows) for rows in batches}
    if len(sizes) > MOST_BATCH_SIZES:
        raise LimitExceeded("different batch sizes", len(sizes), MOST_BATCH_SIZES, ("batches",))
