"""The end of a run: its status and reason, its result, and the words for what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from service.api.state_file import state_bytes
from service.engine.errors import EngineError, InvalidRequest
from service.problems import Problem, from_engine

CANCELLED = "cancelled"
NO_MEMORY = "There was not enough memory for this run on the machine that computed it."
INTERNAL = "The service failed; the fault is not in the request."
MIXED = (
    "This run was computed on two kinds of processors or versions of NumPy, whose results differ in the last digits: "
    "computed again on one of them, it may end with other digits."
)

log = logging.getLogger("nabla.runner")


class End(NamedTuple):
    """The end of a run as the store keeps it."""

    status: str
    reason: str
    result: bytes | None


def end_of(summary: Mapping[str, Any], cancelled: str, mixed: bool) -> End:
    """Return the end of a run with this summary.

    `cancelled` is the reason for which the runner cancelled the work, "" if it did not. With `mixed` the result has a
    warning that it was computed on two kinds of processors.
    """
    status = summary.get("status") or (CANCELLED if cancelled else "completed")
    reason = summary.get("reason") or cancelled or ""
    if mixed:
        warning = {"code": "mixed_processors", "message": MIXED}
        summary = {**summary, "warnings": [*summary.get("warnings", ()), warning]}
    return End(str(status), str(reason), state_bytes(dict(summary)))


def failure(error: BaseException, run: str) -> str:
    """Return in words for its owner why a run failed; what only concerns the operator goes to the log."""
    if isinstance(error, InvalidRequest):
        return str(error)
    if isinstance(error, Problem):
        return error.detail
    if isinstance(error, EngineError):
        return from_engine(error, 0.0, 0.0).detail
    if isinstance(error, MemoryError):
        log.error("run %s: out of memory", run)
        return NO_MEMORY
    log.error("run %s fails", run, exc_info=error)
    return INTERNAL
