"""One decorator turns a function into an operation of the API.

The function takes what its request schema loaded and gives what its response schema describes;
reading, validation, negotiation and writing happen here, the same for all. `OPERATIONS` lists them
for OpenAPI.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from flask import Blueprint, Response, current_app, request
from marshmallow import Schema, ValidationError

from schemas.requests import R, RequestSchema
from service import wire
from service.api.examples import Example
from service.config import Settings
from service.engine.compiling import Compiler
from service.engine.errors import InvalidRequest
from service.memory import Account, Reservation
from service.observability import Timer
from service.problems import Problem, from_faults, from_validation

# What is left of a body when it is parsed and validated, in multiples of its length: what was read from it and the
# arrays. Of a long text of base64 no more than its length is left.
LOADED_FACTOR = 8


@dataclass(frozen=True)
class Runtime:
    """What operations need of the running service."""

    settings: Settings
    compiled: Compiler
    """Gives what tasks are compiled to, out of the memory of earlier requests."""
    memory: Account
    streams: threading.Semaphore
    """How many streams may still be opened."""
    documents: threading.Semaphore
    """How many trainings may still be computed for one document each: they hold a thread as long as they run."""


@dataclass(frozen=True)
class Context:
    """What an operation knows of the request beside its content."""

    runtime: Runtime
    timer: Timer
    memory: Reservation
    loaded_bytes: int
    """An estimate of what the request itself takes, now that it is loaded."""
    deadline: float
    """A reading of `time.monotonic`."""
    environ: Mapping[str, Any]
    form: wire.Form
    """`json`, unless the operation may stream and a stream was asked for."""
    base64: bool
    """Whether tensors are to be typed arrays. Documents are written by whoever called the view, streams are not."""

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


OPERATIONS: list[Operation] = []

TAGS = {
    "Networks": "Outputs, losses and gradients of a network that you define",
    "Functions": "Calculus of functions that you type, and balls that roll down them",
    "Training": "What optimizers do with networks, step by step",
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
) -> Callable[[Callable[[R, Context], dict[str, Any] | Response]], Callable[..., Response]]:
    """Decorator: the function below answers POST requests at `path`.

    With `streams`, the client may ask for a form that is a stream; then the function gives the whole response. They
    are the schemas of its lines.
    """

    def register(view: Callable[[R, Context], dict[str, Any] | Response]) -> Callable[..., Response]:
        def handle() -> Response:
            environ = request.environ
            running = runtime()
            settings = running.settings
            form, base64 = wire.form_and_base64(environ) if streams else ("json", wire.wants_base64(environ))
            wire.check_content_type(environ)
            timer: Timer = environ["nabla.timer"]
            with ExitStack() as held:
                memory = held.enter_context(running.memory.reservation())
                memory.need(wire.announced_length(environ, settings.max_body_bytes))
                body = wire.read_body(environ, settings.max_body_bytes)
                timer.mark("receive")
                value, texts = wire.parse(body, takes.fresh, memory.need)
                loaded_bytes = len(body) * LOADED_FACTOR
                del body
                timer.mark("parse")
                try:
                    loaded = takes.read(value)
                except ValidationError as error:
                    raise from_validation(error, value) from None
                if texts is not None:
                    texts.release()
                    loaded_bytes -= texts.nbytes * (LOADED_FACTOR - 1)
                timer.mark("validate")
                if form != "json":
                    _open_stream(running, held)
                deadline = time.monotonic() + settings.max_seconds
                context = Context(running, timer, memory, loaded_bytes, deadline, environ, form, base64)
                try:
                    result = view(loaded, context)
                except InvalidRequest as error:
                    raise from_faults(error, value) from None
                if isinstance(result, Response):
                    result.call_on_close(held.pop_all().close)
                    return result
                pieces = wire.document_typed(result) if base64 else [wire.document(result)]
                timer.mark("serialize")
            media_type = "application/json; tensors=base64" if base64 else wire.JSON
            if len(pieces) == 1:
                return Response(pieces[0], content_type=media_type)
            return Response(pieces, content_type=media_type, headers={"Content-Length": str(sum(map(len, pieces)))})

        handle.__name__ = view.__name__
        handle.__doc__ = view.__doc__
        details = {"takes": takes, "gives": gives, "examples": examples, "streams": streams}
        describe("POST", path, summary=summary, tag=tag, **details)(handle)
        blueprint.post(path)(handle)
        return handle

    return register


def _open_stream(running: Runtime, held: ExitStack) -> None:
    """Count one stream more as long as `held` is. Raises `Problem` 503 when there are too many."""
    if not running.streams.acquire(blocking=False):
        detail = f"As many streams are open as a worker of this server serves at once: {running.settings.streams}."
        raise Problem("busy", detail, headers={"Retry-After": "1"})
    held.callback(running.streams.release)
