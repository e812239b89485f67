"""`/v1/landscape`: what a caller gets for what they send."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.api.examples import TRAIN, XOR_DATA, XOR_NETWORK, XOR_PARAMETERS
from service.api.insight_examples import LANDSCAPE
from tests.api.test_gradients import BASE64, plain
from tests.conftest import Post
from tests.support import answered, assert_described, assert_problem, every, faults

PATH = "/v1/landscape"
XOR = {"network": XOR_NETWORK, "parameters": XOR_PARAMETERS, **XOR_DATA, "loss": "half_squared_error"}
WEIGHT = "output.kernel[1][0]"
CASE = Path(__file__).parents[1] / "data" / "cases" / "007_error_curve_of_one_weight_xor.json"
KEYS = {
    *("dtype", "loss", "gradient_norm", "axes", "losses", "hessian", "minimum", "maximum", "levels", "spacing"),
    *("finite", "warnings"),
}
AXIS = {"centre", "values", "norm", "slope", "curvature", "largest_stable_step", "slopes", "texts"}


def look(post: Post, *along: dict[str, Any], **changes: Any) -> dict[str, Any]:
    body = XOR | ({"along": list(along)} if along else {}) | changes
    return answered(post, {key: value for key, value in body.items() if value is not ...}, PATH)


def shifted(weight: str, value: float) -> dict[str, Any]:
    """Return the XOR parameters with one number changed."""
    parameters = copy.deepcopy(XOR_PARAMETERS)
    layer, _, rest = weight.partition(".")
    name, *indices = rest.replace("]", "").split("[")
    inner = parameters[layer][name]
    for index in indices[:-1]:
        inner = inner[int(index)]
    inner[int(indices[-1])] = value
    return parameters


def flat(tree: dict[str, dict[str, Any]]) -> np.ndarray:
    return np.concatenate([np.ravel(array) for arrays in tree.values() for array in arrays.values()])


def at(post: Post, flat_parameters: np.ndarray, **changes: Any) -> dict[str, Any]:
    """Return the answer of `/v1/gradients` at other parameters."""
    parameters, start = copy.deepcopy(XOR_PARAMETERS), 0
    for arrays in parameters.values():
        for name, array in arrays.items():
            size = np.size(array)
            arrays[name] = flat_parameters[start : start + size].reshape(np.shape(array)).tolist()
            start += size
    return answered(post, XOR | changes | {"parameters": parameters})


# --- one axis -----------------------------------------------------------------------------------


def test_the_published_error_curve_of_one_weight(post: Post) -> None:
    """Losses and slopes of the XOR network for ten values of a weight, computed elsewhere with 60 digits."""
    case = json.loads(CASE.read_text())
    first, wanted = case["members"][0], case["relations"]
    answer = answered(
        post,
        XOR
        | {"inputs": first["inputs"], "targets": first["targets"], "reduction": "sum"}
        | {"along": [{"parameter": WEIGHT, "values": wanted["weights"]}]},
        PATH,
    )
    (axis,) = answer["axes"]
    tolerance = {"rtol": case["tolerance"]["rtol"], "atol": case["tolerance"]["atol"]}
    assert axis["values"] == wanted["weights"] and axis["centre"] == 0.581714099641357
    np.testing.assert_allclose(answer["losses"], wanted["loss"], **tolerance)
    np.testing.assert_allclose(axis["slopes"], wanted["slope"], **tolerance)
    assert axis["slope"] == pytest.approx(wanted["slope"][5], rel=1e-12)


def test_every_key_of_a_curve(post: Post, schemas: dict[str, Any]) -> None:
    answer = look(post, {"parameter": WEIGHT, "range": [-3, 3], "resolution": 7})
    assert_described(schemas, "LandscapeResponse", answer)
    assert set(answer) == KEYS | {"tangent", "parabola"}
    (axis,) = answer["axes"]
    assert set(axis) == AXIS | {"parameter"}
    assert axis["values"] == [-3, -2, -1, 0, 1, 2, 3] and axis["norm"] == 1
    whole = answered(post, XOR)
    assert answer["loss"] == whole["loss"] and answer["gradient_norm"] == whole["gradient_norm"]
    assert axis["slope"] == pytest.approx(whole["gradients"]["output"]["kernel"][1][0], rel=1e-14)
    for value, loss, slope in zip(axis["values"], answer["losses"], axis["slopes"], strict=True):
        there = answered(post, XOR | {"parameters": shifted(WEIGHT, value)})
        assert loss == pytest.approx(there["loss"], rel=1e-14)
        assert slope == pytest.approx(there["gradients"]["output"]["kernel"][1][0], rel=1e-12)
    assert answer["minimum"] == {"place": [-1], "loss": min(answer["losses"])}
    assert answer["maximum"] == {"place": [3], "loss": max(answer["losses"])}


def test_curvature_step_tangent_and_parabola(post: Post) -> None:
    """The curvature is the diagonal of the Hessian; beyond 2 / curvature a step overshoots more and more."""
    answer = look(post, {"parameter": WEIGHT, "resolution": 3})
    (axis,) = answer["axes"]
    derived = answered(post, XOR | {"kind": "hessian"}, "/v1/derivatives")
    place = derived["labels"].index(WEIGHT)
    assert axis["curvature"] == pytest.approx(derived["result"][place][place], rel=1e-12)
    assert axis["largest_stable_step"] == pytest.approx(2.0 / axis["curvature"], rel=1e-15)
    away = np.array(axis["values"]) - axis["centre"]
    np.testing.assert_allclose(answer["tangent"], answer["loss"] + axis["slope"] * away, rtol=1e-14)
    parabola = answer["loss"] + axis["slope"] * away + axis["curvature"] * away**2 / 2
    np.testing.assert_allclose(answer["parabola"], parabola, rtol=1e-13)
    assert axis["centre"] == pytest.approx(axis["values"][1], abs=1e-15)


def test_a_quadratic_loss_diverges_just_beyond_the_largest_stable_step(post: Post) -> None:
    """The proof is a training of one weight."""
    line = {
        "network": {"layers": [{"type": "dense", "name": "w", "units": 1, "use_bias": False}]},
        "parameters": {"w": {"kernel": [[3]]}}, "inputs": [[1], [2]], "targets": [[1], [2]], "loss": "mse",
    }  # fmt: skip
    (axis,) = answered(post, line | {"along": [{"parameter": "w.kernel[0][0]"}]}, PATH)["axes"]
    assert axis["largest_stable_step"] == pytest.approx(0.4, rel=1e-14)  # the loss is 2.5 (w - 1)²
    for factor, shrinks in ((0.98, True), (1.02, False)):
        rate = factor * axis["largest_stable_step"]
        body = line | {"optimizer": {"type": "sgd", "learning_rate": rate}, "steps": 20}
        after = answered(post, body, "/v1/train")["parameters"]["w"]["kernel"][0][0]
        assert (abs(after - 1) < 2) is shrinks


def test_the_present_value_is_met_to_the_last_bit(post: Post) -> None:
    answer = look(post, {"parameter": WEIGHT, "values": [0.581714099641357]})
    assert answer["losses"] == [answer["loss"]] and answer["axes"][0]["slopes"] == [answer["axes"][0]["slope"]]


# --- directions ---------------------------------------------------------------------------------


@every("direction", ["random", "gradient", "hessian"])
def test_losses_along_a_direction_are_those_at_its_points(post: Post, direction: str) -> None:
    answer = look(post, {"direction": direction, "values": [-1, 0, 0.5, 2]}, include=["directions"])
    (axis,) = answer["axes"]
    start, vector = flat(XOR_PARAMETERS), flat(axis["vector"])
    assert axis["norm"] == pytest.approx(np.linalg.norm(vector), rel=1e-14)
    for value, loss, slope in zip(axis["values"], answer["losses"], axis["slopes"], strict=True):
        there = at(post, start + value * vector)
        assert loss == pytest.approx(there["loss"], rel=1e-13)
        assert slope == pytest.approx(flat(there["gradients"]) @ vector, rel=1e-10, abs=1e-15)
    assert answer["losses"][1] == pytest.approx(answer["loss"], rel=1e-15)


def test_the_gradient_is_the_steepest_way(post: Post) -> None:
    answer = look(post, {"direction": "gradient"})
    assert answer["axes"][0]["slope"] == pytest.approx(answer["gradient_norm"], rel=1e-14)
    assert answer["axes"][0]["norm"] == pytest.approx(1, rel=1e-14)


def test_eigenvectors_and_their_curvature(post: Post) -> None:
    matrix = np.array(answered(post, XOR | {"kind": "hessian"}, "/v1/derivatives")["result"])
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1]
    for index in (0, 3, -1, -9):
        answer = look(post, {"direction": "hessian", "index": index, "resolution": 2}, include=["directions"])
        (axis,) = answer["axes"]
        assert axis["eigenvalue"] == pytest.approx(values[index], rel=1e-10)
        assert axis["curvature"] == pytest.approx(axis["eigenvalue"], rel=1e-9)
        vector = flat(axis["vector"])
        np.testing.assert_allclose(matrix @ vector, values[index] * vector, atol=1e-14)
        assert (axis["largest_stable_step"] is None) is bool(values[index] < 0)


def test_seeds_choose_random_directions_and_answers_repeat(post: Post) -> None:
    along = [{"direction": "random", "resolution": 3}, {"direction": "random", "resolution": 3}]
    body = XOR | {"along": along, "include": ["directions"]}
    one, again, other = (post(body | {"seed": seed}, PATH).get_data() for seed in (0, 0, 1))
    assert one == again != other
    first, second = (axis["vector"] for axis in json.loads(one)["axes"])
    assert first != second
    fixed = [each | {"seed": 5} for each in along]
    assert (
        post(body | {"along": fixed}, PATH).json["axes"] == post(body | {"along": fixed, "seed": 9}, PATH).json["axes"]
    )


def test_parameters_that_are_made_here_are_told(post: Post) -> None:
    answer = look(post, {"parameter": "hidden.kernel[1][1]"}, parameters=..., seed=4)
    made = answered(post, {key: value for key, value in XOR.items() if key != "parameters"} | {"seed": 4})
    assert answer["parameters"] == made["parameters"] and answer["loss"] == made["loss"]
    assert answer["axes"][0]["centre"] == made["parameters"]["hidden"]["kernel"][1][1]
    assert "parameters" not in look(post, {"direction": "random"}, parameters=..., exclude=["parameters"])


# --- two axes -----------------------------------------------------------------------------------


def test_every_key_of_a_surface(post: Post, schemas: dict[str, Any]) -> None:
    one, two = "output.kernel[0][0]", "hidden.bias[1]"
    answer = look(
        post,
        {"parameter": one, "range": [-2, 2], "resolution": 3},
        {"parameter": two, "range": [0, 1], "resolution": 2},
    )
    assert_described(schemas, "LandscapeResponse", answer)
    assert set(answer) == KEYS | {"cosine"}
    assert answer["cosine"] == 0 and np.shape(answer["losses"]) == (2, 3)
    for row, second in enumerate(answer["axes"][1]["values"]):
        for column, first in enumerate(answer["axes"][0]["values"]):
            parameters = shifted(one, first)
            parameters["hidden"]["bias"][1] = second
            there = answered(post, XOR | {"parameters": parameters})
            assert answer["losses"][row][column] == pytest.approx(there["loss"], rel=1e-14)
            slopes = [axis["slopes"][row][column] for axis in answer["axes"]]
            wanted = [there["gradients"]["output"]["kernel"][0][0], there["gradients"]["hidden"]["bias"][1]]
            np.testing.assert_allclose(slopes, wanted, rtol=1e-12)
    derived = answered(post, XOR | {"kind": "hessian"}, "/v1/derivatives")
    places = [derived["labels"].index(label) for label in (one, two)]
    np.testing.assert_allclose(answer["hessian"], np.array(derived["result"])[np.ix_(places, places)], rtol=1e-12)


def test_slopes_can_be_left_out_and_arrays_can_be_typed(post: Post) -> None:
    along = [{"direction": "random", "resolution": 4}, {"direction": "gradient", "resolution": 5}]
    lists = look(post, *along, exclude=["slopes"])
    assert all("slopes" not in axis for axis in lists["axes"])
    typed = answered(post, XOR | {"along": along, "exclude": ["slopes"]}, PATH, Accept=BASE64)
    assert plain(typed) == lists


def test_a_fine_surface_is_one_request(post: Post) -> None:
    answer = look(post, {"parameter": WEIGHT, "resolution": 101}, {"parameter": "output.bias[0]", "resolution": 101})
    assert np.shape(answer["losses"]) == (101, 101) and answer["finite"]
    assert (
        min(map(min, answer["losses"]))
        < min(answer["levels"])
        < max(answer["levels"])
        < max(map(max, answer["losses"]))
    )


# --- trajectories -------------------------------------------------------------------------------


def test_a_training_is_shown_on_its_own_plane(post: Post, schemas: dict[str, Any]) -> None:
    steps = answered(post, TRAIN["xor"] | {"steps": 12, "trace": {"include": ["parameters"]}}, "/v1/train")["steps"]
    trees = [step["parameters"] for step in steps]
    along = [{"direction": "trajectory", "resolution": 5}, {"direction": "trajectory", "index": 1, "resolution": 4}]
    answer = look(post, *along, trajectory=steps, parameters=..., include=["directions"])
    assert_described(schemas, "LandscapeResponse", answer)
    assert look(post, *along, trajectory=trees, parameters=trees[-1], include=["directions"]) == answer
    points = np.array([flat(tree) for tree in trees])
    centred = points - points.mean(0)
    variances = np.sort(np.linalg.eigvalsh(centred.T @ centred))[::-1]
    np.testing.assert_allclose(
        [axis["explained"] for axis in answer["axes"]], variances[:2] / variances.sum(), rtol=1e-9
    )
    vectors = np.array([flat(axis["vector"]) for axis in answer["axes"]])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=1e-12)
    path = answer["trajectory"]
    np.testing.assert_allclose(path["coordinates"], (points - points[-1]) @ vectors.T, atol=1e-12)
    rest = points - points[-1] - np.array(path["coordinates"]) @ vectors
    np.testing.assert_allclose(path["distances"], np.linalg.norm(rest, axis=1), atol=1e-12)
    for coordinates, loss in zip(path["coordinates"], path["losses"], strict=True):
        assert loss == pytest.approx(at(post, points[-1] + np.array(coordinates) @ vectors)["loss"], rel=1e-12)
    for position, axis in enumerate(answer["axes"]):  # all of it is shown
        places = np.array(path["coordinates"])[:, position]
        assert min(axis["values"]) < places.min() and places.max() < max(axis["values"])


def test_a_trajectory_can_be_shown_on_other_axes(post: Post) -> None:
    trees = [shifted(WEIGHT, value) for value in (-2.0, 1.0, 3.0)]
    answer = look(post, {"parameter": WEIGHT}, trajectory=trees)
    assert answer["trajectory"]["coordinates"] == [[-2], [1], [3]]
    np.testing.assert_allclose(answer["trajectory"]["distances"], 0, atol=1e-15)
    losses = [answered(post, XOR | {"parameters": tree})["loss"] for tree in trees]
    np.testing.assert_allclose(answer["trajectory"]["losses"], losses, rtol=1e-14)


# --- spectra ------------------------------------------------------------------------------------


def test_every_key_of_a_spectrum(post: Post, schemas: dict[str, Any]) -> None:
    answer = look(post, spectrum={"largest": 3, "smallest": 2, "density": True, "points": 50})
    assert_described(schemas, "LandscapeResponse", answer)
    spectrum = answer["spectrum"]
    matrix = np.array(answered(post, XOR | {"kind": "hessian"}, "/v1/derivatives")["result"])
    values = np.sort(np.linalg.eigvalsh(matrix))[::-1]
    np.testing.assert_allclose(spectrum["eigenvalues"], values, atol=1e-15)
    assert [each["value"] for each in spectrum["largest"]] == spectrum["eigenvalues"][:3]
    assert [each["value"] for each in spectrum["smallest"]] == spectrum["eigenvalues"][-2:]
    assert (spectrum["method"], spectrum["size"], spectrum["converged"]) == ("dense", 9, True)
    assert spectrum["trace"] == pytest.approx(np.trace(matrix), rel=1e-12) and spectrum["trace_error"] == 0
    assert spectrum["signs"] == {
        "positive": int((values > 1e-14).sum()), "zero": 0, "negative": int((values < -1e-14).sum()),
    }  # fmt: skip
    assert answer["axes"] == [] and "losses" not in answer
    assert np.shape(spectrum["density"]["density"]) == (50,)


def test_a_large_network_is_left_to_products(post: Post, schemas: dict[str, Any]) -> None:
    network = {"layers": [
        {"type": "dense", "name": "hidden", "units": 40, "activation": "tanh"},
        {"type": "dense", "name": "classes", "units": 3, "activation": "softmax"},
    ]}  # fmt: skip
    inputs = np.random.default_rng(1).standard_normal((6, 12)).round(2).tolist()
    body = {"network": network, "inputs": inputs, "targets": [0, 1, 2, 0, 1, 2], "seed": 2,
            "loss": "sparse_categorical_crossentropy", "spectrum": {"largest": 2, "smallest": 1, "density": True},
            "along": [{"direction": "hessian", "resolution": 2}], "exclude": ["parameters"]}  # fmt: skip
    answer = answered(post, body, PATH)
    assert_described(schemas, "LandscapeResponse", answer)
    spectrum = answer["spectrum"]
    assert (spectrum["method"], spectrum["size"], spectrum["converged"]) == ("lanczos", 643, True)
    assert "eigenvalues" not in spectrum and spectrum["density"]["probes"] == 8
    assert answer["axes"][0]["eigenvalue"] == spectrum["largest"][0]["value"]
    assert answer["axes"][0]["curvature"] == pytest.approx(answer["axes"][0]["eigenvalue"], rel=1e-9)
    short = answered(post, body | {"spectrum": {"steps": 10, "largest": 5}, "along": [{"direction": "random"}]}, PATH)
    assert not short["spectrum"]["converged"]
    assert [warning["code"] for warning in short["warnings"]] == ["not_converged"]


# --- words --------------------------------------------------------------------------------------


def test_sentences_come_in_both_languages(post: Post) -> None:
    english = look(post, {"parameter": WEIGHT})["axes"][0]["texts"]
    chinese = look(post, {"parameter": WEIGHT}, language="zh")["axes"][0]["texts"]
    assert english[0].startswith(f"At `{WEIGHT}` = 0.581714 the slope is 0.0308673")
    assert english[0].endswith("so descent decreases it.") and "2 / curvature" in english[1]
    assert len(chinese) == len(english) and "斜率" in chinese[0]


def test_a_slope_of_zero_is_not_said_to_contribute_nothing(post: Post) -> None:
    body = XOR | {"inputs": [[0, 1]], "targets": [[1]], "along": [{"parameter": "hidden.kernel[0][0]"}]}
    (axis,) = answered(post, body, PATH)["axes"]
    assert axis["slope"] == 0 and axis["largest_stable_step"] is None
    assert "does not mean that it contributes nothing" in axis["texts"][0] and "does not bend" in axis["texts"][1]


# --- what is not finite ------------------------------------------------------------------------


def test_losses_that_are_not_finite_are_null_and_told(post: Post) -> None:
    network = {"layers": [{"type": "dense", "name": "w", "units": 1, "use_bias": False, "activation": "exponential"}]}
    along = [{"parameter": "w.kernel[0][0]", "values": [0, 1, 500]}]
    body = {"network": network, "parameters": {"w": {"kernel": [[0]]}}, "inputs": [[1]], "targets": [[1]],
            "loss": "mse", "along": along}  # fmt: skip
    answer = answered(post, body, PATH)
    assert answer["losses"][2] is None and None not in answer["losses"][:2]
    assert answer["finite"] is False
    (warning,) = [each for each in answer["warnings"] if each["code"] == "non_finite"]
    assert warning["message"].startswith("at 1 of 3 points the loss is not finite")
    assert answer["maximum"]["place"] == [1]


@every("value", [1e-300, 1e-160, 1e160, 1e300])
def test_weights_of_any_size_give_an_answer_or_a_reason(post: Post, value: float) -> None:
    """Squares of tiny and of huge numbers are not representable."""
    network = {"layers": [{"type": "dense", "name": "w", "units": 2}]}
    body = {"network": network, "parameters": {"w": {"kernel": [[value, -value]], "bias": [0, value]}},
            "inputs": [[1], [2]], "targets": [[1, 0], [0, 1]], "loss": "mean_absolute_error"}  # fmt: skip
    trees = [{"w": {"kernel": [[value * k, value]], "bias": [k * k * value, 0]}} for k in range(4)]
    for along in (
        [{"parameter": "w.kernel[0][0]"}],
        [{"direction": "random"}, {"direction": "gradient"}],
        [{"direction": "hessian"}],
        [{"direction": "trajectory"}, {"direction": "random"}],
    ):
        for more in ({}, {"loss": "mse"}, {"spectrum": {"density": True}}):
            response = post(body | {"along": along, "trajectory": trees} | more, PATH)
            assert response.status_code in (200, 422), response.text
            if response.status_code == 200:
                answer = response.json
                lost = [axis for axis in answer["axes"] if None in (axis["slope"], axis["curvature"], axis["norm"])]
                assert answer["finite"] or answer["warnings"]
                assert not lost or not answer["finite"]


# --- what is refused ----------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("nothing to do", {}, "#/along", "is required; or ask for spectrum alone"),
    ("no list", {"along": {"direction": "random"}}, "#/along", "put it into a list"),
    ("three axes", {"along": [{"direction": "random"}] * 3}, "#/along", "a list of one or two axes"),
    ("an empty axis", {"along": [{}]}, "#/along/0", "takes one of 'parameter' and 'direction'"),
    ("both", {"along": [{"parameter": WEIGHT, "direction": "random"}]}, "#/along/0", "not both"),
    ("unknown layer", {"along": [{"parameter": "outptu.bias[0]"}]}, "#/along/0/parameter", "did you mean 'output'"),
    ("unknown parameter", {"along": [{"parameter": "output.weights[0][0]"}]}, "#/along/0/parameter", "'kernel'"),
    ("out of range", {"along": [{"parameter": "output.kernel[2][0]"}]}, "#/along/0/parameter", "it takes 0 to 1"),
    ("a whole layer", {"along": [{"parameter": "output"}]}, "#/along/0/parameter", "names a whole layer"),
    ("several numbers", {"along": [{"parameter": "output.kernel"}]}, "#/along/0/parameter", "names 2 numbers"),
    ("no name", {"along": [{"parameter": 3}]}, "#/along/0/parameter", "takes the name of one parameter"),
    ("another direction", {"along": [{"direction": "hesian"}]}, "#/along/0/direction", "hessian"),
    ("twice the same", {"along": [{"parameter": WEIGHT}] * 2}, "#/along/1", "leads the same way as the first axis"),
    (
        "twice one eigenvector",
        {"along": [{"direction": "hessian"}, {"direction": "hessian", "index": -9}]},
        "#/along/1",
        "the same way as the first axis",
    ),
    ("no such eigenvalue", {"along": [{"direction": "hessian", "index": 9}]}, "#/along/0/index", "takes -9 to 8"),
    ("index of random", {"along": [{"direction": "random", "index": 1}]}, "#/along/0/index", "hessian or trajectory"),
    ("seed of a parameter", {"along": [{"parameter": WEIGHT, "seed": 1}]}, "#/along/0/seed", "direction: random"),
    ("two ways", {"along": [{"direction": "random", "range": [0, 1], "values": [1]}]}, "#/along/0/range", "no use"),
    ("backwards", {"along": [{"parameter": WEIGHT, "range": [1, 0]}]}, "#/along/0/range", "the second is larger"),
    ("one point", {"along": [{"parameter": WEIGHT, "resolution": 1}]}, "#/along/0/resolution", "2"),
    ("too fine", {"along": [{"parameter": WEIGHT, "resolution": 1001}]}, "#/along/0/resolution", "1000"),
    (
        "too many points",
        {"along": [{"direction": "random", "resolution": 1000}, {"direction": "gradient", "resolution": 300}]},
        "#/along",
        "300,000 points, and at most 250,000 are taken",
    ),
    ("too far", {"along": [{"parameter": WEIGHT, "values": [0, 1e101]}]}, "#/along/0/values/1", "1e+100"),
    ("no trajectory", {"along": [{"direction": "trajectory"}]}, "#/trajectory", "is required for direction"),
    ("trajectory alone", {"spectrum": {}, "trajectory": [XOR_PARAMETERS] * 2}, "#/trajectory", "no use without along"),
    (
        "a trajectory of one point",
        {"along": [{"direction": "trajectory"}], "trajectory": [XOR_PARAMETERS]},
        "#/trajectory",
        "a list of 2 to 2,000",
    ),
    (
        "a trajectory that stays",
        {"along": [{"direction": "trajectory"}], "trajectory": [XOR_PARAMETERS] * 3},
        "#/along/0",
        "does not move",
    ),
    (
        "a straight trajectory",
        {
            "along": [{"direction": "trajectory"}, {"direction": "trajectory", "index": 1}],
            "trajectory": [shifted(WEIGHT, 0.0), shifted(WEIGHT, 1.0)],
        },
        "#/along/1/index",
        "lies on a line",
    ),
    (
        "another network's trajectory",
        {"along": [{"direction": "trajectory"}], "trajectory": [XOR_PARAMETERS, {"output": XOR_PARAMETERS["output"]}]},
        "#/trajectory/1/hidden",
        "is missing",
    ),
    (
        "a step without parameters",
        {"along": [{"direction": "trajectory"}], "trajectory": [{"step": 1, "loss": 2}, {"step": 2}]},
        "#/trajectory/0/parameters",
        "trace",
    ),
    ("reduction", {"along": [{"direction": "random"}], "reduction": "none"}, "#/reduction", "mean"),
    ("a range outside", {"along": [{"direction": "random"}], "range": [0, 1]}, "#/range", "it belongs into 'along'"),
    ("spectrum of everything", {"spectrum": {"largest": 1000}}, "#/spectrum/largest", "20"),
]  # fmt: skip


@every(("changes", "pointer", "words"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG])
def test_a_refusal_names_the_place_and_what_is_possible(
    post: Post, changes: dict[str, Any], pointer: str, words: str
) -> None:
    body = XOR | changes
    found = faults(assert_problem(post(body, PATH), "invalid", body))
    assert words in found[pointer], found


def test_a_direction_that_is_none_is_refused(post: Post) -> None:
    zeros = {"hidden": {"kernel": [[0, 0], [0, 0]], "bias": [0, 0]}, "output": {"kernel": [[0], [0]], "bias": [0]}}
    body = XOR | {"parameters": zeros, "along": [{"direction": "random"}]}
    found = faults(assert_problem(post(body, PATH), "invalid", body))
    assert "set normalize to none" in found["#/along/0/normalize"]
    assert post(body | {"along": [{"direction": "random", "normalize": "none"}]}, PATH).status_code == 200
    still = body | {"targets": [[0.5]] * 4, "along": [{"direction": "gradient"}]}
    assert "the gradient is 0" in faults(assert_problem(post(still, PATH), "invalid", still))["#/along/0"]


def test_a_network_without_trained_parameters_is_refused(post: Post) -> None:
    body = {"network": {"layers": [{"type": "activation", "activation": "tanh"}]}, "inputs": [[1]], "targets": [[1]],
            "loss": "mse", "along": [{"direction": "random"}]}  # fmt: skip
    assert "no parameters that are trained" in faults(assert_problem(post(body, PATH), "invalid", body))["#/network"]


def test_limits_hold(make_client: Any) -> None:
    small = make_client(max_operations=100_000)
    response = small.post(PATH, json=LANDSCAPE["two_weights"] | {"along": [{"direction": "random", "resolution": 900}]})
    assert_problem(response, "limit-exceeded")
    slow = make_client(max_seconds=0.0)
    big = {"network": {"layers": [{"type": "dense", "units": 600}, {"type": "dense", "units": 1}]},
           "inputs": [[0.1] * 500] * 20, "targets": [[1]] * 20, "loss": "mse", "spectrum": {}}  # fmt: skip
    assert slow.post(PATH, json=big).status_code in (422, 503)


@every("dtype", ["float64", "float32"])
@every("name", LANDSCAPE)
def test_examples_hold_in_both_precisions(post: Post, schemas: dict[str, Any], name: str, dtype: str) -> None:
    answer = answered(post, LANDSCAPE[name] | {"dtype": dtype}, PATH)
    assert_described(schemas, "LandscapeResponse", answer)
    assert answer["dtype"] == dtype and answer["finite"]
    exact = answered(post, LANDSCAPE[name], PATH)
    assert answer["loss"] == pytest.approx(exact["loss"], rel=1e-5, abs=1e-10)
    if "losses" in answer:
        np.testing.assert_allclose(answer["losses"], exact["losses"], rtol=1e-3, atol=1e-5)
