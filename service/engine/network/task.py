"""What is asked of a network, and the first half of every answer: its graph with inputs, targets and loss.

`Task` says what is wanted and for which shapes; `prepare` builds the model and the objective.
Evaluations and derivatives go on from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple

from service.engine.declarations import Selection
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest
from service.engine.findings import Found, found
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.graph.operations import reshape
from service.engine.limits import Limits
from service.engine.network.definition import Definition, KnownValues
from service.engine.network.losses import Loss, Prediction
from service.engine.network.model import Model
from service.engine.network.objective import Objective, build_objective, check_loss, target_shape
from service.engine.texts import telling
from service.engine.watch import Watch


class Task(NamedTuple):
    """What is to be computed, for which shapes. Hashable: equal tasks share one evaluation.

    Shapes include the samples' axis. `targets` and `losses` are None for a forward pass. `include` holds any
    of `layers`, `norms`, `input_gradients`, `per_sample`.
    """

    definition: Definition
    dtype: str
    inputs: tuple[tuple[str, Shape], ...]
    training: bool = False
    include: frozenset[str] = frozenset()
    losses: tuple[Selection[Loss], ...] | None = None
    """One for each output of the network, in their order."""
    loss_weights: tuple[float, ...] | None = None
    """A factor for the loss of each output; None: all 1."""
    targets: tuple[tuple[str, Shape], ...] | None = None
    reduction: str = "mean"
    weighted: bool = False
    normalize_weights: bool | None = None
    """Whether a mean divides by the sum of the weights; None: nothing was said, so it does not."""
    parameters: tuple[tuple[tuple[str, str], Shape], ...] = ()
    """Shapes of those parameters that were sent in one of several forms (see `LayerContext.parameter`)."""
    frozen: tuple[str, ...] = ()
    """Layers, or parameters as `layer.parameter`, that are not trained whatever their layer says."""
    differentiated: bool = True
    """Whether gradients of the losses are wanted."""
    known: KnownValues = ()
    """Values of the definition's `known_inputs`."""

    @property
    def effort(self) -> float:
        """Nodes of its graph with gradients, roughly: most are those of steps that are written out one by one."""
        return self.definition.effort(self.inputs)

    @property
    def samples(self) -> int:
        return self.definition.samples(self.inputs)


@dataclass(frozen=True)
class Caution:
    """Something true of the answer that a caller should know."""

    code: str
    message: str
    layer: str | None = None
    quantity: str | None = None
    found: Found | None = field(default=None, compare=False)
    """The finding that it tells, if it is one of the table."""

    @classmethod
    def of(cls, finding: Found) -> Caution:
        """A finding as a warning: its sentence in English."""
        return cls(finding.code, telling("en")(finding.text), finding.layer, finding.quantity, finding)


def caution(code: str, layer: str | None = None, quantity: str | None = None, **words: Any) -> Caution:
    """The warning of a finding that needs no number."""
    return Caution.of(found(code, layer=layer, quantity=quantity, **words))


@dataclass(frozen=True)
class Prepared:
    """A network in the graph with what is compared to it."""

    task: Task
    model: Model
    targets: Mapping[str, Node]
    weights: Node | None
    objective: Objective | None


def prepare(task: Task, limits: Limits, watch: Watch | None = None, *, distinct_layers: bool = False) -> Prepared:
    """Build the model and, where the task has losses, the objective.

    Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when the
    network is too large, and what `watch` raises.
    """
    limits.check_layers(task.definition.layer_count)
    faults = task.definition.faults_of_inputs(task.inputs)
    if faults:
        raise InvalidRequest(faults)
    graph = Graph(task.dtype, limits.graph_nodes, limits.workspace_bytes, watch)
    model = task.definition.assemble(
        graph,
        dict(task.inputs),
        training=task.training,
        parameter_shapes=dict(task.parameters),
        frozen=frozenset(task.frozen),
        known=task.known,
        distinct_layers=distinct_layers,
        check_parameters=limits.check_parameters,
    )
    limits.check_parameters(sum(parameter.node.size for parameter in model.parameters))
    if task.frozen:
        _freeze(task.frozen, model)
    if task.losses is None:
        return Prepared(task, model, {}, None, None)
    targets = _declare_targets(task, model)
    weights = graph.input("sample_weights", (task.samples,)) if task.weighted else None
    return Prepared(task, model, targets, weights, objective_of(task, model, targets, weights))


def _freeze(names: tuple[str, ...], model: Model) -> None:
    known = dict.fromkeys(name for each in model.parameters for name in (each.layer, f"{each.layer}.{each.name}"))
    unknown = ((place, name) for place, name in enumerate(names) if name not in known)
    allowed = tuple(islice(known, MOST_ERRORS))
    faults = [
        Fault(
            ("frozen", place),
            f"no layer with parameters of its own, nor a parameter, is called {name[:128]!r}",
            allowed,
        )
        for place, name in islice(unknown, MOST_ERRORS)
    ]
    if faults:
        raise InvalidRequest(faults)
    frozen = frozenset(names)
    model.parameters = [
        each if frozen.isdisjoint((each.layer, f"{each.layer}.{each.name}")) else replace(each, trainable=False)
        for each in model.parameters
    ]


def one_sample(prepared: Prepared) -> tuple[Prepared, dict[Node, Node]]:
    """The same network on one sample, its loss summed and without penalties, in the same graph.

    Also for every node that a sample has of its own: where it lies among those of all samples, as `vectorize`
    takes it.
    """
    task = prepared.task._replace(reduction="sum", normalize_weights=False)
    whole, graph = prepared.model, prepared.model.graph
    prefix = "one/"
    model = task.definition.assemble(
        graph,
        {name: (1, *shape[1:]) for name, shape in task.inputs},
        training=task.training,
        parameter_shapes=dict(task.parameters),
        frozen=frozenset(task.frozen),
        known=task.known,
        prefix=prefix,
    )

    def one_of(node: Node) -> Node:
        return graph.input(prefix + node.attributes[0], (1, *node.shape[1:]), node.dtype)

    targets = {name: one_of(node) for name, node in prepared.targets.items()}
    weights = None if prepared.weights is None else one_of(prepared.weights)
    # Penalties belong to no sample, and a sum over one sample is that sample's loss.
    objective = objective_of(task, model, targets, weights) if task.losses is not None else None
    pairs = [(model.inputs[name], whole.inputs[name]) for name in model.inputs]
    pairs += [(targets[name], node) for name, node in prepared.targets.items()]
    pairs += [(own.node, all_of_them.node) for own, all_of_them in zip(model.noises, whole.noises, strict=True)]
    if weights is not None and prepared.weights is not None:
        pairs.append((weights, prepared.weights))
    places = {own: reshape(node, (task.samples, *own.shape)) for own, node in pairs}
    return Prepared(task, model, targets, weights, objective), places


def _declare_targets(task: Task, model: Model) -> dict[str, Node]:
    assert task.losses is not None and task.targets is not None
    given = dict(task.targets)
    faults = []
    nodes: dict[str, Node] = {}
    for name, loss in zip(task.definition.output_names, task.losses, strict=True):
        output = model.layers[name].output
        check_loss(loss, output, name)
        wanted = target_shape(loss, output)
        if given[name] != wanted:
            faults.append(Fault(("targets", name), _wrong_target(loss, given[name], wanted, name, output)))
        nodes[name] = model.graph.input(f"targets/{name}", wanted, "int64" if loss.declaration.indices else task.dtype)
    if faults:
        raise InvalidRequest(faults)
    return nodes


def _wrong_target(loss: Selection[Loss], given: Shape, wanted: Shape, name: str, output: Node) -> str:
    text = f"targets have shape {list(given)}; they take {list(wanted)}"
    if loss.declaration.indices:
        one_hot = "; for one-hot targets use the loss categorical_crossentropy" if given == output.shape else ""
        return f"{text}: one class index for each distribution that layer {name!r} gives{one_hot}"
    hint = ""
    if given == output.shape[:-1] and loss.name == "categorical_crossentropy":
        hint = "; for class indices use the loss sparse_categorical_crossentropy"
    elif (*given, 1) == wanted:
        hint = "; put each target in a list of its own"
    elif len(wanted) == 2 and given == wanted[::-1]:
        hint = "; they are transposed: a sample is a row"
    return f"{text}, the shape of the output of layer {name!r}{hint}"


def objective_of(task: Task, model: Model, targets: Mapping[str, Node], weights: Node | None) -> Objective:
    """The loss of a model against its targets."""
    assert task.losses is not None
    predictions = {}
    for name in task.definition.output_names:
        layer = model.layers[name]
        predictions[name] = Prediction(
            layer.output, layer.pre_activation if layer.activation else None, layer.activation
        )
    names = task.definition.output_names
    return build_objective(
        dict(zip(names, task.losses, strict=True)),
        predictions,
        targets,
        dict(zip(names, task.loss_weights, strict=True)) if task.loss_weights else None,
        weights,
        task.reduction,
        task.normalize_weights,
        model.penalties,
    )
