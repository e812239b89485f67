"""Log lines of the service: JSON for programs, text for people."""

import gzip
import hashlib
import json
import logging
import re
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient

from service.app import create_app
from service.config import Settings
from service.observing import logs, metrics
from service.observing.logs import JsonFormatter, TextFormatter, logs_text
from tests.conftest import MakeClient
from tests.support import xor

IDENTITY = "0123456789abcdef"
HOSTILE = "/v1/\x1b[31mred\n2026 200 GET /forged \x9b\u202e"


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str]) -> Callable[[str, str], str]:
    """Return a function that asks for a path and returns the log lines of that, in one format."""

    def ask(log_format: str, path: str) -> str:
        client = create_app(Settings(log_format=log_format)).test_client()
        capfd.readouterr()
        in_wsgi = path.encode().decode("latin-1")
        client.get("/", headers={"X-Request-Id": IDENTITY}, environ_overrides={"PATH_INFO": in_wsgi})
        return capfd.readouterr().out

    return ask


def test_json_lines_have_all_there_is(written: Callable[[str, str], str]) -> None:
    (line,) = written("json", "/v1/activations").splitlines()
    entry = json.loads(line)
    assert entry.pop("time") > 1.6e9
    assert 0 < entry.pop("milliseconds") < 1e5
    assert entry.pop("sent") > 1000
    assert entry == {
        "level": "info",
        "logger": "nabla.access",
        "message": "request",
        "request_id": IDENTITY,
        "method": "GET",
        "path": "/v1/activations",
        "status": 200,
        "queued": 0.0,
        "client": "127.0.0.1",
        "received": None,
    }


def test_text_lines_can_be_read(written: Callable[[str, str], str]) -> None:
    line = written("text", "/v1/activations")
    assert re.fullmatch(rf"\d\d:\d\d:\d\d 200 GET /v1/activations \d+\.\d ms {IDENTITY}\n", line)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_path_cannot_write_lines_or_commands_of_its_own(written: Callable[[str, str], str], log_format: str) -> None:
    line = written(log_format, HOSTILE)
    assert line.endswith("\n") and line.count("\n") == 1
    assert line.isascii() or log_format == "json"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", line)
    if log_format == "text":
        assert "404 GET /v1/%1B%5B31mred%0A2026 200 GET /forged %C2%9B%E2%80%AE " in line


def test_requests_of_machines_are_not_logged(written: Callable[[str, str], str]) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert written("text", path) == ""


@pytest.mark.parametrize(
    ("log_format", "terminal", "text"),
    [("auto", True, True), ("auto", False, False), ("json", True, False), ("text", False, True)],
)
def test_a_terminal_decides_unless_the_setting_does(
    monkeypatch: pytest.MonkeyPatch, log_format: str, terminal: bool, text: bool
) -> None:
    monkeypatch.setattr(logs.os, "isatty", lambda descriptor: terminal and descriptor == 1)
    assert logs_text(log_format) is text


def record(**fields: Any) -> logging.LogRecord:
    try:
        raise ValueError("a cause")
    except ValueError:
        made = logging.LogRecord("nabla.error", logging.ERROR, "", 0, "it %s", ("failed",), sys.exc_info())
    made.fields = fields
    return made


def test_errors_have_their_fields_and_traceback_in_both_formats() -> None:
    entry = json.loads(JsonFormatter().format(record(request_id=IDENTITY)))
    assert (entry["level"], entry["message"], entry["request_id"]) == ("error", "it failed", IDENTITY)
    assert entry["exception"].endswith("ValueError: a cause")
    first, *others = TextFormatter().format(record(request_id=IDENTITY)).splitlines()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d ERROR it failed request_id={IDENTITY}", first)
    assert others[-1] == "ValueError: a cause"


def test_text_of_errors_holds_no_commands_for_terminals() -> None:
    first = TextFormatter().format(record(path=HOSTILE)).splitlines()[0]
    assert first.isprintable() and "forged" in first


def entries(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_a_line_names_the_key_but_does_not_hold_it(capfd: pytest.CaptureFixture[str]) -> None:
    key = "correct horse"
    digest = hashlib.sha256(key.encode()).hexdigest()
    for listed, name in ((f"alice=sha256:{digest}", "alice"), (key, f"sha256:{digest[:8]}")):
        client = create_app(Settings(log_format="json", api_keys=(listed,))).test_client()
        capfd.readouterr()
        assert client.get("/v1", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.get("/v1", headers={"Authorization": "Bearer wrong"}).status_code == 403
        text = capfd.readouterr().out
        accepted, refused = map(json.loads, text.splitlines())
        assert key not in text and "wrong" not in text and digest not in text
        assert (accepted["key"], accepted.get("reason")) == (name, None)
        assert (refused.get("key"), refused["reason"]) == (None, "forbidden")


def test_a_line_has_the_sizes_as_they_crossed_the_wire(capfd: pytest.CaptureFixture[str]) -> None:
    client = create_app(Settings(log_format="json")).test_client()
    capfd.readouterr()
    body = json.dumps(xor()).encode()
    packed = gzip.compress(body)
    plain = client.post("/v1/gradients", data=body, content_type="application/json")
    zipped = client.post(
        "/v1/gradients", data=packed, content_type="application/json", headers={"Content-Encoding": "gzip"}
    )
    stream = client.post("/v1/train", json=xor(optimizer="sgd", steps=2), headers={"Accept": "application/x-ndjson"})
    assert len(stream.get_data()) > 100
    first, second, third = entries(capfd)
    assert (first["received"], first["sent"]) == (len(body), len(plain.get_data()))
    assert (second["received"], second["sent"]) == (len(packed), len(zipped.get_data()))
    assert third["received"] > 100 and third["sent"] is None  # nobody knows it when a stream begins


def test_time_counts_from_the_first_byte_and_waiting_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    client = create_app(Settings(log_format="json")).test_client()
    capfd.readouterr()
    arrived = {"nabla.arrived": time.monotonic() - 5.0, "nabla.ticket": SimpleNamespace(waited=4.0)}
    client.get("/v1/losses", environ_overrides=arrived)
    (entry,) = entries(capfd)
    assert 5000 <= entry["milliseconds"] < 65_000
    assert entry["queued"] == 4000
    text = client.get("/metrics").text
    (waited,) = re.findall(r'^nabla_queue_seconds_sum\{route="/v1/losses"\} (\S+)', text, re.MULTILINE)
    assert float(waited) >= 4.0


def refusals(client: FlaskClient) -> dict[str, float]:
    found = re.findall(r'^nabla_refusals_total\{reason="([^"]+)"\} (\S+)', client.get("/metrics").text, re.MULTILINE)
    return {reason: float(count) for reason, count in found}


def test_refusals_are_counted_by_reason(make_client: MakeClient) -> None:
    client = make_client(max_body_bytes=100)
    before = refusals(client)
    client.post("/v1/gradients", json={})
    client.post("/v1/gradients", data=b" " * 101, content_type="application/json")
    client.get("/v1/losses")
    metrics.refuse("too many connections")
    after = refusals(client)
    grown = {reason for reason, count in after.items() if count > before.get(reason, 0)}
    assert grown == {"invalid", "too-large", "too many connections"}


def test_gauges_are_read_when_metrics_are_asked_for(client: FlaskClient) -> None:
    metrics.sample(metrics.BUSY_SLOTS, lambda: 3, "heavy")
    metrics.sample(metrics.OPEN_CONNECTIONS, lambda: 17)
    try:
        text = client.get("/metrics").text
    finally:
        metrics.sample(metrics.BUSY_SLOTS, lambda: 0, "heavy")
        metrics.sample(metrics.OPEN_CONNECTIONS, lambda: 0)
    assert re.search(r'^nabla_busy_slots\{lane="heavy"\} 3\.0$', text, re.MULTILINE)
    assert re.search(r"^nabla_open_connections 17\.0$", text, re.MULTILINE)
    (resident,) = re.findall(r"^nabla_resident_bytes (\S+)$", text, re.MULTILINE)
    assert float(resident) > 2e7


def test_long_paths_are_cut(written: Callable[[str, str], str]) -> None:
    for log_format in ("json", "text"):
        assert len(written(log_format, "/" + "x" * 8000)) < 1500


def test_stages_are_told_unless_the_operator_says_otherwise(make_client: MakeClient) -> None:
    assert "compile" in make_client().post("/v1/gradients", json=xor()).headers["Server-Timing"]
    assert "Server-Timing" not in make_client(server_timing=False).post("/v1/gradients", json=xor()).headers
