"""Derivatives of a network's outputs or of its loss: Jacobians, Hessians and products with them.

All are compositions of the reverse mode of `differentiate`, in the graph:

* vjp: the gradient of the outputs times a cotangent u that is an input of the graph;
* jvp: a vjp is linear in u, so its own vjp with respect to u is the jvp, in which u does not occur;
* hvp: the gradient of the product of the gradient and v;
* Jacobian and Hessian: such products with the rows of the identity matrix.

A program computes them for a block of vectors at once (`vectorize`). It computes what does not depend on the vectors
once for the whole block. A block is as long as memory allows, and the program runs once for each block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, LimitExceeded
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.graph.blocks import ITEMSIZE
from service.engine.graph.ir import reachable
from service.engine.graph.plan import Program, Workspace, WorkspacePool
from service.engine.graph.vectorize import vectorize
from service.engine.limits import Limits
from service.engine.network.answer_warnings import (
    bounded_outputs,
    first_non_finite,
    misread,
    out_of_reach,
    to_be_read,
    unfit,
)
from service.engine.network.derivative_graph import DerivativeBuilder, DerivativeGraph
from service.engine.network.feed import Feed, Feeder
from service.engine.network.flat import tree_of
from service.engine.network.prepare import Prepared, prepare
from service.engine.network.task import Task
from service.engine.network.vectors import Entry, LossSide, ParametersSide, Side, TensorsSide
from service.engine.watch import Watch

KINDS = ("jacobian", "jvp", "vjp", "hessian", "hvp")
OF = ("outputs", "loss")
WRT = ("inputs", "parameters")
TAKES_VECTORS = frozenset(("jvp", "vjp", "hvp"))
BLOCK_BYTES = 64 * 2**20
"""Memory of the values of one block of vectors, counted as if none were reused. A single vector may take more."""
OBJECT_BYTES = 256
"""Memory of a small array of an answer beside its numbers, roughly."""


class DerivativeTask(NamedTuple):
    """The task of computing a derivative, for given shapes. Hashable: equal tasks share one derivation. `task` has
    losses exactly where the derivative is `of` the loss, and no `include`. Its reduction is not `none`."""

    task: Task
    kind: str
    of: str
    wrt: str
    vectors: int = 0
    """The number of vectors that are sent."""

    @property
    def key(self) -> DerivativeTask:
        return self

    @property
    def effort(self) -> float:
        return 3.0 * self.task.effort  # differentiated twice

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Derivation:
        return compile_derivative(self, limits, pool, watch)


@dataclass
class Derivative:
    """The result of one run: outputs or loss, and their derivative. All arrays belong to the caller. An entry is an
    array of shape `()` for the loss, arrays by name for inputs and outputs, a tree for parameters."""

    values: Entry
    """The outputs or the loss."""
    result: Entry
    """jvp, vjp, hvp: a list with an entry for each vector. Jacobian of the loss: an entry. Jacobian of outputs:
    by output `[sample][output]` and the shape of the parameter, or `[input]`. Hessian: a matrix; of outputs, by
    output, `[sample][output]` and a matrix."""
    labels: list[str] | None = None
    """Names of the rows and columns of a Hessian."""
    parameters: dict[str, dict[str, Array]] | None = None
    """The initial parameters, if the run drew them."""
    finite: bool = True
    warnings: list[Caution] = field(default_factory=list)


class Derivation:
    """A derivative, compiled. Immutable and safe to run from many threads."""

    def __init__(
        self,
        asked: DerivativeTask,
        prepared: Prepared,
        of: Side,
        sent: Side | None,
        size: int,
        graph: DerivativeGraph,
        program: Program,
        block: int,
        feeder: Feeder,
    ) -> None:
        self.asked = asked
        self.task = asked.task
        self.model = prepared.model
        self.bounded = bounded_outputs(self.task, self.model)
        self.watched = to_be_read(self.task, self.model)
        self.program = program
        self.block = block
        """The number of vectors that one run of the program takes."""
        self.feeder = feeder
        self.parameters = feeder.parameters
        self.of = of
        self.sent = sent
        """The side whose vectors callers send; None: they send none."""
        self.graph = graph
        self.size = size
        """The number of entries of an answer."""
        self.blocks = math.ceil(graph.count / block)
        self.work = self.program.work * self.blocks
        """Floating-point operations of a run, roughly."""
        self.weight = len(self.model.graph.nodes) + len(self.task.parameters)
        """Its share of a cache, in nodes."""
        arrays = graph.count * len(graph.results) if sent is not None else 0
        self.result_bytes = size * ITEMSIZE[self.task.dtype] + arrays * OBJECT_BYTES
        """Memory of an answer, roughly."""

    @ignoring_float_warnings
    def run(self, feed: Feed, vectors: Sequence[Entry] = (), watch: Watch | None = None) -> Derivative:
        """Compute the derivative with the numbers of `feed`, and for as many vectors as the task names. Raises
        `InvalidRequest` when the numbers do not fit, and what `watch` raises."""
        sheet = self.graph.sheet()
        with self.program.workspace(watch) as workspace:
            rows = self._fill(workspace, feed, vectors, watch)
            read = workspace.outputs
            results = [read[f"result/{position}"] for position in range(len(self.graph.results))]
            lost: Caution | None = None
            for start in range(0, self.graph.count, self.block):
                stop = min(start + self.block, self.graph.count)
                self._place(workspace, rows, start, stop)
                workspace.run(watch)
                if watch is not None:
                    watch.look()
                if lost is None and not all(map(is_finite, results)):
                    lost = self._first_non_finite(workspace, watch)
                sheet.write(start, stop, results)
            values = [read[f"values/{position}"].copy() for position in range(len(self.of.nodes))]
            answer = Derivative(self.of.nested(values), sheet.entry(), self.graph.labels)
            if feed.parameters is None:
                answer.parameters = tree_of(self.parameters.pieces, workspace.parameters.copy())
            if lost is None and not (all(map(is_finite, values)) and is_finite(workspace.parameters)):
                lost = self._first_non_finite(workspace, watch)
            answer.finite = lost is None
            answer.warnings = list(self.graph.cautions)
            if self.task.losses is not None:
                outputs = {name: read[f"outputs/{name}"] for name in self.task.definition.output_names}
                answer.warnings += unfit(self.task, feed)
                answer.warnings += out_of_reach(self.bounded, feed.targets)
                answer.warnings += misread(self.watched, outputs, feed.targets)
            if lost is not None:
                answer.warnings.append(lost)
        return answer

    def _first_non_finite(self, workspace: Workspace, watch: Watch | None) -> Caution:
        return first_non_finite(self.program, workspace, self.model, self.parameters.pieces, watch)

    def _fill(self, workspace: Workspace, feed: Feed, vectors: Sequence[Entry], watch: Watch | None) -> Array | None:
        """Write everything but the vectors into the workspace; return these as rows, None if none are sent."""
        faults: list[Fault] = []
        if self.sent is not None:
            for position, entry in enumerate(vectors):
                if len(faults) >= MOST_ERRORS:
                    break
                faults += self.sent.faults(entry, ("vectors", position))
        try:
            self.feeder.fill(workspace, feed, watch)
        except InvalidRequest as error:
            faults = [*error.faults, *faults]
        if faults:
            raise InvalidRequest(faults)
        if self.sent is None:
            return None
        rows = np.empty((len(vectors), self.sent.size), self.task.dtype)
        for row, entry in zip(rows, vectors, strict=True):
            self.sent.write(entry, row)
        return rows

    def _place(self, workspace: Workspace, rows: Array | None, start: int, stop: int) -> None:
        """Copy a block of vectors to the input of the program, and fill the rest of a shorter last block with 0."""
        block = workspace.inputs.get("vectors")
        if block is None:
            return  # the derivative is constant
        if rows is not None:
            block[: stop - start] = rows[start:stop]
            block[stop - start :] = 0.0
            return
        block.fill(0.0)
        places, each = np.arange(stop - start), np.arange(start, stop)
        if self.graph.pair:
            first, each = np.divmod(each, block.shape[1] - self.graph.pair)
            block[places, first] = 1.0
        block[places, self.graph.pair + each] = 1.0


def compile_derivative(
    asked: DerivativeTask, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
) -> Derivation:
    """Build, differentiate and plan. Runs borrow their memory from `pool`.

    Raises `InvalidRequest` when the definition or the shapes do not fit or there is no such derivative,
    `LimitExceeded` when it would cost too much, and what `watch` raises.
    """
    task = asked.task
    prepared = prepare(task, limits, watch)
    model = prepared.model
    of, wrt = _of(asked, prepared), _wrt(asked, prepared)
    builder = DerivativeBuilder(asked.kind, prepared, of, wrt, asked.vectors)
    if builder.size > limits.tensor_elements:
        raise LimitExceeded("tensor_elements", builder.size, limits.tensor_elements)
    graph = builder.build()
    block = _block_of(graph, task.dtype)
    vectors = model.graph.input("vectors", (block, graph.vector.size))
    results = vectorize(graph.results, {graph.vector: vectors}, block)
    outputs = {f"result/{position}": node for position, node in enumerate(results)}
    outputs |= {f"values/{position}": node for position, node in enumerate(of.nodes)}
    if task.losses is not None:
        outputs |= {f"outputs/{name}": model.layers[name].output for name in task.definition.output_names}
    feeder = Feeder(prepared, limits)
    program = Program(outputs, feeder.parameters.nodes, pool=pool, watch=watch)
    limits.check_program(program)
    limits.check_operations(program.work * math.ceil(graph.count / block))
    sent = {"jvp": wrt, "hvp": wrt, "vjp": of}.get(asked.kind)
    return Derivation(asked, prepared, of, sent, builder.size, graph, program, block, feeder)


def _of(asked: DerivativeTask, prepared: Prepared) -> Side:
    if prepared.objective is not None:
        return LossSide(prepared.objective.total)
    names = asked.task.definition.output_names
    return TensorsSide("output", {name: prepared.model.layers[name].output for name in names}, names)


def _wrt(asked: DerivativeTask, prepared: Prepared) -> Side:
    model = prepared.model
    if asked.wrt == "inputs":
        names = tuple(model.inputs)
        indices = [name for name, node in model.inputs.items() if node.dtype == "int64"]
        if len(indices) == len(names):
            which = ", ".join(map(repr, indices))
            detail = (
                f"there is no derivative with respect to indices, and input {which} holds them because a layer embeds "
                "them; ask for wrt: parameters"
            )
            raise InvalidRequest([Fault(("wrt",), detail, ("parameters",))])
        numbers = {name: node for name, node in model.inputs.items() if name not in indices}
        return TensorsSide("input", numbers, names, indices)
    side = ParametersSide(asked.task, model)
    if not side.size:
        raise InvalidRequest([Fault(("wrt",), "the network has no parameters that are trained; ask for wrt: inputs")])
    return side


def _block_of(graph: DerivativeGraph, dtype: str) -> int:
    """Return how many vectors one run takes: as many as memory allows, in blocks of nearly equal length."""
    depend = {graph.vector.index}
    elements = graph.vector.size
    for node in reachable(graph.results):
        if any(x.index in depend for x in node.inputs):
            depend.add(node.index)
            if node.operation.view is None:
                elements += node.size
    most = max(1, BLOCK_BYTES // (elements * ITEMSIZE[dtype]))
    return math.ceil(graph.count / math.ceil(graph.count / most))
