"""The rules of PyTorch's layout: the entries of a PyTorch module that make a parameter, and the conversion both ways.

`RULES` has them for each type of layer.

Sources: https://docs.pytorch.org/docs/stable/nn.html (shapes of weights, order of gates).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.network.layers import Layer

Options = Mapping[str, Any]


class Misfit(Exception):
    """The error of an array of PyTorch that does not fit its name. Its text gives the reason."""


class Rule(NamedTuple):
    """A parameter of a layer, the entries of a PyTorch module that hold its numbers, and the conversion both ways."""

    parameter: str
    entries: tuple[str, ...]
    into: Callable[[list[Array], Options], Array]
    """The function from the arrays of the entries to the parameter."""
    back: Callable[[Array, Options, bool], list[Array]]
    """The function from the parameter to the arrays of the entries. With the flag set, from its gradient."""
    each: Callable[[Array], Array] | None = None
    """The function from the array of one entry to what it gives the parameter, if there are several entries."""


def _first(arrays: list[Array], options: Options) -> Array:
    """Return the only array unchanged."""
    return arrays[0]


def _alone(array: Array, options: Options, gradient: bool) -> list[Array]:
    """Return the array unchanged, as the only entry."""
    return [array]


def _same(parameter: str, entry: str) -> Rule:
    """Return the rule of a parameter that is equal to an entry."""
    return Rule(parameter, (entry,), _first, _alone)


def _need_rank(array: Array, rank: int) -> Array:
    """Return the array. Raise `Misfit` unless it has `rank` axes."""
    if array.ndim != rank:
        raise Misfit(f"has {array.ndim} axes; it takes {rank}")
    return array


def _transposed(arrays: list[Array], options: Options) -> Array:
    """Return the transposed matrix."""
    return _need_rank(arrays[0], 2).T


DENSE = (Rule("kernel", ("weight",), _transposed, lambda array, *_: [array.T]), _same("bias", "bias"))


def _channels_last(arrays: list[Array], options: Options) -> Array:
    """Return `(out, in, *window)` as `(*window, in, out)`. In transposed convolutions, `in` and `out` are exchanged."""
    (weight,) = arrays
    _need_rank(weight, 2 + len(options["kernel_size"]))
    return weight.transpose((*range(2, weight.ndim), 1, 0))


def _channels_first(array: Array, options: Options, gradient: bool) -> list[Array]:
    """Return a kernel `(*window, in, out)` as `(out, in, *window)`."""
    last = array.ndim - 1
    return [array.transpose((last, last - 1, *range(last - 1)))]


def _depthwise(arrays: list[Array], options: Options) -> Array:
    """Return a kernel `(channels * multiplier, 1, *window)` as `(*window, channels, multiplier)`."""
    (weight,) = arrays
    many, multiplier = len(options["kernel_size"]), options["depth_multiplier"]
    _need_rank(weight, 2 + many)
    if weight.shape[0] % multiplier or weight.shape[1] != 1:
        raise Misfit(
            f"has shape {list(weight.shape)}; it takes [channels * {multiplier}, 1, …], as with groups=channels"
        )
    split = weight.reshape(weight.shape[0] // multiplier, multiplier, *weight.shape[2:])
    return split.transpose((*range(2, split.ndim), 0, 1))


def _depthwise_back(array: Array, options: Options, gradient: bool) -> list[Array]:
    """Return a kernel `(*window, channels, multiplier)` as `(channels * multiplier, 1, *window)`."""
    channels, multiplier = array.shape[-2:]
    turned = array.transpose((array.ndim - 2, array.ndim - 1, *range(array.ndim - 2)))
    return [turned.reshape(channels * multiplier, 1, *array.shape[:-2])]


CONVOLUTION = (Rule("kernel", ("weight",), _channels_last, _channels_first), _same("bias", "bias"))
DEPTHWISE = (Rule("kernel", ("weight",), _depthwise, _depthwise_back), _same("bias", "bias"))
GAMMA_AND_BETA = (_same("gamma", "weight"), _same("beta", "bias"))


def _alpha(arrays: list[Array], options: Options) -> Array:
    """Return the slopes of PReLU, one per channel, with axes of length 1 where they are shared."""
    (weight,) = arrays
    shared = options["shared_axes"]
    if weight.size == 1 or not shared:
        return weight
    last = max(shared)
    axes = range(1, last + (2 if set(range(1, last + 1)) <= set(shared) else 1))
    free = [axis for axis in axes if axis not in shared]
    if len(free) != 1:
        raise Misfit(f"has {weight.size} slopes; they fit one axis, and shared_axes {list(shared)} leave {len(free)}")
    return weight.reshape([1 if axis in shared else -1 for axis in axes])


def _slopes(array: Array, options: Options, gradient: bool) -> list[Array]:
    """Return the slopes of PReLU as a vector."""
    return [array.reshape(-1)]


GATES: Mapping[str, tuple[int, ...]] = MappingProxyType({"simple_rnn": (0,), "lstm": (0, 1, 2, 3), "gru": (1, 0, 2)})
"""The place in PyTorch of each gate here. A GRU of PyTorch has reset, update, candidate; here update comes first."""


def _ordered(array: Array, order: Sequence[int]) -> Array:
    """Return the blocks of the last axis in another order. Every order here is its own inverse."""
    if len(order) == 1 or order == tuple(range(len(order))):
        return array
    if array.shape[-1] % len(order):
        raise Misfit(f"has {array.shape[-1]} rows; it takes {len(order)} gates of one size")
    blocks = np.split(array, len(order), -1)
    return np.concatenate([blocks[k] for k in order], -1)


def _recurrent(kind: str) -> tuple[Rule, ...]:
    """Return the rules of a recurrent layer."""
    order = GATES[kind]

    def into(arrays: list[Array], options: Options) -> Array:
        """Return a kernel of PyTorch, transposed and with the gates in the order of this service."""
        return _ordered(_need_rank(arrays[0], 2).T, order)

    def back(array: Array, options: Options, gradient: bool) -> list[Array]:
        """Return a kernel of this service, transposed and with the gates in PyTorch's order."""
        return [_ordered(array, order).T]

    def each(array: Array) -> Array:
        """Return one bias of PyTorch with the gates in the order of this service."""
        return _ordered(_need_rank(array, 1), order)

    def both(arrays: list[Array], options: Options) -> Array:
        """Return the bias made of PyTorch's two: stacked if the layer has two, else their sum."""
        first, second = map(each, arrays)
        if first.shape != second.shape:
            raise Misfit(f"has {second.size} numbers and the bias of the inputs {first.size}")
        two = options.get("recurrent_bias") or (kind == "gru" and options["reset_after"])
        if kind == "gru" and not two:
            raise Misfit("belongs to a GRU that resets after the product; set reset_after to true")
        return np.stack([first, second]) if two else first + second

    def apart(array: Array, options: Options, gradient: bool) -> list[Array]:
        """Return PyTorch's two biases, or their gradients, from the bias of this service."""
        if array.ndim == 2:
            return [_ordered(array[row], order) for row in (0, 1)]
        # Only the sum matters: both entries have its gradient, and as a parameter the second one is 0.
        whole = _ordered(array, order)
        return [whole, whole if gradient else np.zeros_like(whole)]

    return (
        Rule("kernel", ("weight_ih_l0",), into, back),
        Rule("recurrent_kernel", ("weight_hh_l0",), into, back),
        Rule("bias", ("bias_ih_l0", "bias_hh_l0"), both, apart, each),
    )


def _heads(array: Array, options: Options) -> Array:
    """Return `(heads * size, features)` as `(features, heads, size)`, or `(heads * size)` as `(heads, size)`."""
    heads = options["num_heads"]
    if array.ndim not in (1, 2) or not array.size:
        raise Misfit(f"has shape {list(array.shape)}; it takes a matrix, or a vector of biases")
    if array.shape[0] % heads:
        raise Misfit(f"has {array.shape[0]} rows, which {heads} heads cannot share evenly")
    if array.ndim == 1:
        return array.reshape(heads, -1)
    return array.T.reshape(array.shape[1], heads, -1)


def _joined(array: Array) -> Array:
    """Return `(features, heads, size)` as `(heads * size, features)`, or `(heads, size)` as `(heads * size)`."""
    return array.reshape(-1) if array.ndim == 2 else array.reshape(array.shape[0], -1).T


def _part(place: int) -> Callable[[list[Array], Options], Array]:
    """Return the function that takes one third of a packed array: queries (0), keys (1) or values (2)."""

    def into(arrays: list[Array], options: Options) -> Array:
        """Return the third as an array with an axis of heads."""
        (packed,) = arrays
        if packed.ndim and packed.shape[0] % 3:
            raise Misfit(f"has {packed.shape[0]} rows; queries, keys and values have a third of them each")
        return _heads(np.split(packed, 3)[place] if packed.ndim else packed, options)

    return into


def _output(arrays: list[Array], options: Options) -> Array:
    """Return the output kernel `(features, heads * size)` as `(heads, size, features)`."""
    (weight,) = arrays
    heads = options["num_heads"]
    if _need_rank(weight, 2).shape[1] % heads or not weight.size:
        raise Misfit(f"has {weight.shape[1]} columns, which {heads} heads cannot share evenly")
    return weight.T.reshape(heads, -1, weight.shape[0])


def _output_back(array: Array, options: Options, gradient: bool) -> list[Array]:
    """Return the output kernel `(heads, size, features)` as `(features, heads * size)`."""
    return [array.reshape(-1, array.shape[-1]).T]


def _heads_back(array: Array, options: Options, gradient: bool) -> list[Array]:
    """Return an array with an axis of heads as the only entry, without this axis."""
    return [_joined(array)]


PARTS = ("query", "key", "value")
OUTPUT = (
    Rule("attention_output_kernel", ("out_proj.weight",), _output, _output_back),
    _same("attention_output_bias", "out_proj.bias"),
)
PACKED = (
    *(Rule(f"{part}_kernel", ("in_proj_weight",), _part(k), _heads_back) for k, part in enumerate(PARTS)),
    *(Rule(f"{part}_bias", ("in_proj_bias",), _part(k), _heads_back) for k, part in enumerate(PARTS)),
    *OUTPUT,
)
"""The rules of attention whose queries, keys and values have one length: their weights are one array in PyTorch. On the
way back, the parts are joined."""
SEPARATE = (
    *(Rule(f"{part}_kernel", (f"{part[0]}_proj_weight",), lambda a, o: _heads(a[0], o), _heads_back) for part in PARTS),
    *PACKED[3:],
)
"""The rules of attention whose keys or values have another length than its queries."""

RULES: Mapping[str, tuple[Rule, ...]] = MappingProxyType(
    {
        "dense": DENSE,
        **dict.fromkeys(("conv1d", "conv2d", "conv3d"), CONVOLUTION),
        **dict.fromkeys(("conv1d_transpose", "conv2d_transpose", "conv3d_transpose"), CONVOLUTION),
        **dict.fromkeys(("depthwise_conv1d", "depthwise_conv2d"), DEPTHWISE),
        "batch_normalization": (
            *GAMMA_AND_BETA,
            _same("moving_mean", "running_mean"),
            _same("moving_variance", "running_var"),
        ),
        "layer_normalization": GAMMA_AND_BETA,
        "group_normalization": GAMMA_AND_BETA,
        "rms_normalization": (_same("scale", "weight"),),
        "embedding": (_same("embeddings", "weight"),),
        "prelu": (Rule("alpha", ("weight",), _alpha, _slopes),),
        **{kind: _recurrent(kind) for kind in GATES},
    }
)
"""The rules by the type of layer. `rules_of` composes those of attention, and of layers that hold a layer."""


def rules_of(selection: Selection[Layer], packed: bool = True) -> Iterator[Rule]:
    """Yield the rules of a layer. `packed` says that the weights of attention are one array."""
    kind = selection.name
    if kind == "multi_head_attention":
        yield from PACKED if packed else SEPARATE
    elif kind == "time_distributed":
        yield from rules_of(selection.options["layer"])
    elif kind == "bidirectional":
        for way, ending in (("forward", ""), ("backward", "_reverse")):
            for rule in rules_of(selection.options["layer"]):
                entries = tuple(entry + ending for entry in rule.entries)
                yield rule._replace(parameter=f"{way}_{rule.parameter}", entries=entries)
    else:
        yield from RULES.get(kind, ())


def options_of(selection: Selection[Layer]) -> Options:
    """Return the options of a layer, or of the innermost layer that it holds."""
    inner = selection.options.get("layer")
    return selection.options if inner is None else options_of(inner)
