"""The evaluation of a network: the forward pass and, with a loss, its gradients.

`EvaluationTask.compile` turns a `Task` into an `Evaluation`, a planned program with named outputs. `Evaluation.run`
computes for the numbers of a request. Equal tasks share one evaluation (see `Compiler`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from service.engine.arrays import Array, is_finite, norm, norm_of_flat
from service.engine.cautions import Caution, caution
from service.engine.float_warnings import ignoring_float_warnings
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Node, NoGradient, Shape
from service.engine.graph.operations import absolute, broadcast, reshape, sign
from service.engine.graph.plan import Program, WorkspacePool
from service.engine.graph.vectorize import vectorize
from service.engine.limits import Limits
from service.engine.network.answer_warnings import (
    blocked,
    bounded_outputs,
    doubtful,
    first_non_finite,
    is_plain,
    misread,
    out_of_reach,
    to_be_read,
    unfit,
)
from service.engine.network.feed import Feed, Feeder
from service.engine.network.flat import Piece, Space, tree_of
from service.engine.network.model import Model
from service.engine.network.prepare import Prepared, one_sample, prepare
from service.engine.network.surprises import Surprises, constant
from service.engine.network.task import NetworkQuestion, Task
from service.engine.network.total_loss import TotalLoss
from service.engine.watch import Watch


@dataclass
class LayerValues:
    """The values of one layer in a run: pre-activation, output, delta, and their norms."""

    name: str
    type: str
    shape: Shape
    pre_activation: Array
    output: Array
    delta: Array | None
    norms: dict[str, float]
    """The Euclidean norms of the arrays above, by their names."""


@dataclass
class Norms:
    """Euclidean norms of gradients and deltas, for answers that leave the arrays out."""

    gradients: dict[str, dict[str, float]]
    """By layer and parameter."""
    deltas: dict[str, float]
    """By layer."""


@dataclass
class Result:
    """The result of one run of a network. All arrays belong to the caller."""

    outputs: dict[str, Array]
    loss: Array | None = None
    data_loss: Array | None = None
    regularization_loss: Array | None = None
    gradients: dict[str, dict[str, Array]] = field(default_factory=dict)
    gradient_norm: float | None = None
    losses: dict[str, Array] = field(default_factory=dict)
    """The data loss of each output, before its weight."""
    layers: list[LayerValues] | None = None
    norms: Norms | None = None
    input_gradients: dict[str, Array] | None = None
    per_sample_loss: Array | None = None
    per_sample_gradients: dict[str, dict[str, Array]] | None = None
    parameters: dict[str, dict[str, Array]] | None = None
    """The initial parameters, if the run drew them."""
    state: dict[str, dict[str, Array]] | None = None
    """The new values of arrays that layers carry along in training, such as running means."""
    finite: bool = True
    warnings: list[Caution] = field(default_factory=list)


class Evaluation:
    """A network compiled for runs, forward and backward. Immutable, and safe to run from many threads."""

    def __init__(self, prepared: Prepared, program: Program, feeder: Feeder, warnings: Sequence[Caution]) -> None:
        self.task = prepared.task
        self.model = prepared.model
        self.program = program
        self.warnings = tuple(warnings)
        self.feeder = feeder
        self.parameters = self.feeder.parameters
        self.state = Space((path, node.shape) for path, node in prepared.model.state.items()).pieces
        self.bounded = bounded_outputs(self.task, self.model)
        self.is_plain = is_plain(self.task)
        self.watched = to_be_read(self.task, self.model)
        self.surprises = Surprises(self.task, self.model, self.parameters)
        self.weight = len(self.model.graph.nodes) + len(self.task.parameters)
        """Its share of a cache, in nodes."""

    @ignoring_float_warnings
    def run(self, feed: Feed, watch: Watch | None = None, *, consume: bool = False) -> Result:
        """Compute outputs, loss and gradients with the numbers of `feed`. With `consume`, the feed drops its parameters
        as soon as they are copied. Raises `InvalidRequest` when the numbers do not fit, and what `watch` raises."""
        initialised = feed.parameters is None
        with self.program.workspace(watch) as workspace:
            self.feeder.fill(workspace, feed, watch)
            if consume and not initialised:
                feed.parameters = {}
            workspace.run(watch)
            result = self.collect(workspace.outputs, workspace.gradients)
            if initialised:
                flat = workspace.parameters
                result.parameters = tree_of(self.parameters.pieces, flat.copy())
                result.finite = result.finite and is_finite(flat)
            result.warnings += self.cautions(self.task, feed, result.outputs)
            if result.finite:
                result.warnings += self.surprises.found(workspace)
            else:
                result.warnings.append(
                    first_non_finite(self.program, workspace, self.model, self.parameters.pieces, watch)
                )
        return result

    def cautions(self, task: Task, feed: Feed, outputs: Mapping[str, Array]) -> list[Caution]:
        """Return cautions about targets, weights and outputs of a request. `task` is that of all its samples, of which
        this evaluation may compute a shard."""
        found: list[Caution] = []
        if not self.is_plain:
            found += unfit(task, feed)
        if self.bounded:
            found += out_of_reach(self.bounded, feed.targets)
        if self.watched:
            found += misread(self.watched, outputs, feed.targets)
        return found

    def collect(self, read: Mapping[str, Array], gradients: Array) -> Result:
        """Return the result that the outputs of a run and its flat gradients make, with copies of the arrays."""
        task = self.task
        result = Result({name: read[f"outputs/{name}"].copy() for name in task.definition.output_names})
        result.warnings = list(self.warnings)
        checked = [*result.outputs.values()]
        finite = True
        if task.losses is not None:
            result.loss = read["loss"].copy()
            result.data_loss = read["data_loss"].copy()
            result.regularization_loss = read["regularization_loss"].copy()
            flat = gradients.copy()
            result.gradients = tree_of(self.parameters.trained, flat)
            result.gradient_norm = norm_of_flat(flat)  # finite only if every gradient is
            result.losses = {name: read[f"losses/{name}"].copy() for name in task.definition.output_names}
            checked += [result.loss, result.data_loss, result.regularization_loss]
            finite = math.isfinite(result.gradient_norm)
        if "layers" in task.include:
            result.layers = []
            for layer in task.definition.layers:
                output = read[f"output/{layer.name}"].copy()
                pre_activation = read[f"pre_activation/{layer.name}"].copy()
                delta = read[f"delta/{layer.name}"].copy() if task.losses is not None else None
                arrays = {"pre_activation": pre_activation, "output": output}
                if delta is not None:
                    arrays["delta"] = delta
                norms = {name: norm_of_flat(array.reshape(-1)) for name, array in arrays.items()}
                result.layers.append(
                    LayerValues(layer.name, layer.layer.name, output.shape[1:], pre_activation, output, delta, norms)
                )
                finite = finite and all(map(math.isfinite, norms.values()))  # only if every number is
        if "norms" in task.include:
            deltas = {layer.name: norm(read[f"delta/{layer.name}"]) for layer in task.definition.layers}
            norms_of_gradients = {
                layer: {name: norm(gradient) for name, gradient in arrays.items()}
                for layer, arrays in result.gradients.items()
            }
            result.norms = Norms(norms_of_gradients, deltas)
            checked.append(np.array(list(deltas.values())))
        if "input_gradients" in task.include:
            result.input_gradients = {
                name: read[f"input_gradients/{name}"].copy()
                for name, node in self.model.inputs.items()
                if node.dtype != "int64"
            }
            checked += result.input_gradients.values()
        if "per_sample" in task.include:
            result.per_sample_loss = read["per_sample_loss"].copy()
            checked.append(result.per_sample_loss)
            result.per_sample_gradients = _read_tree(read, "per_sample", self.parameters.trained, checked)
        if self.state:
            result.state = _read_tree(read, "state", self.state, checked)
        result.finite = finite and all(map(is_finite, checked))
        return result


def _read_tree(
    read: Mapping[str, Array], kind: str, pieces: Sequence[Piece], checked: list[Array]
) -> dict[str, dict[str, Array]]:
    """Return copies of the outputs `<kind>/<layer>.<name>` as a tree, and add them to `checked`."""
    tree: dict[str, dict[str, Array]] = {}
    for piece in pieces:
        layer, name = piece.path
        array = read[f"{kind}/{layer}.{name}"].copy()
        tree.setdefault(layer, {})[name] = array
        checked.append(array)
    return tree


class EvaluationTask(NetworkQuestion):
    """The task of evaluating a network: its outputs and, with losses, its gradients."""

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Evaluation:
        return compile_task(self.task, limits, pool, watch)


def compile_task(
    task: Task, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
) -> Evaluation:
    """Build, differentiate and plan an evaluation; runs borrow their memory from `pool`. Raises `InvalidRequest` when
    the definition or the shapes do not fit, `LimitExceeded` when it would cost too much, and what `watch` raises."""
    # Each layer has a delta of its own, so no two layers may become one node.
    prepared = prepare(task, limits, watch, distinct_layers=task.losses is not None and _asks_deltas(task))
    model, objective = prepared.model, prepared.objective
    outputs = {f"outputs/{name}": model.layers[name].output for name in task.definition.output_names}
    outputs |= {f"state/{layer}.{name}": node for (layer, name), node in model.state.items()}
    if "layers" in task.include:
        for name, layer in model.layers.items():
            outputs[f"output/{name}"] = layer.output
            outputs[f"pre_activation/{name}"] = layer.pre_activation
    gradients: list[Node] = []
    warnings = constant(task, model)
    if objective is not None:
        warnings += doubtful(task, model)
        outputs["loss"] = objective.total if task.reduction != "none" else objective.data_loss
        outputs["data_loss"] = objective.data_loss
        if not task.part:
            outputs["regularization_loss"] = objective.regularization_loss
        outputs |= {f"losses/{name}": node for name, node in objective.by_output.items()}
    if objective is not None and task.differentiated:
        gradients, more, found = _gradients(task, model, objective)
        outputs |= more
        warnings += found
        if "per_sample" in task.include:
            outputs |= _per_sample(prepared, objective)
    limits.check_tensors(outputs)
    feeder = Feeder(prepared, limits)
    program = Program(outputs, feeder.parameters.nodes, gradients, pool=pool, watch=watch)
    limits.check_program(program)
    return Evaluation(prepared, program, feeder, warnings)


def _asks_deltas(task: Task) -> bool:
    """Return whether the answer needs deltas, the gradients with respect to pre-activations."""
    return not task.include.isdisjoint(("layers", "norms"))


def _gradients(task: Task, model: Model, objective: TotalLoss) -> tuple[list[Node], dict[str, Node], list[Caution]]:
    """Return the gradients of trainable parameters, the other gradients by name, and warnings about blocked ones."""
    trained = [parameter for parameter in model.parameters if parameter.trainable]
    more: dict[str, Node] = {}
    if _asks_deltas(task):
        more |= {f"delta/{name}": layer.pre_activation for name, layer in model.layers.items()}
    if "input_gradients" in task.include:
        more |= {f"input_gradients/{name}": node for name, node in model.inputs.items() if node.dtype != "int64"}
    wanted = [*(parameter.node for parameter in trained), *more.values()]
    found = differentiate(objective.total, wanted)

    warnings = blocked(found.blocked_by, model)
    apart = [each for each, node in zip(trained, found.nodes, strict=False) if node is NoGradient.DISCONNECTED]
    if apart and task.part:
        # Penalties are added to the sum over all shards: a parameter with one still has a gradient.
        penalised = differentiate(objective.regularization_loss, [parameter.node for parameter in apart]).nodes
        apart = [each for each, node in zip(apart, penalised, strict=True) if isinstance(node, NoGradient)]
    warnings += [caution("disconnected", each.layer, "gradient", parameter=each.name) for each in apart]
    nodes = dense(found.nodes, wanted)
    gradients = nodes[: len(trained)]
    others = dict(zip(more, nodes[len(trained) :], strict=True))
    return gradients, others, warnings


def _per_sample(prepared: Prepared, objective: TotalLoss) -> dict[str, Node]:
    """Return the nodes of each sample's weighted loss and of its gradients, by name."""
    model, samples = prepared.model, prepared.task.samples
    graph = model.graph
    if model.couples_samples:
        # The loss of each sample depends on the whole batch: the whole backward pass runs once for every sample.
        chosen = graph.input("one/sample", (samples,))
        trained = [parameter for parameter in model.parameters if parameter.trainable]
        found = differentiate(objective.per_sample, [parameter.node for parameter in trained], chosen)
        places = {chosen: _identity(chosen)}
    else:
        single, places = one_sample(prepared)
        assert single.objective is not None
        trained = [parameter for parameter in single.model.parameters if parameter.trainable]
        found = differentiate(single.objective.data_loss, [parameter.node for parameter in trained])
    wanted = dense(found.nodes, [parameter.node for parameter in trained])
    batched = vectorize(wanted, places, samples) if wanted else []
    outputs = {"per_sample_loss": objective.per_sample}
    for parameter, node in zip(trained, batched, strict=True):
        outputs[f"per_sample/{parameter.layer}.{parameter.name}"] = node
    return outputs


def _identity(like: Node) -> Node:
    """Return the identity matrix as a node, with a row for each entry of the vector `like`."""
    (size,) = like.shape
    places = like.graph.vector(tuple(map(float, range(size))))
    rows = broadcast(reshape(places, (size, 1)), (size, size))
    return 1.0 - absolute(sign(rows - broadcast(places, (size, size))))
