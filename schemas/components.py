"""Helpers that build the JSON Schema of requests and responses, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

JSONSchema = dict[str, Any]


class Components:
    """The named schemas of an OpenAPI document, each built when it is first referred to."""

    def __init__(self, schemas: dict[str, JSONSchema] | None = None) -> None:
        self.schemas = {} if schemas is None else schemas

    def refer(self, name: str, make: Callable[[], JSONSchema]) -> JSONSchema:
        """Return a reference to the schema of this name; `make` builds it if it is not there yet."""
        if name not in self.schemas:
            self.schemas[name] = {}  # keeps its place, so that its own parts may refer to it
            self.schemas[name] = make()
        return {"$ref": f"#/components/schemas/{name}"}


def schema_name(schema: Any) -> str:
    """Return the name under which a marshmallow schema stands in the OpenAPI document."""
    name: str = schema.__name__ if isinstance(schema, type) else type(schema).__name__
    return name.removesuffix("Schema")


def sentence_of(schema: Any) -> str:
    """Return the sentences with which the docstring of a marshmallow schema begins, as one line."""
    kind = schema if isinstance(schema, type) else type(schema)
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())


def closed_object(properties: Mapping[str, JSONSchema], required: list[str]) -> JSONSchema:
    """Return the JSON Schema of an object with these properties and no others."""
    schema: JSONSchema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return schema | {"required": required} if required else schema


def by_name(values: JSONSchema, text: str = "", **bounds: int) -> JSONSchema:
    """Return the JSON Schema of an object whose values fit `values`, with minProperties and maxProperties.

    `text` describes it, as every object that becomes a component needs.
    """
    described = {"description": text} if text else {}
    return {"type": "object", **bounds, "additionalProperties": values, **described}


def any_of(forms: list[JSONSchema], text: str) -> JSONSchema:
    """Return the JSON Schema, described by `text`, of a value that fits one of `forms`."""
    return {"description": text, "anyOf": forms}


def list_of(items: JSONSchema, **bounds: int) -> JSONSchema:
    """Return the JSON Schema of a list whose entries fit `items`; `bounds` are minItems, maxItems and uniqueItems."""
    return {"type": "array", **bounds, "items": items}


def or_null(schema: JSONSchema) -> JSONSchema:
    """Return a JSON Schema that accepts null beside what `schema` accepts."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return schema | {"type": [schema["type"], "null"]}
    if "anyOf" in schema:
        return schema | {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {"anyOf": [schema, {"type": "null"}]}
