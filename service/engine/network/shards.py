"""Shards: a batch cut into parts of a fixed number of samples, and sums over the parts that do not depend on who adds.

A sum over shards is a binary tree over their numbers: at each level, neighbours are added, and one that is left alone
rises as it is. An aligned block, such as the shards 4 to 7, is a subtree: whoever has its shards computes its sum, and
whoever has the sums of all blocks computes the rest. So a sum is a function of the batch and the size of its shards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array

UNEVEN = 1.25
"""The factor by which the busiest worker may compute longer, so that blocks are larger and fewer."""


@dataclass(frozen=True)
class Shards:
    """A batch of `samples` samples in shards of `size`. The last shard holds the rest."""

    samples: int
    size: int

    @property
    def count(self) -> int:
        return math.ceil(self.samples / self.size)

    @property
    def sizes(self) -> dict[int, int]:
        """The number of shards of each size, the largest size first."""
        whole, rest = divmod(self.samples, self.size)
        return ({self.size: whole} if whole else {}) | ({rest: 1} if rest else {})

    def rows(self, first: int, stop: int) -> slice:
        """Return the places in the batch of the samples of the shards `first` to `stop - 1`."""
        return slice(first * self.size, min(stop * self.size, self.samples))

    def blocks(self, width: int) -> list[range]:
        """Return the shards in aligned blocks for `width` workers: the largest blocks with which the last worker ends
        about as early as with the best ones. Few blocks have few sums to send."""
        lengths = [1 << level for level in range(self.count.bit_length())]
        # The shards that the busiest worker computes.
        most = {length: length * math.ceil(math.ceil(self.count / length) / width) for length in lengths}
        length = max(each for each in lengths if most[each] <= UNEVEN * min(most.values()))
        return [range(first, min(first + length, self.count)) for first in range(0, self.count, length)]


class TreeSum:
    """The sum of vectors of one size that are added one after the other, as a binary tree over their numbers.

    It holds one vector for each level of the tree, at most; memory is used again from sum to sum.
    """

    def __init__(self, size: int, dtype: str) -> None:
        self._like = (size, np.dtype(dtype))
        self._waiting: list[tuple[int, Array]] = []
        """The sums of subtrees that wait for their neighbour, and the levels of these subtrees, from large to small."""
        self._free: list[Array] = []

    @staticmethod
    def rows(count: int) -> int:
        """Return the number of vectors that a sum of `count` vectors holds at once, at most."""
        return count.bit_length()

    def add(self, vector: Array) -> None:
        """Add the next vector, which is only read."""
        level = 0
        if self._waiting and self._waiting[-1][0] == level:
            _, total = self._waiting.pop()
            total += vector
            level = 1
            while self._waiting and self._waiting[-1][0] == level:
                total = self._joined(total)
                level += 1
        else:
            total = self._free.pop() if self._free else np.empty(*self._like)
            total[...] = vector
        self._waiting.append((level, total))

    def clear(self) -> None:
        """Forget what was added since the last sum."""
        self._free += [total for _, total in self._waiting]
        self._waiting.clear()

    def total(self) -> Array:
        """Return the sum, and begin the next one, which overwrites the array. At least one vector was added."""
        _, total = self._waiting.pop()
        while self._waiting:
            total = self._joined(total)
        self._free.append(total)
        return total

    def _joined(self, right: Array) -> Array:
        _, left = self._waiting.pop()
        left += right
        self._free.append(right)
        return left
