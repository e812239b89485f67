"""Network definitions: names, references, unknown keys, and what a definition is refused for."""

from typing import Any

from service.engine.network.layers import layers
from tests.conftest import Post
from tests.support import assert_problem, every, faults, network, xor

DENSE = {"type": "dense", "units": 1}


def refusals(post: Post, definition: Any) -> dict[str, str]:
    body = xor(network=definition, parameters=...)
    return faults(assert_problem(post(body), "invalid", body))


@every("definition", [[], "dense", 1, True])
def test_a_network_is_an_object(post: Post, definition: Any) -> None:
    assert "takes an object with 'layers'" in refusals(post, definition)["#/network"]


@every("value", [[], {}, "dense", 1, None, True])
def test_layers_are_a_list_of_at_least_one(post: Post, value: Any) -> None:
    assert set(refusals(post, {"layers": value})) == {"#/network/layers"}


def test_layers_are_required(post: Post) -> None:
    assert refusals(post, {}) == {"#/network/layers": "is required"}


@every("layer", [1, "dense", None, [], [DENSE]])
def test_a_layer_is_an_object_with_a_type(post: Post, layer: Any) -> None:
    assert "takes an object with 'type'" in refusals(post, network(DENSE, layer))["#/network/layers/1"]


def test_a_layer_needs_a_known_type(post: Post) -> None:
    errors = refusals(post, network({"units": 1}, {"type": "dens"}, {"type": 3}, {"type": []}))
    assert errors["#/network/layers/0/type"].startswith("is required; for a layer of units")
    assert "did you mean 'dense'?" in errors["#/network/layers/1/type"]
    assert set(errors) == {f"#/network/layers/{place}/type" for place in range(4)}


@every("key", ["units", "activation", "use_bias", "kernel_initializer"])
def test_unknown_layer_keys_get_a_hint(post: Post, key: str) -> None:
    errors = refusals(post, network(DENSE | {key + "s": 1}))
    assert f"did you mean {key!r}?" in errors[f"#/network/layers/0/{key}s"]


LSTM = {"type": "lstm", "units": 1}
NOT_STEPWISE = "a layer of type {} cannot be applied step by step"
NOT_RECURRENT = "a layer of type {} is not recurrent; simple_rnn, lstm, gru are"


@every(
    ("kind", "inner", "detail"),
    [
        ("time_distributed", "add", NOT_STEPWISE.format("'add'")),
        ("time_distributed", {"type": "dot", "axes": 1}, NOT_STEPWISE.format("'dot'")),
        ("time_distributed", {"type": "embedding"}, NOT_STEPWISE.format("'embedding'")),  # beyond what it lacks
        ("bidirectional", {"type": "dense", "units": 2}, NOT_RECURRENT.format("'dense'")),
        ("bidirectional", "flatten", NOT_RECURRENT.format("'flatten'")),
        ("bidirectional", {"type": "bidirectional", "layer": LSTM}, NOT_RECURRENT.format("'bidirectional'")),
    ],
)
def test_layers_take_layers_of_some_types_only(post: Post, kind: str, inner: Any, detail: str) -> None:
    assert refusals(post, network({"type": kind, "layer": inner})) == {"#/network/layers/0/layer": detail}
    outer = {"type": "time_distributed", "layer": {"type": kind, "layer": inner}}
    assert refusals(post, network(outer)) == {"#/network/layers/0/layer/layer": detail}


@every("kind", ["time_distributed", "bidirectional"])
def test_a_layer_in_another_has_no_keys_of_the_network(post: Post, kind: str) -> None:
    of_network = {"name": "a", "inputs": ["input"], "shares": "b", "trainable": False}
    errors = refusals(post, network({"type": kind, "layer": LSTM | of_network}))
    assert errors == {f"#/network/layers/0/layer/{key}": "unknown key; it belongs beside 'layer'" for key in of_network}


def test_all_faults_of_all_layers_are_told_at_once(post: Post) -> None:
    errors = refusals(
        post,
        network(
            {"type": "dense", "units": 0, "activation": "sigmoidal"},
            {"type": "dropout", "rate": 1},
            {"type": "dense", "unit": 1},
            outputs=[],
            input_shape=[0],
            input="x",
        ),
    )
    assert set(errors) == {
        "#/network/layers/0/units",
        "#/network/layers/0/activation",
        "#/network/layers/1/rate",
        "#/network/layers/2/unit",
        "#/network/layers/2/units",
        "#/network/outputs",
        "#/network/input_shape/0",
        "#/network/input",
    }


def test_layers_without_a_name_are_called_by_type_and_position(post: Post) -> None:
    answer = post(xor(network=network(DENSE, {"type": "dropout", "rate": 0.5}, DENSE), parameters=...)).json
    assert list(answer["gradients"]) == ["dense_1", "dense_3"]


def test_a_name_stands_once(post: Post) -> None:
    errors = refusals(post, network(DENSE | {"name": "a"}, DENSE | {"name": "b"}, DENSE | {"name": "a"}))
    assert errors == {"#/network/layers/2/name": "'a' is taken: layer 0 has that name"}
    assert "layer 0" in refusals(post, network(DENSE | {"name": "dense_2"}, DENSE))["#/network/layers/1/name"]


def test_input_is_no_name_for_a_layer(post: Post) -> None:
    assert "means the inputs" in refusals(post, network(DENSE | {"name": "input"}))["#/network/layers/0/name"]


@every("name", ["", "a" * 129, ".a", "a.", "a/b", "a[0]", "a\\b", 'a"b', "a\nb", "\0", 1, None, [], True])
def test_names_that_pointers_and_formulas_could_not_carry_are_refused(post: Post, name: Any) -> None:
    assert set(refusals(post, network(DENSE | {"name": name}))) == {"#/network/layers/0/name"}


@every("name", ["a" * 64, "隐藏层", "слой 1", "∇", "😀", "a~b", "-", "0", "__proto__", "é", "a'b", "<b>"])
def test_names_may_be_in_any_language(post: Post, name: str) -> None:
    answer = post(xor(network=network(DENSE | {"name": name}), parameters=...)).json
    assert list(answer["gradients"]) == [name]


@every("key", ["inputs", "shares"])
def test_references_name_a_known_layer(post: Post, key: str) -> None:
    value = ["nobody"] if key == "inputs" else "nobody"
    errors = refusals(post, network(DENSE | {"name": "first"}, DENSE | {key: value}))
    ((pointer, detail),) = errors.items()
    assert pointer.startswith(f"#/network/layers/1/{key}")
    assert "no" in detail and "'nobody'" in detail


@every("value", ["first", [], [1], {}, None, [None], True])
def test_inputs_of_a_layer_are_a_list_of_names(post: Post, value: Any) -> None:
    assert set(refusals(post, network(DENSE, DENSE | {"inputs": value}))) == {"#/network/layers/1/inputs"}


@every("value", ["dense_1", [], [1], {}, ["dense_1", "dense_1"], True])
def test_outputs_are_a_list_of_different_names(post: Post, value: Any) -> None:
    assert set(refusals(post, network(DENSE, outputs=value))) == {"#/network/outputs"}


def test_outputs_are_known_layers(post: Post) -> None:
    body = {"network": network(DENSE, outputs=["dense_1", "input"]), "inputs": [[0]]}
    assert set(faults(assert_problem(post(body, "/v1/forward"), "invalid", body))) == {"#/network/outputs/1"}


def test_cycles_are_refused_at_every_layer_on_them(post: Post) -> None:
    errors = refusals(
        post, network(DENSE | {"name": "a", "inputs": ["b"]}, DENSE | {"name": "b", "inputs": ["a"]}, DENSE)
    )
    assert set(errors) == {f"#/network/layers/{place}/inputs" for place in range(3)}
    assert "#/network/layers/0/inputs" in refusals(post, network(DENSE | {"name": "a", "inputs": ["a"]}))
    assert refusals(post, network(DENSE | {"name": "a", "shares": "b"}, DENSE | {"name": "b", "shares": "a"}))


@every("kind", [declaration.name for declaration in layers if declaration.takes[0] > 1])
def test_merging_layers_need_two_inputs(post: Post, kind: str) -> None:
    required = {"axes": 1} if kind == "dot" else {}
    assert "merges two" in refusals(post, network(DENSE, {"type": kind} | required))["#/network/layers/1/inputs"]


def test_other_layers_take_one_input(post: Post) -> None:
    errors = refusals(post, network(DENSE | {"name": "a"}, DENSE | {"inputs": ["a", "input"]}))
    assert "takes one input, got 2" in errors["#/network/layers/1/inputs"]


@every(("shape", "place"), [([3], "#/inputs"), ([2, 1], "#/inputs"), ([], "#/inputs"), ("2", "#/network/input_shape")])
def test_input_shape_has_to_agree_with_the_inputs(post: Post, shape: Any, place: str) -> None:
    assert set(refusals(post, network(DENSE, input_shape=shape))) == {place}


def test_shapes_of_parameters_are_explained_by_their_reason(post: Post) -> None:
    body = xor()
    body["parameters"]["output"]["kernel"] = [[1.0], [2.0], [3.0]]
    errors = faults(assert_problem(post(body), "invalid", body))
    assert errors["#/parameters/output/kernel"] == (
        "kernel of layer 'output' has shape [3, 1]; it takes [2, 1] because layer 'hidden' has 2 units"
    )


def test_missing_and_unknown_parameters_are_told_at_once(post: Post) -> None:
    body = xor()
    body["parameters"] = {"hidden": {"kernel": body["parameters"]["hidden"]["kernel"], "weight": 1}, "outputs": {}}
    errors = faults(assert_problem(post(body), "invalid", body))
    assert set(errors) == {
        "#/parameters/hidden/bias",
        "#/parameters/hidden/weight",
        "#/parameters/output",
        "#/parameters/outputs",
    }


def test_a_layer_cannot_become_samples_without_an_axis(post: Post) -> None:
    errors = refusals(post, network({"type": "reshape", "target_shape": []}, DENSE))
    assert set(errors) == {"#/network/layers/0/target_shape"}
