"""Fields for tensors in requests and responses: nested lists of numbers, or typed arrays.

Each tensor is converted to NumPy in one step and checked once, where it enters: it is rectangular, with finite numbers
only. An error names the first wrong element by its place.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

import numpy as np
import pybase64
from marshmallow import ValidationError

from schemas.components import Components, JSONSchema, any_of, by_name, closed_object, list_of
from schemas.documents import is_state_dict, state_dict
from schemas.messages import NOT_FINITE, PREVIEW, Message, hint, plain, shown, unquoted
from schemas.strict import StrictField
from service.engine.arrays import Array, first_true
from service.engine.errors import MOST_ERRORS
from service.engine.network.layers import layers
from service.engine.options import LARGEST_EXACT_INTEGER
from service.engine.suggestions import translated

TYPED_DTYPES = ("float64", "float32", "int64", "int32", "uint8")
MOST_AXES = 16
MOST_TENSORS = 4096
"""The number of tensors by name in one object, at most; no layer and no network has as many."""
TOO_MANY_AXES = f"is nested deeper than {MOST_AXES} lists"
TAKES_TENSOR = "takes a tensor: nested lists of numbers or a typed array"
TREE = "an object {layer: {parameter: tensor}}"
EXAMPLE = '{"dense_1": {"kernel": [[1], [2]], "bias": [0]}}'
PARAMETERS = tuple(dict.fromkeys(name for layer in layers for name in layer.parameters or ()))
"""The names of the parameters of layers."""
TYPED = ("dtype", "shape", "base64")
"""The keys of a typed array."""
LEFT_OUT = "; leave it out for initial values by the seed, which the initializers of the layers draw"
NUMBERS = frozenset((int, float))
PART = 2**16
"""Numbers of lists that are converted in one call."""
TEXT = str | memoryview
"""The types of base64: a long text is a view of the body (see `service/wire/long_text.py`)."""


DESCRIBED_AXES = 8
"""Axes of lists that JSON Schema writes out for requests. Most tools cannot read a schema that refers to itself."""


def _nested_numbers() -> JSONSchema:
    """Return the JSON Schema of a number, or of lists of numbers with up to `DESCRIBED_AXES` axes."""
    alternatives: list[JSONSchema] = [{"type": "number"}]
    for _ in range(DESCRIBED_AXES):
        alternatives.append(list_of(alternatives[-1], minItems=1))
    return any_of(alternatives, "A number, or nested lists of numbers.")


def _nested_answers() -> JSONSchema:
    """Return the JSON Schema of a number or a list in a response, without a schema for the list's items.

    Python clients parse items one by one if they have a schema, and mypy refuses their code if items may be null.
    """
    text = "A number, or nested lists of them; null stands for a number that is not finite."
    return any_of([{"type": ["number", "null"]}, list_of({})], text)


def typed_array(components: Components, shortest: int = 1) -> JSONSchema:
    """Return the JSON Schema of a typed array, each axis of which has at least length `shortest`."""
    properties: dict[str, JSONSchema] = {
        "dtype": components.refer("TypedArrayDtype", lambda: {"type": "string", "enum": list(TYPED_DTYPES)}),
        "shape": list_of({"type": "integer", "minimum": shortest}, maxItems=MOST_AXES),
        "base64": {"type": "string", "contentEncoding": "base64"},
    }
    text = "An array as base64 of its little-endian bytes in row-major order."
    return closed_object(properties, list(properties)) | {"description": text}


def tensor_schema(components: Components) -> JSONSchema:
    """Return the JSON Schema of a tensor in a request."""

    def make() -> JSONSchema:
        numbers = components.refer("NestedNumbers", _nested_numbers)
        text = (
            f"Nested lists of numbers, here up to {DESCRIBED_AXES} axes, a bare number for a scalar, or a typed array."
        )
        return any_of([numbers, components.refer("TypedArray", lambda: typed_array(components))], text)

    return components.refer("Tensor", make)


def tensor_answer_schema(components: Components) -> JSONSchema:
    """Return the JSON Schema of a tensor in a response."""

    def make() -> JSONSchema:
        text = "Nested lists of numbers, or a typed array if the Accept header asked for it."
        typed = components.refer("TypedArrayAnswer", lambda: typed_array(components, 0))  # an axis may have length 0
        return any_of([components.refer("NestedAnswers", _nested_answers), typed], text)

    return components.refer("TensorAnswer", make)


def tensors_by_name(components: Components) -> JSONSchema:
    """Return the JSON Schema of tensors by name in a request."""
    return components.refer("TensorsByName", lambda: by_name(tensor_schema(components), "Tensors by name."))


def tree_schema(components: Components) -> JSONSchema:
    """Return the JSON Schema of tensors by layer and parameter name in a request."""

    def make() -> JSONSchema:
        return by_name(tensors_by_name(components), "Tensors by layer and parameter name.")

    return components.refer("Parameters", make)


def tensor_answers_by_name(components: Components) -> JSONSchema:
    """Return the JSON Schema of tensors by name in a response."""
    return components.refer(
        "TensorAnswersByName", lambda: by_name(tensor_answer_schema(components), "Tensors by name.")
    )


def tree_answer_schema(components: Components) -> JSONSchema:
    """Return the JSON Schema of tensors by layer and parameter name in a response."""

    def make() -> JSONSchema:
        return by_name(tensor_answers_by_name(components), "Tensors by layer and parameter name.")

    return components.refer("ParametersAnswer", make)


class TensorField(StrictField):
    """A tensor: nested lists of numbers (a bare number for a scalar) or a typed array."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Array:
        return decode(value)

    def json_schema(self, components: Components) -> JSONSchema:
        return tensor_schema(components)


class TensorAnswerField(TensorField):
    """A tensor in a response. In lists, numbers that are not finite are null."""

    def json_schema(self, components: Components) -> JSONSchema:
        return tensor_answer_schema(components)


class ParametersField(StrictField):
    """The parameters of a network: tensors by layer and parameter name."""

    has_keys = True

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, dict[str, Array]]:
        if not isinstance(value, Mapping):
            instead = f"; a list has no names: send an object such as {EXAMPLE}" if isinstance(value, list) else ""
            raise self.refuse(TREE, value, instead=LEFT_OUT if isinstance(value, str) else instead)
        tree: dict[str, dict[str, Array]] = {}
        errors: dict[str, Any] = {}
        for layer, tensors in value.items():
            if len(errors) >= MOST_ERRORS:
                break
            if not isinstance(tensors, Mapping):
                named = '; name each, such as {"kernel": …, "bias": …}' if isinstance(tensors, list) else ""
                errors[layer] = [Message(f"takes an object {{parameter: tensor}}, got {shown(plain(tensors))}{named}")]
                continue
            wrong: Any
            try:
                tree[layer], wrong = decode_each(tensors)
            except ValidationError as error:
                wrong = error.messages
            if (wrong or "." in next(iter(tensors), "")) and _holds_layers(tensors):
                wrong = [Message(f"holds parameters by layer; send {TREE} without {layer[:PREVIEW]!r} around it")]
            if wrong:
                errors[layer] = wrong
        if errors:
            grouped = any(isinstance(tensors, Mapping) and not is_typed(tensors) for tensors in value.values())
            flat = "" if grouped else _flat(value)
            raise ValidationError(Message(flat) if flat else errors)
        return tree

    def json_schema(self, components: Components) -> JSONSchema:
        return tree_schema(components)


def _parameter(name: str) -> str:
    """Return the parameter that another library's name, such as W1, stands for; "" if it stands for none."""
    return translated("parameter", _dotted(name).rstrip("0123456789_"), PARAMETERS).name


def _flat(value: Mapping[str, Any]) -> str:
    """Return the error for parameters that are not grouped by layer; "" if their names are not known."""
    if is_state_dict(value):
        return (
            f'{state_dict(value)}, which is not taken here; send {{layer: {{"kernel": …, "bias": …}}}}, where a weight '
            "of a linear layer is transposed: a kernel is [inputs, units]"
        )
    name = next(iter(value))
    if not all(_parameter(each) for each in islice(value, MOST_ERRORS)):
        return ""
    came = f"{name[:PREVIEW]!r} is {shown(plain(value[name]))}"
    layer, _, parameter = _dotted(name).rpartition(".")
    example = f'{{"{layer}": {{"{parameter}": …}}}}' if layer and len(name) <= PREVIEW else EXAMPLE
    return f"takes {TREE}, such as {example}: parameters are grouped by layer, but {came}"


def _dotted(name: str) -> str:
    """Return the name of an array with dots, where Keras writes `dense/kernel:0`."""
    return name.split(":")[0].replace("/", ".")


def _holds_layers(tensors: Mapping[str, Any]) -> bool:
    """Return whether an object holds parameters by layer, or a state_dict, where it should hold those of one layer."""
    trees = bool(tensors) and all(isinstance(item, Mapping) and not set(TYPED) & set(item) for item in tensors.values())
    return trees or is_state_dict(tensors)


class ParametersAnswerField(ParametersField):
    """Tensors by layer and parameter name, in a response."""

    def json_schema(self, components: Components) -> JSONSchema:
        return tree_answer_schema(components)


class TensorsField(StrictField):
    """One tensor, or one for each named input or output of a network."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Array | dict[str, Array]:
        if not isinstance(value, Mapping) or is_typed(value) or {"dtype", "shape"} <= set(value):
            return decode(value)
        tensors, errors = decode_each(value)
        if errors:
            raise ValidationError(errors)
        return tensors

    def json_schema(self, components: Components) -> JSONSchema:
        forms = [tensor_schema(components), tensors_by_name(components)]
        return components.refer("Tensors", lambda: any_of(forms, "A tensor, or tensors by name."))


class TensorsAnswerField(TensorsField):
    """One tensor in a response, or tensors by name."""

    def json_schema(self, components: Components) -> JSONSchema:
        answers = [tensor_answer_schema(components), tensor_answers_by_name(components)]
        return components.refer("TensorsAnswer", lambda: any_of(answers, "A tensor, or tensors by name."))


def is_typed(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a typed array, and not tensors by name."""
    return isinstance(value.get("base64"), TEXT)


def decode_each(tensors: Mapping[str, Any]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Return the arrays and the errors, both by name. Raise `ValidationError` if there are too many entries."""
    if len(tensors) > MOST_TENSORS:
        raise ValidationError(Message(f"has {len(tensors):,} entries; at most {MOST_TENSORS:,} are read"))
    arrays: dict[str, Array] = {}
    errors: dict[str, Any] = {}
    for name, tensor in tensors.items():
        try:
            arrays[name] = decode(tensor)
        except ValidationError as error:
            errors[name] = error.messages
            if len(errors) >= MOST_ERRORS:
                break
    return arrays, errors


def decode(value: Any) -> Array:
    """Return the array of a JSON value: float64 for lists, else the stated dtype. Raise `ValidationError`."""
    if type(value) is list:
        return _from_lists(value)
    if type(value) in NUMBERS:
        return _scalar(value)
    if isinstance(value, np.ndarray):  # numbers in rows, read from a large body
        if value.ndim > MOST_AXES:
            raise _at((), TOO_MANY_AXES)
        return value
    if isinstance(value, Mapping):
        return _from_typed(value)
    instead = ""
    if isinstance(value, TEXT):
        listed = str(value[:PREVIEW]).lstrip().startswith("[")  # a view is base64, which has no brackets
        instead = "; send the list itself, without quotation marks" if listed else "; texts and files are not read"
    raise ValidationError(Message(f"{TAKES_TENSOR}, got {shown(value)}{instead}"))


def encode(array: Array) -> dict[str, Any]:
    """Return `array` as a typed array."""
    return typed(array, base64_of(array).decode("ascii"))


def typed(array: Array, text: str) -> dict[str, Any]:
    """Return a typed array with the dtype and shape of `array`, and this text of base64."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "base64": text}


def base64_of(array: Array) -> bytes:
    """Return the numbers of `array` as base64, little-endian and row-major."""
    return pybase64.b64encode(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)


def narrow(value: Any, key: str) -> Any:
    """Return tensors, or trees of them, as float32. Raise `ValidationError` for numbers too large for it.

    `key` is their place in the request. Integers stay as they are.
    """
    if isinstance(value, dict):
        narrowed = {}
        for name, item in value.items():
            try:
                narrowed[name] = narrow(item, name)
            except ValidationError as error:
                raise ValidationError({key: error.messages}) from None
        return narrowed
    if value.dtype != np.float64:
        return value
    with np.errstate(over="ignore"):
        array = value.astype(np.float32)
    place = first_true(~np.isfinite(array))
    if place is not None:
        raise ValidationError({key: _at(place, f"{value[place]:g} is too large for float32").messages})
    return array


def _from_lists(value: list[Any]) -> Array:
    """Convert nested lists to an array. Types are checked first: NumPy would take true, null and "1.5" for numbers."""
    numbers = value
    shape = [len(value)]
    while numbers and type(numbers[0]) is list:
        lengths = set(map(len, numbers)) if set(map(type, numbers)) == {list} else ()
        if len(shape) == MOST_AXES or len(lengths) != 1:
            raise _offence(value)
        shape.extend(lengths)
        numbers = list(chain.from_iterable(numbers))
    if not NUMBERS.issuperset(map(type, numbers)):
        raise _offence(value)
    if not numbers:
        raise _at((), "needs at least one number; an empty list came")
    try:
        if len(numbers) <= PART:
            return np.array(numbers, np.float64).reshape(shape)
        array = np.empty(len(numbers))
        # In parts, for NumPy holds the interpreter lock meanwhile.
        for start in range(0, len(numbers), PART):
            array[start : start + PART] = np.array(numbers[start : start + PART], np.float64)
    except OverflowError:
        raise _offence(value) from None
    return array.reshape(shape)


def _from_typed(value: Mapping[str, Any]) -> Array:
    errors: dict[str, Any] = {}
    if not set(TYPED) & set(value):
        names = ", ".join(repr(key[:PREVIEW]) for key in islice(value, 3)) or "no keys"
        raise _at((), f"{TAKES_TENSOR}, got an object with {names}")
    for key in value:
        if key not in TYPED:
            errors[key] = [Message(f"unknown key of a typed array{hint(key, TYPED)}", TYPED)]
    for key in TYPED:
        if key not in value:
            errors[key] = [Message("is required in a typed array")]
    if errors:
        raise ValidationError(errors)
    dtype, shape, text = plain(value["dtype"]), plain(value["shape"]), value["base64"]
    if not isinstance(dtype, str) or dtype not in TYPED_DTYPES:
        errors["dtype"] = [Message(f"takes one of {', '.join(TYPED_DTYPES)}, got {shown(dtype)}", TYPED_DTYPES)]
    if (
        not isinstance(shape, list)
        or len(shape) > MOST_AXES
        or not all(type(n) is int and 0 < n <= LARGEST_EXACT_INTEGER for n in shape)
    ):
        errors["shape"] = [Message(f"takes a list of at most {MOST_AXES} positive integers, got {shown(shape)}")]
    if not isinstance(text, TEXT):
        errors["base64"] = [Message(f"takes a string of base64, got {shown(plain(text))}")]
    if errors:
        raise ValidationError(errors)
    try:
        content = pybase64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _at(("base64",), "is not base64 (RFC 4648 with padding, no line breaks)") from None
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if len(content) != wanted:
        raise _at(("base64",), f"holds {len(content)} bytes; shape {shape} of {dtype} takes {wanted}")
    array = np.frombuffer(content, np.dtype(dtype).newbyteorder("<")).astype(dtype, copy=False).reshape(shape)
    _check_finite(array)
    return array


def _check_finite(array: Array) -> None:
    """Raise `ValidationError` if a typed array holds infinity or NaN."""
    place = first_true(~np.isfinite(array)) if array.dtype.kind == "f" else None
    if place is not None:
        value = float(array[place])
        raise _at(("base64",), f"holds {value} at {list(place)}; numbers must be finite")


def _scalar(value: float) -> Array:
    try:
        return np.array(float(value))
    except OverflowError:
        raise _at((), "is too large for float64") from None


def _numeric(item: Any) -> str:
    """Return advice for a value that was probably meant as a number; "" for any other."""
    if isinstance(item, Mapping):
        return "; a sample is a list of numbers, without names"
    if item is None:
        return f"; {NOT_FINITE}: leave samples without a value out"
    if type(item) is bool:
        return f"; write {int(item)}"
    return unquoted(item)


def _at(place: tuple[int | str, ...], text: str) -> ValidationError:
    message: Any = [Message(text)]
    for position in reversed(place):
        message = {position: message}
    return ValidationError(message)


def _offence(value: list[Any]) -> ValidationError:
    """Return the error for the first element, in reading order, that keeps nested lists from being a tensor."""
    shape: list[int] = []
    probe: Any = value
    while isinstance(probe, list) and probe and len(shape) <= MOST_AXES:
        shape.append(len(probe))
        probe = probe[0]
    if len(shape) > MOST_AXES:
        return _at((), TOO_MANY_AXES)
    return _misfit(value, shape, ()) or _too_large(value, ()) or _at((), "is not a tensor of numbers")


def _misfit(item: Any, shape: list[int], place: tuple[int, ...]) -> ValidationError | None:
    """Return the error for the first element in `item` that is no number, or no list as long as its neighbours.

    `shape` is the shape that the first elements suggest, `place` the index of `item`. None: there is no such element.
    """
    length = shape[len(place)]
    if not isinstance(item, list):
        return _at(place, f"takes a list of {length} like its neighbours, got {shown(item)}")
    if len(item) != length:
        return _at(place, f"has {len(item)} entries; its neighbours have {length}")
    if len(place) + 2 == len(shape):
        # Rows of numbers, most of them correct.
        width = shape[-1]
        for position, row in enumerate(item):
            if type(row) is not list or len(row) != width or not NUMBERS.issuperset(map(type, row)):
                return _misfit(row, shape, (*place, position))
        return None
    if len(place) + 1 < len(shape):
        for position, child in enumerate(item):
            found = _misfit(child, shape, (*place, position))
            if found is not None:
                return found
        return None
    for start in range(0, length, PART):
        part = item[start : start + PART]
        if not NUMBERS.issuperset(map(type, part)):
            position, wrong = next((n, each) for n, each in enumerate(part, start) if type(each) not in NUMBERS)
            return _at((*place, position), f"takes a number, got {shown(wrong)}{_numeric(wrong)}")
    return None


def _too_large(item: Any, place: tuple[int, ...]) -> ValidationError | None:
    """Return the error for the first number that float64 cannot hold; the parsers of bodies let none through."""
    if isinstance(item, list):
        return next(filter(None, (_too_large(child, (*place, n)) for n, child in enumerate(item))), None)
    try:
        float(item)
    except OverflowError:
        return _at(place, "is too large for float64")
    return None
