"""Pooling layers, which summarise the values in a window, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Callable

from service.engine.building import (
    Choice,
    Flag,
    Node,
    Option,
    Sliding,
    broadcast,
    largest,
    mean_over,
    reshape,
    sum_over,
    windows,
)
from service.engine.network.layers.convolution import sliding_over, to_channels_last, to_data_format
from service.engine.network.layers.declaration import DATA_FORMAT, KERAS, LayerContext, LayerOutput, layers, sizes

PADDING = Choice(
    name="padding",
    default="valid",
    values=("valid", "same"),
    description="valid: only whole windows; same: also those that reach over the edge, which does not count",
)
KEEP = Flag(name="keepdims", default=False, description="keep the positions as axes of length 1")
MAXIMUM = {
    "latex": r"a_{npc} = \max_{k} z_{n,\,sp + k,\,c}",
    "derivative": r"\frac{\partial L}{\partial z_{nqc}} = \sum_{p} \frac{\partial L}{\partial a_{npc}} "
    r"[q = \text{first argmax of window } p]",
}
MEAN = {
    "latex": r"a_{npc} = \frac{1}{|K_p|} \sum_{k \in K_p} z_{nkc}",
    "derivative": r"\frac{\partial L}{\partial z_{nqc}} = \sum_{p : q \in K_p} \frac{1}{|K_p|} "
    r"\frac{\partial L}{\partial a_{npc}}",
}


def _options(axes: int) -> tuple[Option, ...]:
    return (
        sizes("pool_size", axes, "length of the window along each axis", default=(2,) * axes),
        sizes("strides", axes, "step of the window along each axis (none: the window's length)", default=None),
        PADDING,
        DATA_FORMAT,
    )


def _pool(
    layer: LayerContext, x: Node, axes: int, fill: float, summarise: Callable[[Node, Sliding], Node]
) -> LayerOutput:
    last = to_channels_last(layer, x, axes)
    window = layer.options["pool_size"]
    strides = layer.options["strides"] or window
    over = sliding_over(layer, last.shape[1:-1], window, strides, "pool_size")
    sliding = over._replace(axes=tuple(range(1, 1 + axes)))
    return LayerOutput(to_data_format(layer, summarise(windows(last, sliding, fill), sliding)), x)


def _largest_of(gathered: Node, sliding: Sliding) -> Node:
    return largest(gathered, range(len(sliding.axes)))


def _mean_of(gathered: Node, sliding: Sliding) -> Node:
    total = sum_over(gathered, range(len(sliding.axes)))
    # One division, by a whole number, is exact where it can be.
    return total / (_counts(total, sliding) if sliding.is_padded else float(math.prod(sliding.sizes)))


def _counts(pooled: Node, sliding: Sliding) -> Node:
    """Return how many values lie in the window of each place, without the padding."""
    first, last = sliding.axes[0], sliding.axes[-1]
    places = pooled.shape[first : last + 1]
    counts = None
    for position, axis in enumerate(sliding.axes):
        along = tuple(n if k == position else 1 for k, n in enumerate(places))
        of_axis = broadcast(reshape(_counts_along(pooled, sliding, position, axis), along), places)
        counts = of_axis if counts is None else counts * of_axis
    assert counts is not None
    shape = tuple(n if first <= k <= last else 1 for k, n in enumerate(pooled.shape))
    return broadcast(reshape(counts, shape), pooled.shape)


def _counts_along(pooled: Node, sliding: Sliding, position: int, axis: int) -> Node:
    size, stride, (low, high) = sliding.sizes[position], sliding.strides[position], sliding.padding[position]
    length = (pooled.shape[axis] - 1) * stride + size - low - high
    alone = Sliding(0, (0,), (size,), (stride,), (1,), ((low, high),))
    ones = broadcast(pooled.graph.constant(1.0), (length,))
    return sum_over(windows(ones, alone), [0])


def _average_pool(layer: LayerContext, x: Node, axes: int) -> LayerOutput:
    return _pool(layer, x, axes, 0.0, _mean_of)


@layers.declare(
    "max_pooling1d",
    en="The largest value in each window of a sequence; the first of equals gets the gradient.",
    zh="一维最大池化:取每个窗口中的最大值;相等时梯度给第一个。",
    options=_options(1),
    **MAXIMUM,
    sources=(KERAS + "pooling_layers/max_pooling1d/",),
)
def max_pooling1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _pool(layer, x, 1, -math.inf, _largest_of)


@layers.declare(
    "max_pooling2d",
    en="The largest value in each window of an image; the first of equals, row by row, gets the gradient.",
    zh="二维最大池化:取每个窗口中的最大值;相等时按行优先次序梯度给第一个。",
    options=_options(2),
    **MAXIMUM,
    sources=(KERAS + "pooling_layers/max_pooling2d/",),
)
def max_pooling2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _pool(layer, x, 2, -math.inf, _largest_of)


@layers.declare(
    "max_pooling3d",
    en="The largest value in each window of a volume; the first of equals, in row-major order, gets the gradient.",
    zh="三维最大池化:取每个窗口中的最大值;相等时按行优先次序梯度给第一个。",
    options=_options(3),
    **MAXIMUM,
    sources=(KERAS + "pooling_layers/max_pooling3d/",),
)
def max_pooling3d(layer: LayerContext, x: Node) -> LayerOutput:
    return _pool(layer, x, 3, -math.inf, _largest_of)


@layers.declare(
    "average_pooling1d",
    en="The mean of each window of a sequence.",
    zh="一维平均池化:取每个窗口的平均值。",
    options=_options(1),
    **MEAN,
    sources=(KERAS + "pooling_layers/average_pooling1d/",),
)
def average_pooling1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _average_pool(layer, x, 1)


@layers.declare(
    "average_pooling2d",
    en="The mean of each window of an image.",
    zh="二维平均池化:取每个窗口的平均值。",
    options=_options(2),
    **MEAN,
    sources=(KERAS + "pooling_layers/average_pooling2d/",),
)
def average_pooling2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _average_pool(layer, x, 2)


@layers.declare(
    "average_pooling3d",
    en="The mean of each window of a volume.",
    zh="三维平均池化:取每个窗口的平均值。",
    options=_options(3),
    **MEAN,
    sources=(KERAS + "pooling_layers/average_pooling3d/",),
)
def average_pooling3d(layer: LayerContext, x: Node) -> LayerOutput:
    return _average_pool(layer, x, 3)


def _global(layer: LayerContext, x: Node, axes: int, summarise: Callable[[Node, range], Node]) -> LayerOutput:
    last = to_channels_last(layer, x, axes)
    pooled = summarise(last, range(1, 1 + axes))
    if layer.options["keepdims"]:
        pooled = to_data_format(layer, reshape(pooled, (last.shape[0], *(1,) * axes, last.shape[-1])))
    return LayerOutput(pooled, x)


GLOBAL_MAXIMUM = {
    "latex": r"a_{nc} = \max_p z_{npc}",
    "derivative": r"\frac{\partial L}{\partial z_{npc}} = \frac{\partial L}{\partial a_{nc}} [p = \text{first argmax}]",
}
GLOBAL_MEAN = {
    "latex": r"a_{nc} = \frac1P \sum_p z_{npc}",
    "derivative": r"\frac{\partial L}{\partial z_{npc}} = \frac1P \frac{\partial L}{\partial a_{nc}}",
}


@layers.declare(
    "global_max_pooling1d",
    en="The largest value of each channel of a sequence; the first of equals gets the gradient.",
    zh="一维全局最大池化:每个通道的最大值;相等时梯度给第一个。",
    options=(KEEP, DATA_FORMAT),
    **GLOBAL_MAXIMUM,
    sources=(KERAS + "pooling_layers/global_max_pooling1d/",),
)
def global_max_pooling1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _global(layer, x, 1, largest)


@layers.declare(
    "global_max_pooling2d",
    en="The largest value of each channel of an image; the first of equals, row by row, gets the gradient.",
    zh="二维全局最大池化:每个通道的最大值;相等时按行优先次序梯度给第一个。",
    options=(KEEP, DATA_FORMAT),
    **GLOBAL_MAXIMUM,
    sources=(KERAS + "pooling_layers/global_max_pooling2d/",),
)
def global_max_pooling2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _global(layer, x, 2, largest)


@layers.declare(
    "global_max_pooling3d",
    en="The largest value of each channel of a volume; the first of equals, in row-major order, gets the gradient.",
    zh="三维全局最大池化:每个通道的最大值;相等时按行优先次序梯度给第一个。",
    options=(KEEP, DATA_FORMAT),
    **GLOBAL_MAXIMUM,
    sources=(KERAS + "pooling_layers/global_max_pooling3d/",),
)
def global_max_pooling3d(layer: LayerContext, x: Node) -> LayerOutput:
    return _global(layer, x, 3, largest)


@layers.declare(
    "global_average_pooling1d",
    en="The mean of each channel of a sequence.",
    zh="一维全局平均池化:每个通道的平均值。",
    options=(KEEP, DATA_FORMAT),
    **GLOBAL_MEAN,
    sources=(KERAS + "pooling_layers/global_average_pooling1d/",),
)
def global_average_pooling1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _global(layer, x, 1, mean_over)


@layers.declare(
    "global_average_pooling2d",
    en="The mean of each channel of an image.",
    zh="二维全局平均池化:每个通道的平均值。",
    options=(KEEP, DATA_FORMAT),
    **GLOBAL_MEAN,
    sources=(KERAS + "pooling_layers/global_average_pooling2d/",),
)
def global_average_pooling2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _global(layer, x, 2, mean_over)


@layers.declare(
    "global_average_pooling3d",
    en="The mean of each channel of a volume.",
    zh="三维全局平均池化:每个通道的平均值。",
    options=(KEEP, DATA_FORMAT),
    **GLOBAL_MEAN,
    sources=(KERAS + "pooling_layers/global_average_pooling3d/",),
)
def global_average_pooling3d(layer: LayerContext, x: Node) -> LayerOutput:
    return _global(layer, x, 3, mean_over)
