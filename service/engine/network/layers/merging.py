"""Layers that merge several inputs."""

from __future__ import annotations

import math
from functools import reduce

from service.engine.building import Flag, Integer, Integers, Node, broadcast, reshape, root_mean_square, transpose
from service.engine.graph import operations
from service.engine.network.layers.declaration import (
    ANY_NUMBER,
    KERAS,
    LayerContext,
    LayerOutput,
    layers,
    need_equal_shapes,
    same,
)

SEVERAL = (2, ANY_NUMBER)


@layers.declare(
    "add",
    en="The sum of its inputs.",
    zh="各输入之和。",
    takes=SEVERAL,
    latex=r"a = \sum_i x_i",
    derivative=r"\frac{\partial L}{\partial x_i} = \frac{\partial L}{\partial a}",
    sources=(KERAS + "merging_layers/add/",),
)
def add(layer: LayerContext, *inputs: Node) -> LayerOutput:
    need_equal_shapes(layer, inputs)
    return same(reduce(lambda total, x: total + x, inputs))


@layers.declare(
    "subtract",
    en="The first input minus the second.",
    zh="第一个输入减第二个输入。",
    takes=(2, 2),
    latex=r"a = x_1 - x_2",
    derivative=r"\frac{\partial L}{\partial x_1} = \frac{\partial L}{\partial a} = -\frac{\partial L}{\partial x_2}",
    sources=(KERAS + "merging_layers/subtract/",),
)
def subtract(layer: LayerContext, first: Node, second: Node) -> LayerOutput:
    need_equal_shapes(layer, (first, second))
    return same(first - second)


@layers.declare(
    "multiply",
    en="The elementwise product of its inputs.",
    zh="各输入逐元素相乘。",
    takes=SEVERAL,
    latex=r"a = \prod_i x_i",
    derivative=r"\frac{\partial L}{\partial x_i} = \frac{\partial L}{\partial a} \odot \prod_{j \ne i} x_j",
    sources=(KERAS + "merging_layers/multiply/",),
)
def multiply(layer: LayerContext, *inputs: Node) -> LayerOutput:
    need_equal_shapes(layer, inputs)
    return same(reduce(lambda product, x: product * x, inputs))


@layers.declare(
    "average",
    en="The mean of its inputs.",
    zh="各输入的平均值。",
    takes=SEVERAL,
    latex=r"a = \frac1m \sum_{i=1}^m x_i",
    derivative=r"\frac{\partial L}{\partial x_i} = \frac1m \frac{\partial L}{\partial a}",
    sources=(KERAS + "merging_layers/average/",),
)
def average(layer: LayerContext, *inputs: Node) -> LayerOutput:
    need_equal_shapes(layer, inputs)
    return same(reduce(lambda total, x: total + x, inputs) / float(len(inputs)))


@layers.declare(
    "maximum",
    en="The elementwise maximum of its inputs. Inputs that are equal to it share the gradient evenly.",
    zh="各输入逐元素取最大值;相等的各输入平分梯度。",
    takes=SEVERAL,
    latex=r"a = \max_i x_i",
    derivative=r"\frac{\partial L}{\partial x_i} = \frac{\partial L}{\partial a} \odot "
    r"\frac{[x_i = a]}{\sum_j [x_j = a]}",
    sources=(KERAS + "merging_layers/maximum/",),
)
def maximum(layer: LayerContext, *inputs: Node) -> LayerOutput:
    need_equal_shapes(layer, inputs)
    return same(operations.extreme("maximum", inputs))


@layers.declare(
    "minimum",
    en="The elementwise minimum of its inputs. Inputs that are equal to it share the gradient evenly.",
    zh="各输入逐元素取最小值;相等的各输入平分梯度。",
    takes=SEVERAL,
    latex=r"a = \min_i x_i",
    derivative=r"\frac{\partial L}{\partial x_i} = \frac{\partial L}{\partial a} \odot "
    r"\frac{[x_i = a]}{\sum_j [x_j = a]}",
    sources=(KERAS + "merging_layers/minimum/",),
)
def minimum(layer: LayerContext, *inputs: Node) -> LayerOutput:
    need_equal_shapes(layer, inputs)
    return same(operations.extreme("minimum", inputs))


@layers.declare(
    "concatenate",
    en="Its inputs side by side along one axis.",
    zh="沿一轴拼接各输入。",
    takes=SEVERAL,
    options=(Integer(name="axis", default=-1, description="axis counted with the samples' axis 0; not 0"),),
    latex=r"a = [x_1, x_2, \dots]",
    derivative=r"\frac{\partial L}{\partial x_i} = \text{its slice of } \frac{\partial L}{\partial a}",
    sources=(KERAS + "merging_layers/concatenate/",),
)
def concatenate(layer: LayerContext, *inputs: Node) -> LayerOutput:
    rank = len(inputs[0].shape)
    axis = layer.axis_of(inputs[0], layer.options["axis"], "axis")
    rests = [(x.shape[1:axis], x.shape[axis + 1 :]) for x in inputs]
    if any(len(x.shape) != rank or rest != rests[0] for x, rest in zip(inputs, rests, strict=True)):
        shapes = ", ".join(str(list(x.shape[1:])) for x in inputs)
        layer.refuse(f"takes inputs that agree in all axes but {axis}, got {shapes} per sample", "inputs")
    return same(operations.concatenate(inputs, axis))


@layers.declare(
    "dot",
    en="Products of two inputs summed along an axis of each, sample by sample.",
    zh="两个输入沿各自一轴逐样本做内积。",
    takes=(2, 2),
    options=(
        Integers(
            name="axes",
            minimum=-16,
            length=2,
            description="the axis of each input, counted with the samples' axis 0; not 0",
        ),
        Flag(name="normalize", default=False, description="divide by the lengths first: cosine similarity"),
    ),
    latex=r"a_{nij} = \sum_k x_{nik}\, y_{njk}",
    derivative=r"\frac{\partial L}{\partial x} = \frac{\partial L}{\partial a}\, y",
    sources=(KERAS + "merging_layers/dot/",),
)
def dot(layer: LayerContext, first: Node, second: Node) -> LayerOutput:
    axes = [layer.axis_of(x, axis, "axes") for x, axis in zip((first, second), layer.options["axes"], strict=True)]
    lengths = [x.shape[axis] for x, axis in zip((first, second), axes, strict=True)]
    if lengths[0] != lengths[1]:
        layer.refuse(f"the axes have {lengths[0]} and {lengths[1]} entries; they must be equally long", "axes")
    inputs = (first, second)
    if layer.options["normalize"]:
        inputs = (_to_unit_scale(first, axes[0]) / float(lengths[0]), _to_unit_scale(second, axes[1]))
    rows, rests = [], []
    for x, axis in zip(inputs, axes, strict=True):
        kept = [k for k in range(1, len(x.shape)) if k != axis]
        rest = tuple(x.shape[k] for k in kept)
        rests.append(rest)
        moved = transpose(x, (0, *kept, axis))
        rows.append(reshape(moved, (x.shape[0], moved.size // (x.shape[0] * lengths[0]), lengths[0])))
    product = rows[0] @ transpose(rows[1])
    return same(reshape(product, (first.shape[0], *(rests[0] + rests[1] or (1,)))))


def _to_unit_scale(x: Node, axis: int) -> Node:
    """Return x divided by its root mean square along one axis: its length may be too large for a float. Lengths below
    1e-7 count as 1e-7, as in Keras."""
    kept = tuple(1 if k == axis else n for k, n in enumerate(x.shape))
    divisors = operations.maximum(root_mean_square(x, [axis]), 1e-7 / math.sqrt(x.shape[axis]))
    return x / broadcast(reshape(divisors, kept), x.shape)
