"""What the service tells its operators: timings, metrics and logs.

Metrics are Prometheus's. With several workers, `PROMETHEUS_MULTIPROC_DIR` makes them add up:
`gunicorn.conf.py` sets it.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import quote

import orjson
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

REQUESTS = Counter("nabla_requests", "Requests answered", ("method", "route", "status"))
SECONDS = Histogram(
    "nabla_request_seconds",
    "Time from the first byte of a request to its answer",
    ("route",),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
STREAMS = Counter("nabla_streams", "Streams that ended, and documents whose client left", ("outcome",))
OPEN_STREAMS = Gauge("nabla_open_streams", "Streams that are open", multiprocess_mode="livesum")

error_log = logging.getLogger("nabla.error")

STANDARD_OUTPUT = 1
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""Methods that have a label of their own: a client must not be able to make new ones."""


class Timer:
    """The stages of one request, for the Server-Timing header."""

    __slots__ = ("_last", "memory", "stages", "started")

    def __init__(self) -> None:
        self.started = self._last = time.perf_counter()
        self.stages: list[tuple[str, float]] = []
        self.memory: int | None = None
        """Bytes that the computation takes at its peak."""

    def mark(self, stage: str) -> None:
        """The stage that ends now."""
        now = time.perf_counter()
        self.stages.append((stage, now - self._last))
        self._last = now

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self.started

    def header(self) -> str:
        """Milliseconds of each stage, as the Server-Timing header has them, and the memory of the computation."""
        entries = [f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in self.stages]
        if self.memory is not None:
            entries.append(f'memory;desc="{self.memory} bytes"')
        return ", ".join(entries)


@lru_cache(maxsize=1024)
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    # Finding a labelled child takes longer than counting with it.
    return REQUESTS.labels(method, route, status), SECONDS.labels(route)


def count(method: str, route: str, status: int, seconds: float) -> None:
    """Record one answered request."""
    requests, durations = _children(method if method in METHODS else "other", route, status)
    requests.inc()
    durations.observe(seconds)


def count_stream(outcome: str) -> None:
    """Record one stream that ended, with the status of its summary or how it was cut off."""
    STREAMS.labels(outcome).inc()


class RequestLog:
    """A line for each answered request: by one system call, so that lines of threads do not mix."""

    def __init__(self, *, as_text: bool) -> None:
        self._line = _text_line if as_text else _json_line

    def write(self, request_id: str, method: str, path: str, status: int, seconds: float) -> None:
        content = self._line(request_id, method, path, status, seconds)
        with suppress(OSError):  # nobody listens any more: no reason to fail the request
            os.write(STANDARD_OUTPUT, content)


def _json_line(request_id: str, method: str, path: str, status: int, seconds: float) -> bytes:
    line = {
        "time": time.time(),
        "level": "info",
        "logger": "nabla.access",
        "message": "request",
        "request_id": request_id,
        "method": method,
        "path": path,
        "status": status,
        "milliseconds": round(seconds * 1e3, 3),
    }
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a path that is not UTF-8
        return orjson.dumps(line | {"path": repr(path), "method": repr(method)}, option=orjson.OPT_APPEND_NEWLINE)


def _text_line(request_id: str, method: str, path: str, status: int, seconds: float) -> bytes:
    asked = f"{method} {path}"
    if not (asked.isascii() and asked.isprintable()):
        # A path may hold whatever a client wrote, also what a terminal takes for a command.
        asked = quote(asked, safe=" /", encoding="latin-1", errors="replace")
    return f"{_clock(int(time.time()))} {status} {asked} {seconds * 1e3:.1f} ms {request_id}\n".encode()


@lru_cache(maxsize=1)
def _clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def logs_text(log_format: str) -> bool:
    """Whether logs are lines for people: as the setting says, or where standard output is a terminal."""
    return log_format == "text" or (log_format == "auto" and os.isatty(STANDARD_OUTPUT))


def exposition() -> tuple[bytes, str]:
    """All metrics in Prometheus's text format, summed over the workers, and its media type."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message and the fields given as `extra={"fields": …}`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """A line for people: time, level, message and fields, and below it the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={value}" for name, value in getattr(record, "fields", {}).items())
        line = f"{_clock(int(record.created))} {record.levelname} {record.getMessage()}{fields}"
        if not line.isprintable():  # it may hold a path, which may hold what a terminal takes for a command
            line = line.encode("unicode_escape").decode()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure_logging(*, as_text: bool) -> None:
    """Send the service's own logs to standard output, and have gunicorn's in the same form."""
    formatter = TextFormatter() if as_text else JsonFormatter()
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("nabla")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for each in (handler, *logging.getLogger("gunicorn.error").handlers):
        each.setFormatter(formatter)
