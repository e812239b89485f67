"""Layer types, each declared once.

A function takes a `LayerContext` and its input nodes (samples first) and returns a `LayerOutput`.
It asks the context for parameters and random masks by name, and reads its options from it. What
cannot work is said with `context.refuse`, naming the option.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from service.engine.declarations import Declaration, Flag, Integer, Integers, Number, Reference, Registry, Selection
from service.engine.graph.ir import Node, Shape
from service.engine.graph.operations import broadcast, concatenate, reshape
from service.engine.network.activations import Activation, activations
from service.engine.network.initializers import Initializer, initializers
from service.engine.network.regularizers import Regularizer, regularizers


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(Declaration):
    merges: bool = False
    """Takes two or more inputs instead of one."""
    parameters: Mapping[str, str] | None = None
    """What the parameters are called and their shapes in words, for the catalogue."""


layers: Registry[Layer] = Registry("layer", "layers", Layer)

KERAS = "https://keras.io/api/layers/"


@dataclass(frozen=True)
class LayerOutput:
    """What a layer computes: z, a, and by which activation a came from z."""

    output: Node
    pre_activation: Node
    activation: Selection[Activation] | None = None


class LayerError(Exception):
    """A layer cannot be built as asked; `option` is None where its inputs are the reason."""

    def __init__(self, option: str | None, detail: str) -> None:
        super().__init__(detail)
        self.option, self.detail = option, detail


@dataclass(frozen=True)
class LayerContext:
    """What a layer may ask for while it is built."""

    name: str
    options: Mapping[str, Any]
    training: bool
    source: str
    """Why the inputs have their shape, as the end of a sentence."""
    declare_parameter: Callable[..., Node]
    declare_mask: Callable[[str, Shape, float], Node]

    def parameter(
        self,
        name: str,
        shape: Shape,
        initializer: Selection[Initializer],
        regularizer: Selection[Regularizer] | None = None,
        *,
        fans: tuple[int, int] | None = None,
        also: tuple[Shape, ...] = (),
        reason: str = "",
    ) -> Node:
        """A trainable array of this layer.

        `also` lists other shapes a caller may send instead; `reason` ends the sentence that
        refuses a wrong shape.
        """
        size = math.prod(shape)
        return self.declare_parameter(name, shape, initializer, regularizer, fans or (size, size), also, reason)

    def dropout_mask(self, shape: Shape, rate: float) -> Node:
        """Random zeros with probability `rate`, elsewhere 1 / (1 - rate), drawn anew for every run from its seed."""
        return self.declare_mask(self.name, shape, rate)

    def activate(self, z: Node, activation: Selection[Activation]) -> LayerOutput:
        """The layer's output from its pre-activation."""
        slopes = [
            self.parameter(
                name,
                z.shape[1:],
                initializers.select("constant", value=activation.options[name]),
                also=((), (1,)),
                reason="one number per feature, or one for all",
            )
            for name in activation.declaration.parameters
        ]
        return LayerOutput(activation.declaration.build(z, *slopes, **activation.options), z, activation)

    def refuse(self, detail: str, option: str | None = None) -> NoReturn:
        raise LayerError(option, detail)


def _same(node: Node) -> LayerOutput:
    return LayerOutput(node, node)


ACTIVATION = Reference(name="activation", default="linear", registry=activations, description="applied to z")


def _initializer(of: str, default: str) -> Reference:
    return Reference(
        name=f"{of}_initializer",
        default=default,
        registry=initializers,
        description=f"how {of} starts if it is not sent",
    )


def _regularizer(of: str) -> Reference:
    return Reference(
        name=f"{of}_regularizer", default=None, registry=regularizers, description=f"penalty on {of} (none by default)"
    )


@layers.declare(
    "dense",
    en="A weighted sum of all inputs for each unit, plus a bias, through an activation. Acts on the last axis.",
    zh="全连接层:每个单元对全部输入加权求和,加偏置,再经激活函数。作用于最后一轴。",
    options=(
        Integer(name="units", minimum=1, description="number of outputs"),
        ACTIVATION,
        Flag(name="use_bias", default=True, description="whether a bias is added"),
        _initializer("kernel", "glorot_uniform"),
        _initializer("bias", "zeros"),
        _regularizer("kernel"),
        _regularizer("bias"),
    ),
    latex=r"z = a_{prev} W + b,\quad a = f(z)",
    derivative=r"\frac{\partial L}{\partial W} = a_{prev}^\top \delta,\quad "
    r"\frac{\partial L}{\partial b} = \sum_n \delta_n,\quad \delta_{prev} = (\delta W^\top) \odot f'(z_{prev})",
    sources=(KERAS + "core_layers/dense/",),
    parameters={"kernel": "[inputs, units]", "bias": "[units]"},
)
def dense(layer: LayerContext, x: Node) -> LayerOutput:
    options = layer.options
    inputs, units = x.shape[-1], options["units"]
    kernel = layer.parameter(
        "kernel",
        (inputs, units),
        options["kernel_initializer"],
        options["kernel_regularizer"],
        fans=(inputs, units),
        reason=layer.source,
    )
    rows = reshape(x, (x.size // inputs, inputs))
    z = reshape(rows @ kernel, (*x.shape[:-1], units))
    if options["use_bias"]:
        reason = f"the layer has {units} unit{'' if units == 1 else 's'}"
        bias = layer.parameter(
            "bias", (units,), options["bias_initializer"], options["bias_regularizer"], reason=reason
        )
        z = z + broadcast(bias, z.shape)
    return layer.activate(z, options["activation"])


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
    return layer.activate(x, layer.options["activation"])


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
        _regularizer("alpha"),
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
    alpha = layer.parameter(
        "alpha",
        tuple(1 if axis in shared else n for axis, n in enumerate(x.shape) if axis),
        layer.options["alpha_initializer"],
        layer.options["alpha_regularizer"],
        also=((), (1,)),
        reason=layer.source,
    )
    selected = activations.select("prelu")
    return LayerOutput(selected.declaration.build(x, alpha, **selected.options), x, selected)


@layers.declare(
    "flatten",
    en="Each sample as one row.",
    zh="把每个样本展平成一行。",
    latex=r"a = \operatorname{vec}(z)",
    sources=(KERAS + "reshaping_layers/flatten/",),
)
def flatten(layer: LayerContext, x: Node) -> LayerOutput:
    return _same(reshape(x, (x.shape[0], x.size // x.shape[0])))


@layers.declare(
    "reshape",
    en="Each sample in another shape, in row-major order; one entry may be -1 and is then worked out.",
    zh="按行优先次序改变每个样本的形状;可有一项为 -1,自动推算。",
    options=(Integers(name="target_shape", minimum=-1, description="shape of one sample"),),
    latex=r"a = \operatorname{reshape}(z)",
    sources=(KERAS + "reshaping_layers/reshape/",),
)
def reshape_samples(layer: LayerContext, x: Node) -> LayerOutput:
    wanted = list(layer.options["target_shape"])
    size = x.size // x.shape[0]
    known = math.prod(n for n in wanted if n != -1)
    if not wanted:
        layer.refuse("takes at least one entry: samples without an axis would be taken for features", "target_shape")
    if wanted.count(-1) > 1 or 0 in wanted:
        layer.refuse("at most one entry may be -1, the others are positive", "target_shape")
    if -1 in wanted and size % known == 0:
        wanted[wanted.index(-1)] = size // known
    if math.prod(wanted) != size:
        layer.refuse(f"{wanted} cannot hold the {size} values of a sample; {layer.source}", "target_shape")
    return _same(reshape(x, (x.shape[0], *wanted)))


@layers.declare(
    "dropout",
    en="In training, zeroes a random share of the values and scales the rest up; otherwise does nothing. "
    "The mask follows from the request's seed.",
    zh="训练时随机置零一部分值并放大其余值,推理时不起作用。掩码由请求的种子决定。",
    options=(
        Number(name="rate", minimum=0.0, maximum=1.0, open_maximum=True, description="share of values that are zeroed"),
    ),
    latex=r"a = \frac{m \odot z}{1 - r},\quad m \sim \operatorname{Bernoulli}(1 - r)",
    derivative=r"\delta = \frac{m}{1 - r} \odot \frac{\partial L}{\partial a}",
    sources=(KERAS + "regularization_layers/dropout/", "Srivastava et al. 2014"),
)
def dropout(layer: LayerContext, x: Node) -> LayerOutput:
    rate = layer.options["rate"]
    if not layer.training or rate == 0.0:
        return _same(x)
    return LayerOutput(x * layer.dropout_mask(x.shape, rate), x)


def _need_equal_shapes(layer: LayerContext, inputs: Sequence[Node]) -> None:
    shapes = [list(x.shape[1:]) for x in inputs]
    if any(shape != shapes[0] for shape in shapes):
        layer.refuse(f"takes inputs of one shape, got {', '.join(map(str, shapes))} per sample", "inputs")


@layers.declare(
    "add",
    en="The sum of its inputs.",
    zh="各输入之和。",
    merges=True,
    latex=r"a = \sum_i x_i",
    derivative=r"\frac{\partial L}{\partial x_i} = \frac{\partial L}{\partial a}",
    sources=(KERAS + "merging_layers/add/",),
)
def add(layer: LayerContext, *inputs: Node) -> LayerOutput:
    _need_equal_shapes(layer, inputs)
    total = inputs[0]
    for x in inputs[1:]:
        total = total + x
    return _same(total)


@layers.declare(
    "multiply",
    en="The elementwise product of its inputs.",
    zh="各输入逐元素相乘。",
    merges=True,
    latex=r"a = \prod_i x_i",
    derivative=r"\frac{\partial L}{\partial x_i} = \frac{\partial L}{\partial a} \odot \prod_{j \ne i} x_j",
    sources=(KERAS + "merging_layers/multiply/",),
)
def multiply(layer: LayerContext, *inputs: Node) -> LayerOutput:
    _need_equal_shapes(layer, inputs)
    product = inputs[0]
    for x in inputs[1:]:
        product = product * x
    return _same(product)


@layers.declare(
    "concatenate",
    en="Its inputs side by side along one axis.",
    zh="沿一轴拼接各输入。",
    merges=True,
    options=(Integer(name="axis", default=-1, description="axis counted with the samples' axis 0; not 0"),),
    latex=r"a = [x_1, x_2, \dots]",
    derivative=r"\frac{\partial L}{\partial x_i} = \text{its slice of } \frac{\partial L}{\partial a}",
    sources=(KERAS + "merging_layers/concatenate/",),
)
def concatenate_along_axis(layer: LayerContext, *inputs: Node) -> LayerOutput:
    rank = len(inputs[0].shape)
    axis = layer.options["axis"]
    if not (1 <= axis < rank or 1 - rank <= axis <= -1):
        layer.refuse(f"axis {axis} is none of 1 to {rank - 1} (or -1 to {1 - rank})", "axis")
    axis %= rank
    rests = [(x.shape[1:axis], x.shape[axis + 1 :]) for x in inputs]
    if any(len(x.shape) != rank or rest != rests[0] for x, rest in zip(inputs, rests, strict=True)):
        shapes = ", ".join(str(list(x.shape[1:])) for x in inputs)
        layer.refuse(f"takes inputs that agree in all axes but {axis}, got {shapes} per sample", "inputs")
    return _same(concatenate(inputs, axis))
