"""gunicorn's worker: the event loop, the listening sockets, and the end."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
from contextlib import suppress
from typing import Any

from gunicorn.sock import ssl_context
from gunicorn.workers.base import Worker as BaseWorker

from service.api.streaming import stopping
from service.edge.connection import Connection
from service.edge.edge import Edge

HEARTBEAT = 1.0
"""Seconds between two signs of life for gunicorn's master."""
OTHER_FILES = 64
"""Open files of a worker beside its connections."""

log = logging.getLogger("nabla.error")


class Worker(BaseWorker):  # type: ignore[misc]  # gunicorn has no types
    """A process with one event loop for its connections and a pool of threads for their requests."""

    def init_process(self) -> None:
        """Make the loop, after the fork, and go on."""
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(_report)
        self.quick = False
        """Whether the stop may cut requests off."""
        super().init_process()

    def init_signals(self) -> None:
        """As gunicorn's own, through the loop, which then wakes up at once."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self.stopped = asyncio.Event()
        self.loop.add_signal_handler(signal.SIGTERM, self.stop)
        self.loop.add_signal_handler(signal.SIGINT, self.stop, True)
        self.loop.add_signal_handler(signal.SIGQUIT, self.stop, True)
        self.loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        signal.signal(signal.SIGWINCH, self.handle_winch)
        # The master sends it to a worker whose heart has stopped; that does not run its loop either.
        signal.signal(signal.SIGABRT, self.handle_abort)

    def stop(self, quick: bool = False) -> None:
        """Take no more connections, and end when those that are open are done."""
        self.alive = False
        self.quick = self.quick or quick
        if quick:
            self.cfg.worker_int(self)
        self.stopped.set()

    def run(self) -> None:
        """Serve until told to stop."""
        self.loop.run_until_complete(self._serve())
        self.loop.close()

    async def _serve(self) -> None:
        edge = self.edge = Edge(
            self.wsgi, self.loop, keep_alive=self.cfg.keepalive, parser_options=_parser_options(self.cfg)
        )
        _allow_files(edge.settings.max_connections + OTHER_FILES)
        tls = ssl_context(self.cfg) if self.cfg.is_ssl else None
        self._joining: set[asyncio.Task[Any]] = set()
        for listener in self.sockets:
            listener.sock.setblocking(False)
            self.loop.add_reader(listener.sock.fileno(), self._accept, listener.sock, tls)
        sweep = self.loop.create_task(edge.sweep())
        while not self.stopped.is_set():
            self.notify()
            if self.ppid != os.getppid():
                self.log.info("Parent changed, shutting down: %s", self)
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), HEARTBEAT)
        await self._finish(edge)
        sweep.cancel()

    def _accept(self, listener: socket.socket, tls: Any) -> None:
        """Take one new connection: another worker, which is awake too, may take the next one.

        asyncio's own servers take as many as there are, so that one worker may get them all.
        """
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:  # no more files: look again later, not at once
            log.warning("a connection cannot be accepted: %s", error)
            self.loop.remove_reader(listener.fileno())
            self.loop.call_later(1.0, self._accept_again, listener, tls)
            return
        connection.setblocking(False)
        joining = self.loop.create_task(self._join(connection, tls))
        self._joining.add(joining)
        joining.add_done_callback(self._joining.discard)

    def _accept_again(self, listener: socket.socket, tls: Any) -> None:
        if not self.stopped.is_set():
            self.loop.add_reader(listener.fileno(), self._accept, listener, tls)

    async def _join(self, connection: socket.socket, tls: Any) -> None:
        timeout = None if tls is None else self.edge.settings.max_header_seconds
        with suppress(OSError):  # it has gone again, or speaks no TLS
            await self.loop.connect_accepted_socket(
                lambda: Connection(self.edge), connection, ssl=tls, ssl_handshake_timeout=timeout
            )

    async def _finish(self, edge: Edge) -> None:
        """Close the listening sockets at once, so that whoever connects now is refused and does not wait in vain."""
        for listener in self.sockets:
            self.loop.remove_reader(listener.sock.fileno())
            listener.sock.close()
        stopping.set()
        ending = self.loop.create_task(edge.stop(0.0 if self.quick else self.cfg.graceful_timeout))
        while not ending.done() and not self.quick:
            self.notify()
            await asyncio.wait((ending,), timeout=HEARTBEAT / 4)
        ending.cancel()


def _parser_options(cfg: Any) -> dict[str, Any]:
    """What gunicorn's settings say of the parser."""
    names = (
        "limit_request_line",
        "limit_request_fields",
        "limit_request_field_size",
        "permit_unconventional_http_method",
        "permit_unconventional_http_version",
    )
    return {name: getattr(cfg, name) for name in names}


def _allow_files(wanted: int) -> None:
    """Let the process open so many files, if it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in the loop, in the form of all logs."""
    del loop
    log.error("%s", context.get("message", "error in the event loop"), exc_info=context.get("exception"))
