"""Dense layers and their relatives, which have weights for every feature."""

from __future__ import annotations

from service.engine.building import Integer, Integers, Node, Reference, broadcast, gather_rows, largest, reshape
from service.engine.network.activations import activations
from service.engine.network.initializers import initializers
from service.engine.network.layers.declaration import (
    ACTIVATION,
    KERAS,
    USE_BIAS,
    LayerContext,
    LayerOutput,
    in_words,
    initializer,
    kernel_and_bias,
    layers,
    regularizer,
    same,
)


@layers.declare(
    "dense",
    en="A weighted sum of all inputs for each unit, plus a bias, through an activation. Acts on the last axis.",
    zh="全连接层:每个单元对全部输入加权求和,加偏置,再经激活函数。作用于最后一轴。",
    options=(
        Integer(name="units", minimum=1, description="number of outputs"),
        ACTIVATION,
        USE_BIAS,
        *kernel_and_bias(),
    ),
    latex=r"z = a_{prev} W + b,\quad a = f(z)",
    derivative=r"\frac{\partial L}{\partial W} = a_{prev}^\top \delta,\quad "
    r"\frac{\partial L}{\partial b} = \sum_n \delta_n,\quad \delta_{prev} = (\delta W^\top) \odot f'(z_{prev})",
    sources=(KERAS + "core_layers/dense/",),
    parameters={"kernel": "[inputs, units]", "bias": "[units]"},
)
def dense(layer: LayerContext, x: Node) -> LayerOutput:
    inputs, units = x.shape[-1], layer.options["units"]
    kernel = layer.parameter("kernel", (inputs, units), fans=(inputs, units), reason=layer.source)
    rows = reshape(x, (x.size // inputs, inputs))
    z = reshape(rows @ kernel, (*x.shape[:-1], units))
    if layer.options["use_bias"]:
        bias = layer.parameter("bias", (units,), reason=f"the layer has {in_words(units, 'unit')}")
        z = z + broadcast(bias, z.shape)
    return layer.activate(z)


@layers.declare(
    "maxout",
    en="For each unit the largest of several weighted sums. Where pieces are equal the first one learns. "
    "Acts on the last axis.",
    zh="Maxout 层:每个单元取若干加权和中的最大值;相等时由第一个得到梯度。作用于最后一轴。",
    options=(
        Integer(name="units", minimum=1, description="number of outputs"),
        Integer(name="pieces", default=2, minimum=1, description="weighted sums for each unit"),
        USE_BIAS,
        *kernel_and_bias(),
    ),
    latex=r"a_j = \max_p \left( \sum_i x_i W_{ijp} + b_{jp} \right)",
    derivative=r"\frac{\partial L}{\partial W_{ijp}} = \sum_n x_{ni}\, \frac{\partial L}{\partial a_{nj}} "
    r"[p = \operatorname{argmax}]",
    sources=("Goodfellow et al. 2013, arXiv:1302.4389",),
    parameters={"kernel": "[inputs, units, pieces]", "bias": "[units, pieces]"},
    unit_axes={"kernel": (-2, -1)},
)
def maxout(layer: LayerContext, x: Node) -> LayerOutput:
    inputs, units, pieces = x.shape[-1], layer.options["units"], layer.options["pieces"]
    kernel = layer.parameter("kernel", (inputs, units, pieces), fans=(inputs, units), reason=layer.source)
    rows = reshape(x, (x.size // inputs, inputs))
    z = reshape(rows @ reshape(kernel, (inputs, units * pieces)), (*x.shape[:-1], units, pieces))
    if layer.options["use_bias"]:
        reason = f"the layer has {in_words(units, 'unit')} of {in_words(pieces, 'piece')}"
        z = z + broadcast(layer.parameter("bias", (units, pieces), reason=reason), z.shape)
    return LayerOutput(largest(z, [-1]), z)


@layers.declare(
    "activation",
    en="An activation on its own.",
    zh="单独的激活函数层。",
    options=(Reference(name="activation", registry=activations, description="which one"),),
    latex=r"a = f(z)",
    derivative=r"\delta = \frac{\partial L}{\partial a} \odot f'(z)",
    sources=(KERAS + "core_layers/activation/",),
)
def activation(layer: LayerContext, x: Node) -> LayerOutput:
    return layer.activate(x)


@layers.declare(
    "prelu",
    en="A rectifier whose slope alpha for negative inputs is learned, one per feature unless axes share it.",
    zh="参数化线性整流层:负侧斜率 alpha 可学习,默认每个特征一个,可沿轴共享。",
    options=(
        Reference(
            name="alpha_initializer",
            default=initializers.select("constant", value=0.25),
            registry=initializers,
            description="how alpha starts if it is not sent (PyTorch 0.25, Keras 0)",
        ),
        regularizer("alpha"),
        Integers(
            name="shared_axes",
            default=(),
            minimum=1,
            description="axes, counted from the samples' axis 0, with one alpha",
        ),
    ),
    latex=r"a = \max(z, 0) + \alpha \min(z, 0)",
    derivative=r"\frac{\partial L}{\partial \alpha} = \sum_n \frac{\partial L}{\partial a_n} \min(z_n, 0)",
    sources=(KERAS + "activation_layers/prelu/", "He et al. 2015, arXiv:1502.01852"),
    parameters={"alpha": "the shape of one sample, 1 along shared axes; or one number for all"},
)
def prelu(layer: LayerContext, x: Node) -> LayerOutput:
    shared = layer.options["shared_axes"]
    for axis in shared:
        if axis >= len(x.shape):
            layer.refuse(f"axis {axis} does not exist: the input has axes 0 to {len(x.shape) - 1}", "shared_axes")
    shape = tuple(1 if axis in shared else n for axis, n in enumerate(x.shape) if axis)
    alpha = layer.parameter("alpha", shape, also=((), (1,)), reason=layer.source)
    selected = activations.select("prelu")
    return LayerOutput(selected.declaration.build(x, alpha, **selected.options), x, selected)


@layers.declare(
    "embedding",
    en="A learned vector for each index. Its input holds integers from 0 to input_dim - 1 and is one of the "
    "network's inputs.",
    zh="嵌入层:为每个索引学习一个向量。输入为 0 到 input_dim - 1 的整数,且直接来自网络输入。",
    options=(
        Integer(name="input_dim", minimum=1, description="how many different indices there are"),
        Integer(name="output_dim", minimum=1, description="length of each vector"),
        initializer("embeddings", "uniform"),
        regularizer("embeddings"),
    ),
    latex=r"a_{nt} = E_{x_{nt}}",
    derivative=r"\frac{\partial L}{\partial E_i} = \sum_{n,t : x_{nt} = i} \frac{\partial L}{\partial a_{nt}}",
    sources=(KERAS + "core_layers/embedding/",),
    takes_indices=True,
    parameters={"embeddings": "[input_dim, output_dim]"},
    unit_axes={"embeddings": (0,)},
)
def embedding(layer: LayerContext, x: Node) -> LayerOutput:
    rows, width = layer.options["input_dim"], layer.options["output_dim"]
    table = layer.parameter("embeddings", (rows, width), fans=(rows, width), reason="of input_dim and output_dim")
    return same(gather_rows(table, x))
