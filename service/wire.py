"""Bytes to Python and back: bounded reading, JSON, compression, negotiation.

Everything here takes the WSGI environment as PEP 3333 has it, and nothing here knows what a
request means.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs

import numpy as np
import orjson
from werkzeug.datastructures import LanguageAccept, MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from service.json_faults import json_fault
from service.large_json import Unsure, parse_large
from service.long_text import LONG, LongTexts
from service.pieces import in_words, written
from service.problems import Problem
from service.structure import ARRAY_BYTES, structure_of

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"

SAFETENSORS, NPZ = "application/vnd.safetensors", "application/x-npz"

Form = Literal["json", "ndjson", "sse", "safetensors", "npz"]
"""The forms of an answer: one document, a line for each record, server-sent events, a file of its tensors."""
FILES: Mapping[Form, str] = {"safetensors": SAFETENSORS, "npz": NPZ}
"""Forms that are files, and their media types."""
LAYOUTS = ("nabla", "pytorch")
MULTIPART, BINARY = "multipart/form-data", "application/octet-stream"
NETWORK_FILES = (MULTIPART, BINARY, "application/onnx", "application/x-onnx")
"""Media types of bodies that are files of networks, where these are taken."""
TAKE_FILES = ("/v1/networks",)
"""Paths whose requests may be files. The edge asks before a view is known."""
# What an Accept header may name, and the form it means.
DOCUMENT: dict[str, Form] = {JSON: "json", "application/*": "json", "*/*": "json", "application/problem+json": "json"}
DOCUMENT_OR_STREAM: dict[str, Form] = DOCUMENT | {NDJSON: "ndjson", EVENTS: "sse", "text/*": "sse"}
OF_FILES: dict[str, Form] = {SAFETENSORS: "safetensors", "application/safetensors": "safetensors", NPZ: "npz"}
# Accept headers that need no reading: they mean a document with lists.
COMMON = (None, "", "*/*", JSON)

# Below this many bytes orjson is the faster parser; above, simdjson reads numbers without making
# a Python object of each.
LARGE_BODY = 32 * 1024
# Answers smaller than a network packet gain nothing from compression.
SMALLEST_COMPRESSED = 1400
# Level 1: on text of numbers the higher levels save a few per cent for several times the price.
GZIP_LEVEL = 1
CHUNK = 1 << 20
# Small bodies are not counted: what reading takes at most, and what is left of it, in multiples of the length.
SMALL_READING, SMALL_LOADED = 64, 32


def announced_length(environ: Mapping[str, Any], limit: int) -> int:
    """How long the body claims to be, as far as that is acceptable."""
    text = environ.get("CONTENT_LENGTH") or "0"
    return min(int(text), limit) if text.isascii() and text.isdecimal() else 0


def check_encoding(environ: Mapping[str, Any]) -> str:
    """How the body is encoded, in lower case. Raises `Problem` 415 for what cannot be decoded."""
    encoding: str = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding not in ("identity", "", "gzip", "x-gzip"):
        detail = f"The body is encoded as {encoding!r}; send it plain or as gzip."
        raise Problem("unsupported-media-type", detail, headers={"Accept-Encoding": "gzip, identity"})
    return encoding


def read_body(environ: dict[str, Any], limit: int, need: Callable[[int], None]) -> bytes:
    """The request's body, decompressed, of at most `limit` bytes.

    `need` is told how many bytes that may take before they are there. Raises `Problem` 400, 408, 413, 415 or 503.
    """
    need(announced_length(environ, limit))
    encoding = check_encoding(environ)
    try:
        body = _read(environ, limit, need)
        # A server that read the body before gave it in memory, where it need not stay.
        environ["wsgi.input"] = io.BytesIO()
    except Problem:
        raise
    except TimeoutError:
        raise Problem("timeout", "The body came too slowly.") from None
    except Exception as error:
        # What a server raises for a broken chunk or a lost connection differs from server to server.
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
    # What is read is bounded, not what is announced: a chunked body announces nothing.
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
    # What the stream itself says of its length is mostly right, and one wait better than many.
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
        raise Problem("malformed-body", f"The body is not a gzip stream: {error}.") from None
    if not decoder.eof or decoder.unused_data:
        raise Problem("malformed-body", "The gzip stream is cut off or followed by other bytes.")
    return b"".join(parts)


def check_content_type(environ: Mapping[str, Any]) -> None:
    """Refuse with 415 what does not say it is JSON in UTF-8, nor a file where files are taken."""
    content_type = environ.get("CONTENT_TYPE", "")
    if content_type == JSON:
        return
    media_type, options = parse_options_header(content_type)
    if environ["PATH_INFO"].rstrip("/") in TAKE_FILES and media_type.lower() in NETWORK_FILES:
        return
    charset = options.get("charset", "utf-8").lower()
    if media_type.lower() != JSON or charset not in ("utf-8", "utf8"):
        raise Problem("unsupported-media-type", _wrong_type(content_type, media_type.lower()))


def _wrong_type(content_type: str, media_type: str) -> str:
    """A sentence about a body that is no JSON, and how to send JSON."""
    if not content_type:
        return "The Content-Type header is missing; send 'Content-Type: application/json'."
    instead = {
        "application/x-www-form-urlencoded": "with curl add -H 'Content-Type: application/json', in Python use json=",
        MULTIPART: "there are no forms and files here; the body is one JSON object",
        "text/plain": "a browser's fetch needs headers: {'Content-Type': 'application/json'}",
        JSON: "the charset is always UTF-8",
    }.get(media_type, "")
    return f"The Content-Type must be application/json, got {content_type[:60]!r}" + (
        f"; {instead}." if instead else "."
    )


class Parsed(NamedTuple):
    """What was read of a body."""

    value: dict[str, Any]
    texts: LongTexts | None
    """Long texts of base64 that are still in the body."""
    loaded: int
    """Bytes that are left when all of it is loaded and the body is gone."""


def parse(body: bytes, keys: Collection[str], need: Callable[[int], None]) -> Parsed:
    """A JSON object. Long texts below these keys of it, if any, stay in the body until they are released.

    In large bodies, arrays of numbers are NumPy arrays already. `need` is told beforehand how many bytes reading may
    take, the body included. Raises `Problem`.
    """
    texts = LongTexts(body) if len(body) > LONG else None
    if texts is not None and texts.nbytes:
        try:
            value, loaded = _object(texts.rest, lambda nbytes: need(len(body) + texts.nbytes + nbytes))
            if texts.put_back(value, keys):
                return Parsed(value, texts, loaded + texts.nbytes)
        except Problem as problem:
            if problem.kind not in ("malformed-body", "invalid"):
                raise
            # What is wrong is told of the body as it came.
    value, loaded = _object(body, need)
    return Parsed(value, None, loaded)


def _object(body: bytes, need: Callable[[int], None]) -> tuple[dict[str, Any], int]:
    """The object in a body, and what it takes when it is loaded."""
    if not body:
        raise Problem("malformed-body", "The body is empty; a JSON object is needed.")
    if len(body) < LARGE_BODY:
        need(len(body) * SMALL_READING)
        value, loaded = _parse(body), len(body) * SMALL_LOADED
    else:
        value, loaded = _read_large(body, need)
    if not isinstance(value, dict):
        raise Problem(
            "invalid",
            f"The body must be a JSON object; it is {_kind(value)}.{_encoded_twice(value)}",
            [{"pointer": "#", "detail": "takes an object"}],
        )
    return value, loaded


def _read_large(body: bytes, need: Callable[[int], None]) -> tuple[Any, int]:
    structure = structure_of(body)
    structure.check()
    need(structure.reading)
    try:
        return parse_large(body, structure.lists), structure.values * ARRAY_BYTES
    except Unsure:
        pass  # here, where the exception and all that it holds are gone
    return _parse(body), structure.reading - structure.nbytes


def _parse(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem("malformed-body", json_fault(body, error)) from None


def _encoded_twice(value: Any) -> str:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return " It holds JSON that was encoded twice; encode it once."
    return ""


def _kind(value: Any) -> str:
    names: dict[type, str] = {list: "an array", np.ndarray: "an array", str: "a string", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


def form_and_base64(environ: Mapping[str, Any], streams: bool = True, files: bool = False) -> tuple[Form, bool]:
    """Which form an answer is to have, and whether with base64; raises `Problem` 400 and 406.

    `streams` and `files` say whether it may be a stream or a file of tensors. `?format=` comes before the header.
    """
    wanted = _query(environ, "format", ("json", *FILES)) if files and environ.get("QUERY_STRING") else None
    accept = environ.get("HTTP_ACCEPT")
    if wanted in FILES:
        return ("safetensors" if wanted == "safetensors" else "npz"), False
    if accept in COMMON:
        return "json", False
    forms = (DOCUMENT_OR_STREAM if streams else DOCUMENT) | (OF_FILES if files and wanted is None else {})
    return _negotiate(accept, forms)


def check_accept(environ: Mapping[str, Any]) -> None:
    """Refuse an Accept header that rules out every form that some operation has; raises `Problem` 406."""
    accept = environ.get("HTTP_ACCEPT")
    if accept not in COMMON:
        _negotiate(accept, DOCUMENT_OR_STREAM | OF_FILES)


def wanted_layout(environ: Mapping[str, Any]) -> str | None:
    """The layout of parameters and gradients that `?layout=` asks for; raises `Problem` 400."""
    return _query(environ, "layout", LAYOUTS) if environ.get("QUERY_STRING") else None


def _query(environ: Mapping[str, Any], name: str, known: Sequence[str]) -> str | None:
    """A word of the query, None where it is not there."""
    values: list[str] | None = parse_qs(environ["QUERY_STRING"][:2000]).get(name)
    if not values:
        return None
    if len(values) > 1 or values[0] not in known:
        raise Problem("bad-request", f"{name} takes one of {', '.join(known)}, got {', '.join(values)[:60]!r}.")
    return values[0]


def _negotiate(accept: str | None, forms: Mapping[str, Form]) -> tuple[Form, bool]:
    best: tuple[float, Form, bool] | None = None
    # The most specific come first, so that among equals the first is right.
    for value, quality in parse_accept_header(accept, MIMEAccept):
        media_type, options = parse_options_header(value)
        form = forms.get(media_type.lower())
        tensors = options.get("tensors", "lists")
        if quality <= 0 or form is None or tensors not in ("lists", "base64"):
            continue
        if best is None or quality > best[0]:
            best = (quality, form, tensors == "base64")
    if best is None:
        streams = f", or a stream, {NDJSON} or {EVENTS}; each" if NDJSON in forms else ","
        files = f" Its tensors come as {SAFETENSORS} or {NPZ} too." if NPZ in forms else ""
        raise Problem(
            "not-acceptable", f"The answer is {JSON}{streams} optionally with tensors=lists or tensors=base64.{files}"
        )
    return best[1:]


def preferred_language(environ: Mapping[str, Any], languages: Sequence[str]) -> str:
    """Which of the languages the Accept-Language header likes best; the first one where it likes none of them."""
    header = environ.get("HTTP_ACCEPT_LANGUAGE")
    for tag, quality in parse_accept_header(header, LanguageAccept) if header else ():
        # zh-Hant-TW is a kind of zh.
        language = tag.partition("-")[0].lower()
        if quality > 0 and language in languages:
            return language
    return languages[0]


def document(value: Any) -> bytes:
    """JSON of a whole answer: as `dump`, and a newline, so that a terminal's prompt stands in a line of its own."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE, default=in_words)


def document_in_pieces(value: Any, base64: bool, look: Callable[[], object] = lambda: None) -> list[bytes]:
    """The same in pieces, with typed arrays for tensors if `base64`; `look` is called between two of them."""
    pieces = written(value, base64, look)
    pieces[-1] += b"\n"
    return pieces


def accepts_gzip(environ: Mapping[str, Any]) -> bool:
    """Whether the client reads gzip."""
    accepted = environ.get("HTTP_ACCEPT_ENCODING")
    return bool(accepted) and parse_accept_header(accepted)["gzip"] > 0


def compress(body: list[bytes], environ: Mapping[str, Any]) -> list[bytes] | None:
    """The pieces of a body as gzip where the client accepts that; the body is empty then."""
    if not accepts_gzip(environ):
        return None
    encoder = zlib.compressobj(GZIP_LEVEL, wbits=31)
    body.reverse()
    compressed = []
    while body:
        compressed.append(encoder.compress(body.pop()))
    return [*compressed, encoder.flush()]
