"""HTTP below the application: framing, connections, refusals and problems that the edge answers itself."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.observing.access import Access
from tests.conftest import wait_for
from tests.edge.support import LIVE, XOR, Running, all_of, plain, running
from tests.support import PROBLEM, Answer, assert_problem, every, head, read_answer, strict_json, xor

CHUNKED = head("/v1/gradients", None, Transfer_Encoding="chunked")


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(api_keys=("secret",), cors_origins=("https://example.org",)) as started:
        yield started


@pytest.fixture(scope="module")
def opened() -> Iterator[Running]:
    with running() as started:
        yield started


def answers(content: bytes) -> list[Answer]:
    """Split bytes into the answers that they contain, one after the other."""
    found = []
    while content:
        first, _, rest = content.partition(b"\r\n\r\n")
        start, *lines = first.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers["Content-Length"])
        found.append(Answer(int(start.split()[1]), headers, rest[:length]))
        content = rest[length:]
    return found


@every(
    ("status", "request_"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"GET /v1\r\n\r\n"),
        (400, b"GET /v1 HTTP/2.0\r\n\r\n"),
        (400, b"GET /v1 HTTP/1.1\nHost: test\n\n"),
        (400, b"GET /v1 HTTP/1.1\r\nHost : test\r\n\r\n"),
        (400, b"GET /v1 HTTP/1.1\r\nHost: te\0st\r\n\r\n"),
        (400, b"GET /v1 HTTP/1.1\r\nA: b\r\n c\r\n\r\n"),
        (400, b"POST /v1 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
        (400, b"POST /v1 HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (400, b"POST /v1 HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
        (400, CHUNKED + b"xyz\r\n"),
        (400, CHUNKED + b"1\r\n  \r\n"),
        (400, CHUNKED + b"1\r\n \r\n" * 12_000),
        (400, b"POST /v1 HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n"),
        (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"),
        (431, b"GET /v1 HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n"),
        (431, b"GET /v1 HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n"),
        (431, b"GET /v1 HTTP/1.1\r\n" + (b"A: " + b"a" * 8000 + b"\r\n") * 6),
        (501, b"POST /v1 HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (501, b"POST /v1 HTTP/1.1\r\nTransfer-Encoding: strange\r\n\r\n"),
    ],
)
def test_what_is_no_http_gets_a_problem(opened: Running, status: int, request_: bytes) -> None:
    answer = opened.send(request_)
    assert answer.status_code == status
    assert_problem(answer, "malformed-body" if request_.startswith(CHUNKED) else "bad-request")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Connection"] == "close"


BIG = 500_000


@every(
    ("kind", "path", "headers"),
    [
        ("unauthorized", "/v1/gradients", {}),
        ("forbidden", "/v1/gradients", {"Authorization": "Bearer wrong"}),
        ("not-acceptable", "/v1/gradients", {"Authorization": "Bearer secret", "Accept": "text/html"}),
        ("unsupported-media-type", "/v1/gradients", {"Authorization": "Bearer secret", "Content-Type": "text/plain"}),
        ("unsupported-media-type", "/v1/gradients", {"Authorization": "Bearer secret", "Content-Encoding": "br"}),
    ],
)
@every("way", ["length", "chunked", "expect"])
def test_a_body_that_is_refused_by_its_head(
    server: Running, kind: str, path: str, headers: dict[str, str], way: str
) -> None:
    """The answer comes before the body and says that the connection ends; a client that sends on still gets it."""
    origin = {"Origin": "https://example.org", "X_Request_Id": "mine", "Connection": ""}
    more: dict[str, str] = {"Transfer-Encoding": "chunked"} if way == "chunked" else {}
    if way == "expect":
        more["Expect"] = "100-continue"
    with server.connect() as connection:
        connection.sendall(head(path, None if way == "chunked" else BIG, **origin, **headers, **more))
        if way == "length":
            connection.sendall(b" " * BIG)
        answer = read_answer(connection)
        assert_problem(answer, kind)
        assert answer.headers["Connection"] == "close"
        assert answer.headers["X-Request-Id"] == "mine"
        assert answer.headers["Access-Control-Allow-Origin"] == "https://example.org"
        assert all_of(connection) == b""


def test_a_small_body_that_is_refused_keeps_the_connection(server: Running) -> None:
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(head("/v1/gradients", len(XOR), Connection="") + XOR)
            answer = read_answer(connection)
            assert_problem(answer, "unauthorized")
            assert "Connection" not in answer.headers


def test_bodies_that_are_too_long(opened: Running) -> None:
    """A body is refused by its head, or in chunks once it is too long; a client that sends on gets the answer."""
    assert_problem(opened.send(head("/v1/gradients", 2**20 + 1)), "too-large")
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    with opened.connect() as connection:
        connection.sendall(head("/v1/gradients", None, Transfer_Encoding="chunked"))
        for _ in range(40):
            connection.sendall(chunk)
        assert_problem(read_answer(connection), "too-large")


def test_a_client_that_sends_on_and_on_is_left(opened: Running) -> None:
    with opened.connect() as connection:
        connection.sendall(head("/v1/gradients", 2**40))
        end = time.monotonic() + 20
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < end:
                connection.sendall(bytes(65536))
                time.sleep(0.01)
        assert time.monotonic() < end
    wait_for(lambda: not opened.edge.connections)


def test_chunks(opened: Running) -> None:
    """A body in chunks, of which each byte comes alone, on a connection that is used again."""
    pieces = b"".join(b"%x;note=1\r\n%b\r\n" % (len(part), part) for part in (XOR[:100], XOR[100:101], XOR[101:]))
    request = head("/v1/gradients", None, Transfer_Encoding="chunked", Connection="") + pieces + b"0\r\nA: b\r\n\r\n"
    with opened.connect() as connection:
        for start in range(len(request)):
            connection.sendall(request[start : start + 1])
        first = read_answer(connection)
        connection.sendall(request + request)
        second, third = read_answer(connection), read_answer(connection)
    assert first.status_code == 200
    assert first.body == second.body == third.body


def test_heads_that_repeat_are_told_apart(opened: Running) -> None:
    """The same head comes with other bodies, and other heads in between: each request gets its own answer."""
    bodies = [json.dumps(xor()).encode(), json.dumps(xor(loss="nonsense")).encode()]
    size = max(map(len, bodies))
    one, other = (head("/v1/gradients", size, Connection="") + body.ljust(size) for body in bodies)
    with opened.connect() as connection:
        for request, status in ((one, 200), (other, 422), (LIVE, 200), (one, 200), (one, 200), (other, 422)):
            connection.sendall(request)
            assert read_answer(connection).status_code == status
        for cut in (10, len(one) - size, len(one) - 5):
            connection.sendall(one[:cut])
            time.sleep(0.05)
            connection.sendall(one[cut:])
            assert read_answer(connection).status_code == 200


def test_pipelined_requests_are_answered_in_order(opened: Running) -> None:
    ids = [f"request-{number}" for number in range(300)]
    with opened.connect() as connection:
        for name in ids[:-1]:
            path = "/health/live" if int(name[8:]) % 3 else "/v1/losses"
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\nX-Request-Id: {name}\r\n\r\n".encode())
        connection.sendall(
            f"GET /v1 HTTP/1.1\r\nHost: test\r\nX-Request-Id: {ids[-1]}\r\nConnection: close\r\n\r\n".encode()
        )
        found = answers(all_of(connection))
    assert [answer.headers["X-Request-Id"] for answer in found] == ids
    assert {answer.status_code for answer in found} == {200}


def test_expect_continue(opened: Running) -> None:
    with opened.connect() as connection:
        connection.sendall(head("/v1/gradients", len(XOR), Expect="100-continue"))
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(XOR)
        assert read_answer(connection).status_code == 200


def test_http_1_0(opened: Running) -> None:
    """The connection ends after the answer unless the client asks for more, and nothing comes in chunks."""
    with opened.connect() as connection:
        connection.sendall(b"GET /v1 HTTP/1.0\r\n\r\n")
        content = all_of(connection)
    assert content.startswith(b"HTTP/1.0 200 OK\r\n") and b"\r\nConnection: close\r\n" in content
    with opened.connect() as connection:
        for path in (b"/v1", b"/health/live", b"/nothing"):
            connection.sendall(b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % path)
            assert read_answer(connection).headers["Connection"] == "keep-alive"
    training = json.dumps(xor(parameters=..., optimizer="sgd", steps=5)).encode()
    lines = b"POST /v1/train HTTP/1.0\r\nContent-Type: application/json\r\nAccept: application/x-ndjson\r\n"
    with opened.connect() as connection:
        connection.sendall(lines + b"Content-Length: %d\r\n\r\n" % len(training) + training)
        start, _, body = all_of(connection).partition(b"\r\n\r\n")
    assert b"200 OK" in start and b"chunked" not in start
    assert strict_json(body.splitlines()[-1])["status"] == "completed"


@pytest.mark.parametrize("path", ["/health/live", "/v1", "/nothing", "/openapi.json"])
def test_head_requests_have_no_body(opened: Running, path: str) -> None:
    with opened.connect() as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode() + LIVE)
        first, _, rest = all_of(connection).partition(b"\r\n\r\n")
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n")
    assert int(re.search(rb"Content-Length: (\d+)", first)[1]) > 0  # type: ignore[index]


def test_health_is_that_of_the_application(opened: Running) -> None:
    """The edge's own answer equals the application's, except headers that differ each time."""
    client = opened.edge.app.test_client()  # type: ignore[attr-defined]
    for path in ("/health/live", "/health/ready"):
        for _ in range(2):
            own, other = opened.get(path), client.get(path)
            assert own.status_code == other.status_code == 200
            assert own.body == other.get_data()
            changing = {"Date", "Connection", "X-Request-Id"}
            assert {k: v for k, v in own.headers.items() if k not in changing} == {
                k: v for k, v in other.headers.items() if k not in changing
            }
    assert opened.send(LIVE.replace(b"/live", b"/live/")).status_code == 200
    assert opened.send(b"POST /health/live HTTP/1.1\r\nContent-Length: 0\r\n\r\n").status_code == 405


def test_targets(opened: Running) -> None:
    """The absolute form, queries, fragments and escapes, as PEP 3333 has them."""
    seen: list[dict[str, Any]] = []

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(environ)
        start_response("200 OK", [("Content-Length", "0")])
        return []

    with running(plain(answer)) as server:
        for target in (b"http://host/a%20b?c=%20d#e", b"/%C3%A9", b"//a//b/", b"/?", b"http://host"):
            with server.connect() as connection:
                connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: test\r\nA_b: c\r\nD: e\r\nD: f\r\n\r\n")
                assert read_answer(connection).status_code == 200
    assert [one["PATH_INFO"] for one in seen] == ["/a b", "/Ã©", "//a//b/", "/", "/"]
    assert seen[0]["QUERY_STRING"] == "c=%20d"
    assert all(one["HTTP_D"] == "e,f" and "HTTP_A_B" not in one for one in seen)
    assert all(one["SCRIPT_NAME"] == "" and one["wsgi.input"].read() == b"" for one in seen)


def test_half_closed_clients_get_their_answer(opened: Running) -> None:
    with opened.connect() as connection:
        connection.sendall(head("/v1/gradients", len(XOR)) + XOR)
        connection.shutdown(socket.SHUT_WR)
        assert read_answer(connection).status_code == 200
    with opened.connect() as connection:
        connection.sendall(head("/v1/gradients", len(XOR) + 1) + XOR)
        connection.shutdown(socket.SHUT_WR)
        assert f"{len(XOR)} of {len(XOR) + 1}" in assert_problem(read_answer(connection), "malformed-body")["detail"]


@pytest.mark.parametrize("header", [("A", "b\r\nSet-Cookie: c"), ("A\n", "b"), ("Content-Length", "7")])
def test_an_answer_that_would_break_the_framing_is_an_error(header: tuple[str, str]) -> None:
    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [header] if header[0] == "Content-Length" else [("Content-Length", "2"), header])
        return [b"{}"]

    with running(plain(answer)) as server:
        assert_problem(server.get("/v1"), "internal-error")


def test_a_stream_that_fails_is_cut_short() -> None:
    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        yield b"one"
        raise RuntimeError

    with running(plain(answer)) as server, server.connect() as connection:
        connection.sendall(LIVE.replace(b"/health/live", b"/"))
        content = all_of(connection)
    assert content.endswith(b"3\r\none\r\n")  # without the empty chunk that ends a body


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_answers_without_a_body(status: str) -> None:
    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, [("Content-Length", "3")] if status.startswith("304") else [])
        return []

    with running(plain(answer)) as server, server.connect() as connection:
        connection.sendall(LIVE.replace(b"/health/live", b"/") + LIVE)
        first, _, rest = all_of(connection).partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 " + status.encode())
    assert b"Transfer-Encoding" not in first
    assert rest.startswith(b"HTTP/1.1 200 OK")


def test_problems_are_never_pages(opened: Running) -> None:
    for method in (b"BREW", b"CONNECT", b"OPTIONS", b"TRACE"):
        for target in (b"/v1/gradients", b"*", b"host:80"):
            answer = opened.send(method + b" " + target + b" HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            assert answer.status_code < 500
            assert answer.status_code < 400 or answer.headers["Content-Type"] == PROBLEM


def test_pipelined_requests_larger_than_what_is_looked_at_ahead(opened: Running) -> None:
    """Bodies of 20 KB between small requests, in one piece and in chunks, all sent at once."""
    large = XOR.ljust(20_000)
    whole = head("/v1/gradients", len(large), Connection="") + large
    chunked = head("/v1/gradients", None, Connection="", Transfer_Encoding="chunked")
    chunked += b"2710\r\n" + large[:10_000] + b"\r\n2710\r\n" + large[10_000:] + b"\r\n0\r\n\r\n"
    with opened.connect() as connection:
        connection.sendall(
            (LIVE + whole + chunked + LIVE) * 3 + LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        )
        found = answers(all_of(connection))
    assert [answer.status_code for answer in found] == [200] * 13
    assert len({answer.body for answer in found}) == 2


def test_answers_of_the_edge_are_recorded(opened: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are recorded as the application's: with a known route, a client, sizes and a reason."""
    records: list[Access] = []
    monkeypatch.setattr("service.edge.answers.record", records.append)
    opened.send(b"nonsense\r\n\r\n")
    opened.send(head("/v1/gradients", 2**30, X_Request_Id="mine"))
    opened.send(LIVE)
    shown = [(one.method, one.route, one.status, one.client, one.reason) for one in records]
    assert shown == [
        ("-", "unmatched", 400, "127.0.0.1", "bad-request"),
        ("POST", "/v1/gradients", 413, "127.0.0.1", "too-large"),
        ("GET", "/health/live", 200, "127.0.0.1", ""),
    ]
    assert (records[1].request_id, records[1].received) == ("mine", 2**30)
    assert records[2].sent == len(b'{"status":"ok"}\n')


def test_every_answer_has_one_date(opened: Running) -> None:
    for path in ("/docs/swagger-ui.css", "/", "/v1", "/nothing"):
        with opened.connect() as connection:
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n" % path.encode())
            first, _, _ = all_of(connection).partition(b"\r\n\r\n")
        assert first.count(b"\r\nDate: ") == 1, path
