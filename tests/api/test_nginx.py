"""The service behind nginx, with the configuration that is shipped. Skipped where there is no nginx."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerFactory, wait_for
from tests.support import LOOPBACK, ROOT, Answer, Server, every, head, read_answer, strict_json, xor

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (apt install nginx)")
CONFIGURATION = (ROOT / "deploy" / "nginx.conf").read_text()
BODY = json.dumps(xor()).encode()
AT_PREFIX = {
    'set $nabla_prefix "";': "set $nabla_prefix /nabla;",
    "location / {": "location /nabla/ {",
    "^/metrics": "^/nabla/metrics",
}
"""The changes that the comment in the configuration asks for."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


@contextmanager
def nginx(folder: Path, upstream: int, changes: dict[str, str] | None = None) -> Iterator[Server]:
    """Start nginx before the server at a port, with some texts of the configuration replaced."""
    port = free_port()
    text = CONFIGURATION
    here = {
        "listen 8080": f"listen {LOOPBACK}:{port}",
        "server nabla:8000": f"server {LOOPBACK}:{upstream}",
        "worker_processes auto": "worker_processes 1",
        "/tmp/nginx": f"{folder}/nginx",
        "access_log /dev/stdout": f"access_log {folder}/access.log",
    }
    for old, new in (here | (changes or {})).items():
        assert old in text
        text = text.replace(old, new)
    path = folder / "nginx.conf"
    path.write_text(text)
    assert NGINX is not None
    process = subprocess.Popen(
        [NGINX, "-c", str(path), "-e", "stderr", "-g", "daemon off;"], stderr=subprocess.PIPE, text=True
    )
    server = Server(process.pid, port)

    def listens() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read()
        try:
            server.connect().close()
        except ConnectionRefusedError:
            return False
        return True

    try:
        wait_for(listens)
        yield server
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def service(start_server: ServerFactory) -> Iterator[Server]:
    with start_server(WEB_CONCURRENCY="1", NABLA_TRUSTED_PROXIES="127.0.0.1") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    unlimited = {"rate=20r/s": "rate=10000r/s"}
    with nginx(tmp_path_factory.mktemp("nginx"), service.port, unlimited) as running:
        yield running


@pytest.fixture(scope="module")
def prefixed(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    changes = AT_PREFIX | {"rate=20r/s": "rate=10000r/s"}
    with nginx(tmp_path_factory.mktemp("nginx"), service.port, changes) as running:
        yield running


def assert_problem_of_nginx(answer: Answer, status: int) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    document: dict[str, Any] = strict_json(answer.body)
    assert document.keys() == {"type", "title", "status", "detail", "instance"}
    assert (document["status"], document["instance"]) == (status, answer.headers["X-Request-Id"])
    return document


def test_requests_pass_with_the_ids_of_their_clients(proxy: Server) -> None:
    answer = proxy.post(BODY, X_Request_Id="my-own.id_1")
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (200, "my-own.id_1")
    invented = proxy.post(BODY, X_Request_Id="no { id").headers["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", invented)
    problem = proxy.post(b"{}")  # the service's own stays as it is
    assert problem.status_code == 422
    assert problem.json["instance"] == problem.headers["X-Request-Id"]


@every(
    "path",
    [
        "/metrics",
        "/metrics/",
        "//metrics",
        "///metrics//",
        "/metrics//",
        "/%6Detrics",
        "/metrics%2F",
        "/%2Fmetrics",
        "/x/../metrics",
        "/./metrics",
        "/metrics?x=1",
        "/metrics/.",
        "/metrics;x",
        "/Metrics",
        "/metrics%00",
        "/metrics%3F",
        "http://test/metrics",
        "/nabla/metrics",
        "/nabla//metrics/",
        "/nabla/nabla/metrics",
        "/nabla/..%2Fmetrics",
    ],
)
@every("method", ["GET", "HEAD", "POST"])
def test_metrics_are_closed(proxy: Server, prefixed: Server, service: Server, path: str, method: str) -> None:
    assert b"nabla_requests_total" in service.get("/metrics").body
    for server in (proxy, prefixed):
        for header in ("", "X-Forwarded-Prefix: /metrics\r\n", "SCRIPT_NAME: /nabla\r\n", "SCRIPT_NAME: /x\r\n"):
            with server.connect() as connection:
                asked = f"{method} {path} HTTP/1.1\r\nHost: test\r\n{header}Connection: close\r\n\r\n"
                connection.sendall(asked.encode())
                content = b"".join(iter(lambda: connection.recv(65536), b""))
            assert re.match(rb"HTTP/1.1 40[045] ", content), content
            assert b"nabla_requests_total" not in content


def test_what_nginx_refuses_is_a_problem_document(service: Server, tmp_path: Path) -> None:
    limits = {"rate=20r/s": "rate=1r/s", "burst=40": "burst=2", "client_max_body_size 32m": "client_max_body_size 1k"}
    with nginx(tmp_path, service.port, limits) as server:
        large = server.post(b" " * 2000, X_Request_Id="an-id")
        assert assert_problem_of_nginx(large, 413)["type"] == "/problems/too-large"
        assert large.headers["X-Request-Id"] == "an-id"
        answers = [server.get("/health/live") for _ in range(5)]
        refused = answers[-1]
        assert assert_problem_of_nginx(refused, 429)["type"] == "/problems/too-many-requests"
        assert refused.headers["Retry-After"] == "1"
        assert_problem_of_nginx(server.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"), 400)
        assert_problem_of_nginx(server.get("/" + "x" * 10_000), 414)


def test_too_many_connections_of_one_address_are_refused(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        changes = {"nabla_connections 20": "nabla_connections 1", "proxy_read_timeout 60s": "proxy_read_timeout 1s"}
        with nginx(tmp_path, silent.getsockname()[1], changes) as server, server.connect() as first:
            first.sendall(head("/v1/gradients", len(BODY)) + BODY)
            with silent.accept()[0]:  # it has got through
                assert_problem_of_nginx(server.post(BODY), 429)
                late = read_answer(first)
        assert assert_problem_of_nginx(late, 504)["type"] == "about:blank"
        assert late.headers["Retry-After"] == "5"


def test_a_service_that_is_not_there_is_told(tmp_path: Path) -> None:
    with nginx(tmp_path, free_port(), AT_PREFIX) as server:
        answer = server.get("/nabla/v1")
        assert_problem_of_nginx(answer, 502)
        assert answer.headers["Retry-After"] == "5"


def test_an_answer_of_the_service_keeps_its_own_headers(tmp_path: Path) -> None:
    """The service's Retry-After and request id stand alone."""
    with socket.create_server((LOOPBACK, 0)) as fake, nginx(tmp_path, fake.getsockname()[1]) as server:
        with server.connect() as client:
            client.sendall(b"GET /v1 HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            connection, _ = fake.accept()
            with connection:
                connection.recv(65536)
                own = "Retry-After: 17\r\nX-Request-Id: own\r\nX-Content-Type-Options: nosniff\r\nContent-Length: 0"
                connection.sendall(f"HTTP/1.1 503 Busy\r\n{own}\r\n\r\n".encode())
                content = b"".join(iter(lambda: client.recv(65536), b"")).decode().lower()
        assert "retry-after: 17" in content
        for name in ("retry-after", "x-request-id", "x-content-type-options"):
            assert content.count(name) == 1


def test_a_stream_passes_while_it_grows(proxy: Server) -> None:
    body = json.dumps(xor(optimizer="sgd", steps=1_000_000, trace={"every": 100_000})).encode()
    with proxy.connect() as connection:
        connection.sendall(head("/v1/train", len(body), Accept="application/x-ndjson") + body)
        file = connection.makefile("rb")
        started = time.monotonic()
        assert file.readline().startswith(b"HTTP/1.1 200")
        while file.readline() != b"\r\n":
            pass
        assert b"{" in file.readline() + file.readline()
        first = time.monotonic() - started
        file.close()
    # All of it takes ten times as long and more; the client leaves.
    assert first < 8.0


def links(text: str) -> set[str]:
    return set(re.findall(r"(?:href|src)=\"([^\"]+)\"", text))


def test_under_a_path_everything_leads_back_to_it(prefixed: Server) -> None:
    for page in ("/nabla/", "/nabla/reference", "/nabla/docs", "/nabla/problems/invalid"):
        answer = prefixed.get(page)
        assert answer.status_code == 200
        found = links(answer.body.decode())
        assert found
        for link in found:
            assert link.startswith("/nabla/")
        for link in sorted(found - {"/nabla/metrics"})[:12]:
            assert prefixed.get(link).status_code == 200, link
    assert prefixed.get("/v1").status_code == 404


def test_under_a_path_the_description_and_problems_name_it(prefixed: Server, proxy: Server) -> None:
    about = prefixed.get("/nabla/v1").json
    assert all(link.startswith("/nabla/") for link in about["links"].values())
    assert prefixed.get("/nabla/openapi.json").json["servers"] == [{"url": "/nabla"}]
    assert "servers" not in proxy.get("/openapi.json").json
    problem = prefixed.post(b"{}", path="/nabla/v1/gradients").json
    assert problem["type"] == "/nabla/problems/invalid"
    assert prefixed.get(problem["type"]).status_code == 200
    nothing = prefixed.get("/nabla/metrics")
    assert assert_problem_of_nginx(nothing, 404)["type"] == "/nabla/problems/not-found"
    # A client cannot choose it.
    chosen = proxy.send(b"GET /x HTTP/1.1\r\nHost: t\r\nX-Forwarded-Prefix: /evil\r\nConnection: close\r\n\r\n")
    assert chosen.json["type"] == "/problems/not-found"


def test_the_configuration_is_used_and_documented() -> None:
    assert "deploy/nginx.conf" in (ROOT / "docs" / "deployment.md").read_text()
    assert "deploy/nginx.conf" in (ROOT / "docker-compose.yml").read_text()
