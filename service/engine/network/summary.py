"""What a network is, told without any numbers: its inputs, outputs and parameters with their shapes."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from service.engine.errors import Fault
from service.engine.graph.ir import Shape, sealing
from service.engine.limits import Limits
from service.engine.network.definition import NetworkDefinition
from service.engine.network.parameters import ParameterVector, Tree
from service.engine.network.task import Task, prepare
from service.engine.watch import Watch

FLOAT, INTEGER = "float64", "int64"


class Tensor(NamedTuple):
    """An input or an output of a network."""

    name: str
    dtype: str
    shape: Shape | None
    """Of one sample; None: the definition leaves it to those who send inputs."""


class OwnParameter(NamedTuple):
    """A parameter of a network."""

    layer: str
    name: str
    shape: Shape
    trainable: bool


class Summary(NamedTuple):
    """What a network is."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: tuple[OwnParameter, ...] | None
    """None where their shapes depend on those of the inputs, which are not known."""
    operations: dict[str, int]
    """How many layers of each type it has."""
    faults: tuple[Fault, ...]
    """What is wrong with the parameters that were given."""


def task_of(definition: NetworkDefinition, parameters: Tree | None) -> Task | None:
    """A pass of one sample through a network; None where the shapes of its inputs are not known."""
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
    definition: NetworkDefinition,
    task: Task | None,
    parameters: Tree | None,
    limits: Limits,
    watch: Watch | None = None,
) -> Summary:
    """Build the network for the task that `task_of` gave, and tell what it is.

    Raises `InvalidRequest` where the definition does not fit together, `LimitExceeded`, and what `watch` raises.
    """
    indices = definition.index_inputs
    inputs = tuple(
        [
            Tensor(name, INTEGER if name in indices else FLOAT, definition.input_shapes.get(name))
            for name in definition.inputs
        ]
    )
    operations = dict(sorted(Counter(layer.layer.name for layer in definition.layers).items()))
    if task is None:
        outputs = tuple([Tensor(name, FLOAT, None) for name in definition.output_names])
        return Summary(inputs, outputs, None, operations, ())
    with sealing():
        model = prepare(task, limits, watch).model
        shapes = {name: model.layers[name].output.shape[1:] for name in definition.output_names}
        vector = ParameterVector(definition, model.parameters)
        faults = () if parameters is None or vector.fits(parameters) else tuple(vector.faults(parameters))
        own = tuple([OwnParameter(each.layer, each.name, each.node.shape, each.trainable) for each in model.parameters])
    outputs = tuple([Tensor(name, FLOAT, shape) for name, shape in shapes.items()])
    return Summary(inputs, outputs, own, operations, faults)
