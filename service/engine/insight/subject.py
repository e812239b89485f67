"""A number of a graph at a point, looked at in every way that tells its slopes.

* the gradient: the reverse mode of `differentiate`;
* the complex step: a slope along one direction from values alone, to all digits (see `graph/operations`);
* values, for differences, and the branches that operations take, which tell kinks between two points.

Rounding is measured and not guessed: a computation is repeated with every value changed at random in its last digits
(Monte Carlo arithmetic; Parker 1997), and what the answer does then is its noise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.interpreter import evaluate
from service.engine.graph.ir import Node, reachable
from service.engine.graph.plan import Program, Workspace, WorkspacePool
from service.engine.network.flat import Space
from service.engine.watch import Watch

STEP = 1e-50
"""Of the complex step: its square vanishes beside 1, and its products with slopes stay above the smallest numbers."""
SMALLEST_SLOPE = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps) / STEP
"""Slopes below lose digits, for their products with the step are smaller than numbers are."""
REPEATS = 3
"""Runs with random last digits."""
CHANGED = 4.0
"""Digits that a value is changed by, from one end to the other: less would mostly be rounded away."""
SUMS = frozenset(("matmul", "sum", "overlap_add"))
"""Operations that add up many terms."""
TENTH = 0.1
"""Of a digit: noise is measured in whole ones, which are multiplied before they are compared."""
ROUNDINGS = 0.25
"""Of a sum of n terms in any order, each term may be off by so many digits times the root of n."""

_SMALLEST = {True: float(np.finfo(np.float32).tiny), False: float(np.finfo(np.float64).tiny)}
"""What is smaller is 0 in float32, or in float64."""
STEEPEST = 1e10
"""Slopes beyond are those beside a pole, where a declaration may bound them."""

Path = tuple[str, ...]


class Subject:
    """A scalar node with its gradient, planned."""

    def __init__(self, output: Node, wrt: Sequence[tuple[Path, Node]], pool: WorkspacePool | None = None) -> None:
        """`wrt` are the inputs of the graph to differentiate by, with their names."""
        self.output = output
        self.targets = [node for _, node in wrt]
        self.space = Space((path, node.shape) for path, node in wrt)
        self.gradients = dense(differentiate(output, self.targets).nodes, self.targets)
        self.program = Program({"value": output}, self.targets, self.gradients, pool=pool)
        self.forward = Program({"value": output}, self.targets, pool=pool)
        self.work = self.program.work
        moving = set(self.targets)
        self.moving: list[Node] = []
        """The nodes whose values change with those that are differentiated by, in an order of computation."""
        for node in reachable([output]):
            if not moving.isdisjoint(node.operands):
                moving.add(node)
                self.moving.append(node)
        self.branching = [node for node in self.moving if node.operation.branch is not None]
        self.sloped = [node for node in self.moving if node.operation.name == "with_slope"]

    @property
    def nbytes(self) -> int:
        """Memory that a check takes, roughly: every value twice as complex numbers, and two workspaces."""
        return 32 * sum(node.size for node in self.moving) + 2 * self.program.nbytes + 64 * self.space.size


class Slope(NamedTuple):
    """A derivative along one direction, and how far rounding may have moved it."""

    value: float
    noise: float


class Located:
    """A subject at a point. For one thread, and as long as one check takes."""

    def __init__(self, subject: Subject, values: Mapping[Node, Array], watch: Watch | None = None) -> None:
        """`values` are those of all inputs of the graph."""
        self.subject = subject
        self.watch = watch
        self.leaves = dict(values)
        self.point = np.concatenate(
            [np.asarray(values[node], np.float64).reshape(-1) for node in subject.targets] or [np.zeros(0)]
        )
        """The numbers that are differentiated by, flat."""

    @cached_property
    def _workspace(self) -> Workspace:
        return self._filled(self.subject.program)

    @cached_property
    def _forward(self) -> Workspace:
        return self._filled(self.subject.forward)

    def _filled(self, program: Program) -> Workspace:
        workspace = Workspace(program)
        for node, value in self.leaves.items():
            room = workspace.inputs.get(node.attributes[0])
            if room is not None and node not in self.subject.targets:
                room[...] = value
        return workspace

    @cached_property
    def values(self) -> dict[Node, Array]:
        """Of every node on the way forward, and of declared slopes."""
        return self._interpret([self.subject.output, *self._slopes()], self.leaves)

    @cached_property
    def declared(self) -> dict[Node, Array]:
        """Elements where a declared slope stands for none, as that of a step, or bounds one beside a pole."""
        return {node: mask for node, (mask, _) in self._slopes_taken.items() if mask.any()}

    @cached_property
    def _slopes_taken(self) -> dict[Node, tuple[Array, Array]]:
        """Of each value with a declared slope: the elements where it stands for none, and those at a kink."""
        found = {node: self._is_declared(node) for node in self.subject.sloped}
        return {node: masks for node, masks in found.items() if masks is not None}

    def check_time(self) -> None:
        """Raises what the watch raises."""
        if self.watch is not None:
            self.watch.look()

    def value(self, point: Array) -> float:
        """The number at another point, in the precision of the graph."""
        self.check_time()
        self._forward.parameters[...] = point
        self._forward.run(self.watch)
        return float(self._forward.outputs["value"])

    def gradient(self) -> Array:
        """The gradient at the point, flat, in float64."""
        self._workspace.parameters[...] = self.point
        self._workspace.run(self.watch)
        return self._workspace.gradients.astype(np.float64)

    def noise(self, generator: np.random.Generator, digit: float) -> Array:
        """How far each entry of the gradient moves with the last digits of every value; `digit` is one, relative."""
        exact = self._interpret(self.subject.gradients, self.leaves)
        spread = np.zeros(self.subject.space.size)
        for _ in range(REPEATS):
            found = self._interpret(self.subject.gradients, self.leaves, generator, digit)
            moved = [np.abs(found[node] - exact[node]).reshape(-1) for node in self.subject.gradients]
            spread = np.maximum(spread, np.concatenate(moved or [spread]))
        sizes = [np.abs(exact[node]).reshape(-1) for node in self.subject.gradients]
        return np.where(np.isfinite(spread), spread, np.concatenate(sizes or [spread]))

    def spread(self, generator: np.random.Generator, digit: float, repeats: int) -> tuple[Array, float]:
        """As `noise`, but as the formulas round that most programs use: how far each entry of the gradient moves, and
        how far the value.

        Sums are added in another order, with as many roundings as there are terms; slopes such as a (1 - a) lose their
        digits where this service keeps them; what is too small is 0. Root mean squares over the repeats.
        """
        exact = self._answers
        totals = {node: np.zeros(node.shape) for node in exact}
        for _ in range(repeats):
            found = without_float_warnings(self._roughly, generator, digit)
            for node in totals:
                off = without_float_warnings(np.subtract, found[node], exact[node])
                totals[node] = without_float_warnings(
                    np.hypot, totals[node], off
                )  # squares may be too small for numbers
        roots = {}
        for node, total in totals.items():
            root = total / math.sqrt(repeats)
            roots[node] = np.where(np.isfinite(root), root, np.abs(exact[node]))
        flat = np.concatenate([_smoothed(roots[node]).reshape(-1) for node in self.subject.gradients] or [np.zeros(0)])
        return flat, float(roots[self.subject.output])

    @cached_property
    def _answers(self) -> dict[Node, Array]:
        """The number itself and its gradients."""
        return without_float_warnings(self._roughly)

    @cached_property
    def _order(self) -> list[tuple[Node, list[Node]]]:
        """The nodes on the way to the number and its gradients, each with those that are needed no more after it."""
        outputs = [self.subject.output, *self.subject.gradients]
        nodes = reachable(outputs)
        last = {operand: place for place, node in enumerate(nodes) for operand in node.operands}
        last |= dict.fromkeys(outputs, len(nodes))
        return [
            (node, list({each for each in node.operands if last[each] == place})) for place, node in enumerate(nodes)
        ]

    def _roughly(self, generator: np.random.Generator | None = None, digit: float = 0.0) -> dict[Node, Array]:
        """The number itself and its gradients as other programs may compute them, exactly without a generator."""
        values: dict[Node, Array] = {}
        for node, needed_no_more in self._order:
            if node in self.leaves:
                values[node] = self.leaves[node]
                continue
            operands = [values[x] for x in node.operands]
            if generator is None:
                values[node] = evaluate(node, operands)
            else:
                values[node] = _as_others_compute(node, operands, generator, digit)
            for each in needed_no_more:
                del values[each]
            self.check_time()
        return {node: values[node] for node in (self.subject.output, *self.subject.gradients)}

    def along(self, direction: Array) -> float:
        """The derivative along a direction by the complex step."""
        return without_float_warnings(self._along, direction, None, 0.0)

    def along_with_noise(self, direction: Array, generator: np.random.Generator) -> Slope:
        """The same, and what rounding may have done to it."""
        value = self.along(direction)
        digit = float(np.finfo(np.float64).eps)
        moved = [abs(without_float_warnings(self._along, direction, generator, digit) - value) for _ in range(REPEATS)]
        return Slope(value, max(noise if math.isfinite(noise) else abs(value) for noise in moved))

    def moved(self, point: Array) -> Located:
        """The same subject at another point."""
        return Located(self.subject, self.leaves | self._cut(point), self.watch)

    def branches(self, point: Array | None = None) -> list[Array]:
        """The branch that each element of each operation with kinks or jumps takes at a point, here by default."""
        nodes = self.subject.branching
        if not nodes:
            return []
        values = self.values
        if point is not None:
            inputs = [x for node in nodes for x in node.operands]
            values = self._interpret(inputs, self.leaves | self._cut(point))
        return [without_float_warnings(_branch, node, [values[x] for x in node.operands]) for node in nodes]

    def ties(self) -> bool:
        """Whether an operation is exactly at a kink or a jump."""
        return any(bool((np.mod(branch, 2.0) == 0.0).any()) for branch in self.branches())

    def _cut(self, point: Array) -> dict[Node, Array]:
        pieces = self.subject.space.pieces
        return {
            node: point[piece.start : piece.stop].reshape(piece.shape).astype(node.dtype)
            for node, piece in zip(self.subject.targets, pieces, strict=True)
        }

    def _interpret(
        self,
        outputs: Sequence[Node],
        leaves: Mapping[Node, Array],
        generator: np.random.Generator | None = None,
        digit: float = 0.0,
    ) -> dict[Node, Array]:
        """Values, with their last digits drawn at random where a generator is given."""
        values: dict[Node, Array] = {}
        for node in reachable(outputs):
            if node in leaves:
                values[node] = leaves[node]
                continue
            operands = [values[x] for x in node.operands]
            values[node] = without_float_warnings(evaluate, node, operands)
            if generator is not None and node.inputs and node.operation.view is None:
                values[node] = values[node] * _last_digits(generator, node.shape, digit)
            self.check_time()
        return values

    def _along(self, direction: Array, generator: np.random.Generator | None, digit: float) -> float:
        largest = float(np.abs(direction).max(initial=0.0))
        if largest == 0.0:
            return 0.0
        step = STEP / largest
        moved: dict[Node, Array] = {}
        for node, part in self._cut(direction).items():
            moved[node] = self.leaves[node] + 1j * (step * part.astype(np.float64))
        for node in self.subject.moving:
            value = self._continued(node, moved, exact=generator is None)
            if node in self._slopes_taken:
                value = self._with_declared_slope(node, value, moved)
            if generator is not None and node.operation.view is None:
                real, imaginary = (_last_digits(generator, node.shape, digit) for _ in range(2))
                value = value.real * real + 1j * (value.imag * imaginary)
            moved[node] = value
            self.check_time()
        found = moved.get(self.subject.output)
        return 0.0 if found is None else float(found.imag) / step

    def _continued(self, node: Node, moved: Mapping[Node, Array], *, exact: bool = True) -> Array:
        """The value of a node with that of its inputs which moved; if `exact`, its real part is what it was."""
        inputs = [moved.get(x, self.values[x]) for x in node.operands]
        continuation = node.operation.continuation
        value = evaluate(node, inputs) if continuation is None else continuation(inputs, node.attributes)
        # At a pole, as of ln x at 0, a continuation has another real part, with which branches would be others too.
        real = self.values[node]
        return np.where(np.isfinite(real) & (not exact), value.real, real) + 1j * value.imag

    def _slopes(self) -> Iterator[Node]:
        for node in self.subject.sloped:
            yield node.inputs[1]
            yield node.inputs[2]

    def _with_declared_slope(self, node: Node, value: Array, moved: Mapping[Node, Array]) -> Array:
        source = moved.get(node.inputs[1])
        if source is None:
            return value
        along = np.where(
            np.logical_or(*self._slopes_taken[node]), self.values[node.inputs[2]] * source.imag, value.imag
        )
        return value.real + 1j * along

    def _is_declared(self, node: Node) -> tuple[Array, Array] | None:
        """Elements whose value has by itself the slope 0, not the declared one, or a huge slope; and those at a kink.

        None where there are neither.
        """
        value, x, slope = node.inputs
        declared = self.values[slope]
        if x.shape != node.shape:
            return None
        moved = {x: self.values[x] + 1j * np.full(x.shape, STEP)}
        kinks = np.zeros(node.shape, bool)
        for each in self.subject.moving:
            if each.index > value.index:
                break
            if each.index > x.index and any(operand in moved for operand in each.operands):
                moved[each] = without_float_warnings(self._continued, each, moved)
                if each.operation.branch is not None and each.shape == node.shape:
                    branch = without_float_warnings(_branch, each, [self.values[operand] for operand in each.operands])
                    kinks |= np.mod(branch, 2.0) == 0.0
        own = moved.get(value)
        slope_of_value = np.zeros(node.shape) if own is None else own.imag / STEP
        flat = (slope_of_value == 0.0) & (declared != 0.0)
        mask = ~kinks & (flat | (np.abs(slope_of_value) > STEEPEST))
        return (mask, kinks) if mask.any() or kinks.any() else None


def _last_digits(generator: np.random.Generator, shape: tuple[int, ...], digit: float) -> Array:
    """Factors close to 1."""
    return 1.0 + CHANGED * digit * (generator.random(shape) - 0.5)


def _as_others_compute(node: Node, operands: list[Array], generator: np.random.Generator, digit: float) -> Array:
    """The value of a node, off by what the plainest formula for it rounds in numbers with this last digit."""
    name = node.operation.name
    if node.operation.view is not None or not node.inputs:
        return evaluate(node, operands)
    if name == "balanced":
        return operands[0]  # others do not take off what rounding left over
    if name in SUMS:
        place = min(range(len(operands)), key=lambda place: operands[place].size)
        count = operands[0].shape[-1] if name == "matmul" else max(1.0, operands[0].size / node.size)
        if operands[place].dtype.kind == "f":
            several = digit * (1.0 + ROUNDINGS * math.sqrt(count))
            random = generator.random(operands[place].shape, np.float32) - np.float32(0.5)
            operands[place] = operands[place] * (1.0 + CHANGED * several * random)
    value = evaluate(node, operands)
    off = np.abs(value) * digit + _SMALLEST[digit > 1e-12] * (value != 0.0)
    if name == "logistic_slope":  # a (1 - a)
        off += digit * (1.0 / (1.0 + np.exp(-operands[0])) + TENTH)
    elif name == "tanh_slope":  # 1 - a²
        off += digit * np.square(np.tanh(operands[0]))
    elif name == "row_excess" or (name == "sigmoid" and node.scope == "loss"):  # a - t
        off += digit
    elif name == "sigmoid":  # (1 + tanh(x / 2)) / 2
        off += TENTH * digit
    off *= CHANGED * (generator.random(node.shape, np.float32) - np.float32(0.5))
    changed: Array = value + off
    return changed


def _smoothed(noise: Array) -> Array:
    """Noise of a matrix, at least what its row and its column let expect: a few runs may miss it in one entry."""
    largest = float(noise.max(initial=0.0))
    if noise.ndim < 2 or not 0.0 < largest < math.inf:
        return noise
    squares = np.square(noise.reshape(-1, noise.shape[-1]) / largest)
    rows, columns = squares.mean(1, keepdims=True), squares.mean(0, keepdims=True)
    expected = largest * np.sqrt(rows * columns / squares.mean()).reshape(noise.shape)
    smoothed: Array = np.maximum(noise, expected)
    return smoothed


def _branch(node: Node, inputs: list[Array]) -> Array:
    assert node.operation.branch is not None
    return node.operation.branch(inputs, node.attributes)
