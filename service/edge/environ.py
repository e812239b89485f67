"""The WSGI environment (PEP 3333) of a request, made from its head and body."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from service.edge.parser import Parser

MOST_NAMES = 500
"""The number of header names whose keys are remembered: clients must not be able to fill memory with new ones."""

SMALL_BODY = 64 * 1024
"""Bytes of a body that is read whole even if its head means a refusal, so that the connection stays open."""

_keys: dict[bytes, str] = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}


def base(sockname: Any, peername: Any, scheme: str) -> dict[str, Any]:
    """Return the part of the environment that all requests of a connection share."""
    # The addresses of a Unix socket are texts.
    name, port = sockname[:2] if isinstance(sockname, tuple) else ("localhost", 0)
    peer, peer_port = peername[:2] if isinstance(peername, tuple) else ("", 0)
    return {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scheme,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": "nabla",
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": peer,
        "REMOTE_PORT": str(peer_port),
    }


def add_head(environ: dict[str, Any], parser: Parser) -> None:
    """Add a request's line and headers. Header names with an underscore are left out: they could pass for others."""
    target: bytes = parser.path
    path, _, query = target.partition(b"#")[0].partition(b"?")
    if not path.startswith(b"/") and b"://" in path:  # the absolute form, which is for proxies
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    if b"%" in path:
        path = unquote_to_bytes(path)
    major, minor = parser.http_version
    environ["REQUEST_METHOD"] = parser.method.decode("latin-1")
    environ["RAW_URI"] = target.decode("latin-1")
    environ["QUERY_STRING"] = query.decode("latin-1")
    environ["SERVER_PROTOCOL"] = f"HTTP/{major}.{minor}"
    environ["SCRIPT_NAME"], environ["PATH_INFO"] = _mounted(path.decode("latin-1"))
    for name, value in parser.headers:
        key = _keys.get(name)
        if key is None:
            if b"_" in name:
                continue
            key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
            if len(_keys) < MOST_NAMES:
                _keys[name] = key
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text


def _mounted(path: str) -> tuple[str, str]:
    """Return SCRIPT_NAME and PATH_INFO for a path; the server may be mounted at the variable SCRIPT_NAME."""
    mount = os.environ.get("SCRIPT_NAME", "").rstrip("/")
    if mount and (path == mount or path.startswith(mount + "/")):
        return mount, path[len(mount) :]
    return "", path


def add_body(environ: dict[str, Any], body: io.BytesIO | None, length: int) -> None:
    """Add the complete body of `length` bytes as `wsgi.input`."""
    if body is None:
        body = io.BytesIO()
    else:
        # `getvalue` trims the buffer, so that reading all of it returns its own bytes without a copy.
        body.getvalue()
        body.seek(0)
    environ["wsgi.input"] = body
    if environ.pop("HTTP_TRANSFER_ENCODING", None) is not None:
        environ["CONTENT_LENGTH"] = str(length)


def is_plain(environ: Mapping[str, Any], length: int | None) -> bool:
    """Return whether the whole request is read even if its head means a refusal: its body is short."""
    return length is not None and length <= SMALL_BODY and "HTTP_EXPECT" not in environ
