"""The common parts of checks and verdicts about networks: their trained parameters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest
from service.engine.insight.leaves import Leaves, leaves_of
from service.engine.limits import Limits
from service.engine.network.answer_warnings import doubtful
from service.engine.network.feed import Feed, Feeder
from service.engine.network.prepare import prepare
from service.engine.network.task import Task
from service.engine.network.vectors import ParametersSide
from service.engine.watch import Watch


class TrainedNetwork:
    """A prepared network with trained parameters, whose gradient a request checks or claims."""

    def __init__(self, task: Task, limits: Limits, watch: Watch | None, purpose: str) -> None:
        """Prepare the network. A network without trained parameters is refused, with `purpose` in the error. Raises
        what `prepare` and `watch` raise."""
        self.task = task
        self.prepared = prepare(task, limits, watch)
        self.feeder = Feeder(self.prepared, limits)
        self.side = ParametersSide(task, self.prepared.model)
        if not self.side.size:
            detail = f"has no parameters that are trained, so there is no gradient to {purpose}"
            raise InvalidRequest([Fault(("network",), detail)])
        self.warnings: list[Caution] = doubtful(task, self.prepared.model)

    def leaves(self, feed: Feed, faults: Sequence[Fault], watch: Watch | None) -> Leaves:
        """Return the numbers of a request as leaves. `faults` are those of the request's claims: `InvalidRequest` is
        raised with these and the faults of the numbers."""
        try:
            leaves = leaves_of(self.prepared, self.feeder, feed, watch)
        except InvalidRequest as error:
            raise InvalidRequest([*error.faults, *faults]) from None
        if faults:
            raise InvalidRequest(faults[:MOST_ERRORS])
        return leaves


def wide(value: Array) -> Array:
    """Return an array of float32 as float64, and any other array unchanged."""
    return value.astype(np.float64) if value.dtype == np.float32 else value
