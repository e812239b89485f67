"""Models in the formats of other libraries, at places where they are not read: they are recognised, with advice.

A whole model of Keras is read as the network (see `schemas/keras`), a state_dict of PyTorch as the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import islice
from typing import Any

from service.engine.declarations import Registry
from service.engine.network.layers import layers
from service.engine.suggestions import translated

LONGEST_EXAMPLE = 240
"""Characters of a model that is rewritten in the format of this service."""
SAME_HERE = ("units", "filters", "kernel_size", "pool_size", "rate", "input_dim", "output_dim", "activation")
"""Options of Keras layers that define a layer and have the same name here."""
FLAT_ENDINGS = (
    *("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
    *("in_proj_", "q_proj_", "k_proj_", "v_proj_"),
)
"""Endings of the names in a PyTorch state_dict."""
EXAMPLE = '{"layers": [{"type": "dense", "units": 3, "activation": "relu"}, {"type": "dense", "units": 1}]}'


def recognised(value: Any) -> str:
    """Return the error for a document of another library, with how to write it here; "" for any other value."""
    if isinstance(value, str):
        return _text(value)
    if not isinstance(value, Mapping):
        return ""
    if "type" not in value and isinstance(value.get("class_name"), str) and isinstance(value.get("config"), Mapping):
        return _keras(value)
    if "modelTopology" in value or "model_config" in value or "keras_version" in value:
        return (
            "this is a Keras model with something around it; send what model.to_json() gives, which has class_name and "
            "config (in a model of TensorFlow.js that is modelTopology.model_config)"
        )
    graph = value.get("graph", value)
    onnx = {"irVersion", "ir_version", "opsetImport", "opset_import", "producerName"} & set(value)
    nodes = isinstance(graph, Mapping) and isinstance(graph.get("node"), list)
    if onnx or nodes or "opType" in value or "op_type" in value:
        return f"this is an ONNX graph, which is not read; write its layers as {EXAMPLE}"
    if is_state_dict(value):
        return f"{state_dict(value)}; its place is 'parameters'. The network is the architecture alone, as {EXAMPLE}"
    return ""


def is_state_dict(value: Mapping[str, Any]) -> bool:
    """Return whether an object has the flat, dotted names of a PyTorch state_dict."""
    names = list(islice(value, 8))
    return bool(names) and all("." in name and name.rsplit(".", 1)[1].startswith(FLAT_ENDINGS) for name in names)


def state_dict(value: Mapping[str, Any]) -> str:
    """Return the beginning of the error for a PyTorch state_dict."""
    return f"{next(iter(value))[:40]!r} is a name of a PyTorch state_dict"


def _text(text: str) -> str:
    beginning = text[:400].lstrip()
    if beginning.startswith("{"):
        if '"class_name"' in beginning:
            return "this is the text of a Keras model (to_json); its place is 'network'"
        return "this is JSON inside a string; send the object itself, without quotation marks around it"
    if "(" in beginning and any(word in beginning for word in ("Sequential", "Linear(", "Dense(", "Module")):
        return f"this is a model as Python prints it; send an object such as {EXAMPLE}"
    return ""


def _keras(value: Mapping[str, Any]) -> str:
    if isinstance(value["config"].get("layers"), list):
        return (
            "this is a Keras model (to_json), whose place is 'network': it takes the document as it is, beside "
            "'inputs' and the rest of the request"
        )
    layer = _layer(value)
    instead = json.dumps(layer) if layer else "an object with 'type'"
    return (
        f"this is a Keras layer ({value['class_name'][:40]}); send {_cut(instead)}, or in place of the whole network "
        "what model.to_json() gives"
    )


def _layer(layer: Any) -> dict[str, Any]:
    """Return a layer of Keras's JSON as this service writes it; an empty object if no layer here is like it."""
    known: Registry[Any] = layers
    if not (isinstance(layer, Mapping) and isinstance(layer.get("class_name"), str)):
        return {}
    name = translated("layer", layer["class_name"], known.names).name
    if not name:
        return {}
    options = {option.name for option in known[name].options}
    config = layer.get("config")
    given = config if isinstance(config, Mapping) else {}
    return {"type": name} | {
        key: given[key]
        for key in SAME_HERE
        if key in options and isinstance(given.get(key), int | float | str | list) and given[key] != "linear"
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE] + "…"
