"""Reading bodies with long texts of base64: the texts stay where they are, in the body.

A parser would copy such a text three times before anyone decodes it. So it is cut out before parsing, with
a stand-in in its place, and what is parsed then holds a view of the body. Only what is plainly a typed
array's base64 is cut out; where anything is in doubt, the body has to be parsed as it came.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np

LONG = 16 * 1024
"""Shorter texts are not worth the trouble."""
KEYS = ("base64", "safetensors", "npz")
"""Keys of long texts: of a typed array, and of a file of arrays."""
OPENING = re.compile(rb'[ \t\n\r]*:[ \t\n\r]*"')
# How JSON writes the character NUL, which no sensible text has; with it begins what stands in for a text.
NUL = b"\\u0000"


class LongTexts:
    """The long texts of a body, and the rest of it."""

    def __init__(self, body: bytes) -> None:
        self.rest = body
        """The body with stand-ins for the texts."""
        self.texts: list[memoryview] = []
        self.holders: list[tuple[dict[str, Any], str]] = []
        """The objects that hold the texts, and their keys, once they are `put_back`."""
        self._cut(body)
        self.nbytes = sum(map(len, self.texts))
        """How long the texts are together."""

    def _cut(self, body: bytes) -> None:
        view = memoryview(body)
        rest = bytearray()
        texts: list[memoryview] = []
        done = 0
        for place in _ends_of_keys(body):
            opening = OPENING.match(body, place) if place >= done else None
            if opening is None:
                continue
            start = opening.end()
            stop = body.find(b'"', start)
            if stop - start >= LONG and body.find(b"\\", start, stop) < 0 and _is_printable(view[start:stop]):
                rest += view[done:start]
                rest += NUL + b"%d" % len(texts)
                texts.append(view[start:stop])
                done = stop
        if not texts:
            return
        rest += view[done:]
        if rest.count(NUL) == len(texts):  # the body itself has none
            self.rest, self.texts = bytes(rest), texts

    def put_back(self, value: Any, keys: Collection[str]) -> bool:
        """Put views of the texts into what was parsed of the rest, an object, below these keys of it.

        False where not every text found its place: it was no typed array's, or its key stands twice.
        """
        pending = [value[key] for key in keys if key in value] if isinstance(value, dict) else []
        while pending:
            item = pending.pop()
            if isinstance(item, list):
                pending += [entry for entry in item if type(entry) is dict]
            elif isinstance(item, dict):
                key = next((key for key in KEYS if _is_stand_in(item.get(key))), None)
                if key is not None:
                    item[key] = self.texts[int(item[key][1:])]
                    self.holders.append((item, key))
                else:
                    pending += item.values()
        return len(self.holders) == len(self.texts)

    def release(self) -> None:
        """Let go of the body, when its texts are decoded; its typed arrays keep an empty text."""
        for holder, key in self.holders:
            holder[key] = ""
        self.rest, self.texts = b"", []


def _ends_of_keys(body: bytes) -> list[int]:
    """Where the keys of long texts end, in their order."""
    ends = []
    for key in KEYS:
        quoted = b'"%s"' % key.encode()
        place = 0
        while (place := body.find(quoted, place)) >= 0:
            place += len(quoted)
            ends.append(place)
    return sorted(ends)


def _is_stand_in(text: Any) -> bool:
    return isinstance(text, str) and text.startswith("\0")


def _is_printable(text: memoryview) -> bool:
    """Whether a text is ASCII without control characters: JSON allows it, and it is no part of another character."""
    codes = np.frombuffer(text, np.uint8)
    return bool(codes.min() >= 0x20 and codes.max() < 0x7F)
