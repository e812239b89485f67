"""The check of a gradient against values alone, without any rule of differentiation.

The reference is the complex step: an evaluation with complex numbers gives the slope along one direction to all digits.
Each of a few numbers gets an evaluation of its own. For many numbers, one evaluation goes along random signs, each
divided by the size of its entry, so that it weighs large and small entries alike. One entry that is wrong by a
millionth stands out among a hundred thousand, and halving the set of entries finds it.

A claimed gradient is compared with the exact one entry by entry, and where they differ the complex step decides. The
effect of rounding on either is measured, so that nothing right is called wrong because numbers are small. Exactly at a
kink there is a slope on either side, and any number between them is a matter of convention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.engine.arrays import Array
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Graph, Node
from service.engine.graph.operations import sum_over
from service.engine.insight.check_report import VERDICTS, Report, TensorCheck
from service.engine.insight.comparison import (
    EACH,
    MOST_EXAMINED,
    Evidence,
    TensorComparison,
    largest,
    product,
    ratio,
    relative,
)
from service.engine.insight.differences import QUARTERS, STEPS, Taylor, curve_along, taylor_along
from service.engine.insight.subject import Located, Path, Subject
from service.engine.network.flat import Piece

DIRECTIONS = 3
"""Random directions of Taylor remainders."""
TOLERANCES = {"float64": 1e-7, "float32": 1e-3}
"""Relative differences that are not called wrong."""


def check_gradient(function: Callable[..., Node], *arguments: Array | float, order: int = 2, seed: int = 0) -> Report:
    """Check the derivatives of a function of nodes at a point, up to an order.

    `function` takes a node for each argument and returns a node of any shape; a sum of its elements with random weights
    is checked. Arguments of integers have no derivatives. Second derivatives are checked as the gradient of a product:
    the gradient times a random vector.
    """
    generator = np.random.default_rng([seed, 2])
    graph = Graph("float64")
    values: dict[Node, Array] = {}
    for place, argument in enumerate(map(np.asarray, arguments)):
        dtype = "int64" if argument.dtype.kind == "i" else None
        values[graph.input(f"argument{place}", argument.shape, dtype)] = argument
    wrt = [((node.attributes[0],), node) for node in values if node.dtype != "int64"]
    output = function(*values)
    if output.shape:
        weights = graph.input("weights", output.shape)
        values[weights] = generator.standard_normal(output.shape)
        output = sum_over(output * weights)
    return _check_orders(output, wrt, values, order, seed, generator)


def _check_orders(
    output: Node,
    wrt: Sequence[tuple[Path, Node]],
    values: Mapping[Node, Array],
    order: int,
    seed: int,
    generator: np.random.Generator,
) -> Report:
    report = check_at(Located(Subject(output, wrt), values), None, "float64", seed)
    if order > 1:
        nodes = [node for _, node in wrt]
        total = output.graph.constant(0.0)
        vectors = dict(values)
        for place, gradient in enumerate(dense(differentiate(output, nodes).nodes, nodes)):
            vector = output.graph.input(f"vector/{order}/{place}", gradient.shape)
            vectors[vector] = generator.standard_normal(gradient.shape)
            total = total + sum_over(vector * gradient)
        report.second = _check_orders(total, wrt, vectors, order - 1, seed, generator)
    return report


def subject_vector(subject: Subject, claimed: Mapping[Path, Array]) -> Array:
    """Return a claimed gradient as a flat vector in float64, with NaN where nothing is claimed."""
    flat = np.full(subject.space.size, math.nan)
    for piece in subject.space.pieces:
        if piece.path in claimed:
            flat[piece.start : piece.stop] = np.asarray(claimed[piece.path], np.float64).reshape(-1)
    return flat


def check_at(
    here: Located,
    claimed: Array | None,
    dtype: str,
    seed: int,
    tolerance: float | None = None,
    computed: Located | None = None,
    steps: Sequence[float] | None = None,
    *,
    curves_of_tensors: bool = True,
) -> Report:
    """Check a gradient at a point of a float64 graph.

    `claimed` is flat, with NaN where nothing is claimed. Without it, the check tests the gradient of `computed`, which
    is the same subject in `dtype`, or by default `here`. Differences are taken of the values of `computed`, with
    `steps`. Raises `DeadlineExceeded`.
    """
    return without_float_warnings(
        _Check(here, claimed, dtype, seed, tolerance, computed or here).report, steps, curves_of_tensors
    )


class _Check:
    """A gradient check at one point, with what it has measured so far."""

    def __init__(
        self, here: Located, claimed: Array | None, dtype: str, seed: int, tolerance: float | None, computed: Located
    ) -> None:
        self.here, self.computed = here, computed
        self.space = here.subject.space
        self.generator = np.random.default_rng([seed, 1])
        self.tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
        self.digit = float(np.finfo(dtype).eps)
        self.value = here.value(here.point)
        self.exact = here.gradient()
        if claimed is not None:
            self.tested = claimed
        else:
            self.tested = self.exact if computed is here else computed.gradient()
        self.claimed_nothing = claimed is None
        self.is_own = claimed is None and computed is here

    def report(self, steps: Sequence[float] | None, curves_of_tensors: bool) -> Report:
        report = Report("right", self.value, self.tested, self.space, declared=list(self.here.declared))
        asked = ~np.isnan(self.tested)
        if self.claimed_nothing and not asked.all():
            report.verdict = "undefined"
            return report
        finite = np.isfinite(self.exact).all() and not np.isinf(self.tested).any()
        if not (math.isfinite(self.value) and finite):
            report.verdict = "undefined"
            return report
        has_ties = self.here.ties()
        noise = np.zeros(self.space.size) if has_ties else self.here.noise(self.generator, self.digit)
        self.evidence = Evidence(self.here, self.exact, self.value, self.digit, self.generator, has_ties, noise)
        self.proof = TensorComparison(self.evidence, self.exact, TOLERANCES["float64"])
        self.claim = TensorComparison(self.evidence, self.tested, self.tolerance)
        pieces = [piece for piece in self.space.pieces if asked[piece.start : piece.stop].any()]
        report.tensors += map(self._tensor, pieces)
        report.verdict = max((each.verdict for each in report.tensors), key=VERDICTS.index, default="right")
        everything = np.nan_to_num(self.tested)
        direction = self.evidence.direction(asked)
        report.curve = curve_along(self.computed, direction, product(everything, direction), steps or STEPS)
        for tensor, piece in zip(report.tensors, pieces, strict=True):
            if curves_of_tensors:
                mask = np.zeros(self.space.size, bool)
                mask[piece.start : piece.stop] = True
                along = self.evidence.direction(mask & asked)
                tensor.curve = curve_along(self.computed, along, product(everything, along), steps or STEPS)
        for _ in range(DIRECTIONS):
            along = self.evidence.direction(asked)
            report.taylor.append(self._remainders(along, steps or QUARTERS))
        return report

    def _remainders(self, direction: Array, steps: Sequence[float]) -> Taylor:
        slope = product(np.nan_to_num(self.tested), direction)
        return taylor_along(self.here, direction, slope, self.digit, steps)

    def _tensor(self, piece: Piece) -> TensorCheck:
        part = slice(piece.start, piece.stop)
        if self.is_own:
            return self.claim.proved(piece)
        proved = self.proof.proved(piece)
        if proved.verdict == "wrong":
            # Not even the exact gradient passes here, so the claim is compared with the complex step itself.
            return self.claim.judged(piece, np.arange(piece.start, piece.stop)[:EACH], "each")
        tested, exact = self.tested[part], self.exact[part]
        differs = np.abs(tested - exact) > self.claim.allowed(piece)
        suspects = np.flatnonzero(differs) + piece.start
        errors = relative(tested, exact)
        if not suspects.size:
            found = TensorCheck(piece.path, piece.stop - piece.start, proved.verdict, "exact", largest(errors))
            if proved.verdict != "right":
                found.sides, found.worst = proved.sides, proved.worst
                return found
            worst = int(np.nanargmax(errors)) + piece.start
            if errors[worst - piece.start] > 0.0:
                found.worst = self.claim.entry(worst, float(self.exact[worst]))
            return found
        order = np.argsort(-np.abs(tested - exact)[suspects - piece.start], kind="stable")
        examined = self.claim.judged(piece, suspects[order][:MOST_EXAMINED], "exact")
        if examined.verdict == "wrong":
            examined.wrong += max(0, suspects.size - MOST_EXAMINED)
            examined.ratio = ratio(tested, exact)
        return examined
