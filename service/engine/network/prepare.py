"""Build the graph that every answer about a network starts from: its layers, targets, weights and loss.

Evaluations and derivatives go on from a `Prepared` network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from service.engine.declarations import Selection
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest
from service.engine.graph.ir import Graph, Node, Shape
from service.engine.graph.operations import reshape
from service.engine.limits import Limits
from service.engine.network.losses import Loss, Prediction
from service.engine.network.model import Model
from service.engine.network.task import Task
from service.engine.network.total_loss import TotalLoss, build_total_loss, check_loss, target_shape
from service.engine.watch import Watch


@dataclass(frozen=True)
class Prepared:
    """A network in the graph, with its targets, weights and loss."""

    task: Task
    model: Model
    targets: Mapping[str, Node]
    weights: Node | None
    objective: TotalLoss | None


def prepare(task: Task, limits: Limits, watch: Watch | None = None, *, distinct_layers: bool = False) -> Prepared:
    """Return the network of a task in the graph, with the total loss where the task has losses.

    Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when the network is too large,
    and what `watch` raises.
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
    return Prepared(task, model, targets, weights, total_loss_of(task, model, targets, weights))


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
    """Build the network once more, in the same graph, on one sample, with the sum of its loss and without penalties.

    Also return, for each input of this network that differs between samples, the node that holds it for all samples,
    as `vectorize` takes it.
    """
    task = prepared.task._replace(reduction="sum", normalize_weights=False, part=False)
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
    # Penalties belong to no sample, and the sum over one sample is the loss of that sample.
    objective = total_loss_of(task, model, targets, weights) if task.losses is not None else None
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
            inputs = [shape for _, shape in task.inputs]
            faults.append(Fault(("targets", name), _wrong_target(loss, given[name], wanted, name, output, inputs)))
        nodes[name] = model.graph.input(f"targets/{name}", wanted, "int64" if loss.declaration.indices else task.dtype)
    if faults:
        raise InvalidRequest(faults)
    return nodes


def _wrong_target(
    loss: Selection[Loss], given: Shape, wanted: Shape, name: str, output: Node, inputs: Sequence[Shape]
) -> str:
    text = f"targets have shape {list(given)}; they take {list(wanted)}"
    if loss.declaration.indices:
        hint = "; for one-hot targets use the loss categorical_crossentropy" if given == output.shape else ""
        hint = "; send one flat list" if given == (*wanted, 1) else hint
        text += f": one class index for each distribution that layer {name!r} gives"
        return text + (hint or _other_samples(given, wanted, inputs))
    hint = ""
    if given in (output.shape[:-1], (*output.shape[:-1], 1)) and loss.name == "categorical_crossentropy":
        flat = " and one flat list" if given != output.shape[:-1] else ""
        hint = f"; for class indices use the loss sparse_categorical_crossentropy{flat}"
    elif (*given, 1) == wanted:
        hint = "; put each target in a list of its own"
    elif len(wanted) == 2 and given == wanted[::-1]:
        hint = "; they are transposed: a sample is a row"
    return f"{text}, the shape of the output of layer {name!r}{hint or _other_samples(given, wanted, inputs)}"


def _other_samples(given: Shape, wanted: Shape, inputs: Sequence[Shape]) -> str:
    """Return a hint for targets of another number of samples than the inputs have; "" if that is not the mistake."""
    columns = {shape[1] for shape in inputs if len(shape) == 2}
    if len(given) == 2 and len(wanted) == 2 and given[0] == wanted[1] and given[1] in columns:
        return "; inputs and targets are transposed: a sample is a row"
    if given[1:] != wanted[1:] or not given or given[0] == wanted[0]:
        return ""
    transposed = ", unless the inputs are transposed: a sample is a row" if given[0] in columns else ""
    return f"; there are {given[0]} targets for {wanted[0]} samples{transposed}"


def total_loss_of(task: Task, model: Model, targets: Mapping[str, Node], weights: Node | None) -> TotalLoss:
    """Build the total loss of a model and its targets."""
    assert task.losses is not None
    divisors = None
    if task.part:
        # A sum divides by nothing, and takes no divisors.
        names = task.definition.output_names if task.reduction == "mean" else ()
        divisors = {name: model.graph.input(f"divisors/{name}", ()) for name in names}
    predictions = {}
    for name in task.definition.output_names:
        layer = model.layers[name]
        predictions[name] = Prediction(
            layer.output, layer.pre_activation if layer.activation else None, layer.activation
        )
    names = task.definition.output_names
    return build_total_loss(
        dict(zip(names, task.losses, strict=True)),
        predictions,
        targets,
        dict(zip(names, task.loss_weights, strict=True)) if task.loss_weights else None,
        weights,
        task.reduction,
        task.normalize_weights,
        model.penalties,
        divisors,
    )
