"""Large JSON bodies: arrays of numbers become NumPy arrays without a Python object for each number.

simdjson flattens the arrays that it copies into a buffer, and takes the first of two equal keys. orjson, which parses
all other bodies, keeps the structure and takes the last. So orjson parses whatever is not plainly a rectangular array
of numbers: `Unsure` is raised, and nothing is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
import simdjson

from schemas.requests import containers_in
from schemas.strict import MOST_KEYS
from schemas.tensor import MOST_AXES

SMALL_LIST = 64
"""Flat lists up to this length stay lists: they may be a shape, whose integers must stay integers."""


class Unsure(Exception):
    """Raised when simdjson may lose a part of a body; then another parser has to read it."""


def parse_large(body: bytes, brackets: int | None = None) -> Any:
    """Return the JSON value of a body, with arrays of numbers as float64 arrays. Raise `Unsure`.

    `brackets` is the number of [ in the body, if it is known.
    """
    reader = _Reader()
    try:
        value = reader.read(simdjson.Parser().parse(body))
    except (ValueError, TypeError, LookupError, RuntimeError):
        # Without the cause, which would keep this parser's values while another one parses.
        raise Unsure from None
    # A nested array was flattened unseen, or a string contains a bracket.
    if reader.arrays != (body.count(b"[") if brackets is None else brackets):
        raise Unsure
    return value


class _Reader:
    def __init__(self) -> None:
        self.arrays = 0
        """The number of arrays read so far, nested ones included."""

    def read(self, value: Any) -> Any:
        if isinstance(value, simdjson.Object):
            keys = list(value)
            # The time of a look-up grows with the number of keys.
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
        first = value[0]
        while isinstance(first, simdjson.Array):
            # Row by row: an object for each of a million rows would take a hundred times their text.
            rows: Iterable[Any] = value
            for _ in shape[1:]:
                rows = chain.from_iterable(rows)
            lengths = set(map(len, rows))
            if len(lengths) != 1 or 0 in lengths or len(shape) > MOST_AXES:
                raise Unsure
            self.arrays += math.prod(shape)
            shape.extend(lengths)
            first = first[0]
        array = np.frombuffer(value.as_buffer(of_type="d"), np.float64)
        if array.size != math.prod(shape):
            raise Unsure
        return array.reshape(shape)


def _count_lists(value: Any) -> int:
    count, pending = 0, [value]
    while pending:
        item = pending.pop()
        count += type(item) is list
        pending += containers_in(item)
    return count
