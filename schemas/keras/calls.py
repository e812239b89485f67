"""A parser for calls of layers: the tensors that a layer was called with, and the other arguments.

Keras 3 writes each call as `{"args": […], "kwargs": {…}}`, in which a tensor is an object that names the layer, the
call and the output that the tensor comes from. Keras 2 writes a list of `[layer, call, output, kwargs]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from schemas.keras.refusals import KerasRefusal
from schemas.messages import shown


class Tensor(NamedTuple):
    """A reference to a tensor of a model by the layer, the call and the output that the tensor comes from."""

    layer: str
    call: int
    output: int


class Call(NamedTuple):
    """A call of a layer."""

    tensors: tuple[Tensor, ...]
    """The tensors among all arguments, in the order of the arguments."""
    constants: tuple[float, ...]
    """The numbers among the positional arguments, and the number `x1` or `x2` of an operation."""
    first_is_constant: bool
    options: Mapping[str, Any]
    """The named arguments that are not tensors."""


INPUTS = ("inputs", "sequences", "query", "value", "key", "initial_state", "x1", "x2", "x")
"""The names of arguments that may be tensors, in the order in which layers take them."""


def tensor_of(value: Any) -> Tensor:
    """Return the tensor that a triple [layer, call, output] names."""
    if (
        isinstance(value, list)
        and len(value) >= 3
        and isinstance(value[0], str)
        and all(type(number) is int and number >= 0 for number in value[1:3])
    ):
        return Tensor(value[0], value[1], value[2])
    raise KerasRefusal(
        f"a tensor is {shown(value)}; it takes the name of a layer, the number of the call and of the output"
    )


def tensors_of(value: Any) -> list[Tensor]:
    """Return the inputs or outputs of a model from a triple, or from lists or an object of triples."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        return [tensor_of(value)]
    if isinstance(value, Mapping):
        return [tensor for key in sorted(value) for tensor in tensors_of(value[key])]
    if isinstance(value, list):
        return [tensor for item in value for tensor in tensors_of(item)]
    raise KerasRefusal(f"inputs or outputs of the model are {shown(value)}")


def calls_of(value: Any) -> list[Call]:
    """Return the calls of a layer from its `inbound_nodes`."""
    if not isinstance(value, list):
        raise KerasRefusal(f"inbound_nodes is {shown(value)}; it takes a list")
    return [_call(node) for node in value]


def _call(node: Any) -> Call:
    """Return the call that a node of `inbound_nodes` describes, in the form of Keras 2 or Keras 3."""
    if isinstance(node, Mapping):
        return _made(node.get("args", []), node.get("kwargs", {}))
    if not isinstance(node, list):
        raise KerasRefusal(f"a call is {shown(node)}")
    if node and isinstance(node[0], str):
        node = [node]  # for a single tensor, Keras 2 omits the outer list
    named = node[0][3] if node and isinstance(node[0], list) and len(node[0]) > 3 else {}
    return _made(
        [_old(item) for item in node], {k: _old(v) for k, v in named.items()} if isinstance(named, dict) else {}
    )


def _old(value: Any) -> Any:
    """Return an argument of Keras 2 in the form of Keras 3."""
    if isinstance(value, list) and value and isinstance(value[0], str):
        if value[0] == "_CONSTANT_VALUE" and len(value) > 2:
            return value[2]
        if len(value) in (3, 4) and type(value[1]) is int:
            return {"class_name": "__keras_tensor__", "config": {"keras_history": value[:3]}}
    return [_old(item) for item in value] if isinstance(value, list) else value


def _made(args: Any, kwargs: Any) -> Call:
    """Return the call with these arguments, in the form of Keras 3, sorted into tensors, numbers and options."""
    if not isinstance(args, list) or not isinstance(kwargs, Mapping):
        raise KerasRefusal(f"a call has args {shown(args)} and kwargs {shown(kwargs)}; they take a list and an object")
    flat = [item for each in args for item in _flat(each)]
    ordered = sorted(kwargs.items(), key=lambda item: INPUTS.index(item[0]) if item[0] in INPUTS else -1)
    tensors = [item for item in flat if isinstance(item, Tensor)]
    constants = [item for item in flat if type(item) in (int, float)]
    first = bool(flat) and not isinstance(flat[0], Tensor)
    options: dict[str, Any] = {}
    for name, value in ordered:
        parts = list(_flat(value))
        found = [part for part in parts if isinstance(part, Tensor)]
        if found and name not in INPUTS:
            raise KerasRefusal(f"the argument {name[:60]!r} of a call is a tensor; no such input is here")
        if name in ("x1", "x2") and parts and not found:
            constants += [part for part in parts if type(part) in (int, float)]
            first = first or name == "x1"
        elif not found:
            options[name] = value
        tensors += found
    others = [item for item in flat if not isinstance(item, Tensor) and item is not None]
    if len(others) > len([item for item in others if type(item) in (int, float)]):
        wrong = next(item for item in others if type(item) not in (int, float))
        raise KerasRefusal(f"an argument of a call is {shown(wrong)}; tensors and numbers are read")
    return Call(tuple(tensors), tuple(map(float, constants)), first, options)


def _flat(value: Any) -> Iterator[Any]:
    """Yield the tensors and constants within lists and tuples, in their order."""
    if isinstance(value, Mapping):
        kind, config = value.get("class_name"), value.get("config")
        if kind == "__keras_tensor__" and isinstance(config, Mapping):
            yield tensor_of(config.get("keras_history"))
        elif kind == "__tuple__" and isinstance(value.get("items"), list):
            for item in value["items"]:
                yield from _flat(item)
        elif kind is None:
            for key in sorted(value):
                yield from _flat(value[key])
        else:
            yield value
    elif isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value
