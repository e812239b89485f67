"""The work of `/v1/train/compare`, in this process or shared with others."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from schemas.training import LoadedCompare
from service.api.answers import listed
from service.api.context import Context
from service.api.long_work import Standing
from service.api.network_request import task_and_feed
from service.api.parts import spread_of
from service.api.sharing import (
    InOrder,
    Surroundings,
    is_later,
    part_context,
    seconds_of,
    shared_by,
    surroundings_of,
)
from service.api.training_request import plan_of, reserving, start
from service.engine.declarations import Selection
from service.engine.descent.comparison import Comparison, Contender, Row, check_runs
from service.engine.descent.cost import no_need
from service.engine.descent.optimizers import Optimizer
from service.engine.descent.training import Training
from service.problems import Problem


class ComparisonWork:
    """A `LongWork` that runs all trainings of a comparison, and describes them as the response does.

    Its records are the rows of the table, each when its training has ended.
    """

    def __init__(self, request: LoadedCompare, context: Context, state: dict[str, Any] | None = None) -> None:
        """Go on from `state`, if there is one."""
        self.dtype = request["dtype"]
        self.validated = "validation" in request
        self.streamed = context.form != "json"
        self.context = context
        self.comparison = comparison_of(request, context)
        self._parts: InOrder[int, dict[str, Any]] | None = None
        """The trainings that have not ended, if other processes make them."""
        self._before_end: dict[str, Any] | None = None
        """The state before the comparison was cancelled, if it was."""
        try:
            if not self.streamed:
                context.weigh(self.comparison.program, self.comparison.work, self.comparison.calls)
            reserving(context)(self.comparison.nbytes)  # once for all, because no run may wait during its turn
            if state is not None:
                self.comparison.restore(state)
            self._share(request)
        except BaseException:
            self.close()
            raise
        context.timer.mark("compile")

    def _share(self, request: LoadedCompare) -> None:
        """Let other processes make the trainings, if it is worth while."""
        comparison, context = self.comparison, self.context
        executor = shared_by(context, seconds_of(comparison.work, comparison.calls))
        if executor is None or comparison.finished or comparison.ended + 1 == comparison.count:
            return
        comparison.leave()
        numbers = range(comparison.ended, comparison.count)
        self._parts = InOrder(executor, contender_of, request, numbers, surroundings_of(context))
        context.hand_over()

    @property
    def elsewhere(self) -> bool:
        """Whether other processes compute, and this one waits."""
        return self._parts is not None

    @property
    def finished(self) -> bool:
        return self.comparison.finished

    def advance(self) -> Mapping[str, Any] | None:
        row = self.comparison.advance() if self._parts is None else self._next()
        return {"step": self.comparison.ended, **_row(row)} if row is not None and self.streamed else None

    def _next(self) -> Row | None:
        """Return the row of the next training, once another process has made it."""
        assert self._parts is not None
        try:
            saved = self._parts.next()
        except Problem as problem:
            # A request is told at once; a run goes on here.
            if self.context.own_limits is None or not is_later(problem):
                raise
            self._parts.close()
            self._parts = None
            self.comparison.go_on()
            return None
        return None if saved is None else self.comparison.take(saved)

    def standing(self) -> Standing:
        comparison, training = self.comparison, self.comparison.present
        of = comparison.steps_each * comparison.count
        # A training that ends early has made all steps that it makes.
        done = comparison.steps_each * comparison.ended
        if training is None:
            return Standing(done, of, None, None)
        return Standing(done + training.done, of, training.loss, training.learning_rate)

    def state(self) -> dict[str, Any]:
        return self._before_end or self.comparison.saved()

    def cancel(self, reason: str) -> None:
        if self.streamed and not self.finished:
            self._before_end = deepcopy(self.comparison.saved())
        if self._parts is not None:
            self._parts.close()
        self.comparison.cancel(reason)

    def summary(self) -> Mapping[str, Any]:
        comparison = self.comparison
        return {
            "dtype": self.dtype,
            "best": comparison.best,
            "table": [_row(row) for row in comparison.rows],
            "warnings": listed(comparison.warnings),
            "steps": comparison.steps.tolist(),
            "curves": [
                {name: curve for name, curve in curves.items() if self.validated or name != "validation_loss"}
                for curves in comparison.curves
            ],
        }

    def close(self) -> None:
        if self._parts is not None:
            self._parts.close()
        self.comparison.close()


def comparison_of(request: LoadedCompare, context: Context, only: int | None = None) -> Comparison:
    """Return the comparison that a request asks for, or the training of one contender, counted from 0."""
    # The curves are kept in memory until the end, wherever the records go.
    limits = replace(context.limits, trace_elements=context.runtime.settings.limits.trace_elements)
    task, feed = task_and_feed(request, context.limits)
    spread = spread_of(request, context)

    def begin(contender: Contender) -> Training:
        numbers, place = replace(feed, seed=contender.seed), ("optimizers", contender.place)
        return start(
            request,
            context,
            task,
            numbers,
            contender.optimizer,
            lambda _: None,
            no_need,
            place=place,
            spread=spread,
        )

    rates = request.get("learning_rates", (None,))
    seeds = request.get("seeds", (feed.seed,))
    # Before they are made: short lists may have many combinations.
    check_runs(len(request["optimizers"]) * len(rates) * len(seeds), ("optimizers",))
    contenders = [
        Contender(_with_rate(optimizer, rate), seed, place)
        for place, optimizer in enumerate(request["optimizers"])
        for rate in rates
        for seed in seeds
    ]
    if only is not None:
        contenders = [contenders[only]]
    return Comparison(contenders, plan_of(request, contenders[0].optimizer).recipe, begin, limits)


def contender_of(request: LoadedCompare, number: int, surroundings: Surroundings) -> dict[str, Any]:
    """Make the training of one contender in another process; return what `Comparison.take` takes."""
    with part_context(surroundings) as context:
        comparison = comparison_of(request, context, number)
        try:
            reserving(context)(comparison.nbytes)
            while not comparison.finished:
                context.ticket.look()
                comparison.advance()
        finally:
            comparison.close()
        return comparison.saved()


def _with_rate(optimizer: Selection[Optimizer], rate: float | None) -> Selection[Optimizer]:
    if rate is None:
        return optimizer
    return Selection(optimizer.declaration, MappingProxyType({**optimizer.options, "learning_rate": rate}))


def _row(row: Row) -> dict[str, Any]:
    optimizer = row.contender.optimizer
    entry: dict[str, Any] = {
        "optimizer": {"type": optimizer.name, **optimizer.options},
        "seed": row.contender.seed,
        "status": row.status,
        "reason": row.reason,
        "steps_done": row.steps_done,
        "loss": row.loss,
        "best_loss": row.best_loss,
        "best_step": row.best_step,
    }
    return entry if row.validation_loss is None else entry | {"validation_loss": row.validation_loss}
