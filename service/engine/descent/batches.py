"""Batches: which samples each step of a training uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from service.engine.arrays import Array

SHUFFLING = 2
"""The stream of random numbers that orders samples. Streams 0 and 1 are those of parameters and of layers."""


class Batches(Protocol):
    """The rule that says which samples each step uses. Steps count from 0."""

    steps_per_epoch: int
    sizes: frozenset[int]
    """The sizes of batches."""

    def rows(self, step: int) -> Array | None:
        """Return the indices of the samples of a step; None for all samples in their order."""


class FullBatch:
    """Batches that hold all samples at each step."""

    steps_per_epoch = 1

    def __init__(self, samples: int) -> None:
        self.sizes = frozenset((samples,))

    def rows(self, step: int) -> Array | None:
        return None


class MiniBatches:
    """Batches of `size` samples that hold each sample once in an epoch. The last one of an epoch may be smaller."""

    def __init__(self, samples: int, size: int, seed: int, shuffle: bool) -> None:
        self.samples, self.size, self.seed, self.shuffle = samples, size, seed, shuffle
        self.steps_per_epoch = math.ceil(samples / size)
        self.sizes = frozenset((min(size, samples), (samples - 1) % size + 1))
        self._epoch = -1
        self._order = np.arange(samples)

    def rows(self, step: int) -> Array | None:
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.shuffle and epoch != self._epoch:
            # The order depends only on the seed and the epoch, so a training can go on from any step.
            generator = np.random.Generator(np.random.PCG64([self.seed, SHUFFLING, epoch]))
            self._order, self._epoch = generator.permutation(self.samples), epoch
        return self._order[place * self.size : (place + 1) * self.size]


class ListedBatches:
    """Batches that the caller lists. After the last batch the first one comes again, in the next epoch."""

    def __init__(self, batches: Sequence[Array]) -> None:
        self.batches = batches
        self.steps_per_epoch = len(batches)
        self.sizes = frozenset(map(len, batches))

    def rows(self, step: int) -> Array | None:
        return self.batches[step % len(self.batches)]
