"""Models of definitions: the order of layers, shared parameters, shapes, and refusals."""

import numpy as np
import pytest

from service.engine.errors import Fault, InvalidRequest
from service.engine.graph.interpreter import interpret
from service.engine.graph.ir import Graph, check
from service.engine.network.definition import INPUT
from service.engine.network.layered import assemble
from tests.engine.network.building import dense, evaluate, layer, network
from tests.support import every


def built(definition, shape=(4, 3), **details):
    graph = Graph("float64")
    model = assemble(definition, graph, {INPUT: shape}, **details)
    check(graph)
    return model


def faults(definition, shape=(4, 3)):
    with pytest.raises(InvalidRequest) as caught:
        built(definition, shape)
    return list(caught.value.faults)


def only_fault(*parts, shape=(4, 3), **details):
    (fault,) = faults(network(*parts, **details), shape)
    return fault


# --- names --------------------------------------------------------------------------------------


def test_an_unknown_input_is_refused_with_the_known_names():
    assert only_fault(dense("a", 2), dense("b", 2, inputs=["c"])) == Fault(
        ("network", "layers", 1, "inputs", 0), "no layer is called 'c'", ("input", "a", "b")
    )


def test_an_unknown_output_is_refused_with_the_known_names():
    assert only_fault(dense("a", 2), dense("b", 2), outputs=["a", "z"]) == Fault(
        ("network", "outputs", 1), "no layer is called 'z'", ("a", "b")
    )


def test_all_faults_of_names_are_reported_at_once():
    found = faults(network(dense("a", 2, inputs=["x"]), dense("b", 2, shares="y"), outputs=["z"]))
    assert [fault.path for fault in found] == [
        ("network", "layers", 0, "inputs", 0),
        ("network", "layers", 1, "shares"),
        ("network", "outputs", 0),
    ]


# --- cycles and order ---------------------------------------------------------------------------


def test_a_layer_that_needs_itself_is_a_cycle():
    assert only_fault(dense("a", 2, inputs=["a"])) == Fault(
        ("network", "layers", 0, "inputs"), "layer 'a' lies on a cycle or behind one: it needs its own output"
    )


def test_a_cycle_names_the_layers_on_it_and_behind_it():
    found = faults(
        network(
            dense("a", 2, inputs=["input"]),
            dense("b", 2, inputs=["c"]),
            dense("c", 2, inputs=["b"]),
            dense("d", 2, inputs=["c"]),
        )
    )
    assert [fault.path[2] for fault in found] == [1, 2, 3]
    assert "layer 'd' lies on a cycle or behind one" in found[2].detail


def test_sharing_can_close_a_cycle_too():
    found = faults(network(dense("a", 3, shares="b"), dense("b", 3, inputs=["a"])))
    assert [fault.path for fault in found] == [("network", "layers", 0, "shares"), ("network", "layers", 1, "inputs")]


def test_layers_may_be_written_in_any_order():
    parts = [dense("c", 2, "tanh", inputs=["b"]), dense("b", 4, "relu", inputs=["a"]), dense("a", 3, inputs=["input"])]
    jumbled, sorted_ = network(*parts, outputs=["c"]), network(*parts[::-1])
    inputs = np.random.default_rng(0).standard_normal((4, 3))
    parameters = evaluate(sorted_, inputs, seed=3).parameters
    np.testing.assert_array_equal(
        evaluate(jumbled, inputs, parameters).outputs["c"], evaluate(sorted_, inputs, parameters).outputs["c"]
    )


def test_parameters_come_in_the_order_in_which_layers_are_written():
    model = built(
        network(
            dense("last", 2, inputs=["middle"]),
            dense("middle", 4, {"name": "prelu"}, inputs=["first"]),
            dense("first", 3, use_bias=False, inputs=["input"]),
            outputs=["last"],
        )
    )
    assert [(parameter.layer, parameter.name) for parameter in model.parameters] == [
        ("last", "kernel"),
        ("last", "bias"),
        ("middle", "kernel"),
        ("middle", "bias"),
        ("middle", "alpha"),
        ("first", "kernel"),
    ]


def test_a_layer_without_inputs_takes_the_one_before_it():
    model = built(network(dense("a", 2), dense("b", 5), dense("c", 4, inputs=["input"]), dense("d", 1)))
    shapes = {parameter.layer: parameter.node.shape for parameter in model.parameters if parameter.name == "kernel"}
    assert shapes == {"a": (3, 2), "b": (2, 5), "c": (3, 4), "d": (4, 1)}


def test_layers_that_no_output_needs_are_built_too():
    model = built(network(dense("a", 2), dense("b", 5), outputs=["a"]))
    assert set(model.layers) == {"a", "b"}


# --- shared parameters --------------------------------------------------------------------------


def test_shared_parameters_are_owned_once():
    model = built(network(dense("a", 3), dense("b", 3, "tanh", shares="a"), dense("c", 3, shares="b")))
    assert [(parameter.layer, parameter.name) for parameter in model.parameters] == [("a", "kernel"), ("a", "bias")]


def test_a_layer_may_share_one_that_is_written_later():
    model = built(network(dense("a", 3, shares="b", inputs=["input"]), dense("b", 3, inputs=["input"])))
    assert [parameter.layer for parameter in model.parameters] == ["b", "b"]


@every("shares", ["b", "z"])
def test_sharing_with_itself_or_with_none(shares):
    assert only_fault(dense("a", 3), dense("b", 3, shares=shares)) == Fault(
        ("network", "layers", 1, "shares"), f"no other layer is called {shares!r}", ("a",)
    )


def test_sharing_a_kernel_of_another_shape():
    assert only_fault(dense("a", 2), dense("b", 2, shares="a")) == Fault(
        ("network", "layers", 1, "shares"),
        "kernel of layer 'a' has shape [3, 2]; this layer takes [2, 2] because layer 'a' has 2 units",
    )


def test_sharing_what_the_other_layer_does_not_have():
    parts = [dense("a", 3, use_bias=False), dense("b", 3, shares="a")]
    assert only_fault(*parts) == Fault(("network", "layers", 1, "shares"), "layer 'a' has no bias to share")


def test_sharing_with_a_layer_that_has_no_parameters():
    assert only_fault(layer("a", "flatten"), dense("b", 3, shares="a")) == Fault(
        ("network", "layers", 1, "shares"), "layer 'a' has no kernel to share"
    )


# --- inputs of layers ---------------------------------------------------------------------------


@every("kind", ["add", "multiply", "concatenate"])
@every("inputs", [None, ["a"]])
def test_a_merge_needs_two_inputs(kind, inputs):
    assert only_fault(dense("a", 2), layer("m", kind, inputs=inputs)) == Fault(
        ("network", "layers", 1, "inputs"),
        f"a layer of type {kind!r} merges two or more layers; name them in 'inputs'",
        ("input", "a"),
    )


def test_other_layers_take_one_input():
    fault = only_fault(dense("a", 2), dense("b", 2, inputs=["input", "a"]))
    assert fault.path == ("network", "layers", 1, "inputs")
    assert fault.detail == (
        "a layer of type 'dense' takes one input, got 2; merge them first with add, multiply or concatenate"
    )


@every("kind", ["add", "multiply"])
def test_merged_shapes_must_agree(kind):
    assert only_fault(dense("a", 2), layer("m", kind, inputs=["a", "input"])) == Fault(
        ("network", "layers", 1, "inputs"), "takes inputs of one shape, got [2], [3] per sample"
    )


def test_concatenated_shapes_must_agree_elsewhere():
    parts = [layer("r", "reshape", target_shape=[2, 3]), layer("m", "concatenate", inputs=["r", "input"])]
    fault = only_fault(*parts, shape=(4, 6))
    assert fault.path == ("network", "layers", 1, "inputs")
    assert fault.detail == "takes inputs that agree in all axes but 2, got [2, 3], [6] per sample"


@every("axis", [0, 2, -2, 7])
def test_concatenation_along_an_axis_that_does_not_exist(axis):
    fault = only_fault(dense("a", 2), layer("m", "concatenate", inputs=["a", "input"], axis=axis))
    assert fault == Fault(("network", "layers", 1, "axis"), f"axis {axis} is none of 1 to 1 (or -1 to -1)")


@every(("axis", "shape"), [(1, (4, 4, 3)), (2, (4, 2, 6)), (-1, (4, 2, 6)), (-2, (4, 4, 3))])
def test_concatenation_along_each_axis(axis, shape):
    parts = [layer("a", "activation", activation="tanh"), layer("m", "concatenate", inputs=["a", "input"], axis=axis)]
    assert built(network(*parts), (4, 2, 3)).layers["m"].output.shape == shape


def test_shared_axes_that_do_not_exist():
    assert only_fault(layer("p", "prelu", shared_axes=[2])) == Fault(
        ("network", "layers", 0, "shared_axes"), "axis 2 does not exist: the input has axes 0 to 1"
    )


@every(
    ("target", "detail"),
    [
        ([2, 2], "[2, 2] cannot hold the 6 values of a sample; the inputs have 6 features"),
        ([4, -1], "[4, -1] cannot hold the 6 values of a sample; the inputs have 6 features"),
        ([-1, -1], "at most one entry may be -1, the others are positive"),
        ([0, 6], "at most one entry may be -1, the others are positive"),
    ],
)
def test_a_reshape_that_does_not_fit(target, detail):
    fault = only_fault(layer("r", "reshape", target_shape=target), shape=(4, 6))
    assert fault == Fault(("network", "layers", 0, "target_shape"), detail)


def test_a_reshape_works_out_one_axis():
    model = built(network(layer("r", "reshape", target_shape=[2, -1]), layer("f", "flatten")), (4, 6))
    assert model.layers["r"].output.shape == (4, 2, 3)
    assert model.layers["f"].output.shape == (4, 6)


def test_a_layer_whose_input_failed_is_not_blamed():
    found = faults(network(layer("m", "add"), dense("a", 2), layer("n", "multiply")))
    assert [fault.path[2] for fault in found] == [0, 2]


# --- layers -------------------------------------------------------------------------------------


def value_of(*parts, shape=(2, 3), outputs=None, **details):
    definition = network(*parts, outputs=outputs)
    inputs = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)
    return inputs, evaluate(definition, inputs, {}, **details).outputs[definition.output_names[0]]


def test_merging_layers_merge():
    doubled = layer("d", "add", inputs=["input", "input"])
    inputs, total = value_of(doubled, layer("t", "add", inputs=["d", "input", "d"]))
    np.testing.assert_array_equal(total, 5.0 * inputs)
    inputs, product = value_of(doubled, layer("t", "multiply", inputs=["d", "input", "d"]))
    np.testing.assert_array_equal(product, 4.0 * inputs**3)
    inputs, joined = value_of(doubled, layer("t", "concatenate", inputs=["d", "input"]))
    np.testing.assert_array_equal(joined, np.concatenate([2.0 * inputs, inputs], 1))


def test_flattening_and_reshaping_are_row_major():
    inputs, flat = value_of(layer("f", "flatten"), shape=(2, 2, 3))
    np.testing.assert_array_equal(flat, inputs.reshape(2, 6))
    inputs, shaped = value_of(layer("r", "reshape", target_shape=[3, -1]), shape=(2, 6))
    np.testing.assert_array_equal(shaped, inputs.reshape(2, 3, 2))


def test_a_dense_layer_acts_on_the_last_axis():
    inputs = np.random.default_rng(0).standard_normal((2, 3, 4))
    parameters = {"a": {"kernel": np.random.default_rng(1).standard_normal((4, 5)), "bias": np.arange(5.0)}}
    outputs = evaluate(network(dense("a", 5)), inputs, parameters).outputs["a"]
    np.testing.assert_allclose(outputs, inputs @ parameters["a"]["kernel"] + np.arange(5.0), rtol=1e-14)


def test_dropout_without_training_does_nothing():
    inputs, outputs = value_of(layer("d", "dropout", rate=0.5))
    np.testing.assert_array_equal(outputs, inputs)
    assert not built(network(layer("d", "dropout", rate=0.5))).noises
    assert not built(network(layer("d", "dropout", rate=0.0)), training=True).noises
    assert len(built(network(layer("d", "dropout", rate=0.5)), training=True).noises) == 1


def test_prelu_shares_its_slope_along_axes():
    model = built(network(layer("p", "prelu", shared_axes=[1])), (2, 3, 4))
    assert model.parameters[0].node.shape == (1, 4)
    model = built(network(layer("p", "prelu", shared_axes=[1, 2])), (2, 3, 4))
    assert model.parameters[0].node.shape == (1, 1)


def test_a_regularizer_adds_a_penalty_for_each_owner_once():
    parts = [dense("a", 3, kernel_regularizer="l2"), dense("b", 3, shares="a")]
    model = built(network(*parts))
    assert len(model.penalties) == 1
    kernel = model.parameters[0].node
    weights = np.arange(9.0).reshape(3, 3)
    penalty = interpret(model.penalties, {kernel: weights})[model.penalties[0]]
    assert penalty == pytest.approx(0.01 * (weights**2).sum())


@every(
    ("layer", "option"),
    [
        (dense("b", 3, kernel_regularizer="l2", shares="a"), "kernel_regularizer"),
        (dense("b", 3, shares="a", trainable=False), "trainable"),
    ],
)
def test_a_sharing_layer_cannot_change_what_it_shares(layer, option):
    assert [fault.path for fault in faults(network(dense("a", 3), layer))] == [("network", "layers", 1, option)]


def test_nodes_belong_to_their_layers():
    model = built(network(dense("a", 2, "tanh"), dense("b", 1)))
    assert model.layers["a"].output.scope == "a"
    assert model.layers["b"].pre_activation.scope == "b"


def test_the_message_of_a_refusal_is_all_its_details():
    with pytest.raises(InvalidRequest, match="no layer is called 'x'; no layer is called 'y'"):
        built(network(dense("a", 2, inputs=["x"]), dense("b", 2, inputs=["y"])))
