"""Record PyTorch's Jacobians, Hessians and products with them, for tests/engine/network/test_derivatives.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch_derivatives.py

Needs the extra `oracle`. Each network is written once as a function of one flat vector, of all its
inputs or of all its trainable parameters, and given to `torch.func`: `jvp` is PyTorch's forward
mode, which the service does not have. What comes out is recorded as a request and its answer.

Hessians are those of `torch.autograd.functional`: for batch normalization in training, what
`torch.func.hessian` gives is not even symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from record_pytorch import LOSSES, losses
from record_pytorch_layers import (
    COMMON,
    FORMULAS,
    Layer,
    bits,
    classes,
    hot,
    indices,
    numbers,
    one,
    penalty_of,
    positive,
    real,
    run_network,
    sorted_out,
)
from recording import write
from torch.autograd.functional import hessian
from torch.func import grad, jacrev, jvp, vjp

Tensor = torch.Tensor
Piece = tuple[tuple[str, ...], tuple[int, ...]]

NETWORKS: dict[str, dict[str, Any]] = {
    "two dense layers with classes": {
        "network": {
            "layers": [
                one("dense", name="hidden", units=3, activation="tanh"),
                one("dense", name="classes", units=3, activation="softmax"),
            ]
        },
        "inputs": {"input": ((3, 2), numbers)},
        "targets": {"classes": hot},
        "loss": "categorical_crossentropy",
        "weighted": True,
    },
    "more outputs than inputs": {
        "network": {
            "layers": [
                one("dense", name="hidden", units=2, activation="gelu", use_bias=False),
                one("dense", name="output", units=5, activation="softplus", trainable=False),
            ]
        },
        "inputs": {"input": ((2, 2), numbers)},
        "targets": {"output": real},
        "loss": "log_cosh",
        "reduction": "sum",
    },
    "a convolution": {
        "network": {
            "layers": [
                one("conv2d", name="filters", filters=2, kernel_size=2, strides=2, activation="tanh"),
                one("flatten", name="flat"),
                one("dense", name="output", units=1, activation="sigmoid"),
            ]
        },
        "inputs": {"input": ((2, 4, 4, 1), numbers)},
        "targets": {"output": bits},
        "loss": "binary_crossentropy",
    },
    "a sequence": {
        "network": {
            "layers": [
                one("lstm", name="read", units=2),
                one("dense", name="output", units=1, kernel_regularizer={"type": "l2", "l2": 0.25}),
            ]
        },
        "inputs": {"input": ((2, 3, 1), numbers)},
        "targets": {"output": real},
        "loss": "mean_squared_error",
    },
    "two inputs and two outputs": {
        "network": {
            "inputs": ["left", "right"],
            "layers": [
                one("dense", name="a", inputs=["left"], units=2, activation="silu"),
                one("dense", name="b", inputs=["right"], units=2, activation="tanh"),
                one("multiply", name="product", inputs=["a", "b"]),
                one("dense", name="sum", units=1, inputs=["product"], bias_regularizer={"type": "l2", "l2": 0.5}),
            ],
            "outputs": ["sum", "a"],
        },
        "inputs": {"left": ((2, 3), numbers), "right": ((2, 1), numbers)},
        "targets": {"sum": real, "a": real},
        "loss": {"sum": "mean_squared_error", "a": "log_cosh"},
        "loss_weights": {"sum": 0.5, "a": 2.0},
    },
    "normalization at rest": {
        "network": {
            "layers": [
                one("dense", name="hidden", units=2, activation="elu"),
                one("batch_normalization", name="norm"),
                one("dense", name="output", units=2, activation="tanh"),
            ]
        },
        "inputs": {"input": ((2, 2), numbers)},
        "targets": {"output": real},
        "loss": "squared_error",
        "weighted": True,
        "normalize_weights": True,
    },
    "normalization in training": {
        "network": {
            "layers": [
                one("dense", name="hidden", units=2, activation="tanh"),
                one("batch_normalization", name="norm"),
                one("dense", name="output", units=1),
            ]
        },
        "inputs": {"input": ((3, 2), numbers)},
        "targets": {"output": real},
        "loss": "mean_squared_error",
        "training": True,
    },
    "words": {
        "network": {
            "layers": [
                one("embedding", name="words", input_dim=4, output_dim=2),
                one("flatten", name="flat"),
                one("dense", name="classes", units=2, activation="softmax"),
            ]
        },
        "inputs": {"input": ((2, 2), indices(4))},
        "targets": {"classes": classes},
        "loss": "sparse_categorical_crossentropy",
    },
    "shared parameters": {
        "network": {
            "layers": [
                one("dense", name="first", units=2, activation="tanh", use_bias=False),
                one("dense", name="again", units=2, activation="sigmoid", use_bias=False, shares="first"),
                one("dense", name="output", units=1),
            ]
        },
        "inputs": {"input": ((2, 2), numbers)},
        "targets": {"output": real},
        "loss": "half_squared_error",
        "curved": True,
    },
    "one number": {
        "network": {
            "layers": [
                one("dense", name="hidden", units=2, activation="sigmoid"),
                one("dense", name="output", units=1, activation="tanh"),
            ]
        },
        "inputs": {"input": ((1, 2), numbers)},
        "targets": {"output": real},
        "loss": "mean_squared_error",
        "curved": True,
    },
}
"""`curved`: the Hessians of the outputs are recorded for the parameters too."""


class Function:
    """A network as a function of one flat vector: of its inputs, or of its trainable parameters."""

    def __init__(self, spec: dict[str, Any], rng: np.random.Generator) -> None:
        self.spec = spec
        self.inputs = {name: torch.from_numpy(draw(shape, rng)) for name, (shape, draw) in spec["inputs"].items()}
        layers: dict[str, Layer] = {}
        found = run_network(spec, self.inputs, layers, rng)
        described = {each["name"]: each for each in spec["network"]["layers"]}
        self.outputs = spec["network"].get("outputs", [list(described)[-1]])
        self.trees = {
            name: {key: x.detach() for key, x in layers[name].parameters.items()}
            for name, each in described.items()
            if layers[name].parameters and "shares" not in each
        }
        self.trained: list[Piece] = [
            ((name, key), tuple(x.shape))
            for name in self.trees
            for key, x in layers[name].parameters.items()
            if x.requires_grad and described[name].get("trainable", True)
        ]
        self.numeric: list[Piece] = [
            ((name,), tuple(x.shape)) for name, x in self.inputs.items() if x.is_floating_point()
        ]
        self.of_outputs: list[Piece] = [((name,), tuple(found[name].shape)) for name in self.outputs]
        self.targets = {
            name: torch.from_numpy(spec["targets"][name](tuple(found[name].shape), rng)) for name in self.outputs
        }
        self.samples = len(next(iter(self.inputs.values())))
        self.weights = torch.from_numpy(positive((self.samples,), rng)) if spec.get("weighted") else None

    def run(self, wrt: str, flat: Tensor) -> tuple[dict[str, Tensor], dict[str, Layer]]:
        inputs, trees = dict(self.inputs), {name: dict(own) for name, own in self.trees.items()}
        for (path, _), array in zip(self.pieces(wrt), split(flat, self.pieces(wrt)), strict=True):
            if wrt == "inputs":
                inputs[path[0]] = array
            else:
                trees[path[0]][path[1]] = array
        found, layers, before = dict(inputs), {}, next(iter(inputs))
        for each in self.spec["network"]["layers"]:
            options = {key: value for key, value in each.items() if key not in COMMON}
            parameters = trees.get(each.get("shares", each["name"]), {})
            layer = layers[each["name"]] = Layer(options, self.spec.get("training", False), None, parameters)  # type: ignore[arg-type]
            sources = [found[name] for name in each.get("inputs", [before])]
            found[each["name"]] = FORMULAS[each["type"]](layer, *sources)
            before = each["name"]
        return {name: found[name] for name in self.outputs}, layers

    def pieces(self, side: str) -> list[Piece]:
        return {"inputs": self.numeric, "parameters": self.trained, "outputs": self.of_outputs, "loss": [((), ())]}[
            side
        ]

    def start(self, wrt: str) -> Tensor:
        arrays = [
            self.inputs[path[0]] if wrt == "inputs" else self.trees[path[0]][path[1]] for path, _ in self.pieces(wrt)
        ]
        return torch.cat([array.reshape(-1) for array in arrays])

    def of(self, of: str, wrt: str) -> Callable[[Tensor], Tensor]:
        def outputs(flat: Tensor) -> Tensor:
            return torch.cat([x.reshape(-1) for x in self.run(wrt, flat)[0].values()])

        def loss(flat: Tensor) -> Tensor:
            found, layers = self.run(wrt, flat)
            total = penalty_of(self.spec, layers)
            for name, output in found.items():
                chosen = self.spec["loss"]
                chosen = chosen[name] if isinstance(chosen, dict) else chosen
                z, activation = logits(output, chosen)
                each = LOSSES[chosen](z, self.targets[name], activation, **losses.select(chosen).options)
                each = each if self.weights is None else each * self.weights
                divisor = 1.0 if self.spec.get("reduction") == "sum" else float(self.samples)
                if self.spec.get("normalize_weights"):
                    divisor = self.weights.sum()
                total = total + self.spec.get("loss_weights", {}).get(name, 1.0) * each.sum() / divisor
            return total

        return loss if of == "loss" else outputs


def entry_of(f: Callable[[Tensor], Tensor], position: int, flat: Tensor) -> Tensor:
    return f(flat)[position]


def logits(output: Tensor, loss: str) -> tuple[Tensor, str]:
    """Return the logits of `output` and the activation: PyTorch's losses take probabilities in that form."""
    if loss.endswith("categorical_crossentropy"):
        return output.log(), "softmax"
    if loss == "binary_crossentropy":
        return output.log() - (-output).log1p(), "sigmoid"
    return output, "linear"


def split(flat: Tensor, pieces: list[Piece], lead: int = 0) -> list[Tensor]:
    """Split the flat last axis of a tensor into the arrays that `pieces` describe."""
    parts = flat.reshape(*flat.shape[:lead], -1).split([math.prod(shape) for _, shape in pieces], -1)
    return [part.reshape((*flat.shape[:lead], *shape)) for part, (_, shape) in zip(parts, pieces, strict=True)]


def nested(pieces: list[Piece], values: list[Any], named: bool) -> Any:
    """Nest values by the paths of the pieces; a single value stays alone."""
    if not pieces[0][0] or (len(pieces[0][0]) == 1 and not named):
        (value,) = values
        return value
    tree: dict[str, Any] = {}
    for (path, _), value in zip(pieces, values, strict=True):
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = value
    return tree


class Record:
    """All derivatives of one network that the service can compute."""

    def __init__(self, title: str, spec: dict[str, Any], rng: np.random.Generator) -> None:
        self.title, self.spec, self.rng = title, spec, rng
        self.function = Function(spec, rng)
        self.coupled = spec.get("training", False)

    def entry(self, side: str, flat: Tensor) -> Any:
        pieces = self.function.pieces(side)
        return nested(pieces, [sorted_out(x) for x in split(flat, pieces)], self.named(side))

    def named(self, side: str) -> bool:
        known = {"inputs": self.function.inputs, "outputs": self.function.outputs}
        return len(known.get(side, ())) > 1

    def by_sample(self, flat: Tensor, axis: int, side: str) -> list[Tensor]:
        """Split the axis of a side's numbers into an axis of samples and one of their numbers, for each piece."""
        pieces = self.function.pieces(side)
        parts = flat.split([math.prod(shape) for _, shape in pieces], axis)
        return [part.unflatten(axis, (self.function.samples, -1)) for part in parts]

    def jacobian(self, matrix: Tensor, wrt: str) -> Any:
        rows = []
        for block in self.by_sample(matrix, 0, "outputs"):
            if wrt == "inputs":
                # The outputs of a sample depend on that sample alone.
                blocks = [x.diagonal(0, 0, 2).movedim(-1, 0) for x in self.by_sample(block, 2, "inputs")]
            else:
                blocks = split(block, self.function.pieces(wrt), 2)
            rows.append(nested(self.function.pieces(wrt), [sorted_out(x) for x in blocks], self.named(wrt)))
        return nested(self.function.pieces("outputs"), rows, self.named("outputs"))

    def curvature(self, cube: Tensor, wrt: str) -> Any:
        rows = []
        for block in self.by_sample(cube, 0, "outputs"):
            if wrt == "inputs":
                block = torch.cat(self.by_sample(block, 3, wrt), 4)
                block = torch.cat(self.by_sample(block, 2, wrt), 3)
                block = torch.stack([block[n, :, n, :, n] for n in range(len(block))])
            rows.append(sorted_out(block))
        return nested(self.function.pieces("outputs"), rows, self.named("outputs"))

    def labels(self, wrt: str, per_sample: bool) -> list[str]:
        return [
            ".".join(path) + "".join(f"[{n}]" for n in place)
            for path, shape in self.function.pieces(wrt)
            for place in np.ndindex(*(shape[1:] if per_sample else shape))
        ]

    def vectors(self, side: str) -> list[Tensor]:
        size = sum(math.prod(shape) for _, shape in self.function.pieces(side))
        return [torch.from_numpy(numbers((size,), self.rng)) for _ in range(2)]

    def answers(self, of: str, wrt: str) -> Iterator[dict[str, Any]]:
        f, z = self.function.of(of, wrt), self.function.start(wrt)
        asked = {"of": of, "wrt": wrt}
        tangents, cotangents = self.vectors(wrt), self.vectors(of)
        if of == "loss":
            cotangents = [x.reshape(()) for x in cotangents]
        pushed = [jvp(f, (z,), (v,))[1] for v in tangents]
        pulled = [vjp(f, z)[1](u)[0] for u in cotangents]
        sent = {"vectors": [self.entry(wrt, v) for v in tangents]}
        yield {"kind": "jvp", **asked, **sent, "result": [self.entry(of, x) for x in pushed]}
        vectors = [self.entry(of, u) for u in cotangents]
        yield {"kind": "vjp", **asked, "vectors": vectors, "result": [self.entry(wrt, x) for x in pulled]}
        number = len(f(z).reshape(-1)) == 1
        if number:

            def gradient(x: Tensor) -> Tensor:
                return grad(lambda y: f(y).sum())(x)

            curved = [jvp(gradient, (z,), (v,))[1] for v in tangents]
            yield {"kind": "hvp", **asked, **sent, "result": [self.entry(wrt, x) for x in curved]}
        if of == "loss":
            yield {"kind": "jacobian", **asked, "result": self.entry(wrt, grad(f)(z))}
            labels = self.labels(wrt, per_sample=False)
            yield {"kind": "hessian", **asked, "result": sorted_out(hessian(f, z)), "labels": labels}
        elif not (self.coupled and wrt == "inputs"):
            yield {"kind": "jacobian", **asked, "result": self.jacobian(jacrev(f)(z), wrt)}
            if wrt == "inputs" or self.spec.get("curved"):
                labels = self.labels(wrt, per_sample=wrt == "inputs")
                cube = torch.stack([hessian(partial(entry_of, f, n), z) for n in range(len(f(z)))])
                yield {"kind": "hessian", **asked, "result": self.curvature(cube, wrt), "labels": labels}

    def record(self) -> dict[str, Any]:
        function, spec = self.function, self.spec
        several = {side: self.named(side) for side in ("inputs", "outputs")}

        def sent(tensors: dict[str, Tensor], side: str) -> Any:
            listed = {name: sorted_out(x) for name, x in tensors.items()}
            return listed if several[side] else next(iter(listed.values()))

        loss = {"targets": sent(function.targets, "outputs"), "loss": spec["loss"]}
        loss |= {key: spec[key] for key in ("loss_weights", "reduction", "normalize_weights") if key in spec}
        if function.weights is not None:
            loss["sample_weights"] = sorted_out(function.weights)
        found = function.run("parameters", function.start("parameters"))[0]
        return {
            "title": self.title,
            "request": {
                "network": spec["network"],
                "parameters": {
                    layer: {name: sorted_out(x) for name, x in own.items()} for layer, own in function.trees.items()
                },
                "inputs": sent(function.inputs, "inputs"),
                "training": spec.get("training", False),
            },
            "loss": loss,
            "values": {
                "outputs": sent(found, "outputs"),
                "loss": function.of("loss", "parameters")(function.start("parameters")).item(),
            },
            "answers": [
                answer
                for of in ("outputs", "loss")
                for wrt in ("inputs", "parameters")
                if function.pieces(wrt)
                for answer in self.answers(of, wrt)
            ],
        }


def main() -> None:
    torch.set_num_threads(1)
    records = [
        Record(title, spec, np.random.default_rng([5, k])).record() for k, (title, spec) in enumerate(NETWORKS.items())
    ]
    count = f"{sum(len(record['answers']) for record in records)} answers"
    write("pytorch/derivatives.json", "networks", records, count, torch=torch.__version__)


if __name__ == "__main__":
    main()
