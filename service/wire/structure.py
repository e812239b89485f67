"""Counting of the parts of a JSON body before it is parsed, to bound the Python objects that it becomes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from service.problems import Problem

BLOCK = 64 * 1024
"""Bytes that are counted together: they stay in the processor's cache."""
MOST_VALUES, MOST_LISTS, MOST_OBJECTS, MOST_STRINGS = 2**22, 2**20, 2**17, 2**19
"""Largest numbers of parts in a body: more take longer to read than a wrong request may. A typed array is one."""
VALUE_BYTES, LIST_BYTES, OBJECT_BYTES, STRING_BYTES = 56, 120, 400, 140
"""Bytes that reading takes at most for each value, list, object and string, beside the text (docs/decisions/0017)."""
ASCII_FACTOR, UNICODE_FACTOR = 3, 8
"""Bytes that texts take while they are read, in multiples of their length."""
ARRAY_BYTES = 8
"""Bytes that a number takes in an array."""


class Structure(NamedTuple):
    """The number of each kind of part in a body. Marks inside strings count, so the numbers are never too small."""

    nbytes: int
    text: int
    """Bytes that strings may take."""
    values: int
    """The number of entries of lists and objects."""
    lists: int
    objects: int
    strings: int

    @property
    def reading(self) -> int:
        """The bytes that parsing and validating take at most, the body included."""
        return self.nbytes + self.text + self.values * VALUE_BYTES + self.containers

    @property
    def containers(self) -> int:
        """The bytes that lists, objects and strings take when they are read, without their content."""
        return self.lists * LIST_BYTES + self.objects * OBJECT_BYTES + self.strings * STRING_BYTES

    def check(self) -> None:
        """Raise `Problem` 422 if the body has too many parts of a kind."""
        for name, asked, allowed in (
            ("values", self.values, MOST_VALUES),
            ("lists", self.lists, MOST_LISTS),
            ("objects", self.objects, MOST_OBJECTS),
            ("strings", self.strings, MOST_STRINGS),
        ):
            if asked > allowed:
                text = (
                    f"The body has {asked:,} {name}; at most {allowed:,} are read. Send large tensors as typed arrays, "
                    'such as {"dtype": "float32", "shape": [1000, 784], "base64": "…"}.'
                )
                error = {"pointer": "#", "detail": text, "limit": f"body_{name}", "asked": asked, "allowed": [allowed]}
                raise Problem("limit-exceeded", text, [error])


def structure_of(body: bytes) -> Structure:
    """Return the counts of a body's values, lists, objects and strings."""
    codes = np.frombuffer(body, np.uint8)
    counts = [0, 0, 0, 0]
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK]
        for place, mark in enumerate(b',[{"'):
            counts[place] += int(np.count_nonzero(block == mark))
    commas, lists, objects, quotes = counts
    text = len(body) * (ASCII_FACTOR if body.isascii() else UNICODE_FACTOR)
    # A list or an object has one entry more than commas.
    return Structure(len(body), text, commas + lists + objects, lists, objects, quotes // 2)
