"""A parser of multipart bodies (RFC 7578, multipart/form-data), as forms and `curl -F` send them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.http import parse_options_header

from service.problems import Problem

MOST_PARTS = 8
LONGEST_HEAD = 8 * 1024
"""Largest number of bytes of the headers of a part."""
LONGEST_BOUNDARY = 200
"""Largest number of characters of a boundary. RFC 2046 allows 70, but some programs send more."""


def parts_of(body: bytes, environ: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of the parts of a body by the names of the parts.

    The body is scanned once for each part, whatever it contains. Raises `Problem` 400, also for a repeated name.
    """
    boundary = parse_options_header(environ.get("CONTENT_TYPE", ""))[1].get("boundary", "")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY or not boundary.isascii():
        raise _malformed("its Content-Type has no boundary; let curl -F or FormData write that header")
    mark = b"--" + boundary.encode()
    place = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if place == 1:
        raise _malformed("it does not begin with the boundary of its Content-Type")
    parts: dict[str, bytes] = {}
    while True:
        place += len(mark)
        if body.startswith(b"--", place):
            return parts
        if len(parts) == MOST_PARTS:
            raise _malformed(f"it has more than {MOST_PARTS} parts")
        start = body.find(b"\r\n", place) + 2
        if start == 1 or body[place : start - 2].strip(b" \t"):
            raise _malformed("a boundary is not alone in its line")
        end = body.find(b"\r\n" + mark, start - 2)
        if end < 0:
            raise _malformed("its last part has no end")
        name, content = _part(body, start, end)
        if name in parts:
            raise _malformed(f"it has two parts called {name[:64]!r}")
        parts[name] = content
        place = end + 2


def _part(body: bytes, start: int, end: int) -> tuple[str, bytes]:
    """Return the name and the content of the part between two positions of a body."""
    # In a part without content, the line break after the headers may also be the one before the boundary.
    blank = body.find(b"\r\n\r\n", start, min(end + 2, start + LONGEST_HEAD))
    if blank < 0:
        raise _malformed("a part has no headers, or too long ones")
    for line in body[start:blank].split(b"\r\n"):
        key, _, value = line.decode("utf-8", "replace").partition(":")
        if key.strip().lower() == "content-disposition":
            name = parse_options_header(value.strip())[1].get("name")
            if name:
                return name, body[blank + 4 : end]
    raise _malformed("a part has no name in a Content-Disposition header")


def _malformed(why: str) -> Problem:
    """Return the problem 400 for a body that is not valid multipart/form-data."""
    return Problem("malformed-body", f"The body is no multipart/form-data: {why}.")
