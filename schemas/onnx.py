"""A field for an ONNX file inside a request, in place of layers."""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

import pybase64
from marshmallow import ValidationError

from schemas.components import Components, JSONSchema
from schemas.fields import NamesField
from schemas.messages import Message, plain, shown
from schemas.strict import StrictField, StrictSchema, object_schema
from service.engine.errors import InvalidRequest
from service.engine.onnx import OnnxDefinition, read

KEY = "onnx"


class Base64Field(StrictField):
    """Bytes in base64."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bytes:
        if not isinstance(value, str | memoryview) or not len(value):
            raise self.refuse("a string of base64", plain(value))
        try:
            return pybase64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValidationError(Message("is not base64 (RFC 4648 with padding, no line breaks)")) from None

    def json_schema(self, components: Components) -> JSONSchema:
        return {"type": "string", "contentEncoding": "base64", "minLength": 1}


class OnnxFileSchema(StrictSchema):
    """An ONNX file with its weights."""

    base64 = Base64Field(required=True, metadata={"description": "the bytes of the file"})
    outputs = NamesField(
        unique=True,
        metadata={
            "description": "the values that are wanted, also inner ones; by default the outputs of the file that hold "
            "floats"
        },
    )


FILE = OnnxFileSchema()


def is_onnx(value: Mapping[str, Any]) -> bool:
    """Return whether a network in a request is an ONNX file."""
    return KEY in value


def definition_of(value: Mapping[str, Any]) -> OnnxDefinition:
    """Return the definition of `{"onnx": {"base64": …}}`.

    Raises `ValidationError`, and `ExtraMissing` without the extra.
    """
    wrong: dict[str, Any] = {
        key: [Message("unknown key; beside 'onnx' a network has none")] for key in value if key != KEY
    }
    if wrong:
        raise ValidationError(wrong)
    file = plain(value[KEY])
    if not isinstance(file, Mapping):
        raise ValidationError({KEY: [Message(f'takes an object {{"base64": …}}, got {shown(file)}')]})
    try:
        loaded = FILE.load(file)
    except ValidationError as error:
        raise ValidationError({KEY: error.messages}) from None
    outputs = loaded.get("outputs")
    try:
        return read(loaded["base64"], outputs).definition
    except InvalidRequest as error:
        messages: Any = {}
        for fault in error.faults:
            place = messages
            path = fault.path[1:]
            for key in path[:-1]:
                place = place.setdefault(key, {})
            place.setdefault(path[-1], []).append(Message(fault.detail, fault.allowed))
        raise ValidationError(messages) from None


def file_schema(components: Components) -> JSONSchema:
    """Return the JSON Schema of a network that is an ONNX file."""

    def make() -> JSONSchema:
        return {
            "type": "object",
            "description": "A network as an ONNX file, with its weights.",
            "properties": {KEY: components.refer("OnnxFile", lambda: object_schema(FILE, components))},
            "required": [KEY],
            "additionalProperties": False,
        }

    return components.refer("OnnxNetwork", make)
