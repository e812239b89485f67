"""Evaluate a network: the forward pass and, with a loss, its gradients.

`Task` says what is wanted and for which shapes; `compile_task` turns it into an `Evaluation`, a
planned program with the names of its outputs; `Evaluation.run` fills in the numbers. Tasks that
are equal share one evaluation (see `LeastRecentlyUsed`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import numpy as np

from service.engine.declarations import Selection
from service.engine.errors import MOST_ERRORS, DeadlineExceeded, Fault, InvalidRequest
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import steps
from service.engine.graph.ir import Array, Graph, Node, NoGradient, Shape
from service.engine.graph.operations import broadcast, reshape
from service.engine.graph.plan import Program, Workspace, WorkspacePool
from service.engine.graph.quiet import quietly
from service.engine.graph.vectorize import vectorize
from service.engine.limits import Limits
from service.engine.network.definition import NetworkDefinition
from service.engine.network.losses import Loss, Prediction
from service.engine.network.model import Mask, Model, Parameter, assemble
from service.engine.network.objective import Objective, build_objective, check_loss, target_shape

Tree = Mapping[str, Mapping[str, Array]]
"""Arrays by layer and parameter name: the form of parameters and of gradients alike."""

MOST_LISTED = 20
"""Names that one sentence lists."""
# The search for the first non-finite value keeps every intermediate array: not for giants.
EXPLAIN_BYTES = 256 * 2**20


class Task(NamedTuple):
    """What is to be computed, for which shapes. Hashable: equal tasks share one evaluation.

    Shapes include the samples' axis. `targets` is None for a forward pass. `include` holds any
    of `layers`, `input_gradients`, `per_sample`.
    """

    definition: NetworkDefinition
    dtype: str
    inputs: Shape
    training: bool = False
    include: frozenset[str] = frozenset()
    loss: Selection[Loss] | None = None
    targets: tuple[tuple[str, Shape], ...] | None = None
    reduction: str = "mean"
    weighted: bool = False
    normalize_weights: bool = False
    parameters: tuple[tuple[tuple[str, str], Shape], ...] = ()
    """Shapes of those parameters that were sent in one of several forms (see `LayerContext.parameter`)."""


@dataclass(frozen=True)
class Caution:
    """Something true of the answer that a caller should know."""

    code: str
    message: str
    layer: str | None = None
    quantity: str | None = None


@dataclass
class LayerValues:
    """What one layer computed."""

    name: str
    type: str
    shape: Shape
    pre_activation: Array
    output: Array
    delta: Array | None
    norms: dict[str, float]
    """Euclidean norms of the arrays above, by their names."""


@dataclass
class Result:
    """The numbers of one run; all arrays belong to the caller."""

    outputs: dict[str, Array]
    loss: Array | None = None
    data_loss: Array | None = None
    regularization_loss: Array | None = None
    gradients: dict[str, dict[str, Array]] = field(default_factory=dict)
    gradient_norm: float | None = None
    layers: list[LayerValues] | None = None
    input_gradients: Array | None = None
    per_sample_loss: Array | None = None
    per_sample_gradients: dict[str, dict[str, Array]] | None = None
    parameters: dict[str, dict[str, Array]] | None = None
    """Present when the parameters were initialised here."""
    finite: bool = True
    warnings: list[Caution] = field(default_factory=list)


class Part(NamedTuple):
    """Where a parameter, or its gradient, lies in a flat vector."""

    layer: str
    name: str
    start: int
    stop: int
    shape: Shape


def _parts(parameters: Sequence[Parameter]) -> list[Part]:
    parts = []
    start = 0
    for parameter in parameters:
        stop = start + parameter.node.size
        parts.append(Part(parameter.layer, parameter.name, start, stop, parameter.node.shape))
        start = stop
    return parts


def _tree(parts: Sequence[Part], flat: Array) -> dict[str, dict[str, Array]]:
    """A flat vector as arrays by layer and parameter name; the arrays are views of it."""
    tree: dict[str, dict[str, Array]] = {}
    for layer, name, start, stop, shape in parts:
        tree.setdefault(layer, {})[name] = flat[start:stop].reshape(shape)
    return tree


class Evaluation:
    """A task, planned. Immutable and safe to run from many threads."""

    def __init__(self, task: Task, model: Model, program: Program, limits: Limits, warnings: Sequence[Caution]) -> None:
        self.task = task
        self.limits = limits
        self.model = model
        self.program = program
        self.warnings = tuple(warnings)
        self.parameters: list[Parameter] = model.parameters
        self.parts = _parts(self.parameters)
        self.trained = _parts([parameter for parameter in self.parameters if parameter.trainable])
        self.owners = len({parameter.layer for parameter in self.parameters})

    def faults_of_parameters(self, tree: Tree) -> list[Fault]:
        """Everything that keeps a tree from being exactly the network's parameters."""
        faults: list[Fault] = []
        wanted: dict[str, dict[str, Parameter]] = {}
        for parameter in self.parameters:
            wanted.setdefault(parameter.layer, {})[parameter.name] = parameter
        names = tuple(wanted)[:MOST_ERRORS]
        for layer, arrays in tree.items():
            known = wanted.get(layer)
            if len(faults) >= MOST_ERRORS:
                return faults
            if known is None:
                faults.append(Fault(("parameters", layer), _unknown_layer(layer, self.task, names), names))
                continue
            for name in arrays:
                if name not in known:
                    detail = f"layer {layer!r} has no parameter {name!r}; it has {_listed(known)}"
                    faults.append(Fault(("parameters", layer, name), detail, tuple(known)))
        for layer, parameters in wanted.items():
            for name, parameter in parameters.items():
                array = tree.get(layer, {}).get(name)
                shape = parameter.node.shape
                if array is None:
                    path = ("parameters", layer, name) if layer in tree else ("parameters", layer)
                    faults.append(Fault(path, f"{name} of layer {layer!r} is missing; it has shape {list(shape)}"))
                elif array.shape != shape:
                    detail = f"{name} of layer {layer!r} has shape {list(array.shape)}; it takes {list(shape)}"
                    reason = f" because {parameter.reason}" if parameter.reason else ""
                    faults.append(Fault(("parameters", layer, name), detail + reason))
        return faults

    def _faults_of_targets(self, targets: Mapping[str, Array]) -> list[Fault]:
        """Class indices that are none; other targets may be any number."""
        loss = self.task.loss
        if loss is None or not loss.declaration.indices:
            return []
        faults = []
        for name, array in targets.items():
            classes = self.model.layers[name].output.shape[-1]
            indices = array.astype(np.int64)
            wrong = np.argwhere((indices != array) | (indices < 0) | (indices >= classes))
            if len(wrong):
                place = tuple(int(n) for n in wrong[0])
                detail = f"takes a class index from 0 to {classes - 1}, got {float(array[place]):.17g}"
                faults.append(Fault(("targets", name, *place), detail))
        return faults

    def initialize(self, flat: Array, seed: int, deadline: float | None = None) -> None:
        """Fill the flat parameter vector from the layers' initializers.

        Raises `LimitExceeded` when that would take too many operations, `DeadlineExceeded` between two parameters.
        """
        self.limits.check_operations(
            sum(p.initializer.declaration.work(part.shape) for p, part in zip(self.parameters, self.parts, strict=True))
        )
        for position, (parameter, part) in enumerate(zip(self.parameters, self.parts, strict=True)):
            generator = np.random.Generator(np.random.PCG64([seed, 0, position]))
            selection = parameter.initializer
            values = selection.declaration.build(generator, part.shape, parameter.fans, **selection.options)
            flat[part.start : part.stop] = values.reshape(-1)
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineExceeded

    def run(
        self,
        inputs: Array,
        parameters: Tree | None,
        targets: Mapping[str, Array] | None = None,
        sample_weights: Array | None = None,
        seed: int = 0,
        deadline: float | None = None,
    ) -> Result:
        """Compute. Parameters are initialised from `seed` when None; so are dropout masks always.

        Raises `InvalidRequest` when parameters, targets or weights do not fit, `DeadlineExceeded` when
        `deadline`, a reading of `time.monotonic`, passes.
        """
        return quietly(self._run, inputs, parameters, targets or {}, sample_weights, seed, deadline)

    def _run(
        self,
        inputs: Array,
        parameters: Tree | None,
        targets: Mapping[str, Array],
        sample_weights: Array | None,
        seed: int,
        deadline: float | None,
    ) -> Result:
        self._check(parameters, targets, sample_weights)
        with self.program.workspace() as workspace:
            flat = workspace.parameters
            if parameters is None:
                self.initialize(flat, seed, deadline)
            else:
                for part in self.parts:
                    flat[part.start : part.stop] = parameters[part.layer][part.name].reshape(-1)
            values = workspace.inputs
            if "inputs" in values:
                values["inputs"][...] = inputs
            for name, array in targets.items():
                values[f"targets/{name}"][...] = array
            if sample_weights is not None:
                values["sample_weights"][...] = sample_weights
            for position, mask in enumerate(self.model.masks):
                self._draw(mask, values, seed, position)
            workspace.run(deadline)
            result = self._collect(workspace)
            if parameters is None:
                result.parameters = _tree(self.parts, flat.copy())
                result.finite = result.finite and _is_finite(flat)
            self._judge_targets(targets, result)
            if not result.finite:
                result.warnings.append(self._first_non_finite(workspace, deadline))
        return result

    def _check(self, parameters: Tree | None, targets: Mapping[str, Array], sample_weights: Array | None) -> None:
        faults = []
        if parameters is not None and not self._fits(parameters):
            faults += self.faults_of_parameters(parameters)
        faults += self._faults_of_targets(targets)
        if sample_weights is not None and sample_weights.shape != self.task.inputs[:1]:
            detail = f"has shape {list(sample_weights.shape)}; it takes {list(self.task.inputs[:1])}, one per sample"
            faults.append(Fault(("sample_weights",), detail))
        elif sample_weights is not None and self.task.normalize_weights and not sample_weights.any():
            detail = "must not all be 0 with normalize_weights, which divides by their sum"
            faults.append(Fault(("sample_weights",), detail))
        if faults:
            raise InvalidRequest(faults)

    def _fits(self, tree: Tree) -> bool:
        """Whether a tree is just what is wanted: the common case, told quickly."""
        if sum(map(len, tree.values())) != len(self.parts) or len(tree) != self.owners:
            return False
        for part in self.parts:
            arrays = tree.get(part.layer)
            if arrays is None or part.name not in arrays or arrays[part.name].shape != part.shape:
                return False
        return True

    def _judge_targets(self, targets: Mapping[str, Array], result: Result) -> None:
        """Warn of numbers for which the loss is not meant: it is computed, but means nothing."""
        loss = self.task.loss
        if loss is None or loss.declaration.targets is None:
            return
        words, fit = loss.declaration.targets
        for name, array in targets.items():
            if not fit(array):
                message = f"the targets of layer {name!r} are not all {words}, for which {loss.name} is made"
                result.warnings.append(Caution("unusual_targets", message, name, "targets"))
            if loss.declaration.probabilities and not result.finite and not loss.options.get("from_logits"):
                output = result.outputs[name]
                if not (output.min() >= 0.0 and output.max() <= 1.0):
                    message = (
                        f"the outputs of layer {name!r} are not all between 0 and 1, so {loss.name} has no value; "
                        "end with sigmoid or softmax, or set from_logits"
                    )
                    result.warnings.append(Caution("no_probabilities", message, name, "output"))

    def _draw(self, mask: Mask, values: Mapping[str, Array], seed: int, position: int) -> None:
        """Fill a dropout mask, which depends on nothing but the seed and its place in the network."""
        out = values.get(mask.node.attributes[0])
        if out is not None:
            generator = np.random.Generator(np.random.PCG64([seed, 1, position]))
            keep = generator.random(mask.node.shape) >= mask.rate
            np.multiply(keep, 1.0 / (1.0 - mask.rate), out=out, casting="same_kind")

    def _collect(self, workspace: Workspace) -> Result:
        read = workspace.outputs
        task = self.task
        result = Result({name: read[f"outputs/{name}"].copy() for name in task.definition.output_names})
        result.warnings = list(self.warnings)
        checked = [*result.outputs.values()]
        finite = True
        if task.loss is not None:
            result.loss = read["loss"].copy()
            result.data_loss = read["data_loss"].copy()
            result.regularization_loss = read["regularization_loss"].copy()
            flat = workspace.gradients.copy()
            result.gradients = _tree(self.trained, flat)
            result.gradient_norm = _norm(flat)  # finite only if every gradient is
            checked += [result.loss, result.data_loss, result.regularization_loss]
            finite = math.isfinite(result.gradient_norm)
        if "layers" in task.include:
            result.layers = []
            for layer in task.definition.layers:
                output = read[f"output/{layer.name}"].copy()
                pre_activation = read[f"pre_activation/{layer.name}"].copy()
                delta = read[f"delta/{layer.name}"].copy() if task.loss is not None else None
                arrays = {"pre_activation": pre_activation, "output": output}
                if delta is not None:
                    arrays["delta"] = delta
                norms = {name: norm(array) for name, array in arrays.items()}
                result.layers.append(
                    LayerValues(layer.name, layer.layer.name, output.shape[1:], pre_activation, output, delta, norms)
                )
                checked += [*arrays.values(), np.array(list(norms.values()))]
        if "input_gradients" in task.include:
            result.input_gradients = read["input_gradients"].copy()
            checked.append(result.input_gradients)
        if "per_sample" in task.include:
            result.per_sample_loss = read["per_sample_loss"].copy()
            checked.append(result.per_sample_loss)
            tree: dict[str, dict[str, Array]] = {}
            for part in self.trained:
                array = read[f"per_sample/{part.layer}.{part.name}"].copy()
                tree.setdefault(part.layer, {})[part.name] = array
                checked.append(array)
            result.per_sample_gradients = tree
        result.finite = finite and all(map(_is_finite, checked))
        return result

    def _first_non_finite(self, workspace: Workspace, deadline: float | None) -> Caution:
        """Where a value stopped being finite, found by running again with everything kept."""
        model = self.model
        fallback = Caution("non_finite", "the answer holds values that are not finite; they are null")
        if sum(node.size for node in self.program.nodes) * 8 > EXPLAIN_BYTES:
            return fallback
        values = {
            node: workspace.inputs[node.attributes[0]]
            for node in self.program.nodes
            if node.operation.name == "input" and node.attributes[0] in workspace.inputs
        }
        for parameter, part in zip(self.parameters, self.parts, strict=True):
            values[parameter.node] = workspace.parameters[part.start : part.stop].reshape(part.shape)
        quantities = {output.output: ("output", name) for name, output in model.layers.items()}
        quantities |= {output.pre_activation: ("pre_activation", name) for name, output in model.layers.items()}
        wanted = [*self.program.outputs.values(), *self.program.gradients]
        for node, value in steps(wanted, values):
            if deadline is not None and time.monotonic() > deadline:
                return fallback
            if np.isfinite(value).all():
                continue
            inside = "loss" if node.scope == "loss" else "intermediate value"
            quantity, layer = quantities.get(node, ("gradient" if node.serves is not None else inside, node.scope))
            place = f"the {quantity} of layer {layer!r}" if layer in model.layers else f"the {quantity}"
            kind = "not a number" if np.isnan(value).any() else "infinite"
            message = (
                f"{place} is the first value that is not finite ({kind}); non-finite values are null in JSON lists"
            )
            return Caution("non_finite", message, layer if layer in model.layers else None, quantity)
        return fallback


def _is_finite(array: Array) -> bool:
    if not array.ndim:
        return math.isfinite(array)
    # The sum of squares is one BLAS call; only where it overflows is every element looked at.
    flat = array.reshape(-1)
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(map(repr, islice(names, MOST_LISTED)))
    return (shown or "none") + (", …" if len(names) > MOST_LISTED else "")


def _unknown_layer(layer: str, task: Task, wanted: Collection[str]) -> str:
    for known in task.definition.layers:
        if known.name == layer:
            if known.shares is not None:
                return f"layer {layer!r} uses the parameters of layer {known.shares!r}; send none for it"
            return f"layer {layer!r} has no parameters"
    return f"no layer is called {layer[:64]!r}; layers with parameters: {_listed(wanted)}"


def norm(values: Array) -> float:
    """The Euclidean norm, without overflow or underflow on the way."""
    return quietly(_norm, values.reshape(-1))


def _norm(flat: Array) -> float:
    if not flat.size:
        return 0.0
    simple = math.sqrt(float(flat @ flat))
    if 1e-15 < simple < 1e15:
        return simple
    largest = float(np.abs(flat).max())
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    scaled = flat.astype(np.float64) / largest
    return largest * math.sqrt(float(scaled @ scaled))


def compile_task(task: Task, limits: Limits, pool: WorkspacePool | None = None) -> Evaluation:
    """Build, differentiate and plan; runs borrow their memory from `pool`.

    Raises `InvalidRequest` when the definition or the shapes do not fit, `LimitExceeded` when it
    would cost too much.
    """
    definition = task.definition
    limits.check_layers(len(definition.layers))
    _check_inputs(task)
    graph = Graph(task.dtype, limits.graph_nodes)
    inputs = graph.input("inputs", task.inputs)
    shapes = dict(task.parameters)
    # Deltas are asked of each layer, so no two layers may become one node.
    distinct = task.loss is not None and "layers" in task.include
    model = assemble(
        definition, graph, inputs, training=task.training, parameter_shapes=shapes, distinct_layers=distinct
    )
    limits.check_parameters(sum(parameter.node.size for parameter in model.parameters))

    names = definition.output_names
    outputs = {f"outputs/{name}": model.layers[name].output for name in names}
    if "layers" in task.include:
        for name, layer in model.layers.items():
            outputs[f"output/{name}"] = layer.output
            outputs[f"pre_activation/{name}"] = layer.pre_activation
    gradients: list[Node] = []
    warnings: list[Caution] = []
    if task.loss is not None:
        targets, weights = _declare_targets(task, model, len_samples=task.inputs[0])
        objective = _objective(task, model, targets, weights)
        warnings += _doubtful(task, model)
        outputs["loss"] = objective.total if task.reduction != "none" else objective.data_loss
        outputs["data_loss"] = objective.data_loss
        outputs["regularization_loss"] = objective.regularization_loss
        gradients, more, found = _gradients(task, model, objective)
        outputs |= more
        warnings += found
        if "per_sample" in task.include:
            outputs |= _per_sample(task, model, objective, targets, weights, shapes)
    limits.check_tensors(outputs)
    program = Program(outputs, [parameter.node for parameter in model.parameters], gradients, pool=pool)
    limits.check_program(program)
    graph.seal()
    return Evaluation(task, model, program, limits, warnings)


def _check_inputs(task: Task) -> None:
    shape = task.inputs
    wanted = task.definition.input_shape
    if len(shape) < 2:
        raise InvalidRequest(
            [Fault(("inputs",), f"inputs have shape {list(shape)}; they take one row per sample: [samples, features]")]
        )
    if 0 in shape:
        raise InvalidRequest([Fault(("inputs",), f"inputs have shape {list(shape)}; at least one value is needed")])
    if wanted is not None and shape[1:] != wanted:
        takes = ", ".join(["samples", *map(str, wanted)])
        detail = f"inputs have shape {list(shape)}; they take [{takes}] because input_shape is {list(wanted)}"
        raise InvalidRequest([Fault(("inputs",), detail)])


def _declare_targets(task: Task, model: Model, len_samples: int) -> tuple[dict[str, Node], Node | None]:
    assert task.loss is not None and task.targets is not None
    given = dict(task.targets)
    faults = []
    nodes: dict[str, Node] = {}
    for name in task.definition.output_names:
        output = model.layers[name].output
        check_loss(task.loss, output, name)
        wanted = target_shape(task.loss, output)
        if given[name] != wanted:
            faults.append(Fault(("targets", name), _wrong_target(task.loss, given[name], wanted, name, output)))
        dtype = "int64" if task.loss.declaration.indices else task.dtype
        nodes[name] = model.graph.input(f"targets/{name}", wanted, dtype)
    if faults:
        raise InvalidRequest(faults)
    weights = model.graph.input("sample_weights", (len_samples,)) if task.weighted else None
    return nodes, weights


def _wrong_target(loss: Selection[Loss], given: Shape, wanted: Shape, name: str, output: Node) -> str:
    text = f"targets have shape {list(given)}; they take {list(wanted)}"
    if loss.declaration.indices:
        return f"{text}: one class index for each distribution that layer {name!r} gives"
    hint = ""
    if given == output.shape[:-1] and loss.name == "categorical_crossentropy":
        hint = "; for class indices use the loss sparse_categorical_crossentropy"
    elif (*given, 1) == wanted:
        hint = "; put each target in a list of its own"
    return f"{text}, the shape of the output of layer {name!r}{hint}"


def _objective(task: Task, model: Model, targets: Mapping[str, Node], weights: Node | None) -> Objective:
    assert task.loss is not None
    predictions = {}
    for name in task.definition.output_names:
        layer = model.layers[name]
        predictions[name] = Prediction(
            layer.output, layer.pre_activation if layer.activation else None, layer.activation
        )
    return build_objective(
        task.loss, predictions, targets, weights, task.reduction, task.normalize_weights, model.penalties
    )


def _gradients(task: Task, model: Model, objective: Objective) -> tuple[list[Node], dict[str, Node], list[Caution]]:
    """Gradient nodes of the trainable parameters, the other gradients asked for, and what blocked any."""
    trained = [parameter for parameter in model.parameters if parameter.trainable]
    targets = {("gradient", f"{parameter.layer}.{parameter.name}"): parameter.node for parameter in trained}
    if "layers" in task.include:
        targets |= {("delta", name): layer.pre_activation for name, layer in model.layers.items()}
    if "input_gradients" in task.include:
        targets["input_gradients", ""] = model.inputs
    found = differentiate(objective.total, list(targets.values()))

    warnings = [_blocked(node, model) for node in {node.index: node for node in found.blocked_by}.values()]
    dense: dict[tuple[str, str], Node] = {}
    for (key, node), gradient in zip(targets.items(), found.nodes, strict=True):
        if isinstance(gradient, NoGradient):
            if gradient is NoGradient.DISCONNECTED and key[0] == "gradient":
                layer, _, name = key[1].partition(".")
                message = f"{name} of layer {layer!r} does not influence the loss; its gradient is 0"
                warnings.append(Caution("disconnected", message, layer, "gradient"))
            gradient = broadcast(model.graph.constant(0.0), node.shape)
        dense[key] = gradient
    gradients = [dense["gradient", f"{parameter.layer}.{parameter.name}"] for parameter in trained]
    others = {f"delta/{key[1]}": node for key, node in dense.items() if key[0] == "delta"}
    if "input_gradients" in task.include:
        others["input_gradients"] = dense["input_gradients", ""]
    return gradients, others, warnings


def _doubtful(task: Task, model: Model) -> list[Caution]:
    """What can be computed, but is hardly meant."""
    if task.loss is None or not task.loss.options.get("from_logits"):
        return []
    cautions = []
    for name in task.definition.output_names:
        activation = model.layers[name].activation
        if activation is not None and activation.declaration.log is not None:
            message = (
                f"layer {name!r} ends with {activation.name}, so its outputs are probabilities, but the loss takes "
                "them as logits; leave from_logits out: the loss finds the logits by itself"
            )
            cautions.append(Caution("probabilities_as_logits", message, name, "loss"))
    return cautions


def _blocked(node: Node, model: Model) -> Caution:
    layer = model.layers.get(node.scope or "")
    function = layer.activation.name if layer is not None and layer.activation is not None else node.operation.name
    message = (
        f"layer {node.scope!r} blocks the gradient: the derivative of its {function} function is 0 everywhere, so "
        "nothing that feeds it can learn; the step activation has surrogates"
    )
    return Caution("gradient_blocked", message, node.scope, "gradient")


def _per_sample(
    task: Task,
    model: Model,
    objective: Objective,
    targets: Mapping[str, Node],
    weights: Node | None,
    shapes: Mapping[tuple[str, str], Shape],
) -> dict[str, Node]:
    """Each sample's weighted loss and its gradients: the graph of one sample, vectorized."""
    graph, samples = model.graph, task.inputs[0]

    def one_of(node: Node) -> Node:
        return graph.input(f"one/{node.attributes[0]}", (1, *node.shape[1:]), node.dtype)

    single_inputs = one_of(model.inputs)
    single = assemble(task.definition, graph, single_inputs, training=task.training, parameter_shapes=shapes)
    single_targets = {name: one_of(node) for name, node in targets.items()}
    single_weights = None if weights is None else one_of(weights)
    alone = _objective(
        # Penalties belong to no sample, and a sum over one sample is that sample's loss.
        _with_sum(task),
        single,
        single_targets,
        single_weights,
    )
    pairs = [(single_inputs, model.inputs), *((single_targets[name], targets[name]) for name in targets)]
    pairs += [(own.node, whole.node) for own, whole in zip(single.masks, model.masks, strict=True)]
    if weights is not None and single_weights is not None:
        pairs.append((single_weights, weights))
    replacements = {own: reshape(whole, (samples, *own.shape)) for own, whole in pairs}
    trained = [parameter for parameter in single.parameters if parameter.trainable]
    data_loss = alone.data_loss
    found = differentiate(data_loss, [parameter.node for parameter in trained])
    zeros = [broadcast(graph.constant(0.0), parameter.node.shape) for parameter in trained]
    wanted = [zero if isinstance(node, NoGradient) else node for node, zero in zip(found.nodes, zeros, strict=True)]
    batched = vectorize(wanted, replacements, samples) if wanted else []
    outputs = {"per_sample_loss": objective.per_sample}
    for parameter, node in zip(trained, batched, strict=True):
        outputs[f"per_sample/{parameter.layer}.{parameter.name}"] = node
    return outputs


def _with_sum(task: Task) -> Task:
    return task._replace(reduction="sum", normalize_weights=False)
