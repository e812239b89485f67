"""Replacement of ids in requests by the stored networks and parameters, between parsing and validation.

This is the one place where ids are resolved, for all endpoints. A network in the cache of this worker that the
database confirmed a moment ago costs only a lookup. Otherwise the request waits for a slot of storage and asks the
database.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import orjson
from marshmallow import ValidationError

from schemas.messages import Message
from schemas.network import NetworkField
from schemas.networks import ONNX
from schemas.stored import StoredNetwork, StoredParameters, id_of
from service.capacity.admission import BODY_SECONDS, Ticket
from service.capacity.memory import Reservation, too_much
from service.engine.arrays import Array
from service.engine.network.definition import Definition
from service.engine.onnx import read as read_onnx
from service.problems import Problem, from_validation, pointer
from service.store.content import Content, unpacked
from service.store.store import Store

READING = 3
"""Largest memory for reading a stored network, as a multiple of its bytes: the bytes, the arrays, and a copy."""
DEFINITION_BYTES, DEFINITION_FACTOR = 6144, 16
"""Memory of a definition: a fixed number of bytes, and a multiple of its JSON, as for recipes (docs/decisions/0017)."""
INSTEAD = ("parameters", "seed", "checkpoint", "trajectory")
"""Keys of a request that say which parameters to use. Where one is present, the stored parameters are not used."""


written: WeakKeyDictionary[Definition, tuple[str, bytes]] = WeakKeyDictionary()
"""The format and the bytes of the stored networks in memory, for processes that have no database."""


class LoadedNetwork(NamedTuple):
    """A stored network that was read into memory."""

    definition: Definition
    parameters: Mapping[str, Mapping[str, Array]] | None
    parameter_bytes: int
    nbytes: int
    """Estimated memory in bytes."""


class Names(NamedTuple):
    """The resolver of ids for one request, with the owner and the resources of the request."""

    store: Store
    owner: str
    ticket: Ticket
    memory: Reservation

    def find(self, name: str, key: str) -> LoadedNetwork:
        """Return the network with the id `name`, which the request has under `key`.

        Raises `Problem` 404 where this owner has no such network, and `StoreError`.
        """
        loaded = self.store.loaded
        found: LoadedNetwork | None = loaded.find(self.owner, name)
        if found is not None:
            return found
        cost = self.ticket.cost
        self.ticket.go_to_storage()
        entry = self.store.networks.find(self.owner, name)
        content = None
        if entry is not None:
            found = loaded.read_before(name)
            if found is None:
                hold(self.memory, self.memory.held + READING * entry.size)
                content = self.store.networks.content(self.owner, name)
        if found is None and content is None:
            loaded.drop(self.owner, name)
            detail = f"no network with the id {name} is stored here; POST /v1/networks stores one"
            errors = [{"pointer": pointer((key, "id")), "detail": detail}]
            raise Problem("not-found", f"#/{key}/id: {detail}", errors)
        self.ticket.come_back(cost + (0.0 if content is None else content.size * BODY_SECONDS))
        if content is not None:
            found = read(content)
            found = loaded.keep(name, found, found.nbytes)
        assert found is not None
        loaded.believe(self.owner, name)
        return found


def hold(memory: Reservation, nbytes: int) -> None:
    """Reserve so many bytes at once, or refuse: no request waits for memory in a slot that others need.

    Raises `Problem` 503, and 422 for more bytes than one request may have.
    """
    if nbytes > memory.account.most:
        raise too_much(nbytes, memory.account.most)
    if not memory.try_need(nbytes):
        raise memory.busy(nbytes)


def read(content: Content) -> LoadedNetwork:
    """Return a stored network with its definition and parameters, read from its content.

    Raises the errors of `NetworkField`.
    """
    definition: Definition
    if content.format == ONNX:
        definition = read_onnx(content.definition).definition
    else:
        definition = NetworkField().deserialize(orjson.loads(content.definition))
    parameters = None if content.parameters is None else unpacked(content.parameters)
    return loaded_network(definition, parameters, content)


def loaded_network(
    definition: Definition, parameters: Mapping[str, Mapping[str, Array]] | None, content: Content
) -> LoadedNetwork:
    """Return a network with an estimate of its memory."""
    size = len(content.parameters or b"")
    written[definition] = content.format, content.definition
    # The reader of ONNX files has its own cache, which counts the file and its arrays.
    factor = 1 if content.format == ONNX else DEFINITION_FACTOR
    nbytes = DEFINITION_BYTES + factor * len(content.definition) + size
    return LoadedNetwork(definition, parameters, size, nbytes)


def with_stored(value: dict[str, Any], names: Names) -> tuple[dict[str, Any], int]:
    """Return the request with stored objects in place of ids, and the number of bytes of the added parameters.

    Raises `Problem` 404 for an id that this owner does not have, 422 for a malformed id, and `StoreError`.
    """
    try:
        network = id_of(value.get("network"))
    except ValidationError as error:
        raise from_validation(ValidationError({"network": error.messages}), value) from None
    try:
        parameters = id_of(value.get("parameters"))
    except ValidationError as error:
        raise from_validation(ValidationError({"parameters": error.messages}), value) from None
    if network is None and parameters is None:
        return value, 0
    value = dict(value)
    nbytes = 0
    try:
        if network is not None:
            found = names.find(network, "network")
            value["network"] = StoredNetwork(network, found.definition)
            if found.parameters is not None and not any(key in value for key in INSTEAD):
                value["parameters"] = StoredParameters(network, found.parameters)
                nbytes = found.parameter_bytes
        if parameters is not None:
            found = names.find(parameters, "parameters")
            tree = found.parameters or found.definition.parameters
            if tree is None:
                detail = "this network is stored without parameters; send them, or let them be initialised"
                raise from_validation(ValidationError({"parameters": {"id": [Message(detail)]}}), value)
            value["parameters"] = StoredParameters(parameters, tree)
            nbytes = found.parameter_bytes
    except ValidationError as error:
        # The network was valid for the earlier version of this program that stored it.
        raise from_validation(ValidationError({"network": error.messages}), value) from None
    return value, nbytes
