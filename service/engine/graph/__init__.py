"""What a computation is, and how it is differentiated, vectorized and run."""

from service.engine.graph import elementary, indexing, operations, robust, windows

__all__ = ["elementary", "indexing", "operations", "robust", "windows"]
