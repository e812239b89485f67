"""Hints in the errors for an unknown path and for a method that a path does not have."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import orjson
from flask import current_app

from service.api.endpoint import ENDPOINTS, Endpoint

CLOSE, VERY_CLOSE = 0.75, 0.9
"""The least similarity of a misspelt path: after its words have been looked at, and before."""
LONGEST_PATH = 100
"""Characters of a path that may be a misspelt one."""
_FORWARD: dict[str, Any] = {"network": {"layers": [{"type": "dense", "units": 1}]}, "inputs": [[1, 2]]}
_GRADIENTS = _FORWARD | {"targets": [[1]], "loss": "mse"}
BODIES: Mapping[str, Mapping[str, Any]] = {
    "/v1/forward": _FORWARD,
    "/v1/gradients": _GRADIENTS,
    "/v1/derivatives": _FORWARD | {"kind": "jacobian"},
    "/v1/networks": {"network": _FORWARD["network"]},
    "/v1/runs": {"kind": "train", "request": _GRADIENTS | {"optimizer": "sgd", "steps": 1}},
    "/v1/gradients/explain": _GRADIENTS | {"sample": 0},
    "/v1/graph": {"expression": "x^2 - y^2", "point": [3, 1]},
    "/v1/gradients/check": _GRADIENTS,
    "/v1/landscape": _GRADIENTS | {"along": [{"direction": "random"}]},
    "/v1/train": _GRADIENTS | {"optimizer": "sgd", "steps": 1},
    "/v1/train/compare": _GRADIENTS | {"optimizers": ["sgd", "adam"], "steps": 1},
    "/v1/functions/gradient": {"expression": "x^2 + y^2", "points": [[1, 2]]},
    "/v1/functions/descend": {"expression": "x^2 + y^2", "starts": [[1, 2]], "optimizers": ["sgd"]},
}
"""The smallest bodies of requests whose examples are long."""
WORDS: Mapping[str, str] = dict.fromkeys(("predict", "inference", "evaluate", "call", "outputs"), "/v1/forward") | {
    **dict.fromkeys(
        ("grad", "backward", "backprop", "backpropagation", "loss", "autograd", "autodiff", "compute", "calculate"),
        "/v1/gradients",
    ),
    **dict.fromkeys(("explain", "derivation", "derive", "why", "worked-example"), "/v1/gradients/explain"),
    **dict.fromkeys(("gradcheck", "check", "check-grad", "gradient-check", "validate"), "/v1/gradients/check"),
    **dict.fromkeys(("verify", "grade"), "/v1/gradients/verify"),
    **dict.fromkeys(("diagnose", "diagnosis"), "/v1/gradients/diagnose"),
    **dict.fromkeys(("graphs", "dot", "mermaid", "trace", "jaxpr", "computation"), "/v1/graph"),
    **dict.fromkeys(("fit", "step", "optimize", "training", "learn", "descent"), "/v1/train"),
    **dict.fromkeys(("jacobian", "hessian", "jvp", "vjp", "hvp", "derivative"), "/v1/derivatives"),
    **dict.fromkeys(("surface", "loss-surface", "spectrum", "eigenvalues", "curvature"), "/v1/landscape"),
    **dict.fromkeys(("function", "functions", "diff", "differentiate", "expression"), "/v1/functions/gradient"),
    **dict.fromkeys(("models", "model", "network", "upload", "store", "onnx", "import"), "/v1/networks"),
    **dict.fromkeys(("compare", "benchmark"), "/v1/train/compare"),
    **dict.fromkeys(("jobs", "job", "tasks", "task", "queue", "batch", "sweep", "sweeps", "async", "run"), "/v1/runs"),
    **dict.fromkeys(("minimize", "minimise", "minimum", "gradient-descent"), "/v1/functions/descend"),
    **dict.fromkeys(("swagger", "redoc", "api-docs", "documentation", "doc", "help", "swagger-ui"), "/docs"),
    **dict.fromkeys(("openapi", "swagger.json", "schema", "spec"), "/openapi.json"),
    **dict.fromkeys(("health", "healthz", "ping", "status", "live", "livez"), "/health/live"),
    **dict.fromkeys(("ready", "readyz"), "/health/ready"),
    **dict.fromkeys(("api", "version", "info", "limits", "index", "v2"), "/v1"),
}
"""Last words of paths of other services, and the path here."""


def nothing_at(path: str, method: str) -> str:
    """Return the sentence for an unknown path; it names the path that was probably meant."""
    instead = _meant(path, method)
    hint = f"; did you mean {instead}?" if instead else "."
    shown = path if len(path) <= LONGEST_PATH else path[:LONGEST_PATH] + "…"
    return f"There is nothing at {shown}{hint} GET /v1 lists what there is."


def no_method(path: str, method: str, allowed: str) -> str:
    """Return the sentence for a wrong method, with how to send the right one; `allowed` is the Allow header."""
    text = f"{path} has no method {method}"
    below = f"{path.rstrip('/')}/{{id}}"
    if any(each.path == below and each.method == method for each in ENDPOINTS):
        return f"{text}; send {method} {below}, with the id of one."
    if "POST" not in allowed:
        if method == "POST" and path in ("/", "/v1"):
            return f"{text}; send GET, or POST to a path such as /v1/gradients: GET /v1 lists them."
        body = ", without a body" if method in ("POST", "PUT", "PATCH") else ""
        return f"{text}; send GET{body}." if "GET" in allowed else f"{text}; it has {allowed}."
    operation = next((each for each in ENDPOINTS if each.method == "POST" and _fits(each.path, path.rstrip("/"))), None)
    if operation is not None and operation.takes is None:
        return f"{text}; send POST, without a body."
    body = _body(operation) if operation else ""
    return f"{text}; send POST with a JSON body" + (f" such as {body}" if body else ".")


def _fits(template: str, path: str) -> bool:
    """Return whether a path is one of those that a template such as `/v1/runs/{id}` stands for."""
    parts = template.split("/")
    found = path.split("/")
    return len(parts) == len(found) and all(
        part == given or part.startswith("{") for part, given in zip(parts, found, strict=True)
    )


def _body(operation: Endpoint) -> str:
    """Return the shortest example body of an endpoint as JSON; "" if it has none."""
    known = BODIES.get(operation.path)
    bodies = [known] if known is not None else operation.examples.values()
    return min((orjson.dumps(body).decode() for body in bodies), key=len, default="")


def _methods() -> dict[str, str]:
    """Return the method to use for each path of the service: POST, or else GET."""
    methods: dict[str, str] = {}
    for rule in current_app.url_map.iter_rules():
        if "POST" in (rule.methods or ()):
            methods[rule.rule] = "POST"
        else:
            methods.setdefault(rule.rule, "GET")
    return methods


def _meant(path: str, method: str) -> str:
    """Return the method and path that an unknown path probably stands for, such as `POST /v1/train`; "" if none."""
    parts = [part for part in path.lower().replace("_", "-").split("/") if part]
    if not parts or len(path) > LONGEST_PATH:
        return ""
    methods = _methods()
    # /gradients, /api/gradients, /v2/gradients, /v1/gradients/xor: the rest decides, then its beginning.
    inner = [part for part in parts if part not in ("api", "rest", "v0", "v1", "v2", "v3", "nabla")]
    if not inner:
        return "GET /v1"
    plain = {known: known for known in methods if "<" not in known}
    plain |= {known.removeprefix("/v1"): known for known in plain if known.startswith("/v1/")}
    whole = "/" + "/".join(inner)
    meant = _beginning(inner, plain)
    if not meant and len(inner) > 1:
        meant = _nearest(whole, plain, VERY_CLOSE)
    if not meant and method == "GET":  # GET /v1/losses lists losses; POST /v1/loss wants to compute one
        lists = {each: each for each in plain if methods[plain[each]] == "GET" and plain[each].startswith("/v1/")}
        meant = _nearest(f"/{inner[0]}", lists, CLOSE)
    # The words of /v1/gradients/gradcheck and of /v1/compute-gradients say more than the beginning of the path.
    for word in (inner[-1], inner[0], *reversed(inner[-1].split("-"))):
        there = WORDS.get(word) or f"/{word}"
        if there in plain and (not meant or there.startswith(plain[meant] + "/")):
            meant = there
            break
    meant = meant or _nearest(whole, plain, CLOSE)
    return f"{methods[plain[meant]]} {plain[meant]}" if meant else ""


def _nearest(path: str, known: Mapping[str, str], cutoff: float) -> str:
    return next(iter(difflib.get_close_matches(path, known, 1, cutoff)), "")


def _beginning(parts: list[str], known: Mapping[str, str]) -> str:
    """Return the longest path of the service that a path of these parts begins with; "" if there is none."""
    paths = ("/" + "/".join(parts[:stop]) for stop in range(len(parts), 0, -1))
    return next((path for path in paths if path in known), "")
