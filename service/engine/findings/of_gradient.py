"""Findings about the health of a gradient."""

from __future__ import annotations

from service.engine.findings.declaration import findings
from service.engine.findings.sources import EXACT, GLOROT, HERE, LECUN, NIELSEN, RATIO
from service.engine.texts import Sentence, say


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
    advised_as="saturated",
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
    advised_as="saturated",
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
)
def flat_loss(loss: float, norm: float) -> Sentence:
    return say("findings.flat_loss.text", loss=loss, norm=norm)
