"""The base of tasks that compile a network twice: in the precision of the request, and in float64."""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.network.task import Task


@dataclass(frozen=True)
class TwinTask:
    """Asks something about a network; each kind of task adds `compile`."""

    task: Task

    @property
    def key(self) -> Task:
        return self.task

    @property
    def effort(self) -> float:
        return 3.0 * self.task.effort  # both, and the gradients in float64
