"""Let PyTorch's gradcheck and gradgradcheck judge the engine's layers.

    OPENBLAS_NUM_THREADS=1 python scripts/gradcheck_pytorch.py [type ...]

Needs the extra `oracle`. Each layer recorded by scripts/record_pytorch_layers.py, away from ties, becomes
a function that PyTorch takes for one of its own: forward runs the engine, backward is a second
function that runs the engine's gradients, and the backward of that one runs the gradients of the gradients.
Numerical differences of the engine's values then check the first, those of its gradients the
second. Ends with an error if one fails, or if a type of layer has no record.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recording import DATA
from torch.autograd.gradcheck import GradcheckError

from schemas.network import NetworkField
from service.engine.graph.differentiate import differentiate
from service.engine.graph.ir import Graph, Node, NoGradient
from service.engine.graph.operations import broadcast, sum_over
from service.engine.graph.plan import Program
from service.engine.network.layered import assemble
from service.engine.network.layers import layers

Tensor = torch.Tensor


class Planned:
    """A compiled program as a function of arrays, in the order of `takes`; the inputs in `fixed` never change."""

    def __init__(self, takes: Sequence[Node], gives: Sequence[Node], fixed: dict[str, np.ndarray]) -> None:
        self.takes = [node.attributes[0] for node in takes]
        self.fixed = fixed
        self.program = Program({str(position): node for position, node in enumerate(gives)})

    def __call__(self, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        given = self.fixed | {name: value.numpy() for name, value in zip(self.takes, values, strict=True)}
        with self.program.workspace() as workspace:
            for name, array in workspace.inputs.items():
                array[...] = given[name]
            workspace.run()
            return tuple(torch.from_numpy(array.copy()) for array in workspace.outputs.values())


class Layer:
    """A recorded layer as three programs: its output, its gradients, and the gradients of a weighted sum of those."""

    def __init__(self, record: dict[str, Any]) -> None:
        names = [f"x{position}" for position in range(len(record["inputs"]))]
        description = {"type": record["type"], "name": "it", "inputs": names, **record["options"]}
        definition = NetworkField().deserialize({"inputs": names, "layers": [description]})
        graph = Graph("float64")
        arrays = dict(zip(names, map(np.asarray, record["inputs"]), strict=True))
        shapes = {name: array.shape for name, array in arrays.items()}
        model = assemble(definition, graph, shapes, training=record["training"])
        output = model.layers["it"].output

        values = {model.inputs[name]: array for name, array in arrays.items()}
        values |= {each.node: np.asarray(record["parameters"][each.name]) for each in model.parameters}
        learned = [each.node for each in model.parameters if each.trainable]
        self.targets = [*learned, *(x for x in model.inputs.values() if x.dtype != "int64")]
        self.values = [torch.from_numpy(values[node].astype(np.float64)) for node in self.targets]
        fixed = {node.attributes[0]: array for node, array in values.items() if node not in self.targets}

        cotangent = graph.input("cotangent", output.shape)
        gradients = gradients_of(output, self.targets, cotangent)
        directions = [graph.input(f"direction {position}", x.shape) for position, x in enumerate(self.targets)]
        along = graph.constant(0.0)
        for gradient, direction in zip(gradients, directions, strict=True):
            along = along + sum_over(gradient * direction, range(len(gradient.shape)))
        second = gradients_of(along, [cotangent, *self.targets])
        self.forward = Planned(self.targets, [output], fixed)
        self.backward = Planned([cotangent, *self.targets], gradients, fixed)
        self.twice = Planned([*directions, cotangent, *self.targets], second, fixed)

    def __call__(self, *values: Tensor) -> Tensor:
        return Value.apply(self, *values)


def gradients_of(output: Node, targets: Sequence[Node], cotangent: Node | None = None) -> list[Node]:
    """Return the gradients of `output` by `targets`, with zeros for targets that it does not depend on."""
    return [
        broadcast(output.graph.constant(0.0), target.shape) if isinstance(found, NoGradient) else found
        for found, target in zip(differentiate(output, targets, cotangent).nodes, targets, strict=True)
    ]


class Value(torch.autograd.Function):
    """The layer's output as a PyTorch function whose backward pass can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, *values: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(*values)
        return layer.forward(values)[0]

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        return None, *Gradients.apply(ctx.layer, cotangent, *ctx.saved_tensors)


class Gradients(torch.autograd.Function):
    """The layer's gradients as a PyTorch function of the cotangent and the values."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, cotangent: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        ctx.layer = layer
        ctx.save_for_backward(cotangent, *values)
        return layer.backward((cotangent, *values))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *directions: Tensor) -> tuple[Tensor | None, ...]:
        return None, *ctx.layer.twice((*directions, *ctx.saved_tensors))


def check(record: dict[str, Any]) -> str | None:
    """Return PyTorch's complaint about a recorded layer's gradients, or None if there is none."""
    torch.manual_seed(0)
    layer = Layer(record)
    values = [value.clone().requires_grad_() for value in layer.values]
    try:
        torch.autograd.gradcheck(layer, values, atol=1e-7, rtol=1e-6)
        torch.autograd.gradgradcheck(layer, values, atol=1e-6, rtol=1e-5, gen_non_contig_grad_outputs=True)
    except GradcheckError as error:
        return str(error)
    return None


def main() -> None:
    torch.set_num_threads(1)
    files = sorted((DATA / "pytorch").glob("layers_*.json"))
    records = [record for file in files for record in json.loads(file.read_text())["layers"] if not record["ties"]]
    chosen = set(sys.argv[1:]) or {declaration.name for declaration in layers}
    failed = 0
    for kind in sorted(chosen):
        of_this_kind = [record for record in records if layers[record["type"]].name == kind]
        found = [(record, check(record)) for record in of_this_kind]
        wrong = [(record["options"], message) for record, message in found if message is not None]
        print(f"{kind}: {len(found) - len(wrong)} of {len(found)} pass")
        for options, message in wrong:
            print(f"  {options}: {message}")
        failed += len(wrong) + (not found)
    if failed:
        sys.exit(f"{failed} failed")


if __name__ == "__main__":
    main()
