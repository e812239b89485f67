"""The record of an answered request, which is counted in the metrics and logged as one line."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from service.observing.logs import clock, logs_text, output
from service.observing.metrics import count, refuse

QUIET = ("/health/live", "/health/ready", "/metrics")
"""Routes that machines call every few seconds: they are not logged."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
LONGEST_PATH = 1024
"""Characters of a path that are logged: nearly every line then fits into one write, which does not mix with others."""


@dataclass(slots=True)
class Access:
    """The record of an answered request. Times are in seconds, sizes in bytes."""

    request_id: str
    method: str
    route: str
    """The pattern of the path; `unmatched` if there is none, so that a client cannot create new labels."""
    path: str
    status: int
    seconds: float
    """Time from the first byte of the request to the response; for a stream, to its beginning."""
    client: str = ""
    """The client's address."""
    key: str = ""
    """The name of the client's key."""
    received: int | None = None
    """Length of the request's body as it was sent."""
    sent: int | None = None
    """Length of the response's body; None for a stream, whose length is unknown at its beginning."""
    queued: float = 0.0
    """Time that the request waited for others."""
    reason: str = ""
    """The reason of a refusal: the kind of problem, or the finer word in `environ["nabla.reason"]`."""


def request_id(asked: str | None) -> str:
    """Return the id that the client asked for in X-Request-Id if it is valid, else a new one."""
    if asked is not None and REQUEST_ID.fullmatch(asked):
        return asked
    # It only has to be unique; the operating system's randomness would cost a call.
    return f"{random.getrandbits(128):032x}"


def peer_of(environ: Mapping[str, Any]) -> str:
    """Return the client's address: the one that a trusted proxy names, else that of the connection."""
    return environ.get("nabla.peer") or environ.get("REMOTE_ADDR") or ""


def access_of(
    environ: Mapping[str, Any],
    request_id: str,
    route: str,
    status: int,
    seconds: float,
    sent: int | None,
    reason: str | None = None,
) -> Access:
    """Return the record of the request with this WSGI environment; `nabla.reason` there is the default reason."""
    ticket = environ.get("nabla.ticket")
    received = environ.get("CONTENT_LENGTH") or ""
    return Access(
        request_id,
        environ.get("REQUEST_METHOD", "-"),
        route,
        environ.get("PATH_INFO", "-"),
        status,
        seconds,
        client=peer_of(environ),
        key=environ.get("nabla.key", ""),
        received=int(received) if received.isdecimal() else None,
        sent=sent,
        queued=0.0 if ticket is None else ticket.waited,
        reason=environ.get("nabla.reason", "") if reason is None else reason,
    )


_line_of: Callable[[Access], bytes] | None = None


def log_requests(log_format: str | None) -> None:
    """Turn request logging on, in a format of `Settings.log_format`; None turns it off."""
    global _line_of
    _line_of = None if log_format is None else _text_line if logs_text(log_format) else _json_line


def record(access: Access) -> None:
    """Count an answered request, and log it unless its route is in `QUIET`. It never waits for the log's reader."""
    count(access.method, access.route, access.status, access.seconds, access.queued)
    if access.reason:
        refuse(access.reason)
    if _line_of is not None and access.route not in QUIET:
        output.write(_line_of(access))


def _json_line(access: Access) -> bytes:
    line = {
        "time": time.time(),
        "level": "info",
        "logger": "nabla.access",
        "message": "request",
        "request_id": access.request_id,
        "method": access.method,
        "path": access.path[:LONGEST_PATH],
        "status": access.status,
        "milliseconds": round(access.seconds * 1e3, 3),
        "queued": round(access.queued * 1e3, 3),
        "client": access.client,
        "received": access.received,
        "sent": access.sent,
    }
    if access.key:
        line["key"] = access.key
    if access.reason:
        line["reason"] = access.reason
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a path that is not UTF-8
        texts = {name: repr(value) for name, value in line.items() if name in ("path", "method", "client")}
        return orjson.dumps(line | texts, option=orjson.OPT_APPEND_NEWLINE)


def _text_line(access: Access) -> bytes:
    asked = f"{access.method} {access.path[:LONGEST_PATH]}"
    if not (asked.isascii() and asked.isprintable()):
        # A client may write anything into a path, even a command of the terminal.
        asked = quote(asked, safe=" /", encoding="latin-1", errors="replace")
    took = f"{access.seconds * 1e3:.1f} ms"
    return f"{clock(int(time.time()))} {access.status} {asked} {took} {access.request_id}\n".encode()
