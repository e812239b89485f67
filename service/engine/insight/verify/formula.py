"""Verdicts on claimed gradients of a typed function."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import Fault, InvalidRequest, LimitExceeded
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.compiled import MOST_NODES, ExpressionTask, build, naming_limit
from service.engine.functions.expression import Expression
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.graph.plan import WorkspacePool
from service.engine.insight.function_claims import read_numbers
from service.engine.insight.mistakes import Counts, mistakes
from service.engine.insight.mistakes.formulas import FormulaInGraph
from service.engine.insight.subject import Located, Subject
from service.engine.insight.verify.claims import Claim
from service.engine.insight.verify.judging import Judge
from service.engine.insight.verify.rounding import Rounding
from service.engine.insight.verify.search import (
    ClaimDiagnosis,
    Factors,
    Interpretation,
    Reading,
    VariantSearch,
    interpretation,
    ranked,
)
from service.engine.insight.verify.sketch import picture
from service.engine.insight.verify.variants import Made, Path, Variant
from service.engine.insight.verify.verdict import Verdicts
from service.engine.insight.verify.verified import VerifyOptions
from service.engine.limits import Limits
from service.engine.network.flat import Piece
from service.engine.watch import Watch

MOST_WRONG_NODES = 10 * MOST_NODES
"""Operations of an expression with all its wrong gradients."""


class FunctionVerifyTask(ExpressionTask):
    """The task of judging claimed gradients of a typed function."""

    @property
    def effort(self) -> float:
        return MOST_WRONG_NODES

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> FunctionVerify:
        return FunctionVerify(self.expression, pool, watch)


class FunctionVerify:
    """A typed function with its right gradient and the wrong ones that the rules of mistakes make."""

    def __init__(self, expression: Expression, pool: WorkspacePool | None = None, watch: Watch | None = None) -> None:
        """Build the graph. Raises `LimitExceeded` when the expression and its gradient are too long together."""
        graph = Graph("float64", MOST_NODES, watch=watch)
        self.names = expression.variables
        self.variables = [graph.input(name, ()) for name in self.names]
        with naming_limit("operations of the graph"):
            nodes = build(expression, graph, self.variables)
            paths: list[Path] = [(name,) for name in self.names]
            self.subject = Subject(nodes[-1], list(zip(paths, self.variables, strict=True)), pool)
        graph.most_nodes = MOST_WRONG_NODES
        self.paths = paths
        self.versions = {path: [node] for path, node in zip(paths, self.subject.gradients, strict=True)}
        self.variants: list[Variant] = []
        self.left_out = False
        formula = FormulaInGraph(expression, self.variables, nodes)
        try:
            for mistake in mistakes:
                if mistake.kind == "function":
                    for change in mistake.build(formula):
                        found = differentiate(nodes[-1], self.variables, changes=change.changes).nodes
                        variant = Variant((Made(mistake.name),), change)
                        for path, node in zip(paths, dense(found, self.variables), strict=True):
                            versions = self.versions[path]
                            if node not in versions:
                                versions.append(node)
                            variant.places[path] = versions.index(node)
                        if any(variant.places.values()):
                            self.variants.append(variant)
        except LimitExceeded:
            self.left_out = True
        self.nbytes = self.subject.nbytes + 64 * len(graph.nodes)
        self.weight = len(graph.nodes)

    def run(self, point: Array, wanted: VerifyOptions, watch: Watch | None = None) -> Verdicts:
        """Judge every claim at a point, (variables,). Raises `InvalidRequest` when a claim does not fit."""
        claims, faults = [], []
        for submission in wanted.submissions:
            tensors, found = read_numbers(self.names, submission.claimed, submission.place)
            faults += found
            claims.append(Claim(tensors, narrow=getattr(submission.claimed, "dtype", None) == np.float32))
        if faults:
            raise InvalidRequest(faults)
        leaves = {node: np.asarray(number) for node, number in zip(self.variables, point, strict=True)}
        here = Located(self.subject, leaves, watch)
        rounding = Rounding(here, 0, wanted.tolerance)
        if not (math.isfinite(rounding.value) and np.isfinite(rounding.exact).all()):
            detail = "the value or the gradient is not finite at this point, so there is nothing to compare with"
            raise InvalidRequest([Fault(("point",), detail)])
        judge = FormulaJudge(self, rounding, leaves, watch)
        return Verdicts(
            rounding.value,
            [without_float_warnings(judge.verdict, claim) for claim in claims],
            missed=("rules",) if self.left_out else (),
        )


class FormulaJudge(Judge):
    """The judge of claims about the gradient of a typed function."""

    def __init__(
        self, verify: FunctionVerify, rounding: Rounding, leaves: Mapping[Any, Array], watch: Watch | None
    ) -> None:
        super().__init__(verify.subject.space, rounding, "float64", watch)
        self.verify, self.leaves = verify, leaves
        self._search: VariantSearch | None = None

    def other_readings(self, piece: Piece, array: Array, claim: Claim) -> Iterator[Interpretation]:
        for path, other in claim.tensors.items():
            if path != piece.path:
                yield interpretation(("variables_swapped",), other)

    def diagnoses(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        if self._is_between_slopes(readings):
            wrong = tuple(reading.path for reading in readings if reading.is_wrong)
            return [ClaimDiagnosis((Made("kink_convention"),), wrong, 0.0)]
        if self._search is None:
            nodes = [node for versions in self.verify.versions.values() for node in versions]
            values = interpret(nodes, self.leaves)
            pictures = {
                path: np.stack([picture(values[node]) for node in versions])
                for path, versions in self.verify.versions.items()
            }
            self._search = VariantSearch(self.verify.paths, self.verify.variants, pictures, Factors.of(ONE))
        found = self._search.look(readings) or self._search.look(readings, pairs=True)
        return ranked(found or self._search.parts(readings))

    def _is_between_slopes(self, readings: Sequence[Reading]) -> bool:
        """Return whether the point lies on a kink and the claim between the slopes on both sides. The claim must do so
        in every direction: along each variable, and along sums and differences of two of them."""
        here = self.rounding.here
        if not here.ties():
            return False
        claimed = {reading.path[0]: float(reading.options[0].array) for reading in readings}
        axes = [np.eye(len(self.exact))[place] for place, name in enumerate(self.verify.names) if name in claimed]
        vector = np.array([claimed.get(name, 0.0) for name in self.verify.names])
        allowed = self.rounding.allowed("float64")
        pairs = [one + sign * two for one, two in combinations(axes[:MOST_PAIRED], 2) for sign in (1.0, -1.0)]
        for direction in (*axes, *pairs):
            step = BESIDE * max(1.0, float(np.abs(here.point).max()))
            sides = [here.moved(here.point + side * direction).gradient() @ direction for side in (step, -step)]
            low, high = min(sides), max(sides)
            size = abs(low) + abs(high)
            slope, room = float(vector @ direction), ROOM * size
            if not math.isfinite(size):
                return False
            if high - low <= 10.0 * room:  # no kink in this direction
                low = high = float(self.exact @ direction)
                room = float(allowed @ np.abs(direction))
            if not low - room <= slope <= high + room:
                return False
        return True


BESIDE = 1e-7
"""The distance from a kink at which slopes of both sides are taken."""
ROOM = 1e-5
"""Tolerance of a slope between them, as a share of both."""
MOST_PAIRED = 12
"""Most variables that are moved in pairs."""
ONE = Counts(1, 1, "sum", averages=False)
"""The counts of a function: it has one value, so no mean can go wrong."""
