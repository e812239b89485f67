"""Curves of activations and losses for the catalogue: sampled values and exact derivatives."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, Node, NoGradient
from service.engine.graph.operations import broadcast, concatenate, slice_axis, sum_over
from service.engine.network.activations import Activation
from service.engine.network.losses import Loss, Prediction


@dataclass(frozen=True)
class Curve:
    """A function sampled for the catalogue: its values and derivatives at the points `x`, each (points,)."""

    x: Array
    values: Array
    derivatives: Array

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.values).all() and np.isfinite(self.derivatives).all())


def activation_curve(selection: Selection[Activation], start: float, stop: float, points: int) -> Curve:
    """Return f(x) and f'(x) of an activation at evenly spaced points. An activation of rows gets the row (x, 0), and
    its first output is sampled."""
    with Graph("float64") as graph:
        x = graph.input("x", (points, 1))
        declaration = selection.declaration
        slopes = [graph.constant(selection.options[name]) for name in declaration.parameters]
        whole = concatenate([x, broadcast(graph.constant(0.0), x.shape)], 1) if declaration.acts_on == "row" else x
        value = slice_axis(declaration.build(whole, *slopes, **selection.options), 1, 0, 1)
        return _sample(x, value, np.linspace(start, stop, points))


def loss_curve(selection: Selection[Loss], target: float, start: float, stop: float, points: int) -> Curve:
    """Return the loss of one sample with one output and a fixed target, at evenly spaced predictions."""
    with Graph("float64") as graph:
        x = graph.input("x", (points, 1))
        shape, dtype = ((points,), "int64") if selection.declaration.indices else (x.shape, None)
        fixed = graph.input("target", shape, dtype)
        value = selection.declaration.build(Prediction(x), fixed, **selection.options)
        return _sample(x, value, np.linspace(start, stop, points), {fixed: np.full(fixed.shape, target, fixed.dtype)})


def _sample(x: Node, value: Node, at: Array, others: dict[Node, Array] | None = None) -> Curve:
    (slope,) = differentiate(sum_over(value), [x]).nodes
    wanted = [value] if isinstance(slope, NoGradient) else [value, slope]
    values = interpret(wanted, {x: at.reshape(x.shape), **(others or {})})
    slopes = np.zeros(math.prod(x.shape)) if isinstance(slope, NoGradient) else values[slope].reshape(-1)
    return Curve(at, values[value].reshape(-1), slopes)
