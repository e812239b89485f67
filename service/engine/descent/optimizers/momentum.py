"""Gradient descent, classical momentum and Nesterov's momentum."""

from __future__ import annotations

import math
from typing import Any

from service.engine.building import Array, Flag, Number
from service.engine.descent.optimizers.declaration import (
    KERAS,
    PYTORCH,
    Move,
    State,
    convention,
    decay,
    learning_rate,
    optimizers,
    proper_fraction,
)

MOMENTUM = Number(name="momentum", default=0.0, minimum=0.0, description="how much of the last buffer is kept")


def _stable(momentum: float, nesterov: bool, dampening: float = 0.0) -> float:
    """Return the product of learning rate and curvature up to which descent with momentum is stable on a parabola.
    There an eigenvalue of the step reaches -1."""
    if momentum >= 1.0:
        return 0.0  # the buffer only grows
    fresh = 1.0 - dampening
    weight = 1.0 + momentum + momentum * fresh if nesterov else fresh
    return 2.0 * (1.0 + momentum) / weight if weight > 0.0 else math.inf


NESTEROV = Flag(name="nesterov", default=False, description="the gradient is counted once more, after the buffer")


@optimizers.declare(
    "sgd",
    en="Gradient descent, with the momentum, dampening and nesterov of PyTorch: the current learning rate scales the "
    "whole history.",
    zh="梯度下降,可带 PyTorch 的动量、阻尼与 nesterov:当前学习率乘以全部历史。",
    options=(
        learning_rate(0.001),
        MOMENTUM,
        Number(
            name="dampening",
            default=0.0,
            description="1 - dampening is the weight of a new gradient in the buffer, but of the first; not with keras",
        ),
        NESTEROV,
        convention("the buffer holds the steps themselves: velocity = momentum * velocity - learning_rate * gradient"),
        *decay(),
    ),
    latex=r"b \leftarrow \mu b + (1 - d) g,\quad \theta \leftarrow \theta - \eta b",
    sources=(PYTORCH, KERAS),
    conventions={"keras": {"learning_rate": 0.01, "decoupled_weight_decay": True}},
    state=lambda momentum, **others: ("momentum_buffer",) if momentum else (),
    stable=lambda momentum, nesterov, dampening, convention, **others: _stable(
        momentum, nesterov, dampening if momentum and convention == "pytorch" else 0.0
    ),
)
def sgd(
    gradient: Array,
    state: State,
    step: int,
    learning_rate: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    convention: str,
) -> Move:
    if not momentum:
        return Move(gradient, learning_rate)
    buffer = state.momentum_buffer
    if convention == "keras":
        # The buffer holds steps: a schedule does not change those of the past.
        buffer *= momentum
        buffer -= learning_rate * gradient
        return Move(momentum * buffer - learning_rate * gradient if nesterov else buffer, -1.0, learning_rate)
    if step == 1:
        buffer[...] = gradient  # the first one is not dampened
    else:
        buffer *= momentum
        buffer += (1.0 - dampening) * gradient
    return Move(gradient + momentum * buffer if nesterov else buffer, learning_rate)


@optimizers.declare(
    "momentum",
    en="Classical momentum, as textbooks have it: the velocity is what is added to the parameters.",
    zh="教科书中的经典动量:速度即参数的增量。",
    options=(learning_rate(0.01), proper_fraction("momentum", 0.9, "how much of the last velocity is kept"), *decay()),
    latex=r"v \leftarrow \alpha v - \epsilon g,\quad \theta \leftarrow \theta + v",
    sources=("Polyak 1964", "Goodfellow, Bengio, Courville: Deep Learning, algorithm 8.2"),
    state=lambda **options: ("velocity",),
    stable=lambda momentum: _stable(momentum, nesterov=False),
)
def classical_momentum(gradient: Array, state: State, step: int, learning_rate: float, momentum: float) -> Move:
    velocity = state.velocity
    velocity *= momentum
    velocity -= learning_rate * gradient
    return Move(velocity, -1.0, learning_rate)


def _ahead(state: State, momentum: float, **others: Any) -> Array:
    ahead: Array = momentum * state.velocity
    return ahead


@optimizers.declare(
    "nesterov",
    en="Nesterov's momentum, as textbooks have it: the gradient, that of coupled weight decay included, is taken where "
    "the velocity leads. The loss is that at the parameters, the gradient that at the point ahead.",
    zh="教科书中的 Nesterov 动量:在速度将到达之处求梯度(耦合权重衰减的梯度也在该处)。损失取自当前参数,梯度取自前瞻点。",
    options=(learning_rate(0.01), proper_fraction("momentum", 0.9, "how much of the last velocity is kept"), *decay()),
    latex=r"v \leftarrow \alpha v - \epsilon \nabla L(\theta + \alpha v),\quad \theta \leftarrow \theta + v",
    sources=("Nesterov 1983", "Goodfellow, Bengio, Courville: Deep Learning, algorithm 8.3"),
    state=lambda **options: ("velocity",),
    stable=lambda momentum: _stable(momentum, nesterov=True),
    look_ahead=_ahead,
)
def nesterov(gradient: Array, state: State, step: int, learning_rate: float, momentum: float) -> Move:
    return classical_momentum(gradient, state, step, learning_rate, momentum)
