"""The known mistakes in gradients, each declared once, in the module of its family."""

from service.engine.insight.mistakes import (
    activations,
    arrangements,
    data,
    factors,
    formulas,
    layers,
    losses,
    noise,
)
from service.engine.insight.mistakes.declaration import Change, Counts, Mistake, mistakes
from service.engine.insight.mistakes.network import Network

__all__ = [
    "Change",
    "Counts",
    "Mistake",
    "Network",
    "activations",
    "arrangements",
    "data",
    "factors",
    "formulas",
    "layers",
    "losses",
    "mistakes",
    "noise",
]
