"""Work that is computed step by step: whose turn it is, what is sent and when, and every way it can end."""

import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from flask import Blueprint, Flask, Response
from flask.testing import FlaskClient
from marshmallow import Schema
from prometheus_client import REGISTRY
from werkzeug.test import EnvironBuilder, TestResponse

from schemas.requests import RequestSchema
from service import wire
from service.api import endpoint, streaming
from service.api.context import Context, Runtime
from service.api.endpoint import hung_up
from service.api.examples import Example
from service.api.streaming import Turns, collect, respond, turns
from service.app import create_app
from service.config import Settings
from service.engine.errors import DeadlineExceeded
from service.observing.timer import Timer
from service.problems import Problem
from tests.conftest import MakeClient, wait_for
from tests.support import assert_problem, every, strict_json

NDJSON, EVENTS = "application/x-ndjson", "text/event-stream"
FORMS = {"json": "application/json", "ndjson": NDJSON, "sse": EVENTS}
RESERVED = 1 << 20


class Counting:
    """A work that counts its steps, and emits each of them or every `every`-th one."""

    elsewhere = False

    def __init__(
        self, steps: float = 3, every: int = 1, seconds: float = 0.0, failure: Exception | None = None
    ) -> None:
        self.steps, self.every, self.seconds, self.failure = steps, every, seconds, failure
        self.step = 0
        self.values = np.zeros(2)
        self.reason = "all are done"
        self.status = "completed"
        self.closed = False

    @property
    def finished(self) -> bool:
        return self.status != "completed" or self.step >= self.steps

    def advance(self) -> Mapping[str, Any] | None:
        assert not self.finished
        assert not self.closed
        time.sleep(self.seconds)
        self.step += 1
        self.values += 1.0  # the same array in every record
        if self.failure is not None and self.step == 3:
            raise self.failure
        return None if self.step % self.every else {"step": self.step, "values": self.values}

    def cancel(self, reason: str) -> None:
        self.status, self.reason = "cancelled", reason

    def summary(self) -> Mapping[str, Any]:
        assert self.finished
        return {"status": self.status, "reason": self.reason, "steps_done": self.step}

    def close(self) -> None:
        self.closed = True


def context_of(app: Flask, form: wire.Form = "ndjson", base64: bool = False, **environ: Any) -> Context:
    running: Runtime = app.extensions["nabla"]
    ticket = running.admission.ticket("address:test", time.monotonic())
    ticket.left = hung_up(environ)
    known = {"nabla.request_id": "1", "REQUEST_METHOD": "POST", "PATH_INFO": "/v1/counting"} | environ
    return Context(running, Timer(), running.memory.reservation(), 0, ticket, known, form, base64)


class Laboratory:
    """An application with an endpoint that may stream; the test chooses its next work."""

    def __init__(self, **settings: Any) -> None:
        self.app = create_app(Settings(**({"log_requests": False} | settings)))
        self.running: Runtime = self.app.extensions["nabla"]
        self.made: list[Counting] = []
        self.next: Callable[[], Counting] = Counting
        blueprint = Blueprint("counting", __name__)

        @endpoint.post(
            blueprint,
            "/v1/counting",
            takes=RequestSchema(),
            gives=Schema(),
            summary="",
            tag="System",
            examples={},
            mistake=Example("It has a key.", key=1),
            streams=(Schema,),
        )
        def counting(_: dict[str, Any], context: Context) -> dict[str, Any] | Response:
            context.memory.need(RESERVED)
            work = self.next()
            self.made.append(work)
            if context.form != "json":
                return respond(work, context)
            records, summary = collect(work, context)
            return {"steps": json.loads(bytes(records)), **summary}

        self.app.register_blueprint(blueprint)
        self.client: FlaskClient = self.app.test_client()

    def open(self, accept: str) -> TestResponse:
        """Ask, and return the answer before any of its body is read."""
        return self.client.post("/v1/counting", json={}, headers={"Accept": accept})

    def ask(self, accept: str) -> TestResponse:
        """Ask, and return the answer once it is read to its end and closed."""
        return self.client.post("/v1/counting", json={}, headers={"Accept": accept}, buffered=True)

    def assert_everything_was_given_back(self) -> None:
        assert all(work.closed for work in self.made)
        assert self.running.memory.free == self.running.memory.total
        assert {(load.lane, load.busy, load.waiting) for load in self.running.admission.load()} == {
            (lane, 0, 0) for lane in ("system", "tiny", "small", "medium", "heavy", "storage", "streams")
        }
        assert REGISTRY.get_sample_value("nabla_open_streams") == 0


@pytest.fixture
def make_laboratory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Laboratory]:
    # OpenAPI is not to know of the endpoint.
    monkeypatch.setattr(endpoint, "ENDPOINTS", [])
    return Laboratory


@pytest.fixture
def laboratory(make_laboratory: Callable[..., Laboratory]) -> Laboratory:
    return make_laboratory()


@pytest.fixture
def outcomes() -> Callable[[], dict[str, float]]:
    """Return a function that counts outcomes since the test began."""

    def read() -> dict[str, float]:
        (metric,) = (metric for metric in REGISTRY.collect() if metric.name == "nabla_streams")
        return {sample.labels["outcome"]: sample.value for sample in metric.samples if sample.name.endswith("_total")}

    before = read()
    return lambda: {name: value - before.get(name, 0) for name, value in read().items() if value > before.get(name, 0)}


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield the two ends of a connection: the server's and the client's."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def events(content: str) -> list[dict[str, str]]:
    """Return the fields of each server-sent event."""
    assert content.endswith("\n\n")
    blocks = content.removesuffix("\n\n").split("\n\n")
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks if block != ": "]


def lines(content: str) -> list[Any]:
    assert content.endswith("\n")
    return [strict_json(line) for line in content.splitlines() if line != "{}"]


# Turns


def test_turns_come_in_the_order_of_places() -> None:
    line = Turns()
    first, *others = (line.place() for _ in range(5))
    assert line.wait(first, 0)
    came: list[int] = []

    def take(place: Any) -> None:
        assert line.wait(place, 30)
        came.append(place.number)
        line.end()

    # Whoever arrives later stands in front all the same where its place is the older one.
    threads = [threading.Thread(target=take, args=(place,)) for place in reversed(others)]
    for number, thread in enumerate(threads, 1):
        thread.start()
        wait_for(lambda number=number: len(line._lines[True]) == number)
    line.end()
    for thread in threads:
        thread.join()
    assert came == [1, 2, 3, 4]
    assert line.wait(line.place(), 0)


def test_documents_have_every_other_turn_however_many_streams_wait() -> None:
    line = Turns()
    first, *streams = (line.place() for _ in range(4))
    documents = [line.place(stream=False) for _ in range(2)]
    assert line.wait(first, 0)
    came: list[bool] = []

    def take(place: Any) -> None:
        assert line.wait(place, 30)
        came.append(place.stream)
        line.end()

    threads = [threading.Thread(target=take, args=(place,)) for place in (*streams, *documents)]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(map(len, line._lines.values())) == 5)
    line.end()
    for thread in threads:
        thread.join()
    assert came == [False, True, False, True, True]


def test_who_stops_waiting_does_not_hold_others_up_and_keeps_the_place() -> None:
    line = Turns()
    first, second, third = (line.place() for _ in range(3))
    assert line.wait(first, 0)
    assert not line.wait(second, 0)
    assert not line.wait(third, 0.001)
    line.end()
    assert line.wait(third, 0)
    assert not line.wait(second, 0)
    line.end()
    assert line.wait(second, 0)


def test_works_compute_one_at_a_time_and_all_get_on(app: Flask) -> None:
    inside: list[int] = []
    log: list[int] = []

    class Watched(Counting):
        def __init__(self, number: int) -> None:
            super().__init__(steps=15, seconds=0.001)
            self.number = number

        def advance(self) -> Mapping[str, Any] | None:
            inside.append(self.number)
            assert inside == [self.number]
            record = super().advance()
            assert inside.pop() == self.number
            log.append(self.number)
            return record

    place = turns.place()
    assert turns.wait(place, 0)
    ended: list[int] = []

    def run(number: int) -> None:
        records, _ = collect(Watched(number), context_of(app, "json"))
        ended.append(len(json.loads(bytes(records))))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(turns._lines[False]) == 4)
    turns.end()
    for thread in threads:
        thread.join()
    assert ended == [15] * 4
    shifts = [number for number, _ in itertools.groupby(log)]
    assert set(shifts[:4]) == {0, 1, 2, 3}, "one had two turns before another had any"
    assert len(shifts) > 4, "one computed to its end in one turn"


# Forms


def test_a_document_has_all_records(laboratory: Laboratory, outcomes: Callable[[], dict[str, float]]) -> None:
    answer = laboratory.ask("*/*")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == {
        "steps": [{"step": step, "values": [step, step]} for step in (1, 2, 3)],
        "status": "completed",
        "reason": "all are done",
        "steps_done": 3,
    }
    assert outcomes() == {}
    laboratory.assert_everything_was_given_back()


def test_ndjson_has_a_line_for_each_record_and_the_summary_last(
    laboratory: Laboratory, outcomes: Callable[[], dict[str, float]]
) -> None:
    answer = laboratory.ask(NDJSON)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == NDJSON
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "X-Request-Id" in answer.headers
    assert "Content-Length" not in answer.headers
    *steps, summary = lines(answer.text)
    assert steps == laboratory.ask("*/*").json["steps"]
    assert summary == {"status": "completed", "reason": "all are done", "steps_done": 3}
    assert outcomes() == {"completed": 1}
    laboratory.assert_everything_was_given_back()


def test_server_sent_events_have_names_and_numbers(laboratory: Laboratory) -> None:
    answer = laboratory.ask(EVENTS)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    *steps, end = events(answer.text)
    assert [(event["event"], event["id"]) for event in steps] == [("step", "1"), ("step", "2"), ("step", "3")]
    assert [strict_json(event["data"]) for event in steps] == laboratory.ask("*/*").json["steps"]
    assert end["event"] == "end"
    assert strict_json(end["data"])["status"] == "completed"
    laboratory.assert_everything_was_given_back()


@pytest.mark.parametrize("media_type", FORMS.values())
def test_tensors_may_be_typed_in_every_form(laboratory: Laboratory, media_type: str) -> None:
    answer = laboratory.ask(f"{media_type}; tensors=base64")
    assert answer.headers["Content-Type"].endswith("; tensors=base64")
    if media_type == EVENTS:
        record = strict_json(events(answer.text)[1]["data"])
    else:
        record = answer.json["steps"][1] if answer.is_json else lines(answer.text)[1]
    assert record["values"] == {"dtype": "float64", "shape": [2], "base64": "AAAAAAAAAEAAAAAAAAAAQA=="}


def test_a_stream_is_not_compressed(laboratory: Laboratory) -> None:
    laboratory.next = lambda: Counting(steps=500)
    answer = laboratory.client.post("/v1/counting", json={}, headers={"Accept": NDJSON, "Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in answer.headers
    assert len(lines(answer.text)) == 501


@every(
    ("accept", "expected"),
    [
        (None, ("json", False)),
        ("", ("json", False)),
        ("*/*", ("json", False)),
        ("application/*", ("json", False)),
        ("application/json", ("json", False)),
        ("application/json; tensors=base64", ("json", True)),
        (NDJSON, ("ndjson", False)),
        (f"{NDJSON}; tensors=base64", ("ndjson", True)),
        ("Application/X-NDJSON", ("ndjson", False)),
        (EVENTS, ("sse", False)),
        ("text/*", ("sse", False)),
        (f"{EVENTS}; tensors=base64, */*; q=0.1", ("sse", True)),
        (f"application/json, {NDJSON}", ("json", False)),
        (f"{NDJSON}, application/json", ("ndjson", False)),
        (f"{NDJSON}; q=0.5, application/json; q=0.4", ("ndjson", False)),
        (f"{NDJSON}; q=0.4, application/json; q=0.5", ("json", False)),
        (f"{NDJSON}, */*", ("ndjson", False)),
        (f"text/html, {EVENTS}; q=0.2", ("sse", False)),
        (f"{NDJSON}; q=0, application/json; q=0.1", ("json", False)),
        (f"{NDJSON}; tensors=fast, {EVENTS}; q=0.1", ("sse", False)),
    ],
)
def test_the_accept_header_chooses_the_form(accept: str | None, expected: tuple[str, bool]) -> None:
    assert wire.form_and_base64({} if accept is None else {"HTTP_ACCEPT": accept}) == expected


@pytest.mark.parametrize("accept", ["text/html", "image/*", f"{NDJSON}; q=0", f"{NDJSON}; tensors=fast"])
def test_no_form_is_acceptable(laboratory: Laboratory, accept: str) -> None:
    document = assert_problem(laboratory.ask(accept), "not-acceptable")
    assert NDJSON in document["detail"]
    assert not laboratory.made


@every("accept", [NDJSON, EVENTS, "text/*"])
def test_other_operations_do_not_stream(client: FlaskClient, accept: str) -> None:
    answer = client.post("/v1/gradients", json={}, headers={"Accept": accept})
    assert NDJSON not in assert_problem(answer, "not-acceptable")["detail"]


# When something is sent


def test_the_first_record_is_sent_at_once_and_later_ones_together(app: Flask) -> None:
    answer = respond(Counting(steps=300, seconds=0.001), context_of(app))
    started = time.monotonic()
    pieces = list(answer.iter_encoded())
    passed = time.monotonic() - started
    answer.close()
    assert lines(pieces[0].decode())[0]["step"] == 1
    assert len(lines(pieces[0].decode())) < 20  # one turn's worth
    assert [line.get("step") for line in lines(b"".join(pieces).decode())] == [*range(1, 301), None]
    assert len(pieces) <= passed / streaming.FLUSH + 2


@pytest.mark.parametrize(("form", "heartbeat"), [("ndjson", b"{}\n"), ("sse", b": \n\n")])
def test_silence_is_broken_by_heartbeats(
    app: Flask, monkeypatch: pytest.MonkeyPatch, form: wire.Form, heartbeat: bytes
) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT", 0.05)
    answer = respond(Counting(steps=60, seconds=0.005, every=1000), context_of(app, form))
    started = time.monotonic()
    *beats, _ = answer.iter_encoded()
    answer.close()
    assert 2 <= len(beats) <= (time.monotonic() - started) / 0.05 + 1
    assert set(beats) == {heartbeat}


def test_who_waits_for_a_turn_sends_heartbeats_too(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "HEARTBEAT", 0.02)
    place = turns.place()
    assert turns.wait(place, 0)
    work = Counting()
    answer = respond(work, context_of(app))
    pieces = answer.iter_encoded()
    assert next(pieces) == next(pieces) == b"{}\n"
    assert work.step == 0
    turns.end()
    assert len(lines(b"".join(pieces).decode())) == 4
    answer.close()


# Ends of streams


@pytest.mark.parametrize("form", ["ndjson", "sse"])
@pytest.mark.parametrize(
    ("failure", "kind", "logged"),
    [
        (RuntimeError("secret"), "internal-error", True),
        (MemoryError(), "busy", True),
        (DeadlineExceeded(), "deadline-exceeded", False),
        (Problem("busy", "Later."), "busy", False),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_a_failure_on_the_way_is_told_in_the_stream(
    laboratory: Laboratory,
    outcomes: Callable[[], dict[str, float]],
    caplog: pytest.LogCaptureFixture,
    form: str,
    failure: Exception,
    kind: str,
    logged: bool,
) -> None:
    laboratory.next = lambda: Counting(steps=5, failure=failure)
    answer = laboratory.ask(FORMS[form])
    assert answer.status_code == 200
    if form == "sse":
        *steps, last = events(answer.text)
        assert last["event"] == "error"
        document = strict_json(last["data"])
    else:
        *steps, last = lines(answer.text)
        document = last["problem"]
    assert len(steps) == 2
    assert document["type"] == f"/problems/{kind}"
    assert document["instance"] == answer.headers["X-Request-Id"]
    assert "secret" not in answer.text
    assert [record.name for record in caplog.records] == ["nabla.error"] * logged
    assert outcomes() == {"failed": 1}
    laboratory.assert_everything_was_given_back()


def test_what_cannot_be_written_is_a_failure_too(laboratory: Laboratory) -> None:
    class Odd(Counting):
        def summary(self) -> Mapping[str, Any]:
            return {"status": "completed", "odd": object()}

    laboratory.next = Odd
    assert lines(laboratory.ask(NDJSON).text)[-1]["problem"]["type"] == "/problems/internal-error"
    laboratory.assert_everything_was_given_back()


def test_a_failure_of_a_document_is_its_problem(laboratory: Laboratory) -> None:
    laboratory.next = lambda: Counting(steps=5, failure=DeadlineExceeded())
    assert_problem(laboratory.ask("*/*"), "deadline-exceeded")
    laboratory.assert_everything_was_given_back()


def test_a_stream_that_is_never_started_gives_everything_back_once(
    laboratory: Laboratory, outcomes: Callable[[], dict[str, float]]
) -> None:
    builder = EnvironBuilder("/v1/counting", method="POST", json={}, headers={"Accept": NDJSON})
    body: Any = laboratory.app(builder.get_environ(), lambda *_: lambda _: None)
    assert REGISTRY.get_sample_value("nabla_open_streams") == 1
    assert laboratory.running.memory.free == laboratory.running.memory.total - RESERVED
    body.close()
    body.close()
    assert laboratory.made[0].step == 0
    assert outcomes() == {"disconnected": 1}
    laboratory.assert_everything_was_given_back()


def test_a_stream_that_is_closed_midway_gives_everything_back_once(
    laboratory: Laboratory, outcomes: Callable[[], dict[str, float]]
) -> None:
    laboratory.next = lambda: Counting(steps=float("inf"))
    answer = laboratory.open(EVENTS)
    assert next(answer.iter_encoded()).startswith(b"event: step\nid: 1\n")
    answer.close()
    assert outcomes() == {"disconnected": 1}
    laboratory.assert_everything_was_given_back()


def test_a_client_that_hangs_up_ends_the_stream(
    app: Flask, outcomes: Callable[[], dict[str, float]], connection: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = connection
    work = Counting(steps=float("inf"), seconds=0.001)
    answer = respond(work, context_of(app, **{"gunicorn.socket": ours}))
    pieces = answer.iter_encoded()
    next(pieces)
    theirs.close()
    step = work.step
    assert list(pieces) == []
    assert work.closed
    assert work.step - step < 20  # a turn's worth
    answer.close()
    assert outcomes() == {"disconnected": 1}


def test_a_client_that_hangs_up_ends_the_computation_of_its_document(
    app: Flask, outcomes: Callable[[], dict[str, float]], connection: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = connection
    theirs.close()
    work = Counting(steps=float("inf"))
    _, summary = collect(work, context_of(app, "json", **{"gunicorn.socket": ours}))
    assert summary["status"] == "cancelled"
    assert summary["reason"] == "the connection was closed"
    assert work.closed
    assert outcomes() == {"disconnected": 1}


def test_bytes_that_a_client_sends_meanwhile_stay_where_they_are(
    app: Flask, connection: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = connection
    theirs.sendall(b"GET / HTTP/1.1\r\n")
    _, summary = collect(Counting(), context_of(app, "json", **{"gunicorn.socket": ours}))
    assert summary["status"] == "completed"
    assert ours.recv(100) == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize("form", FORMS)
def test_the_deadline_cancels_with_a_reason(
    make_laboratory: Callable[..., Laboratory], outcomes: Callable[[], dict[str, float]], form: str
) -> None:
    laboratory = make_laboratory(max_seconds=0.05)
    laboratory.next = lambda: Counting(steps=float("inf"), every=100, seconds=0.001)
    answer = laboratory.ask(FORMS[form])
    summary = strict_json(events(answer.text)[-1]["data"] if form == "sse" else answer.text.splitlines()[-1])
    assert summary["status"] == "cancelled"
    assert summary["reason"] == "the limit of this server, 0.05 seconds, was reached"
    assert outcomes() == ({} if form == "json" else {"cancelled": 1})
    laboratory.assert_everything_was_given_back()


@pytest.mark.parametrize("form", FORMS)
def test_a_stop_of_the_server_cancels_with_a_reason(
    laboratory: Laboratory, outcomes: Callable[[], dict[str, float]], form: str
) -> None:
    laboratory.next = lambda: Counting(steps=float("inf"), every=100, seconds=0.001)
    stop = threading.Timer(0.05, streaming.stopping.set)
    stop.start()
    try:
        answer = laboratory.ask(FORMS[form])
        text = answer.text
    finally:
        stop.join()
        streaming.stopping.clear()
    summary = strict_json(events(text)[-1]["data"] if form == "sse" else text.splitlines()[-1])
    assert summary["status"] == "cancelled"
    assert summary["reason"] == "the server is stopping"
    assert outcomes() == ({} if form == "json" else {"cancelled": 1})
    laboratory.assert_everything_was_given_back()


def test_so_many_may_stream(make_laboratory: Callable[..., Laboratory]) -> None:
    laboratory = make_laboratory(streams=1, max_seconds=8.0)
    first = laboratory.open(NDJSON)
    refused = laboratory.ask(EVENTS)
    document = assert_problem(refused, "busy")
    assert refused.headers["Retry-After"] == "8", "then the first one has ended"
    assert document["detail"].endswith("at once: 1.")
    assert len(laboratory.made) == 1
    assert laboratory.ask("*/*").status_code == 200, "documents need no stream"
    first.close()
    assert len(lines(laboratory.ask(NDJSON).text)) == 4
    laboratory.assert_everything_was_given_back()


def test_a_request_that_is_refused_gives_its_stream_back(laboratory: Laboratory) -> None:
    def refuse() -> Counting:
        raise Problem("busy", "Later.")

    laboratory.next = refuse
    assert_problem(laboratory.ask(NDJSON), "busy")
    laboratory.assert_everything_was_given_back()


def test_the_limit_of_streams_is_shown(make_client: MakeClient) -> None:
    assert make_client(streams=4).get("/v1").json["limits"]["streams"] == 4
