"""The loss at many points of a line or a plane through the space of the parameters, in few runs of one program.

A point is `base + coordinates @ directions`. The program is that of one point, vectorized: many points are computed
side by side, and what does not depend on the parameters that move is computed once for all of them. Slopes along the
directions come from the ordinary backward graph: the product of the gradient with each direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Node, reachable
from service.engine.graph.operations import broadcast, concatenate, reshape, slice_axis, sum_over, transpose
from service.engine.graph.plan import Program, Workspace, WorkspacePool
from service.engine.graph.vectorize import vectorize
from service.engine.limits import Limits
from service.engine.network.answer_warnings import first_non_finite
from service.engine.network.feed import Feed, Feeder
from service.engine.network.flat import Piece
from service.engine.network.prepare import prepare
from service.engine.network.task import Task
from service.engine.watch import Watch

BLOCK_BYTES = 4 * 2**20
"""Memory that the values of one block of points may take, if none were reused; a single point may take more.
Larger blocks of small networks were measured to be no faster."""
FLOAT_BYTES = {"float64": 8, "float32": 4}


class GridTask(NamedTuple):
    """The task of computing losses at many points of a line or plane, for given shapes. It is hashable: equal tasks
    share one program. `task` has losses, no `include`, and a reduction to one number."""

    task: Task
    moved: tuple[str, ...]
    """The parameters that differ from point to point, as `layer.name`, in the order of the flat vector."""
    axes: int
    """The count of directions."""
    points: int
    """The count of points."""
    order: int = 1
    """0: losses alone; 1: and slopes along the directions; 2: and second derivatives."""

    @property
    def key(self) -> GridTask:
        return self

    @property
    def effort(self) -> float:
        return (1.0 + self.order) * self.task.effort

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Grid:
        return compile_grid(self, limits, pool, watch)


@dataclass
class GridValues:
    """The losses, slopes and curvatures at the points, in their order. Values that are not finite stay in place."""

    losses: Array
    slopes: Array
    """`(points, axes)`; without slopes, no points."""
    curvatures: Array
    """`(points, axes, axes)`; without second derivatives, no points."""
    caution: Caution | None = None
    """The first value that is not finite, of the first block of points that has one."""


class Grid:
    """A compiled program of losses and derivatives at many points. Immutable and safe to run from many threads."""

    def __init__(self, asked: GridTask, program: Program, block: int, feeder: Feeder, moved: Sequence[Piece]) -> None:
        self.asked = asked
        self.program = program
        self.block = block
        self.feeder = feeder
        self.moved = tuple(moved)
        """The parameters that move, by their places in the flat vector of all parameters."""
        self.blocks = math.ceil(asked.points / block)
        self.work = program.work * self.blocks
        """Floating-point operations of a run, roughly."""
        self.weight = len(feeder.model.graph.nodes) + len(asked.task.parameters)

    @ignoring_float_warnings
    def run(
        self, feed: Feed, base: Array, directions: Array, coordinates: Array, watch: Watch | None = None
    ) -> GridValues:
        """Compute losses and derivatives at the points `base + coordinates @ directions`.

        `base` is `(parameters,)`, `directions` `(axes, parameters)`, both over the flat vector of all parameters;
        `coordinates` is `(points, axes)`. The feed's own parameters are ignored. Raises what `watch` raises.
        """
        count, axes = coordinates.shape
        order, dtype = self.asked.order, self.asked.task.dtype
        values = GridValues(
            np.empty(count, dtype),
            np.empty((count if order > 0 else 0, axes), dtype),
            np.empty((count if order > 1 else 0, axes, axes), dtype),
        )
        with self.program.workspace(watch) as workspace:
            workspace.parameters[...] = base
            self.feeder.fill_samples(workspace, feed)
            self.feeder.fill_noises(workspace, feed.seed, feed.step)
            self._place_directions(workspace, directions)
            places = workspace.inputs.get("coordinates")
            read = workspace.outputs
            for start in range(0, count, self.block):
                stop = min(start + self.block, count)
                if places is not None:
                    places[: stop - start] = coordinates[start:stop]
                    places[stop - start :] = coordinates[start]  # any place will do for the rest of the last block
                workspace.run(watch)
                if watch is not None:
                    watch.look()
                found = {name: read[name][: stop - start] for name in read}
                values.losses[start:stop] = found["losses"]
                if order > 0:
                    values.slopes[start:stop] = found["slopes"]
                if order > 1:
                    values.curvatures[start:stop] = found["curvatures"]
                if values.caution is None and not all(map(is_finite, found.values())):
                    values.caution = first_non_finite(
                        self.program, workspace, self.feeder.model, self.feeder.parameters.pieces, watch
                    )
        return values

    def _place_directions(self, workspace: Workspace, directions: Array) -> None:
        rows = workspace.inputs.get("directions")
        if rows is None:
            return  # the loss is constant
        start = 0
        for part in self.moved:
            stop = start + part.stop - part.start
            rows[:, start:stop] = directions[:, part.start : part.stop]
            start = stop


def compile_grid(
    asked: GridTask, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
) -> Grid:
    """Build, differentiate, vectorize and plan the loss of a grid; runs borrow their memory from `pool`.

    Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when it would cost too much,
    and what `watch` raises.
    """
    prepared = prepare(asked.task, limits, watch)
    model, graph = prepared.model, prepared.model.graph
    assert prepared.objective is not None
    feeder = Feeder(prepared, limits)
    wanted = frozenset(asked.moved)
    moved = sorted(
        (part for part in feeder.parameters.pieces if f"{part.layer}.{part.name}" in wanted),
        key=lambda part: part.start,
    )
    by_name = {(parameter.layer, parameter.name): parameter.node for parameter in model.parameters}
    nodes = [by_name[part.layer, part.name] for part in moved]
    directions = graph.input("directions", (asked.axes, sum(node.size for node in nodes)))
    ways: dict[Node, Node] = {}
    """For each parameter that moves, its part of the directions: (axes, size)."""
    start = 0
    for node in nodes:
        ways[node] = slice_axis(directions, 1, start, start + node.size)
        start += node.size
    loss = prepared.objective.total
    results = {"losses": loss}
    if asked.order > 0:
        results["slopes"] = slopes = _along(loss, ways)
        if asked.order > 1:
            rows = [_along(sum_over(slice_axis(slopes, 0, k, k + 1)), ways) for k in range(asked.axes)]
            results["curvatures"] = reshape(concatenate(rows, 0), (len(rows), asked.axes))
    block = _block_of(results.values(), ways, asked)
    coordinates = graph.input("coordinates", (block, asked.axes))
    places = {
        node: broadcast(node, (block, *node.shape)) + reshape(coordinates @ way, (block, *node.shape))
        for node, way in ways.items()
    }
    outputs = dict(zip(results, vectorize(list(results.values()), places, block), strict=True))
    program = Program(outputs, feeder.parameters.nodes, pool=pool, watch=watch)
    limits.check_program(program)
    limits.check_operations(program.work * math.ceil(asked.points / block))
    graph.seal()
    return Grid(asked, program, block, feeder, moved)


def _along(number: Node, ways: Mapping[Node, Node]) -> Node:
    """Return the derivatives of a number along the directions, (axes,). `ways` has for each parameter its part of the
    directions, (axes, size)."""
    nodes = list(ways)
    gradients = dense(differentiate(number, nodes).nodes, nodes)
    total: Node | float = 0.0
    for node, gradient in zip(nodes, gradients, strict=True):
        # The gradient as a row on the left: for many points this is one product of matrices.
        total = reshape(gradient, (1, node.size)) @ transpose(ways[node], (1, 0)) + total
    assert isinstance(total, Node)
    return reshape(total, (total.size,))


def _block_of(results: Iterable[Node], ways: Mapping[Node, Node], asked: GridTask) -> int:
    """Return how many points one run computes: as many as memory allows, in blocks of nearly equal length."""
    depend = {node.index for node in ways}
    elements = sum(node.size for node in ways)
    for node in reachable(results):
        if any(x.index in depend for x in node.inputs):
            depend.add(node.index)
            if node.operation.view is None:
                elements += node.size
    most = max(1, BLOCK_BYTES // (elements * FLOAT_BYTES[asked.task.dtype]))
    return math.ceil(asked.points / math.ceil(asked.points / most))
