"""One decorator turns a function into an endpoint of the API.

The function takes what its request schema loaded and gives what its response schema describes;
reading, validation, negotiation and writing happen here, the same for all. `ENDPOINTS` lists them
for OpenAPI.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, request
from marshmallow import Schema, ValidationError

from schemas.requests import R, RequestSchema
from service import wire
from service.api.context import Context, Runtime, runtime
from service.api.examples import Example
from service.capacity.admission import SMALL_SECONDS
from service.capacity.memory import SMALL, Reservation
from service.capacity.ticket import Ticket
from service.engine.errors import InvalidRequest
from service.engine.texts import LANGUAGES
from service.lean_flask import Document
from service.observing.timer import Timer
from service.problems import from_faults, from_validation


@dataclass(frozen=True)
class Endpoint:
    """An operation, as OpenAPI describes it."""

    method: str
    path: str
    name: str
    summary: str
    description: str
    tag: str
    takes: Schema | None = None
    gives: Schema | None = None
    examples: Mapping[str, Example] = field(default_factory=dict)
    """Request bodies by name; their answers are computed when OpenAPI is written."""
    parameters: tuple[Mapping[str, Any], ...] = ()
    """Path and query parameters, as OpenAPI has them."""
    media_types: tuple[str, ...] = ("application/json",)
    """What the answer comes as; none: OpenAPI says nothing of it, for generators of clients know no such type."""
    streams: tuple[type[Schema], ...] = ()
    """What the lines or events of a streamed answer are; none: it is no stream."""

    @property
    def is_translated(self) -> bool:
        """Whether the answer holds sentences, in a language that the caller may choose."""
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
"""What operations are about, in the order in which they are shown."""
FIRST = "/v1/gradients"
"""What the service is for."""


def in_order() -> list[Endpoint]:
    """All operations as people read them; the order in which modules were imported does not show."""
    tags = list(TAGS)
    return sorted(ENDPOINTS, key=lambda endpoint: (tags.index(endpoint.tag), endpoint.path != FIRST))


def describe(
    method: str, path: str, *, summary: str, tag: str, **details: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: put the view below into OpenAPI; the first paragraph of its docstring is the description."""

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
    streams: tuple[type[Schema], ...] = (),
) -> Callable[[Callable[[R, Context], dict[str, Any] | Response]], Callable[..., Response]]:
    """Decorator: the function below answers POST requests at `path`.

    With `streams`, the client may ask for a form that is a stream; then the function gives the whole response. They
    are the schemas of its lines. Where requests have the field `language`, `context.language` is the language of the
    answer, and its headers say so.
    """
    translated = "language" in takes.load_fields

    def register(view: Callable[[R, Context], dict[str, Any] | Response]) -> Callable[..., Response]:
        def handle() -> Response:
            environ = request.environ
            running = runtime()
            settings = running.settings
            form, base64 = wire.form_and_base64(environ) if streams else ("json", wire.wants_base64(environ))
            wire.check_content_type(environ)
            timer: Timer = environ["nabla.timer"]
            sent: Callable[[], None] | None = None
            with _Held(environ, running) as held:
                memory = held.memory
                body = wire.read_body(environ, settings.max_body_bytes, memory.need)
                ticket = _ticket_of(environ, running, len(body), held)
                memory.waiter = ticket
                is_large = len(body) > wire.LARGE_BODY  # small ones are over before a look could matter
                timer.mark("receive")
                value, texts, loaded_bytes = wire.parse(body, takes.fresh, memory.need)
                del body
                timer.mark("parse")
                if is_large:
                    ticket.look()
                try:
                    loaded = takes.read(value)
                except ValidationError as error:
                    raise from_validation(error, value) from None
                if texts is not None:
                    texts.release()
                timer.mark("validate")
                if is_large:
                    ticket.look()
                if form != "json":
                    ticket.open_stream()
                    environ["nabla.streamed"] = True
                language = _language(loaded, environ) if translated else LANGUAGES[0]
                headers = {"Content-Language": language, "Vary": "Accept-Language"} if translated else {}
                context = Context(running, timer, memory, loaded_bytes, ticket, environ, form, base64, language)
                try:
                    result = view(loaded, context)
                except InvalidRequest as error:
                    raise from_faults(error, value) from None
                if isinstance(result, Response):
                    result.headers.update(headers)
                    ticket.give_slot_back()  # from here on it computes in turns
                    result.call_on_close(held.keep())
                    return result
                if ticket.cost > SMALL_SECONDS and not context.in_steps:
                    ticket.look()
                # What needs no memory to speak of is small.
                whole = not (base64 or memory.held)
                look = _nothing if context.in_steps else ticket.look
                pieces = [wire.document(result)] if whole else wire.document_in_pieces(result, base64, look)
                context.learn()
                timer.mark("serialize")
                if memory.held:
                    del result, loaded, value, texts
                    nbytes = sum(map(len, pieces))
                    memory.need(nbytes)  # until it is sent
                    if nbytes > SMALL:
                        sent = held.keep_memory()
            media_type = "application/json; tensors=base64" if base64 else wire.JSON
            if len(pieces) == 1:
                response = Document(pieces[0], content_type=media_type, headers=headers or None)
            else:
                headers["Content-Length"] = str(sum(map(len, pieces)))
                response = Document(pieces, content_type=media_type, headers=headers)
            if sent is not None:
                response.call_on_close(sent)
            return response

        handle.__name__ = view.__name__
        handle.__doc__ = view.__doc__
        details = {"takes": takes, "gives": gives, "examples": examples, "streams": streams}
        describe("POST", path, summary=summary, tag=tag, **details)(handle)
        blueprint.post(path)(handle)
        return handle

    return register


def _language(loaded: Any, environ: Mapping[str, Any]) -> str:
    """The language that the request names, or the one of ours that its Accept-Language header likes best."""
    asked: str | None = loaded.get("language")
    return asked or wire.preferred_language(environ, LANGUAGES)


def _nothing() -> None:
    """What is called between the pieces of an answer that is written however late it is."""


class _Held:
    """What a request holds until its answer is written: memory and its ticket, unless the edge has made them."""

    __slots__ = ("kept", "memory", "owned", "ticket")

    def __init__(self, environ: Mapping[str, Any], running: Runtime) -> None:
        memory: Reservation | None = environ.get("nabla.memory")
        self.owned = memory is None
        self.memory = running.memory.reservation() if memory is None else memory
        self.ticket: Ticket | None = None
        self.kept = False

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            self.close()

    def keep(self) -> Callable[[], None]:
        """Hold everything beyond the block, until what is returned is called."""
        self.kept = True
        return self.close

    def keep_memory(self) -> Callable[[], None] | None:
        """Hold the memory alone beyond the block, until what is returned is called; None: that is the edge's part."""
        if not self.owned:
            return None
        if self.ticket is not None:
            self.ticket.end()
        return self.keep()

    def close(self) -> None:
        if self.owned:
            self.memory.release()
        if self.ticket is not None:
            self.ticket.end()


def _ticket_of(environ: dict[str, Any], running: Runtime, nbytes: int, held: _Held) -> Ticket:
    """The ticket that the edge has begun for a request; where Flask runs alone, a new one with a slot.

    Raises `Problem` 503.
    """
    ticket: Ticket | None = environ.get("nabla.ticket")
    if ticket is None:
        ticket = running.admission.ticket(environ["nabla.client"], environ.get("nabla.arrived") or time.monotonic())
        held.ticket = environ["nabla.ticket"] = ticket
        ticket.left = hung_up(environ)
        ticket.begin_blocking(nbytes)
    return ticket


def hung_up(environ: Mapping[str, Any]) -> Callable[[], bool] | None:
    """A function that tells whether the client has closed its connection, where the server gives access to it."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return None  # the next write will tell
    poll = select.poll()
    # Linux alone has the first; the others are reported in any case.
    poll.register(connection, getattr(select, "POLLRDHUP", 0))
    return lambda: bool(poll.poll(0))
