"""One request at work: the call of the WSGI application, in a thread of the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, Protocol

from service.edge.answers import READY, head, request_id_of
from service.edge.edge import Edge
from service.problems import Problem, from_unexpected

WITHOUT_BODY = ("1", "204", "304")
"""The first digits of statuses whose responses have no body."""


class Carrier(Protocol):
    """The part of a connection that an exchange uses; `Connection` says what each method does."""

    edge: Edge

    def answered(self, exchange: Exchange) -> None: ...

    def stream(self, exchange: Exchange, data: bytes) -> None: ...

    def streamed(self, exchange: Exchange) -> None: ...

    def closes(self) -> bool: ...

    def end_after_answer(self) -> None: ...


class Exchange:
    """One request and its response. A thread calls `run`; only the event loop's thread uses everything else.

    A document is collected as a whole and handed to the connection, which sends it. Each piece of a stream is handed
    over by itself, and the next one is computed when it is sent.
    """

    __slots__ = (
        "_first",
        "_gate",
        "_headers",
        "_length",
        "_status",
        "close",
        "connection",
        "environ",
        "failure",
        "gone",
        "head",
        "memory",
        "nbytes",
        "pieces",
        "running",
        "ticket",
    )

    def __init__(self, connection: Carrier, environ: dict[str, Any], ticket: Any, memory: Any) -> None:
        self.connection = connection
        self.environ = environ
        self.ticket = ticket
        self.memory = memory
        self.gone = False
        """Whether the client has left."""
        self.close = False
        """Whether the connection ends with this response."""
        self.head = b""
        self.pieces: list[bytes] = []
        """The pieces of the response, if it is a document."""
        self.nbytes = 0
        """Bytes of the pieces that are not sent."""
        self.running = False
        """Whether a thread works on the request."""
        self.failure: Problem | None = None
        """The problem that the edge sends instead of a response of the application."""
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._length: int | None = None
        self._first: list[bytes] = []
        self._gate: SimpleQueue[None] | None = None

    def leave(self) -> None:
        """Tell the computation that its client has left, so that it stops."""
        self.gone = True
        self.ticket.leave()
        if self.running:
            self.proceed()
        else:
            self.ticket.end()

    def proceed(self) -> None:
        """Let the thread compute the next piece of a stream."""
        if self._gate is not None:
            self._gate.put(None)

    def release(self) -> None:
        """Give back the memory reserved for the response, which is sent, or which nobody wants."""
        self.memory.release()

    def is_ready(self) -> bool:
        """Return whether the application has just answered its readiness check with 200."""
        return self.environ["PATH_INFO"] == READY and self._status.startswith("200")

    def run(self) -> None:
        """Call the application, and hand its response to the connection."""
        connection = self.connection
        post = connection.edge.loop.call_soon_threadsafe
        streamed = False
        try:
            result = connection.edge.app(self.environ, self._start)
            try:
                streamed = self._is_stream()
                if streamed:
                    self._stream(result, post)
                else:
                    self._collect(result)
            finally:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
        except Exception as error:
            self.environ.setdefault("nabla.request_id", request_id_of(self.environ))
            self.failure = from_unexpected(error, self.environ, connection.edge.backlog())
        finally:
            self.ticket.end()
        post(connection.streamed if streamed else connection.answered, self)

    def _start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        self._status, self._headers, self._length = status, headers, None
        for name, value in headers:
            if name.lower() == "content-length":
                self._length = int(value)
        return self._first.append

    def _omits_body(self) -> bool:
        return self.environ["REQUEST_METHOD"] == "HEAD" or self._status.startswith(WITHOUT_BODY)

    def _is_stream(self) -> bool:
        return self._length is None and not self._omits_body()

    def _collect(self, result: Iterable[bytes]) -> None:
        pieces = [piece for piece in (*self._first, *result) if piece]
        headers = self._headers
        if self._omits_body():
            pieces = []
            if self._status.startswith("204"):
                headers = [entry for entry in headers if entry[0].lower() != "content-length"]
        elif sum(map(len, pieces)) != self._length:
            # A client would wait for the rest, or take the surplus for the next response.
            raise ValueError(f"{self._length} bytes were announced, {sum(map(len, pieces))} came")
        self._make_head(headers)
        self.pieces, self.nbytes = pieces, sum(map(len, pieces))

    def _make_head(self, headers: list[tuple[str, str]]) -> None:
        connection = self.connection
        self.close = connection.closes()
        self.head = head(self.environ["SERVER_PROTOCOL"], self._status, headers, close=self.close)

    def _stream(self, result: Iterable[bytes], post: Callable[..., object]) -> None:
        connection = self.connection
        chunked = self.environ["SERVER_PROTOCOL"] != "HTTP/1.0"
        if chunked:
            self._make_head([*self._headers, ("Transfer-Encoding", "chunked")])
        else:
            connection.end_after_answer()
            self._make_head(self._headers)
        self._gate = gate = SimpleQueue[None]()
        start = self.head
        for piece in (*self._first, *result) if self._first else result:
            if piece:
                framed = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                post(connection.stream, self, start + framed)
                start = b""
                gate.get()
                if self.gone:
                    return
        post(connection.stream, self, start + (b"0\r\n\r\n" if chunked else b""))
