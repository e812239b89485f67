"""The computation of a network or a typed function, forward and backward, with the value of every operation.

The graph holds both halves as the same operations, and a node of the backward half remembers which forward node it
serves. Here they are sorted out. Each forward node is paired with its adjoint, the node that holds the derivative of
the loss, or of the function, with respect to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from service.engine.arrays import Array
from service.engine.cautions import Caution
from service.engine.errors import Fault, InvalidRequest, LimitExceeded
from service.engine.functions.compiled import MOST_NODES, ExpressionTask, build, naming_limit
from service.engine.functions.expression import Expression
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.interpreter import steps
from service.engine.graph.ir import Graph, Node, NoGradient, count_work, reachable
from service.engine.graph.plan import WorkspacePool
from service.engine.insight.leaves import leaves_of
from service.engine.limits import Limits
from service.engine.network.answer_warnings import blocked
from service.engine.network.feed import Feed, Feeder
from service.engine.network.prepare import Prepared, prepare
from service.engine.network.task import NetworkQuestion, Task
from service.engine.texts import Sentence, say
from service.engine.watch import Watch

Label = Sentence | str
"""The role of a node: a sentence, or words of code."""


@dataclass
class Roots:
    """The ends of a graph: its outputs, its loss, and the nodes to differentiate by."""

    outputs: dict[str, Node]
    """The results of the forward pass, by name."""
    total: Node | None
    """The node to differentiate; None if there is no backward pass."""
    wrt: list[tuple[tuple[str, ...], Node]]
    """The nodes to differentiate by, with their names: layer and parameter, input, or variable."""
    labels: dict[Node, list[Label]] = field(default_factory=dict)
    deltas: dict[Node, str] = field(default_factory=dict)
    """Pre-activations, whose adjoints are the deltas of layers."""


class ComputedValues(NamedTuple):
    """The value of every node after one run, to be shown in an answer."""

    of: Mapping[Node, Array]
    """The value of every node."""
    parameters: dict[str, dict[str, Array]] | None
    """The parameters, if they were initialised here."""


class Computation:
    """A graph with its backward half: forward nodes, backward nodes, and which of them belong together."""

    def __init__(self, roots: Roots) -> None:
        self.roots = roots
        graph = next(iter(roots.outputs.values())).graph
        ends = [*roots.outputs.values(), *(() if roots.total is None else (roots.total,))]
        self.forward = reachable([*ends, *(node for _, node in roots.wrt)])
        """The nodes of the forward pass, in an order of computation."""
        self.adjoints: dict[Node, Node] = {}
        """For each forward node that a derivative reaches, the node with that derivative."""
        self.gradients: dict[tuple[str, ...], Node] = {}
        self.blocked: list[Node] = []
        if roots.total is not None:
            self._differentiate(roots.total)
        known = set(self.forward)
        self.backward = [node for node in reachable([*self.gradients.values()]) if node not in known]
        self.nodes = [*self.forward, *self.backward]
        self.serves = self._served()
        self.numbers = sum(node.size for node in self.nodes) + sum(node.size for node in self.adjoints.values())
        """The count of numbers in all values and adjoints."""
        self.weight = len(graph.nodes)
        graph.seal()

    def _differentiate(self, total: Node) -> None:
        targets = [node for _, node in self.roots.wrt]
        leads = set(targets)
        for node in self.forward:
            if not leads.isdisjoint(node.inputs):
                leads.add(node)
        # The gradients need the adjoints between anyway, so these add nothing to the graph.
        between = [node for node in self.forward if node in leads and node.index <= total.index]
        found = differentiate(total, between)
        by_node = dict(zip(between, found.nodes, strict=True))
        self.adjoints = {node: adjoint for node, adjoint in by_node.items() if not isinstance(adjoint, NoGradient)}
        self.blocked = found.blocked_by
        of_targets = dense([by_node.get(node, NoGradient.DISCONNECTED) for node in targets], targets)
        self.gradients = dict(zip([path for path, _ in self.roots.wrt], of_targets, strict=True))

    def _served(self) -> dict[Node, Node]:
        """Return for each backward node the forward node that it passes a derivative through. A declared slope serves
        the value that declares it."""
        nodes = self.nodes[0].graph.nodes
        forward = set(self.forward)
        served: dict[Node, Node] = {}
        for node in reversed(self.backward):
            own = None if node.serves is None else nodes[node.serves]
            if own in forward and own is not None:
                served[node] = own
            if node in served:
                for x in node.operands:
                    if x.serves is None and x not in forward:
                        served.setdefault(x, served[node])
        return served

    def evaluate(self, leaves: Mapping[Node, Array], watch: Watch | None = None) -> dict[Node, Array]:
        """Return the value of every node, given the values of leaves. Raises what `watch` raises."""
        values: dict[Node, Array] = {}
        for node, value in steps([*self.forward, *self.gradients.values(), *self.adjoints.values()], leaves):
            values[node] = value
            if watch is not None:
                watch.look()
        return values


@dataclass(frozen=True)
class NetworkGraphTask(NetworkQuestion):
    """The task of building a network's computational graph, with loss and gradients if the task has losses."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> NetworkGraph:
        return NetworkGraph(self.task, limits, watch)


class NetworkGraph:
    """The computational graph of a network, to be shown with its values."""

    def __init__(self, task: Task, limits: Limits, watch: Watch | None = None) -> None:
        """Build the graph. Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when
        it is large, and what `watch` raises."""
        self.task = task
        self.prepared = prepare(task, limits, watch)
        self.computation = Computation(_network_roots(self.prepared))
        if not {layer.output for layer in self.prepared.model.layers.values()} <= set(self.computation.forward):
            # The graph computes past a layer, as past the first of two reshape layers: each layer is to be shown.
            self.prepared = prepare(task, limits, watch, distinct_layers=True)
            self.computation = Computation(_network_roots(self.prepared))
        self.model = self.prepared.model
        self.feeder = Feeder(self.prepared, limits)
        self.weight = self.computation.weight
        self.nbytes = sum(node.size for node in self.computation.nodes) * 8
        limits.check_operations(sum(map(count_work, self.computation.nodes)))
        if self.nbytes > limits.workspace_bytes:
            raise LimitExceeded("workspace_bytes", self.nbytes, limits.workspace_bytes)
        self.warnings: list[Caution] = blocked(self.computation.blocked, self.model)

    def run(self, feed: Feed, watch: Watch | None = None) -> ComputedValues:
        """Compute every value with the numbers of a request. Raises `InvalidRequest` when the numbers do not fit, and
        what `watch` raises."""
        leaves = leaves_of(self.prepared, self.feeder, feed, watch)
        values = self.computation.evaluate(leaves.values(), watch)
        return ComputedValues(values, leaves.tree() if feed.parameters is None else None)


def _network_roots(prepared: Prepared) -> Roots:
    task, model, objective = prepared.task, prepared.model, prepared.objective
    outputs = {name: model.layers[name].output for name in task.definition.output_names}
    roots = Roots(outputs, None, [((each.layer, each.name), each.node) for each in model.parameters if each.trainable])
    for name, layer in model.layers.items():
        if layer.pre_activation is not layer.output:
            roots.labels.setdefault(layer.pre_activation, []).append(say("graph.pre_activation", layer=name))
        roots.labels.setdefault(layer.output, []).append(say("graph.output", layer=name))
        roots.deltas.setdefault(layer.pre_activation, name)
    if objective is None:
        roots.wrt = []
        return roots
    if "input_gradients" in task.include:
        roots.wrt += [((name,), node) for name, node in model.inputs.items() if node.dtype != "int64"]
    roots.total = objective.total
    roots.labels.setdefault(objective.total, []).append(say("graph.loss"))
    return roots


class FunctionGraphTask(ExpressionTask):
    """The task of building the computational graph of a typed function at one point."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> FunctionGraph:
        return FunctionGraph(self.expression)  # `MOST_NODES` are made too quickly for the watch to matter


class FunctionGraph:
    """The computational graph of a typed function at one point, to be shown with its values."""

    def __init__(self, expression: Expression) -> None:
        """Build the graph. Raises `LimitExceeded` when the expression and its gradient are too long together."""
        graph = Graph("float64", MOST_NODES)
        with naming_limit("operations of the graph"):
            self.variables = [graph.input(name, ()) for name in expression.variables]
            nodes = build(expression, graph, self.variables)
            value = nodes[-1]
            roots = Roots({"value": value}, value, [((node.attributes[0],), node) for node in self.variables])
            for node, step in zip(nodes, expression.steps, strict=True):
                if node.inputs and node not in roots.labels:
                    roots.labels[node] = [expression.quoted(step)]
            self.computation = Computation(roots)
        self.weight = self.computation.weight
        self.nbytes = 8 * len(self.computation.nodes)

    def run(self, point: Sequence[Array], watch: Watch | None = None) -> ComputedValues:
        """Compute every value at a point, an array of shape () for each variable."""
        return ComputedValues(self.computation.evaluate(dict(zip(self.variables, point, strict=True)), watch), None)


def check_size(asked: float, allowed: float, path: tuple[str, ...], what: str, instead: str) -> None:
    """Raise `InvalidRequest` at `path` if an answer would be too long. `what` names what is counted, and `instead` says
    what to ask for instead."""
    if asked > allowed:
        raise InvalidRequest([Fault(path, f"the graph has {asked:,} {what}; allowed are {allowed:,}; {instead}")])
