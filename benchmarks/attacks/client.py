"""An HTTP/1.1 client for attacks: the caller chooses each byte, and when it is sent or read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

HOST = "127.0.0.1"
KEPT = 2 * 2**20
"""Bytes of an answer that are kept; what follows is counted and thrown away."""


PIECE = 2**18


@dataclass
class Answer:
    """A response as it was received, complete or cut off."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    """At most `KEPT` bytes of it, unless all were wanted."""
    length: int
    seconds: float
    whole: bool
    """True if the announced length was received."""

    @property
    def retry_after(self) -> float | None:
        text = self.headers.get("retry-after", "")
        return float(text) if text.isdigit() else None


@dataclass
class Connection:
    """A connection to the server: asyncio's reader and writer."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def send_all(self, data: bytes) -> None:
        """Send in pieces of `PIECE` bytes: asyncio would copy the rest of a long text after each partial write."""
        with contextlib.suppress(OSError):  # whoever reads the answer sees what happened
            for start in range(0, len(data), PIECE):
                self.writer.write(data[start : start + PIECE])
                await self.writer.drain()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Close with a TCP reset (RST) in place of a regular end (FIN)."""
        sock = self.writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the server closes the connection; read and discard everything it sends."""
        with contextlib.suppress(OSError):
            while await self.reader.read(65536):
                pass


async def connect(port: int, source: str = HOST, *, receive: int | None = None, limit: int = 2**18) -> Connection:
    """Open a connection from the loopback address `source`; `receive` bounds the kernel's receive buffer."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The kernel chooses the port when it connects, so that there is one for each pair of addresses.
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        if source != HOST:
            sock.bind((source, 0))
        if receive is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        await asyncio.get_running_loop().sock_connect(sock, (HOST, port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit)
    except BaseException:
        sock.close()
        raise
    return Connection(reader, writer)


def head(method: str, path: str, length: int | None = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Return the request line and the headers, with the empty line that ends them."""
    lines = {"Host": "attack.test"}
    if length is not None:
        lines |= {"Content-Type": "application/json", "Content-Length": str(length)}
    lines |= dict(headers or {})
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{text}\r\n".encode("latin-1", "replace")


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    return head("POST", path, len(body), headers) + body


def get(path: str, headers: Mapping[str, str] | None = None) -> bytes:
    return head("GET", path, None, headers)


async def read_answer(connection: Connection, start: float, *, kept: int = KEPT, bodiless: bool = False) -> Answer:
    """Read a response. Raise `OSError` or `asyncio.IncompleteReadError` if the connection ends before its headers do.

    `start` is the `time.perf_counter` of the request, `kept` the bytes of the body to keep; `bodiless` is for HEAD.
    """
    reader = connection.reader
    while True:
        text = await reader.readuntil(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        if status >= 200:
            break  # what came before was 100 Continue
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            headers[name.lower()] = value.strip()
    if bodiless or status in (204, 304):
        return Answer(status, headers, b"", 0, time.perf_counter() - start, True)
    pieces: list[bytes] = []
    length = 0
    whole = True
    try:
        async for piece in _pieces(reader, headers):
            if length < kept:
                pieces.append(piece)
            length += len(piece)
    except (OSError, asyncio.IncompleteReadError, ValueError):
        whole = False
    return Answer(status, headers, b"".join(pieces), length, time.perf_counter() - start, whole)


async def _pieces(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return
    announced = headers.get("content-length")
    left = int(announced) if announced is not None else None
    while left is None or left > 0:
        piece = await reader.read(2**18 if left is None else min(left, 2**18))
        if not piece:
            if left is not None:
                raise asyncio.IncompleteReadError(b"", left)
            return
        if left is not None:
            left -= len(piece)
        yield piece


async def ask(port: int, request: bytes, source: str = HOST, timeout: float = 90.0, kept: int = KEPT) -> Answer:
    """Send a request over a new connection; return the response. Raise `OSError` or `asyncio.IncompleteReadError`."""
    start = time.perf_counter()
    async with asyncio.timeout(timeout):
        connection = await connect(port, source)
        sending = None
        try:
            connection.send(request[:PIECE])
            if len(request) > PIECE:
                sending = asyncio.create_task(connection.send_all(request[PIECE:]))
            return await read_answer(connection, start, kept=kept, bodiless=request.startswith(b"HEAD"))
        finally:
            if sending is not None:
                sending.cancel()
            connection.reset()


FAILURES = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, IndexError)
"""The exceptions of `ask` and `read_answer` when the connection fails; a timeout is an `OSError`."""


def sources(count: int) -> list[str]:
    """Return `count` loopback addresses for attackers, other than 127.0.0.1, which the normal clients have."""
    return [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(count)]
