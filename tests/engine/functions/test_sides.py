"""Kinks that are none, slopes of 0 · ∞, and what is null because the sides differ.

Numbers are compared with mpmath (reference.py) and with the closed forms of the same functions.
"""

import math
from itertools import islice

import numpy as np
import pytest

from service.engine.errors import DeadlineExceeded, InvalidRequest, LimitExceeded
from service.engine.functions.backpropagation import ExpressionGraph
from service.engine.functions.calculus import DEGENERATE, MAXIMUM, MINIMUM, NOT_STATIONARY, analyse
from service.engine.functions.compiled import Function, FunctionTask, build
from service.engine.functions.expression import parse
from service.engine.functions.vocabulary import vocabulary
from service.engine.graph.expansion import RULES
from service.engine.graph.ir import Graph, reachable
from tests.engine.functions.building import calculus, function, results
from tests.engine.functions.reference import Judge, answers, random_cases
from tests.engine.functions.samples import VARIABLES, written
from tests.support import every
from tests.watches import Looks

NAN, INF = math.nan, math.inf


def analysis_of(text, point, variables=None):
    """Return gradient, Hessian, class and problems at one point."""
    found = calculus(text, [point], variables)
    problems = [(each.kind, each.text) for each in found.problems.get(0, [])]
    return found.results.gradients[0].tolist(), found.results.hessians[0].tolist(), found.classes[0], problems


# --- no kink where the sides agree --------------------------------------------------------------

SMOOTH = [
    ("x^2 + abs(x)^2", (0.0,), [0.0], [[4.0]], MINIMUM),
    ("abs(x^2)", (0.0,), [0.0], [[2.0]], MINIMUM),
    ("max(x^2, -x^2)", (0.0,), [0.0], [[2.0]], MINIMUM),
    ("min(x^2, -x^2)", (0.0,), [0.0], [[-2.0]], MAXIMUM),
    ("relu(x) - relu(-x)", (0.0,), [1.0], [[0.0]], NOT_STATIONARY),
    ("abs(x)^3", (0.0,), [0.0], [[0.0]], DEGENERATE),
    ("max(x, y) + min(x, y)", (2.0, 2.0), [1.0, 1.0], [[0.0, 0.0], [0.0, 0.0]], NOT_STATIONARY),
    ("max(x, y)*min(x, y)", (3.0, 3.0), [3.0, 3.0], [[0.0, 1.0], [1.0, 0.0]], NOT_STATIONARY),
    ("max(x, y) + log1p(exp(-abs(x - y)))", (1.0, 1.0), [0.5, 0.5], [[0.25, -0.25], [-0.25, 0.25]], NOT_STATIONARY),
    ("sqrt(x^2)*sqrt(x^2)", (0.0,), [0.0], [[2.0]], MINIMUM),
    ("(x^2)^0.5*abs(x)", (0.0,), [0.0], [[2.0]], MINIMUM),
    ("sqrt(x^2) - abs(x) + x", (0.0,), [1.0], [[0.0]], NOT_STATIONARY),
    ("hypot(x, y)^2", (0.0, 0.0), [0.0, 0.0], [[2.0, 0.0], [0.0, 2.0]], MINIMUM),
    ("cbrt(x)^3", (0.0,), [1.0], [[0.0]], NOT_STATIONARY),
    ("sqrt(x)*sqrt(x)", (0.0,), [1.0], [[0.0]], NOT_STATIONARY),
    ("exp(-abs(x)^2)", (0.0,), [0.0], [[-2.0]], MAXIMUM),
    ("2^(abs(x)*abs(x))", (0.0,), [0.0], [[2.0 * math.log(2.0)]], MINIMUM),
    ("abs(x - 3y)^2", (6.0, 2.0), [0.0, 0.0], [[2.0, -6.0], [-6.0, 18.0]], DEGENERATE),
    ("abs(x)^2 + abs(y)^2 + abs(z)^2", (0.0, 0.0, 0.0), [0.0] * 3, np.diag([2.0] * 3).tolist(), MINIMUM),
    ("abs(abs(x) - 1)^2", (1.0,), [0.0], [[2.0]], MINIMUM),
    ("acos(cos(x))^2", (0.0,), [0.0], [[2.0]], MINIMUM),
    ("step(x)*x^3", (0.0,), [0.0], [[0.0]], DEGENERATE),
    ("1e-4*abs(x)^2 + abs(x)*y*0 + 1e4*abs(y)^2", (0.0, 0.0), [0.0, 0.0], [[2e-4, 0.0], [0.0, 2e4]], MINIMUM),
    ("sqrt(relu(x))", (-1.0,), [0.0], [[0.0]], DEGENERATE),
    ("sqrt(max(x, 0))", (-1.0,), [0.0], [[0.0]], DEGENERATE),
    ("relu(x)^1.5", (-1.0,), [0.0], [[0.0]], DEGENERATE),
    ("max(sqrt(x), 1)", (0.0,), [0.0], [[0.0]], DEGENERATE),
    ("min(exp(x), 1)", (1000.0,), [0.0], [[0.0]], DEGENERATE),
    ("0^x", (1.0,), [0.0], [[0.0]], DEGENERATE),
    ("x^y", (0.0, 3.0), [0.0, 0.0], [[0.0, 0.0], [0.0, 0.0]], DEGENERATE),
]


@every(("text", "point", "gradient", "hessian", "kind"), SMOOTH)
def test_there_is_no_kink_where_the_sides_agree(text, point, gradient, hessian, kind):
    slopes, curvatures, found, problems = analysis_of(text, point, "xyz"[: len(point)])
    np.testing.assert_allclose(slopes, gradient, rtol=1e-13, atol=1e-300)
    np.testing.assert_allclose(curvatures, hessian, rtol=1e-13, atol=1e-15)
    assert (found, problems) == (kind, [])


def test_a_branch_that_is_not_taken_adds_nothing():
    slopes, curvatures, _, problems = analysis_of("max(0, log(x))", (0.0,))
    assert (slopes, curvatures) == ([0.0], [[0.0]])
    assert [kind for kind, _ in problems] == ["pole"]


# --- derivatives that differ are null -----------------------------------------------------------

DIFFERENT = [
    ("x*abs(x)", (0.0,), [0.0], [[NAN]], "kink"),
    ("relu(x)^2", (0.0,), [0.0], [[NAN]], "kink"),
    ("abs(x*y)", (0.0, 0.0), [0.0, 0.0], [[0.0, NAN], [NAN, 0.0]], "kink"),
    ("x*abs(x) + y^2", (0.0, 1.0), [0.0, 2.0], [[NAN, 0.0], [0.0, 2.0]], "kink"),
    ("x^1.5", (0.0,), [0.0], [[NAN]], "not_finite"),
    ("(x^2)^0.75", (0.0,), [0.0], [[NAN]], "not_finite"),
    ("sqrt(x^2)", (0.0,), [NAN], [[NAN]], "kink"),
    ("sqrt(relu(x))", (0.0,), [NAN], [[NAN]], "vertical"),
    ("sqrt(abs(x))", (0.0,), [NAN], [[NAN]], "vertical"),
    # Half of 10 y and half of relu's 0, halved once more: 2.5, though the slopes to the sides are 1 and 0.
    ("max((x*y)^2, min(10*y, relu(y)))", (-0.5, 0.0), [0.0, NAN], [[0.0, NAN], [NAN, NAN]], "kink"),
    ("sqrt(-x^2)", (0.0,), [NAN], [[NAN]], "domain"),
    ("floor(x) + x^2", (1.0,), [2.0], [[NAN]], "jump"),
    ("asin(sqrt(sign(x)))", (0.0,), [0.0], [[NAN]], "jump"),
    ("step(log(x))", (-1.0,), [NAN], [[NAN]], "domain"),
]


@every(("text", "point", "gradient", "hessian", "reason"), DIFFERENT)
def test_derivatives_that_differ_between_sides_are_null_with_a_reason(text, point, gradient, hessian, reason):
    slopes, curvatures, _, problems = analysis_of(text, point)
    np.testing.assert_array_equal(slopes, gradient)
    np.testing.assert_array_equal(curvatures, hessian)
    assert reason in [kind for kind, _ in problems]


def test_reasons_are_true():
    def texts(text):
        return [each for _, each in analysis_of(text, (0.0,))[3]]

    assert texts("x*abs(x)") == ["the slopes from all sides agree here, but not the second derivatives"]
    assert texts("sqrt(x^2)") == ["the slopes from the sides differ here, so there is none"]
    assert texts("x^1.5") == ["a second derivative is infinite here"]


@every("text", ["-abs(x) + x^2", "abs(x) + x^2", "abs(x)", "max(x, -x) - 3x^2"])
def test_second_derivatives_decide_nothing_where_a_slope_is_a_convention(text):
    slopes, _, kind, problems = analysis_of(text, (0.0,))
    assert (slopes, kind) == ([0.0], DEGENERATE)
    assert [each for each, _ in problems] == ["kink"]


def test_a_slope_by_convention_stays():
    assert analysis_of("abs(x) + y", (0.0, 1.0), "xy")[:1] == ([0.0, 1.0],)
    assert analysis_of("max(x, y)", (1.0, 1.0), "xy")[0] == [0.5, 0.5]
    assert analysis_of("abs(x) + y", (0.0, 1.0), "xy")[2] == NOT_STATIONARY


def test_first_derivatives_alone_are_asked_from_all_sides_too():
    found = calculus("cbrt(x)^3 + abs(y)^2", [(0.0, 0.0)], order=1)
    assert found.results.gradients.tolist() == [[1.0, 0.0]]
    assert found.problems == {}
    assert calculus("x*abs(x)", [0.0], order=1).problems == {}


def test_points_without_problems_are_left_alone():
    points = np.random.default_rng(3).uniform(-2.0, 2.0, (50, 2))
    text = "abs(x)^3*max(x, y) + sqrt(x^2 + y^2)"
    found, plain = calculus(text, [*points, (0.0, 0.0)]), results(text, points)
    for ours, theirs in zip(found.results, plain, strict=True):
        np.testing.assert_array_equal(ours[:-1], theirs)


def test_many_kinks_are_as_one_by_one():
    text, points = "abs(x)*abs(y) + relu(x - y)^2", [(x, y) for x in (-1.0, 0.0, 1.0) for y in (-1.0, 0.0, 1.0)]
    together = calculus(text, points)
    for place, point in enumerate(points):
        alone = calculus(text, [point])
        for ours, theirs in zip(alone.results, together.results, strict=True):
            np.testing.assert_array_equal(ours[0], theirs[place])
        assert (alone.classes[0], alone.problems.get(0)) == (together.classes[place], together.problems.get(place))


def test_the_deadline_is_kept_beside_kinks():
    compiled = function("abs(x)", 1)
    with pytest.raises(DeadlineExceeded):
        analyse(compiled, np.zeros((1, 1)), watch=Looks(0))


def test_a_point_on_a_kink_in_many_variables():
    names = [f"x{place}" for place in range(12)]
    text = " + ".join(f"abs({name})^2" for name in names)
    gradient, hessian, kind, problems = analysis_of(text, (0.0,) * 12, names)
    assert gradient == [0.0] * 12
    np.testing.assert_allclose(hessian, 2.0 * np.eye(12), atol=1e-15)
    assert (kind, problems) == (MINIMUM, [])


# --- selections in the graph --------------------------------------------------------------------


def test_rolling_balls_meet_no_infinite_slope_on_a_flat_branch():
    found = results("sqrt(relu(x)) + max(sqrt(y), 1) + min(exp(z), 1)", [(-1.0, 0.0, 1000.0)])
    assert found.gradients.tolist() == [[0.0, 0.0, 0.0]]
    assert not found.hessians.any()


def test_numbers_that_happen_to_be_0_are_no_selection():
    assert np.isnan(results("sqrt(x)*sqrt(x)", [0.0], order=1).gradients).all()


@every(
    ("text", "point", "contributions"), [("sqrt(relu(x))", -1.0, [INF, 0.0]), ("max(sqrt(x), 1)", 0.0, [0.0, 1.0, 0.0])]
)
def test_the_backward_graph_stops_at_a_selection(text, point, contributions):
    found = ExpressionGraph(parse(text)).run(np.array([point]))
    assert found.adjoints[0] == 0.0
    assert found.contributions.tolist() == contributions


# --- the reference ------------------------------------------------------------------------------


@every("word", [word for word in vocabulary if word.arguments], ids=lambda word: word.name)
def test_every_word_can_be_expanded(word):
    names = VARIABLES[: word.arguments]
    expression = parse(written(word), names)
    graph = Graph("float64")
    nodes = reachable([build(expression, graph, [graph.input(name, ()) for name in names])[-1]])
    used = {node.operation.name for node in nodes if node.inputs and node.operation.view is None}
    assert used <= set(RULES), "add to service/engine/graph/expansion.py"


def judged(text, names, points):
    expression = parse(text, tuple(names))
    found = analyse(Function(FunctionTask(expression, len(points), 2)), np.array(points, float))
    return [Judge(expression, point).judge(answer) for point, answer in zip(points, answers(found), strict=True)]


@every(("text", "point"), [(text, point) for text, point, *_ in (*SMOOTH, *DIFFERENT)])
def test_the_reference_agrees(text, point):
    (verdict,) = judged(text, "xyz"[: len(point)], [point])
    assert verdict.wrong == []


def test_no_number_of_a_random_expression_is_wrong():
    count = 0
    for text, names, points in islice(random_cases(11), 100):
        try:
            verdicts = judged(text, names, points)
        except (InvalidRequest, LimitExceeded):
            continue
        count += len(verdicts)
        assert [verdict.wrong for verdict in verdicts] == [[]] * len(points), (text, points)
    assert count > 150


def test_the_judge_sees_wrong_numbers():
    expression = parse("abs(x)^2 + x")
    found = answers(analyse(Function(FunctionTask(expression, 1, 2)), np.zeros((1, 1))))[0]
    assert Judge(expression, [0.0]).judge(found) == ([], [])
    for wrong in (
        found._replace(gradient=[1.0 + 1e-9]),
        found._replace(hessian=[[0.0]]),
        found._replace(hessian=[[2.0 + 1e-9]]),
        found._replace(value=1e-9),
    ):
        assert Judge(expression, [0.0]).judge(wrong).wrong
    missing = found._replace(hessian=[[None]])
    assert Judge(expression, [0.0]).judge(missing).missing
    kink = parse("x*abs(x)")
    for hessian, right in (([[0.0]], False), ([[2.0]], False), ([[None]], True)):
        answer = found._replace(value=0.0, gradient=[0.0], hessian=hessian)
        assert (Judge(kink, [0.0]).judge(answer).wrong == []) is right
