"""The state of a run as bytes: a JSON header, and after it the numbers of all arrays as they are in memory.

A state is made of dictionaries, lists, tuples, numbers, texts, None and NumPy arrays. It comes back as it was: each
number with its bits and its type, infinities and large integers too, each array with its dtype and its shape.

    8 bytes   MAGIC
    8 bytes   the length of the header, little-endian
    header    {"arrays": [[dtype, shape], …], "state": …}, padded with spaces to a multiple of ALIGNMENT
    arrays    little-endian, in C order, each padded with zeros to a multiple of ALIGNMENT
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.engine.arrays import Array

MAGIC = b"nabla\x00s1"
ALIGNMENT = 16
"""Bytes at whose multiples arrays begin, so that they may be read where they are."""
MARK = "$"
"""The first character of the only key of an object that stands for something that JSON lacks."""
ARRAY, SCALAR, TUPLE, ITEMS = "$array", "$scalar", "$tuple", "$items"
DTYPES = frozenset(("|b1", "|i1", "|u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f4", "<f8"))


class UnreadableState(ValueError):
    """The bytes are no state that `state_bytes` wrote."""


def state_bytes(state: Mapping[str, Any]) -> bytes:
    """Return a state as bytes. Raises `TypeError` for a value that a state may not hold."""
    arrays: list[Array] = []
    value = _written(dict(state), arrays)
    listed = [[array.dtype.str, list(array.shape)] for array in arrays]
    header = json.dumps({"arrays": listed, "state": value}, separators=(",", ":")).encode()
    header += b" " * (-(len(MAGIC) + 8 + len(header)) % ALIGNMENT)
    pieces: list[bytes | memoryview] = [MAGIC, len(header).to_bytes(8, "little"), header]
    for array in arrays:
        pieces += [array.reshape(-1).view(np.uint8).data, bytes(-array.nbytes % ALIGNMENT)]
    return b"".join(pieces)


def size_of(state: Any) -> int:
    """Return about how many bytes `state_bytes` makes of a state, without writing it."""
    size, pending = 64, [state]
    while pending:
        value = pending.pop()
        if isinstance(value, np.ndarray):
            size += value.nbytes + 64
        elif isinstance(value, Mapping):
            size += 16 * len(value)
            pending += value.values()
        elif isinstance(value, list | tuple):
            pending += value
        else:
            size += len(value) + 4 if isinstance(value, str) else 20
    return size


def state_of(content: bytes) -> dict[str, Any]:
    """Return the state of these bytes. Its arrays are read-only views of them. Raises `UnreadableState`."""
    try:
        return _read(content)
    except UnreadableState:
        raise
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise UnreadableState(f"the state of a run cannot be read: {error}") from None


def _written(value: Any, arrays: list[Array]) -> Any:
    """Return a value as JSON can hold it, and append its arrays to `arrays`."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is dict:
        if all(type(key) is str and not key.startswith(MARK) for key in value):
            return {key: _written(item, arrays) for key, item in value.items()}
        return {ITEMS: [[_written(key, arrays), _written(item, arrays)] for key, item in value.items()]}
    if kind is list:
        return [_written(item, arrays) for item in value]
    if kind is tuple:
        return {TUPLE: [_written(item, arrays) for item in value]}
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        little = array.dtype.newbyteorder("<")
        if little.str not in DTYPES:
            raise TypeError(f"a state holds no array of {array.dtype}")
        arrays.append(np.asarray(array, little, order="C"))
        return {ARRAY if isinstance(value, np.ndarray) else SCALAR: len(arrays) - 1}
    raise TypeError(f"a state holds no {kind.__name__}")


def _read(content: bytes) -> dict[str, Any]:
    start = len(MAGIC) + 8
    if content[: len(MAGIC)] != MAGIC or len(content) < start:
        raise UnreadableState("these bytes are not the state of a run")
    end = start + int.from_bytes(content[len(MAGIC) : start], "little")
    if end > len(content):
        raise UnreadableState("the state of a run is cut off in its header")
    header = json.loads(content[start:end])
    arrays: list[Array] = []
    for dtype, shape in header["arrays"]:
        if dtype not in DTYPES or not all(type(length) is int and length >= 0 for length in shape):
            raise UnreadableState("the state of a run has an array of an unknown form")
        count = math.prod(shape)
        nbytes = count * np.dtype(dtype).itemsize
        if end + nbytes > len(content):
            raise UnreadableState("the state of a run is cut off in its arrays")
        arrays.append(np.frombuffer(content, dtype, count, end).reshape(shape))
        end += nbytes + -nbytes % ALIGNMENT
    if end != len(content):
        raise UnreadableState("the state of a run is longer than its header says")
    state = _understood(header["state"], arrays)
    if type(state) is not dict:
        raise UnreadableState("the state of a run is not an object")
    return state


def _understood(value: Any, arrays: list[Array]) -> Any:
    if type(value) is list:
        return [_understood(item, arrays) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((mark, held),) = value.items()
        if mark == ARRAY:
            return arrays[held]
        if mark == SCALAR:
            return arrays[held][()]
        if mark == TUPLE:
            return tuple([_understood(item, arrays) for item in held])
        if mark == ITEMS:
            return {_understood(key, arrays): _understood(item, arrays) for key, item in held}
    return {key: _understood(item, arrays) for key, item in value.items()}
