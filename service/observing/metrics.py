"""The Prometheus metrics of the service.

With several workers, they add up through the folder `PROMETHEUS_MULTIPROC_DIR`, which `gunicorn.conf.py` sets.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache

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

from service.observing import metric_files

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
RUNS = Gauge("nabla_runs", "Runs in the database", ("status",), multiprocess_mode="livemostrecent")
RUNNERS = Gauge("nabla_runners", "Processes that compute runs", ("state",), multiprocess_mode="livesum")
RUN_STEPS = Counter("nabla_run_steps", "Steps of runs that were computed")
RUN_SECONDS = Counter("nabla_run_seconds", "Time for which runs were computed", ("kind",))
RUN_ENDS = Counter("nabla_run_ends", "Runs that ended", ("status",))
DROPPED_LINES = Counter("nabla_log_lines_dropped", "Lines of the log that nobody read in time")

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
"""The methods that have a label of their own: a client must not be able to create labels."""


error_log = logging.getLogger("nabla.error")


@lru_cache(maxsize=1024)
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram, Histogram]:
    # Finding a labelled child takes longer than counting with it.
    return REQUESTS.labels(method, route, status), SECONDS.labels(route), QUEUE_SECONDS.labels(route)


@lru_cache(maxsize=128)
def _refusals(reason: str) -> Counter:
    return REFUSALS.labels(reason)


def count(method: str, route: str, status: int, seconds: float, queued: float) -> None:
    """Count an answered request: `seconds` from its first byte to its answer, `queued` of them in queues."""
    requests, durations, waits = _children(method if method in METHODS else "other", route, status)
    requests.inc()
    durations.observe(seconds)
    if queued:
        waits.observe(queued)


def refuse(reason: str) -> None:
    """Count a refused request or connection by its reason; `record` calls this for those that got a response."""
    _refusals(reason).inc()


def count_stream(outcome: str) -> None:
    """Count a stream that ended; the outcome is the status of its summary, or how it was cut off."""
    STREAMS.labels(outcome).inc()


def count_run_work(kind: str, steps: int, seconds: float) -> None:
    """Count steps of a run of this kind, and the time that they took."""
    RUN_STEPS.inc(steps)
    RUN_SECONDS.labels(kind).inc(seconds)


def count_run_end(status: str) -> None:
    """Count a run that ended with this status."""
    RUN_ENDS.labels(status).inc()


def exposition() -> tuple[bytes, str]:
    """Return all metrics in Prometheus's text format, summed over the workers, and the media type of that format."""
    sample_now()
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST


_sampled: dict[tuple[Gauge, str], Callable[[], float]] = {}
_sampled_rarely: dict[Gauge, Callable[[], Mapping[str, float]]] = {}

RARELY = 15
"""Seconds between two readings of gauges whose values take long to find."""


def sample(gauge: Gauge, read: Callable[[], float], label: str = "") -> None:
    """Set a gauge to `read()` once a second and whenever the metrics are asked for; requests then pay nothing.

    `label` is the value of the gauge's label, if it has one. A later call for the same gauge and label replaces `read`.
    """
    _sampled[gauge, label] = read


def sample_rarely(gauge: Gauge, read: Callable[[], Mapping[str, float]]) -> None:
    """Set a gauge to what `read()` has for each value of its label, every `RARELY` seconds in a thread of its own.

    `read` may wait and fail: no request waits for it, and the gauge keeps its value.
    """
    _sampled_rarely[gauge] = read


def sample_now() -> None:
    """Set every sampled gauge to its present value."""
    for (gauge, label), read in list(_sampled.items()):
        (gauge.labels(label) if label else gauge).set(read())


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes on Linux; elsewhere its maximum, as the system counts."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


sample(RESIDENT_BYTES, resident_bytes)


def start_sampling() -> None:
    """Start a thread that sets the sampled gauges once a second. Call this after the fork, which no thread survives."""
    threading.Thread(target=_sample_on, name="nabla-gauges", daemon=True).start()
    threading.Thread(target=_sample_rarely_on, name="nabla-slow-gauges", daemon=True).start()


def _sample_rarely_on() -> None:
    while True:
        time.sleep(RARELY)
        for gauge, read in list(_sampled_rarely.items()):
            try:
                for label, value in read().items():
                    gauge.labels(label).set(value)
            except Exception:
                error_log.exception("a gauge cannot be read")


def _sample_on() -> None:
    while True:
        try:
            sample_now()
        except Exception:
            error_log.exception("a gauge cannot be read")  # and the others go on
        time.sleep(1.0)
