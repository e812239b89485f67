"""The known mistakes in gradients, each declared once, in the module of its family."""

# ruff: noqa: F401 (importing a module declares its mistakes)
# In the order of the catalogue, which also ranks equally good explanations:
# isort: off
from service.engine.insight.mistakes import activations
from service.engine.insight.mistakes import arrangements
from service.engine.insight.mistakes import layers
from service.engine.insight.mistakes import linear_layers
from service.engine.insight.mistakes import links
from service.engine.insight.mistakes import data
from service.engine.insight.mistakes import factors
from service.engine.insight.mistakes import formulas
from service.engine.insight.mistakes import losses
from service.engine.insight.mistakes import noise
from service.engine.insight.mistakes.declaration import Change, Counts, Mistake, mistakes
from service.engine.insight.mistakes.network import Network

__all__ = ["Change", "Counts", "Mistake", "Network", "mistakes"]
