"""Every optimizer, declared once. The modules of this package register them when they are imported."""

from service.engine.descent.optimizers import adaptive, as_printed, momentum, searches, signed
from service.engine.descent.optimizers.declaration import LocalObjective, Move, Optimizer, State, optimizers

__all__ = [
    "LocalObjective",
    "Move",
    "Optimizer",
    "State",
    "adaptive",
    "as_printed",
    "momentum",
    "optimizers",
    "searches",
    "signed",
]
