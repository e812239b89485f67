"""The graph: computations as data, which are differentiated, vectorized, planned and run. docs/engine.md shows how."""

from service.engine.graph import operations

__all__ = ["operations"]
