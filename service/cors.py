"""Which pages may call the service (CORS).

A browser lets a page read the answers of another origin only if they name its origin. Two kinds of pages may:

- those of the origins in `NABLA_CORS_ORIGINS`, or all with `*`;
- those of this machine, http(s)://localhost, 127.0.0.1 and [::1] on any port, as long as the server listens on
  loopback addresses alone. Then only programs of this machine reach it, which need no browser's leave, and nobody has
  to configure anything to try a page of their own.

This gives away nothing that is not open anyway: the service has no cookies and takes no credentials that a browser adds
by itself. Whether the server listens on loopback is read from its sockets, never from the Host header, which anyone can
write. docs/decisions/0013-pages-of-this-machine.md says more, also about DNS rebinding.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from werkzeug.datastructures import Headers

from service.config import ORIGIN

PAGES_OF_THIS_MACHINE = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?")
ALLOWED_HEADERS = "Content-Type, Content-Encoding, Authorization, X-Request-Id"
EXPOSED_HEADERS = "ETag, Location, Retry-After, Server-Timing, X-Request-Id"
MOST_REFUSED = 100
"""Origins of which a worker logs that it refused them; strangers must not fill memory or log."""

log = logging.getLogger("nabla.cors")


class Cors:
    """The origins whose pages may read answers, and those that were refused."""

    def __init__(self, origins: Iterable[str]) -> None:
        self.origins = frozenset(origins)
        self.on_loopback = False
        """Whether the server listens on loopback addresses alone; whoever starts it says so."""
        self._lock = threading.Lock()
        self._refused: set[str] = set()

    def allow(self, headers: Headers, environ: Mapping[str, Any]) -> None:
        """Add to an answer's headers what lets the asking page read it, if it may."""
        if not (self.origins or self.on_loopback):
            # No page of another origin may, so answers do not differ by origin.
            if "HTTP_ORIGIN" in environ:
                self._refuse(environ)
            return
        headers.add("Vary", "Origin")
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return
        if not self._may_read(origin):
            self._refuse(environ)
            return
        headers["Access-Control-Allow-Origin"] = "*" if "*" in self.origins else origin
        headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
        if environ["REQUEST_METHOD"] == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = headers.get("Allow", "GET, POST, DELETE")
            headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            headers["Access-Control-Max-Age"] = "86400"

    def _may_read(self, origin: str) -> bool:
        if "*" in self.origins or origin in self.origins:
            return True
        return self.on_loopback and PAGES_OF_THIS_MACHINE.fullmatch(origin) is not None

    def _refuse(self, environ: Mapping[str, Any]) -> None:
        """Log an origin at its first refusal, with the setting that would allow it."""
        origin: str = environ["HTTP_ORIGIN"]
        # The service's own pages send their origin too, and need no leave.
        if origin.partition("://")[2] == environ.get("HTTP_HOST") or origin in self._refused:
            return
        if origin != "null" and not (len(origin) < 300 and ORIGIN.fullmatch(origin)):
            return  # not sent by a browser
        with self._lock:
            if origin in self._refused or len(self._refused) >= MOST_REFUSED:
                return
            self._refused.add(origin)
        setting = ",".join([*sorted(self.origins), origin])
        log.warning("Pages of %s may not read answers; NABLA_CORS_ORIGINS=%s would let them.", origin, setting)
