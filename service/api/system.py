"""The views of health checks, metrics, the service's description of itself, and the HTML pages."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import flask_swagger_ui
import numpy as np
import orjson
from flask import Blueprint, Response, abort, render_template, request, send_from_directory
from markupsafe import Markup

from schemas.system import OpenApiDescriptionSchema, ServiceDescriptionSchema, ServiceHealthSchema
from service import __version__, demo_files, wire
from service.api.catalogue import REGISTRIES
from service.api.context import runtime
from service.api.endpoint import ENDPOINTS, describe, in_order
from service.api.examples import FUNCTION_GRADIENT, GRADIENTS
from service.api.queries import as_json
from service.api.run_queue import queue
from service.engine.network.definition import INPUT, LayerDefinition
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.feed import Feed
from service.engine.network.layered import NetworkDefinition
from service.engine.network.layers import layers
from service.engine.network.losses import losses
from service.engine.network.task import Task
from service.observing.metrics import exposition
from service.packaged import packaged
from service.problems import KINDS, Problem

blueprint = Blueprint("system", __name__, template_folder="../templates")

SPECIFICATION = packaged("openapi.yaml")
SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
# Everything the pages load comes from the service itself; Swagger UI sets styles and draws
# inline images, nothing else is allowed.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
FOREVER = "public, max-age=31536000, immutable"


def _root() -> str:
    """Return the path that the service is mounted at: all links begin with it."""
    root: str = request.environ.get("SCRIPT_NAME", "")
    return root


def _page(template: str, **values: Any) -> Response:
    return _html(render_template(template, version=__version__, root=_root(), **values))


def _html(text: str) -> Response:
    response = Response(text, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


@describe("GET", "/health/live", summary="Is the process alive?", tag="System", gives=ServiceHealthSchema())
def live() -> Response:
    """Answer 200 while the worker responds; the engine is not asked."""
    return as_json({"status": "ok"})


@describe("GET", "/health/ready", summary="Can it take requests?", tag="System", gives=ServiceHealthSchema())
def ready() -> Response:
    """Answer 200 once the engine has passed its self-test."""
    if not _engine_works():
        raise Problem("busy", "The engine does not pass its self-test.", headers={"Retry-After": "10"})
    return as_json({"status": "ok"})


@cache
def _engine_works() -> bool:
    """Return whether the engine computes one neuron right: loss (2·3 - 5)² = 1 and gradient 2·(2·3 - 5)·3 = 6."""
    line = LayerDefinition("line", layers.select("dense", units=1, use_bias=False))
    loss = losses.select("squared_error")
    shape = (1, 1)
    task = Task(NetworkDefinition((line,)), "float64", ((INPUT, shape),), losses=(loss,), targets=(("line", shape),))
    kernel, targets = {"line": {"kernel": np.full(shape, 2.0)}}, {"line": np.full(shape, 5.0)}
    feed = Feed({INPUT: np.full(shape, 3.0)}, kernel, targets)
    result = EvaluationTask(task).compile(runtime().settings.limits).run(feed)
    return result.loss == 1.0 and result.gradients["line"]["kernel"][0, 0] == 6.0


@describe("GET", "/metrics", summary="Metrics for Prometheus", tag="System", media_types=("text/plain",))
def metrics() -> Response:
    """Return counts and times of requests, summed over the workers."""
    # A proxy closes this path, and would overlook /metrics/ or //metrics, which routing forgives.
    if request.environ["PATH_INFO"] != "/metrics":
        abort(404)
    content, media_type = exposition()
    return Response(content, content_type=media_type)


@describe(
    "GET", "/v1", summary="Name, version and limits of the service", tag="System", gives=ServiceDescriptionSchema()
)
def about() -> Response:
    """Return name, version, links, the limits in force, and the runs that wait and compute."""
    root = _root()
    links = {operation.name: root + operation.path for operation in ENDPOINTS if "{" not in operation.path}
    return as_json(
        {
            "name": "Nabla, the gradient service",
            "version": __version__,
            "links": links,
            "limits": runtime().settings.shown_limits,
            "queue": queue(runtime()),
        }
    )


@cache
def _specification() -> bytes:
    return SPECIFICATION.read_bytes()


@cache
def _specification_as_json() -> bytes:
    import yaml  # this alone needs it, and the import takes 8 ms of a start

    return wire.document(yaml.load(_specification(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


@describe("GET", "/openapi.yaml", summary="This description", tag="System", media_types=())
def openapi_yaml() -> Response:
    """Return the OpenAPI 3.1 description of the service, as YAML (application/yaml)."""
    text, root = _specification(), _root()
    if root:
        # Paths in the description begin at the root of the host, unless it names a server.
        text += f"servers:\n- url: {root}\n".encode()
    return Response(text, content_type="application/yaml")


@describe("GET", "/openapi.json", summary="This description as JSON", tag="System", gives=OpenApiDescriptionSchema())
def openapi_json() -> Response:
    """Return the OpenAPI 3.1 description of the service, as JSON."""
    text, root = _specification_as_json(), _root()
    if root:
        text = b'{"servers":[{"url":"%b"}],' % root.encode() + text.removeprefix(b"{")
    return Response(text, content_type=wire.JSON)


def _in_rows(text: str) -> str:
    """Return indented JSON in which each tensor stands on one line."""
    return re.sub(r"\[[-+.\de,\s\[\]]+\]", lambda match: re.sub(r"\s+", "", match[0]).replace(",", ", "), text)


def home() -> Response:
    """Show the demo; if it is not built, show how to build it."""
    shown = runtime().settings.demo
    text = demo_files.page(_root()) if shown else None
    if text is None:
        why = demo_files.why_absent() if shown else {"state": "off", "detail": ""}
        response = _page("absent.html", **why)
        response.headers["Cache-Control"] = "no-store"
        return response
    response = _html(text)
    response.headers["Cache-Control"] = "no-cache"  # it names the files of one build
    response.add_etag(weak=True)
    response.make_conditional(request)
    return response


def demo_file(name: str) -> Response:
    """Return a file that the demo loads. Its name changes with its content, so that browsers ask once."""
    found = demo_files.asset(name, wire.accepts_gzip(request.environ)) if runtime().settings.demo else None
    if found is None:
        raise Problem("not-found", f"There is no file {name!r}.")
    response = Response(content_type=found.media_type)
    # Unchanged: it was compressed when it was built, unless that was not worth it.
    response.response, response.direct_passthrough = [found.content], True
    response.content_length = len(found.content)
    response.headers["Cache-Control"] = FOREVER if found.immutable else "max-age=3600"
    response.headers["Vary"] = "Accept-Encoding"
    if found.gzipped:
        response.headers["Content-Encoding"] = "gzip"
    return response


def reference() -> Response:
    body = orjson.dumps(
        {key: value for key, value in GRADIENTS["xor"].items() if key != "include"}, option=orjson.OPT_INDENT_2
    ).decode()
    function = orjson.dumps(FUNCTION_GRADIENT["rosenbrock"], option=orjson.OPT_INDENT_2).decode()
    return _page(
        "reference.html",
        operations=in_order(),
        function=_in_rows(function),
        body=_in_rows(body),
        catalogue=REGISTRIES,
        problems=KINDS,
    )


def swagger() -> Response:
    return _page("docs.html", keys="set" if runtime().settings.keys else "none")


def swagger_file(name: str) -> Response:
    if name not in SWAGGER_FILES:
        raise Problem("not-found", f"There is no file {name!r}.")
    return send_from_directory(SWAGGER_UI, name, max_age=86400)


def problem(kind: str) -> Response:
    if kind not in KINDS:
        raise Problem("not-found", f"No problem is called {kind!r}.")
    return _page("problem.html", name=kind, kind=KINDS[kind])


def logo() -> Response:
    return Response(Markup(LOGO), content_type="image/svg+xml")


LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="6" fill="#00568a"/>'
    '<path d="M6 8h20L16 26z" fill="none" stroke="#fff" stroke-width="3" stroke-linejoin="round"/></svg>'
)

for _path, _view in (
    ("/health/live", live),
    ("/health/ready", ready),
    ("/metrics", metrics),
    ("/v1", about),
    ("/openapi.yaml", openapi_yaml),
    ("/openapi.json", openapi_json),
):
    blueprint.get(_path)(_view)

# Errors name their page whatever else is served.
problems = Blueprint("problems", __name__, template_folder="../templates")
problems.get("/problems/<kind>")(problem)

pages = Blueprint(
    "pages", __name__, template_folder="../templates", static_folder="../static", static_url_path="/static"
)
for _path, _page_view in (
    ("/", home),
    ("/assets/<name>", demo_file),
    ("/reference", reference),
    ("/docs", swagger),
    ("/docs/<name>", swagger_file),
    ("/favicon.ico", logo),
):
    pages.get(_path)(_page_view)
