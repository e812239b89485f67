"""ONNX's recurrent operators, unrolled step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.engine.graph.ir import Node
from service.engine.graph.operations import (
    broadcast,
    concatenate,
    quick_sigmoid,
    quick_tanh,
    reshape,
    slice_axis,
    transpose,
    where,
)
from service.engine.network.activations import activations
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import full
from service.engine.onnx.registry import operator
from service.engine.onnx.values import Value

MOST_STEPS = 4096
Function = Callable[[Node], Node]
OPTIONS = {"leakyrelu": ("alpha", 0.01), "elu": ("alpha", 1.0)}
NAMES = {"leakyrelu": "leaky_relu", "elu": "elu", "relu": "relu", "softsign": "softsign", "softplus": "softplus"}


def _functions(call: Call, defaults: Sequence[str], directions: int) -> list[list[Function]]:
    """Return the activations of each direction, in the order of the attribute `activations`."""
    given = call.attr("activations") or [*defaults] * directions
    alphas = [*(call.attr("activation_alpha") or [])]
    betas = [*(call.attr("activation_beta") or [])]
    if len(given) != len(defaults) * directions:
        call.refuse(f"has {len(given)} activations; it takes {len(defaults) * directions}")
    found = [_function(call, name, alphas, betas) for name in given]
    return [found[k * len(defaults) : (k + 1) * len(defaults)] for k in range(directions)]


def _function(call: Call, name: str, alphas: list[float], betas: list[float]) -> Function:
    """Return the activation of an ONNX name. Take its parameters from the front of `alphas` and `betas`."""
    word = name.lower()
    if word == "tanh":
        return quick_tanh
    if word == "sigmoid":
        return quick_sigmoid
    if word == "affine":
        a, b = (alphas.pop(0) if alphas else 1.0), (betas.pop(0) if betas else 0.0)
        return lambda x: a * x + b
    if word == "hardsigmoid":
        a, b = (alphas.pop(0) if alphas else 0.2), (betas.pop(0) if betas else 0.5)
        from service.engine.graph.operations import clip

        return lambda x: clip(a * x + b, 0.0, 1.0)
    if word not in NAMES:
        call.refuse(f"the activation {name[:40]!r} is not read")
    selected = activations.select(NAMES[word])
    options = dict(selected.options)
    if word in OPTIONS:
        key, default = OPTIONS[word]
        options[key] = alphas.pop(0) if alphas else default
    build = selected.declaration.build
    return lambda x: build(x, **options)


Step = Callable[[Node, tuple[Node, ...]], tuple[Node, ...]]


class _Recurrence:
    """The inputs and steps that LSTM, GRU and RNN have in common."""

    def __init__(self, call: Call, x: Value, kernel: Value, recurrent: Value, lengths: Value | None) -> None:
        self.call = call
        self.batch_first = bool(call.integer("layout"))
        node = call.x(x)
        if len(node.shape) != 3:
            call.refuse(f"takes a sequence of shape [steps, samples, features], got {list(node.shape)}")
        self.x = transpose(node, (1, 0, 2)) if self.batch_first else node
        self.steps, self.samples, self.features = self.x.shape
        if self.steps > MOST_STEPS:
            call.refuse(f"has {self.steps} steps; at most {MOST_STEPS} are written out")
        self.kernel, self.recurrent = call.x(kernel), call.x(recurrent)
        self.directions, _, self.units = self.recurrent.shape
        self.direction = call.word("direction", "forward")
        if self.directions != (2 if self.direction == "bidirectional" else 1):
            call.refuse(f"has kernels for {self.directions} directions, but is {self.direction}")
        self.clip = call.attr("clip")
        self.lengths = None
        if lengths is not None:
            given = call.known(lengths, "the lengths of the sequences").reshape(-1)
            if given.size != self.samples or (given < 0).any() or (given > self.steps).any():
                call.refuse("the lengths of the sequences do not fit the sequence")
            if not (given == self.steps).all():
                self.lengths = [int(each) for each in given]

    def clipped(self, x: Node) -> Node:
        """Return x limited to the range of the attribute `clip`, if there is one."""
        if self.clip is None:
            return x
        from service.engine.graph.operations import clip

        return clip(x, -float(self.clip), float(self.clip))

    def part(self, value: Node | Value | None, direction: int) -> Node | None:
        """Return one direction of a weight or bias, or None if there is none."""
        if value is None:
            return None
        node = self.call.x(value) if isinstance(value, Value) else value
        return reshape(slice_axis(node, 0, direction, direction + 1), node.shape[1:])

    def state(self, value: Value | None, direction: int) -> Node:
        """Return the initial state `(samples, units)` of one direction; zeros if none is given."""
        if value is None:
            return full(self.call.graph, 0.0, (self.samples, self.units))
        node = self.call.x(value)
        node = transpose(node, (1, 0, 2)) if self.batch_first else node
        return reshape(slice_axis(node, 0, direction, direction + 1), node.shape[1:])

    def run(self, direction: int, bias: Node | None, states: tuple[Node, ...], step: Step) -> tuple[Node, list[Node]]:
        """Compute one direction. Return the outputs of all steps `(steps, samples, units)` and the last states."""
        kernel = self.part(self.kernel, direction)
        assert kernel is not None
        rows = reshape(self.x, (self.steps * self.samples, self.features)) @ transpose(kernel)
        if bias is not None:
            rows = rows + broadcast(bias, rows.shape)
        backwards = self.direction == "reverse" or direction == 1
        outputs: list[Node] = [states[0]] * self.steps
        for position in range(self.steps):
            place = self.steps - 1 - position if backwards else position
            share = slice_axis(rows, 0, place * self.samples, (place + 1) * self.samples)
            after = step(share, states)
            output = after[0]
            if self.lengths is not None:
                import numpy as np

                from service.engine.graph.operations import table

                alive = np.array([[float(place < length)] for length in self.lengths])
                mask = broadcast(table(self.call.graph, alive), after[0].shape)
                output = where(mask, after[0], 0.0)
                after = tuple(where(mask, new, old) for new, old in zip(after, states, strict=True))
            states = after
            outputs[place] = output
        whole = concatenate([reshape(each, (1, self.samples, self.units)) for each in outputs], 0)
        return whole, list(states)

    def joined(self, sequences: Sequence[Node], states: Sequence[Sequence[Node]]) -> list[Node]:
        """Return the outputs of the operator: Y and each last state, with all directions joined."""
        shape = (self.steps, 1, self.samples, self.units)
        y = concatenate([reshape(each, shape) for each in sequences], 1)
        lasts = [
            concatenate([reshape(own[k], (1, self.samples, self.units)) for own in states], 0)
            for k in range(len(states[0]))
        ]
        if self.batch_first:
            return [transpose(y, (2, 0, 1, 3)), *(transpose(each, (1, 0, 2)) for each in lasts)]
        return [y, *lasts]


def _blocks(x: Node, units: int) -> list[Node]:
    """Return blocks of `units` elements of the last axis, one for each gate."""
    axis = len(x.shape) - 1
    return [slice_axis(x, axis, start, start + units) for start in range(0, x.shape[axis], units)]


def _biases(bias: Node | None, size: int) -> tuple[Node | None, Node | None]:
    """Return the bias of the inputs and the bias of the state, each None if there is no bias."""
    return (None, None) if bias is None else (slice_axis(bias, 0, 0, size), slice_axis(bias, 0, size, 2 * size))


@operator("RNN", static=(4,))
def rnn(
    call: Call,
    x: Value,
    kernel: Value,
    recurrent: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    initial: Value | None = None,
) -> list[Node]:
    """Build RNN: return the states of all steps and the last state."""
    own = _Recurrence(call, x, kernel, recurrent, lengths)
    functions = _functions(call, ("Tanh",), own.directions)
    results = []
    for direction in range(own.directions):
        weights = own.part(own.recurrent, direction)
        inner, outer = _biases(own.part(bias, direction), own.units)
        (f,) = functions[direction]
        assert weights is not None
        turned = transpose(weights)
        both = None if inner is None or outer is None else inner + outer

        def step(share: Node, states: tuple[Node, ...], f: Function = f, turned: Node = turned) -> tuple[Node, ...]:
            return (f(own.clipped(share + states[0] @ turned)),)

        results.append(own.run(direction, both, (own.state(initial, direction),), step))
    return own.joined([each for each, _ in results], [states for _, states in results])


@operator("GRU", static=(4,))
def gru(
    call: Call,
    x: Value,
    kernel: Value,
    recurrent: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    initial: Value | None = None,
) -> list[Node]:
    """Build GRU: return the states of all steps and the last state."""
    own = _Recurrence(call, x, kernel, recurrent, lengths)
    functions = _functions(call, ("Sigmoid", "Tanh"), own.directions)
    after = bool(call.integer("linear_before_reset"))
    units = own.units
    results = []
    for direction in range(own.directions):
        weights = own.part(own.recurrent, direction)
        inner, outer = _biases(own.part(bias, direction), 3 * units)
        f, g = functions[direction]
        assert weights is not None
        turned = transpose(weights)

        def step(
            share: Node,
            states: tuple[Node, ...],
            f: Function = f,
            g: Function = g,
            turned: Node = turned,
            outer: Node | None = outer,
        ) -> tuple[Node, ...]:
            (state,) = states
            if after:
                product = state @ turned
                if outer is not None:
                    product = product + broadcast(outer, product.shape)
                gates = f(own.clipped(slice_axis(share, 1, 0, 2 * units) + slice_axis(product, 1, 0, 2 * units)))
                update, reset = _blocks(gates, units)
                candidate = slice_axis(share, 1, 2 * units, 3 * units) + reset * slice_axis(
                    product, 1, 2 * units, 3 * units
                )
            else:
                if outer is not None:
                    share = share + broadcast(outer, share.shape)
                product = state @ slice_axis(turned, 1, 0, 2 * units)
                update, reset = _blocks(f(own.clipped(slice_axis(share, 1, 0, 2 * units) + product)), units)
                candidate = slice_axis(share, 1, 2 * units, 3 * units) + (reset * state) @ slice_axis(
                    turned, 1, 2 * units, 3 * units
                )
            return ((1.0 - update) * g(own.clipped(candidate)) + update * state,)

        results.append(own.run(direction, inner, (own.state(initial, direction),), step))
    return own.joined([each for each, _ in results], [states for _, states in results])


@operator("LSTM", static=(4,))
def lstm(
    call: Call,
    x: Value,
    kernel: Value,
    recurrent: Value,
    bias: Value | None = None,
    lengths: Value | None = None,
    initial: Value | None = None,
    initial_cell: Value | None = None,
    peepholes: Value | None = None,
) -> list[Node]:
    """Build LSTM: return the states of all steps, the last state and the last cell state."""
    own = _Recurrence(call, x, kernel, recurrent, lengths)
    functions = _functions(call, ("Sigmoid", "Tanh", "Tanh"), own.directions)
    coupled = bool(call.integer("input_forget"))
    units = own.units
    results = []
    for direction in range(own.directions):
        weights = own.part(own.recurrent, direction)
        inner, outer = _biases(own.part(bias, direction), 4 * units)
        f, g, h = functions[direction]
        assert weights is not None
        turned = transpose(weights)
        both = None if inner is None or outer is None else inner + outer
        peep = own.part(peepholes, direction)
        peeps = None if peep is None else _blocks(peep, units)

        def step(
            share: Node,
            states: tuple[Node, ...],
            f: Function = f,
            g: Function = g,
            h: Function = h,
            turned: Node = turned,
            peeps: list[Node] | None = peeps,
        ) -> tuple[Node, ...]:
            state, cell = states
            z = own.clipped(share + state @ turned)
            if peeps is None and not coupled:
                # One call computes three gates: their order is input, output, forget, cell.
                enter, show, forget = _blocks(f(slice_axis(z, 1, 0, 3 * units)), units)
                new = forget * cell + enter * g(slice_axis(z, 1, 3 * units, 4 * units))
                return (show * h(new), new)
            zi, zo, zf, zc = _blocks(z, units)

            def seen(k: int, what: Node) -> Node:
                return what * broadcast(peeps[k], what.shape) if peeps is not None else 0.0 * what

            enter = f(zi + seen(0, cell))
            forget = 1.0 - enter if coupled else f(zf + seen(2, cell))
            new = forget * cell + enter * g(zc)
            return (f(zo + seen(1, new)) * h(new), new)

        first = (own.state(initial, direction), own.state(initial_cell, direction))
        results.append(own.run(direction, both, first, step))
    return own.joined([each for each, _ in results], [states for _, states in results])
