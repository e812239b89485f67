"""Convolutions: gathered windows and one matrix product (see `graph/operations/sliding.py`).

All computation has the channels last. `channels_first` transposes the input before it and the output after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.engine.building import (
    Choice,
    Integer,
    Integers,
    Node,
    Option,
    Shape,
    Sliding,
    broadcast,
    overlap_add,
    reshape,
    transpose,
    windows,
)
from service.engine.network.layers.declaration import (
    ACTIVATION,
    DATA_FORMAT,
    KERAS,
    USE_BIAS,
    LayerContext,
    LayerOutput,
    in_words,
    initializer,
    kernel_and_bias,
    layers,
    regularizer,
    sizes,
)

FILTERS = Integer(name="filters", minimum=1, description="number of output channels")
GROUPS = Integer(
    name="groups", default=1, minimum=1, description="the channels are split into so many independent convolutions"
)
DERIVATIVE = (
    r"\frac{\partial L}{\partial W_k} = \sum_{n,p} x_{n,\,sp + dk}^\top \delta_{np},\quad "
    r"\frac{\partial L}{\partial b} = \sum_{n,p} \delta_{np},\quad "
    r"\frac{\partial L}{\partial x_{nq}} = \sum_{sp + dk = q} \delta_{np} W_k^\top"
)
AXES = {
    ("channels_last", 1): "steps, channels",
    ("channels_first", 1): "channels, steps",
    ("channels_last", 2): "height, width, channels",
    ("channels_first", 2): "channels, height, width",
    ("channels_last", 3): "depth, height, width, channels",
    ("channels_first", 3): "channels, depth, height, width",
}


def padding_choice(*kinds: str) -> Choice:
    description = "valid: none; same: zeros so that stride 1 keeps the size"
    if "causal" in kinds:
        description += "; causal: zeros in front, so that no output sees later steps"
    return Choice(name="padding", default="valid", values=kinds, description=description)


def sliding_options(axes: int, *paddings: str) -> tuple[Option, ...]:
    return (
        sizes("kernel_size", axes, "length of the window along each axis"),
        sizes("strides", axes, "step of the window along each axis", default=(1,) * axes),
        padding_choice(*paddings),
        sizes("dilation_rate", axes, "distance between the elements of a window", default=(1,) * axes),
        DATA_FORMAT,
    )


def to_channels_last(layer: LayerContext, x: Node, spatial: int) -> Node:
    """Return x with the channels as its last axis. Refuse another number of `spatial` axes."""
    layer.need_axes(x, AXES[layer.options["data_format"], spatial])
    if layer.options["data_format"] == "channels_last":
        return x
    return transpose(x, (0, *range(2, spatial + 2), 1))


def to_data_format(layer: LayerContext, x: Node) -> Node:
    """Return x, whose channels are last, in the data format of the layer."""
    if layer.options["data_format"] == "channels_last":
        return x
    last = len(x.shape) - 1
    return transpose(x, (0, last, *range(1, last)))


def pads(kind: str, length: int, size: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return how many zeros to put before and after an axis, as TensorFlow counts them."""
    extent = (size - 1) * dilation + 1
    if kind == "causal":
        return (extent - 1, 0)
    if kind == "valid":
        return (0, 0)
    total = max((-(-length // stride) - 1) * stride + extent - length, 0)
    return (total // 2, total - total // 2)


def sliding_over(
    layer: LayerContext, lengths: Sequence[int], window: Sequence[int], strides: Sequence[int], option: str
) -> Sliding:
    """Return how the window of a layer slides over axes 2, 3, … of these lengths. Refuse a window that does not fit."""
    kind = layer.options["padding"]
    dilations = layer.options.get("dilation_rate", (1,) * len(lengths))
    padding = tuple(
        pads(kind, length, size, stride, dilation)
        for length, size, stride, dilation in zip(lengths, window, strides, dilations, strict=True)
    )
    for length, size, dilation, (low, high) in zip(lengths, window, dilations, padding, strict=True):
        extent = (size - 1) * dilation + 1
        if length + low + high < extent:
            spread = f", spread over {extent} by the dilation," if dilation > 1 else ""
            layer.refuse(
                f"a window of {size}{spread} does not fit into {in_words(length, 'position')}; {layer.source}; "
                "padding 'same' would fit",
                option,
            )
    return Sliding(0, tuple(range(2, 2 + len(lengths))), tuple(window), tuple(strides), tuple(dilations), padding)


def convolve(layer: LayerContext, x: Node, kernel: Node, groups: int) -> Node:
    """Return the convolution of x, `(n, *s, c)`, with a kernel. The kernel is `(groups, window × channels of a group,
    outputs of a group)`."""
    samples, *spatial, channels = x.shape
    outputs = kernel.shape[2]
    options = layer.options
    sliding = sliding_over(layer, spatial, options["kernel_size"], options["strides"], "kernel_size")
    positions = sliding.positions((channels, samples, *spatial))
    rows = samples * math.prod(positions)
    if groups == 1 and sliding.is_plain:
        y = reshape(x, (rows, channels)) @ reshape(kernel, kernel.shape[1:])
        return reshape(y, (samples, *positions, outputs))
    moved = transpose(x, (len(x.shape) - 1, *range(len(x.shape) - 1)))
    if groups == 1:
        columns = reshape(windows(moved, sliding), (kernel.shape[1], rows))
        y = transpose(columns) @ reshape(kernel, kernel.shape[1:])
        return reshape(y, (samples, *positions, outputs))
    split = reshape(moved, (groups, channels // groups, samples, *spatial))
    columns = reshape(windows(split, sliding.batched()), (groups, kernel.shape[1], rows))
    y = transpose(transpose(columns) @ kernel, (1, 0, 2))
    return reshape(y, (samples, *positions, groups * outputs))


def finish(layer: LayerContext, z: Node) -> LayerOutput:
    """Return the output of a convolution layer: z, whose channels are last, with bias and activation."""
    channels = z.shape[-1]
    if layer.options["use_bias"]:
        bias = layer.parameter("bias", (channels,), reason=f"the layer has {in_words(channels, 'output channel')}")
        z = z + broadcast(bias, z.shape)
    return layer.activate(to_data_format(layer, z))


def _convolution(layer: LayerContext, x: Node, spatial: int) -> LayerOutput:
    x = to_channels_last(layer, x, spatial)
    filters, groups, window = layer.options["filters"], layer.options["groups"], layer.options["kernel_size"]
    channels = x.shape[-1]
    for count, what, option in ((channels, "input channels", "groups"), (filters, "filters", "groups")):
        if count % groups:
            layer.refuse(f"{groups} groups cannot share {count} {what} evenly", option)
    inner = channels // groups
    field = math.prod(window)
    kernel = layer.parameter(
        "kernel",
        (*window, inner, filters),
        fans=(field * inner, field * filters),
        reason=layer.source if groups == 1 else f"{layer.source} in {groups} groups",
    )
    split = transpose(reshape(kernel, (field * inner, groups, filters // groups)), (1, 0, 2))
    return finish(layer, convolve(layer, x, split, groups))


@layers.declare(
    "conv1d",
    en="A window slides over a sequence; at every step each filter is the same weighted sum of what it covers.",
    zh="一维卷积层:窗口沿序列滑动,每个滤波器在各步取相同权重的加权和。",
    options=(
        FILTERS,
        *sliding_options(1, "valid", "same", "causal"),
        GROUPS,
        ACTIVATION,
        USE_BIAS,
        *kernel_and_bias(),
    ),
    latex=r"z_{np} = \sum_k x_{n,\,sp + dk} W_k + b,\quad a = f(z)",
    derivative=DERIVATIVE,
    sources=(KERAS + "convolution_layers/convolution1d/",),
    parameters={"kernel": "[kernel_size, channels / groups, filters]", "bias": "[filters]"},
)
def conv1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _convolution(layer, x, 1)


@layers.declare(
    "conv2d",
    en="A window slides over an image; at every position each filter is the same weighted sum of what it covers.",
    zh="二维卷积层:窗口在图像上滑动,每个滤波器在各位置取相同权重的加权和。",
    options=(FILTERS, *sliding_options(2, "valid", "same"), GROUPS, ACTIVATION, USE_BIAS, *kernel_and_bias()),
    latex=r"z_{np} = \sum_k x_{n,\,sp + dk} W_k + b,\quad a = f(z),\quad p, k \in \mathbb{N}^2",
    derivative=DERIVATIVE,
    sources=(KERAS + "convolution_layers/convolution2d/",),
    parameters={"kernel": "[*kernel_size, channels / groups, filters]", "bias": "[filters]"},
)
def conv2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _convolution(layer, x, 2)


@layers.declare(
    "conv3d",
    en="A window slides over a volume; at every position each filter is the same weighted sum of what it covers.",
    zh="三维卷积层:窗口在体数据上滑动,每个滤波器在各位置取相同权重的加权和。",
    options=(FILTERS, *sliding_options(3, "valid", "same"), GROUPS, ACTIVATION, USE_BIAS, *kernel_and_bias()),
    latex=r"z_{np} = \sum_k x_{n,\,sp + dk} W_k + b,\quad a = f(z)",
    derivative=DERIVATIVE,
    sources=(KERAS + "convolution_layers/convolution3d/",),
    parameters={"kernel": "[*kernel_size, channels / groups, filters]", "bias": "[filters]"},
)
def conv3d(layer: LayerContext, x: Node) -> LayerOutput:
    return _convolution(layer, x, 3)


def depthwise(layer: LayerContext, x: Node, name: str) -> Node:
    """x, channels last, with each channel convolved alone by the parameter of this name."""
    options = layer.options
    window, channels, multiplier = options["kernel_size"], x.shape[-1], options["depth_multiplier"]
    field = math.prod(window)
    kernel = layer.parameter(
        name,
        (*window, channels, multiplier),
        options["depthwise_initializer"],
        options["depthwise_regularizer"],
        fans=(field * channels, field * multiplier),
        reason=layer.source,
    )
    split = transpose(reshape(kernel, (field, channels, multiplier)), (1, 0, 2))
    return convolve(layer, x, split, channels)


DEPTHWISE = (
    Integer(name="depth_multiplier", default=1, minimum=1, description="filters for each channel"),
    initializer("depthwise", "glorot_uniform"),
    initializer("bias", "zeros"),
    regularizer("depthwise"),
    regularizer("bias"),
)
DEPTHWISE_FORMULAS = {
    "latex": r"z_{np,cm} = \sum_k x_{n,\,sp + dk,\,c} W_{kcm} + b_{cm},\quad a = f(z)",
    "derivative": r"\frac{\partial L}{\partial W_{kcm}} = \sum_{n,p} x_{n,\,sp + dk,\,c}\, \delta_{np,cm}",
    "unit_axes": {"kernel": (-2, -1)},
}


@layers.declare(
    "depthwise_conv1d",
    en="Each channel of a sequence is convolved alone, with depth_multiplier filters of its own.",
    zh="一维逐通道卷积:序列的每个通道单独用 depth_multiplier 个滤波器卷积。",
    options=(*DEPTHWISE, *sliding_options(1, "valid", "same"), ACTIVATION, USE_BIAS),
    **DEPTHWISE_FORMULAS,
    sources=(KERAS + "convolution_layers/depthwise_convolution1d/",),
    parameters={"kernel": "[kernel_size, channels, depth_multiplier]", "bias": "[channels * depth_multiplier]"},
)
def depthwise_conv1d(layer: LayerContext, x: Node) -> LayerOutput:
    return finish(layer, depthwise(layer, to_channels_last(layer, x, 1), "kernel"))


@layers.declare(
    "depthwise_conv2d",
    en="Each channel of an image is convolved alone, with depth_multiplier filters of its own.",
    zh="深度可分离卷积的逐通道部分:每个通道单独用 depth_multiplier 个滤波器卷积。",
    options=(*DEPTHWISE, *sliding_options(2, "valid", "same"), ACTIVATION, USE_BIAS),
    **DEPTHWISE_FORMULAS,
    sources=(KERAS + "convolution_layers/depthwise_convolution2d/",),
    parameters={"kernel": "[*kernel_size, channels, depth_multiplier]", "bias": "[channels * depth_multiplier]"},
)
def depthwise_conv2d(layer: LayerContext, x: Node) -> LayerOutput:
    return finish(layer, depthwise(layer, to_channels_last(layer, x, 2), "kernel"))


def _transposed_options(axes: int) -> tuple[Option, ...]:
    return (
        FILTERS,
        *sliding_options(axes, "valid", "same"),
        Integers(
            name="output_padding",
            default=None,
            minimum=0,
            length=axes,
            description="places added to each axis of the output; fewer than the strides (none: as the strides need)",
        ),
        ACTIVATION,
        USE_BIAS,
        *kernel_and_bias(),
    )


TRANSPOSED = {
    "latex": r"z_{nq} = \sum_{sp + dk = q} x_{np} W_k^\top + b,\quad a = f(z)",
    "derivative": r"\frac{\partial L}{\partial x_{np}} = \sum_k \delta_{n,\,sp + dk} W_k",
    "parameters": {"kernel": "[*kernel_size, filters, channels]", "bias": "[filters]"},
    "unit_axes": {"kernel": (-2,)},
}


def _transposed(layer: LayerContext, x: Node, spatial: int) -> LayerOutput:
    x = to_channels_last(layer, x, spatial)
    options = layer.options
    window, filters, strides = options["kernel_size"], options["filters"], options["strides"]
    samples, *places, channels = x.shape
    field = math.prod(window)
    kernel = layer.parameter(
        "kernel", (*window, filters, channels), fans=(field * filters, field * channels), reason=layer.source
    )
    lengths, padding = _transposed_lengths(layer, places)
    sliding = Sliding(0, tuple(range(2, 2 + spatial)), window, strides, options["dilation_rate"], padding)
    columns = reshape(kernel, (field * filters, channels)) @ transpose(reshape(x, (x.size // channels, channels)))
    spread = reshape(columns, (*window, filters, samples, *places))
    z = transpose(overlap_add(spread, sliding, (filters, samples, *lengths)), (*range(1, 2 + spatial), 0))
    return finish(layer, z)


@layers.declare(
    "conv1d_transpose",
    en="The transpose of a convolution of a sequence: every step adds a weighted window to the output, which grows by "
    "the strides.",
    zh="一维转置卷积层:每一步把加权窗口累加到输出上,输出按步长放大。",
    options=_transposed_options(1),
    **TRANSPOSED,
    sources=(KERAS + "convolution_layers/convolution1d_transpose/",),
)
def conv1d_transpose(layer: LayerContext, x: Node) -> LayerOutput:
    return _transposed(layer, x, 1)


@layers.declare(
    "conv2d_transpose",
    en="The transpose of a convolution: every input position adds a weighted window to the output, which grows by "
    "the strides.",
    zh="转置卷积层:每个输入位置把加权窗口累加到输出上,输出按步长放大。",
    options=_transposed_options(2),
    **TRANSPOSED,
    sources=(KERAS + "convolution_layers/convolution2d_transpose/",),
)
def conv2d_transpose(layer: LayerContext, x: Node) -> LayerOutput:
    return _transposed(layer, x, 2)


@layers.declare(
    "conv3d_transpose",
    en="The transpose of a convolution of a volume: every position adds a weighted window to the output, which grows "
    "by the strides.",
    zh="三维转置卷积层:每个位置把加权窗口累加到输出上,输出按步长放大。",
    options=_transposed_options(3),
    **TRANSPOSED,
    sources=(KERAS + "convolution_layers/convolution3d_transpose/",),
)
def conv3d_transpose(layer: LayerContext, x: Node) -> LayerOutput:
    return _transposed(layer, x, 3)


def _transposed_lengths(layer: LayerContext, spatial: Sequence[int]) -> tuple[Shape, tuple[tuple[int, int], ...]]:
    """Return the lengths of a transposed convolution's output, and the counts cut off around each axis."""
    options = layer.options
    added = options["output_padding"] or (None,) * len(spatial)
    lengths, padding = [], []
    for length, size, stride, dilation, more in zip(
        spatial, options["kernel_size"], options["strides"], options["dilation_rate"], added, strict=True
    ):
        extent = (size - 1) * dilation + 1
        full = (length - 1) * stride + extent
        valid = options["padding"] == "valid"
        if more is None:
            whole = length * stride + (max(extent - stride, 0) if valid else 0)
        elif more >= stride:
            layer.refuse(f"{more} must be smaller than the stride, {stride}", "output_padding")
        else:
            whole = full + more - (0 if valid else 2 * (extent // 2))
        if whole < 1:
            layer.refuse("nothing would be left of the output", "output_padding")
        low = 0 if valid else max(full - whole, 0) // 2
        lengths.append(whole)
        padding.append((low, max(full - whole - low, 0)))
    return tuple(lengths), tuple(padding)
