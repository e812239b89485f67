"""The WSGI application: it puts the parts of the service together, and does nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from service import wire
from service.api import (
    catalogue,
    check,
    derivatives,
    diagnose,
    evaluation,
    explain,
    functions,
    graph,
    landscape,
    networks,
    runs,
    system,
    training,
    verify,
)
from service.api.context import runtime_of
from service.api.hints import no_method, nothing_at
from service.callers.cors import Cors
from service.callers.quotas import Gate
from service.capacity.admission import Admission
from service.config import Settings
from service.engine.errors import EngineError
from service.lean_flask import Lean
from service.observing.access import access_of, log_requests, peer_of, record, request_id
from service.observing.timer import Timer
from service.problems import MEDIA_TYPE, Problem, from_engine, from_status, from_store, from_unexpected
from service.proxy import Forwarded, Proxies, client_name
from service.store_errors import StoreError


def create_app(settings: Settings | None = None) -> Flask:
    """Return the WSGI application with these settings, or those of the environment."""
    settings = settings or Settings.from_environment()
    app = Lean("service", static_folder=None)
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False  # a redirect would repeat the Host header, which anyone can write
    running = app.extensions["nabla"] = runtime_of(settings)
    # The edge and tests use these apart.
    app.extensions |= {
        "nabla.admission": running.admission,
        "nabla.memory": running.memory,
        "nabla.store": running.store,
    }
    proxies = app.extensions["nabla.proxies"] = Proxies(settings.trusted_proxies)
    if proxies:
        app.wsgi_app = Forwarded(app.wsgi_app, proxies)  # type: ignore[method-assign]
    # gunicorn.conf.py sets `on_loopback`.
    cors = app.extensions["nabla.cors"] = Cors(settings.cors_origins)
    networks_and_functions = (evaluation, derivatives, explain, graph, check, diagnose, verify, landscape, functions)
    for module in (*networks_and_functions, training, runs, networks, catalogue, system):
        app.register_blueprint(module.blueprint)
    app.register_blueprint(system.problems)
    if settings.docs:
        app.register_blueprint(system.pages)
    _guard(app, settings)
    _report_problems(app, settings, running.admission)
    _finish(app, settings, cors)
    return app


def _guard(app: Flask, settings: Settings) -> None:
    gate = app.extensions["nabla.gate"] = Gate(
        settings.keys, settings.max_requests_per_second, settings.max_key_requests_per_second
    )

    @app.before_request
    def before() -> None:
        # The WSGI environment carries the state of a request: it costs less than Flask's proxies.
        environ = request.environ
        environ["nabla.timer"] = Timer(environ.get("nabla.arrived"))
        environ["nabla.request_id"] = request_id(environ.get("HTTP_X_REQUEST_ID"))
        peer = peer_of(environ)
        # By the rule, not the path: routing forgives slashes that a comparison of paths would not.
        rule = request.url_rule
        route = environ["nabla.route"] = "unmatched" if rule is None else rule.rule
        guarded = route.startswith("/v1") and environ["REQUEST_METHOD"] != "OPTIONS"
        if guarded and "nabla.key" not in environ:  # the edge may have checked the key before it read the body
            name = environ["nabla.key"] = gate.check(peer, environ.get("HTTP_AUTHORIZATION"))
            environ.setdefault("nabla.client", client_name(name, peer))


def _report_problems(app: Flask, settings: Settings, admission: Admission) -> None:
    def respond(problem: Problem) -> Response:
        environ = request.environ
        environ.setdefault("nabla.reason", problem.kind)
        document = problem.document(environ.get("nabla.request_id", ""), environ.get("SCRIPT_NAME", ""))
        response = Response(document + b"\n", problem.status, content_type=MEDIA_TYPE)
        response.headers.update(problem.headers)
        return response

    @app.errorhandler(Problem)
    def on_problem(problem: Problem) -> Response:
        return respond(problem)

    @app.errorhandler(EngineError)
    def on_engine_error(error: EngineError) -> Response:
        return respond(from_engine(error, settings.max_seconds, admission.backlog()))

    @app.errorhandler(StoreError)
    def on_store_error(error: StoreError) -> Response:
        return respond(from_store(error))

    @app.errorhandler(HTTPException)
    def on_http_exception(error: HTTPException) -> Response:
        response = error.get_response()
        detail = error.description or ""
        if response.status_code == 404:
            detail = nothing_at(request.path, request.method)
        elif response.status_code == 405:
            detail = no_method(request.path, request.method, response.headers.get("Allow", ""))
        headers = {key: value for key, value in response.headers.items() if key in ("Allow", "Retry-After")}
        # The error's traceback holds the request, so both would wait for the garbage collector.
        request.routing_exception = None
        return respond(from_status(response.status_code, detail, headers))

    @app.errorhandler(Exception)
    def on_any_exception(error: Exception) -> Response:
        return respond(from_unexpected(error, request.environ, admission.backlog()))


def _finish(app: Flask, settings: Settings, cors: Cors) -> None:
    log_requests(settings.log_format if settings.log_requests else None)

    @app.after_request
    def after(response: Response) -> Response:
        environ, headers = request.environ, response.headers
        timer: Timer = environ["nabla.timer"]
        # No view sets these headers. Replacing instead of adding would take twice as long: 4 us instead of 2.
        headers.add("X-Request-Id", environ["nabla.request_id"])
        headers.add("X-Content-Type-Options", "nosniff")
        if timer.stages and settings.server_timing:
            headers.add("Server-Timing", timer.header())
        cors.allow(headers, environ)
        length = response.content_length
        if length is not None and length >= wire.SMALLEST_COMPRESSED and not response.direct_passthrough:
            length = _compress(response, length, environ)
        # A stream is counted and logged at its beginning.
        record(
            access_of(
                environ,
                environ["nabla.request_id"],
                environ["nabla.route"],
                response.status_code,
                timer.elapsed,
                length,
            )
        )
        return response


def _compress(response: Response, length: int, environ: Mapping[str, Any]) -> int:
    """Compress a response if the client accepts gzip; return the length of the body to send."""
    response.headers.add("Vary", "Accept-Encoding")
    compressed = wire.compress(list(response.iter_encoded()), environ)
    if compressed is None:
        return length
    response.response = compressed
    response.content_length = length = sum(map(len, compressed))
    response.headers["Content-Encoding"] = "gzip"
    return length
