"""Separable convolutions: each channel alone, then a product that mixes the channels at every position."""

from __future__ import annotations

from service.engine.graph.ir import Node
from service.engine.graph.operations import reshape
from service.engine.network.layers.convolution import (
    DEPTHWISE,
    FILTERS,
    depthwise,
    finish,
    sliding_options,
    to_channels_last,
)
from service.engine.network.layers.declaration import (
    ACTIVATION,
    KERAS,
    USE_BIAS,
    LayerContext,
    LayerOutput,
    initializer,
    layers,
    regularizer,
)
from service.engine.options import Option

FORMULAS = {
    "latex": r"z_{npo} = \sum_{c,m} \left( \sum_k x_{n,\,sp + dk,\,c} D_{kcm} \right) P_{cmo} + b_o,\quad a = f(z)",
    "derivative": r"\frac{\partial L}{\partial P_{cmo}} = \sum_{n,p} y_{npcm}\, \delta_{npo},\quad "
    r"y_{npcm} = \sum_k x_{n,\,sp + dk,\,c} D_{kcm}",
    "parameters": {
        "depthwise_kernel": "[*kernel_size, channels, depth_multiplier]",
        "pointwise_kernel": "[*(1, …), channels * depth_multiplier, filters]",
        "bias": "[filters]",
    },
    "unit_axes": {"depthwise_kernel": (-2, -1)},
}


def _options(axes: int) -> tuple[Option, ...]:
    return (
        FILTERS,
        *DEPTHWISE,
        *sliding_options(axes, "valid", "same"),
        ACTIVATION,
        USE_BIAS,
        initializer("pointwise", "glorot_uniform"),
        regularizer("pointwise"),
    )


def _separable(layer: LayerContext, x: Node, spatial: int) -> LayerOutput:
    each = depthwise(layer, to_channels_last(layer, x, spatial), "depthwise_kernel")
    channels, filters = each.shape[-1], layer.options["filters"]
    kernel = layer.parameter(
        "pointwise_kernel",
        (*(1,) * spatial, channels, filters),
        layer.options["pointwise_initializer"],
        layer.options["pointwise_regularizer"],
        fans=(channels, filters),
        reason=f"the convolution of each channel gives {channels}",
    )
    rows = reshape(each, (each.size // channels, channels)) @ reshape(kernel, (channels, filters))
    return finish(layer, reshape(rows, (*each.shape[:-1], filters)))


@layers.declare(
    "separable_conv1d",
    en="Each channel of a sequence is convolved alone; a product then mixes the channels at every step.",
    zh="一维可分离卷积:先逐通道卷积,再在每一步混合各通道。",
    options=_options(1),
    **FORMULAS,
    sources=(KERAS + "convolution_layers/separable_convolution1d/",),
)
def separable_conv1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _separable(layer, x, 1)


@layers.declare(
    "separable_conv2d",
    en="Each channel of an image is convolved alone; a product then mixes the channels at every position.",
    zh="二维可分离卷积:先逐通道卷积,再在每个位置混合各通道。",
    options=_options(2),
    **FORMULAS,
    sources=(KERAS + "convolution_layers/separable_convolution2d/",),
)
def separable_conv2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _separable(layer, x, 2)
