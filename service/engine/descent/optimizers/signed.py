"""Optimizers that use the signs of gradients, not their sizes."""

from __future__ import annotations

import numpy as np

from service.engine.building import Array, Number
from service.engine.descent.optimizers.declaration import (
    KERAS,
    PYTORCH,
    Move,
    State,
    decay,
    learning_rate,
    optimizers,
    proper_fraction,
)


@optimizers.declare(
    "lion",
    en="Steps of one length in every parameter, along the sign of a mix of the gradient and its moving average.",
    zh="沿梯度与其滑动平均之混合的符号前进,各参数步长相同。",
    options=(
        learning_rate(0.001),
        proper_fraction("beta_1", 0.9, "weight of the moving average in the direction"),
        proper_fraction("beta_2", 0.99, "how much of the moving average is kept"),
        *decay(decoupled=True),
    ),
    latex=r"\theta \leftarrow \theta - \eta \operatorname{sgn}(\beta_1 m + (1 - \beta_1) g),\quad "
    r"m \leftarrow \beta_2 m + (1 - \beta_2) g",
    sources=(KERAS, "Chen et al. 2023, arXiv:2302.06675"),
    state=lambda **options: ("mean_gradient",),
)
def lion(gradient: Array, state: State, step: int, learning_rate: float, beta_1: float, beta_2: float) -> Move:
    mean = state.mean_gradient
    direction = np.sign(beta_1 * mean + (1.0 - beta_1) * gradient)
    mean += (1.0 - beta_2) * (gradient - mean)
    return Move(direction, learning_rate)


@optimizers.declare(
    "rprop",
    en="Each parameter has a step of its own that grows while its gradient keeps its sign and shrinks where the sign "
    "turns; for full batches only. The learning rate is the first step.",
    zh="每个参数自有步长:梯度符号不变则增大,变号则缩小;仅适用于全批量。学习率即初始步长。",
    options=(
        learning_rate(0.01),
        Number(
            name="step_decrease",
            default=0.5,
            minimum=0.0,
            maximum=1.0,
            open_minimum=True,
            open_maximum=True,
            description="factor of the step where the sign of the gradient turns",
        ),
        Number(
            name="step_increase",
            default=1.2,
            minimum=1.0,
            open_minimum=True,
            description="factor of the step where the gradient keeps its sign",
        ),
        Number(name="minimum_step", default=1e-6, minimum=0.0, description="no step becomes shorter"),
        Number(name="maximum_step", default=50.0, minimum=0.0, description="no step becomes longer"),
        *decay(),
    ),
    latex=r"\Delta \leftarrow \operatorname{clip}\left(\Delta \cdot \begin{cases} "
    r"\eta^+ & g\, g_{t-1} > 0 \\ \eta^- & g\, g_{t-1} < 0 \\ 1 & \text{else} \end{cases}\right),\quad "
    r"g \leftarrow 0 \text{ where } g\, g_{t-1} < 0,\quad \theta \leftarrow \theta - \Delta \operatorname{sgn}(g)",
    sources=(PYTORCH, "Riedmiller, Braun 1993", "Igel, Hüsken 2000"),
    full_batch=True,
    state=lambda **options: ("step_size", "last_gradient"),
)
def rprop(
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    step_decrease: float,
    step_increase: float,
    minimum_step: float,
    maximum_step: float,
) -> Move:
    size, last = state.step_size, state.last_gradient
    if step == 1:
        size[...] = learning_rate
    direction = np.sign(gradient)
    agreement = direction * np.sign(last)  # the product of the gradients themselves could underflow
    turned = agreement < 0.0
    np.multiply(size, step_increase, out=size, where=agreement > 0.0)
    np.multiply(size, step_decrease, out=size, where=turned)
    np.clip(size, minimum_step, maximum_step, out=size)
    # Where the sign turned, the last step was too long: skip this step, and let the next one not turn again.
    direction[turned] = 0.0
    last[...] = gradient
    last[turned] = 0.0
    return Move(direction, size.copy())  # the record of this step must outlast the next step
