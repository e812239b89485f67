"""Streams of the records of a run: from any point, past and live, once each, and how they end."""

import json
import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from schemas.runs import ENDED
from service.api import run_streams, streaming
from service.api.examples import DESCEND
from service.api.run_streams import later, step_of
from service.api.state_file import state_bytes
from service.store_errors import StoreUnavailable
from tests.api.runs import EVENTS, NDJSON, PATH, Hand, compute, lines, run_of, runner, runs_of, started
from tests.conftest import MakeClient, wait_for
from tests.support import assert_problem, every, strict_json

JSON = "application/json"


@pytest.fixture
def client(make_runs: MakeClient) -> FlaskClient:
    return make_runs()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make heartbeats and patience short."""
    monkeypatch.setattr(run_streams, "HEARTBEAT", 0.02)
    monkeypatch.setattr(run_streams, "LONGEST", 0.02)
    monkeypatch.setattr(run_streams, "PATIENCE", 0.2)


def pieces(client: FlaskClient, name: str, query: str = "", **headers: str) -> tuple[TestResponse, Iterator[bytes]]:
    """Open a stream; return the response, and its pieces as they come."""
    named = {key.replace("_", "-"): text for key, text in headers.items()}
    response = client.get(f"{PATH}/{name}/steps{query}", headers=named)
    assert response.status_code == 200, response.text
    return response, iter(response.iter_encoded())


def records(stream: Iterator[bytes]) -> Iterator[Any]:
    """Yield the lines of a stream, without heartbeats."""
    for piece in stream:
        yield from (line for line in map(strict_json, piece.splitlines()) if line)


def events(text: str) -> list[dict[str, str]]:
    blocks = [block for block in text.removesuffix("\n\n").split("\n\n") if not block.startswith((":", "retry:"))]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


# --- the past -----------------------------------------------------------------------------------


def test_a_stream_begins_anywhere(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_streams, "CHUNK", 400)  # so that a stream takes many reads
    name = started(client, run_of(steps=40))
    hand = Hand(client, name)
    for first in range(1, 41, 8):
        assert hand.keep(first, first + 7).alive
    hand.finish(40, result=state_bytes({"status": "completed", "loss": 0.25}))
    whole = lines(client.get(f"{PATH}/{name}/steps"))
    assert [each.get("step") for each in whole] == [*range(1, 41), None]
    assert whole[-1] == {"status": "completed", "loss": 0.25}
    for after in (-1, 0, 1, 7, 8, 9, 20, 39, 40, 41, 10**6, 2**53 - 1):
        expected = [line for line in whole if line.get("step", math.inf) > after]
        assert lines(client.get(f"{PATH}/{name}/steps?after={after}")) == expected
        by_id = {} if after < 0 else {"Last-Event-ID": str(after)}
        shown = events(client.get(f"{PATH}/{name}/steps", headers={"Accept": EVENTS} | by_id, buffered=True).text)
        assert [strict_json(event["data"]) for event in shown] == expected
        assert [event["event"] for event in shown] == ["step"] * (len(expected) - 1) + ["end"]
        assert [int(event["id"]) for event in shown[:-1]] == [line["step"] for line in expected[:-1]]


def test_a_browser_that_comes_again_says_what_it_got_last(client: FlaskClient) -> None:
    name = started(client)
    hand = Hand(client, name)
    hand.keep(1, 5)
    hand.finish(5)
    shown = client.get(
        f"{PATH}/{name}/steps?after=1", headers={"Accept": EVENTS, "Last-Event-ID": "4"}, buffered=True
    ).text
    assert shown.startswith("retry: ")
    assert [event.get("id") for event in events(shown)] == ["5", None]
    empty = client.get(f"{PATH}/{name}/steps?after=3", headers={"Last-Event-ID": ""})
    assert [line.get("step") for line in lines(empty)] == [4, 5, None]


@every("text", ["x", "-2", "1.5", "1e3", " 5", "5,6", "٣", "9" * 30, str(2**53)])
def test_an_event_id_that_is_no_step_is_refused(app: Any, text: str) -> None:
    answer = app.test_client().get(f"{PATH}/{'0' * 32}/steps", environ_base={"HTTP_LAST_EVENT_ID": text})
    problem = assert_problem(answer, "invalid")
    assert problem["errors"][0]["pointer"] == "#/header/Last-Event-ID"


def test_a_descent_begins_with_its_starts(client: FlaskClient) -> None:
    name = started(client, {"kind": "descend", "request": DESCEND["double_well"]})
    compute(client)
    found = [line.get("step") for line in lines(client.get(f"{PATH}/{name}/steps"))]
    assert found == [0, 50, 100, 150, 200, None]
    assert [line.get("step") for line in lines(client.get(f"{PATH}/{name}/steps?after=0"))] == found[1:]
    page = client.get(f"{PATH}/{name}/steps", headers={"Accept": JSON}).json
    assert [line["step"] for line in page["steps"]] == found[:-1] and page["next"] is None


@every(
    ("line", "step"),
    [
        (b'{"step":12,"loss":1}', 12),
        (b'{"step":3}', 3),
        (b'{"loss":{"step":1},"step":4}', 4),
        (b'{"a":"x","step": 7}\n{', 7),
    ],
)
def test_the_step_of_a_line(line: bytes, step: int) -> None:
    assert step_of(line) == step


def test_lines_after_a_step() -> None:
    text = b'{"step":1}\n{"step":3}\n{"step":5}\n'
    assert [later(text, after).count(b"\n") for after in range(-1, 7)] == [3, 3, 2, 2, 1, 1, 0, 0]


def test_pages_have_the_records_of_the_stream(client: FlaskClient) -> None:
    name = started(client, run_of(steps=23))
    hand = Hand(client, name)
    for first in (1, 9, 17):
        hand.keep(first, min(first + 7, 23))
    page = client.get(f"{PATH}/{name}/steps?limit=1000", headers={"Accept": JSON}).json
    assert (page["status"], page["next"], len(page["steps"])) == ("running", 23, 23)
    waiting = client.get(f"{PATH}/{name}/steps?after=23", headers={"Accept": JSON}).json
    assert waiting == {"steps": [], "status": "running", "next": 23}
    hand.finish(23)
    found, after = [], -1
    while after is not None:
        page = client.get(f"{PATH}/{name}/steps?limit=5&after={after}", headers={"Accept": JSON}).json
        found += page["steps"]
        after = page["next"]
    assert found == lines(client.get(f"{PATH}/{name}/steps"))[:-1]
    assert client.get(f"{PATH}/{name}/steps?after=99", headers={"Accept": JSON}).json["next"] is None


@every(
    ("accept", "content_type"),
    [
        ("", NDJSON),
        ("*/*", NDJSON),
        ("application/*", NDJSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", NDJSON),
        (NDJSON, NDJSON),
        (EVENTS, EVENTS),
        ("text/*", EVENTS),
        (JSON, JSON),
        (f"{JSON}; q=0.5, {EVENTS}", EVENTS),
    ],
)
def test_the_accept_header_chooses_the_form(
    make_client: MakeClient, accept: str, content_type: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    client = make_client(data=str(tmp_path_factory.mktemp("data")))
    name = started(client)
    client.post(f"{PATH}/{name}/cancel")
    response = client.get(f"{PATH}/{name}/steps", headers={"Accept": accept}, buffered=True)
    assert response.status_code == 200 and response.headers["Content-Type"].split(";")[0] == content_type
    if content_type != JSON:
        assert response.headers["Cache-Control"] == "no-store" and response.headers["X-Accel-Buffering"] == "no"
    client.application.extensions["nabla.store"].close()


# --- live ---------------------------------------------------------------------------------------


def test_records_come_as_they_are_stored(client: FlaskClient) -> None:
    name = started(client)
    response, stream = pieces(client, name)
    found = records(stream)
    hand = Hand(client, name)
    for step in range(1, 6):
        hand.keep(step, step)
        assert next(found)["step"] == step
    hand.finish(5, result=state_bytes({"status": "completed"}))
    assert list(found) == [{"status": "completed"}]
    response.close()


def test_a_real_run_is_streamed_while_it_is_computed(client: FlaskClient) -> None:
    name = started(client, run_of(steps=3000))
    with runner(client), ThreadPoolExecutor() as threads:
        streams = [
            threads.submit(lambda: lines(client.application.test_client().get(f"{PATH}/{name}/steps"))) for _ in "ab"
        ]
        one, other = (stream.result(60) for stream in streams)
    assert one == other
    assert [line.get("step") for line in one] == [*range(1, 3001), None]


def test_a_run_that_goes_back_to_the_queue_is_only_silent(client: FlaskClient, impatient: None) -> None:
    name = started(client)
    response, stream = pieces(client, name)
    hand = Hand(client, name)
    hand.keep(1, 2)
    found = records(stream)
    assert [next(found)["step"] for _ in range(2)] == [1, 2]
    hand.release()
    wait_for(lambda: runs_of(client).counts() == {"queued": 1})
    for _ in range(3):
        assert next(stream) == b"{}\n"
    again = Hand(client, name, "another")
    assert (again.claim.attempt, again.claim.last_record) == (2, 2)
    again.keep(3, 4)
    assert [next(found)["step"] for _ in range(2)] == [3, 4]
    again.finish(4, "stopped")
    assert next(found)["status"] == "stopped"
    response.close()


@every(("form", "heartbeat"), [(NDJSON, b"{}\n"), (EVENTS, b": \n\n")])
def test_silence_has_heartbeats(make_client: MakeClient, tmp_path_factory: Any, form: str, heartbeat: bytes) -> None:
    client = make_client(data=str(tmp_path_factory.mktemp("data")))
    response, stream = pieces(client, started(client), Accept=form)
    if form == EVENTS:
        assert next(stream) == run_streams.RETRY
    assert next(stream) == heartbeat  # at once, so that the client sees the head of the response
    begin = time.monotonic()
    assert next(stream) == heartbeat
    assert time.monotonic() - begin > 0.9
    response.close()
    client.application.extensions["nabla.store"].close()


def test_streams_of_a_run_read_its_state_together(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    name = started(client)
    hand = Hand(client, name)
    hand.keep(1, 1)
    runs, times = runs_of(client), []
    find = runs.find

    def counted(*arguments: Any) -> Any:
        times.append(time.monotonic())
        return find(*arguments)

    monkeypatch.setattr(runs, "find", counted)
    with ThreadPoolExecutor(8) as threads:
        streams = [
            threads.submit(lambda: lines(client.application.test_client().get(f"{PATH}/{name}/steps")))
            for _ in range(8)
        ]
        wait_for(lambda: len(client.application.extensions["nabla.admission"].streams.running) == 8)
        time.sleep(1.0)
        seen = len(times)
        hand.finish(1, result=state_bytes({"status": "completed"}))
        assert all(stream.result(30) == [{"step": 1}, {"status": "completed"}] for stream in streams)
    # One for each request, and about eight a second for all together once nothing happens.
    assert seen < 8 + 20
    assert not run_streams._watched


# --- ends ---------------------------------------------------------------------------------------


@every("status", sorted(ENDED))
def test_the_end_has_the_status_of_the_run(make_client: MakeClient, tmp_path_factory: Any, status: str) -> None:
    client = make_client(data=str(tmp_path_factory.mktemp("data")))
    name = started(client)
    hand = Hand(client, name)
    hand.finish(0, status, None if status == "failed" else state_bytes({"best": 0}))
    end = {"status": status, "reason": "it ends"} | ({} if status == "failed" else {"best": 0})
    assert lines(client.get(f"{PATH}/{name}/steps")) == [end]
    assert client.get(f"{PATH}/{name}").json["result"] == (None if status == "failed" else end)
    client.application.extensions["nabla.store"].close()


@every("form", [NDJSON, EVENTS])
def test_a_run_that_is_removed_ends_its_streams(make_client: MakeClient, tmp_path_factory: Any, form: str) -> None:
    client = make_client(data=str(tmp_path_factory.mktemp("data")))
    name = started(client)
    response, stream = pieces(client, name, Accept=form)
    Hand(client, name).keep(1, 1)
    text = next(stream)
    while b'"step":1' not in text:
        text = next(stream)
    client.delete(f"{PATH}/{name}")
    last = b"".join(stream)
    if form == NDJSON:
        problem = strict_json(last.splitlines()[-1])["problem"]
    else:
        problem = strict_json(events(last.decode())[-1]["data"])
    assert (problem["status"], problem["type"]) == (404, "/problems/not-found") and "removed" in problem["detail"]
    assert problem["instance"] == response.headers["X-Request-Id"]
    client.application.extensions["nabla.store"].close()


def test_a_database_that_is_back_soon_costs_a_stream_nothing(
    client: FlaskClient, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = started(client)
    hand = Hand(client, name)
    hand.keep(1, 1)
    _, stream = pieces(client, name)
    found = records(stream)
    assert next(found) == {"step": 1}
    monkeypatch.setattr(run_streams, "PATIENCE", 30.0)
    monkeypatch.setattr(type(runs_of(client)), "records", broken)
    hand.keep(2, 2)
    for _ in range(3):
        assert next(stream) == b"{}\n"
    monkeypatch.undo()
    assert next(found) == {"step": 2}
    hand.finish(2)
    assert [line["status"] for line in found] == ["completed"]


def broken(*_: Any) -> Any:
    raise StoreUnavailable("The database of this server cannot be reached now.")


@every("method", ["find", "records", "result"])
def test_a_database_that_is_gone_ends_a_stream_with_a_problem(
    make_client: MakeClient, tmp_path_factory: Any, method: str
) -> None:
    client = make_client(data=str(tmp_path_factory.mktemp("data")))
    name = started(client)
    hand = Hand(client, name)
    hand.keep(1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_streams, "PATIENCE", 0.1)
        _, stream = pieces(client, name)
        found = records(stream)
        assert next(found) == {"step": 1}
        patch.setattr(type(runs_of(client)), method, broken)
        hand.keep(2, 2)
        hand.finish(2)
        *_, last = found
    assert (last["problem"]["status"], last["problem"]["type"]) == (503, "/problems/store-unavailable")
    # Nothing is lost: the client goes on where it was.
    assert [line.get("step") for line in lines(client.get(f"{PATH}/{name}/steps?after=1"))] == [2, None]
    client.application.extensions["nabla.store"].close()


def test_a_mistake_of_the_service_is_told_and_logged(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    name = started(client)
    Hand(client, name).finish(0, result=b"no state")
    (last,) = lines(client.get(f"{PATH}/{name}/steps"))
    assert last["problem"]["status"] == 500
    assert "unexpected error" in caplog.text


def test_a_stop_of_the_server_ends_streams_at_once(client: FlaskClient) -> None:
    name = started(client)
    hand = Hand(client, name)
    hand.keep(1, 3)
    _, stream = pieces(client, name)
    begin = time.monotonic()
    stop = threading.Timer(0.2, streaming.stopping.set)
    stop.start()
    try:
        text = b"".join(stream)
    finally:
        stop.join()
        streaming.stopping.clear()
    assert time.monotonic() - begin < 10
    assert [line.get("step") for line in map(json.loads, text.splitlines()) if line] == [1, 2, 3]  # and no end
    hand.keep(4, 4)
    hand.finish(4)
    assert [line.get("step") for line in lines(client.get(f"{PATH}/{name}/steps?after=3"))] == [4, None]


def test_a_client_that_leaves_ends_its_stream(client: FlaskClient) -> None:
    admission = client.application.extensions["nabla.admission"]
    name = started(client)
    response, stream = pieces(client, name)
    next(stream)
    (ticket,) = admission.streams.running
    assert ticket.deadline == math.inf and ticket.lane is None
    ticket.leave()
    assert list(stream) == []
    response.close()
    assert not admission.streams.running and client.application.extensions["nabla.memory"].held == 0


def test_streams_of_a_worker_are_bounded(make_runs: MakeClient) -> None:
    client = make_runs(streams=4)
    name = started(client)
    opened = [pieces(client, name) for _ in range(3)]  # the most of one client
    problem = assert_problem(client.get(f"{PATH}/{name}/steps"), "busy")
    assert "streams" in problem["detail"]
    page = client.get(f"{PATH}/{name}/steps", headers={"Accept": JSON})
    assert page.status_code == 200
    opened[0][0].close()
    again, _ = pieces(client, name)
    for response in (again, *(each for each, _ in opened[1:])):
        response.close()
    admission = client.application.extensions["nabla.admission"]
    assert not any(lane.running for lane in admission.lanes)
