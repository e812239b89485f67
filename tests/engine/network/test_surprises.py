"""Warnings that a network cannot learn, and silence where it can."""

import numpy as np

from tests.engine.network.building import dense, evaluate, layer, network
from tests.support import every

XOR = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGETS = np.array([[0.0], [1.0], [1.0], [0.0]])


def warnings(*layers, inputs=XOR, targets=TARGETS, loss="mean_squared_error", parameters=None, **details):
    """Return the codes of the warnings, with their layers."""
    result = evaluate(network(*layers), inputs, parameters, loss, targets, **details)
    return {(each.code, each.layer) for each in result.warnings}


def arrays(**tree):
    return {name: {key: np.array(value, float) for key, value in layer.items()} for name, layer in tree.items()}


HEALTHY = arrays(
    h={"kernel": [[1, -1, 0.5], [1, -2, 0.25]], "bias": [0.5, 1.5, 0.1]}, o={"kernel": [[1], [2], [-1]], "bias": [0]}
)


@every("activation", ["softmax", "log_softmax", "softmin"])
def test_a_row_of_one_unit_is_constant(activation):
    assert warnings(dense("o", 1, activation)) == {("constant_output", "o")}
    assert warnings(dense("o", 1), layer("s", "activation", activation=activation)) == {("constant_output", "s")}


def test_a_row_of_two_units_is_not_constant():
    assert warnings(dense("o", 2, "softmax"), targets=np.eye(2)[[0, 1, 1, 0]]) == set()


def test_a_value_that_is_normalised_by_itself_is_constant():
    assert warnings(dense("o", 1), layer("n", "layer_normalization")) == {("constant_output", "n")}
    one = {"inputs": XOR[1:2], "targets": TARGETS[1:2], "training": True}
    assert warnings(dense("o", 1), layer("n", "batch_normalization"), **one) == {("constant_output", "n")}
    grouped = layer("n", "group_normalization", groups=-1)
    assert warnings(dense("h", 3), grouped, dense("o", 1)) == {("constant_output", "n")}


def test_values_that_are_normalised_together_are_not_constant():
    assert warnings(dense("h", 3), layer("n", "layer_normalization"), dense("o", 1)) == set()
    assert warnings(dense("o", 1), layer("n", "batch_normalization"), training=True) == set()
    assert warnings(dense("o", 1), layer("n", "batch_normalization"), inputs=XOR[1:2], targets=TARGETS[1:2]) == set()


def test_a_loss_over_one_class_learns_no_two_classes():
    assert warnings(dense("o", 1), loss={"name": "categorical_crossentropy", "from_logits": True}) == {
        ("one_class", "o")
    }
    assert warnings(dense("o", 1, "sigmoid"), loss="categorical_crossentropy") == {
        ("one_class", "o"),
        ("no_probabilities", "o"),  # one share does not sum to 1
    }
    assert warnings(dense("o", 1, "sigmoid"), loss="binary_crossentropy") == set()


@every("activation", ["relu", "relu6", "hard_sigmoid", "hard_tanh", "hard_silu"])
def test_units_that_are_off_for_every_sample_are_reported(activation):
    parameters = arrays(h={"kernel": [[1, 2], [0.5, 1]], "bias": [-20, 0.5]}, o={"kernel": [[1], [2]], "bias": [0]})
    assert warnings(dense("h", 2, activation), dense("o", 1), parameters=parameters) >= {("dead_units", "h")}


@every("activation", ["sigmoid", "tanh", "leaky_relu", "elu", "softplus", "gelu", "linear"])
def test_activations_without_a_flat_part_have_no_units_that_are_off(activation):
    parameters = arrays(h={"kernel": [[1, 2], [0.5, 1]], "bias": [-20, 0.5]}, o={"kernel": [[1], [2]], "bias": [0]})
    assert warnings(dense("h", 2, activation), dense("o", 1), parameters=parameters) == set()


def test_dead_units_are_reported_for_the_layer_with_the_weights():
    parameters = arrays(h={"kernel": [[-1, 2], [-2, 1]]}, o={"kernel": [[1], [2]], "bias": [0]})
    without_bias = dense("h", 2, use_bias=False)
    after = layer("a", "activation", activation="relu")
    assert warnings(without_bias, after, dense("o", 1), parameters=parameters) == {("dead_units", "h")}


def test_units_that_some_sample_turns_on_are_not_off():
    assert warnings(dense("h", 3, "relu"), dense("o", 1), parameters=HEALTHY) == set()


def test_a_gradient_of_0_is_no_unit_that_is_off():
    """The outputs are right, so every gradient is 0. The weights out of the second unit are 0 as well."""
    parameters = HEALTHY | arrays(o={"kernel": [[1], [0], [0]], "bias": [0]})
    exact = np.maximum(XOR @ parameters["h"]["kernel"][:, :1] + 0.5, 0.0)
    assert warnings(dense("h", 3, "relu"), dense("o", 1), parameters=parameters, targets=exact) == set()
    assert warnings(dense("h", 3, "relu"), dense("o", 1), parameters=parameters) == set()


def test_single_units_that_are_off_for_one_sample_give_no_warning():
    parameters = arrays(h={"kernel": [[1, -2], [1, -1]], "bias": [0, 0]}, o={"kernel": [[1], [2]], "bias": [0]})
    one = {"inputs": XOR[3:], "targets": TARGETS[3:], "parameters": parameters}
    assert warnings(dense("h", 2, "relu"), dense("o", 1), **one) == set()
    off = parameters | arrays(h={"kernel": [[-1, -2], [-1, -1]], "bias": [0, 0]})
    assert warnings(dense("h", 2, "relu"), dense("o", 1), **one | {"parameters": off}) == {("dead_units", "h")}


@every("initializer", ["zeros", "ones"])
def test_units_with_equal_weights_in_and_out_are_reported(initializer):
    start = {"kernel_initializer": initializer}
    alike = {("symmetric_units", "h")}
    assert warnings(dense("h", 3, "tanh", **start), dense("o", 1, **start)) == alike
    assert warnings(dense("h", 40, "tanh", **start), dense("o", 1, **start)) == alike
    pooled = [
        layer("r", "reshape", target_shape=(2, 1, 1)),
        layer("h", "conv2d", filters=2, kernel_size=(1, 1), **start),
    ]
    assert warnings(*pooled, layer("p", "global_max_pooling2d"), dense("o", 1, **start)) == alike


@every("place", ["in", "bias", "out"])
def test_one_difference_is_enough_to_separate_units(place):
    parameters = arrays(h={"kernel": [[1, 1], [2, 2]], "bias": [0.5, 0.5]}, o={"kernel": [[1], [1]], "bias": [0]})
    layers = dense("h", 2, "tanh"), dense("o", 1)
    assert warnings(*layers, parameters=parameters) == {("symmetric_units", "h")}
    array = {"in": parameters["h"]["kernel"], "bias": parameters["h"]["bias"], "out": parameters["o"]["kernel"]}[place]
    array.reshape(-1)[-1] += 0.125
    assert warnings(*layers, parameters=parameters) == set()


def test_equal_outputs_and_equal_units_before_dropout_give_no_warning():
    equal = arrays(h={"kernel": [[1, 1], [2, 2]], "bias": [0, 0]}, o={"kernel": [[1], [1]], "bias": [0]})
    two = np.hstack([TARGETS, TARGETS])
    assert warnings(dense("h", 2, "tanh"), parameters={"h": equal["h"]}, targets=two) == set()
    noisy = dense("h", 2, "tanh"), layer("d", "dropout", rate=0.5), dense("o", 1)
    assert warnings(*noisy, parameters=equal, training=True) == set()


@every("seed", range(20))
def test_random_starts_are_not_alike(seed):
    for width in (2, 30, 200):
        found = warnings(dense("h", width, "tanh"), dense("g", width, "tanh"), dense("o", 1), seed=seed)
        assert found == set()
