"""The context in which a run is computed: like that of a request, but without a client, a deadline or a slot."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from service.api.context import Context, Runtime
from service.capacity.admission import Ticket
from service.capacity.memory import Reservation
from service.engine.texts import LANGUAGES
from service.observing.timer import Timer


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
