"""The common parts of endpoints without a JSON body: query parameters, pages, times, and the way to the database."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar
from urllib.parse import parse_qs

from flask import Response, request

from service import wire
from service.api.context import runtime
from service.api.endpoint import Held
from service.capacity.memory import Reservation
from service.problems import Problem, pointer
from service.store.store import Store

PAGE, LONGEST_PAGE = 50, 200
"""Default and largest number of entries on a page of a listing."""
PAGE_PARAMETERS: tuple[Mapping[str, Any], ...] = (
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE, "default": PAGE},
        "description": "how many entries a page has, at most",
    },
    {
        "name": "after",
        "in": "query",
        "schema": {"type": "string"},
        "description": "the `next` of the page before",
    },
)
"""The query parameters of a listing, in the form of OpenAPI."""


class Listed(Protocol):
    """An entry of a listing, the newest first."""

    @property
    def id(self) -> str: ...
    @property
    def created(self) -> float: ...


E = TypeVar("E", bound=Listed)


class Asking(NamedTuple):
    """The resources of a request that asks the database: whose data it is, and what the request holds."""

    owner: str
    store: Store
    held: Held

    @property
    def memory(self) -> Reservation:
        return self.held.memory


@contextmanager
def asking() -> Iterator[Asking]:
    """Wait for a slot of storage, and yield the store with the resources of the current request."""
    environ, running = request.environ, runtime()
    with Held(environ, running) as held:
        held.begin(environ, 0)
        held.ticket.go_to_storage()
        yield Asking(environ["nabla.key"], running.store, held)


def query(environ: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, str]:
    """Return the query parameters. Raise `Problem` 422 for one that is not known, or stands twice."""
    try:
        given = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=16)
    except ValueError:
        raise bad_query("", "there are too many") from None
    for name, values in given.items():
        if name not in known:
            allowed = f"the known ones are {', '.join(known)}" if known else "there are none here"
            raise bad_query(name[:60], f"is not known; {allowed}")
        if len(values) > 1:
            raise bad_query(name, "stands there more than once")
    return {name: values[0] for name, values in given.items()}


def bad_query(name: str, detail: str) -> Problem:
    """Return the problem 422 for a query parameter that is not valid."""
    error = {"pointer": pointer(("query", name)), "detail": detail}
    return Problem("invalid", f"The query parameter {name!r} is not valid: {detail}.", [error])


def bad_header(name: str, detail: str) -> Problem:
    """Return the problem 422 for a header that is not valid."""
    error = {"pointer": pointer(("header", name)), "detail": detail}
    return Problem("invalid", f"The header {name} is not valid: {detail}.", [error])


def no_such(thing: str, name: str, rest: str) -> Problem:
    """Return the problem 404 for an id that the caller does not have. `rest` ends the sentence."""
    shown = name if len(name) <= 60 else name[:60] + "…"
    return Problem("not-found", f"No {thing} with the id {shown!r} {rest}.")


def integer_of(text: str, most: int, least: int = 0) -> int | None:
    """Return the integer that a text of digits holds; None if it holds none from `least` to `most`."""
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        return None
    return int(text) if least <= int(text) <= most else None


def limit_of(text: str | None, default: int = PAGE, most: int = LONGEST_PAGE) -> int:
    """Return the page length from the query parameter `limit`. Raise `Problem` 422."""
    if text is None:
        return default
    limit = integer_of(text, most, 1)
    if limit is None:
        raise bad_query("limit", f"takes an integer from 1 to {most:,}, got {text[:60]!r}")
    return limit


def cursor_of(text: str | None, identifier: re.Pattern[str]) -> tuple[float, str] | None:
    """Return the time and id where the previous page ended, from the query parameter `after`. Raise `Problem` 422."""
    if text is None:
        return None
    when, _, name = text.partition("_")
    try:
        created = float(when)
    except ValueError:
        created = math.nan
    if not (math.isfinite(created) and identifier.fullmatch(name)):
        raise bad_query("after", f"takes `next` of the page before, got {text[:60]!r}")
    return created, name


def cursor(created: float, name: str) -> str:
    """Return the text of a cursor, which `cursor_of` reads."""
    return f"{created!r}_{name}"


def page_of(found: list[E], limit: int) -> tuple[list[E], str | None]:
    """Return the entries of a page and the cursor of the next, which there is if `found` has more than `limit`."""
    page = found[:limit]
    return page, cursor(page[-1].created, page[-1].id) if len(found) > limit else None


def time_text(seconds: float) -> str:
    """Return a time in seconds since 1970 as text in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def as_json(value: Any, status: int = 200, media_type: str = wire.JSON) -> Response:
    """Return a response with a value as JSON."""
    return Response(wire.document(value), status, content_type=media_type)
