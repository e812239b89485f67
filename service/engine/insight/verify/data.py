"""Gradients of single samples, and gradients through updated weights, for the search for mistakes of data.

Large gradients are computed as pictures: short vectors of sums with random signs (see `sketch.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import LimitExceeded
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Node
from service.engine.graph.operations import sum_over
from service.engine.graph.plan import Program, WorkspacePool
from service.engine.insight.mistakes import Change, Network
from service.engine.insight.mistakes.linear_layers import through_updated
from service.engine.insight.verify.budget import NODE, cost
from service.engine.insight.verify.sketch import inputs_of, sketch
from service.engine.insight.verify.variants import RATE, Path, Trees, fill
from service.engine.limits import Limits
from service.engine.network.prepare import prepare
from service.engine.network.task import NetworkQuestion, Task
from service.engine.watch import Watch

MOST_UPDATED = 8
"""Layers whose weights alone may have been updated too early."""
SHARES = "verify/shares"


@dataclass(frozen=True)
class DataTask(NetworkQuestion):
    """The task of computing the gradients of single samples, and gradients through updated weights."""

    graphs = 3.0

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> DataGradients:
        return DataGradients(self.task, limits, pool, watch)


class DataGradients:
    """The gradients of single samples and those through updated weights, compiled as pictures."""

    def __init__(
        self, task: Task, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
    ) -> None:
        prepared = prepare(task._replace(dtype="float64"), limits, watch, distinct_layers=True)
        self.network = network = Network(prepared)
        graph, trees = network.graph, Trees(network)
        self.samples = task.samples
        self.paths = network.paths
        outputs: dict[str, Node] = {}
        self.outputs = task.definition.output_names
        self.has_shares = not (task.normalize_weights and task.reduction == "mean")
        if self.has_shares:
            total = graph.constant(0.0)
            weights = task.loss_weights or (1.0,) * len(self.outputs)
            for name, weight, values in zip(self.outputs, weights, network.values_of_samples(), strict=True):
                shares = graph.input(f"{SHARES}/{name}", (self.samples,))
                total = total + weight * sum_over(shares * values)
            found = differentiate(total, network.targets).nodes
            for number, node in enumerate(dense(found, network.targets)):
                outputs[f"shares/{number}"] = sketch(node)
        for number, path in enumerate(self.paths):
            penalty = trees.penalties.get(path)
            if penalty is not None:
                outputs[f"penalty/{number}"] = sketch(penalty)
        self.updated: Program | None = None
        made: dict[str, Node] = {}
        self.forms = 0
        """The ways to update weights too early: in all layers, or in one."""
        try:
            rate = graph.input(RATE, ())
            owners = [name for name in network.order if any(each.layer == name for each in network.trained)] + [
                layer.name for layer in task.definition.layers if layer.shares is not None
            ]
            several = [owners, *([owner] for owner in reversed(owners[-MOST_UPDATED:]))]
            for penalties in ({}, trees.penalties) if trees.penalties else ({},):
                for layers in several:
                    changes = through_updated(network, layers, rate, penalties)
                    if changes.rules:
                        tree = trees.of(Change(changes=changes))
                        for number, path in enumerate(self.paths):
                            made[f"updated/{self.forms}/{number}"] = sketch(tree[path])
                        self.forms += 1
            if made:
                self.updated = Program(made, network.targets, pool=pool, watch=watch)
                limits.check_program(self.updated)
        except LimitExceeded:
            self.updated = None
        self.program = Program(outputs, network.targets, pool=pool, watch=watch) if outputs else None
        if self.program is not None and self.program.nbytes > limits.workspace_bytes:
            self.program = None
        self.cost, self.updated_cost = (
            0.0 if program is None else cost(program.nodes) for program in (self.program, self.updated)
        )
        """Seconds that a run of each program takes, roughly."""
        self.making = NODE * len(graph.nodes)
        """Seconds that it takes to make this, roughly."""
        self.inputs = {node.attributes[0]: node for node in graph.nodes if node.operation.name == "input"}
        self.signs = inputs_of(graph)
        self.weight = len(graph.nodes)
        numbers = sum(node.size for node in outputs.values()) + sum(node.size for node in made.values())
        self.nbytes = 8 * numbers + sum(each.nbytes for each in (self.program, self.updated) if each is not None)

    @property
    def right_share(self) -> float:
        """The right factor of each sample's loss in the loss of all samples."""
        return 1.0 / self.samples if self.network.task.reduction == "mean" else 1.0

    def run(
        self, program: Program, leaves: Mapping[str, Array], more: Mapping[str, Array], watch: Watch | None
    ) -> dict[str, Array]:
        return next(self.runs(program, leaves, [more], watch))

    def runs(
        self, program: Program, leaves: Mapping[str, Array], several: Iterable[Mapping[str, Array]], watch: Watch | None
    ) -> Iterator[dict[str, Array]]:
        """Yield the outputs of a program for each of several changes of its inputs. Each change names the inputs that
        it replaces; the next one starts from the leaves again."""
        with program.workspace(watch) as workspace:
            plain = {**self.signs, **leaves}
            fill(workspace.inputs, plain, self.inputs)
            workspace.parameters[...] = np.concatenate(
                [leaves[node.attributes[0]].reshape(-1) for node in self.network.targets]
            )
            for more in several:
                rooms = [(workspace.inputs[name], name) for name in more if name in workspace.inputs]
                for room, name in rooms:
                    room[...] = more[name]
                workspace.run(watch)
                yield {name: output.copy() for name, output in workspace.outputs.items()}
                for room, name in rooms:
                    if name in plain:
                        room[...] = plain[name]

    def of_samples(self, leaves: Mapping[str, Array], watch: Watch | None) -> dict[Path, tuple[Array, Array]]:
        """Return for each parameter the pictures of every sample's gradient, and that of the penalties. The former have
        a row for each output and sample."""
        assert self.program is not None
        rows: dict[Path, list[Array]] = {path: [] for path in self.paths}
        penalties: dict[Path, Array] = {}
        for given in self.runs(self.program, leaves, self._single(), watch):
            for number, path in enumerate(self.paths):
                rows[path].append(given[f"shares/{number}"])
                penalties[path] = given.get(f"penalty/{number}", np.zeros_like(rows[path][-1]))
        return {path: (np.stack(several), penalties[path]) for path, several in rows.items()}

    def _single(self) -> Iterator[dict[str, Array]]:
        """Yield the shares of samples that select a single one, for each sample at each output."""
        for output in self.outputs:
            for sample in range(self.samples):
                chosen = {f"{SHARES}/{name}": np.zeros(self.samples) for name in self.outputs}
                chosen[f"{SHARES}/{output}"][sample] = 1.0
                yield chosen

    def at_rate(self, form: int, leaves: Mapping[str, Array], rate: float, watch: Watch | None) -> dict[Path, Array]:
        """Return the pictures of gradients through weights that were updated too early, at a learning rate. `form`
        numbers the sets of layers that may have been updated."""
        assert self.updated is not None
        given = self.run(self.updated, leaves, {RATE: np.asarray(rate)}, watch)
        return {path: given[f"updated/{form}/{number}"] for number, path in enumerate(self.paths)}

    def whole(self, given: Mapping[str, Array]) -> dict[Path, Array]:
        """Return the pictures of whole gradients from the outputs of a run, penalties included."""
        return {
            path: given[f"shares/{number}"] + given.get(f"penalty/{number}", 0.0)
            for number, path in enumerate(self.paths)
        }
