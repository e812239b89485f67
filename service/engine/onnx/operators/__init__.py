"""The operators of ONNX, each declared once, in the module of its family."""

from service.engine.onnx.operators import elementwise, shaping

__all__ = ["elementwise", "shaping"]
