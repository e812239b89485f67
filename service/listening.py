"""Checks of the addresses that the server listens on: whether they are free, and who can reach them."""

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

OTHER_PORTS = 20
"""The number of ports after a taken one that are tried, so that the message can name a free one."""


def refuse_taken(addresses: Iterable[Any]) -> None:
    """Exit with status 1 and one line if an address is taken; gunicorn would try again for seconds.

    Addresses have the form that `gunicorn.util.parse_address` returns. Only TCP addresses are tried.
    """
    for address in addresses:
        if isinstance(address, tuple):
            host, port = address
            error = _trouble(host, port)
            if error is not None:
                sys.exit(f"nabla: {_in_words(host, port, error)}")


def _trouble(host: str, port: int) -> OSError | None:
    """Return the error that binding to this address raises; None if the address is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As gunicorn binds: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _in_words(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        others = range(port + 1, min(port + 1 + OTHER_PORTS, 2**16))
        free = next((other for other in others if _trouble(host, other) is None), None)
        hint = "" if free is None else f"; try PORT={free} make serve, or nabla serve --port {free}"
        return f"port {port} is in use{hint}"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this process has; ports from 1024 on do not"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"HOST={host} is no address of this machine; 127.0.0.1 serves this machine alone, 0.0.0.0 others too"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"


def on_loopback(addresses: Iterable[Any]) -> bool:
    """Return whether only this machine can reach the addresses, given as `socket.getsockname` returns them."""
    return all(_is_loopback(address) for address in addresses)


def _is_loopback(address: Any) -> bool:
    # A Unix socket has a path, and a proxy in front of it.
    with suppress(ValueError):
        return isinstance(address, tuple) and ipaddress.ip_address(address[0]).is_loopback
    return False
