"""Activations: conventions at kinks, derivatives, digits in the tails."""

import math

import numpy as np
import pytest

from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, check, reachable
from service.engine.graph.operations import sum_over
from service.engine.network.activations import KERAS, PYTORCH, SELU_ALPHA, SELU_SCALE, activations
from tests.engine.graph.examples import STEPPED
from tests.engine.network.building import evaluate, layer, network
from tests.engine.support import dense_gradients
from tests.engine.values import idle, others
from tests.support import every

STEP = 1e-3
ELEMENTWISE = [each for each in activations if each.acts_on == "element"]
ROWS = [each for each in activations if each.acts_on == "row"]
assert {each.acts_on for each in activations} == {"element", "row"}


def name_of(declaration):
    return declaration.name


def build(name, x, **options):
    selected = activations.select(name, **options)
    slopes = [x.graph.constant(selected.options[own]) for own in selected.declaration.parameters]
    return selected.declaration.build(x, *slopes, **selected.options)


def values_of(name, points, dtype="float64", **options):
    """Return f(x) and the gradient of its sum at `points`."""
    graph = Graph(dtype)
    points = np.asarray(points, dtype)
    x = graph.input("x", points.shape)
    y = build(name, x, **options)
    slope = dense_gradients(differentiate(sum_over(y), [x]).nodes, [x])[0]
    check(graph)
    found = interpret([y, slope], {x: points})
    return found[y], found[slope]


def at(name, point, **options):
    value, slope = values_of(name, [point], **options)
    return float(value[0]), float(slope[0])


AT_KINKS = [
    ("relu", {}, 0.0, 0.0, 0.0),
    ("relu", {}, -0.0, 0.0, 0.0),
    ("leaky_relu", {}, 0.0, 0.0, 0.01),
    ("leaky_relu", {"alpha": 0.3}, 0.0, 0.0, 0.3),
    ("prelu", {}, 0.0, 0.0, 0.25),
    ("elu", {}, 0.0, 0.0, 1.0),
    ("elu", {"alpha": 0.5}, 0.0, 0.0, 0.5),
    ("selu", {}, 0.0, 0.0, SELU_SCALE * SELU_ALPHA),
    ("celu", {"alpha": 2.0}, 0.0, 0.0, 1.0),
    ("softsign", {}, 0.0, 0.0, 1.0),
    ("hard_sigmoid", {}, -3.0, 0.0, 0.0),
    ("hard_sigmoid", {}, 3.0, 1.0, 0.0),
    ("hard_sigmoid", {}, 0.0, 0.5, 1.0 / 6.0),
    ("hard_tanh", {}, -1.0, -1.0, 0.0),
    ("hard_tanh", {}, 1.0, 1.0, 0.0),
    ("relu6", {}, 0.0, 0.0, 0.0),
    ("relu6", {}, 6.0, 6.0, 0.0),
    ("hard_silu", {}, -3.0, 0.0, 0.0),
    ("hard_silu", {}, 3.0, 3.0, 1.0),
    ("hard_shrink", {}, 0.5, 0.0, 0.0),
    ("hard_shrink", {}, -0.5, 0.0, 0.0),
    ("hard_shrink", {"threshold": 0.0}, 0.0, 0.0, 0.0),
    ("soft_shrink", {}, 0.5, 0.0, 0.0),
    ("soft_shrink", {}, -0.5, 0.0, 0.0),
    ("step", {}, 0.0, 1.0, 0.0),
    ("step", {"threshold": 0.5}, 0.5, 1.0, 0.0),
    ("step", {"threshold": 0.5}, 0.25, 0.0, 0.0),
    ("step", {"surrogate": "straight_through"}, -7.0, 0.0, 1.0),
    ("step", {"surrogate": "clipped"}, 1.0, 1.0, 1.0),
    ("step", {"surrogate": "clipped"}, -1.0, 0.0, 1.0),
    ("step", {"surrogate": "clipped"}, 1.25, 1.0, 0.0),
    ("step", {"surrogate": "clipped", "threshold": 0.5}, 1.5, 1.0, 1.0),
    ("step", {"surrogate": "sigmoid"}, 0.0, 1.0, 0.25),
    ("step", {"surrogate": "sigmoid", "threshold": 2.0}, 2.0, 1.0, 0.25),
    ("sign", {}, 0.0, 0.0, 0.0),
    ("sign", {}, -3.0, -1.0, 0.0),
]
"""Name, options, point, value and slope: what PyTorch answers at kinks."""


@every(("name", "options", "point", "value", "slope"), AT_KINKS)
def test_kinks_follow_the_stated_convention(name, options, point, value, slope):
    assert at(name, point, **options) == (value, slope)


@pytest.mark.parametrize("declaration", ELEMENTWISE, ids=name_of)
def test_every_kink_has_a_stated_convention(declaration):
    points = np.arange(-32, 33) / 4.0
    (right, above), (left, below) = (values_of(declaration.name, points + side * 1e-9) for side in (1.0, -1.0))
    broken = (np.abs(above - below) > 1e-6 * (1.0 + np.abs(above))) | (
        np.abs(right - left) > 1e-6 * (1.0 + np.abs(right))
    )
    stated = {point for name, options, point, *_ in AT_KINKS if name == declaration.name and not options}
    missing = sorted(set(points[broken]) - {abs(point) for point in stated} - {-abs(point) for point in stated})
    where = (
        f"the slope of {declaration.name!r} at {missing} is compared with nothing: state it in AT_KINKS of {__file__}"
    )
    if missing and not {PYTORCH, KERAS} & set(declaration.sources):
        pytest.skip(where)
    assert not missing, where


@every("declaration", ELEMENTWISE, ids=name_of)
def test_derivatives_agree_with_central_differences(declaration):
    points = np.random.default_rng(0).uniform(-5.0, 5.0, 60)
    kinks = np.arange(-24, 25) / 4.0  # every kink there is by default is a multiple of a quarter
    points = points[np.abs(points[:, None] - kinks).min(1) > 3 * STEP]

    def f(moved):
        return values_of(declaration.name, moved)[0]

    near = f(points + STEP) - f(points - STEP)
    far = f(points + 2 * STEP) - f(points - 2 * STEP)
    expected = (8.0 * near - far) / (12.0 * STEP)
    np.testing.assert_allclose(values_of(declaration.name, points)[1], expected, rtol=1e-9, atol=1e-10)


@every("declaration", list(activations), ids=name_of)
def test_every_option_counts(declaration):
    points = np.linspace(-8.0, 8.0, 33).reshape(-1, 3)  # with every kink that there is by default
    assert idle(declaration, lambda **options: np.stack(values_of(declaration.name, points, **options)).tobytes()) == []


@every("declaration", [each for each in activations if each.quick is not None], ids=name_of)
def test_the_quick_form_has_the_same_values_and_nearly_the_same_slopes(declaration):
    points = np.linspace(-5.0, 5.0, 41)
    x = Graph("float64").input("x", points.shape)
    y = declaration.quick(x)
    (slope,) = dense_gradients(differentiate(sum_over(y), [x]).nodes, [x])
    found = interpret([y, slope], {x: points})
    value, expected = values_of(declaration.name, points)
    np.testing.assert_array_equal(found[y], value)
    np.testing.assert_allclose(found[slope], expected, rtol=1e-11)


BY_CONVENTION = ("step",)
"""Activations with the slope of a surrogate."""
OPTIONS = [
    pytest.param(declaration.name, {option.name: value}, id=f"{declaration.name} {option.name} {value}")
    for declaration in activations
    if declaration.name not in BY_CONVENTION
    for option in declaration.options
    for value in others(option)
]


@every(("name", "options"), OPTIONS)
def test_derivatives_agree_with_differences_for_any_option(name, options):
    rows = np.random.default_rng(0).uniform(-5.0, 5.0, (30, 4))
    direction = np.random.default_rng(1).uniform(0.5, 1.0, rows.shape)

    def f(by):
        return values_of(name, rows + by * STEP * direction, **options)[0].sum(-1)

    near, middle, far = (f(by) - f(-by) for by in (1, 2, 4))
    fine, coarse = (8.0 * near - middle) / (12.0 * STEP), (8.0 * middle - far) / (24.0 * STEP)
    smooth = np.abs(fine - coarse) <= 1e-8 * np.maximum(1.0, np.abs(fine))  # no kink lies between
    assert smooth.sum() >= 10
    actual = (values_of(name, rows, **options)[1] * direction).sum(-1)
    np.testing.assert_allclose(actual[smooth], fine[smooth], rtol=1e-7, atol=1e-8)


@every("declaration", ROWS, ids=name_of)
def test_rows_have_the_gradients_of_numeric_differences(declaration):
    graph = Graph("float64")
    x, cotangent = graph.input("x", (3, 4)), graph.input("cotangent", (3, 4))
    y = build(declaration.name, x)
    (gradient,) = differentiate(y, [x], cotangent).nodes
    rng = np.random.default_rng(0)
    points, directions = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    actual = interpret([gradient], {x: points, cotangent: directions})[gradient]
    expected = np.empty((3, 4))
    for index in np.ndindex(3, 4):
        moved = points.astype(complex)
        moved[index] += 1e-30j
        expected[index] = (interpret([y], {x: moved})[y] * directions).sum().imag / 1e-30
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


@every("dtype", ["float64", "float32"])
@every("declaration", list(activations), ids=name_of)
def test_shape_and_dtype_are_kept(declaration, dtype):
    for shape in ((4, 3), (2, 4, 3), (1, 1)):
        value, slope = values_of(declaration.name, np.zeros(shape), dtype)
        assert value.shape == slope.shape == shape
        assert value.dtype == slope.dtype == dtype


@every("declaration", list(activations), ids=name_of)
def test_saturated_values_and_slopes_are_finite(declaration):
    points = [[-1000.0, -745.0, 500.0, 745.0 if declaration.name == "exponential" else 1000.0]]
    value, slope = values_of(declaration.name, points)
    finite = slice(0, 3) if declaration.name == "exponential" else slice(None)
    assert np.isfinite(value[:, finite]).all()
    assert np.isfinite(slope[:, finite]).all()


@every("declaration", list(activations), ids=name_of)
def test_aliases_are_the_same_activation(declaration):
    for alias in declaration.aliases:
        assert activations[alias] is declaration
        assert alias in activations


def test_softmax_is_a_distribution_that_ignores_a_common_shift():
    rows = np.random.default_rng(0).standard_normal((2, 3, 5)) * 4.0
    values, _ = values_of("softmax", rows)
    shifted, _ = values_of("softmax", rows + 512.0)
    np.testing.assert_allclose(values.sum(-1), 1.0, rtol=1e-15)
    np.testing.assert_allclose(shifted, values, rtol=1e-12)
    np.testing.assert_array_equal(values_of("softmin", -rows)[0], values)
    np.testing.assert_allclose(np.exp(values_of("log_softmax", rows)[0]), values, rtol=1e-14)


@every(
    ("name", "point", "value", "slope"),
    [  # mpmath, 60 digits
        ("gelu", 1.0, 0.8413447460685429, 1.0833154705876864),
        ("gelu", -1.0, -0.15865525393145705, -0.0833154705876863),
        ("gelu", -5.0, -1.4332578593959695e-06, -7.146946001792295e-06),
        ("gelu", -10.0, -7.619853024160526e-23, -7.618400096464814e-22),
        ("gelu", -20.0, -5.507248237212468e-88, -1.1014360483133464e-86),
        ("gelu_tanh", 1.0, 0.8411919906082767, None),
        ("gelu_tanh", -5.0, -2.291796196629506e-07, None),
        ("mish", 1.0, 0.8650983882673103, None),
        ("mish", -30.0, -2.807286890651921e-12, None),
        ("softplus", -30.0, 9.357622968839737e-14, 9.357622968839299e-14),
        ("softplus", 25.0, 25.000000000013888, 0.9999999999861121),
        ("silu", -30.0, -2.8072868906517896e-12, -2.713710660963134e-12),
        ("silu", 25.0, 24.9999999996528, 1.0000000003333107),
        ("tanh_shrink", 1.0, 0.23840584404423512, math.tanh(1.0) ** 2),
        ("log_sigmoid", 40.0, -4.248354255291589e-18, 4.248354255291589e-18),
        ("log_sigmoid", -40.0, -40.0, 1.0),
        ("sigmoid", -40.0, 4.248354255291589e-18, 4.248354255291589e-18),
        ("exponential", 1.0, math.e, math.e),
        ("softsign", -3.0, -0.75, 0.0625),
    ],
)
def test_values_have_all_their_digits(name, point, value, slope):
    actual = at(name, point)
    # erfc(14) carries the rounding of the square of 14 in its exponent.
    rel = 1e-13 if name == "gelu" and point < -5.0 else 2e-14 if name == "gelu" else 1e-15
    assert actual[0] == pytest.approx(value, rel=rel, abs=0.0)
    if slope is not None:
        assert actual[1] == pytest.approx(slope, rel=max(rel, 4e-15), abs=0.0)


@every("declaration", [each for each in activations if each.log], ids=name_of)
def test_the_declared_logarithm_is_that_of_the_value(declaration):
    graph = Graph("float64")
    x = graph.input("x", (2, 3))
    y, log_y = build(declaration.name, x), declaration.log(x)
    points = np.array([[0.5, -1.0, 2.0], [0.0, 3.0, -2.0]])
    found = interpret([y, log_y], {x: points})
    np.testing.assert_allclose(found[log_y], np.log(found[y]), rtol=1e-14)
    far = interpret([log_y], {x: points * 1000.0})[log_y]
    assert np.isfinite(far).all() and far.min() <= -1000.0


@every("declaration", [each for each in activations if each.log_complement], ids=name_of)
def test_the_logarithm_of_the_complement(declaration):
    graph = Graph("float64")
    x = graph.input("x", (4,))
    y, log_rest = build(declaration.name, x), declaration.log_complement(x)
    found = interpret([y, log_rest], {x: np.array([0.5, -1.0, 2.0, 0.0])})
    np.testing.assert_allclose(found[log_rest], np.log1p(-found[y]), rtol=1e-14)
    assert interpret([log_rest], {x: np.full(4, 1000.0)})[log_rest].tolist() == [-1000.0] * 4


def test_log_softmax_loses_no_digits_to_a_common_shift():
    rows = np.array([[1024.0, 1023.0, 1000.0]], "float32")
    shifted, _ = values_of("log_softmax", rows, "float32")
    centred, _ = values_of("log_softmax", rows - 1024.0, "float32")
    np.testing.assert_allclose(shifted, centred, rtol=1e-6)


def test_prelu_has_one_slope_per_feature_or_one_for_all():
    definition = network(layer("p", "activation", activation="prelu"))
    inputs = [[-1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]]
    for alpha in ([0.5, 0.25, 2.0], [0.5], 0.5):
        result = evaluate(
            definition, inputs, {"p": {"alpha": alpha}}, "squared_error", np.zeros((2, 3)), reduction="sum"
        )
        x, slope = np.array(inputs), np.broadcast_to(alpha, (3,))
        output = np.where(x > 0, x, slope * x)
        np.testing.assert_array_equal(result.outputs["p"], output)
        expected = (2.0 * output * np.minimum(x, 0.0)).sum(0)
        expected = expected if np.shape(alpha) == (3,) else expected.sum()
        actual = result.gradients["p"]["alpha"]
        assert actual.shape == np.shape(alpha)
        np.testing.assert_allclose(actual.reshape(-1), np.ravel(expected), rtol=1e-15)


def test_step_functions_are_the_only_ones_whose_derivative_is_nowhere():
    """The graph marks values without a slope, so that callers can be warned."""
    silent = []
    for declaration in activations:
        x = Graph("float64").input("x", (2, 3))
        y = build(declaration.name, x)
        if all(node.operation.name in STEPPED for node in reachable([y]) if node.inputs):
            silent += [declaration.name] if y is not x else []
    assert silent == ["step", "sign"]
