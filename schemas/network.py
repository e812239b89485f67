"""The schema of a network in requests, and its conversion to the engine's definition."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any

import numpy as np
from marshmallow import ValidationError

from schemas.components import Components, JSONSchema, any_of, by_name, list_of
from schemas.declared import (
    LAYER_KEYS,
    article,
    layer_of_network,
    meant_choice,
    missing_type,
    options_schema,
    select,
    unknown_choice,
)
from schemas.documents import recognised
from schemas.fields import MOST_NAMES, IntegersField, NameField, NamesField
from schemas.keras import Unreadable, is_document, read
from schemas.messages import Message, plain, shown
from schemas.onnx import definition_of, file_schema, is_onnx
from schemas.rewriting import from_arguments, from_call, sizes
from schemas.strict import LONG_LIST, StrictField, StrictSchema, object_schema, read_each
from service.engine.declarations import Registry
from service.engine.errors import MOST_ERRORS, Path
from service.engine.network.activations import activations
from service.engine.network.definition import INPUT, Definition, LayerDefinition
from service.engine.network.layered import NetworkDefinition
from service.engine.network.layers import layers
from service.engine.suggestions import suggest, translated

LAYER = '{"type": "dense", "units": 3}'
WITHOUT_INPUTS = "the first size is that of the inputs, which are no layer"
MOST_LAYERS = 4096
"""The number of layers above which a network is refused unread, whatever an operator allows: reading takes time."""


class LayersField(StrictField):
    """The list of a network's layers; each is validated by the schema of its type."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> tuple[LayerDefinition, ...]:
        if not isinstance(value, list) or not 0 < len(value) <= MOST_LAYERS:
            instead = (
                "; write a list, with the names in it as 'name' of each layer" if isinstance(value, Mapping) else ""
            )
            raise self.refuse(f"a list of 1 to {MOST_LAYERS} layers", value, instead=instead)
        if _are_sizes(value):
            raise self.refuse("a list of layers", value, instead=f"; write {sizes(value)}: {WITHOUT_INPUTS}")
        made: list[LayerDefinition] = []
        errors: dict[int, Any] = {}
        for position, layer in enumerate(value):
            try:
                made.append(_layer(layer, position))
            except ValidationError as error:
                errors[position] = error.messages
                if len(errors) >= MOST_ERRORS:
                    break
        seen: dict[str, int] = {}
        for position, definition in enumerate(made if not errors else ()):
            if definition.name in seen:
                detail = f"{definition.name!r} is taken: layer {seen[definition.name]} has that name"
                errors[position] = {"name": [Message(detail)]}
            seen.setdefault(definition.name, position)
        if errors:
            raise ValidationError(errors)
        return tuple(made)

    def json_schema(self, components: Components) -> JSONSchema:
        return list_of(layer_of_network(components), minItems=1, maxItems=MOST_LAYERS)


def _layer(value: Any, position: int) -> LayerDefinition:
    if not isinstance(value, Mapping):
        takes = f"takes an object with 'type', such as {_written(value)}"
        raise ValidationError([Message(f"{takes}, got {shown(plain(value))}")])
    foreign = recognised(value)
    if foreign:
        raise ValidationError([Message(foreign)])
    known: Registry[Any] = layers
    kind = value.get("type")
    if isinstance(kind, str) and kind in known:
        return _known_layer(value, kind, position)
    if kind is None:
        raise ValidationError({"type": [missing_type(value, known)]})
    errors: dict[str, Any] = {"type": [unknown_choice(known, kind, "layer type")]}
    meant = meant_choice(known, kind)
    if meant:
        try:
            _known_layer({**value, "type": meant}, meant, position)
        except ValidationError as error:
            errors |= error.messages_dict
    raise ValidationError(errors)


def _are_sizes(value: Any) -> bool:
    """Return whether a list has only sizes of layers, as textbooks write a network."""
    return isinstance(value, list) and len(value) > 1 and all(type(size) is int and size > 0 for size in value)


def _written(value: Any) -> str:
    """Return the JSON of the layer that a text such as `Linear(2, 4)`, or a list of its words, probably stands for."""
    name, arguments = (value[0], value[1:]) if isinstance(value, list) and value else (value, ())
    if not isinstance(name, str):
        return LAYER
    known: Registry[Any] = layers
    layer = from_call(known, name, options_schema) or from_arguments(known, name, arguments, {}, options_schema)
    activation = translated(activations.kind, name, activations.names).name
    if not layer and activation:
        layer = {"type": "activation", "activation": activation}
    return json.dumps(layer) if layer else LAYER


def _known_layer(value: Mapping[str, Any], kind: str, position: int) -> LayerDefinition:
    known: Registry[Any] = layers
    own = set(options_schema(known[kind]).load_fields)
    errors: dict[str, Any] = {}
    common: dict[str, Any] = {}
    selection = None
    try:
        common = LAYER_KEYS.load({key: item for key, item in value.items() if key in LAYER_KEYS.load_fields})
    except ValidationError as error:
        errors.update(error.messages_dict)
    try:
        options = {key: item for key, item in value.items() if key not in LAYER_KEYS.load_fields}
        selection = select(known, {"type": kind, **options})
    except ValidationError as error:
        errors.update(error.messages_dict)
    for key in errors:
        if key not in own and key not in LAYER_KEYS.load_fields:
            names = [*options_schema(known[kind]).load_fields, *LAYER_KEYS.load_fields]
            where = _parameter(value, kind, position, key) or _elsewhere(value, key, names)
            allowed = sorted(names) if not where or len(names) <= LONG_LIST else ()
            errors[key] = [Message(f"{article(kind)} layer has no {shown(key)}{where}", allowed)]
    if errors or selection is None:
        raise ValidationError(errors)
    return LayerDefinition(
        name=common.get("name", f"{selection.name}_{position + 1}"),
        layer=selection,
        inputs=common.get("inputs"),
        shares=common.get("shares"),
        trainable=common.get("trainable", True),
    )


def _parameter(value: Mapping[str, Any], kind: str, position: int, key: str) -> str:
    """Return advice for an unknown key of a layer that holds its weights; "" for any other."""
    if not isinstance(value[key], list | np.ndarray):
        return ""
    name = translated("parameter", key, layers[kind].parameters or ()).name
    layer = value.get("name") or f"{kind}_{position + 1}"
    whole = f'"parameters": {{"{layer}": {{"{name}": …}}}}'
    return f"; weights are sent beside 'network', as {whole}" if name and isinstance(layer, str) else ""


def _elsewhere(value: Mapping[str, Any], key: str, names: list[str]) -> str:
    """Return a suggestion for an unknown key of a layer, with these names of known ones."""
    if not isinstance(value[key], int):  # a number of outputs is no list of the network's outputs
        place = translated("key", key, SCHEMA.load_fields).name
        if place and not translated("key", key, names).name:
            return f"; {place!r} belongs into the network, beside 'layers'"
    return str(suggest("key", key, names))


class InputShapeField(StrictField):
    """The shape of one sample, or one shape for each named input."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape = IntegersField()

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if isinstance(value, list) and value[:1] == [None]:
            raise self.refuse("the shape of one sample", value, instead="; leave the axis of the samples out")
        if not isinstance(value, Mapping):
            return self.shape.deserialize(value)
        return read_each(islice(value.items(), MOST_NAMES), self.shape.deserialize, MOST_NAMES)

    def json_schema(self, components: Components) -> JSONSchema:
        shape = components.refer(
            "TensorShape", lambda: self.shape.json_schema(components) | {"description": "The length of each axis."}
        )
        text = "Shapes by the names of inputs."
        return {"anyOf": [shape, components.refer("ShapesByName", lambda: by_name(shape, text))]}


class NetworkSchema(StrictSchema):
    """The architecture of a network. Parameters have a key of their own in requests."""

    elsewhere = MappingProxyType(
        dict.fromkeys(("loss", "optimizer", "parameters", "targets", "seed", "dtype", "training"), "beside 'network'")
        | {option.name: "into a layer of the list 'layers'" for option in layers["dense"].options}
    )

    layers = LayersField(required=True, metadata={"description": "in order: by default a layer takes the one before"})
    inputs = NamesField(
        unique=True,
        new=True,
        metadata={"description": "names of the inputs, for layers to take; by default there is one, called 'input'"},
    )
    input_shape = InputShapeField(
        metadata={
            "description": "shape of one sample, by name if there are several inputs; optional if the inputs imply it"
        }
    )
    outputs = NamesField(
        unique=True, metadata={"description": "layers whose outputs are returned; by default the last one"}
    )


SCHEMA = NetworkSchema()
INPUT_NAME = NameField()


class NetworkField(StrictField):
    """The architecture of a network, loaded as the engine's `NetworkDefinition`."""

    has_keys = True

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Definition:
        value = plain(value)
        if isinstance(value, dict) and is_onnx(value):
            return definition_of(value)
        if is_document(value):
            return _of_keras(value)
        if not isinstance(value, dict):
            foreign = recognised(value)
            if foreign:
                raise ValidationError(Message(foreign))
            instead = '; write {"layers": …} around the list' if isinstance(value, list) else ""
            if _are_sizes(value):
                instead = f'; write {{"layers": {sizes(value)}}}: {WITHOUT_INPUTS}'
            raise self.refuse("an object with 'layers'", value, instead=instead)
        foreign = recognised(value)
        if foreign and "layers" not in value:
            raise ValidationError(Message(foreign))
        loaded = SCHEMA.load(value)
        inputs = loaded.get("inputs", (INPUT,))
        errors: dict[str, Any] = {}
        for position, name in enumerate(inputs):
            try:
                INPUT_NAME.deserialize(name)
            except ValidationError as error:
                errors.setdefault("inputs", {})[position] = error.messages
        for key, names in (("inputs", inputs), ("outputs", loaded.get("outputs") or ())):
            if len(set(names)) != len(names):
                errors[key] = [Message("names a layer twice" if key == "outputs" else "names an input twice")]
        for position, layer in enumerate(loaded["layers"]):
            if layer.name in inputs:
                place = {"name": [Message(f"{layer.name!r} is taken: that name means {_meaning(layer.name)}")]}
                errors.setdefault("layers", {})[position] = place
        shapes = loaded.get("input_shape", {})
        if not isinstance(shapes, dict):
            if len(inputs) > 1:
                takes = f"takes an object with a shape for each of {', '.join(map(repr, inputs))}"
                errors["input_shape"] = [Message(takes, inputs)]
            shapes = {inputs[0]: shapes}
        unknown = {name: [Message("is no input of the network", inputs)] for name in shapes if name not in inputs}
        if unknown:
            errors["input_shape"] = unknown
        if errors:
            raise ValidationError(errors)
        return NetworkDefinition(
            layers=loaded["layers"], inputs=inputs, input_shapes=shapes, outputs=loaded.get("outputs")
        )

    def json_schema(self, components: Components) -> JSONSchema:
        return components.refer(
            "Network", lambda: any_of(self.forms(components), "A network, in one of several forms.")
        )

    def forms(self, components: Components) -> list[JSONSchema]:
        """Return the schemas of all forms that a network may have."""
        layers = components.refer("LayerNetwork", lambda: object_schema(SCHEMA, components))
        return [layers, components.refer("KerasModel", _keras_schema), file_schema(components)]


def _keras_schema() -> JSONSchema:
    properties: dict[str, JSONSchema] = {"class_name": {"type": "string"}, "config": {"type": "object"}}
    text = "A model of Keras, as `model.to_json()` gives it; that string is taken too."
    described = {"description": text, "additionalProperties": True}
    return {"type": "object", "properties": properties, "required": list(properties), **described}


def _of_keras(document: Any) -> NetworkDefinition:
    """Return the definition of a model of Keras. Errors name the layer as the document has it."""
    try:
        found = read(document)
    except Unreadable as error:
        raise _at_places(error.faults) from None
    places = tuple([(() if isinstance(document, str) else place.path, place.words) for place in found.places])
    try:
        definition: NetworkDefinition = NetworkField().deserialize(found.network)
    except ValidationError as error:
        of_layers = error.messages_dict.get("layers")
        if not isinstance(of_layers, dict):
            raise
        raise _at_places(
            (places[position][0], f"{places[position][1]}: {text}")
            for position, messages in of_layers.items()
            for text in _texts(messages)
        ) from None
    return replace(definition, places=places)


def _texts(messages: Any, option: str = "") -> Iterator[str]:
    """Messages about a layer, each after the option that it is about."""
    if isinstance(messages, dict):
        for key, item in messages.items():
            yield from _texts(item, f"{option}.{key}" if option else str(key))
    else:
        yield from (f"{option}: {text}" for text in messages)


def _at_places(faults: Iterable[tuple[Path, str]]) -> ValidationError:
    """Return an error with each text at its place."""
    whole: dict[Any, Any] = {}
    for path, text in faults:
        here = whole
        for key in path:
            here = here.setdefault(key, {})
        here.setdefault("_schema", []).append(Message(text))
    return ValidationError(whole)


def _meaning(name: str) -> str:
    return "the inputs of the network" if name == INPUT else "an input of the network"
