"""`/v1/functions/stationary`: minima, maxima and saddles of a typed function in a box."""

import math
from typing import Any

import numpy as np
import pytest

from service.engine.functions.presets import Preset, presets
from tests.api.test_functions_gradient import BASE64, answered, nulls
from tests.api.test_gradients import plain
from tests.conftest import Post
from tests.support import HIMMELBLAU, assert_described, every, strict_json

PATH = "/v1/functions/stationary"
POINT = {"point", "value", "norm", "classification", "hessian", "eigenvalues", "eigenvectors"}
CURVED = {"minimum": {"condition_number", "largest_stable_step"}, "maximum": {"condition_number"}}


def found(post: Post, expression: str, box: Any, **more: Any) -> dict[str, Any]:
    answer = answered(post, {"expression": expression, "box": box} | more, PATH)
    assert list(nulls(answer)) == []
    return answer


def codes(answer: dict[str, Any]) -> list[str]:
    return [warning["code"] for warning in answer["warnings"]]


def test_every_key_of_an_answer(post: Post, schemas: dict[str, Any]) -> None:
    answer = found(post, HIMMELBLAU, [[-5, 5], [-5, 5]])
    assert_described(schemas, "StationaryResponse", answer)
    assert set(answer) == {"variables", "points", "counts", "starts", "warnings"}
    assert answer["variables"] == ["x", "y"] and answer["starts"] == 1024 and answer["warnings"] == []
    assert answer["counts"] == {"minimum": 4, "saddle": 4, "maximum": 1}
    values = [entry["value"] for entry in answer["points"]]
    np.testing.assert_allclose(values, sorted(values), rtol=1e-9, atol=1e-9)
    for entry in answer["points"]:
        assert set(entry) == POINT | CURVED.get(entry["classification"], set())
        assert entry["norm"] <= 1e-8


def test_points_are_what_the_gradient_says_of_them(post: Post) -> None:
    answer = found(post, HIMMELBLAU, [-5, 5])
    points = [entry["point"] for entry in answer["points"]]
    body = {"expression": HIMMELBLAU, "points": points, "include": ["hessian"]}
    for ours, theirs in zip(answer["points"], answered(post, body, "/v1/functions/gradient")["points"], strict=True):
        assert {key: theirs[key] for key in ours} == ours
        assert theirs["direction"] is None


@every("expression", ["x^4 - 3x^2 + x", "sin(3x) + x^2/4", "x^5 - 5x^3 + 4x"])
def test_all_roots_of_the_derivative(post: Post, expression: str) -> None:
    """The roots found are compared with sign changes of the derivative on a fine grid."""
    x = np.linspace(-3.0, 3.0, 10_000)
    body = {"expression": expression, "points": x.tolist(), "include": []}
    slopes = np.array([entry["gradient"][0] for entry in answered(post, body, "/v1/functions/gradient")["points"]])
    changes = np.flatnonzero(slopes[:-1] * slopes[1:] < 0.0)
    answer = found(post, expression, [-3, 3], starts=100)
    points = sorted(entry["point"][0] for entry in answer["points"])
    np.testing.assert_allclose(points, (x[changes] + x[changes + 1]) / 2, atol=1e-3)
    for entry in answer["points"]:
        rising = slopes[np.searchsorted(x, entry["point"][0]) + 3] > 0.0
        assert entry["classification"] == ("minimum" if rising else "maximum")


SMOOTH = [preset for preset in presets if "|" not in preset.expression and "sqrt" not in preset.expression]


@every("preset", SMOOTH, ids=lambda preset: preset.name)
def test_minima_of_presets(post: Post, preset: Preset) -> None:
    more = {"starts": 4000} if len(preset.minima) > 9 else {}
    answer = found(post, preset.expression, preset.domain, variables=preset.variables, **more)
    low, high = np.array(preset.domain).T
    points = np.array([entry["point"] for entry in answer["points"]]).reshape(-1, len(low))
    assert ((points >= low - 1e-9 * (high - low)) & (points <= high + 1e-9 * (high - low))).all()
    kinds = [entry["classification"] for entry in answer["points"]]
    assert answer["counts"] == {kind: kinds.count(kind) for kind in set(kinds)}
    for minimum in preset.minima:
        distances = np.abs(points - minimum.point).max(-1)
        nearest = int(distances.argmin())
        # Where the curvature is 0 the gradient is as good as 0 already some way off.
        assert distances[nearest] < (1e-6 if kinds[nearest] == "minimum" else 1e-2)
        assert kinds[nearest] in ("minimum", "degenerate")
        assert answer["points"][nearest]["value"] == pytest.approx(minimum.value, rel=1e-9, abs=1e-9)
    for place in preset.stationary:
        distances = np.abs(points - place.point).max(-1)
        assert distances.min() < 1e-2 and kinds[int(distances.argmin())] == place.kind
    inside = [kind for kind in kinds if kind == "minimum"]
    assert len(inside) <= len(preset.minima)


def test_one_range_stands_for_all(post: Post) -> None:
    body = {"expression": HIMMELBLAU, "starts": 200}
    one = post(body | {"box": [-5, 5]}, PATH).get_data()
    assert post(body | {"box": [[-5, 5]]}, PATH).get_data() == one
    assert post(body | {"box": [[-5, 5], [-5, 5]]}, PATH).get_data() == one


def test_the_box_bounds_what_is_told(post: Post) -> None:
    assert found(post, "x^4 - 3x^2 + x", [0, 3])["counts"] == {"minimum": 1, "maximum": 1}
    assert found(post, "x^4 - 3x^2 + x", [0.5, 3])["counts"] == {"minimum": 1}
    assert found(post, "x^4 - 3x^2 + x", [2, 3]) == {
        "variables": ["x"], "points": [], "counts": {}, "starts": 1024, "warnings": []
    }  # fmt: skip
    assert found(post, "x^2", [0, 1])["points"][0]["point"] == [0]  # on the border


def test_functions_without_stationary_points(post: Post) -> None:
    for expression in ("x + y", "exp(x) + y", "log(x) + y", "1/x"):
        answer = found(post, expression, [-2, 2])
        assert answer["points"] == [] and answer["counts"] == {}


@every(("expression", "kink"), [("|x| + y^2", "abs"), ("max(x, y)", "max"), ("floor(x) + y", "floor")])
def test_kinks_are_told(post: Post, expression: str, kink: str) -> None:
    answer = found(post, expression, [-2, 2])
    (warning,) = [each for each in answer["warnings"] if each["code"] == "kinks"]
    assert warning["message"].startswith(kink)


@every(
    ("expression", "kink"),
    [
        ("sqrt(x^2 + y^2) - 0.1*cos(5x)", "the slope of sqrt"),
        ("cbrt(x) + y^2", "the slope of cbrt"),
        ("(x^2)^0.3 + y^2", "the slope of a root"),
        ("20 - 20*exp(-0.2*sqrt(0.5*(x^2 + y^2))) + e - exp(0.5*(cos(2*pi*x) + cos(2*pi*y)))", "the slope of sqrt"),
    ],
)
def test_kinks_of_roots_are_told(post: Post, expression: str, kink: str) -> None:
    (warning,) = [each for each in found(post, expression, [-2, 2])["warnings"] if each["code"] == "kinks"]
    assert warning["message"].startswith(kink)
    assert "kinks" not in codes(found(post, f"({expression}) + 0*x", [0.5, 2]))


def test_a_bowl_has_one_minimum_at_any_condition_number(post: Post) -> None:
    answer = found(post, "1e14*x^2 + y^2", [-2, 2])
    assert answer["counts"] == {"minimum": 1} and answer["warnings"] == []
    (entry,) = answer["points"]
    assert entry["point"] == [0, 0] and entry["condition_number"] == 1e14 and entry["largest_stable_step"] == 1e-14


def test_what_rounding_hides_is_admitted(post: Post) -> None:
    answer = found(post, "1e16*(0.6*x + 0.8*y - 1)^2 + (0.8*x - 0.6*y - 0.3)^2", [-2, 2])
    assert answer["points"] == [] and codes(answer) == ["ill_conditioned"]


def test_more_isolated_points_than_are_told_are_not_called_dense(post: Post) -> None:
    answer = found(post, "sin(100x)", [-10, 10])
    assert len(answer["points"]) == 500 and codes(answer) == ["more_points", "few_starts"]
    assert "dense" not in str(answer["warnings"])


def test_few_starts_are_told(post: Post) -> None:
    schaffer = "0.5 + (sin(x^2 - y^2)^2 - 0.5)/(1 + 0.001*(x^2 + y^2))^2"
    assert codes(found(post, schaffer, [-100, 100])) == ["few_starts"]
    assert codes(found(post, HIMMELBLAU, [-5, 5])) == []
    # Of 32 points, those on the left have few starts between each other.
    crowded = found(post, "sin(1/x)", [0.01, 1])
    assert len(crowded["points"]) < 32 and codes(crowded) == ["few_starts"]
    assert len(found(post, "sin(1/x)", [0.05, 1])["points"]) == 6


@every("order", [4, 9, 20, 30, 50, 100])
def test_a_point_of_high_order_is_found_or_told(post: Post, order: int) -> None:
    answer = found(post, f"(x - 0.3)^{order}", [-1, 1])
    if answer["points"]:
        assert answer["counts"] == {"degenerate": 1} and answer["points"][0]["point"] == pytest.approx([0.3])
    else:
        (warning,) = answer["warnings"]
        assert warning["code"] == "ill_conditioned" and "near (0.3)" in warning["message"]


@every(
    ("expression", "box"),
    [("tanh(x)", 50), ("sigmoid(x)", 100), ("exp(x)", 30), ("atan(x)", 50), ("erf(x)", 9), ("log(x + 60)", 50)],
)
def test_a_flat_function_without_a_stationary_point_is_not_doubted(post: Post, expression: str, box: float) -> None:
    answer = found(post, expression, [-box, box])
    assert answer["points"] == [] and answer["warnings"] == []


@every(
    ("expression", "box"),
    [("((x + y)/2 - sqrt(x*y))^2", [0.5, 3]), ("(x*y)^4", [-1, 1]), ("(x*y)^4", [[0.5, 3], [-1, 1]])],
)
def test_curves_of_stationary_points_are_told(post: Post, expression: str, box: Any) -> None:
    answer = found(post, expression, box)
    assert codes(answer) == ["not_isolated"]
    assert len(answer["points"]) > 10 and set(answer["counts"]) == {"degenerate"}
    assert max(abs(entry["value"]) for entry in answer["points"]) <= 1e-12


@every("expression", ["(x + y)^2", "3 + 0x + 0y", "(x^2 + y^2 - 1)^2", "step(x) + sign(y)"])
def test_points_that_lie_dense_are_told(post: Post, expression: str) -> None:
    answer = found(post, expression, [-2, 2], starts=2000)
    assert "not_isolated" in codes(answer)
    assert len(answer["points"]) > 10
    assert set(answer["counts"]) <= {"degenerate", "minimum", "maximum", "saddle"}
    isolated = found(post, "x^2 + y^2", [-2, 2], starts=2000)
    assert codes(isolated) == [] and isolated["counts"] == {"minimum": 1}


@every(("starts", "dimension"), [(1, 1), (1, 2), (2, 3), (100, 2), (10_000, 2), (10_000, 3), (50, 20)])
def test_starts_are_about_as_many_as_asked(post: Post, starts: int, dimension: int) -> None:
    names = [f"x{number}" for number in range(dimension)]
    answer = found(post, " + ".join(f"{name}^2" for name in names), [-1, 2], variables=names, starts=starts)
    assert 0.4 * starts <= answer["starts"] <= 2.1 * starts
    assert len(answer["points"]) == 1
    np.testing.assert_allclose(answer["points"][0]["point"], [0] * dimension, atol=1e-12)
    assert answer["points"][0]["condition_number"] == 1 and answer["points"][0]["largest_stable_step"] == 1


@every("size", [1e-100, 1e-5, 1e6, 1e50, 1e100])
def test_boxes_of_any_size(post: Post, size: float) -> None:
    answer = found(post, "x^2 + 3y^2", [-size, size], starts=50)
    assert answer["counts"] == {"minimum": 1}
    assert np.abs(answer["points"][0]["point"]).max() <= size


@every("expression", ["1e-310*x^2", "1e308*x^2", "exp(x)*x", "x^2/1e-300", "(1e-200*x)^2", "5e-324*x"])
def test_no_number_is_missing(post: Post, expression: str) -> None:
    for entry in found(post, expression, [-5, 5], starts=30)["points"]:
        for key in ("value", "norm", "condition_number", "largest_stable_step"):
            assert math.isfinite(entry.get(key, 0.0))


def test_the_same_request_has_the_same_bytes(post: Post) -> None:
    body = {"expression": "x*exp(-x^2 - y^2)", "box": [-2, 2]}
    first = post(body, PATH).get_data()
    assert first == post(dict(reversed(body.items())), PATH).get_data()
    assert plain(answered(post, body, PATH, Accept=BASE64)) == strict_json(first)
