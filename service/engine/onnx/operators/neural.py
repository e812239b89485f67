"""ONNX operators of neural networks: convolution, pooling, normalization and resizing, with the channels on axis 1.

This is one module because it is one list of declarations that share their helpers for windows and channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product as every

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import operations
from service.engine.graph.ir import Node, Shape
from service.engine.graph.operations import (
    Sliding,
    absolute,
    broadcast,
    concatenate,
    largest,
    overlap_add,
    reshape,
    slice_axis,
    sqrt,
    square,
    sum_over,
    table,
    transpose,
    windows,
)
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import axis_of, keep, move, padded, sum_product, take
from service.engine.onnx.registry import operator
from service.engine.onnx.values import Value

MOST_WINDOW = 2**16
"""The largest number of elements of one window."""


def _window(call: Call, spatial: Shape, kernel: Sequence[int], *, ceil: bool = False) -> Sliding:
    """Return how a window slides over axes 2, 3, … of `(c, n, *spatial)`, by the attributes of the node."""
    count = len(spatial)
    strides = call.integers("strides", [1] * count)
    dilations = call.integers("dilations", [1] * count)
    if len(kernel) != count or len(strides) != count or len(dilations) != count:
        call.refuse(f"has a window of {len(kernel)} axes for {count} spatial axes")
    if any(n < 1 for n in (*kernel, *strides, *dilations)) or math.prod(kernel) > MOST_WINDOW:
        call.refuse(f"a window of {list(kernel)} with strides {strides} and dilations {dilations} is not computed")
    pads = _pads(call, spatial, kernel, strides, dilations)
    if ceil:
        grown = []
        for n, size, stride, dilation, (low, high) in zip(spatial, kernel, strides, dilations, pads, strict=True):
            extent = (size - 1) * dilation + 1
            positions = -(-(n + low + high - extent) // stride) + 1
            if (positions - 1) * stride >= n + low:
                positions -= 1  # no window may begin in the padding after the end
            grown.append((low, max(high, (positions - 1) * stride + extent - n - low)))
        pads = grown
    sliding = Sliding(0, tuple(range(2, 2 + count)), tuple(kernel), tuple(strides), tuple(dilations), tuple(pads))
    if any(position < 1 for position in sliding.positions((1, 1, *spatial))):
        call.refuse(f"a window of {list(kernel)} does not fit into {list(spatial)}")
    if any(low < 0 or high < 0 for low, high in pads):
        call.refuse("negative pads are not read")
    return sliding


def _pads(
    call: Call, spatial: Shape, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial axis, by the attributes of the node."""
    kind, count = call.word("auto_pad", "NOTSET"), len(spatial)
    if kind == "VALID":
        return [(0, 0)] * count
    if kind.startswith("SAME"):
        pads = []
        for n, size, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
            total = max((-(-n // stride) - 1) * stride + (size - 1) * dilation + 1 - n, 0)
            small, large = total // 2, total - total // 2
            pads.append((small, large) if kind == "SAME_UPPER" else (large, small))
        return pads
    given = call.integers("pads", [0] * 2 * count)
    if len(given) != 2 * count or any(abs(n) > 2**20 for n in given):
        call.refuse(f"has pads {given[:8]} for {count} spatial axes")
    return list(zip(given[:count], given[count:], strict=True))


def _spatial_of(call: Call, x: Node) -> Shape:
    """Return the spatial part of the shape of x. Refuse x without spatial axes."""
    if len(x.shape) < 3:
        call.refuse(f"takes samples, channels and at least one more axis, got shape {list(x.shape)}")
    return x.shape[2:]


def convolve(call: Call, node: Node, kernel: Node, groups: int) -> Node:
    """Return the convolution of x `(n, c, *s)` with a kernel `(o, c / groups, *k)`, of shape `(n, o, *p)`."""
    samples, channels = node.shape[:2]
    spatial = _spatial_of(call, node)
    outputs, inner = kernel.shape[:2]
    if groups < 1 or channels != inner * groups or outputs % groups:
        call.refuse(f"a kernel of shape {list(kernel.shape)} in {groups} groups does not fit {channels} channels")
    sliding = _window(call, spatial, kernel.shape[2:])
    positions = sliding.positions((1, 1, *spatial))
    columns_count = samples * math.prod(positions)
    field = math.prod(kernel.shape[2:]) * inner
    # The axes of the window come first in memory, so a kernel (o, c, *k) becomes (o, *k, c).
    turned = transpose(kernel, (0, *range(2, len(kernel.shape)), 1))
    moved = transpose(node, (1, 0, *range(2, len(node.shape))))
    if groups == 1:
        columns = reshape(windows(moved, sliding), (field, columns_count))
        y = reshape(turned, (outputs, field)) @ columns
    else:
        split = reshape(moved, (groups, inner, samples, *spatial))
        columns = reshape(windows(split, sliding.batched()), (groups, field, columns_count))
        y = reshape(turned, (groups, outputs // groups, field)) @ columns
    y = reshape(y, (outputs, samples, *positions))
    return transpose(y, (1, 0, *range(2, len(y.shape))))


def _with_bias(call: Call, y: Node, bias: Value | None) -> Node:
    """Return y with a bias added to each channel, if there is a bias."""
    if bias is None:
        return y
    return y + broadcast(per_channel(call, call.x(bias), len(y.shape)), y.shape)


def per_channel(call: Call, x: Node, rank: int) -> Node:
    """Return a vector with one number per channel, shaped for broadcasting over `(n, c, *s)`."""
    if len(x.shape) != 1:
        call.refuse(f"takes one number for each channel, got shape {list(x.shape)}")
    return reshape(x, (1, x.size, *[1] * (rank - 2)))


@operator("Conv")
def conv(call: Call, x: Value, kernel: Value, bias: Value | None = None) -> Node:
    """Build Conv: return the convolution of x, plus the bias."""
    return _with_bias(call, convolve(call, call.x(x), call.x(kernel), call.integer("group", 1)), bias)


@operator("ConvTranspose")
def conv_transpose(call: Call, x: Value, kernel: Value, bias: Value | None = None) -> Node:
    """Build ConvTranspose: return the transposed convolution of x, plus the bias."""
    node, weights = call.x(x), call.x(kernel)
    samples, channels = node.shape[:2]
    spatial = _spatial_of(call, node)
    groups, window, count = call.integer("group", 1), weights.shape[2:], len(spatial)
    inner, outputs = channels // max(1, groups), weights.shape[1]
    if weights.shape[0] != channels or channels % groups or len(window) != count:
        call.refuse(f"a kernel of shape {list(weights.shape)} does not fit {channels} channels in {groups} groups")
    strides, dilations = call.integers("strides", [1] * count), call.integers("dilations", [1] * count)
    more = call.integers("output_padding", [0] * count)
    kind = call.word("auto_pad", "NOTSET")
    given = call.integers("pads", [0] * 2 * count)
    wanted = call.integers("output_shape")[-count:]
    lengths, pads = [], []
    for axis, (n, size, stride, dilation) in enumerate(zip(spatial, window, strides, dilations, strict=True)):
        full = (n - 1) * stride + (size - 1) * dilation + 1
        if wanted or kind.startswith("SAME"):
            length = wanted[axis] if wanted else n * stride
            total = max(full + more[axis] - length, 0)
            small, large = total // 2, total - total // 2
            low = small if kind != "SAME_LOWER" else large
            if kind == "NOTSET":
                low = small
        else:
            low, high = (0, 0) if kind == "VALID" else (given[axis], given[axis + count])
            length = full + more[axis] - low - high
        if length < 1 or low < 0:
            call.refuse("nothing would be left of the output")
        lengths.append(length)
        # The numbers of elements cut off the full result. A negative number at the end adds zeros there.
        pads.append((low, full - low - length))
    extended = [max(0, -high) for _, high in pads]
    sliding = Sliding(
        0,
        tuple(range(2, 2 + count)),
        window,
        tuple(strides),
        tuple(dilations),
        tuple((low, max(0, high)) for low, high in pads),
    )
    turned = transpose(weights, (0, *range(2, len(weights.shape)), 1))  # (c, *k, o)
    field = math.prod(window) * outputs
    rows = reshape(transpose(node, (1, 0, *range(2, len(node.shape)))), (channels, node.size // channels))
    inside = tuple(length - longer for length, longer in zip(lengths, extended, strict=True))
    parts = []
    for group in range(groups):
        own = reshape(slice_axis(turned, 0, group * inner, (group + 1) * inner), (inner, field))
        columns = transpose(own) @ slice_axis(rows, 0, group * inner, (group + 1) * inner)
        spread = reshape(columns, (*window, outputs, samples, *spatial))
        parts.append(overlap_add(spread, sliding, (outputs, samples, *inside)))
    y = transpose(concatenate(parts, 0), (1, 0, *range(2, 2 + count)))
    y = padded(y, [(0, 0), (0, 0), *((0, longer) for longer in extended)])
    return _with_bias(call, y, bias)


# --- pooling ------------------------------------------------------------------------------------


def _gathered(call: Call, node: Node, fill: float) -> tuple[Node, Sliding, int]:
    """Return all windows of `(n, c, *s)`, how they slide, and the number of axes of a window.

    The axes of the window come first. Padding has the value `fill`.
    """
    spatial = _spatial_of(call, node)
    sliding = _window(call, spatial, call.integers("kernel_shape"), ceil=bool(call.integer("ceil_mode")))
    return windows(node, sliding, fill), sliding, len(spatial)


@operator("MaxPool")
def max_pool(call: Call, x: Value) -> Node:
    """Build MaxPool: return the largest element of each window."""
    if call.wants(1):
        call.refuse("the places of the largest elements are integers, which are not given; leave that output out")
    gathered, _, count = _gathered(call, call.x(x), -math.inf)
    return largest(gathered, range(count))


@operator("AveragePool")
def average_pool(call: Call, x: Value) -> Node:
    """Build AveragePool: return the mean of each window."""
    gathered, sliding, count = _gathered(call, call.x(x), 0.0)
    total = sum_over(gathered, range(count))
    if call.integer("count_include_pad"):
        # The padding that only ceil_mode adds is not counted.
        declared = _pads(call, x.shape[2:], sliding.sizes, sliding.strides, sliding.dilations)
        inside = np.pad(np.ones(x.shape[2:]), declared, constant_values=1.0)
        more = [(0, max(0, high - wide)) for (_, high), (_, wide) in zip(sliding.padding, declared, strict=True)]
        counts = _window_sums(np.pad(inside, more), sliding._replace(padding=((0, 0),) * count))
    else:
        counts = _window_sums(np.pad(np.ones(x.shape[2:]), sliding.padding), sliding._replace(
            padding=((0, 0),) * count))  # fmt: skip
    return total / broadcast(table(call.graph, np.maximum(counts, 1.0)), total.shape)


def _window_sums(inside: Array, sliding: Sliding) -> Array:
    """Return the number of ones that each window of `inside` holds."""
    positions = sliding.positions((1, 1, *inside.shape))
    total = np.zeros(positions)
    for offset in every(*map(range, sliding.sizes)):
        index = tuple(
            slice(o * dilation, o * dilation + (p - 1) * stride + 1, stride)
            for o, dilation, stride, p in zip(offset, sliding.dilations, sliding.strides, positions, strict=True)
        )
        total += inside[index]
    return total


@operator("LpPool")
def lp_pool(call: Call, x: Value) -> Node:
    """Build LpPool: return the p-norm of each window."""
    gathered, _, count = _gathered(call, call.x(x), 0.0)
    return _norm(gathered, range(count), call.integer("p", 2))


def _norm(x: Node, axes: Sequence[int], p: int) -> Node:
    """Return the p-norm of x over axes, without these axes."""
    if p == 1:
        return sum_over(absolute(x), axes)
    if p == 2:
        return sqrt(sum_over(square(x), axes))
    powers = operations.power(absolute(x), x.graph.constant(float(p)))
    return operations.power(sum_over(powers, axes), x.graph.constant(1.0 / p))


def _spatial(x: Node) -> list[int]:
    """Return the spatial axes of x."""
    return list(range(2, len(x.shape)))


@operator("GlobalAveragePool")
def global_average_pool(call: Call, x: Value) -> Node:
    """Build GlobalAveragePool: return the mean of each channel."""
    node = call.x(x)
    axes = _spatial(node)
    return keep(sum_over(node, axes) / float(math.prod(node.shape[2:])), node.shape, axes)


@operator("GlobalMaxPool")
def global_max_pool(call: Call, x: Value) -> Node:
    """Build GlobalMaxPool: return the largest element of each channel."""
    node = call.x(x)
    return keep(largest(node, _spatial(node)), node.shape, _spatial(node))


@operator("GlobalLpPool")
def global_lp_pool(call: Call, x: Value) -> Node:
    """Build GlobalLpPool: return the p-norm of each channel."""
    node = call.x(x)
    return keep(_norm(node, _spatial(node), call.integer("p", 2)), node.shape, _spatial(node))


@operator("MaxUnpool", static=(1, 2), integers=True)
def max_unpool(call: Call, x: Value, places: Value, shape: Value | None = None) -> Node:
    """Build MaxUnpool: return zeros with the elements of x at the places from which MaxPool took them."""
    node = call.x(x)
    spatial = _spatial_of(call, node)
    kernel = call.integers("kernel_shape")
    count = len(spatial)
    strides, pads = call.integers("strides", [1] * count), call.integers("pads", [0] * 2 * count)
    usual = [
        (n - 1) * stride - pads[k] - pads[k + count] + size
        for k, (n, stride, size) in enumerate(zip(spatial, strides, kernel, strict=True))
    ]
    whole = tuple(call.ints(shape, "the shape")) if shape is not None else (*node.shape[:2], *usual)
    flat = np.array(call.known(places, "the places")).astype(np.int64).reshape(-1)
    if shape is not None and list(whole[2:]) != usual:
        # The places count elements of the result of the default shape.
        at = np.stack(np.unravel_index(flat, (*node.shape[:2], *usual)))
        flat = np.ravel_multi_index(tuple(at), whole)
    call.bounded(whole)
    from service.engine.onnx.composing import spread

    return reshape(spread(reshape(node, (node.size,)), flat, math.prod(whole)), whole)


@operator("Col2Im", static=(1, 2))
def col2im(call: Call, x: Value, image: Value, block: Value) -> Node:
    """Build Col2Im: return images as the sums of their overlapping blocks."""
    node = call.x(x)
    lengths, kernel = tuple(call.ints(image, "the shape")), tuple(call.ints(block, "the block"))
    samples, packed, _ = node.shape
    channels = packed // math.prod(kernel)
    sliding = _window(call, call.bounded(lengths), kernel)
    positions = sliding.positions((1, 1, *lengths))
    split = reshape(node, (samples, channels, *kernel, *positions))
    count = len(kernel)
    turned = transpose(split, (*range(2, 2 + count), 1, 0, *range(2 + count, 2 + 2 * count)))
    return transpose(overlap_add(turned, sliding, (channels, samples, *lengths)), (1, 0, *range(2, 2 + count)))


# --- normalization ------------------------------------------------------------------------------


def normalized(x: Node, axes: Sequence[int], epsilon: float) -> tuple[Node, Node, Node]:
    """Return x with mean 0 and variance 1 over some axes, the mean, and the inverse standard deviation.

    Mean and deviation keep these axes at length 1.
    """
    count = float(math.prod(x.shape[axis] for axis in axes))
    mean = keep(sum_over(x, axes) / count, x.shape, axes)
    centered = x - broadcast(mean, x.shape)
    variance = keep(sum_over(square(centered), axes) / count, x.shape, axes)
    inverse = 1.0 / sqrt(variance + epsilon)
    return centered * broadcast(inverse, x.shape), mean, inverse


@operator("BatchNormalization")
def batch_normalization(
    call: Call, x: Value, scale: Value, bias: Value, mean: Value, variance: Value
) -> list[Node | None]:
    """Build BatchNormalization: return normalized x, and in training mode the new running mean and variance."""
    node = call.x(x)
    rank = len(node.shape)
    epsilon = call.number("epsilon", 1e-5)
    gamma, beta = (broadcast(per_channel(call, call.x(each), rank), node.shape) for each in (scale, bias))
    if call.version < 7 and not call.integer("is_test"):
        call.refuse("is in training mode; export the model for inference (model.eval())")
    if call.integer("training_mode"):
        axes = [axis for axis in range(rank) if axis != 1]
        y, own_mean, inverse = normalized(node, axes, epsilon)
        momentum = call.number("momentum", 0.9)
        spread = 1.0 / square(inverse) - epsilon
        running = [
            call.x(old) * momentum + reshape(new, old.shape) * (1.0 - momentum)
            for old, new in ((mean, own_mean), (variance, spread))
        ]
        return [y * gamma + beta, *running]
    if not call.integer("spatial", 1):
        call.refuse("statistics for each element (spatial=0) are not read")
    own_mean, spread = (per_channel(call, call.x(each), rank) for each in (mean, variance))
    inverse = 1.0 / sqrt(spread + epsilon)
    return [(node - broadcast(own_mean, node.shape)) * broadcast(inverse, node.shape) * gamma + beta]


@operator("InstanceNormalization")
def instance_normalization(call: Call, x: Value, scale: Value, bias: Value) -> Node:
    """Build InstanceNormalization: return x normalized over each channel of each sample."""
    node = call.x(x)
    y, _, _ = normalized(node, _spatial(node), call.number("epsilon", 1e-5))
    return _scaled(call, y, scale, bias)


def _scaled(call: Call, y: Node, scale: Value, bias: Value | None) -> Node:
    """Return y times a scale plus a bias, if there is a bias."""
    y = y * broadcast(per_channel(call, call.x(scale), len(y.shape)), y.shape)
    return _with_bias(call, y, bias)


@operator("GroupNormalization")
def group_normalization(call: Call, x: Value, scale: Value, bias: Value) -> Node:
    """Build GroupNormalization: return x normalized over groups of channels."""
    node = call.x(x)
    groups = call.integer("num_groups", 1)
    samples, channels = node.shape[:2]
    if groups < 1 or channels % groups:
        call.refuse(f"{groups} groups cannot share {channels} channels evenly")
    rows = reshape(node, (samples, groups, node.size // (samples * groups)))
    y, _, _ = normalized(rows, [2], call.number("epsilon", 1e-5))
    if call.version < 21 and scale.shape == (groups,) and groups != channels:
        for each in (scale, bias):
            each_node = reshape(call.x(each), (1, groups, 1))
            y = y * broadcast(each_node, y.shape) if each is scale else y + broadcast(each_node, y.shape)
        return reshape(y, node.shape)
    return _scaled(call, reshape(y, node.shape), scale, bias)


@operator("LayerNormalization")
def layer_normalization(call: Call, x: Value, scale: Value, bias: Value | None = None) -> tuple[Node, Node, Node]:
    """Build LayerNormalization: return x normalized over its last axes, the mean, and the inverse deviation."""
    node = call.x(x)
    axes = range(axis_of(call.integer("axis", -1), len(node.shape)), len(node.shape))
    y, mean, inverse = normalized(node, axes, call.number("epsilon", 1e-5))
    y = y * broadcast(call.x(scale), y.shape)
    return (y if bias is None else y + broadcast(call.x(bias), y.shape)), mean, inverse


@operator("RMSNormalization")
def rms_normalization(call: Call, x: Value, scale: Value) -> Node:
    """Build RMSNormalization: return x divided by its root mean square over the last axes."""
    node = call.x(x)
    axes = range(axis_of(call.integer("axis", -1), len(node.shape)), len(node.shape))
    count = float(math.prod(node.shape[axis] for axis in axes))
    mean = keep(sum_over(square(node), axes) / count, node.shape, axes)
    return (
        node / broadcast(sqrt(mean + call.number("epsilon", 1e-5)), node.shape) * broadcast(call.x(scale), node.shape)
    )


@operator("MeanVarianceNormalization")
def mean_variance_normalization(call: Call, x: Value) -> Node:
    """Build MeanVarianceNormalization: return x with mean 0 and variance 1 over axes."""
    node = call.x(x)
    axes = [axis_of(each, len(node.shape)) for each in call.integers("axes", [0, 2, 3])]
    count = float(math.prod(node.shape[axis] for axis in axes))
    mean = keep(sum_over(node, axes) / count, node.shape, axes)
    centered = node - broadcast(mean, node.shape)
    variance = keep(sum_over(square(centered), axes) / count, node.shape, axes)
    return centered / broadcast(sqrt(variance) + 1e-9, node.shape)


@operator("LRN")
def local_response_normalization(call: Call, x: Value) -> Node:
    """Build LRN: return x divided by a power of the mean square of neighbouring channels."""
    node = call.x(x)
    size = call.integer("size", 1)
    low = (size - 1) // 2
    sliding = Sliding(0, (1,), (size,), (1,), (1,), ((low, size - 1 - low),))
    total = sum_over(windows(square(node), sliding), [0])
    base = total * (call.number("alpha", 1e-4) / size) + call.number("bias", 1.0)
    return node / operations.power(base, call.graph.constant(call.number("beta", 0.75)))


@operator("Dropout", static=(1, 2))
def dropout(call: Call, x: Value, *rest: Value | None) -> list[Node]:
    """Build Dropout without training: return x, and a mask of ones if it is wanted."""
    node = call.x(x)
    training = rest[1] if len(rest) > 1 else None
    ratio = rest[0] if rest else None
    rate = call.number("ratio", 0.5) if ratio is None else float(call.known(ratio, "the ratio").reshape(-1)[0])
    if call.version < 7 and not call.integer("is_test"):
        call.refuse("drops at random in training mode; export the model for inference (model.eval())")
    if training is not None and bool(call.known(training, "training_mode").reshape(-1)[0]) and rate > 0.0:
        call.refuse("drops at random in training mode; export the model for inference (model.eval())")
    from service.engine.onnx.composing import full

    mask = Value(None, full(call.graph, 1.0, node.shape), "bool")
    return [node, mask] if call.wants(1) else [node]  # type: ignore[list-item]


# --- resizing -----------------------------------------------------------------------------------


def _coordinates(mode: str, n: int, m: int, scale: float, low: float, high: float) -> Array:
    """Return the coordinate among n places of each of m resized places.

    n · scale is the resized length before rounding.
    """
    place = np.arange(m, dtype=np.float64)
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        return place * (n - 1) / (scale * n - 1) if scale * n != 1.0 else np.zeros(m)
    if mode == "pytorch_half_pixel":
        return (place + 0.5) / scale - 0.5 if m > 1 else np.zeros(m)
    if mode == "tf_half_pixel_for_nn":
        return (place + 0.5) / scale
    if mode == "half_pixel_symmetric":
        adjustment = m / (scale * n)
        center = n / 2
        return center * (1 - adjustment) + (place + 0.5) / scale - 0.5
    if mode == "tf_crop_and_resize":
        if m > 1:
            return low * (n - 1) + place * (high - low) * (n - 1) / (m - 1)
        return np.full(m, 0.5 * (low + high) * (n - 1))
    return (place + 0.5) / scale - 0.5


def _nearest(call: Call, x: Array, n: int) -> list[int]:
    """Return the place among n that is nearest to each coordinate."""
    rounding = call.word("nearest_mode", "round_prefer_floor")
    if rounding == "floor":
        places = np.floor(x)
    elif rounding == "ceil":
        places = np.ceil(x)
    elif rounding == "round_prefer_ceil":
        places = np.floor(x + 0.5)
    else:
        places = np.ceil(x - 0.5)
    return np.clip(places, 0, n - 1).astype(int).tolist()  # type: ignore[no-any-return]


def _weights_of_axis(call: Call, mode: str, x: Array, n: int, scale: float) -> Array:
    """Return the matrix `(m, n)` that interpolates n places at the m coordinates x."""
    m = len(x)
    matrix = np.zeros((m, n))
    antialias = bool(call.integer("antialias")) and scale < 1.0
    shrink = scale if antialias else 1.0
    support = (2.0 if mode == "cubic" else 1.0) / shrink
    a = call.number("cubic_coeff_a", -0.75)
    first = np.floor(x).astype(int)
    reach = math.ceil(support)
    exclude = bool(call.integer("exclude_outside"))
    for offset in range(-reach, reach + 2):
        place = first + offset
        distance = np.abs(x - place) * shrink
        if mode == "cubic":
            near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
            far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
            weight = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
        else:
            weight = np.maximum(0.0, 1.0 - distance)
        if exclude:
            weight = np.where((place < 0) | (place >= n), 0.0, weight)
        np.add.at(matrix, (np.arange(m), np.clip(place, 0, n - 1)), weight)
    if antialias or exclude:
        matrix /= matrix.sum(1, keepdims=True)
    return matrix


@operator("Resize", since=10, static=(1,))
def resize_10(call: Call, x: Value, scales: Value) -> Node:
    """Build Resize of opset 10: return x resized by scales."""
    factors = [float(each) for each in call.known(scales, "the scales").reshape(-1)]
    return _resized(call, x, list(range(len(x.shape))), factors, None, None, "asymmetric", "floor")


@operator("Resize", since=11, static=(1, 2, 3), integers=False)
def resize(
    call: Call, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> Node:
    """Build Resize since opset 11: return x resized by scales or to sizes."""
    axes = [axis_of(each, len(x.shape)) for each in call.integers("axes", range(len(x.shape)))]
    has_scales = scales is not None and 0 not in scales.shape
    factors = [float(each) for each in call.known(scales, "the scales").reshape(-1)] if has_scales else None
    lengths = None if sizes is None or 0 in sizes.shape else call.ints(sizes, "the sizes")
    box = None
    if roi is not None and 0 not in roi.shape:
        box = [float(each) for each in call.known(roi, "the region").reshape(-1)]
    return _resized(call, x, axes, factors, lengths, box, call.word("coordinate_transformation_mode", "half_pixel"), "")


@operator("Upsample", static=(1,))
def upsample(call: Call, x: Value, scales: Value | None = None) -> Node:
    """Build Upsample: return x resized by scales."""
    given = call.attr("scales") if scales is None else call.known(scales, "the scales").reshape(-1)
    factors = [float(each) for each in given]
    return _resized(call, x, list(range(len(x.shape))), factors, None, None, "asymmetric", "floor")


def _resized(
    call: Call,
    x: Value,
    axes: Sequence[int],
    factors: Sequence[float] | None,
    lengths: Sequence[int] | None,
    box: Sequence[float] | None,
    transformation: str,
    rounding: str,
) -> Node:
    """Return x resized along axes, by factors or to lengths, with the modes of the node."""
    node = call.x(x)
    mode = call.word("mode", "nearest")
    if factors is None and lengths is None:
        call.refuse("has neither scales nor sizes")
    policy = call.word("keep_aspect_ratio_policy", "stretch")
    if lengths is not None and policy != "stretch":
        ratios = [length / node.shape[axis] for axis, length in zip(axes, lengths, strict=True)]
        ratio = min(ratios) if policy == "not_larger" else max(ratios)
        factors = [ratio] * len(axes)
        lengths = [math.floor(ratio * node.shape[axis] + 0.5) for axis in axes]
    outside: dict[int, Array] = {}
    for number, axis in enumerate(axes):
        n = node.shape[axis]
        if factors is not None:
            scale = factors[number]
            m = lengths[number] if lengths is not None else math.floor(scale * n)
        else:
            assert lengths is not None
            m = lengths[number]
            scale = m / n
        if not scale > 0.0 or m < 1 or (m * n > 2**22 if mode != "nearest" else m > 2**22):
            call.refuse(f"resizes an axis of {n} to {m}")
        low, high = (box[number], box[number + len(axes)]) if box is not None else (0.0, 1.0)
        if m == n and scale == 1.0 and transformation != "tf_crop_and_resize":
            continue
        places = _coordinates(transformation, n, m, scale, low, high)
        if transformation == "tf_crop_and_resize":
            outside[axis] = (places < 0) | (places > n - 1)
        if rounding:
            places = np.floor(places) if mode == "nearest" else places  # rounding modes do not differ for whole places
        if mode == "nearest":
            node = take(node, axis, _nearest(call, places, n))
        else:
            node = along_axis(node, axis, table(call.graph, _weights_of_axis(call, mode, places, n, scale)))
    if outside:
        hidden = np.zeros(node.shape, bool)
        for axis, far in outside.items():
            hidden |= far.reshape([-1 if k == axis else 1 for k in range(len(node.shape))])
        if hidden.any():
            from service.engine.graph.operations import where

            node = where(table(call.graph, hidden.astype(float)), call.number("extrapolation_value"), node)
    return node


def along_axis(x: Node, axis: int, matrix: Node) -> Node:
    """Return the product of a matrix `(m, n)` with x along an axis of length n."""
    last = len(x.shape) - 1
    moved = move(x, [axis], [last])
    return move(sum_product(moved, transpose(matrix)), [last], [axis])
