"""Schedules, each declared once: how the learning rate changes from step to step (see `scheduler`)."""

from __future__ import annotations

import math
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from service.engine.building import Choice, Flag, Integer, Integers, Number, Numbers, Option, Registry
from service.engine.descent.scheduler import SCHEDULER_OPTIONS, Rate, Schedule, between

schedules: Registry[Schedule] = Registry("schedule", "schedules", Schedule)

PYTORCH = "https://docs.pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
KERAS = "https://keras.io/api/optimizers/learning_rate_schedules/"
LARGEST = sys.float_info.max
SMALLEST_CHANGE = 1e-8
"""The smallest change that `plateau` makes to a rate: PyTorch's eps."""


def common_to_all(*options: Option) -> tuple[Option, ...]:
    """Return the options of a schedule, followed by those of every schedule."""
    return (*options, *SCHEDULER_OPTIONS)


def _power(base: float, exponent: float) -> float:
    """Raise base to a power of at least 0. An overflow gives the largest number, so that 0 times it is 0."""
    try:
        return math.pow(base, exponent)
    except OverflowError:
        return LARGEST


def _wave(part: float) -> float:
    """Return half a cosine that falls from 1 at `part` 0 to 0 at `part` 1."""
    return 0.5 * (1.0 + math.cos(math.pi * part))


def _refuse_unordered(name: str, steps: tuple[int, ...]) -> tuple[str, str] | None:
    for earlier, later in pairwise(steps):
        if later <= earlier:
            return name, f"must increase, but {later} follows {earlier}"
    return None


GAMMA = Number(name="gamma", default=0.1, minimum=0.0, description="factor of each decay")
DECAY_STEPS = Integer(name="decay_steps", minimum=1, description="steps that the decay takes")
DECAY_RATE = Number(name="decay_rate", minimum=0.0, description="how much is added to the divisor in that time")
STAIRCASE = Flag(name="staircase", default=False, description="only whole multiples of decay_steps count")
MINIMUM = Number(name="minimum", default=0.0, minimum=0.0, description="the lowest learning rate")
ALPHA = Number(
    name="alpha",
    default=0.0,
    minimum=0.0,
    description="the lowest learning rate as a fraction of the first; the larger one of it and minimum counts",
)


def _cycled_momentum(base: float, largest: float) -> tuple[Option, ...]:
    return (
        Flag(
            name="cycle_momentum",
            default=True,
            description="the optimizer's momentum (or beta_1) goes down while the rate goes up, and up again",
        ),
        Number(
            name="base_momentum",
            default=base,
            minimum=0.0,
            maximum=1.0,
            open_maximum=True,
            description="the momentum where the rate is highest",
        ),
        Number(
            name="max_momentum",
            default=largest,
            minimum=0.0,
            maximum=1.0,
            open_maximum=True,
            description="the momentum where the cycle starts",
        ),
    )


@schedules.declare(
    "constant",
    en="The learning rate stays as it is; with a warm-up, after it.",
    zh="学习率保持不变(预热之后)。",
    options=common_to_all(),
    latex=r"\eta_t = \eta_0",
)
def constant(base: float, count: int) -> Rate:
    return Rate(base)


@schedules.declare(
    "step_decay",
    en="Times gamma after every so many steps: PyTorch's StepLR.",
    zh="每隔若干步乘以 gamma:PyTorch 的 StepLR。",
    options=common_to_all(Integer(name="decay_steps", minimum=1, description="steps between two decays"), GAMMA),
    latex=r"\eta_t = \eta_0 \gamma^{\lfloor t / s \rfloor}",
    sources=(PYTORCH,),
)
def step_decay(base: float, count: int, decay_steps: int, gamma: float) -> Rate:
    return Rate(base * _power(gamma, count // decay_steps))


@schedules.declare(
    "multi_step",
    en="Times gamma at each milestone: PyTorch's MultiStepLR.",
    zh="每到一个里程碑乘以 gamma:PyTorch 的 MultiStepLR。",
    options=common_to_all(
        Integers(name="milestones", description="the steps from which on one decay more counts, in order"), GAMMA
    ),
    latex=r"\eta_t = \eta_0 \gamma^{|\{m : m \le t\}|}",
    sources=(PYTORCH,),
    refuse=lambda milestones, **others: _refuse_unordered("milestones", milestones),
)
def multi_step(base: float, count: int, milestones: tuple[int, ...], gamma: float) -> Rate:
    return Rate(base * _power(gamma, bisect_right(milestones, count)))


@schedules.declare(
    "exponential",
    aliases=("exponential_decay",),
    en="Times gamma at each step, or over decay_steps, smoothly or in stairs: PyTorch's ExponentialLR and Keras's "
    "ExponentialDecay, where gamma is called decay_rate.",
    zh="每步(或每 decay_steps 步)乘以 gamma,平滑或呈阶梯:PyTorch 的 ExponentialLR 与 Keras 的 ExponentialDecay"
    "(其中 gamma 名为 decay_rate)。",
    options=common_to_all(
        Number(name="gamma", minimum=0.0, description="factor of each decay"),
        Integer(name="decay_steps", default=1, minimum=1, description="steps that a decay by gamma takes"),
        STAIRCASE,
    ),
    latex=r"\eta_t = \eta_0 \gamma^{t / s}",
    sources=(PYTORCH, KERAS),
)
def exponential(base: float, count: int, gamma: float, decay_steps: int, staircase: bool) -> Rate:
    return Rate(base * _power(gamma, count // decay_steps if staircase else count / decay_steps))


@schedules.declare(
    "inverse_time",
    aliases=("inverse_time_decay",),
    en="Divided by what grows in a line: Keras's InverseTimeDecay.",
    zh="除以随时间线性增长的数:Keras 的 InverseTimeDecay。",
    options=common_to_all(DECAY_STEPS, DECAY_RATE, STAIRCASE),
    latex=r"\eta_t = \frac{\eta_0}{1 + r\,t / s}",
    sources=(KERAS,),
)
def inverse_time(base: float, count: int, decay_steps: int, decay_rate: float, staircase: bool) -> Rate:
    return Rate(base / (1.0 + decay_rate * (count // decay_steps if staircase else count / decay_steps)))


@schedules.declare(
    "polynomial",
    aliases=("polynomial_decay",),
    en="Down to end_learning_rate along a power of what is left of decay_steps: PyTorch's PolynomialLR, and Keras's "
    "PolynomialDecay, which ends at 0.0001 by default.",
    zh="按 decay_steps 剩余比例的幂降至 end_learning_rate:PyTorch 的 PolynomialLR 与 Keras 的 PolynomialDecay"
    "(后者默认终值为 0.0001)。",
    options=common_to_all(
        DECAY_STEPS,
        Number(name="end_learning_rate", default=0.0, minimum=0.0, description="the learning rate at the end"),
        Number(name="power", default=1.0, minimum=0.0, description="1 is a line"),
        Flag(
            name="cycle",
            default=False,
            description="instead of staying at the end, decay_steps becomes the next multiple of itself",
        ),
    ),
    latex=r"\eta_t = \eta_{end} + (\eta_0 - \eta_{end}) \Big(1 - \frac{\min(t, T)}{T}\Big)^p",
    sources=(PYTORCH, KERAS),
)
def polynomial(base: float, count: int, decay_steps: int, end_learning_rate: float, power: float, cycle: bool) -> Rate:
    if cycle:
        decay_steps *= max(1, -(-count // decay_steps))
    left = 1.0 - min(count, decay_steps) / decay_steps
    return Rate(between(end_learning_rate, base, _power(left, power)))


@schedules.declare(
    "linear",
    en="In a line from one factor to another, and then as it is: PyTorch's LinearLR.",
    zh="系数从一个值线性变到另一个值,此后不变:PyTorch 的 LinearLR。",
    options=common_to_all(
        Number(name="start_factor", default=1.0 / 3.0, minimum=0.0, description="factor of the first step"),
        Number(name="end_factor", default=1.0, minimum=0.0, description="factor after total_steps"),
        Integer(name="total_steps", default=5, minimum=1, description="steps from one to the other"),
    ),
    latex=r"\eta_t = \eta_0 \Big(s + (e - s) \frac{\min(t, T)}{T}\Big)",
    sources=(PYTORCH,),
)
def linear(base: float, count: int, start_factor: float, end_factor: float, total_steps: int) -> Rate:
    return Rate(base * between(start_factor, end_factor, min(count, total_steps) / total_steps))


@schedules.declare(
    "constant_factor",
    en="Times a factor during the first steps: PyTorch's ConstantLR.",
    zh="前若干步乘以一个系数:PyTorch 的 ConstantLR。",
    options=common_to_all(
        Number(name="factor", default=1.0 / 3.0, minimum=0.0, description="factor of the learning rate"),
        Integer(name="total_steps", default=5, minimum=1, description="steps that it lasts"),
    ),
    latex=r"\eta_t = \eta_0 f \text{ for } t < T,\quad \eta_0 \text{ after}",
    sources=(PYTORCH,),
)
def constant_factor(base: float, count: int, factor: float, total_steps: int) -> Rate:
    return Rate(base * factor if count < total_steps else base)


@schedules.declare(
    "cosine",
    aliases=("cosine_annealing", "cosine_decay"),
    en="Half a cosine down in decay_steps, and up again in as many: PyTorch's CosineAnnealingLR; staying at the end, "
    "Keras's CosineDecay.",
    zh="在 decay_steps 步内沿半个余弦下降,再用同样步数回升:PyTorch 的 CosineAnnealingLR;到末尾后停住则为 Keras 的 "
    "CosineDecay。",
    options=common_to_all(
        DECAY_STEPS,
        MINIMUM,
        ALPHA,
        Flag(name="stay", default=False, description="the rate stays lowest after decay_steps, as Keras has it"),
    ),
    latex=r"\eta_t = \eta_{min} + \frac12 (\eta_0 - \eta_{min}) \Big(1 + \cos \frac{\pi t}{T}\Big)",
    sources=(PYTORCH, KERAS),
)
def cosine(base: float, count: int, decay_steps: int, minimum: float, alpha: float, stay: bool) -> Rate:
    # The cosine of a large angle is inexact; the remainder of two integers is exact.
    place = min(count, decay_steps) if stay else count % (2 * decay_steps)
    return Rate(between(max(minimum, alpha * base), base, _wave(place / decay_steps)))


@schedules.declare(
    "cosine_restarts",
    aliases=("cosine_annealing_warm_restarts", "cosine_decay_restarts"),
    en="Half a cosine down, again and again, each t_mul times as long and m_mul times as high as the one before: "
    "PyTorch's CosineAnnealingWarmRestarts, and Keras's CosineDecayRestarts, where t_mul is 2 by default.",
    zh="反复沿半个余弦下降,每次长度乘以 t_mul、高度乘以 m_mul:PyTorch 的 CosineAnnealingWarmRestarts 与 Keras 的 "
    "CosineDecayRestarts(后者 t_mul 默认为 2)。",
    options=common_to_all(
        Integer(name="first_decay_steps", minimum=1, description="steps until the first restart"),
        Number(name="t_mul", default=1.0, minimum=1.0, description="how much longer the next one takes"),
        Number(name="m_mul", default=1.0, minimum=0.0, description="how much higher the next one starts"),
        MINIMUM,
        ALPHA,
    ),
    latex=r"\eta_t = \eta_{min} + \frac12 (\eta_0 - \eta_{min})\, m^i \Big(1 + \cos \frac{\pi (t - t_i)}{T_i}\Big),"
    r"\quad T_i = T_0 k^i",
    sources=(PYTORCH, KERAS, "https://arxiv.org/abs/1608.03983"),
)
def cosine_restarts(
    base: float, count: int, first_decay_steps: int, t_mul: float, m_mul: float, minimum: float, alpha: float
) -> Rate:
    restarts, part = _restarts(count, first_decay_steps, t_mul)
    low = max(minimum, alpha * base)
    # If the lowest rate is above the first, a growing wave would fall below 0.
    return Rate(max(low + (base - low) * _power(m_mul, restarts) * _wave(part), 0.0))


def _restarts(count: int, first: int, longer: float) -> tuple[int, float]:
    """Return how many restarts there were before step `count`, and which part of the present decay is over (0 to 1).
    The first decay takes `first` steps; each decay is `longer` times as long as the one before."""
    growth = longer - 1.0
    if not growth:
        return count // first, count % first / first
    done = count / first
    restarts = math.floor(math.log1p(min(done * growth, LARGEST)) / math.log1p(growth))

    def begun(restarts: int) -> float:
        return (_power(longer, restarts) - 1.0) / growth

    # Rounding of the quotient of the logarithms may miss a whole number.
    if begun(restarts + 1) <= done:
        restarts += 1
    elif begun(restarts) > done:
        restarts -= 1
    return restarts, min(max((done - begun(restarts)) / _power(longer, restarts), 0.0), 1.0)


@schedules.declare(
    "one_cycle",
    en="Up to the optimizer's learning rate, and down to far below where it started: PyTorch's OneCycleLR, whose "
    "max_lr is the optimizer's own. After total_steps the rate stays.",
    zh="先升至优化器的学习率,再降到远低于起点:PyTorch 的 OneCycleLR(max_lr 即优化器自身的学习率)。total_steps 之后"
    "保持不变。",
    options=common_to_all(
        Integer(name="total_steps", minimum=1, description="steps of the cycle"),
        Number(name="rising_part", default=0.3, minimum=0.0, maximum=1.0, description="part of them that goes up"),
        Choice(name="annealing", default="cosine", values=("cosine", "linear"), description="the form of each phase"),
        Number(
            name="divisor",
            default=25.0,
            minimum=0.0,
            open_minimum=True,
            description="the first rate is the highest divided by this",
        ),
        Number(
            name="final_divisor",
            default=1e4,
            minimum=0.0,
            open_minimum=True,
            description="the last rate is the first divided by this",
        ),
        Flag(
            name="three_phases",
            default=False,
            description="first back to the first rate in as many steps as it went up, and then to the last",
        ),
        *_cycled_momentum(0.85, 0.95),
    ),
    latex=r"\frac{\eta}{d} \to \eta \to \frac{\eta}{d\,d_{final}}",
    sources=(PYTORCH, "https://arxiv.org/abs/1708.07120"),
)
def one_cycle(
    base: float,
    count: int,
    total_steps: int,
    rising_part: float,
    annealing: str,
    divisor: float,
    final_divisor: float,
    three_phases: bool,
    cycle_momentum: bool,
    base_momentum: float,
    max_momentum: float,
) -> Rate:
    first = base / divisor
    rising = rising_part * total_steps
    corners = [(0.0, first, max_momentum), (rising - 1.0, base, base_momentum)]
    if three_phases:
        corners.append((2.0 * rising - 2.0, first, max_momentum))
    corners.append((total_steps - 1.0, first / final_divisor, max_momentum))
    phases = list(pairwise(corners))
    before, after = next((phase for phase in phases if count <= phase[1][0]), phases[-1])
    length = after[0] - before[0]
    left = max(after[0] - count, 0.0) / length if length > 0.0 else 0.0
    if annealing == "cosine":
        left = _wave(1.0 - left)
    # Interpolate from the end of the phase, which may be many times smaller than its start.
    momentum = between(after[2], before[2], left) if cycle_momentum else None
    return Rate(between(after[1], before[1], left), momentum)


@schedules.declare(
    "cyclic",
    en="Up and down in lines between the learning rate and a higher one: PyTorch's CyclicLR. The height stays, halves "
    "with each cycle (triangular2), or is multiplied by gamma at each step (exp_range).",
    zh="学习率与更高值之间往复线性变化:PyTorch 的 CyclicLR。高度不变,或每周期减半(triangular2),或每步乘以 gamma"
    "(exp_range)。",
    options=common_to_all(
        Number(name="max_learning_rate", minimum=0.0, description="the learning rate at the top"),
        Integer(name="steps_up", default=2000, minimum=1, description="steps from the bottom to the top"),
        Integer(name="steps_down", default=None, minimum=1, description="steps down again (none: as many as up)"),
        Choice(
            name="mode",
            default="triangular",
            values=("triangular", "triangular2", "exp_range"),
            description="what happens to the height",
        ),
        Number(
            name="gamma",
            default=1.0,
            minimum=0.0,
            maximum=1.0,
            description="factor of the height at each step of exp_range",
        ),
        *_cycled_momentum(0.8, 0.9),
    ),
    latex=r"\eta_t = \eta_0 + (\eta_{max} - \eta_0)\, h_t \Lambda_t",
    sources=(PYTORCH, "https://arxiv.org/abs/1506.01186"),
)
def cyclic(
    base: float,
    count: int,
    max_learning_rate: float,
    steps_up: int,
    steps_down: int | None,
    mode: str,
    gamma: float,
    cycle_momentum: bool,
    base_momentum: float,
    max_momentum: float,
) -> Rate:
    down = steps_up if steps_down is None else steps_down
    cycles, place = divmod(count, steps_up + down)
    height = place / steps_up if place <= steps_up else (steps_up + down - place) / down
    if mode == "triangular2":
        height *= _power(0.5, cycles)
    elif mode == "exp_range":
        height *= _power(gamma, count)
    momentum = between(max_momentum, base_momentum, height) if cycle_momentum else None
    return Rate(between(base, max_learning_rate, height), momentum)


@schedules.declare(
    "piecewise_constant",
    aliases=("piecewise_constant_decay",),
    en="A learning rate for each interval, a boundary belonging to the one before it; the optimizer's own is not used: "
    "Keras's PiecewiseConstantDecay.",
    zh="每个区间一个学习率,边界属于前一区间;不使用优化器自身的学习率:Keras 的 PiecewiseConstantDecay。",
    options=common_to_all(
        Integers(name="boundaries", minimum=0, description="the last step of each interval but the last, in order"),
        Numbers(name="values", minimum=0.0, description="the learning rates, one more than boundaries"),
    ),
    latex=r"\eta_t = v_i,\quad b_{i-1} < t \le b_i",
    sources=(KERAS,),
    refuse=lambda boundaries, values, **others: _refuse_pieces(boundaries, values),
)
def piecewise_constant(base: float, count: int, boundaries: tuple[int, ...], values: tuple[float, ...]) -> Rate:
    return Rate(values[min(bisect_left(boundaries, count), len(values) - 1)])


def _refuse_pieces(boundaries: tuple[int, ...], values: tuple[float, ...]) -> tuple[str, str] | None:
    if len(values) != len(boundaries) + 1:
        return "values", f"must be {len(boundaries) + 1}, one more than boundaries, but there are {len(values)}"
    return _refuse_unordered("boundaries", boundaries)


def _watch_for_plateau(
    state: dict[str, float],
    loss: float,
    base: float,
    mode: str,
    factor: float,
    patience: int,
    threshold: float,
    threshold_mode: str,
    cooldown: int,
    minimum: float,
) -> None:
    sign = 1.0 if mode == "min" else -1.0
    best, now = sign * state["best"], sign * loss
    bound = best - threshold if threshold_mode == "absolute" else best * (1.0 - sign * threshold)
    # The state keeps finite numbers only, so that it can be written as JSON.
    if math.isfinite(loss) and (not state["watched"] or now < bound):
        state["best"], state["watched"], state["bad"] = loss, 1, 0
    else:
        state["bad"] += 1
    if state["resting"]:
        state["resting"] -= 1
        state["bad"] = 0
    if state["bad"] > patience:
        rate = plateau(base, 0, state, minimum).learning_rate
        if rate - max(rate * factor, minimum) > SMALLEST_CHANGE:
            state["scale"] *= factor
        state["resting"], state["bad"] = cooldown, 0


@schedules.declare(
    "plateau",
    aliases=("reduce_on_plateau",),
    en="Times a factor whenever the loss has not become better for more than so many epochs: PyTorch's "
    "ReduceLROnPlateau. The loss is that of validation where there is such data.",
    zh="损失连续若干轮以上未改善时乘以一个系数:PyTorch 的 ReduceLROnPlateau。有验证数据时看验证损失。",
    options=common_to_all(
        Number(
            name="factor", default=0.1, minimum=0.0, maximum=1.0, open_maximum=True, description="factor of each decay"
        ),
        Integer(name="patience", default=10, minimum=0, description="epochs without a better loss that are let pass"),
        Number(name="threshold", default=1e-4, minimum=0.0, description="how much better counts as better"),
        Choice(
            name="threshold_mode",
            default="relative",
            values=("relative", "absolute"),
            description="whether the threshold is a fraction of the best loss or a difference to it",
        ),
        Integer(name="cooldown", default=0, minimum=0, description="epochs after a decay that do not count"),
        MINIMUM,
        Choice(name="mode", default="min", values=("min", "max"), description="whether less or more is better"),
    ),
    latex=r"\eta \leftarrow \max(\eta f, \eta_{min}) \text{ after more than } p \text{ epochs without } "
    r"L < (1 - \epsilon) L_{best}",
    sources=(PYTORCH,),
    numbers={"scale": 1.0, "best": 0.0, "watched": 0, "bad": 0, "resting": 0},
    watch=_watch_for_plateau,
)
def plateau(base: float, count: int, state: Mapping[str, float], minimum: float, **others: Any) -> Rate:
    # A rate that is below the minimum from the start stays.
    return Rate(max(base * state["scale"], min(minimum, base)))
