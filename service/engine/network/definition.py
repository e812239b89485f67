"""A network's architecture, as the engine takes it.

Made once from what a caller wrote, then immutable and shared by all requests that send the same
definition. Definitions are compared by identity: whoever parses them keeps equal ones equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.declarations import Selection
from service.engine.graph.ir import Shape
from service.engine.network.layers import Layer

INPUT = "input"
"""The name by which layers refer to the inputs of the network."""


@dataclass(frozen=True, eq=False)
class LayerDefinition:
    """One layer: its type with options, its name, and where it takes its input and parameters from."""

    name: str
    layer: Selection[Layer]
    inputs: tuple[str, ...] | None = None
    """Names of layers, or `input`; None: the layer before it in the list."""
    shares: str | None = None
    """The layer whose parameters it uses."""
    trainable: bool = True


@dataclass(frozen=True, eq=False)
class NetworkDefinition:
    """Layers in the order they were written. `outputs` names layers; None: the last one."""

    layers: tuple[LayerDefinition, ...]
    input_shape: Shape | None = None
    outputs: tuple[str, ...] | None = None

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.outputs or (self.layers[-1].name,)
