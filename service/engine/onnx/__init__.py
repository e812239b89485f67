"""ONNX files as definitions: every acyclic graph of supported operators becomes a graph of the engine.

`read` is the way in. `file` parses the bytes, `analysis` finds parameters, layers and what must be known, `assembly`
builds the graph, and `operators` is the table of operators by family.
"""

from service.engine.onnx.definition import OnnxDefinition
from service.engine.onnx.importing import Imported, read

__all__ = ["Imported", "OnnxDefinition", "read"]
