"""Documents of Keras: what they become, and what is refused, with the layer and the reason."""

import copy
import json

import pytest
from marshmallow import ValidationError

from schemas.keras import Unreadable, is_document, network_of
from schemas.keras.table import HOLDERS, ROWS
from schemas.keras.values import ACTIVATIONS, INITIALIZERS, REGULARIZERS
from schemas.network import NetworkField
from service.engine.network.activations import activations
from service.engine.network.initializers import initializers
from service.engine.network.layers import layers
from service.engine.network.regularizers import regularizers
from tests.support import every


def layer(name, kind="Dense", **config):
    given = {"units": 2} if kind == "Dense" and not config else config
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **given}, "registered_name": None}


def sequential(*listed, name="model"):
    return {"module": "keras", "class_name": "Sequential", "config": {"name": name, "layers": list(listed)}}


def tensor(name, call=0, output=0):
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, call, output]}}


def called(entry, *calls):
    nodes = [call if "args" in call else {"args": [call], "kwargs": {}} for call in calls]
    return {**entry, "name": entry["config"]["name"], "inbound_nodes": nodes}


def functional(*listed, inputs=("x",), outputs):
    sources = [called(layer(name, "InputLayer", batch_shape=[None, 4])) for name in inputs]
    config = {
        "name": "model",
        "layers": [*sources, *listed],
        "input_layers": [[name, 0, 0] for name in inputs],
        "output_layers": outputs,
    }
    return {"module": "keras", "class_name": "Functional", "config": config}


def refusal(document):
    """The one text of what is wrong with a document, and its pointer."""
    with pytest.raises(Unreadable) as caught:
        network_of(document)
    ((path, text),) = caught.value.faults
    return path, text


# --- the tables -----------------------------------------------------------------------------------


def test_every_row_names_a_layer_that_is_here():
    for name, row in ROWS.items():
        assert row.type in layers, name
        options = {option.name for option in layers[row.type].options}
        assert set(row.fixed) <= options, name
        names = {parameter for part in row.weights.values() for parameter in part}
        assert names <= set(layers[row.type].parameters or {}), name


def test_every_choice_of_keras_is_here():
    for chosen in ACTIVATIONS.values():
        assert (chosen if isinstance(chosen, str) else chosen["type"]) in activations
    for table, registry in ((INITIALIZERS, initializers), (REGULARIZERS, regularizers)):
        for row in table.values():
            assert row.type in registry
            declared = {option.name for option in registry[row.type].options}
            assert {*row.options.values(), *row.fixed} <= declared


def test_most_layers_are_those_of_keras():
    """A new layer with a page at keras.io has a row, or is one that several classes are."""
    by_rows = {row.type for row in ROWS.values()} | {"bidirectional", "time_distributed", "activation"}
    declared = {each.name for each in layers if any("keras.io" in source for source in each.sources)}
    assert declared - by_rows == {"spatial_dropout"}
    assert {"RNN", "Bidirectional", "TimeDistributed", "Normalization"} == set(HOLDERS)


# --- forms ----------------------------------------------------------------------------------------


def test_a_document_is_known_by_its_form():
    document = sequential(layer("a"))
    assert is_document(document) and is_document(json.dumps(document))
    assert not is_document({"layers": []}) and not is_document(layer("a")) and not is_document("relu")


def test_a_string_and_an_object_are_one():
    document = sequential(layer("a", "InputLayer", batch_shape=[None, 3]), layer("b"))
    assert network_of(document) == network_of(json.dumps(document))
    assert network_of(document) == {
        "layers": [{"type": "dense", "name": "b", "inputs": ["a"], "units": 2}],
        "inputs": ["a"],
        "input_shape": {"a": [3]},
        "outputs": ["b"],
    }


def test_defaults_that_look_like_choices_are_read():
    lstm = layer("l", "LSTM", units=2, zero_output_for_mask=True, unroll=True, implementation=2, seed=3, stateful=False)
    both = layer("b", "Bidirectional", layer=lstm, merge_mode="concat", backward_layer=None)
    heads = layer("m", "MultiHeadAttention", num_heads=1, key_dim=2, attention_axes=[1], flash_attention=None, seed=1)
    made = network_of(sequential(both, heads))["layers"]
    assert made[0]["layer"] == {"type": "lstm", "units": 2}
    assert {key: made[1][key] for key in ("type", "num_heads", "key_dim")} == {
        "type": "multi_head_attention",
        "num_heads": 1,
        "key_dim": 2,
    }


@every(
    ("given", "expected"),
    [
        ("leaky_relu", {"type": "leaky_relu", "alpha": 0.2}),
        ("swish", "swish"),
        ({"module": "keras.layers", "class_name": "ReLU", "config": {"max_value": 6.0}}, "relu6"),
        ({"class_name": "LeakyReLU", "config": {"alpha": 0.1}}, {"type": "leaky_relu", "alpha": 0.1}),
        ({"class_name": "ELU", "config": {"alpha": 0.5}}, {"type": "elu", "alpha": 0.5}),
        ({"class_name": "Softmax", "config": {"axis": -1}}, "softmax"),
        ({"module": "keras.activations", "class_name": "function", "config": "gelu"}, "gelu"),
    ],
)
def test_activations_as_names_and_as_objects(given, expected):
    (made,) = network_of(sequential(layer("a", units=1, activation=given)))["layers"]
    assert made["activation"] == expected


def test_initializers_and_regularizers():
    scaling = {"class_name": "VarianceScaling", "config": {"scale": 2.0, "mode": "fan_out", "distribution": "normal"}}
    document = sequential(
        layer(
            "a",
            units=1,
            kernel_initializer=scaling,
            bias_initializer="truncated_normal",
            kernel_regularizer={"class_name": "L1L2", "config": {"l1": 0.5, "l2": 0.25}},
        )
    )
    (made,) = network_of(document)["layers"]
    assert made["kernel_initializer"] == {
        "type": "variance_scaling",
        "scale": 2.0,
        "mode": "fan_out",
        "distribution": "truncated_normal",
    }
    assert made["bias_initializer"] == {"type": "normal", "truncated": True}
    assert made["kernel_regularizer"] == {"type": "l1_l2", "l1": 0.5, "l2": 0.25}


def test_shared_layers_and_nested_models_share_parameters():
    inner = sequential(layer("d", kernel_regularizer="l2", units=2), layer("r", "ReLU"), name="encoder")
    document = functional(
        called(inner, tensor("x"), tensor("y")),
        called(layer("add", "Add"), {"args": [[tensor("encoder"), tensor("encoder", 1)]], "kwargs": {}}),
        inputs=("x", "y"),
        outputs=[["add", 0, 0]],
    )
    network = network_of(document)
    assert [(each["name"], each.get("shares")) for each in network["layers"]] == [
        ("encoder.d", None),
        ("encoder.r", None),
        ("encoder:2.d", "encoder.d"),
        ("encoder:2.r", None),
        ("add", None),
    ]
    assert "kernel_regularizer" not in network["layers"][2]
    NetworkField().deserialize(document)


def test_the_list_form_of_keras_2():
    document = {
        "class_name": "Functional",
        "keras_version": "2.15.0",
        "config": {
            "name": "m",
            "layers": [
                {"class_name": "InputLayer", "name": "x", "inbound_nodes": [], "config": {"name": "x",
                 "batch_input_shape": [None, 4, 3], "dtype": "float32", "sparse": False, "ragged": False}},
                {"class_name": "MultiHeadAttention", "name": "h", "config": {"name": "h", "num_heads": 1, "key_dim": 2},
                 "inbound_nodes": [["x", 0, 0, {"value": ["x", 0, 0]}]]},
                {"class_name": "BatchNormalization", "name": "b", "config": {"name": "b", "axis": [2]},
                 "inbound_nodes": [[["h", 0, 0, {}]]]},
                {"class_name": "Concatenate", "name": "c", "config": {"name": "c", "axis": -1},
                 "inbound_nodes": [[["b", 0, 0, {}], ["x", 0, 0, {}]]]},
            ],
            "input_layers": [["x", 0, 0]],
            "output_layers": [["c", 0, 0]],
        },
    }  # fmt: skip
    network = network_of(document)
    assert [each["inputs"] for each in network["layers"]] == [["x", "x"], ["h"], ["b", "x"]]
    assert network["layers"][1]["axis"] == 2 and network["input_shape"] == {"x": [4, 3]}


def test_operations_of_tensors_and_numbers():
    def operation(name, *args):
        return {
            "module": "keras.src.ops.numpy", "class_name": name.capitalize(), "config": {"name": name}, "name": name,
            "registered_name": name.capitalize(), "inbound_nodes": [{"args": list(args), "kwargs": {}}],
        }  # fmt: skip

    document = functional(
        operation("multiply", tensor("x"), 2.0),
        operation("subtract", 1.0, tensor("multiply")),
        operation("add", tensor("subtract"), tensor("x")),
        outputs=[["add", 0, 0]],
    )
    made = network_of(document)["layers"]
    assert made[0]["scale"] == 2.0 and (made[1]["scale"], made[1]["offset"]) == (-1.0, 1.0)
    assert made[2] == {"type": "add", "name": "add", "inputs": ["subtract", "x"]}
    refused = functional(operation("arctan", tensor("x")), outputs=[["arctan", 0, 0]])
    assert 'layer "arctan" (Arctan): the operation Arctan of keras.ops' in refusal(refused)[1]


def test_a_base_called_without_training_stays_still():
    base = sequential(
        layer("d", units=2),
        layer("o", "Dropout", rate=0.5),
        layer("n", "BatchNormalization", trainable=False),
        name="base",
    )
    document = functional(
        called(base, {"args": [tensor("x")], "kwargs": {"training": False}}), outputs=[["base", 0, 0]]
    )
    made = network_of(document)["layers"]
    assert made[1]["type"] == "activation" and made[2]["trainable"] is False
    base["config"]["layers"][2]["config"]["trainable"] = True
    assert "training=False; set trainable to false too" in refusal(document)[1]


# --- refusals -------------------------------------------------------------------------------------

CUSTOM = {"module": "mine", "class_name": "MyLayer", "config": {"name": "c"}, "registered_name": "mine>MyLayer"}
REFUSED = [
    (layer("a", "Lambda", function={"class_name": "__lambda__"}), "Python code, which is never run"),
    (CUSTOM, "a class of your own; code is never run"),
    (layer("a", units=1, activation={"module": "builtins", "class_name": "function", "config": "f"}), "function 'f'"),
    (layer("a", units=1, activation="sparsemax"), "no activation 'sparsemax' is here"),
    (layer("a", units=1, kernel_constraint={"class_name": "MaxNorm"}), "constraints are not here"),
    (layer("a", units=1, activity_regularizer={"class_name": "L2"}), "a penalty on outputs"),
    (layer("a", units=1, kernel_initializer={"class_name": "IdentityInitializer", "config": {}}), "no initializer"),
    (layer("a", units=1, new_option=3), "'new_option' is 3, and no such option is here"),
    (layer("a", units=1, dtype={"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}), "mixed_float16"),
    (layer("a", units=1, dtype={"class_name": "QuantizedDTypePolicy", "config": {}}), "QuantizedDTypePolicy"),
    (layer("a", units=1, lora_rank=4), "merge the low-rank weights"),
    (layer("a", "Masking", mask_value=0.0), "masks are not here"),
    (layer("a", "Embedding", input_dim=3, output_dim=2, mask_zero=True), "mask_zero is true; masks are not here"),
    (layer("a", "LSTM", units=2, stateful=True), "no state is kept"),
    (layer("a", "ReLU", max_value=3.0), "a ReLU with max_value 3.0"),
    (layer("a", "Softmax", axis=1), "softmax acts on the last axis"),
    (layer("a", "Bidirectional", layer=layer("d"), merge_mode="sum"), "which is not recurrent"),
    (layer("a", "Bidirectional", layer=layer("l", "GRU", units=1), merge_mode=None), "merge_mode is null"),
    (
        layer("a", "Bidirectional", layer=layer("l", "GRU", units=1), backward_layer=layer("k", "GRU", units=2)),
        "more than the direction",
    ),
    (layer("a", "RNN", cell={"class_name": "StackedRNNCells", "config": {}}), "a cell StackedRNNCells is not here"),
    (layer("a", "TimeDistributed", layer=sequential(layer("d"))), "each layer of that into a TimeDistributed"),
    (layer("a", "RandomFlip", mode="horizontal"), "it changes data at random"),
    (layer("a", "Resizing", height=2, width=2), "it prepares data"),
    (layer("a", "MultiHeadAttention", num_heads=1, key_dim=1, attention_axes=[1, 2]), "attention_axes is [1,2]"),
    (layer("a", "Flatten", data_format="channels_first"), "takes the channels last"),
]


@every(("entry", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_read_is_said_with_the_layer_and_the_reason(entry, reason):
    path, text = refusal(sequential(layer("fine"), entry))
    assert path == ("config", "layers", 1)
    assert text.startswith(f'layer "{entry["config"]["name"]}" ({entry["class_name"]}): ') and reason in text, text


def test_hard_sigmoid_of_keras_2_is_another_function():
    document = sequential(layer("a", units=1, activation="hard_sigmoid"))
    assert network_of(document)["layers"][0]["activation"] == "hard_sigmoid"
    assert "0.2 x + 0.5" in refusal(document | {"keras_version": "2.4.0"})[1]


def test_all_refusals_come_in_one_answer():
    with pytest.raises(Unreadable) as caught:
        network_of(sequential(*(copy.deepcopy(entry) for entry, _ in REFUSED[:6])))
    assert len(caught.value.faults) == 6


@every(
    ("document", "reason"),
    [
        (sequential(layer("a")) | {"class_name": "MyModel", "registered_name": "mine>MyModel"}, "its code is not read"),
        ("{\"class_name\": ", "not JSON"),
        ("{\"class_name\": 1}", "holds no model"),
        (functional(called(layer("d"), tensor("gone")), outputs=[["d", 0, 0]]), "which the model does not list"),
        (functional(called(layer("d"), tensor("x")), outputs=[["d", 0, 1]]), "output 1 of layer 'd' is used"),
        (functional(called(layer("d"), {"args": [tensor("x")], "kwargs": {"mask": tensor("x")}}),
                    outputs=[["d", 0, 0]]), "the argument 'mask' of a call is a tensor"),
        (functional(called(layer("d"), {"args": [tensor("x")], "kwargs": {"training": True}}),
                    outputs=[["d", 0, 0]]), "it is called with training=True"),
    ],
)  # fmt: skip
def test_documents_that_do_not_hold_together(document, reason):
    assert reason in refusal(document)[1]


def test_models_within_models_cannot_grow_without_bound():
    inner = layer("d")
    for depth in range(8):
        copies = (copy.deepcopy(inner) | {"config": inner["config"] | {"name": name}} for name in "abc")
        inner = sequential(*copies, name=f"m{depth}")
    assert "more than 4096 layers" in refusal(sequential(inner))[1]
    inner = layer("d")
    for depth in range(20):
        inner = sequential(inner, name=f"m{depth}")
    assert "nested deeper than 12 levels" in refusal(sequential(inner))[1]


def test_faults_of_the_network_are_told_at_the_layer_of_the_document(post):
    document = sequential(
        layer("i", "InputLayer", batch_shape=[None, 3, 3, 1]), layer("c", "Conv2D", filters=1, kernel_size=[5, 5])
    )
    request = {"network": document, "inputs": [[[[1.0]] * 3] * 3]}
    (error,) = post(request, "/v1/forward").json["errors"]
    assert error["pointer"] == "#/network/config/layers/1"
    assert error["detail"].startswith('layer "c" (Conv2D): kernel_size: a window of 5 does not fit')
    document["config"]["layers"][1]["config"]["filters"] = 0
    (error,) = post(request, "/v1/forward").json["errors"]
    assert error["pointer"] == "#/network/config/layers/1" and "filters: takes an integer at least 1" in error["detail"]
    (error,) = post(request | {"network": json.dumps(document)}, "/v1/forward").json["errors"]
    assert error["pointer"] == "#/network" and error["detail"].startswith('layer "c" (Conv2D): filters')


def test_a_wrong_layer_of_a_document_is_no_definition():
    with pytest.raises(ValidationError):
        NetworkField().deserialize(sequential(layer("a", units=-1)))
