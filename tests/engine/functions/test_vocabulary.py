"""Every word of expressions: values, derivatives, conventions at kinks, and declared singularities.

Values are compared with Python's mathematics, derivatives with differences of what they are derived from, and all of
it with answers of PyTorch (scripts/record_pytorch_functions.py).
"""

import json
import math
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from service.engine.functions.compiled import checks_of
from service.engine.functions.expression import parse
from service.engine.functions.vocabulary import MOST_FACTORS, vocabulary
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph
from service.engine.graph.operations import xlogy
from tests.engine.functions.building import function, problems, results, table
from tests.engine.functions.samples import MEANINGS, SAMPLES, VARIABLES, without_samples, written
from tests.support import every

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "pytorch" / "functions.json").read_text())
WORDS = [word for word in vocabulary if word.arguments]
words = every("word", WORDS, ids=lambda word: word.name)


def test_every_word_has_samples():
    assert not without_samples(), f"add to samples.py: {without_samples()}"
    assert set(MEANINGS) == {word.name for word in WORDS}
    assert all(SAMPLES.values())


@words
def test_values(word):
    found = results(written(word), SAMPLES[word.name], VARIABLES[: word.arguments]).values
    expected = [MEANINGS[word.name](*arguments) for arguments in SAMPLES[word.name]]
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=0.0)


@words
def test_the_flat_words_are_those_without_a_derivative(word):
    slopes = results(written(word), SAMPLES[word.name], VARIABLES[: word.arguments]).gradients
    assert word.flat == (not slopes.any())


def test_the_angle_of_minus_0_is_that_of_0():
    """0/x is -0 for a negative x, and the angle of (-1, -0) would be -π."""
    assert results("atan2(0/x, sign(x))", [(-2.0,)], "x").values == pytest.approx(math.pi, rel=1e-15)


@every("name", ["pi", "e"])
def test_constants(name):
    found = results(f"{name} + 0x", [1.0, 2.0])
    assert found.values.tolist() == [getattr(math, name)] * 2
    assert not found.gradients.any()


@words
def test_other_names_mean_the_same(word):
    arguments = VARIABLES[: word.arguments]
    names = [f"({arguments[0]}) {alias} ({arguments[-1]})" for alias in word.aliases]
    if not word.operator:
        names = [f"{alias}({', '.join(arguments)})" for alias in word.aliases]
    expected = results(written(word), SAMPLES[word.name], arguments)
    for name in names:
        found = results(name, SAMPLES[word.name], arguments)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


CENTRAL = (4.0 / 5.0, -1.0 / 5.0, 4.0 / 105.0, -1.0 / 280.0)
"""Weights of the eighth order: what is left out is hundreds of times smaller than rounding."""


def differences(values, point, steps):
    """Compute the derivatives by each variable, by differences of `values` at rows of points."""
    columns = []
    for variable, step in enumerate(steps):
        moves = np.zeros((len(CENTRAL), len(point)))
        moves[:, variable] = step * np.arange(1, len(CENTRAL) + 1)
        ahead, behind = values(point + moves), values(point - moves)
        columns.append(np.tensordot(CENTRAL, ahead - behind, 1) / step)
    return np.stack(columns, -1)


@words
def test_derivatives_are_limits_of_differences(word):
    compiled = function(written(word), 8, 2, VARIABLES[: word.arguments])
    for point in table(SAMPLES[word.name]):
        found = compiled.run(point[None])
        steps = 1e-3 * np.maximum(np.abs(point), 0.05)
        gradient = differences(lambda points: compiled.run(points).values, point, steps)
        np.testing.assert_allclose(found.gradients[0], gradient, rtol=1e-10, atol=1e-11, err_msg=str(point))
        hessian = differences(lambda points: compiled.run(points).gradients, point, steps)
        np.testing.assert_allclose(found.hessians[0], hessian, rtol=1e-9, atol=1e-10, err_msg=str(point))


# --- PyTorch ------------------------------------------------------------------------------------


def assert_as_recorded(record):
    points = [answer["point"] for answer in record["answers"]]
    found = results(record["expression"], np.reshape(points, (len(points), -1)), record["variables"])
    for place, answer in enumerate(record["answers"]):
        for name, ours in zip(("value", "gradient", "hessian"), found, strict=True):
            expected = np.reshape(answer[name], ours[place].shape)
            # Entries of one gradient or Hessian round at the size of the largest of them.
            allowed = 1e-15 * np.abs(expected).max(initial=0.0)
            np.testing.assert_allclose(ours[place], expected, 1e-12, allowed, err_msg=f"{name} at {answer['point']}")


@words
def test_words_are_as_pytorch_has_them(word):
    assert word.name in RECORDED["words"], "run scripts/record_pytorch_functions.py"
    record = RECORDED["words"][word.name]
    assert len(record["answers"]) >= len(SAMPLES[word.name])
    assert_as_recorded(record)


@every("record", RECORDED["expressions"], ids=lambda record: record["expression"][:40])
def test_expressions_are_as_pytorch_has_them(record):
    assert_as_recorded(record)


# --- conventions and singularities -------------------------------------------------------------------

NAN, INF = math.nan, math.inf
CONVENTIONS = [
    ("abs(x)", (0.0,), 0.0, (0.0,)),
    ("relu(x)", (0.0,), 0.0, (0.0,)),
    ("step(x)", (0.0,), 1.0, (0.0,)),
    ("step(x)", (-0.0,), 1.0, (0.0,)),
    ("sign(x)", (0.0,), 0.0, (0.0,)),
    ("floor(x)", (2.0,), 2.0, (0.0,)),
    ("ceil(x)", (-3.0,), -3.0, (0.0,)),
    ("round(x)", (0.5,), 0.0, (0.0,)),
    ("round(x)", (1.5,), 2.0, (0.0,)),
    ("round(x)", (-2.5,), -2.0, (0.0,)),
    ("min(x, y)", (1.5, 1.5), 1.5, (0.5, 0.5)),
    ("max(x, y)", (1.5, 1.5), 1.5, (0.5, 0.5)),
    ("max(x, x)", (1.5,), 1.5, (1.0,)),
    ("mod(x, y)", (4.0, 2.0), 0.0, (1.0, -2.0)),
    ("mod(x, y)", (-1.0, 3.0), 2.0, (1.0, 1.0)),
    ("mod(x, y)", (1.0, -3.0), -2.0, (1.0, 1.0)),
    ("mod(x, y)", (1.0, 0.1), 0.09999999999999995, (1.0, -9.0)),
    ("mod(x, y)", (1e17, 3.0), 1.0, (1.0, -33333333333333333.0)),
    ("hypot(x, y)", (0.0, 0.0), 0.0, (NAN, NAN)),
    ("atan2(x, y)", (0.0, 0.0), 0.0, (NAN, NAN)),
    ("atan2(x, y)", (0.0, -2.0), math.pi, (-0.5, 0.0)),
    ("sqrt(x)", (0.0,), 0.0, (INF,)),
    ("cbrt(x)", (0.0,), 0.0, (INF,)),
    ("x^0.5", (0.0,), 0.0, (INF,)),
    ("x^0", (0.0,), 1.0, (0.0,)),
    ("x^1", (0.0,), 0.0, (1.0,)),
    ("x^2.5", (0.0,), 0.0, (0.0,)),
    ("0^x", (0.0,), 1.0, (-INF,)),
    ("0^x", (2.0,), 0.0, (0.0,)),
    ("(-2)^x", (3.0,), -8.0, (NAN,)),
    ("log(x)", (0.0,), -INF, (INF,)),
    ("acosh(x)", (1.0,), 0.0, (INF,)),
    ("1/x", (0.0,), INF, (-INF,)),
]
"""Expression, point, value and gradient: where they are a matter of convention, or not finite."""


@every(("text", "point", "value", "gradient"), CONVENTIONS)
def test_conventions(text, point, value, gradient):
    found = results(text, [point])
    np.testing.assert_array_equal(found.values, [value])
    np.testing.assert_array_equal(found.gradients, [gradient])


SINGULAR_POINTS = {
    "divide": {"pole": [(1.0, 0.0), (0.0, -0.0)]},
    "power": {
        "domain": [(-8.0, 1.0 / 3.0), (-0.1, -2.5)],
        "pole": [(0.0, -1.0), (-0.0, -0.5)],
        "vertical": [(0.0, 0.5), (0.0, 0.1)],
    },
    "pow": {"domain": [(-8.0, 0.5)], "pole": [(0.0, -3.0)], "vertical": [(0.0, 0.9)]},
    "log": {"domain": [(-1.0,), (-1e-300,)], "pole": [(0.0,)]},
    "log1p": {"domain": [(-1.0 - 1e-15,)], "pole": [(-1.0,)]},
    "log2": {"domain": [(-2.0,)], "pole": [(0.0,)]},
    "log10": {"domain": [(-2.0,)], "pole": [(-0.0,)]},
    "sqrt": {"domain": [(-1e-300,)], "vertical": [(0.0,)]},
    "cbrt": {"vertical": [(0.0,)]},
    "asin": {"domain": [(1.0 + 1e-15,), (-2.0,)], "vertical": [(1.0,), (-1.0,)]},
    "acos": {"domain": [(1.5,)], "vertical": [(1.0,), (-1.0,)]},
    "atan2": {"kink": [(0.0, 0.0)], "jump": [(0.0, -2.0), (-0.0, -1.0)]},
    "acosh": {"domain": [(0.999,)], "vertical": [(1.0,)]},
    "atanh": {"domain": [(-1.5,)], "pole": [(1.0,), (-1.0,)]},
    "relu": {"kink": [(0.0,)]},
    "step": {"jump": [(0.0,)]},
    "sign": {"jump": [(-0.0,)]},
    "abs": {"kink": [(0.0,)]},
    "floor": {"jump": [(0.0,), (-3.0,), (2e9,)]},
    "ceil": {"jump": [(0.0,), (7.0,)]},
    "round": {"jump": [(0.5,), (-1.5,)]},
    "min": {"kink": [(2.0, 2.0), (0.0, -0.0)]},
    "max": {"kink": [(2.0, 2.0)]},
    "mod": {"pole": [(1.0, 0.0)], "jump": [(4.0, 2.0), (0.0, 3.0), (-6.0, 1.5)]},
    "hypot": {"kink": [(0.0, 0.0)]},
    **{name: {"jump": [(1.0, 1.0), (0.0, -0.0)]} for name in ("less", "greater", "less_equal", "greater_equal")},
    "where": {"jump": [(0.0, 1.0, 2.0)], "kink": [(0.0, 1.5, 1.5)]},
}
"""Points at each singularity, by word and kind."""
ELSEWHERE = {
    "divide": [(0.0, 1.0)],
    "power": [(0.0, 0.0), (0.0, 1.0), (0.0, 2.0), (-2.0, 3.0), (-2.0, -3.0), (-2.0, 0.0)],
    "atan2": [(0.0, 1.0), (1.0, 0.0)],
    "round": [(0.0,), (1.0,), (-2.0,)],
    "floor": [(0.5,)],
    "hypot": [(0.0, 1.0)],
    "mod": [(5.0, 2.0), (1.0, 0.1), (1e17, 3.0)],
    "log1p": [(-0.999,), (0.0,)],
    "acosh": [(2.0,)],
}
"""Points close to singularities, or at those of other words."""


def test_every_singularity_is_tried():
    assert set(SINGULAR_POINTS) == {word.name for word in WORDS if word.singularities}
    for name, points in SINGULAR_POINTS.items():
        assert list(points) == [singularity.kind for singularity in vocabulary[name].singularities]


def singularities_at(word, points):
    """Return kinds and texts of the singularities at each point."""
    compiled = function(written(word), len(points), 1, VARIABLES[: word.arguments])
    rows = table(points)
    found = compiled.problems(rows, compiled.run(rows))
    return [{(each.kind, each.text) for each in found.get(place, ()) if each.step} for place in range(len(rows))]


@words
def test_singularities_are_reported_where_they_are(word):
    for singularity in word.singularities:
        points = SINGULAR_POINTS[word.name][singularity.kind]
        assert singularities_at(word, points) == [{(singularity.kind, singularity.text)}] * len(points)
    assert not any(singularities_at(word, [*SAMPLES[word.name], *ELSEWHERE.get(word.name, ())]))


GRID = (-1e3, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 1e3)


@words
def test_a_singularity_is_declared_wherever_there_is_no_value(word):
    points = list(product(GRID, repeat=word.arguments))
    values = results(written(word), points, VARIABLES[: word.arguments]).values
    silent = [
        point
        for point, value, found in zip(points, values, singularities_at(word, points), strict=True)
        if not math.isfinite(value) and not found
    ]
    assert not silent, f"{word.name} needs a singularity at {silent[:5]}"


@every(
    "text",
    [
        "x/2",
        "x/-0.5",
        "x/(pi/2)",
        "x^2",
        "x^0",
        "x^64",
        "x^200",
        "x^(3*2)",
        "2^x",
        "e^x",
        "(1/3)^x",
        "pow(x, 4)",
        "x^-0",
    ],
)
def test_harmless_literals_need_no_check(text):
    assert checks_of(parse(text)) == []


@every(
    ("text", "at", "kind"),
    [
        ("x^-1", 0.0, "pole"),
        ("x^0.5", -1.0, "domain"),
        ("x^(1/3)", 0.0, "vertical"),
        ("(-2)^x", 0.5, "domain"),
        ("0^x", -1.0, "pole"),
        ("1/(x - x)", 3.0, "pole"),
        ("x/0", 1.0, "pole"),
        ("x/(1 - 1)", 1.0, "pole"),
        ("pow(x, -2)", 0.0, "pole"),
        ("log(-1) + x", 1.0, "domain"),
    ],
)
def test_other_literals_do(text, at, kind):
    assert problems(text, [at], order=1) == [[kind]]


# --- the last digits ----------------------------------------------------------------------------


def value(text, *point):
    return results(text, [point], order=1).values[0]


def test_the_error_function_keeps_its_digits():
    points = np.array([1e-300, 1e-10, -1e-10, 0.1, -0.5, 0.999999, 1.0, 1.5, 3.0, 6.0, 30.0])
    expected = np.vectorize(math.erf)(points)
    np.testing.assert_allclose(results("erf(x)", points).values, expected, rtol=4e-16, atol=0.0)
    tails = np.array([0.5, 1.0, 5.0, 20.0, 26.0])
    found = results("erfc(x)", tails).values
    np.testing.assert_allclose(found, np.vectorize(math.erfc)(tails), rtol=4e-15, atol=0.0)
    assert value("erf(x)", 1e-10) == 2.0 / math.sqrt(math.pi) * 1e-10


def test_logarithms_of_powers_are_whole():
    exponents = np.arange(-300.0, 301.0)
    tens = np.array([float(f"1e{int(exponent)}") for exponent in exponents])
    np.testing.assert_array_equal(results("log10(x)", tens).values, exponents)
    np.testing.assert_array_equal(results("log2(x)", 2.0**exponents).values, exponents)
    assert value("log10(1000) + 0x", 1.0) == 3.0


def test_a_logarithm_that_is_multiplied_by_zero_is_zero():
    graph = Graph("float64")
    a, b = graph.input("a", (4,)), graph.input("b", (4,))
    node = xlogy(a, b)
    numbers = {a: np.array([0.0, 0.0, 2.0, -1.0]), b: np.array([0.0, -1.0, math.e, 1.0])}
    np.testing.assert_array_equal(interpret([node], numbers)[node], [0.0, 0.0, 2.0, -0.0])


@every("base", [1.1, -0.7, 3.3, 12.5])
def test_whole_powers_are_products(base):
    assert value("x^1", base) == base
    assert value("x^2", base) == base * base
    assert value("x^3", base) == base * base * base
    assert value("x²", base) == base * base
    assert value("pow(x, 4)", base) == (base * base) * (base * base)
    assert value("x^-1", base) == 1.0 / base
    assert value("x^-3", base) == 1.0 / (base * base * base)
    for exponent in (5, 17, MOST_FACTORS - 1, MOST_FACTORS, MOST_FACTORS + 1, 100, -7, -MOST_FACTORS, -70):
        exact = Fraction(base) ** exponent
        # Half a unit in the last place for each factor.
        error = abs(Fraction(value(f"x^{exponent}", base)) / exact - 1)
        assert error <= abs(exponent) * Fraction(1, 2**53) + Fraction(1, 2**52), exponent


def test_powers_of_whole_numbers_are_exact():
    for base, exponent in ((2, 60), (3, 33), (10, 22), (7, 18), (-3, 33)):
        assert value(f"x^{exponent}", float(base)) == float(base**exponent)


def test_anything_raised_to_zero_is_one():
    np.testing.assert_array_equal(results("x^0", [0.0, 5.0, -3.0]).values, 1.0)
    np.testing.assert_array_equal(results("x^y", [(0.0, 0.0), (-2.0, 0.0), (1e300, 0.0)]).values, 1.0)


def test_small_arguments_keep_their_digits():
    for text in ("expm1(x)", "log1p(x)", "sinh(x)", "asinh(x)", "tanh(x)", "atanh(x)", "erf(x)*sqrt(pi)/2", "tan(x)"):
        np.testing.assert_allclose(results(text, [1e-12, -1e-9]).values, [1e-12, -1e-9], rtol=1e-9, err_msg=text)


@every(("a", "b", "length"), [(3e200, 4e200, 5e200), (3e-170, 4e-170, 5e-170)])
def test_lengths_far_from_one(a, b, length):
    found = results("hypot(x, y)", [(a, b)], order=1)
    np.testing.assert_allclose(found.values, [length], rtol=1e-15)
    np.testing.assert_allclose(found.gradients, [(0.6, 0.8)], rtol=1e-15)


def assert_slopes(text, points, gradients, hessians):
    found = results(text, points)
    np.testing.assert_allclose(found.gradients, np.reshape(gradients, found.gradients.shape), rtol=2e-15)
    np.testing.assert_allclose(found.hessians, np.reshape(hessians, found.hessians.shape), rtol=2e-15)


FLAT = np.array([1e-200, 1e-8, -1e-3, 0.3, -2.0, 10.0, -10.0, 30.0, -100.0, 350.0])


def bell(x):
    """Compute the slope of the logistic function."""
    return np.exp(-np.abs(x)) / (1.0 + np.exp(-np.abs(x))) ** 2


def test_slopes_of_flattening_words_keep_their_digits():
    logistic = np.exp(np.minimum(FLAT, 0.0)) / (1.0 + np.exp(-np.abs(FLAT)))
    assert_slopes("sigmoid(x)", FLAT, bell(FLAT), -bell(FLAT) * np.tanh(FLAT / 2.0))
    assert_slopes("tanh(x)", FLAT, 4.0 * bell(2.0 * FLAT), -8.0 * bell(2.0 * FLAT) * np.tanh(FLAT))
    assert_slopes("softplus(x)", FLAT, logistic, bell(FLAT))


def test_slopes_of_inverse_functions_keep_their_digits():
    points = np.array([1e-200, 1e-12, -1e-8, 1e-4, -0.5, 0.875])
    rest = 1.0 - points**2  # loses no digits so far from 0
    assert_slopes("asin(x)", points, rest**-0.5, points * rest**-1.5)
    assert_slopes("acos(x)", points, -(rest**-0.5), -points * rest**-1.5)
    assert_slopes("atanh(x)", points, 1.0 / rest, 2.0 * points / rest**2)


@every("scale", [1e200, 1e-200])
def test_angles_far_from_one(scale):
    found = results("atan2(x, y)", [(scale, scale), (-3.0 * scale, 4.0 * scale)], order=1)
    expected = np.array([(0.5, -0.5), (0.16, 0.12)]) / scale
    np.testing.assert_allclose(found.gradients, expected, rtol=1e-15)


@every("point", [(3.0, 4.0), (1e8, 1.0), (-1e-7, 2.0), (1e-12, -5e3), (2e100, 1e60), (0.0, -2.0)])
def test_the_bend_of_a_length_keeps_its_digits(point):
    a, b = point
    length = math.hypot(a, b)
    bend = np.array([[b / length * b, -a / length * b], [-a / length * b, a / length * a]]) / length / length
    assert_slopes("hypot(x, y)", [point], [a / length, b / length], bend)


def test_remainders_are_exact():
    chance = np.random.default_rng(5)
    points = (
        chance.uniform(0.1, 10.0, (200, 2))
        * 10.0 ** chance.integers(-8, 9, (200, 2))
        * chance.choice([-1, 1], 200)[:, None]
    )
    found = results("mod(x, y)", points, order=1)
    for (a, b), remainder, gradient in zip(points.tolist(), found.values, found.gradients, strict=True):
        times = Fraction(a) // Fraction(b)
        assert remainder == float(Fraction(a) - times * Fraction(b))
        assert gradient.tolist() == [1.0, -float(times)]
