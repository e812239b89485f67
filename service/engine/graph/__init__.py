"""What a computation is, and how it is differentiated, vectorized and run."""

from service.engine.graph import operations

__all__ = ["operations"]
