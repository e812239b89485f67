"""The loss and the gradient of a network, shard by shard: a batch that is too large for one program, or one computer.

A shard is evaluated by a program of its own, which divides by the divisor of the whole batch and adds no penalty. All
shards of one size share the program. `Sharded` sums over the shards of a batch, in this process or with the help of
others, and adds what does not belong to a shard: penalties, norms and warnings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution, caution
from service.engine.compiling import Compiler
from service.engine.declarations import Selection
from service.engine.errors import DeadlineExceeded, Fault, InvalidRequest, LimitExceeded
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.graph.ir import sealing
from service.engine.graph.plan import Program, Workspace
from service.engine.limits import Limits
from service.engine.network.answer_warnings import (
    EXPLAIN_BYTES,
    Lost,
    find_non_finite,
    norm_lost,
)
from service.engine.network.evaluate import Evaluation, EvaluationTask, Result
from service.engine.network.feed import Feed
from service.engine.network.flat import tree_of
from service.engine.network.layered import NetworkDefinition
from service.engine.network.layers import Layer
from service.engine.network.parameters import ParameterVector
from service.engine.network.prepare import prepare
from service.engine.network.shard_sums import Span, Spread, Sums, Workspaces, filled, part_of, sums_over
from service.engine.network.shard_tasks import PenaltyTask, WeightsTask
from service.engine.network.shards import Shards, TreeSum
from service.engine.network.surprises import CLOSER_BYTES, Rectified
from service.engine.network.task import Task
from service.engine.parallel import results_of
from service.engine.watch import Watch

OF_ROWS = frozenset(("layers", "norms", "input_gradients", "per_sample"))
"""Parts of an answer that have a row for each sample, or are computed from such rows."""
EXTRA_CALLS = 12
"""Calls of NumPy for each shard, beside those of its program."""


class Batch(NamedTuple):
    """The samples of one evaluation, and the seed and step of its random numbers."""

    feed: Feed
    rows: Array | None = None
    """The indices of the samples in the feed; None: all."""
    step: int = 0


class Total(NamedTuple):
    """The loss of a batch, and its flat gradient, which the next evaluation overwrites."""

    loss: Array
    data_loss: Array
    regularization_loss: Array
    losses: Array
    gradients: Array
    rows: dict[str, Array]


class Sharded:
    """The evaluation of a network on a batch in shards. It is safe to use from many threads, each with its own memory.

    The result is a function of the batch and the size of the shards, whoever computes which of them.
    """

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        task: Task,
        size: int,
        limits: Limits,
    ) -> None:
        """Compile the programs for a task about a whole batch, in shards of `size` samples.

        Raises `InvalidRequest` where the task does not fit or cannot be cut, `LimitExceeded` where it costs too much.
        """
        if not task.samples:
            compile(EvaluationTask(task))  # raises, and says what the inputs should be
        self.task = task
        self.shards = shards = Shards(task.samples, size)
        _need_rows(task, limits)
        try:
            self.programs: dict[int, Evaluation] = {
                each: compile(EvaluationTask(part_of(task, each))) for each in shards.sizes
            }
        except InvalidRequest as error:
            _check_whole(task, limits)
            raise InvalidRequest([_of_shard(fault, shards) for fault in error.faults]) from None
        self.main = main = next(iter(self.programs.values()))
        if main.model.couples_samples:
            raise InvalidRequest([_coupled(task)])
        self.rows = _rows_of(main) if task.include & OF_ROWS or task.reduction == "none" else ()
        """The names of the outputs of a program that have a row for each sample and are wanted, outputs aside."""
        self.outputs = tuple([f"outputs/{name}" for name in task.definition.output_names])
        self._penalty = compile(PenaltyTask(main.task)) if main.model.penalties else None
        self._weights: dict[int, Program] = {}
        if task.normalize_weights and task.reduction == "mean":
            weighing = {each: task.of_size(each)._replace(include=frozenset()) for each in shards.sizes}
            found = {each: compile(WeightsTask(part)).program for each, part in weighing.items()}
            self._weights = {each: program for each, program in found.items() if program is not None}
        self.program = main.program
        """The program of the largest shard."""
        self.used = [each.program for each in self.programs.values()] + list(self._weights.values())
        self.used += [] if self._penalty is None else [self._penalty.program]
        self.work: float = sum(self.programs[each].program.work * count for each, count in shards.sizes.items())
        """The floating-point operations of one evaluation of the batch."""
        self.calls = shards.count * (len(self.program.nodes) + EXTRA_CALLS)
        """Calls of NumPy of one evaluation of the batch, roughly."""
        limits.check_operations(self.work)
        for name in (*self.rows, *self.outputs):
            numbers = main.program.outputs[name].size * task.samples // main.task.samples
            if numbers > limits.tensor_elements:
                raise LimitExceeded("tensor_elements", numbers, limits.tensor_elements)

    @property
    def parameters(self) -> ParameterVector:
        return self.main.parameters

    @property
    def nbytes(self) -> int:
        """The memory of all programs together, and of the sums."""
        return sum(program.weight for program in self.used) + self.sum_bytes

    @property
    def sum_bytes(self) -> int:
        """The memory of the sums."""
        return TreeSum.rows(self.shards.count) * self.parameters.trained_size * np.dtype(self.task.dtype).itemsize

    @property
    def result_size(self) -> int:
        """The count of numbers that `run` gives."""
        names = (*self.rows, *self.outputs)
        each = sum(math.prod(self.program.outputs[name].shape[1:]) for name in names)
        return each * self.task.samples + self.parameters.trained_size

    def check(self, feed: Feed) -> None:
        """Raise `InvalidRequest` with every fault of the numbers of the whole batch."""
        self.main.feeder.check(feed, self.task)

    def divisors(self, memory: Workspaces, batch: Batch) -> tuple[float, ...]:
        """Return what the mean of each output divides by: the number of samples, or the sum of their weights."""
        names = self.task.definition.output_names
        divisors = dict.fromkeys(names, float(self.shards.samples))
        if self._weights:
            some = next(iter(self._weights.values()))
            sums: dict[str, list[float]] = {name: [] for name in some.outputs}
            for number in range(self.shards.count):
                place = self.shards.rows(number, number + 1)
                workspace = memory.of(self._weights[place.stop - place.start])
                rows = place if batch.rows is None else batch.rows[place]
                self.main.feeder.fill_samples(workspace, batch.feed, rows)
                workspace.run()
                for name, value in sums.items():
                    value.append(workspace.outputs[name].item())
            divisors |= {name: math.fsum(values) for name, values in sums.items()}
        return tuple(divisors.values())

    def evaluate(
        self,
        memory: Workspaces,
        batch: Batch,
        flat: Array,
        divisors: tuple[float, ...],
        *,
        wanted: tuple[str, ...] = (),
        spread: Spread | None = None,
        watch: Watch | None = None,
    ) -> Total:
        """Return loss and gradient of a batch, and the rows of the program's outputs that `wanted` names. `divisors`
        are those of the batch. `spread` computes blocks of shards, if it is given."""
        span = Span(self.shards, 0, self.shards.count, 0, batch.rows, batch.feed.seed, batch.step, divisors, wanted)
        if spread is None or self.work < spread.least_work:
            sums = sums_over(self.programs, memory, span, flat, batch.feed, watch)
        else:
            sums = self._spread(spread, span, flat, batch.feed, watch)
        return self._total(memory, sums, flat)

    def _spread(self, spread: Spread, span: Span, flat: Array, feed: Feed, watch: Watch | None) -> Sums:
        spans = []
        for block in self.shards.blocks(spread.width):
            place = self.shards.rows(block.start, block.stop)
            rows = None if span.rows is None else span.rows[place]
            spans.append(span._replace(first=block.start, stop=block.stop, offset=place.start, rows=rows))
        parts = results_of(spread.submit(self.task, spans, flat, feed), watch)
        gradients, losses = (TreeSum(part.size, self.task.dtype) for part in parts[0][:2])
        for part in parts:
            gradients.add(part.gradients)
            losses.add(part.losses)
        rows_of = {name: np.concatenate([part.rows[name] for part in parts]) for name in span.wanted}
        return Sums(gradients.total(), losses.total(), rows_of)

    def _total(self, memory: Workspaces, sums: Sums, flat: Array) -> Total:
        task = self.task
        one = np.dtype(task.dtype).type
        data_loss = one(0.0)
        for factor, loss in zip(task.loss_weights or [1.0] * sums.losses.size, sums.losses, strict=True):
            data_loss = data_loss + one(factor) * loss
        regularization = one(0.0)
        if self._penalty is not None:
            workspace = memory.of(self._penalty.program)
            workspace.parameters[...] = flat
            workspace.run()
            regularization = workspace.outputs["loss"][()]
            gradients = sums.gradients
            gradients += workspace.gradients
        total = data_loss + regularization
        return Total(
            np.asarray(total),
            np.asarray(data_loss),
            np.asarray(regularization),
            sums.losses,
            sums.gradients,
            sums.rows,
        )

    @ignoring_float_warnings
    def run(
        self, feed: Feed, watch: Watch | None = None, *, spread: Spread | None = None, consume: bool = False
    ) -> Result:
        """Compute what `Evaluation.run` computes, with the numbers of `feed`, and with `consume` as there. Raises
        `InvalidRequest` when the numbers do not fit, and what `watch` raises."""
        self.check(feed)
        initialised = feed.parameters is None
        flat = np.empty(sum(node.size for node in self.parameters.nodes), self.task.dtype)
        self.main.feeder.fill_parameters(flat, feed, watch)
        if consume and not initialised:
            feed.parameters = {}
        batch = Batch(feed, step=feed.step)
        with Workspaces(watch) as memory:
            divisors = self.divisors(memory, batch)
            wanted = (*self.outputs, *self.rows)
            total = self.evaluate(memory, batch, flat, divisors, wanted=wanted, spread=spread, watch=watch)
            result = self.main.collect(self._named(total), total.gradients)
            if initialised:
                result.parameters = tree_of(self.parameters.pieces, flat)
                result.finite = result.finite and is_finite(flat)
            result.warnings += self.main.cautions(self.task, feed, result.outputs)
            if result.finite:
                result.warnings += self.surprises(memory, batch, flat, divisors, total.gradients)
            else:
                result.warnings.append(self.first_non_finite(memory, batch, flat, divisors, total, watch))
        return result

    def _named(self, total: Total) -> dict[str, Array]:
        """Return the parts of a result by the names that the outputs of a program have."""
        none = self.task.reduction == "none"
        data_loss = total.rows["data_loss"] if none else total.data_loss
        named = {"loss": data_loss if none else total.loss, "data_loss": data_loss}
        named["regularization_loss"] = total.regularization_loss
        names = self.task.definition.output_names
        named |= {f"losses/{name}": np.asarray(loss) for name, loss in zip(names, total.losses, strict=True)}
        return {**total.rows, **named}

    def surprises(
        self, memory: Workspaces, batch: Batch, flat: Array, divisors: tuple[float, ...], gradients: Array
    ) -> list[Caution]:
        """Return the warnings about a finite evaluation with these parameters and this gradient."""

        def flat_units(each: Rectified) -> Array | None:
            sizes = self.shards.sizes.items()
            if sum(self._bytes_of(size) * count for size, count in sizes) > CLOSER_BYTES:
                return None
            found: Array | None = None
            for _, evaluation, workspace in self._filled(memory, batch, flat, divisors):
                units = evaluation.surprises.flat_units(each, workspace)
                if units is None:
                    return None
                found = units if found is None else found & units
            return found

        return self.main.surprises.found_in(gradients, flat, flat_units, self.shards.samples)

    def first_non_finite(
        self,
        memory: Workspaces,
        batch: Batch,
        flat: Array,
        divisors: tuple[float, ...],
        total: Total,
        watch: Watch | None = None,
    ) -> Caution:
        """Return the caution about the first value that is not finite, in the order of computation, of any shard."""
        if max(map(self._bytes_of, self.programs)) > EXPLAIN_BYTES:
            return caution("non_finite")
        model, pieces = self.main.model, self.parameters.pieces
        first: Lost | None = None
        try:
            for _, evaluation, workspace in self._filled(memory, batch, flat, divisors):
                most = None if first is None else first.number
                lost = find_non_finite(evaluation.program, workspace, evaluation.model, pieces, watch, most)
                if lost is None:
                    continue
                if first is None or lost.number < first.number:
                    first = lost
                elif lost.number == first.number:
                    first = first._replace(is_nan=first.is_nan or lost.is_nan)
            if self._penalty is not None:
                program, own = self._penalty.program, self._penalty.model
                most = None if first is None else first.number
                first = find_non_finite(program, memory.of(program), own, pieces, watch, most) or first
        except DeadlineExceeded:
            return caution("non_finite")
        if first is not None:
            return first.told(model)
        return self._lost_in_sums(total)

    def _lost_in_sums(self, total: Total) -> Caution:
        """Return the caution about the first sum over finite values that is not finite."""
        losses = np.array([*total.losses, total.data_loss, total.regularization_loss])
        if not is_finite(losses):
            return Lost(0, "loss", "loss", bool(np.isnan(losses).any())).told(self.main.model)
        for piece in self.parameters.trained:
            values = total.gradients[piece.start : piece.stop]
            if not is_finite(values):
                return Lost(0, "gradient", piece.layer, bool(np.isnan(values).any())).told(self.main.model)
        return norm_lost()

    def _filled(
        self, memory: Workspaces, batch: Batch, flat: Array, divisors: tuple[float, ...]
    ) -> Iterator[tuple[slice, Evaluation, Workspace]]:
        span = Span(self.shards, 0, self.shards.count, 0, batch.rows, batch.feed.seed, batch.step, divisors, ())
        return filled(self.programs, memory, span, flat, batch.feed)

    def _bytes_of(self, size: int) -> int:
        """Return the bytes of all values of a run of the program for shards of this size."""
        return sum(node.size for node in self.programs[size].program.nodes) * 8


def _need_rows(task: Task, limits: Limits) -> None:
    """Raise `InvalidRequest` if inputs, targets or wanted values of a task cannot be cut into rows of samples."""
    definition, samples = task.definition, task.samples
    layered = isinstance(definition, NetworkDefinition)
    if not layered and task.include & {"layers", "norms"}:
        named = "layers" if "layers" in task.include else "norms"
        detail = (
            f"takes no {named} with shards: in an ONNX file, the value of a node need not have a row for each sample"
        )
        raise InvalidRequest([Fault(("include",), detail)])
    given = [("inputs", name, shape) for name, shape in task.inputs if name not in definition.known_inputs]
    given += [("targets", name, shape) for name, shape in task.targets or ()]
    for key, name, shape in given:
        if shape[:1] != (samples,):
            _check_whole(task, limits)
            detail = f"has shape {list(shape)}; with shards it takes a row for each of the {samples} samples"
            raise InvalidRequest([Fault((key, name), detail)])


def _check_whole(task: Task, limits: Limits) -> None:
    """Raise what is wrong with a task as a whole, if anything is, in terms of its own shapes."""
    try:
        with sealing():
            prepare(task, limits)
    except LimitExceeded:
        pass  # the shards are what has to fit


def _of_shard(fault: Fault, shards: Shards) -> Fault:
    """Return a fault of a shard that the whole batch does not have."""
    size = next(iter(shards.sizes))
    return Fault(
        ("shards",), f"a shard of {size} samples does not fit, although all {shards.samples} do: {fault.detail}"
    )


def _coupled(task: Task) -> Fault:
    """Return the fault that the samples of a batch depend on each other."""
    definition = task.definition
    layer = next((each for each in definition.layers if _couples(each.layer)), None)
    if not isinstance(definition, NetworkDefinition) or layer is None:
        detail = "the outputs of this ONNX graph for a sample may depend on other samples, which a shard does not have"
    else:
        detail = (
            f"layer {layer.name!r} ({layer.layer.name}) takes means over the whole batch in training, which a shard "
            "does not have; leave shards out, send training: false, or use layer_normalization or group_normalization"
        )
    return Fault(("shards",), detail)


def _couples(selection: Selection[Layer]) -> bool:
    inner = selection.options.get("layer")
    return selection.declaration.couples_samples or (isinstance(inner, Selection) and _couples(inner))


def _rows_of(main: Evaluation) -> tuple[str, ...]:
    """Return the names of the outputs of a shard's program that have a row for each sample, outputs of layers aside."""
    reduced = {"loss"} if main.task.reduction == "none" else {"loss", "data_loss"}
    return tuple(
        [name for name in main.program.outputs if name not in reduced and not name.startswith(("losses/", "outputs/"))]
    )
