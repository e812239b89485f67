"""Streams of `/v1/train` from a real server: live, fair to others, and over when nobody listens or the server stops."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.api.training import EVENTS, NDJSON, PATH, training
from tests.conftest import Post, ServerFactory, wait_for
from tests.support import Server, assert_problem, head, read_answer, strict_json, xor

ENDLESS = 1_000_000
STREAMS = 4
"""The streams that one client may open of the five that a worker serves."""
SOON = 10.0
"""Seconds that are far more than it takes."""


class Stream:
    """A response that is read while the server writes it."""

    def __init__(self, server: Server, body: Any, accept: str = NDJSON) -> None:
        content = json.dumps(body).encode()
        self.connection = server.connect()
        self.connection.sendall(head(PATH, len(content), Accept=accept) + content)
        self.file = self.connection.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = dict(line.split(": ", 1) for line in self._head())
        if self.status != 200 or self.headers["Content-Type"].split(";")[0] != accept:
            content = self.file.read()
            self.close()
            pytest.fail(f"{self.status} {self.headers} {content!r}")

    def _head(self) -> Iterator[str]:
        while (line := self.file.readline().decode("latin-1").rstrip("\r\n")) != "":
            yield line

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.connection.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the chunks as the server wrote them."""
        while (size := int(self.file.readline(), 16)) > 0:
            yield self.file.read(size)
            assert self.file.readline() == b"\r\n"
        assert self.file.readline() == b"\r\n"

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records of either form as they come, without signs of life; the summary is the last."""
        events = self.headers["Content-Type"].startswith(EVENTS)
        end = b"\n\n" if events else b"\n"
        content = b""
        for piece in self.pieces():
            *whole, content = (content + piece).split(end)
            for text in whole:
                if events:
                    text = next((line[6:] for line in text.split(b"\n") if line.startswith(b"data: ")), b"{}")
                if record := strict_json(text):
                    yield record
        assert content == b""


def endless(**changes: Any) -> dict[str, Any]:
    return training(**({"steps": ENDLESS, "optimizer": "sgd"} | changes))


SILENT = {"trace": {"every": ENDLESS}}


@pytest.fixture(scope="module")
def trainer(start_server: ServerFactory) -> Iterator[Server]:
    """Yield one worker with few threads, half of which may stream."""
    with start_server(WEB_CONCURRENCY="1", NABLA_STREAMS=str(STREAMS + 1), NABLA_MAX_SECONDS="60") as server:
        yield server


def metric(server: Server, name: str) -> float:
    text = server.get("/metrics").body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def opened(server: Server) -> float:
    return metric(server, "nabla_open_streams")


def ended(server: Server, outcome: str) -> float:
    return metric(server, f'nabla_streams_total{{outcome="{outcome}"}}')


def assert_idle(server: Server) -> None:
    """Assert that the server computes nothing any more."""

    def idle() -> bool:
        before = server.cpu_seconds
        time.sleep(0.3)
        return server.cpu_seconds - before < 0.1

    wait_for(idle, SOON)


@pytest.mark.parametrize("accept", [NDJSON, EVENTS])
def test_a_stream_says_what_the_document_says(trainer: Server, accept: str) -> None:
    body = training(steps=50, optimizer="adam", trace={"include": ["gradients", "state"], "every": 7})
    document = trainer.post(json.dumps(body).encode(), PATH).json
    completed = ended(trainer, "completed")
    with Stream(trainer, body, accept) as stream:
        *steps, summary = stream.records()
        assert stream.file.read() == b""  # and nothing after the end
    assert steps == document.pop("steps")
    assert summary == document
    wait_for(lambda: opened(trainer) == 0, SOON)
    assert ended(trainer, "completed") == completed + 1


@pytest.mark.parametrize("accept", [NDJSON, EVENTS])
def test_records_come_while_the_training_goes_on(trainer: Server, accept: str) -> None:
    with Stream(trainer, endless(), accept) as stream:
        records = stream.records()
        assert [next(records)["step"] for _ in range(3)] == [1, 2, 3]
        assert opened(trainer) == 1
        # They go on, without a gap, as long as somebody reads.
        assert [next(records)["step"] for _ in range(5000)] == list(range(4, 5004))
    wait_for(lambda: opened(trainer) == 0, SOON)


@pytest.mark.parametrize("changes", [{}, SILENT], ids=["every step", "no step"])
def test_a_closed_connection_ends_the_work(trainer: Server, changes: dict[str, Any]) -> None:
    """It ends streams of both forms and a document, which the server notices at the same time."""
    before, content = ended(trainer, "disconnected"), json.dumps(endless(**SILENT)).encode()
    with ExitStack() as held:
        for number, accept in enumerate((NDJSON, EVENTS)):
            stream = held.enter_context(Stream(trainer, endless(**changes), accept))
            assert next(stream.records())["step"] == 1
            assert opened(trainer) == 1 + number
        held.enter_context(trainer.connect()).sendall(head(PATH, len(content)) + content)
        time.sleep(0.3)  # it has begun
    wait_for(lambda: ended(trainer, "disconnected") == before + 3, SOON)
    assert opened(trainer) == 0
    assert_idle(trainer)


def test_who_does_not_read_does_not_hold_a_stream(start_server: ServerFactory) -> None:
    """Buffers fill, then the server waits as long as NABLA_MAX_SEND_SECONDS says; others get on meanwhile."""
    steps = {"steps": 200_000, "trace": {"include": ["gradients", "updates", "parameters"]}}
    settings = {"WEB_CONCURRENCY": "1", "NABLA_MAX_SEND_SECONDS": "1", "NABLA_LOG_LEVEL": "critical"}
    with start_server(**settings) as server:
        with Stream(server, endless(**steps)), Stream(server, endless(**SILENT)) as other:
            next(other.records())
            wait_for(lambda: ended(server, "disconnected") == 1, 2 * SOON)
            assert opened(server) == 1
        wait_for(lambda: opened(server) == 0, SOON)


def test_a_bounded_number_of_streams_leaves_the_others_their_answers(trainer: Server, post: Post) -> None:
    content, body = json.dumps(xor()).encode(), json.dumps(endless()).encode()
    with ExitStack() as held:
        streams = full(trainer, held)
        for accept in (NDJSON, EVENTS):
            busy = trainer.post(body, PATH, Accept=accept)
            assert str(STREAMS) in assert_problem(busy, "busy")["detail"]
            assert int(busy.headers["Retry-After"]) >= 1
        assert trainer.get("/health/live").status_code == 200
        assert trainer.post(content).body == post(xor()).get_data()
        assert trainer.post(json.dumps(training()).encode(), PATH).status_code == 200
        # One that ends makes room for one.
        streams.pop().close()
        wait_for(lambda: opened(trainer) == STREAMS - 1, SOON)
        with Stream(trainer, training()) as short:
            assert list(short.records())[-1]["status"] == "completed"
    wait_for(lambda: opened(trainer) == 0, SOON)
    with ExitStack() as held:  # the places of those that were cut are free again, and no more
        full(trainer, held, trace={"every": 1})
        assert_problem(trainer.post(body, PATH, Accept=NDJSON), "busy")
    wait_for(lambda: opened(trainer) == 0, SOON)


def full(server: Server, held: ExitStack, **changes: Any) -> list[Stream]:
    """Open as many streams as one client may have at once; without changes they compute as long as they are open."""
    changes = changes or {"trace": {"every": 1000}}
    streams = [held.enter_context(Stream(server, endless(**changes))) for _ in range(STREAMS)]
    for stream in streams:
        next(stream.records())
    assert opened(server) == STREAMS
    return streams


def test_streams_that_end_give_their_places_back(trainer: Server) -> None:
    for _ in range(3 * STREAMS):
        with Stream(trainer, training()) as stream:
            assert [record.get("step") for record in stream.records()] == [1, 2, 3, None]
        wait_for(lambda: opened(trainer) == 0, SOON)


def test_streams_make_progress_together_and_health_answers_meanwhile(trainer: Server) -> None:
    reached, stop = [0] * STREAMS, threading.Event()
    failures: list[BaseException] = []

    def read(number: int) -> None:
        try:
            with Stream(trainer, endless(trace={"every": 100})) as stream:
                for record in stream.records():
                    reached[number] = record["step"]
                    if stop.is_set():
                        return
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(STREAMS)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: bool(failures) or min(reached) > 100, SOON)
        before = list(reached)
        slowest = 0.0
        for _ in range(20):
            start = time.monotonic()
            assert trainer.get("/health/live").status_code == 200
            slowest = max(slowest, time.monotonic() - start)
            time.sleep(0.05)
        made = [after - at for after, at in zip(reached, before, strict=True)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures[:2]
    assert min(made) > 0 and max(made) < 4 * min(made), made
    assert slowest < 5.0
    wait_for(lambda: opened(trainer) == 0, SOON)


def test_a_stream_ends_with_its_summary_when_the_server_stops(start_server: ServerFactory) -> None:
    document: list[Any] = []
    content = json.dumps(endless(**SILENT)).encode()
    with start_server(WEB_CONCURRENCY="1", NABLA_STREAMS=str(STREAMS + 1)) as server, ExitStack() as held:
        streams = [held.enter_context(Stream(server, endless(), accept)) for accept in (NDJSON, EVENTS)]
        records = [stream.records() for stream in streams]
        assert [next(each)["step"] for each in records] == [1, 1]
        connection = held.enter_context(server.connect())
        connection.sendall(head(PATH, len(content)) + content)
        time.sleep(0.3)  # it has begun
        start = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        for each in records:
            last = 1
            for record in each:
                if "step" in record:
                    assert record["step"] == last + 1
                    last = record["step"]
            assert (record["status"], record["steps_done"]) == ("cancelled", last)
            assert "stop" in record["reason"]
            assert record["checkpoint"]["step"] == last
        document.append(read_answer(connection).json)
        assert time.monotonic() - start < 20.0
    assert document[0]["status"] == "cancelled" and 0 < document[0]["steps_done"] < ENDLESS
    # start_server has asserted that the exit code is 0.
