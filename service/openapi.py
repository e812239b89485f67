"""Write openapi.yaml from the schemas and endpoints. This is a tool for developers: the service serves the file.

python -m service.openapi            rewrite openapi.yaml
python -m service.openapi --check    fail if openapi.yaml would change
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

import orjson
import yaml
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin

from schemas.components import Components, schema_name, sentence_of
from schemas.strict import StrictField
from schemas.system import ProblemSchema
from service import __version__, wire
from service.api.endpoint import TAGS, Endpoint, in_order
from service.api.examples import Example, misspelt
from service.api.networks_examples import NETWORKS
from service.api.runs_examples import RUNS
from service.api.system import SPECIFICATION
from service.app import create_app
from service.config import Settings
from service.engine.texts import LANGUAGES
from service.problems import KINDS, MEDIA_TYPE, Problem
from service.runner.execution import Execution

DESCRIPTION = """Exact gradients of neural networks, explained.

Send a network, its parameters, inputs and targets; get outputs, losses and the exact gradient of every parameter.
Samples are rows, `z = a_prev @ kernel + bias`, `kernel` is `(in, out)`. A **gradient** is dL/d(parameter) and a
**delta** is dL/dz of the reduced loss; descent subtracts. The same request gives the same bytes: randomness only
ever comes from `seed`.

A tensor is nested lists of numbers or a typed array `{"dtype", "shape", "base64"}` (little-endian, row-major);
answers hold lists, or typed arrays for `Accept: application/json; tensors=base64`."""


LANGUAGE = {"type": "string", "enum": list(LANGUAGES)}
ACCEPT_LANGUAGE = {
    "name": "Accept-Language",
    "in": "header",
    "schema": {"type": "string", "default": LANGUAGES[0]},
    "description": "the language of the sentences, where the request names none: " + " or ".join(LANGUAGES),
}


OF_RUNS, OF_NETWORKS = "/v1/runs/", "/v1/networks/"
"""The beginnings of paths that go on with an id."""


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


class _Describer:
    """The OpenAPI document in the making. Our own fields describe themselves; apispec describes marshmallow's."""

    def __init__(self) -> None:
        self.plugin = MarshmallowPlugin(schema_name_resolver=schema_name)
        self.spec = APISpec(
            title="Nabla, the gradient service",
            version=__version__,
            openapi_version="3.1.0",
            info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
            tags=[{"name": name, "description": text} for name, text in TAGS.items()],
            plugins=[self.plugin],
        )
        components = Components(self.spec.components.schemas)
        converter = self.plugin.converter
        assert converter is not None

        def of_field(_: Any, field: Any, **kwargs: Any) -> dict[str, Any]:  # apispec binds it to its converter
            return field.json_schema(components) if isinstance(field, StrictField) else {}

        converter.add_attribute_function(of_field)  # type: ignore[no-untyped-call]
        self.spec.components.security_scheme(
            "key", {"type": "http", "scheme": "bearer", "description": "Needed only if the operator set keys"}
        )
        self.spec.options["security"] = [{}, {"key": []}]

    def tell_meanings(self) -> None:
        """Describe each schema that has become a component with its docstring."""
        assert self.plugin.converter is not None
        for key, name in self.plugin.converter.refs.items():
            self.spec.components.schemas[name].setdefault("description", sentence_of(key[0]))


def _shown(summary: str, value: Any) -> dict[str, Any]:
    return {"summary": summary, "value": value}


def _described_requests(examples: Mapping[str, Example]) -> dict[str, Any]:
    return {name: _shown(example.summary, example) for name, example in examples.items()}


def computed_run(client: Any) -> str:
    """Start the first example of a run, compute here what waits, and return the id of the run."""
    run: str = client.post("/v1/runs", json=next(iter(RUNS.values()))).json["id"]
    running = client.application.extensions["nabla"]
    while (claim := running.store.runs.claim("openapi", 60.0)) is not None:
        Execution(running, claim, Event()).compute()
    return run


def stored_network(client: Any) -> str:
    """Store the first example of a network, and return its id."""
    network: str = client.post("/v1/networks", json=next(iter(NETWORKS.values()))).json["id"]
    return network


def _answers(operation: Endpoint, client: Any, run: str) -> dict[str, Any]:
    """Return an endpoint's responses to its examples, each computed by the service."""
    answers = {}
    for name, example in operation.examples.items():
        response = client.post(operation.path.format(id=run), json=example)
        assert response.status_code in (200, 201, 202), response.text
        answers[name] = _shown(example.summary, response.json | operation.random)
    return answers


def found(operation: Endpoint, client: Any, ids: Mapping[str, str]) -> dict[str, Any]:
    """Return the answer to a GET request as an example; of a listing its first entry, which says as much."""
    in_path = {each["name"]: each.get("example", "") for each in operation.parameters if each["in"] == "path"}
    if operation.method != "GET" or wire.JSON not in operation.media_types or operation.tag == "System":
        return {}
    if "id" in in_path:
        in_path["id"] = ids[operation.path.split("{")[0]]
    elif operation.tag != "Catalogue":
        return {}
    asked = {each["name"] for each in operation.parameters}
    few = {name: number for name, number in (("points", 5), ("limit", 2)) if name in asked}
    response = client.get(operation.path.format(**in_path), query_string=few, headers={"Accept": wire.JSON})
    assert response.status_code == 200, response.text
    answer = response.json | operation.random
    if in_path:
        return {"found": _shown("What the service answers.", answer)}
    ((name, entries),) = answer.items()
    return {"first": _shown("The first entry of the list.", {name: entries[:1]})}


def _parts(operation: Endpoint, client: Any, run: str) -> dict[str, Any]:
    """Return the first and last line of an endpoint's stream, as examples of what it sends."""
    example = next(iter(operation.examples.values()), None)
    path, accept = operation.path.format(id=run), {"Accept": wire.NDJSON}
    response = client.open(path, method=operation.method, json=example, headers=accept)
    assert response.status_code == 200, response.text
    first, *_, last = map(orjson.loads, response.data.splitlines())
    response.close()
    return {
        "step": _shown("A line, or the data of an event: the record of one step.", first),
        "end": _shown("The last line, or the data of the last event: the outcome.", last),
    }


def _problems(operation: Endpoint, client: Any) -> dict[str, Any]:
    """Return the errors that typical mistakes at an endpoint get, as examples."""
    path = operation.path.format(name="unknown", id=unknown_id(operation.parameters))
    if operation.takes is not None:
        first = next(iter(operation.examples.values()))
        wrong = {"misspelt_key": misspelt(first)}
        if operation.mistake is not None:
            wrong["mistake"] = operation.mistake
        asked = {name: (example.summary, {"method": "POST", "json": example}) for name, example in wrong.items()}
    elif "{name}" in operation.path:
        asked = {"unknown_name": ("Nothing has this name.", {})}
    elif "{id}" in operation.path:
        asked = {"unknown_id": ("Nothing has this id.", {"method": operation.method})}
    else:
        # Without a body, only the server or the client's key can be at fault.
        problem = Problem("internal-error", "The service failed; the fault is not in the request.")
        return {"failure": _shown("The service failed.", orjson.loads(problem.document("example-failure")))}
    found = {}
    for name, (summary, request) in asked.items():
        response = client.open(path, headers={"X-Request-Id": f"example-{name}"}, **request)
        assert response.content_type == MEDIA_TYPE, response.text
        found[name] = _shown(summary, response.json)
    return found


def unknown_id(parameters: Any) -> str:
    """Return an id that nothing has, as long as the parameter of an endpoint says; "" if there is no such parameter."""
    patterns = (each["schema"]["pattern"] for each in parameters if each["name"] == "id")
    return "".join("0" * int(re.findall(r"\d+", pattern)[-1]) for pattern in patterns)


def _problem_responses(operation: Endpoint, client: Any) -> dict[str, Any]:
    statuses = {str(kind.status): kind for kind in reversed(KINDS.values())}
    content = {"schema": _reference("Problem"), "examples": _problems(operation, client)}
    return {
        "default": {
            "description": "Any error, as a problem document: " + ", ".join(sorted(statuses)),
            "content": {MEDIA_TYPE: content},
        }
    }


def _describe_operation(
    describer: _Describer, operation: Endpoint, client: Any, ids: Mapping[str, str]
) -> dict[str, Any]:
    run = ids[OF_RUNS]
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": " ".join(operation.description.split()),
        "tags": [operation.tag],
    }
    answer: dict[str, Any] = {"description": "It is removed." if operation.status == 204 else "OK"}
    schema = {"schema": type(operation.gives) if operation.gives else {"type": "string"}}
    file = {"schema": {"type": "string", "format": "binary"}}
    answer["content"] = {
        media_type: dict(file if media_type in wire.FILES.values() else schema) for media_type in operation.media_types
    }
    if operation.streams:
        for part in operation.streams:
            describer.spec.components.schema(schema_name(part), schema=part)
        parts = {"anyOf": [_reference(schema_name(part)) for part in operation.streams]}
        lines = {"schema": parts, "examples": _parts(operation, client, run)}
        answer["content"] |= dict.fromkeys((wire.NDJSON, wire.EVENTS), lines)
    if operation.files:
        binary = {"schema": {"type": "string", "format": "binary"}}
        answer["content"] |= dict.fromkeys(wire.FILES.values(), binary)
    if operation.parameters:
        described["parameters"] = [dict(parameter) for parameter in operation.parameters]
    if operation.is_translated:
        described["parameters"] = [*described.get("parameters", ()), ACCEPT_LANGUAGE]
        answer["headers"] = {
            "Content-Language": {"description": "the language of the sentences", "schema": LANGUAGE},
            "Vary": {"description": "Accept-Language among others", "schema": {"type": "string"}},
        }
    if operation.takes is not None:
        content = {"schema": type(operation.takes), "examples": _described_requests(operation.examples)}
        needed = any(field.required for field in operation.takes.load_fields.values())
        described["requestBody"] = {"required": needed, "content": {wire.JSON: content}}
        described["requestBody"]["content"] |= {
            media_type: _file(operation, media_type) for media_type in operation.bodies
        }
        answer["content"][wire.JSON]["examples"] = _answers(operation, client, run)
    elif examples := found(operation, client, ids):
        answer["content"][wire.JSON] |= {"examples": examples}
    if not operation.path.startswith("/v1"):
        described["security"] = []  # open even where keys are set
    if not answer["content"] and operation.status == 204:
        del answer["content"]
    answers = {str(operation.status): answer}
    answers |= {str(status): answer | {"description": text} for status, text in operation.statuses.items()}
    described["responses"] = answers | _problem_responses(operation, client)
    return described


def _file(operation: Endpoint, media_type: str) -> dict[str, Any]:
    """Describe a body that is a file, or a form of several."""
    if media_type != wire.MULTIPART:
        return {"schema": {"type": "string", "format": "binary"}}
    assert operation.takes is not None
    parts = {name: {"type": "string", "format": "binary"} for name in operation.takes.load_fields}
    return {"schema": {"type": "object", "properties": parts}}


def describe() -> dict[str, Any]:
    """Return the OpenAPI document; the service computes the responses to all examples."""
    describer = _Describer()
    with TemporaryDirectory() as folder:
        client = create_app(Settings(log_requests=False, data=folder)).test_client()
        ids = {OF_RUNS: computed_run(client), OF_NETWORKS: stored_network(client)}
        describer.spec.components.schema("Problem", schema=ProblemSchema)
        for operation in in_order():
            described = _describe_operation(describer, operation, client, ids)
            describer.spec.path(path=operation.path, operations={operation.method.lower(): described})
    describer.tell_meanings()
    # Through JSON, so that sets and tuples among the defaults become lists.
    document: dict[str, Any] = orjson.loads(orjson.dumps(describer.spec.to_dict(), default=list))
    return {"openapi": document.pop("openapi"), **document}


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Dumper(yaml.SafeDumper):
    """A YAML writer that keeps the order of keys, puts numbers in rows and texts in blocks, and uses no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    numbers = all(isinstance(item, int | float) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=numbers)


def _text(dumper: _Dumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)


def written(document: dict[str, Any]) -> str:
    """Return the text of openapi.yaml."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def kept(new: Any, committed: Any) -> Any:
    """Return `new`, in which each number that agrees with its counterpart in `committed` is replaced by that."""
    if isinstance(new, float) and isinstance(committed, float) and agree(new, committed):
        return committed
    if isinstance(new, dict) and isinstance(committed, dict):
        return {key: kept(value, committed.get(key)) for key, value in new.items()}
    if isinstance(new, list) and isinstance(committed, list) and len(new) == len(committed):
        return [kept(*pair) for pair in zip(new, committed, strict=True)]
    return new


def agree(one: Any, other: Any) -> bool:
    """Return whether two documents are equal up to rounding: BLAS adds in another order on another processor."""
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(agree, one, other))
    return bool(one == other)


def main(arguments: list[str]) -> int:
    """Compare openapi.yaml with the schemas, or write it: a number keeps its committed digits if they agree."""
    committed = yaml.load(SPECIFICATION.read_text(), Loader=_LOADER) if SPECIFICATION.exists() else None
    document = describe()
    same = agree(document, committed)
    if arguments == ["--check"]:
        print("openapi.yaml is up to date" if same else "openapi.yaml is out of date: run 'make openapi'")
        return 0 if same else 1
    if not same:
        SPECIFICATION.write_text(written(kept(document, committed)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
