"""The decorators that turn a function into an endpoint of the API.

The function takes what its request schema loaded and returns what its response schema describes. `post` reads and
validates the request, negotiates its form and writes the response. `ENDPOINTS` lists all endpoints for OpenAPI.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, request
from marshmallow import Schema, ValidationError

from schemas.requests import R, RequestSchema
from service import wire
from service.api.context import Context, Runtime, runtime
from service.api.examples import Example
from service.capacity.admission import SMALL_SECONDS, Ticket
from service.capacity.memory import SMALL, Reservation
from service.engine.errors import InvalidRequest
from service.engine.texts import LANGUAGES
from service.lean_flask import Document
from service.observing.timer import Timer
from service.problems import from_faults, from_validation


@dataclass(frozen=True)
class Endpoint:
    """An endpoint, as OpenAPI describes it."""

    method: str
    path: str
    name: str
    summary: str
    description: str
    tag: str
    takes: Schema | None = None
    gives: Schema | None = None
    examples: Mapping[str, Example] = field(default_factory=dict)
    """Request bodies by name; the responses are computed when openapi.yaml is written."""
    mistake: Example | None = None
    """A request body that the endpoint refuses."""
    parameters: tuple[Mapping[str, Any], ...] = ()
    """Path and query parameters, in the form of OpenAPI."""
    media_types: tuple[str, ...] = ("application/json",)
    """Media types of the response; OpenAPI omits the response without any: client generators know no such type."""
    streams: tuple[type[Schema], ...] = ()
    """The schemas of the lines or events of a streamed response; empty if the endpoint does not stream."""

    @property
    def is_translated(self) -> bool:
        """Whether the response holds sentences, in a language that the caller may choose."""
        return self.takes is not None and "language" in self.takes.load_fields


ENDPOINTS: list[Endpoint] = []

TAGS = {
    "Networks": "Outputs, losses and gradients of a network that you define",
    "Insight": "How a gradient came about, whether it is right, and what the loss looks like",
    "Functions": "Calculus of functions that you type, and balls that roll down them",
    "Training": "What optimizers do with networks, step by step",
    "Catalogue": "Everything a request may name",
    "System": "Health, metrics and this description",
}
"""The subjects of endpoints, in the order in which they are shown."""
FIRST = "/v1/gradients"
"""The main endpoint, which comes first."""


def in_order() -> list[Endpoint]:
    """Return all endpoints in the order for readers, whatever the order of imports."""
    tags = list(TAGS)
    return sorted(ENDPOINTS, key=lambda endpoint: (tags.index(endpoint.tag), endpoint.path != FIRST))


def describe(
    method: str, path: str, *, summary: str, tag: str, **details: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: describe the view below in OpenAPI, with its docstring as description."""

    def register(view: Callable[..., Any]) -> Callable[..., Any]:
        text = (view.__doc__ or "").strip()
        ENDPOINTS.append(Endpoint(method, path, view.__name__, summary, text, tag, **details))
        return view

    return register


def post(
    blueprint: Blueprint,
    path: str,
    *,
    takes: RequestSchema[R],
    gives: Schema,
    summary: str,
    tag: str,
    examples: Mapping[str, Example],
    mistake: Example,
    streams: tuple[type[Schema], ...] = (),
) -> Callable[[Callable[[R, Context], dict[str, Any] | Response]], Callable[..., Response]]:
    """Decorator: let the function below answer POST requests at `path`.

    OpenAPI shows the `examples` with their responses, and the `mistake`, a request that is refused with 422.
    With `streams`, the schemas of the lines of a stream, the client may ask for one; then the function returns the
    whole response. If requests have the field `language`, `context.language` is the language of the response, and its
    headers say so.
    """
    translated = "language" in takes.load_fields

    def register(view: Callable[[R, Context], dict[str, Any] | Response]) -> Callable[..., Response]:
        def handle() -> Response:
            environ = request.environ
            form, base64 = wire.form_and_base64(environ) if streams else ("json", wire.wants_base64(environ))
            wire.check_content_type(environ)
            with _Held(environ, runtime()) as held:
                value, texts, loaded_bytes = _receive(held, environ, takes.fresh)
                loaded = _validate(held, takes, value, texts)
                if form != "json":
                    held.ticket.open_stream()
                    environ["nabla.streamed"] = True
                language = _language(loaded, environ) if translated else LANGUAGES[0]
                headers = {"Content-Language": language, "Vary": "Accept-Language"} if translated else {}
                context = Context(
                    held.running, held.timer, held.memory, loaded_bytes, held.ticket, environ, form, base64, language
                )
                try:
                    result = view(loaded, context)
                except InvalidRequest as error:
                    raise from_faults(error, value) from None
                if isinstance(result, Response):
                    result.headers.update(headers)
                    held.ticket.give_slot_back()  # from here on the stream computes in turns
                    result.call_on_close(held.keep())
                    return result
                pieces = _write(result, context)
                if held.memory.held:
                    del result, loaded, value, texts  # before memory is reserved for the response alone
                sent = held.reserve_until_sent(pieces)
            return _document(pieces, base64, headers, sent)

        handle.__name__ = view.__name__
        handle.__doc__ = view.__doc__
        details = {"takes": takes, "gives": gives, "examples": examples, "mistake": mistake, "streams": streams}
        describe("POST", path, summary=summary, tag=tag, **details)(handle)
        blueprint.post(path)(handle)
        return handle

    return register


def _receive(held: _Held, environ: dict[str, Any], keys: Collection[str]) -> wire.Parsed:
    """Read and parse the body. From here on the request has a ticket. Raise `Problem`."""
    body = wire.read_body(environ, held.running.settings.max_body_bytes, held.memory.need)
    held.begin(environ, len(body))
    held.timer.mark("receive")
    parsed = wire.parse(body, keys, held.memory.need)
    del body
    held.timer.mark("parse")
    held.look_if_large()
    return parsed


def _validate(held: _Held, takes: RequestSchema[R], value: dict[str, Any], texts: wire.LongTexts | None) -> R:
    """Load a parsed body, and release its long texts. Raise `Problem` 422."""
    try:
        loaded = takes.read(value)
    except ValidationError as error:
        raise from_validation(error, value) from None
    if texts is not None:
        texts.release()
    held.timer.mark("validate")
    held.look_if_large()
    return loaded


def _language(loaded: Any, environ: Mapping[str, Any]) -> str:
    """Return the language that the request names, else the one that its Accept-Language header prefers."""
    asked: str | None = loaded.get("language")
    return asked or wire.preferred_language(environ, LANGUAGES)


def _write(result: dict[str, Any], context: Context) -> list[bytes]:
    """Write a result as JSON: at once if it is small, else in pieces, between which others may compute."""
    ticket = context.ticket
    if ticket.cost > SMALL_SECONDS and not context.in_steps:
        ticket.look()
    # A request that needs no memory to speak of has a small response.
    if context.base64 or context.memory.held:
        # A computation in steps has ended in time; its response is written even if that is late by a little.
        pieces = wire.document_in_pieces(result, context.base64, _nothing if context.in_steps else ticket.look)
    else:
        pieces = [wire.document(result)]
    context.learn()
    context.timer.mark("serialize")
    return pieces


def _nothing() -> None:
    """Do nothing."""


def _document(pieces: list[bytes], base64: bool, headers: dict[str, str], sent: Callable[[], None] | None) -> Response:
    """Make the response with these pieces of JSON; `sent` is called once it is sent."""
    media_type = "application/json; tensors=base64" if base64 else wire.JSON
    if len(pieces) == 1:
        response = Document(pieces[0], content_type=media_type, headers=headers or None)
    else:
        headers["Content-Length"] = str(sum(map(len, pieces)))
        response = Document(pieces, content_type=media_type, headers=headers)
    if sent is not None:
        response.call_on_close(sent)
    return response


class _Held:
    """The memory and the ticket that a request holds until its response is written.

    At the end of the `with` block, those that the edge has not made are given back, unless `keep` was called.
    """

    __slots__ = ("_is_large", "_kept", "_owns_memory", "_owns_ticket", "memory", "running", "ticket", "timer")

    ticket: Ticket

    def __init__(self, environ: Mapping[str, Any], running: Runtime) -> None:
        memory: Reservation | None = environ.get("nabla.memory")
        self.running = running
        self.timer: Timer = environ["nabla.timer"]
        self.memory = running.memory.reservation() if memory is None else memory
        self._owns_memory = memory is None
        self._owns_ticket = self._kept = False

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.close()

    def begin(self, environ: dict[str, Any], nbytes: int) -> None:
        """Take over the ticket that the edge began, or begin one for a body of so many bytes. Raise `Problem` 503."""
        ticket: Ticket | None = environ.get("nabla.ticket")
        if ticket is None:
            arrived = environ.get("nabla.arrived") or time.monotonic()
            ticket = environ["nabla.ticket"] = self.running.admission.ticket(environ["nabla.client"], arrived)
            self.ticket, self._owns_ticket = ticket, True
            ticket.left = hung_up(environ)
            ticket.begin_blocking(nbytes)
        self.ticket = self.memory.waiter = ticket
        self._is_large = nbytes > wire.LARGE_BODY

    def look_if_large(self) -> None:
        """Let a large request wait or end; a small request is over before a look could matter."""
        if self._is_large:
            self.ticket.look()

    def reserve_until_sent(self, pieces: list[bytes]) -> Callable[[], None] | None:
        """Hold memory for the response alone. Return the function that gives it back; None if the edge does that."""
        if not self.memory.held:
            return None
        nbytes = sum(map(len, pieces))
        self.memory.need(nbytes)
        if nbytes <= SMALL or not self._owns_memory:
            return None
        if self._owns_ticket:
            self.ticket.end()
        return self.keep()

    def keep(self) -> Callable[[], None]:
        """Hold everything beyond the `with` block, until the returned function is called."""
        self._kept = True
        return self.close

    def close(self) -> None:
        """Give back what is held. It may be called twice."""
        if self._owns_memory:
            self.memory.release()
        if self._owns_ticket:
            self.ticket.end()


def hung_up(environ: Mapping[str, Any]) -> Callable[[], bool] | None:
    """Return a function that says whether the client has closed its connection; None if the server does not show it."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return None  # the next write will tell
    poll = select.poll()
    # Only Linux has POLLRDHUP; errors and hang-ups are reported in any case.
    poll.register(connection, getattr(select, "POLLRDHUP", 0))
    return lambda: bool(poll.poll(0))
