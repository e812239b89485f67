"""Evaluation and differentiation of an ONNX file in the engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, Node
from service.engine.graph.operations import sum_over
from service.engine.onnx import Imported, read


class Run:
    """A file with input values: its outputs, and the gradient of a random sum of them."""

    def __init__(self, data: bytes, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> None:
        self.imported: Imported = read(data, outputs)
        definition = self.imported.definition
        arrays = {name: np.asarray(inputs[name]) for name in definition.inputs}
        known = tuple(
            (name, arrays[name].shape, tuple(arrays[name].reshape(-1).tolist()))
            for name in sorted(definition.known_inputs)
        )
        shapes = [(name, array.shape) for name, array in arrays.items()]
        assert not definition.faults_of_inputs(shapes)
        self.graph = Graph("float64", 100_000, 2**28)
        self.model = definition.assemble(self.graph, dict(shapes), known=known)
        self.outputs = {name: self.model.layers[name].output for name in definition.output_names}
        self.values: dict[Node, Array] = {
            node: arrays[name].astype(node.dtype) for name, node in self.model.inputs.items()
        }
        for each in self.model.parameters:
            self.values[each.node] = self.imported.parameters[each.layer][each.name].astype(np.float64)

    def results(self) -> dict[str, Array]:
        """Return the outputs by name."""
        found = interpret(self.outputs.values(), self.values)
        return {name: found[node] for name, node in self.outputs.items()}

    def slopes(self, seed: int = 0, step: float = 1e-6) -> tuple[float, float]:
        """Return the slope of a random sum of the outputs in a random direction, by the gradient and by differences."""
        rng = np.random.default_rng(seed)
        total = None
        for node in self.outputs.values():
            part = sum_over(node * self.graph.apply("reshape", self.graph.vector(tuple(rng.standard_normal(node.size))),
                                                    attributes=(node.shape,)))  # fmt: skip
            total = part if total is None else total + part
        assert total is not None
        moved = [node for node in self.values if node.dtype != "int64"]
        directions = {node: rng.standard_normal(node.shape) for node in moved}
        gradient = dense(differentiate(total, moved).nodes, moved)
        found = interpret(gradient, self.values)
        exact = sum(float((found[g] * directions[x]).sum()) for g, x in zip(gradient, moved, strict=True))
        ends = [
            float(
                interpret([total], {x: v + sign * step * directions.get(x, 0) for x, v in self.values.items()})[total]
            )
            for sign in (1.0, -1.0)
        ]
        return exact, (ends[0] - ends[1]) / (2 * step)
