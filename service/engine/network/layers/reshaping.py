"""Layers that move values without changing them."""

from __future__ import annotations

import math

from service.engine.building import (
    Choice,
    Integer,
    Integers,
    Node,
    broadcast,
    concatenate,
    pad,
    reshape,
    slice_axis,
    transpose,
)
from service.engine.network.layers.declaration import DATA_FORMAT, KERAS, LayerContext, LayerOutput, layers, same, sizes

LARGEST_FACTOR = 256
"""The largest factor of bilinear interpolation, which computes the places between two pixels one by one."""


@layers.declare(
    "flatten",
    en="Each sample as one row.",
    zh="把每个样本展平成一行。",
    latex=r"a = \operatorname{vec}(z)",
    sources=(KERAS + "reshaping_layers/flatten/",),
)
def flatten(layer: LayerContext, x: Node) -> LayerOutput:
    return same(reshape(x, (x.shape[0], x.size // x.shape[0])))


@layers.declare(
    "reshape",
    en="Each sample in another shape, in row-major order; one entry may be -1 and is then worked out.",
    zh="按行优先次序改变每个样本的形状;可有一项为 -1,自动推算。",
    options=(Integers(name="target_shape", minimum=-1, description="shape of one sample"),),
    latex=r"a = \operatorname{reshape}(z)",
    sources=(KERAS + "reshaping_layers/reshape/",),
)
def reshape_samples(layer: LayerContext, x: Node) -> LayerOutput:
    wanted = list(layer.options["target_shape"])
    size = x.size // x.shape[0]
    known = math.prod(n for n in wanted if n != -1)
    if not wanted:
        layer.refuse("takes at least one entry: samples without an axis would be taken for features", "target_shape")
    if wanted.count(-1) > 1 or 0 in wanted:
        layer.refuse("at most one entry may be -1, the others are positive", "target_shape")
    if -1 in wanted and size % known == 0:
        wanted[wanted.index(-1)] = size // known
    if math.prod(wanted) != size:
        layer.refuse(f"{wanted} cannot hold the {size} values of a sample; {layer.source}", "target_shape")
    return same(reshape(x, (x.shape[0], *wanted)))


@layers.declare(
    "permute",
    en="The axes of each sample in another order.",
    zh="重新排列每个样本的轴。",
    options=(Integers(name="dims", description="the new order of the axes, counted from 1 without the samples' axis"),),
    latex=r"a = \operatorname{permute}(z)",
    sources=(KERAS + "reshaping_layers/permute/",),
)
def permute(layer: LayerContext, x: Node) -> LayerOutput:
    order = layer.options["dims"]
    axes = len(x.shape) - 1
    if sorted(order) != list(range(1, axes + 1)):
        layer.refuse(f"each of 1 to {axes} must stand here once, got {list(order)}; {layer.source}", "dims")
    return same(transpose(x, (0, *order)))


@layers.declare(
    "repeat_vector",
    en="Each sample, a vector, repeated as the steps of a sequence.",
    zh="把每个样本(向量)重复成一个序列。",
    options=(Integer(name="n", minimum=1, description="how often"),),
    latex=r"a_{nt} = z_n",
    sources=(KERAS + "reshaping_layers/repeat_vector/",),
)
def repeat_vector(layer: LayerContext, x: Node) -> LayerOutput:
    layer.need_axes(x, "features")
    samples, features = x.shape
    return same(broadcast(reshape(x, (samples, 1, features)), (samples, layer.options["n"], features)))


@layers.declare(
    "zero_padding2d",
    en="Zeros around the rows and columns of an image.",
    zh="在图像四周补零。",
    options=(
        Integers(
            name="padding",
            default=((1, 1), (1, 1)),
            minimum=0,
            length=2,
            pairs=True,
            description="for all sides, for [rows, columns], or as [[top, bottom], [left, right]]",
        ),
        DATA_FORMAT,
    ),
    latex=r"a = \operatorname{pad}(z)",
    sources=(KERAS + "reshaping_layers/zero_padding2d/",),
)
def zero_padding2d(layer: LayerContext, x: Node) -> LayerOutput:
    layer.need_axes(x, image_axes(layer))
    first = first_spatial_axis(layer)
    for axis, (low, high) in enumerate(layer.options["padding"], first):
        x = pad(x, axis, low, high)
    return same(x)


@layers.declare(
    "up_sampling2d",
    en="Rows and columns of an image repeated, or interpolated between pixel centres.",
    zh="图像上采样:重复行与列,或在像素中心之间插值。",
    options=(
        sizes("size", 2, "factor for rows and columns", default=(2, 2)),
        Choice(
            name="interpolation",
            default="nearest",
            values=("nearest", "bilinear"),
            description="repeat pixels, or weigh the two nearest along each axis",
        ),
        DATA_FORMAT,
    ),
    latex=r"a_{ij} = z_{\lfloor i / s \rfloor \lfloor j / s \rfloor}",
    sources=(KERAS + "reshaping_layers/up_sampling2d/",),
)
def up_sampling2d(layer: LayerContext, x: Node) -> LayerOutput:
    layer.need_axes(x, image_axes(layer))
    bilinear = layer.options["interpolation"] == "bilinear"
    if bilinear and max(layer.options["size"]) > LARGEST_FACTOR:
        layer.refuse(f"bilinear interpolation takes factors up to {LARGEST_FACTOR}", "size")
    resize = _interpolate if bilinear else _repeat
    for axis, factor in enumerate(layer.options["size"], first_spatial_axis(layer)):
        x = resize(x, axis, factor)
    return same(x)


def image_axes(layer: LayerContext) -> str:
    """Return the names of the axes of an image, for `need_axes`."""
    return "height, width, channels" if layer.options["data_format"] == "channels_last" else "channels, height, width"


def first_spatial_axis(layer: LayerContext) -> int:
    return 1 if layer.options["data_format"] == "channels_last" else 2


def _repeat(x: Node, axis: int, factor: int) -> Node:
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    spread = broadcast(reshape(x, (*before, 1, *after)), (*before, factor, *after))
    return reshape(spread, (*x.shape[:axis], x.shape[axis] * factor, *after))


def _interpolate(x: Node, axis: int, factor: int) -> Node:
    """Return x enlarged along one axis by linear interpolation, with half-pixel centres. Beyond the outermost centres
    the edge repeats."""
    count = x.shape[axis]
    padded = concatenate([slice_axis(x, axis, 0, 1), x, slice_axis(x, axis, count - 1, count)], axis)
    phases = []
    for phase in range(factor):
        place = (phase + 0.5) / factor - 0.5  # where this pixel lies, seen from the centre of its source
        start = 1 if place >= 0 else 0
        weight = place - (start - 1)
        low, high = (slice_axis(padded, axis, start + shift, start + shift + count) for shift in (0, 1))
        mixed = low * (1.0 - weight) + high * weight
        phases.append(reshape(mixed, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :])))
    return reshape(concatenate(phases, axis + 1), (*x.shape[:axis], count * factor, *x.shape[axis + 1 :]))
