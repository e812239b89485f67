"""Helpers of the tests of HTTP: strict readers of answers, and a client of raw sockets."""

import collections
import copy
import functools
import inspect
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import jsonschema_rs
import pytest
import yaml

from service.api.examples import GRADIENTS
from service.api.system import SPECIFICATION
from service.problems import KINDS

ROOT = Path(__file__).parents[1]
PROBLEM = "application/problem+json"
LOOPBACK = "127.0.0.1"
HIMMELBLAU = "(x^2 + y - 11)^2 + (x + y^2 - 7)^2"
Test = TypeVar("Test", bound=Callable[..., None])


def every(
    names: str | Sequence[str], cases: Iterable[Any], ids: Callable[[Any], object] | Sequence[str] | None = None
) -> Callable[[Test], Test]:
    """`pytest.mark.parametrize`, but in `make test` all cases are one test, which reports the failed cases by name.

    To collect, run and report a test takes pytest-xdist two milliseconds, longer than most cases take. The cases of one
    test share its fixtures, so a test that changes a fixture uses `parametrize`.
    """
    cases = list(cases)
    assert cases
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return cast(Callable[[Test], Test], pytest.mark.parametrize(names, cases, ids=ids))
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    rows = [_values(case, len(keys)) for case in cases]

    def named(position: int) -> str:
        given = getattr(cases[position], "id", None) if isinstance(cases[position], PARAM) else None
        if ids is not None and not callable(ids):
            given = ids[position]
        return given or "-".join(str(ids(value) if callable(ids) else value)[:100] for value in rows[position])

    def decorate(test: Test) -> Test:
        def of_every(**fixtures: Any) -> None:
            failures: dict[str, BaseException] = {}
            for position, values in enumerate(rows):
                try:
                    test(**dict(zip(keys, values, strict=True)), **fixtures)
                except (Exception, BaseExceptionGroup, pytest.fail.Exception) as error:
                    failures[f"{position} {named(position)}"] = error
                except pytest.skip.Exception:
                    raise AssertionError(f"the case {named(position)} skips itself, which no report says") from None
            if failures:
                told = f"{len(failures)} of {len(rows)} cases fail: {', '.join(failures)}"
                raise BaseExceptionGroup(told, list(failures.values()))

        rest = [each for each in inspect.signature(test).parameters.values() if each.name not in keys]
        functools.update_wrapper(of_every, test).__signature__ = inspect.Signature(rest)  # type: ignore[attr-defined]
        return cast(Test, of_every)

    return decorate


PARAM = type(pytest.param())


def _values(case: Any, count: int) -> Sequence[Any]:
    """Return the arguments of a case as a sequence; `parametrize` takes a single argument bare."""
    if isinstance(case, PARAM):
        assert not case.marks
        return cast(Sequence[Any], case.values)
    return [case] if count == 1 else cast(Sequence[Any], case)


_XOR = json.dumps({key: value for key, value in GRADIENTS["xor"].items() if key != "include"})


def xor(**changes: Any) -> dict[str, Any]:
    """Return the XOR request of the documentation, with some keys changed; `...` leaves one out."""
    request = json.loads(_XOR) | changes
    return {key: value for key, value in request.items() if value is not ...}


def network(*layers: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Return a request's network of the given layers."""
    return {"layers": list(layers), **more}


def strict_json(content: bytes | str) -> Any:
    """Parse JSON; refuse NaN, Infinity and repeated keys."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        assert len(found) == len(pairs), "a key stands twice"
        return found

    return json.loads(content, parse_constant=refuse, object_pairs_hook=once)


def read_yaml(text: str | bytes) -> Any:
    """Parse YAML with the parser in C if there is one: the other takes seconds for openapi.yaml."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


@functools.cache
def openapi_document() -> Any:
    """Return the committed openapi.yaml. test_openapi.py compares it with what the code writes."""
    return read_yaml(SPECIFICATION.read_text())


def tokens(pointer: str) -> list[str]:
    """Return the keys and positions of a JSON pointer in a URI fragment (RFC 6901)."""
    assert pointer == "#" or pointer.startswith("#/"), pointer
    return [unquote(token).replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")[1:]]


def resolves(pointer: str, document: Any) -> bool:
    """Return whether a pointer leads into the document; its last key alone may be one that is missing there."""
    path = tokens(pointer)
    for depth, token in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(document, dict):
            if token not in document:
                return last
            document = document[token]
        elif isinstance(document, list) and token.isdigit() and int(token) < len(document):
            document = document[int(token)]
        else:
            return False
    return True


def pointers(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of the values in a JSON document, its own first; of numbers and rows the first and last."""
    yield path
    if isinstance(document, dict | list):
        items = list(document.items() if isinstance(document, dict) else enumerate(document))
        if isinstance(document, list) and all(isinstance(value, int | float | list) for value in document):
            items = [*items[:1], *items[1:][-1:]]
        for key, value in items:
            yield from pointers(value, (*path, key))


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a JSON document with another value at `path`; what lies beside the path is shared, not copied."""
    if not path:
        return value
    key, *rest = path
    document = copy.copy(document)
    document[key] = replaced(document[key], tuple(rest), value) if rest else value
    return document


def places_in_turn(
    requests: Mapping[str, tuple[str, Any]], values: Sequence[Any], few: int = 3
) -> dict[str, list[tuple[tuple[Any, ...], set[int]]]]:
    """Return for each request, a path with a body, its places with the numbers of the `values` to try there.

    They are all of them at the first place of a kind, and the next `few` in turn at each other one.
    """
    met: collections.Counter[tuple[Any, ...]] = collections.Counter()
    found: dict[str, list[tuple[tuple[Any, ...], set[int]]]] = {}
    for name, (path, body) in requests.items():
        found[name] = []
        for place in pointers(body):
            kind = _kind_of(path, body, place)
            turn = [(few * met[kind] + each) % len(values) for each in range(few)]
            found[name].append((place, {*turn} if met[kind] else {*range(len(values))}))
            met[kind] += 1
    return found


def _kind_of(path: str, body: Any, place: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return what decides how the value at a place is read: the endpoint, the keys above, and the blocks that have
    them. All parameters are read alike."""
    kind: list[Any] = [path]
    value = body
    for key in place:
        if isinstance(value, dict) and "type" in value:
            kind.append(str(value["type"]))
        value = value[key]
        kind.append("*" if isinstance(key, int) or "parameters" in kind else key)
    return (*kind, type(value))


def assert_problem(response: Any, kind: str, request: Any = None) -> dict[str, Any]:
    """Assert that an answer is a problem document of this kind in the one shape of all; return the document."""
    body = response.get_data()
    assert response.headers["Content-Type"] == PROBLEM, body
    document: dict[str, Any] = strict_json(body)
    assert document["type"] == f"/problems/{kind}", document
    assert response.status_code == document["status"]
    if kind != "bad-request":  # which stands for every refusal that has no kind of its own
        assert document["status"] == KINDS[kind].status
        assert document["title"] == KINDS[kind].title
    assert set(document) <= {"type", "title", "status", "detail", "instance", "errors"}
    assert isinstance(document["detail"], str) and document["detail"]
    assert document["instance"] == response.headers["X-Request-Id"]
    for error in document.get("errors", ()):
        assert {"pointer", "detail"} <= set(error) <= {"pointer", "detail", "allowed", "limit", "asked"}
        assert isinstance(error["detail"], str) and error["detail"]
        assert isinstance(error.get("allowed", []), list)
        if request is not None:
            assert resolves(error["pointer"], request), error
    return document


def assert_described(schemas: dict[str, Any], name: str, value: Any) -> None:
    """Assert that a value conforms to a schema of openapi.yaml."""
    assert schemas is openapi_document()["components"]["schemas"]
    found = violations({"$ref": f"#/components/schemas/{name}"}, value)
    assert not found, found


def violations(schema: Any, value: Any) -> list[str]:
    """Return what a value violates of a schema, which may refer to components of openapi.yaml."""
    errors = _validator(json.dumps(schema)).iter_errors(value)
    return [f"#/{'/'.join(map(str, error.instance_path))}: {error.message[:200]}" for error in errors]


@functools.cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    """Return a validator, which is compiled: one that interprets the schema takes twenty times as long."""
    return jsonschema_rs.Draft202012Validator({"components": openapi_document()["components"]} | json.loads(schema))


def answered(post: Callable[..., Any], body: Any, path: str = "/v1/gradients", **headers: str) -> dict[str, Any]:
    """Post a request, assert status 200, and return the answer."""
    response = post(body, path, **headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = strict_json(response.get_data())
    return answer


def faults(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the details of a problem's errors, by their pointers."""
    return {error["pointer"]: error["detail"] for error in document["errors"]}


@dataclass
class Answer:
    """An HTTP response read from a socket, with the attribute names of the test client's."""

    status_code: int
    headers: dict[str, str]
    body: bytes

    def get_data(self) -> bytes:
        return self.body

    @property
    def json(self) -> Any:
        return strict_json(self.body)


@dataclass
class Server:
    """A running gunicorn server."""

    pid: int
    port: int

    def connect(self) -> socket.socket:
        connection = socket.create_connection((LOOPBACK, self.port), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, *parts: bytes, end: bool = False) -> Answer:
        """Send raw bytes over a new connection and return the answer; `end` closes the sending side after them."""
        with self.connect() as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                if end:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the server may answer and close before it has read everything
            return read_answer(connection)

    def post(self, body: bytes, path: str = "/v1/gradients", **headers: str) -> Answer:
        """Post a body over a new connection, and return the answer."""
        return self.send(head(path, len(body), **headers) + body)

    def get(self, path: str) -> Answer:
        return self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())

    @property
    def workers(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    @property
    def cpu_seconds(self) -> float:
        """Return the processor time that all workers have used."""
        ticks = 0
        for pid in self.workers:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    @property
    def resident_bytes(self) -> int:
        """Return the resident memory of all workers."""
        total = 0
        for pid in self.workers:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) * 1024
        return total


def head(path: str, length: int | str | None, **headers: str) -> bytes:
    """Return the head of a POST request of JSON; `length` None leaves Content-Length out."""
    lines = {"Host": "test", "Content-Type": "application/json", "Connection": "close"}
    if length is not None:
        lines["Content-Length"] = str(length)
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1")


def read_answer(connection: socket.socket) -> Answer:
    """Read one answer; without Content-Length, read to the end of the connection."""
    content = bytearray()
    while b"\r\n\r\n" not in content:
        part = connection.recv(65536)
        assert part, f"the connection was closed after {bytes(content)!r}"
        content += part
    first, _, body = content.partition(b"\r\n\r\n")
    start, *lines = first.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    length = headers.get("Content-Length")
    while length is None or len(body) < int(length):
        part = connection.recv(1 << 20)
        if not part:
            break
        body += part
    return Answer(int(start.split()[1]), headers, bytes(body))
