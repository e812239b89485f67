"""Logs that never stop the service, whoever reads them."""

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.observing import log_writer
from service.observing.log_writer import Writer
from tests.conftest import wait_for
from tests.support import ROOT, Server

SOON = 20.0


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.fixture
def dropped() -> list[int]:
    return []


def lines_of(reading: int, count: int) -> list[bytes]:
    content = b""
    while content.count(b"\n") < count:
        assert select.select([reading], [], [], SOON)[0], content
        content += os.read(reading, 65536)
    return content.splitlines()


def test_lines_are_written_at_once_unless_a_thread_was_started(dropped: list[int]) -> None:
    with pipe() as (reading, writing):
        Writer(writing, lambda: dropped.append(1)).write(b"one\n")
        assert os.read(reading, 100) == b"one\n"


def run(script: str) -> subprocess.Popen[bytes]:
    """Start a program that writes to its standard output through a `Writer`."""
    head = "from service.observing.log_writer import *\nwriter = Writer(1, lambda: None)\nwriter.start()\n"
    return subprocess.Popen([sys.executable, "-c", head + script], cwd=ROOT, stdout=subprocess.PIPE)


def test_a_line_appears_while_nothing_follows_it() -> None:
    with run("writer.write(b'one\\n'); time.sleep(60)") as process:
        assert process.stdout is not None
        assert lines_of(process.stdout.fileno(), 1) == [b"one"]
        process.kill()


def test_what_is_left_is_written_at_the_end_in_order() -> None:
    with run("for number in range(10_000): writer.write(b'%d\\n' % number)") as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == [b"%d" % number for number in range(10_000)]


def test_a_process_ends_though_nobody_reads() -> None:
    with run("for number in range(100_000): writer.write(b'%d\\n' % number)") as process:
        assert process.wait(SOON) == 0


def test_a_process_ends_though_the_reader_is_gone() -> None:
    with run("time.sleep(0.3)\nfor number in range(100_000): writer.write(b'%d\\n' % number)") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(SOON) == 0


def test_lines_that_nobody_reads_are_dropped_and_counted(
    dropped: list[int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(log_writer, "BUFFER", 100_000)
    monkeypatch.setattr(log_writer.atexit, "register", lambda *_: None)
    line = b"x" * 99 + b"\n"
    count = 5000
    with pipe() as (reading, writing):
        writer = Writer(writing, lambda: dropped.append(1))
        writer.start()
        for _ in range(count):
            writer.write(line)  # half a megabyte: a pipe and the buffer hold less
        assert 1000 < len(dropped) <= count - 1000
        # All that was not dropped arrives whole, and then what was written later.
        assert set(lines_of(reading, count - len(dropped))) == {line.strip()}
        wait_for(lambda: any(f"{len(dropped)} lines" in text for text in caplog.messages))
        before = len(dropped)
        writer.write(line)
        assert lines_of(reading, 1) == [line.strip()]
        assert len(dropped) == before
        wait_for(lambda: writer._held == 0)


def test_one_write_holds_whole_lines_that_a_pipe_does_not_split() -> None:
    lines = [b"%d %s\n" % (number, b"x" * (number * 37 % 900)) for number in range(500)] + [b"y" * 9000 + b"\n"]
    parts = list(log_writer._parts(lines))
    assert b"".join(parts) == b"".join(lines)
    assert all(part.endswith(b"\n") for part in parts)
    assert all(len(part) <= select.PIPE_BUF or part.count(b"\n") == 1 for part in parts)
    assert len(parts) < len(lines) / 4


def many(server: Server, count: int, path: str) -> set[int]:
    """Return the statuses of `count` requests over one connection."""
    statuses = set()
    with server.connect() as connection:
        file = connection.makefile("rb")
        for _ in range(count):
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            statuses.add(int(file.readline().split()[1]))
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            file.read(length)
        file.close()
    return statuses


def test_logs_of_a_server_are_complete_when_it_has_stopped_and_stop_no_request() -> None:
    """Lines come while the server goes on. Nobody reads further ones until it has stopped: then all are there."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NABLA_", "PROMETHEUS_"))}
    environment |= {"PORT": "0", "WEB_CONCURRENCY": "2", "NABLA_LOG_FORMAT": "json", "NABLA_RUNNERS": "0"}
    command = [sys.executable, "-m", "gunicorn"]
    unread = "/" + "x" * 600
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None and process.stdout is not None
        first = process.stderr.readline().decode()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", first)
        assert found, first
        server = Server(process.pid, int(found[1]))
        for number in range(30):
            assert server.get(f"/v1/activations?{number}").status_code == 200
        # While the server goes on, the lines of both workers come.
        entries = [json.loads(line) for line in lines_of(process.stdout.fileno(), 30)]
        assert many(server, 300, unread) == {404}  # a pipe holds some 80 lines of this length
        process.terminate()
        entries += [json.loads(line) for line in process.stdout.read().splitlines()]
        assert process.wait(SOON) == 0
    assert [entry["path"] for entry in entries] == ["/v1/activations"] * 30 + [unread] * 300
    assert {entry["client"] for entry in entries} == {"127.0.0.1"}
    assert all(abs(entry["time"] - time.time()) < 300 for entry in entries)
