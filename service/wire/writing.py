"""Writing of long JSON responses in pieces, between which other requests may compute.

The bytes are those of one call. But one call for twenty million numbers holds the interpreter lock for more than a
second, and copies the whole text.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import orjson
import pybase64

from schemas.tensor import encode
from service.engine.arrays import Array
from service.wire.negotiation import accepts_gzip

PART = 2**15
"""Numbers that are written in one call: about 3 milliseconds."""
TYPED_PART = 2**11
"""Like `PART`, for responses with base64: longer texts are not copied into their surroundings."""
BASE64_PART = 3 * 2**20
"""Bytes of an array that become base64 in one call; a multiple of 3, so that the texts fit together."""
SMALLEST_PIECE = 2**16
"""Bytes below which texts are joined, because each piece is sent by itself."""
# Responses smaller than a network packet gain nothing from compression.
SMALLEST_COMPRESSED = 1400
# Level 1: on text of numbers the higher levels save a few per cent for several times the price.
GZIP_LEVEL = 1
CONTAINERS = frozenset((dict, list, tuple, np.ndarray))


class Written:
    """A part of a response that is already JSON text."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def __bytes__(self) -> bytes:
        return b"".join(self.pieces)


def dump(value: Any) -> bytes:
    """Return a value as JSON, written in one call. In lists, numbers that are not finite become null."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY, default=in_words)


def written(value: Any, base64: bool = False, look: Callable[[], object] = lambda: None) -> list[bytes]:
    """Return a value as JSON in pieces, with typed arrays for tensors if `base64`; call `look` between pieces."""
    writer = _Writer(base64, look)
    writer.write(value)
    writer.flush()
    return writer.pieces


def in_words(value: Any) -> Any:
    """Convert what orjson cannot write: a scalar or non-contiguous array, or a `Written` part."""
    # orjson writes contiguous arrays itself; scalars and views come here.
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Written):
        return orjson.Fragment(bytes(value))
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def document(value: Any) -> bytes:
    """Return a whole response as JSON, with a line feed at the end, so that a terminal's prompt starts a new line."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE, default=in_words)


def document_in_pieces(value: Any, base64: bool, look: Callable[[], object] = lambda: None) -> list[bytes]:
    """Return what `document` returns, but in pieces, with base64 for tensors if asked; call `look` between pieces."""
    pieces = written(value, base64, look)
    pieces[-1] += b"\n"
    return pieces


def compress(body: list[bytes], environ: Mapping[str, Any]) -> list[bytes] | None:
    """Return the pieces of a body compressed with gzip, and empty the list; None if the client does not accept gzip."""
    if not accepts_gzip(environ):
        return None
    encoder = zlib.compressobj(GZIP_LEVEL, wbits=31)
    body.reverse()
    compressed = []
    while body:
        compressed.append(encoder.compress(body.pop()))
    return [*compressed, encoder.flush()]


def _count(value: Any) -> float:
    """Return about how many numbers a value holds; 16 characters of a string count as one."""
    kind = type(value)
    if kind is np.ndarray:
        return float(value.size)
    if kind is dict:
        return _count_all(value.values())
    if kind is list or kind is tuple:
        return _count_all(value)
    if kind is str:
        return len(value) / 16
    return math.inf if kind is Written else 1.0


def _count_all(values: Iterable[Any]) -> float:
    values = list(values)
    kinds = set(map(type, values))
    return float(len(values)) if kinds <= {int, float, bool, type(None)} else sum(map(_count, values))


class _Writer:
    def __init__(self, base64: bool, look: Callable[[], object]) -> None:
        self.pieces: list[bytes] = []
        self._base64 = base64
        self._part = TYPED_PART if base64 else PART
        self._look = look
        self._texts: list[bytes] = []
        self._length = 0

    def write(self, value: Any) -> None:
        kind = type(value)
        if kind is Written:
            self.flush()
            self.pieces += value.pieces
        elif kind not in CONTAINERS or _count(value) <= self._part:
            self._add(self._dump(value))
        elif kind is dict:
            before = b"{"
            for key, item in value.items():
                self._add(before + dump(key) + b":")
                self.write(item)
                before = b","
            self._add(b"}")
        elif kind is not np.ndarray:
            self._write_list(value)
        elif self._base64:
            self._write_base64(value)
        else:
            self._write_rows(value, value.flags.c_contiguous)

    def flush(self) -> None:
        """End the present piece: join the texts that were added to it."""
        if self._texts:
            self.pieces.append(b"".join(self._texts))
            self._texts.clear()
            self._length = 0

    def _add(self, text: bytes) -> None:
        if len(text) >= SMALLEST_PIECE:  # by itself: joining it would copy it
            self.flush()
            self.pieces.append(text)
            self._look()
            return
        self._texts.append(text)
        self._length += len(text)
        if self._length >= SMALLEST_PIECE:
            self.flush()
            self._look()

    def _dump(self, value: Any) -> bytes:
        return dump(_encoded(value) if self._base64 else value)

    def _write_list(self, items: Iterable[Any]) -> None:
        """Write a list: short entries in groups, each long entry by itself."""
        before, group, weight = b"[", list[Any](), 0.0
        for item in items:
            count = _count(item)
            if group and weight + count > self._part:
                self._add(before + self._dump(group)[1:-1])
                before, group, weight = b",", [], 0.0
            if count > self._part:
                self._add(before)
                self.write(item)
                before = b","
            else:
                group.append(item)
                weight += count
        self._add((before + self._dump(group)[1:-1] if group else b"") + b"]")

    def _write_rows(self, array: Array, contiguous: bool) -> None:
        """Write an array as nested lists, part by part. Arrays that are not contiguous go through Python lists."""
        width = array.size // len(array)
        before = b"["
        if width > PART:
            for row in array:
                self._add(before)
                self._write_rows(row, contiguous)
                before = b","
        else:
            rows = max(1, PART // width)
            for start in range(0, len(array), rows):
                part = array[start : start + rows]
                self._add(before)
                self._add(dump(part if contiguous else part.tolist())[1:-1])
                before = b","
        self._add(b"]")

    def _write_base64(self, array: Array) -> None:
        head = dump({"dtype": array.dtype.name, "shape": list(array.shape), "base64": ""})
        self._add(head[:-2])
        content = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data.cast("B")
        for start in range(0, len(content), BASE64_PART):
            self._add(pybase64.b64encode(content[start : start + BASE64_PART]))
        self._add(head[-2:])


def _encoded(value: Any) -> Any:
    """Return a copy of `value` in which each array is a typed array."""
    if isinstance(value, dict):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_encoded(item) for item in value]
    return encode(value) if isinstance(value, np.ndarray) else value
