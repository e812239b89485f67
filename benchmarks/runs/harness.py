"""Servers with runners, at SQLite and PostgreSQL, and a client that follows runs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts import postgres
from service.runner.process import NICENESS

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
NICE = os.nice(0) + NICENESS
"""The niceness by which a runner is told from the other workers."""
DATABASES = ("sqlite", "postgresql")
LOST = (OSError, http.client.HTTPException)
"""Errors of a connection whose worker is killed."""


def end_orderly() -> None:
    """Let SIGTERM end this process as an exception does, so that no server stays behind."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@contextmanager
def database(kind: str) -> Iterator[dict[str, str]]:
    """Make an empty database, and yield the variables of the environment that name it."""
    with tempfile.TemporaryDirectory(prefix="nabla-runs-") as folder:
        os.chmod(folder, 0o755)  # PostgreSQL may run as another user
        if kind == "sqlite":
            yield {"NABLA_DATA": folder}
            return
        with postgres.running(Path(folder) / "pg") as address:
            yield {"NABLA_DATABASE": address}


@dataclass
class Server:
    """A running server: gunicorn's first process, and its port."""

    pid: int
    port: int

    def workers(self) -> dict[int, int]:
        """Return the processes of the server with their niceness."""
        found = {}
        for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split():
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended meanwhile
                continue
            found[int(pid)] = int(fields[16])
        return found

    def of_role(self, runner: bool) -> list[int]:
        """Return the processes that compute runs, or those that serve."""
        return [pid for pid, niceness in self.workers().items() if (niceness == NICE) is runner]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request until a worker answers it; return the status and the document."""
        for _ in range(50):
            connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
            try:
                content = None if body is None else json.dumps(body)
                sent = {"Content-Type": "application/json"} if content else {}
                connection.request(method, path, content, sent | headers)
                response = connection.getresponse()
                text = response.read()
                return response.status, json.loads(text) if text else None
            except LOST:
                time.sleep(0.1)
            finally:
                connection.close()
        raise SystemExit("the server does not answer")


@contextmanager
def serving(environment: dict[str, str], web: int = 2, runners: int = 1) -> Iterator[Server]:
    """Start a server, and stop it after the block."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NABLA_", "PROMETHEUS_"))}
    settings = {"HOST": HOST, "PORT": str(port), "WEB_CONCURRENCY": str(web), "NABLA_RUNNERS": str(runners)}
    settings |= {"NABLA_LOG_REQUESTS": "false"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn"], cwd=ROOT, env=kept | settings | environment, stdout=log, stderr=log
        )
        server = Server(process.pid, port)
        try:
            end = time.monotonic() + 60
            while len(server.of_role(True)) < runners or len(server.of_role(False)) < web:
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise SystemExit(log.read().decode(errors="replace")[-3000:])
                time.sleep(0.1)
            server.ask("GET", "/health/ready")
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Follower(threading.Thread):
    """A client that streams the records of a run, and comes back with `after=N` whenever it is cut off."""

    def __init__(self, port: int, run: str) -> None:
        super().__init__(daemon=True)
        self.port, self.run_id = port, run
        self.lines: list[bytes] = []
        """The records in the order in which they came."""
        self.last = -1
        """The step of the last of them."""
        self.summary: bytes | None = None
        self.attached = 0
        """The number of times that the client connected."""
        self.longest_silence = 0.0
        """The longest time in seconds without a line, heartbeats among them."""

    def run(self) -> None:
        while self.summary is None:
            try:
                self._follow()
            except LOST:
                time.sleep(0.05)

    def _follow(self) -> None:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        after = f"?after={self.last}" if self.last >= 0 else ""
        headers = {"Accept": "application/x-ndjson; tensors=base64"}
        try:
            connection.request("GET", f"/v1/runs/{self.run_id}/steps{after}", headers=headers)
            response = connection.getresponse()
            if response.status != 200:
                response.read()
                time.sleep(0.2)
                return
            self.attached += 1
            heard = time.monotonic()
            while (line := response.readline()).endswith(b"\n"):
                now = time.monotonic()
                self.longest_silence = max(self.longest_silence, now - heard)
                heard = now
                self._take(line)
        finally:
            connection.close()

    def _take(self, line: bytes) -> None:
        if line == b"{}\n":
            return
        document = json.loads(line)
        if "step" not in document:
            self.summary = line
            return
        self.lines.append(line)
        self.last = document["step"]
