"""Examples for every type of layer: networks of it alone that can be computed. Trials find them, also for a new layer.

An example has the fewest inputs, of the first shape that the layer takes, and ordinary values for required options.
From there each option alone gets other values.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from marshmallow import ValidationError

from schemas.declared import ChoiceField
from service.engine.declarations import Declaration, Reference, Registry
from service.engine.errors import InvalidRequest
from service.engine.graph.ir import Graph
from service.engine.network.definition import LayerDefinition
from service.engine.network.layered import NetworkDefinition, assemble
from service.engine.network.layers import Layer, layers
from service.engine.options import Option
from tests.engine.network.building import compiled, network, run
from tests.engine.values import others

SAMPLES = 3
SHAPES = ((4,), (3, 4), (5, 4, 2), (32,), (2, 3, 4, 2), (3, 3, 3, 3))
"""Shapes of one sample. All usual counts of groups divide 32 features."""
SOME = {"activation": ("tanh", "softmax"), "initializer": ("normal", "ones"), "regularizer": ("l1_l2",)}
"""A few blocks of other registries, which have tests of their own."""


@dataclass(frozen=True)
class Example:
    """A layer with some options, and the shape of one sample of each input."""

    declaration: Layer
    options: dict[str, Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        words = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{self.declaration.name} {words} {self.shape}".replace("  ", " ")

    @property
    def names(self) -> list[str]:
        return [f"x{position}" for position in range(self.declaration.takes[0])]

    @functools.cached_property
    def definition(self) -> NetworkDefinition:
        chosen = ChoiceField(layers).deserialize({"type": self.declaration.name, **self.options})
        return network(LayerDefinition("it", chosen, tuple(self.names)), inputs=self.names)

    def inputs(self, seed: int) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        shape = (SAMPLES, *self.shape)
        if self.declaration.takes_indices:
            return {name: rng.integers(self.options["input_dim"], size=shape) for name in self.names}
        return {name: rng.standard_normal(shape) for name in self.names}

    @property
    def fits(self) -> bool:
        """Return whether the layer, with its options, takes inputs of the shape."""
        shapes = dict.fromkeys(self.names, (SAMPLES, *self.shape))
        try:
            for training in (False, True):
                assemble(self.definition, Graph("float64"), shapes, training=training)
        except (InvalidRequest, ValidationError):
            return False
        return True


def blocks(registry: Registry[Any]) -> Iterator[Any]:
    """Yield every declared block, or some of those that have tests of their own, with its required options."""
    for declaration in registry:
        if declaration.name in SOME.get(registry.kind, (declaration.name,)):
            yield {"type": declaration.name, **dict(zip(*first_choice(declaration), strict=True))}


def first_choice(declaration: Declaration) -> tuple[list[str], list[Any]]:
    required = [option for option in declaration.options if option.required]
    return [option.name for option in required], [next(values_of(option)) for option in required]


def values_of(option: Option) -> Iterator[Any]:
    """Yield JSON values to try, ordinary ones first. The option may refuse a few of them."""
    if isinstance(option, Reference):
        yield from blocks(option.registry)
        return
    usual = list(option.accepted()) if option.required else list(others(option))
    lists = [value for value in usual if isinstance(value, list) and type(value[0]) is int]
    if lists:
        count = len(lists[0])
        yield from ([2] * count, [2, 1], [2, 2], [-1] * count)
    elif option.required and all(type(value) is int for value in usual):
        yield usual[0] + 1
    yield from usual


@functools.cache  # several tests ask for it, in both modes
def base(declaration: Layer) -> Example:
    """Return the first example of a layer, with the defaults of all options that have one."""
    required = [option for option in declaration.options if option.required]
    for shape in SHAPES:
        for values in itertools.product(*(values_of(option) for option in required)):
            options = dict(zip((option.name for option in required), values, strict=True))
            example = Example(declaration, options, shape)
            if example.fits:
                return example
    raise AssertionError(f"no network of the layer {declaration.name!r} could be made; give it a shape in {__name__}")


@functools.cache
def variations(declaration: Layer) -> list[tuple[str, list[Example]]]:
    """Return for each option examples that differ from `base` in it, and only in it where such an example fits."""
    start = base(declaration)
    variations = []
    for option in declaration.options:
        found = list(_changed(start, option, [{}]))
        if not found:
            others = [other for other in declaration.options if other is not option]
            also = [{other.name: value} for other in others for value in values_of(other)]
            found = list(itertools.islice(_changed(start, option, also), 1))
        variations.append((option.name, found))
    return variations


def _changed(start: Example, option: Option, also: list[dict[str, Any]]) -> Iterator[Example]:
    """Yield for each other value of the option the first example that fits, if need be with the changes in `also`."""
    for value in values_of(option):
        if value not in (option.default, start.options.get(option.name)):
            tried = (
                Example(start.declaration, start.options | more | {option.name: value}, shape)
                for more in also
                for shape in (start.shape, *SHAPES)
            )
            yield from itertools.islice((each for each in tried if each.fits), 1)


def record(example: Example, training: bool) -> dict[str, Any]:
    """Return the example in the form of PyTorch's records, with random parameters."""
    inputs = example.inputs(0)
    forward = compiled(example.definition, inputs, training=training)
    result = run(forward, inputs)
    learned = {each.name for each in forward.model.parameters if each.trainable}
    rng = np.random.default_rng(0)
    parameters = {
        name: rng.standard_normal(array.shape) if name in learned else array
        for name, array in (result.parameters or {}).get("it", {}).items()
    }
    return {
        "type": example.declaration.name,
        "options": example.options,
        "training": training,
        "ties": False,
        "inputs": list(inputs.values()),
        "parameters": parameters,
        "gradients": sorted(learned),
        "outputs": result.outputs["it"],
    }
