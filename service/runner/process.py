"""A runner as a process: within a server, as one of gunicorn's workers, or alone, as `nabla worker`."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable

from service.api.context import Runtime, runtime_of
from service.config import Settings
from service.runner.loop import Runner

BEAT_SECONDS = 1.0
"""Seconds between two signs of life."""
NICENESS = 10
"""The niceness of a runner beside workers that serve requests: it computes with what they leave."""

log = logging.getLogger("nabla.runner")


def compute_until(
    runtime: Runtime, name: str, stop: threading.Event, beat: Callable[[], bool], last_seconds: float
) -> None:
    """Compute runs in a thread until `stop` is set or `beat`, which is called once a second, returns False.

    Then wait at most `last_seconds` for the present step.
    """
    thread = threading.Thread(target=Runner(runtime, name).run, args=(stop,), name="nabla-runner", daemon=True)
    thread.start()
    while not stop.wait(BEAT_SECONDS):
        if not beat():
            stop.set()
    for _ in range(int(last_seconds / BEAT_SECONDS)):
        thread.join(BEAT_SECONDS)
        if not thread.is_alive():
            return
        beat()


def name_of(place: str = "") -> str:
    """Return a name for a runner: the machine, the process and some random digits, or a `place` that others inherit."""
    return f"{socket.gethostname()[:40]}:{place or f'{os.getpid()}:{secrets.token_hex(4)}'}"


def work(settings: Settings, name: str) -> None:
    """Compute the runs of the database that the settings name, until SIGTERM or SIGINT. The main thread calls this."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log.info("worker %s computes runs", name)
    compute_until(runtime_of(settings), name, stop, lambda: True, last_seconds=35.0)
    log.info("worker %s ends", name)
