"""The translation of values inside Keras layers: activations, initializers, regularizers and dtype policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from schemas.keras.refusals import KerasRefusal, class_of, is_custom, refuse_object
from schemas.messages import shown

Choice = str | dict[str, Any]
"""A choice in the form of requests: a name, or an object with `type` and options."""

SAME_ACTIVATIONS = (
    *("linear", "relu", "relu6", "sigmoid", "softmax", "softplus", "softsign", "tanh", "selu", "elu", "exponential"),
    *("silu", "swish", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "celu", "hard_shrink", "hard_tanh"),
    *("log_sigmoid", "log_softmax", "mish", "soft_shrink", "tanh_shrink"),
)
LEAKY_RELU: Choice = {"type": "leaky_relu", "alpha": 0.2}
ACTIVATIONS: Mapping[str, Choice] = MappingProxyType(
    {**{name: name for name in SAME_ACTIVATIONS}, "leaky_relu": LEAKY_RELU}
)
"""Activations that Keras writes as a name, translated with the defaults of Keras."""
OLD_HARD_SIGMOID = (
    "hard_sigmoid of Keras 2 is clip(0.2 x + 0.5, 0, 1), and here it is clip(x / 6 + 0.5, 0, 1) as in Keras 3"
)


def activation(value: Any, old: bool = False) -> Choice | None:
    """Return the activation for a name, or for an object that Keras writes where an activation is a layer.

    `old`: the document comes from Keras 2.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value == "hard_sigmoid" and old:
            raise KerasRefusal(OLD_HARD_SIGMOID)
        if value not in ACTIVATIONS:
            raise KerasRefusal(f"no activation {value[:60]!r} is here")
        return ACTIVATIONS[value]
    if not isinstance(value, Mapping):
        raise KerasRefusal(f"an activation is {shown(value)}, which is neither a name nor an object")
    name, config = class_of(value), value.get("config")
    if name == "function" and not is_custom(value) and value.get("module") != "builtins":
        return activation(config, old) if isinstance(config, str) else refuse_object(value, "activation")
    if is_custom(value) or name not in ACTIVATION_LAYERS:
        refuse_object(value, "activation")
    return ACTIVATION_LAYERS[name](config if isinstance(config, Mapping) else {}, old)


def _relu(config: Mapping[str, Any], old: bool) -> Choice:
    """Return the activation for a ReLU layer. Raises `KerasRefusal` for unsupported options."""
    most, slope, threshold = config.get("max_value"), config.get("negative_slope") or 0, config.get("threshold") or 0
    if threshold == 0 and most is None:
        return "relu" if slope == 0 else {"type": "leaky_relu", "alpha": slope}
    if threshold == 0 and slope == 0 and most == 6:
        return "relu6"
    raise KerasRefusal(
        f"a ReLU with max_value {shown(most)}, negative_slope {shown(slope)} and threshold {shown(threshold)} is not "
        "here; relu, relu6 and leaky_relu are"
    )


def _softmax(config: Mapping[str, Any], old: bool) -> Choice:
    """Return the activation for a Softmax layer. Raises `KerasRefusal` unless the axis is the last one."""
    axis = config.get("axis", -1)
    if axis not in (-1, [-1]):
        raise KerasRefusal(f"softmax acts on the last axis; axis is {shown(axis)}. Put a Permute before and after it")
    return "softmax"


ACTIVATION_LAYERS: Mapping[str, Callable[[Mapping[str, Any], bool], Choice]] = MappingProxyType(
    {
        "ReLU": _relu,
        "LeakyReLU": lambda config, old: {
            "type": "leaky_relu",
            "alpha": config.get("negative_slope", config.get("alpha", 0.3)),
        },
        "ELU": lambda config, old: {"type": "elu", "alpha": config.get("alpha", 1.0)},
        "Softmax": _softmax,
        "Activation": lambda config, old: activation(config.get("activation"), old) or "linear",
    }
)
"""Keras layers that are an activation, alone or as an option of another layer."""


class Renamed(NamedTuple):
    """The counterpart of a Keras class in this service, with the names of its options."""

    type: str
    options: Mapping[str, str] = MappingProxyType({})
    fixed: Mapping[str, Any] = MappingProxyType({})
    """Options that the class implies without writing them."""


TRUNCATED: Mapping[str, Any] = MappingProxyType({"truncated": True})
MEAN_AND_DEVIATION = {"mean": "mean", "stddev": "standard_deviation"}
NORMAL, UNIFORM = Renamed("normal", MEAN_AND_DEVIATION), Renamed("uniform", {"minval": "minimum", "maxval": "maximum"})
INITIALIZERS: Mapping[str, Renamed] = MappingProxyType(
    {
        "zeros": Renamed("zeros"),
        "zero": Renamed("zeros"),
        "ones": Renamed("ones"),
        "one": Renamed("ones"),
        "constant": Renamed("constant", {"value": "value"}),
        "randomnormal": NORMAL,
        "normal": NORMAL,
        "randomuniform": UNIFORM,
        "uniform": UNIFORM,
        "truncatednormal": Renamed("normal", MEAN_AND_DEVIATION, TRUNCATED),
        "glorotuniform": Renamed("glorot_uniform"),
        "glorotnormal": Renamed("glorot_normal", fixed=TRUNCATED),
        "heuniform": Renamed("he_uniform"),
        "henormal": Renamed("he_normal", fixed=TRUNCATED),
        "lecununiform": Renamed("lecun_uniform"),
        "lecunnormal": Renamed("lecun_normal", fixed=TRUNCATED),
        "variancescaling": Renamed(
            "variance_scaling", {"scale": "scale", "mode": "mode", "distribution": "distribution"}
        ),
        "orthogonal": Renamed("orthogonal", {"gain": "gain"}),
        "orthogonalinitializer": Renamed("orthogonal", {"gain": "gain"}),
    }
)
"""Initializers by lower-case name without underscores, so that GlorotUniform and glorot_uniform are equal."""
OF_NO_MATTER = frozenset(("seed", "input_axes", "output_axes", "dtype", "layout"))
REGULARIZERS: Mapping[str, Renamed] = MappingProxyType(
    {
        "l1": Renamed("l1", {"l1": "l1"}),
        "l2": Renamed("l2", {"l2": "l2"}),
        "l1l2": Renamed("l1_l2", {"l1": "l1", "l2": "l2"}),
    }
)


def initializer(value: Any, old: bool = False) -> Choice | None:
    """Return the initializer for a name or an object of Keras."""
    return _renamed(value, INITIALIZERS, "initializer")


def regularizer(value: Any, old: bool = False) -> Choice | None:
    """Return the regularizer for a name or an object of Keras."""
    return _renamed(value, REGULARIZERS, "regularizer")


def _renamed(value: Any, table: Mapping[str, Renamed], what: str) -> Choice | None:
    """Return the choice for a name or an object, translated by `table`. `what` names the kind of object in errors."""
    if value is None:
        return None
    given: Mapping[str, Any] = {}
    name: Any = value
    if isinstance(value, Mapping):
        name = value.get("class_name")
        config = value.get("config")
        given = config if isinstance(config, Mapping) else {}
        if is_custom(value):
            refuse_object(value, what)
    if not isinstance(name, str):
        raise KerasRefusal(f"the {what} is {shown(value)}, which is neither a name nor an object")
    row = table.get(name.replace("_", "").lower())
    if row is None:
        if isinstance(value, Mapping):
            refuse_object(value, what)
        raise KerasRefusal(f"no {what} {name[:60]!r} is here")
    choice: dict[str, Any] = {"type": row.type, **row.fixed}
    for key, item in given.items():
        if key in row.options:
            choice[row.options[key]] = _distribution(item) if key == "distribution" else item
        elif key not in OF_NO_MATTER:
            raise KerasRefusal(f"the {what} {name[:60]} has an option {key[:60]!r}, which is not here")
    return choice


def _distribution(name: Any) -> Any:
    """Return the name that a distribution of Keras has in this service. In Keras, `normal` is truncated as well."""
    return "truncated_normal" if name == "normal" else name


FLOATS = ("float32", "float64")
INPUTS = (*FLOATS, "int32", "int64", "int8", "int16", "uint8", "uint16", "uint32", "bool")


def check_dtype(value: Any, accepted: tuple[str, ...] = FLOATS) -> None:
    """Refuse a dtype, or a dtype policy, in which the service does not compute.

    The document does not set the precision: a request has its own `dtype`.
    """
    name = value
    if isinstance(value, Mapping):
        config = value.get("config")
        name = config.get("name") if isinstance(config, Mapping) else None
        if class_of(value) not in ("DTypePolicy", "Policy", "FloatDTypePolicy"):
            raise KerasRefusal(f"the dtype policy {class_of(value)} is not here; float32 and float64 are")
    if name is not None and name not in accepted:
        raise KerasRefusal(
            f"the dtype is {shown(name)}; the service computes in float32 or float64, mixed or short ones are not here"
        )
