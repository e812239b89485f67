"""Writes openapi.yaml from the schemas and operations. A development tool: the service serves the committed file.

python -m service.openapi            rewrite openapi.yaml
python -m service.openapi --check    fail if it is not what this would write
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import orjson
import yaml
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from schemas import common, declared, derivatives, evaluation, fields, functions, network, tensor, training
from schemas.system import ProblemSchema
from service import __version__, wire
from service.api.operation import OPERATIONS, Operation
from service.api.system import SPECIFICATION
from service.app import create_app
from service.config import Settings
from service.engine.declarations import Declaration, Registry
from service.engine.descent.comparison import MOST_RUNS
from service.engine.functions.expression import LONGEST_EXPRESSION, LONGEST_NAME, MOST_VARIABLES
from service.engine.network.layers import layers
from service.problems import KINDS, MEDIA_TYPE

DESCRIPTION = """Exact gradients of neural networks, explained.

Send a network, its parameters, inputs and targets; get outputs, losses and the exact gradient of every parameter.
Samples are rows, `z = a_prev @ kernel + bias`, `kernel` is `(in, out)`. A **gradient** is dL/d(parameter) and a
**delta** is dL/dz of the reduced loss; descent subtracts. The same request gives the same bytes: randomness only
ever comes from `seed`.

A tensor is nested lists of numbers or a typed array `{"dtype", "shape", "base64"}` (little-endian, row-major);
answers hold lists, or typed arrays for `Accept: application/json; tensors=base64`."""


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


NESTED: dict[str, Any] = {
    "NestedNumbers": {
        "oneOf": [{"type": "number"}, {"type": "array", "minItems": 1, "items": _reference("NestedNumbers")}]
    },
    "NestedAnswers": {
        "oneOf": [{"type": ["number", "null"]}, {"type": "array", "items": _reference("NestedAnswers")}],
        "description": "null stands for a number that is not finite",
    },
    "TypedArray": {
        "type": "object",
        "description": "an array as base64 of its little-endian bytes in row-major order",
        "required": ["dtype", "shape", "base64"],
        "additionalProperties": False,
        "properties": {
            "dtype": {"type": "string", "enum": list(tensor.TYPED_DTYPES)},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": tensor.MOST_AXES},
            "base64": {"type": "string", "contentEncoding": "base64"},
        },
    },
    "Tensor": {
        "description": "nested lists of numbers (a bare number for a scalar), or a typed array",
        "oneOf": [_reference("NestedNumbers"), _reference("TypedArray")],
    },
    "TensorAnswer": {
        "description": "nested lists of numbers, or a typed array if the Accept header asked for it",
        "oneOf": [_reference("NestedAnswers"), _reference("TypedArray")],
    },
    "Derived": {
        "description": "a tensor, tensors by name or by layer and parameter name, or a list of these",
        "anyOf": [
            _reference("TensorAnswer"),
            {"type": "object", "additionalProperties": _reference("Derived")},
            {"type": "array", "items": _reference("Derived")},
        ],
    },
    "Parameters": {
        "description": "tensors by layer and parameter name",
        "type": "object",
        "additionalProperties": {"type": "object", "additionalProperties": _reference("Tensor")},
    },
    "ParametersAnswer": {
        "description": "tensors by layer and parameter name",
        "type": "object",
        "additionalProperties": {"type": "object", "additionalProperties": _reference("TensorAnswer")},
    },
}


class _Describer:
    """Turns our own fields into JSON Schema, once for each declaration."""

    def __init__(self) -> None:
        self.plugin = MarshmallowPlugin(schema_name_resolver=_schema_name)
        self.spec = APISpec(
            title="Nabla, the gradient service",
            version=__version__,
            openapi_version="3.1.0",
            info={"description": DESCRIPTION, "license": {"name": "MIT", "identifier": "MIT"}},
            tags=[
                {"name": "Networks", "description": "Outputs, losses and gradients of a network that you define"},
                {
                    "name": "Functions",
                    "description": "Calculus of functions that you type, and balls that roll down them",
                },
                {"name": "Training", "description": "What optimizers do with networks, step by step"},
                {"name": "Catalogue", "description": "Everything a request may name"},
                {"name": "System", "description": "Health, metrics and this description"},
            ],
            plugins=[self.plugin],
        )
        converter = self.plugin.converter
        assert converter is not None

        def of_field(_: Any, field: Any, **kwargs: Any) -> dict[str, Any]:  # apispec binds it to its converter
            return self.describe_field(field)

        converter.add_attribute_function(of_field)  # type: ignore[no-untyped-call]
        for name, schema in NESTED.items():
            self.spec.components.schema(name, schema)
        self.spec.components.security_scheme(
            "key", {"type": "http", "scheme": "bearer", "description": "Needed only where the operator set keys"}
        )
        self.spec.options["security"] = [{}, {"key": []}]

    def describe_field(self, field: Any) -> dict[str, Any]:
        """The JSON Schema of one of our fields; nothing for marshmallow's own."""
        match field:
            case tensor.TensorAnswerField():
                return _reference("TensorAnswer")
            case tensor.TensorField():
                return _reference("Tensor")
            case tensor.ParametersAnswerField():
                return _reference("ParametersAnswer")
            case tensor.ParametersField():
                return _reference("Parameters")
            case tensor.TensorsAnswerField():
                by_name = {"type": "object", "additionalProperties": _reference("TensorAnswer")}
                return {"anyOf": [_reference("TensorAnswer"), by_name]}
            case tensor.TensorsField():
                by_name = {"type": "object", "additionalProperties": _reference("Tensor")}
                return {"anyOf": [_reference("Tensor"), by_name]}
            case network.NetworkField():
                return self.component("Network", lambda: self.object(network.SCHEMA))
            case network.InputShapeField():
                shape = {"type": "array", "maxItems": 16, "items": {"type": "integer", "minimum": 1}}
                return {"anyOf": [shape, {"type": "object", "additionalProperties": shape}]}
            case network.LayersField():
                return {"type": "array", "minItems": 1, "items": self.layer()}
            case derivatives.VectorsField():
                by_name = {"type": "object", "additionalProperties": _reference("Tensor")}
                return {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": derivatives.MOST_VECTORS,
                    "items": {"anyOf": [_reference("Tensor"), by_name, _reference("Parameters")]},
                }
            case fields.ObjectField():
                nested = field.schema
                return self.component(_schema_name(nested), lambda: self.object(nested))
            case training.TreeOrNumberField():
                return {"anyOf": [{"type": "number"}, _reference("ParametersAnswer")]}
            case training.StateField():
                number = {"type": "number"}
                one = {"anyOf": [number, _reference("Parameters")]} if field.trees else number
                return {"type": "object", "additionalProperties": one}
            case training.BatchesField():
                indices = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
                return {"type": "array", "minItems": 1, "maxItems": training.MOST_BATCHES, "items": indices}
            case training.FrozenField():
                return {"type": "array", "maxItems": field.MOST, "items": {"type": "string"}}
            case training.SeedsField():
                seeds = {"type": "integer", "minimum": 0, "maximum": field.seed.maximum}
                return {"type": "array", "minItems": 1, "maxItems": MOST_RUNS, "items": seeds}
            case common.OptimizersField():
                one = self.choice(field.registry)
                return {"type": "array", "minItems": 1, "maxItems": MOST_RUNS, "items": one}
            case functions.ExpressionField():
                return {"type": "string", "minLength": 1, "maxLength": LONGEST_EXPRESSION}
            case functions.VariablesField():
                names = {"type": "string", "maxLength": LONGEST_NAME}
                return {"type": "array", "minItems": 1, "maxItems": MOST_VARIABLES, "items": names}
            case functions.RangeField():
                return _range(field)
            case functions.BoxField():
                one = _range(field.range)
                several = {"type": "array", "minItems": 1, "maxItems": MOST_VARIABLES, "items": one}
                return {"anyOf": [one, several]}
            case functions.StartsField():
                layout = self.component("Starts", lambda: self.object(field.layout))
                return {"anyOf": [_reference("Tensor"), layout]}
            case derivatives.DerivedField():
                return _reference("Derived")
            case evaluation.LossField():
                one = self.choice(field.registry)
                return {"anyOf": [one, {"type": "object", "additionalProperties": one}]}
            case declared.ChoiceField():
                return self.choice(field.registry)
            case fields.NumbersByNameField():
                return {"type": "object", "additionalProperties": {"type": "number"}}
            case fields.NumberField():
                return {"type": "number"} | _bounds(field)
            case fields.IntegerField():
                bounds = {"minimum": field.minimum, "maximum": field.maximum}
                return {"type": "integer"} | {key: bound for key, bound in bounds.items() if bound is not None}
            case fields.FlagField():
                return {"type": "boolean"}
            case fields.WordField():
                return {"type": "string", "enum": list(field.values)}
            case fields.WordsField():
                return {"type": "array", "items": {"type": "string", "enum": list(field.values)}}
            case fields.NameField():
                return {"type": "string", "minLength": 1, "maxLength": field.LONGEST}
            case fields.NamesField():
                return {"type": "array", "minItems": 1, "items": {"type": "string"}}
            case fields.IntegersField():
                return _integers(field)
            case fields.NumbersField():
                return {"type": "array", "minItems": 1, "items": {"type": "number"} | _bounds(field.number)}
        return {}

    def property(self, field: Any) -> dict[str, Any]:
        """One property: its schema, description and default."""
        schema = self.describe_field(field)
        if field.allow_none and isinstance(schema.get("type"), str):
            schema["type"] = [schema["type"], "null"]
        elif field.allow_none:
            schema = {"anyOf": [schema, {"type": "null"}]}
        if field.metadata.get("description"):
            schema["description"] = field.metadata["description"]
        return schema

    def object(self, schema: Schema, **first: Any) -> dict[str, Any]:
        """A closed object with the fields of a schema after those given."""
        properties = first | {
            name: self.property(field) for name, field in schema.load_fields.items() if name not in first
        }
        required = list(first) + [name for name, field in schema.load_fields.items() if field.required]
        result: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
        if required:
            result["required"] = list(dict.fromkeys(required))
        return result

    def component(self, name: str, make: Any) -> dict[str, Any]:
        """A reference to a component, which is made at its first use."""
        if name not in self.spec.components.schemas:
            self.spec.components.schemas[name] = {}  # so that recursion ends
            self.spec.components.schemas[name] = make()
        return dict(_reference(name))

    def declaration(
        self, registry: Registry[Any], declaration: Declaration, common: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The object that chooses one declared block and sets its options."""
        title = "".join(word.capitalize() for word in f"{declaration.name}_{registry.kind}".split("_"))

        def make() -> dict[str, Any]:
            kind = {"type": "string", "enum": [declaration.name, *declaration.aliases]}
            schema = self.object(declared.options_schema(declaration), type=kind, **common)
            schema["description"] = declaration.description["en"]
            schema["required"] = ["type", *(option.name for option in declaration.options if option.required)]
            return schema

        return self.component(title, make)

    def choice(self, registry: Registry[Any]) -> dict[str, Any]:
        """A name, or an object with options, out of a registry."""

        def make() -> dict[str, Any]:
            plain = [
                name
                for declaration in registry
                if not any(option.required for option in declaration.options)
                for name in (declaration.name, *declaration.aliases)
            ]
            objects = [self.declaration(registry, declaration, {}) for declaration in registry]
            if registry.kind == "regularizer":
                number = {"type": "number", "minimum": 0}
                objects.append(
                    {"type": "object", "properties": {"l1": number, "l2": number}, "additionalProperties": False}
                )
            return {"anyOf": [{"type": "string", "enum": plain}, *objects]}

        return self.component(registry.kind.capitalize(), make)

    def layer(self) -> dict[str, Any]:
        """A layer of any type, told apart by `type`."""

        def make() -> dict[str, Any]:
            common = {name: self.property(item) for name, item in network.COMMON.load_fields.items() if name != "type"}
            references = {declaration.name: self.declaration(layers, declaration, common) for declaration in layers}
            mapping = {name: reference["$ref"] for name, reference in references.items()}
            return {
                "oneOf": list(references.values()),
                "discriminator": {"propertyName": "type", "mapping": mapping},
            }

        return self.component("Layer", make)


def _bounds(field: fields.NumberField) -> dict[str, float]:
    bounds = {}
    if field.minimum is not None:
        bounds["exclusiveMinimum" if field.open_minimum else "minimum"] = field.minimum
    if field.maximum is not None:
        bounds["exclusiveMaximum" if field.open_maximum else "maximum"] = field.maximum
    return bounds


def _range(field: functions.RangeField) -> dict[str, Any]:
    return {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "number"} | _bounds(field.number)}


def _integers(field: fields.IntegersField) -> dict[str, Any]:
    one = {"type": "integer", "minimum": field.minimum}
    entry = {"anyOf": [one, {"type": "array", "minItems": 2, "maxItems": 2, "items": one}]} if field.pairs else one
    several: dict[str, Any] = {"type": "array", "maxItems": field.length or field.longest, "items": entry}
    if field.length is not None:
        several["minItems"] = field.length
    return {"anyOf": [one, several]} if field.length is not None or field.single else several


def _schema_name(schema: Any) -> str:
    name = schema.__name__ if isinstance(schema, type) else type(schema).__name__
    return name.removesuffix("Schema")


def _problem_responses() -> dict[str, Any]:
    statuses = {str(kind.status): kind for kind in reversed(KINDS.values())}
    return {
        "default": {
            "description": "Any error, as a problem document: " + ", ".join(sorted(statuses)),
            "content": {MEDIA_TYPE: {"schema": _reference("Problem")}},
        }
    }


def _describe_operation(describer: _Describer, operation: Operation, client: Any) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": " ".join(operation.description.split()),
        "tags": [operation.tag],
    }
    answer: dict[str, Any] = {"description": "OK"}
    schema = {"schema": type(operation.gives)} if operation.gives else {}
    answer["content"] = {media_type: dict(schema) for media_type in operation.media_types}
    if operation.streams:
        for part in operation.streams:
            describer.spec.components.schema(_schema_name(part), schema=part)
        parts = {"anyOf": [_reference(_schema_name(part)) for part in operation.streams]}
        answer["content"] |= {media_type: {"schema": parts} for media_type in (wire.NDJSON, wire.EVENTS)}
    if operation.parameters:
        described["parameters"] = [dict(parameter) for parameter in operation.parameters]
    if operation.takes is not None:
        requests = {name: {"value": value} for name, value in operation.examples.items()}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": type(operation.takes), "examples": requests}},
        }
        answers = {}
        for name, value in operation.examples.items():
            response = client.post(operation.path, json=value)
            assert response.status_code == 200, response.text
            answers[name] = {"value": response.json}
        answer["content"]["application/json"]["examples"] = answers
    if not operation.path.startswith("/v1"):
        described["security"] = []  # open even where keys are set
    described["responses"] = {"200": answer} | _problem_responses()
    return described


def describe() -> dict[str, Any]:
    """The OpenAPI document, with every example's answer computed by the service itself."""
    describer = _Describer()
    client = create_app(Settings(log_requests=False)).test_client()
    describer.spec.components.schema("Problem", schema=ProblemSchema)
    # By tag, because the order in which modules were imported must not show.
    tags = [tag["name"] for tag in describer.spec.options["tags"]]
    for operation in sorted(OPERATIONS, key=lambda operation: tags.index(operation.tag)):
        described = _describe_operation(describer, operation, client)
        describer.spec.path(path=operation.path, operations={operation.method.lower(): described})
    # Through JSON, so that sets and tuples among the defaults become lists.
    document: dict[str, Any] = orjson.loads(orjson.dumps(describer.spec.to_dict(), default=list))
    return {"openapi": document.pop("openapi"), **document}


class _Dumper(yaml.SafeDumper):
    """Keeps the order of keys, writes numbers in rows and texts in blocks, and repeats instead of using anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list(dumper: _Dumper, data: list[Any]) -> yaml.Node:
    numbers = all(isinstance(item, int | float) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=numbers)


def _text(dumper: _Dumper, data: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(str, _text)


def write() -> str:
    """openapi.yaml as text."""
    text: str = yaml.dump(describe(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


def agree(one: Any, other: Any) -> bool:
    """Whether two documents say the same. BLAS adds in another order on another processor: last digits may differ."""
    if isinstance(one, float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-15)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(agree(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(agree, one, other))
    return bool(one == other)


def main(arguments: list[str]) -> int:
    text = write()
    same = SPECIFICATION.exists() and agree(yaml.safe_load(text), yaml.safe_load(SPECIFICATION.read_text()))
    if arguments == ["--check"]:
        print("openapi.yaml is up to date" if same else "openapi.yaml is out of date: run 'make openapi'")
        return 0 if same else 1
    if not same:
        SPECIFICATION.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
