"""An estimate of other programs' rounding: how far a gradient moves when the usual formulas compute it.

Other programs add sums in another order, with as many roundings as there are terms. Slopes such as a (1 - a) lose the
digits that this service keeps, and what is too small for a number becomes 0.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.interpreter import evaluate
from service.engine.graph.ir import Node, reachable
from service.engine.insight.subject import CHANGED, Located

SUMS = frozenset(("matmul", "sum", "overlap_add"))
"""Operations that add up many terms."""
TENTH = 0.1
"""A tenth of a digit: noise is measured in whole digits, which are multiplied before a comparison."""
ROUNDINGS = 0.25
"""Digits that each of n terms of a sum may be off, times the root of n, for any order of addition."""
_SMALLEST = {True: float(np.finfo(np.float32).tiny), False: float(np.finfo(np.float64).tiny)}
"""Numbers below are 0, by whether they are float32."""


class OtherPrograms:
    """A gradient at a point, computed with the rounding that other programs may have."""

    def __init__(self, here: Located) -> None:
        self.here = here

    def spread(self, generator: np.random.Generator, digit: float, repeats: int) -> tuple[Array, float]:
        """Return the noise of each entry of the gradient, flat, and of the value, in other programs. `digit` is the
        relative rounding. The noise is a root mean square over the repeats."""
        exact = self._answers
        totals = {node: np.zeros(node.shape) for node in exact}
        for _ in range(repeats):
            found = without_float_warnings(self._roughly, generator, digit)
            for node in totals:
                off = without_float_warnings(np.subtract, found[node], exact[node])
                # Squares may be too small for numbers.
                totals[node] = without_float_warnings(np.hypot, totals[node], off)
        roots = {}
        for node, total in totals.items():
            root = total / math.sqrt(repeats)
            roots[node] = np.where(np.isfinite(root), root, np.abs(exact[node]))
        flat = np.concatenate(
            [_smoothed(roots[node]).reshape(-1) for node in self.here.subject.gradients] or [np.zeros(0)]
        )
        return flat, float(roots[self.here.subject.output])

    @cached_property
    def _answers(self) -> dict[Node, Array]:
        """The value of the subject and its gradients, by node, computed once without random last digits."""
        return without_float_warnings(self._roughly)

    @cached_property
    def _order(self) -> list[tuple[Node, list[Node]]]:
        """The nodes in an order of computation, each with the nodes that nothing needs after it."""
        outputs = [self.here.subject.output, *self.here.subject.gradients]
        nodes = reachable(outputs)
        last = {operand: place for place, node in enumerate(nodes) for operand in node.operands}
        last |= dict.fromkeys(outputs, len(nodes))
        return [
            (node, list({each for each in node.operands if last[each] == place})) for place, node in enumerate(nodes)
        ]

    def _roughly(self, generator: np.random.Generator | None = None, digit: float = 0.0) -> dict[Node, Array]:
        """Return the value and its gradients as other programs may compute them; exactly without a generator."""
        values: dict[Node, Array] = {}
        for node, needed_no_more in self._order:
            if node in self.here.leaves:
                values[node] = self.here.leaves[node]
                continue
            operands = [values[x] for x in node.operands]
            if generator is None:
                values[node] = evaluate(node, operands)
            else:
                values[node] = _as_others_compute(node, operands, generator, digit)
            for each in needed_no_more:
                del values[each]
            self.here.check_time()
        return {node: values[node] for node in (self.here.subject.output, *self.here.subject.gradients)}


def _as_others_compute(node: Node, operands: list[Array], generator: np.random.Generator, digit: float) -> Array:
    """Return the value of a node with the rounding of the plainest formula for it. `digit` is the relative rounding of
    a number."""
    name = node.operation.name
    if node.operation.view is not None or not node.inputs:
        return evaluate(node, operands)
    if name == "balanced":
        return operands[0]  # other programs do not remove the remainder of rounding
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
    """Return the noise of a matrix, raised to what its row and column let expect. A few runs may miss the noise of one
    entry."""
    largest = float(noise.max(initial=0.0))
    if noise.ndim < 2 or not 0.0 < largest < math.inf:
        return noise
    squares = np.square(noise.reshape(-1, noise.shape[-1]) / largest)
    rows, columns = squares.mean(1, keepdims=True), squares.mean(0, keepdims=True)
    expected = largest * np.sqrt(rows * columns / squares.mean()).reshape(noise.shape)
    smoothed: Array = np.maximum(noise, expected)
    return smoothed
