"""Optimizers that adapt the step of each parameter to the size of its gradients.

Rules multiply all factors that are the same for all parameters (learning rate, corrections of bias) into one plain
number before they touch arrays, because each pass over a large array costs time. An array `rate` is then the factor of
the direction, one number for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.engine.building import Array, Flag, Number
from service.engine.descent.optimizers.declaration import (
    KERAS,
    PYTORCH,
    Move,
    State,
    convention,
    decay,
    epsilon,
    learning_rate,
    optimizers,
    proper_fraction,
)
from service.engine.descent.optimizers.momentum import MOMENTUM

BETA_1 = proper_fraction("beta_1", 0.9, "how much of the first moment, the mean gradient, is kept")
BETA_2 = proper_fraction("beta_2", 0.999, "how much of the second moment, the mean of its square, is kept")
AMSGRAD = Flag(name="amsgrad", default=False, description="divide by the largest second moment so far")
FORM_OF_ADAM = convention("epsilon is added to the root before that is corrected for its start at 0")


@optimizers.declare(
    "adagrad",
    en="Divides each parameter's step by the root of the sum of all its squared gradients: steps only become shorter.",
    zh="每个参数的步长除以其历史梯度平方和的平方根:步长只减不增。",
    options=(
        learning_rate(0.01),
        Number(
            name="learning_rate_decay",
            default=0.0,
            minimum=0.0,
            description="the learning rate is divided by 1 + (step - 1) * learning_rate_decay",
        ),
        Number(
            name="initial_accumulator_value", default=0.0, minimum=0.0, description="where the sum of squares starts"
        ),
        epsilon(1e-10),
        convention("epsilon is added inside the root"),
        *decay(),
    ),
    latex=r"G \leftarrow G + g^2,\quad \theta \leftarrow \theta - \frac{\eta}{1 + (t - 1) d} "
    r"\frac{g}{\sqrt{G} + \epsilon}",
    sources=(PYTORCH, KERAS, "Duchi, Hazan, Singer 2011"),
    conventions={
        "keras": {
            "learning_rate": 0.001,
            "initial_accumulator_value": 0.1,
            "epsilon": 1e-7,
            "decoupled_weight_decay": True,
        }
    },
    state=lambda **options: ("accumulator",),
)
def adagrad(
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    learning_rate_decay: float,
    initial_accumulator_value: float,
    epsilon: float,
    convention: str,
) -> Move:
    accumulator = state.accumulator
    if step == 1:
        accumulator[...] = initial_accumulator_value
    accumulator += gradient * gradient
    size = np.sqrt(accumulator + epsilon) if convention == "keras" else np.sqrt(accumulator) + epsilon
    return Move(gradient, learning_rate / (1.0 + (step - 1) * learning_rate_decay) / size)


@optimizers.declare(
    "rmsprop",
    en="Divides each parameter's step by the root of a moving average of its squared gradients; centered, by an "
    "estimate of their standard deviation.",
    zh="每个参数的步长除以其梯度平方滑动平均的平方根;centered 时除以梯度标准差的估计。",
    options=(
        learning_rate(0.01),
        proper_fraction("rho", 0.99, "how much of the moving average is kept"),
        MOMENTUM,
        Flag(name="centered", default=False, description="take the square of the mean gradient off the mean square"),
        epsilon(1e-8),
        convention("epsilon is added inside the root, and the momentum buffer holds the steps themselves"),
        *decay(),
    ),
    latex=r"v \leftarrow \rho v + (1 - \rho) g^2,\quad \theta \leftarrow \theta - \eta \frac{g}{\sqrt{v} + \epsilon}",
    sources=(
        PYTORCH,
        KERAS,
        "Hinton 2012, Neural Networks for Machine Learning, lecture 6e",
        "Graves 2013, arXiv:1308.0850",
    ),
    conventions={"keras": {"learning_rate": 0.001, "rho": 0.9, "epsilon": 1e-7, "decoupled_weight_decay": True}},
    state=lambda momentum, centered, **others: (
        "mean_square",
        *(("mean_gradient",) if centered else ()),
        *(("momentum_buffer",) if momentum else ()),
    ),
)
def rmsprop(
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    rho: float,
    momentum: float,
    centered: bool,
    epsilon: float,
    convention: str,
) -> Move:
    spread = state.mean_square
    spread += (1.0 - rho) * (gradient * gradient - spread)
    if centered:
        mean = state.mean_gradient
        mean += (1.0 - rho) * (gradient - mean)
        # Where gradients no longer change, rounding may make this negative.
        spread = np.maximum(spread - mean * mean, 0.0)
    size = np.sqrt(spread + epsilon) if convention == "keras" else np.sqrt(spread) + epsilon
    if not momentum:
        return Move(gradient, learning_rate / size)
    buffer = state.momentum_buffer
    buffer *= momentum
    if convention == "keras":
        rate = learning_rate / size
        buffer += rate * gradient
        return Move(buffer, 1.0, rate)
    buffer += gradient / size
    return Move(buffer, learning_rate, learning_rate / size)


@optimizers.declare(
    "adadelta",
    en="RMSProp whose steps are as long as the steps before: it needs no learning rate, so that 1 means none.",
    zh="RMSProp 的变体,步长取自以往更新的大小,无需学习率:取 1 即不缩放。",
    options=(
        learning_rate(1.0),
        proper_fraction("rho", 0.9, "how much of both moving averages is kept"),
        epsilon(1e-6, "added inside both roots; it decides how long the first steps are"),
        convention("only the defaults differ"),
        *decay(),
    ),
    latex=r"v \leftarrow \rho v + (1 - \rho) g^2,\quad \Delta = \sqrt{\frac{u + \epsilon}{v + \epsilon}}\, g,\quad "
    r"u \leftarrow \rho u + (1 - \rho) \Delta^2,\quad \theta \leftarrow \theta - \eta \Delta",
    sources=(PYTORCH, KERAS, "Zeiler 2012, arXiv:1212.5701"),
    conventions={"keras": {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7, "decoupled_weight_decay": True}},
    state=lambda **options: ("mean_square", "mean_square_update"),
)
def adadelta(
    gradient: Array, state: State, step: int, learning_rate: float, rho: float, epsilon: float, convention: str
) -> Move:
    mean_square, mean_square_update = state.mean_square, state.mean_square_update
    mean_square += (1.0 - rho) * (gradient * gradient - mean_square)
    ratio = np.sqrt((mean_square_update + epsilon) / (mean_square + epsilon))
    update = ratio * gradient
    mean_square_update += (1.0 - rho) * (update * update - mean_square_update)
    return Move(gradient, learning_rate * ratio)


def moments(gradient: Array, state: State, beta_1: float, beta_2: float) -> tuple[Array, Array]:
    """Update and return the moving averages of the gradient and of its square, which Adam and its relatives keep."""
    first, second = state.first_moment, state.second_moment
    # These forms take the fewest calls of NumPy, which is what counts for a few numbers.
    first += (1.0 - beta_1) * (gradient - first)
    second += (1.0 - beta_2) * (gradient * gradient - second)
    return first, second


def corrected_moments(state: State, step: int, beta_1: float, beta_2: float, **others: Any) -> Mapping[str, Array]:
    correction = 1.0 - beta_2**step
    shown = {
        "corrected_first_moment": state.first_moment / (1.0 - beta_1**step),
        "corrected_second_moment": state.second_moment / correction,
    }
    if hasattr(state, "largest_second_moment"):
        shown["corrected_largest_second_moment"] = state.largest_second_moment / correction
    return shown


def _state_of_adam(amsgrad: bool = True, **others: Any) -> tuple[str, ...]:
    return ("first_moment", "second_moment", "largest_second_moment")[: 3 if amsgrad else 2]


@optimizers.declare(
    "adam",
    en="The moving average of the gradient, divided by the root of the moving average of its square, both corrected "
    "for their start at 0.",
    zh="梯度的滑动平均除以梯度平方滑动平均的平方根,两者均对零初值作偏差校正。",
    options=(learning_rate(0.001), BETA_1, BETA_2, epsilon(1e-8), AMSGRAD, FORM_OF_ADAM, *decay()),
    latex=r"m \leftarrow \beta_1 m + (1 - \beta_1) g,\quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2,\quad "
    r"\theta \leftarrow \theta - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}",
    sources=(PYTORCH, KERAS, "Kingma, Ba 2014, arXiv:1412.6980"),
    conventions={"keras": {"epsilon": 1e-7, "decoupled_weight_decay": True}},
    state=_state_of_adam,
    shown=corrected_moments,
)
def adam(
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    amsgrad: bool,
    convention: str,
) -> Move:
    first, second = moments(gradient, state, beta_1, beta_2)
    if amsgrad:
        second = np.maximum(state.largest_second_moment, second, out=state.largest_second_moment)
    correction = math.sqrt(1.0 - beta_2**step)
    if convention == "pytorch":
        epsilon *= correction
    return Move(first, learning_rate * correction / (1.0 - beta_1**step) / (np.sqrt(second) + epsilon))


@optimizers.declare(
    "amsgrad",
    en="Adam that divides by the largest second moment so far, so that no step becomes longer because gradients "
    "became small.",
    zh="除以迄今最大二阶矩的 Adam:步长不会因梯度变小而变长。",
    options=(learning_rate(0.001), BETA_1, BETA_2, epsilon(1e-8), FORM_OF_ADAM, *decay()),
    latex=r"m \leftarrow \beta_1 m + (1 - \beta_1) g,\quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2,\quad "
    r"\hat v \leftarrow \max(\hat v, v),\quad "
    r"\theta \leftarrow \theta - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{\hat v / (1 - \beta_2^t)} + \epsilon}",
    sources=(PYTORCH, KERAS, "Reddi, Kale, Kumar 2018, arXiv:1904.09237"),
    conventions={"keras": {"epsilon": 1e-7, "decoupled_weight_decay": True}},
    state=_state_of_adam,
    shown=corrected_moments,
)
def amsgrad(gradient: Array, state: State, step: int, learning_rate: float, **options: Any) -> Move:
    return adam(gradient, state, step, learning_rate, amsgrad=True, **options)


@optimizers.declare(
    "adamw",
    en="Adam with weight decay apart from the gradient: it draws all parameters to 0 alike, however large their "
    "gradients are.",
    zh="权重衰减与梯度分离的 Adam:无论梯度大小,对所有参数同等衰减。",
    options=(learning_rate(0.001), BETA_1, BETA_2, epsilon(1e-8), AMSGRAD, FORM_OF_ADAM, *decay(0.01, decoupled=True)),
    latex=r"\theta \leftarrow (1 - \eta \lambda) \theta,\quad m \leftarrow \beta_1 m + (1 - \beta_1) g,\quad "
    r"v \leftarrow \beta_2 v + (1 - \beta_2) g^2,\quad "
    r"\theta \leftarrow \theta - \eta \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}",
    sources=(PYTORCH, KERAS, "Loshchilov, Hutter 2017, arXiv:1711.05101"),
    conventions={"keras": {"epsilon": 1e-7, "weight_decay": 0.004}},
    state=_state_of_adam,
    shown=corrected_moments,
)
def adamw(gradient: Array, state: State, step: int, learning_rate: float, **options: Any) -> Move:
    return adam(gradient, state, step, learning_rate, **options)


@optimizers.declare(
    "adamax",
    en="Adam with the largest recent gradient in place of the root of the mean square.",
    zh="以近期最大梯度幅值(无穷范数)代替均方根的 Adam。",
    options=(
        learning_rate(0.002),
        BETA_1,
        proper_fraction("beta_2", 0.999, "how much of the largest gradient is kept"),
        epsilon(1e-8),
        convention("epsilon is added to the largest gradient when it divides, not to each gradient"),
        *decay(),
    ),
    latex=r"m \leftarrow \beta_1 m + (1 - \beta_1) g,\quad u \leftarrow \max(\beta_2 u, |g| + \epsilon),\quad "
    r"\theta \leftarrow \theta - \frac{\eta}{1 - \beta_1^t} \frac{m}{u}",
    sources=(PYTORCH, KERAS, "Kingma, Ba 2014, arXiv:1412.6980"),
    conventions={"keras": {"learning_rate": 0.001, "epsilon": 1e-7, "decoupled_weight_decay": True}},
    state=lambda **options: ("first_moment", "infinity_norm"),
    shown=lambda state, step, beta_1, **others: {"corrected_first_moment": state.first_moment / (1.0 - beta_1**step)},
)
def adamax(
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    convention: str,
) -> Move:
    first, norm = state.first_moment, state.infinity_norm
    first += (1.0 - beta_1) * (gradient - first)
    norm *= beta_2
    rate = learning_rate / (1.0 - beta_1**step)
    if convention == "keras":
        np.maximum(norm, np.abs(gradient), out=norm)
        return Move(first, rate / (norm + epsilon))
    np.maximum(norm, np.abs(gradient) + epsilon, out=norm)
    return Move(first, rate / norm)


def _momentum_of_nadam(step: int, beta_1: float, momentum_decay: float) -> float:
    factor: float = 0.96 ** (step * momentum_decay)
    return beta_1 * (1.0 - 0.5 * factor)


def _advance_nadam(state: State, step: int, beta_1: float, momentum_decay: float, **others: Any) -> None:
    state.momentum_product *= _momentum_of_nadam(step, beta_1, momentum_decay)


def _moments_of_nadam(
    state: State, step: int, beta_1: float, beta_2: float, momentum_decay: float, **others: Any
) -> Mapping[str, Array]:
    product = state.momentum_product * _momentum_of_nadam(step + 1, beta_1, momentum_decay)
    return {
        "corrected_first_moment": state.first_moment / (1.0 - product),
        "corrected_second_moment": state.second_moment / (1.0 - beta_2**step),
    }


@optimizers.declare(
    "nadam",
    en="Adam with Nesterov's momentum: the gradient counts once more, and the momentum grows from half of beta_1 to "
    "beta_1.",
    zh="带 Nesterov 动量的 Adam:当前梯度再计一次,动量由 beta_1 的一半渐增至 beta_1。",
    options=(
        learning_rate(0.002),
        BETA_1,
        BETA_2,
        epsilon(1e-8),
        Number(
            name="momentum_decay",
            default=0.004,
            minimum=0.0,
            description="how fast the momentum grows: at step t it is beta_1 * (1 - 0.96 ** (t * momentum_decay) / 2)",
        ),
        convention("only the defaults differ"),
        *decay(),
    ),
    latex=r"\mu_t = \beta_1 (1 - \tfrac12 \cdot 0.96^{t \psi}),\quad m \leftarrow \beta_1 m + (1 - \beta_1) g,\quad "
    r"v \leftarrow \beta_2 v + (1 - \beta_2) g^2,\quad \theta \leftarrow \theta - \eta "
    r"\frac{\frac{1 - \mu_t}{1 - \prod_{i \le t} \mu_i} g + \frac{\mu_{t+1}}{1 - \prod_{i \le t+1} \mu_i} m}"
    r"{\sqrt{v / (1 - \beta_2^t)} + \epsilon}",
    sources=(PYTORCH, KERAS, "Dozat 2016, Incorporating Nesterov Momentum into Adam"),
    conventions={
        "keras": {"learning_rate": 0.001, "epsilon": 1e-7, "momentum_decay": 1.0, "decoupled_weight_decay": True}
    },
    state=lambda **options: ("first_moment", "second_moment"),
    numbers={"momentum_product": 1.0},
    bounds={"momentum_product": (0.0, 1.0)},
    advance=_advance_nadam,
    shown=_moments_of_nadam,
)
def nadam(
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    momentum_decay: float,
    convention: str,
) -> Move:
    first, second = moments(gradient, state, beta_1, beta_2)
    momentum = _momentum_of_nadam(step, beta_1, momentum_decay)
    next_momentum = _momentum_of_nadam(step + 1, beta_1, momentum_decay)
    product = state.momentum_product
    direction = (1.0 - momentum) / (1.0 - product) * gradient
    direction += next_momentum / (1.0 - product * next_momentum) * first
    correction = math.sqrt(1.0 - beta_2**step)
    return Move(direction, learning_rate * correction / (np.sqrt(second) + epsilon * correction))


@optimizers.declare(
    "radam",
    en="Adam that does not divide until enough gradients were seen to know their spread, and from then on shortens its "
    "steps by how well it is known.",
    zh="修正的 Adam:梯度方差可信之前不作除法,之后按其可信程度缩短步长。",
    options=(learning_rate(0.001), BETA_1, BETA_2, epsilon(1e-8), *decay()),
    latex=r"\rho_\infty = \tfrac{2}{1 - \beta_2} - 1,\quad "
    r"\rho_t = \rho_\infty - \tfrac{2 t \beta_2^t}{1 - \beta_2^t},\quad "
    r"r = \sqrt{\tfrac{(\rho_t - 4)(\rho_t - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho_t}},\quad "
    r"\theta \leftarrow \theta - \frac{\eta\, m}{1 - \beta_1^t} \begin{cases} "
    r"r \frac{\sqrt{1 - \beta_2^t}}{\sqrt{v} + \epsilon} & \rho_t > 5 \\ 1 & \rho_t \le 5 \end{cases}",
    sources=(PYTORCH, "Liu et al. 2019, arXiv:1908.03265"),
    state=lambda **options: ("first_moment", "second_moment"),
    shown=corrected_moments,
)
def radam(
    gradient: Array, state: State, step: int, learning_rate: float, beta_1: float, beta_2: float, epsilon: float
) -> Move:
    first, second = moments(gradient, state, beta_1, beta_2)
    rate = learning_rate / (1.0 - beta_1**step)
    correction = 1.0 - beta_2**step
    longest = 2.0 / (1.0 - beta_2) - 1.0
    length = longest - 2.0 * step * beta_2**step / correction
    if length <= 5.0:  # as in PyTorch; 4 in the paper
        return Move(first, rate)
    trust = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
    return Move(first, rate * math.sqrt(trust * correction) / (np.sqrt(second) + epsilon))
