"""Initializers, each declared once: the first values of a parameter that the caller does not send.

A function takes a random generator, the shape, the fans and its options, and returns float64
values. For a kernel `(in, out)` fan_in is `in` and fan_out is `out`. The `*_normal` initializers
draw from the whole normal distribution, as PyTorch does. `truncated` cuts it at two standard
deviations and corrects the variance, as Keras does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.engine.building import Array, Declaration, Flag, Number, Registry, Shape
from service.engine.options import Choice


@dataclass(frozen=True, kw_only=True, eq=False)
class Initializer(Declaration):
    """The declaration of an initializer, which makes the first values of a parameter."""

    work: Callable[[Shape], float] = math.prod
    """`work(shape)`: the floating-point operations for a parameter of this shape."""


initializers: Registry[Initializer] = Registry("initializer", "initializers", Initializer)

PYTORCH = "https://docs.pytorch.org/docs/stable/nn.init.html"
KERAS = "https://keras.io/api/layers/initializers/"
# The standard deviation of a standard normal cut at ±2.
TRUNCATED_DEVIATION = 0.87962566103423978

GAIN = Number(name="gain", default=1.0, minimum=0.0, description="factor for the activation that follows (relu: √2)")
TRUNCATED = Flag(name="truncated", default=False, description="cut at two standard deviations, as Keras does")


def _normal(generator: np.random.Generator, shape: Shape, deviation: float, truncated: bool) -> Array:
    values = generator.standard_normal(shape)
    if not truncated:
        return values * deviation
    outside = np.abs(values) > 2.0
    while outside.any():
        values[outside] = generator.standard_normal(int(outside.sum()))
        outside = np.abs(values) > 2.0
    return values * (deviation / TRUNCATED_DEVIATION)


def _uniform(generator: np.random.Generator, shape: Shape, bound: float) -> Array:
    # This is generator.uniform, but an infinite range gives infinite values instead of an error.
    return -bound + (bound + bound) * generator.random(shape)


@initializers.declare("zeros", en="All 0.", zh="全部为 0。", latex="w = 0", sources=(KERAS,))
def zeros(generator: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> Array:
    return np.zeros(shape)


@initializers.declare("ones", en="All 1.", zh="全部为 1。", latex="w = 1", sources=(KERAS,))
def ones(generator: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> Array:
    return np.ones(shape)


@initializers.declare(
    "constant",
    en="All the same value.",
    zh="全部为同一常数。",
    options=(Number(name="value", default=0.0, description="the value"),),
    latex="w = c",
    sources=(KERAS,),
)
def constant(generator: np.random.Generator, shape: Shape, fans: tuple[int, int], value: float) -> Array:
    return np.full(shape, value)


@initializers.declare(
    "uniform",
    aliases=("random_uniform",),
    en="Uniform between two bounds.",
    zh="区间上的均匀分布。",
    options=(
        Number(name="minimum", default=-0.05, description="lower bound"),
        Number(name="maximum", default=0.05, description="upper bound"),
    ),
    latex=r"w \sim U(a, b)",
    sources=(KERAS,),
)
def uniform(
    generator: np.random.Generator, shape: Shape, fans: tuple[int, int], minimum: float, maximum: float
) -> Array:
    return minimum + (maximum - minimum) * generator.random(shape)


@initializers.declare(
    "normal",
    aliases=("random_normal",),
    en="Normal with a mean and a standard deviation.",
    zh="正态分布。",
    options=(
        Number(name="mean", default=0.0, description="mean"),
        Number(name="standard_deviation", default=0.05, minimum=0.0, description="standard deviation"),
        TRUNCATED,
    ),
    latex=r"w \sim N(\mu, \sigma^2)",
    sources=(KERAS,),
)
def normal(
    generator: np.random.Generator,
    shape: Shape,
    fans: tuple[int, int],
    mean: float,
    standard_deviation: float,
    truncated: bool,
) -> Array:
    # Here, unlike below, the cut distribution is not rescaled: this is Keras's TruncatedNormal.
    factor = TRUNCATED_DEVIATION if truncated else 1.0
    return mean + _normal(generator, shape, standard_deviation * factor, truncated)


@initializers.declare(
    "glorot_uniform",
    aliases=("xavier_uniform",),
    en="Uniform with the variance that keeps signals level both ways through linear and sigmoid layers.",
    zh="Glorot 均匀初始化:使前向与反向信号方差保持不变。",
    options=(GAIN,),
    latex=r"w \sim U(-b, b),\quad b = g\sqrt{\frac{6}{n_{in} + n_{out}}}",
    sources=(PYTORCH, KERAS, "Glorot, Bengio 2010"),
)
def glorot_uniform(generator: np.random.Generator, shape: Shape, fans: tuple[int, int], gain: float) -> Array:
    return _uniform(generator, shape, gain * math.sqrt(6.0 / sum(fans)))


@initializers.declare(
    "glorot_normal",
    aliases=("xavier_normal",),
    en="Normal with the variance of glorot_uniform.",
    zh="Glorot 正态初始化。",
    options=(GAIN, TRUNCATED),
    latex=r"w \sim N(0, \sigma^2),\quad \sigma = g\sqrt{\frac{2}{n_{in} + n_{out}}}",
    sources=(PYTORCH, KERAS, "Glorot, Bengio 2010"),
)
def glorot_normal(
    generator: np.random.Generator, shape: Shape, fans: tuple[int, int], gain: float, truncated: bool
) -> Array:
    return _normal(generator, shape, gain * math.sqrt(2.0 / sum(fans)), truncated)


@initializers.declare(
    "he_uniform",
    aliases=("kaiming_uniform",),
    en="Uniform with the variance that keeps signals level through relu layers.",
    zh="He 均匀初始化:适合 relu。",
    latex=r"w \sim U(-b, b),\quad b = \sqrt{\frac{6}{n_{in}}}",
    sources=(PYTORCH, KERAS, "He et al. 2015, arXiv:1502.01852"),
)
def he_uniform(generator: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> Array:
    return _uniform(generator, shape, math.sqrt(6.0 / fans[0]))


@initializers.declare(
    "he_normal",
    aliases=("kaiming_normal",),
    en="Normal with the variance of he_uniform.",
    zh="He 正态初始化。",
    options=(TRUNCATED,),
    latex=r"w \sim N(0, \sigma^2),\quad \sigma = \sqrt{\frac{2}{n_{in}}}",
    sources=(PYTORCH, KERAS, "He et al. 2015, arXiv:1502.01852"),
)
def he_normal(generator: np.random.Generator, shape: Shape, fans: tuple[int, int], truncated: bool) -> Array:
    return _normal(generator, shape, math.sqrt(2.0 / fans[0]), truncated)


@initializers.declare(
    "lecun_uniform",
    en="Uniform with variance 1 / fan_in.",
    zh="LeCun 均匀初始化。",
    latex=r"w \sim U(-b, b),\quad b = \sqrt{\frac{3}{n_{in}}}",
    sources=(KERAS, "LeCun et al. 1998"),
)
def lecun_uniform(generator: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> Array:
    return _uniform(generator, shape, math.sqrt(3.0 / fans[0]))


@initializers.declare(
    "lecun_normal",
    en="Normal with variance 1 / fan_in; the partner of selu.",
    zh="LeCun 正态初始化:与 selu 配合。",
    options=(TRUNCATED,),
    latex=r"w \sim N(0, \sigma^2),\quad \sigma = \sqrt{\frac{1}{n_{in}}}",
    sources=(KERAS, "LeCun et al. 1998"),
)
def lecun_normal(generator: np.random.Generator, shape: Shape, fans: tuple[int, int], truncated: bool) -> Array:
    return _normal(generator, shape, math.sqrt(1.0 / fans[0]), truncated)


@initializers.declare(
    "variance_scaling",
    en="Variance scale / fan, where fan is the number of inputs, of outputs, or the mean of both.",
    zh="方差缩放初始化:方差为 scale / fan,fan 取输入数、输出数或二者平均。",
    options=(
        Number(name="scale", default=1.0, minimum=0.0, description="the variance times the fan"),
        Choice(name="mode", default="fan_in", values=("fan_in", "fan_out", "fan_avg"), description="which fan"),
        Choice(
            name="distribution",
            default="truncated_normal",
            values=("truncated_normal", "untruncated_normal", "uniform"),
            description="which random numbers",
        ),
    ),
    latex=r"\operatorname{Var} w = \frac{s}{n}",
    sources=(KERAS,),
)
def variance_scaling(
    generator: np.random.Generator, shape: Shape, fans: tuple[int, int], scale: float, mode: str, distribution: str
) -> Array:
    fan = {"fan_in": fans[0], "fan_out": fans[1], "fan_avg": sum(fans) / 2.0}[mode]
    if distribution == "uniform":
        return _uniform(generator, shape, math.sqrt(3.0 * scale / fan))
    return _normal(generator, shape, math.sqrt(scale / fan), distribution == "truncated_normal")


@initializers.declare(
    "orthogonal",
    en="A random matrix with orthonormal columns or rows, times a gain.",
    zh="随机正交矩阵乘以增益。",
    options=(GAIN,),
    latex=r"W^\top W = g^2 I",
    sources=(PYTORCH, KERAS, "Saxe, McClelland, Ganguli 2013, arXiv:1312.6120"),
    work=lambda shape: 4.0 * math.prod(shape) * min(math.prod(shape[:-1]), shape[-1] if shape else 1),
)
def orthogonal(generator: np.random.Generator, shape: Shape, fans: tuple[int, int], gain: float) -> Array:
    rows, columns = math.prod(shape[:-1]), shape[-1] if shape else 1
    q, r = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.asarray(gain * (q if rows >= columns else q.T)).reshape(shape)
