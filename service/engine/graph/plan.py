"""The fast way to run a graph: a flat list of pre-bound calls into preallocated memory.

`Program` is the immutable result of planning: the nodes in the order of running, and the place of each
value in one arena. Values give their memory to later ones after their last use. `Workspace`
is one arena with the calls bound to it; it is not re-entrant, so a program keeps a pool of
workspaces and lends each to one thread at a time.

`layout.py` has the rules for sharing memory; `blocks.py` runs chains of elementwise operations on large
arrays block by block.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.blocks import Chain
from service.engine.graph.ir import Call, Node, count_work, is_fixed, reachable
from service.engine.graph.layout import ALIGNMENT, Layout, Place
from service.engine.watch import Watch, looked_at

NODE_BYTES = 768
"""The memory of the Python objects of a node and its calls. Measured: 200 to 600, more in small programs."""
CALL_BYTES = 512
"""The memory of each further block of a node."""
POOLED_BYTES = 256 * 2**20
"""The most memory of the idle workspaces of a pool."""


class Program:
    """A graph planned for running: immutable, shared by threads, run through a `Workspace`.

    `outputs` are read by name after a run. `parameters` are input nodes that form one flat vector, `gradients` nodes
    that form another, each in the given order. With `reuse=False` no memory is used twice: slower, to test the memory
    rules.
    """

    def __init__(
        self,
        outputs: Mapping[str, Node],
        parameters: Sequence[Node] = (),
        gradients: Sequence[Node] = (),
        *,
        reuse: bool = True,
        pool: WorkspacePool | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.outputs = dict(outputs)
        self.parameters = tuple(parameters)
        self.gradients = tuple(gradients)
        wanted = [*self.outputs.values(), *self.gradients, *self.parameters]
        self.dtype = wanted[0].graph.dtype
        self.nodes = reachable(wanted)
        self.work = sum(map(count_work, self.nodes))
        self.result_size = sum(node.size for node in (*self.outputs.values(), *self.gradients))
        """The count of numbers that a run gives."""
        layout = Layout(self.nodes, self.outputs.values(), self.parameters, self.gradients, self.dtype, reuse, watch)
        self.steps = layout.steps
        self.places = layout.places
        self.views = layout.views
        self.scratch = layout.scratch
        self.overwrites = layout.overwrites
        self.inside = layout.inside
        self.copies = layout.copies
        self.flat_parameters = layout.flat_parameters
        self.flat_gradients = layout.flat_gradients
        self.nbytes = layout.arena.size
        self.weight = self.nbytes + NODE_BYTES * len(self.nodes) + CALL_BYTES * layout.calls
        """The memory of an idle workspace: its arena, and the objects bound to it."""
        self.idle: list[Workspace] = []
        self._pool = pool or WorkspacePool()

    def __str__(self) -> str:
        """Return the plan as text: each node in the order of running, with the place of its value in the arena."""
        lines: list[str] = []
        for plain, chain in self.steps:
            lines += map(self._line, plain)
            if chain is not None:
                lines.append(f"# {len(chain.blocks)} blocks of {list(chain.blocks.largest)}, each through all of")
                lines += [f"    {self._line(node)}" for node in chain.nodes]
        lines += [f"# %{node.index} is copied to {place.offset}" for node, place in self.copies]
        return "\n".join([*lines, f"# {len(self.nodes)} nodes, {self.nbytes} bytes"])

    def _line(self, node: Node) -> str:
        if node.is_constant:
            place = "constant"
        elif node.index in self.views:
            place = f"view of %{node.inputs[0].index}"
        elif node.index in self.overwrites:
            place = f"over %{self.overwrites[node.index]}"
        else:
            place = f"at {self.places[node.index].offset}"
        return f"{node!r:<68}# {place}"

    def __del__(self) -> None:
        # A program that could not be planned has no such attribute.
        if getattr(self, "idle", None):
            self._pool.forget(self)

    def workspace(self, watch: Watch | None = None) -> Loan:
        """Lend a workspace to the calling thread until the `with` block ends. Making a new one looks at `watch`."""
        return Loan(self._pool, self, watch)


class Loan:
    """A workspace that a pool lends for the time of a `with` block. A `contextmanager` would take twice as long."""

    __slots__ = ("_pool", "_program", "_watch", "_workspace")

    def __init__(self, pool: WorkspacePool, program: Program, watch: Watch | None) -> None:
        self._pool = pool
        self._program = program
        self._watch = watch

    def __enter__(self) -> Workspace:
        self._workspace = self._pool.lend(self._program, self._watch)
        return self._workspace

    def __exit__(self, *raised: object) -> None:
        self._pool.take_back(self._workspace)


class WorkspacePool:
    """The idle workspaces of many programs, bounded in bytes. The one idle for longest is dropped first."""

    def __init__(self, nbytes: int = POOLED_BYTES) -> None:
        self.capacity = nbytes
        self.nbytes = 0
        """The memory of all idle workspaces."""
        # Reentrant: the last reference to a program may go while the lock is held, and its __del__ comes here.
        self._lock = threading.RLock()
        self._idle: OrderedDict[Workspace, None] = OrderedDict()

    def lend(self, program: Program, watch: Watch | None = None) -> Workspace:
        """Return an idle workspace of `program`, or a new one."""
        with self._lock:
            if program.idle:
                workspace = program.idle.pop()
                del self._idle[workspace]
                self.nbytes -= program.weight
                return workspace
        return Workspace(program, watch)

    def take_back(self, workspace: Workspace) -> None:
        """Keep a workspace for the next run of its program, unless the program is larger than the pool."""
        program = workspace.program
        if program.weight > self.capacity:
            return  # too large: keeping it would drop all others
        with self._lock:
            program.idle.append(workspace)
            self._idle[workspace] = None
            self.nbytes += program.weight
            while self.nbytes > self.capacity:
                self._drop_oldest()

    def forget(self, program: Program) -> None:
        """Drop the workspaces of a program."""
        with self._lock:
            for workspace in program.idle:
                del self._idle[workspace]
                self.nbytes -= program.weight
            program.idle.clear()

    def shrink(self, nbytes: int) -> None:
        """Drop the workspaces idle for longest until at least this many bytes are free, or all are dropped."""
        with self._lock:
            least = self.nbytes - nbytes
            while self._idle and self.nbytes > least:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest, _ = self._idle.popitem(last=False)
        program = oldest.program
        program.idle.remove(oldest)
        self.nbytes -= program.weight


class Workspace:
    """Memory for one run at a time of a program, and its calls bound to that memory.

    Fill `inputs` and `parameters`, call `run`, read `outputs` and `gradients`. All are arrays in the arena that the
    next run overwrites. Readers must not change gradients.
    """

    def __init__(self, program: Program, watch: Watch | None = None) -> None:
        self.program: Program = weakref.proxy(program)
        """A weak reference, because a program holds its idle workspaces; the caller of a run holds the program."""
        memory = np.empty(program.nbytes + ALIGNMENT, np.uint8)
        start = -memory.__array_interface__["data"][0] % ALIGNMENT
        self._memory = memory

        def array(place: Place) -> Array:
            return np.ndarray(place.shape, place.dtype, memory, start + place.offset)

        arrays: dict[int, Array] = {}
        calls: list[Call] = []
        self.inputs: dict[str, Array] = {}
        for plain, chain in program.steps:
            for node in looked_at(plain, watch):
                index = node.index
                operation = node.operation
                if node.is_constant:
                    # A number that is too large for float32 becomes infinite.
                    arrays[index] = without_float_warnings(np.array, node.attributes[0], node.dtype)
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
            if chain is not None:
                calls.extend(_in_blocks(chain, program, arrays, array))
        for node, place in program.copies:
            copy = _copy(array(place), arrays[node.index])
            if is_fixed(node):
                copy()  # once is enough
            else:
                calls.append(copy)
        self.calls = calls
        self.outputs = {name: arrays[node.index] for name, node in program.outputs.items()}
        self.parameters = array(program.flat_parameters)
        self.gradients = array(program.flat_gradients)

    def run(self, watch: Watch | None = None) -> None:
        """Compute outputs and gradients from inputs and parameters. Raises, between two calls, what `watch` raises."""
        without_float_warnings(self._run, watch)

    def _run(self, watch: Watch | None) -> None:
        if watch is None:
            for call in self.calls:
                call()
        else:
            due = watch.look()
            for call in self.calls:
                call()
                if monotonic() >= due:
                    due = watch.look()


def _in_blocks(
    chain: Chain, program: Program, arrays: dict[int, Array], array: Callable[[Place], Array]
) -> Iterator[Call]:
    """Yield the calls of a chain, block by block. The arrays of its values are added to `arrays`; values that stay
    inside the chain have one block."""
    for node in chain.nodes:
        index = node.index
        if index in program.views:
            arrays[index] = arrays[node.inputs[0].index]
        else:
            victim = program.overwrites.get(index)
            arrays[index] = array(program.places[index]) if victim is None else arrays[victim]
    scratch = {node.index: [array(place) for place in program.scratch.get(node.index, ())] for node in chain.members}
    operands = {x.index: x for node in chain.members for x in (node, *node.inputs)}
    outside = {index for index, x in operands.items() if index not in program.inside and x.shape != ()}
    repeated: dict[tuple[int, int], list[Call]] = {}
    for block, rows in chain.blocks:
        cut: dict[int, Array] = {}  # by identity: values that share an array share its cuts
        parts: dict[int, Array] = {}
        for index, x in operands.items():
            whole = arrays[index]
            if x.shape != () and id(whole) not in cut:
                cut[id(whole)] = whole[block] if index in outside else whole[:rows]
            parts[index] = cut.get(id(whole), whole)
        for node in chain.members:
            index = node.index
            calls = repeated.get((index, rows))
            if calls is None:
                inputs = [parts[x.index] for x in node.inputs]
                temporary = [each[:rows] for each in scratch[index]]
                calls = list(node.operation.bind(parts[index], inputs, node.attributes, temporary))
                if outside.isdisjoint((index, *[x.index for x in node.inputs])):
                    repeated[index, rows] = calls  # the same memory in every block
            yield from calls


def _copy(target: Array, source: Array) -> Call:
    return partial(np.copyto, target, source)
