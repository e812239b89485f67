"""The worker class for gunicorn: a process with an event loop, its signals, and its orderly end.

Some workers are runners: they have no connections and compute runs. `roles.py` decides which.
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import signal
import threading
from contextlib import suppress
from typing import Any

from gunicorn.sock import ssl_context
from gunicorn.workers.base import Worker as BaseWorker

from service.api.streaming import stopping
from service.edge.accepting import Accepting
from service.edge.crowds import Crowds
from service.edge.edge import Edge
from service.runner.process import NICENESS, compute_until, name_of

HEARTBEAT = 1.0
"""Seconds between two signs of life for gunicorn's master."""
OTHER_FILES = 64
"""Open files of a worker beside its connections."""
PARSER_OPTIONS = (
    "limit_request_line",
    "limit_request_fields",
    "limit_request_field_size",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
)
"""Settings of gunicorn that its parser takes."""

CROWDS = Crowds()
"""The table of all workers. gunicorn's first process makes it when it imports this module, so all share it."""
SERVER = secrets.token_hex(4)
"""The name of this server among those of its machine, made like `CROWDS`: a new runner takes over from a killed one."""

log = logging.getLogger("nabla.error")


class Worker(BaseWorker):  # type: ignore[misc]  # gunicorn has no types
    """A gunicorn worker with one event loop for its connections and a pool of threads for their requests."""

    is_runner = False
    """Whether this worker computes runs and takes no connections. `roles.assign` decides it before the fork."""
    seat = 0
    """The number of a runner among those of this server. `roles.assign` gives it."""

    def init_process(self) -> None:
        """Make the event loop after the fork, then initialise and run as gunicorn does."""
        self.ending = threading.Event()
        if self.is_runner:
            super().init_process()
            return
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.loop.set_exception_handler(_report)
        self.stopped = asyncio.Event()
        self.quick = False
        """Whether the stop cuts off unfinished requests."""
        super().init_process()

    def init_signals(self) -> None:
        """Let the event loop handle gunicorn's signals, so that it wakes at once."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        if self.is_runner:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                signal.signal(number, lambda *_: self.ending.set())
            signal.signal(signal.SIGUSR1, self.handle_usr1)
            signal.signal(signal.SIGWINCH, self.handle_winch)
            return
        self.loop.add_signal_handler(signal.SIGTERM, self.stop)
        self.loop.add_signal_handler(signal.SIGINT, self.stop, True)
        self.loop.add_signal_handler(signal.SIGQUIT, self.stop, True)
        self.loop.add_signal_handler(signal.SIGUSR1, self.log.reopen_files)
        signal.signal(signal.SIGWINCH, self.handle_winch)
        # The master sends SIGABRT to a worker without heartbeat, whose loop would not run a handler.
        signal.signal(signal.SIGABRT, self.handle_abort)

    def stop(self, quick: bool = False) -> None:
        """Accept no more connections, and end once the open ones are done; with `quick`, cut them off."""
        self.alive = False
        self.quick = self.quick or quick
        if quick:
            self.cfg.worker_int(self)
        self.stopped.set()

    def run(self) -> None:
        """Serve until `stop` is called, or compute runs until a signal comes. gunicorn calls this."""
        if self.is_runner:
            self._compute()
        else:
            self.loop.run_until_complete(self._serve())

    def _compute(self) -> None:
        for listener in self.sockets:
            listener.close()
        os.nice(NICENESS)
        runtime = self.wsgi.extensions["nabla"]
        # As long as a runner lives, no other one has its seat.
        name = name_of(f"{SERVER}:{self.seat}")

        def beat() -> bool:
            self.notify()
            return bool(self.ppid == os.getppid())

        compute_until(runtime, name, self.ending, beat, self.cfg.graceful_timeout)

    async def _serve(self) -> None:
        cfg = self.cfg
        options = {name: getattr(cfg, name) for name in PARSER_OPTIONS}
        edge = Edge(
            self.wsgi,
            self.loop,
            keep_alive=cfg.keepalive,
            parser_options=options,
            crowds=CROWDS,
            place=getattr(self, "metrics_place", len(CROWDS)),
        )
        _allow_files(edge.settings.max_connections + OTHER_FILES)
        tls = ssl_context(cfg) if cfg.is_ssl else None
        accepting = Accepting(edge, [listener.sock for listener in self.sockets], tls)
        sweeping = self.loop.create_task(edge.sweep())
        while not self.stopped.is_set() and self.ppid == os.getppid():
            self.notify()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), HEARTBEAT)
        accepting.close()
        stopping.set()
        ending = self.loop.create_task(edge.stop(cfg.graceful_timeout))
        while not ending.done() and not self.quick:
            self.notify()
            await asyncio.wait((ending,), timeout=HEARTBEAT / 4)
        sweeping.cancel()
        ending.cancel()


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files to `wanted`, if the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop in the format of all logs; asyncio calls this."""
    del loop
    log.error("%s", context.get("message", "error in the event loop"), exc_info=context.get("exception"))
