"""Activation functions, each declared once.

A function takes the pre-activation and its options, and returns the activation, as graph nodes.
Derivatives follow from the operations. Where this would give a wrong value at a kink or lose
digits, the declaration states the slope itself with `with_slope`. Kinks follow PyTorch 2.13.

Losses use `log` and `log_complement`, so that saturated outputs keep exact and finite gradients.

This module has more than 500 lines because an activation is to be declared in one known place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from service.engine.building import (
    Choice,
    Declaration,
    Node,
    Number,
    Registry,
    absolute,
    broadcast,
    clip,
    exp,
    expm1,
    greater,
    greater_equal,
    less,
    less_equal,
    logistic_slope,
    maximum,
    minimum,
    normal_cdf,
    normal_density,
    quick_sigmoid,
    quick_tanh,
    sign,
    softmax,
    square,
    tanh,
    with_slope,
)
from service.engine.building import log_softmax as stable_log_softmax
from service.engine.building import sigmoid as logistic
from service.engine.building import softplus as soft_positive_part
from service.engine.building import tanh_shrink as excess_over_tanh


@dataclass(frozen=True, kw_only=True, eq=False)
class Activation(Declaration):
    """The declaration of an activation."""

    quick: Callable[[Node], Node] | None = None
    """The function with a slope that loses digits where it is saturated. Recurrent layers use it:
    the exact slopes would make a step of an LSTM a tenth slower."""
    log: Callable[[Node], Node] | None = None
    """ln a, computed from the pre-activation."""
    log_complement: Callable[[Node], Node] | None = None
    """ln(1 - a), computed from the pre-activation."""
    acts_on: str = "element"
    """`element`, or `row` when every output depends on the whole last axis."""
    parameters: tuple[str, ...] = ()
    """Trainable parameters, one number per feature, passed after the pre-activation. The option of the same name is
    the initial value."""


activations: Registry[Activation] = Registry("activation", "activations", Activation)

PYTORCH = "https://docs.pytorch.org/docs/stable/nn.html#non-linear-activations-weighted-sum-nonlinearity"
KERAS = "https://keras.io/api/layers/activations/"


def _above(x: Node, threshold: float = 0.0) -> Node:
    return greater(x, threshold)


@activations.declare(
    "linear",
    aliases=("identity",),
    en="The pre-activation itself.",
    zh="恒等函数:输出等于净输入。",
    latex=r"f(x) = x",
    derivative=r"f'(x) = 1",
    sources=(KERAS,),
)
def linear(x: Node) -> Node:
    return x


@activations.declare(
    "step",
    aliases=("heaviside",),
    en="1 from the threshold upwards, else 0. Its derivative is 0 everywhere, so no gradient passes; "
    "a surrogate lets one through.",
    zh="阶跃函数:达到阈值为 1,否则为 0。导数处处为零,梯度无法通过;可选替代梯度。",
    options=(
        Number(name="threshold", default=0.0, description="where the step is"),
        Choice(
            name="surrogate",
            default="zero",
            values=("zero", "straight_through", "clipped", "sigmoid"),
            description="the derivative used in its place: 0; 1; 1 within one of the threshold; that of the sigmoid",
        ),
    ),
    latex=r"f(x) = [x \ge \theta]",
    derivative=r"f'(x) = 0",
    sources=("Bengio, Léonard, Courville 2013, arXiv:1308.3432", "Hubara et al. 2016, arXiv:1602.02830"),
)
def step(x: Node, threshold: float, surrogate: str) -> Node:
    value = greater_equal(x, threshold)
    if surrogate == "straight_through":
        return with_slope(x, value, broadcast(x.graph.constant(1.0), x.shape))
    if surrogate == "clipped":
        return with_slope(x, value, less_equal(absolute(x - threshold), 1.0))
    if surrogate == "sigmoid":
        return with_slope(x, value, logistic_slope(x - threshold))
    return value


@activations.declare(
    "sign",
    en="-1, 0 or 1 by the sign. Its derivative is 0 everywhere, so no gradient passes.",
    zh="符号函数:取 -1、0 或 1。导数处处为零,梯度无法通过。",
    latex=r"f(x) = \operatorname{sgn} x",
    derivative=r"f'(x) = 0",
    sources=(PYTORCH,),
)
def sign_of(x: Node) -> Node:
    return sign(x)


@activations.declare(
    "sigmoid",
    aliases=("logistic",),
    en="Squashes to (0, 1).",
    zh="S 形函数:压缩到 (0, 1)。",
    latex=r"\sigma(x) = \frac{1}{1 + e^{-x}}",
    derivative=r"\sigma'(x) = \sigma(x)\,(1 - \sigma(x))",
    sources=(PYTORCH, KERAS),
    quick=quick_sigmoid,
    log=lambda x: -soft_positive_part(-x),
    log_complement=lambda x: -soft_positive_part(x),
)
def sigmoid(x: Node) -> Node:
    return logistic(x)


@activations.declare(
    "tanh",
    en="Squashes to (-1, 1), with mean zero.",
    zh="双曲正切:压缩到 (-1, 1),均值为零。",
    latex=r"f(x) = \tanh x",
    derivative=r"f'(x) = 1 - \tanh^2 x",
    sources=(PYTORCH, KERAS),
    quick=quick_tanh,
)
def hyperbolic_tangent(x: Node) -> Node:
    return tanh(x)


@activations.declare(
    "relu",
    en="The positive part. The derivative at 0 is 0.",
    zh="线性整流:取正部。在 0 处导数取 0。",
    latex=r"f(x) = \max(x, 0)",
    derivative=r"f'(x) = [x > 0]",
    sources=(PYTORCH, KERAS),
)
def relu(x: Node) -> Node:
    value = maximum(x, 0.0)
    return with_slope(x, value, _above(value))


def _times_exponential(factor: Node, x: Node) -> Node:
    """Return factor · e^x for x ≤ 0, as a product of halves: e^x alone may lose digits that the product keeps."""
    half = exp(0.5 * x)
    return factor * half * half


def _negative_part(x: Node) -> Node:
    """Return min(x, 0), the complement of relu, with the slope 1 at 0."""
    return with_slope(x, minimum(x, 0.0), less_equal(x, 0.0))


@activations.declare(
    "leaky_relu",
    en="As relu, with a small slope alpha for negative values. The derivative at 0 is alpha.",
    zh="带泄漏的线性整流:负值保留小斜率 alpha。在 0 处导数取 alpha。",
    options=(Number(name="alpha", default=0.01, description="slope for negative values (PyTorch 0.01, Keras 0.3)"),),
    latex=r"f(x) = \begin{cases} x & x > 0 \\ \alpha x & x \le 0 \end{cases}",
    derivative=r"f'(x) = \begin{cases} 1 & x > 0 \\ \alpha & x \le 0 \end{cases}",
    sources=(PYTORCH, "Maas, Hannun, Ng 2013"),
)
def leaky_relu(x: Node, alpha: float) -> Node:
    return relu(x) + alpha * _negative_part(x)


@activations.declare(
    "prelu",
    en="As leaky_relu, but alpha is a parameter that is learned, one number per feature or one for all.",
    zh="参数化线性整流:alpha 是可学习参数,可每个特征一个或共用一个。",
    options=(Number(name="alpha", default=0.25, description="initial value of alpha (PyTorch 0.25, Keras 0)"),),
    latex=r"f(x) = \begin{cases} x & x > 0 \\ \alpha x & x \le 0 \end{cases}",
    derivative=r"f'(x) = \begin{cases} 1 & x > 0 \\ \alpha & x \le 0 \end{cases},\quad "
    r"\frac{\partial f}{\partial \alpha} = \min(x, 0)",
    sources=(PYTORCH, "He et al. 2015, arXiv:1502.01852"),
    parameters=("alpha",),
)
def prelu(x: Node, slope: Node, alpha: float) -> Node:
    return relu(x) + broadcast(slope, x.shape) * _negative_part(x)


@activations.declare(
    "elu",
    en="As relu, but saturates smoothly at -alpha. The derivative at 0 is alpha.",
    zh="指数线性单元:负侧平滑趋于 -alpha。在 0 处导数取 alpha。",
    options=(Number(name="alpha", default=1.0, description="saturation value for negative inputs"),),
    latex=r"f(x) = \begin{cases} x & x > 0 \\ \alpha\,(e^x - 1) & x \le 0 \end{cases}",
    derivative=r"f'(x) = \begin{cases} 1 & x > 0 \\ \alpha\,e^x & x \le 0 \end{cases}",
    sources=(PYTORCH, "Clevert, Unterthiner, Hochreiter 2015, arXiv:1511.07289"),
)
def elu(x: Node, alpha: float) -> Node:
    return relu(x) + alpha * expm1(_negative_part(x))


ROOT_2, ROOT_2_REST = math.sqrt(2.0), -9.667293313452913e-17
"""The square root of 2 as a sum of two numbers."""
SELU_ALPHA = 1.6732632423543772848
SELU_SCALE = 1.0507009873554804934


@activations.declare(
    "selu",
    en="Self-normalizing elu: scale and alpha keep mean 0 and variance 1 through deep networks.",
    zh="自归一化指数线性单元:固定的缩放与 alpha 使各层均值为 0、方差为 1。",
    latex=r"f(x) = \lambda \begin{cases} x & x > 0 \\ \alpha\,(e^x - 1) & x \le 0 \end{cases}",
    derivative=r"f'(x) = \lambda \begin{cases} 1 & x > 0 \\ \alpha\,e^x & x \le 0 \end{cases}",
    sources=(PYTORCH, "Klambauer et al. 2017, arXiv:1706.02515"),
)
def selu(x: Node) -> Node:
    return SELU_SCALE * elu(x, SELU_ALPHA)


@activations.declare(
    "celu",
    en="An elu whose derivative is continuous for every alpha.",
    zh="连续可导的指数线性单元。",
    options=(Number(name="alpha", default=1.0, minimum=0.0, open_minimum=True, description="saturation value"),),
    latex=r"f(x) = \max(x, 0) + \min(0, \alpha\,(e^{x/\alpha} - 1))",
    derivative=r"f'(x) = \begin{cases} 1 & x > 0 \\ e^{x/\alpha} & x \le 0 \end{cases}",
    sources=(PYTORCH, "Barron 2017, arXiv:1704.07483"),
)
def celu(x: Node, alpha: float) -> Node:
    return relu(x) + alpha * expm1(_negative_part(x) / alpha)


@activations.declare(
    "gelu",
    en="The input times the normal distribution function at it (exact form).",
    zh="高斯误差线性单元(精确形式)。",
    latex=r"f(x) = x\,\Phi(x)",
    derivative=r"f'(x) = \Phi(x) + x\,\varphi(x)",
    sources=(PYTORCH, "Hendrycks, Gimpel 2016, arXiv:1606.08415"),
)
def gelu(x: Node) -> Node:
    share, density = normal_cdf(x), normal_density(x)
    # (2 - x²) φ(x): each factor keeps its digits near its zero, and φ stands first, so that nothing overflows.
    curvature = density * ((ROOT_2 - x) + ROOT_2_REST) * ((ROOT_2 + x) + ROOT_2_REST)
    return with_slope(x, x * share, with_slope(x, share + x * density, curvature))


@activations.declare(
    "gelu_tanh",
    en="The tanh approximation of gelu.",
    zh="gelu 的 tanh 近似。",
    latex=r"f(x) = \tfrac12 x\,(1 + \tanh u),\quad u = \sqrt{2/\pi}\,(x + 0.044715\,x^3)",
    derivative=r"f'(x) = \tfrac12 (1 + \tanh u) + \tfrac12 x\,(1 - \tanh^2 u)\,\frac{du}{dx}",
    sources=(PYTORCH, "Hendrycks, Gimpel 2016, arXiv:1606.08415"),
)
def gelu_tanh(x: Node) -> Node:
    # ½(1 + tanh u) = σ(2u), which keeps its digits where tanh u is close to -1. Beyond ±40 it is 0 or 1; x³ could
    # overflow there.
    near = clip(x, -40.0, 40.0)
    scale = 2.0 * math.sqrt(2.0 / math.pi)
    exponent = scale * (near + 0.044715 * (square(near) * near))
    share, density = logistic(exponent), logistic_slope(exponent)
    growth = scale * (1.0 + (3.0 * 0.044715) * square(near))
    bend = (6.0 * 0.044715 * scale) * near - square(growth) * tanh(0.5 * exponent)
    slope = share + near * growth * density
    return with_slope(x, x * share, with_slope(x, slope, density * (2.0 * growth + near * bend)))


@activations.declare(
    "silu",
    aliases=("swish",),
    en="The input times its sigmoid.",
    zh="Swish:输入乘以其 sigmoid。",
    latex=r"f(x) = x\,\sigma(x)",
    derivative=r"f'(x) = \sigma(x)\,(1 + x\,(1 - \sigma(x)))",
    sources=(PYTORCH, "Ramachandran, Zoph, Le 2017, arXiv:1710.05941"),
)
def silu(x: Node) -> Node:
    share, density = logistic(x), logistic_slope(x)
    curvature = density * (2.0 - x * tanh(0.5 * x))
    return with_slope(x, x * share, with_slope(x, share + x * density, curvature))


@activations.declare(
    "mish",
    en="The input times the tanh of its softplus.",
    zh="Mish:输入乘以 softplus 的 tanh。",
    latex=r"f(x) = x \tanh(\ln(1 + e^x))",
    derivative=r"f'(x) = t + x\,\sigma(x)\,(1 - t^2),\quad t = \tanh(\ln(1 + e^x))",
    sources=(PYTORCH, "Misra 2019, arXiv:1908.08681"),
)
def mish(x: Node) -> Node:
    # With E = e^x, mish is x E (E + 2) / (E² + 2E + 2), and its derivatives are such fractions too. Here E = m / n:
    # neither m nor n overflows, and one of them is 1.
    negative = minimum(x, 0.0)
    m, n = exp(negative), exp(-maximum(x, 0.0))
    divisor = m * (m + 2.0 * n) + 2.0 * square(n)
    share = (m + 2.0 * n) / divisor
    tail = n / divisor
    slope = share + x * (4.0 * (m + n) * square(tail))
    change = square(n) * (m + n) - square(m) * (m + 1.5 * n)
    curvature = ((m + n) * divisor + x * change) * tail * tail / divisor
    value = _times_exponential(x, negative) * share
    return with_slope(
        x, value, with_slope(x, _times_exponential(slope, negative), 8.0 * _times_exponential(curvature, negative))
    )


@activations.declare(
    "softplus",
    en="A smooth relu. Exact everywhere (PyTorch switches to x above 20, which differs by 2e-9).",
    zh="平滑的线性整流,处处精确。",
    latex=r"f(x) = \ln(1 + e^x)",
    derivative=r"f'(x) = \sigma(x)",
    sources=(PYTORCH, KERAS),
)
def softplus(x: Node) -> Node:
    return soft_positive_part(x)


@activations.declare(
    "softsign",
    en="Squashes to (-1, 1), with slower tails than tanh.",
    zh="软符号函数:压缩到 (-1, 1),尾部比 tanh 缓慢。",
    latex=r"f(x) = \frac{x}{1 + |x|}",
    derivative=r"f'(x) = \frac{1}{(1 + |x|)^2}",
    sources=(PYTORCH, KERAS),
)
def softsign(x: Node) -> Node:
    denominator = 1.0 + absolute(x)
    return with_slope(x, x / denominator, square(1.0 / denominator))


@activations.declare(
    "hard_sigmoid",
    aliases=("hardsigmoid",),
    en="A sigmoid of three straight pieces. The derivative at -3 and 3 is 0.",
    zh="分段线性的 sigmoid。在 ±3 处导数取 0。",
    latex=r"f(x) = \operatorname{clip}(x/6 + \tfrac12,\ 0,\ 1)",
    derivative=r"f'(x) = \tfrac16\,[\,|x| < 3\,]",
    sources=(PYTORCH, KERAS),
)
def hard_sigmoid(x: Node) -> Node:
    # x + 3 is exact beside the kink, where x/6 + ½ would be rounded at the size of ½.
    return with_slope(x, clip(x + 3.0, 0.0, 6.0) / 6.0, less(absolute(x), 3.0) / 6.0)


@activations.declare(
    "hard_tanh",
    aliases=("hardtanh",),
    en="The input limited to [-1, 1]. The derivative at -1 and 1 is 0.",
    zh="分段线性的 tanh。在 ±1 处导数取 0。",
    latex=r"f(x) = \operatorname{clip}(x, -1, 1)",
    derivative=r"f'(x) = [\,|x| < 1\,]",
    sources=(PYTORCH, KERAS),
)
def hard_tanh(x: Node) -> Node:
    return with_slope(x, clip(x, -1.0, 1.0), less(absolute(x), 1.0))


@activations.declare(
    "relu6",
    en="relu limited to 6. The derivative at 0 and 6 is 0.",
    zh="上限为 6 的线性整流。在 0 和 6 处导数取 0。",
    latex=r"f(x) = \operatorname{clip}(x, 0, 6)",
    derivative=r"f'(x) = [0 < x < 6]",
    sources=(PYTORCH, KERAS),
)
def relu6(x: Node) -> Node:
    return with_slope(x, clip(x, 0.0, 6.0), _above(x) * less(x, 6.0))


@activations.declare(
    "hard_silu",
    aliases=("hard_swish", "hardswish"),
    en="silu with the sigmoid of three straight pieces. The derivative at -3 is 0, at 3 it is 1.",
    zh="分段线性 sigmoid 的 Swish。在 -3 处导数取 0,在 3 处取 1。",
    latex=r"f(x) = x\,\operatorname{clip}(x/6 + \tfrac12,\ 0,\ 1)",
    derivative=r"f'(x) = \begin{cases} 0 & x \le -3 \\ x/3 + \tfrac12 & -3 < x < 3 \\ 1 & x \ge 3 \end{cases}",
    sources=(PYTORCH, "Howard et al. 2019, arXiv:1905.02244"),
)
def hard_silu(x: Node) -> Node:
    slope = (x + 1.5) * less(absolute(x), 3.0) / 3.0 + greater_equal(x, 3.0)
    return with_slope(x, x * hard_sigmoid(x), slope)


@activations.declare(
    "log_sigmoid",
    aliases=("logsigmoid",),
    en="The logarithm of the sigmoid, without overflow.",
    zh="sigmoid 的对数,无溢出。",
    latex=r"f(x) = -\ln(1 + e^{-x})",
    derivative=r"f'(x) = \sigma(-x)",
    sources=(PYTORCH, KERAS),
)
def log_sigmoid(x: Node) -> Node:
    return -soft_positive_part(-x)


@activations.declare(
    "exponential",
    aliases=("exp",),
    en="The exponential function.",
    zh="指数函数。",
    latex=r"f(x) = e^x",
    derivative=r"f'(x) = e^x",
    sources=(KERAS,),
)
def exponential(x: Node) -> Node:
    return exp(x)


@activations.declare(
    "hard_shrink",
    aliases=("hardshrink",),
    en="0 within the threshold of 0, else the input.",
    zh="硬收缩:|x| 不超过阈值 时为 0,否则为输入本身。",
    options=(Number(name="threshold", default=0.5, minimum=0.0, description="half-width of the dead zone"),),
    latex=r"f(x) = x\,[\,|x| > \lambda\,]",
    derivative=r"f'(x) = [\,|x| > \lambda\,]",
    sources=(PYTORCH, KERAS),
)
def hard_shrink(x: Node, threshold: float) -> Node:
    outside = _above(absolute(x), threshold)
    return with_slope(x, x * outside, outside)


@activations.declare(
    "soft_shrink",
    aliases=("softshrink",),
    en="The input moved by the threshold towards 0, and 0 within the threshold of it.",
    zh="软收缩:向 0 移动阈值,|x| 不超过阈值 时为 0。",
    options=(Number(name="threshold", default=0.5, minimum=0.0, description="half-width of the dead zone"),),
    latex=r"f(x) = \operatorname{sgn}(x)\,\max(|x| - \lambda, 0)",
    derivative=r"f'(x) = [\,|x| > \lambda\,]",
    sources=(PYTORCH, KERAS),
)
def soft_shrink(x: Node, threshold: float) -> Node:
    return with_slope(x, x - clip(x, -threshold, threshold), _above(absolute(x), threshold))


@activations.declare(
    "tanh_shrink",
    aliases=("tanhshrink",),
    en="The input minus its tanh.",
    zh="输入减去其 tanh。",
    latex=r"f(x) = x - \tanh x",
    derivative=r"f'(x) = \tanh^2 x",
    sources=(PYTORCH, KERAS),
)
def tanh_shrink(x: Node) -> Node:
    return excess_over_tanh(x)


@activations.declare(
    "softmax",
    en="Positive values that sum to 1 along the last axis: a probability for each class.",
    zh="沿最后一轴归一化为和为 1 的正数:各类的概率。",
    latex=r"f(x)_i = \frac{e^{x_i}}{\sum_j e^{x_j}}",
    derivative=r"\frac{\partial f_i}{\partial x_j} = f_i\,(\delta_{ij} - f_j)",
    sources=(PYTORCH, KERAS),
    acts_on="row",
    log=stable_log_softmax,
)
def softmax_over_features(x: Node) -> Node:
    return softmax(x)


@activations.declare(
    "softmin",
    en="The softmax of the negated input: the smallest value gets the largest share.",
    zh="对取负的输入做 softmax:最小值得到最大份额。",
    latex=r"f(x)_i = \frac{e^{-x_i}}{\sum_j e^{-x_j}}",
    derivative=r"\frac{\partial f_i}{\partial x_j} = -f_i\,(\delta_{ij} - f_j)",
    sources=(PYTORCH,),
    acts_on="row",
    log=lambda x: stable_log_softmax(-x),
)
def softmin(x: Node) -> Node:
    return softmax(-x)


@activations.declare(
    "log_softmax",
    en="The logarithm of softmax, without overflow.",
    zh="softmax 的对数,无溢出。",
    latex=r"f(x)_i = x_i - \ln \sum_j e^{x_j}",
    derivative=r"\frac{\partial f_i}{\partial x_j} = \delta_{ij} - \frac{e^{x_j}}{\sum_k e^{x_k}}",
    sources=(PYTORCH, KERAS),
    acts_on="row",
)
def log_softmax(x: Node) -> Node:
    return stable_log_softmax(x)
