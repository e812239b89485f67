"""Parsing of JSON bodies: orjson reads small ones, simdjson the numbers of large ones."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import orjson

from service.problems import Problem
from service.wire.json_faults import json_fault
from service.wire.large_json import Unsure, parse_large
from service.wire.long_text import LONG, LongTexts
from service.wire.structure import ARRAY_BYTES, structure_of

LARGE_BODY = 32 * 1024
"""Bytes from which simdjson parses a body: it makes no Python object for each number. Below, orjson is faster."""
SMALL_READING, SMALL_LOADED = 64, 32
"""Bytes that a small body takes at most during and after parsing, in multiples of its length."""


class Parsed(NamedTuple):
    """The result of `parse`."""

    value: dict[str, Any]
    texts: LongTexts | None
    """The long texts of base64 that are still in the body."""
    loaded: int
    """Bytes that the value takes when it is loaded and the body is gone."""


def parse(body: bytes, keys: Collection[str], need: Callable[[int], None]) -> Parsed:
    """Parse a JSON object; in large bodies, arrays of numbers become NumPy arrays.

    Long texts of base64 below `keys` stay in the body as views until they are released. `need` is called beforehand
    with the bytes that parsing may take, the body included. Raise `Problem`.
    """
    texts = LongTexts(body) if len(body) > LONG else None
    if texts is not None and texts.nbytes:
        try:
            value, loaded = _object(texts.rest, lambda nbytes: need(len(body) + texts.nbytes + nbytes))
            if texts.put_back(value, keys):
                return Parsed(value, texts, loaded + texts.nbytes)
        except Problem as problem:
            if problem.kind not in ("malformed-body", "invalid"):
                raise
            # The error is found again in the body as it came.
    value, loaded = _object(body, need)
    return Parsed(value, None, loaded)


def _object(body: bytes, need: Callable[[int], None]) -> tuple[dict[str, Any], int]:
    """Return the object in a body, and the bytes that it takes once it is loaded. `need` is as in `parse`."""
    if not body:
        raise Problem("malformed-body", "The body is empty; a JSON object is needed.")
    if len(body) < LARGE_BODY:
        need(len(body) * SMALL_READING)
        value, loaded = _parse(body), len(body) * SMALL_LOADED
    else:
        value, loaded = _read_large(body, need)
    if not isinstance(value, dict):
        raise Problem(
            "invalid",
            f"The body must be a JSON object; it is {_kind(value)}.{_encoded_twice(value)}{_several(value)}",
            [{"pointer": "#", "detail": "takes an object"}],
        )
    return value, loaded


def _read_large(body: bytes, need: Callable[[int], None]) -> tuple[Any, int]:
    structure = structure_of(body)
    structure.check()
    need(structure.reading)
    try:
        return parse_large(body, structure.lists), structure.values * ARRAY_BYTES
    except Unsure:
        pass  # parse below, once the exception and all that it holds are freed
    return _parse(body), structure.reading - structure.nbytes


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("malformed-body", json_fault(body, error)) from None


def _encoded_twice(value: Any) -> str:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return " It holds JSON that was encoded twice; encode it once."
    return ""


def _several(value: Any) -> str:
    objects = isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
    return " Send each of its objects as a request of its own." if objects else ""


def _kind(value: Any) -> str:
    names: dict[type, str] = {list: "an array", np.ndarray: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
