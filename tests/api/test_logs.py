"""What the service writes for its operators: JSON for programs, lines for people."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient

from service import observability
from service.app import create_app
from service.config import Settings
from service.observability import JsonFormatter, TextFormatter, logs_text

MakeClient = Callable[..., FlaskClient]
IDENTITY = "0123456789abcdef"
HOSTILE = "/v1/\x1b[31mred\n2026 200 GET /forged \x9b\u202e"


@pytest.fixture
def written(capfd: pytest.CaptureFixture[str]) -> Callable[[str, str], str]:
    """What is logged, in one format, of a request for a path."""

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
    monkeypatch.setattr(observability.os, "isatty", lambda descriptor: terminal and descriptor == 1)
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
