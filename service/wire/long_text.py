"""Bodies with long texts of base64: the texts stay in the body until they are decoded.

A parser would copy such a text three times before anyone decodes it. So the text is cut out before parsing and a
placeholder takes its place; afterwards the parsed value holds a view of the body. Only texts that plainly are the
base64 of a typed array are cut out. In doubt, the body is parsed as it came.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np

LONG = 16 * 1024
"""Bytes of a text below which cutting it out is not worth the effort."""
KEYS = ("base64", "safetensors", "npz")
"""Keys of long texts: of a typed array, and of a file of arrays."""
KEY = re.compile(rb'"(?:base64|safetensors|npz)"')
OPENING = re.compile(rb'[ \t\n\r]*:[ \t\n\r]*"')
# NUL in JSON, which no sensible text contains: a placeholder begins with it.
NUL = b"\\u0000"


class LongTexts:
    """A body without its long texts of base64 (`rest`), and these texts, as views of the body."""

    def __init__(self, body: bytes) -> None:
        self.rest = body
        """The body with placeholders for the texts."""
        self.texts: list[memoryview] = []
        self.holders: list[tuple[dict[str, Any], str]] = []
        """The objects that hold the texts, with their keys, after `put_back`."""
        self._cut(body)
        self.nbytes = sum(map(len, self.texts))
        """The length of all texts together."""

    def _cut(self, body: bytes) -> None:
        view = memoryview(body)
        rest = bytearray()
        texts: list[memoryview] = []
        done = place = 0
        while (key := KEY.search(body, place)) is not None:
            place = key.end()
            opening = OPENING.match(body, place)
            if opening is None:
                continue
            start = opening.end()
            stop = body.find(b'"', start)
            if stop - start >= LONG and body.find(b"\\", start, stop) < 0 and _is_printable(view[start:stop]):
                rest += view[done:start]
                rest += NUL + b"%d" % len(texts)
                texts.append(view[start:stop])
                done = place = stop
        if not texts:
            return
        rest += view[done:]
        if rest.count(NUL) == len(texts):  # the body itself has none
            self.rest, self.texts = bytes(rest), texts

    def put_back(self, value: Any, keys: Collection[str]) -> bool:
        """Put the texts back into `value`, the parsed rest, where it has placeholders below these keys.

        Return False if a text did not find its place: it belonged to no typed array, or its key occurs twice.
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
        """Free the body, once its texts are decoded; typed arrays keep an empty text."""
        for holder, key in self.holders:
            holder[key] = ""
        self.rest, self.texts = b"", []


def _is_stand_in(text: Any) -> bool:
    return isinstance(text, str) and text.startswith("\0")


def _is_printable(text: memoryview) -> bool:
    """Return whether a text is ASCII without control characters, which JSON allows unescaped."""
    codes = np.frombuffer(text, np.uint8)
    return bool(codes.min() >= 0x20 and codes.max() < 0x7F)
