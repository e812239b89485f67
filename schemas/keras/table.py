"""A table with one row for each Keras class: the layer type of this service, the options, and the restrictions.

An option that has the same name in Keras and in the layer type needs no entry: activations, initializers and
regularizers are recognised by the kind of the option. `renamed` lists options with other names, `needs` lists those
that are supported for some values only, and `dropped` lists those that do not affect the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from schemas.keras.refusals import KerasRefusal, class_of, is_custom, refuse_object
from schemas.keras.values import ACTIVATION_LAYERS, activation, check_dtype, initializer, regularizer
from schemas.messages import shown
from service.engine.declarations import Reference, Registry
from service.engine.network.activations import activations
from service.engine.network.initializers import initializers
from service.engine.network.layers import layers
from service.engine.network.regularizers import regularizers

Described = tuple[str, dict[str, Any]]
"""A layer in the form of requests: its type, and the options that are not at their defaults."""
Needs = Mapping[str, tuple[tuple[Any, ...], str]]
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Row(NamedTuple):
    """The translation of a Keras class into a layer type of this service."""

    type: str
    renamed: Mapping[str, str] = NOTHING
    """Options that have another name in this service."""
    needs: Needs = NOTHING
    """The values that an option may have, and the reason why no others are supported."""
    fixed: Mapping[str, Any] = NOTHING
    """Options that the class implies without writing them."""
    weights: Mapping[str, tuple[str, ...]] = MappingProxyType({"": ("kernel", "bias")})
    """Names of the parameters by the part of the layer, in the order of the arrays in a file of weights."""
    dropped: frozenset[str] = frozenset()
    """Options that do not affect the result."""


COMMON = frozenset(("name", "trainable", "dtype", "batch_input_shape", "batch_shape", "input_shape", "autocast"))
DROPPED = frozenset(
    (
        *("seed", "implementation", "unroll", "zero_output_for_mask", "flash_attention", "lora_alpha", "return_state"),
        *(
            "input_length",
            "ragged",
            "batch_size",
            "gptq_unpacked_column_size",
            "synchronized",
            "fused",
            "renorm_momentum",
        ),
    )
)
"""Options of any layer that do not affect the result. Among the outputs of a layer, only the main output is read."""
NOT_USED = ((None, False), "it would change what is computed, and is not here")
NEEDS: Needs = MappingProxyType(
    {
        "activity_regularizer": ((None,), "a penalty on outputs is not here; kernel and bias regularizers are"),
        "mask_zero": ((None, False), "masks are not here; cut the sequences to one length, or pad and leave masks out"),
        "stateful": ((None, False), "no state is kept from request to request; send it as initial_state"),
        "time_major": ((None, False), "sequences are [samples, steps, features]"),
        "data_format": ((None, "channels_last"), "this layer takes the channels last"),
        "noise_shape": ((None,), "every value is dropped by itself"),
        "lora_rank": ((None,), "merge the low-rank weights first: model.save() after lora is merged"),
        "quantization_config": ((None,), "quantized layers are not here"),
        "sparse": ((None, False), "sparse tensors are not here"),
        "rms_scaling": ((None, False), "use RMSNormalization"),
        "attention_axes": ((None, [1], 1, [-2]), "attention is over the positions of [samples, positions, features]"),
        "sliding_window": ((None,), "attention is over all positions"),
        "use_gate": ((None, False), "attention has no gate here"),
        "renorm": ((None, False), "batch renormalization is not here"),
        "virtual_batch_size": ((None,), "the batch is normalized as a whole"),
        "rank": ((None, 1, 2, 3), "a convolution has one to three axes"),
    }
)
"""The values that an option may have in any layer whose type has no such option."""
READERS: Mapping[Registry[Any], Callable[[Any, bool], Any]] = MappingProxyType(
    {activations: activation, initializers: initializer, regularizers: regularizer}
)

CELL = MappingProxyType({"cell": ("kernel", "recurrent_kernel", "bias")})
GAMMA_AND_BETA = MappingProxyType({"": ("gamma", "beta")})
NO_WEIGHTS: Mapping[str, tuple[str, ...]] = MappingProxyType({})
SEPARABLE = MappingProxyType({"": ("depthwise_kernel", "pointwise_kernel", "bias")})


def _plain(*classes: str) -> dict[str, Row]:
    """Return rows for classes without weights whose layer type is the class name in snake case."""
    return {name: Row(_snake(name), weights=NO_WEIGHTS) for name in classes}


def _snake(name: str) -> str:
    """Return a class name in the form of layer types: ZeroPadding2D becomes zero_padding2d."""
    return "".join(
        f"_{c.lower()}" if c.isupper() and k and name[k - 1].islower() else c.lower() for k, c in enumerate(name)
    )


CONVOLUTIONS: Mapping[str, str] = MappingProxyType(
    {
        **{f"Conv{n}D": f"conv{n}d" for n in (1, 2, 3)},
        **{f"Conv{n}DTranspose": f"conv{n}d_transpose" for n in (1, 2, 3)},
        **{f"DepthwiseConv{n}D": f"depthwise_conv{n}d" for n in (1, 2)},
    }
)
DEPTHWISE = {
    "depthwise_initializer": "depthwise_initializer",
    "depthwise_regularizer": "depthwise_regularizer",
}
OF_DEPTHWISE = frozenset(("filters", "kernel_initializer", "kernel_regularizer", "groups"))
"""Options that Keras 2 writes for a depthwise convolution but does not use."""

ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "Dense": Row("dense"),
        "Embedding": Row("embedding", weights=MappingProxyType({"": ("embeddings",)})),
        "PReLU": Row("prelu", weights=MappingProxyType({"": ("alpha",)}), fixed={"alpha_initializer": "zeros"}),
        "Identity": Row("activation", fixed={"activation": "linear"}, weights=NO_WEIGHTS),
        **{
            name: Row(kind, dropped=OF_DEPTHWISE if name.startswith("Depthwise") else frozenset())
            for name, kind in CONVOLUTIONS.items()
        },
        "SeparableConv1D": Row("separable_conv1d", weights=SEPARABLE, needs={"groups": ((None, 1), "it has none")}),
        "SeparableConv2D": Row("separable_conv2d", weights=SEPARABLE, needs={"groups": ((None, 1), "it has none")}),
        **_plain(
            *(f"{kind}Pooling{n}D" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for n in (1, 2, 3)),
            *(f"{kind}{n}D" for kind in ("ZeroPadding", "Cropping", "UpSampling", "SpatialDropout") for n in (1, 2, 3)),
            *("Flatten", "Reshape", "Permute", "RepeatVector", "Dropout", "GaussianDropout", "AlphaDropout"),
            *("GaussianNoise", "UnitNormalization", "Rescaling", "Dot", "Concatenate"),
            *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"),
        ),
        "BatchNormalization": Row(
            "batch_normalization",
            weights=MappingProxyType({"": ("gamma", "beta", "moving_mean", "moving_variance")}),
            renamed={"gamma_constraint": "", "beta_constraint": ""},
        ),
        "LayerNormalization": Row("layer_normalization", weights=GAMMA_AND_BETA),
        "GroupNormalization": Row("group_normalization", weights=GAMMA_AND_BETA),
        "RMSNormalization": Row("rms_normalization", weights=MappingProxyType({"": ("scale",)})),
        "SimpleRNN": Row("simple_rnn", weights=CELL),
        "LSTM": Row("lstm", weights=CELL),
        "GRU": Row("gru", weights=CELL),
        "MultiHeadAttention": Row(
            "multi_head_attention",
            weights=MappingProxyType(
                {
                    f"{part}_dense": (f"{name}_kernel", f"{name}_bias")
                    for part, name in (
                        *((each, each) for each in ("query", "key", "value")),
                        ("output", "attention_output"),
                    )
                }
            ),
            dropped=frozenset(("query_shape", "key_shape", "value_shape")),
        ),
        "Attention": Row("attention", weights=MappingProxyType({"": ("scale", "concat_score_weight")})),
        "AdditiveAttention": Row("additive_attention", weights=MappingProxyType({"": ("scale",)})),
    }
)
"""Keras classes that their own options describe completely. Classes that need more are in `HOLDERS`."""

INDEPENDENT_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "Lambda": "it holds Python code, which is never run; write it with layers that are here",
        "TFOpLambda": "it holds a TensorFlow operation; write it with layers that are here",
        "SlicingOpLambda": "it holds a slice; use Cropping1D, Cropping2D or Cropping3D",
        "Masking": "masks are not here; cut the sequences to one length",
        "ActivityRegularization": "a penalty on outputs is not here; kernel and bias regularizers are",
        "SpectralNormalization": "weights are not normalized here",
        "EinsumDense": "use Dense, which acts on the last axis, or MultiHeadAttention",
        "GroupQueryAttention": "use MultiHeadAttention",
        "StackedRNNCells": "write one recurrent layer for each cell",
        **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), "convolutional recurrent layers are not here"),
        **dict.fromkeys(
            (
                *("Resizing", "CenterCrop", "Discretization", "CategoryEncoding", "Hashing", "HashedCrossing"),
                *("StringLookup", "IntegerLookup", "TextVectorization", "MelSpectrogram", "STFTSpectrogram"),
            ),
            "it prepares data; send the inputs prepared, and leave it out of the model",
        ),
        **dict.fromkeys(
            ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"), "it wraps code of another library"
        ),
    }
)
"""Reasons why some well-known classes are not supported."""


def describe(value: Any, old: bool = False) -> Described:
    """Return the layer that a Keras object describes. `old`: the object has the form of Keras 2.

    Raises `KerasRefusal`.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("config"), Mapping):
        raise KerasRefusal(f"a layer is {shown(value)}; it takes an object with class_name and config")
    name, config = class_of(value), value["config"]
    if name in INDEPENDENT_REASONS:
        raise KerasRefusal(INDEPENDENT_REASONS[name])
    if is_custom(value):
        refuse_object(value, "layer")
    if name.startswith("Random"):
        raise KerasRefusal("it changes data at random; send the inputs prepared, and leave it out of the model")
    check_dtype(config.get("dtype"))
    if name in HOLDERS:
        return HOLDERS[name](config, old)
    if name in ACTIVATION_LAYERS:
        return "activation", {"activation": ACTIVATION_LAYERS[name](config, old)}
    if name not in ROWS:
        refuse_object(value, "layer")
    return ROWS[name].type, _options(ROWS[name], config, old)


def _options(row: Row, config: Mapping[str, Any], old: bool) -> dict[str, Any]:
    """Return the options of a layer with the names and values of this service."""
    declared = {option.name: option for option in layers[row.type].options}
    made: dict[str, Any] = dict(row.fixed)
    for key, value in config.items():
        option = declared.get(row.renamed.get(key, key))
        if key in row.needs or (option is None and (key in NEEDS or key.endswith("_constraint"))):
            check(key, value, row.needs.get(key) or NEEDS.get(key) or ((None,), "constraints are not here"))
        elif option is None:
            if value is not None and key not in COMMON and key not in DROPPED and key not in row.dropped:
                raise KerasRefusal(f"{key[:60]!r} is {shown(value)}, and no such option is here")
        elif isinstance(option, Reference):
            chosen = READERS[option.registry](value, old)
            if chosen is not None:
                made[option.name] = chosen
        elif value is not None:
            made[option.name] = _flattened(value) if key == "axis" else value
    return made


def check(key: str, value: Any, need: tuple[tuple[Any, ...], str]) -> None:
    """Refuse a value of an option unless the value is one of those accepted."""
    if not any(value == accepted and type(value) is type(accepted) for accepted in need[0]):
        raise KerasRefusal(f"{key} is {shown(value)}; {need[1]}")


def _flattened(axis: Any) -> Any:
    """Return an axis as a number where it is a list of one number, as Keras 2 writes it."""
    return axis[0] if isinstance(axis, list) and len(axis) == 1 else axis


def _recurrent(config: Mapping[str, Any], old: bool) -> Described:
    """Return the recurrent layer for `RNN(cell)`."""
    cell = config.get("cell")
    kinds = {"SimpleRNNCell": "SimpleRNN", "LSTMCell": "LSTM", "GRUCell": "GRU"}
    name = class_of(cell) if isinstance(cell, Mapping) else ""
    if not isinstance(cell, Mapping) or is_custom(cell) or name not in kinds:
        raise KerasRefusal(f"a cell {name or shown(cell)} is not here; {', '.join(kinds)} are")
    inner = cell.get("config")
    row = ROWS[kinds[name]]
    made = _options(row, inner if isinstance(inner, Mapping) else {}, old)
    return row.type, made | _options(row, {key: item for key, item in config.items() if key != "cell"}, old)


def _time_distributed(config: Mapping[str, Any], old: bool) -> Described:
    """Return the layer for `TimeDistributed(layer)`."""
    inner = config.get("layer")
    if isinstance(inner, Mapping) and class_of(inner) in ("Sequential", "Functional", "Model"):
        raise KerasRefusal("it holds a model; put each layer of that into a TimeDistributed of its own")
    kind, options = describe(config.get("layer"), old)
    return "time_distributed", {"layer": {"type": kind, **options}}


def _bidirectional(config: Mapping[str, Any], old: bool) -> Described:
    """Return the layer for `Bidirectional(layer)`, whose two layers must be equal up to the direction."""
    kind, options = describe(config.get("layer"), old)
    if not layers[kind].recurrent:
        raise KerasRefusal(f"it holds a layer of type {kind!r}, which is not recurrent")
    merge = config.get("merge_mode", "concat")
    if merge is None:
        raise KerasRefusal("merge_mode is null, which gives two outputs; concat, sum, mul and ave give one")
    backward = config.get("backward_layer")
    if backward is not None:
        opposite = options | {"go_backwards": not options.get("go_backwards", False)}
        if describe(backward, old) != (kind, opposite):
            raise KerasRefusal("its backward layer differs from its forward layer in more than the direction")
    return "bidirectional", {"layer": {"type": kind, **options}, "merge_mode": merge}


def _normalization(config: Mapping[str, Any], old: bool) -> Described:
    """Return the layer for a Normalization, which uses fixed statistics of the axis that is kept."""
    axis, mean, variance = _flattened(config.get("axis", -1)), config.get("mean"), config.get("variance")
    if type(axis) is not int:
        raise KerasRefusal(f"axis is {shown(axis)}; one axis can be kept")
    if config.get("invert"):
        raise KerasRefusal("invert is true; use Rescaling")
    if mean is None or variance is None:  # the statistics come with the weights
        return "batch_normalization", {"axis": axis, "epsilon": 0.0, "center": False, "scale": False}
    numbers = [[each] if isinstance(each, int | float) else each for each in (mean, variance)]
    while all(isinstance(each, list) and len(each) == 1 and isinstance(each[0], list) for each in numbers):
        numbers = [each[0] for each in numbers]
    if not all(isinstance(each, list) and each and all(isinstance(n, int | float) for n in each) for each in numbers):
        raise KerasRefusal("mean and variance are numbers, or lists of numbers for the last axis")
    if axis != -1 and max(map(len, numbers)) > 1:
        raise KerasRefusal("mean and variance of another axis than the last are not here")
    means, variances = numbers
    deviations = [max(max(number, 0.0) ** 0.5, 1e-7) for number in variances]
    several = max(len(means), len(deviations))
    means, deviations = (each * several if len(each) == 1 else each for each in (means, deviations))
    if len(means) != len(deviations):
        raise KerasRefusal(f"mean has {len(means)} numbers and variance {len(deviations)}")
    return "rescaling", {
        "scale": [1.0 / deviation for deviation in deviations],
        "offset": [-center / deviation for center, deviation in zip(means, deviations, strict=True)],
    }


HOLDERS: Mapping[str, Callable[[Mapping[str, Any], bool], Described]] = MappingProxyType(
    {
        "RNN": _recurrent,
        "TimeDistributed": _time_distributed,
        "Bidirectional": _bidirectional,
        "Normalization": _normalization,
    }
)
"""Keras classes that need a function of their own, because renaming their options is not enough."""


class Stored(NamedTuple):
    """An array in a file of weights."""

    parts: tuple[str, ...]
    """The parts of the layer that lead to the array, such as `forward_layer` and `cell`."""
    position: int
    """Position of the array among those of its part."""
    parameter: str
    """Name of the parameter in this service."""


NEEDED_FOR: Mapping[str, tuple[str, Any]] = MappingProxyType(
    {
        "gamma": ("scale", True),
        "beta": ("center", True),
        "concat_score_weight": ("score_mode", "concat"),
        **dict.fromkeys(("bias", "query_bias", "key_bias", "value_bias", "attention_output_bias"), ("use_bias", True)),
    }
)
"""Parameters that a layer has only where an option has a certain value: the option and the value."""


def stored(value: Mapping[str, Any]) -> Iterator[Stored]:
    """Yield the arrays that a file of weights holds for a layer that `describe` can read."""
    name, config = class_of(value), value["config"]
    if name == "Bidirectional":
        for way in ("forward", "backward"):
            for array in stored(config["layer"]):
                yield Stored((f"{way}_layer", *array.parts), array.position, f"{way}_{array.parameter}")
    elif name == "TimeDistributed":
        yield from (array._replace(parts=("layer", *array.parts)) for array in stored(config["layer"]))
    elif name == "RNN":
        cell = config["cell"]
        yield from stored({"class_name": class_of(cell).removesuffix("Cell"), "config": cell["config"]})
    elif name == "Normalization" and (config.get("mean") is None or config.get("variance") is None):
        yield from (Stored((), k, parameter) for k, parameter in enumerate(("moving_mean", "moving_variance")))
    elif name in ROWS:
        for part, names in ROWS[name].weights.items():
            kept = [each for each in names if _is_kept(each, config)]
            yield from (Stored((part,) if part else (), k, parameter) for k, parameter in enumerate(kept))


def _is_kept(parameter: str, config: Mapping[str, Any]) -> bool:
    """Return whether a layer with this configuration has the parameter."""
    if parameter == "scale":
        return bool(config.get("use_scale", True))
    option, value = NEEDED_FOR.get(parameter, ("", None))
    return bool(config.get(option, value) == value)
