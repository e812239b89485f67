"""Warnings of answers: blocked gradients, doubtful losses and targets, and the first value that is not finite."""

import numpy as np

from service.engine.network.activations import activations
from service.engine.network.losses import SMALLEST_LOG, SMALLEST_PROBABILITY, losses
from tests.engine.network.building import dense, evaluate, layer, network
from tests.engine.network.test_evaluate import INPUTS, TARGETS
from tests.support import every


def codes(result):
    return [(each.code, each.layer, each.quantity) for each in result.warnings]


def test_a_step_blocks_the_gradient_and_is_named():
    definition = network(dense("before", 2, "tanh"), dense("gate", 2, "step"), dense("after", 1))
    result = evaluate(definition, INPUTS, None, "mse", TARGETS)
    assert codes(result) == [("gradient_blocked", "gate", "gradient")]
    assert result.warnings[0].message == (
        "layer 'gate' blocks the gradient: the derivative of its step function is 0 everywhere, so nothing that "
        "feeds it can learn; the step activation has surrogates"
    )
    assert not result.gradients["before"]["kernel"].any() and not result.gradients["gate"]["bias"].any()
    assert result.gradients["after"]["bias"].any()


def test_a_sign_blocks_the_gradient_too():
    result = evaluate(network(dense("gate", 2, "sign"), dense("after", 1)), INPUTS, None, "mse", TARGETS)
    assert codes(result) == [("gradient_blocked", "gate", "gradient")]
    assert "its sign function" in result.warnings[0].message


@every("surrogate", ["straight_through", "clipped", "sigmoid"])
def test_surrogates_let_the_gradient_pass(surrogate):
    gate = dense("gate", 4, {"name": "step", "surrogate": surrogate})
    result = evaluate(network(gate, dense("after", 1)), INPUTS, None, "mse", TARGETS)
    assert not result.warnings
    assert result.gradients["gate"]["kernel"].any()


@every("name", [each.name for each in activations if each.name not in ("step", "sign")])
def test_no_other_activation_warns(name):
    result = evaluate(network(dense("a", 3, name), dense("b", 1)), INPUTS, None, "mse", TARGETS)
    assert not result.warnings


@every("name", [each.name for each in losses])
def test_no_loss_warns(name):
    declaration = losses[name]
    fitting = 1.0 if "hinge" in name else 0.5
    targets = np.zeros(4, int) if declaration.indices else np.full((4, 3), fitting)
    activation = "softmax" if declaration.outputs == "distributions" else "sigmoid"
    for dtype in ("float64", "float32"):
        result = evaluate(network(dense("a", 3, activation)), INPUTS, None, name, targets, dtype=dtype)
        assert not result.warnings and result.finite


@every(("name", "target"), [("hinge", 0.0), ("bce", 7.0), ("kl_divergence", -0.1), ("poisson", -1.0)])
def test_targets_that_a_loss_is_not_made_for_are_reported(name, target):
    activation = "softmax" if losses[name].outputs == "distributions" else "sigmoid"
    result = evaluate(network(dense("a", 2, activation)), INPUTS, None, name, np.full((4, 2), target))
    assert codes(result) == [("unusual_targets", "a", "targets")]


def test_outputs_that_are_no_probabilities_are_reported():
    parameters = {"a": {"kernel": [[0.0], [0.0]], "bias": [1.5]}}
    result = evaluate(network(dense("a", 1)), INPUTS, parameters, "bce", np.ones((4, 1)))
    assert not result.finite
    assert ("no_probabilities", "a", "output") in codes(result)


@every(
    ("loss", "outputs", "targets", "words"),
    [
        ("bce", [[1.5]], [[1.0]], "not all between 0 and 1, so binary_crossentropy of them means nothing; end with "
         "sigmoid, or set from_logits"),
        ("bce", [[-0.5]], [[1.0]], "not all between 0 and 1"),
        ("cce", [[2.0, 1.0]], [[1.0, 0.0]], "not all between 0 and 1, so categorical_crossentropy of them means "
         "nothing; end with softmax, or set from_logits"),
        ("scce", [[2.0, 1.0]], [0], "not all between 0 and 1"),
        ("scce", [[0.75, 0.75]], [0], "no distributions over classes (a row sums to 1.5, not to 1)"),
        ("cce", [[0.5, 0.5], [0.5, 0.25]], [[1.0, 0.0]] * 2, "(a row sums to 0.75, not to 1)"),
        ("kl_divergence", [[0.75, 0.75]], [[1.0, 0.0]], "(a row sums to 1.5, not to 1), so kl_divergence of them means "
         "nothing; end with softmax"),
    ],
)  # fmt: skip
def test_outputs_that_are_no_probabilities_are_reported_with_any_loss(loss, outputs, targets, words):
    result = evaluate(network(layer("a", "activation", activation="linear")), outputs, {}, loss, targets)
    (warning,) = [each for each in result.warnings if each.code == "no_probabilities"]
    assert (warning.layer, warning.quantity) == ("a", "output")
    assert words in warning.message and warning.message.startswith("the outputs of layer 'a' are ")
    assert "from_logits" in warning.message or loss == "kl_divergence"


@every(
    ("loss", "output", "target", "is_cut_off"),
    [
        ("bce", [0.0], [1.0], True), ("bce", [1.0], [0.0], True), ("bce", [1e-50], [0.5], True),
        ("bce", [0.0], [0.0], False), ("bce", [1.0], [1.0], False), ("bce", [1e-20], [1.0], False),
        ("cce", [0.0, 1.0], [1.0, 0.0], True), ("cce", [0.0, 1.0], [0.0, 1.0], False), ("scce", [0.0, 1.0], 0, True),
        ("scce", [0.0, 1.0], 1, False), ("kl_divergence", [0.0, 1.0], [0.5, 0.5], True),
    ],
)  # fmt: skip
def test_an_infinite_loss_that_is_cut_off_is_reported(loss, output, target, is_cut_off):
    result = evaluate(network(layer("a", "activation", activation="linear")), [output], {}, loss, [target])
    assert codes(result) == ([("cut_off_loss", "a", "loss")] if is_cut_off else [])
    assert (result.loss > 49.0) == is_cut_off
    numbers = (f"{SMALLEST_LOG:.0f}", f"{1.0 / SMALLEST_PROBABILITY:.0e}".replace("+", ""))
    assert all(number in warning.message for number in numbers for warning in result.warnings)


def test_a_saturated_sigmoid_keeps_its_loss():
    result = evaluate(network(layer("a", "activation", activation="sigmoid")), [[800.0]], {}, "bce", [[0.0]])
    assert codes(result) == [] and result.loss == 800.0


def test_negative_rates_are_reported():
    linear = network(layer("a", "activation", activation="linear"))
    result = evaluate(linear, [[-0.5], [2.0]], {}, "poisson", [[1.0], [1.0]])
    assert codes(result)[0] == ("no_rates", "a", "output")
    assert not evaluate(linear, [[-0.5]], {}, {"name": "poisson", "log_input": True}, [[1.0]]).warnings
    assert not evaluate(linear, [[0.0]], {}, "poisson", [[1.0]]).warnings


def test_rows_of_sigmoids_are_no_distributions():
    result = evaluate(network(dense("a", 3, "sigmoid")), INPUTS, None, "cce", np.eye(3)[[0, 1, 2, 0]])
    assert codes(result) == [("no_probabilities", "a", "output")]


@every("dtype", ["float64", "float32"])
@every("classes", [2, 10, 1000, 20_000])
@every("loss", ["cce", "kl_divergence"])
def test_rounding_makes_no_distribution_suspect(loss, classes, dtype):
    """Shares that went through another layer, so that nothing but their numbers is known."""
    rng = np.random.default_rng(classes)
    shares = np.exp(rng.normal(0.0, 4.0, (5, classes)))
    shares /= shares.sum(-1, keepdims=True)
    definition = network(dense("a", classes, "softmax"), layer("same", "reshape", target_shape=(classes,)))
    parameters = {"a": {"kernel": np.zeros((2, classes)), "bias": rng.normal(0.0, 4.0, classes)}}
    found = evaluate(definition, INPUTS, parameters, loss, shares[:4], dtype=dtype)
    assert not found.warnings
    typed = evaluate(network(layer("a", "activation", activation="linear")), shares, {}, loss, shares, dtype=dtype)
    assert not typed.warnings


def test_label_smoothing_makes_no_distribution_suspect():
    loss = {"name": "cce", "label_smoothing": 0.1}
    assert not evaluate(network(dense("a", 3, "softmax")), INPUTS, None, loss, np.eye(3)[[0, 1, 2, 0]]).warnings


@every("loss", ["cce", "scce"])
def test_class_weights_whose_mean_other_frameworks_define_otherwise_are_reported(loss):
    classes = np.array([0, 1, 1, 0])
    targets = classes if loss == "scce" else np.eye(2)[classes]
    definition = network(dense("a", 2, "softmax"))

    def found(weights, **details):
        result = evaluate(definition, INPUTS, None, {"name": loss, "class_weights": weights}, targets, **details)
        return [each for each in result.warnings if each.code == "normalize_weights"]

    (warning,) = found((1.0, 2.0))
    assert (warning.layer, warning.quantity) == ("a", "loss")
    assert warning.message == (
        "the class_weights of layer 'a' sum to 6 over 4 targets, and the mean divides by how many there are, as "
        "Keras's does; PyTorch's of class indices divides by the sum of their weights: set normalize_weights to true "
        "for that, or to false to keep this"
    )
    assert not found((0.5, 1.5))
    for details in ({"normalize_weights": True}, {"normalize_weights": False}, {"reduction": "sum"}):
        assert not found((1.0, 2.0), **details)


def test_class_weights_of_distributions_are_summed_by_no_framework():
    loss = {"name": "cce", "class_weights": (1.0, 2.0)}
    assert not evaluate(network(dense("a", 2, "softmax")), INPUTS, None, loss, np.full((4, 2), 0.5)).warnings


@every(("weights", "warns"), [([1, 2, 3, 4], True), ([0.5, 1.5, 1.0, 1.0], False), ([0, 0, 0, 0], False)])
def test_sample_weights_whose_mean_other_frameworks_define_otherwise_are_reported(weights, warns):
    definition = network(dense("a", 1))
    result = evaluate(definition, INPUTS, None, "mse", TARGETS, weights)
    assert codes(result) == [("normalize_weights", None, "loss")] * warns
    for details in ({"normalize_weights": True}, {"normalize_weights": False}, {"reduction": "none"}):
        if any(weights):
            assert not evaluate(definition, INPUTS, None, "mse", TARGETS, weights, **details).warnings


def test_logits_farther_apart_than_the_largest_number():
    definition = network(layer("a", "activation", activation="softmax"))
    right = evaluate(definition, [[1e308, -1e308]], {}, "scce", [0], include=("input_gradients",))
    assert right.loss == 0.0 and right.finite and not right.warnings
    assert right.input_gradients["input"].tolist() == [[0.0, 0.0]]
    wrong = evaluate(definition, [[1e308, -1e308]], {}, "scce", [1], include=("input_gradients",))
    assert wrong.loss == np.inf and not wrong.finite
    assert wrong.input_gradients["input"].tolist() == [[1.0, -1.0]]
    (warning,) = [each for each in wrong.warnings if each.code == "non_finite"]
    assert "is the first value that is not finite (infinite)" in warning.message


def test_a_norm_that_is_too_large_for_a_number_is_named():
    linear = network(dense("a", 2, use_bias=False))
    parameters = {"a": {"kernel": [[0.0, 0.0]]}}
    result = evaluate(linear, [[1.5e308]], parameters, "mae", [[1.0, 1.0]], weights=[2.0], normalize_weights=False)
    assert result.gradients["a"]["kernel"].tolist() == [[-1.5e308, -1.5e308]]
    assert np.isinf(result.gradient_norm) and not result.finite
    assert codes(result) == [("non_finite", None, "norm")]


def test_parameters_that_do_not_matter_are_named():
    definition = network(dense("used", 1), dense("idle", 2, inputs=["input"]), outputs=["used"])
    result = evaluate(definition, INPUTS, None, "mse", TARGETS, include=("layers", "per_sample"))
    assert codes(result) == [("disconnected", "idle", "gradient")] * 2
    assert [each.message for each in result.warnings] == [
        f"{name} of layer 'idle' does not influence the loss; its gradient is 0" for name in ("kernel", "bias")
    ]
    assert not result.gradients["idle"]["kernel"].any()
    assert not result.layers[1].delta.any()
    assert result.per_sample_gradients["idle"]["kernel"].shape == (4, 2, 2)
    assert not result.per_sample_gradients["idle"]["kernel"].any()


def test_idle_layers_that_are_not_trained_give_no_warning():
    definition = network(dense("used", 1), dense("idle", 2, inputs=["input"], trainable=False), outputs=["used"])
    assert not evaluate(definition, INPUTS, None, "mse", TARGETS).warnings


def test_probabilities_read_as_logits_are_reported():
    loss = {"name": "bce", "from_logits": True}
    result = evaluate(network(dense("out", 1, "sigmoid")), INPUTS, None, loss, TARGETS)
    assert codes(result) == [("probabilities_as_logits", "out", "loss")]
    assert not evaluate(network(dense("out", 1)), INPUTS, None, loss, TARGETS).warnings


# --- values that are not finite -----------------------------------------------------------------


def first_place(definition, inputs, parameters, loss=None, targets=None, **details):
    result = evaluate(definition, inputs, parameters, loss, targets, **details)
    assert not result.finite
    (warning,) = [each for each in result.warnings if each.code == "non_finite"]
    return warning


def test_the_first_layer_that_overflows_is_named():
    definition = network(dense("a", 1), dense("b", 1, "exponential"), dense("c", 1, "tanh"))
    one = {"kernel": [[1.0]], "bias": [0.0]}
    warning = first_place(definition, [[1000.0]], {"a": one, "b": one, "c": one}, include=("layers",))
    assert (warning.layer, warning.quantity) == ("b", "output")
    assert warning.message == (
        "the output of layer 'b' is the first value that is not finite (infinite); "
        "non-finite values are null in JSON lists"
    )


def test_a_pre_activation_that_overflows_is_named():
    parameters = {"a": {"kernel": [[1e300]]}, "b": {"kernel": [[1.0]], "bias": [0.0]}}
    definition = network(dense("a", 1, "tanh", use_bias=False), dense("b", 1, "tanh"))
    warning = first_place(definition, [[1e300]], parameters, include=("layers",))
    assert (warning.layer, warning.quantity) == ("a", "pre_activation")


def test_a_loss_that_overflows_is_named():
    parameters = {"a": {"kernel": [[1.0]], "bias": [0.0]}}
    warning = first_place(network(dense("a", 1)), [[1e200]], parameters, "mse", [[0.0]])
    assert (warning.layer, warning.quantity) == (None, "loss")
    assert warning.message.startswith("the loss is the first value that is not finite (infinite)")


def test_a_gradient_that_overflows_is_named():
    # The loss is finite; 1e200 times 1e200 in the gradient of the kernel is not.
    parameters = {"a": {"kernel": [[1e-200]], "bias": [0.0]}, "b": {"kernel": [[1e200]], "bias": [0.0]}}
    warning = first_place(network(dense("a", 1), dense("b", 1)), [[1e200]], parameters, "mae", [[0.0]])
    assert (warning.layer, warning.quantity) == ("a", "gradient")
    assert warning.message.startswith("the gradient of layer 'a'")


def test_not_a_number_and_infinite_are_distinguished():
    weights = np.array([1.0, -1.0])
    data = {"weights": weights, "normalize_weights": True}
    warning = first_place(network(dense("a", 1)), [[1.0], [1.0]], None, "mse", [[0.0], [0.0]], **data)
    assert warning.quantity == "loss" and "not a number" in warning.message


def test_parameters_drawn_too_large_are_not_finite():
    definition = network(dense("a", 2, kernel_initializer={"name": "uniform", "minimum": -1e308, "maximum": 1e308}))
    warning = first_place(definition, np.ones((1, 2)), None)
    assert warning.layer == "a"
