"""The decorators that turn a function into an endpoint of the API.

The function takes what its request schema loaded and returns what its response schema describes. `post` reads and
validates the request, negotiates its form and writes the response. `ENDPOINTS` lists all endpoints for OpenAPI.
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
from schemas.stored import NetworkOrIdField, may_name_stored
from service import wire
from service.api.answer_files import as_file
from service.api.context import Context, Runtime, runtime
from service.api.examples import Example
from service.api.stored import Names, with_stored
from service.capacity.admission import SMALL_SECONDS, Ticket
from service.capacity.memory import SMALL, Reservation
from service.engine.errors import InvalidRequest
from service.engine.texts import LANGUAGES
from service.lean_flask import Document
from service.observing.timer import Timer
from service.problems import from_faults, from_validation

Reads = Callable[[Mapping[str, Any], bytes, Callable[[int], None]], wire.Parsed | None]
"""Makes a request of a body, given the WSGI environment, the body and a function that reserves memory."""


@dataclass(frozen=True)
class Endpoint:
    """One endpoint of the API with everything that its entry in openapi.yaml says."""

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
    files: bool = False
    """Whether the tensors of the response may come as a file."""

    bodies: tuple[str, ...] = ()
    """Media types of bodies that are files, in place of JSON."""
    status: int = 200
    """The status of the response if all goes well."""
    statuses: Mapping[int, str] = field(default_factory=dict)
    """All statuses that the same response may have, with their meanings, if there are several."""
    random: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the response whose values differ each time, with the values that examples show."""

    @property
    def is_translated(self) -> bool:
        """Whether the response holds sentences, and the caller may choose their language."""
        return self.takes is not None and "language" in self.takes.load_fields


ENDPOINTS: list[Endpoint] = []

TAGS = {
    "Networks": "Outputs, losses and gradients of a network that you define",
    "Insight": "How a gradient came about, whether it is right, and what the loss looks like",
    "Functions": "Calculus of functions that you type, and balls that roll down them",
    "Training": "What optimizers do with networks, step by step",
    "Runs": "Long computations that the service makes by itself, and keeps until you have seen them",
    "Storage": "Networks that are sent once, and then named by an id",
    "Catalogue": "Everything a request may name",
    "System": "Health, metrics and this description",
}
"""The subjects of endpoints, in the order in which they are shown."""
FIRST = "/v1/gradients"
"""The main endpoint, which comes first."""


def in_order() -> list[Endpoint]:
    """Return all endpoints as documents list them: by tag, with the main endpoint first."""
    tags = list(TAGS)
    return sorted(ENDPOINTS, key=lambda endpoint: (tags.index(endpoint.tag), endpoint.path != FIRST))


OF_FILES: tuple[Mapping[str, Any], ...] = (
    {
        "name": "format",
        "in": "query",
        "description": "json, or the tensors of the response as a file; an Accept header does the same",
        "schema": {"type": "string", "enum": ["json", *wire.FILES], "default": "json"},
    },
    {
        "name": "layout",
        "in": "query",
        "description": "layout of parameters and gradients in the response; by default that of the parameters sent",
        "schema": {"type": "string", "enum": list(wire.LAYOUTS)},
    },
)
"""Query parameters of endpoints whose responses may be files."""


def describe(
    method: str, path: str, *, summary: str, tag: str, **details: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds a view to `ENDPOINTS`, with its docstring as the description."""

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
    files: bool = False,
    reads: Reads = lambda *_: None,
    **details: Any,
) -> Callable[[Callable[[R, Context], dict[str, Any] | Response]], Callable[..., Response]]:
    """Return a decorator that makes a function the view of POST requests at `path`.

    The function gets the loaded request and the `Context`, and returns the object of the response, which is written as
    JSON. OpenAPI shows the `examples` with their responses, and the `mistake`, a request that is refused with 422.
    `streams` are the schemas of the lines of a stream, if the client may ask for one; then the function returns
    the whole `Response` itself. With `files`, the client may ask for the tensors of the response as a file, and for
    the layout of PyTorch. If requests have the field `language`, `context.language` is the language of the response,
    and its headers say so. `reads` makes a request of a body that is not a JSON object; it returns None for one that
    is. `details` are further fields of `Endpoint`.
    """
    names_networks = isinstance(takes.load_fields.get("network"), NetworkOrIdField)
    translated = "language" in takes.load_fields

    def register(view: Callable[[R, Context], dict[str, Any] | Response]) -> Callable[..., Response]:
        def handle() -> Response:
            environ = request.environ
            form, base64 = wire.form_and_base64(environ, bool(streams), files)
            layout = wire.wanted_layout(environ) if files else None
            file = form if form in wire.FILES else None
            form = "json" if file else form
            wire.check_content_type(environ)
            with Held(environ, runtime()) as held:
                value, texts, loaded_bytes = _receive(held, environ, takes, reads)
                if names_networks and may_name_stored(value):
                    names = Names(held.running.store, environ["nabla.key"], held.ticket, held.memory)
                    value, nbytes = with_stored(value, names)
                    loaded_bytes += nbytes
                loaded = _validate(held, takes, value, texts)
                if form != "json":
                    held.ticket.open_stream()
                    environ["nabla.streamed"] = True
                language = _language(loaded, environ) if translated else LANGUAGES[0]
                headers = {"Content-Language": language, "Vary": "Accept-Language"} if translated else {}
                running, timer, memory = held.running, held.timer, held.memory
                context = Context(
                    running, timer, memory, loaded_bytes, held.ticket, environ, form, base64, language, layout
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
                pieces = _write(result, context, file)
                if held.memory.held:
                    del result, loaded, value, texts  # before memory is reserved for the response alone
                sent = held.reserve_until_sent(pieces)
            headers |= context.headers
            if file:
                headers["Content-Disposition"] = f'attachment; filename="answer.{file}"'
            media_type = wire.FILES[file] if file else "application/json; tensors=base64" if base64 else wire.JSON
            return _document(pieces, media_type, headers, sent, context.status)

        handle.__name__ = view.__name__
        handle.__doc__ = view.__doc__
        described = {
            "takes": takes,
            "gives": gives,
            "examples": examples,
            "mistake": mistake,
            "streams": streams,
        } | details
        if files:
            described |= {"parameters": OF_FILES, "files": True}
        describe("POST", path, summary=summary, tag=tag, **described)(handle)
        blueprint.post(path)(handle)
        return handle

    return register


def _receive(held: Held, environ: dict[str, Any], takes: RequestSchema[Any], reads: Reads) -> wire.Parsed:
    """Read and parse the request's body, and begin its ticket if the edge has not. Raise `Problem`."""
    body = wire.read_body(environ, held.running.settings.max_body_bytes, held.memory.need)
    held.begin(environ, len(body))
    held.timer.mark("receive")
    value, texts, nbytes = reads(environ, body, held.memory.need) or wire.parse(body, takes.fresh, held.memory.need)
    del body
    held.timer.mark("parse")
    if held.is_large:  # a small body counts as so many times its length that a file within it is included
        expanding = takes.file_bytes(value)
        if expanding:
            nbytes += expanding
            held.memory.need(nbytes + (texts.nbytes if texts is not None else 0))
        held.ticket.look()
    return wire.Parsed(value, texts, nbytes)


def _validate(held: Held, takes: RequestSchema[R], value: dict[str, Any], texts: wire.LongTexts | None) -> R:
    """Load a parsed body with its schema, and free the texts of base64 that are now arrays. Raise `Problem` 422."""
    try:
        loaded = takes.read(value)
    except ValidationError as error:
        raise from_validation(error, value) from None
    if texts is not None:
        texts.release()
    held.timer.mark("validate")
    if held.is_large:
        held.ticket.look()
    return loaded


def _language(loaded: Any, environ: Mapping[str, Any]) -> str:
    """Return the language of the response: the one in the request, else the one that Accept-Language prefers."""
    asked: str | None = loaded.get("language")
    return asked or wire.preferred_language(environ, LANGUAGES)


def _write(result: dict[str, Any], context: Context, file: wire.Form | None) -> list[bytes]:
    """Return a result as a file or as JSON, in pieces between which others compute unless it is small."""
    ticket = context.ticket
    if ticket.cost > SMALL_SECONDS and not context.in_steps:
        ticket.look()
    # A request that needs no memory to speak of has a small response.
    if file:
        pieces = as_file(result, file, context.answer_layout)
    elif context.base64 or context.memory.held:
        # A computation in steps has ended in time; its response is written even if that is late by a little.
        pieces = wire.document_in_pieces(result, context.base64, _nothing if context.in_steps else ticket.look)
    else:
        pieces = [wire.document(result)]
    context.learn()
    context.timer.mark("serialize")
    return pieces


def _nothing() -> None:
    """Do nothing, in place of a check that is not needed."""


def _document(
    pieces: list[bytes], media_type: str, headers: dict[str, str], sent: Callable[[], None] | None, status: int
) -> Response:
    """Return the response that consists of these pieces; `sent` is called once it is sent."""
    if len(pieces) == 1:
        response = Document(pieces[0], status, content_type=media_type, headers=headers or None)
    else:
        headers["Content-Length"] = str(sum(map(len, pieces)))
        response = Document(pieces, status, content_type=media_type, headers=headers)
    if sent is not None:
        response.call_on_close(sent)
    return response


class Held:
    """The memory and the ticket of a request, as a context manager that gives them back at its end.

    The edge gives back what it has made itself. `keep` leaves the rest held beyond the block.
    """

    __slots__ = ("_kept", "_owns_memory", "_owns_ticket", "is_large", "memory", "running", "ticket", "timer")

    ticket: Ticket
    is_large: bool
    """Whether the request may have to wait for a slot, or end, between its steps. Small ones are over soon."""

    def __init__(self, environ: Mapping[str, Any], running: Runtime) -> None:
        memory: Reservation | None = environ.get("nabla.memory")
        self.running = running
        self.timer: Timer = environ["nabla.timer"]
        self.memory = running.memory.reservation() if memory is None else memory
        self._owns_memory = memory is None
        self._owns_ticket = self._kept = False

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._kept:
            self.close()

    def begin(self, environ: dict[str, Any], nbytes: int) -> None:
        """Take over the ticket that the edge began, or begin one for a body of `nbytes` bytes. Raise `Problem` 503."""
        ticket: Ticket | None = environ.get("nabla.ticket")
        if ticket is None:
            arrived = environ.get("nabla.arrived") or time.monotonic()
            ticket = environ["nabla.ticket"] = self.running.admission.ticket(environ["nabla.client"], arrived)
            self.ticket, self._owns_ticket = ticket, True
            ticket.left = hung_up(environ)
            ticket.begin_blocking(nbytes)
        self.ticket = self.memory.waiter = ticket
        self.is_large = nbytes > wire.LARGE_BODY

    def reserve_until_sent(self, pieces: list[bytes]) -> Callable[[], None] | None:
        """Keep only as much memory reserved as the response takes while it is sent.

        Return the function that gives the memory back; None if the edge or the end of the block does.
        """
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
        """Leave memory and ticket held at the end of the block; return the function that gives them back."""
        self._kept = True
        return self.close

    def close(self) -> None:
        """Give memory and ticket back. A second call does nothing."""
        if self._owns_memory:
            self.memory.release()
        if self._owns_ticket:
            self.ticket.end()


def hung_up(environ: Mapping[str, Any]) -> Callable[[], bool] | None:
    """Return a function that returns whether the client has closed its connection; None if that cannot be seen."""
    connection = environ.get("gunicorn.socket")
    if connection is None:
        return None  # the next write will tell
    poll = select.poll()
    # Only Linux has POLLRDHUP; errors and hang-ups are reported in any case.
    poll.register(connection, getattr(select, "POLLRDHUP", 0))
    return lambda: bool(poll.poll(0))
