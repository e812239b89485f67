"""Layer types, each declared once, in the module of its family.

A function takes a `LayerContext` and its input nodes (samples first) and returns a `LayerOutput`.
The context holds the options, and makes parameters and random masks by name. The function refuses
what cannot work with `context.refuse`, and names the option at fault.
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
    wrappers,
)
from service.engine.network.layers.declaration import Builder, Layer, LayerContext, LayerError, LayerOutput, layers

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
    "wrappers",
]
