"""Normalization layers, which bring values to a common scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from service.engine.building import (
    Flag,
    Integer,
    Integers,
    Node,
    Number,
    Shape,
    broadcast,
    mean_over,
    reshape,
    root_mean_square,
    sqrt,
    square,
)
from service.engine.graph.operations import maximum
from service.engine.network.layers.declaration import (
    KERAS,
    LayerContext,
    LayerOutput,
    initializer,
    layers,
    regularizer,
    same,
)
from service.engine.options import Numbers

CENTER = Flag(name="center", default=True, description="whether beta is added")
SCALE = Flag(name="scale", default=True, description="whether gamma is a factor")
GAMMA_AND_BETA = (
    CENTER,
    SCALE,
    initializer("gamma", "ones"),
    initializer("beta", "zeros"),
    regularizer("gamma"),
    regularizer("beta"),
)
AXES = Integers(
    name="axis",
    default=(-1,),
    minimum=-16,
    single=True,
    description="the axis, or axes, that are normalised together, counted with the samples' axis 0; not 0",
)
CHANNELS = Integer(name="axis", default=-1, description="the axis of the channels, counted with the samples' axis 0")


def _epsilon(default: float) -> Number:
    return Number(name="epsilon", default=default, minimum=0.0, description="added to the variance")


def _axes(layer: LayerContext, x: Node, given: Sequence[int]) -> list[int]:
    """Return axes counted from the front. Refuse axes that a sample does not have, and repeated ones."""
    axes = [layer.axis_of(x, axis, "axis") for axis in given]
    if not axes or len(set(axes)) < len(axes):
        layer.refuse(f"at least one axis must be named, and each once, got {list(given)}", "axis")
    return sorted(axes)


def _spread(values: Node, kept: Sequence[int], shape: Shape) -> Node:
    """Return values, which have the axes `kept`, broadcast along all other axes of `shape`."""
    return broadcast(reshape(values, tuple(n if axis in kept else 1 for axis, n in enumerate(shape))), shape)


def _rest(x: Node, axes: Sequence[int]) -> list[int]:
    """Return the axes of x that are not in `axes`."""
    return [axis for axis in range(len(x.shape)) if axis not in axes]


def _centred(x: Node, axes: Sequence[int]) -> tuple[Node, Node]:
    """Return the mean over some axes, and x minus this mean."""
    mean = mean_over(x, axes)
    return mean, x - _spread(mean, _rest(x, axes), x.shape)


def _to_unit_scale(x: Node, axes: Sequence[int], epsilon: float) -> Node:
    """Return x divided by the root of its mean square over some axes plus epsilon, without overflow."""
    return x / _spread(root_mean_square(x, axes, epsilon), _rest(x, axes), x.shape)


def _scale_and_shift(layer: LayerContext, x: Node, axes: Sequence[int]) -> Node:
    """Return gamma x + beta, as the options ask. Both have a number for every place along `axes`."""
    shape = tuple(x.shape[axis] for axis in axes)
    if layer.options["scale"]:
        x = x * _spread(layer.parameter("gamma", shape, reason=layer.source), axes, x.shape)
    if layer.options["center"]:
        x = x + _spread(layer.parameter("beta", shape, reason=layer.source), axes, x.shape)
    return x


@layers.declare(
    "batch_normalization",
    en="Each channel with the mean and variance of the batch in training, whose running averages come back as "
    "`state`; with the running averages otherwise.",
    zh="批归一化:训练时用本批次各通道的均值与方差,其滑动平均作为 state 返回;推理时用滑动平均。",
    options=(
        CHANNELS,
        Number(
            name="momentum",
            default=0.99,
            minimum=0.0,
            maximum=1.0,
            description="share of the old running average in the new one",
        ),
        _epsilon(1e-3),
        Flag(
            name="unbiased_variance",
            default=False,
            description="the running variance averages variances that divide by n - 1, as in PyTorch, instead of by n",
        ),
        *GAMMA_AND_BETA,
        initializer("moving_mean", "zeros"),
        initializer("moving_variance", "ones"),
    ),
    latex=r"a = \gamma \frac{z - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta",
    derivative=r"\frac{\partial L}{\partial z} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} "
    r"\left( \delta - \overline{\delta} - \hat z\, \overline{\delta \hat z} \right) \text{ in training}",
    couples_samples=True,
    sources=(KERAS + "normalization_layers/batch_normalization/", "Ioffe, Szegedy 2015, arXiv:1502.03167"),
    parameters={
        "gamma": "[channels]",
        "beta": "[channels]",
        "moving_mean": "[channels], not learned",
        "moving_variance": "[channels], not learned",
    },
)
def batch_normalization(layer: LayerContext, x: Node) -> LayerOutput:
    options = layer.options
    kept = _axes(layer, x, [options["axis"]])
    channels = (x.shape[kept[0]],)
    moving_mean = layer.statistic("moving_mean", channels, layer.source)
    moving_variance = layer.statistic("moving_variance", channels, layer.source)
    if layer.training and not layer.frozen:  # a frozen layer keeps its averages, as in Keras
        layer.couple_samples()
        axes = _rest(x, kept)
        mean, centred = _centred(x, axes)
        normal = _to_unit_scale(centred, axes, options["epsilon"])
        variance = mean_over(square(centred), axes)
        if options["unbiased_variance"]:
            count = x.size // channels[0]
            if count < 2:
                layer.refuse("takes at least two values of each channel to divide by n - 1", "unbiased_variance")
            variance = variance * (count / (count - 1.0))
        momentum = options["momentum"]
        layer.update("moving_mean", moving_mean * momentum + mean * (1.0 - momentum))
        layer.update("moving_variance", moving_variance * momentum + variance * (1.0 - momentum))
    else:
        deviation = sqrt(moving_variance + options["epsilon"])
        normal = (x - _spread(moving_mean, kept, x.shape)) / _spread(deviation, kept, x.shape)
    return same(_scale_and_shift(layer, normal, kept))


@layers.declare(
    "layer_normalization",
    en="Each sample, or each position of it, with its own mean and variance over some axes.",
    zh="层归一化:每个样本(或其每个位置)用自身在若干轴上的均值与方差。",
    options=(AXES, _epsilon(1e-3), *GAMMA_AND_BETA),
    latex=r"a = \gamma \frac{z - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta",
    derivative=r"\frac{\partial L}{\partial z} = \frac{1}{\sqrt{\sigma^2 + \epsilon}} "
    r"\left( \gamma\delta - \overline{\gamma\delta} - \hat z\, \overline{\gamma\delta \hat z} \right)",
    sources=(KERAS + "normalization_layers/layer_normalization/", "Ba, Kiros, Hinton 2016, arXiv:1607.06450"),
    parameters={"gamma": "[the normalised axes]", "beta": "[the normalised axes]"},
)
def layer_normalization(layer: LayerContext, x: Node) -> LayerOutput:
    axes = _axes(layer, x, layer.options["axis"])
    _, centred = _centred(x, axes)
    normal = _to_unit_scale(centred, axes, layer.options["epsilon"])
    return same(_scale_and_shift(layer, normal, axes))


@layers.declare(
    "group_normalization",
    en="Each sample with the mean and variance of a group of its channels, over all positions.",
    zh="组归一化:每个样本按通道分组,用组内(含所有位置)的均值与方差。",
    options=(
        Integer(name="groups", default=32, minimum=-1, description="groups of channels; -1: each channel is a group"),
        CHANNELS,
        _epsilon(1e-3),
        *GAMMA_AND_BETA,
    ),
    latex=r"a = \gamma \frac{z - \mu_g}{\sqrt{\sigma_g^2 + \epsilon}} + \beta",
    derivative=r"\frac{\partial L}{\partial z} = \frac{1}{\sqrt{\sigma_g^2 + \epsilon}} "
    r"\left( \gamma\delta - \overline{\gamma\delta} - \hat z\, \overline{\gamma\delta \hat z} \right)",
    sources=(KERAS + "normalization_layers/group_normalization/", "Wu, He 2018, arXiv:1803.08494"),
    parameters={"gamma": "[channels]", "beta": "[channels]"},
)
def group_normalization(layer: LayerContext, x: Node) -> LayerOutput:
    (axis,) = kept = _axes(layer, x, [layer.options["axis"]])
    channels = x.shape[axis]
    groups = channels if layer.options["groups"] == -1 else layer.options["groups"]
    if groups < 1 or channels % groups:
        layer.refuse(f"{groups} groups cannot share {channels} channels evenly; {layer.source}", "groups")
    split = reshape(x, (*x.shape[:axis], groups, channels // groups, *x.shape[axis + 1 :]))
    axes_of_group = _rest(split, [0, axis])  # all but samples and groups
    _, centred = _centred(split, axes_of_group)
    normal = _to_unit_scale(centred, axes_of_group, layer.options["epsilon"])
    return same(_scale_and_shift(layer, reshape(normal, x.shape), kept))


@layers.declare(
    "rms_normalization",
    en="Each sample, or each position of it, divided by the root of its mean square over some axes.",
    zh="均方根归一化:每个样本(或其每个位置)除以若干轴上的均方根。",
    options=(AXES, _epsilon(1e-6), initializer("scale", "ones"), regularizer("scale")),
    latex=r"a = s \frac{z}{\sqrt{\overline{z^2} + \epsilon}}",
    derivative=r"\frac{\partial L}{\partial z} = \frac{1}{r} \left( s\delta - \hat z\, \overline{s \delta \hat z} "
    r"\right),\quad r = \sqrt{\overline{z^2} + \epsilon}",
    sources=(KERAS + "normalization_layers/rms_normalization/", "Zhang, Sennrich 2019, arXiv:1910.07467"),
    parameters={"scale": "[the normalised axes]"},
)
def rms_normalization(layer: LayerContext, x: Node) -> LayerOutput:
    axes = _axes(layer, x, layer.options["axis"])
    normal = _to_unit_scale(x, axes, layer.options["epsilon"])
    scale = layer.parameter("scale", tuple(x.shape[axis] for axis in axes), reason=layer.source)
    return same(normal * _spread(scale, axes, x.shape))


@layers.declare(
    "unit_normalization",
    en="Each sample, or each position of it, divided by its Euclidean length over some axes.",
    zh="单位归一化:每个样本(或其每个位置)除以若干轴上的欧氏长度。",
    options=(AXES,),
    latex=r"a = \frac{z}{\lVert z \rVert_2}",
    derivative=r"\frac{\partial L}{\partial z} = \frac{1}{\lVert z \rVert} "
    r"\left( \delta - a \, (a \cdot \delta) \right)",
    sources=(KERAS + "normalization_layers/unit_normalization/",),
)
def unit_normalization(layer: LayerContext, x: Node) -> LayerOutput:
    axes = _axes(layer, x, layer.options["axis"])
    count = math.prod(x.shape[axis] for axis in axes)
    # Shorter ones count as 1e-12 long, as in Keras; the root mean square does not overflow where the length would.
    divisors = maximum(root_mean_square(x, axes), 1e-12 / math.sqrt(count))
    return same(x / _spread(divisors, _rest(x, axes), x.shape) / math.sqrt(count))


@layers.declare(
    "rescaling",
    en="The values times a scale plus an offset, neither of which is learned: one number for all, or one for each "
    "place of the last axis.",
    zh="把数值乘以 scale 再加 offset(均不可学习):一个数用于全部,或最后一轴的每处各一个。",
    options=(
        Numbers(name="scale", default=(1.0,), single=True, description="the factor"),
        Numbers(name="offset", default=(0.0,), single=True, description="what is added"),
    ),
    latex=r"a = s z + o",
    derivative=r"\frac{\partial L}{\partial z} = s \frac{\partial L}{\partial a}",
    sources=(KERAS + "preprocessing_layers/image_preprocessing/rescaling/",),
)
def rescaling(layer: LayerContext, x: Node) -> LayerOutput:
    def spread(option: str) -> Node:
        numbers = layer.options[option]
        if len(numbers) not in (1, x.shape[-1]):
            layer.refuse(f"takes one number, or {x.shape[-1]} for the last axis, got {len(numbers)}", option)
        graph = x.graph
        return broadcast(graph.constant(numbers[0]) if len(numbers) == 1 else graph.vector(numbers), x.shape)

    return same(x * spread("scale") + spread("offset"))
