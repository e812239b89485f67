"""The graph: computations as data, differentiated, vectorized, planned and run. docs/engine.md shows one on its way."""

from service.engine.graph import operations

__all__ = ["operations"]
