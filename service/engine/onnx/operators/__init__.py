"""The operators of ONNX, each declared once, in the module of its family."""

from service.engine.onnx.operators import (
    control,
    elementwise,
    indexing,
    neural,
    recurrent,
    reducing,
    shaping,
)

__all__ = ["control", "elementwise", "indexing", "neural", "recurrent", "reducing", "shaping"]
