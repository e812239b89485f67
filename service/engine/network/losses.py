"""Loss functions, each declared once.

A function takes a `Prediction` and the targets and returns l_n, one number per sample, as a graph
node of shape `(samples,)`. Reductions over samples, sample weights and regularisation are the
same for every loss and stand in `total_loss.py`. A loss averages over the outputs of a sample where
PyTorch and Keras do, and sums where its name says so.

Losses with logarithms ask the prediction for them. Where the last activation has a stable form
(sigmoid, softmax), the prediction computes them from the pre-activation, and the gradient p - t
follows from the graph. Elsewhere PyTorch's clamps apply: ln p ≥ -100, and p ≥ 1e-12 in the derivative.

Formulas keep their digits and stay finite for every prediction whose loss is representable.
`tests/engine/network/test_losses_to_the_last_digit.py` lists the exceptions, with reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from service.engine.building import (
    Array,
    Declaration,
    Flag,
    Node,
    Number,
    Numbers,
    Registry,
    Selection,
    absolute,
    broadcast,
    clip,
    exp,
    greater,
    log,
    log1p,
    maximum,
    minimum,
    one_hot,
    reshape,
    root_mean_square,
    sinh,
    square,
    sum_over,
    tanh,
    weighted,
    with_slope,
    xlogy,
)
from service.engine.network.activations import Activation, activations, relu


@dataclass(frozen=True, kw_only=True, eq=False)
class Loss(Declaration):
    """The declaration of a loss: a function of a prediction and targets that returns a number for each sample."""

    indices: bool = False
    """Targets are class indices, with one axis fewer than the outputs."""
    class_weight: Callable[..., Node | None] | None = None
    """`class_weight(prediction, target, **options)`: the weight of each sample by its class, for normalised means."""
    targets: tuple[str, Callable[[Array], bool]] | None = None
    """The targets that the loss is made for: in words, and as a test of them."""
    outputs: str | None = None
    """The outputs that the loss is made for: `probabilities` between 0 and 1, `distributions`, which also sum to 1, or
    `rates`, which are not negative."""
    of_directions: bool = False
    """Whether only the directions of outputs and targets count, and not their sizes."""
    domain: tuple[float, float] = (-3.0, 3.0)
    """The range of predictions that the catalogue draws."""
    example_target: float = 1.0
    """The target that the catalogue draws against."""


losses: Registry[Loss] = Registry("loss", "losses", Loss)

PYTORCH = "https://docs.pytorch.org/docs/stable/nn.html#loss-functions"
KERAS = "https://keras.io/api/losses/"
SMALLEST_LOG = -100.0
SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class Prediction:
    """An output of a network as losses take it. Logits and activation are set where they help with logarithms."""

    value: Node
    logits: Node | None = None
    activation: Selection[Activation] | None = None

    def log(self) -> Node:
        """Return ln p, computed from the logits where the last activation allows it."""
        stable = self.activation.declaration.log if self.activation else None
        return _clamped_log(self.value) if stable is None or self.logits is None else stable(self.logits)

    def log_complement(self) -> Node:
        """Return ln(1 - p), computed from the logits where the last activation allows it."""
        stable = self.activation.declaration.log_complement if self.activation else None
        return _clamped_log_complement(self.value) if stable is None or self.logits is None else stable(self.logits)

    def as_logits_of(self, activation: str) -> Prediction:
        """Return the prediction that `activation` gives when this value is taken as its logits."""
        selected = activations.select(activation)
        return Prediction(selected.declaration.build(self.value), self.value, selected)


def _clamped_log(p: Node) -> Node:
    return with_slope(p, maximum(log(p), SMALLEST_LOG), 1.0 / maximum(p, SMALLEST_PROBABILITY))


def _clamped_log_complement(p: Node) -> Node:
    # The digits of a small p are lost in 1 - p.
    return with_slope(p, maximum(log1p(-p), SMALLEST_LOG), -1.0 / maximum(1.0 - p, SMALLEST_PROBABILITY))


def _total(x: Node) -> Node:
    """Return the sum over all axes but that of the samples."""
    return sum_over(x, range(1, len(x.shape)))


def _average(x: Node) -> Node:
    """Return the mean over all axes but that of the samples."""
    return _total(x) / float(math.prod(x.shape[1:]))


def _positions(x: Node) -> float:
    """Return the number of distributions per sample: the places along the axes between samples and classes."""
    return float(math.prod(x.shape[1:-1]))


SHARES = ("between 0 and 1", lambda targets: bool(targets.min() >= 0.0 and targets.max() <= 1.0))
SIGNS = ("-1 or 1", lambda targets: bool((np.abs(targets) == 1.0).all()))
COUNTS = ("0 or more", lambda targets: bool(targets.min() >= 0.0))

LABEL_SMOOTHING = Number(
    name="label_smoothing",
    default=0.0,
    minimum=0.0,
    maximum=1.0,
    open_maximum=True,
    description="share of every target that is spread evenly over the classes",
)
FROM_LOGITS = Flag(name="from_logits", default=False, description="the outputs are pre-activations, not probabilities")
CLASS_WEIGHTS = Numbers(
    name="class_weights", default=None, minimum=0.0, description="one factor per class (none: all 1)"
)


@losses.declare(
    "mean_squared_error",
    aliases=("mse",),
    en="Mean over the outputs of the squared error.",
    zh="各输出误差平方的平均值。",
    latex=r"\ell = \frac1K \sum_k (p_k - t_k)^2",
    derivative=r"\frac{\partial \ell}{\partial p_k} = \frac2K (p_k - t_k)",
    sources=(PYTORCH, KERAS),
)
def mean_squared_error(prediction: Prediction, target: Node) -> Node:
    return _average(square(prediction.value - target))


@losses.declare(
    "squared_error",
    en="Sum over the outputs of the squared error.",
    zh="各输出误差平方之和。",
    latex=r"\ell = \sum_k (p_k - t_k)^2",
    derivative=r"\frac{\partial \ell}{\partial p_k} = 2 (p_k - t_k)",
)
def squared_error(prediction: Prediction, target: Node) -> Node:
    return _total(square(prediction.value - target))


@losses.declare(
    "half_squared_error",
    aliases=("quadratic_cost",),
    en="Half the sum over the outputs of the squared error: the quadratic cost of the textbooks.",
    zh="误差平方和的一半:教科书中的二次代价。",
    latex=r"\ell = \frac12 \sum_k (p_k - t_k)^2",
    derivative=r"\frac{\partial \ell}{\partial p_k} = p_k - t_k",
    sources=("http://neuralnetworksanddeeplearning.com/chap3.html",),
)
def half_squared_error(prediction: Prediction, target: Node) -> Node:
    return 0.5 * _total(square(prediction.value - target))


@losses.declare(
    "mean_absolute_error",
    aliases=("mae", "l1_loss"),
    en="Mean over the outputs of the absolute error; the derivative at 0 is 0.",
    zh="各输出绝对误差的平均值;在 0 处导数取 0。",
    latex=r"\ell = \frac1K \sum_k |p_k - t_k|",
    derivative=r"\frac{\partial \ell}{\partial p_k} = \frac1K \operatorname{sgn}(p_k - t_k)",
    sources=(PYTORCH, KERAS),
)
def mean_absolute_error(prediction: Prediction, target: Node) -> Node:
    return _average(absolute(prediction.value - target))


def _huber(error: Node, delta: float, divisor: float = 1.0) -> Node:
    """Return Huber's loss divided by `divisor`. The bounded factor is divided first, so nothing overflows."""
    size = absolute(error)
    near = minimum(size, delta)
    value = (near / divisor) * (size - 0.5 * near)
    return with_slope(error, value, clip(error, -delta, delta) / divisor)


@losses.declare(
    "huber",
    en="Quadratic for small errors, linear beyond delta.",
    zh="小误差取平方,超过 delta 后线性。",
    options=(Number(name="delta", default=1.0, minimum=0.0, open_minimum=True, description="where it becomes linear"),),
    latex=r"\ell = \frac1K \sum_k \begin{cases} \frac12 e^2 & |e| \le \delta \\ "
    r"\delta\,(|e| - \frac12\delta) & |e| > \delta \end{cases},\quad e = p_k - t_k",
    derivative=r"\frac{\partial \ell}{\partial p_k} = \frac1K \operatorname{clip}(e, -\delta, \delta)",
    sources=(PYTORCH, KERAS),
)
def huber(prediction: Prediction, target: Node, delta: float) -> Node:
    return _average(_huber(prediction.value - target, delta))


@losses.declare(
    "smooth_l1",
    en="Huber's loss divided by its threshold beta; with beta 0 the mean absolute error.",
    zh="Huber 损失除以阈值 beta;beta 为 0 时即平均绝对误差。",
    options=(Number(name="beta", default=1.0, minimum=0.0, description="where it becomes linear"),),
    latex=r"\ell = \frac1K \sum_k \begin{cases} \frac{e^2}{2\beta} & |e| \le \beta \\ "
    r"|e| - \frac12\beta & |e| > \beta \end{cases},\quad e = p_k - t_k",
    derivative=r"\frac{\partial \ell}{\partial p_k} = \frac1K \operatorname{clip}(e/\beta, -1, 1)",
    sources=(PYTORCH,),
)
def smooth_l1(prediction: Prediction, target: Node, beta: float) -> Node:
    error = prediction.value - target
    return _average(absolute(error) if beta == 0.0 else _huber(error, beta, beta))


@losses.declare(
    "log_cosh",
    en="Mean of the logarithm of the hyperbolic cosine of the error, without overflow.",
    zh="误差双曲余弦对数的平均值,无溢出。",
    latex=r"\ell = \frac1K \sum_k \ln \cosh(p_k - t_k)",
    derivative=r"\frac{\partial \ell}{\partial p_k} = \frac1K \tanh(p_k - t_k)",
    sources=(KERAS,),
)
def log_cosh(prediction: Prediction, target: Node) -> Node:
    error = prediction.value - target
    size = absolute(error)
    # Near 0 the terms of the usual formula cancel: there it is ln(1 + 2 sinh²(e/2)).
    small = log1p(2.0 * square(sinh(0.5 * minimum(size, 1.0))))
    large = size + (log1p(exp(-2.0 * size)) - math.log(2.0))
    return _average(with_slope(error, small + greater(size, 1.0) * (large - small), tanh(error)))


@losses.declare(
    "binary_crossentropy",
    aliases=("bce",),
    en="Mean over the outputs of the cross-entropy between two classes; targets in [0, 1].",
    zh="各输出二元交叉熵的平均值;目标在 [0, 1] 内。",
    options=(
        FROM_LOGITS,
        LABEL_SMOOTHING,
        Number(
            name="positive_weight", default=1.0, minimum=0.0, description="factor of the part that belongs to target 1"
        ),
    ),
    latex=r"\ell = -\frac1K \sum_k \big(t_k \ln p_k + (1 - t_k) \ln(1 - p_k)\big)",
    derivative=r"\frac{\partial \ell}{\partial p_k} = \frac1K \frac{p_k - t_k}{p_k (1 - p_k)},\quad "
    r"p = \sigma(z):\ \frac{\partial \ell}{\partial z_k} = \frac1K (p_k - t_k)",
    sources=(PYTORCH, KERAS),
    domain=(0.01, 0.99),
    targets=SHARES,
    outputs="probabilities",
)
def binary_crossentropy(
    prediction: Prediction, target: Node, from_logits: bool, label_smoothing: float, positive_weight: float
) -> Node:
    p = prediction.as_logits_of("sigmoid") if from_logits else prediction
    complement = 1.0 - target
    if label_smoothing:
        target = (1.0 - label_smoothing) * target + 0.5 * label_smoothing
        complement = (1.0 - label_smoothing) * complement + 0.5 * label_smoothing
    return -_average(positive_weight * (target * p.log()) + complement * p.log_complement())


def _weighted_classes(target: Node, class_weights: tuple[float, ...] | None) -> Node:
    if class_weights is None:
        return target
    return target * broadcast(target.graph.vector(class_weights), target.shape)


def _weight_of_target(
    prediction: Prediction, target: Node, class_weights: tuple[float, ...] | None, **_: object
) -> Node | None:
    if class_weights is None:
        return None
    return _total(_weighted_classes(target, class_weights)) / _positions(target)


def _weight_of_index(prediction: Prediction, target: Node, **options: object) -> Node | None:
    return _weight_of_target(prediction, one_hot(target, prediction.value.shape[-1]), **options)  # type: ignore[arg-type]


@losses.declare(
    "categorical_crossentropy",
    aliases=("cce",),
    en="Cross-entropy between two distributions over classes; targets are one-hot rows or probabilities.",
    zh="类别分布之间的交叉熵;目标为独热行或概率。",
    options=(FROM_LOGITS, LABEL_SMOOTHING, CLASS_WEIGHTS),
    latex=r"\ell = -\sum_k t_k \ln p_k",
    derivative=r"\frac{\partial \ell}{\partial p_k} = -\frac{t_k}{p_k},\quad "
    r"p = \operatorname{softmax}(z):\ \frac{\partial \ell}{\partial z_k} = p_k \sum_j t_j - t_k",
    sources=(PYTORCH, KERAS),
    class_weight=_weight_of_target,
    domain=(0.01, 1.0),
    targets=SHARES,
    outputs="distributions",
)
def categorical_crossentropy(
    prediction: Prediction,
    target: Node,
    from_logits: bool,
    label_smoothing: float,
    class_weights: tuple[float, ...] | None,
) -> Node:
    p = prediction.as_logits_of("softmax") if from_logits else prediction
    if label_smoothing:
        target = (1.0 - label_smoothing) * target + label_smoothing / target.shape[-1]
    # Logits may lie farther apart than the largest number. Those that are not chosen then have a probability of 0.
    return -_total(weighted(_weighted_classes(target, class_weights), p.log())) / _positions(p.value)


@losses.declare(
    "sparse_categorical_crossentropy",
    aliases=("scce",),
    en="Cross-entropy with targets given as class indices, counted from 0.",
    zh="目标为类别下标(从 0 开始)的交叉熵。",
    options=(FROM_LOGITS, LABEL_SMOOTHING, CLASS_WEIGHTS),
    latex=r"\ell = -\ln p_t",
    derivative=r"p = \operatorname{softmax}(z):\ \frac{\partial \ell}{\partial z_k} = p_k - [k = t]",
    sources=(PYTORCH, KERAS),
    indices=True,
    class_weight=_weight_of_index,
    domain=(0.01, 1.0),
    example_target=0.0,
    outputs="distributions",
)
def sparse_categorical_crossentropy(
    prediction: Prediction,
    target: Node,
    from_logits: bool,
    label_smoothing: float,
    class_weights: tuple[float, ...] | None,
) -> Node:
    hot = one_hot(target, prediction.value.shape[-1])
    return categorical_crossentropy(prediction, hot, from_logits, label_smoothing, class_weights)


@losses.declare(
    "kl_divergence",
    aliases=("kullback_leibler_divergence",),
    en="Kullback-Leibler divergence from the predicted to the target distribution.",
    zh="预测分布与目标分布之间的 KL 散度。",
    latex=r"\ell = \sum_k t_k (\ln t_k - \ln p_k)",
    derivative=r"\frac{\partial \ell}{\partial p_k} = -\frac{t_k}{p_k}",
    sources=(PYTORCH, KERAS),
    domain=(0.01, 1.0),
    targets=SHARES,
    outputs="distributions",
)
def kl_divergence(prediction: Prediction, target: Node) -> Node:
    # A negative target has no logarithm. The smallest number replaces it, as it replaces 0, where 0 ln 0 = 0.
    known = maximum(target, float(np.finfo(target.dtype).smallest_subnormal))
    return _total(xlogy(target, known) - weighted(target, prediction.log())) / _positions(prediction.value)


@losses.declare(
    "poisson",
    en="Negative log-likelihood of counts under a Poisson distribution, without the constant ln t!.",
    zh="泊松分布的负对数似然(略去常数 ln t!)。",
    options=(
        Flag(name="log_input", default=False, description="the outputs are the logarithms of the rates"),
        Number(name="epsilon", default=1e-8, minimum=0.0, description="added to the rate inside the logarithm"),
    ),
    latex=r"\ell = \frac1K \sum_k \big(p_k - t_k \ln(p_k + \varepsilon)\big)",
    derivative=r"\frac{\partial \ell}{\partial p_k} = \frac1K \Big(1 - \frac{t_k}{p_k + \varepsilon}\Big)",
    sources=(PYTORCH, KERAS),
    domain=(0.01, 4.0),
    targets=COUNTS,
    outputs="rates",
)
def poisson(prediction: Prediction, target: Node, log_input: bool, epsilon: float) -> Node:
    p = prediction.value
    if log_input:
        return _average(exp(p) - target * p)
    rate = p + epsilon
    # Near the minimum, 1 - t / rate would be the difference of two nearly equal numbers.
    slope = with_slope(p, (p - target + epsilon) / rate, target / rate / rate)
    # Near p = 1 the logarithm is that of what the sum rounds away (two-sum of Knuth, TAOCP 2, 4.2.2).
    added = rate - p
    rounded = (p - (rate - added)) + (epsilon - added)
    logarithm = xlogy(target, rate) + target * (rounded / maximum(rate, float(np.finfo(p.dtype).tiny)))
    return _average(with_slope(p, p - logarithm, slope))


@losses.declare(
    "hinge",
    en="Mean over the outputs of max(0, 1 - t p); targets are -1 or 1. The derivative at the hinge is 0.",
    zh="各输出 max(0, 1 - t p) 的平均值;目标为 -1 或 1。转折处导数取 0。",
    latex=r"\ell = \frac1K \sum_k \max(0, 1 - t_k p_k)",
    derivative=r"\frac{\partial \ell}{\partial p_k} = -\frac{t_k}{K} [t_k p_k < 1]",
    sources=(KERAS,),
    targets=SIGNS,
)
def hinge(prediction: Prediction, target: Node) -> Node:
    return _average(relu(1.0 - target * prediction.value))


@losses.declare(
    "squared_hinge",
    en="Mean over the outputs of the square of the hinge; targets are -1 or 1.",
    zh="各输出合页损失平方的平均值;目标为 -1 或 1。",
    latex=r"\ell = \frac1K \sum_k \max(0, 1 - t_k p_k)^2",
    derivative=r"\frac{\partial \ell}{\partial p_k} = -\frac{2 t_k}{K} \max(0, 1 - t_k p_k)",
    sources=(KERAS,),
    targets=SIGNS,
)
def squared_hinge(prediction: Prediction, target: Node) -> Node:
    return _average(square(relu(1.0 - target * prediction.value)))


@losses.declare(
    "cosine_similarity",
    of_directions=True,
    en="The negative cosine of the angle between prediction and target.",
    zh="预测与目标夹角余弦的相反数。",
    options=(Number(name="epsilon", default=1e-8, minimum=1e-18, description="smallest norm that is divided by"),),
    latex=r"\ell = -\frac{p \cdot t}{\max(\|p\|, \varepsilon)\,\max(\|t\|, \varepsilon)}",
    derivative=r"\frac{\partial \ell}{\partial p} = -\frac{1}{\|p\|} \Big(\frac{t}{\|t\|} + \ell\,\frac{p}{\|p\|}\Big)",
    sources=(PYTORCH, KERAS),
)
def cosine_similarity(prediction: Prediction, target: Node, epsilon: float) -> Node:
    return -_average(_to_unit_scale(prediction.value, epsilon) * _to_unit_scale(target, epsilon))


def _to_unit_scale(x: Node, epsilon: float) -> Node:
    """Return x with each sample divided by its root mean square, at least epsilon / √K. The length of a sample may be
    too large for a float."""
    roots = root_mean_square(x, range(1, len(x.shape)))
    divisors = maximum(roots, epsilon / math.sqrt(math.prod(x.shape[1:])))
    return x / broadcast(reshape(divisors, (x.shape[0], *[1] * (len(x.shape) - 1))), x.shape)
