"""A network's architecture, as the engine takes it.

Made once from what a caller wrote, then immutable and shared by all requests that send the same
definition. Definitions are compared by identity: whoever parses them keeps equal ones equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from service.engine.declarations import Selection
from service.engine.graph.ir import Shape
from service.engine.network.layers import Layer

INPUT = "input"
"""The name of the input of a network that names none."""


@dataclass(frozen=True, eq=False)
class LayerDefinition:
    """One layer of a network: its name, its type with options, and where its inputs and parameters come from."""

    name: str
    layer: Selection[Layer]
    inputs: tuple[str, ...] | None = None
    """Names of layers or inputs; None: the layer before it in the list."""
    shares: str | None = None
    """The layer whose parameters this one uses."""
    trainable: bool = True


@dataclass(frozen=True, eq=False)
class NetworkDefinition:
    """The architecture of a network: layers in the order they were written. `outputs` names layers; None: the last
    one."""

    layers: tuple[LayerDefinition, ...]
    inputs: tuple[str, ...] = (INPUT,)
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    """Shapes of one sample, of the inputs for which the definition gives a shape."""
    outputs: tuple[str, ...] | None = None

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.outputs or (self.layers[-1].name,)

    def inputs_of(self, position: int) -> tuple[str, ...]:
        """Return the names of the inputs and layers that the layer at a position takes."""
        layer = self.layers[position]
        if layer.inputs is not None:
            return layer.inputs
        return (self.layers[position - 1].name,) if position else self.inputs

    @property
    def index_inputs(self) -> frozenset[str]:
        """The inputs that hold integers, because a layer looks them up."""
        return frozenset(
            name
            for position, layer in enumerate(self.layers)
            if layer.layer.declaration.takes_indices
            for name in self.inputs_of(position)
        )
