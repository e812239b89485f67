"""Sums over shards: the evaluation of an aligned block of shards, in this process or in another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from time import monotonic
from typing import NamedTuple, Protocol

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.graph.plan import Program, Workspace
from service.engine.limits import WATCHED_OPERATIONS
from service.engine.network.evaluate import Evaluation
from service.engine.network.feed import Feed
from service.engine.network.shards import Shards, TreeSum
from service.engine.network.task import Task
from service.engine.parallel import Future
from service.engine.watch import Watch


class Span(NamedTuple):
    """A block of shards of a batch, and the numbers that its samples do not hold. It can be pickled."""

    shards: Shards
    first: int
    stop: int
    offset: int
    """The place in the batch of the first sample of the feed, or of the first one that `rows` names."""
    rows: Array | None
    """The indices of the samples in the feed; None: all, in their order."""
    seed: int
    step: int
    divisors: tuple[float, ...]
    """The divisor of the mean of each output."""
    wanted: tuple[str, ...]
    """The names of the outputs of the program whose rows the sums hold."""


class Sums(NamedTuple):
    """The sums over a block of shards."""

    gradients: Array
    """The gradients of the trained parameters, flat."""
    losses: Array
    """Of each output, before its loss weight."""
    rows: dict[str, Array]
    """Values with a row for each sample of the block."""


class Spread(Protocol):
    """Other processes that compute blocks of shards."""

    @property
    def least_work(self) -> float:
        """The floating-point operations of an evaluation below which it is quicker not to ask them."""

    @property
    def width(self) -> int:
        """The number of blocks that they compute at once."""

    def submit(self, task: Task, spans: Sequence[Span], flat: Array, feed: Feed) -> Sequence[Future[Sums]]:
        """Compute the sums over blocks of the batch whose samples are the feed's, with these flat parameters."""


class Workspaces:
    """Workspaces of the programs of shards, one for each program, lent until `close`."""

    def __init__(self, watch: Watch | None = None) -> None:
        self._stack = ExitStack()
        self._watch = watch
        self._lent: dict[Program, Workspace] = {}
        self._sums: dict[Program, tuple[TreeSum, TreeSum]] = {}

    def of(self, program: Program) -> Workspace:
        """Return the workspace of a program, the same at each call."""
        workspace = self._lent.get(program)
        if workspace is None:
            workspace = self._lent[program] = self._stack.enter_context(program.workspace(self._watch))
        return workspace

    def sums_for(self, evaluation: Evaluation) -> tuple[TreeSum, TreeSum]:
        """Return the sums of gradients and of losses of this evaluation, the same at each call."""
        program = evaluation.program
        sums = self._sums.get(program)
        if sums is None:
            gradients = sum(node.size for node in program.gradients)
            outputs = len(evaluation.task.definition.output_names)
            dtype = evaluation.task.dtype
            sums = self._sums[program] = TreeSum(gradients, dtype), TreeSum(outputs, dtype)
        return sums

    def close(self) -> None:
        """Give the workspaces back to their pool."""
        self._stack.close()
        self._lent.clear()
        self._sums.clear()

    def __enter__(self) -> Workspaces:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def part_of(task: Task, size: int) -> Task:
    """Return the task of a shard of `size` samples."""
    return task.of_size(size)._replace(part=True, normalize_weights=None)


Programs = Mapping[int, Evaluation]
"""The programs of shards by the size of the shard, the largest size first."""


@ignoring_float_warnings
def sums_over(
    programs: Programs, memory: Workspaces, span: Span, flat: Array, feed: Feed, watch: Watch | None = None
) -> Sums:
    """Return the sums over a block of shards with the flat parameters `flat`. The next call with the same memory
    overwrites them. Raises what `watch` raises."""
    shards = span.shards
    main = next(iter(programs.values()))
    names = main.task.definition.output_names
    gradients, losses = memory.sums_for(main)
    gradients.clear()
    losses.clear()
    block = shards.rows(span.first, span.stop)
    shapes = {name: memory.of(main.program).outputs[name].shape[1:] for name in span.wanted}
    rows = {name: np.empty((block.stop - block.start, *shape), main.task.dtype) for name, shape in shapes.items()}
    due = -math.inf
    for place, evaluation, workspace in filled(programs, memory, span, flat, feed):
        if watch is not None and monotonic() >= due:
            due = watch.look()
        workspace.run(watch if evaluation.program.work > WATCHED_OPERATIONS else None)
        gradients.add(workspace.gradients)
        losses.add(np.array([workspace.outputs[f"losses/{name}"] for name in names]))
        for name, whole in rows.items():
            whole[place.start - block.start : place.stop - block.start] = workspace.outputs[name]
    return Sums(gradients.total(), losses.total(), rows)


def filled(
    programs: Programs, memory: Workspaces, span: Span, flat: Array, feed: Feed
) -> Iterator[tuple[slice, Evaluation, Workspace]]:
    """Yield, for each shard of a block, its place in the batch, its program, and the workspace with all that a run of
    the program needs."""
    shards, offset = span.shards, span.offset
    main = next(iter(programs.values()))
    streams = main.feeder.streams(span.seed, span.step)
    for evaluation in programs.values():
        workspace = memory.of(evaluation.program)
        workspace.parameters[...] = flat
        for name, divisor in zip(evaluation.task.definition.output_names, span.divisors, strict=True):
            value = workspace.inputs.get(f"divisors/{name}")
            if value is not None:
                value[...] = divisor
    main.feeder.skip(memory.of(main.program), streams, span.first)
    for number in range(span.first, span.stop):
        place = shards.rows(number, number + 1)
        evaluation = programs[place.stop - place.start]
        workspace = memory.of(evaluation.program)
        here = slice(place.start - offset, place.stop - offset)
        evaluation.feeder.fill_samples(workspace, feed, here if span.rows is None else span.rows[here])
        evaluation.feeder.draw(workspace, streams)
        yield place, evaluation, workspace
