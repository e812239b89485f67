"""Problem documents (RFC 9457): the only form in which an error leaves the service.

    Problem               a response with a status, a kind and the errors of the request
    ├── raised by views and by `service/wire`
    ├── made of engine errors by `from_engine`
    └── made of validation errors by `from_validation`

`KINDS` lists all kinds; each has a page under `/problems/` that explains it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from marshmallow import ValidationError

from schemas.messages import Message
from service.engine.errors import (
    MOST_ERRORS,
    Abandoned,
    DeadlineExceeded,
    EngineError,
    ExtraMissing,
    InvalidRequest,
    LimitExceeded,
    Path,
)
from service.engine.options import LARGEST_EXACT_INTEGER
from service.store_errors import KeyReused, NoStore, QuotaExceeded, StoreError, StoreFull

error_log = logging.getLogger("nabla.error")
MEDIA_TYPE = "application/problem+json"
UNAVAILABLE_SECONDS = 5.0
"""When to ask again where the database cannot be reached."""
MAKES_ROOM: Mapping[str, str] = {
    "stored_networks": "DELETE /v1/networks/{id} makes room.",
    "runs": "DELETE /v1/runs/{id} makes room.",
    "unfinished_runs": "Wait for one to end, or POST /v1/runs/{id}/cancel.",
}
"""The way to get below a limit of the store."""
FRAGMENT = "!$&'()*+,;=:@~"
"""Characters that a URI fragment may contain beside letters, digits and - . _ (RFC 3986), which `quote` knows."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem: the status of its responses, its title, and the text of its page."""

    status: int
    title: str
    explanation: str


KINDS: dict[str, Kind] = {
    "malformed-body": Kind(
        400,
        "The body cannot be read",
        "The body is not the JSON that its headers announce: it is cut off, not UTF-8, not JSON, or not a "
        "correct gzip stream. The detail says where reading stopped.",
    ),
    "bad-request": Kind(
        400,
        "The request cannot be processed",
        "Something about the request other than its body keeps the server from answering it; the detail says what.",
    ),
    "unauthorized": Kind(
        401, "A key is needed", "This server takes requests only with a key. Send it as 'Authorization: Bearer <key>'."
    ),
    "forbidden": Kind(403, "The key is not accepted", "The key that was sent is not one of this server's keys."),
    "not-found": Kind(404, "There is nothing here", "No resource has this path or name. GET /v1 lists what there is."),
    "method-not-allowed": Kind(
        405,
        "The method does not fit",
        "The resource exists, but not for this method. The Allow header lists those it has.",
    ),
    "not-acceptable": Kind(
        406,
        "No acceptable form",
        "Answers are application/json, with tensors as nested lists or, for 'Accept: application/json; "
        "tensors=base64', as typed arrays. Where steps are computed one by one, application/x-ndjson and "
        "text/event-stream stream them. The Accept header rules all of these out.",
    ),
    "conflict": Kind(
        409,
        "The state does not allow this",
        "What the request asks for does not fit the state that the resource is in, such as cancelling a run that has "
        "ended. The detail names the state.",
    ),
    "timeout": Kind(
        408,
        "The request came too slowly",
        "The head or the body of the request did not arrive in time. The detail says how much time there was.",
    ),
    "too-large": Kind(
        413,
        "The request is too large",
        "The body is larger than this server accepts. GET /v1 shows the limits in force.",
    ),
    "unsupported-media-type": Kind(
        415,
        "The body has the wrong type",
        "Requests carry 'Content-Type: application/json', plain or with 'Content-Encoding: gzip'.",
    ),
    "invalid": Kind(
        422,
        "The request is not valid",
        "The body is JSON, but something in it does not fit. Each entry of errors has a JSON pointer to the "
        "offending part, what was expected there and what came.",
    ),
    "limit-exceeded": Kind(
        422,
        "The request exceeds a limit",
        "The request could be computed, but would cost more than this server allows. The detail names the limit, "
        "what was asked and what is allowed. GET /v1 shows the limits in force.",
    ),
    "too-many-requests": Kind(
        429,
        "Too many requests",
        "This client sent more requests per second than this server allows. Retry-After says when.",
    ),
    "internal-error": Kind(
        500,
        "A mistake in the service",
        "The fault is here, not in the request. The request id in 'instance' leads the operator to the cause.",
    ),
    "extra-missing": Kind(
        501,
        "A part of this server is not installed",
        "The request needs an optional part of the service that this server runs without. The detail says which.",
    ),
    "abandoned": Kind(
        499,
        "The client has left",
        "The connection was closed before the answer was there, so the computation was stopped. Logs and metrics show "
        "this status; no client sees it.",
    ),
    "nothing-stored": Kind(
        501,
        "This server stores nothing",
        "The server has no folder or no database that it may write to, so it keeps no networks and no runs. Send "
        "networks with each request, and ask for trainings as streams; everything else works.",
    ),
    "busy": Kind(
        503,
        "The server is busy",
        "Other requests hold the memory or the processor. Try again after Retry-After seconds.",
    ),
    "store-unavailable": Kind(
        503,
        "The database cannot be reached",
        "What is stored cannot be read or changed now; nothing of it is lost. Requests that send their networks work.",
    ),
    "cluster-unavailable": Kind(
        503,
        "The processes that share large requests cannot be used",
        "This server hands parts of large requests to other processes or machines. They cannot be reached, or have "
        "ended, or do not compute the same bits as this server; the detail says which. Smaller requests work.",
    ),
    "deadline-exceeded": Kind(
        503,
        "The computation took too long",
        "The request was stopped at the server's time limit. A smaller request, or a quieter hour, may pass.",
    ),
    "store-full": Kind(
        507,
        "There is no room left",
        "The disk or the limit of all that this server stores is full. Nothing was stored, and nothing was lost. "
        "Networks and runs that are removed make room; where not even a removal can be noted, only the operator can "
        "make some.",
    ),
}
_KIND_OF_STATUS = {kind.status: name for name, kind in reversed(KINDS.items()) if name != "malformed-body"}


class Problem(Exception):
    """An error that is answered with a problem document of a kind in `KINDS`; views and `service/wire` raise it.

    `errors` are the single faults, `headers` are added to the response, and `status` overrides that of the kind.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        errors: Iterable[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.status = status or KINDS[kind].status

    def __reduce__(self) -> tuple[type[Problem], tuple[Any, ...]]:
        return type(self), (self.kind, self.detail, self.errors, self.headers, self.status)

    def document(self, instance: str, root: str = "") -> bytes:
        """Return the problem as JSON; `instance` is the request id, `root` the path where the service is mounted."""
        kind = KINDS[self.kind]
        document: dict[str, Any] = {
            "type": f"{root}/problems/{self.kind}",
            "title": kind.title if self.status == kind.status else HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
        }
        if self.errors:
            document["errors"] = self.errors[:MOST_ERRORS]
            if len(self.errors) > MOST_ERRORS:
                document["detail"] += f" Only the first {MOST_ERRORS} of {len(self.errors)} errors are listed."
        try:
            return orjson.dumps(document)
        except orjson.JSONEncodeError:  # an unpaired surrogate, which UTF-8 cannot hold
            return json.dumps(document, ensure_ascii=False).encode(errors="replace")


def pointer(path: Path) -> str:
    """Return a path as a JSON pointer in a URI fragment (RFC 6901)."""
    keys = (str(key).replace("~", "~0").replace("/", "~1") for key in path)
    return "#" + "".join("/" + quote(key, safe=FRAGMENT, errors="replace") for key in keys)


LONGEST_KEY = 250
"""Characters of a key in a pointer."""


def sent_part(path: Path, request: Any) -> Path:
    """Return the part of a path that exists in the request: places inside a typed array do not.

    A missing last key stays in the path, for it names what should be there. A key of more than `LONGEST_KEY` characters
    does not: no valid one is as long, and the answer would be longer than the request.
    """
    for depth, key in enumerate(path):
        if isinstance(request, Mapping):
            if not isinstance(key, str) or len(key) > LONGEST_KEY:
                return path[:depth]
            if key not in request:
                return path[: depth + 1]
            request = request[key]
        elif isinstance(key, str) or not hasattr(request, "__len__") or isinstance(request, str):
            return path[:depth]
        elif key < len(request):
            request = request[key]
    return path


def _error(path: Path, detail: str, allowed: Iterable[Any] = ()) -> dict[str, Any]:
    error: dict[str, Any] = {"pointer": pointer(path), "detail": detail}
    allowed = list(allowed)
    if allowed:
        error["allowed"] = allowed
    return error


def _invalid(errors: list[dict[str, Any]]) -> Problem:
    detail = f"{errors[0]['pointer']}: {errors[0]['detail']}"
    if len(errors) > 1:
        detail += f" (and {len(errors) - 1} more)"
    return Problem("invalid", detail, errors)


def from_validation(error: ValidationError, request: Any) -> Problem:
    """Return the `Problem` for marshmallow's messages about `request`, nested by key, with lists at the leaves."""
    return _invalid(list(_errors_of(error.messages, (), request)))


def _errors_of(messages: Any, path: Path, request: Any) -> Iterator[dict[str, Any]]:
    # Not a nested function: one that calls itself would hold the request until the garbage collector runs.
    if isinstance(messages, Mapping):
        for key, value in messages.items():
            yield from _errors_of(value, path if key == "_schema" else (*path, key), request)
    elif isinstance(messages, list):
        for message in messages:
            yield from _errors_of(message, path, request)
    else:
        allowed = messages.allowed if isinstance(messages, Message) else ()
        yield _error(sent_part(path, request), str(messages), allowed)


def from_faults(error: InvalidRequest, request: Any) -> Problem:
    """Return the `Problem` for the faults that the engine found in `request`."""
    return _invalid([_error(sent_part(fault.path, request), fault.detail, fault.allowed) for fault in error.faults])


def retry_after(seconds: float) -> dict[str, str]:
    """Return the header Retry-After for a number of seconds, rounded up and at least 1."""
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def from_engine(error: EngineError, seconds: float, backlog: float) -> Problem:
    """Return the `Problem` for an engine error other than faults: limit exceeded, deadline passed, client gone.

    `seconds` is the time limit of a request; `backlog` is the number of seconds until the waiting work is done.
    """
    if isinstance(error, LimitExceeded):
        asked, allowed = _number(error.asked), _number(error.allowed)
        name = error.name.replace("_", " ")
        text = f"The request asks for {_shown(asked)} {name}; the limit is {_shown(allowed)}."
        advised = f"{text} {error.advice}" if error.advice else text
        listed = {"pointer": pointer(error.path), "detail": advised, "limit": error.name}
        return Problem("limit-exceeded", text, [listed | {"asked": asked, "allowed": [allowed]}])
    if isinstance(error, DeadlineExceeded):
        text = f"The computation was stopped after {seconds:g} seconds, the limit of this server."
        return Problem("deadline-exceeded", text, headers=retry_after(backlog))
    if isinstance(error, ExtraMissing):
        text = f"{error.reason}, which is not installed here: pip install 'nabla-service[{error.extra}]'."
        return Problem("extra-missing", text)
    if isinstance(error, Abandoned):
        return Problem("abandoned", "The client closed the connection before the answer was computed.")
    raise TypeError(f"no problem is known for {error!r}")


def from_store(error: StoreError) -> Problem:
    """Return the problem of what the store did not do."""
    if isinstance(error, QuotaExceeded):
        name = error.name.replace("_", " ")
        makes_room = MAKES_ROOM.get(error.name, "DELETE /v1/networks/{id} and /v1/runs/{id} make room.")
        text = f"This would make {error.asked:,} {name}; the limit is {error.allowed:,}. {makes_room}"
        listed = {"pointer": "#", "detail": text, "limit": error.name, "asked": error.asked, "allowed": [error.allowed]}
        return Problem("limit-exceeded", text, [listed])
    if isinstance(error, KeyReused):
        detail = (
            "is another request than the one that this Idempotency-Key names already; a new request needs a new key"
        )
        return Problem("invalid", f"This {detail}.", [{"pointer": "#", "detail": detail}])
    if isinstance(error, NoStore):
        return Problem("nothing-stored", str(error))
    if isinstance(error, StoreFull):
        return Problem("store-full", str(error))
    return Problem("store-unavailable", str(error), headers=retry_after(UNAVAILABLE_SECONDS))


def from_unexpected(error: Exception, environ: Mapping[str, Any], backlog: float) -> Problem:
    """Log an unexpected error with its traceback, and return the `Problem` for it.

    `backlog` is the number of seconds until the waiting work is done; a lack of memory is answered as busy with it.
    """
    fields = {"request_id": environ["nabla.request_id"]}
    if isinstance(error, MemoryError):
        error_log.error("out of memory", extra={"fields": fields})
        return Problem("busy", "There is not enough memory for this request now.", headers=retry_after(backlog))
    fields |= {"method": environ["REQUEST_METHOD"], "path": environ["PATH_INFO"]}
    error_log.error("unexpected error", exc_info=error, extra={"fields": fields})
    return Problem("internal-error", "The service failed; the fault is not in the request.")


def _number(count: float) -> float:
    """Return a count as JSON can represent it: JSON readers lose digits of integers beyond 2^53."""
    return count if count <= LARGEST_EXACT_INTEGER else float(count)


def _shown(count: float) -> str:
    return f"{count:,.0f}" if count <= LARGEST_EXACT_INTEGER else f"{count:.3g}"


def from_status(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """Return the `Problem` for an error status of the web framework, such as 404."""
    kind = _KIND_OF_STATUS.get(status, "bad-request" if status < 500 else "internal-error")
    return Problem(kind, detail, headers=headers, status=status)
