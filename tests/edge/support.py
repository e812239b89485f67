"""An edge that runs in a thread of the test, in front of any application, with short deadlines."""

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask

from service.app import create_app
from service.config import Settings
from service.edge.accepting import Accepting
from service.edge.edge import Edge
from tests.support import LOOPBACK, Answer, read_answer, xor

LIVE = b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n"
XOR = json.dumps(xor()).encode()
SHORT = {
    "max_header_seconds": 0.5,
    "max_body_seconds": 0.5,
    "max_send_seconds": 0.5,
    "max_body_bytes": 2**20,
    "log_requests": False,
}
"""Settings that end what is slow soon."""
KEEP_ALIVE = 0.5


class Running:
    """A running edge: its port for clients, and its objects for the tests."""

    def __init__(self, app: Any, listener: socket.socket | None = None, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.edge = Edge(app, self.loop, keep_alive=KEEP_ALIVE, parser_options={}, **options)
        self.listener = listener or socket.create_server((LOOPBACK, 0), backlog=512)
        self.port = self.listener.getsockname()[1]
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._serve(),))
        self._stop = asyncio.Event()
        self._thread.start()

    async def _serve(self) -> None:
        accepting = Accepting(self.edge, [self.listener])
        sweeping = self.loop.create_task(self.edge.sweep())
        await self._stop.wait()
        accepting.close()
        await self.edge.stop(5.0)
        sweeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeping
        await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Ask the edge to stop."""
        self.loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        """Wait until the edge has ended."""
        self.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.loop.close()
        assert not self.errors, self.errors
        assert not self.edge.connections

    def connect(self) -> socket.socket:
        """Open a connection to the edge."""
        connection = socket.create_connection((LOOPBACK, self.port), timeout=20)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def send(self, content: bytes) -> Answer:
        """Send a request on a new connection, and return the answer."""
        with self.connect() as connection:
            connection.sendall(content)
            return read_answer(connection)

    def get(self, path: str) -> Answer:
        """Send a GET request on a new connection, and return the answer."""
        return self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())


@contextlib.contextmanager
def running(app: Any = None, **settings: Any) -> Iterator[Running]:
    """Yield an edge in front of an application, by default the service."""
    settings = SHORT | settings
    if app is None:
        app = create_app(Settings(**settings))
    server = Running(app)
    server.edge.settings = Settings(**settings)
    try:
        yield server
    finally:
        server.join()


def plain(answer: Callable[[dict[str, Any], Any], Any]) -> Flask:
    """Return an application with one WSGI function as its only view, and with the service's state for the edge."""
    app = create_app(Settings(log_requests=False))
    app.wsgi_app = answer  # type: ignore[method-assign, assignment]
    return app


def at_once(*cases: Callable[[], None]) -> None:
    """Run cases in parallel: most of their time is waiting for a deadline."""
    with ThreadPoolExecutor(len(cases)) as threads:
        for done in [threads.submit(case) for case in cases]:
            done.result()


def all_of(connection: socket.socket) -> bytes:
    """Return all bytes until the connection ends, in whatever way."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 20):
            parts.append(part)
    return b"".join(parts)
