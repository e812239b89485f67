"""Layers: shapes, independence of samples, random numbers, state, and refusals.

test_layers_against_pytorch.py tests their numbers.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.network import NetworkField
from service.engine.errors import InvalidRequest
from tests.engine.network.building import dense, evaluate, layer, network
from tests.engine.network.test_layers_against_pytorch import RECORDS, title
from tests.engine.support import random_examples
from tests.support import every

RNG = np.random.default_rng(7)


def definition_of(record):
    names = [f"x{position}" for position in range(len(record["inputs"]))]
    described = {"type": record["type"], "name": "it", "inputs": names, **record["options"]}
    return NetworkField().deserialize({"inputs": names, "layers": [described]}), names


def read(*described, **network):
    """Read a definition in the form of a request."""
    return NetworkField().deserialize({"layers": list(described), **network})


def refusals(definition, inputs, **details):
    with pytest.raises(InvalidRequest) as caught:
        evaluate(definition, inputs, **details)
    return [(fault.path, fault.detail) for fault in caught.value.faults]


# --- each sample on its own ---------------------------------------------------------------------


@every("record", RECORDS, ids=title)
def test_gradients_of_a_sample_are_those_of_a_loss_that_counts_only_it(record):
    definition, names = definition_of(record)
    inputs = dict(zip(names, map(np.asarray, record["inputs"]), strict=True))
    parameters = {"it": record["parameters"]} if record["parameters"] else {}
    targets = np.random.default_rng(3).standard_normal(np.shape(record["outputs"]))
    case = (definition, inputs, parameters, "squared_error", targets)
    details = {"reduction": "sum", "training": record["training"]}
    each = evaluate(*case, include=("per_sample",), **details)
    samples = len(targets)
    for sample in range(samples):
        alone = evaluate(*case, weights=np.eye(samples)[sample], **details)
        assert each.per_sample_loss[sample] == pytest.approx(float(alone.loss), rel=1e-12)
        for name, gradient in alone.gradients.get("it", {}).items():
            actual = each.per_sample_gradients["it"][name][sample]
            scale = max(1.0, np.abs(gradient).max())
            np.testing.assert_allclose(actual, gradient, rtol=1e-11, atol=1e-13 * scale)


@every("record", RECORDS, ids=title)
def test_deltas_have_the_shape_of_what_they_belong_to(record):
    definition, names = definition_of(record)
    inputs = dict(zip(names, map(np.asarray, record["inputs"]), strict=True))
    parameters = {"it": record["parameters"]} if record["parameters"] else {}
    targets = np.zeros(np.shape(record["outputs"]))
    result = evaluate(
        definition,
        inputs,
        parameters,
        "half_squared_error",
        targets,
        include=("layers", "input_gradients"),
        training=record["training"],
        reduction="sum",
    )
    (it,) = result.layers
    assert it.delta.shape == it.pre_activation.shape
    if it.pre_activation.shape == it.output.shape and "bias" in result.gradients.get("it", {}):
        bias = result.gradients["it"]["bias"]
        channels = -1 if record["options"].get("data_format") != "channels_first" else 1
        if bias.shape == (it.delta.shape[channels],) and record["type"] in ("dense", "conv1d", "conv2d"):
            rows = np.moveaxis(it.delta, channels, -1).reshape(-1, len(bias))
            np.testing.assert_allclose(rows.sum(0), bias, rtol=1e-12, atol=1e-13)
    assert set(result.input_gradients) == {name for name in names if record["type"] != "embedding"}
    for name, gradient in result.input_gradients.items():
        assert gradient.shape == inputs[name].shape


# --- shapes and values of windows ---------------------------------------------------------------


def by_hand(image, kernel, strides, dilations, padding):
    """Convolve one image with plain loops."""
    (kh, kw, _, filters), (height, width, _) = kernel.shape, image.shape
    extents = [(k - 1) * d + 1 for k, d in zip((kh, kw), dilations, strict=True)]
    if padding == "same":
        counts = [math.ceil(n / s) for n, s in zip((height, width), strides, strict=True)]
        totals = [
            max((c - 1) * s + e - n, 0) for c, s, e, n in zip(counts, strides, extents, (height, width), strict=True)
        ]
    else:
        counts = [(n - e) // s + 1 for n, e, s in zip((height, width), extents, strides, strict=True)]
        totals = [0, 0]
    result = np.zeros((*counts, filters))
    for row, column, i, j in np.ndindex(*counts, kh, kw):
        y = row * strides[0] + i * dilations[0] - totals[0] // 2
        x = column * strides[1] + j * dilations[1] - totals[1] // 2
        if 0 <= y < height and 0 <= x < width:
            result[row, column] += image[y, x] @ kernel[i, j]
    return result


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@given(st.tuples(st.integers(1, 7), st.integers(1, 7)), st.integers(1, 2), pairs, pairs, pairs, st.booleans())
@random_examples(max_examples=150)
def test_a_convolution_equals_plain_loops_or_is_refused(size, channels, window, strides, dilations, same):
    padding = "same" if same else "valid"
    definition = read(
        {
            "type": "conv2d",
            "name": "c",
            "filters": 2,
            "kernel_size": list(window),
            "strides": list(strides),
            "dilation_rate": list(dilations),
            "padding": padding,
            "use_bias": False,
        }
    )
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2, *size, channels))
    kernel = rng.standard_normal((*window, channels, 2))
    fits = all((k - 1) * d < n for k, d, n in zip(window, dilations, size, strict=True))
    if not fits and not same:
        ((path, detail),) = refusals(definition, images)
        assert path == ("network", "layers", 0, "kernel_size")
        assert "does not fit into" in detail
        return
    outputs = evaluate(definition, images, {"c": {"kernel": kernel}}).outputs["c"]
    for image, output in zip(images, outputs, strict=True):
        np.testing.assert_allclose(output, by_hand(image, kernel, strides, dilations, padding), rtol=1e-13, atol=1e-14)


@given(st.tuples(st.integers(1, 6), st.integers(1, 6)), pairs, pairs, st.booleans(), st.booleans())
@random_examples(max_examples=80)
def test_a_transposed_convolution_is_the_transpose_of_a_convolution(size, window, strides, same, first):
    """<conv(x), y> = <x, transposed(y)>, for the sizes that belong together."""
    shared = {
        "kernel_size": list(window),
        "strides": list(strides),
        "padding": "same" if same else "valid",
        "use_bias": False,
        "data_format": "channels_first" if first else "channels_last",
    }
    rng = np.random.default_rng(0)
    y = rng.standard_normal((2, *size, 3))
    kernel = rng.standard_normal((*window, 2, 3))
    y = np.moveaxis(y, 3, 1) if first else y
    back = read({"type": "conv2d_transpose", "name": "t", "filters": 2, **shared})
    grown = evaluate(back, y, {"t": {"kernel": kernel}}).outputs["t"]
    x = rng.standard_normal(grown.shape)
    forth = read({"type": "conv2d", "name": "c", "filters": 3, **shared})
    shrunk = evaluate(forth, x, {"c": {"kernel": kernel}}).outputs["c"]
    assert shrunk.shape == y.shape
    assert (shrunk * y).sum() == pytest.approx((x * grown).sum(), rel=1e-10, abs=1e-10)


@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["valid", "same"]), st.booleans())
@random_examples(max_examples=80)
def test_pooling_takes_the_right_windows(steps, pool, stride, padding, largest):
    sequence = np.random.default_rng(steps).standard_normal((2, steps, 2))
    kind = "max_pooling1d" if largest else "average_pooling1d"
    definition = read({"type": kind, "name": "p", "pool_size": pool, "strides": stride, "padding": padding})
    if padding == "valid" and pool > steps:
        ((path, _),) = refusals(definition, sequence)
        assert path == ("network", "layers", 0, "pool_size")
        return
    count = math.ceil(steps / stride) if padding == "same" else (steps - pool) // stride + 1
    before = max((count - 1) * stride + pool - steps, 0) // 2 if padding == "same" else 0
    starts = [position * stride - before for position in range(count)]
    parts = [sequence[:, max(start, 0) : start + pool] for start in starts]
    expected = np.stack([part.max(1) if largest else part.mean(1) for part in parts], 1)
    np.testing.assert_allclose(evaluate(definition, sequence).outputs["p"], expected, rtol=1e-14)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.data())
@random_examples(max_examples=60)
def test_layers_that_keep_the_shape_keep_it(shape, data):
    described = data.draw(
        st.sampled_from(
            [
                {"type": "layer_normalization"},
                {"type": "layer_normalization", "axis": list(range(1, len(shape)))},
                {"type": "rms_normalization"},
                {"type": "batch_normalization"},
                {"type": "group_normalization", "groups": -1},
                {"type": "gaussian_noise", "stddev": 0.5},
                {"type": "dropout", "rate": 0.5},
                {"type": "activation", "activation": "softmax"},
                {"type": "prelu"},
            ]
        )
    )
    inputs = np.random.default_rng(1).standard_normal(shape)
    training = data.draw(st.booleans())
    result = evaluate(read({"name": "it", **described}), inputs, training=training)
    assert result.outputs["it"].shape == tuple(shape) and result.finite


# --- random numbers -----------------------------------------------------------------------------


def test_gaussian_noise_has_its_deviation_and_follows_from_the_seed():
    definition = network(layer("n", "gaussian_noise", stddev=0.5))
    inputs = np.full((40, 500), 3.0)
    noisy = evaluate(definition, inputs, training=True).outputs["n"]
    assert noisy.mean() == pytest.approx(3.0, abs=0.02) and noisy.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(noisy, evaluate(definition, inputs, training=True).outputs["n"])
    assert (noisy != evaluate(definition, inputs, training=True, seed=1).outputs["n"]).any()
    np.testing.assert_array_equal(evaluate(definition, inputs).outputs["n"], inputs)


@every(("data_format", "axes"), [("channels_last", (1, 2)), ("channels_first", (2, 3))])
def test_spatial_dropout_drops_whole_channels(data_format, axes):
    definition = network(layer("d", "spatial_dropout", rate=0.25, data_format=data_format))
    outputs = evaluate(definition, np.ones((8, 6, 6, 6)), training=True).outputs["d"]
    channels = outputs.max(axes)
    np.testing.assert_array_equal(channels, outputs.min(axes))
    np.testing.assert_allclose(np.unique(channels), [0.0, 1.0 / 0.75])


def test_dropout_of_a_recurrent_layer_is_the_same_at_every_step():
    definition = network(
        layer("r", "simple_rnn", units=3, activation="linear", use_bias=False, dropout=0.5, return_sequences=True)
    )
    parameters = {"r": {"kernel": np.eye(3), "recurrent_kernel": np.zeros((3, 3))}}
    outputs = evaluate(definition, np.ones((4, 5, 3)), parameters, training=True).outputs["r"]
    np.testing.assert_array_equal(outputs, np.broadcast_to(outputs[:, :1], outputs.shape))
    assert set(np.unique(outputs)) == {0.0, 2.0}
    np.testing.assert_array_equal(evaluate(definition, np.ones((4, 5, 3)), parameters).outputs["r"], np.ones((4, 5, 3)))


def test_random_layers_inside_others_draw_for_every_step():
    inner = layer("d", "dropout", rate=0.5).layer
    outputs = evaluate(network(layer("t", "time_distributed", layer=inner)), np.ones((6, 8, 3)), training=True).outputs
    assert (outputs["t"] != outputs["t"][:, :1]).any()


# --- state --------------------------------------------------------------------------------------

BATCH_NORM = layer("n", "batch_normalization", momentum=0.75, epsilon=0.0)
STATISTICS = {"gamma": [1.0], "beta": [0.0], "moving_mean": [2.0], "moving_variance": [4.0]}
COLUMN = np.array([[1.0], [2.0], [3.0], [6.0]])


def test_training_gives_the_new_running_averages_and_inference_none():
    result = evaluate(network(BATCH_NORM), COLUMN, {"n": STATISTICS}, training=True)
    assert result.state["n"]["moving_mean"] == pytest.approx([2.0 * 0.75 + 3.0 * 0.25])
    assert result.state["n"]["moving_variance"] == pytest.approx([4.0 * 0.75 + 3.5 * 0.25])
    np.testing.assert_allclose(result.outputs["n"], (COLUMN - 3.0) / math.sqrt(3.5))
    still = evaluate(network(BATCH_NORM), COLUMN, {"n": STATISTICS})
    assert still.state is None
    np.testing.assert_allclose(still.outputs["n"], (COLUMN - 2.0) / 2.0)


def test_running_averages_have_no_gradient_but_come_among_the_parameters():
    result = evaluate(network(BATCH_NORM), COLUMN, {"n": STATISTICS}, "mse", np.zeros((4, 1)), training=True)
    assert set(result.gradients["n"]) == {"gamma", "beta"}
    initialised = evaluate(network(BATCH_NORM), COLUMN).parameters["n"]
    assert {name: array.tolist() for name, array in initialised.items()} == STATISTICS | {
        "moving_mean": [0.0],
        "moving_variance": [1.0],
    }


def test_a_layer_that_is_not_trained_keeps_its_running_averages():
    frozen = layer("n", "batch_normalization", trainable=False, epsilon=0.0)
    result = evaluate(network(frozen), COLUMN, {"n": STATISTICS}, training=True)
    assert result.state is None
    np.testing.assert_allclose(result.outputs["n"], (COLUMN - 2.0) / 2.0)


def test_layers_that_share_running_averages_update_them_one_after_the_other():
    again = layer("m", "batch_normalization", momentum=0.75, epsilon=0.0, shares="n")
    result = evaluate(network(BATCH_NORM, again), COLUMN, {"n": STATISTICS}, training=True)
    assert set(result.state) == {"n"}
    assert result.state["n"]["moving_mean"] == pytest.approx([(2.0 * 0.75 + 3.0 * 0.25) * 0.75], rel=1e-12)
    assert result.state["n"]["moving_variance"] == pytest.approx([(4.0 * 0.75 + 3.5 * 0.25) * 0.75 + 0.25])


def test_state_sent_back_is_what_inference_uses():
    learned = evaluate(network(BATCH_NORM), COLUMN, {"n": STATISTICS}, training=True).state["n"]
    result = evaluate(network(BATCH_NORM), COLUMN, {"n": STATISTICS | learned})
    expected = (COLUMN - learned["moving_mean"]) / np.sqrt(learned["moving_variance"])
    np.testing.assert_allclose(result.outputs["n"], expected, rtol=1e-14)


# --- several inputs -----------------------------------------------------------------------------


def test_inputs_go_to_the_layers_that_name_them():
    definition = network(
        dense("left", 2, inputs=["a"], use_bias=False),
        dense("right", 2, inputs=["b"], use_bias=False),
        layer("difference", "subtract", inputs=["left", "right"]),
        inputs=["a", "b"],
    )
    kernels = {"left": {"kernel": np.eye(2)}, "right": {"kernel": 2.0 * np.eye(2)}}
    given_inputs = {"a": np.array([[1.0, 2.0]]), "b": np.array([[3.0, 4.0]])}
    result = evaluate(
        definition, given_inputs, kernels, "squared_error", np.zeros((1, 2)), include=("input_gradients",)
    )
    np.testing.assert_array_equal(result.outputs["difference"], [[-5.0, -6.0]])
    np.testing.assert_array_equal(result.input_gradients["a"], [[-10.0, -12.0]])
    np.testing.assert_array_equal(result.input_gradients["b"], [[20.0, 24.0]])


def test_inputs_hold_equally_many_samples():
    definition = network(layer("s", "add", inputs=["a", "b"]), inputs=["a", "b"])
    ((path, detail),) = refusals(definition, {"a": np.zeros((2, 3)), "b": np.zeros((4, 3))})
    assert path == ("inputs", "b") and detail == "input 'b' has 4 samples, but input 'a' has 2"


def test_each_output_has_its_own_loss_and_weight():
    definition = network(dense("a", 1), dense("b", 1, inputs=["input"]), outputs=["a", "b"])
    parameters = {name: {"kernel": [[1.0], [1.0]], "bias": [0.0]} for name in ("a", "b")}
    targets = {"a": [[1.0]], "b": [[1.0]]}
    losses = {"a": "squared_error", "b": "mean_absolute_error"}
    case = (definition, np.array([[2.0, 3.0]]), parameters, losses, targets)
    result = evaluate(*case, loss_weights=(0.5, 3.0))
    assert {name: float(loss) for name, loss in result.losses.items()} == {"a": 16.0, "b": 4.0}
    assert result.loss == 0.5 * 16.0 + 3.0 * 4.0
    np.testing.assert_array_equal(result.gradients["a"]["bias"], [0.5 * 8.0])
    np.testing.assert_array_equal(result.gradients["b"]["bias"], [3.0])
    plain = evaluate(*case)
    assert plain.loss == 20.0


# --- what cannot work ---------------------------------------------------------------------------

IMAGES, SEQUENCES, ROWS = np.zeros((2, 6, 6, 2)), np.zeros((2, 4, 3)), np.zeros((2, 3))


@every(
    ("described", "inputs", "option", "detail"),
    [
        (
            {"type": "conv2d", "filters": 2, "kernel_size": 7},
            IMAGES,
            "kernel_size",
            "a window of 7 does not fit into 6",
        ),
        (
            {"type": "conv2d", "filters": 2, "kernel_size": 3, "dilation_rate": 3},
            IMAGES,
            "kernel_size",
            "a window of 3, spread over 7 by the dilation, does not fit into 6 positions",
        ),
        ({"type": "conv2d", "filters": 2, "kernel_size": 3}, SEQUENCES, None, "takes samples of 3 axes (height, width"),
        ({"type": "conv1d", "filters": 2, "kernel_size": 3}, ROWS, None, "takes samples of 2 axes (steps, channels)"),
        (
            {"type": "conv2d", "filters": 2, "kernel_size": 3, "groups": 3},
            IMAGES,
            "groups",
            "3 groups cannot share 2 input channels evenly",
        ),
        (
            {"type": "conv2d", "filters": 3, "kernel_size": 3, "groups": 2},
            IMAGES,
            "groups",
            "2 groups cannot share 3 filters evenly",
        ),
        (
            {"type": "conv2d_transpose", "filters": 2, "kernel_size": 3, "strides": 2, "output_padding": 2},
            IMAGES,
            "output_padding",
            "2 must be smaller than the stride, 2",
        ),
        (
            {"type": "conv2d_transpose", "filters": 2, "kernel_size": 9, "padding": "same", "output_padding": 0}
            | {"strides": 1},
            IMAGES[:, :1, :1],
            None,
            None,
        ),
        ({"type": "max_pooling2d", "pool_size": 7}, IMAGES, "pool_size", "does not fit into 6 positions"),
        ({"type": "average_pooling1d", "pool_size": 5}, SEQUENCES, "pool_size", "does not fit into 4 positions"),
        ({"type": "global_max_pooling2d"}, ROWS, None, "takes samples of 3 axes"),
        ({"type": "zero_padding2d"}, ROWS, None, "takes samples of 3 axes (height, width, channels), got shape [3]"),
        ({"type": "up_sampling2d", "data_format": "channels_first"}, ROWS, None, "(channels, height, width)"),
        ({"type": "permute", "dims": [2, 2]}, SEQUENCES, "dims", "each of 1 to 2 must stand here once, got [2, 2]"),
        ({"type": "repeat_vector", "n": 2}, SEQUENCES, None, "takes samples of 1 axis (features), got shape [4, 3]"),
        ({"type": "layer_normalization", "axis": 0}, ROWS, "axis", "axis 0 is none of 1 to 1 (or -1 to -1)"),
        ({"type": "layer_normalization", "axis": [1, -1]}, ROWS, "axis", "each once, got [1, -1]"),
        ({"type": "layer_normalization", "axis": []}, ROWS, "axis", "at least one axis must be named"),
        ({"type": "batch_normalization", "axis": 3}, ROWS, "axis", "axis 3 is none of 1 to 1"),
        ({"type": "group_normalization", "groups": 2}, ROWS, "groups", "2 groups cannot share 3 channels evenly"),
        ({"type": "group_normalization", "groups": 0}, ROWS, "groups", "0 groups cannot share 3 channels"),
        ({"type": "spatial_dropout", "rate": 0.5}, ROWS, None, "takes samples with positions and channels, got"),
        ({"type": "lstm", "units": 2}, ROWS, None, "takes samples of 2 axes (steps, features), got shape [3]"),
        (
            {"type": "gru", "units": 2, "activation": "prelu"},
            SEQUENCES,
            "activation",
            "prelu has parameters of its own, which a step cannot hold",
        ),
        ({"type": "multi_head_attention", "num_heads": 1, "key_dim": 2}, ROWS, None, "2 axes (positions, features)"),
        ({"type": "time_distributed", "layer": {"type": "dense", "units": 2}}, ROWS, None, "takes samples of steps"),
        (
            {"type": "time_distributed", "layer": {"type": "permute", "dims": [2]}},
            SEQUENCES,
            ("layer", "dims"),
            "each of 1 to 1 must stand here once",
        ),
        (
            {"type": "bidirectional", "layer": {"type": "lstm", "units": 2, "activation": "prelu"}},
            SEQUENCES,
            ("layer", "activation"),
            "prelu has parameters",
        ),
        ({"type": "dot", "axes": 1}, ROWS, "inputs", "a layer of type 'dot' merges two layers"),
        ({"type": "subtract"}, ROWS, "inputs", "a layer of type 'subtract' merges two layers"),
        ({"type": "subtract", "inputs": ["input"] * 3}, ROWS, "inputs", "takes two inputs, got 3"),
        ({"type": "lstm", "units": 2, "inputs": ["input"] * 4}, SEQUENCES, "inputs", "takes at most 3 inputs, got 4"),
        ({"type": "lstm", "units": 2, "inputs": ["input"] * 2}, SEQUENCES, "inputs", "2 initial states; got 1 more"),
        (
            {"type": "gru", "units": 2, "inputs": ["input"] * 2},
            SEQUENCES,
            "inputs",
            "an initial state has shape [4, 3]",
        ),
        ({"type": "dot", "axes": [1, 2], "inputs": ["input"] * 2}, SEQUENCES, "axes", "the axes have 4 and 3 entries"),
        ({"type": "dot", "axes": 3, "inputs": ["input"] * 2}, SEQUENCES, "axes", "axis 3 is none of 1 to 2"),
    ],
)
def test_refusals_name_the_option_at_fault(described, inputs, option, detail):
    definition = read(described)
    if detail is None:
        assert evaluate(definition, inputs).finite
        return
    ((path, text),) = refusals(definition, inputs)
    place = () if option is None else option if isinstance(option, tuple) else (option,)
    assert path == ("network", "layers", 0, *place)
    assert detail in text


EMBEDDING = {"type": "embedding", "name": "e", "input_dim": 4, "output_dim": 2}


@every("wrong", [4.0, -1.0, 0.5])
def test_an_embedding_takes_indices_it_has(wrong):
    inputs = np.array([[0.0, 1.0], [2.0, wrong]])
    ((path, detail),) = refusals(read(EMBEDDING), inputs, parameters={"e": {"embeddings": np.zeros((4, 2))}})
    assert path == ("inputs", "input", 1, 1)
    assert detail == f"takes an index for layer 'e' from 0 to 3, got {repr(wrong).removesuffix('.0')}"


def test_the_smallest_of_several_embeddings_bounds_the_indices():
    definition = read(EMBEDDING, {**EMBEDDING, "name": "f", "input_dim": 3, "inputs": ["input"]})
    ((_, detail),) = refusals(definition, np.array([[3.0]]))
    assert detail == "takes an index for layer 'f' from 0 to 2, got 3"


def test_layers_for_indices_and_layers_for_numbers_share_no_input():
    both = read(EMBEDDING, {"type": "dense", "units": 1, "inputs": ["input"]})
    assert refusals(both, np.zeros((1, 2))) == [
        (
            ("network", "layers", 1, "inputs"),
            "'input' holds indices, because a layer embeds it; this layer takes numbers",
        )
    ]
    late = read({"type": "dense", "name": "d", "units": 1}, EMBEDDING)
    assert refusals(late, np.zeros((1, 2))) == [
        (("network", "layers", 1, "inputs"), "takes indices, which only an input of the network holds; 'd' is a layer")
    ]


def test_several_inputs_have_to_be_named_by_the_layers():
    ((path, detail),) = refusals(
        read({"type": "dense", "units": 1}, inputs=["a", "b"]), {"a": np.zeros((1, 2)), "b": np.zeros((1, 2))}
    )
    assert path == ("network", "layers", 0, "inputs")
    assert detail == "a layer of type 'dense' takes one input, got 2; name the one it takes in 'inputs'"


def test_shared_layers_may_be_of_any_type():
    convolution = {"type": "conv2d", "filters": 2, "kernel_size": 3, "padding": "same"}
    definition = read({**convolution, "name": "c"}, {**convolution, "shares": "c"})
    result = evaluate(definition, RNG.standard_normal((2, 4, 4, 2)))
    assert set(result.parameters) == {"c"}
    narrow = read({**convolution, "name": "c"}, {**convolution, "shares": "c", "filters": 3})
    ((path, detail),) = refusals(narrow, np.zeros((2, 4, 4, 2)))
    assert path == ("network", "layers", 1, "shares") and "kernel of layer 'c' has shape [3, 3, 2, 2]" in detail


def test_bilinear_interpolation_has_a_largest_factor():
    ((path, detail),) = refusals(read({"type": "up_sampling2d", "size": [1, 257], "interpolation": "bilinear"}), IMAGES)
    assert path == ("network", "layers", 0, "size") and detail == "bilinear interpolation takes factors up to 256"


# --- large and tiny numbers ---------------------------------------------------------------------

NORMALISING = [
    {"type": "layer_normalization"},
    {"type": "layer_normalization", "axis": [1, 2]},
    {"type": "group_normalization", "groups": 2},
    {"type": "rms_normalization"},
    {"type": "batch_normalization"},
]


def normalised(described, x, dtype="float64"):
    """Return outputs and input gradients of a layer in training, with targets of the opposite sign."""
    definition = read({**described, "name": "it"})
    targets = -np.sign(np.asarray(x))
    result = evaluate(
        definition, x, None, "half_squared_error", targets, dtype=dtype, training=True, include=("input_gradients",)
    )
    return result.outputs["it"], result.input_gradients["input"], result


@every("power", [600, 1000, -600, -1000])
@every("described", NORMALISING, ids=str)
def test_inputs_of_any_size_are_normalised(described, power):
    """Without epsilon, outputs do not depend on the size of the inputs, and gradients shrink as it grows."""
    x = np.random.default_rng(5).uniform(-2.0, 2.0, (3, 2, 4))
    scale = 2.0**power
    outputs, gradients, _ = normalised(described | {"epsilon": 0.0}, x)
    found, slopes, _ = normalised(described | {"epsilon": 0.0}, x * scale)
    np.testing.assert_allclose(found, outputs, rtol=1e-13)
    np.testing.assert_allclose(slopes * scale, gradients, rtol=1e-12, atol=1e-14)


@every("described", NORMALISING, ids=str)
def test_epsilon_decides_where_squares_vanish(described):
    x = np.random.default_rng(5).uniform(-2.0, 2.0, (3, 2, 4))
    _, _, result = normalised(described | {"epsilon": 1e-3}, x * 1e-200)
    mean = 0.0 if described["type"] == "rms_normalization" else None
    axes = {"batch_normalization": (0, 1), "group_normalization": None}.get(described["type"], described.get("axis"))
    if axes is not None or described["type"] in ("layer_normalization", "rms_normalization"):
        axes = tuple(axes or (2,))
        mean = x.mean(axes, keepdims=True) if mean is None else mean
        np.testing.assert_allclose(result.outputs["it"], (x - mean) * 1e-200 / math.sqrt(1e-3), rtol=1e-13)
    assert result.finite


@every(("dtype", "size"), [("float32", 1e20), ("float32", 1e37), ("float64", 1e200), ("float64", 1e307)])
@every("name", ["layer_normalization", "group_normalization"])
def test_one_to_four_are_normalised_at_any_size(name, dtype, size):
    options = {"groups": 1} if name == "group_normalization" else {}
    outputs, _, result = normalised({"type": name, **options}, [[size, 2.0 * size, 3.0 * size, 4.0 * size]], dtype)
    expected = np.array([-3.0, -1.0, 1.0, 3.0]) / math.sqrt(5.0)
    np.testing.assert_allclose(outputs, [expected], rtol=1e-6 if dtype == "float32" else 1e-15)
    assert result.finite


def test_a_running_variance_that_is_too_large_is_reported_and_the_outputs_are_right():
    outputs, _, result = normalised({"type": "batch_normalization"}, [[1e200], [3e200]])
    np.testing.assert_allclose(outputs, [[-1.0], [1.0]], rtol=1e-15)
    assert not result.finite and np.isinf(result.state["it"]["moving_variance"]).all()
    (warning,) = [each for each in result.warnings if each.code == "non_finite"]
    assert warning.layer == "it"


@every(("first", "second"), [(600, 0), (600, 900), (1000, -20)])
def test_normalised_products_of_vectors_of_any_size(first, second):
    rng = np.random.default_rng(6)
    x, y = rng.uniform(-2.0, 2.0, (2, 3, 4))
    described = {"inputs": ["a", "b"]}
    definition = read({"type": "dot", "name": "it", "axes": [1, 1], "normalize": True, **described}, inputs=["a", "b"])
    found = evaluate(definition, {"a": x * 2.0**first, "b": y * 2.0**second}, {})
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(found.outputs["it"][:, 0], (x * y).sum(1) / lengths, rtol=1e-13)


@every("dtype", ["float64", "float32"])
@every("strides", [1, 2])
@every("axes", [1, 2])
def test_means_of_windows_at_the_edge_are_exact_where_they_can_be(axes, strides, dtype):
    x = np.arange(2.0, 2.0 + 5**axes).reshape(1, *(5,) * axes, 1)
    pooling = {"type": f"average_pooling{axes}d", "name": "it", "pool_size": 3, "strides": strides, "padding": "same"}
    found = evaluate(read(pooling), x, {}, dtype=dtype).outputs["it"][0, ..., 0]
    for place in np.ndindex(*found.shape):
        window = tuple(slice(max(0, k * strides - 1), k * strides + 2) for k in place)
        values = x[0, ..., 0][window]
        assert found[place] == np.dtype(dtype).type(values.sum()) / np.dtype(dtype).type(values.size)


@every("padding", ["valid", "same"])
def test_the_mean_of_two_and_three(padding):
    pooling = {"type": "average_pooling1d", "name": "it", "pool_size": 3, "strides": 1, "padding": padding}
    outputs = evaluate(read(pooling), [[[2.0], [3.0], [4.0]]], {}).outputs["it"][0, :, 0]
    assert outputs.tolist() == ([3.0] if padding == "valid" else [2.5, 3.0, 3.5])


# --- ties ---------------------------------------------------------------------------------------


@every("name", ["maximum", "minimum"])
@every("values", [(2, 2, 2), (2, 2, 1), (1, 2, 2), (2, 1, 2), (3, 3, 3, 3, 3), (1, 2, 3), (2, 2)])
def test_inputs_equal_to_the_extreme_share_its_gradient_evenly(name, values):
    sign = 1.0 if name == "maximum" else -1.0
    names = [f"x{place}" for place in range(len(values))]
    definition = read({"type": name, "name": "it", "inputs": names}, inputs=names)
    inputs = {key: [[sign * value]] for key, value in zip(names, values, strict=True)}
    found = evaluate(definition, inputs, {}, "half_squared_error", [[0.0]], include=("input_gradients",))
    best = max(values)
    assert found.outputs["it"].tolist() == [[sign * best]]
    shares = [sign * best / values.count(best) if value == best else 0.0 for value in values]
    np.testing.assert_allclose([found.input_gradients[key][0, 0] for key in names], shares, rtol=1e-15)
