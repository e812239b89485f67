"""The request of a run: cut out of a body as it was sent, and read as the endpoint of its kind reads it.

The bytes are stored unchanged, and the process that computes the run reads them again. So both see the same request.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from marshmallow import ValidationError

from schemas.runs import RequestText, RunRequest
from schemas.stored import id_of, may_name_stored
from service import wire
from service.api.run_kinds import RunKind
from service.api.stored import Names, with_stored
from service.engine.errors import InvalidRequest, LimitExceeded
from service.problems import Problem, from_faults, from_validation

SPACE = rb"[ \t\n\r]*"
KIND = rb'"kind"' + SPACE + rb":" + SPACE + rb'"([^"\\]{0,100})"' + SPACE
BEGINNING = re.compile(
    SPACE + rb"\{" + SPACE + rb"(?:" + KIND + rb"," + SPACE + rb')?"request"' + SPACE + rb":" + SPACE
)
ENDING = re.compile(SPACE + rb"," + SPACE + KIND)
LONGEST_ENDING = 300
"""Bytes at the end of a body in which `kind` is looked for."""
KEY = "request"


def cut(body: bytes) -> tuple[str, RequestText] | None:
    """Return the kind in a body, and the text of the request; None where they are not plainly there.

    The text may still be no JSON, or hold more than one value.
    """
    beginning = BEGINNING.match(body)
    stop = body.rfind(b"}")
    if beginning is None or stop < 0 or body[stop + 1 :].strip(b" \t\n\r"):
        return None
    kind = beginning[1]
    if kind is None:
        last = body.rfind(b"}", max(0, stop - LONGEST_ENDING), stop)
        ending = ENDING.fullmatch(body, last + 1, stop) if last > 0 else None
        if ending is None:
            return None
        kind, stop = ending[1], last + 1
    else:
        while body[stop - 1 : stop] in (b" ", b"\t", b"\n", b"\r"):
            stop -= 1
    if body[beginning.end() : beginning.end() + 1] != b"{" or body[stop - 1 : stop] != b"}":
        return None
    return kind.decode("utf-8", "replace"), RequestText(body, beginning.end(), stop)


def read_run(environ: Mapping[str, Any], body: bytes, need: Callable[[int], None]) -> wire.Parsed | None:
    """Return a request for a run whose inner request is still text. None: the body is to be parsed as a whole."""
    found = cut(body)
    if found is None:
        return None
    kind, text = found
    return wire.Parsed({"kind": kind, KEY: text}, None, len(body))


class ReadRequest(NamedTuple):
    """The request of a run, read and validated."""

    loaded: Any
    value: Mapping[str, Any]
    """Its JSON value, for the places of faults."""
    nbytes: int
    """Estimated memory of the loaded request."""
    networks: tuple[str, ...]
    """The ids of the stored networks that it names."""


def read_request(kind: RunKind, content: bytes, need: Callable[[int], None], names: Names) -> ReadRequest:
    """Parse and validate the request of a run as the endpoint of its kind does, with stored networks in place of ids.

    `need` reserves memory. Raises `Problem` and `StoreError`; the places of faults are those within the request.
    """
    takes = kind.takes
    value, texts, nbytes = wire.parse(content, takes.fresh, need)
    expanding = takes.file_bytes(value)
    if expanding:
        nbytes += expanding
        need(nbytes + (texts.nbytes if texts is not None else 0))
    networks: set[str] = set()
    if kind.network_at is not None:
        value, added = _resolved(value, kind.network_at, names, networks)
        nbytes += added
    try:
        loaded = takes.read(value)
    except ValidationError as error:
        raise from_validation(error, value) from None
    if texts is not None:
        texts.release()
    return ReadRequest(loaded, value, nbytes, tuple(sorted(networks)))


def _resolved(
    value: dict[str, Any], path: tuple[str, ...], names: Names, networks: set[str]
) -> tuple[dict[str, Any], int]:
    """Return a request with stored networks in place of the ids at `path`, and their bytes; add the ids to a set."""
    if path:
        key, *rest = path
        inner = value.get(key)
        if not isinstance(inner, dict):
            return value, 0
        with within(key):
            inner, nbytes = _resolved(inner, tuple(rest), names, networks)
        return value | {key: inner}, nbytes
    if not may_name_stored(value):
        return value, 0
    found, nbytes = with_stored(value, names)
    networks |= {name for name in (id_of(value.get("network")), id_of(value.get("parameters"))) if name is not None}
    return found, nbytes


def one_by_one(body: bytes, need: Callable[[int], None]) -> Problem:
    """Return the problem of a body that `cut` could read, but whose request is no JSON by itself. It may raise it."""
    parsed = wire.parse(body, (), need)
    try:
        RunRequest().load(parsed.value)
    except ValidationError as error:
        return from_validation(error, parsed.value)
    raise AssertionError("a body that is whole has a request that is whole")


@contextmanager
def within(key: str, value: Any = None) -> Iterator[None]:
    """Let the faults that a block finds in the object below `key` name their places from above it.

    `value` is that object, for faults of the engine. Raises what the block raises, in terms of the whole.
    """
    try:
        yield
    except InvalidRequest as error:
        raise _moved(from_faults(error, value), key) from None
    except LimitExceeded as error:
        raise error.at((key, *error.path)) from None
    except Problem as problem:
        raise _moved(problem, key) from None


def _moved(problem: Problem, key: str) -> Problem:
    """Return a problem whose errors are below `key`."""
    if not problem.errors:
        return problem
    errors = [{**error, "pointer": f"#/{key}{error['pointer'][1:]}"} for error in problem.errors]
    detail = problem.detail
    first = problem.errors[0]["pointer"]
    if detail.startswith(f"{first}: "):
        detail = errors[0]["pointer"] + detail[len(first) :]
    return Problem(problem.kind, detail, errors, problem.headers, problem.status)
