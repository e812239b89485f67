"""One decorator turns a function into an operation of the API.

The function takes what its request schema loaded and gives what its response schema describes;
reading, validation, negotiation and writing happen here, the same for all. `OPERATIONS` lists them
for OpenAPI.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flask import Blueprint, Response, current_app, request
from marshmallow import Schema, ValidationError

from schemas.requests import R, RequestSchema
from schemas.stored import NetworkOrIdField, may_name_stored
from service import wire
from service.admission import SMALL_SECONDS, Admission, Ticket
from service.api.answer_files import as_file
from service.api.examples import Example
from service.api.stored import Names, with_stored
from service.config import Settings
from service.costs import CALL_SECONDS, NODE_SECONDS, NUMBER_SECONDS, OPERATION_SECONDS, Costs
from service.engine.compiling import Compiler
from service.engine.errors import InvalidRequest
from service.engine.graph.plan import Program
from service.engine.limits import WATCHED_NODES, WATCHED_OPERATIONS
from service.engine.texts import LANGUAGES
from service.engine.watch import Watch
from service.lean import Document
from service.memory import SMALL, Account, Reservation
from service.observability import Timer
from service.problems import from_faults, from_validation
from service.store.store import Store

WORTH_LEARNING = 0.001
"""Estimated seconds below which nothing is weighed or learned: that would take a few percent of such a request."""


@dataclass(frozen=True)
class Runtime:
    """What operations need of the running service."""

    settings: Settings
    compiled: Compiler
    """Gives what tasks are compiled to, out of the memory of earlier requests."""
    memory: Account
    admission: Admission
    store: Store
    costs: Costs = field(default_factory=Costs)


class _Weighed(NamedTuple):
    """What a request was estimated to cost, to be compared with what it does cost."""

    program: Program
    kind: str
    estimated: float
    began: float
    """The processor time of the thread."""


@dataclass
class Context:
    """What an operation knows of the request beside its content."""

    runtime: Runtime
    timer: Timer
    memory: Reservation
    loaded_bytes: int
    """An estimate of what the request itself takes, now that it is loaded."""
    ticket: Ticket
    """The way of the request through the slots of the worker; the watch of its computation."""
    environ: Mapping[str, Any]
    form: wire.Form
    """`json`, unless the operation may stream and a stream was asked for."""
    base64: bool
    """Whether tensors are to be typed arrays. Documents are written by whoever called the view, streams are not."""
    language: str = LANGUAGES[0]
    """The language of sentences (see `service/engine/texts`)."""
    layout: str | None = None
    """The layout of parameters and gradients that the query asks for."""
    answer_layout: str = "nabla"
    """The layout that they have in the answer."""
    status: int = 200
    """That of the answer; a view may change it."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further ones of the answer; a view may add some."""

    compiled: Compiler = field(init=False)
    """Gives what tasks are compiled to; the request waits for a slot before it compiles what takes long."""
    in_steps: bool = False
    """Whether it was computed in steps and ended in time: where it stands is told, even if that is late by a little."""
    _weighed: _Weighed | None = None

    def __post_init__(self) -> None:
        ticket = self.ticket  # not `self`: a cycle of references would keep the request until the collector comes
        self.compiled = self.runtime.compiled.watched(ticket, lambda nodes: ticket.weigh(nodes * NODE_SECONDS))

    def reserve(self, program: Program, work: float, nbytes: int, *, calls: float = 0.0, numbers: float = 0.0) -> None:
        """Wait for a slot as `weigh` does, and then for so many bytes beside those of the request itself.

        Three lanes compute beside each other. What takes more than a third of the memory goes to the heavy one, where
        it waits in a queue that foresees the wait, instead of holding a slot of another lane while it waits for memory.
        """
        whole = self.loaded_bytes + nbytes
        self.weigh(program, work, calls, numbers, alone=3 * whole > self.memory.account.total)
        self.memory.need(whole)

    def weigh(
        self, program: Program, work: float, calls: float = 0.0, numbers: float = 0.0, *, alone: bool = False
    ) -> None:
        """Wait for a slot that suits what comes now: so many floating-point operations, mostly of this program.

        Before memory is reserved: whoever waits for a slot must not hold what those with one need.

        `calls` are those of NumPy, beyond one run of the program, and `numbers` those of the answer; with `alone` it is
        a slot of the heavy lane. Raises `Problem` 503 where the wait would be too long, `DeadlineExceeded` and
        `Abandoned`.
        """
        calls += len(program.nodes)
        estimated = work * OPERATION_SECONDS + calls * CALL_SECONDS + numbers * NUMBER_SECONDS
        if estimated > WORTH_LEARNING or alone:
            kind: str = self.environ["PATH_INFO"]
            self.ticket.weigh(estimated * self.runtime.costs.factor(program, kind), alone=alone)
            self._weighed = _Weighed(program, kind, estimated, self.runtime.admission.cpu())

    def learn(self) -> None:
        """The request is computed: remember what it cost."""
        if self._weighed is not None:
            program, kind, estimated, began = self._weighed
            self.runtime.costs.learn(program, kind, estimated, self.runtime.admission.cpu() - began)

    def watch_over(self, program: Program, work: float) -> Watch | None:
        """What a computation of so many floating-point operations looks at; small ones are over before that matters."""
        return self.ticket if work > WATCHED_OPERATIONS or len(program.nodes) > WATCHED_NODES else None

    def mark_compiled(self, nbytes: int) -> None:
        """End the stage in which programs are made, which take so many bytes."""
        self.timer.mark("compile")
        self.timer.memory = nbytes


@dataclass(frozen=True)
class Operation:
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
    bodies: tuple[str, ...] = ()
    """Media types of bodies that are files, in place of JSON."""
    status: int = 200
    """Of the answer, where all goes well."""
    created: str | None = None
    """What the status 201 means, which the answer may have too."""

    @property
    def is_translated(self) -> bool:
        """Whether the answer holds sentences, in a language that the caller may choose."""
        return self.takes is not None and "language" in self.takes.load_fields


OPERATIONS: list[Operation] = []

TAGS = {
    "Networks": "Outputs, losses and gradients of a network that you define",
    "Insight": "How a gradient came about, whether it is right, and what the loss looks like",
    "Functions": "Calculus of functions that you type, and balls that roll down them",
    "Training": "What optimizers do with networks, step by step",
    "Storage": "Networks that are sent once, and then named by an id",
    "Catalogue": "Everything a request may name",
    "System": "Health, metrics and this description",
}
"""What operations are about, in the order in which they are shown."""
FIRST = "/v1/gradients"
"""What the service is for."""


def in_order() -> list[Operation]:
    """All operations as people read them; the order in which modules were imported does not show."""
    tags = list(TAGS)
    return sorted(OPERATIONS, key=lambda operation: (tags.index(operation.tag), operation.path != FIRST))


OF_FILES: tuple[Mapping[str, Any], ...] = (
    {
        "name": "format",
        "in": "query",
        "description": "json, or the tensors of the answer as a file; an Accept header does the same",
        "schema": {"type": "string", "enum": ["json", *wire.FILES], "default": "json"},
    },
    {
        "name": "layout",
        "in": "query",
        "description": "of parameters and gradients in the answer; by default that of the parameters sent",
        "schema": {"type": "string", "enum": list(wire.LAYOUTS)},
    },
)
"""Query parameters of operations whose answers may be files."""


def runtime() -> Runtime:
    """The running service's own state."""
    found: Runtime = current_app.extensions["nabla"]
    return found


def describe(
    method: str, path: str, *, summary: str, tag: str, **details: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: put the view below into OpenAPI; the first paragraph of its docstring is the description."""

    def register(view: Callable[..., Any]) -> Callable[..., Any]:
        text = (view.__doc__ or "").strip()
        OPERATIONS.append(Operation(method, path, view.__name__, summary, text, tag, **details))
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
    files: bool = False,
    reads: Callable[[Mapping[str, Any], bytes, Callable[[int], None]], wire.Parsed | None] = lambda *_: None,
    **details: Any,
) -> Callable[[Callable[[R, Context], dict[str, Any] | Response]], Callable[..., Response]]:
    """Decorator: the function below answers POST requests at `path`.

    With `files`, the client may ask for the tensors of the answer as a file, and for the layout of PyTorch. With
    `streams`, the client may ask for a form that is a stream; then the function gives the whole response. They
    are the schemas of its lines. Where requests have the field `language`, `context.language` is the language of the
    answer, and its headers say so. `reads` makes a request of a body that is no JSON object; None: it is one.
    `details` are further fields of `Operation`.
    """
    translated = "language" in takes.load_fields
    names_networks = isinstance(takes.load_fields.get("network"), NetworkOrIdField)

    def register(view: Callable[[R, Context], dict[str, Any] | Response]) -> Callable[..., Response]:
        def handle() -> Response:
            environ = request.environ
            running = runtime()
            settings = running.settings
            form, base64 = wire.form_and_base64(environ, bool(streams), files)
            layout = wire.wanted_layout(environ) if files else None
            file = form if form in wire.FILES else None
            form = "json" if file else form
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
                read = reads(environ, body, memory.need) or wire.parse(body, takes.fresh, memory.need)
                value, texts, loaded_bytes = read
                del read
                del body
                timer.mark("parse")
                expanding = takes.file_bytes(value)
                if expanding:
                    loaded_bytes += expanding
                    memory.need(loaded_bytes + (texts.nbytes if texts is not None else 0))
                if is_large:
                    ticket.look()
                if names_networks and may_name_stored(value):
                    names = Names(running.store, environ["nabla.key"], ticket, memory)
                    value, nbytes = with_stored(value, names)
                    loaded_bytes += nbytes
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
                context = Context(running, timer, memory, loaded_bytes, ticket, environ, form, base64, language, layout)
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
                if file:
                    pieces = as_file(result, file, context.answer_layout)
                elif whole:
                    pieces = [wire.document(result)]
                else:
                    pieces = wire.document_in_pieces(result, base64, look)
                context.learn()
                timer.mark("serialize")
                if memory.held:
                    del result, loaded, value, texts
                    nbytes = sum(map(len, pieces))
                    memory.need(nbytes)  # until it is sent
                    if nbytes > SMALL:
                        sent = held.keep_memory()
            headers |= context.headers
            media_type = "application/json; tensors=base64" if base64 else wire.JSON
            if file:
                media_type = wire.FILES[file]
                headers["Content-Disposition"] = f'attachment; filename="answer.{file}"'
            if len(pieces) == 1:
                response = Document(pieces[0], context.status, content_type=media_type, headers=headers or None)
            else:
                headers["Content-Length"] = str(sum(map(len, pieces)))
                response = Document(pieces, context.status, content_type=media_type, headers=headers)
            if sent is not None:
                response.call_on_close(sent)
            return response

        handle.__name__ = view.__name__
        handle.__doc__ = view.__doc__
        described = {"takes": takes, "gives": gives, "examples": examples, "streams": streams} | details
        if files:
            described |= {"parameters": OF_FILES}
        describe("POST", path, summary=summary, tag=tag, **described)(handle)
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
