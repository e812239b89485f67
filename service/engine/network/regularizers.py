"""Regularizers, each declared once: penalties on large parameters, added to the loss.

The convention is Keras's: L2 is λ Σ w², without the factor ½ of weight decay.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.engine.building import Declaration, Node, Number, Registry, absolute, square, sum_over


@dataclass(frozen=True, kw_only=True, eq=False)
class Regularizer(Declaration):
    """The declaration of a regularizer: a function of a parameter that returns its penalty."""


regularizers: Registry[Regularizer] = Registry("regularizer", "regularizers", Regularizer)

KERAS = "https://keras.io/api/layers/regularizers/"
L1 = Number(name="l1", default=0.01, minimum=0.0, description="factor of the sum of absolute values")
L2 = Number(name="l2", default=0.01, minimum=0.0, description="factor of the sum of squares")


@regularizers.declare(
    "l1",
    en="Adds l1 times the sum of absolute values; the gradient at 0 is 0.",
    zh="加上 l1 乘以绝对值之和;在 0 处梯度取 0。",
    options=(L1,),
    latex=r"\lambda \sum |w|",
    derivative=r"\lambda \operatorname{sgn} w",
    sources=(KERAS,),
)
def lasso(w: Node, l1: float) -> Node:
    return l1 * sum_over(absolute(w))


@regularizers.declare(
    "l2",
    en="Adds l2 times the sum of squares.",
    zh="加上 l2 乘以平方和。",
    options=(L2,),
    latex=r"\lambda \sum w^2",
    derivative=r"2 \lambda w",
    sources=(KERAS,),
)
def ridge(w: Node, l2: float) -> Node:
    return l2 * sum_over(square(w))


@regularizers.declare(
    "l1_l2",
    en="Adds both penalties.",
    zh="同时加上 l1 与 l2 惩罚。",
    options=(L1, L2),
    latex=r"\lambda_1 \sum |w| + \lambda_2 \sum w^2",
    derivative=r"\lambda_1 \operatorname{sgn} w + 2 \lambda_2 w",
    sources=(KERAS,),
)
def elastic_net(w: Node, l1: float, l2: float) -> Node:
    return lasso(w, l1) + ridge(w, l2)
