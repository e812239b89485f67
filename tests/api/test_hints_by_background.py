"""Requests as people of one background write them: whole documents, wrappers, textbooks, and values of a wrong form.

Each has words that the first error must have; clients that show only `detail` then see them too.
"""

import gzip
import json
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from schemas.declared import BESIDE, LayerSchema
from schemas.evaluation import LossRequest
from schemas.training import TrainRequest
from service.engine.network.activations import activations
from service.engine.network.reach import reach
from tests.conftest import Post
from tests.support import answered, assert_problem, every

DENSE: dict[str, Any] = {"type": "dense", "units": 1}
LAYERS: dict[str, Any] = {
    "layers": [
        {"type": "dense", "name": "hidden", "units": 3, "activation": "tanh"},
        {"type": "dense", "name": "out", "units": 1},
    ]
}
BODY: dict[str, Any] = {"network": LAYERS, "inputs": [[1, 2], [3, 4]], "targets": [[1], [0]], "loss": "mse"}
TRAIN = BODY | {"optimizer": "sgd", "steps": 1}
COMPARE = BODY | {"optimizers": ["sgd", "adam"], "steps": 1}
KERNEL, BIAS = [[1, 2, 3], [4, 5, 6]], [0, 0, 0]
TREE = {"hidden": {"kernel": KERNEL, "bias": BIAS}, "out": {"kernel": [[1], [2], [3]], "bias": [0]}}


def layer(**changes: Any) -> dict[str, Any]:
    """Return a body whose network is one dense layer with these options."""
    return BODY | {"network": {"layers": [DENSE | changes]}}


def layers(*given: Any) -> dict[str, Any]:
    """Return a body whose network is these layers."""
    return BODY | {"network": {"layers": list(given)}}


def first(post: Post, body: Any, path: str = "/v1/gradients") -> str:
    """Return the detail of the refusal of a body; it begins with the first error."""
    document = assert_problem(post(body, path), "invalid", body)
    assert document["detail"].startswith(f"{document['errors'][0]['pointer']}: {document['errors'][0]['detail']}")
    assert len(document["errors"][0]["detail"]) < 420
    return str(document["detail"])


# --- layers -------------------------------------------------------------------------------------


@every(
    ("body", "words"),
    [
        (layers("Linear(2, 4)"), '{"type": "dense", "units": 4}'),
        (layers("Dense(4)"), '{"type": "dense", "units": 4}'),
        (layers("nn.Dropout(p=0.5)"), '{"type": "dropout", "rate": 0.5}'),
        (layers("Conv2d(1, 8, 3)"), '{"type": "conv2d", "filters": 8, "kernel_size": 3}'),
        (layers("Conv2D(8, 3)"), '{"type": "conv2d", "filters": 8, "kernel_size": 3}'),
        (layers("nn.ReLU()"), '{"type": "activation", "activation": "relu"}'),
        (layers(["Linear", 2, 4]), '{"type": "dense", "units": 4}'),
        (layers(2, 3, 1), '[{"type": "dense", "units": 3}, {"type": "dense", "units": 1}]'),
        (BODY | {"network": [2, 3, 1]}, '{"layers": [{"type": "dense", "units": 3}, {"type": "dense", "units": 1}]}'),
        (layers({"dense": {"units": 3}}), '{"type": "dense", "units": 3}'),
        (layers({"units": 3, "activation": "relu"}), '"type": "dense"'),
        (layers({"op": "linear", "units": 3}), "came as 'op'"),
        (layers({"type": "MSELoss"}), "its place is 'loss'"),
        (layers({"type": "mse_loss"}), "is a loss"),
        (layers({"type": "Lambda", "function": "lambda x: x"}), "no code runs here"),
        (layers({"type": "View", "shape": [2]}), "'reshape'"),
        (layers({"type": "TransformerEncoderLayer"}), "multi_head_attention"),
        (layers({"type": "BatchNorm1d"}), "1 minus pytorch's"),
        (layers({"type": "conv2d", "units": 8, "kernel_size": 3}), "'filters'"),
        (layers({"type": "conv2d", "features": 8, "kernel_size": 3}), "'filters'"),
        (layers({"type": "lstm", "units": 3, "bidirectional": True}), "bidirectional"),
        (layers({"type": "dropout", "keep_prob": 0.8}), "1 minus keep_prob"),
        (layers({"type": "activation", "name": "relu"}), "activation"),
        (layers({"type": "prelu", "init": 0.25}), "'alpha_initializer'"),
        (layer(units=3.0), "write 3"),
        (layer(units=[3]), "write 3"),
        (layer(outputs=1), "'units'"),
        (layer(output_dim=1), "'units'"),
        (layer(features=1), "'units'"),
        (layer(inputs=2), "inferred"),
        (layer(inputs="input"), 'write ["input"]'),
        (layer(kernel=[[1], [2]]), '"parameters": {"dense_1": {"kernel": …}}'),
        (layer(W=[[1], [2]]), '"parameters": {"dense_1": {"kernel": …}}'),
        (layer(name="a", bias=[0]), '"parameters": {"a": {"bias": …}}'),
        (layer(weight_decay=0.01), "'kernel_regularizer'"),
        (layer(activation=["relu"]), 'write "relu"'),
        (layer(activation="leaky_relu(0.1)"), '{"type": "leaky_relu", "alpha": 0.1}'),
        (layer(activation="LeakyReLU(negative_slope=0.2, inplace=True)"), '{"type": "leaky_relu", "alpha": 0.2}'),
        (layer(activation="max(0, x)"), "by its name"),
        (layer(activation="lambda x: x"), "by its name"),
        (layer(activation="sine"), "periodic"),
        (layer(activation="gelu_new"), "'gelu_tanh'"),
        (layer(activation={"type": "softmax", "dim": 1}), "last axis"),
        (layer(activation={"type": "gelu", "approximate": "tanh"}), "'gelu_tanh'"),
        (
            layer(activation={"class_name": "LeakyReLU", "config": {"name": "l", "negative_slope": 0.1}}),
            '{"type": "leaky_relu", "alpha": 0.1}',
        ),
        (layer(activation={"class_name": "function", "config": "relu", "module": "builtins"}), 'send "relu"'),
        (layer(kernel_initializer=0.5), '{"type": "constant", "value": 0.5}'),
        (layer(kernel_initializer=[[1], [2]]), "'parameters'"),
        (layer(bias_initializer="constant(0.1)"), '{"type": "constant", "value": 0.1}'),
        (
            layer(kernel_initializer={"class_name": "RandomNormal", "config": {"mean": 0, "stddev": 0.05}}),
            '"standard_deviation": 0.05',
        ),
        (layer(kernel_initializer={"type": "variance_scaling", "distribution": "normal"}), "'truncated_normal'"),
        (layer(kernel_regularizer="l2(0.01)"), '{"type": "l2", "l2": 0.01}'),
        (layer(kernel_regularizer={"class_name": "L2", "config": {"l2": 0.01}}), '{"type": "l2", "l2": 0.01}'),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_layer_is_told_how_to_write_it_here(post: Post, body: dict[str, Any], words: str) -> None:
    assert words.lower() in first(post, body).lower()


@every("written", ["LeakyReLU(0.1)", "ELU(alpha=0.5)", "Hardshrink(0.25)"])
def test_an_activation_that_an_error_says_to_write_is_taken(post: Post, written: str) -> None:
    block = json.loads(first(post, layer(activation=written)).split("write ")[1])
    assert post(layer(activation=block)).status_code == 200


@every("written", ["torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)", "SGD(0.1)", "Adam(lr=0.1)"])
def test_an_optimizer_that_an_error_says_to_write_is_taken(post: Post, written: str) -> None:
    block = json.loads(first(post, TRAIN | {"optimizer": written}, "/v1/train").split("write ")[1])
    assert block["learning_rate"] == 0.1
    assert post(TRAIN | {"optimizer": block}, "/v1/train").status_code == 200


def test_nothing_is_said_to_write_where_an_argument_is_not_understood(post: Post) -> None:
    written = "Adam(model.parameters(), lr=0.001, betas=(0.9, 0.99))"
    assert "write" not in first(post, TRAIN | {"optimizer": written}, "/v1/train")


def test_keys_that_are_said_to_belong_beside_a_block_are_taken_there() -> None:
    keys = {"layer": LayerSchema, "loss": LossRequest, "optimizer": TrainRequest}
    assert keys.keys() == BESIDE.keys()
    for kind, request in keys.items():
        assert set(BESIDE[kind]) <= set(request().load_fields)


@every(
    "text",
    ["f(" * 200, "Linear(" + "[" * 100, "Adam(lr=" + "-" * 100 + "1)", "relu(\x00)", "a(**b)", "Dense(*[1])", "((((("],
)
def test_calls_that_are_not_understood_are_refused_all_the_same(post: Post, text: str) -> None:
    for body in (layer(activation=text), layers(text), BODY | {"loss": text}):
        first(post, body)


# --- losses, targets and inputs -----------------------------------------------------------------


@every(
    ("change", "words"),
    [
        ({"loss": "sigmoid_cross_entropy_with_logits"}, "'binary_crossentropy'"),
        ({"loss": "softmax_cross_entropy_with_logits"}, "'categorical_crossentropy'"),
        ({"loss": "softmax_cross_entropy_with_integer_labels"}, "'sparse_categorical_crossentropy'"),
        ({"loss": "SSE"}, "'squared_error'"),
        ({"loss": "half_mse"}, "'half_squared_error'"),
        ({"loss": "rmse"}, "root of a mean"),
        ({"loss": "mape"}, "change the targets"),
        ({"loss": "accuracy"}, "no gradient"),
        ({"loss": "ctc"}, "is not here"),
        ({"loss": "none"}, "/v1/forward"),
        ({"loss": "(y - t)**2"}, "by its name"),
        ({"loss": ["mse"]}, 'write "mse"'),
        ({"loss": {"name": "mse"}}, "is 'type'"),
        ({"loss": {"name": "huber", "delta": 2}}, "came as 'name'"),
        ({"loss": {"type": "mse", "reduction": "sum"}}, "beside 'loss'"),
        ({"loss": {"type": "categorical_crossentropy", "ignore_index": -100}}, "sample_weights"),
        ({"loss": {"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}}, '"from_logits": true'),
        ({"targets": [[1], [0], [1]]}, "3 targets for 2 samples"),
        ({"inputs": [[1, 3, 5], [2, 4, 6]], "targets": [[1, 0, 1]]}, "inputs and targets are transposed"),
        ({"inputs": [[1, 3, 5], [2, 4, 6]], "targets": [[1], [0], [1]]}, "unless the inputs are transposed"),
        ({"inputs": {"x1": [1, 3], "x2": [2, 4]}}, "one tensor"),
        ({"inputs": [{"x1": 1, "x2": 2}]}, "without names"),
        ({"inputs": {"dtype": "float64", "shape": [2, 2], "values": [1, 2, 3, 4]}}, "typed array"),
        ({"inputs": "data.csv"}, "not read"),
        ({"sample_weights": [[1], [1]]}, "one flat list"),
        ({"include": ["gradients"]}, "anyway"),
        ({"include": ["outputs"]}, "anyway"),
        ({"include": ["deltas"]}, "'layers'"),
        ({"include": {"layers": True}}, 'write ["layers"]'),
        ({"dtype": "fp16"}, "'float32'"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_losses_and_numbers_are_told_what_to_send(post: Post, change: dict[str, Any], words: str) -> None:
    assert words in first(post, BODY | change)


@every(
    ("targets", "loss", "words"),
    [
        ([[0], [1]], "categorical_crossentropy", "sparse_categorical_crossentropy and one flat list"),
        ([[0], [1]], "sparse_categorical_crossentropy", "send one flat list"),
        ([1, 3], "sparse_categorical_crossentropy", "classes count from 0"),
    ],
)
def test_classes_are_told_the_loss_of_their_form(post: Post, targets: Any, loss: str, words: str) -> None:
    body = layer(units=3, activation="softmax") | {"targets": targets, "loss": loss}
    assert words in first(post, body)


# --- parameters ---------------------------------------------------------------------------------


@every(
    ("parameters", "words"),
    [
        ([KERNEL, BIAS], '{"dense_1": {"kernel": [[1], [2]], "bias": [0]}}'),
        ({"coefs_": [KERNEL], "intercepts_": [BIAS]}, "grouped by layer"),
        ({"hidden.kernel": KERNEL, "hidden.bias": BIAS}, '{"hidden": {"kernel": …}}'),
        ({"dense/kernel:0": KERNEL, "dense/bias:0": BIAS}, '{"dense": {"kernel": …}}'),
        ({"params": TREE}, "without 'params' around it"),
        ({"state_dict": {"hidden.weight": KERNEL}}, "without 'state_dict' around it"),
        ({"hidden": [KERNEL, BIAS]}, '{"kernel": …, "bias": …}'),
        ("random", "leave it out"),
        ({"hidden": {"W1": KERNEL, "b1": BIAS}, "out": TREE["out"]}, "did you mean 'kernel'"),
        ({"hidden": {"dW": KERNEL, "db": BIAS}, "out": TREE["out"]}, "did you mean 'kernel'"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_parameters_are_told_how_they_are_grouped(post: Post, parameters: Any, words: str) -> None:
    assert words in first(post, BODY | {"parameters": parameters})


# --- keys and wrappers --------------------------------------------------------------------------


@every(
    ("path", "body", "words"),
    [
        ("/v1/gradients", {"request": BODY}, "'network', 'inputs', 'targets', 'loss'"),
        ("/v1/gradients", {"model": BODY}, "directly into this object"),
        ("/v1/gradients", {"params": BODY}, "directly into this object"),
        (
            "/v1/gradients",
            {"network": LAYERS, "data": {"x": [[1, 2]], "y": [[1]]}},
            "'inputs' for 'x', 'targets' for 'y'",
        ),
        ("/v1/train", BODY | {"hyperparameters": {"optimizer": "sgd", "epochs": 5}}, "'optimizer', 'epochs'"),
        ("/v1/train", BODY | {"optimizer": {"type": "adam", "params": {"lr": 0.1}}}, "'learning_rate' for 'lr'"),
        ("/v1/gradients", BODY | {"parameter": TREE}, "did you mean 'parameters'"),
        ("/v1/gradients", layers({"layer": "dense", "n": 1}), "it came as 'layer'"),
        ("/v1/train", TRAIN | {"iterations": 10}, "did you mean 'steps'"),
        ("/v1/gradients/explain", BODY | {"weight": "out.kernel"}, "did you mean 'parameter'?"),
        (
            "/v1/functions/gradient",
            {"expression": "xy", "points": [[1, 2]]},
            "'xy' is read as one variable; a product is written x*y",
        ),
        (
            "/v1/train",
            TRAIN | {"optimizer": {"type": "sgd", "schedule": {"type": "StepLR", "step_size": 3}}},
            "#/optimizer/schedule: unknown key; it belongs beside 'optimizer'",
        ),
        ("/v1/functions/stationary", {"expression": "x^2", "range": [-1, 1]}, "did you mean 'box'"),
        ("/v1/functions/fit", {"y": [2, 3], "points": [[1, 2], [2, 3]]}, "it belongs into 'points', a list of pairs"),
        ("/v1/train", TRAIN | {"validation_data": {"inputs": [[1, 2]], "targets": [[1]]}}, "did you mean 'validation'"),
        ("/v1/gradients", BODY | {"activation": "relu"}, "a layer of 'network'"),
        ("/v1/gradients", BODY | {"lambda": 0.1}, "'kernel_regularizer'"),
        ("/v1/gradients", BODY | {"hidden_layer_sizes": [3]}, "'layers'"),
        ("/v1/gradients", {"layers": [DENSE]}, "into 'network'"),
        ("/v1/gradients", BODY | {"outputs": [[1]]}, "'targets'"),
        ("/v1/gradients", BODY | {"training_data": [[1, 2]]}, "'inputs'"),
        ("/v1/gradients", BODY | {"y_pred": [[1]]}, "leave it out"),
        ("/v1/gradients", BODY | {"description": "xor"}, "leave it out"),
        ("/v1/gradients", BODY | {"grad_check": True}, "/v1/gradients/check"),
        ("/v1/gradients", BODY | {"stream": True}, "text/event-stream"),
        ("/v1/gradients", BODY | {"network": LAYERS | {"loss": "mse"}}, "beside 'network'"),
        ("/v1/gradients", BODY | {"network": LAYERS | {"weights": TREE}}, "beside 'network' as 'parameters'"),
        ("/v1/gradients", BODY | {"network": LAYERS | {"name": "net"}}, "leave it out"),
        ("/v1/gradients", BODY | {"network": LAYERS | {"inputs": 2}}, "inferred"),
        ("/v1/gradients", BODY | {"network": LAYERS | {"input_shape": 2}}, "write [2]"),
        ("/v1/gradients", BODY | {"network": LAYERS | {"input_shape": [2, 2]}}, "leave the axis of the samples out"),
        ("/v1/gradients", BODY | {"network": {"layers": {"a": DENSE}}}, "write a list"),
        ("/v1/gradients/check", BODY | {"grads": TREE}, "'claimed'"),
        ("/v1/gradients/check", BODY | {"eps": 1e-5}, "'steps'"),
        ("/v1/gradients/check", BODY | {"rtol": 1e-5}, "'tolerance'"),
        ("/v1/gradients/check", BODY | {"claimed": {"dW1": KERNEL}}, '{"hidden": {"kernel": …}}'),
        ("/v1/gradients/verify", BODY | {"submissions": {"ann": TREE}}, '[{"id": "…", "claimed": …}'),
        ("/v1/gradients/verify", BODY | {"submissions": [{"id": 1, "claimed": TREE}]}, 'write "1"'),
        ("/v1/gradients/verify", BODY | {"submissions": [{"name": "ann", "gradients": TREE}]}, "'id'"),
        ("/v1/gradients/explain", BODY | {"layer": "hidden"}, "'parameter'"),
        ("/v1/derivatives", BODY | {"kind": "gradient"}, "POST the request to /v1/gradients"),
        ("/v1/derivatives", BODY | {"type": "hessian"}, "'kind'"),
        ("/v1/runs", {"type": "train", "request": TRAIN}, "'kind'"),
        ("/v1/runs", {"kind": "train", "body": TRAIN}, "'request'"),
        ("/v1/runs", {"kind": "train", "request": json.dumps(TRAIN)}, "without quotation marks"),
        ("/v1/networks", {"layers": [DENSE]}, "into 'network'"),
    ],
    ids=lambda value: json.dumps(value)[:40],
)
def test_a_key_is_told_its_place(post: Post, path: str, body: dict[str, Any], words: str) -> None:
    assert words in first(post, body, path)


@every(
    ("change", "words"),
    [
        ({"optimizer": {"adam": {"lr": 0.1}}}, '{"type": "adam", "learning_rate": 0.1}'),
        ({"optimizer": {"algorithm": "adam"}}, "came as 'algorithm'"),
        ({"optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.001}}}, '"learning_rate": 0.001}'),
        ({"optimizer": "torch.optim.Adam(model.parameters(), lr=0.001)"}, '{"type": "adam", "learning_rate": 0.001}'),
        ({"optimizer": "adma"}, "'adam'"),
        ({"optimizer": "SDG"}, "'sgd'"),
        ({"optimizer": "backprop"}, "'sgd'"),
        ({"optimizer": {"type": "adam", "clipnorm": 1.0}}, "beside 'optimizer' as 'clip'"),
        ({"optimizer": {"type": "sgd", "batch_size": 2}}, "beside 'optimizer'"),
        ({"optimizer": {"type": "adam", "learning_rate": {"type": "cosine", "decay_steps": 9}}}, "'schedule'"),
        ({"schedule": "cosine"}, '{"type": "cosine", "decay_steps": …}'),
        ({"schedule": "linear_warmup"}, "'warmup_steps'"),
        ({"schedule": "exp"}, "'exponential'"),
        ({"schedule": {"class_name": "CosineDecay", "config": {"decay_steps": 9}}}, '"decay_steps": 9}'),
        ({"schedule": {"type": "exponential", "decay_rate": 0.9}}, "'gamma'"),
        ({"schedule": {"type": "exponential", "gamma": 0.9, "initial_learning_rate": 0.1}}, "of the optimizer"),
        ({"warmup_steps": 3}, "into 'schedule'"),
        ({"lr_decay": 0.9}, "'schedule'"),
        ({"clip_norm": 1.0}, "'clip'"),
        ({"target_loss": 0.1}, "'loss_below'"),
        ({"stop": {"monitor": "val_loss"}}, "leave it out"),
        ({"log_every": 10}, "'every'"),
        ({"trainable": ["hidden"]}, "'frozen'"),
        ({"frozen": "hidden"}, 'write ["hidden"]'),
        ({"val_data": [[1, 2]]}, "'validation'"),
        ({"verbose": 1}, "leave it out"),
        ({"steps": 10.0}, "write 10"),
    ],
    ids=lambda value: json.dumps(value)[:60],
)
def test_a_training_in_the_words_of_others(post: Post, change: dict[str, Any], words: str) -> None:
    assert words in first(post, TRAIN | change, "/v1/train")


@every(
    ("change", "words"),
    [
        ({"optimizers": "sgd"}, 'write ["sgd"]'),
        ({"learning_rate": [0.1, 0.01]}, "'learning_rates'"),
    ],
)
def test_a_comparison_in_the_words_of_others(post: Post, change: dict[str, Any], words: str) -> None:
    assert words in first(post, COMPARE | change, "/v1/train/compare")


@every("key", ["task", "options", "comment", "version", "lambda", "check", "id", "amp", "limit", "output_path", "zzz"])
def test_a_key_is_not_said_to_belong_where_only_a_similar_one_does(post: Post, key: str) -> None:
    detail = first(post, BODY | {key: 1})
    assert not any(
        word in detail for word in ("'starts'", "'points'", "'momentum'", "'epsilon'", "'claimed'", "'damping'")
    )


# --- bodies and paths ---------------------------------------------------------------------------


@every(
    ("body", "word"),
    [
        (gzip.compress(json.dumps(BODY).encode()), "content-encoding: gzip"),
        (b"PK\x03\x04" + bytes(20), "zip archive"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"\x93NUMPY\x01\x00", ".npy"),
        (b"\x80\x04\x95\x10", "pickle"),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", "safetensors"),
        (b"```json\n{}\n```", "markdown"),
        (b'Here is the request: {"a": 1}', "words stand before"),
        (b'const body = {"a": 1}', "program"),
        (b"@request.json", "curl"),
        (b"%7B%22a%22%3A1%7D", "percent-encoded"),
        (b"eyJhIjogMX0=", "base64"),
        (b"'{\"a\": 1}'", "windows"),
        (b'json.dumps({"a": 1})', "text that it gives"),
        (b'{\\"a\\": 1}', "encoded twice"),
        (b'{"a": NULL}', "lower case"),
        (b'{"a": yes}', "true or false"),
        (b'{"a": 1.0f}', "suffix"),
        (b'{"a": 50%}', "suffix"),
    ],
)
def test_a_body_that_is_something_else_is_named(post: Post, body: bytes, word: str) -> None:
    detail = assert_problem(post(body), "malformed-body")["detail"]
    assert word in detail.lower() and len(detail) < 300


def test_a_list_of_requests_is_told_that_each_is_one(post: Post) -> None:
    assert "each of its objects" in assert_problem(post(json.dumps([BODY]).encode()), "invalid")["detail"]


@every(
    ("method", "path", "instead"),
    [
        ("POST", "/v1/verify", "POST /v1/gradients/verify"),
        ("POST", "/v1/diagnose", "POST /v1/gradients/diagnose"),
        ("POST", "/v1/gradients/gradcheck", "POST /v1/gradients/check"),
        ("POST", "/v1/compute-gradients", "POST /v1/gradients"),
        ("POST", "/v1/functions/descent", "POST /v1/functions/descend"),
        ("POST", "/v1/loss-landscape", "POST /v1/landscape"),
        ("POST", "/v1/optimize", "POST /v1/train"),
        ("POST", "/v1/loss", "POST /v1/gradients"),
        ("GET", "/v1/loss", "GET /v1/losses"),
    ],
)
def test_a_path_is_told_the_one_for_its_words(client: FlaskClient, method: str, path: str, instead: str) -> None:
    detail = assert_problem(client.open(path, method=method, json={}), "not-found")["detail"]
    assert f"did you mean {instead}?" in detail


def test_what_cannot_be_deleted_together_is_told_the_path_of_one(client: FlaskClient) -> None:
    detail = assert_problem(client.delete("/v1/networks"), "method-not-allowed")["detail"]
    assert "DELETE /v1/networks/{id}" in detail


# --- targets out of reach -----------------------------------------------------------------------


@every("name", [activation.name for activation in activations if not activation.parameters])
def test_the_reach_of_an_activation_is_that_of_its_outputs(post: Post, name: str) -> None:
    low, high = reach(activations.select(name))
    inputs = np.linspace(-60, 60, 801)[:, None]
    body = layer(units=2, activation=name) | {
        "inputs": inputs.tolist(),
        "parameters": {"dense_1": {"kernel": [[1.0, -0.5]], "bias": [0.0, 0.0]}},
    }
    del body["targets"], body["loss"]
    values = np.array(answered(post, body, "/v1/forward")["outputs"])
    assert values.min() >= low - 1e-3 and values.max() <= high + 1e-3
    assert low == -np.inf or values.min() < low + 0.02
    assert high == np.inf or values.max() > high - 0.02


@every(
    ("activation", "targets", "words"),
    [
        ("sigmoid", [[5], [2]], "between 0 and 1"),
        ("sigmoid", [[-1], [1]], "between 0 and 1"),
        ("tanh", [[3], [0]], "between -1 and 1"),
        ("relu", [[-1], [1]], "0 or more"),
        ("log_sigmoid", [[1], [-1]], "0 or less"),
        ({"type": "elu", "alpha": 0.5}, [[-1], [1]], "-0.5 or more"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/gradients", "/v1/train"])
def test_targets_that_no_output_equals_are_warned_of(
    post: Post, path: str, activation: Any, targets: Any, words: str
) -> None:
    more = {"optimizer": "sgd", "steps": 1} if path == "/v1/train" else {}
    answer = answered(post, layer(activation=activation) | {"targets": targets} | more, path)
    (told,) = [each["message"] for each in answer["warnings"] if each["code"] == "unreachable_targets"]
    assert words in told


@every(
    ("activation", "targets", "loss"),
    [
        ("sigmoid", [[0], [1]], "mse"),
        ("tanh", [[0], [1]], "mse"),
        ("tanh", [[-1], [1]], "mae"),
        ("relu", [[0], [7]], "huber"),
        ("linear", [[-9], [7]], "mse"),
        ("tanh", [[-5], [5]], "cosine_similarity"),
        ("tanh", [[-1], [1]], "hinge"),
        ("sigmoid", [[0], [1]], "bce"),
        ("softplus", [[0], [3]], "poisson"),
        ({"type": "prelu"}, [[-5], [5]], "mse"),
    ],
)
def test_targets_within_reach_are_not_warned_of(post: Post, activation: Any, targets: Any, loss: str) -> None:
    answer = answered(post, layer(activation=activation) | {"targets": targets, "loss": loss})
    assert "unreachable_targets" not in {each["code"] for each in answer["warnings"]}


@every(
    ("written", "block"),
    [
        ("RMSprop(lr=1e-3, alpha=0.9)", {"type": "rmsprop", "learning_rate": 1e-3, "rho": 0.9}),
        ("SGD(0.1, lr=0.2)", None),
        ("RMSprop(alpha=0.9, learning_rate=0.001)", None),
        (f"SGD({', '.join(f'k{n}=1' for n in range(20))})", None),
    ],
)
def test_two_arguments_of_a_call_never_stand_for_one_option(
    post: Post, written: str, block: dict[str, Any] | None
) -> None:
    detail = first(post, TRAIN | {"optimizer": written}, "/v1/train")
    assert (json.loads(detail.split("write ")[1]) if "write {" in detail else None) == block
