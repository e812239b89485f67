"""Short ways from plain values to definitions, tasks and results."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from service.engine.declarations import Reference, Registry, Selection
from service.engine.graph.ir import Shape
from service.engine.limits import Limits
from service.engine.network.definition import INPUT, LayerDefinition
from service.engine.network.evaluate import Evaluation, Result, compile_task
from service.engine.network.feed import Feed
from service.engine.network.layered import NetworkDefinition
from service.engine.network.layers import layers
from service.engine.network.losses import losses
from service.engine.network.task import Task

# Limits larger than any test.
ROOMY = Limits()


def select(registry: Registry, chosen: Any) -> Selection:
    """Select a block by its name, or by a mapping of its name and options. Nested blocks are selected likewise."""
    if isinstance(chosen, Selection):
        return chosen
    options = {"name": chosen} if isinstance(chosen, str) else dict(chosen)
    name = options.pop("name")
    known = {option.name: option for option in registry[name].options}
    for key, value in options.items():
        option = known[key]
        if isinstance(option, Reference) and value is not None:
            options[key] = select(option.registry, value)
        elif isinstance(value, list):
            options[key] = tuple(value)
    return registry.select(name, **options)


def layer(
    name: str,
    type: str,  # noqa: A002
    inputs: list[str] | None = None,
    shares: str | None = None,
    trainable: bool = True,
    **options: Any,
) -> LayerDefinition:
    chosen = select(layers, {"name": type, **options})
    return LayerDefinition(name, chosen, None if inputs is None else tuple(inputs), shares, trainable)


def dense(name: str, units: int, activation: Any = "linear", **details: Any) -> LayerDefinition:
    return layer(name, "dense", units=units, activation=activation, **details)


def network(
    *parts: LayerDefinition,
    outputs: list[str] | None = None,
    input_shape: Shape | None = None,
    inputs: list[str] | None = None,
):
    shapes = {} if input_shape is None else {INPUT: input_shape}
    names = (INPUT,) if inputs is None else tuple(inputs)
    return NetworkDefinition(parts, names, shapes, None if outputs is None else tuple(outputs))


def task_for(
    definition: NetworkDefinition,
    inputs: Any,
    loss: Any = None,
    targets: Any = None,
    weights: Any = None,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    include: tuple[str, ...] = (),
    dtype: str = "float64",
    **details: Any,
) -> Task:
    """Make the task that fits these arrays. `targets` may be one array where there is one output."""
    shapes = None
    if loss is not None:
        shapes = tuple((name, np.shape(array)) for name, array in by_output(definition, targets).items())
    return Task(
        definition,
        dtype,
        tuple((name, np.shape(array)) for name, array in by_input(definition, inputs).items()),
        include=frozenset(include),
        losses=None if loss is None else selected_losses(definition, loss),
        targets=shapes,
        weighted=weights is not None,
        parameters=tuple(
            ((layer, name), np.shape(array)) for layer, own in (parameters or {}).items() for name, array in own.items()
        ),
        **details,
    )


def selected_losses(definition: NetworkDefinition, loss: Any) -> tuple[Selection, ...]:
    """Select a loss for each output: the one given, or those given by output."""
    names = definition.output_names
    if isinstance(loss, Mapping) and "name" not in loss:
        return tuple(select(losses, loss[name]) for name in names)
    return (select(losses, loss),) * len(names)


def by_input(definition: NetworkDefinition, inputs: Any) -> dict[str, np.ndarray]:
    whole = inputs if isinstance(inputs, Mapping) else {definition.inputs[0]: inputs}
    return {name: np.asarray(array) for name, array in whole.items()}


def by_output(definition: NetworkDefinition, targets: Any) -> dict[str, np.ndarray]:
    whole = targets if isinstance(targets, Mapping) else {definition.output_names[0]: targets}
    return {name: np.asarray(array) for name, array in whole.items()}


def as_arrays(tree: Mapping[str, Mapping[str, Any]], dtype: str = "float64") -> dict[str, dict[str, np.ndarray]]:
    return {layer: {name: np.asarray(array, dtype) for name, array in own.items()} for layer, own in tree.items()}


def compiled(definition: NetworkDefinition, inputs: Any, loss: Any = None, **details: Any) -> Evaluation:
    return compile_task(task_for(definition, inputs, loss, **details), ROOMY)


def run(
    evaluation: Evaluation,
    inputs: Any,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    targets: Any = None,
    weights: Any = None,
    seed: int = 0,
) -> Result:
    task = evaluation.task
    return evaluation.run(
        Feed(
            by_input(task.definition, inputs),
            None if parameters is None else as_arrays(parameters, task.dtype),
            {} if task.losses is None else by_output(task.definition, targets),
            None if weights is None else np.asarray(weights, task.dtype),
            seed,
        )
    )


def evaluate(
    definition: NetworkDefinition,
    inputs: Any,
    parameters: Mapping[str, Mapping[str, Any]] | None = None,
    loss: Any = None,
    targets: Any = None,
    weights: Any = None,
    seed: int = 0,
    **details: Any,
) -> Result:
    """Compile and run. Without parameters, initializers draw them from `seed`."""
    evaluation = compiled(definition, inputs, loss, targets=targets, weights=weights, parameters=parameters, **details)
    return run(evaluation, inputs, parameters, targets, weights, seed)
