"""Headers of proxies in front of the service: the address of the client, and the address that it asked for.

Anyone can write these headers, so they count only if the connection comes from an address in `NABLA_TRUSTED_PROXIES`.
By default no address is trusted: docs/decisions/0018-exposure.md says why.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""The word in `NABLA_TRUSTED_PROXIES` for the clients of a Unix socket, which have no address."""
MOST_HOPS = 32
"""The number of proxies in a row that are followed back to the client."""
PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/?")
"""A path before the service's own paths. No part is empty or begins with a dot, so that a link with this prefix leads
to this host and never to another one, as //host does."""
LONGEST_PREFIX = 256
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
SCHEMES = ("http", "https")


class Proxies:
    """The proxies whose headers the service believes."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        """Take addresses, networks such as 10.0.0.0/8, and `unix`. Raise `ValueError` for anything else."""
        words = tuple(trusted)
        self.unix = UNIX in words
        self.networks: tuple[Network, ...] = tuple(ipaddress.ip_network(word) for word in words if word != UNIX)
        self._trusts = lru_cache(1024)(self._look_up)

    def __bool__(self) -> bool:
        return bool(self.unix or self.networks)

    def trusts(self, peer: str) -> bool:
        """Return whether the other end of a connection is a trusted proxy, by its address; "" is a Unix socket's."""
        return bool(self) and self._trusts(peer)

    def _look_up(self, peer: str) -> bool:
        if not peer:
            return self.unix
        address = _address(peer)
        return address is not None and any(address in network for network in self.networks)

    def client_of(self, peer: str, forwarded_for: str | None) -> str:
        """Return the client's address: the last one in X-Forwarded-For that is not a trusted proxy, or else `peer`.

        Each proxy appends the address that called it, so a stranger may have invented every entry before its own. An
        entry that is not an address ends the search.
        """
        if forwarded_for is None or not self.trusts(peer):
            return peer
        client = peer
        for word in reversed(forwarded_for.split(",")[-MOST_HOPS:]):
            address = _address(word.strip())
            if address is None:
                return client
            client = str(address)
            if not self.trusts(client):
                return client
        return client

    def apply(self, environ: dict[str, Any]) -> None:
        """Apply the headers of a trusted proxy to a WSGI environment, so that it describes the client's own request.

        `nabla.peer` becomes the client's address. `SCRIPT_NAME` becomes the path prefix that the proxy removed
        (X-Forwarded-Prefix). `wsgi.url_scheme` and `HTTP_HOST` become the values of X-Forwarded-Proto and
        X-Forwarded-Host. Malformed values are ignored.
        """
        peer = environ.get("REMOTE_ADDR") or ""
        if not self.trusts(peer):
            return
        environ.setdefault("nabla.peer", self.client_of(peer, environ.get("HTTP_X_FORWARDED_FOR")))
        prefix = _last(environ, "HTTP_X_FORWARDED_PREFIX")
        if len(prefix) <= LONGEST_PREFIX and PREFIX.fullmatch(prefix):
            environ["SCRIPT_NAME"] = prefix.rstrip("/")
        scheme = _last(environ, "HTTP_X_FORWARDED_PROTO").lower()
        if scheme in SCHEMES:
            environ["wsgi.url_scheme"] = scheme
        host = _last(environ, "HTTP_X_FORWARDED_HOST")
        if HOST.fullmatch(host):
            environ["HTTP_HOST"] = host


class Forwarded:
    """WSGI middleware that applies the headers of trusted proxies."""

    def __init__(self, app: Callable[..., Iterable[bytes]], proxies: Proxies) -> None:
        self.app = app
        self.proxies = proxies

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.proxies.apply(environ)
        return self.app(environ, start_response)


def _address(text: str) -> Address | None:
    """Return the address in an entry of X-Forwarded-For, which may have a port; None if there is no address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(4096)
def network_of(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 network of one IPv6 subscriber."""
    parsed = _address(address)
    if parsed is None or parsed.version == 4:
        return str(parsed or address)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


def client_name(key: str | None, address: str) -> str:
    """Return the name of a client for queues and slots: by its key if that is valid, else by its network."""
    return f"key:{key}" if key else f"address:{network_of(address)}"


def _last(environ: dict[str, Any], name: str) -> str:
    """Return the last entry of a header: the nearest proxy wrote it, so a client cannot have forged it."""
    value: str = environ.get(name, "")
    return value.rpartition(",")[2].strip()
