"""Sweeps: a training for each combination of values, and the best of them."""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from marshmallow import ValidationError

from schemas.sweeps import LoadedSweep, Sweep
from service.api.answers import listed
from service.api.context import Context
from service.api.long_work import Standing
from service.api.network_request import in_terms_of, task_and_feed
from service.api.sharing import (
    LATER_SECONDS,
    InOrder,
    Surroundings,
    is_later,
    part_context,
    seconds_of,
    shared_by,
    surroundings_of,
)
from service.api.training_request import reserving, start
from service.engine.descent.cost import RULE_CALLS, no_need
from service.engine.descent.training import Training
from service.engine.errors import EngineError, InvalidRequest, LimitExceeded, Stopped
from service.problems import Problem, from_validation

TABLE = 100
"""Combinations that the summary lists."""
MOST_WARNINGS = 100
"""Warnings that the summary lists."""
FAILED = "failed"
"""The status of a combination whose values do not fit together, or which would cost too much."""

Warnings = list[dict[str, str]]


class Ended(NamedTuple):
    """The end of the training of one combination."""

    record: dict[str, Any]
    warnings: Warnings
    """Those about the network and the data."""


def training_of(sweep: Sweep, number: int, context: Context) -> Training:
    """Return the training of a combination, counted from 0, ready for its first step.

    Raises `ValidationError` if its values do not fit together, and what `start` raises, with the paths of its request.
    """
    request = sweep.load(number)
    with in_terms_of(request, may_have_shards=True):
        task, feed = task_and_feed(request, context.limits)
        checkpoint = request.get("checkpoint")
        return start(request, context, task, feed, request["optimizer"], reserving(context), no_need, checkpoint)


def end_of(sweep: Sweep, number: int, training: Training) -> Ended:
    """Return the end of the training of a combination, and close the training."""
    try:
        outcome = training.outcome()
    finally:
        training.close()
    best_loss, best_step = training.lowest
    record = {
        "step": number + 1,
        "values": sweep.values(number),
        "status": outcome.status,
        "reason": outcome.reason,
        "steps_done": outcome.step,
        "loss": _number(outcome.loss),
        "best_loss": _number(best_loss),
        "best_step": best_step,
    }
    if outcome.validation_loss is not None:
        record["validation_loss"] = _number(outcome.validation_loss)
    return Ended(record | {"finite": outcome.finite}, listed(outcome.shared))


def failure_of(sweep: Sweep, number: int, reason: str) -> Ended:
    """Return the end of a combination that cannot be trained."""
    record = {
        "step": number + 1,
        "values": sweep.values(number),
        "status": FAILED,
        "reason": reason,
        "steps_done": 0,
        "loss": None,
        "best_loss": None,
        "best_step": 0,
        "finite": False,
    }
    return Ended(record, [])


def computed(sweep: Sweep, number: int, context: Context) -> Ended:
    """Train a combination, counted from 0, from its first step to its last, and return its end.

    It depends on its arguments alone, and they can be pickled but for the context: any process may compute it. Raises
    `Stopped` as the watch of the context does, and `Problem` if memory is short.
    """
    training = _started(sweep, number, context)
    if isinstance(training, Ended):
        return training
    try:
        while not training.finished:
            context.ticket.look()
            training.advance()
    except BaseException:
        training.close()
        raise
    return end_of(sweep, number, training)


def _started(sweep: Sweep, number: int, context: Context) -> Training | Ended:
    """Return the training of a combination, or its end if it cannot be trained."""
    try:
        return training_of(sweep, number, context)
    except ValidationError as error:
        return failure_of(sweep, number, str(from_validation(error, None)))
    except InvalidRequest as error:
        return failure_of(sweep, number, str(error))
    except Stopped:
        raise
    except EngineError as error:
        return failure_of(sweep, number, str(error))
    except Problem as problem:
        if problem.kind != "limit-exceeded":
            raise
        return failure_of(sweep, number, problem.detail)


def combination(sweep: Sweep, number: int, surroundings: Surroundings) -> Ended:
    """Train a combination in another process."""
    with part_context(surroundings) as context:
        return computed(sweep, number, context)


def _number(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None


class SweepWork:
    """A `LongWork` that trains all combinations of a sweep, one after the other.

    Its records are the ends of the trainings. The summary has the best combinations: those with the lowest loss on
    validation data where there is such data, else on all samples.
    """

    def __init__(self, request: LoadedSweep, context: Context, state: dict[str, Any] | None = None) -> None:
        """Go on from `state`, if there is one; else check the cost of all by the first combination."""
        self.sweep, self.context = request["sweep"], context
        self.ended = 0
        """The number of combinations whose trainings have ended."""
        self.failed = 0
        self.table: list[dict[str, Any]] = []
        """The records of the best combinations, the best one first."""
        self.warnings: Warnings = []
        self.reason = ""
        self._training: Training | None = None
        self._parts: InOrder[int, Ended] | None = None
        """The combinations from `ended` on, if other processes train them."""
        self._asked_at = -math.inf
        """When other processes were asked last to train combinations."""
        if state is None:
            self._training = self._first()
            self.steps_each = self._training.steps
            """The steps of the first training, by which progress is counted."""
            context.mark_compiled(self._training.memory)
            self._share()
            return
        self.ended, self.failed, self.steps_each = state["ended"], state["failed"], state["steps_each"]
        self.table, self.warnings = list(state["table"]), list(state["warnings"])
        if state["training"] is not None:
            self._training = training_of(self.sweep, self.ended, context)
            try:
                self._training.restore(state["training"])
            except BaseException:
                self.close()
                raise
        self._share()

    @property
    def elsewhere(self) -> bool:
        """Whether other processes compute, and this one waits."""
        return self._parts is not None

    def _share(self) -> None:
        """Let other processes train the combinations that are left, if there are any and it is worth while.

        A training that has begun here is finished here.
        """
        now = time.monotonic()
        training = self._training
        if self.finished or now < self._asked_at + LATER_SECONDS or (training is not None and training.done):
            return
        self._asked_at = now
        if training is None:
            started = _started(self.sweep, self.ended, self.context)
            if isinstance(started, Ended):
                return
            training = self._training = started
        nodes = len(training.objective.program.nodes)
        each = seconds_of(training.cost.work(training.plan.recipe), training.steps * (nodes + RULE_CALLS))
        executor = shared_by(self.context, each * (self.sweep.count - self.ended))
        if executor is None:
            return
        numbers = range(self.ended, self.sweep.count)
        self._parts = InOrder(executor, combination, self.sweep, numbers, surroundings_of(self.context))
        training.close()
        self._training = None

    def _first(self) -> Training:
        """Start the training of the first combination. Raises with paths in the request for the sweep."""
        limits, count = self.context.limits, self.sweep.count
        try:
            training = training_of(self.sweep, 0, self.context)
        except InvalidRequest as error:
            faults = [replace(fault, path=self.sweep.moved(fault.path, 0)) for fault in error.faults]
            raise InvalidRequest(faults) from None
        except LimitExceeded as error:
            raise error.at(self.sweep.moved(error.path, 0)) from None
        try:
            limits.check_steps(count * training.steps, ("vary",))
            work = count * training.cost.work(training.plan.recipe)
            if work > limits.operations:
                raise LimitExceeded("operations", work, limits.operations, ("vary",))
        except BaseException:
            training.close()
            raise
        return training

    @property
    def finished(self) -> bool:
        return self.ended == self.sweep.count or bool(self.reason)

    def advance(self) -> Mapping[str, Any] | None:
        if self._parts is not None:
            try:
                end = self._parts.next()
            except Problem as problem:
                if not is_later(problem):
                    raise
                self._take_back()
                return None
            return None if end is None else self._add(end)
        if self._training is None:
            self._share()
            if self._parts is not None:
                return None
        if self._training is None:
            started = _started(self.sweep, self.ended, self.context)
            if isinstance(started, Ended):
                return self._add(started)
            self._training = started
        self._training.advance()
        if not self._training.finished:
            return None
        training, self._training = self._training, None
        return self._add(end_of(self.sweep, self.ended, training))

    def _add(self, end: Ended) -> Mapping[str, Any]:
        self.ended += 1
        self.failed += end.record["status"] == FAILED
        bisect.insort(self.table, end.record, key=_rank)
        del self.table[TABLE:]
        new = [warning for warning in end.warnings if warning not in self.warnings]
        self.warnings += new[: MOST_WARNINGS - len(self.warnings)]
        return end.record

    def _take_back(self) -> None:
        """Train the combinations that are left in this process."""
        if self._parts is not None:
            self._parts.close()
            self._parts = None
            self._asked_at = time.monotonic()

    def standing(self) -> Standing:
        of, done, training = self.steps_each * self.sweep.count, self.steps_each * self.ended, self._training
        if training is None:
            ahead = self.steps_each * self._parts.ahead if self._parts is not None else 0
            return Standing(done + ahead, of, None, None)
        # Trainings may have different numbers of steps: each counts as much as the first.
        part = self.steps_each * training.done // training.steps
        return Standing(done + part, of, training.loss, training.learning_rate)

    def state(self) -> dict[str, Any]:
        return {
            "ended": self.ended,
            "failed": self.failed,
            "steps_each": self.steps_each,
            "table": self.table,
            "warnings": self.warnings,
            "training": None if self._training is None else self._training.saved(),
        }

    def cancel(self, reason: str) -> None:
        if not self.finished:
            self.reason = reason

    def summary(self) -> Mapping[str, Any]:
        count = self.sweep.count
        best = self.table[0] if self.table and math.isfinite(_rank(self.table[0])[0]) else None
        return {
            "status": "cancelled" if self.reason else "completed",
            "reason": self.reason or f"all {count:,} trainings are done",
            "combinations": count,
            "done": self.ended,
            "failed": self.failed,
            "best": None if best is None else best["step"],
            "best_values": {} if best is None else best["values"],
            "table": self.table,
            "warnings": self.warnings,
        }

    def close(self) -> None:
        if self._parts is not None:
            self._parts.close()
        if self._training is not None:
            self._training.close()
            self._training = None


def _rank(record: Mapping[str, Any]) -> tuple[float, int]:
    """Return the key by which combinations are sorted, the best one first."""
    loss = record.get("validation_loss", record["loss"])
    return math.inf if loss is None else loss, record["step"]
