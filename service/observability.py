"""What the service tells its operators: timings, metrics and logs.

Metrics are Prometheus's. With several workers, `PROMETHEUS_MULTIPROC_DIR` makes them add up:
`gunicorn.conf.py` sets it.
"""

from __future__ import annotations

import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
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
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

from service import metric_files
from service.log_writer import Stream, Writer

if metric_files.VARIABLE in os.environ:
    # Before the first metric is made.
    values.ValueClass = values.MultiProcessValue(metric_files.identifier)  # type: ignore[no-untyped-call]

REQUESTS = Counter("nabla_requests", "Requests answered", ("method", "route", "status"))
SECONDS = Histogram(
    "nabla_request_seconds",
    "Time from the first byte of a request to its answer",
    ("route",),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
QUEUE_SECONDS = Histogram(
    "nabla_queue_seconds",
    "Time that requests which had to wait for others waited",
    ("route",),
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
REFUSALS = Counter("nabla_refusals", "Requests and connections that were refused", ("reason",))
STREAMS = Counter("nabla_streams", "Streams that ended, and documents whose client left", ("outcome",))
OPEN_STREAMS = Gauge("nabla_open_streams", "Streams that are open", multiprocess_mode="livesum")
BUSY_SLOTS = Gauge("nabla_busy_slots", "Requests that compute now", ("lane",), multiprocess_mode="livesum")
QUEUE_LENGTH = Gauge("nabla_queue_length", "Requests that wait for a slot", ("lane",), multiprocess_mode="livesum")
RESERVED_BYTES = Gauge("nabla_reserved_bytes", "Memory that requests hold by estimate", multiprocess_mode="livesum")
RESIDENT_BYTES = Gauge("nabla_resident_bytes", "Memory that the workers really take", multiprocess_mode="livesum")
OPEN_CONNECTIONS = Gauge("nabla_open_connections", "Connections that are open", multiprocess_mode="livesum")
DROPPED_LINES = Counter("nabla_log_lines_dropped", "Lines of the log that nobody read in time")

error_log = logging.getLogger("nabla.error")

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
output, errors = Writer(STANDARD_OUTPUT, DROPPED_LINES.inc), Writer(STANDARD_ERROR, DROPPED_LINES.inc)
QUIET = ("/health/live", "/health/ready", "/metrics")
"""Routes that are asked every few seconds by machines: not logged."""
LONGEST_PATH = 1024
"""Characters of a path that are logged: nearly every line then fits into one write, which does not mix with others."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""Methods that have a label of their own: a client must not be able to make new ones."""


class Timer:
    """The stages of one request, for the Server-Timing header."""

    __slots__ = ("_last", "memory", "stages", "started")

    def __init__(self, arrived: float | None = None) -> None:
        """Start now; `arrived` is the reading of `time.monotonic` at the first byte of the request, if it is known."""
        self._last = time.monotonic()
        self.started = self._last if arrived is None else arrived
        self.stages: list[tuple[str, float]] = []
        self.memory: int | None = None
        """Bytes that the computation takes at its peak."""

    def mark(self, stage: str) -> None:
        """The stage that ends now."""
        now = time.monotonic()
        self.stages.append((stage, now - self._last))
        self._last = now

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def header(self) -> str:
        """Milliseconds of each stage, as the Server-Timing header has them, and the memory of the computation."""
        entries = [f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in self.stages]
        if self.memory is not None:
            entries.append(f'memory;desc="{self.memory} bytes"')
        return ", ".join(entries)


@lru_cache(maxsize=1024)
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram, Histogram]:
    # Finding a labelled child takes longer than counting with it.
    return REQUESTS.labels(method, route, status), SECONDS.labels(route), QUEUE_SECONDS.labels(route)


@lru_cache(maxsize=128)
def _refusals(reason: str) -> Counter:
    return REFUSALS.labels(reason)


def count_stream(outcome: str) -> None:
    """Record one stream that ended, with the status of its summary or how it was cut off."""
    STREAMS.labels(outcome).inc()


@dataclass(slots=True)
class Access:
    """An answered request, as it is counted and logged. Times are in seconds, sizes in bytes."""

    request_id: str
    method: str
    route: str
    """The pattern of the path, `unmatched` where there is none: a client must not be able to make new labels."""
    path: str
    status: int
    seconds: float
    """From the first byte of the request to the answer; of a stream, to its beginning."""
    client: str = ""
    """The client's address."""
    key: str = ""
    """The name of the client's key."""
    received: int | None = None
    """Length of the request's body as it was sent."""
    sent: int | None = None
    """Length of the answer's body; None for a stream, whose length nobody knows at its beginning."""
    queued: float = 0.0
    """How long the request waited for others."""
    reason: str = ""
    """Why it was refused: the kind of problem, or the finer word that `environ["nabla.reason"]` had."""


_line_of: Callable[[Access], bytes] | None = None


def log_requests(log_format: str | None) -> None:
    """Log the requests that are recorded from here on in one of the formats of `Settings.log_format`; None: do not."""
    global _line_of
    _line_of = None if log_format is None else _text_line if logs_text(log_format) else _json_line


def record(access: Access) -> None:
    """Count an answered request, and log it unless a machine asks it every few seconds. Never waits for anybody."""
    method = access.method if access.method in METHODS else "other"
    requests, durations, queued = _children(method, access.route, access.status)
    requests.inc()
    durations.observe(access.seconds)
    if access.queued:
        queued.observe(access.queued)
    if access.reason:
        refuse(access.reason)
    if _line_of is not None and access.route not in QUIET:
        output.write(_line_of(access))


def refuse(reason: str) -> None:
    """Count a request or connection that is refused without an answer; `record` counts those that are answered."""
    _refusals(reason).inc()


def _json_line(access: Access) -> bytes:
    line = {
        "time": time.time(),
        "level": "info",
        "logger": "nabla.access",
        "message": "request",
        "request_id": access.request_id,
        "method": access.method,
        "path": access.path[:LONGEST_PATH],
        "status": access.status,
        "milliseconds": round(access.seconds * 1e3, 3),
        "queued": round(access.queued * 1e3, 3),
        "client": access.client,
        "received": access.received,
        "sent": access.sent,
    }
    if access.key:
        line["key"] = access.key
    if access.reason:
        line["reason"] = access.reason
    try:
        return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # a path that is not UTF-8
        texts = {name: repr(value) for name, value in line.items() if name in ("path", "method", "client")}
        return orjson.dumps(line | texts, option=orjson.OPT_APPEND_NEWLINE)


def _text_line(access: Access) -> bytes:
    asked = f"{access.method} {access.path[:LONGEST_PATH]}"
    if not (asked.isascii() and asked.isprintable()):
        # A path may hold whatever a client wrote, also what a terminal takes for a command.
        asked = quote(asked, safe=" /", encoding="latin-1", errors="replace")
    took = f"{access.seconds * 1e3:.1f} ms"
    return f"{_clock(int(time.time()))} {access.status} {asked} {took} {access.request_id}\n".encode()


@lru_cache(maxsize=1)
def _clock(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def logs_text(log_format: str) -> bool:
    """Whether logs are lines for people: as the setting says, or where standard output is a terminal."""
    return log_format == "text" or (log_format == "auto" and os.isatty(STANDARD_OUTPUT))


def exposition() -> tuple[bytes, str]:
    """All metrics in Prometheus's text format, summed over the workers, and its media type."""
    sample_now()
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
    handler = logging.StreamHandler(Stream(output))
    logger = logging.getLogger("nabla")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for each in (handler, *logging.getLogger("gunicorn.error").handlers):
        each.setFormatter(formatter)


_sampled: dict[tuple[Gauge, str], Callable[[], float]] = {}


def sample(gauge: Gauge, read: Callable[[], float], lane: str = "") -> None:
    """Have a gauge tell what `read` gives, once a second and when the metrics are asked for.

    That costs requests nothing. `lane` is the gauge's label, if it has one. The last `read` counts.
    """
    _sampled[gauge, lane] = read


def sample_now() -> None:
    """Read what `sample` was given."""
    for (gauge, lane), read in list(_sampled.items()):
        (gauge.labels(lane) if lane else gauge).set(read())


def resident_bytes() -> int:
    """Memory that this process takes: its resident set on Linux, its largest so far elsewhere."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


sample(RESIDENT_BYTES, resident_bytes)


def start_threads() -> None:
    """In a worker: write logs from a thread of its own, and sample gauges once a second.

    Threads do not survive a fork, so this has to be called after it. Without it, lines are written at once.
    """
    for handler in logging.getLogger("gunicorn.error").handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr:
            handler.setStream(Stream(errors))
    output.start()
    errors.start()
    threading.Thread(target=_sample_on, name="nabla-gauges", daemon=True).start()


def _sample_on() -> None:
    while True:
        try:
            sample_now()
        except Exception:
            error_log.exception("a gauge cannot be read")  # and the others go on
        time.sleep(1.0)
