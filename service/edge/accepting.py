"""Listening sockets: taking new connections, one at a time."""

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
"""How long no connection is taken after the system had no more files."""

YIELD_SECONDS = 0.002
"""How long a connection is left to workers with fewer clients: they are awake within a millisecond or two."""
TAKEN_AFTER_YIELD = 8
"""Connections that are taken then, if nobody else did: in a flood, all workers are needed."""

log = logging.getLogger("nabla.error")


class Accepting:
    """Takes connections from listening sockets and hands them to the edge, until it is closed."""

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
        """Close the listening sockets: whoever connects now is refused by the system, and does not wait in vain."""
        for listener in self._listeners:
            self._loop.remove_reader(listener)
            listener.close()
        self._listeners.clear()

    def _await(self, listener: socket.socket) -> None:
        self._loop.add_reader(listener, self._offered, listener)

    def _offered(self, listener: socket.socket) -> None:
        """A connection is there, and other workers are awake too: those with fewer clients come first."""
        if self._edge.is_least_crowded():
            self._accept(listener)
        else:
            self._loop.remove_reader(listener)
            self._loop.call_later(YIELD_SECONDS, self._take, listener)

    def _take(self, listener: socket.socket) -> None:
        """Take connections that were left to others for a while, if they are still there."""
        if listener in self._listeners:
            self._await(listener)
            for _ in range(TAKEN_AFTER_YIELD):
                if not self._accept(listener):
                    return

    def _accept(self, listener: socket.socket) -> bool:
        """Take one connection, and say whether there was one. Other workers may take the next ones.

        asyncio's own servers take as many as there are, so that one worker may get them all.
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
        with suppress(OSError):  # it has gone again, or speaks no TLS
            await self._loop.connect_accepted_socket(
                lambda: Connection(self._edge), connection, ssl=self._tls, ssl_handshake_timeout=patience
            )
