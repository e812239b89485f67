"""Layers that move values without changing them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

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
from service.engine.network.layers.convolution import AXES
from service.engine.network.layers.declaration import (
    DATA_FORMAT,
    KERAS,
    LayerContext,
    LayerOutput,
    in_words,
    layers,
    same,
    sizes,
)

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


SIDES = {
    2: ("[rows, columns]", "[[top, bottom], [left, right]]"),
    3: ("[depth, rows, columns]", "[[front, back], [top, bottom], [left, right]]"),
}
"""The notation of the places before and after the axes of an image and of a volume."""


def _sides(axes: int, **details: Any) -> Integers:
    """Places before and after each spatial axis. Of one axis alone, [2, 1] is that pair, as in Keras."""
    if axes == 1:
        return Integers(length=2, description="for both ends, or as [before, after]", **details)
    each, pairs = SIDES[axes]
    return Integers(length=axes, pairs=True, description=f"for all sides, for {each}, or as {pairs}", **details)


def _pairs(layer: LayerContext, option: str, axes: int) -> Sequence[tuple[int, int]]:
    sides = layer.options[option]
    return (sides,) if axes == 1 else tuple((n, n) if isinstance(n, int) else n for n in sides)


def _zero_padding(layer: LayerContext, x: Node, axes: int) -> LayerOutput:
    layer.need_axes(x, AXES[layer.options["data_format"], axes])
    for axis, (low, high) in enumerate(_pairs(layer, "padding", axes), first_spatial_axis(layer)):
        x = pad(x, axis, low, high)
    return same(x)


def _cropping(layer: LayerContext, x: Node, axes: int) -> LayerOutput:
    layer.need_axes(x, AXES[layer.options["data_format"], axes])
    for axis, (low, high) in enumerate(_pairs(layer, "cropping", axes), first_spatial_axis(layer)):
        length = x.shape[axis]
        if low + high >= length:
            layer.refuse(f"{low} and {high} leave nothing of {in_words(length, 'place')}; {layer.source}", "cropping")
        x = slice_axis(x, axis, low, length - high) if low or high else x
    return same(x)


@layers.declare(
    "zero_padding1d",
    en="Zeros before and after a sequence.",
    zh="在序列两端补零。",
    options=(_sides(1, name="padding", default=(1, 1), minimum=0), DATA_FORMAT),
    latex=r"a = \operatorname{pad}(z)",
    sources=(KERAS + "reshaping_layers/zero_padding1d/",),
)
def zero_padding1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _zero_padding(layer, x, 1)


@layers.declare(
    "zero_padding2d",
    en="Zeros around the rows and columns of an image.",
    zh="在图像四周补零。",
    options=(_sides(2, name="padding", default=((1, 1), (1, 1)), minimum=0), DATA_FORMAT),
    latex=r"a = \operatorname{pad}(z)",
    sources=(KERAS + "reshaping_layers/zero_padding2d/",),
)
def zero_padding2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _zero_padding(layer, x, 2)


@layers.declare(
    "zero_padding3d",
    en="Zeros around a volume.",
    zh="在体数据各面补零。",
    options=(_sides(3, name="padding", default=((1, 1), (1, 1), (1, 1)), minimum=0), DATA_FORMAT),
    latex=r"a = \operatorname{pad}(z)",
    sources=(KERAS + "reshaping_layers/zero_padding3d/",),
)
def zero_padding3d(layer: LayerContext, x: Node) -> LayerOutput:
    return _zero_padding(layer, x, 3)


@layers.declare(
    "cropping1d",
    en="A sequence without some steps at its ends.",
    zh="裁去序列两端的若干步。",
    options=(_sides(1, name="cropping", default=(1, 1), minimum=0), DATA_FORMAT),
    latex=r"a_t = z_{t + c}",
    sources=(KERAS + "reshaping_layers/cropping1d/",),
)
def cropping1d(layer: LayerContext, x: Node) -> LayerOutput:
    return _cropping(layer, x, 1)


@layers.declare(
    "cropping2d",
    en="An image without some rows and columns at its edges.",
    zh="裁去图像边缘的若干行与列。",
    options=(_sides(2, name="cropping", default=((0, 0), (0, 0)), minimum=0), DATA_FORMAT),
    latex=r"a_{ij} = z_{i + c,\, j + d}",
    sources=(KERAS + "reshaping_layers/cropping2d/",),
)
def cropping2d(layer: LayerContext, x: Node) -> LayerOutput:
    return _cropping(layer, x, 2)


@layers.declare(
    "cropping3d",
    en="A volume without some places at its faces.",
    zh="裁去体数据各面的若干层。",
    options=(_sides(3, name="cropping", default=((1, 1), (1, 1), (1, 1)), minimum=0), DATA_FORMAT),
    latex=r"a_{ijk} = z_{i + c,\, j + d,\, k + e}",
    sources=(KERAS + "reshaping_layers/cropping3d/",),
)
def cropping3d(layer: LayerContext, x: Node) -> LayerOutput:
    return _cropping(layer, x, 3)


@layers.declare(
    "up_sampling1d",
    en="Each step of a sequence repeated.",
    zh="把序列的每一步重复若干次。",
    options=(Integer(name="size", default=2, minimum=1, description="how often"),),
    latex=r"a_t = z_{\lfloor t / s \rfloor}",
    sources=(KERAS + "reshaping_layers/up_sampling1d/",),
)
def up_sampling1d(layer: LayerContext, x: Node) -> LayerOutput:
    layer.need_axes(x, "steps, channels")
    return same(_repeat(x, 1, layer.options["size"]))


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
    layer.need_axes(x, AXES[layer.options["data_format"], 2])
    bilinear = layer.options["interpolation"] == "bilinear"
    if bilinear and max(layer.options["size"]) > LARGEST_FACTOR:
        layer.refuse(f"bilinear interpolation takes factors up to {LARGEST_FACTOR}", "size")
    resize = _interpolate if bilinear else _repeat
    for axis, factor in enumerate(layer.options["size"], first_spatial_axis(layer)):
        x = resize(x, axis, factor)
    return same(x)


@layers.declare(
    "up_sampling3d",
    en="Each place of a volume repeated along every axis.",
    zh="体数据上采样:沿各轴重复。",
    options=(sizes("size", 3, "factor for each axis", default=(2, 2, 2)), DATA_FORMAT),
    latex=r"a_{ijk} = z_{\lfloor i / s \rfloor \lfloor j / s \rfloor \lfloor k / s \rfloor}",
    sources=(KERAS + "reshaping_layers/up_sampling3d/",),
)
def up_sampling3d(layer: LayerContext, x: Node) -> LayerOutput:
    layer.need_axes(x, AXES[layer.options["data_format"], 3])
    for axis, factor in enumerate(layer.options["size"], first_spatial_axis(layer)):
        x = _repeat(x, axis, factor)
    return same(x)


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
