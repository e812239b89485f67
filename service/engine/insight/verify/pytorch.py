"""The layout of parameters in PyTorch, translated to ours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Shape
from service.engine.network.definition import Definition

Path = tuple[str, ...]


class PyTorchLayout:
    """The names and shapes that PyTorch gives the parameters of a network."""

    def __init__(self, definition: Definition, shapes: Mapping[Path, Shape]) -> None:
        """Prepare. `shapes` are the shapes of our parameters."""
        self.definition, self.shapes = definition, shapes
        self.types = {layer.name: layer.layer.name for layer in definition.layers}

    def names(self, layer: str) -> Iterator[str]:
        kind = self.types[layer]
        owned = [path[1] for path in self.shapes if path[0] == layer]
        for name in owned:
            match kind, name:
                case (("simple_rnn" | "lstm" | "gru"), "kernel"):
                    yield "weight_ih_l0"
                case (("simple_rnn" | "lstm" | "gru"), "recurrent_kernel"):
                    yield "weight_hh_l0"
                case (("simple_rnn" | "lstm" | "gru"), "bias"):
                    yield from ("bias_ih_l0", "bias_hh_l0")
                case _, ("kernel" | "gamma" | "scale" | "embeddings" | "alpha"):
                    yield "weight"
                case _, ("bias" | "beta"):
                    yield "bias"
                case _:
                    yield name

    def turned(self, layer: str, name: str, array: Array) -> Iterator[tuple[Path, Array]]:
        """Yield our parameters that a tensor of PyTorch belongs to, each with the tensor in our layout. A tensor of an
        unexpected shape stays as it is."""
        kind = self.types.get(layer, "")
        owned = {path[1] for path in self.shapes if path[0] == layer}
        if kind in ("simple_rnn", "lstm", "gru", "bidirectional"):
            yield from self._from_recurrent(layer, name, array)
        elif kind == "multi_head_attention":
            yield from self._from_attention(layer, name, array)
        elif name == "weight":
            for own in ("kernel", "gamma", "scale", "embeddings", "alpha"):
                if own in owned:
                    yield (layer, own), _turned(array, own, kind, self.shapes[layer, own])
                    break
        elif name == "bias":
            for own in ("bias", "beta"):
                if own in owned:
                    yield (layer, own), array
                    break

    def _from_recurrent(self, layer: str, name: str, array: Array) -> Iterator[tuple[Path, Array]]:
        backward = name.endswith("_reverse")
        stem = name.removesuffix("_reverse").removesuffix("_l0")
        own = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias_ih": "bias", "bias_hh": "bias"}.get(stem)
        if own is None:
            return
        if (layer, own) not in self.shapes:
            own = f"{'backward' if backward else 'forward'}_{own}"
        path = (layer, own)
        if path not in self.shapes:
            return
        shape = self.shapes[path]
        turned = array.T if array.ndim == 2 and stem.startswith("weight") else array
        if shape[-1] == turned.shape[-1] and self._gates(layer) == 3 and shape[-1] % 3 == 0:
            first, second, third = np.split(turned, 3, -1)
            turned = np.concatenate([second, first, third], -1)  # PyTorch: reset, update, candidate
        if own.endswith("bias") and len(shape) == 2 and turned.shape == shape[1:]:
            both = np.full(shape, math.nan)
            both[0 if stem == "bias_ih" else 1] = turned
            turned = both
        yield path, turned

    def _gates(self, layer: str) -> int:
        definition = next(each for each in self.definition.layers if each.name == layer)
        inner = definition.layer.options.get("layer")
        kind = definition.layer.name if inner is None else inner.name
        return {"gru": 3, "lstm": 4}.get(kind, 1)

    def _from_attention(self, layer: str, name: str, array: Array) -> Iterator[tuple[Path, Array]]:
        parts = ("query", "key", "value")
        if name in ("in_proj_weight", "in_proj_bias"):
            ending = "kernel" if name.endswith("weight") else "bias"
            if array.shape[0] % 3:
                return
            for part, own in zip(np.split(array, 3), parts, strict=True):
                path = (layer, f"{own}_{ending}")
                if path in self.shapes:
                    turned = part.T if ending == "kernel" else part
                    yield path, _reshaped(turned, self.shapes[path])
        elif name in ("out_proj.weight", "out_proj.bias"):
            ending = "kernel" if name.endswith("weight") else "bias"
            path = (layer, f"attention_output_{ending}")
            if path in self.shapes:
                yield path, _reshaped(array.T if ending == "kernel" else array, self.shapes[path])


def _reshaped(array: Array, shape: Shape) -> Array:
    return array.reshape(shape) if array.size == math.prod(shape) else array


def _turned(array: Array, own: str, kind: str, shape: Shape) -> Array:
    """Return a weight of PyTorch with the axes in our order."""
    if own != "kernel":
        return _reshaped(array, shape) if own == "alpha" else array
    if kind == "depthwise_conv2d" and array.ndim == 4 and array.shape[0] == shape[2] * shape[3]:
        return array.reshape(shape[2], shape[3], *array.shape[2:]).transpose(2, 3, 0, 1)
    if kind == "conv2d_transpose" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if "conv" in kind and array.ndim == len(shape) > 2:
        return array.transpose(*range(2, array.ndim), 1, 0)
    return array.T if array.ndim == 2 else array
