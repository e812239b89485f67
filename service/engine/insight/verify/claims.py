"""Claimed gradients as they are sent: in our layout or PyTorch's, as a tree, by flat names, or as one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.engine.errors import MOST_ERRORS, Fault
from service.engine.errors import Path as Place
from service.engine.graph.ir import Array, Shape
from service.engine.insight.mistakes import mistakes
from service.engine.network.definition import Definition
from service.engine.network.vectors import ParametersSide

LAYOUTS = ("nabla", "pytorch")
Path = tuple[str, ...]
Turn = Callable[[Array, Shape], Array | None]
"""A tensor of PyTorch as one of ours of a shape; None: it is none."""


@dataclass
class Claim:
    """What somebody claims to be the gradient."""

    tensors: dict[Path, Array] = field(default_factory=dict)
    """Of the right shapes, in float64."""
    odd: dict[Path, Array] = field(default_factory=dict)
    """Of other shapes, which a transpose or a reshape explains."""
    twins: dict[Path, Array] = field(default_factory=dict)
    """Second claims of the same tensor: PyTorch has two biases where one is enough."""
    narrow: bool = False
    """Whether it came as float32."""
    faults: list[Fault] = field(default_factory=list)
    names: set[tuple[str, str]] = field(default_factory=set)
    """The names that were read."""


class Claims:
    """Reads claims about the parameters of a network."""

    def __init__(self, side: ParametersSide, definition: Definition) -> None:
        self.side = side
        self.shapes: dict[Path, Shape] = {piece.path: piece.shape for piece in side.pieces}
        self.types = {layer.name: layer.layer.name for layer in definition.layers}
        self.definition = definition

    def read(self, claimed: Any, layout: str, at: Place) -> Claim:
        """A claim, with everything that is wrong with its form as faults."""
        if not isinstance(claimed, Mapping):
            return self._flat(np.asarray(claimed), at)
        given: dict[Path, tuple[Array, Place]] = {}
        claim = Claim()
        for layer, arrays in claimed.items():
            if isinstance(arrays, Mapping):
                for name, array in arrays.items():
                    self._note(claim, given, layout, str(layer), str(name), np.asarray(array), (*at, layer, name))
            elif "." in str(layer):
                owner = max((name for name in self.types if str(layer).startswith(name + ".")), key=len, default=None)
                first, _, rest = str(layer).partition(".")
                if owner is not None:
                    first, rest = owner, str(layer)[len(owner) + 1 :]
                self._note(claim, given, layout, first, rest, np.asarray(arrays), (*at, layer))
            else:
                claim.faults.append(Fault((*at, layer), "takes an object {parameter: tensor}; a tensor came"))
            if len(claim.faults) >= MOST_ERRORS:
                break
        for path, (array, place) in given.items():
            self._put(claim, path, array, place)
        if not given and not claim.faults:
            names = tuple(dict.fromkeys(path[0] for path in self.shapes))
            detail = "claims nothing; it takes {layer: {parameter: tensor}}, any part of it"
            claim.faults.append(Fault(at, detail, names))
        return claim

    def _flat(self, vector: Array, at: Place) -> Claim:
        claim = Claim(narrow=vector.dtype == np.float32)
        if vector.shape != (self.side.size,):
            detail = (
                f"has shape {list(vector.shape)}; a vector of the whole gradient has {self.side.size} numbers, and a "
                "tree {layer: {parameter: tensor}} may hold any part of it"
            )
            claim.faults.append(Fault(at, detail))
            return claim
        for piece in self.side.pieces:
            part = vector[piece.start : piece.stop].reshape(piece.shape)
            claim.tensors[piece.path] = part.astype(np.float64)
        return claim

    def _note(
        self,
        claim: Claim,
        given: dict[Path, tuple[Array, Place]],
        layout: str,
        layer: str,
        name: str,
        array: Array,
        place: Place,
    ) -> None:
        claim.narrow = claim.narrow or array.dtype == np.float32
        if (layer, name) in claim.names:
            claim.faults.append(Fault(place, f"claims {layer}.{name}, which is claimed elsewhere already"))
            return
        claim.names.add((layer, name))
        if layout == "pytorch":
            found = list(self._from_pytorch(layer, name, array))
            if found:
                for path, turned in found:
                    if path in given:
                        self._twin(claim, given, path, turned, place)
                    else:
                        given[path] = turned, place
                return
        path = (layer, name)
        if path not in self.shapes:
            faults = self._unknown(layer, name, array, place, layout)
            claim.faults += [fault for fault in faults if fault not in claim.faults]
        else:
            given[path] = array, place

    def _twin(
        self, claim: Claim, given: dict[Path, tuple[Array, Place]], path: Path, array: Array, place: Place
    ) -> None:
        shape = self.shapes[path]
        before = given[path][0]
        if np.isnan(before).any():  # parts of one tensor
            given[path] = np.where(np.isnan(before), array, before), place
        elif array.shape == shape:
            claim.twins[path] = array.astype(np.float64)

    def _put(self, claim: Claim, path: Path, array: Array, place: Place) -> None:
        shape = self.shapes[path]
        if array.shape == shape:
            claim.tensors[path] = array.astype(np.float64)
        elif any(True for _ in undone(array.astype(np.float64), shape, self.types[path[0]])):
            claim.odd[path] = array.astype(np.float64)
        else:
            found = self.side.faults(self._whole({path: array}), ())
            details = [fault.detail for fault in found] or [f"has shape {list(array.shape)}; it takes {list(shape)}"]
            claim.faults += [Fault(place, detail) for detail in details]

    def _unknown(self, layer: str, name: str, array: Array, place: Place, layout: str) -> list[Fault]:
        tree = self._whole({(layer, name): array})
        found = self.side.faults(tree, ())
        if layout == "pytorch" and layer in self.types:
            known = tuple(self._names_in_pytorch(layer))
            return [Fault(place, f"layer {layer!r} has no parameter {name[:64]!r} in PyTorch's layout", known)]
        return [
            Fault(place if len(fault.path) > 1 else place[:-1] or place, fault.detail, fault.allowed) for fault in found
        ]

    def _whole(self, given: Mapping[Path, Array]) -> dict[str, dict[str, Array]]:
        """A tree of zeros with some tensors in it, for faults to be told of these alone."""
        tree: dict[str, dict[str, Array]] = {}
        for (layer, name), shape in self.shapes.items():
            tree.setdefault(layer, {})[name] = np.broadcast_to(np.zeros(()), shape)
        for (layer, name), array in given.items():
            tree.setdefault(layer, {})[name] = array
        return tree

    # --- PyTorch ---

    def _names_in_pytorch(self, layer: str) -> Iterator[str]:
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

    def _from_pytorch(self, layer: str, name: str, array: Array) -> Iterator[tuple[Path, Array]]:
        """Our parameters that a tensor of PyTorch belongs to, turned as ours are as far as its shape allows."""
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
    """A weight of PyTorch with its axes as ours."""
    if own != "kernel":
        return _reshaped(array, shape) if own == "alpha" else array
    if kind == "depthwise_conv2d" and array.ndim == 4 and array.shape[0] == shape[2] * shape[3]:
        return array.reshape(shape[2], shape[3], *array.shape[2:]).transpose(2, 3, 0, 1)
    if kind == "conv2d_transpose" and array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if "conv" in kind and array.ndim == len(shape) > 2:
        return array.transpose(*range(2, array.ndim), 1, 0)
    return array.T if array.ndim == 2 else array


def undone(array: Array, shape: Shape, kind: str) -> Iterator[tuple[str, Array]]:
    """Tensors of a shape that an array may have been made of by one of the known mistakes."""
    for mistake in mistakes:
        if mistake.kind == "arrangement":
            for candidate in mistake.build(array, shape, kind):
                if candidate.shape == shape:
                    yield mistake.name, candidate
