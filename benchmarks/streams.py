"""Stream many trainings from one worker at once; time their first steps, and `/health/live` meanwhile."""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import threading
import time
from pathlib import Path

from benchmarks.measure import Bar, duration, table
from benchmarks.networks import XOR
from benchmarks.service import gunicorn

FIRST_STEP = Bar(0.5)
HEALTH = Bar(0.05)
FOREVER = {"optimizer": "adam", "steps": 1_000_000, "trace": {"every": 100}}


class Stream(threading.Thread):
    """A client in a thread that reads a training's stream until `end` is set."""

    def __init__(self, port: int, body: bytes, form: str, start: threading.Barrier, end: threading.Event) -> None:
        super().__init__(daemon=True)
        self.port, self.body, self.form = port, body, form
        self.start_together, self.end = start, end
        self.first_step = float("nan")
        self.lines = 0
        self.failure: str | None = None

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.start_together.wait()
        asked = time.perf_counter()
        connection.request("POST", "/v1/train", self.body, {"Content-Type": "application/json", "Accept": self.form})
        answer = connection.getresponse()
        if answer.status != 200:
            self.failure = f"{answer.status}: {answer.read()[:200]!r}"
            return
        while answer.readline():
            if not self.lines:
                self.first_step = time.perf_counter() - asked
            self.lines += 1
            if self.end.is_set():
                break
        connection.close()


def resident(port: int) -> int:
    """Return the resident memory, in bytes, of all gunicorn processes of the server on `port`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    connection.getresponse().read()
    total = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if b"gunicorn" in command and f":{port}".encode() in command:
                lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                total += int(lines["VmRSS"].split()[0]) * 1024
        except (OSError, KeyError):
            continue
    return total


def health(port: int, seconds: float) -> list[float]:
    """Return the response times of `/health/live`, asked every 50 ms over new connections."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/health/live")
        connection.getresponse().read()
        connection.close()
        times.append(time.perf_counter() - start)
        time.sleep(0.05)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streams", description=__doc__)
    parser.add_argument("--streams", type=int, default=30, help="clients at once (default 30)")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they stream (default 20)")
    parser.add_argument("--quick", action="store_true", help="three seconds only, to see that it runs")
    options = parser.parse_args()
    seconds = 3.0 if options.quick else min(options.seconds, 25.0)  # a request computes for at most 30
    request = {key: value for key, value in XOR.request().items() if key != "dtype"} | FOREVER
    body = json.dumps(request).encode()
    with gunicorn("Nabla", "service.app:create_app()", "/health/ready") as port:
        start, end = threading.Barrier(options.streams + 1), threading.Event()
        forms = ("application/x-ndjson", "text/event-stream")
        streams = [Stream(port, body, forms[number % 2], start, end) for number in range(options.streams)]
        for stream in streams:
            stream.start()
        start.wait()
        time.sleep(1.0)
        before = resident(port)
        times = health(port, seconds)
        after = resident(port)
        end.set()
        for stream in streams:
            stream.join(30)
    failures = [stream.failure for stream in streams if stream.failure]
    if failures:
        raise SystemExit(f"{len(failures)} streams failed: {failures[0]}")
    firsts = [stream.first_step for stream in streams]
    lines = [stream.lines for stream in streams]
    rows = [
        ["first step", duration(statistics.median(firsts)), duration(max(firsts)), FIRST_STEP.verdict(max(firsts))],
        [
            "/health/live meanwhile",
            duration(statistics.median(times)),
            duration(max(times)),
            HEALTH.verdict(max(times)),
        ],
        ["lines of a stream", f"{statistics.median(lines):g}", f"{min(lines)} least", ""],
        ["memory", f"{before / 2**20:.0f} MB", f"{after / 2**20:.0f} MB later", ""],
    ]
    table(f"{options.streams} streams on one worker, {seconds:g} s", ("", "median", "worst", "bar"), rows)


if __name__ == "__main__":
    main()
