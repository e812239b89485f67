"""Rules as a series of articles misprints them: counter-examples that fail beside the true rules."""

from __future__ import annotations

import numpy as np

from service.engine.building import Array
from service.engine.descent.optimizers.adaptive import BETA_1, BETA_2, corrected_moments, moments
from service.engine.descent.optimizers.declaration import (
    Move,
    State,
    decay,
    epsilon,
    learning_rate,
    optimizers,
    proper_fraction,
)

SOURCES = ("misprinted in a Chinese series of articles on gradient descent",)


@optimizers.declare(
    "adagrad_as_printed",
    en="A misprint of AdaGrad, not to be used: the step lacks the factor g, so that every step lowers every parameter, "
    "whichever way the loss falls, and most where the gradient is small.",
    zh="AdaGrad 的误印,切勿使用:更新式缺少因子 g,无论损失往何处下降,每步都使所有参数减小,且梯度越小减得越多。",
    options=(learning_rate(0.01), epsilon(1e-7), *decay()),
    latex=r"r \leftarrow r + g^2,\quad \theta \leftarrow \theta - \frac{\eta}{\sqrt{r} + \delta}",
    sources=SOURCES,
    state=lambda **options: ("accumulator",),
    counter_example=True,
)
def adagrad_as_printed(gradient: Array, state: State, step: int, learning_rate: float, epsilon: float) -> Move:
    accumulator = state.accumulator
    accumulator += gradient * gradient
    return Move(np.ones_like(gradient), learning_rate / (np.sqrt(accumulator) + epsilon))


@optimizers.declare(
    "rmsprop_as_printed",
    en="A misprint of RMSProp, not to be used: the step lacks the factor g, so that every step lowers every parameter, "
    "whichever way the loss falls, and most where the gradient is small.",
    zh="RMSProp 的误印,切勿使用:更新式缺少因子 g,无论损失往何处下降,每步都使所有参数减小,且梯度越小减得越多。",
    options=(
        learning_rate(0.01),
        proper_fraction("rho", 0.9, "how much of the moving average is kept"),
        epsilon(1e-6),
        *decay(),
    ),
    latex=r"r \leftarrow \rho r + (1 - \rho) g^2,\quad \theta \leftarrow \theta - \frac{\eta}{\sqrt{r} + \delta}",
    sources=SOURCES,
    state=lambda **options: ("mean_square",),
    counter_example=True,
)
def rmsprop_as_printed(
    gradient: Array, state: State, step: int, learning_rate: float, rho: float, epsilon: float
) -> Move:
    mean_square = state.mean_square
    mean_square += (1.0 - rho) * (gradient * gradient - mean_square)
    return Move(np.ones_like(gradient), learning_rate / (np.sqrt(mean_square) + epsilon))


@optimizers.declare(
    "adam_as_printed",
    en="A misprint of Adam, not to be used: the corrected moments are worked out and then not used, and the step has a "
    "factor g too many, so that a gradient and its mean of one sign lower the parameter, whichever sign it is.",
    zh="Adam 的误印,切勿使用:校正后的矩算出却未使用,更新式又多乘一个 g,只要梯度与其均值同号,不论正负参数都减小。",
    options=(learning_rate(0.001), BETA_1, BETA_2, epsilon(1e-8), *decay()),
    latex=r"s \leftarrow \rho_1 s + (1 - \rho_1) g,\quad r \leftarrow \rho_2 r + (1 - \rho_2) g^2,\quad "
    r"\theta \leftarrow \theta - \eta \frac{s}{\sqrt{r} + \delta} g",
    sources=SOURCES,
    state=lambda **options: ("first_moment", "second_moment"),
    shown=corrected_moments,
    counter_example=True,
)
def adam_as_printed(
    gradient: Array, state: State, step: int, learning_rate: float, beta_1: float, beta_2: float, epsilon: float
) -> Move:
    first, second = moments(gradient, state, beta_1, beta_2)
    return Move(first * gradient, learning_rate / (np.sqrt(second) + epsilon))
