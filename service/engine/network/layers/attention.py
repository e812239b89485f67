"""Attention layers: every position of a sequence gets a weighted mean over all positions."""

from __future__ import annotations

import math

from service.engine.building import (
    Flag,
    Integer,
    Integers,
    Node,
    Number,
    broadcast,
    greater,
    reshape,
    softmax,
    transpose,
)
from service.engine.graph.operations import sum_over, tanh
from service.engine.network.initializers import initializers
from service.engine.network.layers.declaration import (
    KERAS,
    USE_BIAS,
    LayerContext,
    LayerOutput,
    kernel_and_bias,
    layers,
    same,
)
from service.engine.options import Choice

HIDDEN = -1e9
"""A score this low gives a share of exactly 0. It is added to the scores of masked positions."""


ATTENTION_DROPOUT = Number(
    name="dropout",
    default=0.0,
    minimum=0.0,
    maximum=1.0,
    open_maximum=True,
    description="in training, share of the attention weights that is zeroed",
)
CAUSAL = Flag(name="use_causal_mask", default=False, description="no position sees later ones")


@layers.declare(
    "multi_head_attention",
    en="For each position a mean of projected values, weighted by how well its query fits their keys, in several "
    "heads. "
    "Takes a query, or query and value, or query, value and key; with one input it attends to itself.",
    zh="多头注意力:按查询与键的匹配程度对值加权平均,多头并行。输入为查询;或查询与值;或查询、值与键。",
    takes=(1, 3),
    options=(
        Integer(name="num_heads", minimum=1, description="number of heads"),
        Integer(name="key_dim", minimum=1, description="length of query and key of a head"),
        Integer(name="value_dim", default=None, minimum=1, description="length of the value of a head (none: key_dim)"),
        ATTENTION_DROPOUT,
        USE_BIAS,
        Integers(
            name="output_shape",
            default=None,
            single=True,
            length=1,
            description="length of the output of a position (none: that of the query)",
        ),
        CAUSAL,
        *kernel_and_bias(),
    ),
    latex=r"A_h = \operatorname{softmax}\!\left( \frac{Q_h K_h^\top}{\sqrt{d}} \right) V_h,\quad "
    r"a = \sum_h A_h W^O_h + b",
    derivative=r"\frac{\partial L}{\partial V_h} = P_h^\top \frac{\partial L}{\partial A_h},\quad "
    r"\frac{\partial L}{\partial Q_h} = \frac{1}{\sqrt d} \left( P_h \odot \left( G_h - \overline{G_h}^{P_h} \right) "
    r"\right) K_h,\quad G_h = \frac{\partial L}{\partial A_h} V_h^\top",
    sources=(KERAS + "attention_layers/multi_head_attention/", "Vaswani et al. 2017, arXiv:1706.03762"),
    parameters={
        "query_kernel": "[query features, num_heads, key_dim]",
        "query_bias": "[num_heads, key_dim]",
        "key_kernel": "[key features, num_heads, key_dim]",
        "key_bias": "[num_heads, key_dim]",
        "value_kernel": "[value features, num_heads, value_dim]",
        "value_bias": "[num_heads, value_dim]",
        "attention_output_kernel": "[num_heads, value_dim, outputs]",
        "attention_output_bias": "[outputs]",
    },
    unit_axes=dict.fromkeys(("query_kernel", "key_kernel", "value_kernel"), (-2, -1)),
)
def multi_head_attention(
    layer: LayerContext, query: Node, value: Node | None = None, key: Node | None = None
) -> LayerOutput:
    options = layer.options
    value = query if value is None else value
    key = value if key is None else key
    for x in (query, value, key):
        layer.need_axes(x, "positions, features")
    if key.shape[1] != value.shape[1]:
        layer.refuse(f"each value needs a key: got {value.shape[1]} values and {key.shape[1]} keys", "inputs")
    heads, size = options["num_heads"], options["key_dim"]
    width = options["value_dim"] or size
    (outputs,) = options["output_shape"] or (query.shape[-1],)

    queries = _heads(layer, "query", query, heads, size) * (1.0 / math.sqrt(size))
    keys, values = _heads(layer, "key", key, heads, size), _heads(layer, "value", value, heads, width)
    scores = queries @ transpose(keys)
    if options["use_causal_mask"]:
        scores = scores + _later(scores) * HIDDEN
    shares = softmax(scores)
    if layer.training and options["dropout"]:
        shares = shares * layer.dropout_mask(shares.shape, options["dropout"])
    mixed = transpose(shares @ values, (0, 2, 1, 3))  # samples, positions, heads, width

    samples, positions = query.shape[:2]
    kernel = layer.parameter(
        "attention_output_kernel",
        (heads, width, outputs),
        options["kernel_initializer"],
        options["kernel_regularizer"],
        fans=(heads * width, heads * outputs),
    )
    rows = reshape(mixed, (samples * positions, heads * width))
    z = reshape(rows @ reshape(kernel, (heads * width, outputs)), (samples, positions, outputs))
    if options["use_bias"]:
        z = z + broadcast(_bias(layer, "attention_output", (outputs,)), z.shape)
    return same(z)


def _need_pairs(layer: LayerContext, query: Node, value: Node, key: Node) -> None:
    for x in (query, value, key):
        layer.need_axes(x, "positions, features")
    if key.shape[1] != value.shape[1]:
        layer.refuse(f"each value needs a key: got {value.shape[1]} values and {key.shape[1]} keys", "inputs")
    if key.shape[2] != query.shape[2]:
        layer.refuse(f"queries have {query.shape[2]} features and keys {key.shape[2]}; both need as many", "inputs")


def _mixed(layer: LayerContext, scores: Node, value: Node) -> LayerOutput:
    """Return the values `(n, k, v)` weighted by the softmax of the scores `(n, q, k)`."""
    if layer.options["use_causal_mask"]:
        scores = scores + _later(scores) * HIDDEN
    shares = softmax(scores)
    if layer.training and layer.options["dropout"]:
        shares = shares * layer.dropout_mask(shares.shape, layer.options["dropout"])
    return same(shares @ value)


def _sums(query: Node, key: Node) -> Node:
    """Return every query plus every key: `(n, q, k, features)`."""
    samples, queries, features = query.shape
    shape = (samples, queries, key.shape[1], features)
    first = broadcast(reshape(query, (samples, queries, 1, features)), shape)
    return first + broadcast(reshape(key, (samples, 1, key.shape[1], features)), shape)


@layers.declare(
    "attention",
    en="For each query a mean of the values, weighted by the softmax of its products with their keys. "
    "Takes a query and values, or a query, values and keys.",
    zh="点积注意力:按查询与键的点积(softmax 后)对值加权平均。输入为查询与值,或查询、值与键。",
    takes=(2, 3),
    options=(
        Flag(name="use_scale", default=False, description="whether a learned number is a factor of the scores"),
        Choice(
            name="score_mode",
            default="dot",
            values=("dot", "concat"),
            description="dot: product of query and key; concat: sum of tanh(query + key), times a learned number",
        ),
        ATTENTION_DROPOUT,
        CAUSAL,
    ),
    latex=r"a = \operatorname{softmax}(s\, Q K^\top) V",
    derivative=r"\frac{\partial L}{\partial V} = P^\top \frac{\partial L}{\partial a}",
    sources=(KERAS + "attention_layers/attention/", "Luong et al. 2015, arXiv:1508.04025"),
    parameters={"scale": "[], with use_scale", "concat_score_weight": "[], with score_mode concat"},
)
def attention(layer: LayerContext, query: Node, value: Node, key: Node | None = None) -> LayerOutput:
    key = value if key is None else key
    _need_pairs(layer, query, value, key)
    ones = initializers.select("ones")
    scale = layer.parameter("scale", (), ones) if layer.options["use_scale"] else None
    if layer.options["score_mode"] == "dot":
        scores = query @ transpose(key)
        return _mixed(layer, scores if scale is None else scores * broadcast(scale, scores.shape), value)
    weight = layer.parameter("concat_score_weight", (), ones)
    sums = _sums(query, key)
    scores = sum_over(tanh(sums if scale is None else sums * broadcast(scale, sums.shape)), [3])
    return _mixed(layer, scores * broadcast(weight, scores.shape), value)


@layers.declare(
    "additive_attention",
    en="For each query a mean of the values, weighted by the softmax of sums over tanh(query + key). "
    "Takes a query and values, or a query, values and keys.",
    zh="加性注意力:按 tanh(查询 + 键) 的加权和(softmax 后)对值加权平均。输入为查询与值,或查询、值与键。",
    takes=(2, 3),
    options=(
        Flag(name="use_scale", default=True, description="whether a learned vector weighs the features"),
        ATTENTION_DROPOUT,
        CAUSAL,
    ),
    latex=r"a_q = \sum_k \operatorname{softmax}_k\!\left( \sum_f s_f \tanh(Q_{qf} + K_{kf}) \right) V_k",
    derivative=r"\frac{\partial L}{\partial V} = P^\top \frac{\partial L}{\partial a}",
    sources=(KERAS + "attention_layers/additive_attention/", "Bahdanau et al. 2014, arXiv:1409.0473"),
    parameters={"scale": "[features], with use_scale"},
)
def additive_attention(layer: LayerContext, query: Node, value: Node, key: Node | None = None) -> LayerOutput:
    key = value if key is None else key
    _need_pairs(layer, query, value, key)
    sums = tanh(_sums(query, key))
    if layer.options["use_scale"]:
        features = query.shape[2]
        start = initializers.select("glorot_uniform")
        scale = layer.parameter("scale", (features,), start, fans=(features, features), reason=layer.source)
        sums = sums * broadcast(scale, sums.shape)
    return _mixed(layer, sum_over(sums, [3]), value)


def _heads(layer: LayerContext, name: str, x: Node, heads: int, size: int) -> Node:
    """Return x projected for each head, `(samples, heads, positions, size)`."""
    samples, positions, features = x.shape
    kernel = layer.parameter(
        f"{name}_kernel",
        (features, heads, size),
        layer.options["kernel_initializer"],
        layer.options["kernel_regularizer"],
        fans=(features * heads, features * size),
        reason=layer.source if name == "query" else f"the {name} has {features} features",
    )
    rows = reshape(x, (samples * positions, features)) @ reshape(kernel, (features, heads * size))
    if layer.options["use_bias"]:
        bias = reshape(_bias(layer, name, (heads, size)), (heads * size,))
        rows = rows + broadcast(bias, rows.shape)
    return transpose(reshape(rows, (samples, positions, heads, size)), (0, 2, 1, 3))


def _bias(layer: LayerContext, name: str, shape: tuple[int, ...]) -> Node:
    options = layer.options
    return layer.parameter(f"{name}_bias", shape, options["bias_initializer"], options["bias_regularizer"])


def _later(scores: Node) -> Node:
    """Return 1 where the position of a key comes after that of the query, else 0, in the shape of the scores."""
    queries, keys = scores.shape[-2:]
    graph = scores.graph
    rows = broadcast(reshape(graph.vector(tuple(map(float, range(queries)))), (queries, 1)), scores.shape)
    columns = broadcast(graph.vector(tuple(map(float, range(keys)))), scores.shape)
    return greater(columns, rows)
