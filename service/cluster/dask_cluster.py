"""The workers of a Dask cluster, an `Executor`. It connects at the first use, and anew after the scheduler was away.

Whoever reaches a scheduler makes its workers run any code, for that is what Dask is for. This side sends them calls
that were made here, never a pickle that came with a request, and trusts their results.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import socket
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar
from urllib.parse import urlsplit

from service.cluster.dask_session import Part, Session, Shared, away
from service.cluster.process import Named
from service.config import Settings
from service.engine.errors import ExtraMissing

T = TypeVar("T")

REACH_SECONDS = 2.0
"""Seconds until a scheduler that does not answer counts as away."""
CONNECT_SECONDS = 3.0
"""Seconds until a scheduler that was reached has let this process in."""
AGAIN_SECONDS = 2.0
"""Seconds until a scheduler that was away is tried again; before that, requests are refused at once."""

log = logging.getLogger("nabla.error")


class Cluster:
    """The workers of one Dask scheduler whose numerics are those of this process."""

    def __init__(self, settings: Settings) -> None:
        """Keep the address and the certificates; connect to nothing yet, so that this may be made before a fork."""
        self.address = settings.cluster
        self._certificates = (settings.cluster_ca, settings.cluster_certificate, settings.cluster_key)
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._away_until = 0.0

    @property
    def width(self) -> int:
        """The number of threads of all workers that serve. Raises `Problem` 503 if there are none."""
        return self._connected().width

    def submit(self, function: Callable[..., T], /, *arguments: Any) -> Future[T]:
        """Compute a function of a module at a worker. Raises `Problem` 503 if there is none, and what pickle raises for
        what cannot travel."""
        values = tuple(each for each in arguments if isinstance(each, Shared))
        sent = tuple(Named(each.name) if isinstance(each, Shared) else each for each in arguments)
        part = Part(pickle.dumps((function, sent), protocol=5), values)
        self._connected().begin(part)
        return part

    def share(self, name: str, value: Any, *, keep: bool = True) -> Any:
        """Return an argument for `submit` that stands for the value, which travels once to each worker."""
        shared = Shared(name, value)
        if not keep:
            weakref.finalize(shared, self._forget, name).atexit = False
        return shared

    def _forget(self, name: str) -> None:
        session = self._session
        if session is not None and not session.broken:
            session.forget(name)

    def close(self) -> None:
        """Close the connection, if there is one. Parts that wait are given up."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _connected(self) -> Session:
        """Return the open connection, or a new one. Raise `Problem` 503 if there is no scheduler or no fitting worker,
        and `ExtraMissing` without the package."""
        with self._lock:
            session = self._session
            try:
                if session is None or session.broken:
                    if time.monotonic() < self._away_until:
                        raise away()
                    session = self._session = self._connect()
                session.look_if_old()
            except OSError as error:
                self._away_until = time.monotonic() + AGAIN_SECONDS
                log.error("the cluster at %s cannot be reached: %s", self.address, error or type(error).__name__)
                raise away() from None
        session.refuse_without_workers()
        return session

    def _connect(self) -> Session:
        """Return a new connection. Raise `OSError` if the scheduler is away, `ExtraMissing` without the package."""
        # Dask itself would try for seconds where nobody listens.
        parts = urlsplit(self.address)
        socket.create_connection((str(parts.hostname), int(parts.port or 0)), REACH_SECONDS).close()
        try:
            distributed: Any = importlib.import_module("distributed")  # partly typed
        except ImportError:
            reason = "Large requests of this server go to a cluster, which needs the package distributed"
            raise ExtraMissing("cluster", reason) from None
        _forward_logs()
        ca, certificate, key = self._certificates
        security = None
        if ca:
            security = distributed.Security(
                tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
            )
        client = distributed.Client(
            self.address, security=security, timeout=CONNECT_SECONDS, set_as_default=False, direct_to_workers=True
        )
        return Session(client)


class _Forward(logging.Handler):
    """A handler that writes the warnings of Dask into the log of the service."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        log.log(record.levelno, "%s: %s", record.name, record.getMessage() or repr(error))


def _forward_logs() -> None:
    """Let Dask write into the log of the service in place of standard error, in its own format."""
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] in ("distributed", "tornado"):
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True
    for name in ("distributed", "tornado"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING)
        logger.handlers, logger.propagate = [_Forward()], False
