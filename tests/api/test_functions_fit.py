"""`/v1/functions/fit`: the line through points, in closed form and by descent."""

from typing import Any

import numpy as np
import pytest

from schemas.tensor import encode
from tests.api.test_functions_gradient import BASE64, answered, assert_no_silent_null
from tests.api.test_gradients import plain
from tests.conftest import Post
from tests.support import assert_described, assert_problem, every, faults, strict_json

PATH = "/v1/functions/fit"
THREE = [[1, 2], [2, 3], [3, 5]]
KEYS = {
    "variables", "expression", "latex", "optimum", "closed_form",
    "status", "steps", "runs", "best", "finite", "warnings",
}  # fmt: skip
LOSSES = ("mean_squared_error", "squared_error", "half_squared_error")


def fitted(post: Post, points: Any = THREE, **more: Any) -> dict[str, Any]:
    answer = answered(post, {"points": points} | more, PATH)
    assert_no_silent_null(answer)
    return answer


def scattered(count: int, seed: int = 0, scale: float = 1.0) -> list[list[float]]:
    generator = np.random.default_rng(seed)
    x = generator.uniform(-2, 3, count)
    points: list[list[float]] = (scale * np.stack([x, 0.7 * x - 1 + 0.3 * generator.normal(size=count)], 1)).tolist()
    return points


def loss_of(points: Any, slope: float, intercept: float, loss: str) -> float:
    squares = sum((slope * x + intercept - y) ** 2 for x, y in points)
    return float(squares * {"mean_squared_error": 1 / len(points), "squared_error": 1, "half_squared_error": 0.5}[loss])


def test_every_key_of_an_answer(post: Post, schemas: dict[str, Any]) -> None:
    answer = fitted(post)
    assert_described(schemas, "FitResponse", answer)
    assert set(answer) == KEYS
    assert answer["variables"] == ["slope", "intercept"] and answer["finite"] is True and answer["warnings"] == []
    optimum, closed = answer["optimum"], answer["closed_form"]
    assert optimum["slope"] == 1.5 and optimum["intercept"] == pytest.approx(1 / 3, rel=1e-14)
    np.testing.assert_allclose(optimum["residuals"], [1 / 6, -1 / 3, 1 / 6], rtol=1e-13)
    assert optimum["value"] == pytest.approx(1 / 18, rel=1e-13)
    assert optimum["r_squared"] == pytest.approx(27 / 28, rel=1e-14)
    np.testing.assert_allclose(optimum["hessian"], [[28 / 3, 4], [4, 2]], rtol=1e-14)
    low, high = np.linalg.eigvalsh([[28 / 3, 4], [4, 2]])
    np.testing.assert_allclose(optimum["eigenvalues"], [low, high], rtol=1e-13)
    assert optimum["condition_number"] == pytest.approx(high / low, rel=1e-12)
    assert optimum["largest_stable_step"] == pytest.approx(2 / high, rel=1e-13)
    numbers = {key: closed[key] for key in closed if key != "latex"}
    assert numbers == {
        "points": 3, "mean_x": 2, "mean_y": pytest.approx(10 / 3), "spread_x": 2, "spread_y": pytest.approx(14 / 3),
        "product": 3,
    }  # fmt: skip
    (run,) = answer["runs"]
    assert answer["steps"] == list(range(101)) and answer["best"] == 0
    assert run["path"][0] == [0, 0] and len(run["path"]) == 101
    distance = np.hypot(run["point"][0] - 1.5, run["point"][1] - optimum["intercept"])
    assert run["distance"] == pytest.approx(distance, abs=1e-15)


@every("loss", LOSSES)
@every("count", [2, 3, 17, 40, 41, 1000])
def test_lines_are_those_of_polyfit(post: Post, count: int, loss: str) -> None:
    points = scattered(count, seed=count)
    answer = fitted(post, points, loss=loss, steps=3)
    x, y = np.array(points).T
    slope, intercept = np.polyfit(x, y, 1)
    optimum = answer["optimum"]
    np.testing.assert_allclose([optimum["slope"], optimum["intercept"]], [slope, intercept], rtol=1e-10)
    np.testing.assert_allclose(optimum["residuals"], y - slope * x - intercept, atol=1e-11)
    assert optimum["value"] == pytest.approx(loss_of(points, slope, intercept, loss), rel=1e-9, abs=1e-24)
    assert optimum["r_squared"] == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2, rel=1e-10)
    assert answer["closed_form"]["points"] == count


@every("loss", LOSSES)
@every("count", [2, 40, 41, 300])
def test_the_expression_is_the_loss(post: Post, count: int, loss: str) -> None:
    points = scattered(count, seed=7)
    answer = fitted(post, points, loss=loss, steps=1)
    optimum = answer["optimum"]
    best = [optimum["slope"], optimum["intercept"]]
    places = [best, [0, 0], [1, -2], [-0.3, 40]]
    body = {"expression": answer["expression"], "variables": answer["variables"], "points": places}
    asked = answered(post, body, "/v1/functions/gradient")
    assert asked["symbolic"]["latex"] == answer["latex"]
    at_best, *others = asked["points"]
    np.testing.assert_allclose(at_best["gradient"], [0, 0], atol=1e-11 * count)
    np.testing.assert_allclose(at_best["hessian"], optimum["hessian"], rtol=1e-10)
    assert at_best["classification"] in ("minimum", "not_stationary")
    for entry in others:
        slope, intercept = entry["point"]
        assert entry["value"] == pytest.approx(loss_of(points, slope, intercept, loss), rel=1e-11)


@every("count", [5, 60])
def test_the_expression_goes_to_the_other_endpoints(post: Post, count: int) -> None:
    answer = fitted(post, scattered(count), steps=1)
    optimum = [answer["optimum"]["slope"], answer["optimum"]["intercept"]]
    body = {"expression": answer["expression"], "variables": answer["variables"]}
    (place,) = answered(post, body | {"box": [-5, 5], "starts": 50}, "/v1/functions/stationary")["points"]
    np.testing.assert_allclose(place["point"], optimum, rtol=1e-7)
    assert place["classification"] == "minimum"
    rolled = answered(post, body | {"starts": [[0, 0]], "optimizers": ["newton"], "steps": 3}, "/v1/functions/descend")
    np.testing.assert_allclose(rolled["valleys"][0]["point"], optimum, rtol=1e-7)
    grid = answered(post, body | {"x": [-1, 2], "y": [-3, 1], "resolution": 5}, "/v1/functions/surface")
    assert grid["minimum"]["value"] >= answer["optimum"]["value"]


@every("loss", LOSSES)
@every("count", [3, 30, 500])
def test_the_default_descent_converges(post: Post, count: int, loss: str) -> None:
    answer = fitted(post, scattered(count, seed=2), loss=loss, steps=400, trace={"every": 400})
    (run,) = answer["runs"]
    assert run["distance"] < 1e-6 and run["valley"] == 0 and "minimum 0" in run["reason"]
    assert run["value"] == pytest.approx(answer["optimum"]["value"], rel=1e-9)


def test_several_optimizers_from_a_start(post: Post) -> None:
    chosen = [{"type": "sgd", "learning_rate": 0.1}, "adam", "newton"]
    answer = fitted(post, optimizers=chosen, start=[4, -1], steps=20, trace={"every": 5, "include": ["gradients"]})
    assert [run["optimizer"] for run in answer["runs"]] == [0, 1, 2]
    assert answer["steps"] == [0, 5, 10, 15, 20]
    for run in answer["runs"]:
        assert run["path"][0] == [4, -1] and len(run["path"]) == len(run["gradients"]) == 5
    assert answer["runs"][2]["distance"] < 1e-12 and answer["best"] == 2
    body = {"expression": answer["expression"], "variables": answer["variables"], "starts": [[4, -1]], "steps": 20}
    body |= {"optimizers": chosen, "trace": {"every": 5, "include": ["gradients"]}}
    rolled = answered(post, body, "/v1/functions/descend")
    assert [{**run, "distance": 0} for run in rolled["runs"]] == [{**run, "distance": 0} for run in answer["runs"]]


def test_a_rate_above_the_largest_stable_step_diverges(post: Post) -> None:
    step = fitted(post)["optimum"]["largest_stable_step"]
    below, above = ({"type": "sgd", "learning_rate": factor * step} for factor in (0.99, 1.01))
    answer = fitted(post, optimizers=[below, above], steps=3000, trace={"every": 3000})
    fine, lost = answer["runs"]
    assert fine["distance"] < 1e-3 and lost["status"] == "diverged" and lost["distance"] > 1e3


def test_names_of_the_parameters(post: Post) -> None:
    answer = fitted(post, variables=["w", "b"], steps=1)
    assert answer["variables"] == ["w", "b"]
    assert answer["expression"] == "((w + b - 2)^2 + (2*w + b - 3)^2 + (3*w + b - 5)^2)/3"
    assert fitted(post, variables=["β", "alpha"], steps=1)["variables"] == ["beta", "alpha"]


def test_points_in_each_of_their_forms(post: Post) -> None:
    lists = post({"points": THREE}, PATH).get_data()
    for dtype in ("float64", "int64", "float32"):
        assert post({"points": encode(np.array(THREE, dtype))}, PATH).get_data() == lists
    assert post({"points": encode(np.array(THREE, "uint8")), "start": [0, 0]}, PATH).get_data() == lists


def test_a_perfect_line_and_a_flat_one(post: Post) -> None:
    perfect = fitted(post, [[0, 1], [1, 3], [2, 5]])["optimum"]
    assert (perfect["slope"], perfect["intercept"], perfect["value"], perfect["r_squared"]) == (2, 1, 0, 1)
    flat = fitted(post, [[0, 4], [1, 4], [5, 4]])["optimum"]
    assert (flat["slope"], flat["intercept"], flat["value"], flat["r_squared"]) == (0, 4, 0, None)


def test_points_above_each_other_determine_no_line(post: Post) -> None:
    for points in ([[1, 2], [1, 3]], [[0, 0]] * 50):
        body = {"points": points}
        document = assert_problem(post(body, PATH), "invalid", body)
        assert "the same x" in faults(document)["#/points"]


@every(
    "points",
    [
        [[0, 0], [1e160, 1]], [[0, 1e160], [1, -1e160]], [[-1.7e308, 0], [1.7e308, 1]], [[0, 1e308], [1, 1e308]],
        [[1e154, 1e154], [-1e154, -1e154]], [[0, 0], [1e-161, 1]], [[0, 0], [1e-161, 1e150]], [[0, 0], [1, 5e-324]],
        [[0, 0], [1e-170, 1]], [[1e15, 1e15], [1e15 + 1, 1e15 + 1]], [[0, 0], [1e150, 1e-150]],
        [[1e8, 1], [1e8 + 1, 2]],        [[0, 0], [1e-300, 1e-300]], [[-1e154, 1e154], [1e154, -1e154], [0, 1e154]],
    ],
)  # fmt: skip
@every("loss", LOSSES)
def test_extreme_points_are_fitted_or_refused(post: Post, points: Any, loss: str) -> None:
    body = {"points": points, "loss": loss, "steps": 5}
    response = post(body, PATH)
    if response.status_code == 200:
        answer = strict_json(response.get_data())
        assert_no_silent_null(answer)
        assert answer["finite"] or answer["warnings"]
    else:
        document = assert_problem(response, "invalid", body)
        assert set(faults(document)) == {"#/points"}
        if "the same x" in document["detail"]:
            assert len({x for x, _ in points}) == 1


@every("scale", [1e-60, 1e-6, 1e6, 1e60])
def test_lines_of_any_size(post: Post, scale: float) -> None:
    for count in (10, 100):
        one, other = (fitted(post, scattered(count, scale=size), steps=2)["optimum"] for size in (1.0, scale))
        assert other["slope"] == pytest.approx(one["slope"], rel=1e-9)
        assert other["intercept"] == pytest.approx(scale * one["intercept"], rel=1e-9)


def test_the_same_request_has_the_same_bytes(post: Post) -> None:
    body = {"points": THREE, "optimizers": ["adam"], "steps": 5}
    first = post(body, PATH).get_data()
    assert first == post(dict(reversed(body.items())), PATH).get_data()
    assert plain(answered(post, body, PATH, Accept=BASE64)) == strict_json(first)


# Arriving.


@every("name", ["sgd", "adam", "momentum", "l_bfgs", "newton"])
@every("offset", [3e3, 1e6, 1.7e9])
def test_nothing_has_arrived_far_from_the_optimum(post: Post, offset: float, name: str) -> None:
    points = [[offset, 0], [offset + 1, 1], [offset + 2, 2]]
    answer = fitted(
        post, points, optimizers=[name] if name in ("newton", "l_bfgs") else [{"type": name, "learning_rate": 1e-20}]
    )
    (run,) = answer["runs"]
    arrived = abs(run["point"][0] - 1) <= 1e-3 and abs(run["point"][1] + offset) <= 1e-3 * offset
    assert ("has arrived at minimum" in run["reason"]) == (run["valley"] == 0) and (run["valley"] is None or arrived)
    assert run["valley"] == 0 or "lies in the basin of minimum 0" in run["reason"]
    assert run["basin"] == 0


def test_a_line_through_the_middle_of_points_far_out_has_not_arrived(post: Post) -> None:
    answer = fitted(post, [[3000, 0], [3001, 1], [3002, 2]])
    (run,) = answer["runs"]
    assert run["valley"] is None and run["basin"] == 0 and run["distance"] > 2999
    assert "has arrived" not in run["reason"]


def test_starts_at_the_optimum_have_arrived(post: Post) -> None:
    for offset in (0, 3000, 1e6, 1.7e9):
        answer = fitted(post, [[offset, 0], [offset + 1, 1], [offset + 2, 2]], start=[1, -offset])
        (run,) = answer["runs"]
        assert run["valley"] == 0 and run["reason"].endswith("it has arrived at minimum 0")


def test_runs_that_climb_are_in_no_basin(post: Post) -> None:
    answer = fitted(post, optimizers=[{"type": "sgd", "learning_rate": 0.001, "maximize": True}], steps=3)
    assert answer["runs"][0]["basin"] is None


@every("count", [2, 20, 38, 39, 40, 41, 300])
def test_the_longest_expressions_can_be_sent_again(post: Post, count: int) -> None:
    generator = np.random.default_rng(count)
    points = np.stack([1.7e9 + 1e5 * generator.normal(size=count), -1e-7 * generator.normal(size=count)], 1).tolist()
    names = ["the_slope_of_the_line_in_seconds", "the_intercept_of_the_line_in_y"]
    answer = fitted(post, points, variables=[name[:31] for name in names], steps=1)
    body = {"expression": answer["expression"], "variables": answer["variables"]}
    answered(post, body | {"points": [[0, 0]]}, "/v1/functions/gradient")
    answered(post, body | {"box": [-1, 1], "starts": 4}, "/v1/functions/stationary")
    answered(post, body | {"starts": [[0, 0]], "optimizers": ["adam", "newton"], "steps": 2}, "/v1/functions/descend")
    answered(post, body | {"x": [-1, 1], "y": [-1, 1], "resolution": 3}, "/v1/functions/surface")
