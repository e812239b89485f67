"""Fixtures of the HTTP-level tests: the application, its test client, and a real server."""

import contextlib
import functools
import gc
import importlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from flask import Flask
from flask.testing import EnvironBuilder, FlaskClient
from hypothesis.internal.conjecture import providers
from werkzeug.test import TestResponse, run_wsgi_app
from werkzeug.wrappers import Request

from scripts import demo
from service.app import create_app
from service.config import Settings
from tests.databases import postgresql, server_address
from tests.support import LOOPBACK, ROOT, Server, openapi_document

hypothesis.settings.register_profile("nabla", deadline=None, derandomize=True, max_examples=40, database=None)
hypothesis.settings.load_profile("nabla")
# Hypothesis reads all modules that are loaded and draws their constants too. That takes each process up to two seconds,
# and a test would try other cases alone than together with others.
providers._get_local_constants = lambda: providers._local_constants

# What tests store goes into a folder of its own, that of servers which they start too.
_data = tempfile.TemporaryDirectory(prefix="nabla-tests-")
os.environ["XDG_DATA_HOME"] = _data.name
# A server of a test has a runner only if the test wants one.
os.environ["NABLA_RUNNERS"] = "0"

__all__ = ["postgresql", "server_address"]

TESTS = Path(__file__).parent
JSON = "application/json"
Post = Callable[..., TestResponse]
MakeClient = Callable[..., FlaskClient]
ServerFactory = Callable[..., AbstractContextManager[Server]]
SERVERS = {"start_server", "local", "postgresql", "server_address", "address", "empty"}
"""The fixtures that start a server, and those with a parameter for which they do."""


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Keep the garbage collector from examining the tests, while they are collected and then each time it runs.

    To look for garbage among the hundreds of thousands of objects that stay takes it a second of a collection's five.
    """
    gc.disable()
    try:
        _import_from_another_one_on(session.config)
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(100_000, 20, 100)
        gc.enable()


def _import_from_another_one_on(config: pytest.Config) -> None:
    """Import the tests from another one on in each process of pytest-xdist.

    pytest rewrites every module of tests before it is compiled, which takes six seconds for all of them. Processes that
    begin with the same module rewrite all of them at the same time; so each rewrites some, and reads what others wrote.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ or config.args_source is not config.ArgsSource.TESTPATHS:
        return
    ignored = [config.invocation_params.dir / path for path in config.getoption("ignore") or ()]
    paths = [path for path in sorted(TESTS.rglob("test_*.py")) if not {path, *path.parents} & {*ignored}]
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    worker = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    start = worker * len(modules) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    for module in modules[start:] + modules[:start]:
        # What fails here fails again where pytest reports it.
        with contextlib.suppress(Exception, pytest.skip.Exception):
            importlib.import_module(module)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first: one that is started last keeps the other processes waiting.

    Then come those that need a server, of HTTP, Dask or PostgreSQL, so that one process has them: each process of
    pytest-xdist begins with another part of the tests, and would start servers of its own.
    """

    def place(item: pytest.Item) -> tuple[bool, bool]:
        needed = set(getattr(item, "fixturenames", ()))
        return item.get_closest_marker("long") is None, needed.isdisjoint(SERVERS)

    items.sort(key=place)


@pytest.fixture(scope="session")
def make_client() -> MakeClient:
    """Return a function that makes a client of a fresh application with some settings changed."""

    def make(**settings: Any) -> FlaskClient:
        return create_app(Settings(**({"log_requests": False} | settings))).test_client()

    return make


@pytest.fixture(scope="session")
def app() -> Flask:
    """Return the application with default settings and without request logs; nobody computes its runs."""
    return create_app(Settings(log_requests=False, max_unfinished_runs=10**6, max_runs=10**6))


@pytest.fixture(scope="session")
def built_demo() -> Path:
    """Build the demo and return its folder. Skip the test if there is no Node and none can be installed."""
    try:
        demo.build()
    except demo.NoNode as error:
        pytest.skip(f"the demo is not built: {error}")
    return demo.RESULT


@pytest.fixture(scope="session")
def schemas() -> dict[str, Any]:
    """Return the JSON schemas of requests and answers in openapi.yaml."""
    found: dict[str, Any] = openapi_document()["components"]["schemas"]
    return found


@pytest.fixture(scope="session")
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(scope="session")
def post(client: FlaskClient) -> Post:
    """Return a function that posts a body to `/v1/gradients` or another path: an object as JSON, bytes as they are.

    The environment of a path is made once. To make one, and then all that the test client keeps for later, takes as
    long as a small answer, and tests post tens of thousands of bodies.
    """

    @functools.cache
    def environment(path: str) -> dict[str, Any]:
        base = client.environ_base
        builder = EnvironBuilder(client.application, path, method="POST", environ_base=base, content_type=JSON)
        return builder.get_environ()

    def send(body: Any, path: str = "/v1/gradients", **headers: str) -> TestResponse:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        environ = environment(path) | {"CONTENT_LENGTH": str(len(content)), "wsgi.input": io.BytesIO(content)}
        environ["wsgi.errors"] = sys.stderr
        environ |= {f"HTTP_{name.upper()}".replace("-", "_"): value for name, value in headers.items()}
        pieces, status, answered = run_wsgi_app(client.application, environ)
        if "Content-Length" in answered and hasattr(pieces, "close"):  # a document holds memory until it is closed
            whole = list(pieces)
            pieces.close()
            pieces = whole
        return client.response_wrapper(pieces, status, answered, Request(environ))

    return send


@pytest.fixture(scope="session")
def start_server() -> ServerFactory:
    """Return a function that starts gunicorn with some environment variables changed, and stops it at the end."""

    @contextmanager
    def start(**variables: str) -> Iterator[Server]:
        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            port = free.getsockname()[1]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("NABLA_", "PROMETHEUS_"))}
        settings = {"HOST": LOOPBACK, "PORT": str(port), "WEB_CONCURRENCY": "2", "NABLA_RUNNERS": "0"}
        settings |= {"NABLA_LOG_REQUESTS": "false"} | variables
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn"],
            cwd=ROOT,
            env=inherited | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        server = Server(process.pid, port)
        try:
            # Workers start after the line that says where to look; a request waits for the first of them.
            lines = []
            for line in process.stdout:
                lines.append(line)
                if "serves on" in line:
                    break
            else:
                pytest.fail("gunicorn did not start:\n" + "".join(lines))
            assert server.get("/health/ready").status_code == 200
            processes = int(settings["WEB_CONCURRENCY"]) + int(settings["NABLA_RUNNERS"])
            wait_for(lambda: len(server.workers) == processes)
            yield server
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                output, _ = process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise
            with contextlib.suppress(ValueError):
                process.stdout.close()
        assert process.returncode == 0, output
        assert "Traceback" not in output, output

    return start


@pytest.fixture(scope="session")
def server(start_server: ServerFactory) -> Iterator[Server]:
    """Yield a server of two workers for the whole session, with small limits."""
    limits = {"NABLA_MAX_BODY_BYTES": str(4 * 2**20), "NABLA_MAX_BODY_SECONDS": "1", "NABLA_MAX_SECONDS": "20"}
    with start_server(**limits) as running:
        yield running


@pytest.fixture(scope="session")
def open_server(start_server: ServerFactory) -> Iterator[Server]:
    """Yield a server of one worker that other machines reach, one origin may call, and that gives requests no time."""
    with start_server(
        HOST="0.0.0.0", WEB_CONCURRENCY="1", NABLA_CORS_ORIGINS="https://pages.example", NABLA_MAX_SECONDS="0"
    ) as running:
        yield running


def wait_for(condition: Callable[[], bool], seconds: float = 30.0, pause: float = 0.01) -> None:
    """Look every `pause` seconds whether a condition is true, until it is, or fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true"
        time.sleep(pause)
