"""Published and independently computed numbers of functions and of small graphs: see tests/engine/test_cases.py.

A case of a function has value, gradient, Hessian and kind at some points; one of a graph has the value and the adjoint
of each of its nodes.
"""

import numpy as np

from service.engine.functions.backpropagation import ExpressionGraph
from service.engine.functions.calculus import DEGENERATE, MAXIMUM, MINIMUM, NOT_STATIONARY, SADDLE, along
from service.engine.functions.expression import parse
from tests.engine.functions.building import calculus
from tests.engine.test_cases import CASES, close, members_of, of_kind
from tests.support import every

KINDS = {
    "local_minimum": MINIMUM,
    "local_maximum": MAXIMUM,
    "saddle": SADDLE,
    "degenerate": DEGENERATE,
    "not_stationary": NOT_STATIONARY,
}
POINT = {"point", "value", "gradient", "gradient_norm", "ascent_direction", "hessian", "hessian_eigenvalues", "kind"}


def found_at(member):
    points = np.array([expected["point"] for expected in member["expected"]])
    return calculus(member["expression"], points, member["variables"])


@every(("member", "tolerance"), of_kind("function"))
def test_functions(member, tolerance):
    found = found_at(member)
    for place, expected in enumerate(member["expected"]):
        assert set(expected) - {"directional_derivatives"} == POINT
        close(found.results.values[place], expected["value"], tolerance, "value")
        close(found.results.gradients[place], expected["gradient"], tolerance, "gradient")
        close(found.norms[place], expected["gradient_norm"], tolerance, "norm")
        close(found.results.hessians[place], expected["hessian"], tolerance, "hessian")
        close(found.eigenvalues[place], expected["hessian_eigenvalues"], tolerance, "eigenvalues")
        assert found.classes[place] == KINDS[expected["kind"]]
        assert found.stationary[place] == (expected["ascent_direction"] is None)
        if expected["ascent_direction"] is None:
            assert np.isnan(found.directions[place]).all()
        else:
            close(found.directions[place], expected["ascent_direction"], tolerance, "direction")
        assert not found.problems


WITH_DIRECTIONS = [each for each in of_kind("function") if "directions_deg" in each.values[0]]


@every(("member", "tolerance"), WITH_DIRECTIONS)
def test_directional_derivatives(member, tolerance):
    angles = np.radians(member["directions_deg"])
    derivatives = along(found_at(member).results.gradients, 3.0 * np.stack([np.cos(angles), np.sin(angles)], 1))
    close(derivatives, [expected["directional_derivatives"] for expected in member["expected"]], tolerance)


# --- graphs -------------------------------------------------------------------------------------

WRITTEN = {"add": "({} + {})", "sub": "({} - {})", "mul": "({} * {})", "square": "({}^2)", "half": "({} / 2)"}
"""An operation of a case in the words of an expression."""


@every(("case", "tolerance"), of_kind("graph"))
def test_graphs(case, tolerance):
    texts, point = {}, {}
    for node in case["nodes"]:
        if node["op"] == "input":
            texts[node["id"]] = node["id"]
            point[node["id"]] = node["value"]
        elif node["op"] == "const":
            texts[node["id"]] = repr(node["value"])
        else:
            texts[node["id"]] = WRITTEN[node["op"]].format(*[texts[name] for name in node["args"]])
    expression = parse(texts[case["output"]], list(point))
    graph = ExpressionGraph(expression)
    found = graph.run(np.array(list(point.values())))
    names = {}
    """The vertex that is a node of the case."""
    for node in case["nodes"]:
        if node["op"] == "input":
            (place,) = [place for place, vertex in enumerate(graph.vertices) if vertex.name == node["id"]]
        elif node["op"] == "const":
            (place,) = [
                place
                for place, vertex in enumerate(graph.vertices)
                if vertex.operation == "constant" and found.values[place] == node["value"]
            ]
        else:
            inputs = [names[name] for name in node["args"]]
            (place,) = [
                place for place, vertex in enumerate(graph.vertices) if vertex.inputs[: len(inputs)] == tuple(inputs)
            ]
        names[node["id"]] = graph.vertices[place].name
        close(found.values[place], case["expected"]["values"][node["id"]], tolerance, f"value of {node['id']}")
        close(found.adjoints[place], case["expected"]["adjoints"][node["id"]], tolerance, f"adjoint of {node['id']}")
    assert names[case["output"]] == graph.value
    assert set(case["expected"]["values"]) == set(case["expected"]["adjoints"]) == set(names)


# --- relations ----------------------------------------------------------------------------------


def values(found):
    return found.results.values


# By the name of the case and of the relation; `m` are the answers to its members, None to one that is no function.
RELATIONS = {
    "slope_minus_0_5622": {"error_falls_when_weight_grows": lambda m: bool(values(m[3])[8] < values(m[3])[7])},
    "common_functions_in_w_and_b": {},
    "elementary_derivative_table": {},
    "gradient_figure_functions": {},
    "seed_tanh_formula_error": {
        "seed002_minus_tanh": lambda m: values(m[0]) - values(m[1]),
        "seed002_minus_tanh_half": lambda m: values(m[0]) - values(m[2]),
        "seed003_minus_tanh": lambda m: values(m[3]) - values(m[1]),
    },
}
GROUPS = {
    case["name"]: case
    for case in CASES.values()
    if case["kind"] == "group" and any(member["kind"] == "function" for member in case["members"])
}


@every("name", GROUPS)
def test_relations(name):
    case, relations = GROUPS[name], RELATIONS[name]
    answers = [found_at(member) if member["kind"] == "function" else None for member in case["members"]]
    if None not in answers:
        assert set(relations) == set(case["relations"])
    for relation, compute in relations.items():
        expected, actual = case["relations"][relation], compute(answers)
        if isinstance(expected, bool):
            assert actual is expected
        else:
            close(actual, expected, case["tolerance"], relation)


def test_every_function_and_graph_is_held_by_a_test():
    count = sum(member["kind"] in ("function", "graph") for case in CASES.values() for member in members_of(case))
    assert len(of_kind("function")) + len(of_kind("graph")) == count >= 29
    assert set(RELATIONS) == set(GROUPS)
    assert len(WITH_DIRECTIONS) == 1
