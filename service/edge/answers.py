"""The bytes of responses: heads for the application's responses, and whole responses that the edge makes itself."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException

from service import wire
from service.callers.cors import Cors
from service.observing.access import access_of, record, request_id
from service.problems import MEDIA_TYPE, Problem

LIVE, READY = "/health/live", "/health/ready"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"

_date = (0, "")


def head(protocol: str, status: str, headers: Iterable[tuple[str, str]], *, close: bool) -> bytes:
    """Return the status line and headers of a response. Raise `ValueError` for a header with a line break."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, formatdate(now, usegmt=True))
    lines = [f"{protocol} {status}", f"Date: {_date[1]}"]
    # Werkzeug dates responses to conditional requests; there must be one date.
    lines += [f"{name}: {value}" for name, value in headers if name != "Date"]
    if close:
        lines.append("Connection: close")
    elif protocol == "HTTP/1.0":
        lines.append("Connection: keep-alive")
    text = "\r\n".join(lines)
    if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
        raise ValueError("a header of the answer has a line break")
    return f"{text}\r\n\r\n".encode("latin-1")


class Answers:
    """Makes the edge's own responses, which look like the application's, and are counted and logged like those."""

    def __init__(self, app: Any, cors: Cors) -> None:
        self._cors = cors
        routes = getattr(app, "url_map", None)
        self._routes = None if routes is None else routes.bind("")
        self._healthy = wire.document({"status": "ok"})

    def healthy(self, environ: Mapping[str, Any], seconds: float, *, close: bool) -> bytes:
        """Return the response of a health check when all is well. `seconds` is the time since the request came."""
        return self._answer(environ, 200, [], wire.JSON, self._healthy, request_id_of(environ), seconds, close)

    def problem(self, environ: Mapping[str, Any], problem: Problem, seconds: float, *, close: bool) -> bytes:
        """Return a response with this problem document. `close` announces the end of the connection."""
        asked = request_id_of(environ)
        headers = list(problem.headers.items())
        content = problem.document(asked, environ.get("SCRIPT_NAME", "")) + b"\n"
        reason = environ.get("nabla.reason", problem.kind)
        return self._answer(environ, problem.status, headers, MEDIA_TYPE, content, asked, seconds, close, reason)

    def _answer(
        self,
        environ: Mapping[str, Any],
        status: int,
        headers: list[tuple[str, str]],
        media_type: str,
        content: bytes,
        asked: str,
        seconds: float,
        close: bool,
        reason: str = "",
    ) -> bytes:
        method = environ.get("REQUEST_METHOD", "GET")
        found = Headers(headers)
        self._cors.allow(found, {"REQUEST_METHOD": method, **environ})
        found["Content-Type"] = media_type
        found["Content-Length"] = str(len(content))
        found["X-Request-Id"] = asked
        found["X-Content-Type-Options"] = "nosniff"
        phrase = f"{status} {HTTPStatus(status).phrase}"
        first = head(environ.get("SERVER_PROTOCOL", "HTTP/1.1"), phrase, found, close=close)
        route = self._route(environ.get("PATH_INFO", "-"), method)
        record(access_of(environ, asked, route, status, seconds, len(content), reason))
        return first if method == "HEAD" else first + content

    def _route(self, path: str, method: str) -> str:
        if self._routes is not None and path.startswith("/"):
            try:
                return str(self._routes.match(path, method, return_rule=True)[0].rule)
            except HTTPException:
                pass
        return "unmatched"


def request_id_of(environ: Mapping[str, Any]) -> str:
    """Return the id of a request that the application has not seen: the one that the client asked for, or a new one."""
    return request_id(environ.get("HTTP_X_REQUEST_ID"))
