"""The description of a computation about a network: the definition, the shapes and the losses, without numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from service.engine.declarations import Selection
from service.engine.graph.ir import Shape
from service.engine.network.definition import Definition, KnownValues
from service.engine.network.losses import Loss


class Task(NamedTuple):
    """A computation and its shapes, without numbers. Hashable: equal tasks share one evaluation.

    Shapes include the axis of the samples. `targets` and `losses` are None for a forward pass. `include` holds any
    of `layers`, `norms`, `input_gradients`, `per_sample`.
    """

    definition: Definition
    dtype: str
    inputs: tuple[tuple[str, Shape], ...]
    training: bool = False
    include: frozenset[str] = frozenset()
    losses: tuple[Selection[Loss], ...] | None = None
    """One for each output of the network, in their order."""
    loss_weights: tuple[float, ...] | None = None
    """A factor for the loss of each output; None: all 1."""
    targets: tuple[tuple[str, Shape], ...] | None = None
    reduction: str = "mean"
    weighted: bool = False
    normalize_weights: bool | None = None
    """Whether a mean divides by the sum of the weights. None: the request does not say, so it does not."""
    parameters: tuple[tuple[tuple[str, str], Shape], ...] = ()
    """Shapes of the parameters that the request sends in one of several forms (see `LayerContext.parameter`)."""
    frozen: tuple[str, ...] = ()
    """Layers, or parameters as `layer.parameter`, that are not trained, whatever the definition says."""
    differentiated: bool = True
    """Whether gradients of the losses are wanted."""
    known: KnownValues = ()
    """Values of the definition's `known_inputs`."""
    part: bool = False
    """Whether the samples are a shard of a batch. Then a mean divides by the numbers `divisors/<output>`, which come
    with the samples, and no penalty is added."""

    @property
    def effort(self) -> float:
        """The graph nodes that the task makes, roughly. Most are those of steps that are written out one by one."""
        return self.definition.effort(self.inputs)

    @property
    def samples(self) -> int:
        return self.definition.samples(self.inputs)

    def of_size(self, samples: int) -> Task:
        """Return the same task for another number of samples."""
        known = self.definition.known_inputs
        return self._replace(
            inputs=tuple([(name, shape if name in known else (samples, *shape[1:])) for name, shape in self.inputs]),
            targets=None
            if self.targets is None
            else tuple([(name, (samples, *shape[1:])) for name, shape in self.targets]),
        )


@dataclass(frozen=True)
class NetworkQuestion:
    """The base of tasks that a `Task` describes; each subclass adds `compile`."""

    graphs: ClassVar[float] = 1.0
    """The effort of compiling, in graphs of the network."""
    task: Task

    @property
    def key(self) -> Task:
        return self.task

    @property
    def effort(self) -> float:
        return self.graphs * self.task.effort
