"""Findings in the definition of a network and in its numbers, which every answer reports as warnings."""

from __future__ import annotations

from service.engine.findings.declaration import findings
from service.engine.findings.sources import ALWAYS_NOTE, ALWAYS_PROBLEM, ALWAYS_WARNING, EXACT, HE
from service.engine.texts import Sentence, say

# --- in every answer: the network as it is defined --------------------------------------------------


@findings.declare(
    "constant_output",
    en="A layer gives the same whatever comes in, so no gradient passes it.",
    zh="某层无论输入什么都给出相同的值,梯度无法通过它。",
    latex=r"\frac{\partial a}{\partial z} = 0",
    severities=ALWAYS_PROBLEM,
    sources=(EXACT,),
)
def constant_output(layer: str, activation: str | None = None, constant: str | None = None) -> Sentence:
    if activation is None:
        return say("findings.constant_output.alone", layer=layer)
    return say("findings.constant_output.one_unit", layer=layer, activation=activation, constant=constant)


@findings.declare(
    "one_class",
    en="A loss over classes sees a single class, so there is nothing to tell apart.",
    zh="多类损失只看到一个类别,没有可区分的对象。",
    latex=r"K = 1",
    severities=ALWAYS_PROBLEM,
    sources=(EXACT,),
)
def one_class(layer: str, loss: str, is_zero: bool) -> Sentence:
    if is_zero:
        return say("findings.one_class.zero", layer=layer, loss=loss)
    return say("findings.one_class.ones", layer=layer, loss=loss)


@findings.declare(
    "probabilities_as_logits",
    en="The loss applies its own softmax or sigmoid to outputs that went through one already.",
    zh="损失把已经过激活的概率当作未归一化的分值,又归一化一次。",
    latex=r"a \in [0, 1] \text{ taken as } z",
    severities=ALWAYS_WARNING,
    sources=(EXACT,),
)
def probabilities_as_logits(layer: str, activation: str) -> Sentence:
    return say("findings.probabilities_as_logits.text", layer=layer, activation=activation)


@findings.declare(
    "gradient_blocked",
    en="A function has the derivative 0 everywhere, so nothing that feeds it can learn.",
    zh="某函数的导数处处为零,供给它的一切都学不到东西。",
    latex=r"f'(z) = 0 \text{ for all } z",
    severities=ALWAYS_PROBLEM,
    sources=(EXACT,),
)
def gradient_blocked(layer: str, function: str) -> Sentence:
    return say("findings.gradient_blocked.text", layer=layer, function=function)


@findings.declare(
    "disconnected",
    en="A parameter does not influence the loss, so its gradient is 0 for ever.",
    zh="某参数不影响损失,它的梯度永远为 0。",
    latex=r"\frac{\partial L}{\partial \theta} = 0",
    severities=ALWAYS_WARNING,
    sources=(EXACT,),
)
def disconnected(layer: str, parameter: str, of: str = "") -> Sentence:
    if of == "outputs":
        return say("findings.disconnected.outputs", layer=layer, parameter=parameter)
    if of == "loss":
        return say("findings.disconnected.loss", layer=layer, parameter=parameter)
    return say("findings.disconnected.text", layer=layer, parameter=parameter)


# --- in every answer: its numbers -------------------------------------------------------------------


@findings.declare(
    "unusual_targets",
    en="Targets lie outside the range for which the loss is made, so its minimum is not where it should be.",
    zh="目标值超出损失所适用的范围,其最小值不在应在之处。",
    latex=r"t \notin T",
    severities=ALWAYS_WARNING,
    sources=(EXACT,),
)
def unusual_targets(layer: str, words: str, loss: str) -> Sentence:
    return say("findings.unusual_targets.text", layer=layer, range=_RANGES[words](), loss=loss)


@findings.declare(
    "unreachable_targets",
    en="Targets lie beyond the numbers that the last activation gives, so the outputs cannot equal them.",
    zh="目标值超出最后一个激活函数能给出的范围,输出不可能与之相等。",
    latex=r"t \notin f(\mathbb{R})",
    severities=ALWAYS_WARNING,
    sources=(EXACT,),
)
def unreachable_targets(layer: str, activation: str, low: str | None, high: str | None) -> Sentence:
    if high is None:
        return say("findings.unreachable_targets.below", layer=layer, activation=activation, bound=low)
    if low is None:
        return say("findings.unreachable_targets.above", layer=layer, activation=activation, bound=high)
    return say("findings.unreachable_targets.beyond", layer=layer, activation=activation, low=low, high=high)


_RANGES = {
    "between 0 and 1": lambda: say("findings.range.shares"),
    "-1 or 1": lambda: say("findings.range.signs"),
    "0 or more": lambda: say("findings.range.counts"),
}


@findings.declare(
    "normalize_weights",
    en="Weights do not sum to how many there are, and frameworks define the weighted mean in two ways.",
    zh="权重之和不等于其个数,而各框架对加权平均有两种定义。",
    latex=r"\sum_n w_n \ne N",
    severities=ALWAYS_NOTE,
    sources=("PyTorch: the sum of the weights; Keras: how many there are",),
)
def normalize_weights(total: str, count: str, layer: str | None = None) -> Sentence:
    if layer is None:
        return say("findings.normalize_weights.samples", total=total, number=count)
    return say("findings.normalize_weights.classes", total=total, number=count, layer=layer)


@findings.declare(
    "folded_parameters",
    en="The exporter of an ONNX file changed parameters: their names, and perhaps values, are not those of the model.",
    zh="导出 ONNX 文件时参数被改动:名称乃至数值可能与原模型不同。",
    latex=r"W' = \gamma \, W / \sqrt{v + \epsilon}",
    severities=ALWAYS_NOTE,
    sources=("https://docs.pytorch.org/docs/stable/onnx_export.html",),
)
def folded_parameters(names: str) -> Sentence:
    return say("findings.folded_parameters.text", names=names)


@findings.declare(
    "no_probabilities",
    en="Outputs are no probabilities, so a cross-entropy of them means nothing.",
    zh="输出不是概率,对它们取交叉熵没有意义。",
    latex=r"a \notin [0, 1] \text{ or } \sum_k a_k \ne 1",
    severities=ALWAYS_PROBLEM,
    sources=(EXACT,),
)
def no_probabilities(layer: str, loss: str, activation: str, from_logits: bool, total: str | None = None) -> Sentence:
    remedy = (
        say("findings.no_probabilities.or_logits", activation=activation)
        if from_logits
        else say("findings.no_probabilities.end", activation=activation)
    )
    if total is None:
        return say("findings.no_probabilities.range", layer=layer, loss=loss, remedy=remedy)
    return say("findings.no_probabilities.sum", layer=layer, loss=loss, total=total, remedy=remedy)


@findings.declare(
    "no_rates",
    en="Outputs below 0 are no rates, so the loss of them means nothing.",
    zh="小于 0 的输出不能作为发生率,对它们的损失没有意义。",
    latex=r"a < 0",
    severities=ALWAYS_PROBLEM,
    sources=(EXACT,),
)
def no_rates(layer: str, loss: str) -> Sentence:
    return say("findings.no_rates.text", layer=layer, loss=loss)


@findings.declare(
    "cut_off_loss",
    en="A probability is 0 where the target is not: the loss is infinite, and is cut off.",
    zh="目标所示事件的概率为 0:其损失为无穷大,被截断。",
    latex=r"a_k = 0,\ t_k > 0",
    severities=ALWAYS_NOTE,
    sources=("https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html",),
)
def cut_off_loss(layer: str, loss: str, activation: str) -> Sentence:
    return say("findings.cut_off_loss.text", layer=layer, loss=loss, activation=activation)


@findings.declare(
    "dead_units",
    en="Units lie on a flat part of their activation for every sample, so the weights into them get no gradient.",
    zh="有单元对每个样本都处在激活函数的平坦段,进入它们的权重得不到梯度。",
    latex=r"\frac{1}{K} \#\{k : f'(z_{nk}) = 0 \text{ for all } n\}",
    severities={"note": 0.0, "warning": 0.5, "problem": 1.0},
    sources=(f"half of the units, beyond what chance explains: a random unit is off with probability 1/2 ({HE})",),
)
def dead_units(units: Sentence, is_one: bool, samples: int, activation: str, layer: str) -> Sentence:
    seen = say("findings.samples", count=samples)
    if is_one:
        return say("findings.dead_units.one", units=units, layer=layer, samples=seen, activation=activation)
    return say("findings.dead_units.many", units=units, layer=layer, samples=seen, activation=activation)


@findings.declare(
    "symmetric_units",
    en="Units have equal weights in and out, so they get equal gradients and never become different.",
    zh="有单元的进出权重完全相同,梯度也相同,永远分不开。",
    latex=r"\frac{1}{K} \#\{k : w_k = w_j,\ v_k = v_j\}",
    severities={"warning": 0.0, "problem": 1.0},
    sources=(EXACT,),
)
def symmetric_units(layer: str, units: Sentence) -> Sentence:
    return say("findings.symmetric_units.text", layer=layer, units=units)


@findings.declare(
    "non_finite",
    en="A value is infinite or not a number; everything that is computed from it means nothing.",
    zh="有值为无穷大或不是数;由它算出的一切都没有意义。",
    latex=r"x \in \{\pm\infty, \text{NaN}\}",
    severities=ALWAYS_PROBLEM,
    sources=("IEEE 754",),
)
def non_finite(
    place: Sentence | None = None, is_nan: bool = False, norm: bool = False, name: str = "", step: int | None = None
) -> Sentence:
    if norm:
        return say("findings.non_finite.norm")
    if step is not None:
        return say("findings.non_finite.in_step", name=name, step=str(step))
    if place is None:
        return say("findings.non_finite.somewhere")
    if is_nan:
        return say("findings.non_finite.nan", place=place)
    return say("findings.non_finite.infinite", place=place)
