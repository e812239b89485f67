"""Errors for parts of a Keras document that the service cannot compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from schemas.messages import shown


class KerasRefusal(Exception):
    """The error of a layer, or of a value in a layer, that cannot be read.

    The text gives the reason without the layer.
    """


def refuse_object(value: Mapping[str, Any], what: str) -> NoReturn:
    """Refuse an object because of its class. The error names Python functions and custom classes as such."""
    name = class_of(value)
    if name in ("function", "__lambda__") or name == "Lambda":
        called = value.get("config")
        of_name = f" {called[:60]!r}" if isinstance(called, str) and name == "function" else ""
        raise KerasRefusal(
            f"{what} is a Python function{of_name}; code is never run, so write it with layers that are here"
        )
    if is_custom(value):
        raise KerasRefusal(
            f"{what} is {name}, a class of your own; code is never run, so write it with layers that are here"
        )
    raise KerasRefusal(f"no {what} {name} is here")


def class_of(value: Mapping[str, Any]) -> str:
    """Return the class name of a Keras object, shortened for error messages."""
    name = value.get("class_name")
    return name[:60] if isinstance(name, str) else shown(name)


def is_custom(value: Mapping[str, Any]) -> bool:
    """Return whether the class of an object is not part of Keras: registered by its author, or from another module."""
    registered, module = value.get("registered_name"), value.get("module")
    if isinstance(registered, str) and ">" in registered:
        return True
    if not isinstance(module, str):
        return module is not None
    return module not in ("builtins", "keras", "tf_keras") and not module.startswith(("keras.", "tf_keras."))
