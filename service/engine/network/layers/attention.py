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
from service.engine.network.layers.declaration import (
    KERAS,
    USE_BIAS,
    LayerContext,
    LayerOutput,
    kernel_and_bias,
    layers,
    same,
)

HIDDEN = -1e9
"""A score this low gives a share of exactly 0. It is added to the scores of masked positions."""


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
        Number(
            name="dropout",
            default=0.0,
            minimum=0.0,
            maximum=1.0,
            open_maximum=True,
            description="in training, share of the attention weights that is zeroed",
        ),
        USE_BIAS,
        Integers(
            name="output_shape",
            default=None,
            single=True,
            length=1,
            description="length of the output of a position (none: that of the query)",
        ),
        Flag(name="use_causal_mask", default=False, description="no position sees later ones"),
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


def _heads(layer: LayerContext, name: str, x: Node, heads: int, size: int) -> Node:
    """Project x for each head: `(samples, heads, positions, size)`."""
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
    _, _, queries, keys = scores.shape
    graph = scores.graph
    rows = broadcast(reshape(graph.vector(tuple(map(float, range(queries)))), (queries, 1)), scores.shape)
    columns = broadcast(graph.vector(tuple(map(float, range(keys)))), scores.shape)
    return greater(columns, rows)
