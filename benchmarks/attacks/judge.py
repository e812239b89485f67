"""The rules that every response must keep, whatever the request was."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from typing import Any

PROBLEM = "application/problem+json"
COMPUTED = ("busy", "deadline-exceeded")
"""Kinds of problems of a 503 that says when to come back."""


def strict_json(text: bytes) -> Any:
    """Parse JSON; raise `ValueError` for NaN, Infinity and repeated keys, which RFC 8259 rules out."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(found)
        if len(keys) != len(found):
            raise ValueError("a key stands twice")
        return keys

    def constant(word: str) -> Any:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text.decode("utf-8"), parse_constant=constant, object_pairs_hook=pairs)


def resolves(pointer: str, value: Any) -> bool:
    """Return whether a JSON pointer in a URI fragment names a place in `value`; its last key may be missing there."""
    from urllib.parse import unquote

    if not pointer.startswith("#"):
        return False
    parts = unquote(pointer[1:]).split("/")[1:]
    for number, part in enumerate(parts):
        key = part.replace("~1", "/").replace("~0", "~")
        last = number == len(parts) - 1
        if isinstance(value, list) and key.isdigit() and (int(key) < len(value) or last):
            value = value[int(key)] if int(key) < len(value) else None
        elif isinstance(value, dict) and (key in value or last):
            value = value.get(key)
        else:
            return False
    return True


def fault_of(method: str, status: int, headers: Mapping[str, str], body: bytes, value: Any = None) -> str | None:
    """Return in words the rule that a response breaks, or None.

    `method` is that of the request, `headers` has lower-case names, and `value` is the parsed request, if it is known.
    """
    # 501 is for a transfer coding that nobody has to know.
    if status >= 500 and status not in (501, 503):
        return f"status {status}"
    if not headers.get("x-request-id"):
        return "no X-Request-Id"
    if method == "HEAD" or status in (204, 304):
        return None
    kind = headers.get("content-type", "").split(";")[0]
    try:
        if headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if status < 400:
            return _fault_of_answer(kind, body)
        if kind != PROBLEM:
            return f"status {status} as {kind!r}"
        document = strict_json(body)
    except (ValueError, OSError, EOFError, zlib.error) as error:
        return f"invalid JSON: {error}"
    return _fault_of_problem(status, headers, document, value)


def _fault_of_answer(kind: str, body: bytes) -> str | None:
    if kind == "application/json":
        strict_json(body)
    elif kind == "application/x-ndjson":
        for line in body.split(b"\n"):
            if line.strip():
                strict_json(line)
    elif kind == "text/event-stream":
        for line in body.split(b"\n"):
            if line.startswith(b"data: "):
                strict_json(line[6:])
    return None


def _fault_of_problem(status: int, headers: Mapping[str, str], document: Any, value: Any) -> str | None:
    if not isinstance(document, dict) or document.get("status") != status or not document.get("detail"):
        return f"status {status}: not a problem document"
    if document.get("instance") != headers["x-request-id"]:
        return "instance is not the request id"
    kind = str(document.get("type", "")).rpartition("/")[2]
    if status in (429, 503):
        if not headers.get("retry-after", "").isdigit() and kind != "deadline-exceeded":
            return f"status {status} without Retry-After"
        if status == 503 and kind not in COMPUTED:
            return f"503 of kind {kind}"
    errors = document.get("errors", [])
    if status == 422 and kind == "invalid" and not errors:
        return "422 without errors"
    for error in errors:
        of_body = not error.get("pointer", "").startswith("#/query/")
        if of_body and value is not None and not resolves(error.get("pointer", ""), value):
            return f"pointer {error.get('pointer')!r} names nothing that was sent"
    return None
