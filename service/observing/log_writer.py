"""A writer of log lines that does not let a reader who stops reading stop the service.

Until `start`, lines are written at once. After it, they go into a bounded buffer, which a thread writes ten times a
second. If the reader takes nothing more, such as a pipe that nobody reads, the thread waits and the buffer fills up.
Further lines are dropped and counted, and the thread logs their number as soon as it can.
"""

from __future__ import annotations

import atexit
import logging
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator

log = logging.getLogger("nabla.log")

BUFFER = 4 * 2**20
"""Bytes of lines that may wait: some ten thousand requests."""
GATHER = 0.1
"""Seconds between two writes; the lines of this time are written together."""
LAST = 1.0
"""Seconds that an ending process waits for the reader of its last lines."""
ATOMIC: int = select.PIPE_BUF
"""Bytes that a pipe takes as a whole in one write, so that lines of several workers do not mix."""


class Writer:
    """Writes log lines to a file descriptor: at once, or from a thread after `start`."""

    def __init__(self, descriptor: int, on_drop: Callable[[], None]) -> None:
        """Write to `descriptor`; `on_drop` is called for each dropped line."""
        self.descriptor = descriptor
        self.on_drop = on_drop
        self._clear()

    def _clear(self) -> None:
        # A signal handler may log in the middle of a call here.
        self._lock = threading.RLock()
        self._lines: list[bytes] = []
        self._held = self._dropped = 0
        self._wake: threading.Event | None = None
        self._waiting = self._ending = False

    def write(self, line: bytes) -> None:
        """Write a line, which includes its line feed. After `start`, this only puts it into the buffer."""
        if self._wake is None:
            _put(self.descriptor, line)
            return
        with self._lock:
            fits = self._held + len(line) <= BUFFER
            if fits:
                self._lines.append(line)
                self._held += len(line)
            else:
                self._dropped += 1
            waiting, self._waiting = self._waiting, False
        if waiting:
            self._wake.set()
        if not fits:
            self.on_drop()

    def start(self) -> None:
        """From now on write from a thread. Call this after a fork, which no thread survives."""
        self._clear()
        wake = self._wake = threading.Event()
        thread = threading.Thread(target=self._run, args=(wake,), name=f"nabla-log-{self.descriptor}", daemon=True)
        thread.start()
        atexit.register(self._end, wake, thread)

    def _end(self, wake: threading.Event, thread: threading.Thread) -> None:
        """Write the remaining lines at the end of the process, for at most a second."""
        self._ending = True
        wake.set()
        thread.join(LAST)

    def _run(self, wake: threading.Event) -> None:
        while True:
            with self._lock:
                lines, self._lines = self._lines, []
                dropped, self._dropped = self._dropped, 0
                self._waiting = not lines
            if lines:
                for part in _parts(lines):
                    _put(self.descriptor, part)
                    with self._lock:  # what is being written still counts
                        self._held -= len(part)
                if dropped:
                    log.warning("%d lines of the log were dropped: nobody read them in time", dropped)
                if not self._ending:
                    time.sleep(GATHER)
            elif self._ending:
                return
            else:
                wake.wait()
                wake.clear()
                if not self._ending:
                    time.sleep(GATHER)


def _parts(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Join lines to parts that a pipe takes in one write, so that lines of several workers do not mix."""
    part: list[bytes] = []
    length = 0
    for line in lines:
        if length + len(line) > ATOMIC and part:
            yield b"".join(part)
            part.clear()
            length = 0
        part.append(line)
        length += len(line)
    if part:
        yield b"".join(part)


def _put(descriptor: int, content: bytes) -> None:
    """Write everything, however long the reader takes. If writing fails, give up: logs must not fail requests."""
    while content:
        try:
            content = content[os.write(descriptor, content) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except OSError:
            return


class Stream:
    """A text stream over a `Writer`, for `logging.StreamHandler`."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def write(self, text: str) -> None:
        self.writer.write(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        """Do nothing: a stream keeps no text."""
