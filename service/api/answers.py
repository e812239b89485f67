"""Parts that responses of several endpoints share: tensors by name, numbers, warnings and estimates of size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.graph.blocks import ITEMSIZE
from service.engine.texts import LANGUAGES, telling

NUMBER_BYTES = 72
"""Bytes that a number of a response takes as text while it is put together: 24, three times."""

TEXT_BYTES = {"float64": 25, "float32": 16}
"""Bytes that a number of a tensor takes as text at most, with its comma; as base64 it takes less."""


def answer_bytes(count: int, dtype: str) -> int:
    """Return the memory in bytes that `count` numbers of tensors take in a response, as arrays and as text."""
    return count * (ITEMSIZE[dtype] + TEXT_BYTES[dtype])


def unnamed(arrays: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """Return `arrays`, or its only tensor without the name if the network has just one."""
    return arrays if len(names) > 1 or not arrays else next(iter(arrays.values()))


def number(loss: Array | None) -> Any:
    """Return a scalar loss as a Python number, which is never base64; a vector of losses stays an array."""
    return loss if loss is None or loss.ndim else loss.item()


def or_null(value: float | None) -> float | None:
    """Return a number as JSON takes it: None unless it is finite."""
    return value if value is not None and math.isfinite(value) else None


def listed(warnings: Iterable[Caution], language: str = LANGUAGES[0]) -> list[dict[str, str]]:
    """Return the entries of `warnings` in a response: code, message, and layer and quantity if known."""
    return [
        {"code": caution.code, "message": _message(caution, language)}
        | ({"layer": caution.layer} if caution.layer else {})
        | ({"quantity": caution.quantity} if caution.quantity else {})
        for caution in warnings
    ]


def _message(caution: Caution, language: str) -> str:
    if language == LANGUAGES[0] or caution.found is None:
        return caution.message
    return telling(language)(caution.found.text)
