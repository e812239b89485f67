"""The loss of a network whose batches are computed shard by shard, as the objective that a descent minimises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.compiling import Compiler
from service.engine.descent.batches import Batches, FullBatch
from service.engine.descent.objective import BatchObjective, check_layout, of_validation
from service.engine.limits import Limits
from service.engine.network.answer_warnings import misread, unfit
from service.engine.network.feed import Feed
from service.engine.network.shard_sums import Spread, Workspaces
from service.engine.network.sharded import Batch, Sharded, Total
from service.engine.network.task import Task
from service.engine.watch import Watch


class ShardedObjective(BatchObjective):
    """The loss of a network, each batch of which is computed in shards, here or by a spread.

    The Hessian is that of the whole batch at once: the optimizers that need it allow few parameters.
    """

    def __init__(
        self,
        compile: Compiler,  # noqa: A002 (the verb fits)
        task: Task,
        feed: Feed,
        batches: Batches,
        validation: tuple[Task, Feed] | None,
        size: int,
        limits: Limits,
        reserve: Callable[[int], None],
        admit: Callable[[BatchObjective], None] = lambda objective: None,
        watch: Watch | None = None,
        spread: Spread | None = None,
    ) -> None:
        """Compile the programs of all shards of `size` samples and take their memory. Before memory is taken, `admit`
        is called with this objective, then `reserve` with the bytes."""
        self.watch = watch
        self.batches = batches
        self.steps_per_epoch = batches.steps_per_epoch
        self.samples = task.samples
        self.rows: Array | None = None
        self._compile, self._feed, self._spread = compile, feed, spread
        self._step = 0
        whole = self.whole = isinstance(batches, FullBatch)

        def cut(whole_task: Task) -> Sharded:
            return Sharded(compile, whole_task, size, limits)

        # The whole task comes first: its shapes are those of the request, while batches always have valid ones.
        everything = self._everything = cut(task if whole else task._replace(differentiated=False))
        everything.check(feed)
        sizes = sorted(batches.sizes, reverse=True)
        self._batches = {each: everything if whole else cut(task.of_size(each)) for each in sizes}
        self._main = self._now = next(iter(self._batches.values()))
        self._validation: tuple[Sharded, Batch] | None = None
        used = [*self._batches.values(), everything]
        if validation is not None:
            validating = self._validating(cut, *validation)
            self._validation = validating, Batch(validation[1])
            used.append(validating)
        self.vector = self._main.parameters
        self.feeder = self._main.main.feeder
        self.flat = np.empty(sum(node.size for node in self.vector.nodes), task.dtype)
        self.parameters = self.flat[: self.vector.trained_size]
        programs = {id(program): program for each in used for program in each.used}.values()
        sums = max(each.sum_bytes for each in used)
        self.nbytes = sum(program.nbytes for program in programs) + self.flat.nbytes + sums
        self._set_costs()
        admit(self)
        reserve(self.nbytes)
        self._memory = Workspaces(watch)
        try:
            for program in programs:
                self._memory.of(program)
            self._batch = self._all = Batch(feed)
            self._divisors_of_all = everything.divisors(self._memory, self._all)
        except BaseException:
            self.close()
            raise
        self._divisors = self._divisors_of_all
        self._last: Total | None = None
        """The evaluation of the batch that began last."""
        self._last_of_all: Total | None = None
        """The last evaluation of all samples by `total`."""

    def _set_costs(self) -> None:
        self.work = max(each.work for each in self._batches.values())
        self.validation_work = 0.0 if self._validation is None else self._validation[0].work
        self.total_work = self._everything.work
        self.calls = self._main.calls
        self.program = self._main.program
        self.elsewhere = self._spread is not None and self.work >= self._spread.least_work

    def _validating(self, cut: Callable[[Task], Sharded], task: Task, feed: Feed) -> Sharded:
        with of_validation():
            sharded = cut(task)
            check_layout(sharded.parameters, self._main.parameters)
            sharded.check(feed)
        return sharded

    def close(self) -> None:
        self._memory.close()

    def begin(self, step: int) -> None:
        self._step = step
        rows = self.rows = self.batches.rows(step)
        self._batch = Batch(self._feed, rows, step)
        if rows is not None:
            self._now = self._batches[len(rows)]
            self._divisors = self._now.divisors(self._memory, self._batch)

    def evaluate(self) -> tuple[float, Array]:
        total = self._last = self._compute(self._now, self._batch, self._divisors)
        return total.loss.item(), total.gradients

    def _compute(
        self, sharded: Sharded, batch: Batch, divisors: tuple[float, ...], wanted: tuple[str, ...] = ()
    ) -> Total:
        return sharded.evaluate(
            self._memory, batch, self.flat, divisors, wanted=wanted, spread=self._spread, watch=self.watch
        )

    def non_finite(self) -> Caution:
        assert self._last is not None
        return self._now.first_non_finite(self._memory, self._batch, self.flat, self._divisors, self._last, self.watch)

    def finish(self) -> None:
        """Do nothing: layers that carry something from step to step are those that shards do not allow."""

    def validate(self) -> float | None:
        if self._validation is None:
            return None
        sharded, batch = self._validation
        loss: float = self._compute(sharded, batch, sharded.divisors(self._memory, batch)).loss.item()
        return loss

    def total(self, step: int) -> float:
        everything = self._everything
        wanted = everything.outputs if everything.main.watched else ()
        batch = self._all._replace(step=step)
        total = self._last_of_all = self._compute(everything, batch, self._divisors_of_all, wanted)
        self._all = batch
        loss: float = total.loss.item()
        return loss

    @property
    def current(self) -> Task:
        return self._now.task

    @property
    def largest(self) -> Task:
        return self._main.task

    @property
    def warnings(self) -> list[Caution]:
        everything, total = self._everything, self._last_of_all
        main = self._main.main
        found = [*main.warnings, *unfit(everything.task, self._feed, self.whole, main.bounded)]
        if self.whole and total is not None and math.isfinite(total.loss):
            found += everything.surprises(self._memory, self._all, self.flat, self._divisors_of_all, total.gradients)
        return found

    def misread(self, *, everything: bool = False) -> list[Caution]:
        sharded = self._everything if everything else self._now
        watched = sharded.main.watched
        if not watched:
            return []
        total = self._last_of_all if everything else None
        if total is None:
            total = self._compute(sharded, self._batch, self._divisors, sharded.outputs)
        outputs = {name: total.rows[f"outputs/{name}"] for name in sharded.task.definition.output_names}
        return misread(watched, outputs)
