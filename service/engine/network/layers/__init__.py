"""Layer types, each declared once, in the module of its family.

A function takes a `LayerContext` and its input nodes (samples first) and returns a `LayerOutput`.
It asks the context for parameters and random masks by name, and reads its options from it. What
cannot work is said with `context.refuse`, naming the option.
"""

from service.engine.network.layers import (
    attention,
    convolution,
    core,
    merging,
    normalization,
    pooling,
    recurrent,
    regularization,
    reshaping,
    separable,
    wrappers,
)
from service.engine.network.layers.declaration import (
    Builder,
    Layer,
    LayerContext,
    LayerError,
    LayerOutput,
    layers,
)

__all__ = [
    "Builder",
    "Layer",
    "LayerContext",
    "LayerError",
    "LayerOutput",
    "attention",
    "convolution",
    "core",
    "layers",
    "merging",
    "normalization",
    "pooling",
    "recurrent",
    "regularization",
    "reshaping",
    "separable",
    "wrappers",
]
