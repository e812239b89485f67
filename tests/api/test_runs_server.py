"""Runs on a real server: streams that outlive it, and the commands and programs of docs/runs.md."""

import contextlib
import io
import itertools
import json
import re
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from sqlalchemy.engine import URL

from service.api.runs_examples import RUN_ID
from service.openapi import agree
from tests.api.runs import EVENTS, PATH, run_of
from tests.conftest import ServerFactory, wait_for
from tests.support import LOOPBACK, ROOT, Answer, Server, strict_json

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TEXT = (ROOT / "docs" / "runs.md").read_text()
SLOW = run_of(
    steps=100_000,
    network={"layers": [{"type": "dense", "name": "hidden", "units": 300}, {"type": "dense", "units": 1}]},
    parameters=None,
    inputs=[[0.01 * place] for place in range(300)],
    targets=[[0.02 * place] for place in range(300)],
    optimizer={"type": "sgd", "learning_rate": 1e-6},
)
del SLOW["request"]["parameters"]


def ask(server: Server, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
    """Send a request, and return the answer."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    request = Request(f"http://{LOOPBACK}:{server.port}{path}", body, named, method=method)
    try:
        with urlopen(request, timeout=60) as answer:
            return Answer(answer.status, dict(answer.headers), answer.read())
    except HTTPError as error:
        with error:
            return Answer(error.code, dict(error.headers), error.read())


def lines_of(server: Server, name: str, after: int) -> Iterator[Any]:
    """Yield the lines of a stream while they come; it ends where the connection does."""
    with urlopen(f"http://{LOOPBACK}:{server.port}{PATH}/{name}/steps?after={after}", timeout=60) as stream:
        for line in stream:
            yield strict_json(line)


def statuses(server: Server) -> Any:
    return {each["status"] for each in ask(server, "GET", PATH).json["runs"]}


# --- streams that outlive the server ------------------------------------------------------------


@pytest.mark.long
def test_the_page_events_and_a_stream_that_goes_on_at_another_server(
    start_server: ServerFactory, server_address: URL
) -> None:
    """A stop ends streams at once, without an end; the next server has every later record, once.

    The server that stops, with room for two streams, shows before that the page and events are as they should be.
    """
    variables = {"NABLA_DATABASE": server_address.render_as_string(hide_password=False), "NABLA_STREAMS": "2"}
    variables |= {"NABLA_RUNNERS": "1", "WEB_CONCURRENCY": "1"}
    found: list[int] = []
    with start_server(**variables) as server:
        check_page(server)
        check_events(server)
        body = json.dumps(SLOW).encode()
        name = ask(server, "POST", PATH, body, Content_Type="application/json").json["id"]
        seen, ended = threading.Event(), []

        def first() -> Iterator[Any]:
            """Yield the lines of the stream, once the server has noticed that the client of the events has left."""
            while True:
                try:
                    yield from lines_of(server, name, -1)
                    return
                except HTTPError as error:
                    with error:
                        if error.code != 503:
                            raise
                    time.sleep(0.1)

        def read() -> None:
            for line in first():
                if "step" in line:
                    found.append(line["step"])
                    if len(found) > 5:
                        seen.set()
                ended.extend(["status"] if "status" in line else [])

        reader = threading.Thread(target=read)
        reader.start()
        assert seen.wait(60)
        stopped = time.monotonic()
    reader.join(60)
    assert time.monotonic() - stopped < 30 and not ended
    with start_server(**variables) as server:
        stored = ask(server, "GET", f"{PATH}/{name}").json["step"]
        for line in lines_of(server, name, found[-1]):
            if "step" in line:
                found.append(line["step"])
            if line.get("step") == stored + 50:
                # No body and no Content-Type: there is nothing to send.
                with server.connect() as connection:
                    connection.sendall(
                        f"POST {PATH}/{name}/cancel HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
                    )
                    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            if "status" in line:
                assert line["status"] == "cancelled" and "owner" in line["reason"]
        assert found == list(range(1, len(found) + 1)) and len(found) >= stored + 50
        entry = ask(server, "GET", f"{PATH}/{name}").json
        assert (entry["status"], entry["step"], entry["attempt"]) == ("cancelled", len(found), 2)


# --- the page -----------------------------------------------------------------------------------


def curl(server: Server, command: str, names: dict[str, str]) -> Answer:
    """Do what a curl command of the page does, with the ids of real runs in place of those on the page."""
    words = [names.get(word, word) for word in shlex.split(command)]
    assert words[0] == "curl"
    options = [pair for pair in itertools.pairwise(words) if pair[0] in ("-X", "-H", "-d")]
    (address,) = (word for word in words if word.startswith("localhost:8000/"))
    path = address.removeprefix("localhost:8000")
    for shown, real in names.items():
        path = path.replace(shown, real)
    data = next((text for option, text in options if option == "-d"), None)
    method = next((text for option, text in options if option == "-X"), "GET" if data is None else "POST")
    headers = dict(text.split(": ") for option, text in options if option == "-H")
    return ask(server, method, path, None if data is None else data.encode(), **headers)


def check_page(computing: Server) -> None:
    """Check that every command of the page does what the page says."""
    names: dict[str, str] = {}
    commands = programs = 0
    for (language, text), (following, shown) in itertools.pairwise([*BLOCK.findall(TEXT), ("", "")]):
        if language == "sh":
            answer = curl(computing, text, names)
            assert answer.status_code in (200, 202, 204), answer.body
            commands += 1
            if following == "json":
                expected = strict_json(shown)
                if "id" in expected:
                    names[expected["id"]] = answer.json["id"]
                told = {key: answer.json[key] for key in expected}
                assert agree(told | ({"id": expected["id"]} if "id" in expected else {}), expected)
            elif following == "text":
                check_lines(answer.body.decode(), shown)
            if "/resume" not in text:
                wait_for(lambda: not {"queued", "running"} & statuses(computing))
        elif language == "python":
            code = text.replace("localhost:8000", f"{LOOPBACK}:{computing.port}").replace(RUN_ID, names[RUN_ID])
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(code, {})
            assert printed.getvalue() == shown and following == "text"
            programs += 1
    assert (commands, programs) == (8, 1)


def check_lines(text: str, shown: str) -> None:
    """Assert that the lines of a stream are those shown, which have … in place of what is left out."""
    found = [line for line in text.splitlines() if line != "{}"]
    for line, pattern in zip(found, shown.splitlines(), strict=True):
        assert re.fullmatch(re.escape(pattern).replace("…", ".*"), line), line


# --- a browser ----------------------------------------------------------------------------------


def check_events(computing: Server) -> None:
    """Check that events come at once through a socket.

    The head of the response comes before the first record, and a client that leaves frees its place.
    """
    body = json.dumps(SLOW).encode()
    name = ask(computing, "POST", PATH, body, Content_Type="application/json").json["id"]
    head = f"GET {PATH}/{name}/steps HTTP/1.1\r\nHost: test\r\nAccept: {EVENTS}\r\n\r\n".encode()
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            connection = stack.enter_context(computing.connect())
            connection.sendall(head)
            content = b""
            while b"retry: 1000" not in content:
                content += connection.recv(4096)
            assert b"Content-Type: text/event-stream" in content
        assert ask(computing, "GET", f"{PATH}/{name}/steps").status_code == 503
    wait_for(lambda: _opens(computing, head))
    assert ask(computing, "DELETE", f"{PATH}/{name}").status_code == 204


def _opens(server: Server, head: bytes) -> bool:
    with server.connect() as connection:
        connection.sendall(head)
        return connection.recv(4096).startswith(b"HTTP/1.1 200")
