"""Tasks about a whole batch and none of its shards: penalties, and the sums of weights by which a mean divides."""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.plan import Program, WorkspacePool
from service.engine.limits import Limits
from service.engine.network.model import Model
from service.engine.network.parameters import ParameterVector
from service.engine.network.prepare import prepare
from service.engine.network.task import NetworkQuestion
from service.engine.watch import Watch


class PenaltyTask(NetworkQuestion):
    """The task of computing the penalties of a network and their gradient, which depend on no sample."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Penalty:
        prepared = prepare(self.task, limits, watch)
        assert prepared.objective is not None
        loss = prepared.objective.regularization_loss
        trained = [each.node for each in prepared.model.parameters if each.trainable and self.task.differentiated]
        gradients = dense(differentiate(loss, trained).nodes, trained)
        vector = ParameterVector(self.task.definition, prepared.model.parameters)
        return Penalty(Program({"loss": loss}, vector.nodes, gradients, pool=pool, watch=watch), prepared.model)


@dataclass(frozen=True)
class Penalty:
    """The penalties of a network, compiled."""

    program: Program
    model: Model

    @property
    def weight(self) -> int:
        return len(self.model.graph.nodes)


class WeightsTask(NetworkQuestion):
    """The task of summing the weights of a shard's samples, by which a normalised mean divides."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Weights:
        prepared = prepare(self.task, limits, watch)
        assert prepared.objective is not None
        sums = prepared.objective.weights
        return Weights(Program(sums, pool=pool, watch=watch) if sums else None)


@dataclass(frozen=True)
class Weights:
    """The sums of the weights of a shard's samples, by output, compiled. None: no output has any."""

    program: Program | None

    @property
    def weight(self) -> int:
        return 0 if self.program is None else len(self.program.nodes)
