"""The translation of a Keras model into a network in the form of requests.

Layers of nested models are put side by side: `encoder.dense` is the layer `dense` of the model `encoder`. A layer that
is called again becomes a layer `dense:2` that shares the parameters of the first. The order of the document is kept, so
no name is resolved twice and the work is linear in the size of the result, which is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from schemas.fields import NameField
from schemas.keras.calls import Call, Tensor, calls_of, tensors_of
from schemas.keras.operations import describe_operation, is_operation
from schemas.keras.refusals import KerasRefusal, class_of, is_custom
from schemas.keras.table import Described, check, describe
from schemas.keras.values import INPUTS, check_dtype
from schemas.messages import plain, shown
from service.engine.errors import MOST_ERRORS, Path
from service.engine.network.layers import layers

MODELS = ("Sequential", "Functional", "Model")
MOST_LAYERS = 4096
MOST_LEVELS = 12
"""Largest depth of nested models. Without this limit a document could double its layers at each level."""
RANDOM = ("dropout", "spatial_dropout", "gaussian_dropout", "alpha_dropout", "gaussian_noise")


class Place(NamedTuple):
    """The origin of a layer in the document."""

    path: Path
    """Path of the layer in the document. Empty where the document is a string."""
    words: str
    """Name of the layer in errors, such as `layer 'conv' (Conv2D)`."""
    parts: tuple[str, ...]
    """Names of the models around the layer, followed by its own name."""
    first: bool
    """Whether the layer owns its parameters instead of sharing those of another layer."""
    entry: Mapping[str, Any]
    """The JSON of the layer in the document."""


class Read(NamedTuple):
    """A Keras document translated into a network."""

    network: dict[str, Any]
    """The network in the form of requests."""
    places: tuple[Place, ...]
    """The origin of each layer of the network."""


class Unreadable(Exception):
    """The error of a document that cannot be read, with a list of faults, each with its path."""

    def __init__(self, faults: list[tuple[Path, str]]) -> None:
        super().__init__(faults[0][1])
        self.faults = faults


def is_document(value: Any) -> bool:
    """Return whether a value is a Keras model: an object with a class, or a string that holds one."""
    if isinstance(value, str):
        beginning = value[:400].lstrip()
        return beginning.startswith("{") and '"class_name"' in beginning
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("class_name"), str)
        and isinstance(value.get("config"), Mapping)
        and isinstance(value["config"].get("layers"), list)
    )


def network_of(document: Any) -> dict[str, Any]:
    """Return the network that a document describes, in the form of requests. Raises `Unreadable`."""
    return read(document).network


def read(document: Any) -> Read:
    """Return the network that a document describes, with the origin of each layer.

    `document` is the object that `model.to_json()` holds, or that string. Raises `Unreadable` with all faults of the
    document, each with the layer and the reason.
    """
    if isinstance(document, str):
        found = _parsed(document)
        try:
            return read(found)
        except Unreadable as error:
            raise Unreadable([((), detail) for _, detail in error.faults]) from None
    reader = _Reader(document)
    try:
        outputs = reader.whole()
    except KerasRefusal as refusal:
        raise Unreadable([*reader.faults, ((), str(refusal))]) from None
    if reader.faults:
        raise Unreadable(reader.faults)
    network: dict[str, Any] = {"layers": reader.layers}
    if reader.inputs:
        network["inputs"] = list(reader.inputs)
    shapes = {name: shape for name, shape in reader.inputs.items() if shape}
    if reader.shape:
        network["input_shape"] = reader.shape
    elif shapes:
        network["input_shape"] = shapes
    network["outputs"] = outputs
    return Read(network, tuple(reader.places))


def _parsed(text: str) -> Any:
    """Return the model that a JSON text holds. Raises `Unreadable`."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Unreadable([((), f"the text of the model is not JSON: {error.msg} at character {error.pos}")]) from None
    if not is_document(found):
        raise Unreadable([((), "the text holds no model: it needs class_name, and config with layers")])
    return found


def _plainly(value: Any, depth: int = 0) -> Any:
    """Return a document with lists in place of NumPy arrays, which the parser of large bodies makes of numbers."""
    if depth > 100:
        raise KerasRefusal("the document is nested too deep")
    if isinstance(value, np.ndarray):
        return plain(value)
    if isinstance(value, dict):
        return {key: _plainly(item, depth + 1) for key, item in value.items()}
    return [_plainly(item, depth + 1) for item in value] if isinstance(value, list) else value


class _Model(NamedTuple):
    """A model within the document while it is being read."""

    config: Mapping[str, Any]
    path: Path
    prefix: str
    """Prefix of the names of its layers."""
    owner: str
    """Prefix of the layers of its first call. Layers of later calls share the parameters of those layers."""
    parts: tuple[str, ...]
    still: bool
    """Whether the model was called with training=False."""
    level: int


class _Reader:
    """A reader of one document, which collects the layers, their origins and all faults."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self.layers: list[dict[str, Any]] = []
        self.places: list[Place] = []
        self.faults: list[tuple[Path, str]] = []
        self.inputs: dict[str, list[int]] = {}
        """Names of the inputs, each with the shape of one sample. The shape is empty where it is not known."""
        self.shape: list[int] = []
        """The shape of one sample, where the only input has no name."""
        self.old = False

    def whole(self) -> list[str]:
        """Read the whole document and return the names of its outputs."""
        document = self.document = _plainly(self.document)
        version = document.get("keras_version")
        self.old = isinstance(version, str) and version.startswith(("1.", "2."))
        _need_model(document)
        model = _Model(document["config"], ("config",), "", "", (), False, 0)
        if class_of(document) == "Sequential":
            return self.sequential(model, [self.first_input(document)])
        for tensor in tensors_of(model.config.get("input_layers")):
            entry = _entry(model, tensor.layer)
            with self.at(model, entry[0], entry[1]):
                self.inputs[_clean(tensor.layer)] = _input_shape(entry[1])
        return self.functional(model, [_clean(t.layer) for t in tensors_of(model.config["input_layers"])])

    def at(self, model: _Model, position: int, entry: Mapping[str, Any]) -> _At:
        """Return the context manager that records refusals as faults of this layer of a model."""
        return _At(self.faults, (*model.path, "layers", position), _words(entry, model.parts))

    def first_input(self, document: Mapping[str, Any]) -> str:
        """Return the name of the input of a sequential model, and record the shape of the input."""
        listed = document["config"]["layers"]
        first = listed[0] if listed and isinstance(listed[0], Mapping) else {}
        if class_of(first) == "InputLayer":
            name = _clean(_name_of(first))
            self.inputs[name] = []
            with _At(self.faults, ("config", "layers", 0), _words(first, ())):
                self.inputs[name] = _input_shape(first)
            return name
        config, built = document["config"], document.get("build_config")
        own = first.get("config")
        shapes = (
            own.get("batch_input_shape", own.get("batch_shape")) if isinstance(own, Mapping) else None,
            config.get("build_input_shape"),
            built.get("input_shape") if isinstance(built, Mapping) else None,
        )
        self.shape = next((found for found in map(_known_shape, shapes) if found), [])
        return "input"

    def sequential(self, model: _Model, inputs: list[str]) -> list[str]:
        """Read a sequential model that is called on one input, and return the name of its output in a list."""
        if len(inputs) != 1:
            raise KerasRefusal(f"a sequential model takes one input, got {len(inputs)}")
        for position, entry in _listed(model):
            if class_of(entry) == "InputLayer":
                continue
            with self.at(model, position, entry):
                call = Call((), (), False, {})
                inputs = self.call(model, position, entry, call, 1, inputs)
        return inputs

    def functional(self, model: _Model, inputs: list[str]) -> list[str]:
        """Read a functional model that is called on the given inputs, and return the names of its outputs."""
        given = [tensor.layer for tensor in tensors_of(model.config.get("input_layers"))]
        if len(given) != len(inputs):
            raise KerasRefusal(f"the model {model.prefix.rstrip('.')!r} takes {len(given)} inputs, got {len(inputs)}")
        known = dict(zip(given, inputs, strict=True))
        entries = {_name_of(entry): (position, entry) for position, entry in _listed(model)}
        if len(entries) != len(model.config["layers"]):
            raise KerasRefusal("two layers of a model have one name")

        def resolve(tensor: Tensor, from_output: bool = False) -> str:
            """Return the name of the layer or input that a tensor comes from. Raises `KerasRefusal`."""
            if tensor.layer in known:
                return known[tensor.layer]
            if tensor.layer not in entries:
                raise KerasRefusal(f"a tensor comes from a layer {tensor.layer[:60]!r}, which the model does not list")
            entry = entries[tensor.layer][1]
            number = tensor.call
            if _skips_a_call(entry, from_output, self.old):
                number -= 1
            names = self.outputs_of(entry, model.prefix, number + 1, model.level)
            if tensor.output >= len(names) or number < 0:
                raise KerasRefusal(
                    f"output {tensor.output} of layer {tensor.layer[:60]!r} is used; layers here give their output "
                    "alone, not their states or scores"
                )
            return names[tensor.output]

        for position, entry in entries.values():
            if class_of(entry) == "InputLayer":
                continue
            with self.at(model, position, entry):
                for number, call in enumerate(calls_of(entry.get("inbound_nodes", [])), 1):
                    self.call(model, position, entry, call, number, list(map(resolve, call.tensors)))
        return [resolve(tensor, True) for tensor in tensors_of(model.config.get("output_layers"))]

    def outputs_of(self, entry: Mapping[str, Any], prefix: str, number: int, level: int) -> list[str]:
        """Return the names of the outputs of call `number` of a layer or model. The first call has number 1."""
        name = _called(prefix + _clean(_name_of(entry)), number)
        if class_of(entry) not in MODELS:
            return [name]
        if level >= MOST_LEVELS:
            raise KerasRefusal(f"models are nested deeper than {MOST_LEVELS} levels")
        _need_model(entry)
        config = entry["config"]
        listed = {_name_of(each): each for each in config["layers"] if isinstance(each, Mapping)}
        if class_of(entry) == "Sequential":
            last = config["layers"][-1] if config["layers"] else None
            if not isinstance(last, Mapping) or class_of(last) == "InputLayer":
                raise KerasRefusal("a model within the model has no layers")
            return self.outputs_of(last, f"{name}.", 1, level + 1)
        names = []
        for tensor in tensors_of(config.get("output_layers")):
            found = listed.get(tensor.layer)
            if found is None or class_of(found) == "InputLayer":
                raise KerasRefusal("an output of a model within the model is one of its inputs, or of no layer")
            inner = tensor.call - _skips_a_call(found, True, self.old)
            names.append(self.outputs_of(found, f"{name}.", inner + 1, level + 1)[tensor.output])
        return names

    def call(
        self, model: _Model, position: int, entry: Mapping[str, Any], call: Call, number: int, inputs: list[str]
    ) -> list[str]:
        """Add the layers of one call to the network, and return the names of its outputs."""
        own = _clean(_name_of(entry))
        name, first = _called(model.prefix + own, number), model.owner + own
        path, parts = (*model.path, "layers", position), (*model.parts, own)
        still = _is_still(call, model.still)
        if class_of(entry) in MODELS:
            if model.level >= MOST_LEVELS:
                raise Unreadable([(path, f"models are nested deeper than {MOST_LEVELS} levels")])
            _need_model(entry)
            inner = _Model(entry["config"], (*path, "config"), f"{name}.", f"{first}.", parts, still, model.level + 1)
            read_it = self.sequential if class_of(entry) == "Sequential" else self.functional
            return read_it(inner, inputs)
        if is_operation(entry, call):
            kind, options = describe_operation(entry, call)
        else:
            kind, options = describe(entry, self.old)
            options |= _options_of_call(kind, call)
        if still and kind in RANDOM:
            kind, options = "activation", {"activation": "linear"}
        config = entry["config"] if isinstance(entry.get("config"), Mapping) else {}
        trainable = _is_trainable(config) and not (class_of(entry) == "Normalization" and "axis" in options)
        if still and trainable and layers[kind].couples_samples:
            raise KerasRefusal(
                "it is called with training=False; set trainable to false too, for it learns its averages otherwise"
            )
        if len(self.layers) >= MOST_LAYERS:
            raise Unreadable([(path, f"the model has more than {MOST_LAYERS} layers")])
        layer: dict[str, Any] = {"type": kind, "name": name, "inputs": inputs}
        owns = owns_parameters(kind, options)
        if name != first and owns:
            layer |= {"shares": first, **_without_penalties(options)}
        else:
            layer |= options | ({} if trainable or not owns else {"trainable": False})
        self.layers.append(layer)
        self.places.append(Place(path, _words(entry, model.parts), parts, name == first, entry))
        return [name]


class _At:
    """A context manager that records refusals as faults of one layer, so that reading goes on with the others."""

    __slots__ = ("faults", "path", "words")

    def __init__(self, faults: list[tuple[Path, str]], path: Path, words: str) -> None:
        self.faults, self.path, self.words = faults, path, words

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, KerasRefusal):
            return False
        if len(self.faults) >= MOST_ERRORS:
            raise Unreadable(self.faults) from None
        self.faults.append((self.path, f"{self.words}: {error}"))
        return True


def owns_parameters(kind: str, options: Mapping[str, Any]) -> bool:
    """Return whether a layer of this type has parameters of its own."""
    if kind == "time_distributed":
        inner = options["layer"]
        return owns_parameters(inner["type"], inner)
    if kind in ("layer_normalization", "group_normalization"):
        return bool(options.get("scale", True) or options.get("center", True))
    if kind == "attention":
        return bool(options.get("use_scale") or options.get("score_mode") == "concat")
    if kind == "additive_attention":
        return bool(options.get("use_scale", True))
    return bool(layers[kind].parameters)


def _need_model(entry: Mapping[str, Any]) -> None:
    """Refuse a model without a list of layers, such as a subclass, which keeps its layers in Python code."""
    config = entry.get("config")
    if is_custom(entry) or class_of(entry) not in MODELS:
        raise KerasRefusal(
            f"the model is of the class {class_of(entry)}, which is not Sequential or Functional; its code is not read"
        )
    if not isinstance(config, Mapping) or not isinstance(config.get("layers"), list):
        raise KerasRefusal("the model lists no layers")
    check_dtype(config.get("dtype"))


def _listed(model: _Model) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the layers of a model with their positions."""
    listed = model.config["layers"]
    if len(listed) > MOST_LAYERS:
        raise KerasRefusal(f"the model has {len(listed):,} layers; at most {MOST_LAYERS:,} are read")
    for position, entry in enumerate(listed):
        if not isinstance(entry, Mapping):
            raise KerasRefusal(f"layer {position} is {shown(entry)}; it takes an object with class_name and config")
        yield position, entry


def _entry(model: _Model, name: str) -> tuple[int, Mapping[str, Any]]:
    """Return the layer with this name in a model, preceded by its position. Raises `KerasRefusal`."""
    for position, entry in _listed(model):
        if _name_of(entry) == name:
            return position, entry
    raise KerasRefusal(f"an input comes from a layer {name[:60]!r}, which the model does not list")


def _name_of(entry: Mapping[str, Any]) -> str:
    """Return the name of a layer. Raises `KerasRefusal` for a layer without a name."""
    config = entry.get("config")
    for holder in (entry, config if isinstance(config, Mapping) else {}):
        name = holder.get("name")
        if isinstance(name, str) and name:
            return name
    raise KerasRefusal("has no name; in a model of Keras, as to_json() writes it, every layer has one")


def _clean(name: str) -> str:
    """Return the name of a layer with characters that this service forbids replaced by underscores."""
    return "".join("_" if c in NameField.FORBIDDEN else c for c in name)


def _called(name: str, number: int) -> str:
    """Return the name of a layer for call `number`: the first call has the plain name, the second `name:2`."""
    return name if number == 1 else f"{name}:{number}"


def _words(entry: Mapping[str, Any], parts: tuple[str, ...]) -> str:
    """Return the name of a layer for errors."""
    config = entry.get("config")
    name = entry.get("name", config.get("name") if isinstance(config, Mapping) else None)
    inside = f" of {'.'.join(parts)!r}" if parts else ""
    called = "a layer" if name is None else f"layer {shown(name)}"
    return f"{called}{inside} ({class_of(entry)})"


def _skips_a_call(entry: Mapping[str, Any], from_output: bool, old: bool) -> bool:
    """Return whether the calls of a model are counted from 1, because call 0 was the construction of the model.

    Keras 3 counts this way only in the list of outputs and only for functional models. Keras 2 does so for any model
    with an input layer.
    """
    kind, config = class_of(entry), entry.get("config")
    if kind not in MODELS or not isinstance(config, Mapping):
        return False
    calls = entry.get("inbound_nodes")
    if not old and not (isinstance(calls, list) and calls and isinstance(calls[0], list)):
        return from_output and kind != "Sequential"
    listed = config.get("layers")
    return bool(
        isinstance(listed, list) and listed and isinstance(listed[0], Mapping) and class_of(listed[0]) == "InputLayer"
    )


def _known_shape(batch_shape: Any) -> list[int]:
    """Return the shape of one sample. An empty list means that the shape is not known."""
    if not isinstance(batch_shape, list) or not all(type(n) is int and n > 0 for n in batch_shape[1:]):
        return []
    return batch_shape[1:]


def _input_shape(entry: Mapping[str, Any]) -> list[int]:
    """Return the shape of one sample of an input layer, or an empty list. Refuse an input that holds no numbers."""
    config = entry.get("config")
    if class_of(entry) != "InputLayer" or not isinstance(config, Mapping):
        raise KerasRefusal("an input of the model comes from a layer that is no InputLayer")
    check_dtype(config.get("dtype"), INPUTS)
    for key in ("sparse", "ragged", "optional"):
        check(key, config.get(key), ((None, False), "inputs are arrays of numbers, all of them given"))
    return _known_shape(config.get("batch_shape", config.get("batch_input_shape")))


def _is_trainable(config: Mapping[str, Any]) -> bool:
    """Return whether a layer, and the layer that it may wrap, are trainable."""
    inner = config.get("layer")
    own = inner.get("config") if isinstance(inner, Mapping) else None
    return config.get("trainable", True) is not False and (not isinstance(own, Mapping) or _is_trainable(own))


def _is_still(call: Call, before: bool) -> bool:
    """Return whether a layer is called with training=False, which turns its random numbers off permanently."""
    training = call.options.get("training")
    if training not in (None, False):
        raise KerasRefusal("it is called with training=True, whatever the request says; leave the argument out")
    return before or training is False


NO_MASK = ((None,), "masks are not here")
OF_CALLS: Mapping[str, tuple[tuple[Any, ...], str]] = {
    **dict.fromkeys(("mask", "attention_mask", "query_mask", "value_mask", "key_mask"), NO_MASK),
    "return_attention_scores": ((None, False), "layers here give their output alone"),
    **dict.fromkeys(
        ("initial_state", "inputs", "key", "constants", "cross_attention_cache"), ((None, []), "it is no tensor")
    ),
}


def _options_of_call(kind: str, call: Call) -> dict[str, Any]:
    """Return the options of a layer that follow from the arguments of a call other than its tensors."""
    made: dict[str, Any] = {}
    for key, value in call.options.items():
        if key == "use_causal_mask" and any(option.name == key for option in layers[kind].options):
            made |= {key: True} if value is True else {}
        elif key in OF_CALLS:
            check(key, value, OF_CALLS[key])
        elif key != "training" and value not in (None, False):
            raise KerasRefusal(f"it is called with {key[:60]!r}, which is not here")
    if call.constants:
        raise KerasRefusal("it is called with a number in place of a tensor")
    return made


def _without_penalties(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options without regularizers, because shared parameters are penalized only once."""
    kept: Described = ("", {key: item for key, item in options.items() if not key.endswith("_regularizer")})
    if "layer" in kept[1]:
        kept[1]["layer"] = _without_penalties(kept[1]["layer"])
    return kept[1]
