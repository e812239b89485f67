"""Layers that are random in training, and do nothing otherwise."""

from __future__ import annotations

import math

from service.engine.building import Node, Number, broadcast
from service.engine.network.layers.declaration import DATA_FORMAT, KERAS, LayerContext, LayerOutput, layers, same

LOWEST_SELU = -1.0507009873554804934 * 1.6732632423543772848
"""The limit of selu on the far left."""
RATE = Number(name="rate", minimum=0.0, maximum=1.0, open_maximum=True, description="share of values that are zeroed")


@layers.declare(
    "dropout",
    en="In training, zeroes a random share of the values and scales the rest up; otherwise does nothing. "
    "The mask follows from the request's seed.",
    zh="训练时随机置零一部分值并放大其余值,推理时不起作用。掩码由请求的种子决定。",
    options=(RATE,),
    latex=r"a = \frac{m \odot z}{1 - r},\quad m \sim \operatorname{Bernoulli}(1 - r)",
    derivative=r"\delta = \frac{m}{1 - r} \odot \frac{\partial L}{\partial a}",
    sources=(KERAS + "regularization_layers/dropout/", "Srivastava et al. 2014"),
)
def dropout(layer: LayerContext, x: Node) -> LayerOutput:
    rate = layer.options["rate"]
    if not layer.training or rate == 0.0:
        return same(x)
    return LayerOutput(x * layer.dropout_mask(x.shape, rate), x)


@layers.declare(
    "spatial_dropout",
    aliases=("spatial_dropout1d", "spatial_dropout2d", "spatial_dropout3d"),
    en="In training, zeroes whole channels, at all positions together, and scales the rest up.",
    zh="训练时随机置零整个通道(所有位置一起),并放大其余通道。",
    options=(RATE, DATA_FORMAT),
    latex=r"a_{npc} = \frac{m_{nc}\, z_{npc}}{1 - r},\quad m \sim \operatorname{Bernoulli}(1 - r)",
    derivative=r"\delta_{npc} = \frac{m_{nc}}{1 - r} \frac{\partial L}{\partial a_{npc}}",
    sources=(KERAS + "regularization_layers/spatial_dropout2d/", "Tompson et al. 2014, arXiv:1411.4280"),
)
def spatial_dropout(layer: LayerContext, x: Node) -> LayerOutput:
    if len(x.shape) < 3:
        layer.refuse(f"takes samples with positions and channels, got shape {list(x.shape[1:])}; {layer.source}")
    rate = layer.options["rate"]
    if not layer.training or rate == 0.0:
        return same(x)
    channels = len(x.shape) - 1 if layer.options["data_format"] == "channels_last" else 1
    shape = tuple(n if axis in (0, channels) else 1 for axis, n in enumerate(x.shape))
    return LayerOutput(x * broadcast(layer.dropout_mask(shape, rate), x.shape), x)


@layers.declare(
    "gaussian_noise",
    en="In training, adds normal noise around 0; otherwise does nothing. The noise follows from the request's seed.",
    zh="训练时加上零均值高斯噪声,推理时不起作用。噪声由请求的种子决定。",
    options=(Number(name="stddev", minimum=0.0, description="standard deviation of the noise"),),
    latex=r"a = z + \varepsilon,\quad \varepsilon \sim N(0, \sigma^2)",
    derivative=r"\delta = \frac{\partial L}{\partial a}",
    sources=(KERAS + "regularization_layers/gaussian_noise/",),
)
def gaussian_noise(layer: LayerContext, x: Node) -> LayerOutput:
    deviation = layer.options["stddev"]
    if not layer.training or deviation == 0.0:
        return same(x)
    return LayerOutput(x + layer.normal_noise(x.shape, deviation), x)


@layers.declare(
    "gaussian_dropout",
    en="In training, multiplies by normal noise around 1 with the variance of dropout; otherwise does nothing.",
    zh="训练时乘以均值为 1、方差与 dropout 相同的高斯噪声,推理时不起作用。",
    options=(RATE,),
    latex=r"a = z (1 + \varepsilon),\quad \varepsilon \sim N\!\left(0, \frac{r}{1 - r}\right)",
    derivative=r"\delta = (1 + \varepsilon) \frac{\partial L}{\partial a}",
    sources=(KERAS + "regularization_layers/gaussian_dropout/", "Srivastava et al. 2014"),
)
def gaussian_dropout(layer: LayerContext, x: Node) -> LayerOutput:
    rate = layer.options["rate"]
    if not layer.training or rate == 0.0:
        return same(x)
    return LayerOutput(x * (layer.normal_noise(x.shape, math.sqrt(rate / (1.0 - rate))) + 1.0), x)


@layers.declare(
    "alpha_dropout",
    en="In training, sets a random share of the values to the lowest value of selu and keeps mean 0 and variance 1; "
    "otherwise does nothing.",
    zh="训练时把随机一部分值设为 selu 的下限,并保持均值 0、方差 1;推理时不起作用。与 selu 配合。",
    options=(RATE,),
    latex=r"a = s\, (m z + (1 - m) \alpha') + o,\quad m \sim \operatorname{Bernoulli}(1 - r)",
    derivative=r"\delta = s\, m \frac{\partial L}{\partial a}",
    sources=(KERAS + "regularization_layers/alpha_dropout/", "Klambauer et al. 2017, arXiv:1706.02515"),
)
def alpha_dropout(layer: LayerContext, x: Node) -> LayerOutput:
    rate = layer.options["rate"]
    if not layer.training or rate == 0.0:
        return same(x)
    kept = layer.builder.noise(x.shape, lambda generator: (generator.random(x.shape) >= rate) * 1.0, uniform=True)
    factor = ((1.0 - rate) * (1.0 + rate * LOWEST_SELU**2)) ** -0.5
    return LayerOutput((x * kept + (1.0 - kept) * LOWEST_SELU) * factor - factor * LOWEST_SELU * rate, x)
