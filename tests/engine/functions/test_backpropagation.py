"""An expression as a graph: values on the way forward, adjoints on the way back."""

import math

import numpy as np
import pytest

from service.engine.errors import LimitExceeded
from service.engine.functions.backpropagation import Dependence, ExpressionGraph
from service.engine.functions.expression import parse
from service.engine.functions.vocabulary import vocabulary
from tests.engine.functions.building import results
from tests.engine.functions.samples import MEANINGS, SAMPLES, VARIABLES, written
from tests.support import every

EXPRESSIONS = {
    "x*y + sin(x)": (2.0, 3.0),
    "(1 - x)^2 + 100*(y - x^2)^2": (-1.2, 1.0),
    "x^5 - x^-2 + 2^y": (1.5, -0.5),
    "x*x + x*x*y": (3.0, 2.0),
    "relu(x - y) + step(x)*sign(y)": (2.0, 0.5),
    "max(x, y)/min(x, y) - hypot(x, y)": (1.0, 2.0),
    "exp(log(x) + tanh(y))^y": (0.7, 1.2),
    "x + 0*y": (1.0, 2.0),
    "-(x - y)*1 + -x": (1.0, 4.0),
}


def run(text, point, variables=None):
    graph = ExpressionGraph(parse(text, variables))
    return graph, graph.run(np.array(point))


def by_name(graph, numbers):
    return {vertex.name: float(number) for vertex, number in zip(graph.vertices, numbers, strict=True)}


def assert_consistent(text, point, variables=None):
    graph, found = run(text, point, variables)
    names = [vertex.name for vertex in graph.vertices]
    assert len(names) == len(set(names))
    values, adjoints = by_name(graph, found.values), by_name(graph, found.adjoints)
    expected = results(text, [point], variables, order=1)
    np.testing.assert_allclose(values[graph.value], expected.values[0], rtol=1e-15)
    assert adjoints[graph.value] == 1.0
    inputs = parse(text, variables).variables
    np.testing.assert_array_equal([values[name] for name in inputs], point)
    np.testing.assert_allclose([adjoints[name] for name in inputs], expected.gradients[0], rtol=1e-14, atol=1e-300)
    # An edge for each input of each vertex, from the value of the expression back.
    assert {(edge.source, edge.target) for edge in graph.edges} == {
        (name, vertex.name) for vertex in graph.vertices for name in vertex.inputs
    }
    order = [names.index(edge.target) for edge in graph.edges]
    assert order == sorted(order, reverse=True)
    targets = [adjoints[edge.target] for edge in graph.edges]
    np.testing.assert_array_equal(found.contributions, np.array(targets) * found.derivatives)
    # The adjoint of a vertex is the sum of the contributions along its outgoing edges.
    for vertex in graph.vertices:
        assert all(names.index(name) < names.index(vertex.name) for name in vertex.inputs)
        if vertex.name != graph.value:
            parts = [
                number
                for edge, number in zip(graph.edges, found.contributions, strict=True)
                if edge.source == vertex.name
            ]
            np.testing.assert_allclose(adjoints[vertex.name], sum(parts), rtol=1e-12, atol=1e-300)


@every("text", EXPRESSIONS)
def test_adjoints_add_up(text):
    assert_consistent(text, EXPRESSIONS[text])


@every("word", [word for word in vocabulary if word.arguments], ids=lambda word: word.name)
def test_every_word(word):
    for point in SAMPLES[word.name]:
        assert_consistent(written(word), point, VARIABLES[: word.arguments])


def test_a_graph_by_hand():
    graph, found = run("x*y + sin(x)", (2.0, 3.0))
    shown = [(vertex.name, vertex.operation, vertex.inputs, vertex.text) for vertex in graph.vertices]
    assert shown == [
        ("x", "input", (), "x"),
        ("y", "input", (), "y"),
        ("v1", "multiply", ("x", "y"), "x*y"),
        ("v2", "sin", ("x",), "sin(x)"),
        ("v3", "add", ("v1", "v2"), "x*y + sin(x)"),
    ]
    assert graph.value == "v3"
    assert graph.edges == [
        Dependence("v1", "v3"),
        Dependence("v2", "v3"),
        Dependence("x", "v2"),
        Dependence("x", "v1"),
        Dependence("y", "v1"),
    ]
    slope = math.cos(2.0)
    np.testing.assert_allclose(found.values, [2.0, 3.0, 6.0, math.sin(2.0), 6.0 + math.sin(2.0)], rtol=1e-15)
    np.testing.assert_allclose(found.adjoints, [3.0 + slope, 2.0, 1.0, 1.0, 1.0], rtol=1e-15)
    np.testing.assert_allclose(found.derivatives, [1.0, 1.0, slope, 3.0, 2.0], rtol=1e-15)
    np.testing.assert_allclose(found.contributions, found.derivatives, rtol=1e-15)


def test_repeated_parts_are_one_vertex():
    graph, found = run("(x + y)*(x + y)", (1.0, 2.0))
    assert [vertex.name for vertex in graph.vertices] == ["x", "y", "v1", "v2"]
    assert graph.edges == [Dependence("v1", "v2"), Dependence("x", "v1"), Dependence("y", "v1")]
    assert found.derivatives.tolist() == [6.0, 1.0, 1.0]


def test_numbers_are_vertices():
    graph, found = run("3*x + pi", (2.0,))
    numbers = {vertex.name for vertex in graph.vertices if vertex.operation == "constant"}
    values, adjoints = by_name(graph, found.values), by_name(graph, found.adjoints)
    assert {(values[name], adjoints[name]) for name in numbers} == {(3.0, 2.0), (math.pi, 1.0)}
    assert all(name.startswith("c") for name in numbers)


def test_a_variable_that_does_not_occur():
    graph, found = run("x^2", (3.0, 5.0), ("x", "z"))
    assert by_name(graph, found.adjoints)["z"] == 0.0
    assert by_name(graph, found.values)["z"] == 5.0


def test_where_a_derivative_is_not_finite():
    graph, found = run("sqrt(x) + y", (0.0, 1.0))
    assert by_name(graph, found.adjoints)["x"] == math.inf


def test_where_there_is_no_value_there_are_no_adjoints():
    graph, found = run("log(x) + x", (-1.0,))
    assert by_name(graph, found.values)["x"] == -1.0
    assert np.isnan(found.values).sum() == 2
    assert np.isnan(found.adjoints).all()
    assert np.isnan(found.contributions).all()


def test_runs_do_not_disturb_each_other():
    graph = ExpressionGraph(parse("x*y + sin(x)"))
    first = graph.run(np.array([2.0, 3.0]))
    kept = [part.copy() for part in first]
    graph.run(np.array([5.0, -1.0]))
    for before, after in zip(kept, first, strict=True):
        np.testing.assert_array_equal(before, after)


def test_large_graphs_are_refused():
    text = " + ".join(f"asin(x/{number}.5)^-7" for number in range(60))
    with pytest.raises(LimitExceeded) as refusal:
        ExpressionGraph(parse(text))
    assert refusal.value.name == "vertices of the graph"
    assert refusal.value.path == ("expression",)


OPERATIONS = MEANINGS | {"square": lambda a: a * a}


@every(
    "text",
    ["(x + y)*1", "x - (-y)", "x + (-y)", "-(x - y)", "-(2x)*y", "x^3 + y", "x/y^-2", "hypot(x, y)", "y + x^0.5"],
)
def test_an_operation_gives_its_value_from_its_inputs(text):
    graph, found = run(text, (3.0, 5.0))
    values = by_name(graph, found.values)
    for vertex in graph.vertices:
        if vertex.inputs:
            expected = OPERATIONS[vertex.operation](*[values[name] for name in vertex.inputs])
            assert values[vertex.name] == pytest.approx(expected, rel=1e-14), vertex


@every("text", ["x*1", "-(-x)", "x + 0"])
def test_the_text_of_a_variable_is_its_name(text):
    graph, _ = run(text, (3.0,))
    assert {vertex.text for vertex in graph.vertices if vertex.operation == "input"} == {"x"}
