"""The endpoints of `/v1/networks`: a network is sent once and then named by an id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from flask import Blueprint, Response, request
from marshmallow import ValidationError

from schemas.networks import (
    JSON,
    LoadedNewNetwork,
    NetworkFile,
    StoredNetworkListSchema,
    StoredNetworkSchema,
    StoredNetworkWithDefinitionSchema,
    StoredParametersResponse,
    StoreNetworkRequest,
)
from schemas.parameter_files import LAYOUTS, StateDict, tree_of
from schemas.stored import ID
from schemas.tensor_files import load_npz, load_safetensors
from service import wire
from service.api.answer_files import as_file
from service.api.context import Context
from service.api.endpoint import OF_FILES, describe, post
from service.api.examples import XOR_NETWORK, XOR_PARAMETERS, Example
from service.api.layouts import layout_named
from service.api.networks_examples import NETWORKS
from service.api.queries import (
    PAGE_PARAMETERS,
    Asking,
    as_json,
    asking,
    bad_query,
    cursor_of,
    limit_of,
    no_such,
    page_of,
    query,
    time_text,
)
from service.api.stored import DEFINITION_FACTOR, hold, loaded_network, read
from service.capacity.costs import NODE_SECONDS
from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.insight.summary import Summary, summary_of, task_of
from service.engine.onnx import Imported
from service.multipart import parts_of
from service.problems import Problem, from_validation
from service.store.content import Content, Tree, packed
from service.store.store import Store

if TYPE_CHECKING:
    from service.store.networks import Entry

blueprint = Blueprint("networks", __name__)

FORMATS = ("json", "onnx", "keras")
"""Formats of a body: the JSON object of a request, the file of a network, or the JSON of a Keras model."""
PART_NAMES = ("network", "parameters", "layout")
ZIP = b"PK\x03\x04"
TEXT_FACTOR = 5
"""Memory for parameters as arrays and as JSON text, as a multiple of their bytes."""
MOST_OPERATIONS = 32
"""Largest number of operations that a listing counts for a network. The most frequent ones are kept."""
PACKING_SECONDS = 1e-8
"""Estimated time in seconds to pack, hash and store one byte of parameters."""


# --- storing ------------------------------------------------------------------------------------


def read_network(environ: Mapping[str, Any], body: bytes, need: Callable[[int], None]) -> wire.Parsed | None:
    """Return the request that a body of one or several files stands for. None: the body is itself a request in JSON.

    Raises `Problem`.
    """
    media_type = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    form = _format_of(environ)
    if media_type == wire.MULTIPART:
        need(3 * len(body))
        return _of_parts(parts_of(body, environ), need)
    if form == "onnx" or media_type != wire.JSON:
        if not body:
            raise Problem("malformed-body", "The body is empty; it is to be the file of a network.")
        return wire.Parsed({"network": NetworkFile(body)}, None, 2 * len(body))
    if form == "keras":
        parsed = wire.parse(body, (), need)
        return parsed._replace(value={"network": parsed.value})
    return None


def _format_of(environ: Mapping[str, Any]) -> str:
    """Return the format of a body from the query. Raise `Problem` 400."""
    try:
        form = query(environ, ("format",)).get("format", "json")
        if form not in FORMATS:
            raise bad_query("format", f"takes one of {', '.join(FORMATS)}, got {form[:60]!r}")
    except Problem as problem:  # pointers of a request with a body name places of that body
        raise Problem("bad-request", problem.detail) from None
    return form


def _of_parts(parts: dict[str, bytes], need: Callable[[int], None]) -> wire.Parsed:
    """Return the request that the parts of a multipart body stand for. Raises `Problem`."""
    unknown = [name for name in parts if name not in PART_NAMES]
    if unknown:
        detail = f"The form has a part {unknown[0][:60]!r}; its parts are called {' and '.join(PART_NAMES)}."
        raise Problem("malformed-body", detail)
    value: dict[str, Any] = {}
    loaded = sum(map(len, parts.values()))
    layout = parts.pop("layout", b"nabla").decode("utf-8", "replace")
    if layout not in LAYOUTS:
        raise Problem("malformed-body", f"The part 'layout' is one of {', '.join(LAYOUTS)}, got {layout[:60]!r}.")
    for name, content in parts.items():
        if content.lstrip()[:1] == b"{":
            parsed = wire.parse(content, (), need)
            value[name] = parsed.value
            loaded += parsed.loaded
        elif name == "network":
            value[name] = NetworkFile(content)
        else:
            value[name] = _of_arrays(content, layout)
            loaded += 2 * len(content)
    return wire.Parsed(value, None, loaded)


def _of_arrays(content: bytes, layout: str) -> Any:
    """Return the parameters in a file of arrays, safetensors or npz. Raises `Problem` 422."""
    try:
        arrays = (load_npz if content.startswith(ZIP) else load_safetensors)(content)
        return StateDict(arrays, {}) if layout == "pytorch" else tree_of(arrays)
    except ValidationError as error:
        raise from_validation(ValidationError({"parameters": error.messages}), {"parameters": ""}) from None


@post(
    blueprint,
    "/v1/networks",
    takes=StoreNetworkRequest(),
    gives=StoredNetworkSchema(),
    summary="Store a network",
    tag="Storage",
    examples=NETWORKS,
    mistake=Example(
        "The kernel has two rows, and the samples have three numbers.",
        network=XOR_NETWORK | {"input_shape": [3]},
        parameters=XOR_PARAMETERS,
    ),
    reads=read_network,
    bodies=(wire.BINARY, wire.MULTIPART),
    statuses={200: "The network was stored before.", 201: "The network is stored now."},
    parameters=(
        {
            "name": "format",
            "in": "query",
            "schema": {"type": "string", "enum": list(FORMATS), "default": FORMATS[0]},
            "description": "what the body is: this JSON object, the file of a network, or the JSON of a Keras model",
        },
    ),
)
def store_network(request: LoadedNewNetwork, context: Context) -> dict[str, Any]:
    """Store a network with its parameters, and get an id made from its content.

    Any request then takes `"network": {"id": …}` and `"parameters": {"id": …}`. What is stored with a network are the
    parameters that such requests use, unless they send some or a `seed`. 201 says that it is new, 200 that it was
    there. A body may be this JSON, or a form with the parts `network` and `parameters` (a safetensors file).
    """
    new, tree = request["network"], request.get("parameters") or None
    settings, ticket, store = context.runtime.settings, context.ticket, context.runtime.store
    limits = settings.limits
    task = task_of(new.definition, tree)
    if task is not None:
        ticket.weigh(task.effort * NODE_SECONDS)
    summary = summary_of(new.definition, task, tree, limits, ticket)
    if summary.faults:
        raise InvalidRequest(summary.faults)
    count = 0 if tree is None else sum(array.size for arrays in tree.values() for array in arrays.values())
    limits.check_parameters(count)
    nbytes = 0 if tree is None else sum(array.nbytes for arrays in tree.values() for array in arrays.values())
    context.memory.need(context.loaded_bytes + 3 * (nbytes + len(new.content)))
    ticket.weigh(ticket.cost + PACKING_SECONDS * nbytes)
    content = Content(new.format, new.content, None if tree is None else packed(tree))
    most = settings.max_stored_network_bytes
    if content.size > most:
        raise LimitExceeded("stored_network_bytes", content.size, most)
    name, told = content.id, _told(summary, new.imported, tree is not None, count)
    owner: str = context.environ["nabla.key"]
    context.timer.mark("compile")
    ticket.go_to_storage()
    created = _add(store, owner, content, told)
    # The next request that names the network, probably in a moment, finds it in this cache.
    kept = loaded_network(new.definition, _read_only(tree), content)
    store.loaded.keep(name, kept, kept.nbytes)
    store.loaded.believe(owner, name)
    context.status = 201 if created else 200
    context.headers["Location"] = f"{context.environ.get('SCRIPT_NAME', '')}/v1/networks/{name}"
    context.timer.mark("store")
    return {"id": name, "format": content.format, "bytes": content.size, **told}


def _add(store: Store, owner: str, content: Content, told: dict[str, Any]) -> bool:
    """Store a network with its description for callers. Return whether it is new for this owner."""
    from service.store.networks import Quotas, Told

    operations = dict(Counter(told["operations"]).most_common(MOST_OPERATIONS))
    brief = {"parameters": told["parameters"]["count"], "operations": operations}

    settings = store.settings
    quotas = Quotas(settings.max_stored_networks, settings.max_stored_bytes_per_key, settings.max_stored_bytes)
    text = Told(orjson.dumps(brief).decode(), orjson.dumps(told).decode())
    return store.networks.add(owner, content, text, quotas, store.clock())


def _read_only(tree: Tree | None) -> Tree | None:
    """Make the arrays of a tree read-only, because other requests will share them. Return the tree."""
    for arrays in (tree or {}).values():
        for array in arrays.values():
            array.setflags(write=False)
    return tree


def _told(summary: Summary, imported: Imported | None, stored: bool, count: int) -> dict[str, Any]:
    """Return the description of a network for callers. Storing and later requests give the same one."""
    own = summary.parameters
    if own is not None:
        count = sum(int(np.prod(each.shape)) for each in own)
    warnings = []
    if own is None:
        message = "the network says no input_shape, so the shapes of its parameters are not known before inputs come"
        warnings.append({"code": "unknown_shapes", "message": message})
    if imported is not None:
        warnings += [{"code": "file", "message": message} for message in imported.warnings]
        stored = stored or bool(own)
    return {
        "inputs": [each._asdict() for each in summary.inputs],
        "outputs": [each._asdict() for each in summary.outputs],
        "parameters": {
            "stored": stored,
            "count": count if stored or own is not None else None,
            "tensors": None if own is None else [each._asdict() for each in own],
        },
        "operations": summary.operations if imported is None else dict(imported.operations),
        "refused": [] if imported is None else list(map(dict, imported.refused)),
        "warnings": warnings,
    }


# --- finding and removing -----------------------------------------------------------------------


IDENTIFIER = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": f"^{ID.pattern}$"},
    "description": "the id of the network: `POST /v1/networks` returns it, and `GET /v1/networks` lists yours",
}


@describe(
    "GET",
    "/v1/networks",
    summary="Your stored networks",
    tag="Storage",
    gives=StoredNetworkListSchema(),
    parameters=PAGE_PARAMETERS,
)
def list_networks() -> Response:
    """The networks that were stored with this key, the newest first; without keys, all of them."""
    given = query(request.environ, ("limit", "after"))
    limit, after = limit_of(given.get("limit")), cursor_of(given.get("after"), ID)
    with asking() as asked:
        usage = asked.store.networks.usage(asked.owner)
        found = asked.store.networks.listed(asked.owner, limit + 1, after)
    page, following = page_of(found, limit)
    told = {"networks": list(map(_line, page)), "next": following}
    return as_json(told | {"count": usage.networks, "bytes": usage.size})


@describe(
    "GET",
    "/v1/networks/{id}",
    summary="One stored network",
    tag="Storage",
    gives=StoredNetworkWithDefinitionSchema(),
    parameters=(IDENTIFIER,),
    random={"created": "2026-11-30T12:00:00Z", "used": "2026-11-30T13:00:00Z"},
)
def show_network(id: str) -> Response:  # noqa: A002 (the name in the path)
    """The description of the network, and its definition as it was sent."""
    query(request.environ, ())
    with asking() as asked:
        entry = _find(asked, id)
        definition = asked.store.networks.definition(asked.owner, id) if entry.format == JSON else None
        hold(asked.memory, DEFINITION_FACTOR * (len(entry.text) + len(definition or b"")))
    told = {"id": entry.id, "format": entry.format, "bytes": entry.size, **orjson.loads(entry.text)}
    network = None if definition is None else orjson.loads(definition)
    return as_json(told | {"created": time_text(entry.created), "used": time_text(entry.used), "network": network})


@describe(
    "GET",
    "/v1/networks/{id}/parameters",
    summary="The parameters of a stored network",
    tag="Storage",
    gives=StoredParametersResponse(),
    parameters=(IDENTIFIER, *OF_FILES),
    media_types=(wire.JSON, *wire.FILES.values()),
)
def show_parameters(id: str) -> Response:  # noqa: A002
    """The parameters of the network as a tree, or as a file of arrays, in the layout of this service or of PyTorch."""
    environ = request.environ
    query(environ, ("format", "layout"))
    form, base64 = wire.form_and_base64(environ, streams=False, files=True)
    wanted = wire.wanted_layout(environ) or "nabla"
    with asking() as asked:
        entry = _find(asked, id)
        hold(asked.memory, TEXT_FACTOR * entry.size)
        found = asked.store.networks.content(asked.owner, id)
        if found is None:
            raise _unknown(id)
        network = read(found)
        parameters = network.parameters or network.definition.parameters
        if parameters is None:
            raise Problem("not-found", "This network is stored without parameters.")
        told = {"parameters": layout_named(wanted, network.definition).parameters(parameters)}
        file = form in wire.FILES
        pieces = as_file(told, form, wanted) if file else wire.document_in_pieces(told, base64)
    media_type = "application/json; tensors=base64" if base64 else wire.JSON
    headers = {"Content-Length": str(sum(map(len, pieces)))}
    if file:
        media_type = wire.FILES[form]
        headers["Content-Disposition"] = f'attachment; filename="parameters.{form}"'
    return Response(pieces, content_type=media_type, headers=headers)


@describe(
    "DELETE",
    "/v1/networks/{id}",
    summary="Remove a stored network",
    tag="Storage",
    parameters=(IDENTIFIER,),
    media_types=(),
    status=204,
)
def remove_network(id: str) -> Response:  # noqa: A002
    """Remove the network. Requests that name it get 404: at once from this worker, within a second from all others."""
    query(request.environ, ())
    with asking() as asked:
        removed = ID.fullmatch(id) is not None and asked.store.networks.remove(asked.owner, id)
        asked.store.loaded.drop(asked.owner, id)
    if not removed:
        raise _unknown(id)
    return Response(status=204)


blueprint.get("/v1/networks")(list_networks)
blueprint.get("/v1/networks/<id>")(show_network)
blueprint.get("/v1/networks/<id>/parameters")(show_parameters)
blueprint.delete("/v1/networks/<id>")(remove_network)


def _find(asked: Asking, name: str) -> Entry:
    """Return the network with this id. Raises `Problem` 404 where the caller has no such network."""
    entry = asked.store.networks.find(asked.owner, name) if ID.fullmatch(name) else None
    if entry is None:
        raise _unknown(name)
    return entry


def _unknown(name: str) -> Problem:
    """Return the problem 404 for an id that the caller does not have."""
    return no_such("network", name, "is stored here; GET /v1/networks lists yours")


def _line(entry: Entry) -> dict[str, Any]:
    """Return the JSON object that describes a stored network, with its times as text."""
    return {
        "id": entry.id,
        "format": entry.format,
        "bytes": entry.size,
        **orjson.loads(entry.text),
        "created": time_text(entry.created),
        "used": time_text(entry.used),
    }
