"""The description of a computation about a network: the definition, the shapes and the losses, without numbers."""

from __future__ import annotations

from typing import NamedTuple

from service.engine.declarations import Selection
from service.engine.graph.ir import Shape
from service.engine.network.definition import NetworkDefinition
from service.engine.network.layers import Layer
from service.engine.network.losses import Loss

NODES_OF_LAYER = 50
NODES_OF_STEP = 40


class Task(NamedTuple):
    """A computation and its shapes, without numbers. Hashable: equal tasks share one evaluation.

    Shapes include the axis of the samples. `targets` and `losses` are None for a forward pass. `include` holds any
    of `layers`, `norms`, `input_gradients`, `per_sample`.
    """

    definition: NetworkDefinition
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

    @property
    def effort(self) -> float:
        """The graph nodes that the task makes, roughly. Most are those of steps that are written out one by one."""
        layers = self.definition.layers
        steps: int = max([shape[1] for _, shape in self.inputs if len(shape) > 1], default=1)
        lengths: list[int] = [layer.layer.options["n"] for layer in layers if layer.layer.name == "repeat_vector"]
        written_out = sum(_sequences_in(layer.layer) for layer in layers)
        return NODES_OF_LAYER * len(layers) + NODES_OF_STEP * written_out * max([steps, *lengths])

    @property
    def samples(self) -> int:
        return next((shape[0] for _, shape in self.inputs if shape), 0)


def _sequences_in(layer: Selection[Layer]) -> int:
    """Return the number of sequences that a layer reads step by step."""
    inner: Selection[Layer] | None = layer.options.get("layer")
    if inner is None:
        return int(layer.declaration.recurrent)
    return 2 * _sequences_in(inner) + layer.declaration.couples_samples
