"""Which samples each step looks at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from service.engine.arrays import Array

SHUFFLING = 2
"""The stream of random numbers that orders samples; 0 and 1 are those of parameters and of layers."""


class Batches(Protocol):
    """A batch for each step, counted from 0."""

    steps_per_epoch: int
    sizes: frozenset[int]
    """How many samples batches have."""

    def rows(self, step: int) -> Array | None:
        """Indices of the samples; None: all of them, as they are."""
        ...


class FullBatch:
    """All samples at each step."""

    steps_per_epoch = 1

    def __init__(self, samples: int) -> None:
        self.sizes = frozenset((samples,))

    def rows(self, step: int) -> Array | None:
        return None


class MiniBatches:
    """Each sample once in an epoch, in an order that is drawn anew for each; the last batch may be smaller."""

    def __init__(self, samples: int, size: int, seed: int, shuffle: bool) -> None:
        self.samples, self.size, self.seed, self.shuffle = samples, size, seed, shuffle
        self.steps_per_epoch = math.ceil(samples / size)
        self.sizes = frozenset((min(size, samples), (samples - 1) % size + 1))
        self._epoch = -1
        self._order = np.arange(samples)

    def rows(self, step: int) -> Array | None:
        epoch, place = divmod(step, self.steps_per_epoch)
        if self.shuffle and epoch != self._epoch:
            # It depends on nothing but the seed and the epoch, so that a descent can go on anywhere.
            generator = np.random.Generator(np.random.PCG64([self.seed, SHUFFLING, epoch]))
            self._order, self._epoch = generator.permutation(self.samples), epoch
        return self._order[place * self.size : (place + 1) * self.size]


class ListedBatches:
    """Batches as the caller lists them, from the first again after the last; an epoch is one pass."""

    def __init__(self, batches: Sequence[Array]) -> None:
        self.batches = batches
        self.steps_per_epoch = len(batches)
        self.sizes = frozenset(map(len, batches))

    def rows(self, step: int) -> Array | None:
        return self.batches[step % len(self.batches)]
