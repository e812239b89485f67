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

ALIGNMENT = 64
ITEMSIZE = {"float64": 8, "float32": 4, "int64": 8}
POOLED_BYTES = 256 * 2**20
"""Memory that idle workspaces of a pool may keep."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value lives: an array at an offset of the arena."""

    offset: int
    shape: Shape
    dtype: str


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
        wanted = [*self.outputs.values(), *self.gradients]
        self.dtype = (wanted or [*self.parameters])[0].graph.dtype
        self.nodes = reachable([*wanted, *self.parameters])
        self.work = sum(map(count_work, self.nodes))
        self.places: dict[int, Place] = {}
        self.views: dict[int, Node] = {}
        self.copies: list[tuple[Node, Place]] = []
        self.scratch: dict[int, list[Place]] = {}
        self.idle: list[Workspace] = []
        self._pool = pool or WorkspacePool()
        self._assign(reuse)

    def _assign(self, reuse: bool) -> None:
        itemsize = ITEMSIZE[self.dtype]
        arena = _Arena()
        places = self.places

        # Inputs, parameters, outputs and gradients keep their memory for good.
        self.parameter_count = sum(node.size for node in self.parameters)
        offset = self.parameter_place = arena.take(self.parameter_count * itemsize)
        for node in self.parameters:
            places[node.index] = Place(offset, node.shape, node.dtype)
            offset += node.size * itemsize
        self.gradient_count = sum(node.size for node in self.gradients)
        offset = self.gradient_place = arena.take(self.gradient_count * itemsize)
        slots: dict[int, Place] = {}
        for node in self.gradients:
            place = Place(offset, node.shape, node.dtype)
            offset += node.size * itemsize
            if node.index in slots or node.is_leaf or node.operation.view is not None:
                self.copies.append((node, place))
            else:
                slots[node.index] = place

        for node in self.nodes:
            # Before all else: an input is filled before the first call, so nothing may use its memory earlier.
            if node.operation.name == "input" and node.index not in places:
                places[node.index] = Place(arena.take(node.size * ITEMSIZE[node.dtype]), node.shape, node.dtype)

        # Which root each value lives in, and when that root is used for the last time.
        root: dict[int, int] = {}
        contiguous: dict[int, bool] = {}
        last_use: dict[int, int] = {}
        for node in self.nodes:
            index = node.index
            if node.operation.view is not None and self._is_view(node, contiguous):
                source = node.inputs[0].index
                root[index] = root[source]
                contiguous[index] = contiguous[source] and node.operation.name in (
                    "reshape",
                    "with_slope",
                    "stop_gradient",
                )
                self.views[index] = node
            else:
                root[index] = index
                contiguous[index] = True
            for x in node.operands:
                last_use[root[x.index]] = index
        forever = self.nodes[-1].index + 1 if self.nodes else 0
        for node in (*self.outputs.values(), *self.gradients):
            last_use[root[node.index]] = forever
        for node in self.nodes:
            if node.is_leaf:
                last_use[node.index] = forever

        for node in self.nodes:
            index = node.index
            if node.is_leaf or index in self.views:
                continue
            nbytes = node.size * ITEMSIZE[node.dtype]
            if index in slots:
                places[index] = slots[index]
            else:
                victim = self._overwritable(node, root, last_use, slots) if reuse else None
                offset = arena.take(nbytes) if victim is None else places.pop(victim.index).offset
                if victim is not None:
                    # Its values are gone, but its array is still needed to bind the call.
                    places[victim.index] = Place(offset, victim.shape, victim.dtype)
                    last_use[victim.index] = forever
                places[index] = Place(offset, node.shape, node.dtype)
            if node.operation.scratch:
                taken = [arena.take(nbytes) for _ in range(node.operation.scratch)]
                self.scratch[index] = [Place(offset, node.shape, node.dtype) for offset in taken]
                for offset in taken:
                    arena.give_back(offset, nbytes)
            if reuse:
                for used in {root[x.index] for x in node.operands}:
                    if last_use[used] == index and used in places and used not in slots:
                        place = places[used]
                        arena.give_back(place.offset, math.prod(place.shape) * ITEMSIZE[place.dtype])
        self.nbytes = arena.size

    @staticmethod
    def _is_view(node: Node, contiguous: Mapping[int, bool]) -> bool:
        """Only a contiguous array can be reshaped without moving its elements."""
        return node.operation.name != "reshape" or contiguous[node.inputs[0].index]

    def _overwritable(
        self, node: Node, root: Mapping[int, int], last_use: Mapping[int, int], slots: Mapping[int, Place]
    ) -> Node | None:
        """The input whose memory `node` may write over, if there is one."""
        if not node.operation.in_place:
            return None
        for x in node.inputs:
            index = x.index
            if (
                root[index] == index
                and not x.is_leaf
                and index not in slots
                and last_use[index] == node.index
                and x.shape == node.shape
                and x.dtype == node.dtype
                and sum(root[other.index] == index for other in node.inputs) == 1
            ):
                return x
        return None

    @contextmanager
    def workspace(self) -> Iterator[Workspace]:
        """A workspace for the calling thread alone, until the block ends."""
        workspace = self._pool.lend(self)
        try:
            yield workspace
        finally:
            self._pool.take_back(workspace)


class WorkspacePool:
    """Idle workspaces of many programs, bounded in memory: what was idle for longest goes first."""

    def __init__(self, nbytes: int = POOLED_BYTES) -> None:
        self.capacity = nbytes
        self.nbytes = 0
        self._lock = threading.Lock()
        self._idle: OrderedDict[Workspace, None] = OrderedDict()

    def lend(self, program: Program) -> Workspace:
        """An idle workspace of `program`, or a new one."""
        with self._lock:
            if program.idle:
                workspace = program.idle.pop()
                del self._idle[workspace]
                self.nbytes -= program.nbytes
                return workspace
        return Workspace(program)

    def take_back(self, workspace: Workspace) -> None:
        """Keep a workspace for the next run of its program, as far as there is room."""
        program = workspace.program
        with self._lock:
            program.idle.append(workspace)
            self._idle[workspace] = None
            self.nbytes += program.nbytes
            while self.nbytes > self.capacity:
                oldest, _ = self._idle.popitem(last=False)
                oldest.program.idle.remove(oldest)
                self.nbytes -= oldest.program.nbytes


class Workspace:
    """Memory for one run at a time of a program, and its calls bound to that memory.

    Fill `inputs` and `parameters`, call `run`, read `outputs` and `gradients`: all are arrays in
    the arena, overwritten by the next run.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        memory = np.empty(program.nbytes + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
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
            out = arrays[index] = array(program.places[index])
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
        self.parameters = array(Place(program.parameter_place, (program.parameter_count,), program.dtype))
        self.gradients = array(Place(program.gradient_place, (program.gradient_count,), program.dtype))

    def run(self, deadline: float | None = None) -> None:
        """Compute the outputs and gradients from the inputs and parameters.

        `deadline` is a reading of `time.monotonic`; past it the run stops between two calls and
        raises `DeadlineExceeded`.
        """
        with np.errstate(all="ignore"):
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
