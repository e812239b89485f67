"""Gradient checks as requests ask for them: of a network's loss by its parameters, and of a typed function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import Fault, InvalidRequest, LimitExceeded
from service.engine.functions.compiled import MOST_NODES, ExpressionTask, build, naming_limit
from service.engine.functions.expression import Expression
from service.engine.graph.ir import Graph, Node
from service.engine.graph.plan import WorkspacePool
from service.engine.insight.check import check_at, subject_vector
from service.engine.insight.check_report import Report
from service.engine.insight.differences import STEPS
from service.engine.insight.function_claims import read_numbers
from service.engine.insight.subject import Located, Path, Subject
from service.engine.insight.trained_network import TrainedNetwork, wide
from service.engine.limits import Limits
from service.engine.network.feed import Feed
from service.engine.network.prepare import Prepared, prepare
from service.engine.network.task import NetworkQuestion, Task
from service.engine.network.vectors import ParametersSide
from service.engine.watch import Watch

CURVE_OPERATIONS = 1e10
"""Floating-point operations that curves of single tensors may take; beyond, there is one curve for all together."""
EVALUATIONS = 100
"""Roughly the fewest evaluations of a check."""


class CheckOptions(NamedTuple):
    """The choices of a request for a check of a gradient: the gradient to be tested, and how exactly."""

    claimed: Any = None
    """A gradient in parts: by layer and parameter, by variable, or a vector of all variables; None: the exact one."""
    seed: int = 0
    tolerance: float | None = None
    """Relative differences that are not called wrong."""
    steps: Sequence[float] | None = None
    """The steps of differences and remainders, the largest first; None for the usual ones."""


class Checked(NamedTuple):
    """The result of a check of a network or a function, with what the answer needs beside the report."""

    report: Report
    missing: list[str]
    """Parameters or variables without a claim."""
    parameters: dict[str, dict[str, Array]] | None = None
    """The parameters, if they were initialised here."""
    curves_left_out: bool = False


@dataclass(frozen=True)
class NetworkCheckTask(NetworkQuestion):
    """The task of checking the gradient of a network's loss."""

    graphs = 3.0  # both, and the gradients in float64

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> NetworkCheck:
        return NetworkCheck(self.task, limits, pool, watch)


class NetworkCheck(TrainedNetwork):
    """The loss of a network, compiled for a check: in float64, and in the precision of the request."""

    def __init__(
        self, task: Task, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
    ) -> None:
        """Build the graphs. Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when
        it is large, and what `watch` raises."""
        super().__init__(task, limits, watch, "check")
        self.subject = _subject_of(self.prepared, pool)
        self.twin = self.subject
        self.inputs = self.twin_inputs = _inputs_of(self.prepared)
        """The inputs of the graph, and of the one in float64, by name."""
        if task.dtype != "float64":
            prepared = prepare(task._replace(dtype="float64"), limits, watch)
            self.twin = _subject_of(prepared, pool)
            self.twin_inputs = _inputs_of(prepared)
        limits.check_operations(EVALUATIONS * self.twin.work)
        self.nbytes = self.twin.nbytes + (self.subject.nbytes if self.twin is not self.subject else 0)
        if self.nbytes > limits.workspace_bytes:
            raise LimitExceeded("workspace_bytes", self.nbytes, limits.workspace_bytes)
        self.weight = 2 * len(self.prepared.model.graph.nodes)

    def run(self, feed: Feed, wanted: CheckOptions, watch: Watch | None = None) -> Checked:
        """Check the gradient with the numbers of a request. Raises `InvalidRequest` when the numbers do not fit, and
        what `watch` raises."""
        faults = _faults_of_claim(self.side, wanted.claimed)
        leaves = self.leaves(feed, faults, watch)
        values = leaves.values()
        here = computed = Located(self.subject, values, watch)
        if self.twin is not self.subject:
            named = {name: values[node] for name, node in self.inputs.items() if node in values}
            here = Located(self.twin, {self.twin_inputs[name]: wide(value) for name, value in named.items()}, watch)
        claimed, missing = None, []
        if wanted.claimed is not None:
            parts: dict[Path, Array] = {
                (layer, name): array for layer, arrays in wanted.claimed.items() for name, array in arrays.items()
            }
            claimed = subject_vector(self.subject, parts)
            missing = [".".join(piece.path) for piece in self.side.pieces if piece.path not in parts]
        pieces = len(self.side.pieces)
        curves = 2.0 * len(wanted.steps or STEPS) * pieces * self.subject.forward.work <= CURVE_OPERATIONS
        report = check_at(
            here,
            claimed,
            self.task.dtype,
            wanted.seed,
            wanted.tolerance,
            computed,
            wanted.steps,
            curves_of_tensors=curves,
        )
        return Checked(report, missing, leaves.tree() if feed.parameters is None else None, not curves)


def _subject_of(prepared: Prepared, pool: WorkspacePool | None) -> Subject:
    assert prepared.objective is not None
    trained = [((each.layer, each.name), each.node) for each in prepared.model.parameters if each.trainable]
    return Subject(prepared.objective.total, trained, pool)


def _inputs_of(prepared: Prepared) -> dict[str, Node]:
    return {node.attributes[0]: node for node in prepared.model.graph.nodes if node.operation.name == "input"}


def _faults_of_claim(side: ParametersSide, claimed: Any) -> list[Fault]:
    """Return all faults for which a claim is no part of the gradient; empty for a good claim or none."""
    if claimed is None:
        return []
    if not isinstance(claimed, Mapping):
        return side.faults(claimed, ("claimed",))
    whole: dict[str, Any] = {}
    for piece in side.pieces:
        whole.setdefault(piece.path[0], {})[piece.path[1]] = np.zeros(piece.shape)
    for layer, arrays in claimed.items():
        whole[layer] = whole.get(layer, {}) | dict(arrays) if isinstance(arrays, Mapping) else arrays
    faults = side.faults(whole, ("claimed",))
    if not faults and not any(isinstance(arrays, Mapping) and arrays for arrays in claimed.values()):
        names = tuple(dict.fromkeys(piece.path[0] for piece in side.pieces))
        faults = [Fault(("claimed",), "claims nothing; it takes {layer: {parameter: tensor}}, any part of it", names)]
    return faults


class FunctionCheckTask(ExpressionTask):
    """The task of checking the gradient of a typed function."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> FunctionCheck:
        return FunctionCheck(self.expression, pool)  # `MOST_NODES` are made too quickly for the watch to matter


class FunctionCheck:
    """A typed function, compiled for checks of its gradient."""

    def __init__(self, expression: Expression, pool: WorkspacePool | None = None) -> None:
        """Build the graph. Raises `LimitExceeded` when the expression and its gradient are too long together."""
        graph = Graph("float64", MOST_NODES)
        self.names = expression.variables
        with naming_limit("operations of the graph"):
            self.variables = [graph.input(name, ()) for name in self.names]
            value = build(expression, graph, self.variables)[-1]
            self.subject = Subject(
                value, [((name,), node) for name, node in zip(self.names, self.variables, strict=True)]
            )
        self.nbytes = self.subject.nbytes
        self.weight = len(graph.nodes)

    def run(self, point: Array, wanted: CheckOptions, watch: Watch | None = None) -> Checked:
        """Check the gradient at a point, (variables,). Raises `InvalidRequest` when the claim does not fit."""
        values = {node: np.asarray(number) for node, number in zip(self.variables, point, strict=True)}
        claimed, missing = None, []
        if wanted.claimed is not None:
            parts, faults = read_numbers(self.names, wanted.claimed, ("claimed",))
            if faults:
                raise InvalidRequest(faults)
            claimed = subject_vector(self.subject, parts)
            missing = [name for name in self.names if (name,) not in parts]
        here = Located(self.subject, values, watch)
        report = check_at(here, claimed, "float64", wanted.seed, wanted.tolerance, None, wanted.steps)
        return Checked(report, missing)
