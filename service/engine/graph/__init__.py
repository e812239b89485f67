"""What a computation is, and how it is differentiated, vectorized and run."""

from service.engine.graph import indexing, operations, windows

__all__ = ["indexing", "operations", "windows"]
