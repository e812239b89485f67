"""The context in which a run is computed: like that of a request, but without a client, a deadline or a slot."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from service.api.context import Context, Runtime
from service.capacity.admission import FreeTicket, Ticket
from service.capacity.memory import Reservation
from service.engine.texts import LANGUAGES
from service.observing.timer import Timer


def ticket_of(runtime: Runtime, must_stop: Callable[[], bool]) -> FreeTicket:
    """Return the ticket of a run, whose `look` raises `Abandoned` once `must_stop` returns True."""
    ticket = FreeTicket(runtime.admission, "", time.monotonic())
    ticket.left = must_stop
    return ticket


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
