"""The place of every value of a program: the memory rules of the plan.

Memory is shared under four rules, because aliasing is the one thing that goes wrong silently:

* only the memory of an intermediate value is reused, never that of an input, constant or output;
* a value lives as long as every view of it, so liveness is counted on the root of a chain of views;
* an operation writes over one of its inputs only if its kernel allows it, the input is no view,
  this is its last use, and no other operand shares its root;
* in a chain, every node reads and writes one block before any goes on to the next. So a value from
  outside lives until the end of the chain, a value that leaves the chain has memory from its beginning,
  and values that stay inside share memory, one block each, only with one another. A node may write over
  a value from outside if the chain reads no block of it later than the node writes that block.

Parameters and gradients are one flat vector each; every kernel, bias and gradient is a view of it.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from service.engine.graph.blocks import ITEMSIZE, Chain, Step, same_elements, schedule
from service.engine.graph.ir import Node, Shape
from service.engine.watch import Watch, looked_at

ALIGNMENT = 64
FOREVER = -1
"""The last reader of a value that is read after the run."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value in memory: the offset, shape and dtype of an array in the arena."""

    offset: int
    shape: Shape
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


class Arena:
    """An allocator of offsets in one block of memory. It takes the first hole that is large enough."""

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []  # (offset, bytes), ascending, never adjacent

    def take(self, nbytes: int) -> int:
        wanted = -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        for position, (offset, available) in enumerate(self._free):
            if available >= wanted:
                if available == wanted:
                    del self._free[position]
                else:
                    self._free[position] = (offset + wanted, available - wanted)
                return offset
        offset = self.size
        if self._free and sum(self._free[-1]) == offset:  # grow the last hole instead of leaving it
            offset, _ = self._free.pop()
        self.size = offset + wanted
        return offset

    def give_back(self, offset: int, nbytes: int) -> None:
        end = offset + -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT
        position = bisect(self._free, (offset,))
        if position < len(self._free) and self._free[position][0] == end:
            end += self._free.pop(position)[1]
        if position and sum(self._free[position - 1]) == offset:
            position -= 1
            offset = self._free.pop(position)[0]
        self._free.insert(position, (offset, end - offset))


class Layout:
    """The order of running of a program's nodes, and the place of each value in memory."""

    def __init__(
        self,
        nodes: Sequence[Node],
        outputs: Iterable[Node],
        parameters: Sequence[Node],
        gradients: Sequence[Node],
        dtype: str,
        reuse: bool,
        watch: Watch | None = None,
    ) -> None:
        self.dtype = dtype
        self._watch = watch
        self.arena = Arena()
        self.places: dict[int, Place] = {}
        self.views: set[int] = set()
        self.scratch: dict[int, list[Place]] = {}
        self.overwrites: dict[int, int] = {}
        """For each value that is written over another: the index of the other."""
        self.inside: set[int] = set()
        """Values that only their chain reads, with memory for one block."""
        self.copies: list[tuple[Node, Place]] = []
        """Gradients whose value lives elsewhere, each with its place in the flat vector."""
        self.slots: set[int] = set()
        """Nodes that are computed directly in the flat vector of gradients."""
        self.root: dict[int, int] = {}
        """The node in whose memory each value lies: itself, or the source of a chain of views."""
        self.last_use: dict[int, int] = {}
        """For each root, the last node that reads it."""
        # Inputs are filled before the first call, so they take memory before any value that could share it.
        self.flat_parameters = self._place_vector(parameters)
        for node, place in self._cut(self.flat_parameters, parameters):
            self.places[node.index] = place
        self._place_inputs(nodes)
        self.flat_gradients = self._place_vector(gradients)
        self._place_gradients(gradients)
        wanted = (*outputs, *gradients)
        self._trace_views(nodes, wanted)
        self.steps: Sequence[Step] = schedule(nodes, self.views, self.last_use) if reuse else [(nodes, None)]
        self.calls = 0
        """The number of calls of all chains."""
        if len(self.steps) > 1:
            self._trace_views(_in_order(self.steps), wanted)  # a new order changes last uses
        for plain, chain in self.steps:
            self._place_values(looked_at(plain, watch), reuse)
            if chain is not None:
                self._place_chain(chain)

    def _place_vector(self, nodes: Sequence[Node]) -> Place:
        count = sum(node.size for node in nodes)
        return Place(self.arena.take(count * ITEMSIZE[self.dtype]), (count,), self.dtype)

    def _cut(self, vector: Place, nodes: Sequence[Node]) -> Iterator[tuple[Node, Place]]:
        """Yield each node with its place in a vector, where they lie one after the other."""
        offset = vector.offset
        for node in nodes:
            yield node, Place(offset, node.shape, node.dtype)
            offset += node.size * ITEMSIZE[node.dtype]

    def _place_inputs(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if node.operation.name == "input" and node.index not in self.places:
                self.places[node.index] = self._take(node.shape, node.dtype)

    def _place_gradients(self, gradients: Sequence[Node]) -> None:
        for node, place in self._cut(self.flat_gradients, gradients):
            if node.index in self.slots or node.is_leaf or node.operation.view is not None:
                self.copies.append((node, place))
            else:
                self.slots.add(node.index)
                self.places[node.index] = place

    def _trace_views(self, nodes: Sequence[Node], wanted: Sequence[Node]) -> None:
        """Find for each value the node in whose memory it lies (its root), and the last reader of each root."""
        scattered: set[int] = set()  # views whose elements do not lie one after the other
        root, last_use = self.root, self.last_use
        for node in looked_at(nodes, self._watch):
            index = node.index
            if node.operation.view is None:
                root[index] = index
            else:
                source = node.inputs[0].index
                keeps_order = node.operation.keeps_order
                if node.operation.name == "reshape" and source in scattered:
                    root[index] = index  # these elements have to be moved
                else:
                    root[index] = root[source]
                    self.views.add(index)
                    if source in scattered or not keeps_order:
                        scattered.add(index)
            for x in node.operands:
                last_use[root[x.index]] = index
        for node in wanted:
            last_use[root[node.index]] = FOREVER
        for node in nodes:
            if node.is_leaf:
                last_use[node.index] = FOREVER

    def _place_values(self, nodes: Iterable[Node], reuse: bool, block: Shape | None = None) -> None:
        """Give every value without a place memory: for the whole value, or for one `block` of it."""
        for node in nodes:
            index = node.index
            if node.is_leaf or index in self.views:
                continue
            if index not in self.places:
                victim = self._overwritable(node) if reuse else None
                if victim is None:
                    self.places[index] = self._take(block or node.shape, node.dtype)
                else:
                    self._write_over(index, victim)
            if node.operation.scratch is not None:
                scratch = [self._take(block or shape, node.dtype) for shape in node.operation.scratch(node)]
                self.scratch[index] = scratch
                for place in scratch:
                    self.arena.give_back(place.offset, place.nbytes)
            if reuse:
                self._give_back_after(node)

    def _take(self, shape: Shape, dtype: str) -> Place:
        return Place(self.arena.take(math.prod(shape) * ITEMSIZE[dtype]), shape, dtype)

    def _overwritable(self, node: Node) -> int | None:
        """Return the index of the input whose memory `node` may write over, or None."""
        if not node.operation.in_place or node.size == 1:
            return None  # writing a single number in place takes three times as long
        roots = [self.root[x.index] for x in node.inputs]
        for x, root in zip(node.inputs, roots, strict=True):
            if (
                root == x.index
                and self.last_use.get(root) == node.index
                and root not in self.slots
                and x.shape == node.shape
                and x.dtype == node.dtype
                and roots.count(root) == 1
            ):
                return root
        return None

    def _write_over(self, index: int, victim: int) -> None:
        # Binding still needs the array of the victim, but its memory now belongs to the new value.
        self.places[index] = self.places[victim]
        self.overwrites[index] = victim
        del self.last_use[victim]

    def _give_back_after(self, node: Node) -> None:
        for root in {self.root[x.index] for x in node.operands}:
            if self.last_use.get(root) == node.index:
                place = self.places[root]
                self.arena.give_back(place.offset, place.nbytes)

    def _place_chain(self, chain: Chain) -> None:
        self.calls += chain.calls
        indices = {node.index for node in chain.nodes}
        self.inside |= {index for index in indices if self.last_use[self.root[index]] in indices}
        ending = self._ending_in(chain, indices)
        # Values that leave the chain come first, before memory that a later block reads becomes free.
        for position, node in enumerate(chain.members):
            if node.index not in self.inside and node.index not in self.slots:
                victim = self._spent(node, position, ending)
                if victim is None:
                    self.places[node.index] = self._take(node.shape, node.dtype)
                else:
                    self._write_over(node.index, victim)
        # From here on, values from outside cannot be overwritten: all live until the end of the chain.
        released = [self.places[root] for root in ending if self.last_use.pop(root, None) is not None]
        self._place_values(chain.members, True, chain.blocks.largest)
        for place in released:
            self.arena.give_back(place.offset, place.nbytes)

    def _ending_in(self, chain: Chain, indices: set[int]) -> dict[int, int | None]:
        """Return the values from outside that nobody reads after the chain, with the position of their last reader. The
        position is None where a node may read other elements of the value than those of its own block."""
        ending: dict[int, int | None] = {}
        for position, node in enumerate(chain.members):
            for x in node.operands:
                root = self.root[x.index]
                if root not in indices and self.last_use[root] in indices:
                    in_place = ending.get(root, position) is not None and _is_in_place(x, self.views)
                    ending[root] = position if in_place else None
        return ending

    def _spent(self, node: Node, position: int, ending: Mapping[int, int | None]) -> int | None:
        """Return a value from outside whose block the chain has read when `node` writes that block, or None."""
        for root, last in ending.items():
            if last is None or root not in self.last_use:
                continue
            place = self.places[root]
            has_been_read = last < position or (last == position and node.operation.in_place)
            if has_been_read and (place.shape, place.dtype) == (node.shape, node.dtype):
                return root
        return None


def _is_in_place(x: Node, views: Set[int]) -> bool:
    """Return whether each element of `x` lies where the element of this index lies in the root of `x`."""
    while x.index in views:
        if not same_elements(x):
            return False
        x = x.inputs[0]
    return True


def _in_order(steps: Iterable[Step]) -> list[Node]:
    return [node for plain, chain in steps for node in (*plain, *(chain.nodes if chain else ()))]
