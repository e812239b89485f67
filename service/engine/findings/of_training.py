"""Findings about the course of a training."""

from __future__ import annotations

from service.engine.findings.declaration import findings
from service.engine.findings.sources import ALWAYS_PROBLEM, ALWAYS_WARNING, HERE, RATIO
from service.engine.texts import Sentence, say


@findings.declare(
    "full_batch",
    en="The optimizer compares gradients of one step with those of another, which batches of different samples spoil.",
    zh="该优化器要比较前后两步的梯度,而不同样本的小批量破坏了这种比较。",
    latex=r"B_t \ne B_{t+1}",
    severities=ALWAYS_WARNING,
    sources=("Riedmiller, Braun 1993; Nocedal, Wright 2006",),
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
    advised_as="learning_rate",
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
    advised_as="learning_rate",
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
    advised_as="learning_rate",
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
    advised_as="plateau",
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
    advised_as="learning_rate",
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
    advised_as="learning_rate",
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
    advised_as="learning_rate",
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
)
def overfitting(step: int, best: float, last: float) -> Sentence:
    return say("findings.overfitting.text", step=str(step), best=best, last=last)
