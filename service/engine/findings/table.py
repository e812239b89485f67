"""The one table of findings, each declared once: name, meaning, number, thresholds with their source, sentence, advice.

`/v1/gradients/diagnose` answers with them whole, the warnings of every other operation with their sentence alone, and
`/v1/findings` lists them. The sentences are in `service/engine/texts`; the rules that measure the numbers are where
the numbers are: in `network/` for those that every answer tells, in `insight/health` for the others.
"""

from __future__ import annotations

from service.engine.findings.declaration import findings
from service.engine.texts import Sentence, say

NIELSEN = "Nielsen 2015, Neural Networks and Deep Learning"
GLOROT = "Glorot, Bengio 2010, Understanding the difficulty of training deep feedforward neural networks"
HE = "He et al. 2015, arXiv:1502.01852"
LECUN = "LeCun et al. 1998, Efficient BackProp"
RATIO = "Karpathy, CS231n, Neural Networks Part 3: updates are about 0.001 of the weights"
HERE = "a convention of this service"
EXACT = "by definition"

ALWAYS_PROBLEM = {"problem": None}
ALWAYS_WARNING = {"warning": None}
ALWAYS_NOTE = {"note": None}


# --- what every answer tells: the network as it is defined ------------------------------------------


@findings.declare(
    "constant_output",
    en="A layer gives the same whatever comes in, so no gradient passes it.",
    zh="某层无论输入什么都给出相同的值,梯度无法通过它。",
    latex=r"\frac{\partial a}{\partial z} = 0",
    severities=ALWAYS_PROBLEM,
    sources=(EXACT,),
    advice=lambda: say("findings.constant_output.advice"),
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
    advice=lambda: say("findings.one_class.advice"),
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
    advice=lambda: say("findings.probabilities_as_logits.advice"),
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
    advice=lambda: say("findings.gradient_blocked.advice"),
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
    advice=lambda: say("findings.disconnected.advice"),
)
def disconnected(layer: str, parameter: str, of: str = "") -> Sentence:
    if of == "outputs":
        return say("findings.disconnected.outputs", layer=layer, parameter=parameter)
    if of == "loss":
        return say("findings.disconnected.loss", layer=layer, parameter=parameter)
    return say("findings.disconnected.text", layer=layer, parameter=parameter)


# --- what every answer tells: its numbers -----------------------------------------------------------


@findings.declare(
    "unusual_targets",
    en="Targets lie outside the range for which the loss is made, so its minimum is not where it should be.",
    zh="目标值超出损失所适用的范围,其最小值不在应在之处。",
    latex=r"t \notin T",
    severities=ALWAYS_WARNING,
    sources=(EXACT,),
    advice=lambda: say("findings.unusual_targets.advice"),
)
def unusual_targets(layer: str, words: str, loss: str) -> Sentence:
    return say("findings.unusual_targets.text", layer=layer, range=_RANGES[words](), loss=loss)


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
    advice=lambda: say("findings.normalize_weights.advice"),
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
    advice=lambda: say("findings.folded_parameters.advice"),
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
    advice=lambda: say("findings.no_probabilities.advice"),
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
    advice=lambda: say("findings.no_rates.advice"),
)
def no_rates(layer: str, loss: str) -> Sentence:
    return say("findings.no_rates.text", layer=layer, loss=loss)


@findings.declare(
    "dead_units",
    en="Units lie on a flat part of their activation for every sample, so the weights into them get no gradient.",
    zh="有单元对每个样本都处在激活函数的平坦段,进入它们的权重得不到梯度。",
    latex=r"\frac{1}{K} \#\{k : f'(z_{nk}) = 0 \text{ for all } n\}",
    severities={"note": 0.0, "warning": 0.5, "problem": 1.0},
    sources=(f"half of the units, beyond what chance explains: a random unit is off with probability 1/2 ({HE})",),
    advice=lambda: say("findings.dead_units.advice"),
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
    advice=lambda: say("findings.symmetric_units.advice"),
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
    advice=lambda: say("findings.non_finite.advice"),
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


# --- the gradient's health ---------------------------------------------------------------------------


@findings.declare(
    "vanishing_gradient",
    en="Going backward each layer makes the gradient smaller, so the first layers hardly learn.",
    zh="反向传播每经过一层梯度就变小,最前面的层几乎学不到东西。",
    latex=r"\left(\frac{\|\delta^{1}\|}{\|\delta^{D}\|}\right)^{1/(D-1)}",
    severities={"warning": 0.5, "problem": 0.5},
    below=True,
    sources=(
        f"{NIELSEN}, chapter 5: a sigmoid passes back less than 1/4; {GLOROT}: 1 keeps its size; the mean is 1/2",
    ),
    advice=lambda: say("findings.vanishing_gradient.advice"),
)
def vanishing_gradient(first: str, last: str, ratio: float, factor: float, depth: int) -> Sentence:
    return say("findings.vanishing_gradient.text", first=first, last=last, ratio=ratio, factor=factor, depth=str(depth))


@findings.declare(
    "exploding_gradient",
    en="Going backward each layer makes the gradient larger, so the first layers jump and learning runs away.",
    zh="反向传播每经过一层梯度就变大,最前面的层乱跳,学习失控。",
    latex=r"\left(\frac{\|\delta^{1}\|}{\|\delta^{D}\|}\right)^{1/(D-1)}",
    severities={"warning": 2.0, "problem": 2.0},
    sources=(f"{NIELSEN}, chapter 5; the reciprocal of the threshold for vanishing gradients",),
    advice=lambda: say("findings.exploding_gradient.advice"),
)
def exploding_gradient(first: str, last: str, ratio: float, factor: float, depth: int) -> Sentence:
    return say("findings.exploding_gradient.text", first=first, last=last, ratio=ratio, factor=factor, depth=str(depth))


@findings.declare(
    "vanishing_over_time",
    en="Going back in time each step makes the gradient smaller, so a sequence's beginning is hardly learned from.",
    zh="沿时间反向每一步梯度都变小,序列的开头几乎学不到。",
    latex=r"\left(\frac{\|\partial L / \partial x_1\|}{\|\partial L / \partial x_T\|}\right)^{1/(T-1)}",
    severities={"note": 0.5, "warning": 0.3},
    below=True,
    sources=("Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063; the gates of a fresh GRU pass about 1/2",),
    advice=lambda: say("findings.vanishing_over_time.advice"),
)
def vanishing_over_time(layer: str, steps: int, ratio: float, factor: float) -> Sentence:
    return say("findings.vanishing_over_time.text", layer=layer, steps=str(steps), ratio=ratio, factor=factor)


@findings.declare(
    "exploding_over_time",
    en="Going back in time each step makes the gradient larger, so a long sequence makes learning run away.",
    zh="沿时间反向每一步梯度都变大,长序列会使学习失控。",
    latex=r"\left(\frac{\|\partial L / \partial x_1\|}{\|\partial L / \partial x_T\|}\right)^{1/(T-1)}",
    severities={"warning": 1.3, "problem": 2.0},
    sources=("Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063: more than 1 in each step",),
    advice=lambda: say("findings.exploding_over_time.advice"),
)
def exploding_over_time(layer: str, steps: int, ratio: float, factor: float) -> Sentence:
    return say("findings.exploding_over_time.text", layer=layer, steps=str(steps), ratio=ratio, factor=factor)


@findings.declare(
    "saturated_left",
    en="Pre-activations lie so far to the left that the slope is less than a tenth of the largest.",
    zh="净输入过于偏左,斜率不足最大斜率的十分之一。",
    latex=r"\frac{1}{NK} \#\{z_{nk} < z_-\},\quad f'(z_-) = \tfrac{1}{10} \max f'",
    severities={"warning": 0.4, "problem": 0.9},
    sources=(f"{GLOROT}: saturated hidden layers; two fifths of all values on one side",),
    advice=lambda: say("findings.saturated.advice"),
)
def saturated_left(layer: str, activation: str, share: float, bound: float) -> Sentence:
    return say(
        "findings.saturated.left", layer=layer, activation=activation, percent=f"{100.0 * share:.3g}", bound=bound
    )


@findings.declare(
    "saturated_right",
    en="Pre-activations lie so far to the right that the slope is less than a tenth of the largest.",
    zh="净输入过于偏右,斜率不足最大斜率的十分之一。",
    latex=r"\frac{1}{NK} \#\{z_{nk} > z_+\},\quad f'(z_+) = \tfrac{1}{10} \max f'",
    severities={"warning": 0.4, "problem": 0.9},
    sources=(f"{GLOROT}: saturated hidden layers; two fifths of all values on one side",),
    advice=lambda: say("findings.saturated.advice"),
)
def saturated_right(layer: str, activation: str, share: float, bound: float) -> Sentence:
    return say(
        "findings.saturated.right", layer=layer, activation=activation, percent=f"{100.0 * share:.3g}", bound=bound
    )


@findings.declare(
    "mean_shift",
    en="Activations lie to one side of 0, so the gradients of all weights into a unit of the next layer tend to have "
    "one sign, and descent goes in zigzags.",
    zh="激活值偏在 0 的一侧,下一层每个单元的各个权重的梯度往往同号,下降走成之字形。",
    latex=r"\frac{|\bar a|}{\operatorname{std} a}",
    severities={"note": 1.0},
    sources=(f"{LECUN}, section 4.3: means near 0; here farther from it than a standard deviation",),
    advice=lambda: say("findings.mean_shift.advice"),
)
def mean_shift(layer: str, mean: float, deviation: float) -> Sentence:
    return say("findings.mean_shift.text", layer=layer, mean=mean, deviation=deviation)


@findings.declare(
    "learning_slowdown",
    en="Outputs are wrong and saturated at once; the loss multiplies the error by the slope, nearly 0 there.",
    zh="输出既错又饱和;这个损失把误差乘以斜率,而那里的斜率几乎为 0。",
    latex=r"\frac{\|J_f^\top e\|}{\|e\| \max f'},\quad e = a - t",
    severities={"warning": 0.1, "problem": 0.01},
    below=True,
    sources=(f"{NIELSEN}, chapter 3: a cross-entropy cancels the slope; a tenth and a hundredth of the largest slope",),
    advice=lambda: say("findings.learning_slowdown.advice"),
)
def learning_slowdown(layer: str, activation: str, loss: str, error: float, slope: float) -> Sentence:
    return say(
        "findings.learning_slowdown.text",
        layer=layer,
        activation=activation,
        loss=loss,
        error=error,
        slope=slope,
        times=1.0 / slope if slope else "∞",
    )


@findings.declare(
    "zero_gradient",
    en="The gradient of a parameter is exactly 0, so this step does not change it.",
    zh="某参数的梯度恰为 0,这一步不会改变它。",
    latex=r"\frac{\partial L}{\partial \theta} = 0",
    severities={"note": None, "warning": None, "problem": None},
    sources=(EXACT,),
    advice=lambda: say("findings.zero_gradient.advice"),
)
def zero_gradient(names: list[str], reason: str, layer: str) -> Sentence:
    reasons = {
        "error": lambda: say("findings.zero_gradient.error"),
        "input": lambda: say("findings.zero_gradient.input", layer=layer),
        "weight": lambda: say("findings.zero_gradient.weight", layer=layer),
        "flat": lambda: say("findings.zero_gradient.flat", layer=layer),
        "cancel": lambda: say("findings.zero_gradient.cancel"),
        "other": lambda: say("findings.zero_gradient.other", layer=layer),
    }
    return say("findings.zero_gradient.text", names=names, reason=reasons[reason]())


@findings.declare(
    "badly_scaled_inputs",
    en="The inputs of the first layer differ so much in size or lie so far from 0 that no learning rate fits all "
    "directions: the number of steps grows with the condition number.",
    zh="第一层的输入大小相差太多或离 0 太远,没有一个学习率适合所有方向:所需步数随条件数增长。",
    latex=r"\kappa = \frac{\lambda_{\max}}{\lambda_{\min}} \text{ of } \tfrac1N [X/s, 1]^\top [X/s, 1]",
    severities={"note": 1e3, "warning": 1e4, "problem": 1e8},
    sources=(f"{LECUN}, section 5: descent needs about as many steps; where standardising lowers it a hundredfold",),
    advice=lambda: say("findings.badly_scaled_inputs.advice"),
)
def badly_scaled_inputs(name: str, condition: float, better: float, smallest: float, largest: float) -> Sentence:
    return say(
        "findings.badly_scaled_inputs.text",
        name=name,
        condition=condition,
        better=better,
        smallest=smallest,
        largest=largest,
    )


@findings.declare(
    "large_inputs",
    en="The inputs are large, so the first layer's sums are too: units saturate and the loss is steep.",
    zh="输入很大,第一层的加权和也很大:单元饱和,损失陡峭。",
    latex=r"\sqrt{\tfrac{1}{Nd} \sum x^2}",
    severities={"note": 10.0, "warning": 30.0},
    sources=(f"{LECUN}, section 4.3: variances about 1; here ten and thirty times that deviation",),
    advice=lambda: say("findings.large_inputs.advice"),
)
def large_inputs(name: str, size: float) -> Sentence:
    return say("findings.large_inputs.text", name=name, size=size)


@findings.declare(
    "scale_mismatch",
    en="Gradients relative to their weights differ so much between layers that no learning rate fits all of them.",
    zh="各层梯度与权重之比相差太大,没有一个学习率适合所有层。",
    latex=r"\frac{\max_l \|\nabla_l\| / \|W_l\|}{\min_l \|\nabla_l\| / \|W_l\|}",
    severities={"warning": 1e4, "problem": 1e8},
    sources=(f"{RATIO}, in each layer; between 1e-5 and 1e-1 are four orders of magnitude",),
    advice=lambda: say("findings.scale_mismatch.advice"),
)
def scale_mismatch(large: str, small: str, times: float) -> Sentence:
    return say("findings.scale_mismatch.text", large=large, small=small, times=times)


@findings.declare(
    "flat_loss",
    en="The loss is hardly steep at all here: a minimum, a saddle or a plateau.",
    zh="此处损失几乎是平的:极小点、鞍点或平台。",
    latex=r"\frac{\|\nabla L\| \, \|\theta\|}{|L|}",
    severities={"note": 1e-6},
    below=True,
    sources=(HERE,),
    advice=lambda: say("findings.flat_loss.advice"),
)
def flat_loss(loss: float, norm: float) -> Sentence:
    return say("findings.flat_loss.text", loss=loss, norm=norm)


# --- what goes wrong in a training -------------------------------------------------------------------


@findings.declare(
    "full_batch",
    en="The optimizer compares gradients of one step with those of another, which batches of different samples spoil.",
    zh="该优化器要比较前后两步的梯度,而不同样本的小批量破坏了这种比较。",
    latex=r"B_t \ne B_{t+1}",
    severities=ALWAYS_WARNING,
    sources=("Riedmiller, Braun 1993; Nocedal, Wright 2006",),
    advice=lambda: say("findings.full_batch.advice"),
)
def full_batch(optimizer: str) -> Sentence:
    return say("findings.full_batch.text", optimizer=optimizer)


@findings.declare(
    "loss_grew",
    en="The loss is higher in the end than at the first step.",
    zh="最后的损失比第一步时更高。",
    latex=r"\frac{L_T}{L_1}",
    severities={"warning": 2.0},
    sources=(HERE,),
    advice=lambda: say("findings.learning_rate.advice"),
)
def loss_grew(first: str, last: str, rate: str, bound: Sentence | str = "") -> Sentence:
    return say("findings.loss_grew.text", first=first, last=last, rate=rate, bound=bound)


@findings.declare(
    "diverged",
    en="The loss or the gradient is not finite any more, or has run away.",
    zh="损失或梯度不再是有限数,或已失控。",
    latex=r"L_t > 10^{12} \max(1, |L_1|) \text{ or not finite}",
    severities=ALWAYS_PROBLEM,
    sources=(HERE,),
    advice=lambda: say("findings.learning_rate.advice"),
)
def diverged(step: int, before: float | None) -> Sentence:
    if before is None:
        return say("findings.diverged.at_once", step=str(step))
    return say("findings.diverged.text", step=str(step), before=before)


@findings.declare(
    "loss_rose",
    en="The loss fell, and rose again later.",
    zh="损失先下降,后来又回升。",
    latex=r"\frac{\tilde L_T - \min_t \tilde L_t}{L_1 - \min_t \tilde L_t}",
    severities={"warning": 0.25, "problem": 1.0},
    sources=(f"{HERE}: the share of what was gained that is lost again",),
    advice=lambda: say("findings.learning_rate.advice"),
)
def loss_rose(step: int, lowest: float, last: float) -> Sentence:
    return say("findings.loss_rose.text", step=str(step), lowest=lowest, last=last)


@findings.declare(
    "plateau",
    en="The loss hardly changes over many steps although it is still high.",
    zh="损失仍然很高,却在许多步中几乎不变。",
    latex=r"\frac{L_1 - \min_t L_t}{|L_1|}",
    severities={"note": 0.5, "warning": 0.25},
    below=True,
    sources=(f"{HERE}: what was gained before nothing changed, a half and a quarter of the first loss",),
    advice=lambda: say("findings.plateau.advice"),
)
def plateau(first: int, last: int, loss: float, change: float) -> Sentence:
    return say("findings.plateau.text", first=str(first), last=str(last), loss=loss, change=change)


@findings.declare(
    "passed_plateau",
    en="The loss stood still for a while and then fell again.",
    zh="损失停滞了一段时间,后来又开始下降。",
    latex=r"\frac{t_2 - t_1}{T}",
    severities={"note": 0.25},
    sources=(f"{HERE}: a quarter of all steps",),
    advice=lambda: say("findings.plateau.advice"),
)
def passed_plateau(first: int, last: int, loss: float) -> Sentence:
    return say("findings.passed_plateau.text", first=str(first), last=str(last), loss=loss)


@findings.declare(
    "gradient_vanished",
    en="The gradient became tiny while the loss stayed high.",
    zh="损失仍高,梯度却变得极小。",
    latex=r"\frac{\|\nabla_t\|}{\max_{s \le t} \|\nabla_s\|}",
    severities={"note": 1e-4, "warning": 1e-4, "problem": 0.0},
    below=True,
    sources=(HERE,),
    advice=lambda: say("findings.gradient_vanished.advice"),
)
def gradient_vanished(step: int, norm: float, before: float, loss: float) -> Sentence:
    return say("findings.gradient_vanished.text", step=str(step), norm=norm, before=before, loss=loss)


@findings.declare(
    "gradient_spike",
    en="The gradient was suddenly much larger than at any step before: one step may undo many.",
    zh="梯度突然远大于此前任何一步:一步可能毁掉许多步的成果。",
    latex=r"\frac{\|\nabla_t\|}{\max_{s < t} \|\nabla_s\|}",
    severities={"warning": 100.0, "problem": 1e4},
    sources=("Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063: cliffs of the loss",),
    advice=lambda: say("findings.gradient_spike.advice"),
)
def gradient_spike(step: int, norm: float, before: float) -> Sentence:
    return say("findings.gradient_spike.text", step=str(step), norm=norm, before=before)


@findings.declare(
    "units_died",
    en="Units that were on for some samples at the start are off for all of them now.",
    zh="起初对某些样本激活的单元,现在对所有样本都关闭了。",
    latex=r"\frac{\text{dead}_t - \text{dead}_1}{K}",
    severities={"note": 0.1, "warning": 0.5, "problem": 0.9},
    sources=(f"half of the units of a layer, and nine tenths: {HERE}",),
    advice=lambda: say("findings.units_died.advice"),
)
def units_died(layer: str, number: int, units: int, step: int) -> Sentence:
    return say("findings.units_died.text", layer=layer, number=str(number), units=str(units), step=str(step))


@findings.declare(
    "updates_too_large",
    en="Updates are as large as the weights they change, so each step forgets what the last one learned.",
    zh="更新量与被更新的权重一样大,每一步都忘掉上一步所学。",
    latex=r"\operatorname{median}_t \frac{\|\Delta W_t\|}{\|W_t\|}",
    severities={"note": 0.3, "warning": 1.0},
    sources=(f"{RATIO}; an update as large as the weights keeps nothing of them",),
    advice=lambda: say("findings.learning_rate.advice"),
)
def updates_too_large(layer: str, ratio: float) -> Sentence:
    return say("findings.updates_too_large.text", layer=layer, ratio=ratio)


@findings.declare(
    "updates_too_small",
    en="Updates are so small beside the weights that the training hardly moves.",
    zh="更新量相对权重太小,训练几乎没有移动。",
    latex=r"\operatorname{median}_t \frac{\|\Delta W_t\|}{\|W_t\|}",
    severities={"note": 1e-6, "warning": 1e-8},
    below=True,
    sources=(f"{RATIO}; a thousandth of that moves weights by a percent in ten thousand steps",),
    advice=lambda: say("findings.updates_too_small.advice"),
)
def updates_too_small(layer: str, ratio: float) -> Sentence:
    return say("findings.updates_too_small.text", layer=layer, ratio=ratio)


@findings.declare(
    "learning_rate_too_large",
    en="The learning rate is above what the curvature of the loss allows, so steps jump across the valley and climb.",
    zh="学习率超过了损失曲率所允许的值,每一步都跨过谷底,越跳越高。",
    latex=r"\eta \, \lambda_{\max} / c",
    severities={"note": 1.0, "warning": 1.0},
    sources=("plain descent on a parabola is stable below 2/λmax (Goodfellow et al. 2016, section 8.2)",),
    advice=lambda: say("findings.learning_rate.advice"),
)
def learning_rate_too_large(rate: float, limit: float, curvature: float) -> Sentence:
    return say("findings.learning_rate_too_large.text", rate=rate, limit=limit, curvature=curvature)


@findings.declare(
    "oscillation",
    en="The loss goes up and down from step to step instead of falling.",
    zh="损失在相邻各步间忽上忽下,而不是下降。",
    latex=r"\frac{1}{T} \#\{t : L_{t+1} > L_t\}",
    severities={"warning": 0.3},
    sources=(f"three in ten steps upward, by a twentieth of the loss or more: {HERE}",),
    advice=lambda: say("findings.learning_rate.advice"),
)
def oscillation(percent: float, first: int) -> Sentence:
    return say("findings.oscillation.text", percent=f"{percent:.3g}", first=str(first))


@findings.declare(
    "overfitting",
    en="The loss of validation rises while that of the training falls.",
    zh="训练损失仍在下降,验证损失却在上升。",
    latex=r"\frac{V_T}{\min_t V_t}",
    severities={"note": 1.1, "warning": 1.5},
    sources=("Prechelt 1998, Early Stopping: generalization loss",),
    advice=lambda: say("findings.overfitting.advice"),
)
def overfitting(step: int, best: float, last: float) -> Sentence:
    return say("findings.overfitting.text", step=str(step), best=best, last=last)
