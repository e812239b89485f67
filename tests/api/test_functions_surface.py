"""`/v1/functions/surface`: a typed function on a grid, contour levels, and basins."""

from typing import Any

import numpy as np

from service.engine.functions.presets import presets
from tests.api.test_functions_gradient import BASE64, answered, assert_no_silent_null
from tests.api.test_gradients import plain
from tests.conftest import Post
from tests.support import HIMMELBLAU, assert_described, every, strict_json

PATH = "/v1/functions/surface"
KEYS = {"variables", "axes", "x", "y", "values", "minimum", "maximum", "levels", "spacing", "finite", "warnings"}
VALLEY = {"point", "value", "classification", "eigenvalues", "runs"}
SGD = {"type": "sgd", "learning_rate": 0.01}


def drawn(post: Post, **body: Any) -> dict[str, Any]:
    answer = answered(post, body, PATH)
    assert_no_silent_null(answer)
    return answer


def test_every_key_of_an_answer(post: Post, schemas: dict[str, Any]) -> None:
    answer = drawn(
        post, expression="x^2 + 10y", x=[0, 2], y=[-1, 1], resolution=[3, 5], include=["gradients"], basins=True,
        optimizer=SGD, steps=5,
    )  # fmt: skip
    assert_described(schemas, "SurfaceResponse", answer)
    assert set(answer) == KEYS | {"gradients", "basins"}
    assert answer["variables"] == answer["axes"] == ["x", "y"]
    assert answer["x"] == [0, 1, 2] and answer["y"] == [-1, -0.5, 0, 0.5, 1]
    # A row for each y, in it a number for each x.
    assert answer["values"] == [[x * x + 10 * y for x in answer["x"]] for y in answer["y"]]
    assert answer["gradients"] == [[[2 * x, 10] for x in answer["x"]] for y in answer["y"]]
    assert answer["minimum"] == {"point": [0, -1], "value": -10}
    assert answer["maximum"] == {"point": [2, 1], "value": 14}
    assert np.shape(answer["basins"]["grid"]) == (5, 3)
    assert answer["finite"] is True and answer["warnings"] == []
    assert set(drawn(post, expression="x*y", x=[0, 1], y=[0, 1])) == KEYS


def test_one_axis_is_a_curve(post: Post) -> None:
    answer = drawn(post, expression="t^2", x=[-1, 2], resolution=4, include=["gradients"])
    assert set(answer) == KEYS - {"y"} | {"gradients"}
    assert answer["axes"] == ["t"] and answer["x"] == [-1, 0, 1, 2] and answer["values"] == [1, 0, 1, 4]
    assert answer["gradients"] == [[-2], [0], [2], [4]]
    assert np.shape(drawn(post, expression="t", x=[0, 1])["values"]) == (100,)


def test_other_variables_stay_where_they_are_put(post: Post) -> None:
    body: dict[str, Any] = {"expression": "100a + 10b + c", "x": [0, 1], "y": [2, 3], "resolution": 2}
    answer = drawn(post, **body, at={"c": 5}, include=["gradients"])
    assert answer["axes"] == ["a", "b"] and answer["values"] == [[25, 125], [35, 135]]
    assert answer["minimum"]["point"] == [0, 2, 5]
    assert answer["gradients"][0][0] == [100, 10, 1]
    answer = drawn(post, **body, axes=["c", "a"], at={"b": -1})
    assert answer["values"] == [[190, 191], [290, 291]]
    assert answer["minimum"]["point"] == [2, -1, 0]
    answer = drawn(post, expression="100a + 10b + c", x=[0, 1], resolution=2, axes=["b"], at={"a": 1, "c": 2})
    assert answer["values"] == [102, 112]


def test_axes_may_be_exchanged(post: Post) -> None:
    body: dict[str, Any] = {"expression": "x^3 - 2y", "x": [0, 2], "y": [-3, 1], "resolution": [4, 6]}
    one = drawn(post, **body)
    swapped = {"x": body["y"], "y": body["x"], "resolution": [6, 4], "axes": ["y", "x"]}
    other = drawn(post, **body | swapped, include=["gradients"])
    np.testing.assert_array_equal(np.transpose(one["values"]), other["values"])
    assert one["minimum"] == other["minimum"] and one["levels"] == other["levels"]
    assert other["gradients"][0][0] == [0, -2]  # in the order of the variables all the same


@every("resolution", [2, 7, [2, 3], [50, 2]])
def test_values_are_those_of_single_points(post: Post, resolution: Any) -> None:
    body: dict[str, Any] = {"expression": "sin(x)*y + x^y", "x": [0.5, 2], "y": [-1, 1]}
    answer = drawn(post, **body, resolution=resolution, include=["gradients"])
    across, up = (resolution, resolution) if isinstance(resolution, int) else resolution
    assert len(answer["x"]) == across and len(answer["y"]) == up
    assert np.shape(answer["values"]) == (up, across)
    points = [[x, y] for y in answer["y"] for x in answer["x"]]
    asked = answered(
        post, {"expression": body["expression"], "points": points, "include": []}, "/v1/functions/gradient"
    )
    np.testing.assert_allclose(np.ravel(answer["values"]), [entry["value"] for entry in asked["points"]], rtol=1e-14)
    found = np.reshape(answer["gradients"], (-1, 2))
    np.testing.assert_allclose(found, [entry["gradient"] for entry in asked["points"]], rtol=1e-13, atol=1e-15)


# Levels.


@every("name", [preset.name for preset in presets if len(preset.variables) == 2])
@every("count", [1, 12, 100])
def test_levels_lie_between_the_values(post: Post, name: str, count: int) -> None:
    preset = presets[name]
    x, y = preset.domain
    answer = drawn(post, expression=preset.expression, x=x, y=y, resolution=40, levels=count)
    levels = answer["levels"]
    assert levels == sorted(set(levels)) and 1 <= len(levels) <= 2 * count + 2
    assert answer["minimum"]["value"] < levels[0] and levels[-1] < answer["maximum"]["value"]
    if answer["spacing"] == "linear":
        np.testing.assert_allclose(np.diff(levels, 2), 0, atol=1e-9 * (levels[-1] - levels[0]))
    else:
        assert answer["spacing"] == "logarithmic"


def test_no_levels(post: Post) -> None:
    assert drawn(post, expression="x*y", x=[0, 1], y=[0, 1], levels=0)["levels"] == []
    assert drawn(post, expression=HIMMELBLAU, x=[-5, 5], y=[-5, 5], levels=0)["levels"] == []
    assert drawn(post, expression="3", variables=["x"], x=[0, 1])["levels"] == []
    assert drawn(post, expression="exp(x)", x=[-9, 9], levels=0)["levels"] == []


def test_levels_below_steep_walls_are_logarithmic(post: Post) -> None:
    answer = drawn(post, expression="exp(x) + exp(-y)", x=[-9, 9], y=[-9, 9])
    assert answer["spacing"] == "logarithmic" and 8 <= len(answer["levels"]) <= 12
    assert drawn(post, expression="x + y", x=[-2, 2], y=[-1, 3])["spacing"] == "linear"


@every(
    ("expression", "x"),
    [
        ("exp(x)", [-700, 700]),
        ("5e-324*x", [-1, 1]),
        ("1e-320*x", [-1, 1]),
        ("1e308*x", [-1.7, 1.7]),
        ("1e300 + 1e284*x", [0, 10]),
        ("1/x", [1e-300, 1]),
        ("x^9", [-1e30, 1e30]),
        ("exp(x)", [-745, -700]),
        ("tan(x)", [0, 99]),
        ("x", [-1e100, 1e100]),
        ("x", [0, 5e-324]),
        ("1 + 1e-16*x", [0, 5]),
    ],
)
@every("count", [0, 1, 12, 100])
def test_levels_of_extreme_values(post: Post, expression: str, x: list[float], count: int) -> None:
    answer = drawn(post, expression=expression, x=x, levels=count, resolution=99)
    levels = answer["levels"]
    assert levels == sorted(set(levels)) and len(levels) <= 2 * count + 2
    low, high = answer["minimum"]["value"], answer["maximum"]["value"]
    assert all(low < level < high for level in levels)


# Where there is no number.


def test_what_is_not_finite_is_told(post: Post) -> None:
    answer = drawn(post, expression="log(x) + y", x=[-1, 1], y=[0, 1], resolution=3, include=["gradients"])
    assert answer["finite"] is False
    assert answer["values"] == [[None, None, y] for y in (0, 0.5, 1)]
    assert answer["maximum"] == {"point": [1, 1], "value": 1}
    (warning,) = answer["warnings"]
    assert warning["code"] == "non_finite" and warning["message"].startswith("at 6 of 9 points")
    typed = answered(
        post, {"expression": "log(x)", "x": [-1, 1], "resolution": 3}, PATH, Accept="application/json; tensors=base64"
    )
    assert typed["finite"] is False and typed["values"]["shape"] == [3]


def test_slopes_alone_may_be_infinite(post: Post) -> None:
    body: dict[str, Any] = {"expression": "sqrt(x)", "x": [0, 1], "resolution": 2}
    assert drawn(post, **body)["finite"] is True
    answer = drawn(post, **body, include=["gradients"])
    assert answer["finite"] is False and answer["gradients"] == [[None], [0.5]]
    assert "slopes" in answer["warnings"][0]["message"]


def test_nothing_is_finite(post: Post) -> None:
    answer = drawn(post, expression="sqrt(x)", x=[-2, -1], basins=True, optimizer=SGD, resolution=5)
    assert answer["minimum"] is None and answer["maximum"] is None and answer["levels"] == []
    assert answer["finite"] is False and answer["values"] == [None] * 5
    basins = answer["basins"]
    assert basins["grid"] == [-2] * 5 and basins["valleys"] == [] and basins["diverged"] == 5


# Basins.


@every("optimizer", [SGD, {"type": "momentum", "learning_rate": 0.005}, "newton", "l_bfgs"])
def test_basins_are_where_descents_end(post: Post, optimizer: Any) -> None:
    more = {"steps": 150, "clip": {"norm": 50}} if isinstance(optimizer, dict) else {"steps": 20}
    answer = drawn(
        post, expression=HIMMELBLAU, x=[-5, 5], y=[-4, 5], resolution=[8, 7], basins=True, optimizer=optimizer, **more
    )
    basins = answer["basins"]
    starts = [[x, y] for y in answer["y"] for x in answer["x"]]
    body = {"expression": HIMMELBLAU, "starts": starts, "optimizers": [optimizer], "trace": {"every": 150}} | more
    descended = answered(post, body, "/v1/functions/descend")
    expected = [
        -2 if run["status"] == "diverged" else -1 if run["valley"] is None else run["valley"]
        for run in descended["runs"]
    ]
    assert np.ravel(basins["grid"]).tolist() == expected
    assert basins["valleys"] == descended["valleys"]
    assert basins["arrived"] == sum(code >= 0 for code in expected) == sum(each["runs"] for each in basins["valleys"])
    assert basins["moving"] == expected.count(-1) and basins["diverged"] == expected.count(-2)
    assert basins["status"] == "completed"
    assert all(set(valley) == VALLEY for valley in basins["valleys"])


def test_runs_that_arrive_nowhere_have_codes(post: Post) -> None:
    answer = drawn(
        post, expression="x^4 - 2x^2", x=[-4, 4], resolution=9, basins=True, steps=40,
        optimizer={"type": "sgd", "learning_rate": 0.05},
    )  # fmt: skip
    basins = answer["basins"]
    by_start = dict(zip(answer["x"], basins["grid"], strict=True))
    assert by_start[4] == by_start[-4] == -2
    classes = {code: valley["classification"] for code, valley in enumerate(basins["valleys"])}
    assert classes[by_start[0]] == "maximum" and classes[by_start[1]] == classes[by_start[-1]] == "minimum"
    assert by_start[1] != by_start[-1]
    short = drawn(post, expression="x^2", x=[1, 2], resolution=3, basins=True, optimizer="adam", steps=1)
    assert short["basins"]["grid"] == [-1] * 3 and short["basins"]["moving"] == 3


def test_basins_take_what_descents_take(post: Post) -> None:
    body: dict[str, Any] = {
        "expression": "x^2", "x": [1, 2], "resolution": 2, "basins": True,
        "optimizer": {"type": "sgd", "learning_rate": 0.5}, "steps": 1,
    }  # fmt: skip
    assert drawn(post, **body)["basins"]["grid"] == [0, 0]
    assert drawn(post, **body, clip={"value": 0.1})["basins"]["grid"] == [-1, -1]
    assert drawn(post, **body, clip={"value": 0.1}, valley_radius=5)["basins"]["grid"] == [0, 0]
    assert drawn(post, **body, schedule={"type": "constant_factor", "factor": 0.1})["basins"]["grid"] == [-1, -1]


def test_basins_of_variables_that_are_no_axes(post: Post) -> None:
    answer = drawn(
        post, expression="x^2 + (y - 1)^2 + z^2", x=[-1, 1], y=[-1, 1], resolution=3, axes=["z", "x"], at={"y": 3},
        basins=True, optimizer={"type": "sgd", "learning_rate": 0.3},
    )  # fmt: skip
    assert answer["basins"]["grid"] == [[0] * 3] * 3
    np.testing.assert_allclose(answer["basins"]["valleys"][0]["point"], [0, 1, 0], atol=1e-9)


def test_the_same_request_has_the_same_bytes(post: Post) -> None:
    body = {"expression": HIMMELBLAU, "x": [-5, 5], "y": [-5, 5], "resolution": 9, "basins": True, "optimizer": SGD}
    first = post(body, PATH).get_data()
    assert first == post(dict(reversed(body.items())), PATH).get_data()
    assert plain(answered(post, body, PATH, Accept=BASE64)) == strict_json(first)


def test_a_large_grid(post: Post) -> None:
    body = {"expression": HIMMELBLAU, "x": [-5, 5], "y": [-5, 5], "resolution": 1000}
    answer = answered(post, body, PATH, Accept=BASE64)
    assert answer["values"]["shape"] == [1000, 1000]


def test_starts_on_a_kink_have_not_diverged(post: Post) -> None:
    body = {"expression": "sqrt(x^2 + y^2) + x^2", "x": [-1, 1], "y": [-1, 1], "resolution": 3, "steps": 2}
    basins = drawn(post, **body, basins=True, optimizer={"type": "sgd", "learning_rate": 0.01})["basins"]
    assert basins["grid"][1][1] == -1 and basins["diverged"] == 0


def test_maps_tell_valleys_that_runs_have_arrived_at_alone(post: Post) -> None:
    body = {"expression": "x^4 - 2x^2", "x": [-2, 2], "resolution": 4, "basins": True, "steps": 1}
    basins = drawn(post, **body, optimizer={"type": "sgd", "learning_rate": 0.001})["basins"]
    assert (basins["valleys"], basins["grid"], basins["moving"]) == ([], [-1] * 4, 4)
