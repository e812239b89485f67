"""The declaration of a layer type, and the context in which a layer is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, Protocol

from service.engine.building import (
    Array,
    Choice,
    Declaration,
    Flag,
    Integers,
    Node,
    Reference,
    Registry,
    Selection,
    Shape,
)
from service.engine.errors import Path
from service.engine.network.activations import Activation, activations
from service.engine.network.initializers import Initializer, initializers
from service.engine.network.regularizers import Regularizer, regularizers

ANY_NUMBER = 10**9
"""The most inputs of a layer that takes any number of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer(Declaration):
    """The declaration of a layer type."""

    takes: tuple[int, int] = (1, 1)
    """The fewest and the most inputs."""
    takes_indices: bool = False
    """The input holds integers, so it is an input of the network."""
    couples_samples: bool = False
    """In training, the output for a sample depends on the other samples."""
    recurrent: bool = False
    """The layer reads a sequence step by step. `bidirectional` takes such layers."""
    parameters: Mapping[str, str] | None = None
    """The names of the parameters and their shapes in words, for the catalogue."""
    unit_axes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The axes of a kernel that number its units, by the name of the kernel, where that is not the last axis alone."""


layers: Registry[Layer] = Registry("layer", "layers", Layer)

KERAS = "https://keras.io/api/layers/"


@dataclass(frozen=True)
class LayerOutput:
    """The result of a layer: its output a, its pre-activation z, and the activation that leads from z to a."""

    output: Node
    pre_activation: Node
    activation: Selection[Activation] | None = None


class LayerError(Exception):
    """Raised where a layer cannot be built. `path` leads to the option at fault, or is empty."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(detail)
        self.path, self.detail = path, detail


class Builder(Protocol):
    """The network around a layer, which makes the layer's parameters, random numbers and state."""

    def parameter(
        self,
        name: str,
        shape: Shape,
        initializer: Selection[Initializer],
        regularizer: Selection[Regularizer] | None,
        fans: tuple[int, int],
        also: tuple[Shape, ...],
        reason: str,
        learned: bool,
    ) -> Node: ...

    def noise(self, shape: Shape, draw: Callable[..., Array], *, uniform: bool = False) -> Node: ...

    def state(self, name: str) -> Node | None: ...

    def update(self, name: str, value: Node) -> None: ...

    def couple_samples(self) -> None: ...


@dataclass(frozen=True)
class LayerContext:
    """The context that the function of a layer gets: its options, and means to make parameters, noise and state."""

    name: str
    options: Mapping[str, Any]
    training: bool
    frozen: bool
    """True if the parameters of the layer are not trained."""
    source: str
    """The reason for the shape of the inputs, as the end of a sentence."""
    builder: Builder
    prefix: str = ""
    """The prefix of the names of parameters, for a layer inside another."""

    def parameter(
        self,
        name: str,
        shape: Shape,
        initializer: Selection[Initializer] | None = None,
        regularizer: Selection[Regularizer] | None = None,
        *,
        fans: tuple[int, int] | None = None,
        also: tuple[Shape, ...] = (),
        reason: str = "",
    ) -> Node:
        """Return the node of a trainable array of this layer.

        By default the options `<name>_initializer` and `<name>_regularizer` apply. `also` lists other shapes that a
        caller may send. `reason` ends the sentence that refuses a wrong shape.
        """
        size = math.prod(shape)
        return self.builder.parameter(
            self.prefix + name,
            shape,
            initializer or self.options[f"{name}_initializer"],
            regularizer or self.options.get(f"{name}_regularizer"),
            fans or (size, size),
            also,
            reason,
            True,
        )

    def statistic(self, name: str, shape: Shape, reason: str = "") -> Node:
        """Return the node of an array that is carried along, not differentiated, such as a running mean."""
        start = self.options[f"{name}_initializer"]
        array = self.builder.parameter(self.prefix + name, shape, start, None, (1, 1), (), reason, False)
        return self.builder.state(self.prefix + name) or array

    def update(self, name: str, value: Node) -> None:
        """Set the new value of a statistic, which the answer returns as `state`."""
        self.builder.update(self.prefix + name, value)

    def couple_samples(self) -> None:
        """Declare that the output for a sample depends on the other samples."""
        self.builder.couple_samples()

    def dropout_mask(self, shape: Shape, rate: float) -> Node:
        """Return zeros with probability `rate`, elsewhere 1 / (1 - rate). Each run draws anew from its seed."""
        return self.builder.noise(
            shape, lambda generator: (generator.random(shape) >= rate) * (1.0 / (1.0 - rate)), uniform=True
        )

    def normal_noise(self, shape: Shape, deviation: float) -> Node:
        """Return normal random numbers with mean 0 and this standard deviation."""
        return self.builder.noise(shape, lambda generator: generator.standard_normal(shape) * deviation)

    def activate(self, z: Node, activation: Selection[Activation] | None = None) -> LayerOutput:
        """Return the output of the layer: z through `activation`, by default the option of this name."""
        chosen: Selection[Activation] = activation or self.options["activation"]
        slopes = [
            self.parameter(
                name,
                z.shape[1:],
                initializers.select("constant", value=chosen.options[name]),
                also=((), (1,)),
                reason="one number per feature, or one for all",
            )
            for name in chosen.declaration.parameters
        ]
        return LayerOutput(chosen.declaration.build(z, *slopes, **chosen.options), z, chosen)

    def build(self, option: str, *inputs: Node, prefix: str = "", **changes: Any) -> LayerOutput:
        """Return the output of the layer that an option holds, with some of its options changed."""
        selection: Selection[Layer] = self.options[option]
        inner = replace(self, options={**selection.options, **changes}, prefix=self.prefix + prefix)
        try:
            output: LayerOutput = selection.declaration.build(inner, *inputs)
        except LayerError as error:
            raise LayerError((option, *error.path), error.detail) from None
        return output

    def refuse(self, detail: str, option: str | None = None) -> NoReturn:
        raise LayerError(() if option is None else (option,), detail)

    def axis_of(self, x: Node, axis: int, option: str) -> int:
        """Return an axis of x counted from the front. Refuse axis 0, the samples', and axes that x lacks."""
        rank = len(x.shape)
        if not (1 <= axis < rank or 1 - rank <= axis <= -1):
            self.refuse(f"axis {axis} is none of 1 to {rank - 1} (or -1 to {1 - rank})", option)
        return axis % rank

    def need_axes(self, x: Node, axes: str) -> None:
        """Refuse x if its samples have other axes than `axes` names, such as `height, width, channels`."""
        wanted = axes.count(",") + 1
        if len(x.shape) - 1 != wanted:
            count = "1 axis" if wanted == 1 else f"{wanted} axes"
            self.refuse(f"takes samples of {count} ({axes}), got shape {list(x.shape[1:])}; {self.source}")


def same(node: Node) -> LayerOutput:
    """Return the output of a layer that has no pre-activation of its own."""
    return LayerOutput(node, node)


# --- options that many layers have --------------------------------------------------------------

ACTIVATION = Reference(name="activation", default="linear", registry=activations, description="applied to z")
USE_BIAS = Flag(name="use_bias", default=True, description="whether a bias is added")
DATA_FORMAT = Choice(
    name="data_format",
    default="channels_last",
    values=("channels_last", "channels_first"),
    description="whether the channels are the last axis of a sample or the first",
)


def initializer(of: str, default: str | Selection[Initializer]) -> Reference:
    return Reference(
        name=f"{of}_initializer",
        default=default,
        registry=initializers,
        description=f"how {of} starts if it is not sent",
    )


def regularizer(of: str) -> Reference:
    return Reference(
        name=f"{of}_regularizer", default=None, registry=regularizers, description=f"penalty on {of} (none by default)"
    )


def kernel_and_bias() -> tuple[Reference, ...]:
    """Return the options for initializers and regularizers of a kernel and a bias."""
    return (
        initializer("kernel", "glorot_uniform"),
        initializer("bias", "zeros"),
        regularizer("kernel"),
        regularizer("bias"),
    )


def sizes(name: str, length: int, description: str, **details: Any) -> Integers:
    """Return an option that takes a positive integer for each of `length` axes, or one for all."""
    return Integers(name=name, length=length, description=description, **details)


def in_words(count: int, thing: str) -> str:
    """Return a count with its thing: `1 unit`, `2 units`."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def need_equal_shapes(layer: LayerContext, inputs: Sequence[Node]) -> None:
    shapes = [list(x.shape[1:]) for x in inputs]
    if any(shape != shapes[0] for shape in shapes):
        layer.refuse(f"takes inputs of one shape, got {', '.join(map(str, shapes))} per sample", "inputs")
