"""Operations of `keras.ops` in functional models, such as `x + y`, `2.0 * x` and `keras.ops.relu(x)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from schemas.keras.calls import Call
from schemas.keras.refusals import KerasRefusal, class_of
from schemas.keras.table import ROWS, Described
from schemas.keras.values import ACTIVATION_LAYERS, ACTIVATIONS, Choice

OF_TWO: Mapping[str, str] = MappingProxyType(
    {"Add": "add", "Subtract": "subtract", "Multiply": "multiply", "Maximum": "maximum", "Minimum": "minimum"}
)
"""Operations of two tensors, each with the layer type of this service."""
OF_A_NUMBER: Mapping[str, Callable[[float, bool], Mapping[str, float]]] = MappingProxyType(
    {
        "Add": lambda number, first: {"offset": number},
        "Subtract": lambda number, first: {"scale": -1.0, "offset": number} if first else {"offset": -number},
        "Multiply": lambda number, first: {"scale": number},
        "TrueDivide": lambda number, first: _inverse(number, first),
        "Divide": lambda number, first: _inverse(number, first),
    }
)
"""Operations of a tensor and a number, each with a function that returns rescaling options.

`first`: the number comes first.
"""


def _inverse(number: float, first: bool) -> Mapping[str, float]:
    """Return the rescaling options that divide a tensor by a number. Refuse other quotients."""
    if first or number == 0.0:
        raise KerasRefusal("a quotient is not here but of a tensor by a number other than 0")
    return {"scale": 1.0 / number}


def is_operation(value: Mapping[str, Any], call: Call) -> bool:
    """Return whether an entry of a functional model is an operation of `keras.ops` and not a layer."""
    module = value.get("module")
    if module is None:  # an .h5 file of Keras 3 does not name the module
        name = class_of(value)
        return bool(call.constants) or (
            name not in (*ROWS, *ACTIVATION_LAYERS) and (name in OF_A_NUMBER or _as_activation(name) is not None)
        )
    return isinstance(module, str) and module.startswith(("keras.src.ops", "keras.ops"))


def _as_activation(name: str) -> Choice | None:
    """Return the activation that an operation such as LogSoftmax computes. None: the operation is no activation."""
    return ACTIVATIONS.get("".join(f"_{c.lower()}" if c.isupper() and k else c.lower() for k, c in enumerate(name)))


def describe_operation(value: Mapping[str, Any], call: Call) -> Described:
    """Return the layer type and options that compute an operation. Raises `KerasRefusal`."""
    name = class_of(value)
    count, numbers = len(call.tensors), call.constants
    if name in OF_TWO and count == 2 and not numbers:
        return OF_TWO[name], {}
    if name in OF_A_NUMBER and count == 1 and len(numbers) == 1:
        return "rescaling", dict(OF_A_NUMBER[name](numbers[0], call.first_is_constant))
    if name == "Negative" and count == 1:
        return "rescaling", {"scale": -1.0}
    activation = _as_activation(name)
    config = value.get("config")
    options = {key for key in config if key != "name"} if isinstance(config, Mapping) else set()
    if activation is not None and count == 1 and not (options or call.options or numbers):
        return "activation", {"activation": activation}
    known = ", ".join(sorted({*OF_TWO, *OF_A_NUMBER}))
    raise KerasRefusal(
        f"the operation {name} of keras.ops is not here as it is used; {known} are, and layers for most others"
    )
