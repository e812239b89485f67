"""The summary of a network without any numbers: its inputs, outputs and parameters with their shapes."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from service.engine.errors import MOST_ERRORS, Fault
from service.engine.graph.ir import Shape, sealing
from service.engine.limits import Limits
from service.engine.network.definition import Definition
from service.engine.network.layered import NetworkDefinition
from service.engine.network.parameters import ParameterVector, Tree
from service.engine.network.prepare import prepare
from service.engine.network.task import Task
from service.engine.onnx.definition import OnnxDefinition
from service.engine.watch import Watch

FLOAT, INTEGER = "float64", "int64"
BATCH = "batch"
"""Name of the axis of samples."""
OpenShape = tuple[int | str | None, ...]
"""A shape that has a name or None for each axis whose length is open."""


class Tensor(NamedTuple):
    """An input or an output of a network."""

    name: str
    dtype: str
    shape: OpenShape | None
    """Shape with the axis of samples. None: the definition leaves the whole shape to the inputs of a request."""


class OwnParameter(NamedTuple):
    """A parameter of a network."""

    layer: str
    name: str
    shape: Shape
    trainable: bool


class Summary(NamedTuple):
    """The summary of a network."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: tuple[OwnParameter, ...] | None
    """None where the shapes depend on those of the inputs, which are not known."""
    operations: dict[str, int]
    """Number of layers of each type."""
    faults: tuple[Fault, ...]
    """Errors in the parameters that were given."""


def task_of(definition: Definition, parameters: Tree | None) -> Task | None:
    """Return the task of passing one sample through a network.

    None: the shapes of its inputs are not known, or the network is no network of layers.
    """
    if not isinstance(definition, NetworkDefinition):
        return None
    shapes = definition.input_shapes
    if any(name not in shapes for name in definition.inputs):
        return None
    return Task(
        definition,
        FLOAT,
        tuple([(name, (1, *shapes[name])) for name in definition.inputs]),
        parameters=tuple(
            [
                ((layer, name), array.shape)
                for layer, arrays in (parameters or {}).items()
                for name, array in arrays.items()
                if array.size == 1
            ]
        ),
    )


def summary_of(
    definition: Definition, task: Task | None, parameters: Tree | None, limits: Limits, watch: Watch | None = None
) -> Summary:
    """Build the network for the task that `task_of` returned, and return its summary.

    Raises `InvalidRequest` where the definition is inconsistent, `LimitExceeded`, and the exceptions of `watch`.
    """
    operations = dict(sorted(Counter(layer.layer.name for layer in definition.layers).items()))
    inputs = tuple([_input(definition, name) for name in definition.inputs])
    if task is None:
        outputs = tuple([Tensor(name, FLOAT, None) for name in definition.output_names])
        own, faults = _own(definition, parameters)
        return Summary(inputs, outputs, own, operations, faults)
    with sealing():
        model = prepare(task, limits, watch).model
        shapes: dict[str, OpenShape] = {
            name: (BATCH, *model.layers[name].output.shape[1:]) for name in definition.output_names
        }
        vector = ParameterVector(definition, model.parameters)
        faults = () if parameters is None or vector.fits(parameters) else tuple(vector.faults(parameters))
        own = tuple([OwnParameter(each.layer, each.name, each.node.shape, each.trainable) for each in model.parameters])
    outputs = tuple([Tensor(name, FLOAT, shape) for name, shape in shapes.items()])
    return Summary(inputs, outputs, own, operations, faults)


def _input(definition: Definition, name: str) -> Tensor:
    """Return the description of an input of a network."""
    if isinstance(definition, OnnxDefinition):
        return Tensor(name, definition.dtypes[name], definition.shapes[name])
    assert isinstance(definition, NetworkDefinition)
    shape = definition.input_shapes.get(name)
    dtype = INTEGER if name in definition.index_inputs else FLOAT
    return Tensor(name, dtype, None if shape is None else (BATCH, *shape))


def _own(definition: Definition, given: Tree | None) -> tuple[tuple[OwnParameter, ...] | None, tuple[Fault, ...]]:
    """Return the parameters of an ONNX definition, and the errors in the given parameters that are to replace them.

    Return None and no errors for other definitions.
    """
    tree = definition.parameters
    if tree is None or not isinstance(definition, OnnxDefinition):
        return None, ()
    trained = definition.trained
    own = [
        OwnParameter(layer, name, array.shape, (layer, name) in trained)
        for layer, arrays in tree.items()
        for name, array in arrays.items()
    ]
    faults = []
    for layer, arrays in (given or {}).items():
        for name, array in arrays.items():
            known = tree.get(layer, {}).get(name)
            if known is None or known.shape != array.shape:
                has = "is no parameter of the file" if known is None else f"has shape {list(known.shape)} in the file"
                faults.append(Fault(("parameters", layer, name), has))
    return tuple(own), tuple(faults[:MOST_ERRORS])
