"""One client's connection: it reads requests under deadlines and sends responses as fast as the client reads.

The module and its class are long because a connection is one state machine: nearly every method changes the state, the
deadline and what is held for the present request, and can be checked only beside the others.
"""

from __future__ import annotations

import asyncio
import enum
import io
import math
import time
from contextlib import suppress
from typing import Any

from service.edge import environ as wsgi
from service.edge import kernel
from service.edge.answers import CONTINUE, PROCESSING
from service.edge.edge import Edge
from service.edge.exchange import Exchange
from service.edge.parser import LimitRequestHeaders, ParseError, Parser, described, unreadable
from service.observing.metrics import refuse
from service.problems import Problem

METHODS_OF_TRANSPORTS = ("_read_ready_cb", "_write_ready")
"""Attributes of asyncio's transports that hold their own methods."""
PIECE = 256 * 1024
"""Bytes that the transport gets at a time; it copies the part that the socket does not take at once."""
IN_A_ROW = 4
"""Pieces that are sent in a row before other connections have their turn."""
MOST_AHEAD = 64 * 1024
"""Bytes of further requests that are read while one is at work."""
UNCOUNTED = 64 * 1024
"""Bytes of a body that are not counted in the account of memory."""
MOST_HEAD = 32 * 1024
"""Bytes of a head. gunicorn bounds each line and their number, which together allow 800 KB."""
FREE_CHUNKS, SMALLEST_CHUNK = 10_000, 32
"""The number of chunks of a body that may be tiny, and the mean size of more: each takes the event loop 5 us."""
STEP = 1 << 20
"""Bytes of a body that are reserved at a time."""
REPLAYED = 8 * 1024
"""Bytes of those read ahead that are examined for the next request."""
DRAIN_SECONDS = 2.0
"""Seconds for which a refused request is read on: if the connection closed at once, the response would be lost."""
HUNGRY_SECONDS = 5.0
"""Seconds that a body waits for memory."""
ASK_SECONDS = 0.1
"""Seconds between a client's end of sending and the question whether it is still there."""
LOOK_SECONDS = 0.5
"""Seconds between two looks for the client's reply."""


class State(enum.Enum):
    """The states of a connection, each with its meaning."""

    IDLE = "no byte of the next request is there"
    HEAD = "a part of the next head is there"
    BODY = "the head is there and a part of the body"
    WORKING = "the request is with a thread, or waits for one"
    SENDING = "the answer is sent, piece by piece"
    STREAMING = "the answer is sent while it is computed"
    DRAINING = "the request was refused; the rest of it is read and thrown away"
    CLOSING = "everything is written, and the connection closes once it is sent"
    CLOSED = "the connection is gone"


AT_WORK = frozenset((State.WORKING, State.SENDING, State.STREAMING))


class Connection(asyncio.Protocol):
    """A connection of HTTP/1.1 or HTTP/1.0, on which one request comes after the other."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.state = State.IDLE
        self.deadline = math.inf
        """The reading of `time.monotonic` at which `expire` is called."""
        self.address = ""
        """The peer's address if connections of one address are bounded, else ""."""
        self.transport: asyncio.Transport
        self._socket: Any = None
        self._parser = Parser(on_headers_complete=self._on_head, on_body=self._on_chunk, **edge.parser_options)
        self._base: dict[str, Any] = {}
        self._ahead = bytearray()
        """Bytes of the requests after the present one."""
        self._replayed = 0
        """The number of these bytes that are being parsed; they stay in `_ahead` until the request's end is found."""
        self._half_closed = False
        self._write_paused = False
        self._sent = self._mark = 0
        # A client that asks again sends the same head again.
        self._last_head = b""
        self._last: tuple[dict[str, Any], int | None, bool] = ({}, 0, True)
        # The present request.
        self._arrived = 0.0
        self._environ: dict[str, Any] = {}
        self._length: int | None = None
        """The length of the body; None means that it comes in chunks."""
        self._keep_alive = True
        self._served = False
        """Whether a request of this connection was answered before."""
        self._received = self._chunks = self._head_bytes = 0
        self._body: io.BytesIO | None = None
        self._memory: Any = None
        self._reserved = UNCOUNTED
        self._hungry = math.inf
        self._exchange: Exchange | None = None
        self._piece = self._offset = 0

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register a new connection with the edge, which may refuse it. asyncio calls this."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        about = transport.get_extra_info
        self._socket = about("socket")
        scheme = "http" if about("sslcontext") is None else "https"
        self._base = wsgi.base(about("sockname"), about("peername"), scheme)
        transport.set_write_buffer_limits(high=PIECE)
        kernel.keep_little(self._socket, PIECE)
        self._arrived = time.monotonic()
        self.deadline = self._arrived + self.edge.settings.max_header_seconds
        self.edge.join(self, self._base["REMOTE_ADDR"])

    def connection_lost(self, error: Exception | None) -> None:
        """Free what the present request holds, because the connection is gone. asyncio calls this."""
        self.state = State.CLOSED
        self.edge.leave(self)
        if self._exchange is not None:
            self._exchange.leave()
        self._forget()
        # The parser and asyncio's transports hold their own methods, so they would wait for the garbage collector.
        del self._parser
        kept = getattr(self.transport, "__dict__", {})
        for name in METHODS_OF_TRANSPORTS:
            kept.pop(name, None)

    def data_received(self, data: bytes) -> None:
        """Handle bytes from the client: a head, a body, or the next request, to be kept. asyncio calls this."""
        state = self.state
        if state is State.BODY:
            if self._length is None:
                self._parse(data)
            else:
                self._take(data)
        elif state in AT_WORK or self._ahead or (state is State.IDLE and self._write_paused):
            self._ahead += data
            if len(self._ahead) > MOST_AHEAD:
                self.transport.pause_reading()
        elif state is State.IDLE:
            self._begin(data)
        elif state is State.HEAD:
            rest = self._parse(data)
            if rest is not None:
                self._take(rest)

    def eof_received(self) -> bool:
        """Note that the client will send no more, though it may still read; return whether to stay open."""
        self._half_closed = True
        if self.state is State.BODY:
            whole = "" if self._length is None else f" of {self._length:,}"
            self.refuse(Problem("malformed-body", f"The body ended after {self._received:,}{whole} bytes."))
            return True
        if self.state is State.WORKING:
            self.edge.loop.call_later(ASK_SECONDS, self._ask, self._exchange)
        return self.state in AT_WORK or bool(self._ahead)

    def pause_writing(self) -> None:
        """Stop sending until the client reads, and set a deadline for that. asyncio calls this."""
        self._write_paused = True
        if self.state in AT_WORK and self.deadline == math.inf:
            self._watch()

    def resume_writing(self) -> None:
        """Go on sending, because the client has read. asyncio calls this."""
        self._write_paused = False
        # asyncio calls this in the middle of its own work. If this closed, it would call `connection_lost` twice.
        if self.state is State.SENDING:
            self.edge.loop.call_soon(self._send)
        elif self.state is State.STREAMING and self._exchange is not None:
            self.deadline = math.inf
            self._exchange.proceed()
        elif self.state is State.IDLE:
            self.edge.loop.call_soon(self._again)

    # Reading

    def _begin(self, data: bytes) -> None:
        """Handle the first bytes of a request; a head equal to the one before is not parsed again."""
        self._arrived = time.monotonic()
        head = self._last_head
        if head and data.startswith(head):
            environ, self._length, self._keep_alive = self._last
            self._open(environ.copy())
            self._take(data[len(head) :])
            return
        if self._served:
            self.deadline = self._arrived + self.edge.settings.max_header_seconds
        self.state = State.HEAD
        rest = self._parse(data)
        if rest is not None:
            if wsgi.is_plain(self._environ, self._length):
                self._last_head = data[: len(data) - len(rest)]
                self._last = (self._environ.copy(), self._length, self._keep_alive)
            self._take(rest)

    def _parse(self, data: bytes) -> bytes | None:
        """Parse a part of a head or of a chunked body. Return the bytes after a head whose body has a length."""
        parser, in_head = self._parser, self.state is State.HEAD
        try:
            parser.feed(data)
        except ParseError as error:
            if self.state is State.HEAD:
                self.refuse(unreadable(error))
            elif self.state is State.BODY:
                self.refuse(Problem("malformed-body", f"The body could not be read: {described(error)}."))
            return None
        if self.state is State.HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self.refuse(unreadable(LimitRequestHeaders()))
        if self.state is not State.BODY or not parser.is_complete:
            return None
        rest: bytes = parser.remaining()
        parser.reset()
        if in_head and self._length is not None:
            return rest
        self._keep(rest)
        self._dispatch()
        return None

    def _on_head(self) -> bool:
        """Start the request when its head is complete; return whether the parser has to leave the body alone."""
        parser, environ = self._parser, self._base.copy()
        self._length = None if parser.is_chunked else parser.content_length or 0
        self._keep_alive = parser.should_keep_alive
        wsgi.add_head(environ, parser)
        self._open(environ)
        problem = self.edge.refusal(environ, self._length)
        if problem is not None:
            self.refuse(problem)
            raise _Refused
        if self._length != 0 and environ.get("HTTP_EXPECT", "").lower() == "100-continue":
            self._interim(CONTINUE)
        return not parser.is_chunked

    def _on_chunk(self, data: bytes) -> None:
        """Add a chunk to the body; refuse a body of too many tiny chunks. The parser calls this."""
        self._chunks += 1
        if self._chunks > FREE_CHUNKS and self._received < self._chunks * SMALLEST_CHUNK:
            self.refuse(Problem("malformed-body", f"The body came in {self._chunks:,} tiny chunks; send larger ones."))
        else:
            self._add(data)
        if self.state is not State.BODY:
            raise _Refused

    def _open(self, environ: dict[str, Any]) -> None:
        """Wait for the body of a request whose head is complete."""
        self.state = State.BODY
        self.deadline = self._arrived + self.edge.settings.max_body_seconds
        self._environ = environ
        self._memory = self.edge.reservation()
        self.edge.busy(self)

    def _take(self, data: bytes) -> None:
        """Handle bytes of a body of known length; bytes beyond it belong to the next request."""
        assert self._length is not None
        missing = self._length - self._received
        if len(data) >= missing:
            self._keep(data[missing:])
            data = data[:missing]
        if data:
            self._add(data)
        if self._received == self._length and self.state is State.BODY:
            self._dispatch()

    def _keep(self, rest: bytes) -> None:
        """Keep the bytes after the present request, which is complete, for the next one."""
        if self._replayed:
            del self._ahead[: self._replayed - len(rest)]
            self._replayed = 0
        elif rest:
            self._ahead += rest

    def _add(self, data: bytes) -> None:
        """Append bytes to the body, and reserve memory for them; without memory, reading pauses."""
        self._received += len(data)
        if self._received > self.edge.settings.max_body_bytes:
            self.refuse(self.edge.too_large())
            return
        if self._body is None:
            self._body = io.BytesIO()
        self._body.write(data)
        if self._received > self._reserved:
            self._reserved = -(-self._received // STEP) * STEP
            if not self._memory.try_need(self._reserved) and self._received != self._length:
                self._hungry = time.monotonic()
                self.transport.pause_reading()

    # Answering

    def _dispatch(self) -> None:
        """Answer the complete request here if the edge can, else ask for a slot to run the application in."""
        self.state = State.WORKING
        self.deadline = math.inf
        edge, environ = self.edge, self._environ
        wsgi.add_body(environ, self._body, self._received)
        environ["nabla.memory"] = self._memory
        self._body = None
        close = self.closes()
        answer = edge.own_answer(environ, self._arrived, close=close)
        if answer is not None:
            self._reply(answer, close=close)
            return
        exchange = self._exchange = Exchange(self, environ, edge.ticket(environ, self._arrived), self._memory)
        try:
            granted = exchange.ticket.begin(
                self._received, lambda: edge.loop.call_soon_threadsafe(self._granted, exchange)
            )
        except Problem as problem:
            self._answer_problem(exchange, problem)
            return
        if granted:
            self._run(exchange)
        else:
            self.deadline = exchange.ticket.deadline

    def _granted(self, exchange: Exchange) -> None:
        """Run a request whose wait for a slot is over, or answer it if it was refused."""
        if exchange is not self._exchange:
            exchange.ticket.end()
        elif exchange.ticket.refusal is not None:
            self._answer_problem(exchange, exchange.ticket.refusal)
        else:
            self._run(exchange)

    def _run(self, exchange: Exchange) -> None:
        self.deadline = math.inf
        exchange.running = True
        self.edge.pool.run(exchange.run)

    def _answer_problem(self, exchange: Exchange, problem: Problem) -> None:
        """Answer a complete request with a problem instead of the application's response."""
        exchange.ticket.end()
        close = self.closes()
        seconds = time.monotonic() - self._arrived
        self._reply(self.edge.answers.problem(self._environ, problem, seconds, close=close), close=close)

    def answered(self, exchange: Exchange) -> None:
        """Send the whole response that the application has made in a thread."""
        self.edge.pool.done()
        exchange.running = False
        if exchange is not self._exchange:
            exchange.release()
        elif exchange.failure is not None:
            self._answer_problem(exchange, exchange.failure)
        elif not self.edge.ready and exchange.is_ready():
            self.edge.ready = True
            self._reply(b"".join((exchange.head, *exchange.pieces)), close=exchange.close)
        elif exchange.nbytes <= PIECE and not self._write_paused:
            self._reply(b"".join((exchange.head, *exchange.pieces)), close=exchange.close)
        else:
            self._memory.try_need(exchange.nbytes)
            self.state = State.SENDING
            self._piece = self._offset = 0
            self._write(exchange.head)
            if self._write_paused:
                self._watch()
            self._send()

    def _send(self) -> None:
        """Pass pieces of the response to the transport until it has enough for now."""
        exchange = self._exchange
        if self.state is not State.SENDING or exchange is None:
            return
        pieces = exchange.pieces
        for _ in range(IN_A_ROW):
            if self._write_paused:
                return
            if self._piece == len(pieces):
                self._done(close=exchange.close)
                return
            content = pieces[self._piece]
            if len(content) <= PIECE:
                self._write(content)
                self._offset = len(content)
            else:
                self._write(memoryview(content)[self._offset : self._offset + PIECE])
                self._offset += PIECE
            if self._offset >= len(content):
                exchange.nbytes -= len(content)
                pieces[self._piece] = b""
                self._piece, self._offset = self._piece + 1, 0
                if len(content) > PIECE:
                    self._memory.try_need(exchange.nbytes)
        self.edge.loop.call_soon(self._send)

    def stream(self, exchange: Exchange, data: bytes) -> None:
        """Send a piece of a streamed response, and let the next one be computed once the client keeps up."""
        if exchange is self._exchange:
            self.state = State.STREAMING
            self._write(data)
            if not self._write_paused:
                exchange.proceed()
            elif self.deadline == math.inf:
                self._watch()

    def streamed(self, exchange: Exchange) -> None:
        """Finish a streamed response; after a failure, cut it off so that the client notices."""
        self.edge.pool.done()
        exchange.running = False
        if exchange is not self._exchange:
            exchange.release()
        elif exchange.failure is None:
            self._done(close=exchange.close)
        elif self.state is State.WORKING:  # nothing is sent yet
            self._answer_problem(exchange, exchange.failure)
        else:
            self._done(close=True)  # without the end of the body, so that the client sees that it is cut off

    def closes(self) -> bool:
        """Return whether the connection will end after the present request. Any thread may call this."""
        return not self._keep_alive or self.edge.stopping or (self._half_closed and not self._ahead)

    def end_after_answer(self) -> None:
        """Close the connection after the present response, whose end only that can mark in HTTP/1.0."""
        self._keep_alive = False

    def refuse(self, problem: Problem) -> None:
        """Send a problem at once and close; for a while read what still comes, so that the response arrives."""
        seconds = time.monotonic() - self._arrived
        self.edge.busy(self)
        self._write(self.edge.answers.problem(self._environ or self._base, problem, seconds, close=True))
        self._forget()
        if self._half_closed or not self.transport.can_write_eof():
            self._close()
            return
        self.state = State.DRAINING
        self.deadline = time.monotonic() + DRAIN_SECONDS
        with suppress(OSError):  # the client has reset the connection
            self.transport.write_eof()
        self.transport.resume_reading()

    def _reply(self, answer: bytes, *, close: bool) -> None:
        self._write(answer)
        self._done(close=close)

    def _write(self, data: bytes | memoryview) -> None:
        self._sent += len(data)
        self.transport.write(data)

    def _done(self, *, close: bool) -> None:
        """Wait for the next request, or close, now that the transport has the whole response."""
        if self.state is State.CLOSED:
            return
        self._forget()
        if close or (self._half_closed and not self._ahead):
            self._close()
            return
        self.state = State.IDLE
        self._served = True
        self.deadline = time.monotonic() + self.edge.keep_alive
        self.edge.rest(self)
        if not self._ahead:
            self._read_on()
        else:
            # In the next round of the loop, so that a client with a thousand requests in a row leaves room for others.
            self.edge.loop.call_soon(self._again)

    def _again(self) -> None:
        """Handle the requests that came while the one before was at work."""
        if self.state is State.IDLE and self._ahead and not self._write_paused:
            # Not all of it: each of thousands of requests would copy all of them.
            self._replayed = min(len(self._ahead), REPLAYED)
            self._begin(bytes(self._ahead[: self._replayed]))
            if self._replayed:  # it was not a whole request
                rest = bytes(self._ahead[self._replayed :])
                self._ahead.clear()
                self._replayed = 0
                if rest:
                    self.data_received(rest)
            self._read_on()
            if self._half_closed and self.state in (State.IDLE, State.HEAD):
                self._close()

    def _read_on(self) -> None:
        """Let the transport read again, unless enough of the next requests is read already."""
        if len(self._ahead) <= MOST_AHEAD and not self._half_closed and self._hungry == math.inf:
            self.transport.resume_reading()

    def _forget(self) -> None:
        """Free what the present request holds. Memory that a thread still uses is freed when the thread is done."""
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            if self._memory is not None:
                self._memory.release()
        elif not exchange.running:
            exchange.release()
        self._memory = None
        self._environ = {}
        self._body = None
        self._received = self._chunks = self._head_bytes = 0
        self._reserved = UNCOUNTED
        self._hungry = math.inf

    def _close(self) -> None:
        self.state = State.CLOSING
        self._watch()
        self.transport.close()

    # Time

    def expire(self, now: float) -> None:
        """Do what the passed deadline means in the present state: close, refuse with 408, or cut off."""
        state, settings = self.state, self.edge.settings
        if state is State.IDLE or state is State.DRAINING:
            self._close()
        elif state is State.HEAD:
            seconds = f"{settings.max_header_seconds:g}"
            self.refuse(Problem("timeout", f"The head of the request took more than {seconds} seconds."))
        elif state is State.BODY:
            rate = settings.min_bytes_per_second
            self.deadline = self._arrived + settings.max_body_seconds + self._received / rate
            if self.deadline <= now:
                detail = (
                    f"The body took more than {settings.max_body_seconds:g} seconds and one for each {rate:,.0f} bytes."
                )
                self.refuse(Problem("timeout", detail))
        elif state is State.WORKING:
            self.deadline = math.inf
            if self._exchange is not None:
                self._exchange.ticket.expire()
        elif self._acknowledged() - self._mark >= settings.min_bytes_per_second * settings.max_send_seconds:
            self._watch()
        else:
            refuse("slow-reader")
            self.transport.abort()

    def end(self) -> None:
        """Close the connection if it has no request, because the server stops."""
        if self.state is State.IDLE or self.state is State.HEAD:
            self._close()

    @property
    def hungry(self) -> bool:
        """Whether reading pauses because there is no memory for the body."""
        return self._hungry != math.inf

    def _watch(self) -> None:
        """Set the deadline by which the client must have read enough."""
        self._mark = self._acknowledged()
        self.deadline = time.monotonic() + self.edge.settings.max_send_seconds

    def _acknowledged(self) -> int:
        """Return the number of sent bytes that the client's system has confirmed."""
        return self._sent - self.transport.get_write_buffer_size() - kernel.unacknowledged(self._socket)

    def feed_hungry(self, now: float) -> None:
        """Read on if there is memory for the body now; refuse the request if that took too long."""
        if self.state is not State.BODY:
            return
        if self._memory.try_need(self._reserved):
            self._hungry = math.inf
            self.transport.resume_reading()
        elif now > self._hungry + HUNGRY_SECONDS:
            self.refuse(self._memory.busy(self._reserved))

    def _ask(self, exchange: Exchange | None) -> None:
        """Find out whether a client that sends no more has left: it then resets on an interim response."""
        if exchange is None or exchange is not self._exchange or self.state is not State.WORKING:
            return
        if self._interim(PROCESSING):
            self._look(exchange)
        else:
            self.transport.abort()

    def _interim(self, answer: bytes) -> bool:
        """Send an interim response (1xx) and return True; return False for HTTP/1.0, which has none."""
        if self._environ["SERVER_PROTOCOL"] == "HTTP/1.0":
            return False
        self._write(answer)
        return True

    def _look(self, exchange: Exchange) -> None:
        if exchange is self._exchange and self.state is State.WORKING:
            if kernel.broken(self._socket):
                self.transport.abort()
            else:
                self.edge.loop.call_later(LOOK_SECONDS, self._look, exchange)


class _Refused(ParseError):  # type: ignore[misc]  # gunicorn has no types
    """Raised in the parser's callbacks to stop it, after the request was refused."""
