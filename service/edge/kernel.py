"""Facts about a connection that the kernel knows and asyncio does not tell; each has a careful default."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress
from typing import Any

_NOTSENT_LOWAT: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", 25 if sys.platform == "linux" else None)


def keep_little(connection: Any, nbytes: int) -> None:
    """Limit the bytes that the kernel takes before it sends them: it would take megabytes that nobody reads."""
    if _NOTSENT_LOWAT is not None:
        with suppress(OSError):  # a Unix socket
            connection.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, nbytes)


def unacknowledged(connection: Any) -> int:
    """Return the number of bytes in the kernel that the other side has not confirmed yet."""
    with suppress(OSError):
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))[0])
    return 0


def broken(connection: Any) -> bool:
    """Return whether the other side has reset the connection."""
    return bool(connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
