"""The headers with which a client chooses the form, the encoding and the language of the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import parse_qs

from werkzeug.datastructures import LanguageAccept, MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from service.problems import Problem

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"

MULTIPART, BINARY = "multipart/form-data", "application/octet-stream"
NETWORK_FILES = (MULTIPART, BINARY, "application/onnx", "application/x-onnx")
"""Media types of bodies that are files of networks."""
TAKE_FILES = ("/v1/networks",)
"""Paths whose requests may be files. The edge asks before it knows the view."""

SAFETENSORS, NPZ = "application/vnd.safetensors", "application/x-npz"

Form = Literal["json", "ndjson", "sse", "safetensors", "npz"]
"""The form of a response: one document, one line for each record, server-sent events, or a file of its tensors."""
FILES: Mapping[Form, str] = {"safetensors": SAFETENSORS, "npz": NPZ}
"""The forms that are files, and their media types."""
LAYOUTS = ("nabla", "pytorch")
# The media types of an Accept header, and their forms.
DOCUMENT: dict[str, Form] = {JSON: "json", "application/*": "json", "*/*": "json", "application/problem+json": "json"}
DOCUMENT_OR_STREAM: dict[str, Form] = DOCUMENT | {NDJSON: "ndjson", EVENTS: "sse", "text/*": "sse"}
STEPS: dict[str, Form] = {
    NDJSON: "ndjson",
    EVENTS: "sse",
    JSON: "json",
    "application/problem+json": "json",
    "text/*": "sse",
    "application/*": "ndjson",
    "*/*": "ndjson",
}
OF_FILES: dict[str, Form] = {SAFETENSORS: "safetensors", "application/safetensors": "safetensors", NPZ: "npz"}
# Frequent Accept headers that mean a document with lists.
COMMON = (None, "", "*/*", JSON)


def form_and_base64(environ: Mapping[str, Any], streams: bool = True, files: bool = False) -> tuple[Form, bool]:
    """Return the form of the response, and whether tensors are base64. Raise `Problem` 400 and 406.

    `streams` and `files` say whether the response may be a stream or a file of tensors. `?format=` comes before the
    Accept header.
    """
    wanted = _query(environ, "format", ("json", *FILES)) if files and environ.get("QUERY_STRING") else None
    accept = environ.get("HTTP_ACCEPT")
    if wanted in FILES:
        return ("safetensors" if wanted == "safetensors" else "npz"), False
    if accept in COMMON:
        return "json", False
    forms = (DOCUMENT_OR_STREAM if streams else DOCUMENT) | (OF_FILES if files and wanted is None else {})
    return _negotiate(accept, forms)


def form_of_steps(environ: Mapping[str, Any]) -> tuple[Form, bool]:
    """Return the form in which records of steps are sent, a stream of lines unless the client asks for another one.

    Also return whether tensors are base64. Raise `Problem` 406.
    """
    accept = environ.get("HTTP_ACCEPT")
    return ("ndjson", False) if accept in ("*/*", "", None) else _negotiate(accept, STEPS)


def check_accept(environ: Mapping[str, Any]) -> None:
    """Refuse an Accept header that rules out every form that some endpoint has. Raise `Problem` 406."""
    accept = environ.get("HTTP_ACCEPT")
    if accept not in COMMON:
        _negotiate(accept, DOCUMENT_OR_STREAM | OF_FILES)


def wanted_layout(environ: Mapping[str, Any]) -> str | None:
    """Return the layout of parameters and gradients that `?layout=` asks for. Raise `Problem` 400."""
    return _query(environ, "layout", LAYOUTS) if environ.get("QUERY_STRING") else None


def _query(environ: Mapping[str, Any], name: str, known: Sequence[str]) -> str | None:
    """Return a word of the query; None if the query does not have it."""
    values: list[str] | None = parse_qs(environ["QUERY_STRING"][:2000], keep_blank_values=True).get(name)
    if not values:
        return None
    if len(values) > 1 or values[0] not in known:
        raise Problem("bad-request", f"{name} takes one of {', '.join(known)}, got {', '.join(values)[:60]!r}.")
    return values[0]


def _negotiate(accept: str | None, forms: Mapping[str, Form]) -> tuple[Form, bool]:
    best: tuple[float, Form, bool] | None = None
    # The most specific types come first, so that the first of equal quality wins.
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
    """Return the one of `languages` that Accept-Language prefers; the first if the header names none of them."""
    header = environ.get("HTTP_ACCEPT_LANGUAGE")
    for tag, quality in parse_accept_header(header, LanguageAccept) if header else ():
        # zh-Hant-TW is a kind of zh.
        language = tag.partition("-")[0].lower()
        if quality > 0 and language in languages:
            return language
    return languages[0]


def accepts_gzip(environ: Mapping[str, Any]) -> bool:
    """Return whether the client accepts a response compressed with gzip."""
    accepted = environ.get("HTTP_ACCEPT_ENCODING")
    return bool(accepted) and parse_accept_header(accepted)["gzip"] > 0
