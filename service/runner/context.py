"""The context in which a run is computed: like that of a request, but without a client, a deadline or a slot."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from marshmallow import ValidationError

from schemas.stored import may_name_stored
from service import wire
from service.api.context import Context, Runtime
from service.api.run_kinds import RunKind
from service.api.stored import Names, with_stored
from service.capacity.admission import Ticket
from service.capacity.memory import Reservation
from service.engine.texts import LANGUAGES
from service.observing.timer import Timer
from service.problems import from_validation


class RunTicket(Ticket):
    """The ticket of a run: it waits for no slot and has no deadline. `left` says when its computation must stop."""

    __slots__ = ()

    def __post_init__(self) -> None:
        self.deadline = math.inf

    def weigh(self, cost: float, *, alone: bool = False) -> None:
        """Note the cost; a run needs no slot."""
        self.cost = cost

    def go_to_storage(self) -> None:
        """Ask the database at once: nobody else of this process does."""

    def come_back(self, cost: float) -> None:
        """Go on at once."""


def ticket_of(runtime: Runtime, must_stop: Callable[[], bool]) -> RunTicket:
    """Return the ticket of a run, whose `look` raises `Abandoned` once `must_stop` returns True."""
    ticket = RunTicket(runtime.admission, "", time.monotonic())
    ticket.left = must_stop
    return ticket


def load(
    kind: RunKind, spec: bytes, owner: str, runtime: Runtime, memory: Reservation, ticket: Ticket
) -> tuple[Any, dict[str, Any], int]:
    """Return the loaded request of a run, the request as it was parsed, and the bytes that it takes.

    `owner` owns the stored networks that the request names. Raises `Problem` and `StoreError`.
    """
    takes = kind.takes
    value, texts, nbytes = wire.parse(spec, takes.fresh, memory.need)
    nbytes += takes.file_bytes(value)
    memory.need(nbytes + (0 if texts is None else texts.nbytes))
    if kind.network_at is not None:
        value, more = _with_stored_at(kind.network_at, value, Names(runtime.store, owner, ticket, memory))
        nbytes += more
    try:
        loaded = takes.read(value)
    except ValidationError as error:
        raise from_validation(error, value) from None
    if texts is not None:
        texts.release()
    return loaded, value, nbytes


def _with_stored_at(path: tuple[str, ...], value: Any, names: Names) -> tuple[Any, int]:
    """Return what `with_stored` returns for the object at `path` of a request, if there is one."""
    if not isinstance(value, dict):
        return value, 0
    if path:
        inner, nbytes = _with_stored_at(path[1:], value.get(path[0]), names)
        return (value | {path[0]: inner}, nbytes) if nbytes or inner is not value.get(path[0]) else (value, 0)
    return with_stored(value, names) if may_name_stored(value) else (value, 0)


def context_of(
    loaded: Any, nbytes: int, base64: bool, runtime: Runtime, memory: Reservation, ticket: Ticket, kind: str
) -> Context:
    """Return the context of a run; `kind` stands in the place of a path."""
    environ = {"PATH_INFO": f"run:{kind}", "REQUEST_METHOD": "RUN", "nabla.request_id": ""}
    language = loaded.get("language") or LANGUAGES[0]
    return Context(
        runtime,
        Timer(),
        memory,
        nbytes,
        ticket,
        environ,
        "ndjson",
        base64,
        language,
        own_limits=runtime.settings.run_limits,
    )
