"""The properties of gunicorn's parser that the edge relies on, and the edge's own part of it."""

import inspect

import pytest
from gunicorn.asgi import parser as theirs
from gunicorn.sock import ssl_context
from gunicorn.workers.base import Worker as BaseWorker

from service.edge import worker
from service.edge.parser import Parser


def test_names_of_gunicorn_that_the_edge_relies_on() -> None:
    parser = theirs.PythonProtocol
    taken = inspect.signature(parser).parameters
    assert {"on_headers_complete", "on_body", *worker.PARSER_OPTIONS} <= set(taken)
    given = {"method", "path", "http_version", "headers", "content_length", "is_chunked", "is_complete"}
    made = parser()
    for name in (*given, "should_keep_alive", "feed", "remaining", "reset"):
        assert hasattr(made, name), f"gunicorn's parser has no {name} any more"
    for name in ("_is_valid_token", "_has_invalid_header_chars"):
        source = inspect.getsource(parser._parse_headers)
        assert f"self.{name}(" in source, f"gunicorn's parser calls {name} no more: service/edge/parser.py"
    for error in ("LimitRequestLine", "LimitRequestHeaders", "UnsupportedTransferCoding"):
        assert issubclass(getattr(theirs, error), theirs.ParseError)
    for name in ("init_process", "init_signals", "notify", "run", "handle_winch", "handle_abort", "SIGNALS"):
        assert hasattr(BaseWorker, name), f"gunicorn's worker has no {name} any more"
    names = set(inspect.signature(BaseWorker).parameters)
    assert {"ppid", "sockets", "app", "timeout", "cfg", "log"} <= names
    assert callable(ssl_context)


def test_the_faster_checks_are_those_of_gunicorn() -> None:
    """For each byte at each place."""
    ours, other = Parser(), theirs.PythonProtocol()
    for byte in range(256):
        for text in (bytes([byte]), b"a" + bytes([byte]), bytes([byte]) + b"a", b"a\n"):
            assert ours._is_valid_token(text) == other._is_valid_token(text), text
            assert ours._has_invalid_header_chars(text) == other._has_invalid_header_chars(text), text
    assert not ours._is_valid_token(b"")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_requests_are_read_however_they_are_cut(size: int) -> None:
    request = b"POST /a HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nxyz"
    parser = Parser(on_headers_complete=lambda: True)
    for start in range(0, len(request), size):
        parser.feed(request[start : start + size])
    assert (parser.method, parser.path, parser.content_length) == (b"POST", b"/a", 3)
    assert parser.remaining() == b"xyz"
