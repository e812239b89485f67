"""The graph of a computation: its code, read by the reader of docs/graph.md, gives the values and gradients."""

import re

import numpy as np
import pytest

from service.engine.errors import InvalidRequest
from service.engine.functions.expression import parse
from service.engine.functions.presets import presets
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import OPERATIONS, Graph, reachable
from service.engine.insight.computation import FunctionGraph, NetworkGraph
from service.engine.insight.graph_text import code, dot, mermaid
from service.engine.insight.graph_view import (
    BACKWARD,
    FORWARD,
    MOST_OPERATIONS,
    by_layer,
    by_operation,
    chosen_detail,
)
from service.engine.network.feed import Feed
from service.engine.network.layers import layers
from service.engine.texts import telling
from tests.engine.graph.examples import EXAMPLES, LEAVES
from tests.engine.insight.subjects import targets_of
from tests.engine.network.building import ROOMY, by_input, dense, evaluate, layer, network, task_for
from tests.engine.network.layer_examples import base
from tests.support import ROOT, every

TEXT = (ROOT / "docs" / "graph.md").read_text()
READER: dict = {}
for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
    exec(block, READER)
TELL = telling("en")
LINEAR = ("sum", "concatenate")
NEAR = 1e-15
"""Largest error of values, relative to the numbers that make them: BLAS adds in another order."""


def answer(view, dtype="float64"):
    """Return the parts of an answer that the reader needs."""
    operations = [{"name": each.name, "signature": each.signature, "numpy": each.numpy} for each in view.used]
    return {"code": code(view, TELL), "dtype": dtype, "operations": operations}


def read(view, values):
    inputs = {
        vertex.attributes["name"]: values[vertex.source] for vertex in view.vertices if vertex.operation == "input"
    }
    return READER["read"](answer(view), inputs)


def assert_near(found, expected, scale):
    assert found.shape == expected.shape
    assert np.array_equal(found, expected) or np.abs(found - expected).max() <= NEAR * scale


def sizes(view, values):
    """Return the largest number of each vertex and of its inputs; sums that cancel stay as uncertain as these."""
    largest = {vertex.name: float(np.abs(values[vertex.source]).max(initial=0.0)) for vertex in view.vertices}
    found = {}
    for vertex in view.vertices:
        before = found if OPERATIONS[vertex.operation].view or vertex.operation in LINEAR else largest
        found[vertex.name] = max((before[name] for name in vertex.inputs), default=0.0)
        found[vertex.name] = max(found[vertex.name], largest[vertex.name])
    return found


def graph_of(definition, inputs, targets, loss="half_squared_error", **details):
    task = task_for(definition, inputs, loss, targets, **details)
    name = definition.output_names[0]
    graph = NetworkGraph(task, ROOMY)
    return graph, graph.run(Feed(by_input(definition, inputs), None, {name: np.asarray(targets)}))


@every("training", [False, True], ids=["inference", "training"])
@every("declaration", list(layers), ids=lambda declaration: declaration.name)
def test_the_code_gives_the_values_and_gradients_of_every_layer(declaration, training):
    example = base(declaration)
    inputs, targets = example.inputs(0), targets_of(example, training)
    details = {"training": training, "include": ("input_gradients",)}
    graph, values = graph_of(example.definition, inputs, targets, **details)
    view = by_operation(graph.computation)
    found, scales = read(view, values.of), sizes(view, values.of)
    for vertex in view.vertices:
        assert_near(found[vertex.name], values.of[vertex.source], scales[vertex.name])
    result = evaluate(example.definition, inputs, None, "half_squared_error", targets, **details)
    expected = {("it", name): array for name, array in result.gradients.get("it", {}).items()}
    expected |= {(name,): array for name, array in result.input_gradients.items()}
    assert set(view.gradients) == set(expected)
    assert found[view.loss] == pytest.approx(float(result.loss), rel=NEAR)
    for path, name in view.gradients.items():
        assert_near(found[name], expected[path], scales[name])


@every("preset", list(presets), ids=lambda preset: preset.name)
def test_the_code_gives_the_values_and_gradients_of_functions(preset):
    expression = parse(preset.expression)
    graph = FunctionGraph(expression)
    point = np.random.default_rng(1).uniform(0.3, 0.9, len(expression.variables))
    values = graph.run(list(map(np.asarray, point)))
    view = by_operation(graph.computation)
    found, scales = read(view, values.of), sizes(view, values.of)
    for vertex in view.vertices:
        assert_near(found[vertex.name], values.of[vertex.source], scales[vertex.name])


@every("example", EXAMPLES, ids=str)
def test_the_numpy_expression_of_an_operation_has_its_value(example):
    graph = Graph("float64")
    inputs = example.inputs(graph)
    node = example.apply(inputs)
    values = interpret([node], dict(zip(inputs, example.values(), strict=True)))
    for each in reachable([node]):
        if each.operation.name in LEAVES:
            continue
        operation = each.operation
        rule = eval(f"lambda {operation.signature}: {operation.numpy}", {**READER, "np": np})
        found = rule(*[values[x] for x in each.operands], **operation.named(each.attributes))
        np.testing.assert_allclose(found, values[each], rtol=2e-15, atol=2e-16)


def test_the_document_lists_every_operation():
    rows = [
        f"| `{each.name}` | `{each.signature}` | `{each.numpy}` |".replace("||", "|") for each in OPERATIONS.values()
    ]
    listed = [line for line in TEXT.splitlines() if line.startswith("| `")]
    assert listed == rows


def test_backward_vertices_serve_forward_ones_and_hold_their_adjoints():
    definition = network(dense("hidden", 3, "tanh"), dense("output", 2, "softmax"))
    rng = np.random.default_rng(2)
    graph, values = graph_of(
        definition, rng.standard_normal((4, 3)), np.array([0, 1, 1, 0]), "sparse_categorical_crossentropy"
    )
    view = by_operation(graph.computation)
    by_name = {vertex.name: vertex for vertex in view.vertices}
    places = {name: place for place, name in enumerate(by_name)}
    for vertex in view.vertices:
        assert all(places[name] < places[vertex.name] for name in vertex.inputs)
        if vertex.phase == BACKWARD:
            assert by_name[vertex.serves].phase == FORWARD
            assert vertex.layer == by_name[vertex.serves].layer
        if vertex.adjoint is not None:
            assert vertex.adjoint_source is by_name[vertex.adjoint].source
            assert values.of[vertex.adjoint_source].shape == values.of[vertex.source].shape
    parameters = {vertex.attributes["name"]: vertex for vertex in view.vertices if vertex.operation == "input"}
    assert parameters["hidden.kernel"].adjoint == view.gradients["hidden", "kernel"]


def test_without_a_loss_there_is_the_way_forward_alone():
    definition = network(dense("hidden", 3, "tanh"))
    inputs = {"input": np.ones((1, 2))}
    graph = NetworkGraph(task_for(definition, inputs), ROOMY)
    view = by_operation(graph.computation)
    assert {vertex.phase for vertex in view.vertices} == {FORWARD}
    assert view.loss is None and view.gradients == {}


def test_collapsed_there_is_a_vertex_for_each_layer_and_half():
    definition = network(
        dense("first", 3, "relu"),
        layer("off", "dropout", rate=0.5),
        dense("second", 3, "tanh"),
        layer("sum", "add", inputs=["off", "second"]),
        dense("output", 1),
    )
    rng = np.random.default_rng(2)
    graph, values = graph_of(definition, rng.standard_normal((4, 2)), rng.standard_normal((4, 1)))
    view = by_layer(graph)
    forward = [vertex.name for vertex in view.vertices if vertex.phase == FORWARD]
    assert forward == ["input", "first", "off", "second", "sum", "output", "loss"]
    backward = {vertex.name: vertex for vertex in view.vertices if vertex.phase == BACKWARD}
    assert list(backward) == [f"{name}.backward" for name in reversed(forward[1:])]
    assert backward["off.backward"].inputs == ("second.backward", "sum.backward")
    assert backward["sum.backward"].serves == "sum"
    inputs = {name: values.of[node] for name, node in graph.model.inputs.items()}
    targets = next(values.of[node] for node in graph.prepared.targets.values())
    result = evaluate(definition, inputs, None, "half_squared_error", targets, include=("layers",))
    outputs = {each.name: each.output for each in result.layers}
    for vertex in view.vertices:
        if vertex.name in outputs:
            np.testing.assert_allclose(values.of[vertex.source], outputs[vertex.name], rtol=1e-15)
    assert sum(vertex.operations for vertex in view.vertices) > 20


def test_large_graphs_are_collapsed_and_too_large_ones_refused():
    small = FunctionGraph(parse("x^2")).computation
    assert chosen_detail(small, None) == "operations"
    definition = network(layer("memory", "lstm", units=2), dense("output", 1))
    inputs = {"input": np.ones((1, 200, 2))}
    computation = NetworkGraph(task_for(definition, inputs, "half_squared_error", np.ones((1, 1))), ROOMY).computation
    assert chosen_detail(computation, None) == "layers"
    assert len(computation.nodes) > MOST_OPERATIONS
    with pytest.raises(InvalidRequest, match="ask for detail: layers") as refused:
        chosen_detail(computation, "operations")
    assert refused.value.faults[0].path == ("detail",)


def test_drawings_quote_special_characters_of_names():
    definition = network(dense("a 'b' <c>&#1;`", 1))
    graph, values = graph_of(definition, np.ones((1, 2)), np.ones((1, 1)))
    view = by_operation(graph.computation)
    numbers = {vertex.name: values.of[vertex.source] for vertex in view.vertices}
    for line in mermaid(view, numbers, TELL).splitlines():
        inside = re.findall(r'\["(.*)"\]', line)
        assert not any(set(text.replace("<br>", "")) & set('<>"`&') for text in inside)
    drawn = dot(view, numbers, TELL)
    assert drawn.count("{") == drawn.count("}")
    assert drawn.count(" -> ") >= len(view.vertices) - 6


PASSED_BY = {
    "two reshape layers": (
        layer("zero", "batch_normalization"),
        layer("one", "reshape", target_shape=[6, 4]),
        layer("two", "reshape", target_shape=[24]),
    ),
    "two permute layers": (
        layer("zero", "batch_normalization"),
        layer("one", "reshape", target_shape=[6, 4]),
        layer("two", "permute", dims=[2, 1]),
        layer("three", "permute", dims=[2, 1]),
        layer("four", "flatten"),
    ),
    "pooling that keeps its axes": (
        layer("one", "batch_normalization"),
        layer("two", "global_average_pooling2d", keepdims=True),
        layer("three", "reshape", target_shape=[3]),
    ),
}


@every("case", list(PASSED_BY))
def test_layers_that_the_graph_computes_past_are_shown(case):
    """Two reshape operations become one, which leaves the first layer without a node on the way to the loss."""
    definition = network(*PASSED_BY[case], dense("output", 1))
    rng = np.random.default_rng(3)
    inputs, targets = rng.standard_normal((2, 4, 2, 3)), rng.standard_normal((2, 1))
    graph, values = graph_of(definition, inputs, targets)
    view = by_layer(graph)
    result = evaluate(definition, inputs, None, "half_squared_error", targets, include=("layers",))
    by_name = {vertex.name: vertex for vertex in view.vertices}
    for each in result.layers:
        vertex = by_name[each.name]
        np.testing.assert_allclose(values.of[vertex.source], each.output, rtol=1e-14)
        if graph.model.layers[each.name].pre_activation is graph.model.layers[each.name].output:
            np.testing.assert_allclose(values.of[vertex.adjoint_source], each.delta, rtol=1e-14, atol=1e-16)
        assert by_name[f"{each.name}.backward"].inputs
