"""The main program of a process of the pool: it computes the parts that the server sends through a socket.

The server is the only one at the other end. When it closes the socket, or ends in any way, the process ends at once.
"""

from __future__ import annotations

import gc
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle
from typing import Any, NamedTuple

from service.cluster.inside import computing
from service.cluster.values import Span, opened

DONE, RAISED = "done", "raised"
"""The outcome of a part: a result or an exception."""


class Named(NamedTuple):
    """An argument that stands for the value of this name, which was sent before."""

    name: str


class Open(NamedTuple):
    """A message: the value of this name is in the memory whose descriptor follows."""

    name: str
    spans: list[Span]


class Forget(NamedTuple):
    """A message: the values of these names are not needed any more."""

    names: Sequence[str]


class Compute(NamedTuple):
    """A message: the part with this number is to be computed; `call` is the pickle of a function and its arguments."""

    number: int
    call: bytes


class Stop(NamedTuple):
    """A message: nobody waits for the part with this number any more."""

    number: int


class Process:
    """The state of this process: the values that it has, the parts that wait, and the number of the unwanted part."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.values: dict[str, Any] = {}
        self.parts: queue.SimpleQueue[Compute] = queue.SimpleQueue()
        self.stopped = -1

    def read(self) -> None:
        """Read messages until the server is gone; then end the process, whatever it computes."""
        try:
            while True:
                self._take(pickle.loads(self.connection.recv_bytes()))
        finally:
            os._exit(0)

    def _take(self, message: Open | Forget | Compute | Stop) -> None:
        if isinstance(message, Open):
            self.values[message.name] = opened(recv_handle(self.connection), message.spans)
        elif isinstance(message, Forget):
            for name in message.names:
                self.values.pop(name, None)
        elif isinstance(message, Stop):
            self.stopped = message.number
        else:
            self.parts.put(message)

    def compute(self) -> None:
        """Compute one part after the other, and send the results."""
        while True:
            part = self.parts.get()
            computing(lambda number=part.number: self.stopped == number)  # type: ignore[misc]
            try:
                self.connection.send_bytes(self._result(part))
            except OSError:
                os._exit(0)
            del part

    def _result(self, part: Compute) -> bytes:
        try:
            function, arguments = pickle.loads(part.call)
            values = [self.values[each.name] if isinstance(each, Named) else each for each in arguments]
            return written(DONE, function(*values))
        except Exception as error:
            return written(RAISED, error)


def written(kind: str, result: Any) -> bytes:
    """Return the pickle of how a part ended; an exception that cannot be pickled is described in words."""
    try:
        whole = pickle.dumps((kind, result), protocol=5)
        if kind == RAISED:
            pickle.loads(whole)  # some are written, but cannot be read
        return whole
    except Exception as error:
        cause = result if kind == RAISED else error
        return pickle.dumps((RAISED, RuntimeError(f"{type(cause).__name__}: {cause}")), protocol=5)


def main() -> None:
    """Compute parts until the server ends. The argument of the command line is the descriptor of the socket."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.setswitchinterval(0.001)  # the reader must hear soon that a part is not wanted
    gc.set_threshold(20_000, 5, 1_000_000)  # as in the workers of the server
    process = Process(Connection(int(sys.argv[1])))
    threading.Thread(target=process.read, daemon=True).start()
    process.compute()
