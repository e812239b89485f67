"""A pool of processes of this machine, an `Executor`. The processes start at the first use, and end with the server.

Each process has a thread here, which hands it one part after the other. A process that dies is replaced, and its part
computed again. The processes are started anew instead of forked: they have no socket, no thread and no lock of the
server.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import queue
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from typing import Any, TypeVar

from service.cluster.process import DONE, Compute, Forget, Named, Open, Stop
from service.cluster.values import Value
from service.engine.cache import LeastRecentlyUsed
from service.problems import Problem, retry_after

T = TypeVar("T")

ATTEMPTS = 3
"""The most times that a part is computed whose processes die: it may be the part that kills them."""
SHARED_BYTES = 256 * 2**20
"""Memory of shared values that are kept for later requests, at most."""
IDLE_SECONDS = 1.0
"""Seconds after which an idle process forgets the values that nobody keeps any more."""
ENDING_SECONDS = 5.0
MAIN = "from service.cluster.process import main; main()"
MALLOC = {"MALLOC_ARENA_MAX": "2", "MALLOC_MMAP_THRESHOLD_": "33554432", "MALLOC_TRIM_THRESHOLD_": "268435456"}
"""The settings of glibc that gunicorn.conf.py explains."""

ROOT = str(Path(__file__).parents[2])
"""The folder of the packages `service` and `schemas`."""

log = logging.getLogger("nabla.error")


class _Part(Future[Any]):
    """A part of a computation: the pickle of the call, and its result."""

    def __init__(self, call: bytes, values: tuple[Value, ...]) -> None:
        super().__init__()
        self.call = call
        self.values = values
        self.stop: Callable[[], None] | None = None
        """Tells the process that computes the part to stop; None before and after."""

    def cancel(self) -> bool:
        """Give the part up. One that is computed ends at its next look, if it has a watch."""
        given_up = super().cancel()
        stop = self.stop
        if not given_up and stop is not None:
            stop()
        return given_up


class Pool:
    """A pool of `width` processes."""

    def __init__(self, width: int) -> None:
        self.width = width
        self._parts: queue.SimpleQueue[_Part | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._kept: LeastRecentlyUsed[str, Value] = LeastRecentlyUsed(SHARED_BYTES, lambda _, value: value.nbytes)
        self._alive: weakref.WeakValueDictionary[str, Value] = weakref.WeakValueDictionary()
        """The values that are kept, or that a part needs which waits or is computed."""

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Compute a function of a module in one of the processes. Raises what pickle raises for what cannot travel."""
        values = tuple(each for each in arguments if isinstance(each, Value))
        sent = tuple(Named(each.name) if isinstance(each, Value) else each for each in arguments)
        part = _Part(pickle.dumps((function, sent), protocol=5), values)
        with self._lock:
            if not self._threads:
                self._start()
        self._parts.put(part)
        return part

    def share(self, name: str, value: Any, *, keep: bool = True) -> Any:
        """Return an argument for `submit` that stands for the value, which all processes read from the same memory."""
        alive = self._alive.get(name)

        def make() -> Value:
            return alive or Value(name, value)

        found = self._kept.get(name, make) if keep else make()
        with self._lock:
            return self._alive.setdefault(name, found)

    @property
    def nbytes(self) -> int:
        """The memory of the values that are kept for later requests."""
        return self._kept.nbytes

    def shrink(self, nbytes: int) -> None:
        """Drop about so many bytes of the values that are kept for later requests."""
        self._kept.shrink(nbytes)

    def close(self) -> None:
        """End the processes. Parts that wait are given up."""
        with self._lock:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._parts.put(None)
        for thread in threads:
            thread.join(ENDING_SECONDS)

    def _start(self) -> None:
        self._threads = [
            threading.Thread(target=self._serve, name=f"pool-{place}", daemon=True) for place in range(self.width)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        """Hand parts to one process, and replace it when it dies. This is the work of a thread."""
        process: _Process | None = None
        while True:
            try:
                part = self._parts.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if process is not None:
                    process.forget(self._alive)
                continue
            if part is None:
                break
            if part.set_running_or_notify_cancel():
                process = self._compute(part, process)
            part.call, part.values = b"", ()  # whoever keeps the result does not need them
            del part
        if process is not None:
            process.end()

    def _compute(self, part: _Part, process: _Process | None) -> _Process | None:
        """Compute a part, in a new process where there is none or it dies; return the process that is left."""
        for attempt in range(ATTEMPTS):
            try:
                process = process or _Process()
                process.forget(self._alive)
                kind, result = process.compute(part)
            except (OSError, EOFError) as error:
                status = None if process is None else process.end()
                process = None
                fields = {"attempt": attempt + 1, "status": status}
                log.error("a process of the pool ended: %s", error, extra={"fields": fields})
                continue
            except BaseException as error:
                part.set_exception(error)
                return process
            if kind == DONE:
                part.set_result(result)
            else:
                part.set_exception(result)
            return process
        part.set_exception(_lost())
        return None


def _lost() -> Problem:
    detail = f"The processes that compute parts of this request ended {ATTEMPTS} times before they were done."
    return Problem("cluster-unavailable", detail, headers=retry_after(1.0))


class _Process:
    """One process of the pool, and the socket to it."""

    def __init__(self) -> None:
        mine, its = socket.socketpair()
        with mine, its:
            # As this process finds its modules, but not in the folder that it happens to be in, which '' means.
            path = os.pathsep.join([ROOT, *filter(None, sys.path)])
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", MAIN, str(its.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[its.fileno()],
                start_new_session=True,  # the terminal's signals are for the server
                env={**MALLOC, **os.environ, "PYTHONPATH": path},
            )
            self._connection = Connection(mine.detach())
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._has: set[str] = set()
        """The names of the values that the process has."""

    def compute(self, part: _Part) -> tuple[str, Any]:
        """Return how a part ended, and its result or its exception. Raise `OSError` or `EOFError` if the process
        dies."""
        number = next(self._numbers)
        for value in part.values:
            if value.name not in self._has:
                with self._sending:
                    self._connection.send_bytes(pickle.dumps(Open(value.name, value.spans)))
                    send_handle(self._connection, value.descriptor, None)
                self._has.add(value.name)
        self._send(Compute(number, part.call))
        part.stop = lambda: self._stop(number)
        try:
            kind, result = pickle.loads(self._connection.recv_bytes())
        finally:
            part.stop = None
        return kind, result

    def forget(self, alive: weakref.WeakValueDictionary[str, Value]) -> None:
        """Let the process drop the values that nobody needs."""
        gone = [name for name in self._has if name not in alive]
        if gone:
            self._has.difference_update(gone)
            with suppress(OSError):  # the next part finds that the process is gone
                self._send(Forget(gone))

    def end(self) -> int | None:
        """End the process, and return the status with which it ended."""
        self._connection.close()
        try:
            return self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _stop(self, number: int) -> None:
        with suppress(OSError):
            self._send(Stop(number))

    def _send(self, message: Compute | Forget | Stop) -> None:
        with self._sending:
            self._connection.send_bytes(pickle.dumps(message, protocol=5))
