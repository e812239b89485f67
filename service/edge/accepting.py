"""The listening sockets of a worker, which accept new connections one at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from service.edge.connection import Connection
from service.edge.edge import Edge

PAUSE_SECONDS = 1.0
"""Seconds without accepting after the system ran out of files."""

YIELD_SECONDS = 0.002
"""Seconds for which a connection is left to workers with fewer clients: they wake within a millisecond or two."""
TAKEN_AFTER_YIELD = 8
"""Connections that are accepted after that, if no other worker did: in a flood, all workers are needed."""

log = logging.getLogger("nabla.error")


class Accepting:
    """Accepts connections on a worker's listening sockets and hands them to its edge."""

    def __init__(self, edge: Edge, listeners: Iterable[socket.socket], tls: Any = None) -> None:
        self._edge = edge
        self._loop = edge.loop
        self._tls = tls
        self._listeners = list(listeners)
        self._joining: set[asyncio.Task[None]] = set()
        for listener in self._listeners:
            listener.setblocking(False)
            self._await(listener)

    def close(self) -> None:
        """Close the listening sockets; the system then refuses later clients, so that none waits in vain."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()

    def _await(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._offered, listener)

    def _offered(self, listener: socket.socket) -> None:
        """Accept a waiting connection, but leave it for a moment to workers with fewer clients, if there are some."""
        if self._edge.is_least_crowded():
            self._accept(listener)
        else:
            self._loop.remove_reader(listener)
            self._loop.call_later(YIELD_SECONDS, self._take, listener)

    def _take(self, listener: socket.socket) -> None:
        """Accept connections that were left to other workers and that none of them took."""
        if listener in self._listeners:
            self._await(listener)
            for _ in range(TAKEN_AFTER_YIELD):
                if not self._accept(listener):
                    return

    def _accept(self, listener: socket.socket) -> bool:
        """Accept one connection, and return whether there was one. The next may go to another worker.

        asyncio's own servers accept all waiting connections at once, so that one worker may get them all.
        """
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:  # no more files
            log.warning("no connection can be taken: %s", error)
            self._loop.remove_reader(listener)
            self._loop.call_later(PAUSE_SECONDS, self._resume, listener)
            return False
        connection.setblocking(False)
        joining = self._loop.create_task(self._join(connection))
        self._joining.add(joining)  # the loop itself does not keep tasks alive
        joining.add_done_callback(self._joining.discard)
        return True

    def _resume(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            self._await(listener)

    async def _join(self, connection: socket.socket) -> None:
        patience = None if self._tls is None else self._edge.settings.max_header_seconds
        with suppress(OSError):  # the client has gone again, or speaks no TLS
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._edge), connection, ssl=self._tls, ssl_handshake_timeout=patience
            )
