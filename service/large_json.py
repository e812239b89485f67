"""Reading large JSON bodies: arrays of numbers become NumPy arrays without a Python object per number.

simdjson flattens what it copies into a buffer and takes the first of two equal keys, where orjson,
which reads all other bodies, keeps the structure and takes the last. So whatever is not plainly a
rectangular array of numbers is left to orjson: `Unsure` is raised, and nothing is guessed.
"""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import numpy as np
import simdjson

MOST_KEYS = 1000
"""Looking up a key takes time in proportion to their number; no valid request has as many."""
SMALL_LIST = 64
"""Flat lists up to this length stay lists: they may be a shape, whose integers must stay integers."""


class Unsure(Exception):
    """The body has to be read by a parser that keeps everything."""


def parse_large(body: bytes) -> Any:
    """The JSON value in `body`, with arrays of numbers as float64 arrays. Raises `Unsure`."""
    reader = _Reader()
    try:
        value = reader.read(simdjson.Parser().parse(body))
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise Unsure from error
    # An array that was flattened away unseen, or a bracket inside a string.
    if reader.arrays != body.count(b"["):
        raise Unsure
    return value


class _Reader:
    def __init__(self) -> None:
        self.arrays = 0
        """How many arrays have been read, nested ones included."""

    def read(self, value: Any) -> Any:
        if isinstance(value, simdjson.Object):
            keys = list(value)
            if len(keys) > MOST_KEYS or len(set(keys)) < len(keys):
                raise Unsure
            return {key: self.read(value[key]) for key in keys}
        if isinstance(value, simdjson.Array):
            return self.read_array(value)
        return value

    def read_array(self, value: Any) -> Any:
        if not len(value):
            raise Unsure
        first = value[0]
        if isinstance(first, simdjson.Array) or (len(value) > SMALL_LIST and isinstance(first, int | float)):
            return self.read_numbers(value)
        listed = value.as_list()
        self.arrays += _count_lists(listed)
        return listed

    def read_numbers(self, value: Any) -> Any:
        self.arrays += 1
        shape = [len(value)]
        rows = [value]
        while isinstance(rows[0][0], simdjson.Array):
            rows = list(chain.from_iterable(rows))
            lengths = set(map(len, rows))
            if len(lengths) != 1 or 0 in lengths:
                raise Unsure
            self.arrays += len(rows)
            shape.extend(lengths)
        array = np.frombuffer(value.as_buffer(of_type="d"), np.float64)
        if array.size != math.prod(shape):
            raise Unsure
        return array.reshape(shape)


def _count_lists(value: Any) -> int:
    count, pending = 0, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, list):
            count += 1
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.values())
    return count
