"""Runs in responses: the objects that describe them, and the refusals of what does not fit them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from schemas.runs import ENDED
from service.api.queries import Asking, no_such, time_text
from service.api.run_kinds import KINDS, RunKind
from service.config import Settings
from service.engine.errors import LimitExceeded
from service.problems import Problem

if TYPE_CHECKING:
    from service.store.runs import RunEntry

ID = re.compile(r"[0-9a-f]{32}")
"""The pattern of the id of a run."""


def check_resume(entry: RunEntry, steps: int | None, settings: Settings) -> None:
    """Raise `Problem` 409 and 422, and `LimitExceeded`, for a run that cannot go on in this way."""
    kind: RunKind | None = KINDS.get(entry.kind)
    extendable = kind is not None and kind.extendable
    if entry.status not in ENDED:
        raise conflict(entry, "it goes on by itself")
    if entry.status == "diverged":
        raise conflict(entry, "more steps would make no more of it; start another one")
    if steps is not None and not extendable:
        detail = f"a run of the kind {entry.kind} takes no more steps than its request asks for"
        raise Problem("invalid", f"#/steps: {detail}", [{"pointer": "#/steps", "detail": detail}])
    if steps is None and entry.status in ("completed", "stopped"):
        raise conflict(entry, "send 'steps' to let it make more" if extendable else "there is nothing left to do")
    if steps is not None and entry.of + steps > settings.max_run_steps:
        raise LimitExceeded("run_steps", entry.of + steps, settings.max_run_steps, ("steps",))


def entry_of(asked: Asking, name: str) -> RunEntry:
    """Return the run with this id. Raises `Problem` 404 where the caller has no such run."""
    entry = asked.store.runs.find(asked.owner, name) if ID.fullmatch(name) else None
    if entry is None:
        raise unknown(name)
    return entry


def unknown(name: str) -> Problem:
    """Return the problem 404 for an id that the caller does not have."""
    return no_such("run", name, "is here; GET /v1/runs lists yours")


def conflict(entry: RunEntry, consequence: str) -> Problem:
    """Return the problem 409 for a run whose status does not allow what was asked."""
    return Problem("conflict", f"The run is {entry.status}; {consequence}.")


def described(entry: RunEntry) -> dict[str, Any]:
    """Return the JSON object that describes a run, with its times as text."""
    rate = entry.step / entry.seconds if entry.step and entry.seconds > 0 else None
    left = (entry.of - entry.step) / rate if rate and entry.status not in ENDED else None
    return {
        "id": entry.id,
        "kind": entry.kind,
        "status": entry.status,
        "reason": entry.reason,
        "step": entry.step,
        "of": entry.of,
        "loss": entry.loss,
        "learning_rate": entry.learning_rate,
        "rate": rate,
        "remaining_seconds": left,
        "seconds": entry.seconds,
        "attempt": entry.attempt,
        "created": time_text(entry.created),
        "started": None if entry.started is None else time_text(entry.started),
        "ended": None if entry.ended is None else time_text(entry.ended),
        "bytes": entry.size,
        "fingerprint": entry.fingerprint or None,
    }
