"""The catalogue under `/v1`: one listing for each kind of block that requests or responses name, and one entry each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from flask import Blueprint, Response, request

from schemas.catalogue import CatalogueEntrySchema, CatalogueListingSchema
from schemas.declared import article, default_of
from schemas.messages import hint
from service import wire
from service.api.endpoint import describe
from service.engine.declarations import Declaration, Reference, Registry, Selection
from service.engine.descent.optimizers import Optimizer, optimizers
from service.engine.descent.schedules import schedules
from service.engine.descent.update import Rules
from service.engine.findings import Finding, findings
from service.engine.functions.formulas import formulas_of, slopes_of
from service.engine.functions.presets import Preset, presets
from service.engine.functions.vocabulary import Word, vocabulary
from service.engine.insight.mistakes import Mistake, mistakes
from service.engine.network.activations import activations
from service.engine.network.curves import activation_curve, loss_curve
from service.engine.network.initializers import initializers
from service.engine.network.layers import Layer, layers
from service.engine.network.layers.declaration import ANY_NUMBER
from service.engine.network.losses import Loss, losses
from service.engine.network.regularizers import regularizers
from service.engine.options import Flag, Option, Value
from service.engine.texts import LANGUAGES, telling
from service.problems import Problem, pointer

blueprint = Blueprint("catalogue", __name__)

REGISTRIES: dict[str, Registry[Any]] = {
    registry.plural: registry
    for registry in (
        activations,
        losses,
        layers,
        initializers,
        regularizers,
        optimizers,
        schedules,
        presets,
        vocabulary,
        findings,
        mistakes,
    )
}
MOST_POINTS = 2001

_BOUNDS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "exclusiveMinimum": "exclusive_minimum",
    "exclusiveMaximum": "exclusive_maximum",
    "enum": "values",
}
"""The names in the catalogue for keywords of JSON Schema. It shows no others; `openapi.yaml` has all."""


def option_entry(option: Option) -> dict[str, Any]:
    """Return an option in the form of the catalogue."""
    if isinstance(option, Reference):
        schema: dict[str, Any] = {}
        kind, more = "choice", {"of": f"/v1/{option.registry.plural}"}
        if option.family is not None:
            schema = {"enum": option.names}
    else:
        assert isinstance(option, Value)
        schema = option.schema()
        kind, more = _type(schema), {}
    entry = {"name": option.name, "type": kind, "required": option.required, "description": option.description}
    if not option.required:
        entry["default"] = default_of(option)
    return entry | {name: schema[key] for key, name in _BOUNDS.items() if key in schema} | more


def _type(schema: Mapping[str, Any]) -> str:
    """Return the type of an option in a word or two, such as `number` or `integer list`, from its JSON Schema.

    A value that may be one number or a list of numbers has the type of the list.
    """
    if "type" not in schema:
        return _type(schema["anyOf"][-1])
    if schema["type"] == "array":
        items = schema["items"]
        return f"{items.get('anyOf', [items])[0]['type']} list"
    return str(schema["type"])


def _entry(plural: str, declaration: Declaration) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": declaration.name,
        "aliases": list(declaration.aliases),
        "description": dict(declaration.description),
        "latex": declaration.latex,
        "derivative": declaration.derivative,
        "options": [option_entry(option) for option in declaration.options],
        "sources": list(declaration.sources),
        "href": f"/v1/{REGISTRIES[plural].path}/{declaration.name}",
    }
    if isinstance(declaration, Layer):
        entry["parameters"] = dict(declaration.parameters or {})
        fewest, most = declaration.takes
        entry["inputs"] = {"minimum": fewest, "maximum": None if most == ANY_NUMBER else most}
    if isinstance(declaration, Optimizer):
        entry["conventions"] = {name: dict(defaults) for name, defaults in declaration.conventions.items()}
        entry["counter_example"] = declaration.counter_example
        entry["state"] = _state_of(declaration)
        entry["stable_factor"] = _stable_factor_of(declaration)
    if isinstance(declaration, Word):
        entry |= _word(declaration)
    if isinstance(declaration, Mistake):
        entry |= _mistake(declaration)
    if isinstance(declaration, Preset):
        entry |= _preset(declaration)
    if isinstance(declaration, Finding):
        entry |= _finding(declaration)
    return entry


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "severities": dict(finding.severities),
        "below": finding.below,
        "advice": {language: telling(language)(finding.advice) for language in LANGUAGES},
    }


def _word(word: Word) -> dict[str, Any]:
    return {
        "derivative": ",\\quad ".join(slopes_of(word)),
        "arguments": word.arguments,
        "operator": word.operator,
        "troubles": [{"kind": each.kind, "message": each.text} for each in word.singularities],
    }


def _mistake(mistake: Mistake) -> dict[str, Any]:
    change = {language: telling(language)(mistake.change) for language in LANGUAGES}
    return {"kind": mistake.kind, "change": change, "example": dict(mistake.example)}


def _preset(preset: Preset) -> dict[str, Any]:
    formulas = formulas_of(preset.build())
    return {
        "latex": formulas.function,
        "derivative": ",\\quad ".join(partial.latex for partial in formulas.gradient if partial is not None),
        "expression": preset.expression,
        "variables": preset.variables,
        "domain": preset.domain,
        "minima": [minimum._asdict() for minimum in preset.minima],
        "stationary": [{"point": place.point, "classification": place.kind} for place in preset.stationary],
        "teaches": dict(preset.teaches),
        "starts": preset.starts,
        "trials": [
            {"optimizer": {"type": trial.optimizer, **trial.options}, "steps": trial.steps} for trial in preset.trials
        ],
    }


def _state_of(optimizer: Optimizer) -> list[str]:
    """Return the names of all state that an optimizer may keep, with every option set that adds to its state."""
    options = {option.name: True if isinstance(option, Flag) else 0.5 for option in optimizer.options}
    return [*optimizer.state(**options), *optimizer.histories, *optimizer.numbers]


def _stable_factor_of(optimizer: Optimizer) -> float | None:
    """Return the largest stable product of learning rate and curvature, with default options, if it is known."""
    if optimizer.stable is None:
        return None
    return float(optimizer.stable(**Rules(optimizers.select(optimizer.name)).own_options))


@cache
def _listing(plural: str) -> bytes:
    return wire.document({plural: [_entry(plural, declaration) for declaration in REGISTRIES[plural]]})


def _cacheable(content: bytes) -> Response:
    response = Response(content, content_type=wire.JSON)
    # Weak: the same listing may be compressed or not.
    response.set_etag(hashlib.sha256(content).hexdigest()[:32], weak=True)
    response.cache_control.no_cache = True  # keep it, but ask whether it changed
    response.make_conditional(request)
    return response


def _bad_query(name: str, detail: str) -> Problem:
    error = {"pointer": pointer(("query", name)), "detail": detail}
    return Problem("invalid", f"The query parameter {name} is not valid.", [error])


def _number(query: Mapping[str, str], name: str, default: float) -> float:
    text = query.get(name)
    try:
        number = default if text is None else math.nan if "_" in text else float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or abs(number) > 1e9:
        raise _bad_query(name, f"takes a number between -1e9 and 1e9, got {text!r}")
    return number


def _curve(registry: Registry[Any], selection: Selection[Any], query: Mapping[str, str]) -> dict[str, Any]:
    known = ["from", "to", "points"] + (["target"] if registry is losses else [])
    for name in query:
        if name not in known:
            error = {
                "pointer": pointer(("query", name)),
                "detail": f"unknown query parameter{hint(name, known)}",
                "allowed": known,
            }
            raise Problem("invalid", f"There is no query parameter {name!r}.", [error])
    declaration = selection.declaration
    low, high = declaration.domain if isinstance(declaration, Loss) else (-6.0, 6.0)
    start, stop = _number(query, "from", low), _number(query, "to", high)
    points = _number(query, "points", 241.0)
    if not (points.is_integer() and 2 <= points <= MOST_POINTS):
        raise _bad_query("points", f"takes an integer from 2 to {MOST_POINTS}, got {points:g}")
    curve: dict[str, Any] = {}
    if isinstance(declaration, Loss):
        # One output is one class, so the only index is 0.
        target = 0.0 if declaration.indices else _number(query, "target", declaration.example_target)
        curve["target"] = target
        sampled = loss_curve(selection, target, start, stop, int(points))
    else:
        sampled = activation_curve(selection, start, stop, int(points))
    return curve | {
        "x": sampled.x,
        "value": sampled.values,
        "derivative": sampled.derivatives,
        "finite": sampled.finite,
    }


OF_CURVES: tuple[Mapping[str, Any], ...] = tuple(
    {"name": name, "in": "query", "schema": schema, "description": text}
    for name, schema, text in (
        ("from", {"type": "number", "minimum": -1e9, "maximum": 1e9}, "where the curve starts"),
        ("to", {"type": "number", "minimum": -1e9, "maximum": 1e9}, "where the curve ends"),
        ("points", {"type": "integer", "minimum": 2, "maximum": MOST_POINTS, "default": 241}, "number of points"),
        ("target", {"type": "number", "minimum": -1e9, "maximum": 1e9}, "the target that a loss is drawn against"),
    )
)
"""The query parameters of curves, in the form of OpenAPI."""


def _add(plural: str) -> None:
    """Add the endpoints of a registry: its listing, and its entries."""
    registry = REGISTRIES[plural]
    kind = registry.kind
    drawn = plural in ("activations", "losses")
    path_parameter = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "enum": [name for name in registry.names if name != "/"]},
        "description": f"the name of {article(kind)}, or another name that it has",
        "example": next(iter(registry)).name,
    }
    query = [each for each in OF_CURVES if drawn and (each["name"] != "target" or registry is losses)]

    def everything() -> Response:
        return _cacheable(_listing(plural))

    def one(name: str) -> Response:
        if name not in registry:
            raise Problem(
                "not-found", f"No {kind} is called {name!r}{hint(name, registry.names, registry.kind) or '.'}"
            )
        declaration = registry[name]
        if drawn:
            curve = _curve(registry, registry.select(name), request.args)
            return _cacheable(wire.document(_entry(plural, declaration) | {"curve": curve}))
        return _cacheable(wire.document(_entry(plural, declaration)))

    everything.__name__, one.__name__ = f"list_{plural}", f"get_{kind}"
    everything.__doc__ = (
        f"Every {kind} that a response may contain, with what it means and what to do about it."
        if registry.answers_only
        else f"Every {kind} that a request may name, with options, formulas and sources."
    )
    one.__doc__ = (
        f"The {kind} of this name: what it means and what to do about it."
        if registry.answers_only
        else f"The {kind} of this name, with its options, formulas and sources"
        + (", and a sampled curve of its value and derivative." if drawn else ".")
    )
    summary = f"All {plural}"
    path = f"/v1/{registry.path}"
    describe("GET", path, summary=summary, tag="Catalogue", gives=CatalogueListingSchema())(everything)
    describe(
        "GET",
        f"{path}/{{name}}",
        summary=f"One {kind}",
        tag="Catalogue",
        gives=CatalogueEntrySchema(),
        parameters=(path_parameter, *query),
    )(one)
    blueprint.get(path)(everything)
    blueprint.get(f"{path}/<name>")(one)


for _plural in REGISTRIES:
    _add(_plural)
