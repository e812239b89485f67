"""The content of a network as bytes: the stored form, and the id that is computed from the content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

from schemas.tensor_files import Array, dump_safetensors, load_safetensors

ID_DIGITS = 40
"""Number of hexadecimal digits of an id.

They hold 160 bits, as in git, so two contents never get one id in practice.
"""
Tree = Mapping[str, Mapping[str, Array]]
"""Parameters by layer name and parameter name."""


class Content(NamedTuple):
    """The content of a network in its stored form."""

    format: str
    definition: bytes
    parameters: bytes | None
    """The bytes of a safetensors file with arrays named `layer.parameter`. None: no parameters are stored."""

    @property
    def size(self) -> int:
        """Return the number of bytes of the definition and the parameters."""
        return len(self.definition) + len(self.parameters or b"")

    @property
    def id(self) -> str:
        """Return the id: the first digits of a hash of the whole content."""
        parts = [self.format.encode(), self.definition] + ([] if self.parameters is None else [self.parameters])
        return hashlib.sha256(b"".join([hashlib.sha256(part).digest() for part in parts])).hexdigest()[:ID_DIGITS]


def packed(tree: Tree) -> bytes:
    """Return parameters as the bytes of a safetensors file. Equal trees give equal bytes."""
    flat = {f"{layer}.{name}": array for layer, arrays in tree.items() for name, array in arrays.items()}
    return b"".join(dump_safetensors(dict(sorted(flat.items())), {}))


def unpacked(content: bytes) -> dict[str, dict[str, Array]]:
    """Return the parameters from bytes that `packed` made. The arrays are read-only views of these bytes."""
    tree: dict[str, dict[str, Array]] = {}
    for key, array in sorted(load_safetensors(content, may_be_empty=True).items()):
        layer, _, name = key.rpartition(".")
        array.setflags(write=False)
        tree.setdefault(layer, {})[name] = array
    return tree
