"""Reading of a request's body: within bounds, decompressed, and with a check of its media type."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from werkzeug.http import parse_options_header

from service.problems import Problem
from service.wire.negotiation import JSON, MULTIPART, NETWORK_FILES, TAKE_FILES

CHUNK = 1 << 20
"""Bytes that are read or decompressed at a time."""


def announced_length(environ: Mapping[str, Any], limit: int) -> int:
    """Return the Content-Length, at most `limit`; 0 if the header is missing or not a number."""
    text = environ.get("CONTENT_LENGTH") or "0"
    return min(int(text), limit) if text.isascii() and text.isdecimal() else 0


def check_encoding(environ: Mapping[str, Any]) -> str:
    """Return the Content-Encoding in lower case. Raise `Problem` 415 if the service cannot decode it."""
    encoding: str = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        detail = f"The body is encoded as {encoding!r}; send it plain or as gzip."
        raise Problem("unsupported-media-type", detail, headers={"Accept-Encoding": "gzip, identity"})
    return encoding


def read_body(environ: dict[str, Any], limit: int, need: Callable[[int], None]) -> bytes:
    """Return the request's body, decompressed, of at most `limit` bytes. Raise `Problem`.

    `need` is called with the bytes that reading may take, before they are allocated.
    """
    need(announced_length(environ, limit))
    encoding = check_encoding(environ)
    try:
        body = _read(environ, limit, need)
        # The edge read the body into memory, where it need not stay.
        environ["wsgi.input"] = io.BytesIO()
    except Problem:
        raise
    except TimeoutError:
        raise Problem("timeout", "The body came too slowly.") from None
    except Exception as error:
        # Servers raise different errors for a broken chunk or a lost connection.
        raise Problem("malformed-body", f"The body could not be read: {type(error).__name__}.") from error
    return _gunzip(body, limit, need) if encoding.endswith("gzip") else body


def _too_large(limit: int) -> Problem:
    return Problem("too-large", f"The body has more than {limit:,} bytes.")


def _read(environ: Mapping[str, Any], limit: int, need: Callable[[int], None]) -> bytes:
    stream = environ["wsgi.input"]
    announced = environ.get("CONTENT_LENGTH")
    if announced:
        if not (announced.isascii() and announced.isdecimal()):
            raise Problem("malformed-body", "Content-Length is not a number.")
        length = int(announced)
        if length > limit:
            raise _too_large(limit)
        body: bytes = stream.read(length)
        if len(body) < length:
            raise Problem("malformed-body", f"The body ended after {len(body):,} of {length:,} bytes.")
        return body
    if "chunked" not in environ.get("HTTP_TRANSFER_ENCODING", "").lower():
        return b""
    # A chunked body announces no length, so its bytes are counted.
    parts = []
    total = 0
    while part := stream.read(min(CHUNK, limit + 1 - total)):
        parts.append(part)
        total += len(part)
        if total > limit:
            raise _too_large(limit)
        need(2 * total)  # the parts, and the whole made of them
    return b"".join(parts)


def _gunzip(body: bytes, limit: int, need: Callable[[int], None]) -> bytes:
    decoder = zlib.decompressobj(wbits=31)
    # The length at the end of a gzip stream is mostly right, and one wait is better than many.
    promised = min(int.from_bytes(body[-4:], "little"), limit)
    parts: list[bytes] = []
    total = held = 0
    rest = body
    try:
        while not decoder.eof and (rest or not parts):
            # Twice: the parts, and the whole made of them.
            held = max(held, len(body) + 2 * max(promised, total + CHUNK))
            need(held)
            parts.append(decoder.decompress(rest, CHUNK))
            total += len(parts[-1])
            if total > limit:
                raise _too_large(limit)
            if not parts[-1]:
                break  # it is cut off
            rest = decoder.unconsumed_tail
    except zlib.error as error:
        plain = "; leave out the header 'Content-Encoding'" if body[:1] in (b"{", b"[") else ""
        raise Problem("malformed-body", f"The body is not a gzip stream: {error}{plain}.") from None
    if not decoder.eof or decoder.unused_data:
        raise Problem("malformed-body", "The gzip stream is cut off or followed by other bytes.")
    return b"".join(parts)


def check_content_type(environ: Mapping[str, Any]) -> None:
    """Raise `Problem` 415 unless the Content-Type is JSON in UTF-8, or a file where files are taken."""
    content_type = environ.get("CONTENT_TYPE", "")
    if content_type == JSON:
        return
    media_type, options = parse_options_header(content_type)
    if environ["PATH_INFO"].rstrip("/") in TAKE_FILES and media_type.lower() in NETWORK_FILES:
        return
    charset = options.get("charset", "utf-8").lower()
    if media_type.lower() != JSON or charset not in ("utf-8", "utf8"):
        raise Problem("unsupported-media-type", _wrong_type(content_type, media_type.lower()))


OF_BINARY_FILES = ("application/octet-stream", "application/zip", "application/x-hdf5", "application/x-hdf")
A_MODEL_FILE = (
    "a .keras or .h5 file is turned into JSON and safetensors by 'nabla convert' on your machine, and a safetensors "
    "file goes into the JSON as base64"
)


def _wrong_type(content_type: str, media_type: str) -> str:
    """Return the sentence for a body that is not JSON, with how to send JSON from the probable client."""
    if not content_type:
        return "The Content-Type header is missing; send 'Content-Type: application/json'."
    instead = {
        "application/x-www-form-urlencoded": "with curl add -H 'Content-Type: application/json', in Python use json=",
        MULTIPART: "there are no forms and files here; the body is one JSON object",
        **dict.fromkeys(OF_BINARY_FILES, A_MODEL_FILE),
        "text/plain": "a browser's fetch needs headers: {'Content-Type': 'application/json'}",
        JSON: "the charset is always UTF-8",
    }.get(media_type, "")
    return f"The Content-Type must be application/json, got {content_type[:60]!r}" + (
        f"; {instead}." if instead else "."
    )
