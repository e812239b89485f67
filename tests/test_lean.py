"""`service/lean_flask.py` finds for each request what Flask itself finds."""

from typing import Any

from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.test import create_environ

from service.app import create_app
from service.config import Settings
from tests.support import every

APP = create_app(Settings())


def found(environ: dict[str, Any], create_url_adapter: Any) -> Any:
    """Return the host, mount and rule that an adapter finds, or the status of its refusal."""
    try:
        adapter = create_url_adapter(APP, APP.request_class(environ))
        rule, values = adapter.match(return_rule=True)
    except HTTPException as error:
        return error.code, type(error)
    built = adapter.build("system.live", force_external=True)
    return (
        rule.rule,
        values,
        adapter.server_name,
        adapter.script_name,
        adapter.path_info,
        adapter.query_args or "",
        built,
    )


@every("method", ["POST", "GET", "HEAD", "OPTIONS", "DELETE"])
@every(
    "path",
    ["/v1/gradients", "/v1/gradients/", "//v1/gradients", "/v1//gradients", "/v1/Gradients", "/v1/nothing", "/", ""],
)
def test_a_path_has_the_rule_that_flask_finds(method: str, path: str) -> None:
    environ = create_environ("/", method=method, query_string="a=ü")
    environ["PATH_INFO"] = path
    assert found(environ, type(APP).create_url_adapter) == found(environ, Flask.create_url_adapter)


@every(
    "changes",
    [
        {"HTTP_HOST": "Example.COM:80"},
        {"HTTP_HOST": "example.com:443", "wsgi.url_scheme": "https"},
        {"HTTP_HOST": "example.com:443"},
        {"HTTP_HOST": "[::1]:8000"},
        {"HTTP_HOST": ""},
        {"HTTP_HOST": "a b"},
        {"HTTP_HOST": "a..b"},
        {"HTTP_HOST": "a" * 70 + ".org"},
        {"HTTP_HOST": "example.com:99999"},
        {"HTTP_HOST": None},
        {"SCRIPT_NAME": "/nabla"},
        {"SCRIPT_NAME": "/\xc3\xbc"},
        {"SCRIPT_NAME": None, "QUERY_STRING": None},
        {"HTTP_CONNECTION": "Upgrade", "HTTP_UPGRADE": "websocket"},
    ],
    ids=str,
)
def test_a_host_and_a_mount_are_those_that_flask_finds(changes: dict[str, str | None]) -> None:
    environ = create_environ("/v1/gradients", method="POST")
    for name, value in changes.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    for _ in range(2):  # the second time, the host is remembered
        assert found(environ, type(APP).create_url_adapter) == found(environ, Flask.create_url_adapter)
