"""Blocks as other libraries write them, rewritten in the form of this service: advice for error messages.

PyTorch prints `LeakyReLU(negative_slope=0.1)`, and Keras writes `{"class_name": "LeakyReLU", "config": {…}}`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from marshmallow import Schema

from service.engine.declarations import Declaration, Registry
from service.engine.suggestions import Suggestion, suggest, translated

SchemaOf = Callable[[Declaration], Schema]
"""A function that returns the schema of the options of a block."""

LONGEST_CALL = 120
"""The most characters of a call that is read."""
MOST_ARGUMENTS = 100
"""The most arguments of a block that is rewritten: each may take a search for a similar name."""


def from_call(registry: Registry[Any], text: str, schema_of: SchemaOf) -> dict[str, Any]:
    """Return the block that a call such as `LeakyReLU(0.1)` makes; an empty object if an argument is not understood."""
    if len(text) > LONGEST_CALL or "(" not in text:
        return {}
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    if not isinstance(call, ast.Call):
        return {}
    name = ast.unparse(call.func)
    # An optimizer of PyTorch takes the parameters of the model first.
    first = [arg for arg in call.args if not isinstance(arg, ast.Call)] if registry.kind == "optimizer" else call.args
    try:
        positional = [ast.literal_eval(arg) for arg in first]
        named = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
    except (ValueError, TypeError, RecursionError, MemoryError):
        return {}
    return from_arguments(registry, name, positional, named, schema_of)


def from_arguments(
    registry: Registry[Any],
    name: str,
    positional: Sequence[Any],
    named: Mapping[str, Any],
    schema_of: SchemaOf,
    *,
    ignores: bool = False,
) -> dict[str, Any]:
    """Return the block of a registry that another library makes from a name and arguments; an empty object if an
    argument is not understood. With `ignores`, arguments that mean nothing here are left out."""
    known = name if name in registry else translated(registry.kind, name, registry.names).name
    if not known or len(named) > MOST_ARGUMENTS:
        return {}
    declaration = registry[known]
    options = {option.name for option in declaration.options}
    block = _in_order(declaration, positional)
    if block is None:
        return {}
    for key, value in named.items():
        found = Suggestion(key) if key in options else suggest("key", key, options)
        if found.name in block:  # alpha is a learning rate for some, and rho beside one
            found = translated("key", key, options - set(block))
            if not found.name:
                return {}
        if found.name:
            block[found.name] = value
        elif not found.note and not ignores:
            return {}
    return {} if schema_of(declaration).validate(block) else {"type": known, **block}


def _in_order(declaration: Declaration, values: Sequence[Any]) -> dict[str, Any] | None:
    """Return the options that arguments without a name stand for; None if that is not clear.

    They are the required options in order or, where none is required, the first ones. A layer of PyTorch takes the
    number of its inputs before them.
    """
    required = [option.name for option in declaration.options if option.required]
    names = required or [option.name for option in declaration.options]
    if required and len(values) == len(required) + 1:
        values = values[1:]
    return dict(zip(names, values, strict=False)) if len(values) <= len(names) else None


def as_json(block: Mapping[str, Any]) -> str:
    """Return a block as a request would write it: its name alone if it has no options."""
    return json.dumps(block["type"] if len(block) == 1 else block, ensure_ascii=False)


def from_keras(registry: Registry[Any], value: Mapping[str, Any], schema_of: SchemaOf) -> dict[str, Any]:
    """Return the block that an object of Keras stands for; an empty object if there is no such block."""
    name, config = value["class_name"], value["config"]
    if isinstance(config, str):  # a function: {"class_name": "function", "config": "relu"}
        name, config = config, {}
    if not isinstance(config, Mapping):
        return {}
    plain = {key: item for key, item in config.items() if isinstance(item, str | int | float) and key != "name"}
    return from_arguments(registry, name, (), plain, schema_of, ignores=True)


def is_keras(value: Mapping[str, Any]) -> bool:
    """Return whether an object has the form of Keras's serialization."""
    return "type" not in value and isinstance(value.get("class_name"), str) and "config" in value


def sizes(values: Iterable[Any]) -> str:
    """Return the JSON of dense layers of the sizes that textbooks list, the first of which is that of the inputs."""
    return json.dumps([{"type": "dense", "units": size} for size in list(values)[1:]])
