"""Single elements of every operation of the table, read as formulas and compared with what the operation computes."""

import math

import numpy as np
import pytest

from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import OPERATIONS, Graph, reachable
from service.engine.graph.operations import sum_over
from service.engine.insight import elements
from service.engine.insight.elements import BY_INDICES, MOVES, RULES, Elements, index_of, place_of
from service.engine.insight.formula import evaluate, expression, names
from tests.engine.graph.examples import ALL_EXAMPLES, LEAVES
from tests.engine.insight.walking import evaluated
from tests.support import every


def test_every_operation_has_a_rule_for_its_elements():
    known = {*MOVES, *RULES, *BY_INDICES, *LEAVES, "balanced"}
    assert {name for name, operation in OPERATIONS.items() if not operation.elementwise} == known


@every("example", ALL_EXAMPLES, ids=str)
def test_an_element_has_the_value_of_its_formula(example):
    graph = Graph("float64")
    inputs = example.inputs(graph)
    output = example.apply(inputs)
    values = dict(zip(inputs, example.values(), strict=True))
    computed = interpret([output], values)
    integers = {node.index: array for node, array in values.items() if node.dtype == "int64"}
    reader = Elements(reachable([output]), [], integers)

    def held(key):
        node = graph.nodes[key[0]]
        return float(computed[node].reshape(-1)[key[1]])

    for place in range(min(output.size, 12)):
        formula = reader.formula(output, place)
        value = float(computed[output].reshape(-1)[place])
        scale = max(1.0, abs(value))
        assert evaluate(formula, held) == pytest.approx(value, rel=1e-12, abs=1e-13 * scale)
        used = list(dict.fromkeys(names(formula)))
        text = expression(formula, {key: f"u{k}" for k, key in enumerate(used)}.__getitem__)
        found = evaluated(text, [(held(key), 0.0) for key in used], "float64").value
        assert found == pytest.approx(value, rel=1e-12, abs=1e-13 * scale) or (math.isinf(found) and found == value)


def test_places_and_indices_are_inverse():
    shape = (3, 1, 4, 2)
    for place, index in enumerate(np.ndindex(*shape)):
        assert tuple(index_of(shape, place)) == index
        assert place_of(shape, index) == place


def test_long_formulas_and_endless_reading_are_refused():
    graph = Graph("float64")
    x = graph.input("x", (elements.MOST_TERMS + 1,))
    total = sum_over(x)
    reader = Elements(reachable([total]), [], {})
    with pytest.raises(OverflowError):
        reader.formula(total, 0)
    small = x.graph.input("y", (100,))
    total = sum_over(small)
    reader = Elements(reachable([total]), [], {})
    with reader.spending(50), pytest.raises(OverflowError):
        reader.formula(total, 0)
    assert reader.formula(total, 0).size == 100


def test_a_chain_of_any_length_is_read_without_recursion_of_its_length():
    graph = Graph("float64")
    x = node = graph.input("x", ())
    for _ in range(5000):
        node = graph.apply("tanh", node)
    reader = Elements(reachable([node]), [], {})
    formula = reader.formula(node, 0)
    assert formula.depth <= elements.DEEPEST_INSIDE + 1
    (key,) = names(formula)
    assert x.index < key[0] < node.index
