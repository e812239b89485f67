"""A network as bytes: what is stored, and what its id is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from schemas.tensor_files import Array, dump_safetensors, load_safetensors

ID_DIGITS = 40
"""Hexadecimal digits of an id, 160 bits as in git: nobody can make two contents with one id, and it fits a line."""
Tree = Mapping[str, Mapping[str, Array]]
"""Parameters by layer and name."""


class Content(NamedTuple):
    """What a network is made of, as it is stored."""

    format: str
    definition: bytes
    parameters: bytes | None
    """As safetensors, by `layer.parameter`."""

    @property
    def size(self) -> int:
        return len(self.definition) + len(self.parameters or b"")

    @property
    def id(self) -> str:
        """A hash of all of it."""
        parts = [self.format.encode(), self.definition] + ([] if self.parameters is None else [self.parameters])
        return hashlib.sha256(b"".join([hashlib.sha256(part).digest() for part in parts])).hexdigest()[:ID_DIGITS]


def packed(tree: Tree) -> bytes:
    """Parameters as the bytes of a safetensors file: equal trees give equal bytes."""
    flat = {f"{layer}.{name}": array for layer, arrays in tree.items() for name, array in arrays.items()}
    return b"".join(dump_safetensors(dict(sorted(flat.items())), {}))


def unpacked(content: bytes) -> dict[str, dict[str, Array]]:
    """Parameters from bytes that `packed` made. The arrays are parts of these bytes, and read-only."""
    tree: dict[str, dict[str, Array]] = {}
    for key, array in sorted(load_safetensors(content, may_be_empty=True).items()):
        layer, _, name = key.rpartition(".")
        array.setflags(write=False)
        tree.setdefault(layer, {})[name] = array
    return tree
