"""The pages that may call the service (CORS).

A browser lets a page read the responses of another origin only if they name its origin. Two kinds of pages may:

- pages of the origins in `NABLA_CORS_ORIGINS`, or all pages with `*`;
- pages of this machine, http(s)://localhost, 127.0.0.1 and [::1] on any port, as long as the server listens on
  loopback addresses alone. Only programs of this machine reach the server then, and they need no browser's leave.

This exposes nothing that is not open anyway: the service has no cookies, and takes no credentials that a browser adds
by itself. The sockets say whether the server listens on loopback, never the Host header, which anyone can write.
docs/decisions/0013-pages-of-this-machine.md says more, also about DNS rebinding.
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
ALLOWED_HEADERS = "Content-Type, Content-Encoding, Authorization, Idempotency-Key, Last-Event-ID, X-Request-Id"
EXPOSED_HEADERS = "ETag, Location, Retry-After, Server-Timing, X-Request-Id"
MOST_REFUSED = 100
"""The number of refused origins that a worker logs: strangers must not fill the memory or the log."""

log = logging.getLogger("nabla.cors")


class Cors:
    """The rules for pages of other origins: which may read responses, and which refused ones are logged already."""

    def __init__(self, origins: Iterable[str]) -> None:
        self.origins = frozenset(origins)
        self.on_loopback = False
        """Whether the server listens on loopback addresses alone; gunicorn.conf.py sets it."""
        self._lock = threading.Lock()
        self._refused: set[str] = set()

    def allow(self, headers: Headers, environ: Mapping[str, Any]) -> None:
        """Add the CORS headers for the page that sent the request, if it may read the response."""
        if not (self.origins or self.on_loopback):
            # No page of another origin may read, so responses do not differ by origin.
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
        """Log the setting that would allow the request's origin, the first time that origin is refused."""
        origin: str = environ["HTTP_ORIGIN"]
        # The service's own pages send their origin too, and need no permission.
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
