"""ONNX operators of attention, and those used around it: rotary positions, causal convolution, gated units."""

from __future__ import annotations

import math

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node
from service.engine.graph.operations import (
    broadcast,
    concatenate,
    exp,
    largest,
    reshape,
    sigmoid,
    slice_axis,
    softmax,
    sum_over,
    table,
    tanh,
    transpose,
    where,
)
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import aligned, elementwise, full, keep, padded, sum_product, take, unsqueeze
from service.engine.onnx.file import Body
from service.engine.onnx.operators.indexing import gather
from service.engine.onnx.operators.neural import convolve
from service.engine.onnx.registry import operator
from service.engine.onnx.values import Value

PREVIEW = "ai.onnx.preview"
MOST_STEPS = 4096


def _heads(call: Call, x: Node, count: int) -> Node:
    """Return x `(b, t, h d)` split into heads: `(b, h, t, d)`."""
    if count < 1 or x.shape[-1] % count:
        call.refuse(f"{count} heads cannot share {x.shape[-1]} features evenly")
    return transpose(reshape(x, (*x.shape[:2], count, x.shape[-1] // count)), (0, 2, 1, 3))


def _repeated(x: Node, times: int) -> Node:
    """Return x with each head repeated: `(b, h, …)` becomes `(b, h times, …)`."""
    if times == 1:
        return x
    wider = broadcast(unsqueeze(x, [2]), (*x.shape[:2], times, *x.shape[2:]))
    return reshape(wider, (x.shape[0], x.shape[1] * times, *x.shape[2:]))


def _is_infinite(x: Node) -> Node:
    """Return 1 where x is -infinity, else 0."""
    return x.graph.apply("greater_equal", -math.inf, x)


def _bias(
    call: Call, mask: Value | None, queries: int, keys: int, offsets: Array, shape: tuple[int, ...]
) -> Node | None:
    """Return the numbers added to the scores, -infinity where a key is hidden; None if nothing is added."""
    fixed = np.zeros((len(offsets), 1, queries, keys))
    place = np.arange(queries)[:, None] + offsets[:, None, None, None]
    key = np.arange(keys)
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    if call.integer("is_causal"):
        fixed = np.where(key <= place, fixed, -np.inf)
    if left >= 0:
        fixed = np.where(place - key <= left, fixed, -np.inf)
    if right >= 0:
        fixed = np.where(key - place <= right, fixed, -np.inf)
    node = table(call.graph, fixed) if fixed.any() else None
    if mask is not None:
        given = call.x(mask)
        missing = keys - given.shape[-1]
        is_bool = mask.dtype == "bool"
        if missing > 0:
            fill = 0.0 if is_bool else -math.inf
            given = padded(given, [*[(0, 0)] * (len(given.shape) - 1), (0, missing)], fill)
        added = where(given, 0.0, -math.inf) if is_bool else given
        node = added if node is None else elementwise(_joined, node, added)
    if node is None:
        return None
    return broadcast(node, shape)


def _joined(a: Node, b: Node) -> Node:
    """Return the sum of two biases, each of which may be -infinity."""
    return where(_is_infinite(a), a, a + b)


def masked_softmax(scores: Node, bias: Node | None) -> tuple[Node, Node]:
    """Return the softmax over the last axis of scores plus a bias, and the scores plus the bias.

    Rows that may see nothing are 0.
    """
    if bias is None:
        return softmax(scores), scores
    hidden = _is_infinite(bias)
    total = where(hidden, -math.inf, scores + where(hidden, 0.0, bias))
    last = len(bias.shape) - 1
    nothing = broadcast(keep(_is_infinite(largest(bias, [last])), bias.shape, [last]), bias.shape)
    return where(nothing, 0.0, softmax(where(nothing, 0.0, total))), total


@operator("Attention", static=(6,), integers=True)
def attention(
    call: Call,
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None = None,
    past_key: Value | None = None,
    past_value: Value | None = None,
    lengths: Value | None = None,
) -> list[Node]:
    """Build Attention: return the output, the present keys and values, and the scores."""
    q, k, v = call.x(query), call.x(key), call.x(value)
    is_flat = len(q.shape) == 3
    if is_flat:
        q = _heads(call, q, call.integer("q_num_heads"))
        k, v = (_heads(call, each, call.integer("kv_num_heads")) for each in (k, v))
    before = 0
    if past_key is not None and past_value is not None:
        before = past_key.shape[2]
        if before:
            k, v = concatenate([call.x(past_key), k], 2), concatenate([call.x(past_value), v], 2)
    present = (k, v)
    samples, heads, queries, width = q.shape
    keys = k.shape[2]
    if heads % k.shape[1]:
        call.refuse(f"{heads} heads of queries cannot share {k.shape[1]} heads of keys evenly")
    times = heads // k.shape[1]
    k, v = _repeated(k, times), _repeated(v, times)
    scale = call.attr("scale")
    factor = math.sqrt(1.0 / math.sqrt(width) if scale is None else float(scale))
    scores = sum_product(q * factor, transpose(k * factor))
    softcap = call.number("softcap")
    if softcap > 0.0:
        scores = tanh(scores / softcap) * softcap
    counts = None if lengths is None else call.known(lengths, "nonpad_kv_seqlen").reshape(-1)
    offsets = np.array([before]) if counts is None or past_key is not None else counts - queries
    bias = _bias(call, mask, queries, keys, offsets, scores.shape)
    if counts is not None:
        seen = np.where(np.arange(keys) < counts[:, None], 0.0, -np.inf).reshape(len(counts), 1, 1, keys)
        more = broadcast(table(call.graph, seen), scores.shape)
        bias = more if bias is None else _joined(bias, more)
    shares, total = masked_softmax(scores, bias)
    y = sum_product(shares, v)
    if is_flat:
        y = reshape(transpose(y, (0, 2, 1, 3)), (samples, queries, heads * v.shape[3]))
    mode = call.integer("qk_matmul_output_mode")
    return [y, *present, {2: total, 3: shares}.get(mode, scores)]


@operator("FlexAttention", domain=PREVIEW)
def flex_attention(call: Call, query: Value, key: Value, value: Value) -> Node:
    """Build FlexAttention: return attention whose scores and probabilities subgraphs may change."""
    q, k, v = call.x(query), call.x(key), call.x(value)
    if len(q.shape) != 4 or q.shape[1] % max(1, k.shape[1]):
        call.refuse(f"takes queries, keys and values of four axes, got {list(q.shape)} and {list(k.shape)}")
    times = q.shape[1] // k.shape[1]
    k, v = _repeated(k, times), _repeated(v, times)
    scale = call.attr("scale")
    factor = math.sqrt(1.0 / math.sqrt(q.shape[3]) if scale is None else float(scale))
    scores = _modified(call, "score_mod", sum_product(q * factor, transpose(k * factor)), query)
    return sum_product(_modified(call, "prob_mod", softmax(scores), query), v)


def _modified(call: Call, name: str, x: Node, like: Value) -> Node:
    """Return x after the subgraph in an attribute, or x itself without such an attribute."""
    body = call.attr(name)
    if not isinstance(body, Body):
        return x
    (result,) = call.run(
        body, {body.inputs[0][0]: Value(None, x, "float32" if like.dtype == "float16" else like.dtype)}
    )
    return call.x(result)


@operator("RotaryEmbedding", integers=True)
def rotary_embedding(call: Call, x: Value, cosines: Value, sines: Value, places: Value | None = None) -> Node:
    """Build RotaryEmbedding: return x with pairs of features rotated by their positions."""
    node = call.x(x)
    is_flat = len(node.shape) == 3
    heads = call.integer("num_heads") if is_flat else node.shape[1]
    if is_flat:
        node = _heads(call, node, heads)
    width = node.shape[3]
    turned = call.integer("rotary_embedding_dim") or width
    if places is not None:
        cosines, sines = gather(call, cosines, places), gather(call, sines, places)
    cos, sin = (unsqueeze(call.x(each), [1]) for each in (cosines, sines))
    rotated, rest = slice_axis(node, 3, 0, turned), slice_axis(node, 3, turned, width)
    half = turned // 2
    if call.integer("interleaved"):
        a, b = (take(rotated, 3, range(start, turned, 2)) for start in (0, 1))
    else:
        a, b = slice_axis(rotated, 3, 0, half), slice_axis(rotated, 3, half, turned)
    cos, sin, a, b = aligned(cos, sin, a, b)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if call.integer("interleaved"):
        pairs = concatenate([unsqueeze(real, [4]), unsqueeze(imaginary, [4])], 4)
        whole = reshape(pairs, rotated.shape)
    else:
        whole = concatenate([real, imaginary], 3)
    if turned < width:
        whole = concatenate([whole, rest], 3)
    if is_flat:
        return reshape(transpose(whole, (0, 2, 1, 3)), x.shape)
    return whole


@operator("LinearAttention")
def linear_attention(
    call: Call,
    query: Value,
    key: Value,
    value: Value,
    state: Value | None = None,
    decay: Value | None = None,
    beta: Value | None = None,
) -> list[Node]:
    """Build LinearAttention, unrolled: return the outputs of all steps and the last state."""
    rule = call.word("update_rule", "gated_delta")
    q_heads, heads = call.integer("q_num_heads"), call.integer("kv_num_heads")
    q, k, v = _heads(call, call.x(query), q_heads), _heads(call, call.x(key), heads), _heads(call, call.x(value), heads)
    samples, _, steps, width = k.shape
    if steps > MOST_STEPS or q_heads % heads:
        call.refuse(f"has {steps} steps and {q_heads} heads for {heads}; at most {MOST_STEPS} steps are written out")
    size = v.shape[3]
    memory = full(call.graph, 0.0, (samples, heads, width, size)) if state is None else call.x(state)
    scale = call.number("scale") or 1.0 / math.sqrt(width)
    gates = corrections = None
    if "gated" in rule:
        given = call.x(decay)
        if given.shape[-1] == heads:
            gates = transpose(reshape(given, (samples, steps, heads, 1)), (0, 2, 1, 3))
        else:
            gates = _heads(call, given, heads)
    if "delta" in rule:
        given = call.x(beta)
        corrections = transpose(reshape(given, (samples, steps, given.shape[-1], 1)), (0, 2, 1, 3))

    def at(x: Node, step: int) -> Node:
        """Return x at one step of its axis of time."""
        return reshape(slice_axis(x, 2, step, step + 1), (*x.shape[:2], x.shape[3]))

    outputs = []
    for step in range(steps):
        own_key, own = at(k, step), at(v, step)
        if gates is not None:
            memory = elementwise(lambda a, b: a * b, memory, unsqueeze(exp(at(gates, step)), [3]))
        column = unsqueeze(own_key, [3])
        if corrections is not None:
            retrieved = sum_over(memory * broadcast(column, memory.shape), [2])
            own = elementwise(lambda a, b: a * b, at(corrections, step), own - retrieved)
        memory = memory + elementwise(lambda a, b: a * b, column, unsqueeze(own, [2]))
        read = _repeated(memory, q_heads // heads)
        asked = unsqueeze(at(q, step), [2])
        outputs.append(sum_product(asked, read) * scale)
    whole = concatenate(outputs, 2)
    return [reshape(transpose(whole, (0, 2, 1, 3)), (samples, steps, q_heads * size)), memory]


@operator("CausalConvWithState")
def causal_convolution(
    call: Call, x: Value, kernel: Value, bias: Value | None = None, state: Value | None = None
) -> list[Node]:
    """Build CausalConvWithState: return the convolution of each step with steps before, and the state."""
    node, weights = call.x(x), call.x(kernel)
    _, channels, length = node.shape
    before = weights.shape[2] - 1
    if state is not None and before:
        whole = concatenate([call.x(state), node], 2)
    else:
        whole = padded(node, [(0, 0), (0, 0), (before, 0)])
    y = convolve(call, whole, weights, channels)
    if bias is not None:
        y = y + broadcast(reshape(call.x(bias), (1, channels, 1)), y.shape)
    if call.word("activation", "none") in ("silu", "swish"):
        y = y * sigmoid(y)
    elif call.word("activation", "none") != "none":
        call.refuse(f"the activation {call.word('activation')[:40]!r} is not read")
    return [y, slice_axis(whole, 2, length, length + before)]


@operator("SwiGLU")
def swiglu(call: Call, a: Value, b: Value) -> Node:
    """Build SwiGLU: return the swish of the first input times the second input."""
    x = call.x(a)
    return x * sigmoid(call.number("alpha", 1.0) * x) * call.x(b)
