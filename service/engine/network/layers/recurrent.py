"""Recurrent layers, unrolled: every step becomes operations of the graph.

One matrix product serves the inputs of all steps. A step itself is one product with the recurrent
kernel, and elementwise work on its gates. A sequence of known length needs no loop at run time, and
is differentiated and vectorized like any other graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from service.engine.building import (
    Array,
    Flag,
    Integer,
    Node,
    Number,
    Option,
    Reference,
    Selection,
    Shape,
    broadcast,
    concatenate,
    reshape,
    slice_axis,
    transpose,
)
from service.engine.graph.operations import sum_over
from service.engine.network.activations import activations
from service.engine.network.initializers import Initializer
from service.engine.network.layers.declaration import (
    KERAS,
    USE_BIAS,
    LayerContext,
    LayerOutput,
    in_words,
    initializer,
    layers,
    regularizer,
    same,
)

State = tuple[Node, ...]
"""The nodes that one step passes to the next, the output first."""
Recurrence = Callable[[Node, "State | None"], State]
"""One step: from the product of its inputs with the kernel, and the state (None: all zeros), to the next state."""


def _rate(name: str, of: str) -> Number:
    return Number(
        name=name,
        default=0.0,
        minimum=0.0,
        maximum=1.0,
        open_maximum=True,
        description=f"in training, share of the {of} that is zeroed, the same at every step",
    )


def _options(*more: Flag, gated: bool = True) -> tuple[Option, ...]:
    gate = Reference(
        name="recurrent_activation", default="sigmoid", registry=activations, description="applied to the gates"
    )
    return (
        Integer(name="units", minimum=1, description="length of the state"),
        Reference(name="activation", default="tanh", registry=activations, description="applied to the candidate"),
        *((gate,) if gated else ()),
        USE_BIAS,
        initializer("kernel", "glorot_uniform"),
        initializer("recurrent", "orthogonal"),
        initializer("bias", "zeros"),
        *more,
        regularizer("kernel"),
        regularizer("recurrent"),
        regularizer("bias"),
        _rate("dropout", "inputs"),
        _rate("recurrent_dropout", "state"),
        Flag(name="return_sequences", default=False, description="give the output of every step, not only the last"),
        Flag(name="go_backwards", default=False, description="read the sequence from its end"),
    )


def _apply(layer: LayerContext, option: str, z: Node) -> Node:
    chosen = layer.options[option]
    if chosen.declaration.parameters:
        layer.refuse(f"{chosen.name} has parameters of its own, which a step cannot hold", option)
    quick = chosen.declaration.quick
    result: Node = chosen.declaration.build(z, **chosen.options) if quick is None else quick(z)
    return result


def _gates(layer: LayerContext, z: Node, units: int) -> list[Node]:
    """Return the activated gates, which lie side by side in z; one call serves all where that gives the same."""
    count = z.shape[1] // units
    if layer.options["recurrent_activation"].declaration.acts_on == "element":
        return _split(_apply(layer, "recurrent_activation", z), units)
    return [_apply(layer, "recurrent_activation", slice_axis(z, 1, k * units, (k + 1) * units)) for k in range(count)]


def _split(z: Node, units: int) -> list[Node]:
    return [slice_axis(z, 1, start, start + units) for start in range(0, z.shape[1], units)]


def _order(matrix: Node, units: int, order: Sequence[int]) -> Node:
    """Return the columns of a matrix, in blocks of `units`, in another order."""
    blocks = _split(matrix, units)
    return concatenate([blocks[k] for k in order], 1)


def _initial(layer: LayerContext, states: Sequence[Node], samples: int, count: int) -> State | None:
    """Return the initial state, which further inputs give, or None without them."""
    units = layer.options["units"]
    if states and len(states) != count:
        expected = in_words(count, "initial state")
        layer.refuse(f"takes a sequence and, if any, {expected}; got {len(states)} more inputs", "inputs")
    for state in states:
        if state.shape != (samples, units):
            layer.refuse(
                f"an initial state has shape {list(state.shape[1:])} per sample; it takes [{units}], one for each unit",
                "inputs",
            )
    return tuple(states) or None


def _unroll(
    layer: LayerContext, x: Node, initial: State | None, kernel: Node, bias: Node | None, step: Recurrence
) -> LayerOutput:
    """Return the output of a recurrent layer: `step` runs over the sequence x, `(n, t, features)`. One product with the
    kernel serves all steps."""
    samples, length, features = x.shape
    rows = reshape(transpose(x, (1, 0, 2)), (length * samples, features))
    projected = rows @ kernel
    if bias is not None:
        projected = projected + broadcast(bias, projected.shape)
    state = initial
    outputs = []
    for position in range(length):
        place = length - 1 - position if layer.options["go_backwards"] else position
        state = step(slice_axis(projected, 0, place * samples, (place + 1) * samples), state)
        outputs.append(state[0])
    if not layer.options["return_sequences"]:
        return same(outputs[-1])
    units = outputs[0].shape[1]
    return same(concatenate([reshape(output, (samples, 1, units)) for output in outputs], 1))


def _prepare(layer: LayerContext, x: Node, gates: int) -> tuple[Node, Node, Node, Callable[[Node], Node]]:
    """Return the inputs after dropout, both kernels, and a function that applies dropout to the state."""
    layer.need_axes(x, "steps, features")
    samples, _, features = x.shape
    units = layer.options["units"]
    kernel = layer.parameter("kernel", (features, gates * units), fans=(features, gates * units), reason=layer.source)
    reason = f"the layer has {in_words(units, 'unit')}"
    recurrent = layer.parameter(
        "recurrent_kernel",
        (units, gates * units),
        layer.options["recurrent_initializer"],
        layer.options["recurrent_regularizer"],
        fans=(units, gates * units),
        reason=reason,
    )
    if layer.training and layer.options["dropout"]:
        mask = layer.dropout_mask((samples, 1, features), layer.options["dropout"])
        x = x * broadcast(mask, x.shape)
    if not (layer.training and layer.options["recurrent_dropout"]):
        return x, kernel, recurrent, lambda state: state
    kept = layer.dropout_mask((samples, units), layer.options["recurrent_dropout"])
    return x, kernel, recurrent, lambda state: state * kept


def _bias(layer: LayerContext, *shape: int) -> Node | None:
    if not layer.options["use_bias"]:
        return None
    return layer.parameter("bias", shape, reason=f"the layer has {in_words(layer.options['units'], 'unit')}")


RECURRENT_BIAS = Flag(
    name="recurrent_bias",
    default=False,
    description="the bias is the sum of two, one for the inputs and one for the state, as in PyTorch",
)


def _both(layer: LayerContext, bias: Node | None) -> Node | None:
    """Return the sum of the two biases of a layer with `recurrent_bias`."""
    return sum_over(bias, [0]) if bias is not None and layer.options["recurrent_bias"] else bias


@layers.declare(
    "simple_rnn",
    en="Reads a sequence step by step; its output is also its state.",
    zh="简单循环层:逐步读取序列,输出即状态。",
    takes=(1, 2),
    recurrent=True,
    options=_options(RECURRENT_BIAS, gated=False),
    latex=r"h_t = f(x_t W + h_{t-1} U + b)",
    derivative=r"\frac{\partial L}{\partial U} = \sum_t h_{t-1}^\top \delta_t,\quad "
    r"\delta_t = \left( \frac{\partial L}{\partial h_t} + \delta_{t+1} U^\top \right) \odot f'(z_t)",
    sources=(KERAS + "recurrent_layers/simple_rnn/",),
    parameters={
        "kernel": "[features, units]",
        "recurrent_kernel": "[units, units]",
        "bias": "[units]; [2, units] with recurrent_bias",
    },
)
def simple_rnn(layer: LayerContext, x: Node, *states: Node) -> LayerOutput:
    initial = _initial(layer, states, x.shape[0], 1)
    x, kernel, recurrent, dropped = _prepare(layer, x, 1)
    units = layer.options["units"]
    bias = _both(layer, _bias(layer, *((2, units) if layer.options["recurrent_bias"] else (units,))))

    def step(share: Node, state: State | None) -> State:
        z = share if state is None else share + dropped(state[0]) @ recurrent
        return (_apply(layer, "activation", z),)

    return _unroll(layer, x, initial, kernel, bias, step)


def _unit_forget_bias(layer: LayerContext, units: int) -> Node | None:
    if not layer.options["use_bias"]:
        return None
    start: Selection[Initializer] = layer.options["bias_initializer"]

    def build(generator: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> Array:
        values: Array = start.declaration.build(generator, shape, fans, **start.options)
        values.reshape(-1)[units : 2 * units] = 1.0  # of two biases, the first
        return values

    opened = Selection(Initializer(name="unit_forget_bias", build=build), {})
    chosen = opened if layer.options["unit_forget_bias"] else start
    shape = (2, 4 * units) if layer.options["recurrent_bias"] else (4 * units,)
    return layer.parameter("bias", shape, chosen, reason=f"the layer has {in_words(units, 'unit')}")


@layers.declare(
    "lstm",
    en="Long short-term memory: a cell that gates decide to keep, to change and to show. The gates lie in the order "
    "input, forget, candidate, output.",
    zh="长短期记忆:由门控制细胞状态的保留、更新与输出。门的次序为输入、遗忘、候选、输出。",
    takes=(1, 3),
    recurrent=True,
    options=_options(
        Flag(name="unit_forget_bias", default=True, description="start the forget gate's bias at 1"), RECURRENT_BIAS
    ),
    latex=r"\begin{aligned} i, f, o &= \sigma(x_t W_{ifo} + h_{t-1} U_{ifo} + b_{ifo}) \\ "
    r"c_t &= f \odot c_{t-1} + i \odot \tanh(x_t W_c + h_{t-1} U_c + b_c) \\ h_t &= o \odot \tanh c_t \end{aligned}",
    derivative=r"\frac{\partial L}{\partial U} = \sum_t h_{t-1}^\top \delta_t,\quad "
    r"\frac{\partial L}{\partial c_{t-1}} = \frac{\partial L}{\partial c_t} \odot f_t",
    sources=(KERAS + "recurrent_layers/lstm/", "Hochreiter, Schmidhuber 1997"),
    parameters={
        "kernel": "[features, 4 * units]",
        "recurrent_kernel": "[units, 4 * units]",
        "bias": "[4 * units]; [2, 4 * units] with recurrent_bias",
    },
)
def lstm(layer: LayerContext, x: Node, *states: Node) -> LayerOutput:
    units = layer.options["units"]
    initial = _initial(layer, states, x.shape[0], 2)
    x, kernel, recurrent, dropped = _prepare(layer, x, 4)
    bias = _both(layer, _unit_forget_bias(layer, units))
    # Gates side by side, the candidate last: one activation call then serves three gates.
    kernel, recurrent = _order(kernel, units, (0, 1, 3, 2)), _order(recurrent, units, (0, 1, 3, 2))
    if bias is not None:
        bias = reshape(_order(reshape(bias, (1, 4 * units)), units, (0, 1, 3, 2)), (4 * units,))

    def step(share: Node, state: State | None) -> State:
        z = share if state is None else share + dropped(state[0]) @ recurrent
        enter, forget, show = _gates(layer, slice_axis(z, 1, 0, 3 * units), units)
        cell = enter * _apply(layer, "activation", slice_axis(z, 1, 3 * units, 4 * units))
        if state is not None:
            cell = forget * state[1] + cell
        return (show * _apply(layer, "activation", cell), cell)

    return _unroll(layer, x, initial, kernel, bias, step)


@layers.declare(
    "gru",
    en="Gated recurrent unit: one gate mixes the old state with a candidate, another limits what the candidate sees "
    "of it. The gates lie in the order update, reset, candidate.",
    zh="门控循环单元:更新门混合旧状态与候选,重置门限制候选所见的旧状态。门的次序为更新、重置、候选。",
    takes=(1, 2),
    recurrent=True,
    options=_options(
        Flag(
            name="reset_after",
            default=True,
            description="reset after the product with the recurrent kernel (cuDNN) instead of before; two biases",
        )
    ),
    latex=r"\begin{aligned} z, r &= \sigma(x_t W_{zr} + h_{t-1} U_{zr} + b_{zr}) \\ "
    r"\tilde h &= \tanh(x_t W_h + r \odot (h_{t-1} U_h + b'_h) + b_h) \\ "
    r"h_t &= z \odot h_{t-1} + (1 - z) \odot \tilde h \end{aligned}",
    derivative=r"\frac{\partial L}{\partial U} = \sum_t h_{t-1}^\top \delta_t",
    sources=(KERAS + "recurrent_layers/gru/", "Cho et al. 2014, arXiv:1406.1078"),
    parameters={
        "kernel": "[features, 3 * units]",
        "recurrent_kernel": "[units, 3 * units]",
        "bias": "[2, 3 * units]: for the inputs and for the state; [3 * units] without reset_after",
    },
)
def gru(layer: LayerContext, x: Node, *states: Node) -> LayerOutput:
    units, reset_after = layer.options["units"], layer.options["reset_after"]
    initial = _initial(layer, states, x.shape[0], 1)
    x, kernel, recurrent, dropped = _prepare(layer, x, 3)
    bias = _bias(layer, *((2, 3 * units) if reset_after else (3 * units,)))
    own: Node | None = None  # the bias that belongs to the state
    if bias is not None and reset_after:
        bias, own = (reshape(slice_axis(bias, 0, row, row + 1), (3 * units,)) for row in (0, 1))
    gate_kernel = slice_axis(recurrent, 1, 0, 2 * units)
    candidate_kernel = slice_axis(recurrent, 1, 2 * units, 3 * units)

    def after(share: Node, state: Node | None) -> tuple[Node, Node]:
        parts, candidate_share = slice_axis(share, 1, 0, 2 * units), slice_axis(share, 1, 2 * units, 3 * units)
        inner = None if state is None else dropped(state) @ recurrent
        if own is not None:
            spread = broadcast(own, share.shape)
            inner = spread if inner is None else inner + spread
        if inner is not None:
            parts = parts + slice_axis(inner, 1, 0, 2 * units)
        update, reset = _gates(layer, parts, units)
        if inner is not None:
            candidate_share = candidate_share + reset * slice_axis(inner, 1, 2 * units, 3 * units)
        return update, candidate_share

    def before(share: Node, state: Node | None) -> tuple[Node, Node]:
        parts, candidate_share = slice_axis(share, 1, 0, 2 * units), slice_axis(share, 1, 2 * units, 3 * units)
        if state is None:
            return _gates(layer, parts, units)[0], candidate_share
        seen = dropped(state)
        update, reset = _gates(layer, parts + seen @ gate_kernel, units)
        return update, candidate_share + (reset * seen) @ candidate_kernel

    def step(share: Node, state: State | None) -> State:
        previous = None if state is None else state[0]
        update, z = (after if reset_after else before)(share, previous)
        candidate = _apply(layer, "activation", z)
        mixed = (1.0 - update) * candidate
        return (mixed if previous is None else update * previous + mixed,)

    return _unroll(layer, x, initial, kernel, bias, step)
