"""`/v1/derivatives`: what a caller gets for what they send."""

import copy
import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from werkzeug.test import TestResponse

from schemas.tensor import encode
from service.api.examples import DERIVATIVES, XOR_DATA, XOR_NETWORK, XOR_PARAMETERS
from service.wire import LARGE_BODY
from tests.api.test_gradients import BASE64, plain
from tests.api.test_limits import LIMITS
from tests.conftest import MakeClient, Post
from tests.support import assert_problem, every, faults, network, places_in_turn, replaced, resolves, strict_json

PATH = "/v1/derivatives"
LOSS = {"targets": XOR_DATA["targets"], "loss": "half_squared_error"}
KINDS = ("jacobian", "jvp", "vjp", "hessian", "hvp")
COMBINATIONS = [
    each
    for each in itertools.product(KINDS, ("outputs", "loss"), ("inputs", "parameters"))
    if each[:2] != ("hvp", "outputs")
]
LIKE = {
    "inputs": [[1.0, 0.0], [0.5, -1.0], [0.0, 2.0], [1.0, 1.0]],
    "outputs": [[1.0], [0.0], [-1.0], [0.5]],
    "loss": 2.0,
    "parameters": XOR_PARAMETERS,
}
"""A vector that pairs with each."""


def asking(kind: Any, **changes: Any) -> dict[str, Any]:
    """Return a request about the XOR network; `...` leaves a key out."""
    request = {"network": XOR_NETWORK, "parameters": XOR_PARAMETERS, "inputs": XOR_DATA["inputs"], "kind": kind}
    return {key: value for key, value in (copy.deepcopy(request) | changes).items() if value is not ...}


def complete(kind: str, of: str, wrt: str, **changes: Any) -> dict[str, Any]:
    """Return a request of that kind with all it needs."""
    body = asking(kind, of=of, wrt=wrt, **(LOSS if of == "loss" else {}))
    if kind in ("jvp", "vjp", "hvp"):
        side = of if kind == "vjp" else wrt
        body["vectors"] = [LIKE[side], LIKE[side]]
    return body | changes


@pytest.fixture(scope="session")
def derive(post: Post) -> Callable[..., TestResponse]:
    return lambda body, **headers: post(body, PATH, **headers)


Derive = Callable[..., TestResponse]
TREE = {"hidden": {"kernel": (2, 2), "bias": (2,)}, "output": {"kernel": (2, 1), "bias": (1,)}}


def shapes(value: Any) -> Any:
    """Return the shapes of the tensors of an answer."""
    if isinstance(value, dict):
        return {key: shapes(item) for key, item in value.items()}
    if isinstance(value, list) and isinstance(value[0], dict):
        return [shapes(item) for item in value]
    return np.shape(value)


SHAPES = {
    ("jacobian", "outputs", "inputs"): (4, 1, 2),
    ("jacobian", "outputs", "parameters"): {
        layer: {name: (4, 1, *shape) for name, shape in own.items()} for layer, own in TREE.items()
    },
    ("jacobian", "loss", "inputs"): (4, 2),
    ("jacobian", "loss", "parameters"): TREE,
    ("jvp", "outputs", "inputs"): (2, 4, 1),
    ("jvp", "outputs", "parameters"): (2, 4, 1),
    ("jvp", "loss", "inputs"): (2,),
    ("jvp", "loss", "parameters"): (2,),
    ("vjp", "outputs", "inputs"): (2, 4, 2),
    ("vjp", "outputs", "parameters"): [TREE, TREE],
    ("vjp", "loss", "inputs"): (2, 4, 2),
    ("vjp", "loss", "parameters"): [TREE, TREE],
    ("hessian", "outputs", "inputs"): (4, 1, 2, 2),
    ("hessian", "outputs", "parameters"): (4, 1, 9, 9),
    ("hessian", "loss", "inputs"): (8, 8),
    ("hessian", "loss", "parameters"): (9, 9),
    ("hvp", "loss", "inputs"): (2, 4, 2),
    ("hvp", "loss", "parameters"): [TREE, TREE],
}


@every(("kind", "of", "wrt"), COMBINATIONS)
def test_every_kind_of_either_with_respect_to_either(derive: Derive, kind: str, of: str, wrt: str) -> None:
    answer = derive(complete(kind, of, wrt)).json
    keys = {"dtype", "values", "result", "finite", "warnings"} | ({"labels"} if kind == "hessian" else set())
    assert set(answer) == keys
    assert answer["finite"] is True and answer["warnings"] == [] and answer["dtype"] == "float64"
    assert shapes(answer["result"]) == SHAPES[kind, of, wrt]
    assert np.shape(answer["values"]) == ((4, 1) if of == "outputs" else ())


@every(("kind", "of", "wrt"), COMBINATIONS)
def test_typed_arrays_say_the_same_as_lists(derive: Derive, kind: str, of: str, wrt: str) -> None:
    body = complete(kind, of, wrt)
    lists, typed = derive(body), derive(body, Accept=BASE64)
    assert typed.headers["Content-Type"] == BASE64
    assert plain(strict_json(typed.get_data())) == lists.json
    assert derive(body).get_data() == lists.get_data()
    for text in (lists.get_data(), derive(complete(kind, of, wrt, dtype="float32")).get_data()):
        strict_json(text)


def values(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(array) for own in tree.values() for array in own.values()])


def test_the_hessian_is_how_the_gradient_changes(derive: Derive, post: Post) -> None:
    body = complete("hessian", "loss", "parameters")
    answer = derive(body).json
    gradients = {key: body[key] for key in ("network", "parameters", "inputs", "targets", "loss")}
    step = 1e-5
    rows = []
    for layer, own in XOR_PARAMETERS.items():
        for name, array in own.items():
            for place in np.ndindex(np.shape(array)):
                ends = []
                for sign in (1.0, -1.0):
                    moved = copy.deepcopy(XOR_PARAMETERS)
                    changed = np.array(array)
                    changed[place] += sign * step
                    moved[layer][name] = changed.tolist()
                    ends.append(values(post(gradients | {"parameters": moved}).json["gradients"]))
                rows.append((ends[0] - ends[1]) / (2.0 * step))
                assert answer["labels"][len(rows) - 1] == f"{layer}.{name}" + "".join(f"[{n}]" for n in place)
    np.testing.assert_allclose(answer["result"], rows, rtol=1e-6, atol=1e-10)
    assert answer["values"] == post(gradients).json["loss"]


def test_the_jacobian_of_the_loss_is_what_gradients_answers(derive: Derive, post: Post) -> None:
    body = complete("jacobian", "loss", "parameters", sample_weights=[1, 2, 0, 4], normalize_weights=True)
    asked = {key: value for key, value in body.items() if key not in ("kind", "of", "wrt")}
    expected = post(asked | {"include": ["input_gradients"]}).json
    answer = derive(body).json
    assert answer["values"] == pytest.approx(expected["loss"], rel=1e-14)
    np.testing.assert_allclose(values(answer["result"]), values(expected["gradients"]), rtol=1e-12)
    answer = derive(body | {"wrt": "inputs"}).json
    np.testing.assert_allclose(answer["result"], expected["input_gradients"], rtol=1e-12)


@pytest.mark.parametrize(
    ("kind", "of", "wrt"),
    [
        ("jacobian", "outputs", "inputs"),
        ("jvp", "outputs", "inputs"),
        ("vjp", "outputs", "inputs"),
        ("hessian", "loss", "parameters"),
        ("hvp", "loss", "parameters"),
    ],
)
def test_what_is_left_out_is_what_is_mostly_meant(derive: Derive, kind: str, of: str, wrt: str) -> None:
    body = complete(kind, of, wrt)
    expected = derive(body).get_data()
    for left_out in ({"of"}, {"wrt"}, {"of", "wrt"}):
        assert derive({key: value for key, value in body.items() if key not in left_out}).get_data() == expected
    other = {"outputs": "inputs", "loss": "parameters"}
    bare = {key: value for key, value in complete("jacobian", of, other[of]).items() if key != "wrt"}
    assert derive(bare).get_data() == derive(bare | {"wrt": other[of]}).get_data()


TWO = {
    "network": network(
        {"type": "dense", "name": "a", "inputs": ["left"], "units": 2, "activation": "tanh"},
        {"type": "dense", "name": "b", "inputs": ["right"], "units": 3, "activation": "tanh"},
        {"type": "concatenate", "name": "both", "inputs": ["a", "b"]},
        {"type": "dense", "name": "c", "units": 1},
        inputs=["left", "right"],
        outputs=["c", "a"],
    ),
    "inputs": {"left": [[0.5, 1.0], [0.0, -1.0]], "right": [[1.0], [2.0]]},
    "seed": 5,
}


def test_several_inputs_and_outputs_are_named(derive: Derive) -> None:
    answer = derive(TWO | {"kind": "jacobian"}).json
    assert shapes(answer["values"]) == {"c": (2, 1), "a": (2, 2)}
    assert shapes(answer["result"]) == {
        "c": {"left": (2, 1, 2), "right": (2, 1, 1)},
        "a": {"left": (2, 2, 2), "right": (2, 2, 1)},
    }
    assert not np.any(answer["result"]["a"]["right"])
    tangents = [{"left": [[1.0, 0.0]] * 2, "right": [[0.0]] * 2}]
    pushed = derive(TWO | {"kind": "jvp", "vectors": tangents}).json["result"]
    np.testing.assert_allclose(pushed[0]["a"], np.array(answer["result"]["a"]["left"])[:, :, 0], rtol=1e-12)
    cotangents = [{"c": [[1.0]] * 2, "a": [[0.0, 0.0]] * 2}]
    pulled = derive(TWO | {"kind": "vjp", "vectors": cotangents}).json["result"]
    np.testing.assert_allclose(pulled[0]["left"], np.array(answer["result"]["c"]["left"])[:, 0], rtol=1e-12)
    hessian = derive(TWO | {"kind": "hessian", "of": "outputs"}).json
    assert shapes(hessian["result"]) == {"c": (2, 1, 3, 3), "a": (2, 2, 3, 3)}
    assert hessian["labels"] == ["left[0]", "left[1]", "right[0]"]
    tree = derive(TWO | {"kind": "jacobian", "wrt": "parameters"}).json["result"]
    assert shapes(tree["a"]["b"]) == {"kernel": (2, 2, 1, 3), "bias": (2, 2, 3)}


def test_parameters_that_the_server_initialised_come_back(derive: Derive) -> None:
    body = asking("jacobian", parameters=..., seed=3)
    answer = derive(body).json
    assert shapes(answer["parameters"]) == TREE
    again = derive(asking("jacobian", parameters=answer.pop("parameters"))).json
    assert again == answer


def test_one_input_or_output_may_be_named(derive: Derive) -> None:
    for kind, name in (("jvp", "input"), ("vjp", "output")):
        body = complete(kind, "outputs", "inputs")
        named = body | {"vectors": [{name: vector} for vector in body["vectors"]]}
        assert derive(named).get_data() == derive(body).get_data()


@pytest.mark.parametrize(("kind", "of", "wrt"), [each for each in COMBINATIONS if each[0] in ("jvp", "vjp", "hvp")])
def test_vectors_may_be_typed_arrays(derive: Derive, kind: str, of: str, wrt: str) -> None:
    def typed(value: Any) -> Any:
        return {key: typed(item) for key, item in value.items()} if isinstance(value, dict) else encode(np.array(value))

    body = complete(kind, of, wrt)
    assert derive(body | {"vectors": list(map(typed, body["vectors"]))}).get_data() == derive(body).get_data()


@pytest.mark.parametrize(("kind", "of", "wrt"), [each for each in COMBINATIONS if each[0] in ("jvp", "vjp", "hvp")])
def test_large_bodies_hold_the_same_vectors(derive: Derive, kind: str, of: str, wrt: str) -> None:
    body = complete(kind, of, wrt)
    body["vectors"] = body["vectors"] * 40  # more than a list of numbers that is read one by one
    padded = json.dumps(body).encode() + b" " * LARGE_BODY
    assert derive(padded).get_data() == derive(body).get_data()


def test_vectors_in_many_calls_or_in_one(derive: Derive) -> None:
    tangents = [[[1, 0]] * 4, [[0, 1]] * 4, [[0.5, -2]] * 4]
    together = derive(asking("jvp", vectors=tangents)).json["result"]
    for tangent, expected in zip(tangents, together, strict=True):
        np.testing.assert_allclose(derive(asking("jvp", vectors=[tangent])).json["result"], [expected], rtol=1e-13)


def test_a_request_holds_a_bounded_number_of_vectors(derive: Derive) -> None:
    body = complete("vjp", "loss", "inputs", vectors=[1] * 10_000)
    assert len(derive(body).json["result"]) == 10_000
    body["vectors"].append(1)
    assert "a list of 10001 values" in faults(assert_problem(derive(body), "invalid", body))["#/vectors"]


def test_float32_is_computed_and_said(derive: Derive) -> None:
    body = complete("hvp", "loss", "parameters", dtype="float32")
    answer = derive(body, Accept=BASE64).json
    assert answer["dtype"] == answer["result"][0]["hidden"]["kernel"]["dtype"] == "float32"
    for single, double in zip(plain(answer["result"]), derive(body | {"dtype": "float64"}).json["result"], strict=True):
        np.testing.assert_allclose(values(single), values(double), rtol=1e-3, atol=1e-6)


def test_values_that_are_not_finite_are_told(derive: Derive) -> None:
    steep = network({"type": "dense", "name": "steep", "units": 1, "activation": "exponential", "use_bias": False})
    body = {"network": steep, "parameters": {"steep": {"kernel": [[1000]]}}, "inputs": [[1.0], [0.0]]}
    answer = derive(body | {"kind": "jacobian"}).json
    assert answer["values"] == [[None], [1.0]]
    assert answer["result"] == [[[None]], [[1000.0]]]
    assert answer["finite"] is False
    (warning,) = answer["warnings"]
    assert (warning["code"], warning["layer"], warning["quantity"]) == ("non_finite", "steep", "output")
    loss = body | {"kind": "jvp", "of": "loss", "targets": [[0], [0]], "loss": "mse", "wrt": "inputs"}
    assert derive(loss | {"vectors": [[[1], [1]]]}).json["result"] == [None]


def test_the_time_of_each_stage_is_told(derive: Derive) -> None:
    timing = derive(asking("jacobian")).headers["Server-Timing"]
    for stage in ("parse", "validate", "compile", "compute", "serialize", "memory"):
        assert stage in timing


def test_a_derivative_is_compiled_once(make_client: MakeClient) -> None:
    client = make_client()
    compiled = client.application.extensions["nabla"].compiled
    body = complete("hvp", "loss", "parameters")
    for change in ({}, {"vectors": body["vectors"][::-1]}, {"inputs": [[1, 2]] * 4}):
        assert client.post(PATH, json=body | change).status_code == 200
        assert len(compiled) == 1
    assert client.post(PATH, json=body | {"vectors": body["vectors"] * 2}).status_code == 200
    assert client.post(PATH, json=body | {"wrt": "inputs", "vectors": [LIKE["inputs"]]}).status_code == 200
    assert len(compiled) == 3
    assert compiled.nbytes > 100


# --- what is wrong ------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "no kind": (asking(...), {"#/kind": "is required"}),
    "an unknown kind": (asking("jacobain"), {"#/kind": "takes one of 'jacobian', 'jvp', 'vjp', 'hessian', 'hvp'"}),
    "an unknown side": (
        asking("jacobian", of="output", wrt="input"),
        {"#/of": "takes one of 'outputs', 'loss'", "#/wrt": "takes one of 'inputs', 'parameters'"},
    ),
    "no vectors": (asking("jvp"), {"#/vectors": "is required for kind: jvp"}),
    "vectors for a matrix": (
        asking("jacobian", vectors=[LIKE["inputs"]]),
        {"#/vectors": "has no use for kind: jacobian, which is the whole matrix; jvp, vjp, hvp take vectors"},
    ),
    "an empty list": (asking("jvp", vectors=[]), {"#/vectors": "takes a list of 1 to 10000 vectors, got []"}),
    "vectors that are no list": (asking("vjp", vectors=1), {"#/vectors": "takes a list of 1 to 10000 vectors, got 1"}),
    "a vector that is no tensor": (
        asking("jvp", vectors=[LIKE["inputs"], "x", [[1, 2], [3, None]]]),
        {"#/vectors/1": "takes a tensor", "#/vectors/2/1/1": "takes a number, got null"},
    ),
    "no targets and no loss": (
        asking("hessian"),
        {"#/targets": "is required for of: loss", "#/loss": "is required for of: loss"},
    ),
    "no loss and no vectors": (
        asking("hvp", targets=XOR_DATA["targets"]),
        {"#/vectors": "is required for kind: hvp", "#/loss": "is required for of: loss"},
    ),
    "a loss for the outputs": (
        asking("jacobian", **LOSS, reduction="sum", sample_weights=[1], normalize_weights=True, loss_weights={"a": 1}),
        {
            f"#/{key}": "has no use for of: outputs; leave it out, or ask for of: loss"
            for key in ("targets", "loss", "reduction", "sample_weights", "normalize_weights", "loss_weights")
        },
    ),
    "what is wrong alone and together": (
        asking("hessian", loss="nonsense", dtype="float16"),
        {"#/loss": "no loss is called", "#/dtype": "takes one of", "#/targets": "is required for of: loss"},
    ),
    "no reduction": (
        complete("hessian", "loss", "inputs", reduction="none"),
        {"#/reduction": "takes one of 'mean', 'sum', got \"none\""},
    ),
    "a key of another operation": (asking("jacobian", include=["layers"]), {"#/include": "unknown key"}),
    "a tangent of another shape": (
        asking("jvp", vectors=[LIKE["inputs"], [[1, 0]]]),
        {"#/vectors/1": "has shape [1, 2]; it takes [4, 2], the shape of the inputs"},
    ),
    "a cotangent of another shape": (
        asking("vjp", vectors=[[1, 2, 3, 4]]),
        {"#/vectors/0": "has shape [4]; it takes [4, 1], the shape of the output of layer 'output'"},
    ),
    "a cotangent of the loss that is no number": (
        complete("vjp", "loss", "inputs", vectors=[1, [1], {"loss": 1}]),
        {
            "#/vectors/1": "has shape [1]; it takes a number, because the loss is one",
            "#/vectors/2": "takes a number, because the loss is one; an object came",
        },
    ),
    "a tensor for a tree": (
        complete("jvp", "outputs", "parameters", vectors=[[1, 2]]),
        {"#/vectors/0": "takes an object {layer: {parameter: tensor}}, like the parameters; a tensor came"},
    ),
    "a tree with a mistake": (
        complete("hvp", "loss", "parameters", vectors=[replaced(XOR_PARAMETERS, ("output", "kernel"), [[1, 2]])]),
        {
            "#/vectors/0/output/kernel": "kernel of layer 'output' has shape [1, 2]; it takes [2, 1] because layer "
            "'hidden' has 2 units"
        },
    ),
    "a tree with a number that is none": (
        complete("hvp", "loss", "parameters", vectors=[replaced(XOR_PARAMETERS, ("hidden", "bias", 1), "x")]),
        {"#/vectors/0/hidden/bias/1": 'takes a number, got "x"'},
    ),
    "a tensor for several inputs": (
        TWO | {"kind": "jvp", "vectors": [[[1.0]]]},
        {"#/vectors/0": "takes one tensor for each input: an object with 'left', 'right'"},
    ),
    "an unknown and a missing name": (
        TWO | {"kind": "vjp", "vectors": [{"c": [[1], [1]], "b": [[1], [1]]}]},
        {"#/vectors/0/b": "is no output of the network", "#/vectors/0/a": "is missing; it has shape [2, 2]"},
    ),
    "numbers beyond float32": (
        asking("jvp", dtype="float32", vectors=[LIKE["inputs"], [[1e39, 0], [0, 0], [0, 0], [0, 0]]]),
        {"#/vectors/1/0/0": "1e+39 is too large for float32"},
    ),
    "targets, parameters and a vector at once": (
        complete("hvp", "loss", "inputs", parameters={}, vectors=[[1]]),
        {
            "#/parameters/hidden": "is missing",
            "#/parameters/output": "is missing",
            "#/vectors/0": "it takes [4, 2], the shape of the inputs",
        },
    ),
    "targets that do not fit": (
        complete("hessian", "loss", "inputs", targets=[[1]]),
        {"#/targets": "targets have shape [1, 1]; they take [4, 1]"},
    ),
    "a product with the Hessian of several numbers": (
        asking("hvp", of="outputs", vectors=[LIKE["inputs"]]),
        {"#/of": "the outputs hold 4; ask for of: loss"},
    ),
}  # fmt: skip


@every("name", WRONG)
def test_what_is_wrong_is_told_where_it_is(derive: Derive, name: str) -> None:
    body, expected = WRONG[name]
    for _ in range(2):  # the second time the recipe may be known
        found = faults(assert_problem(derive(body), "invalid", body))
        assert set(found) == set(expected)
        for pointer, words in expected.items():
            assert words in found[pointer]


def test_a_recipe_that_is_known_does_not_hide_what_is_missing(derive: Derive) -> None:
    body = complete("hvp", "loss", "parameters")
    assert derive(body).status_code == 200
    for key in ("targets", "vectors"):
        without = {name: value for name, value in body.items() if name != key}
        assert set(faults(assert_problem(derive(without), "invalid", without))) == {f"#/{key}"}
    assert derive(body).status_code == 200


def test_coupled_samples_have_no_jacobian_of_their_own(derive: Derive) -> None:
    layers = [{"type": "dense", "units": 2}, {"type": "batch_normalization"}, {"type": "dense", "units": 1}]
    body = asking("jacobian", network=network(*layers), parameters=..., training=True)
    found = faults(assert_problem(derive(body), "invalid", body))
    assert set(found) == {"#/training"}
    assert "set training to false, or ask for vjp or jvp" in found["#/training"]
    assert derive(body | {"training": False}).status_code == 200
    assert derive(body | {"kind": "vjp", "vectors": [LIKE["outputs"]]}).status_code == 200
    assert derive(body | {"wrt": "parameters"}).status_code == 200


def test_indices_have_no_derivative(derive: Derive) -> None:
    layers = [
        {"type": "embedding", "input_dim": 3, "output_dim": 2},
        {"type": "flatten"},
        {"type": "dense", "units": 1},
    ]
    body = {"network": network(*layers), "inputs": [[0, 1], [2, 2]], "kind": "jacobian"}
    (error,) = assert_problem(derive(body), "invalid", body)["errors"]
    assert (error["pointer"], error["allowed"]) == ("#/wrt", ["parameters"])
    assert "input 'input' holds them because a layer embeds them" in error["detail"]
    assert derive(body | {"wrt": "parameters"}).status_code == 200


# --- limits and harm ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIMITS)
def test_a_request_at_a_limit_passes_and_one_above_does_not(make_client: MakeClient, name: str) -> None:
    body = complete("hessian", "loss", "parameters")
    limit = 1
    while (response := make_client(**{f"max_{name}": limit}).post(PATH, json=body)).status_code != 200:
        (error,) = assert_problem(response, "limit-exceeded", body)["errors"]
        assert (error["limit"], error["allowed"]) == (name, [limit])
        assert error["asked"] > limit
        limit = int(error["asked"])
    assert {"layers": 2, "parameters": 9, "tensor_elements": 81}.get(name, limit) == limit
    assert_problem(make_client(**{f"max_{name}": limit - 1}).post(PATH, json=body), "limit-exceeded", body)


def test_a_matrix_that_is_too_large_is_refused_before_work_starts(derive: Derive) -> None:
    layers = [{"type": "dense", "units": 5000}, {"type": "dense", "units": 1000}]
    body = {"network": network(*layers), "inputs": [[1.0] * 10], "kind": "jacobian", "wrt": "parameters"}
    (error,) = assert_problem(derive(body), "limit-exceeded", body)["errors"]
    assert (error["limit"], error["asked"]) == ("tensor_elements", 1000 * (11 * 5000 + 5001 * 1000))


def test_a_run_past_its_time_is_stopped(make_client: MakeClient) -> None:
    client = make_client(max_seconds=0.0)
    body = asking("hessian", network=network({"type": "dense", "units": 100, "activation": "tanh"}), of="outputs")
    body = {key: value for key, value in body.items() if key != "parameters"}
    assert_problem(client.post(PATH, json=body | {"inputs": [[0.5] * 50] * 2}), "deadline-exceeded")
    assert client.post(PATH, json=asking("jacobian")).status_code == 200


HOSTILE = [
    None,
    True,
    -1,
    1e308,
    "x",
    [],
    {},
    [[]],
    {"base64": "x"},
    [[["x"]]],
    {"a": {"b": {"c": 1}}},
    "vectors",
    2**64,
]


PLACES = places_in_turn({name: (PATH, body) for name, body in DERIVATIVES.items()}, HOSTILE)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_no_value_anywhere_breaks_the_service(derive: Derive, name: str) -> None:
    for path, numbers in PLACES[name]:
        for number in numbers if path else ():
            value = HOSTILE[number]
            body = replaced(DERIVATIVES[name], path, value)
            response = derive(body)
            if response.status_code == 200:
                strict_json(response.get_data())
                continue
            document = strict_json(response.get_data())
            assert response.status_code in (400, 422), (path, value, document)
            assert all(resolves(error["pointer"], body) for error in document.get("errors", ())), document


@pytest.mark.parametrize(
    "vectors",
    ["[" * 5000 + "1" + "]" * 5000, "[" + '{"a":' * 900 + "1" + "}" * 900 + "]", "[" + "[]," * 100_000 + "1]",
     "[" + '"x",' * 100_000 + "1]", "[" + "1," * 200_000 + "1]", '{"base64": "x"}', "[NaN]"],
)  # fmt: skip
def test_vectors_made_to_do_harm(derive: Derive, vectors: str) -> None:
    for kind in ("jvp", "vjp", "hvp"):
        side = ("loss", "parameters") if kind == "hvp" else ("outputs", "inputs")
        body = json.dumps(complete(kind, *side) | {"vectors": "HERE"}).replace('"HERE"', vectors)
        response = derive(body.encode())
        assert response.status_code in (400, 422)
        assert len(response.get_data()) < 100_000
