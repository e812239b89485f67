"""Losses: gradients, digits of logarithms, clamps, options."""

import dataclasses
import math

import numpy as np
import pytest

from service.engine.errors import InvalidRequest
from service.engine.graph.differentiate import differentiate
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, check
from service.engine.graph.operations import sum_over
from service.engine.network.losses import Prediction, losses
from service.engine.options import Number
from tests.engine.network.building import compiled, evaluate, layer, network
from tests.engine.values import idle, others
from tests.support import every

STEP = 1e-3
CLASSES = 4


def variants():
    """Yield every loss with its defaults, and with each option alone at other values."""
    for declaration in losses:
        required = {option.name: fitting(next(option.accepted())) for option in declaration.options if option.required}
        yield pytest.param(declaration, required, id=declaration.name)
        for option in declaration.options:
            for value in map(fitting, others(option)):
                yield pytest.param(
                    declaration, required | {option.name: value}, id=f"{declaration.name} {option.name} {value}"
                )


def fitting(value):
    """Return a value in the form of the engine. A list holds a number for each class."""
    return tuple(np.linspace(value[0] + 0.5, value[0] + 2.0, CLASSES)) if isinstance(value, list) else value


VARIANTS = list(variants())


def drawn(declaration, shape, rng):
    """Draw predictions in the domain of a loss, and targets that fit it, away from kinks."""
    low, high = declaration.domain
    predictions = rng.uniform(low + 0.05 * (high - low), high - 0.05 * (high - low), shape)
    if declaration.indices:
        return predictions, rng.integers(shape[-1], size=shape[:-1])
    targets = rng.uniform(0.1, 0.9, shape)
    return predictions, targets


def graph_of(declaration, options, shape, dtype="float64"):
    graph = Graph(dtype)
    p = graph.input("p", shape)
    t = graph.input("t", shape[:-1] if declaration.indices else shape, "int64" if declaration.indices else None)
    selected = losses.select(declaration.name, **options)
    return p, t, selected.declaration.build(Prediction(p), t, **selected.options)


@every(("declaration", "options"), VARIANTS)
@every("shape", [(3, CLASSES), (2, 3, CLASSES)], ids=str)
def test_gradients_agree_with_central_differences(declaration, options, shape):
    p, t, values = graph_of(declaration, options, shape)
    (gradient,) = differentiate(sum_over(values), [p]).nodes
    check(p.graph)
    assert values.shape == shape[:1]
    predictions, targets = drawn(declaration, shape, np.random.default_rng(0))

    def total(moved):
        return interpret([values], {p: moved, t: targets})[values].sum()

    expected = np.empty(shape)
    for index in np.ndindex(shape):
        direction = np.zeros(shape)
        direction[index] = STEP
        near = total(predictions + direction) - total(predictions - direction)
        far = total(predictions + 2 * direction) - total(predictions - 2 * direction)
        expected[index] = (8.0 * near - far) / (12.0 * STEP)
    actual = interpret([gradient], {p: predictions, t: targets})[gradient]
    np.testing.assert_allclose(actual, expected, rtol=2e-7, atol=1e-9)


@every(("declaration", "options"), VARIANTS)
def test_a_sample_has_its_own_loss(declaration, options):
    """The prediction for one sample changes no loss of another sample."""
    p, t, values = graph_of(declaration, options, (3, CLASSES))
    predictions, targets = drawn(declaration, (3, CLASSES), np.random.default_rng(1))
    whole = interpret([values], {p: predictions, t: targets})[values]
    one, target, alone = graph_of(declaration, options, (1, CLASSES))
    for sample in range(3):
        single = {one: predictions[sample : sample + 1], target: targets[sample : sample + 1]}
        np.testing.assert_allclose(interpret([alone], single)[alone][0], whole[sample], rtol=1e-14)


@every("declaration", list(losses), ids=lambda declaration: declaration.name)
def test_every_option_counts(declaration):
    predictions, targets = drawn(declaration, (3, CLASSES), np.random.default_rng(0))

    def result(**options):
        fitted = {name: fitting(value) for name, value in options.items()}
        p, t, values = graph_of(declaration, fitted, (3, CLASSES))
        (gradient,) = differentiate(sum_over(values), [p]).nodes
        found = interpret([values, gradient], {p: predictions, t: targets})
        return found[values].tobytes() + found[gradient].tobytes()

    assert idle(declaration, result) == []


@every("declaration", list(losses), ids=lambda declaration: declaration.name)
def test_float32_stays_float32(declaration):
    p, t, values = graph_of(declaration, {}, (3, CLASSES), "float32")
    (gradient,) = differentiate(sum_over(values), [p]).nodes
    predictions, targets = drawn(declaration, (3, CLASSES), np.random.default_rng(0))
    given = {p: predictions.astype("float32"), t: targets if declaration.indices else targets.astype("float32")}
    found = interpret([values, gradient], given)
    assert found[values].dtype == found[gradient].dtype == "float32"


@every("declaration", list(losses), ids=lambda declaration: declaration.name)
def test_aliases_are_the_same_loss(declaration):
    assert all(losses[alias] is declaration for alias in declaration.aliases)


@every("bounds", [(0.0, 1.0), (-1.0, None), (None, 1.0), (None, None), (0.9, 1.0), (0.0, 0.9)], ids=str)
def test_an_option_is_tried_wherever_its_default_lies(bounds):
    low, high = bounds
    for default in (each for each in (low, high, 0.9, 0.0) if each is not None and (low or -9) <= each <= (high or 9)):
        option = Number(name="it", default=default, minimum=low, maximum=high)
        values = list(others(option))
        assert values and default not in values
        assert all((low is None or value >= low) and (high is None or value <= high) for value in values)
        assert any(value not in (low, high) for value in values)


# --- values -------------------------------------------------------------------------------------


def loss_of(name, predictions, targets, activation="linear", **options):
    """Return the loss of each sample, and the gradient of their sum with respect to the pre-activation."""
    definition = network(layer("out", "activation", activation=activation))
    result = evaluate(
        definition,
        predictions,
        {},
        {"name": name, **options},
        np.asarray(targets),
        include=("input_gradients",),
        reduction="none",
    )
    return result.loss, result.input_gradients["input"]


@every(
    ("name", "options", "expected"),
    [
        ("mean_squared_error", {}, (0.25 + 9.0) / 2),
        ("squared_error", {}, 9.25),
        ("half_squared_error", {}, 4.625),
        ("mean_absolute_error", {}, 1.75),
        ("huber", {}, (0.125 + 2.5) / 2),
        ("huber", {"delta": 4.0}, (0.125 + 4.5) / 2),
        ("smooth_l1", {"beta": 2.0}, (0.0625 + 2.0) / 2),
        ("smooth_l1", {"beta": 0.0}, 1.75),
        ("log_cosh", {}, (math.log(math.cosh(0.5)) + math.log(math.cosh(3.0))) / 2),
    ],
)
def test_errors_by_hand(name, options, expected):
    values, _ = loss_of(name, [[1.5, -1.0]], [[1.0, 2.0]], **options)
    np.testing.assert_allclose(values, [expected], rtol=1e-15)


@every(
    ("name", "options", "prediction", "target", "value", "slope"),
    [
        ("mean_absolute_error", {}, 2.0, 2.0, 0.0, 0.0),
        ("smooth_l1", {"beta": 0.0}, 2.0, 2.0, 0.0, 0.0),
        ("huber", {}, 1.0, 0.0, 0.5, 1.0),
        ("huber", {}, -1.0, 0.0, 0.5, -1.0),
        ("smooth_l1", {}, 1.0, 0.0, 0.5, 1.0),
        ("hinge", {}, 1.0, 1.0, 0.0, 0.0),
        ("hinge", {}, -1.0, -1.0, 0.0, 0.0),
        ("hinge", {}, 0.5, -1.0, 1.5, 1.0),
        ("squared_hinge", {}, 1.0, 1.0, 0.0, 0.0),
        ("squared_hinge", {}, 0.5, -1.0, 2.25, 3.0),
        ("poisson", {"epsilon": 0.0}, 2.0, 3.0, 2.0 - 3.0 * math.log(2.0), -0.5),
        ("poisson", {"log_input": True}, 0.0, 3.0, 1.0, -2.0),
        ("log_cosh", {}, 1000.0, 0.0, 1000.0 - math.log(2.0), 1.0),
        ("log_cosh", {}, -1000.0, 0.0, 1000.0 - math.log(2.0), -1.0),
    ],
)
def test_kinks_and_ends(name, options, prediction, target, value, slope):
    values, gradient = loss_of(name, [[prediction]], [[target]], **options)
    np.testing.assert_allclose([values[0], gradient[0, 0]], [value, slope], rtol=1e-15)


@every(
    ("logit", "target", "expected"),
    [  # mpmath, 60 digits
        (-40.0, 0.0, 4.248354255291589e-18),
        (40.0, 1.0, 4.248354255291589e-18),
        (-40.0, 1.0, 40.0),
        (0.3, 0.0, 0.8543552444685271),
        (1000.0, 0.0, 1000.0),
        (-1000.0, 1.0, 1000.0),
        (1000.0, 1.0, 0.0),
        (-1000.0, 0.0, 0.0),
    ],
)
def test_binary_crossentropy_is_exact_at_any_logit(logit, target, expected):
    away = -logit if target else logit  # the distance on the wrong side; p - t is ±σ of it, without cancelling
    slope = (1.0 - 2.0 * target) * (1.0 / (1.0 + math.exp(-away)) if away > -700.0 else 0.0)
    for activation, options in (("sigmoid", {}), ("linear", {"from_logits": True})):
        values, gradient = loss_of("binary_crossentropy", [[logit]], [[target]], activation, **options)
        assert values[0] == pytest.approx(expected, rel=1e-15, abs=0.0)
        assert gradient[0, 0] == pytest.approx(slope, rel=1e-15, abs=0.0)


@every(
    ("logits", "target", "expected"),
    [  # mpmath, 60 digits
        ([40.0, 0.0, -5.0], 1, 40.0),
        ([-700.0, 0.0, 3.0], 0, 703.0485873515737),
        ([1000.0, -1000.0, 0.0], 1, 2000.0),
        ([1000.0, -1000.0, 0.0], 0, 0.0),
        ([0.5, 0.25, -1.5], 2, 2.649266380529074),
        ([30.0, 30.0, -30.0], 0, 0.6931471805599453),
    ],
)
def test_categorical_crossentropy_is_exact_at_any_logits(logits, target, expected):
    hot = np.eye(3)[[target]]
    shares = np.exp(np.array(logits) - max(logits))
    for name, targets in (("categorical_crossentropy", hot), ("sparse_categorical_crossentropy", [target])):
        for activation, options in (("softmax", {}), ("linear", {"from_logits": True})):
            values, gradient = loss_of(name, [logits], targets, activation, **options)
            assert values[0] == pytest.approx(expected, rel=1e-14, abs=1e-17)
            np.testing.assert_allclose(gradient, [shares / shares.sum()] - hot, rtol=1e-14, atol=1e-16)


def test_a_confident_right_answer_keeps_the_digits_of_its_loss():
    values, _ = loss_of("categorical_crossentropy", [[20.0, 0.0]], [[1.0, 0.0]], "softmax")
    assert values[0] == pytest.approx(math.log1p(math.exp(-20.0)), rel=1e-7, abs=0.0)


def test_the_gradient_of_crossentropy_is_prediction_minus_target_to_the_last_bit():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((6, 1)) * 3.0
    targets = rng.integers(2, size=(6, 1)).astype(float)
    _, gradient = loss_of("binary_crossentropy", logits, targets, "sigmoid")
    np.testing.assert_allclose(gradient, 1.0 / (1.0 + np.exp(-logits)) - targets, rtol=1e-15)


def test_probabilities_of_0_and_1_are_limited_as_in_pytorch():
    values, gradient = loss_of("binary_crossentropy", [[0.0], [1.0], [0.0], [1.0]], [[1.0], [0.0], [0.0], [1.0]])
    assert values.tolist() == [100.0, 100.0, 0.0, 0.0]
    assert gradient.ravel().tolist() == [-1e12, 1e12, 1.0, -1.0]
    values, gradient = loss_of("categorical_crossentropy", [[0.0, 1.0]], [[1.0, 0.0]])
    assert values.tolist() == [100.0]
    assert gradient.tolist() == [[-1e12, 0.0]]


def test_label_smoothing_moves_the_targets():
    p = [[0.2, 0.5, 0.3]]
    smooth, gradient = loss_of("categorical_crossentropy", p, [[0.0, 1.0, 0.0]], label_smoothing=0.3)
    moved, expected = loss_of("categorical_crossentropy", p, [[0.1, 0.8, 0.1]])
    np.testing.assert_allclose(smooth, moved, rtol=1e-15)
    np.testing.assert_allclose(gradient, expected, rtol=1e-15)
    smooth, _ = loss_of("binary_crossentropy", p, [[0.0, 1.0, 0.0]], label_smoothing=0.2)
    moved, _ = loss_of("binary_crossentropy", p, [[0.1, 0.9, 0.1]])
    np.testing.assert_allclose(smooth, moved, rtol=1e-15)


def test_class_weights_multiply_the_parts_of_their_class():
    p, weights = [[0.2, 0.5, 0.3]], (2.0, 3.0, 0.5)
    values, _ = loss_of("sparse_categorical_crossentropy", p, [1], class_weights=weights)
    np.testing.assert_allclose(values, [-3.0 * math.log(0.5)], rtol=1e-15)
    values, _ = loss_of("categorical_crossentropy", p, [[0.5, 0.0, 0.5]], class_weights=weights)
    np.testing.assert_allclose(values, [-math.log(0.2) - 0.25 * math.log(0.3)], rtol=1e-15)


def test_positive_weight_multiplies_the_part_of_target_1():
    values, _ = loss_of("binary_crossentropy", [[0.2], [0.2]], [[1.0], [0.0]], positive_weight=3.0)
    np.testing.assert_allclose(values, [-3.0 * math.log(0.2), -math.log(0.8)], rtol=1e-15)


def test_class_indices_are_one_hot_rows():
    rng = np.random.default_rng(0)
    logits, indices = rng.standard_normal((3, 2, 4)), rng.integers(4, size=(3, 2))
    for options in ({}, {"label_smoothing": 0.25}, {"class_weights": (0.5, 1.0, 1.5, 2.0)}):
        sparse = loss_of("sparse_categorical_crossentropy", logits, indices, "softmax", **options)
        dense = loss_of("categorical_crossentropy", logits, np.eye(4)[indices], "softmax", **options)
        np.testing.assert_array_equal(sparse[0], dense[0])
        np.testing.assert_array_equal(sparse[1], dense[1])


def test_two_classes_are_the_binary_case():
    logits = np.random.default_rng(0).standard_normal((5, 2)) * 3.0
    classes = np.array([0, 1, 1, 0, 1])
    binary, binary_gradient = loss_of("bce", logits[:, 1:] - logits[:, :1], classes[:, None], "sigmoid")
    several, gradient = loss_of("scce", logits, classes, "softmax")
    np.testing.assert_allclose(binary, several, rtol=1e-13)
    np.testing.assert_allclose(binary_gradient, gradient[:, 1:], rtol=1e-13, atol=1e-16)


def test_divergence_is_crossentropy_minus_entropy():
    p, t = np.array([[0.2, 0.5, 0.3]]), np.array([[0.25, 0.75, 0.0]])
    divergence, slope = loss_of("kl_divergence", p, t)
    cross, expected = loss_of("categorical_crossentropy", p, t)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    np.testing.assert_allclose(divergence, cross - entropy, rtol=1e-14)
    np.testing.assert_array_equal(slope, expected)
    np.testing.assert_allclose(loss_of("kl_divergence", p, p)[0], [0.0], atol=1e-16)


def test_cosine_similarity_of_parallel_orthogonal_and_zero_vectors():
    values, gradient = loss_of(
        "cosine_similarity", [[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]], [[6.0, 8.0], [1.0, 0.0], [1.0, 1.0]]
    )
    np.testing.assert_allclose(values, [-1.0, 0.0, 0.0], atol=1e-15)
    np.testing.assert_allclose(gradient[:2], [[0.0, 0.0], [-0.5, 0.0]], atol=1e-15)
    assert np.isfinite(gradient).all()


def test_positions_of_a_sample_are_averaged_where_classes_are_summed():
    rng = np.random.default_rng(0)
    logits, indices = rng.standard_normal((2, 3, 4)), rng.integers(4, size=(2, 3))
    whole, _ = loss_of("scce", logits, indices, "softmax")
    flat, _ = loss_of("scce", logits.reshape(6, 4), indices.ravel(), "softmax")
    np.testing.assert_allclose(whole, flat.reshape(2, 3).mean(1), rtol=1e-14)


def test_crossentropy_after_another_activation_takes_its_probabilities():
    x = np.array([[0.3, 2.0]])
    values, _ = loss_of("binary_crossentropy", x, [[1.0, 0.0]], "hard_sigmoid")
    p = x / 6.0 + 0.5
    np.testing.assert_allclose(values, [-(math.log(p[0, 0]) + math.log(1.0 - p[0, 1])) / 2.0], rtol=1e-15)


# --- refusals -----------------------------------------------------------------------------------


def refusal(loss, targets, units=3, **details):
    definition = network(layer("out", "dense", units=units))
    with pytest.raises(InvalidRequest) as caught:
        compiled(definition, np.zeros((4, 2)), loss, targets=np.zeros(targets), **details)
    (fault,) = caught.value.faults
    return dataclasses.astuple(fault)[:2]


def test_class_weights_that_do_not_fit_are_refused():
    path, detail = refusal({"name": "scce", "class_weights": (1.0, 2.0)}, (4,))
    assert path == ("loss", "out", "class_weights")
    assert detail == "2 class weights came; layer 'out' has 3 outputs"


@every(
    ("loss", "targets", "words"),
    [
        ("mse", (4, 2), "targets have shape [4, 2]; they take [4, 3], the shape of the output of layer 'out'"),
        ("mse", (5, 3), "they take [4, 3]"),
        ("scce", (4, 3), "they take [4]: one class index for each distribution that layer 'out' gives"),
        ("cce", (4,), "for class indices use the loss sparse_categorical_crossentropy"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss, targets, words):
    path, detail = refusal(loss, targets)
    assert path == ("targets", "out")
    assert words in detail


def test_a_flat_list_of_targets_for_one_output_is_explained():
    assert refusal("mse", (4,), units=1)[1].endswith("; put each target in a list of its own")
