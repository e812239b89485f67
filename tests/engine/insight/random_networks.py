"""Random networks around every type of layer, with any loss, reduction, weights and regularizers."""

import random
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from schemas.declared import ChoiceField
from service.engine.errors import InvalidRequest
from service.engine.graph.ir import Graph
from service.engine.insight.explain import ExplainTask, WorkedDerivation
from service.engine.network.activations import activations
from service.engine.network.definition import LayerDefinition
from service.engine.network.feed import Feed
from service.engine.network.layered import NetworkDefinition, assemble
from service.engine.network.layers import Layer, layers
from service.engine.network.losses import Loss, losses
from service.engine.network.regularizers import regularizers
from service.engine.network.task import Task
from tests.engine.network import layer_examples
from tests.engine.network.building import ROOMY, dense, network

SAMPLES = 3
LAYERS = [declaration.name for declaration in layers]


@dataclass
class Case:
    """A task with numbers for it."""

    task: Task
    feed: Feed
    paths: list[str]
    """Elements of its trained parameters."""

    def explained(self, parameter: str | None, **asked: Any) -> WorkedDerivation:
        compiled = ExplainTask(self.task, parameter, **asked).compile(ROOMY)
        return compiled.run(self.feed, 0.1)


@cache
def examples_of(name: str) -> list[layer_examples.Example]:
    """Return the base of a layer, and variations of its options."""
    declaration: Layer = layers[name]
    base = layer_examples.base(declaration)
    return [base, *(example for _, found in layer_examples.variations(declaration) for example in found)]


def around(chooser: random.Random, name: str, loss: Loss) -> NetworkDefinition:
    """Build a network of the layer between two others where it takes the output of a dense layer, with outputs for the
    loss."""
    example = examples_of(name)[0] if chooser.random() < 0.5 else chooser.choice(examples_of(name))
    chosen = ChoiceField(layers).deserialize({"type": name, **example.options})
    inputs = example.names
    parts = []
    if not example.declaration.takes_indices:
        before = dense("before", example.shape[-1], chooser.choice(["tanh", "linear", "sigmoid"]), inputs=inputs[:1])
        parts.append(before)
    first = ["before"] if parts else inputs[:1]
    parts.append(LayerDefinition("it", chosen, (*first, *inputs[1:])))
    definition = network(*parts, inputs=inputs)
    shapes = dict.fromkeys(inputs, (SAMPLES, *example.shape))
    if len(assemble(definition, Graph("float64"), shapes).layers["it"].output.shape) > 1:
        names = [each.name for each in activations if not each.parameters]
        if loss.outputs is not None:
            names = ["softmax", "sigmoid"]
        activation = chooser.choice(names)
        regularizer = chooser.choice([None, None, *(each.name for each in regularizers)])
        parts.append(dense("after", 2, activation, inputs=["it"], kernel_regularizer=regularizer))
    return network(*parts, inputs=inputs)


def random_case(seed: int, name: str, dtype: str = "float64") -> Case:
    """Build a network around a layer, with numbers, a loss and everything that belongs to it."""
    chooser, rng = random.Random(seed), np.random.default_rng(seed)
    while True:
        loss = losses.select(chooser.choice([each.name for each in losses]))
        definition = around(chooser, name, loss.declaration)
        example = next(each for each in definition.layers if each.name == "it")
        shape = next(e.shape for e in examples_of(name) if e.options.items() <= _plain(example, e).items())
        training = chooser.random() < 0.5
        indices = example.layer.declaration.takes_indices
        count = example.layer.options["input_dim"] if indices else 0
        inputs = {
            each: rng.integers(count, size=(SAMPLES, *shape)) if indices else rng.standard_normal((SAMPLES, *shape))
            for each in definition.inputs
        }
        try:
            shapes = {each: array.shape for each, array in inputs.items()}
            model = assemble(definition, Graph(dtype), shapes, training=training)
        except InvalidRequest:
            continue
        break
    output = model.layers[definition.output_names[0]].output.shape
    targets: Any = rng.uniform(0.1, 0.9, output)
    if loss.declaration.indices:
        targets = rng.integers(output[-1], size=output[:-1])
    weights = rng.uniform(0.5, 2.0, SAMPLES).astype(dtype) if chooser.random() < 0.3 else None
    task = Task(
        definition,
        dtype,
        tuple((each, array.shape) for each, array in inputs.items()),
        training=training,
        losses=(loss,),
        targets=((definition.output_names[0], targets.shape),),
        reduction=chooser.choice(["mean", "sum", "none"]),
        weighted=weights is not None,
        normalize_weights=chooser.choice([None, True]) if weights is not None else None,
    )
    feed = Feed(inputs, None, {definition.output_names[0]: targets}, weights, seed)
    if dtype == "float32":
        feed = replace(feed, inputs={k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in inputs.items()})
    paths = [
        f"{each.layer}.{each.name}" + "".join(f"[{rng.integers(n)}]" for n in each.node.shape)
        for each in model.parameters
        if each.trainable
    ]
    return Case(task, feed, paths)


def _plain(layer: LayerDefinition, example: layer_examples.Example) -> dict[str, Any]:
    """Return the options of an example that are options of the layer."""
    chosen = ChoiceField(layers).deserialize({"type": example.declaration.name, **example.options})
    same = repr(chosen) == repr(layer.layer)
    return example.options if same else {"": None}
