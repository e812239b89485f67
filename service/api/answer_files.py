"""Answers as files: the tensors of an answer under flat names, and everything else as one JSON text.

`gradients/hidden.kernel` is the gradient of `hidden.kernel`. Parameters have no prefix, so that a file of them can
be sent back unchanged. Other tensors are named by their path in the answer, such as `answer/outputs`. The JSON has
`{"tensor": name}` in place of each tensor. In safetensors the JSON is the entry `answer` of the metadata, in npz an
array of one string with that name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from schemas.tensor_files import dump_npz, dump_safetensors
from service.engine.arrays import Array
from service.wire.writing import dump

PARTS = {"parameters": "", "gradients": "gradients", "state": "state"}
"""Trees of an answer, each with the prefix of the names of its arrays."""


def as_file(answer: Mapping[str, Any], form: str, layout: str) -> list[bytes]:
    """Return an answer as the pieces of a file. `form` is `npz` or `safetensors`."""
    arrays: dict[str, Array] = {}
    rest = {key: _without_tensors(value, PARTS.get(key, f"answer/{key}"), arrays) for key, value in answer.items()}
    text = dump(rest).decode()
    if form == "npz":
        return dump_npz(arrays, {"answer": text, "layout": layout})
    # Libraries of PyTorch look for the value `pt`.
    return dump_safetensors(arrays, {"format": "pt" if layout == "pytorch" else "np", "layout": layout, "answer": text})


def _without_tensors(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """Return a part of an answer with `{"tensor": name}` in place of each tensor. The tensors are added to `arrays`."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        prefix = f"{name}/" if name else ""
        if value and all(map(_holds_tensors, value.values())):  # a tree
            return {
                layer: {key: _without_tensors(item, f"{prefix}{layer}.{key}", arrays) for key, item in own.items()}
                for layer, own in value.items()
            }
        return {key: _without_tensors(item, f"{prefix}{key}", arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(item, f"{name}/{place}", arrays) for place, item in enumerate(value)]
    return value


def _holds_tensors(value: Any) -> bool:
    """Return whether a value is a non-empty mapping of names to arrays."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, np.ndarray) for item in value.values())
