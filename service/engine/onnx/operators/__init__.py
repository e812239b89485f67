"""Declarations of the ONNX operators: each is declared once, in the module of its family."""

from service.engine.onnx.operators import (
    attention,
    control,
    elementwise,
    indexing,
    learning,
    neural,
    recurrent,
    reducing,
    sequences,
    shaping,
    signal,
)

__all__ = [
    "attention",
    "control",
    "elementwise",
    "indexing",
    "learning",
    "neural",
    "recurrent",
    "reducing",
    "sequences",
    "shaping",
    "signal",
]
