"""Verdicts on claimed gradients of a network: right tensors, where a gradient first goes wrong, and mistakes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, LimitExceeded
from service.engine.errors import Path as Place
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.plan import WorkspacePool
from service.engine.insight.mistakes import Network
from service.engine.insight.subject import Located, Subject
from service.engine.insight.trained_network import TrainedNetwork, wide
from service.engine.insight.verify.budget import MOST, Budget, Reserve, cost
from service.engine.insight.verify.claims import Claim, Claims, undone
from service.engine.insight.verify.judging import NEAR, Judge
from service.engine.insight.verify.mistake_search import Compile, MistakeSearch
from service.engine.insight.verify.rounding import Rounding
from service.engine.insight.verify.search import ClaimDiagnosis, Interpretation, Reading, interpretation
from service.engine.insight.verify.verdict import FirstWrong, TensorVerdict, Verdicts
from service.engine.limits import Limits
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.feed import Feed
from service.engine.network.flat import Piece
from service.engine.network.prepare import prepare
from service.engine.network.task import NetworkQuestion, Task
from service.engine.watch import Watch

EVALUATIONS = 20
"""Roughly the fewest evaluations of a verdict."""
MOST_SWAPPED = 6
"""Tensors of the same shape that one is compared with, the nearest first."""


class Submission(NamedTuple):
    """One claimed gradient of a request."""

    claimed: Any
    place: Place
    """The place in the request."""


@dataclass(frozen=True)
class VerifyOptions:
    """The choices of a request for verdicts on claimed gradients: the claims, and how to read and judge them."""

    submissions: Sequence[Submission]
    layout: str = "nabla"
    tolerance: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class NetworkVerifyTask(NetworkQuestion):
    """The task of judging claimed gradients of a network's loss."""

    graphs = 3.0  # both, and the gradients in float64

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> NetworkVerify:
        return NetworkVerify(self.task, limits, pool, watch)


class NetworkVerify(TrainedNetwork):
    """The right gradient of a network's loss in float64, compiled to be compared with claims."""

    def __init__(
        self, task: Task, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
    ) -> None:
        """Build the graphs. Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when
        it is large, and what `watch` raises."""
        super().__init__(task, limits, watch, "compare with")
        self.limits = limits
        self.claims = Claims(self.side, task.definition)
        twin = prepare(task._replace(dtype="float64"), limits, watch, distinct_layers=True)
        self.network = Network(twin)
        wrt = list(zip(self.network.paths, self.network.targets, strict=True))
        self.subject = Subject(self.network.objective.total, wrt, pool)
        self.inputs = {node.attributes[0]: node for node in self.network.forward if node.operation.name == "input"}
        limits.check_operations(EVALUATIONS * self.subject.work)
        program, forward = self.subject.program, self.subject.forward
        largest = max(node.size for node in program.nodes)
        self.nbytes = 4 * program.nbytes + forward.nbytes + 64 * self.side.size + 16 * largest
        """Roughly the memory of a verdict without the search; measured: half of it to all of it."""
        if self.nbytes > limits.workspace_bytes:
            raise LimitExceeded("workspace_bytes", self.nbytes, limits.workspace_bytes)
        self.cost = cost(self.subject.program.nodes)
        """Seconds that the gradient takes, roughly."""
        self.weight = 2 * len(self.network.graph.nodes)

    def run(
        self,
        feed: Feed,
        wanted: VerifyOptions,
        compiled: Compile,
        reserve: Reserve = lambda program, work, nbytes: True,
        most: float = MOST,
        watch: Watch | None = None,
        only: slice = slice(None),
    ) -> Verdicts:
        """Judge every claim of a request, or `only` those at some places. The search for mistakes may take `most`
        seconds, as `Budget` counts them. Raises `InvalidRequest` when the numbers do not fit, and what `reserve` and
        `watch` raise."""
        read, faults = [], []
        for submission in wanted.submissions:
            claim = self.claims.read(submission.claimed, wanted.layout, submission.place)
            faults += claim.faults
            read.append(claim)
            if len(faults) >= MOST_ERRORS:
                break
        leaves = self.leaves(feed, faults, watch)
        named = {node.attributes[0]: wide(value) for node, value in leaves.values().items()}
        named.setdefault("sample_weights", np.ones(self.task.samples))
        here = Located(self.subject, {node: named[name] for name, node in self.inputs.items() if name in named}, watch)
        rounding = Rounding(here, feed.seed, wanted.tolerance)
        if not (math.isfinite(rounding.value) and np.isfinite(rounding.exact).all()):
            detail = "the loss or its gradient is not finite for these numbers, so there is nothing to compare with"
            raise InvalidRequest([Fault(("inputs",), detail)])
        budget = Budget(self.cost, most, self.nbytes + 16 * self.side.size * len(read), reserve, watch)
        judge = NetworkJudge(self, rounding, named, compiled, wanted.learning_rate, budget, feed)
        verdicts = [without_float_warnings(judge.verdict, claim) for claim in read[only]]
        tree = leaves.tree() if feed.parameters is None else None
        return Verdicts(rounding.value, verdicts, tree, True, tuple(budget.missed), budget.spent_share)


class NetworkJudge(Judge):
    """The judge of the claims of one request about a network."""

    def __init__(
        self,
        verify: NetworkVerify,
        rounding: Rounding,
        leaves: Mapping[str, Array],
        compiled: Compile,
        learning_rate: float | None,
        budget: Budget,
        feed: Feed,
    ) -> None:
        super().__init__(verify.subject.space, rounding, verify.task.dtype, budget.watch)
        self.verify, self.compiled, self.feed = verify, compiled, feed
        self.search = MistakeSearch(verify, self.exact, leaves, compiled, learning_rate, budget)

    @cached_property
    def own(self) -> Array:
        result = self.compiled(EvaluationTask(self.verify.task)).run(self.feed, self.watch)
        return np.concatenate([result.gradients[layer][name].reshape(-1) for layer, name in self.search.right])

    def other_readings(self, piece: Piece, array: Array, claim: Claim) -> Iterator[Interpretation]:
        kind = self.verify.network.types[piece.path[0]]
        for code, turned in undone(array, piece.shape, kind):
            yield interpretation((code,), turned)
        alike = [path for path, other in claim.tensors.items() if path != piece.path and other.shape == piece.shape]
        place = self.search.order[piece.path]
        for path in sorted(alike, key=lambda path: abs(self.search.order[path] - place))[:MOST_SWAPPED]:
            yield interpretation(("tensors_swapped",), claim.tensors[path])
        if array.shape == piece.shape and self._is_of_another(piece, array):
            yield interpretation(("tensors_swapped",), self.exact[piece.start : piece.stop].reshape(piece.shape))

    def _is_of_another(self, piece: Piece, array: Array) -> bool:
        """Return whether a tensor is the right gradient of another parameter of its shape."""
        length, near = float(np.linalg.norm(array)), NEAR[self.dtype]
        for place in np.flatnonzero(np.abs(self._lengths - length) <= near * length).tolist():
            other = self.space.pieces[place]
            if other.shape == piece.shape and other.path != piece.path:
                exact = self.exact[other.start : other.stop].reshape(piece.shape)
                if float(np.linalg.norm(array - exact)) <= near * length:
                    return True
        return False

    @cached_property
    def _lengths(self) -> Array:
        return np.array([np.linalg.norm(self.exact[piece.start : piece.stop]) for piece in self.space.pieces])

    def diagnoses(self, readings: Sequence[Reading]) -> list[ClaimDiagnosis]:
        return self.search.diagnoses(readings)

    def first_wrong(self, tensors: Sequence[TensorVerdict]) -> FirstWrong | None:
        wrong = [each for each in tensors if each.verdict == "mismatch"]
        if not wrong:
            return None
        first = min(wrong, key=lambda each: self.search.order[each.path])
        layer = first.path[0]
        right = dict.fromkeys(
            each.path[0] for each in tensors if self.search.order[each.path] < self.search.order[first.path]
        )
        ordered = sorted(right, key=lambda name: -self.verify.network.order.index(name))
        return FirstWrong(layer, [each.path for each in wrong if each.path[0] == layer], ordered)
