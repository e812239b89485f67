"""A number of a graph at a point, called subject here, with its slopes computed in several independent ways.

The gradient is the reverse mode of `differentiate`. The complex step gives the slope along one direction from values
alone, to all digits (see `graph/operations`). Values serve differences, and the branches that operations take reveal
kinks between two points.

Rounding is measured: a computation is repeated with every value changed at random in its last digits (Monte Carlo
arithmetic; Parker 1997), and the change of the result is its noise.
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
"""The complex step: its square vanishes beside 1, and its products with slopes stay above the smallest numbers."""
SMALLEST_SLOPE = float(np.finfo(np.float64).tiny / np.finfo(np.float64).eps) / STEP
"""Slopes below lose digits, for their products with the step are smaller than numbers are."""
REPEATS = 3
"""Runs with random last digits."""
CHANGED = 4.0
"""Digits that a value is changed by, from one end to the other: less would mostly be rounded away."""
STEEPEST = 1e10
"""Slopes above this belong to a pole, where a declaration may bound them."""

Path = tuple[str, ...]


class Subject:
    """A scalar node with its gradient, planned for runs, which a check or a verdict is about."""

    def __init__(self, output: Node, wrt: Sequence[tuple[Path, Node]], pool: WorkspacePool | None = None) -> None:
        """Differentiate and plan. `wrt` are the inputs of the graph to differentiate by, with their names."""
        self.output = output
        self.targets = [node for _, node in wrt]
        self.space = Space((path, node.shape) for path, node in wrt)
        self.gradients = dense(differentiate(output, self.targets).nodes, self.targets)
        self.program = Program({"value": output}, self.targets, self.gradients, pool=pool)
        self.forward = Program({"value": output}, self.targets, pool=pool)
        self.work = self.program.work
        moving = set(self.targets)
        self.moving: list[Node] = []
        """The nodes whose values depend on the targets, in an order of computation."""
        for node in reachable([output]):
            if not moving.isdisjoint(node.operands):
                moving.add(node)
                self.moving.append(node)
        self.branching = [node for node in self.moving if node.operation.branch is not None]
        self.sloped = [node for node in self.moving if node.operation.name == "with_slope"]

    @property
    def nbytes(self) -> int:
        """The bytes that a check takes, roughly: every value twice as complex numbers, and two workspaces."""
        return 32 * sum(node.size for node in self.moving) + 2 * self.program.nbytes + 64 * self.space.size


class Slope(NamedTuple):
    """A derivative along one direction, with its noise by rounding."""

    value: float
    noise: float


class Located:
    """A subject at a point, for one thread and one check."""

    def __init__(self, subject: Subject, values: Mapping[Node, Array], watch: Watch | None = None) -> None:
        """Place the subject. `values` are the values of all inputs of the graph."""
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
        """The value of every node of the forward pass, and of declared slopes."""
        return self._interpret([self.subject.output, *self._slopes()], self.leaves)

    @cached_property
    def declared(self) -> dict[Node, Array]:
        """A mask, by node, of the elements where a declared slope counts: in place of 0, or at a pole. A step function
        has a slope in place of 0."""
        return {node: mask for node, (mask, _) in self._slopes_taken.items() if mask.any()}

    @cached_property
    def _slopes_taken(self) -> dict[Node, tuple[Array, Array]]:
        """Two masks for each declared slope: where it replaces the computed slope, and where a kink is."""
        found = {node: self._is_declared(node) for node in self.subject.sloped}
        return {node: masks for node, masks in found.items() if masks is not None}

    def check_time(self) -> None:
        """Raise what the watch raises, such as `DeadlineExceeded`."""
        if self.watch is not None:
            self.watch.look()

    def value(self, point: Array) -> float:
        """Return the value of the subject at another point, (targets,), in the precision of the graph."""
        self.check_time()
        self._forward.parameters[...] = point
        self._forward.run(self.watch)
        return float(self._forward.outputs["value"])

    def gradient(self) -> Array:
        """Return the gradient at the point, flat, in float64."""
        self._workspace.parameters[...] = self.point
        self._workspace.run(self.watch)
        return self._workspace.gradients.astype(np.float64)

    def noise(self, generator: np.random.Generator, digit: float) -> Array:
        """Return the noise of each entry of the gradient, flat, from random last digits of every value. `digit` is the
        relative rounding of a number."""
        exact = self._interpret(self.subject.gradients, self.leaves)
        spread = np.zeros(self.subject.space.size)
        for _ in range(REPEATS):
            found = self._interpret(self.subject.gradients, self.leaves, generator, digit)
            moved = [np.abs(found[node] - exact[node]).reshape(-1) for node in self.subject.gradients]
            spread = np.maximum(spread, np.concatenate(moved or [spread]))
        sizes = [np.abs(exact[node]).reshape(-1) for node in self.subject.gradients]
        return np.where(np.isfinite(spread), spread, np.concatenate(sizes or [spread]))

    def along(self, direction: Array) -> float:
        """Return the derivative along a direction by the complex step."""
        return without_float_warnings(self._along, direction, None, 0.0)

    def along_with_noise(self, direction: Array, generator: np.random.Generator) -> Slope:
        """Return the derivative along a direction by the complex step, with its noise."""
        value = self.along(direction)
        digit = float(np.finfo(np.float64).eps)
        moved = [abs(without_float_warnings(self._along, direction, generator, digit) - value) for _ in range(REPEATS)]
        return Slope(value, max(noise if math.isfinite(noise) else abs(value) for noise in moved))

    def moved(self, point: Array) -> Located:
        """Return the same subject at another point."""
        return Located(self.subject, self.leaves | self._cut(point), self.watch)

    def branches(self, point: Array | None = None) -> list[Array]:
        """Return the branch of each element of each operation that has kinks or jumps. The point is by default the
        subject's own. Branches that differ between two points show a kink between these."""
        nodes = self.subject.branching
        if not nodes:
            return []
        values = self.values
        if point is not None:
            inputs = [x for node in nodes for x in node.operands]
            values = self._interpret(inputs, self.leaves | self._cut(point))
        return [without_float_warnings(_branch, node, [values[x] for x in node.operands]) for node in nodes]

    def ties(self) -> bool:
        """Return whether an operation stands exactly at a kink or a jump."""
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
        """Return the values of nodes by the interpreter, with random last digits where a generator is given."""
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
        """Return the value of a node from inputs some of which are complex. With `exact`, its real part is kept."""
        inputs = [moved.get(x, self.values[x]) for x in node.operands]
        continuation = node.operation.continuation
        value = evaluate(node, inputs) if continuation is None else continuation(inputs, node.attributes)
        # At a pole, such as that of ln x at 0, a continuation has another real part, which would change branches.
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
        """Return a mask of the elements where a declared slope counts, and a mask of those at a kink. A declared slope
        counts where the value has the slope 0 or a huge one. None where both masks are empty."""
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
    """Return random factors close to 1, which change the last digits of numbers."""
    return 1.0 + CHANGED * digit * (generator.random(shape) - 0.5)


def _branch(node: Node, inputs: list[Array]) -> Array:
    assert node.operation.branch is not None
    return node.operation.branch(inputs, node.attributes)
