"""ONNX operators for Fourier transforms, windows, sampling at computed places, and Einstein sums.

This is one module because it is one list of declarations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product as every

import numpy as np

from service.engine.arrays import Array
from service.engine.graph import operations
from service.engine.graph.ir import Node
from service.engine.graph.operations import (
    Sliding,
    absolute,
    broadcast,
    concatenate,
    greater,
    greater_equal,
    maximum,
    minimum,
    reshape,
    slice_axis,
    sum_over,
    table,
    transpose,
    where,
    windows,
)
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import axis_of, lookup, move, padded, sum_product, unsqueeze
from service.engine.onnx.registry import FLOAT, operator
from service.engine.onnx.tensors import dtype_of
from service.engine.onnx.values import Value

MOST_MATRIX = 2**22


def _transform(call: Call, real: Node, imaginary: Node | None, axis: int, length: int, count: int, *,
               inverse: bool) -> tuple[Node, Node]:  # fmt: skip
    """Return the real and imaginary parts of the first `count` of `length` frequencies along an axis.

    The axis is first cut, or filled with zeros, to this length.
    """
    n = real.shape[axis]
    used = min(n, length)
    if used * count > MOST_MATRIX:
        call.refuse(f"transforms {used} numbers to {count}; at most {MOST_MATRIX:,} products are made for each")
    angles = 2.0 * np.pi * np.outer(np.arange(used) % length, np.arange(count) % length) / length
    cos, sin = table(call.graph, np.cos(angles)), table(call.graph, np.sin(angles) * (1.0 if inverse else -1.0))
    last = len(real.shape) - 1

    def rows(x: Node) -> Node:
        """Return x with the transformed axis last, cut to the elements that the transform uses."""
        return move(slice_axis(x, axis, 0, used), [axis], [last])

    a = rows(real)
    y, z = sum_product(a, cos), sum_product(a, sin)
    if imaginary is not None:
        b = rows(imaginary)
        y, z = y - sum_product(b, sin), z + sum_product(b, cos)
    if inverse:
        y, z = y / float(length), z / float(length)
    return move(y, [last], [axis]), move(z, [last], [axis])


def _parts(x: Node) -> tuple[Node, Node | None]:
    """Return the real and imaginary parts that the last axis of x holds; the imaginary part is None for real x."""
    last = len(x.shape) - 1
    real = reshape(slice_axis(x, last, 0, 1), x.shape[:-1])
    return real, reshape(slice_axis(x, last, 1, 2), x.shape[:-1]) if x.shape[-1] == 2 else None


def _complex(real: Node, imaginary: Node) -> Node:
    """Return real and imaginary parts joined on a new last axis of length 2."""
    rank = len(real.shape)
    return concatenate([unsqueeze(real, [rank]), unsqueeze(imaginary, [rank])], rank)


@operator("DFT", since=17, static=(1, 2))
def discrete_fourier(call: Call, x: Value, length: Value | None = None, axis: Value | None = None) -> Node:
    """Build DFT: return the spectrum along an axis, with real and imaginary parts on the last axis."""
    node = call.x(x)
    rank = len(node.shape)
    default = call.integer("axis", 1) if call.version < 20 else -2
    place = axis_of(default if axis is None else call.ints(axis, "the axis")[0], rank)
    onesided, inverse = bool(call.integer("onesided")), bool(call.integer("inverse"))
    real, imaginary = _parts(node)
    n = node.shape[place]
    usual = 2 * (n - 1) if inverse and onesided else n
    size = usual if length is None else call.ints(length, "the length")[0]
    if size < 1:
        call.refuse(f"transforms {size} numbers")
    if inverse and onesided:
        # Frequencies beyond the half are the conjugates of those before it.
        half = size // 2 + 1
        real, imaginary = (_cut(each, place, half) for each in (real, imaginary or real * 0.0))
        weights = np.full(half, 2.0)
        weights[0] = 1.0
        if size % 2 == 0:
            weights[-1] = 1.0
        spread = table(call.graph, weights.reshape([-1 if k == place else 1 for k in range(rank - 1)]))
        real, imaginary = (each * broadcast(spread, each.shape) for each in (real, imaginary))
        y, _ = _transform(call, real, imaginary, place, size, size, inverse=True)
        return unsqueeze(y, [rank - 1])
    count = size // 2 + 1 if onesided else size
    return _complex(*_transform(call, real, imaginary, place, size, count, inverse=inverse))


def _cut(x: Node, axis: int, count: int) -> Node:
    """Return x with an axis cut, or filled with zeros, to `count` elements."""
    n = x.shape[axis]
    pads = [(0, 0)] * len(x.shape)
    pads[axis] = (0, max(0, count - n))
    return padded(slice_axis(x, axis, 0, min(n, count)), pads)


@operator("STFT", static=(1, 3))
def short_time_fourier(
    call: Call, x: Value, step: Value, window: Value | None = None, length: Value | None = None
) -> Node:
    """Build STFT: return the spectrum of each frame of a signal, as `(b, frames, frequencies, 2)`."""
    node = call.x(x)
    if len(node.shape) == 2:
        node = unsqueeze(node, [2])
    n = node.shape[1]
    size = call.ints(length, "the length")[0] if length is not None else (window.shape[0] if window is not None else n)
    hop = call.ints(step, "the step")[0]
    if not 0 < size <= n or hop < 1:
        call.refuse(f"has frames of {size} in a signal of {n}")
    sliding = Sliding(2, (1,), (size,), (hop,), (1,), ((0, 0),))
    frames = windows(node, sliding)  # (b, frames, size, 1 or 2)
    if window is not None:
        frames = frames * broadcast(reshape(call.x(window), (1, 1, size, 1)), frames.shape)
    real, imaginary = _parts(frames)
    count = size // 2 + 1 if call.integer("onesided", 1) else size
    return _complex(*_transform(call, real, imaginary, 2, size, count, inverse=False))


def _window(name: str, coefficients: Sequence[float]) -> None:
    """Declare an operator that gives a window made of cosines with these coefficients."""

    @operator(name, static=None, result=FLOAT, integers=True)
    def build(call: Call, size: Value) -> Value:
        """Return the window as a known vector."""
        n = call.ints(size, "the size")[0]
        (n,) = call.bounded((n,))
        span = n if call.integer("periodic", 1) else n - 1
        angles = 2.0 * np.pi * np.arange(n) / max(1, span)
        values = sum(c * np.cos(k * angles) for k, c in enumerate(coefficients))
        return Value(np.asarray(values).astype(dtype_of(call.integer("output_datatype", 1))))


_window("HannWindow", (0.5, -0.5))
_window("HammingWindow", (25.0 / 46.0, -21.0 / 46.0))
_window("BlackmanWindow", (0.42, -0.5, 0.08))


@operator("MelWeightMatrix", static=None, result=FLOAT, integers=True)
def mel_weight_matrix(call: Call, bins: Value, length: Value, rate: Value, low: Value, high: Value) -> Value:
    """Build MelWeightMatrix: return the matrix from frequencies of a spectrum to mel bins."""
    count, size, hertz = (call.ints(each, "the sizes")[0] for each in (bins, length, rate))
    first, last = (float(call.known(each, "the edges").reshape(-1)[0]) for each in (low, high))
    rows, columns = call.bounded((size // 2 + 1, count))
    mels = [2595.0 * math.log10(1.0 + each / 700.0) for each in (first, last)]
    steps = np.arange(count + 2) * ((mels[1] - mels[0]) / (count + 2)) + mels[0]
    edges = ((size + 1) * (700.0 * (10.0 ** (steps / 2595.0) - 1.0)) // hertz).astype(int)
    matrix = np.zeros((rows, columns))
    for k in range(count):
        left, center, right = edges[k : k + 3]
        if center == left:
            matrix[center, k] = 1.0
        else:
            rising = np.arange(left, center + 1)
            matrix[rising, k] = (rising - left) / (center - left)
        if right > center:
            falling = np.arange(center, right)
            matrix[falling, k] = (right - falling) / (right - center)
    return Value(matrix.astype(dtype_of(call.integer("output_datatype", 1))))


# --- sampling -----------------------------------------------------------------------------------


def _reflected(x: Node, low: float, high: float) -> Node:
    """Return x, mirrored at `low` and `high` until it lies between them."""
    span = high - low
    if span <= 0.0:
        return x * 0.0
    turned = operations.mod(x - low, x.graph.constant(2.0 * span))
    return where(greater(turned, span), 2.0 * span - turned, turned) + low


def _within(x: Node, n: int) -> Node:
    """Return 1 where x lies among the places 0 to n - 1, else 0."""
    return greater_equal(x, 0.0) * greater_equal(float(n - 1) - x, 0.0)


def sampled(x: Node, coordinates: Sequence[Node], mode: str, padding: str, borders: Sequence[tuple[float, float]],
            channels: tuple[int, int] | None = None) -> Node:  # fmt: skip
    """Return x of shape `(n, c, *s)` sampled at coordinates, with shape `(n, c, *o)`.

    `coordinates` has one node `(n, *o)` for each spatial axis, in units of elements.
    """
    samples, count, *spatial = x.shape
    places, weights = [], []
    for coordinate, n, (low, high) in zip(coordinates, spatial, borders, strict=True):
        offsets = {"nearest": (0,), "cubic": (-1, 0, 1, 2)}.get(mode, (0, 1))
        first = operations.floor(coordinate) if mode != "nearest" else coordinate
        rest = coordinate - first
        axis_places, axis_weights = [], []
        for offset in offsets:
            place = first + float(offset)
            weight: Node | None = None
            if mode == "cubic":
                weight = _cubic(rest - float(offset))
            elif mode != "nearest":
                weight = rest if offset else 1.0 - rest
            if padding == "zeros":
                inside = _within(place, n)
                weight = inside if weight is None else weight * inside
            elif padding == "reflection":
                place = _reflected(place, low, high)
            axis_places.append(minimum(maximum(place, 0.0), float(n - 1)))
            axis_weights.append(weight)
        places.append(axis_places)
        weights.append(axis_weights)
    shape = coordinates[0].shape
    size = math.prod(spatial)
    base = (np.arange(samples)[:, None] * count + np.arange(count)) * size
    first_of = broadcast(
        table(x.graph, base.astype(float).reshape((samples, count, *[1] * (len(shape) - 1)))),
        (samples, count, *shape[1:]),
    )
    flat = reshape(x, (x.size,))
    total: Node | None = None
    for chosen in every(*[range(len(each)) for each in places]):
        at: Node | None = None
        factor: Node | None = None
        for axis, k in enumerate(chosen):
            part = places[axis][k] * float(math.prod(spatial[axis + 1 :]))
            at = part if at is None else at + part
            own = weights[axis][k]
            if own is not None:
                factor = own if factor is None else factor * own
        assert at is not None
        value = lookup(flat, first_of + broadcast(unsqueeze(at, [1]), first_of.shape))
        if factor is not None:
            value = value * broadcast(unsqueeze(factor, [1]), value.shape)
        total = value if total is None else total + value
    assert total is not None
    return total


def _cubic(distance: Node) -> Node:
    """Return the weight of an element at a distance, by cubic convolution with a = -0.75."""
    a, d = -0.75, absolute(distance)
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return where(greater(d, 1.0), far, near)


@operator("GridSample")
def grid_sample(call: Call, x: Value, grid: Value) -> Node:
    """Build GridSample: return x sampled at the coordinates of a grid."""
    node, given = call.x(x), call.x(grid)
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(call.word("mode", "linear"), call.word("mode", "linear"))
    padding, corners = call.word("padding_mode", "zeros"), bool(call.integer("align_corners"))
    spatial = node.shape[2:]
    last = len(given.shape) - 1
    coordinates, borders = [], []
    for axis, n in enumerate(spatial):
        k = len(spatial) - 1 - axis  # the grid holds x before y
        own = reshape(slice_axis(given, last, k, k + 1), given.shape[:-1])
        place = (own + 1.0) * ((n - 1) / 2.0) if corners else ((own + 1.0) * float(n) - 1.0) / 2.0
        low, high = (0.0, n - 1.0) if corners else (-0.5, n - 0.5)
        if mode == "nearest":
            place = operations.rint(place)
        outside = maximum(greater(low - place, 0.0), greater(place, high))
        if padding == "border":
            place = where(outside, minimum(maximum(place, 0.0), n - 1.0), place)
        elif padding == "reflection":
            place = where(outside, _reflected(place, low, high), place)
        if mode == "nearest":
            place = where(greater_equal(place, 0.0), operations.floor(place), operations.ceil(place))
        coordinates.append(place)
        borders.append((low, high))
    return sampled(node, coordinates, mode, padding, borders)


@operator("AffineGrid", static=(1,))
def affine_grid(call: Call, theta: Value, size: Value) -> Node:
    """Build AffineGrid: return the grid of coordinates of affine maps, for GridSample."""
    lengths = call.ints(size, "the size")
    call.bounded(lengths)
    spatial = lengths[2:]
    corners = bool(call.integer("align_corners"))
    axes = [
        (np.linspace(-1.0, 1.0, n) if n > 1 else np.zeros(1)) if corners else (2.0 * np.arange(n) + 1.0) / n - 1.0
        for n in spatial
    ]
    grids = np.meshgrid(*axes, indexing="ij")
    base = np.stack([*grids[::-1], np.ones(tuple(spatial))], -1).reshape(-1, len(spatial) + 1)
    node = call.x(theta)
    y = sum_product(table(call.graph, base), transpose(node))
    return reshape(y, (node.shape[0], *spatial, len(spatial)))


@operator("DeformConv")
def deformable_convolution(
    call: Call, x: Value, kernel: Value, offset: Value, bias: Value | None = None, mask: Value | None = None
) -> Node:
    """Build DeformConv: return the convolution of x sampled at places moved by offsets."""
    node, weights, moves = call.x(x), call.x(kernel), call.x(offset)
    if len(node.shape) != 4:
        call.refuse(f"is read for images, got shape {list(node.shape)}")
    samples, channels = node.shape[:2]
    outputs, inner, height, width = weights.shape
    groups, shared = call.integer("group", 1), call.integer("offset_group", 1)
    if channels != inner * groups or channels % shared or outputs % groups:
        call.refuse(f"{channels} channels do not fit {groups} groups and {shared} groups of offsets")
    strides, dilations = call.integers("strides", [1, 1]), call.integers("dilations", [1, 1])
    pads = call.integers("pads", [0, 0, 0, 0])
    rows, columns = moves.shape[2:]
    field = height * width
    moves = reshape(moves, (samples * shared, field, 2, rows, columns))
    coordinates = []
    for axis, count in enumerate((rows, columns)):
        taps = np.arange(height if axis == 0 else width) * dilations[axis]
        tap = np.repeat(taps, width) if axis == 0 else np.tile(taps, height)
        start = np.arange(count) * strides[axis] - pads[axis]
        place = start.reshape((1, -1, 1) if axis == 0 else (1, 1, -1)) + tap.reshape(-1, 1, 1)
        own = reshape(slice_axis(moves, 2, axis, axis + 1), (samples * shared, field, rows, columns))
        coordinates.append(own + broadcast(table(call.graph, place.astype(float)), own.shape))
    image = reshape(node, (samples * shared, channels // shared, *node.shape[2:]))
    found = sampled(image, coordinates, "linear", "zeros", [(0.0, 0.0)] * 2)  # (n s, c / s, field, h, w)
    if mask is not None:
        factor = reshape(call.x(mask), (samples * shared, 1, field, rows, columns))
        found = found * broadcast(factor, found.shape)
    split = reshape(found, (samples, groups, inner, field, rows * columns))
    gathered = reshape(split, (samples, groups, inner * field, rows * columns))
    own_kernel = broadcast(
        reshape(weights, (1, groups, outputs // groups, inner * field)),
        (samples, groups, outputs // groups, inner * field),
    )
    y = reshape(own_kernel @ gathered, (samples, outputs, rows, columns))
    return y if bias is None else y + broadcast(reshape(call.x(bias), (1, outputs, 1, 1)), y.shape)


@operator("RoiAlign", static=(1, 2))
def region_align(call: Call, x: Value, regions: Value, batch: Value) -> Node:
    """Build RoiAlign: return each region of x, resized to the same number of places."""
    node = call.x(x)
    boxes = call.known(regions, "the regions").astype(float)
    owners = call.known(batch, "the samples of the regions").astype(np.int64).reshape(-1)
    high, wide = call.integer("output_height", 1), call.integer("output_width", 1)
    ratio, scale = call.integer("sampling_ratio"), call.number("spatial_scale", 1.0)
    usual = "half_pixel" if call.version >= 16 else "output_half_pixel"
    half = call.word("coordinate_transformation_mode", usual) == "half_pixel"
    channels, height, width = node.shape[1:]
    flat = reshape(node, (node.size,))
    results = []
    for box, owner in zip(boxes, owners, strict=True):
        left, top, right, bottom = box * scale - (0.5 if half else 0.0)
        spans = [bottom - top, right - left] if half else [max(bottom - top, 1.0), max(right - left, 1.0)]
        counts = [ratio if ratio > 0 else math.ceil(span / n) for span, n in zip(spans, (high, wide), strict=True)]
        call.bounded((channels, high, wide, max(1, counts[0]), max(1, counts[1])))
        axes = [
            start + (np.arange(n)[:, None] + (np.arange(count) + 0.5) / count) * span / n
            for start, span, n, count in zip((top, left), spans, (high, wide), counts, strict=True)
        ]
        places, shares = zip(*(_bilinear(axis, n) for axis, n in zip(axes, (height, width), strict=True)), strict=True)
        base = (owner * channels + np.arange(channels)) * height * width
        corners = []
        for a, b in every((0, 1), (0, 1)):
            at = places[0][a][:, :, None, None] * width + places[1][b]
            weight = shares[0][a][:, :, None, None] * shares[1][b]  # (h, gh, w, gw)
            value = lookup(flat, base[:, None, None, None, None] + at)
            corners.append(value * broadcast(table(call.graph, weight), value.shape))
        if call.word("mode", "avg") == "max":
            from service.engine.graph.operations import largest

            stacked = concatenate([unsqueeze(each, [0]) for each in corners], 0)
            results.append(largest(largest(stacked, [0]), [2, 4]))
        else:
            total = corners[0] + corners[1] + (corners[2] + corners[3])
            results.append(sum_over(total, [2, 4]) / float(max(1, counts[0] * counts[1])))
    return concatenate([unsqueeze(each, [0]) for each in results], 0)


def _bilinear(places: Array, n: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the two elements next to each place, and their weights. Elements outside have the weight 0."""
    inside = (places >= -1.0) & (places <= n)
    clipped = np.clip(places, 0.0, n - 1.0)
    low = np.minimum(np.floor(clipped).astype(int), n - 1)
    high = np.minimum(low + 1, n - 1)
    share = clipped - low
    return (low, high), ((1.0 - share) * inside, share * inside)


# --- einsum -------------------------------------------------------------------------------------


def _operand(call: Call, x: Node, letters: str) -> tuple[Node, str]:
    """Return an operand and its letters with each letter once. A repeated letter becomes the diagonal."""
    if len(letters) != len(x.shape):
        call.refuse(f"has indices {letters!r} for {len(x.shape)} axes")
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            a = letters.index(letter)
            b = letters.index(letter, a + 1)
            n = x.shape[a]
            moved = move(x, [a, b], [0, 1])
            rest = moved.shape[2:]
            rows = reshape(moved, (n * n, math.prod(rest)))
            from service.engine.onnx.composing import take

            diagonal = reshape(take(rows, 0, [k * (n + 1) for k in range(n)]), (n, *rest))
            letters = letter + "".join(each for k, each in enumerate(letters) if k not in (a, b))
            x = diagonal
    return x, letters


def _reordered(x: Node, letters: str, wanted: str) -> Node:
    """Return x with its axes, named by letters, in another order."""
    return transpose(x, [letters.index(each) for each in wanted])


def _pair(a: Node, ia: str, b: Node, ib: str, kept: str) -> tuple[Node, str]:
    """Return the product of two operands and its letters, summed over the letters that are not in `kept`."""
    for letter in [each for each in ia if each not in ib and each not in kept]:
        a, ia = sum_over(a, [ia.index(letter)]), ia.replace(letter, "")
    for letter in [each for each in ib if each not in ia and each not in kept]:
        b, ib = sum_over(b, [ib.index(letter)]), ib.replace(letter, "")
    batch = "".join(each for each in ia if each in ib and each in kept)
    summed = "".join(each for each in ia if each in ib and each not in kept)
    left = "".join(each for each in ia if each not in ib)
    right = "".join(each for each in ib if each not in ia)
    sizes = dict(zip(ia, a.shape, strict=True)) | {
        k: n for k, n in zip(ib, b.shape, strict=True) if n != 1 or k not in ia
    }
    a = _reordered(a, ia, batch + left + summed)
    b = _reordered(b, ib, batch + summed + right)
    a = broadcast(a, tuple(sizes[each] for each in batch + left + summed))
    b = broadcast(b, tuple(sizes[each] for each in batch + summed + right))

    def count(letters: str) -> int:
        """Return the number of elements of the axes with these letters."""
        return math.prod(sizes[each] for each in letters)

    y = reshape(a, (count(batch), count(left), count(summed))) @ reshape(b, (count(batch), count(summed), count(right)))
    return reshape(y, tuple(sizes[each] for each in batch + left + right)), batch + left + right


@operator("Einsum")
def einsum(call: Call, *values: Value) -> Node:
    """Build Einsum: return the sum of products that the attribute `equation` describes."""
    equation = call.word("equation").replace(" ", "")
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(values):
        call.refuse(f"the equation {equation[:60]!r} has {len(terms)} operands, the node {len(values)}")
    free = iter("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    longest = max((len(x.shape) - len(t.replace("...", "")) for t, x in zip(terms, values, strict=True) if "..." in t),
                  default=0)  # fmt: skip
    used = set(equation)
    dots = "".join([letter for letter in free if letter not in used][:longest])
    operands = []
    for term, value in zip(terms, values, strict=True):
        hidden = len(value.shape) - len(term.replace("...", ""))
        operands.append(
            _operand(call, call.x(value), term.replace("...", dots[len(dots) - hidden :] if hidden else ""))
        )
    if arrow:
        output = output.replace("...", dots)
    else:
        every_letter = "".join(letters for _, letters in operands)
        single = sorted({each for each in every_letter if each not in dots and inputs.count(each) == 1})
        output = dots + "".join(single)
    node, letters = operands[0]
    for position, (other, others) in enumerate(operands[1:], 1):
        kept = output + "".join(each for _, each in operands[position + 1 :])
        node, letters = _pair(node, letters, other, others, kept)
    for letter in [each for each in letters if each not in output]:
        node, letters = sum_over(node, [letters.index(letter)]), letters.replace(letter, "")
    if sorted(letters) != sorted(output):
        call.refuse(f"the equation {equation[:60]!r} asks for indices that no operand has")
    return _reordered(node, letters, output)


@operator("Det")
def determinant(call: Call, x: Value) -> Node:
    """Build Det: return the determinants of square matrices up to 5 × 5."""
    node = call.x(x)
    n = node.shape[-1]
    if len(node.shape) < 2 or node.shape[-2] != n or n > 5:
        call.refuse(f"determinants are computed of square matrices up to 5 × 5, got shape {list(node.shape)}")
    last = len(node.shape) - 1
    lead = node.shape[:-2]
    entries = [
        [reshape(slice_axis(slice_axis(node, last - 1, i, i + 1), last, j, j + 1), lead) for j in range(n)]
        for i in range(n)
    ]

    def minor(row: int, columns: tuple[int, ...]) -> Node:
        """Return the determinant of the rows from `row` on and of these columns."""
        if len(columns) == 1:
            return entries[row][columns[0]]
        total: Node | None = None
        for k, column in enumerate(columns):
            part = entries[row][column] * minor(row + 1, columns[:k] + columns[k + 1 :])
            part = -part if k % 2 else part
            total = part if total is None else total + part
        assert total is not None
        return total

    return minor(0, tuple(range(n)))
