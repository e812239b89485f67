"""All wrong gradients of one network by the rules of mistakes, planned as one program of pictures (see `sketch.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import LimitExceeded
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.differentiate import Changes, dense, differentiate
from service.engine.graph.interpreter import evaluate
from service.engine.graph.ir import Graph, Node, NoGradient, reachable
from service.engine.graph.plan import Program, WorkspacePool
from service.engine.insight.mistakes import Change, Mistake, Network, mistakes
from service.engine.insight.mistakes.linear_layers import through_updated
from service.engine.insight.verify.budget import NODE, cost, cost_of
from service.engine.insight.verify.sketch import inputs_of, is_whole, sketch
from service.engine.limits import Limits
from service.engine.network.prepare import prepare
from service.engine.network.task import Task
from service.engine.watch import Watch

Path = tuple[str, ...]
MOST_NODES = 20_000
"""Most operations of all wrong gradients together, beyond the right one: planning more takes seconds. Gradients beyond
are left out, and the answer says so."""
MOST_SECONDS = 1.5
"""Largest cost of one run of all wrong gradients. Gradients beyond are left out, too."""
UPDATED = "updated_weights"
RATE = "verify/rate"
"""The learning rate with which weights were updated too early."""
LAST = "last/"
"""Inputs that say of each index whether it is the last of its kind."""


class Made(NamedTuple):
    """A mistake, and the layers where it was made; no layers mean everywhere."""

    code: str
    layers: tuple[str, ...] = ()


@dataclass
class Variant:
    """One wrong gradient: the mistakes in it, and which version of each tensor it has."""

    made: tuple[Made, ...]
    """The mistakes in it."""
    change: Change
    places: dict[Path, int] = field(default_factory=dict)
    """For each tensor, the number of its version; 0 is the right one."""

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(each.code for each in self.made)


class Trees:
    """The gradients of a network under changes of the backward graph, as nodes by parameter."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.penalties: dict[Path, Node] = {}
        if network.has_penalties:
            found = differentiate(network.objective.regularization_loss, network.targets).nodes
            self.penalties = {
                path: node for path, node in zip(network.paths, found, strict=True) if not isinstance(node, NoGradient)
            }
        self.right = self.of(Change())

    def of(self, change: Change) -> dict[Path, Node]:
        """Return the gradient of each parameter under a change, as a node."""
        tree = self._gradients(change, change.changes)
        for layer, changes in change.own.items():
            tree |= self._of_layer(layer, change, change.changes | changes)
        for layer, changes in change.spared.items():
            tree |= self._of_layer(layer, change, change.changes.without(changes))
        return tree

    def _of_layer(self, layer: str, change: Change, changes: Changes) -> dict[Path, Node]:
        return {path: node for path, node in self._gradients(change, changes).items() if path[0] == layer}

    def _gradients(self, change: Change, changes: Changes) -> dict[Path, Node]:
        network = self.network
        total = network.total if change.total is None else change.total
        nodes = dense(differentiate(total, network.targets, changes=changes).nodes, network.targets)
        tree: dict[Path, Node] = {}
        for path, node in zip(network.paths, nodes, strict=True):
            scaled = node if change.scale == 1.0 else change.scale * node
            penalty = change.penalties.get(path, self.penalties.get(path))
            tree[path] = scaled if penalty is None else scaled + penalty
        return tree


def changes_of(network: Network, learning_rate: float | None) -> Iterator[tuple[Made, Change]]:
    """Yield every change that a rule makes, with its mistake: in each layer, and in all layers of a kind."""
    counts = network.counts
    for mistake in mistakes:
        if mistake.kind == "factor":
            if network.has_penalties:
                for factor in mistake.build(counts):
                    yield Made(mistake.name), Change(scale=factor)
            yield from _of_outputs(network, mistake)
        alone = [] if mistake.kind not in ("rule", "noise") else list(mistake.build(network))
        if mistake.changes is not None:
            alone += mistake.changes(network)
        yield from ((Made(mistake.name, change.layers), change) for change in alone)
        forms: list[dict[tuple[str, ...], Change]] = []
        for change in alone:
            similar = (form for form in forms if next(iter(form.values())).form == change.form)
            form = next((form for form in similar if change.layers not in form), None)
            if form is None:
                form = {}
                forms.append(form)
            form[change.layers] = change
        endings = {ending.layer for ending in network.endings}
        for form in forms:
            inner = [change for layers, change in form.items() if endings.isdisjoint(layers)]
            groups = {tuple(form): list(form.values()), tuple(each.layers for each in inner): inner}
            for kind in dict.fromkeys(network.types[change.layers[0]] for change in alone if change.layers):
                alike = [change for layers, change in form.items() if layers and network.types[layers[0]] == kind]
                groups[tuple(each.layers for each in alike)] = alike
            for several in groups.values():
                together = _together(several)
                if together is not None:
                    yield Made(mistake.name, together.layers), together


def _of_outputs(network: Network, mistake: Mistake) -> Iterator[tuple[Made, Change]]:
    """Yield changes that multiply the loss of one output by a factor, or that of every output by its own."""
    factors = [list(mistake.build(counts)) for _, counts, _ in network.outputs]
    for (ending, _, share), own in zip(network.outputs, factors, strict=True):
        for factor in dict.fromkeys(own):
            if factor != 1.0:
                yield Made(mistake.name, (ending,)), Change((ending,), total=network.total + share(factor))
    if len({len(own) for own in factors}) == 1:
        for several in zip(*factors, strict=True):
            if len(set(several)) > 1:
                total = network.total
                for (_, _, share), factor in zip(network.outputs, several, strict=True):
                    total = total + share(factor)
                yield Made(mistake.name), Change(total=total)


def _together(changes: Sequence[Change]) -> Change | None:
    if len(changes) < 2:
        return None
    together: Change | None = changes[0]
    for change in changes[1:]:
        together = None if together is None else together & change
    return together


@dataclass(frozen=True)
class VariantsTask:
    """The task of making all wrong gradients of a network, or those with one more mistake beside `base`."""

    task: Task
    base: Made | None = None
    form: int = 0
    """The number of the change among those of that mistake in these layers."""
    layer: str = ""
    """The layer with the mistakes, where not all can be tried."""

    @property
    def key(self) -> tuple[Task, Made | None, int, str]:
        return self.task, self.base, self.form, self.layer

    @property
    def effort(self) -> float:
        return 10.0 * self.task.effort

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Variants:
        return Variants(self, limits, pool, watch)


class Variants:
    """Wrong gradients of a network, compiled as one program of pictures."""

    def __init__(
        self, asked: VariantsTask, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
    ) -> None:
        prepared = prepare(asked.task._replace(dtype="float64", weighted=True), limits, watch, distinct_layers=True)
        self.network = network = Network(prepared)
        self.graph: Graph = network.graph
        self.trees = Trees(network)
        self.paths = network.paths
        self.versions: dict[Path, list[Node]] = {path: [] for path in self.paths}
        """For each tensor its different gradients as nodes, the right one first."""
        self.variants: list[Variant] = []
        self.left_out = False
        """True if some would take too many operations."""
        self.cost = 0.0
        """Seconds that a run takes, roughly."""
        self._counted: set[Node] = set()
        for path, node in self.trees.right.items():
            self.versions[path].append(node)
            self._count(sketch(node))
        self.forms: dict[int, int] = {}
        """For each variant, by its identity, the number of its change among those of its name."""
        most = len(self.graph.nodes) + MOST_NODES
        try:
            for variant, form in self._asked(asked):
                self._add(variant, form)
                if watch is not None:
                    watch.look()
                if len(self.graph.nodes) > most or self.cost > MOST_SECONDS:
                    self.left_out = True
                    break
        except LimitExceeded:
            self.left_out = True
        self.program = self._planned(pool, watch)
        if self.program.nbytes > limits.workspace_bytes or self.program.work > limits.operations:
            self.left_out = True
            self.versions = {path: nodes[:1] for path, nodes in self.versions.items()}
            self.variants = []
            self.program = self._planned(pool, watch)
        self.cost = cost(self.program.nodes)
        self.making = NODE * len(self.graph.nodes)
        """Seconds that it takes to make this, roughly."""
        self.whole = {path: is_whole(node.shape) for path, node in zip(self.paths, network.targets, strict=True)}
        self.numbers = sum(node.size for node in self.program.outputs.values())
        """Numbers of all pictures."""
        self.inputs = {node.attributes[0]: node for node in self.graph.nodes if node.operation.name == "input"}
        self.signs = inputs_of(self.graph)
        self.weight = len(self.graph.nodes)
        self.nbytes = self.program.nbytes + 16 * self.numbers
        """The bytes of a run with its pictures."""

    def _asked(self, asked: VariantsTask) -> Iterator[tuple[Variant, int]]:
        """Yield the requested wrong gradients, each with the number of its form."""
        network, made = self.network, asked.base
        base: Change | None = None
        if made is not None and made.code == UPDATED:
            rate = self.graph.input(RATE, ())
            penalties = self.trees.penalties if asked.form else {}
            base = Change(changes=through_updated(network, made.layers, rate, penalties))
        elif made is not None:
            matching = [change for other, change in changes_of(network, None) if other == made]
            base = matching[min(asked.form, len(matching) - 1)]
        if made is not None and base is not None:
            yield Variant((made,), base), asked.form
        seen: dict[Made, int] = {}
        changes = changes_of(network, None)
        if asked.layer:
            near = [each for each in changes if asked.layer in each[0].layers]
            changes = iter(sorted(near, key=lambda each: len(each[0].layers)))
        for other, change in changes:
            form = seen[other] = seen.get(other, -1) + 1
            if made is None or base is None:
                yield Variant((other,), change), form
            elif other.code != made.code:
                both = base & change
                if both is not None:
                    yield Variant((made, other), both), form

    def _planned(self, pool: WorkspacePool | None, watch: Watch | None) -> Program:
        outputs = {
            f"{number}/{place}": sketch(node)
            for number, path in enumerate(self.paths)
            for place, node in enumerate(self.versions[path])
        }
        return Program(outputs, self.network.targets, pool=pool, watch=watch)

    def _count(self, node: Node) -> None:
        """Add the cost of a node and of all nodes that only it needs."""
        new = [node]
        while new:
            each = new.pop()
            if each not in self._counted:
                self._counted.add(each)
                self.cost += cost_of(each)
                new += each.operands

    def _add(self, variant: Variant, form: int) -> None:
        for path, node in self.trees.of(variant.change).items():
            versions = self.versions[path]
            if node not in versions:
                versions.append(node)
                self._count(sketch(node))
            variant.places[path] = versions.index(node)
        if any(variant.places.values()):
            self.variants.append(variant)
            self.forms[id(variant)] = form

    def run(self, leaves: Mapping[str, Array], watch: Watch | None = None) -> dict[Path, Array]:
        """Return the pictures of every version of each tensor, (versions, numbers of a picture)."""
        with self.program.workspace(watch) as workspace:
            fill(workspace.inputs, {**self.signs, **leaves}, self.inputs)
            workspace.parameters[...] = np.concatenate(
                [leaves[node.attributes[0]].reshape(-1) for node in self.network.targets] or [np.zeros(0)]
            )
            workspace.run(watch)
            return {
                path: np.stack([workspace.outputs[f"{number}/{place}"] for place in range(len(self.versions[path]))])
                for number, path in enumerate(self.paths)
            }

    def array(self, path: Path, place: int, leaves: Mapping[str, Array], watch: Watch | None = None) -> Array:
        """Return one version of a tensor whole, computed by the interpreter."""
        wanted = self.versions[path][place]
        given = {**leaves, **last_of(self.inputs, leaves)}
        values: dict[Node, Array] = {}
        for node in reachable([wanted]):
            if node.operation.name == "input":
                values[node] = given[node.attributes[0]]
            else:
                values[node] = without_float_warnings(evaluate, node, [values[x] for x in node.operands])
            if watch is not None:
                watch.look()
        return values[wanted]


def fill(room: Mapping[str, Array], given: Mapping[str, Array], inputs: Mapping[str, Node]) -> None:
    """Write values into the inputs of a program, by name. `inputs` are the input nodes of the graph."""
    for name, value in {**given, **last_of(inputs, given)}.items():
        if name in room:
            room[name][...] = value


def last_of(inputs: Mapping[str, Node], given: Mapping[str, Array]) -> dict[str, Array]:
    """Return masks of indices that are the last of their kind, as an assignment by indices keeps it, by input."""
    found: dict[str, Array] = {}
    for name in inputs:
        if name.startswith(LAST):
            indices = given[name.removeprefix(LAST)]
            flat = indices.reshape(-1)
            mask = np.zeros(flat.size)
            _, places = np.unique(flat[::-1], return_index=True)
            mask[flat.size - 1 - places] = 1.0
            found[name] = mask.reshape(indices.shape)
    return found
