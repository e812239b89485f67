"""Record what PyTorch answers for every type of layer, for tests/engine/network/test_layers_against_pytorch.py.

    OPENBLAS_NUM_THREADS=1 python scripts/record_pytorch_layers.py

Needs the extra `oracle`. A layer is recorded alone, with the options a request would hold: its
outputs, the gradients of sum(outputs * cotangent), and the derivative of these gradients along a
direction (a product of the Hessian and that direction). Then come whole networks with their losses.

Names, defaults and layouts are those of Keras 3; the numbers come from PyTorch's own functions, or,
where it lacks what Keras has, from a few of its plain operations. Everything is computed in float64
from numbers that float32 holds exactly, so that both precisions can be compared.

`DIFFERENCES` is the only place where the service is allowed to differ from PyTorch's own functions.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from record_pytorch import ACTIVATIONS, LOSSES, REGULARIZERS, activations, losses, regularizers
from recording import write

Tensor = torch.Tensor
LARGEST_TOTAL = 1_500_000

# Where a PyTorch function of the same name answers something else, and what is recorded instead.
DIFFERENCES = [
    {
        "where": "padding 'same' with strides",
        "why": "PyTorch refuses it; recorded is TensorFlow's: the smaller half of the padding comes first, and its "
        "size depends on the input's length",
    },
    {
        "where": "average_pooling with padding 'same'",
        "why": "PyTorch divides by the whole window or pads evenly; recorded divides by the elements that exist",
    },
    {
        "where": "conv2d_transpose with padding 'same'",
        "why": "PyTorch crops kernel // 2 in front whatever output_padding is; recorded is Keras' on TensorFlow and "
        "JAX: with d = 1 + (kernel - 1) * dilation it crops max(d - stride, 0) // 2, or "
        "max(d - d % 2 - output_padding, 0) // 2 where output_padding is given",
    },
    {
        "where": "batch_normalization, its new statistics",
        "why": "PyTorch's running variance divides by n - 1 and its momentum is 1 - Keras'; recorded divides by n, "
        "or by n - 1 with unbiased_variance",
    },
    {
        "where": "gru with reset_after false",
        "why": "PyTorch has only the variant that resets after the product; recorded is Cho et al. 2014",
    },
    {
        "where": "gates of lstm and gru",
        "why": "PyTorch orders them i, f, g, o and r, z, n and has two biases; recorded are Keras' i, f, c, o and "
        "z, r, h with one bias (two for gru with reset_after)",
    },
    {
        "where": "global_max_pooling, ties",
        "why": "PyTorch's amax splits the gradient among equals; recorded gives it to the first, as max_pool does",
    },
    {
        "where": "activation hard_sigmoid",
        "why": "PyTorch multiplies by 1/6 rounded to float32 in its backward pass; recorded is relu6(x + 3) / 6",
    },
]


# --- numbers ------------------------------------------------------------------------------------

Shape = tuple[int, ...]
Draw = Callable[[Shape, np.random.Generator], np.ndarray]


def numbers(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Draw normal numbers in steps of 1/64, which are short to write and exact in float32."""
    return np.round(rng.standard_normal(shape) * 64.0) / 64.0


def weights(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return np.round(rng.standard_normal(shape) * 0.6 * 64.0) / 64.0


def positive(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(32, 128, shape) / 64.0


def distinct(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Draw numbers of which no two are equal, for layers that pick the largest."""
    size = math.prod(shape)
    return (rng.permutation(size).reshape(shape) - size / 2.0) / 16.0


def tied(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Draw from few values, so that most windows contain their maximum more than once."""
    return rng.integers(-1, 2, shape) / 2.0


def indices(largest: int) -> Draw:
    return lambda shape, rng: rng.integers(0, largest, shape)


def sorted_out(array: Tensor) -> Any:
    """Return nested lists, without negative zeros."""
    return (array.detach() + 0.0).tolist() if array.is_floating_point() else array.tolist()


# --- layers -------------------------------------------------------------------------------------


class Layer:
    """One layer in PyTorch: its options, and its parameters in Keras' layout, drawn when first asked for."""

    def __init__(
        self,
        options: dict[str, Any],
        training: bool,
        rng: np.random.Generator,
        parameters: dict[str, Tensor] | None = None,
        draw: Draw = weights,
        prefix: str = "",
    ) -> None:
        self.options, self.training, self.rng, self.draw, self.prefix = options, training, rng, draw, prefix
        self.parameters: dict[str, Tensor] = {} if parameters is None else parameters
        self.state: dict[str, Tensor] = {}

    def __call__(self, option: str, default: Any = None) -> Any:
        return self.options.get(option, default)

    def parameter(self, name: str, shape: Shape, draw: Draw | None = None, trained: bool = True) -> Tensor:
        name = self.prefix + name
        if name not in self.parameters:
            values = torch.from_numpy(np.asarray((draw or self.draw)(tuple(shape), self.rng), np.float64))
            self.parameters[name] = values.requires_grad_(trained)
        return self.parameters[name]

    def activate(self, z: Tensor, option: str = "activation", default: str = "linear") -> Tensor:
        chosen = self(option, default)
        chosen = {"type": chosen} if isinstance(chosen, str) else dict(chosen)
        name = chosen.pop("type")
        if name == "hard_sigmoid":
            return (z + 3.0).clamp(0.0, 6.0) / 6.0
        return ACTIVATIONS[name](z, **activations.select(name, **chosen).options)

    def inner(self, prefix: str = "", **changes: Any) -> tuple[Callable[..., Tensor], Layer]:
        """Return a wrapped layer, whose parameters have the names of this one's that begin with `prefix`."""
        options = {**self.options["layer"], **changes}
        formula = FORMULAS[options.pop("type")]
        return formula, Layer(options, self.training, self.rng, self.parameters, self.draw, self.prefix + prefix)


FORMULAS: dict[str, Callable[..., Tensor]] = {}


def formula(*names: str) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        FORMULAS.update(dict.fromkeys(names, function))
        return function

    return register


def each(value: Any, dimensions: int) -> tuple[int, ...]:
    """Return an option with one entry for each dimension; one number stands for all."""
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


def channels_first(layer: Layer, x: Tensor) -> Tensor:
    return x if layer("data_format") == "channels_first" else x.movedim(-1, 1)


def as_given(layer: Layer, x: Tensor) -> Tensor:
    return x if layer("data_format") == "channels_first" else x.movedim(1, -1)


def same_padding(lengths: Shape, window: Shape, strides: Shape, dilation: Shape) -> list[tuple[int, int]]:
    """Return TensorFlow's padding before and after each dimension, so that ceil(length / stride) windows fit."""
    sides = []
    for n, k, s, d in zip(lengths, window, strides, dilation, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        sides.append((total // 2, total - total // 2))
    return sides


def pad(x: Tensor, sides: list[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Pad the last dimensions; a negative side is cut."""
    return F.pad(x, [n for side in reversed(sides) for n in side], value=value)


def with_bias(layer: Layer, z: Tensor, channels: int) -> Tensor:
    """Add a number per channel to z [samples, channels, …], activate it, and put its channels back."""
    if layer("use_bias", True):
        z = z + layer.parameter("bias", (channels,)).reshape(-1, *[1] * (z.ndim - 2))
    return layer.activate(as_given(layer, z))


def window_of(layer: Layer, dimensions: int) -> tuple[Shape, Shape, Shape]:
    kernel, strides = each(layer("kernel_size"), dimensions), each(layer("strides", 1), dimensions)
    return kernel, strides, each(layer("dilation_rate", 1), dimensions)


def padded(layer: Layer, x: Tensor, window: Shape, strides: Shape, dilation: Shape) -> Tensor:
    if layer("padding") == "same":
        return pad(x, same_padding(tuple(x.shape[2:]), window, strides, dilation))
    if layer("padding") == "causal":
        return pad(x, [((window[0] - 1) * dilation[0], 0)])
    return x


CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
MEANS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@formula("conv1d", "conv2d", "conv3d")
def convolution(layer: Layer, x: Tensor) -> Tensor:
    x = channels_first(layer, x)
    dimensions = x.ndim - 2
    kernel, strides, dilation = window_of(layer, dimensions)
    filters, groups = layer("filters"), layer("groups", 1)
    w = layer.parameter("kernel", (*kernel, x.shape[1] // groups, filters)).movedim((-1, -2), (0, 1)).contiguous()
    x = padded(layer, x, kernel, strides, dilation)
    own = CONVOLUTIONS[dimensions]
    return with_bias(layer, own(x, w, None, strides, 0, dilation, groups), filters)


def each_alone(layer: Layer, x: Tensor, name: str) -> Tensor:
    """The channels of x [samples, channels, …], each convolved alone."""
    dimensions = x.ndim - 2
    kernel, strides, dilation = window_of(layer, dimensions)
    channels, multiplier = x.shape[1], layer("depth_multiplier", 1)
    w = layer.parameter(name, (*kernel, channels, multiplier)).movedim((-2, -1), (0, 1))
    w = w.reshape(channels * multiplier, 1, *kernel).contiguous()
    x = padded(layer, x, kernel, strides, dilation)
    return CONVOLUTIONS[dimensions](x, w, None, strides, 0, dilation, channels)


@formula("depthwise_conv1d", "depthwise_conv2d")
def depthwise(layer: Layer, x: Tensor) -> Tensor:
    z = each_alone(layer, channels_first(layer, x), "kernel")
    return with_bias(layer, z, z.shape[1])


@formula("separable_conv1d", "separable_conv2d")
def separable(layer: Layer, x: Tensor) -> Tensor:
    each = each_alone(layer, channels_first(layer, x), "depthwise_kernel")
    dimensions, filters = each.ndim - 2, layer("filters")
    w = layer.parameter("pointwise_kernel", (*[1] * dimensions, each.shape[1], filters))
    return with_bias(layer, CONVOLUTIONS[dimensions](each, w.movedim((-1, -2), (0, 1))), filters)


@formula("conv1d_transpose", "conv2d_transpose", "conv3d_transpose")
def transposed(layer: Layer, x: Tensor) -> Tensor:
    x = channels_first(layer, x)
    dimensions = x.ndim - 2
    kernel, strides, dilation = window_of(layer, dimensions)
    w = layer.parameter("kernel", (*kernel, layer("filters"), x.shape[1])).movedim((-1, -2), (0, 1)).contiguous()
    whole = TRANSPOSED[dimensions](x, w, None, strides, 0, 0, 1, dilation)
    more = layer("output_padding")
    sides = []
    for axis in range(dimensions):
        n, s, k = x.shape[2 + axis], strides[axis], (kernel[axis] - 1) * dilation[axis] + 1
        p = None if more is None else each(more, dimensions)[axis]
        if layer("padding") == "same":
            length = n * s if p is None else (n - 1) * s + k % 2 + p
            before = max(k - s, 0) // 2 if p is None else max(k - k % 2 - p, 0) // 2
        else:
            length, before = (n - 1) * s + (max(k, s) if p is None else k + p), 0
        sides.append((-before, length + before - whole.shape[2 + axis]))
    return with_bias(layer, pad(whole, sides), layer("filters"))


def pooling_of(layer: Layer, x: Tensor) -> tuple[Tensor, Shape, Shape, list[tuple[int, int]]]:
    x = channels_first(layer, x)
    dimensions = x.ndim - 2
    window = each(layer("pool_size", 2), dimensions)
    chosen = layer("strides")
    strides = window if chosen is None else each(chosen, dimensions)
    sides = [(0, 0)] * dimensions
    if layer("padding") == "same":
        sides = same_padding(tuple(x.shape[2:]), window, strides, (1,) * dimensions)
    return x, window, strides, sides


@formula("max_pooling1d", "max_pooling2d", "max_pooling3d")
def max_pooling(layer: Layer, x: Tensor) -> Tensor:
    x, window, strides, sides = pooling_of(layer, x)
    own = MAXIMA[x.ndim - 2]
    return as_given(layer, own(pad(x, sides, -math.inf), window, strides))


@formula("average_pooling1d", "average_pooling2d", "average_pooling3d")
def average_pooling(layer: Layer, x: Tensor) -> Tensor:
    x, window, strides, sides = pooling_of(layer, x)
    own = MEANS[x.ndim - 2]
    share = own(pad(torch.ones_like(x), sides), window, strides)  # of elements that exist
    return as_given(layer, own(pad(x, sides), window, strides) / share)


def pooled(layer: Layer, x: Tensor, values: Tensor) -> Tensor:
    """Return one value for each map, with dimensions of length 1 kept if the layer says so."""
    if not layer("keepdims", False):
        return values
    return as_given(layer, values.reshape(*values.shape, *[1] * (x.ndim - 2)))


@formula("global_max_pooling1d", "global_max_pooling2d", "global_max_pooling3d")
def global_max_pooling(layer: Layer, x: Tensor) -> Tensor:
    return pooled(layer, x, channels_first(layer, x).flatten(2).max(-1).values)


@formula("global_average_pooling1d", "global_average_pooling2d", "global_average_pooling3d")
def global_average_pooling(layer: Layer, x: Tensor) -> Tensor:
    return pooled(layer, x, channels_first(layer, x).flatten(2).mean(-1))


def sides_of(option: Any, dimensions: int) -> list[Shape]:
    """Places before and after each dimension; of one dimension, a pair is just that."""
    return [each(option, 2)] if dimensions == 1 else [each(side, 2) for side in each(option, dimensions)]


@formula("zero_padding1d", "zero_padding2d", "zero_padding3d")
def zero_padding(layer: Layer, x: Tensor) -> Tensor:
    return as_given(layer, pad(channels_first(layer, x), sides_of(layer("padding", 1), x.ndim - 2)))


@formula("cropping1d", "cropping2d", "cropping3d")
def cropping(layer: Layer, x: Tensor) -> Tensor:
    default = 0 if x.ndim == 4 else 1
    sides = sides_of(layer("cropping", default), x.ndim - 2)
    return as_given(layer, pad(channels_first(layer, x), [(-before, -after) for before, after in sides]))


@formula("up_sampling1d", "up_sampling3d")
def repeating(layer: Layer, x: Tensor) -> Tensor:
    x = channels_first(layer, x)
    for axis, factor in enumerate(each(layer("size", 2), x.ndim - 2), 2):
        x = x.repeat_interleave(factor, axis)
    return as_given(layer, x)


@formula("up_sampling2d")
def up_sampling(layer: Layer, x: Tensor) -> Tensor:
    x = channels_first(layer, x)
    size = [n * factor for n, factor in zip(x.shape[2:], each(layer("size", 2), 2), strict=True)]
    if layer("interpolation", "nearest") == "nearest":
        return as_given(layer, F.interpolate(x, size, mode="nearest"))
    return as_given(layer, F.interpolate(x, size, mode="bilinear", align_corners=False))


@formula("dense")
def dense(layer: Layer, x: Tensor) -> Tensor:
    units = layer("units")
    w = layer.parameter("kernel", (x.shape[-1], units))
    return layer.activate(F.linear(x, w.T, layer.parameter("bias", (units,)) if layer("use_bias", True) else None))


@formula("maxout")
def maxout(layer: Layer, x: Tensor) -> Tensor:
    units, pieces = layer("units"), layer("pieces", 2)
    z = torch.einsum("...i,iup->...up", x, layer.parameter("kernel", (x.shape[-1], units, pieces)))
    if layer("use_bias", True):
        z = z + layer.parameter("bias", (units, pieces))
    return z.max(-1).values


@formula("embedding")
def embedding(layer: Layer, x: Tensor) -> Tensor:
    return F.embedding(x, layer.parameter("embeddings", (layer("input_dim"), layer("output_dim"))))


@formula("activation")
def activation(layer: Layer, x: Tensor) -> Tensor:
    return layer.activate(x)


@formula("prelu")
def prelu(layer: Layer, x: Tensor) -> Tensor:
    shared = layer("shared_axes", [])
    shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape))[1:]
    return torch.where(x > 0, x, layer.parameter("alpha", shape) * x)


@formula(
    *("dropout", "spatial_dropout", "spatial_dropout1d", "spatial_dropout2d", "spatial_dropout3d"),
    *("gaussian_noise", "gaussian_dropout", "alpha_dropout"),
)
def at_rest(layer: Layer, x: Tensor) -> Tensor:
    """Return the input: outside training, layers that draw random numbers do nothing."""
    assert not layer.training
    return x * 1.0


@formula("flatten")
def flatten(layer: Layer, x: Tensor) -> Tensor:
    return x.flatten(1)


@formula("reshape")
def reshape(layer: Layer, x: Tensor) -> Tensor:
    return x.reshape(len(x), *layer("target_shape"))


@formula("permute")
def permute(layer: Layer, x: Tensor) -> Tensor:
    return x.permute(0, *layer("dims"))


@formula("repeat_vector")
def repeat_vector(layer: Layer, x: Tensor) -> Tensor:
    return x[:, None].expand(-1, layer("n"), -1)


# --- normalization ------------------------------------------------------------------------------


def scale_and_shift(layer: Layer, shape: Shape) -> tuple[Tensor, Tensor | None]:
    """Return gamma and beta. An absent gamma is ones: PyTorch cannot differentiate twice with beta alone."""
    gamma = layer.parameter("gamma", shape) if layer("scale", True) else torch.ones(shape, dtype=torch.float64)
    return gamma, layer.parameter("beta", shape) if layer("center", True) else None


@formula("batch_normalization")
def batch_normalization(layer: Layer, x: Tensor) -> Tensor:
    axis, epsilon, momentum = layer("axis", -1), layer("epsilon", 1e-3), layer("momentum", 0.99)
    x = x.movedim(axis, 1)
    shape = (x.shape[1],)
    gamma, beta = scale_and_shift(layer, shape)
    mean = layer.parameter("moving_mean", shape, weights, trained=False)
    variance = layer.parameter("moving_variance", shape, positive, trained=False)
    if layer.training:
        mean, variance = (
            layer.state.get(name, old) for name, old in (("moving_mean", mean), ("moving_variance", variance))
        )
        rows = x.detach().movedim(1, -1).flatten(0, -2)
        layer.state = {
            "moving_mean": mean * momentum + rows.mean(0) * (1.0 - momentum),
            "moving_variance": variance * momentum
            + rows.var(0, correction=int(layer("unbiased_variance", False))) * (1.0 - momentum),
        }
        return F.batch_norm(x, None, None, gamma, beta, True, 0.0, epsilon).movedim(1, axis)
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon).movedim(1, axis)


def normalized_axes(layer: Layer, x: Tensor) -> tuple[list[int], list[int], Shape]:
    """Return the axes to normalize, their places after the move that PyTorch needs, and their lengths."""
    axes = sorted(axis % x.ndim for axis in each(layer("axis", -1), 1))
    return axes, list(range(x.ndim - len(axes), x.ndim)), tuple(x.shape[axis] for axis in axes)


@formula("layer_normalization")
def layer_normalization(layer: Layer, x: Tensor) -> Tensor:
    axes, last, shape = normalized_axes(layer, x)
    gamma, beta = scale_and_shift(layer, shape)
    return F.layer_norm(x.movedim(axes, last), shape, gamma, beta, layer("epsilon", 1e-3)).movedim(last, axes)


@formula("rms_normalization")
def rms_normalization(layer: Layer, x: Tensor) -> Tensor:
    axes, last, shape = normalized_axes(layer, x)
    scale = layer.parameter("scale", shape)
    return F.rms_norm(x.movedim(axes, last), shape, scale, layer("epsilon", 1e-6)).movedim(last, axes)


@formula("group_normalization")
def group_normalization(layer: Layer, x: Tensor) -> Tensor:
    axis = layer("axis", -1)
    x = x.movedim(axis, 1)
    gamma, beta = scale_and_shift(layer, (x.shape[1],))
    return F.group_norm(x, layer("groups", 32), gamma, beta, layer("epsilon", 1e-3)).movedim(1, axis)


@formula("unit_normalization")
def unit_normalization(layer: Layer, x: Tensor) -> Tensor:
    axes, _, _ = normalized_axes(layer, x)
    return x / torch.linalg.vector_norm(x, dim=axes, keepdim=True).clamp(min=1e-12)


@formula("rescaling")
def rescaling(layer: Layer, x: Tensor) -> Tensor:
    scale, offset = (torch.tensor(layer(name, default), dtype=x.dtype) for name, default in RESCALING)
    return x * scale + offset


RESCALING = (("scale", 1.0), ("offset", 0.0))


# --- recurrent layers ---------------------------------------------------------------------------


def recurrent(layer: Layer, x: Tensor, gates: int, initial: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Return x W for each step (reversed with go_backwards), and U."""
    units = layer("units")
    if layer("go_backwards", False):
        x = x.flip(1)
    w = layer.parameter("kernel", (x.shape[-1], gates * units))
    u = layer.parameter("recurrent_kernel", (units, gates * units))
    return x @ w, u


def summed_bias(layer: Layer, size: int) -> Tensor | float:
    """The bias of all gates, which is the sum of two with recurrent_bias."""
    if not layer("use_bias", True):
        return 0.0
    return layer.parameter("bias", (2, size)).sum(0) if layer("recurrent_bias") else layer.parameter("bias", (size,))


def sequence(layer: Layer, outputs: list[Tensor]) -> Tensor:
    return torch.stack(outputs, 1) if layer("return_sequences", False) else outputs[-1]


def start(layer: Layer, x: Tensor, initial: tuple[Tensor, ...], position: int) -> Tensor:
    return initial[position] if initial else x.new_zeros(len(x), layer("units"))


@formula("simple_rnn")
def simple_rnn(layer: Layer, x: Tensor, *initial: Tensor) -> Tensor:
    steps, u = recurrent(layer, x, 1, initial)
    bias = summed_bias(layer, layer("units"))
    h, outputs = start(layer, x, initial, 0), []
    for step in steps.unbind(1):
        h = layer.activate(step + h @ u + bias, default="tanh")
        outputs.append(h)
    return sequence(layer, outputs)


@formula("lstm")
def lstm(layer: Layer, x: Tensor, *initial: Tensor) -> Tensor:
    steps, u = recurrent(layer, x, 4, initial)
    bias = summed_bias(layer, 4 * layer("units"))
    h, c, outputs = start(layer, x, initial, 0), start(layer, x, initial, 1), []
    for step in steps.unbind(1):
        i, f, g, o = (step + h @ u + bias).chunk(4, -1)
        i, f, o = (layer.activate(gate, "recurrent_activation", "sigmoid") for gate in (i, f, o))
        c = f * c + i * layer.activate(g, default="tanh")
        h = o * layer.activate(c, default="tanh")
        outputs.append(h)
    return sequence(layer, outputs)


@formula("gru")
def gru(layer: Layer, x: Tensor, *initial: Tensor) -> Tensor:
    steps, u = recurrent(layer, x, 3, initial)
    units, after = layer("units"), layer("reset_after", True)
    before, behind = x.new_zeros(3 * units), x.new_zeros(3 * units)
    if layer("use_bias", True):
        bias = layer.parameter("bias", (2, 3 * units) if after else (3 * units,))
        before, behind = bias if after else (bias, behind)
    h, outputs = start(layer, x, initial, 0), []
    for step in steps.unbind(1):
        xz, xr, xh = (step + before).chunk(3, -1)
        hz, hr, hh = (h @ u + behind).chunk(3, -1)
        z = layer.activate(xz + hz, "recurrent_activation", "sigmoid")
        r = layer.activate(xr + hr, "recurrent_activation", "sigmoid")
        new = layer.activate(xh + (r * hh if after else (r * h) @ u[:, 2 * units :]), default="tanh")
        h = z * h + (1.0 - z) * new
        outputs.append(h)
    return sequence(layer, outputs)


@formula("bidirectional")
def bidirectional(layer: Layer, x: Tensor) -> Tensor:
    rule, forward = layer.inner("forward_")
    _, backward = layer.inner("backward_", go_backwards=True)
    ahead, back = rule(forward, x), rule(backward, x)
    if forward("return_sequences", False):
        back = back.flip(1)
    merge = {
        "concat": lambda: torch.cat([ahead, back], -1),
        "sum": lambda: ahead + back,
        "mul": lambda: ahead * back,
        "ave": lambda: (ahead + back) / 2.0,
    }
    return merge[layer("merge_mode", "concat")]()


@formula("time_distributed")
def time_distributed(layer: Layer, x: Tensor) -> Tensor:
    """Apply one layer to step after step; state such as running means goes from step to step."""
    rule, inner = layer.inner()
    steps = [rule(inner, step) for step in x.unbind(1)]
    layer.state = inner.state
    return torch.stack(steps, 1)


def check_recurrent_formulas() -> None:
    """Assert that with default options the formulas are PyTorch's modules, gates reordered."""
    rng = np.random.default_rng(0)
    x, units = torch.from_numpy(numbers((2, 4, 3), rng)), 2

    def reordered(array: Tensor, order: list[int]) -> Tensor:
        parts = array.chunk(len(order), -1)
        return torch.cat([parts[gate] for gate in order], -1).movedim(-1, 0)

    for name, own, order in (
        ("simple_rnn", torch.nn.RNN, [0]),
        ("lstm", torch.nn.LSTM, [0, 1, 2, 3]),
        ("gru", torch.nn.GRU, [1, 0, 2]),
    ):
        layer = Layer({"units": units, "return_sequences": True}, False, rng)
        found = FORMULAS[name](layer, x)
        module = own(3, units, batch_first=True, dtype=torch.float64)
        bias = layer.parameters["bias"].reshape(-1, len(order) * units)
        with torch.no_grad():
            module.weight_ih_l0.copy_(reordered(layer.parameters["kernel"], order))
            module.weight_hh_l0.copy_(reordered(layer.parameters["recurrent_kernel"], order))
            module.bias_ih_l0.copy_(reordered(bias[0], order))
            module.bias_hh_l0.copy_(reordered(bias[1], order) if len(bias) == 2 else torch.zeros(len(order) * units))
        assert torch.allclose(found, module(x)[0], rtol=1e-13, atol=1e-15), name


# --- attention and merges -----------------------------------------------------------------------


@formula("multi_head_attention")
def multi_head_attention(layer: Layer, query: Tensor, *others: Tensor) -> Tensor:
    value = others[0] if others else query
    key = others[1] if len(others) > 1 else value
    heads, size = layer("num_heads"), layer("key_dim")
    value_size = layer("value_dim") or size
    output = layer("output_shape") or query.shape[-1]
    output = output if isinstance(output, int) else output[0]

    def projected(name: str, x: Tensor, width: int) -> Tensor:
        y = torch.einsum("ntd,dhk->nhtk", x, layer.parameter(f"{name}_kernel", (x.shape[-1], heads, width)))
        if layer("use_bias", True):
            y = y + layer.parameter(f"{name}_bias", (heads, width))[:, None]
        return y

    q, k = projected("query", query, size), projected("key", key, size)
    v = projected("value", value, value_size)
    scores = torch.einsum("nhtk,nhsk->nhts", q, k) / math.sqrt(size)
    if layer("use_causal_mask", False):
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    mixed = torch.einsum("nhts,nhsv->nhtv", scores.softmax(-1), v)
    w = layer.parameter("attention_output_kernel", (heads, value_size, output))
    z = torch.einsum("nhtv,hvo->nto", mixed, w)
    return z + layer.parameter("attention_output_bias", (output,)) if layer("use_bias", True) else z


def mixed(layer: Layer, scores: Tensor, value: Tensor) -> Tensor:
    if layer("use_causal_mask", False):
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    return scores.softmax(-1) @ value


@formula("attention")
def attention(layer: Layer, query: Tensor, value: Tensor, *others: Tensor) -> Tensor:
    key = others[0] if others else value
    scale = layer.parameter("scale", ()) if layer("use_scale", False) else 1.0
    if layer("score_mode", "dot") == "dot":
        return mixed(layer, scale * (query @ key.transpose(-1, -2)), value)
    weight = layer.parameter("concat_score_weight", ())
    return mixed(layer, weight * torch.tanh(scale * (query[:, :, None] + key[:, None])).sum(-1), value)


@formula("additive_attention")
def additive_attention(layer: Layer, query: Tensor, value: Tensor, *others: Tensor) -> Tensor:
    key = others[0] if others else value
    sums = torch.tanh(query[:, :, None] + key[:, None])
    if layer("use_scale", True):
        sums = sums * layer.parameter("scale", query.shape[-1:])
    return mixed(layer, sums.sum(-1), value)


@formula("add")
def add(layer: Layer, *inputs: Tensor) -> Tensor:
    return torch.stack(inputs).sum(0)


@formula("multiply")
def multiply(layer: Layer, *inputs: Tensor) -> Tensor:
    return torch.stack(inputs).prod(0)


@formula("subtract")
def subtract(layer: Layer, one: Tensor, other: Tensor) -> Tensor:
    return one - other


@formula("average")
def average(layer: Layer, *inputs: Tensor) -> Tensor:
    return torch.stack(inputs).mean(0)


@formula("maximum")
def maximum(layer: Layer, *inputs: Tensor) -> Tensor:
    """Take the maximum of all inputs at once: equal ones share the gradient evenly, unlike pair by pair."""
    return torch.stack(inputs).amax(0)


@formula("minimum")
def minimum(layer: Layer, *inputs: Tensor) -> Tensor:
    return torch.stack(inputs).amin(0)


@formula("concatenate")
def concatenate(layer: Layer, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, layer("axis", -1))


@formula("dot")
def dot(layer: Layer, one: Tensor, other: Tensor) -> Tensor:
    """Return the sum over one axis of each; the axes left of the first come before those of the second."""
    axes = each(layer("axes"), 2)
    if layer("normalize", False):
        one, other = F.normalize(one, dim=axes[0], eps=1e-7), F.normalize(other, dim=axes[1], eps=1e-7)
    one, other = one.movedim(axes[0], -1), other.movedim(axes[1], -1)
    summed = torch.einsum("nik,njk->nij", one.flatten(1, -2) if one.ndim > 2 else one[:, None], rows(other))
    left = [*one.shape[1:-1], *other.shape[1:-1]]
    return summed.reshape(len(one), *(left or [1]))


def rows(x: Tensor) -> Tensor:
    return x.flatten(1, -2) if x.ndim > 2 else x[:, None]


# --- what is recorded ---------------------------------------------------------------------------

# By family and type: options, the shapes of the inputs, and details: how inputs are drawn, training.
Case = tuple[dict[str, Any], list[Shape], dict[str, Any]]


def case(*shapes: Shape, draws: Draw | tuple[Draw, ...] = numbers, training: bool = False, **options: Any) -> Case:
    return options, list(shapes), {"draws": draws, "training": training}


FIRST = {"data_format": "channels_first"}
DISTINCT = {"draws": distinct}
TIED = {"draws": tied}
LINE, IMAGE = (2, 6, 2), (2, 5, 4, 2)
LINE_FIRST, IMAGE_FIRST = (2, 2, 6), (2, 2, 5, 4)
TRAINING = {"training": True}

CONVOLUTION: dict[str, list[Case]] = {
    "conv1d": [
        case(LINE, filters=3, kernel_size=3),
        case(LINE, filters=2, kernel_size=[3], strides=2, padding="same", activation="tanh"),
        case(LINE, filters=2, kernel_size=4, padding="same"),
        case((2, 5, 2), filters=2, kernel_size=2, strides=[3], padding="same", use_bias=False),
        case(LINE, filters=2, kernel_size=3, dilation_rate=2, padding="same"),
        case(LINE, filters=2, kernel_size=2, dilation_rate=[2], padding="causal", activation="relu"),
        case(LINE, filters=2, kernel_size=3, strides=2, padding="causal"),
        case((2, 5, 4), filters=4, kernel_size=2, groups=2),
        case((2, 4, 3), filters=6, kernel_size=3, groups=3, padding="same", strides=2),
        case(LINE_FIRST, filters=3, kernel_size=3, padding="same", strides=2, **FIRST),
        case(LINE_FIRST, filters=2, kernel_size=3, padding="causal", dilation_rate=2, **FIRST, activation="gelu"),
        case((2, 4, 3), filters=2, kernel_size=1, activation="softmax"),
    ],
    "conv2d": [
        case(IMAGE, filters=3, kernel_size=3),
        case(IMAGE, filters=2, kernel_size=[2, 3], padding="same", activation="tanh"),
        case(IMAGE, filters=2, kernel_size=3, strides=2, padding="same"),
        case(IMAGE, filters=2, kernel_size=2, strides=[1, 2], use_bias=False),
        case(IMAGE, filters=2, kernel_size=2, strides=3, padding="same"),
        case((2, 6, 5, 1), filters=2, kernel_size=[3, 2], strides=[2, 3], padding="valid", activation="relu"),
        case(IMAGE, filters=2, kernel_size=2, dilation_rate=[2, 1]),
        case(IMAGE, filters=2, kernel_size=[3, 2], dilation_rate=2, padding="same", activation="silu"),
        case((2, 3, 3, 4), filters=6, kernel_size=2, groups=2),
        case((2, 4, 3, 3), filters=3, kernel_size=3, groups=3, strides=2, padding="same"),
        case(IMAGE_FIRST, filters=3, kernel_size=3, **FIRST),
        case(IMAGE_FIRST, filters=2, kernel_size=[3, 2], strides=2, padding="same", activation="sigmoid", **FIRST),
        case((1, 4, 3, 4), filters=2, kernel_size=2, groups=2, dilation_rate=2, padding="same", **FIRST),
        case((2, 3, 2, 3), filters=4, kernel_size=1, activation="softmax"),
        case((2, 3, 3, 2), filters=2, kernel_size=3, activation={"type": "leaky_relu", "alpha": 0.25}),
    ],
    "depthwise_conv2d": [
        case(IMAGE, kernel_size=3),
        case(IMAGE, kernel_size=2, depth_multiplier=2, activation="tanh"),
        case(IMAGE, kernel_size=[3, 2], strides=2, padding="same", use_bias=False),
        case(IMAGE, kernel_size=[2, 3], strides=2, depth_multiplier=3, activation="relu"),
        case(IMAGE, kernel_size=2, dilation_rate=2, padding="same"),
        case(IMAGE_FIRST, kernel_size=3, padding="same", depth_multiplier=2, **FIRST),
        case(IMAGE_FIRST, kernel_size=2, dilation_rate=[2, 1], activation="softplus", **FIRST),
    ],
}

RESIZING: dict[str, list[Case]] = {
    "conv2d_transpose": [
        case((2, 3, 2, 2), filters=3, kernel_size=3),
        case((2, 3, 2, 2), filters=2, kernel_size=3, strides=2, activation="tanh"),
        case((2, 3, 2, 2), filters=2, kernel_size=3, strides=2, padding="same"),
        case((2, 2, 2, 2), filters=2, kernel_size=4, strides=2, padding="same", use_bias=False),
        case((2, 2, 2, 2), filters=2, kernel_size=2, strides=3),
        case((2, 2, 2, 2), filters=2, kernel_size=2, strides=3, padding="same"),
        case((2, 2, 3, 1), filters=2, kernel_size=[2, 3], strides=[1, 2], padding="same", activation="relu"),
        case((1, 3, 3, 2), filters=2, kernel_size=[2, 3], padding="same"),
        case((1, 3, 2, 2), filters=2, kernel_size=3, strides=2, output_padding=1),
        case((1, 2, 2, 2), filters=2, kernel_size=2, strides=[3, 2], output_padding=[2, 0]),
        case((1, 3, 2, 2), filters=2, kernel_size=3, strides=2, output_padding=0, padding="same"),
        case((1, 3, 2, 2), filters=2, kernel_size=3, strides=2, output_padding=1, padding="same"),
        case((1, 2, 3, 2), filters=2, kernel_size=[4, 5], strides=[3, 2], output_padding=[2, 1], padding="same"),
        case((1, 3, 3, 2), filters=2, kernel_size=2, dilation_rate=2),
        case((1, 3, 3, 2), filters=2, kernel_size=[3, 2], dilation_rate=[2, 3], padding="same"),
        case((2, 2, 3, 2), filters=3, kernel_size=3, strides=2, padding="same", **FIRST),
        case((1, 2, 2, 3), filters=2, kernel_size=[3, 2], strides=2, activation="sigmoid", **FIRST),
    ],
    "zero_padding2d": [
        case((2, 2, 3, 2)),
        case((2, 2, 3, 2), padding=2),
        case((2, 2, 3, 2), padding=[1, 2]),
        case((2, 2, 3, 2), padding=[[0, 1], [2, 1]]),
        case((2, 2, 3, 2), padding=[[1, 0], [0, 2]], **FIRST),
    ],
    "up_sampling2d": [
        case((2, 2, 3, 2)),
        case((2, 2, 3, 2), size=[3, 1]),
        case((2, 2, 3, 2), size=[2, 3], **FIRST),
        case((2, 2, 3, 2), interpolation="bilinear"),
        case((2, 3, 2, 1), size=[3, 2], interpolation="bilinear"),
        case((1, 2, 1, 3), size=[2, 3], interpolation="bilinear", **FIRST),
    ],
}

POOLING: dict[str, list[Case]] = {
    "max_pooling1d": [
        case(LINE, **DISTINCT),
        case((2, 5, 2), pool_size=[3], strides=1, **DISTINCT),
        case((2, 5, 2), pool_size=3, strides=[2], padding="same", **DISTINCT),
        case((2, 2, 5), pool_size=2, padding="same", **FIRST, **DISTINCT),
        case((2, 6, 2), pool_size=3, strides=2, padding="same", **TIED),
    ],
    "max_pooling2d": [
        case(IMAGE, **DISTINCT),
        case(IMAGE, pool_size=3, strides=1, **DISTINCT),
        case(IMAGE, pool_size=[3, 2], strides=[2, 1], padding="same", **DISTINCT),
        case((2, 5, 5, 1), pool_size=2, strides=3, padding="same", **DISTINCT),
        case(IMAGE_FIRST, pool_size=2, padding="same", **FIRST, **DISTINCT),
        case(IMAGE_FIRST, pool_size=[2, 3], strides=1, **FIRST, **DISTINCT),
        case((2, 5, 4, 2), pool_size=3, strides=2, padding="same", **TIED),
        case((2, 4, 4, 2), **TIED),
        case((2, 2, 4, 5), pool_size=2, strides=1, **FIRST, **TIED),
    ],
    "average_pooling1d": [
        case(LINE),
        case((2, 5, 2), pool_size=[3], strides=1),
        case((2, 5, 2), pool_size=3, strides=[2], padding="same"),
        case((2, 2, 5), pool_size=2, padding="same", **FIRST),
    ],
    "average_pooling2d": [
        case(IMAGE),
        case(IMAGE, pool_size=3, strides=1),
        case(IMAGE, pool_size=[3, 2], strides=[2, 1], padding="same"),
        case((2, 5, 5, 1), pool_size=2, strides=3, padding="same"),
        case(IMAGE_FIRST, pool_size=3, strides=2, padding="same", **FIRST),
    ],
    "global_max_pooling1d": [
        case(LINE, **DISTINCT),
        case(LINE, keepdims=True, **DISTINCT),
        case(LINE_FIRST, **FIRST, **DISTINCT),
        case(LINE, **TIED),
    ],
    "global_max_pooling2d": [
        case(IMAGE, **DISTINCT),
        case(IMAGE_FIRST, keepdims=True, **FIRST, **DISTINCT),
        case(IMAGE, keepdims=True, **TIED),
        case(IMAGE_FIRST, **FIRST, **TIED),
    ],
    "global_average_pooling1d": [case(LINE), case(LINE, keepdims=True), case(LINE_FIRST, **FIRST)],
    "global_average_pooling2d": [
        case(IMAGE),
        case(IMAGE, keepdims=True),
        case(IMAGE_FIRST, **FIRST),
        case(IMAGE_FIRST, keepdims=True, **FIRST),
    ],
}

NORMALIZATION: dict[str, list[Case]] = {
    "batch_normalization": [
        case((5, 3), **TRAINING),
        case((5, 3)),
        case((2, 3, 2, 2), **TRAINING, momentum=0.75, epsilon=0.125),
        case((2, 3, 2, 2), epsilon=0.125),
        case((2, 3, 4), axis=1, **TRAINING, momentum=0.5),
        case((2, 3, 4), axis=1),
        case((2, 3, 2, 2), axis=-3, **TRAINING),
        case((5, 3), center=False, **TRAINING),
        case((5, 3), scale=False, **TRAINING),
        case((5, 3), center=False, scale=False, **TRAINING),
        case((2, 4, 3), center=False, scale=False),
        case((2, 4, 3), scale=False),
        case((5, 3), unbiased_variance=True, **TRAINING),
        case((2, 3, 2, 2), axis=1, unbiased_variance=True, momentum=0.75, **TRAINING),
    ],
    "layer_normalization": [
        case((3, 4)),
        case((2, 3, 4), epsilon=0.125),
        case((2, 3, 4), axis=1),
        case((2, 3, 4), axis=[1, 2]),
        case((2, 2, 3, 2), axis=[-1, -3]),
        case((2, 2, 3, 2), axis=[2], center=False),
        case((3, 4), scale=False),
        case((3, 4), center=False, scale=False),
    ],
    "group_normalization": [
        case((2, 4), groups=2),
        case((2, 2, 2, 4), groups=2),
        case((2, 3, 4), groups=4, epsilon=0.125),
        case((2, 3, 4), groups=1),
        case((2, 4, 3), groups=2, axis=1),
        case((2, 2, 4, 2), groups=2, axis=-2),
        case((2, 3, 4), groups=2, center=False),
        case((2, 3, 4), groups=2, scale=False),
        case((1, 2, 32)),
    ],
    "rms_normalization": [
        case((3, 4)),
        case((2, 3, 4), epsilon=0.125),
        case((2, 3, 4), axis=1),
        case((2, 3, 4), axis=[1, 2]),
        case((2, 2, 3, 2), axis=[-2]),
    ],
}

SEQUENCE = (2, 4, 3)
STATE = (2, 2)
EVERY_STEP = {"return_sequences": True}


def recurrent_cases(name: str, states: int) -> list[Case]:
    """Return the cases of all recurrent layers, with `states` carried from step to step."""
    initial = [STATE] * states
    return [
        case(SEQUENCE, units=2),
        case(SEQUENCE, units=3, **EVERY_STEP),
        case(SEQUENCE, units=2, use_bias=False, **EVERY_STEP),
        case(SEQUENCE, units=2, go_backwards=True),
        case(SEQUENCE, units=2, go_backwards=True, **EVERY_STEP),
        case(SEQUENCE, *initial, units=2),
        case(SEQUENCE, *initial, units=2, go_backwards=True, **EVERY_STEP),
        case(SEQUENCE, units=2, activation="relu", **EVERY_STEP),
        case(SEQUENCE, units=2, activation="softsign"),
        case((2, 1, 3), units=2),
    ]


GATES = [
    case(SEQUENCE, units=2, recurrent_activation="hard_sigmoid", **EVERY_STEP),
    case(SEQUENCE, units=2, recurrent_activation="tanh", activation="sigmoid"),
]
BOTH_BIASES = [case(SEQUENCE, units=2, recurrent_bias=True, **EVERY_STEP)]
RECURRENT: dict[str, list[Case]] = {
    "simple_rnn": [*recurrent_cases("simple_rnn", 1), *BOTH_BIASES],
    "lstm": [*recurrent_cases("lstm", 2), *GATES, case(SEQUENCE, units=2, unit_forget_bias=False), *BOTH_BIASES],
    "gru": [
        *recurrent_cases("gru", 1),
        *GATES,
        case(SEQUENCE, units=2, reset_after=False),
        case(SEQUENCE, units=2, reset_after=False, **EVERY_STEP, go_backwards=True),
        case(SEQUENCE, units=2, reset_after=False, use_bias=False, **EVERY_STEP),
        case(SEQUENCE, STATE, units=2, reset_after=False, recurrent_activation="hard_sigmoid"),
    ],
    "bidirectional": [
        case(SEQUENCE, layer={"type": "simple_rnn", "units": 2}),
        case(SEQUENCE, layer={"type": "simple_rnn", "units": 2, **EVERY_STEP}, merge_mode="sum"),
        case(SEQUENCE, layer={"type": "lstm", "units": 2}, merge_mode="mul"),
        case(SEQUENCE, layer={"type": "lstm", "units": 2, **EVERY_STEP}, merge_mode="concat"),
        case(SEQUENCE, layer={"type": "lstm", "units": 2, "use_bias": False}, merge_mode="ave"),
        case(SEQUENCE, layer={"type": "gru", "units": 2, **EVERY_STEP}, merge_mode="mul"),
        case(SEQUENCE, layer={"type": "gru", "units": 2, "reset_after": False, **EVERY_STEP}, merge_mode="ave"),
        case(SEQUENCE, layer={"type": "gru", "units": 2, "activation": "softsign"}, merge_mode="sum"),
    ],
    "time_distributed": [
        case((2, 3, 4), layer={"type": "dense", "units": 2, "activation": "tanh"}),
        case((2, 2, 3, 2), layer={"type": "dense", "units": 3, "activation": "softmax", "use_bias": False}),
        case((2, 2, 3, 3, 1), layer={"type": "conv2d", "filters": 2, "kernel_size": 2, "activation": "relu"}),
        case((2, 2, 5, 2), layer={"type": "conv1d", "filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"}),
        case((2, 2, 4, 2), layer={"type": "max_pooling1d"}, **DISTINCT),
        case((2, 2, 3, 2), layer={"type": "flatten"}),
        case((2, 3, 4), layer={"type": "layer_normalization"}),
        case((2, 2, 3, 2), layer={"type": "lstm", "units": 2, **EVERY_STEP}),
        case((2, 3, 4), layer={"type": "batch_normalization"}),
        case((4, 2, 3), layer={"type": "batch_normalization", "momentum": 0.75}, **TRAINING),
    ],
}

MIXING: dict[str, list[Case]] = {
    "multi_head_attention": [
        case((2, 3, 4), num_heads=2, key_dim=2),
        case((2, 3, 4), num_heads=1, key_dim=3, value_dim=2, use_bias=False),
        case((2, 4, 3), num_heads=2, key_dim=2, use_causal_mask=True),
        case((2, 3, 4), (2, 2, 3), num_heads=2, key_dim=2, value_dim=3),
        case((2, 3, 4), (2, 2, 3), (2, 2, 5), num_heads=2, key_dim=2),
        case((2, 2, 3), (2, 4, 3), num_heads=2, key_dim=2, use_causal_mask=True),
        case((2, 3, 3), (2, 2, 2), (2, 2, 2), num_heads=2, key_dim=1, value_dim=2, output_shape=2),
        case((2, 3, 4), num_heads=3, key_dim=2, output_shape=[2], use_bias=False, use_causal_mask=True),
    ],
    "add": [case((2, 3), (2, 3)), case((2, 2, 3), (2, 2, 3), (2, 2, 3))],
    "multiply": [case((2, 3), (2, 3)), case((2, 2, 3), (2, 2, 3), (2, 2, 3))],
    "subtract": [case((2, 3), (2, 3)), case((2, 2, 3), (2, 2, 3))],
    "average": [case((2, 3), (2, 3)), case((2, 2, 3), (2, 2, 3), (2, 2, 3))],
    "maximum": [
        case((2, 3), (2, 3)),
        case((2, 2, 3), (2, 2, 3), (2, 2, 3)),
        case((4, 3), (4, 3), **TIED),
        case((5, 3), (5, 3), (5, 3), **TIED),
    ],
    "minimum": [
        case((2, 3), (2, 3)),
        case((2, 2, 3), (2, 2, 3), (2, 2, 3)),
        case((4, 3), (4, 3), **TIED),
        case((5, 3), (5, 3), (5, 3), **TIED),
    ],
    "concatenate": [
        case((2, 3), (2, 2)),
        case((2, 2, 3), (2, 1, 3), (2, 2, 3), axis=1),
        case((2, 2, 3), (2, 2, 1), axis=-1),
    ],
    "dot": [
        case((3, 4), (3, 4), axes=1),
        case((3, 4), (3, 4), axes=-1, normalize=True),
        case((2, 3, 4), (2, 2, 4), axes=2),
        case((2, 3, 4), (2, 3, 2), axes=1, normalize=True),
        case((2, 3, 4), (2, 4, 2), axes=[2, 1]),
        case((2, 3, 4), (2, 2, 4), axes=[-1, -1], normalize=True),
        case((2, 3, 4), (2, 3), axes=1),
        case((2, 4), (2, 3, 4), axes=[1, 2]),
        case((2, 2, 2, 3), (2, 3, 2), axes=[3, 1]),
    ],
}

SIMPLE: dict[str, list[Case]] = {
    "dense": [
        case((2, 3), units=2),
        case((2, 2, 3), units=2, activation="tanh"),
        case((2, 3), units=3, activation="softmax", use_bias=False),
        case((2, 3), units=2, activation={"type": "elu", "alpha": 0.5}),
    ],
    "maxout": [
        case((3, 4), units=2),
        case((3, 2, 4), units=2, pieces=3),
        case((3, 4), units=3, use_bias=False),
        case((3, 4), units=2, pieces=1),
        case((4, 2), units=3, pieces=3, **TIED),
    ],
    "embedding": [
        case((2, 3), input_dim=5, output_dim=2, draws=indices(5)),
        case((4, 1), input_dim=3, output_dim=3, draws=indices(3)),
        case((2, 2, 2), input_dim=4, output_dim=2, draws=indices(4)),
        case((3,), input_dim=4, output_dim=2, draws=indices(4)),
    ],
    "activation": [
        case((2, 3), activation="tanh"),
        case((2, 3), activation="softmax"),
        case((2, 2, 3), activation={"type": "leaky_relu", "alpha": 0.25}),
    ],
    "prelu": [case((3, 4)), case((2, 2, 3), shared_axes=[1]), case((2, 2, 2, 2), shared_axes=[1, 2])],
    "dropout": [case((2, 3), rate=0.5)],
    "spatial_dropout": [case((2, 2, 2, 2), rate=0.5), case((2, 2, 3), rate=0.5, **FIRST)],
    "spatial_dropout1d": [case((2, 3, 2), rate=0.25)],
    "spatial_dropout2d": [case((2, 2, 2, 2), rate=0.25, **FIRST)],
    "gaussian_noise": [case((2, 3), stddev=0.5)],
    "flatten": [case((2, 2, 3)), case((2, 2, 2, 2))],
    "reshape": [case((2, 2, 3), target_shape=[3, 2]), case((2, 12), target_shape=[2, -1, 3])],
    "permute": [case((2, 2, 3), dims=[2, 1]), case((2, 2, 3, 2), dims=[3, 1, 2]), case((2, 2, 3, 2), dims=[1, 3, 2])],
    "repeat_vector": [case((2, 3), n=3), case((2, 1), n=1)],
}

VOLUME, VOLUME_FIRST = (1, 3, 4, 3, 2), (1, 2, 3, 3, 4)
VOLUMES: dict[str, list[Case]] = {
    "conv3d": [
        case(VOLUME, filters=2, kernel_size=2),
        case(VOLUME, filters=2, kernel_size=[2, 3, 1], strides=2, padding="same", activation="tanh"),
        case((1, 3, 3, 3, 2), filters=2, kernel_size=2, dilation_rate=2, use_bias=False),
        case(VOLUME_FIRST, filters=2, kernel_size=2, groups=2, **FIRST),
    ],
    "conv3d_transpose": [
        case((1, 2, 2, 2, 2), filters=2, kernel_size=2, strides=2),
        case((1, 2, 2, 2, 1), filters=2, kernel_size=[3, 2, 2], strides=[2, 1, 2], padding="same", activation="tanh"),
        case((1, 2, 2, 1, 2), filters=1, kernel_size=2, strides=2, output_padding=1, **FIRST),
        case((1, 2, 1, 2, 1), filters=1, kernel_size=2, dilation_rate=[1, 2, 2], use_bias=False),
    ],
    "max_pooling3d": [
        case((1, 4, 4, 2, 2), **DISTINCT),
        case(VOLUME, pool_size=[2, 3, 2], strides=1, padding="same", **DISTINCT),
        case(VOLUME_FIRST, **FIRST, **TIED),
    ],
    "average_pooling3d": [
        case((1, 4, 4, 2, 2)),
        case(VOLUME, pool_size=[2, 3, 2], strides=1, padding="same"),
        case(VOLUME_FIRST, **FIRST),
    ],
    "global_max_pooling3d": [case(VOLUME, **DISTINCT), case(VOLUME_FIRST, keepdims=True, **FIRST, **DISTINCT)],
    "global_average_pooling3d": [case(VOLUME), case(VOLUME_FIRST, keepdims=True, **FIRST)],
    "zero_padding3d": [
        case((1, 1, 2, 2, 1)),
        case((1, 1, 2, 2, 1), padding=[0, 2, 1]),
        case((1, 1, 2, 1, 2), padding=[[0, 1], [2, 1], [1, 0]], **FIRST),
    ],
    "cropping3d": [
        case((1, 3, 4, 3, 1)),
        case((1, 3, 4, 3, 1), cropping=[0, 1, 1]),
        case((1, 2, 3, 4, 3), cropping=[[0, 1], [2, 1], [1, 0]], **FIRST),
    ],
    "up_sampling3d": [case((1, 2, 1, 2, 1)), case((1, 1, 2, 1, 2), size=[1, 3, 2], **FIRST)],
    "spatial_dropout3d": [case((1, 2, 2, 2, 2), rate=0.25)],
}

SEQUENCES: dict[str, list[Case]] = {
    "depthwise_conv1d": [
        case(LINE, kernel_size=3),
        case(LINE, kernel_size=2, depth_multiplier=2, strides=2, padding="same", activation="tanh"),
        case(LINE_FIRST, kernel_size=2, dilation_rate=2, use_bias=False, **FIRST),
    ],
    "separable_conv1d": [
        case(LINE, filters=3, kernel_size=3),
        case(LINE, filters=2, kernel_size=2, depth_multiplier=2, strides=2, padding="same", activation="tanh"),
        case(LINE_FIRST, filters=2, kernel_size=2, dilation_rate=2, use_bias=False, **FIRST),
    ],
    "conv1d_transpose": [
        case((2, 3, 2), filters=3, kernel_size=3),
        case((2, 3, 2), filters=2, kernel_size=3, strides=2, padding="same", activation="tanh"),
        case((2, 3, 2), filters=2, kernel_size=3, strides=2, output_padding=1),
        case((2, 2, 3), filters=2, kernel_size=2, dilation_rate=2, use_bias=False, **FIRST),
    ],
    "zero_padding1d": [case((2, 2, 2)), case((2, 2, 2), padding=[0, 2]), case((2, 2, 2), padding=2, **FIRST)],
    "cropping1d": [case((2, 4, 2)), case((2, 4, 2), cropping=[0, 2]), case((2, 2, 5), cropping=2, **FIRST)],
    "up_sampling1d": [case((2, 2, 2)), case((2, 2, 2), size=3)],
}

IMPORTED: dict[str, list[Case]] = {
    "separable_conv2d": [
        case(IMAGE, filters=3, kernel_size=3),
        case(IMAGE, filters=2, kernel_size=[2, 3], depth_multiplier=2, strides=2, padding="same", activation="tanh"),
        case(IMAGE_FIRST, filters=2, kernel_size=2, dilation_rate=2, use_bias=False, **FIRST),
    ],
    "cropping2d": [
        case((2, 4, 3, 2)),
        case((2, 4, 3, 2), cropping=1),
        case((2, 4, 3, 2), cropping=[[0, 2], [1, 0]]),
        case((2, 2, 4, 3), cropping=[1, 0], **FIRST),
    ],
    "unit_normalization": [case((3, 4)), case((2, 3, 4), axis=1), case((2, 3, 4), axis=[1, 2])],
    "rescaling": [case((2, 3)), case((2, 3), scale=0.5, offset=-1.0), case((2, 2, 2), scale=[0.5, 2.0], offset=[1.0])],
    "attention": [
        case((2, 3, 4), (2, 2, 4)),
        case((2, 3, 4), (2, 2, 3), (2, 2, 4), use_scale=True),
        case((2, 3, 4), (2, 3, 4), use_causal_mask=True),
        case((2, 3, 4), (2, 2, 4), score_mode="concat"),
        case((2, 3, 4), (2, 2, 4), score_mode="concat", use_scale=True, use_causal_mask=True),
    ],
    "additive_attention": [
        case((2, 3, 4), (2, 2, 4)),
        case((2, 3, 4), (2, 2, 3), (2, 2, 4), use_scale=False),
        case((2, 3, 4), (2, 3, 4), use_causal_mask=True),
    ],
    "gaussian_dropout": [case((2, 3), rate=0.25)],
    "alpha_dropout": [case((2, 3), rate=0.25)],
}

FAMILIES = {
    "convolution": CONVOLUTION,
    "resizing": RESIZING,
    "pooling": POOLING,
    "normalization": NORMALIZATION,
    "recurrent": RECURRENT,
    "mixing": MIXING,
    "simple": SIMPLE,
    "volumes": VOLUMES,
    "sequences": SEQUENCES,
    "imported": IMPORTED,
}


def derivative_along(gradients: list[Tensor], targets: list[Tensor], directions: list[Tensor]) -> list[Tensor]:
    """Return the derivative of the gradients along the directions of their targets."""
    along = sum(((g * d).sum() for g, d in zip(gradients, directions, strict=True)), torch.zeros(()))
    if not along.requires_grad:
        return [torch.zeros_like(target) for target in targets]
    found = torch.autograd.grad(along, targets, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(found, targets, strict=True)]


def record_layer(kind: str, position: int, options: dict[str, Any], shapes: list[Shape], details: Any) -> Any:
    rng = np.random.default_rng([zlib.crc32(kind.encode()), position])
    drawn = details["draws"] if isinstance(details["draws"], tuple) else (details["draws"],) * len(shapes)
    inputs = [torch.from_numpy(draw(shape, rng)) for draw, shape in zip(drawn, shapes, strict=True)]
    moved = [x.requires_grad_() for x in inputs if x.is_floating_point()]
    # Tied inputs of maxout need tied weights.
    layer = Layer(options, details["training"], rng, draw=tied if drawn[0] is tied else weights)
    outputs = FORMULAS[kind](layer, *inputs)
    cotangent = torch.from_numpy(numbers(tuple(outputs.shape), rng))

    names = [name for name, array in layer.parameters.items() if array.requires_grad]
    targets = [*(layer.parameters[name] for name in names), *moved]
    directions = [torch.from_numpy(np.asarray(numbers(tuple(target.shape), rng))) for target in targets]
    gradients = list(torch.autograd.grad((outputs * cotangent).sum(), targets, create_graph=True))
    second = derivative_along(gradients, targets, directions)

    def of_inputs(found: list[Tensor]) -> list[Any]:
        waiting = iter(found[len(names) :])
        return [sorted_out(next(waiting)) if x.is_floating_point() else None for x in inputs]

    def of_parameters(found: list[Tensor]) -> dict[str, Any]:
        return dict(zip(names, map(sorted_out, found[: len(names)]), strict=True))

    return {
        "type": kind,
        "options": options,
        "inputs": [sorted_out(x) for x in inputs],
        "training": details["training"],
        "parameters": {name: sorted_out(array) for name, array in layer.parameters.items()},
        "outputs": sorted_out(outputs),
        "cotangent": sorted_out(cotangent),
        "gradients": of_parameters(gradients),
        "input_gradients": of_inputs(gradients),
        "directions": {"parameters": of_parameters(directions), "inputs": of_inputs(directions)},
        "second": {"parameters": of_parameters(second), "inputs": of_inputs(second)},
        "ties": tied in drawn,
        **({"state": {name: sorted_out(array) for name, array in layer.state.items()}} if layer.state else {}),
    }


def record_family(cases: dict[str, list[Case]]) -> list[dict[str, Any]]:
    return [record_layer(kind, k, *details) for kind, all_of_it in cases.items() for k, details in enumerate(all_of_it)]


# --- whole networks -----------------------------------------------------------------------------


def real(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return np.round(rng.standard_normal(shape) * 4.0) / 4.0


def hot(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return np.eye(shape[-1])[rng.integers(shape[-1], size=shape[:-1])]


def bits(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return rng.choice([0.0, 1.0], shape)


def classes(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(shape[-1], size=shape[:-1])


def one(kind: str, **options: Any) -> dict[str, Any]:
    return {"type": kind, **options}


# Layers are written in the order they are computed. Targets are drawn by output.
NETWORKS: dict[str, dict[str, Any]] = {
    "a small convolutional classifier": {
        "network": {
            "layers": [
                one("conv2d", name="c1", filters=2, kernel_size=3, padding="same", activation="tanh"),
                one("average_pooling2d", name="s2"),
                one("conv2d", name="c3", filters=3, kernel_size=2, activation="relu"),
                one("max_pooling2d", name="s4", pool_size=2, strides=1),
                one("flatten", name="f"),
                one("dense", name="d5", units=4, activation="elu"),
                one("dense", name="d6", units=3, activation="softmax"),
            ]
        },
        "inputs": {"input": ((3, 8, 7, 1), numbers)},
        "targets": {"d6": hot},
        "loss": "categorical_crossentropy",
    },
    "words to classes": {
        "network": {
            "layers": [
                one("embedding", name="words", input_dim=6, output_dim=3),
                one(
                    "lstm",
                    name="read",
                    units=3,
                    return_sequences=True,
                    recurrent_regularizer={"type": "l2", "l2": 0.125},
                ),
                one("lstm", name="sum_up", units=2),
                one("dense", name="class", units=3, activation="softmax"),
            ]
        },
        "inputs": {"input": ((4, 5), indices(6))},
        "targets": {"class": classes},
        "loss": "sparse_categorical_crossentropy",
    },
    "a transformer block": {
        "network": {
            "layers": [
                one("multi_head_attention", name="attend", num_heads=2, key_dim=2, use_causal_mask=True),
                one("add", name="a", inputs=["input", "attend"]),
                one("layer_normalization", name="n1"),
                one("dense", name="wide", units=6, activation="gelu"),
                one("dense", name="narrow", units=4),
                one("add", name="b", inputs=["n1", "narrow"]),
                one("layer_normalization", name="n2", epsilon=1e-5),
            ]
        },
        "inputs": {"input": ((2, 3, 4), numbers)},
        "targets": {"n2": real},
        "loss": "mean_squared_error",
    },
    "a residual block in training": {
        "network": {
            "layers": [
                one("conv2d", name="c1", inputs=["input"], filters=2, kernel_size=3, padding="same", use_bias=False),
                one("batch_normalization", name="n1", momentum=0.75),
                one("activation", name="r1", activation="softplus"),
                one("conv2d", name="c2", filters=2, kernel_size=3, padding="same", use_bias=False),
                one("batch_normalization", name="n2"),
                one("add", name="sum", inputs=["n2", "input"]),
                one("activation", name="r2", activation="relu"),
                one("global_average_pooling2d", name="pool"),
                one("dense", name="out", units=1, activation="sigmoid"),
            ]
        },
        "inputs": {"input": ((3, 4, 4, 2), numbers)},
        "targets": {"out": bits},
        "loss": "binary_crossentropy",
        "training": True,
    },
    "two inputs, two outputs": {
        "network": {
            "inputs": ["image", "text"],
            "layers": [
                one("depthwise_conv2d", name="see", inputs=["image"], kernel_size=2, depth_multiplier=2),
                one("global_max_pooling2d", name="seen"),
                one("embedding", name="words", inputs=["text"], input_dim=5, output_dim=3),
                one("gru", name="said", units=4),
                one("concatenate", name="both", inputs=["seen", "said"]),
                one("dense", name="kind", inputs=["both"], units=3, activation="softmax"),
                one("multiply", name="joint", inputs=["seen", "said"]),
                one("dense", name="value", inputs=["joint"], units=2),
            ],
            "outputs": ["kind", "value"],
        },
        "inputs": {"image": ((3, 3, 4, 2), numbers), "text": ((3, 4), indices(5))},
        "targets": {"kind": classes, "value": real},
        "loss": {"kind": "sparse_categorical_crossentropy", "value": {"type": "huber", "delta": 0.5}},
        "loss_weights": {"kind": 0.75, "value": 2.0},
    },
    "twins with tied weights": {
        "network": {
            "inputs": ["left", "right"],
            "layers": [
                one(
                    "conv1d", name="one", inputs=["left"], filters=3, kernel_size=2, padding="causal", activation="tanh"
                ),
                one("simple_rnn", name="one_end", units=3),
                one(
                    "conv1d",
                    name="other",
                    inputs=["right"],
                    filters=3,
                    kernel_size=2,
                    padding="causal",
                    activation="tanh",
                    shares="one",
                ),
                one("simple_rnn", name="other_end", units=3, shares="one_end"),
                one("dot", name="alike", inputs=["one_end", "other_end"], axes=1, normalize=True),
                one("subtract", name="apart", inputs=["one_end", "other_end"]),
                one("concatenate", name="both", inputs=["alike", "apart"]),
                one("dense", name="out", units=1, activation="sigmoid"),
            ],
        },
        "inputs": {"left": ((3, 4, 2), numbers), "right": ((3, 5, 2), numbers)},
        "targets": {"out": bits},
        "loss": "binary_crossentropy",
    },
    "a tagger that reads both ways": {
        "network": {
            "layers": [
                one("embedding", name="words", input_dim=6, output_dim=3),
                one("bidirectional", name="read", layer=one("gru", units=2, return_sequences=True)),
                one("time_distributed", name="tag", layer=one("dense", units=3, activation="softmax")),
            ]
        },
        "inputs": {"input": ((3, 4), indices(6))},
        "targets": {"tag": classes},
        "loss": "sparse_categorical_crossentropy",
    },
    "an autoencoder of images": {
        "network": {
            "layers": [
                one("conv2d", name="in", filters=4, kernel_size=3, strides=2, padding="same"),
                one("group_normalization", name="norm", groups=2),
                one("activation", name="bend", activation="silu"),
                one("conv2d_transpose", name="out", filters=1, kernel_size=3, strides=2, padding="same"),
                one("up_sampling2d", name="up", size=[1, 2], interpolation="bilinear"),
            ]
        },
        "inputs": {"input": ((2, 4, 4, 1), numbers)},
        "targets": {"up": real},
        "loss": "mean_absolute_error",
    },
    "sequences to sequences": {
        "network": {
            "inputs": ["source", "target"],
            "layers": [
                one("gru", name="encode", inputs=["source"], units=3),
                one("maxout", name="state", units=3, pieces=2),
                one("lstm", name="decode", inputs=["target", "state", "encode"], units=3, return_sequences=True),
                one("multi_head_attention", name="look", inputs=["decode", "source"], num_heads=2, key_dim=2),
                one("average", name="mix", inputs=["decode", "look"]),
                one("rms_normalization", name="norm"),
                one("dense", name="out", units=2, activation="tanh"),
            ],
        },
        "inputs": {"source": ((2, 4, 2), numbers), "target": ((2, 3, 2), numbers)},
        "targets": {"out": real},
        "loss": "mean_squared_error",
    },
}
COMMON = {"type", "name", "inputs", "shares", "trainable"}


def run_network(
    spec: dict[str, Any], inputs: dict[str, Tensor], layers: dict[str, Layer], rng: Any
) -> dict[str, Tensor]:
    """Return the output of every layer, and fill `layers`; a layer that shares has another one's parameters."""
    found = dict(inputs)
    before = next(iter(inputs))
    for each_of_them in spec["network"]["layers"]:
        name, shared = each_of_them["name"], each_of_them.get("shares")
        own = {key: value for key, value in each_of_them.items() if key not in COMMON}
        parameters = layers[shared].parameters if shared else {}
        layers[name] = Layer(own, spec.get("training", False), rng, parameters)
        names = each_of_them.get("inputs", [before])
        found[name] = FORMULAS[each_of_them["type"]](layers[name], *(found[source] for source in names))
        before = name
    return found


def loss_of(chosen: Any, output: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss over the samples, given outputs that are not saturated."""
    chosen = {"type": chosen} if isinstance(chosen, str) else dict(chosen)
    name = chosen.pop("type")
    return LOSSES[name](output, target, "linear", **losses.select(name, **chosen).options).mean()


def penalty_of(spec: dict[str, Any], layers: dict[str, Layer]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for layer in spec["network"]["layers"]:
        for option, chosen in layer.items():
            if option.endswith("_regularizer"):
                part = option.removesuffix("_regularizer")
                part = f"{part}_kernel" if part == "recurrent" else part
                options = {key: value for key, value in chosen.items() if key != "type"}
                selected = regularizers.select(chosen["type"], **options)
                total = total + REGULARIZERS[chosen["type"]](layers[layer["name"]].parameters[part], **selected.options)
    return total


def record_network(title: str, spec: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    inputs = {name: torch.from_numpy(draw(shape, rng)) for name, (shape, draw) in spec["inputs"].items()}
    layers: dict[str, Layer] = {}
    found = run_network(spec, inputs, layers, rng)
    names = spec["network"].get("outputs", [spec["network"]["layers"][-1]["name"]])
    targets = {name: torch.from_numpy(spec["targets"][name](tuple(found[name].shape), rng)) for name in names}
    chosen = spec["loss"] if isinstance(spec["loss"], dict) and "type" not in spec["loss"] else None
    each_loss = {name: loss_of(chosen[name] if chosen else spec["loss"], found[name], targets[name]) for name in names}
    shares = spec.get("loss_weights", {})
    loss = sum(share * each_loss[name] for name, share in ((name, shares.get(name, 1.0)) for name in names))
    loss = loss + penalty_of(spec, layers)

    owners = [each["name"] for each in spec["network"]["layers"] if "shares" not in each]
    trees = {owner: layers[owner].parameters for owner in owners if layers[owner].parameters}
    places = [(owner, name) for owner, own in trees.items() for name, array in own.items() if array.requires_grad]
    gradients: dict[str, dict[str, Any]] = {}
    arrays = torch.autograd.grad(loss, [trees[owner][name] for owner, name in places])
    for (owner, name), gradient in zip(places, arrays, strict=True):
        gradients.setdefault(owner, {})[name] = sorted_out(gradient)
    state = {name: layer.state for name, layer in layers.items() if layer.state}
    several = "inputs" in spec["network"]
    return {
        "title": title,
        "network": spec["network"],
        "inputs": {name: sorted_out(x) for name, x in inputs.items()} if several else sorted_out(inputs["input"]),
        "targets": {name: sorted_out(x) for name, x in targets.items()},
        "loss": spec["loss"],
        "loss_weights": spec.get("loss_weights"),
        "training": spec.get("training", False),
        "parameters": {owner: {name: sorted_out(x) for name, x in own.items()} for owner, own in trees.items()},
        "loss_value": loss.item(),
        "losses": {name: value.item() for name, value in each_loss.items()},
        "gradients": gradients,
        "outputs": {name: sorted_out(found[name]) for name in names},
        "state": {name: {key: sorted_out(x) for key, x in own.items()} for name, own in state.items()},
    }


def record_networks() -> list[dict[str, Any]]:
    return [
        record_network(title, spec, np.random.default_rng([4, k])) for k, (title, spec) in enumerate(NETWORKS.items())
    ]


# --- files --------------------------------------------------------------------------------------


def main() -> None:
    torch.set_num_threads(1)
    check_recurrent_formulas()
    recorded = {f"layers_{family}": ("layers", record_family(cases)) for family, cases in FAMILIES.items()}
    recorded["layer_networks"] = ("networks", record_networks())
    facts = {"torch": torch.__version__, "differences": DIFFERENCES}
    written = sum(write(f"pytorch/{name}.json", key, records, **facts) for name, (key, records) in recorded.items())
    assert written < LARGEST_TOTAL


if __name__ == "__main__":
    main()
