"""Chains of elementwise operations, worked through block by block.

An elementwise operation on an array larger than the caches waits for memory: a chain of them reads
and writes every value once per operation. So nodes that are elementwise over one shape and follow
each other form a `Chain`. All of them run over the first block of elements, then all over the next one,
while the block is in the cache. A value that only its chain reads needs memory for one block.

`schedule` finds the chains and puts each in one piece. Nodes between its first and its last that do
not depend on it come before it; views of its values come after it. Any other node that depends on a
chain ends it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TypeAlias

from service.engine.graph.ir import Node, Shape

ITEMSIZE = {"float64": 8, "float32": 4, "int64": 8}
LARGE_BYTES = 2**24
"""Arrays of this size and more run in blocks: smaller ones stay in the last cache between two operations."""
BLOCK_BYTES = 2**18
"""The size of a block: a few fit into the cache of a core, and a call costs little beside its work."""
MOST_CALLS = 2**16
"""The most nodes times blocks in one program; where there would be more, blocks are larger."""

Block: TypeAlias = tuple[int | slice, ...]
"""An index of consecutive elements of an array, in row-major order."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A division of arrays of one shape into blocks, so that a chain works on parts that fit into the cache. A block is
    one index of the axes before `axis`, with a range of at most `rows` of this axis."""

    shape: Shape
    axis: int
    rows: int

    @staticmethod
    def of(shape: Shape, most: int) -> Blocks:
        """Divide a shape evenly into blocks of at most `most` elements, and of more than a third as many."""
        axis, inner = len(shape) - 1, 1
        while axis and inner * shape[axis] <= most:
            inner *= shape[axis]
            axis -= 1
        ranges = -(-shape[axis] // (most // inner))
        return Blocks(shape, axis, -(-shape[axis] // ranges))

    @property
    def largest(self) -> Shape:
        """The shape of the largest block; the last one may have fewer rows."""
        return (self.rows, *self.shape[self.axis + 1 :])

    def __len__(self) -> int:
        return math.prod(self.shape[: self.axis]) * -(-self.shape[self.axis] // self.rows)

    def __iter__(self) -> Iterator[tuple[Block, int]]:
        """Yield the index of each block in the whole array, and the number of its rows."""
        length = self.shape[self.axis]
        ranges = [(start, min(start + self.rows, length)) for start in range(0, length, self.rows)]
        for outer in itertools.product(*map(range, self.shape[: self.axis])):
            for start, stop in ranges:
                yield (*outer, slice(start, stop)), stop - start


@dataclass(frozen=True, slots=True, eq=False)
class Chain:
    """Elementwise nodes over one shape that run together, block by block."""

    nodes: tuple[Node, ...]
    """The members, and the views between them that show the same elements at the same indices."""
    members: tuple[Node, ...]
    """The nodes that compute something."""
    blocks: Blocks

    @property
    def calls(self) -> int:
        """The number of calls of the whole chain: one for each node and block."""
        return len(self.members) * len(self.blocks)


Step: TypeAlias = tuple[Sequence[Node], Chain | None]
"""Nodes that run one by one, and the chain that comes after them."""


def schedule(nodes: Sequence[Node], views: Set[int], last_use: Mapping[int, int]) -> list[Step]:
    """Return the nodes in topological order, each chain in one piece. `views` are the indices of nodes without memory
    of their own; `last_use` maps every other node to its last reader."""
    least = LARGE_BYTES // 8
    if not [node for node in nodes if node.size >= least and _may_join(node)]:
        return [(nodes, None)]
    finder = _Finder(views, last_use)
    for node in nodes:
        finder.see(node)
    return finder.finish()


def same_elements(view: Node) -> bool:
    """Return whether a view has each element of its source at the same index."""
    return view.operation.keeps_order and view.shape == view.inputs[0].shape


class _Finder:
    """A search for chains that sees the nodes one by one and keeps one chain open.

    The order stays topological: nodes before the open chain read nothing of the chain or of the nodes after it, and
    nodes of the chain read nothing of the nodes after it.
    """

    def __init__(self, views: Set[int], last_use: Mapping[int, int]) -> None:
        self._views = views
        self._last_use = last_use
        self._steps: list[Step] = []
        self._calls_left = MOST_CALLS
        self._settled: list[Node] = []
        """The nodes since the last chain whose order is final."""
        self._open()

    def _open(self) -> None:
        self._before: list[Node] = []
        self._chain: list[Node] = []
        self._after: list[Node] = []
        self._chained: set[int] = set()
        self._later: set[int] = set()
        self._shape: Shape | None = None

    def see(self, node: Node) -> None:
        reads_chain = any(x.index in self._chained for x in node.operands)
        reads_later = any(x.index in self._later for x in node.operands)
        if node.index in self._views:
            if reads_later or (reads_chain and not same_elements(node)):
                self._after.append(node)
                self._later.add(node.index)
            elif reads_chain:
                self._join(node)
            else:
                self._before.append(node)
        elif _may_join(node):
            if reads_later or self._shape not in (None, node.shape):
                self._close()
            self._shape = node.shape
            self._join(node)
        else:
            if reads_chain or reads_later:
                self._close()
            self._before.append(node)

    def finish(self) -> list[Step]:
        """Return all nodes seen, in their final order."""
        self._close()
        return [*self._steps, (self._settled, None)]

    def _join(self, node: Node) -> None:
        self._chain.append(node)
        self._chained.add(node.index)

    def _close(self) -> None:
        """Make a step of the open chain, if it is worth it; else let its nodes run in their old order."""
        chain = self._worked_out()
        if chain is None:
            self._settled += sorted([*self._before, *self._chain, *self._after], key=lambda node: node.index)
        else:
            self._steps.append(([*self._settled, *self._before], chain))
            self._settled = self._after
            self._calls_left -= chain.calls
        self._open()

    def _worked_out(self) -> Chain | None:
        members = tuple(node for node in self._chain if node.index not in self._views)
        if all(self._last_use[node.index] not in self._chained for node in members):
            return None  # no value stays inside: all go through memory anyway
        most = max(1, BLOCK_BYTES // ITEMSIZE[members[0].dtype])
        while most < members[0].size:
            chain = Chain(tuple(self._chain), members, Blocks.of(members[0].shape, most))
            if chain.calls <= self._calls_left:
                return chain
            most *= 2
        return None


def _may_join(node: Node) -> bool:
    operation = node.operation
    return (
        operation.elementwise
        and node.size * ITEMSIZE[node.dtype] >= LARGE_BYTES
        and (operation.scratch is None or all(shape == node.shape for shape in operation.scratch(node)))
    )
