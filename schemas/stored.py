"""References to stored networks and parameters: a request names them by an id instead of sending them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

from schemas.components import Components, JSONSchema, any_of, closed_object
from schemas.messages import Message, plain, shown
from schemas.network import NetworkField
from schemas.parameter_files import ParametersOrFileField
from service.engine.arrays import Array
from service.engine.network.definition import Definition

ID = re.compile(r"[0-9a-f]{40}")
"""The pattern of an id. The number of digits is that of `service/store/content.py`; a test compares the two."""
TAKES = "takes the id of a stored network, 40 digits and lower-case letters a to f, as POST /v1/networks answers it"


class StoredNetwork:
    """A network that was found in the store. The object takes the place of the id in a request."""

    __slots__ = ("definition", "id")

    def __init__(self, name: str, definition: Definition) -> None:
        self.id = name
        self.definition = definition


class StoredParameters:
    """Parameters of a stored network. They take the place of an id in a request, or are added where none were sent."""

    __slots__ = ("id", "tree")

    def __init__(self, name: str, tree: Mapping[str, Mapping[str, Array]]) -> None:
        self.id = name
        self.tree = tree


def by_id(value: Any) -> dict[str, str]:
    """Return the original reference by id.

    `orjson.dumps` uses this function so that equal requests have equal bytes.
    """
    if isinstance(value, StoredNetwork | StoredParameters):
        return {"id": value.id}
    raise TypeError


def may_name_stored(request: Mapping[str, Any]) -> bool:
    """Return whether a request may name a network or parameters by an id.

    Most requests do not, and this check is fast.
    """
    network, parameters = request.get("network"), request.get("parameters")
    return (type(network) is dict and "id" in network) or (type(parameters) is dict and "id" in parameters)


def id_of(value: Any) -> str | None:
    """Return the id that names a network or parameters. None: they are sent in the request.

    Raises `ValidationError` for a value that is meant as an id but is malformed.
    """
    if type(value) is not dict or "id" not in value:
        return None
    name = plain(value["id"])
    if len(value) > 1:
        if isinstance(name, str) and "layers" not in value:
            surplus = next(key for key in value if key != "id")
            raise ValidationError({surplus: [Message("has no use beside 'id'; what is stored does not change")]})
        return None
    if isinstance(name, Mapping | list):
        return None  # a tree of parameters with a layer named `id`
    if not (isinstance(name, str) and ID.fullmatch(name)):
        raise ValidationError({"id": [Message(f"{TAKES}; got {shown(name)}")]})
    return name


def _reference(components: Components) -> JSONSchema:
    """Return the JSON Schema of a reference to a stored network by its id."""

    def make() -> JSONSchema:
        identifier = {"type": "string", "pattern": f"^{ID.pattern}$"}
        return {"description": "A network that `POST /v1/networks` has stored, by its id."} | closed_object(
            {"id": identifier}, ["id"]
        )

    return components.refer("StoredNetworkReference", make)


class NetworkOrIdField(NetworkField):
    """A network definition, or the id of a stored network."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Definition:
        if isinstance(value, StoredNetwork):
            return value.definition
        return super()._deserialize(value, attr, data, **kwargs)

    def json_schema(self, components: Components) -> JSONSchema:
        text = "A network in one of several forms, or the id of a stored one."
        return components.refer(
            "NetworkOrStored", lambda: any_of([*self.forms(components), _reference(components)], text)
        )


class ParametersOrIdField(ParametersOrFileField):
    """Tensors by layer and parameter name, a file of tensors, or the id of a stored network that has parameters."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, StoredParameters):
            # The arrays are shared with other requests and read-only. Code that removes parameters from a request
            # removes them from this copy.
            return {layer: dict(arrays) for layer, arrays in value.tree.items()}
        return super()._deserialize(value, attr, data, **kwargs)

    def json_schema(self, components: Components) -> JSONSchema:
        ways = super().json_schema(components)["anyOf"]
        return {"anyOf": [*ways, _reference(components)]}
