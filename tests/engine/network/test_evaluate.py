"""Evaluations: gradients of networks, the other contents of answers, limits, and runs from many threads."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.engine.arrays import norm
from service.engine.errors import DeadlineExceeded, LimitExceeded
from service.engine.limits import Limits
from service.engine.network.activations import activations
from service.engine.network.definition import INPUT
from service.engine.network.evaluate import compile_task
from service.engine.network.feed import Feed
from service.engine.network.losses import losses
from service.engine.network.task import Task
from tests.engine.network.building import as_arrays, compiled, dense, evaluate, layer, network, run, task_for
from tests.engine.support import random_examples
from tests.support import every
from tests.watches import Looks

# The first or second derivative of these jumps somewhere. Central differences across the jump are wrong.
KINKED = {
    "step", "sign", "relu", "leaky_relu", "prelu", "elu", "selu", "celu", "softsign", "hard_sigmoid", "hard_tanh",
    "relu6", "hard_silu", "hard_shrink", "soft_shrink",
}  # fmt: skip
SMOOTH = [each.name for each in activations if each.name not in KINKED]
# The last layer that fits the domain of a loss, and the targets that the loss takes.
HEADS = {
    "mean_squared_error": ("linear", "real"),
    "half_squared_error": ("tanh", "real"),
    "log_cosh": ("tanh", "real"),
    "binary_crossentropy": ("sigmoid", "share"),
    "categorical_crossentropy": ("softmax", "distribution"),
    "sparse_categorical_crossentropy": ("softmax", "index"),
    "kl_divergence": ("softmax", "distribution"),
    "poisson": ("softplus", "share"),
    "cosine_similarity": ("linear", "real"),
}


def drawn_targets(kind, shape, rng):
    match kind:
        case "index":
            return rng.integers(shape[-1], size=shape[:-1])
        case "share":
            return rng.uniform(0.1, 0.9, shape)
        case "distribution":
            parts = rng.uniform(0.1, 1.0, shape)
            return parts / parts.sum(-1, keepdims=True)
    return rng.standard_normal(shape)


@st.composite
def random_networks(draw, smooth=True):
    """Draw a network with branches, merges and shared layers, a loss, and targets for it."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    samples, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    names = SMOOTH if smooth else [each.name for each in activations if each.name not in ("step", "sign")]
    parts, same = [], ["input"]  # layers whose outputs have `width` features
    for position in range(draw(st.integers(0, 5))):
        name, source = f"l{position}", draw(st.sampled_from(same))
        kind = draw(st.sampled_from(["dense", "dense", "shared", "add", "multiply", "concatenate", "activation"]))
        activation = draw(st.sampled_from([each for each in names if each != "exponential"]))
        # Others may share a layer that takes `width` features and has a bias.
        owners = [part.name for part in parts if part.inputs and part.layer.options.get("use_bias")]
        if kind == "shared" and owners and activation != "prelu":
            parts.append(dense(name, width, activation, inputs=[source], shares=draw(st.sampled_from(owners))))
        elif kind in ("add", "multiply"):
            parts.append(layer(name, kind, inputs=[source, draw(st.sampled_from(same))]))
        elif kind == "concatenate":
            parts.append(layer(name, kind, inputs=[source, draw(st.sampled_from(same))]))
            name += "d"
            parts.append(dense(name, width, activation))
        elif kind == "activation":
            parts.append(layer(name, "activation", activation=activation, inputs=[source]))
        else:
            regularizer = draw(st.sampled_from([None, "l2"]))
            bias = draw(st.booleans())
            parts.append(dense(name, width, activation, inputs=[source], use_bias=bias, kernel_regularizer=regularizer))
        same.append(name)
    loss = draw(st.sampled_from(sorted(HEADS)))
    head, kind = HEADS[loss]
    units = draw(st.integers(2, 3))
    parts.append(dense("out", units, head, inputs=[same[-1]]))
    return {
        "definition": network(*parts, outputs=["out"]),
        "inputs": rng.standard_normal((samples, width)),
        "loss": loss,
        "targets": drawn_targets(kind, (samples, units), rng),
        "weights": draw(st.sampled_from([None, rng.uniform(0.2, 2.0, samples)])),
        "reduction": draw(st.sampled_from(["mean", "sum"])),
        "normalize_weights": draw(st.booleans()),
    }


def moved(tree, direction, by):
    return {
        name: {own: array + by * direction[name][own] for own, array in arrays.items()} for name, arrays in tree.items()
    }


@given(random_networks())
@random_examples(max_examples=150)
def test_gradients_are_the_slope_of_the_loss_in_any_direction(case):
    definition = case.pop("definition")
    result = evaluate(definition, include=("input_gradients",), **case)
    parameters, inputs = result.parameters, case.pop("inputs")
    arguments = {"targets": case["targets"], "weights": case["weights"]}
    evaluation = compiled(definition, inputs, **case)
    rng = np.random.default_rng(0)
    directions = {
        name: {own: rng.standard_normal(array.shape) for own, array in arrays.items()}
        for name, arrays in parameters.items()
    }
    sideways = rng.standard_normal(inputs.shape)

    def loss(by):
        return float(run(evaluation, inputs + by * sideways, moved(parameters, directions, by), **arguments).loss)

    def slope(step):
        return (8.0 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))) / (12.0 * step)

    expected, coarser = slope(2e-4), slope(4e-4)
    products = [
        (result.gradients[name][own] * direction).sum()
        for name, arrays in directions.items()
        for own, direction in arrays.items()
    ]
    products.append((result.input_gradients["input"] * sideways).sum())
    scale = max(1.0, abs(float(result.loss)), *map(abs, products))
    assume(scale < 100.0)  # next to a vector of length 0 the cosine bends too sharply for differences
    # Where the loss bends sharply, the differences show how inexact they are.
    assert sum(products) == pytest.approx(expected, rel=0.0, abs=1e-7 * scale + 3.0 * abs(coarser - expected))


@given(random_networks(smooth=False))
@random_examples(max_examples=150)
def test_gradients_of_samples_add_up(case):
    definition = case.pop("definition")
    result = evaluate(definition, include=("per_sample", "input_gradients"), **case)
    samples = len(case["inputs"])
    divisor = 1.0
    if case["reduction"] == "mean":
        divisor = float(samples)
        if case["normalize_weights"] and case["weights"] is not None:
            divisor = case["weights"].sum()
    np.testing.assert_allclose(result.per_sample_loss.sum() / divisor, result.data_loss, rtol=1e-12, atol=1e-14)
    penalties = {part.name for part in definition.layers if part.layer.options.get("kernel_regularizer")}
    for name, arrays in result.per_sample_gradients.items():
        for own, array in arrays.items():
            assert array.shape == (samples, *result.gradients[name][own].shape)
            whole = array.sum(0) / divisor
            if name in penalties and own == "kernel":
                whole = whole + 0.02 * result.parameters[name][own]
            np.testing.assert_allclose(
                result.gradients[name][own], whole, rtol=1e-9, atol=1e-10 * max(1, abs(array).max())
            )


@given(random_networks(smooth=False))
@random_examples(max_examples=100)
def test_gradients_of_a_sample_are_those_of_a_batch_of_one(case):
    definition = case.pop("definition")
    case |= {"reduction": "sum", "normalize_weights": False}
    result = evaluate(definition, include=("per_sample",), **case)
    for sample in range(len(case["inputs"])):
        alone = evaluate(
            definition,
            case["inputs"][sample : sample + 1],
            result.parameters,
            case["loss"],
            case["targets"][sample : sample + 1],
            None if case["weights"] is None else case["weights"][sample : sample + 1],
            reduction="sum",
        )
        np.testing.assert_allclose(result.per_sample_loss[sample], alone.data_loss, rtol=1e-11, atol=1e-14)
        penalized = {p.name for p in definition.layers if p.layer.options.get("kernel_regularizer")}
        for name, arrays in result.per_sample_gradients.items():
            for own, array in arrays.items():
                expected = alone.gradients[name][own]
                if name in penalized and own == "kernel":
                    expected = expected - 0.02 * result.parameters[name][own]
                np.testing.assert_allclose(array[sample], expected, rtol=1e-9, atol=1e-10 * max(1, abs(expected).max()))


# --- a network by hand --------------------------------------------------------------------------

XOR = network(dense("hidden", 2, "sigmoid"), dense("out", 1, "sigmoid"))
INPUTS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TARGETS = np.array([[0.0], [1.0], [1.0], [0.0]])
PARAMETERS = {
    "hidden": {"kernel": [[0.5, -1.0], [0.25, 2.0]], "bias": [0.1, -0.2]},
    "out": {"kernel": [[1.5], [-0.75]], "bias": [0.3]},
}
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0])


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def xor(loss="half_squared_error", **details):
    return evaluate(XOR, INPUTS, PARAMETERS, loss, TARGETS, **details)


def backpropagation():
    """Compute by the textbook, for half the squared error summed over samples."""
    w, b = np.array(PARAMETERS["hidden"]["kernel"]), np.array(PARAMETERS["hidden"]["bias"])
    v, c = np.array(PARAMETERS["out"]["kernel"]), np.array(PARAMETERS["out"]["bias"])
    z1 = INPUTS @ w + b
    a1 = sigmoid(z1)
    z2 = a1 @ v + c
    a2 = sigmoid(z2)
    d2 = (a2 - TARGETS) * a2 * (1.0 - a2)
    d1 = (d2 @ v.T) * a1 * (1.0 - a1)
    return z1, a1, z2, a2, d1, d2, w, v


def test_layers_deltas_and_gradients_are_those_of_the_textbook():
    z1, a1, z2, a2, d1, d2, w, _ = backpropagation()
    result = xor(include=("layers", "input_gradients", "per_sample"), reduction="sum")
    hidden, out = result.layers
    assert (hidden.name, hidden.type, hidden.shape) == ("hidden", "dense", (2,))
    assert (out.name, out.type, out.shape) == ("out", "dense", (1,))
    for actual, expected in (
        (hidden.pre_activation, z1),
        (hidden.output, a1),
        (hidden.delta, d1),
        (out.pre_activation, z2),
        (out.output, a2),
        (out.delta, d2),
        (result.gradients["hidden"]["kernel"], INPUTS.T @ d1),
        (result.gradients["hidden"]["bias"], d1.sum(0)),
        (result.gradients["out"]["kernel"], a1.T @ d2),
        (result.gradients["out"]["bias"], d2.sum(0)),
        (result.input_gradients["input"], d1 @ w.T),
        (result.per_sample_loss, 0.5 * ((a2 - TARGETS) ** 2).ravel()),
        (result.per_sample_gradients["out"]["kernel"], a1[:, :, None] * d2[:, None, :]),
        (result.per_sample_gradients["hidden"]["bias"], d1),
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-17)
    assert hidden.norms == pytest.approx(
        {"pre_activation": np.linalg.norm(z1), "output": np.linalg.norm(a1), "delta": np.linalg.norm(d1)}, rel=1e-13
    )
    assert result.loss == pytest.approx(0.5 * ((a2 - TARGETS) ** 2).sum(), rel=1e-14)


def test_an_answer_holds_only_what_the_task_includes():
    result = xor()
    assert (result.layers, result.input_gradients, result.per_sample_loss, result.per_sample_gradients) == (None,) * 4
    assert result.parameters is None and result.finite and not result.warnings


def test_a_forward_pass_has_outputs_and_nothing_of_a_loss():
    result = evaluate(XOR, INPUTS, PARAMETERS, include=("layers",))
    np.testing.assert_allclose(result.outputs["out"], backpropagation()[3], rtol=1e-14)
    assert result.loss is None and not result.gradients and result.gradient_norm is None
    assert [each.delta for each in result.layers] == [None, None]


def test_the_activation_of_a_layer_may_be_a_layer_of_its_own():
    split = network(
        dense("hidden", 2),
        layer("s", "activation", activation="sigmoid"),
        dense("out", 1),
        layer("t", "activation", activation="sigmoid"),
    )
    result = evaluate(split, INPUTS, PARAMETERS, "bce", TARGETS, include=("layers",))
    whole = xor("bce", include=("layers",))
    np.testing.assert_allclose(result.loss, whole.loss, rtol=1e-14)
    for name in ("hidden", "out"):
        np.testing.assert_allclose(result.gradients[name]["kernel"], whole.gradients[name]["kernel"], rtol=1e-12)
    assert [each.name for each in result.layers] == ["hidden", "s", "out", "t"]
    np.testing.assert_allclose(result.layers[0].delta, whole.layers[0].delta, rtol=1e-12)


def test_results_belong_to_the_caller():
    evaluation = compiled(XOR, INPUTS, "mse", targets=TARGETS, include=("layers", "per_sample", "input_gradients"))
    first = run(evaluation, INPUTS, PARAMETERS, TARGETS)
    kept = first.gradients["out"]["kernel"].copy(), first.outputs["out"].copy(), first.per_sample_loss.copy()
    run(evaluation, INPUTS + 1.0, PARAMETERS, TARGETS)
    np.testing.assert_array_equal(first.gradients["out"]["kernel"], kept[0])
    np.testing.assert_array_equal(first.outputs["out"], kept[1])
    np.testing.assert_array_equal(first.per_sample_loss, kept[2])


def test_the_norm_is_over_all_gradients():
    result = xor()
    whole = np.concatenate([array.ravel() for arrays in result.gradients.values() for array in arrays.values()])
    assert result.gradient_norm == pytest.approx(np.linalg.norm(whole), rel=1e-14)


def test_norms_neither_overflow_nor_underflow():
    with np.errstate(all="ignore"):
        assert norm(np.array([3e200, 4e200])) == pytest.approx(5e200)
    assert norm(np.array([3e-200, 4e-200])) == pytest.approx(5e-200)
    assert norm(np.array([[3.0], [4.0]])) == 5.0
    assert norm(np.array([3e30, 4e30], "float32")) == pytest.approx(5e30, rel=1e-6)
    assert norm(np.zeros(3)) == norm(np.zeros(0)) == 0.0
    with np.errstate(all="ignore"):
        assert math.isinf(norm(np.array([1.0, np.inf])))
        assert math.isnan(norm(np.array([1.0, np.nan])))


# --- reductions and weights ---------------------------------------------------------------------


@every("weights", [None, WEIGHTS])
def test_reductions(weights):
    each = 0.5 * ((backpropagation()[3] - TARGETS) ** 2).ravel() * (1.0 if weights is None else weights)
    none = xor(reduction="none", weights=weights)
    total = xor(reduction="sum", weights=weights)
    mean = xor(reduction="mean", weights=weights)
    np.testing.assert_allclose(none.loss, each, rtol=1e-14)
    np.testing.assert_allclose(none.data_loss, each, rtol=1e-14)
    np.testing.assert_allclose(total.loss, each.sum(), rtol=1e-14)
    np.testing.assert_allclose(mean.loss, each.mean(), rtol=1e-14)
    for name, arrays in total.gradients.items():
        for own, array in arrays.items():
            np.testing.assert_array_equal(none.gradients[name][own], array)
            np.testing.assert_allclose(mean.gradients[name][own], array / 4.0, rtol=1e-14)


def test_normalized_means_divide_by_the_weights():
    plain, normalized = xor(weights=WEIGHTS), xor(weights=WEIGHTS, normalize_weights=True)
    np.testing.assert_allclose(normalized.loss, plain.loss * 4.0 / WEIGHTS.sum(), rtol=1e-14)
    unweighted = xor(normalize_weights=True)
    assert unweighted.loss == xor().loss
    doubled = xor(weights=2.0 * WEIGHTS, normalize_weights=True)
    np.testing.assert_allclose(doubled.loss, normalized.loss, rtol=1e-14)
    np.testing.assert_allclose(doubled.gradients["out"]["bias"], normalized.gradients["out"]["bias"], rtol=1e-14)


def test_normalizing_changes_no_sum():
    assert (
        xor(weights=WEIGHTS, reduction="sum", normalize_weights=True).loss == xor(weights=WEIGHTS, reduction="sum").loss
    )


def test_a_sample_of_weight_0_leaves_no_trace():
    weights = np.array([1.0, 1.0, 1.0, 0.0])
    result = xor(weights=weights, reduction="sum", include=("input_gradients",))
    without = evaluate(XOR, INPUTS[:3], PARAMETERS, "half_squared_error", TARGETS[:3], reduction="sum")
    np.testing.assert_allclose(result.gradients["hidden"]["kernel"], without.gradients["hidden"]["kernel"], rtol=1e-13)
    assert not result.input_gradients["input"][3].any()


def test_an_integer_weight_is_a_repeated_sample():
    twice = np.concatenate([INPUTS, INPUTS[1:2]]), np.concatenate([TARGETS, TARGETS[1:2]])
    weighted = xor(weights=np.array([1.0, 2.0, 1.0, 1.0]), normalize_weights=True)
    repeated = evaluate(XOR, twice[0], PARAMETERS, "half_squared_error", twice[1])
    np.testing.assert_allclose(weighted.loss, repeated.loss, rtol=1e-14)
    np.testing.assert_allclose(weighted.gradients["out"]["kernel"], repeated.gradients["out"]["kernel"], rtol=1e-13)


@every("targets", [[0, 2, 1, 2], [[0, 1], [2, 2], [1, 0], [0, 0]]])
def test_normalized_means_count_class_weights_too(targets):
    targets, classes = np.array(targets), np.array([0.5, 2.0, 3.0])
    inputs = np.random.default_rng(0).standard_normal((*targets.shape, 3))
    definition = network(layer("out", "activation", activation="softmax"))
    loss = {"name": "scce", "class_weights": tuple(classes)}
    carried = classes[targets].reshape(4, -1).mean(1)
    total = evaluate(definition, inputs, {}, loss, targets, WEIGHTS, reduction="sum").loss
    mean = evaluate(definition, inputs, {}, loss, targets, WEIGHTS, normalize_weights=True).loss
    np.testing.assert_allclose(mean, total / (carried * WEIGHTS).sum(), rtol=1e-14)
    alone = evaluate(definition, inputs, {}, loss, targets, normalize_weights=True).loss
    unweighted = evaluate(definition, inputs, {}, loss, targets, reduction="sum").loss
    np.testing.assert_allclose(alone, unweighted / carried.sum(), rtol=1e-14)


def test_class_weights_of_1_change_nothing_for_several_outputs():
    both = network(dense("a", 2, "softmax"), dense("b", 2, "softmax", inputs=["input"]), outputs=["a", "b"])
    targets = {"a": np.array([0, 1, 1, 0]), "b": np.array([1, 1, 0, 0])}
    weighted = {"name": "scce", "class_weights": (1.0, 1.0)}
    plain = evaluate(both, INPUTS, None, "scce", targets, normalize_weights=True)
    result = evaluate(both, INPUTS, plain.parameters, weighted, targets, normalize_weights=True)
    np.testing.assert_allclose(result.loss, plain.loss, rtol=1e-14)


def test_losses_of_several_outputs_add_up():
    parts = dense("trunk", 3, "tanh"), dense("a", 1, inputs=["trunk"]), dense("b", 2, inputs=["trunk"])
    both = network(*parts, outputs=["b", "a"])
    targets = {"a": TARGETS, "b": np.ones((4, 2))}
    result = evaluate(both, INPUTS, None, "mse", targets, include=("per_sample",))
    assert list(result.outputs) == ["b", "a"]
    parameters = result.parameters
    single = [
        evaluate(network(*parts, outputs=[name]), INPUTS, parameters, "mse", targets[name]) for name in ("a", "b")
    ]
    np.testing.assert_allclose(result.loss, single[0].loss + single[1].loss, rtol=1e-14)
    np.testing.assert_allclose(
        result.gradients["trunk"]["kernel"],
        single[0].gradients["trunk"]["kernel"] + single[1].gradients["trunk"]["kernel"],
        rtol=1e-12,
    )
    np.testing.assert_allclose(result.per_sample_loss.mean(), result.loss, rtol=1e-14)


# --- regularization and trainability ------------------------------------------------------------


def test_regularization_loss_and_data_loss_are_separate():
    parts = (
        dense("hidden", 2, "sigmoid", kernel_regularizer={"name": "l1_l2", "l1": 0.5, "l2": 0.25}),
        dense("out", 1, "sigmoid", bias_regularizer={"name": "l2", "l2": 2.0}),
    )
    result = evaluate(network(*parts), INPUTS, PARAMETERS, "half_squared_error", TARGETS, include=("per_sample",))
    plain = xor()
    w, c = np.array(PARAMETERS["hidden"]["kernel"]), np.array(PARAMETERS["out"]["bias"])
    penalty = 0.5 * np.abs(w).sum() + 0.25 * (w**2).sum() + 2.0 * (c**2).sum()
    np.testing.assert_allclose(result.data_loss, plain.loss, rtol=1e-15)
    np.testing.assert_allclose(result.regularization_loss, penalty, rtol=1e-14)
    np.testing.assert_allclose(result.loss, plain.loss + penalty, rtol=1e-14)
    np.testing.assert_allclose(
        result.gradients["hidden"]["kernel"],
        plain.gradients["hidden"]["kernel"] + 0.5 * np.sign(w) + 0.5 * w,
        rtol=1e-13,
    )
    np.testing.assert_allclose(result.gradients["out"]["bias"], plain.gradients["out"]["bias"] + 4.0 * c, rtol=1e-13)
    # Penalties belong to no sample.
    np.testing.assert_allclose(
        result.per_sample_gradients["hidden"]["kernel"].mean(0), plain.gradients["hidden"]["kernel"], rtol=1e-12
    )


def test_without_regularizers_the_regularization_is_0():
    assert xor().regularization_loss == 0.0


def test_the_unreduced_loss_holds_no_penalty_but_its_gradient_does():
    definition = network(dense("out", 1, kernel_regularizer={"name": "l2", "l2": 0.5}, use_bias=False))
    result = evaluate(definition, [[1.0], [2.0]], {"out": {"kernel": [[3.0]]}}, "mse", [[3.0], [6.0]], reduction="none")
    assert result.loss.tolist() == [0.0, 0.0]
    assert result.regularization_loss == 4.5
    assert result.gradients["out"]["kernel"].tolist() == [[3.0]]


def test_layers_that_are_not_trained_have_no_gradients():
    frozen = network(dense("hidden", 2, "sigmoid", trainable=False), dense("out", 1, "sigmoid"))
    result = evaluate(
        frozen, INPUTS, PARAMETERS, "half_squared_error", TARGETS, include=("layers", "per_sample", "input_gradients")
    )
    plain = xor(include=("layers", "input_gradients"))
    assert list(result.gradients) == ["out"]
    assert list(result.per_sample_gradients) == ["out"]
    np.testing.assert_array_equal(result.gradients["out"]["kernel"], plain.gradients["out"]["kernel"])
    np.testing.assert_allclose(result.layers[0].delta, plain.layers[0].delta, rtol=1e-14)
    np.testing.assert_allclose(result.input_gradients["input"], plain.input_gradients["input"], rtol=1e-14)


def test_a_network_without_trained_parameters_has_a_gradient_of_length_0():
    frozen = network(dense("out", 1, trainable=False))
    result = evaluate(frozen, INPUTS, None, "mse", TARGETS, include=("per_sample",))
    assert result.gradients == {} and result.gradient_norm == 0.0
    assert result.per_sample_gradients == {} and result.per_sample_loss.shape == (4,)


# --- dropout ------------------------------------------------------------------------------------

DROPPED = network(layer("drop", "dropout", rate=0.25), dense("out", 3, use_bias=False))
MANY = np.ones((50, 40))
KERNEL = {"out": {"kernel": np.random.default_rng(0).standard_normal((40, 3))}}


def dropped(seed, **details):
    return evaluate(
        DROPPED, MANY, KERNEL, "mse", np.zeros((50, 3)), seed=seed, training=True, include=("layers",), **details
    )


def test_dropout_follows_from_the_seed():
    first, again, other = dropped(1), dropped(1), dropped(2)
    np.testing.assert_array_equal(first.layers[0].output, again.layers[0].output)
    np.testing.assert_array_equal(first.gradients["out"]["kernel"], again.gradients["out"]["kernel"])
    assert (first.layers[0].output != other.layers[0].output).any()


def test_dropout_scales_what_it_keeps():
    kept = dropped(1).layers[0].output
    assert set(np.unique(kept)) == {0.0, 1.0 / 0.75}
    assert (kept > 0).mean() == pytest.approx(0.75, abs=0.05)


def test_the_gradient_passes_the_same_mask():
    result = dropped(1)
    mask = result.layers[0].output
    predicted = mask @ KERNEL["out"]["kernel"]
    expected = mask.T @ (2.0 * predicted / 150.0)
    np.testing.assert_allclose(result.gradients["out"]["kernel"], expected, rtol=1e-12, atol=1e-15)


def test_each_dropout_layer_and_each_dtype_has_its_mask():
    twice = network(
        layer("a", "dropout", rate=0.5), layer("b", "dropout", rate=0.5, inputs=["input"]), outputs=["a", "b"]
    )
    result = evaluate(twice, MANY, {}, training=True)
    assert (result.outputs["a"] != result.outputs["b"]).any()
    single = evaluate(twice, MANY, {}, training=True, dtype="float32")
    np.testing.assert_array_equal(single.outputs["a"], result.outputs["a"])


def test_samples_keep_their_masks_in_per_sample_gradients():
    definition = network(layer("drop", "dropout", rate=0.5), dense("hidden", 3, "tanh"), dense("out", 2))
    targets = np.zeros((50, 2))
    result = evaluate(definition, MANY, None, "mse", targets, training=True, include=("per_sample",), seed=7)
    for name, arrays in result.per_sample_gradients.items():
        for own, array in arrays.items():
            np.testing.assert_allclose(array.mean(0), result.gradients[name][own], rtol=1e-11, atol=1e-15)


def test_the_seed_draws_masks_apart_from_parameters():
    definition = network(layer("drop", "dropout", rate=0.25), dense("out", 3, use_bias=False))
    drawn = evaluate(definition, MANY, None, "mse", np.zeros((50, 3)), seed=1, training=True, include=("layers",))
    np.testing.assert_array_equal(drawn.layers[0].output, dropped(1).layers[0].output)


# --- numbers ---------------------------------------------------------------------------------------


def test_norms_of_large_and_tiny_numbers():
    linear = network(dense("a", 2, use_bias=False))
    for scale in (1e200, 1e-200, 1e308):
        kernel = {"a": {"kernel": [[0.0, 0.0]]}}
        result = evaluate(
            linear, [[1.0]], kernel, "half_squared_error", [[0.6 * scale, 0.8 * scale]], include=("layers",)
        )
        assert result.gradient_norm == pytest.approx(scale, rel=1e-15)
        assert result.layers[0].norms["delta"] == pytest.approx(scale, rel=1e-15)


def test_layers_that_compute_the_same_have_deltas_of_their_own():
    both = network(dense("a", 2), dense("b", 2, inputs=["input"], shares="a"), layer("s", "add", inputs=["a", "b"]))
    result = evaluate(both, INPUTS, None, "mse", np.ones((4, 2)), include=("layers",))
    a, b, s = result.layers
    np.testing.assert_array_equal(a.delta, s.delta)
    np.testing.assert_array_equal(b.delta, s.delta)


# --- limits, deadlines, threads, caching --------------------------------------------------------


def exceeded(limits, definition=XOR, **details):
    task = task_for(definition, INPUTS, "mse", TARGETS, **details)
    with pytest.raises(LimitExceeded) as caught:
        compile_task(task, limits)
    return caught.value


@every(
    ("limits", "asked", "path", "details"),
    [
        ({"layers": 1}, 2, ("network", "layers"), {}),
        ({"parameters": 8}, 9, ("network",), {}),
        ({"tensor_elements": 15}, 16, (), {"include": ("per_sample",)}),
        ({"operations": 10}, None, (), {}),
        ({"workspace_bytes": 100}, None, (), {}),
    ],
)
def test_limits_name_what_was_asked_and_what_is_allowed(limits, asked, path, details):
    error = exceeded(Limits(**limits), **details)
    ((name, allowed),) = limits.items()
    assert (error.name, error.allowed, error.path) == (name, allowed, path)
    assert error.asked == asked if asked is not None else error.asked > allowed
    assert name in str(error) and str(allowed) in str(error)


def test_drawing_parameters_is_work_too():
    definition = network(dense("out", 50, kernel_initializer="orthogonal"))
    inputs = np.zeros((1, 50))
    evaluation = compile_task(task_for(definition, inputs), Limits(operations=100_000))
    with pytest.raises(LimitExceeded) as caught:
        run(evaluation, inputs)
    assert caught.value.name == "operations" and caught.value.asked > 100_000
    assert run(evaluation, inputs, {"out": {"kernel": np.zeros((50, 50)), "bias": np.zeros(50)}}).finite


def test_a_limit_that_is_just_met_is_met():
    task = task_for(XOR, INPUTS, "mse", TARGETS, include=("per_sample",))
    evaluation = compile_task(task, Limits(layers=2, parameters=9, tensor_elements=16))
    program = evaluation.program
    compile_task(task, Limits(operations=program.work, workspace_bytes=program.nbytes))


def test_huge_networks_are_refused_before_any_memory_is_taken():
    giant = network(dense("a", 10**9), dense("b", 10**9), dense("c", 1))
    assert exceeded(Limits(), giant).name == "parameters"


def test_a_run_past_its_deadline_stops():
    evaluation = compiled(XOR, INPUTS, "mse", targets=TARGETS)
    feed = Feed({INPUT: INPUTS}, as_arrays(PARAMETERS), {"out": TARGETS})
    with pytest.raises(DeadlineExceeded):
        evaluation.run(feed, Looks(0))
    late = evaluation.run(feed, Looks())
    assert late.loss == evaluation.run(feed).loss


def test_one_evaluation_serves_several_threads():
    evaluation = compiled(XOR, INPUTS, "mse", targets=TARGETS, include=("per_sample",))

    def work(seed):
        result = run(evaluation, INPUTS, None, TARGETS, seed=seed)
        return result.loss, result.per_sample_gradients["hidden"]["kernel"]

    expected = list(map(work, range(40)))
    with ThreadPoolExecutor(4) as pool:
        for (loss, gradient), (wanted, kernel) in zip(pool.map(work, range(40)), expected, strict=True):
            assert loss == wanted
            np.testing.assert_array_equal(gradient, kernel)


def test_runs_of_one_evaluation_are_independent():
    evaluation = compiled(XOR, INPUTS, "mse", targets=TARGETS)
    first = run(evaluation, INPUTS, None, TARGETS, seed=1)
    run(evaluation, np.full(INPUTS.shape, np.inf), None, TARGETS, seed=2)
    again = run(evaluation, INPUTS, None, TARGETS, seed=1)
    assert first.loss == again.loss and again.finite and not again.warnings


def test_equal_tasks_are_equal_keys():
    one, other = task_for(XOR, INPUTS, "mse", TARGETS), task_for(XOR, INPUTS + 1.0, "mse", TARGETS)
    chosen = losses.select("mse")
    one, other = one._replace(losses=(chosen,)), other._replace(losses=(chosen,))
    assert one == other and hash(one) == hash(other)
    assert {one: "known"}[other] == "known"


@every(
    "change",
    [
        {"dtype": "float32"},
        {"inputs": ((INPUT, (5, 2)),)},
        {"training": True},
        {"include": frozenset({"layers"})},
        {"losses": (losses.select("mse"),)},
        {"loss_weights": (2.0,)},
        {"targets": (("out", (4, 1)),)},
        {"reduction": "sum"},
        {"weighted": True},
        {"normalize_weights": True},
        {"parameters": ((("out", "kernel"), (2, 1)),)},
        {"definition": network(dense("hidden", 2, "sigmoid"), dense("out", 1, "sigmoid"))},
    ],
)
def test_tasks_that_differ_in_anything_differ(change):
    plain = Task(XOR, "float64", ((INPUT, (4, 2)),))
    assert plain._replace(**change) != plain


def test_float32_is_computed_in_float32():
    result = xor("bce", dtype="float32", include=("layers", "per_sample", "input_gradients"))
    double = xor("bce")
    arrays = [result.loss, result.outputs["out"], result.input_gradients["input"], result.per_sample_loss]
    arrays += [result.gradients["hidden"]["kernel"], result.per_sample_gradients["out"]["bias"], result.layers[0].delta]
    assert {array.dtype.name for array in arrays} == {"float32"}
    np.testing.assert_allclose(result.gradients["hidden"]["kernel"], double.gradients["hidden"]["kernel"], rtol=1e-5)
