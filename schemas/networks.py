"""Schemas of the requests and responses of `/v1/networks`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, NotRequired, TypedDict

import numpy as np
import orjson
import pybase64
from marshmallow import ValidationError, fields

from schemas.common import about, warnings_field
from schemas.components import Components, JSONSchema, or_null
from schemas.evaluation import Tree
from schemas.keras import is_document
from schemas.messages import Message
from schemas.network import NetworkField
from schemas.onnx import is_onnx
from schemas.parameter_files import ParametersOrFileField, StateDict, file_bytes, resolved
from schemas.requests import RequestSchema
from schemas.strict import StrictField, StrictSchema
from schemas.tensor import ParametersAnswerField
from service.engine.errors import InvalidRequest
from service.engine.network.definition import Definition
from service.engine.onnx import Imported, read

JSON, ONNX = "json", "onnx"
"""The formats of stored networks: the JSON of a request, or an ONNX file."""


class NetworkFile(NamedTuple):
    """The bytes of a file that holds a network."""

    content: bytes


class NewNetwork(NamedTuple):
    """A network that is about to be stored."""

    definition: Definition
    format: str
    content: bytes
    """The bytes to store."""
    imported: Imported | None = None
    """The imported file and what was found in it. None: the network is not a file."""


class LoadedNewNetwork(TypedDict):
    """A loaded request to store a network."""

    network: NewNetwork
    parameters: NotRequired[Tree]


FOREIGN: Mapping[bytes, str] = {
    b"\x89HDF": "an HDF5 file (.h5), which is not read",
    b"PK\x03\x04": "a zip archive, such as .keras, .pt or .npz, which is not read",
    b"\x80": "a pickle, which is never read: it may run anything",
    b"\x93NUMPY": "a file of NumPy (.npy), which holds one array and no network",
    b"\x1f\x8b": "a gzip file; send it with Content-Encoding: gzip",
}
"""The first bytes of files of other kinds, each with a description for errors."""


class NewNetworkField(NetworkField):
    """A network definition, or a file that holds a network."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, NetworkFile):
            return _of_file(value.content)
        if isinstance(value, str):
            value = _of_text(value)
        if isinstance(value, dict) and set(value) == {"id"}:
            raise ValidationError({"id": [Message("is stored already; GET /v1/networks/{id} tells of it")]})
        definition = super()._deserialize(value, attr, data, **kwargs)
        if isinstance(value, dict) and is_onnx(value):
            return _of_inline_file(value)
        return NewNetwork(definition, JSON, orjson.dumps(_canonical(value), option=orjson.OPT_SORT_KEYS))


def _of_text(text: str) -> Any:
    """Return the Keras model that a text holds, or the text itself where it holds none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return value if is_document(value) else text


def _canonical(value: Any) -> Any:
    """Return a value in a form that is the same for every parser and notation of numbers: 1 and 1.0 are equal."""
    if isinstance(value, Mapping):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list | np.ndarray):
        return [_canonical(item) for item in (value if isinstance(value, list) else value.tolist())]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _of_file(content: bytes) -> NewNetwork:
    """Return the network in the bytes of an ONNX file. Raises `ValidationError`."""
    for beginning, what in FOREIGN.items():
        if content.startswith(beginning):
            raise ValidationError([Message(f"this is {what}")])
    try:
        imported = read(content)
    except InvalidRequest as error:
        raise ValidationError([Message(fault.detail, fault.allowed) for fault in error.faults]) from None
    return NewNetwork(imported.definition, ONNX, content, imported)


def _of_inline_file(value: Mapping[str, Any]) -> NewNetwork:
    """Return the network of a valid `{"onnx": {"base64": …}}`.

    The file itself is stored, unless the request chose outputs.
    """
    file = value["onnx"]
    outputs = file.get("outputs")
    content = pybase64.b64decode(file["base64"])
    if outputs is None:
        return NewNetwork(read(content).definition, ONNX, content, read(content))
    imported = read(content, outputs)
    inline = {"onnx": {"base64": pybase64.b64encode(content).decode("ascii"), "outputs": outputs}}
    return NewNetwork(imported.definition, JSON, orjson.dumps(inline, option=orjson.OPT_SORT_KEYS), imported)


class NewParametersField(ParametersOrFileField):
    """Parameters in any form that requests take, or arrays that were already read from a file."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return value if isinstance(value, StateDict) else super()._deserialize(value, attr, data, **kwargs)


class StoreNetworkRequest(RequestSchema[LoadedNewNetwork]):
    """A network, and optionally parameters to store with the network."""

    fresh = frozenset(("network", "parameters"))
    elsewhere = MappingProxyType(dict.fromkeys(("layers", "input_shape"), "network"))

    network = NewNetworkField(required=True, metadata=about("the architecture"))
    parameters = NewParametersField(
        metadata=about("by layer and name, or a file of arrays, for requests by id to use unless they send others")
    )

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Convert the parameters to a tree, now that the network is known."""
        if "parameters" in loaded:
            loaded["parameters"] = resolved(loaded["parameters"], loaded["network"].definition)
        return loaded

    def file_bytes(self, request: Mapping[str, Any]) -> int:
        """Return the number of bytes that reading a file of parameters in the request takes beyond its text."""
        return file_bytes(request.get("parameters"))


class TensorShapeField(StrictField):
    """The shape of a tensor: for each axis its length, or a name or null where the inputs determine the length."""

    def json_schema(self, components: Components) -> JSONSchema:
        return {"type": ["array", "null"], "items": {"type": ["integer", "string", "null"]}}


class NetworkTensorSchema(StrictSchema):
    """An input or an output of a stored network."""

    name = fields.String(required=True)
    dtype = fields.String(required=True, metadata=about("int64 where indices are meant"))
    shape = TensorShapeField(required=True, metadata=about("null where the network leaves it to the inputs"))


class StoredParameterSchema(StrictSchema):
    """A parameter of a stored network."""

    layer = fields.String(required=True)
    name = fields.String(required=True)
    shape = fields.List(fields.Integer(), required=True)
    trainable = fields.Boolean(required=True)


class StoredParametersSchema(StrictSchema):
    """The parameters of a stored network."""

    stored = fields.Boolean(required=True, metadata=about("whether they are stored with the network"))
    count = fields.Integer(required=True, allow_none=True, metadata=about("how many numbers they hold together"))
    tensors = fields.List(fields.Nested(StoredParameterSchema), required=True, allow_none=True)


class RefusedNodeSchema(StrictSchema):
    """A part of a file that the service cannot compute."""

    output = fields.String(required=True, metadata=about("the output of the file that is left out because of it"))
    node = fields.String(required=True)
    operation = fields.String(required=True)
    reason = fields.String(required=True)


class StoredNetworkSchema(StrictSchema):
    """A summary of a stored network, without the values of its parameters."""

    id = fields.String(required=True, metadata=about("made from its content; requests name it by this id"))
    format = fields.String(required=True, metadata=about("json, or onnx for a file"))
    bytes = fields.Integer(required=True, metadata=about("size of what is stored"))
    inputs = fields.List(fields.Nested(NetworkTensorSchema), required=True)
    outputs = fields.List(fields.Nested(NetworkTensorSchema), required=True)
    parameters = fields.Nested(StoredParametersSchema, required=True)
    operations = fields.Dict(
        keys=fields.String(), values=fields.Integer(), required=True, metadata=about("how many layers of each type")
    )
    refused = fields.List(
        fields.Nested(RefusedNodeSchema), required=True, metadata=about("parts of a file that cannot be computed")
    )
    warnings = warnings_field()


class DefinitionAnswerField(StrictField):
    """The definition of a network in a response; null for a network that was sent as a file."""

    def json_schema(self, components: Components) -> JSONSchema:
        return or_null(NetworkField().json_schema(components))


class StoredNetworkWithDefinitionSchema(StoredNetworkSchema):
    """A stored network as its owner sees it."""

    created = fields.DateTime(required=True, metadata=about("when it was sent first"))
    used = fields.DateTime(required=True, metadata=about("when it was used last, to the hour"))
    network = DefinitionAnswerField(
        required=True, metadata=about("the definition as it was sent; null where that was a file")
    )


class StoredNetworkSummarySchema(StrictSchema):
    """An entry in the listing of stored networks."""

    id = fields.String(required=True)
    format = fields.String(required=True, metadata=about("json, or onnx for a file"))
    bytes = fields.Integer(required=True)
    parameters = fields.Integer(required=True, allow_none=True, metadata=about("numbers in all parameters"))
    operations = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata=about("how many layers of each type, for the 32 most frequent types"),
    )
    created = fields.DateTime(required=True)
    used = fields.DateTime(required=True)


class StoredNetworkListSchema(StrictSchema):
    """A page of the stored networks of a key, the newest first."""

    networks = fields.List(fields.Nested(StoredNetworkSummarySchema), required=True)
    next = fields.String(required=True, allow_none=True, metadata=about("`after` of the next page; null on the last"))
    count = fields.Integer(required=True, metadata=about("number of networks on all pages"))
    bytes = fields.Integer(required=True, metadata=about("size of all of them together"))


class StoredParametersResponse(StrictSchema):
    """The parameters of a stored network."""

    parameters = ParametersAnswerField(required=True, metadata=about("tensors by layer and parameter name"))
