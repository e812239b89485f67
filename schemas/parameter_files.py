"""Parameters of a request: a tree, a file of arrays (safetensors or npz), or a state_dict of PyTorch."""

from __future__ import annotations

import binascii
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pybase64
from marshmallow import ValidationError

from schemas.components import Components, JSONSchema, by_name, closed_object
from schemas.documents import is_state_dict
from schemas.fields import WordField
from schemas.messages import Message, hint, plain, shown
from schemas.tensor import TEXT, ParametersField, decode_each, tensors_by_name, tree_schema
from schemas.tensor_files import load_npz, load_safetensors
from service.engine.arrays import Array
from service.engine.errors import MOST_ERRORS
from service.engine.layouts.pytorch import from_pytorch
from service.engine.network.layered import NetworkDefinition

FORMATS: Mapping[str, Callable[[bytes], dict[str, Array]]] = {"safetensors": load_safetensors, "npz": load_npz}
FILE_NAMES: Mapping[str, str] = {"safetensors": "SafetensorsParameters", "npz": "NpzParameters"}
"""The names of the components that describe a file of each format."""
LAYOUTS = ("nabla", "pytorch")
KEYS = (*FORMATS, "layout", "names")
EXPANSION = {"safetensors": 2, "npz": 8}
"""Memory in bytes that a file takes during and after reading, as a multiple of its base64 text."""


class StateDict:
    """Arrays under the names of a PyTorch state_dict. The network is needed to tell which parameters they are."""

    def __init__(self, arrays: dict[str, Array], names: Mapping[str, str]) -> None:
        self.arrays, self.names = arrays, names


class PyTorchTree(dict[str, dict[str, Array]]):
    """A tree of parameters that was made from a state_dict, with the PyTorch module of each layer."""

    def __init__(self, tree: Mapping[str, dict[str, Array]], modules: Mapping[str, str]) -> None:
        super().__init__(tree)
        self.modules = modules


def resolved(parameters: Any, network: Any) -> Any:
    """Return the parameters of a request as a tree, now that the network is known. Raises `ValidationError`."""
    if not isinstance(parameters, StateDict):
        return parameters
    if not isinstance(network, NetworkDefinition):
        detail = "the layout of PyTorch is for networks made of layers; send the names of this network as they are"
        raise ValidationError({"parameters": {"layout": [Message(detail)]}})
    tree, faults, modules = from_pytorch(network, parameters.arrays, parameters.names)
    if faults:
        messages: dict[Any, Any] = {}
        for fault in faults:
            here = messages
            for key in fault.path:
                here = here.setdefault(key, {})
            here.setdefault("_schema", []).append(Message(fault.detail, fault.allowed))
        raise ValidationError(messages)
    return PyTorchTree(tree, modules)


def file_bytes(parameters: Any) -> int:
    """Return the number of bytes that reading a file of parameters takes beyond its text."""
    # A dict is recognised faster than a Mapping, and nearly every request has one.
    if not isinstance(parameters, (dict, Mapping)) or not ("safetensors" in parameters or "npz" in parameters):
        return 0
    return sum(EXPANSION[key] * len(parameters[key]) for key in FORMATS if isinstance(parameters.get(key), TEXT))


class ParametersOrFileField(ParametersField):
    """Tensors by layer and parameter name, as a tree or as a file of arrays."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, (dict, Mapping)):
            return super()._deserialize(value, attr, data, **kwargs)
        if ("safetensors" in value or "npz" in value) and any(isinstance(value.get(key), TEXT) for key in FORMATS):
            return _from_file(value)
        first = next(iter(value.values()), None)
        if type(first) is not dict or "base64" in first:  # not a tree, so most likely the tensors of a state_dict
            return self._of_tensors(value, attr, data, **kwargs)
        return super()._deserialize(value, attr, data, **kwargs)

    def _of_tensors(self, value: Mapping[str, Any], attr: str | None, data: Any, **kwargs: Any) -> Any:
        """Return the tensors of a request as a tree, or as a `StateDict` where they have that form."""
        if is_state_dict(value):
            arrays, errors = decode_each(value)
            if errors:
                raise ValidationError(errors)
            return StateDict(arrays, {})
        return super()._deserialize(value, attr, data, **kwargs)

    def json_schema(self, components: Components) -> JSONSchema:
        files = [components.refer(name, partial(_file_schema, components, key)) for key, name in FILE_NAMES.items()]
        return {"anyOf": [tree_schema(components), *files, tensors_by_name(components)]}


def _file_schema(components: Components, key: str) -> JSONSchema:
    """Return the JSON Schema of a file of parameters in a request, which is the value of this key."""
    meaning = {"description": "nabla: arrays are called layer.parameter; pytorch: the file is a state_dict"}
    layout = WordField(LAYOUTS, "ParametersLayout", load_default=LAYOUTS[0], metadata=meaning)
    properties: dict[str, JSONSchema] = {
        key: {"type": "string", "contentEncoding": "base64", "description": f"the bytes of the {key} file"},
        "layout": layout.described(components),
        "names": by_name({"type": "string"})
        | {"description": "with layout pytorch, the layer of each module where their names differ"},
    }
    text = f"Parameters as {'an npz file of NumPy' if key == 'npz' else f'a {key} file'}, in base64."
    return closed_object(properties, [key]) | {"description": text}


def _from_file(value: Mapping[str, Any]) -> Any:
    """Return the tree or `StateDict` in a file of a request. Raises `ValidationError`."""
    errors: dict[str, Any] = {
        key: [Message(f"unknown key of a file of parameters{hint(key, KEYS)}", KEYS)]
        for key in value
        if key not in KEYS
    }
    given = [key for key in FORMATS if key in value]
    if len(given) > 1:
        errors["npz"] = [Message("takes one of 'safetensors' and 'npz', not both")]
    layout, names = value.get("layout", LAYOUTS[0]), plain(value.get("names", {}))
    if layout not in LAYOUTS:
        errors["layout"] = [Message(f"takes one of {', '.join(map(repr, LAYOUTS))}, got {shown(layout)}", LAYOUTS)]
    if not isinstance(names, Mapping) or not all(isinstance(name, str) for name in names.values()):
        errors["names"] = [Message(f"takes an object of names of layers by module, got {shown(names)}")]
    elif names and layout != "pytorch":
        errors["names"] = [Message("has a meaning with layout 'pytorch' alone")]
    elif len(set(names.values())) < len(names):
        errors["names"] = [Message("names a layer twice")]
    if errors:
        raise ValidationError(dict(list(errors.items())[:MOST_ERRORS]))
    (kind,) = given
    text = value[kind]
    if not isinstance(text, TEXT):
        raise ValidationError({kind: [Message(f"takes a string of base64, got {shown(plain(text))}")]})
    try:
        content = pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        message = "is not base64 (RFC 4648 with padding, no line breaks)"
        raise ValidationError({kind: [Message(message)]}) from None
    try:
        # Names with a slash are gradients and other parts of an answer of this service.
        arrays = {name: array for name, array in FORMATS[kind](content).items() if "/" not in name}
        return StateDict(arrays, names) if layout == "pytorch" else tree_of(arrays)
    except ValidationError as error:
        raise ValidationError({kind: error.messages}) from None


def tree_of(arrays: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Return a tree by layer and parameter name from arrays named `layer.parameter`."""
    tree: dict[str, dict[str, Array]] = {}
    for name, array in arrays.items():
        layer, dot, parameter = name.rpartition(".")
        if not dot or not layer:
            state_dict = '; for a state_dict of PyTorch add "layout": "pytorch"'
            raise ValidationError([Message(f"array {shown(name)} has no name of the form layer.parameter{state_dict}")])
        tree.setdefault(layer, {})[parameter] = array
    if any("weight" in own for own in tree.values()):
        detail = 'holds a state_dict of PyTorch, whose axes lie otherwise; add "layout": "pytorch"'
        raise ValidationError([Message(detail)])
    return tree
