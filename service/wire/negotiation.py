"""The headers with which a client chooses the form, the encoding and the language of the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from werkzeug.datastructures import LanguageAccept, MIMEAccept
from werkzeug.http import parse_accept_header, parse_options_header

from service.problems import Problem

JSON, NDJSON, EVENTS = "application/json", "application/x-ndjson", "text/event-stream"

Form = Literal["json", "ndjson", "sse"]
"""The form of a response: one document, one line for each record, or server-sent events."""
# The media types of an Accept header, and their forms.
DOCUMENT: dict[str, Form] = {JSON: "json", "application/*": "json", "*/*": "json", "application/problem+json": "json"}
DOCUMENT_OR_STREAM: dict[str, Form] = DOCUMENT | {NDJSON: "ndjson", EVENTS: "sse", "text/*": "sse"}
# Frequent Accept headers that mean a document with lists.
COMMON = (None, "", "*/*", JSON)


def wants_base64(environ: Mapping[str, Any]) -> bool:
    """Return whether the client wants tensors as base64. Raise `Problem` 406 if it does not accept JSON."""
    accept = environ.get("HTTP_ACCEPT")
    return accept not in COMMON and _negotiate(accept, DOCUMENT)[1]


def form_and_base64(environ: Mapping[str, Any]) -> tuple[Form, bool]:
    """Return the form of the response, document or stream, and whether tensors are base64. Raise `Problem` 406."""
    accept = environ.get("HTTP_ACCEPT")
    return ("json", False) if accept in COMMON else _negotiate(accept, DOCUMENT_OR_STREAM)


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
        streams = f", or a stream, {NDJSON} or {EVENTS}; each" if forms is DOCUMENT_OR_STREAM else ","
        raise Problem(
            "not-acceptable", f"The answer is {JSON}{streams} optionally with tensors=lists or tensors=base64."
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
