"""The fast way to run a graph: a flat list of pre-bound calls into preallocated memory.

`Program` is the immutable result of planning: which nodes run, in which order, and where in one
arena each value lives. Values whose last use is over give their memory to later ones. `Workspace`
is one arena with the calls bound to it; it is not re-entrant, so a program keeps a pool of
workspaces and lends each to one thread at a time.

Memory is shared under three rules, because aliasing is the one thing that goes wrong silently:

* only the memory of an intermediate value is reused, never that of an input, constant or output;
* a value lives as long as every view of it, so liveness is counted on the root of a view chain;
* an operation writes over one of its inputs only if its kernel allows it, the input is no view,
  this is its last use, and no other operand shares its root.

Parameters and gradients are one flat vector each; every kernel, bias and gradient is a view.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from service.engine.errors import DeadlineExceeded
from service.engine.graph.ir import Array, Call, Node, Shape, count_work, reachable
from service.engine.graph.quiet import quietly

ALIGNMENT = 64
ITEMSIZE = {"float64": 8, "float32": 4, "int64": 8}
NODE_BYTES = 2048
"""What the Python objects of a node and its bound calls take, roughly."""
POOLED_BYTES = 256 * 2**20
"""Memory that idle workspaces of a pool may keep."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lives: an array at an offset of the arena."""

    offset: int
    shape: Shape
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


class _Arena:
    """Assigns offsets first-fit, and takes back what is no longer needed."""

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
        merged: list[tuple[int, int]] = []
        for start, available in self._free:
            if start + available == offset:
                offset = start
            elif end == start:
                end = start + available
            else:
                merged.append((start, available))
        merged.append((offset, end - offset))
        merged.sort()
        self._free = merged


class Program:
    """A planned computation: immutable, shared by threads, run through a `Workspace`.

    `outputs` are read by name after a run. `parameters` are input nodes that form one flat
    vector, `gradients` nodes that form another, each in the order given. With `reuse=False`
    nothing is overwritten: slower, and an oracle for the memory rules.
    """

    def __init__(
        self,
        outputs: Mapping[str, Node],
        parameters: Sequence[Node] = (),
        gradients: Sequence[Node] = (),
        *,
        reuse: bool = True,
        pool: WorkspacePool | None = None,
    ) -> None:
        self.outputs = dict(outputs)
        self.parameters = tuple(parameters)
        self.gradients = tuple(gradients)
        wanted = [*self.outputs.values(), *self.gradients, *self.parameters]
        self.dtype = wanted[0].graph.dtype
        self.nodes = reachable(wanted)
        self.work = sum(map(count_work, self.nodes))
        layout = _Layout(self, reuse)
        self.places = layout.places
        self.views = layout.views
        self.scratch = layout.scratch
        self.overwrites = layout.overwrites
        self.copies = layout.copies
        self.flat_parameters = layout.flat_parameters
        self.flat_gradients = layout.flat_gradients
        self.nbytes = layout.arena.size
        self.weight = self.nbytes + NODE_BYTES * len(self.nodes)
        """Memory that an idle workspace keeps: its arena, and the objects bound to it."""
        self.idle: list[Workspace] = []
        self._pool = pool or WorkspacePool()

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """A workspace for the calling thread alone, until the block ends."""
        workspace = self._pool.lend(self)
        try:
            yield workspace
        finally:
            self._pool.take_back(workspace)


class _Layout:
    """Decides where every value of a program lives."""

    def __init__(self, program: Program, reuse: bool) -> None:
        self.program = program
        self.reuse = reuse
        self.arena = _Arena()
        self.places: dict[int, Place] = {}
        self.views: set[int] = set()
        self.scratch: dict[int, list[Place]] = {}
        self.overwrites: dict[int, int] = {}
        """For a value written over one of its inputs: that input."""
        self.copies: list[tuple[Node, Place]] = []
        """Gradients whose value lives elsewhere, and their place in the flat vector."""
        self.slots: set[int] = set()
        """Nodes that are computed right in the flat vector of gradients."""
        self.root: dict[int, int] = {}
        """The node in whose memory each value lies: itself, or the source of a chain of views."""
        self.last_use: dict[int, int] = {}
        """For each root, the last node that reads it."""
        # An input is filled before the first call, so all of them come before any value that
        # could otherwise take the memory earlier.
        self.flat_parameters = self._place_vector(program.parameters)
        for node, place in self._cut(self.flat_parameters, program.parameters):
            self.places[node.index] = place
        self._place_inputs()
        self.flat_gradients = self._place_vector(program.gradients)
        self._place_gradients()
        self._trace_views()
        self._place_values()

    def _place_vector(self, nodes: Sequence[Node]) -> Place:
        count = sum(node.size for node in nodes)
        return Place(self.arena.take(count * ITEMSIZE[self.program.dtype]), (count,), self.program.dtype)

    def _cut(self, vector: Place, nodes: Sequence[Node]) -> Iterator[tuple[Node, Place]]:
        """The nodes with their places in a vector, one after the other."""
        offset = vector.offset
        for node in nodes:
            yield node, Place(offset, node.shape, node.dtype)
            offset += node.size * ITEMSIZE[node.dtype]

    def _place_inputs(self) -> None:
        for node in self.program.nodes:
            if node.operation.name == "input" and node.index not in self.places:
                self.places[node.index] = self._take(node.shape, node.dtype)

    def _place_gradients(self) -> None:
        for node, place in self._cut(self.flat_gradients, self.program.gradients):
            if node.index in self.slots or node.is_leaf or node.operation.view is not None:
                self.copies.append((node, place))
            else:
                self.slots.add(node.index)
                self.places[node.index] = place

    def _trace_views(self) -> None:
        """Which root each value lives in, and when that root is read for the last time."""
        scattered: set[int] = set()  # views whose elements do not lie one after the other
        root, last_use = self.root, self.last_use
        for node in self.program.nodes:
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
        forever = len(self.program.nodes) and self.program.nodes[-1].index + 1
        for node in (*self.program.outputs.values(), *self.program.gradients):
            last_use[root[node.index]] = forever
        for node in self.program.nodes:
            if node.is_leaf:
                last_use[node.index] = forever

    def _place_values(self) -> None:
        for node in self.program.nodes:
            index = node.index
            if node.is_leaf or index in self.views:
                continue
            if index not in self.slots:
                victim = self._overwritable(node) if self.reuse else None
                if victim is None:
                    self.places[index] = self._take(node.shape, node.dtype)
                else:
                    # The victim's array is still needed to bind calls, but its memory now belongs to `node`.
                    self.places[index] = self.places[victim]
                    self.overwrites[index] = victim
                    del self.last_use[victim]
            if node.operation.scratch is not None:
                scratch = [self._take(shape, node.dtype) for shape in node.operation.scratch(node)]
                self.scratch[index] = scratch
                for place in scratch:
                    self.arena.give_back(place.offset, place.nbytes)
            if self.reuse:
                self._give_back_after(node)

    def _take(self, shape: Shape, dtype: str) -> Place:
        return Place(self.arena.take(math.prod(shape) * ITEMSIZE[dtype]), shape, dtype)

    def _overwritable(self, node: Node) -> int | None:
        """The input whose memory `node` may write over, if there is one."""
        if not node.operation.in_place:
            return None
        roots = [self.root[x.index] for x in node.inputs]
        for x, root in zip(node.inputs, roots, strict=True):
            if (
                root == x.index
                and self.last_use[root] == node.index
                and root not in self.slots
                and x.shape == node.shape
                and x.dtype == node.dtype
                and roots.count(root) == 1
            ):
                return root
        return None

    def _give_back_after(self, node: Node) -> None:
        for root in {self.root[x.index] for x in node.operands}:
            if self.last_use.get(root) == node.index:
                place = self.places[root]
                self.arena.give_back(place.offset, place.nbytes)


class WorkspacePool:
    """Idle workspaces of many programs, bounded in memory: what was idle for longest goes first."""

    def __init__(self, nbytes: int = POOLED_BYTES) -> None:
        self.capacity = nbytes
        self.weight = 0
        self._lock = threading.Lock()
        self._idle: OrderedDict[Workspace, None] = OrderedDict()

    def lend(self, program: Program) -> Workspace:
        """An idle workspace of `program`, or a new one."""
        with self._lock:
            if program.idle:
                workspace = program.idle.pop()
                del self._idle[workspace]
                self.weight -= program.weight
                return workspace
        return Workspace(program)

    def take_back(self, workspace: Workspace) -> None:
        """Keep a workspace for the next run of its program, as far as there is room."""
        program = workspace.program
        if program.weight > self.capacity:
            return  # keeping it would cost all the others
        with self._lock:
            program.idle.append(workspace)
            self._idle[workspace] = None
            self.weight += program.weight
            while self.weight > self.capacity:
                oldest, _ = self._idle.popitem(last=False)
                oldest.program.idle.remove(oldest)
                self.weight -= oldest.program.weight


class Workspace:
    """Memory for one run at a time of a program, and its calls bound to that memory.

    Fill `inputs` and `parameters`, call `run`, read `outputs` and `gradients`: all are arrays in
    the arena, overwritten by the next run.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        memory = np.empty(program.nbytes + ALIGNMENT, np.uint8)
        start = -memory.__array_interface__["data"][0] % ALIGNMENT
        self._memory = memory

        def array(place: Place) -> Array:
            return np.ndarray(place.shape, place.dtype, memory, start + place.offset)

        arrays: dict[int, Array] = {}
        calls: list[Call] = []
        self.inputs: dict[str, Array] = {}
        for node in program.nodes:
            index = node.index
            operation = node.operation
            if node.is_constant:
                arrays[index] = np.array(node.attributes[0], node.dtype)
                continue
            if index in program.views:
                assert operation.view is not None
                arrays[index] = operation.view(arrays[node.inputs[0].index], node.attributes, node.shape)
                continue
            victim = program.overwrites.get(index)
            # NumPy asks whether input and output overlap, and is quickest when they are one object.
            out = arrays[index] = array(program.places[index]) if victim is None else arrays[victim]
            if operation.name == "input":
                self.inputs[node.attributes[0]] = out
            elif operation.view is not None:  # a reshape of scattered elements
                source = node.inputs[0]
                target = out.reshape(source.shape)
                calls.append(_copy(target, arrays[source.index]))
            else:
                scratch = [array(place) for place in program.scratch.get(index, ())]
                calls.extend(operation.bind(out, [arrays[x.index] for x in node.inputs], node.attributes, scratch))
        for node, place in program.copies:
            calls.append(_copy(array(place), arrays[node.index]))
        self.calls = calls
        self.outputs = {name: arrays[node.index] for name, node in program.outputs.items()}
        self.parameters = array(program.flat_parameters)
        self.gradients = array(program.flat_gradients)

    def run(self, deadline: float | None = None) -> None:
        """Compute the outputs and gradients from the inputs and parameters.

        `deadline` is a reading of `time.monotonic`; past it the run stops between two calls and
        raises `DeadlineExceeded`.
        """
        quietly(self._run, deadline)

    def _run(self, deadline: float | None) -> None:
        if deadline is None:
            for call in self.calls:
                call()
        else:
            for call in self.calls:
                call()
                if time.monotonic() > deadline:
                    raise DeadlineExceeded


def _copy(target: Array, source: Array) -> Call:
    def copy() -> None:
        np.copyto(target, source)

    return copy
