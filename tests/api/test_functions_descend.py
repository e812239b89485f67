"""`/v1/functions/descend`: balls on a typed function, as one document and as streams."""

import time
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from schemas.tensor import encode
from service.engine.descent.optimizers import optimizers
from service.engine.functions.presets import presets
from tests.api.test_functions_gradient import BASE64, answered, assert_no_silent_null
from tests.api.test_gradients import plain
from tests.api.test_streaming import EVENTS, NDJSON, events, lines
from tests.conftest import MakeClient, Post
from tests.engine.descent.test_cases import OPTIMIZERS, in_our_words
from tests.engine.test_cases import close, of_kind
from tests.support import HIMMELBLAU, assert_described, assert_problem, every, faults, strict_json

PATH = "/v1/functions/descend"
DOUBLE_WELL = "x^4 - 3x^2 + x"
SUMMARY = {"variables", "status", "steps", "best", "valleys", "runs", "finite", "warnings"}
RUN = {"optimizer", "start", "status", "reason", "steps_done", "point", "value", "norm", "valley", "basin"}
WAY = {"path", "values", "gradients", "state"}
CLOSE = {"rtol": 1e-12, "atol": 1e-15}


def sgd(learning_rate: float = 0.01, **options: Any) -> dict[str, Any]:
    return {"type": "sgd", "learning_rate": learning_rate, **options}


def descent(**changes: Any) -> dict[str, Any]:
    """Return a request of four balls on Himmelblau's function, some keys changed; `...` leaves one out."""
    body = {
        "expression": HIMMELBLAU,
        "starts": [[3, 3], [-3, 3], [-3, -3], [3, -2]],
        "optimizers": [sgd()],
        "steps": 60,
    } | changes
    return {key: value for key, value in body.items() if value is not ...}


def rolled(post: Post, **changes: Any) -> dict[str, Any]:
    answer = answered(post, descent(**changes), PATH)
    assert_no_silent_null(answer)
    return answer


# Records.


def test_every_key_of_an_answer(post: Post, schemas: dict[str, Any]) -> None:
    answer = rolled(post, optimizers=[sgd(), "adam"], trace={"include": ["gradients", "state"]})
    assert_described(schemas, "DescendResponse", answer)
    assert set(answer) == SUMMARY
    assert answer["variables"] == ["x", "y"] and answer["status"] == "completed"
    assert answer["finite"] is True and answer["warnings"] == []
    assert answer["steps"] == list(range(61))
    assert [(run["optimizer"], run["start"]) for run in answer["runs"]] == [(k, n) for k in range(2) for n in range(4)]
    for run in answer["runs"]:
        assert set(run) == RUN | WAY
        assert len(run["path"]) == len(run["values"]) == len(run["gradients"]) == 61
        assert run["steps_done"] == 60 and run["status"] == "completed" and run["reason"].startswith("all 60 steps")
        assert run["path"][0] == descent()["starts"][run["start"]]
        assert run["path"][-1] == run["point"] and run["values"][-1] == run["value"]
        close(run["norm"], np.linalg.norm(run["gradients"][-1]), {"rtol": 1e-12, "atol": 0})
    assert set(answer["runs"][0]["state"]) == set()
    assert {"first_moment", "second_moment"} <= set(answer["runs"][4]["state"])
    assert [run["valley"] is None for run in answer["runs"]] == [False] * 4 + [True] * 4


def test_values_and_gradients_are_those_of_the_path(post: Post) -> None:
    answer = rolled(post, optimizers=["adam", sgd()], steps=20, trace={"include": ["gradients"]})
    for run in answer["runs"]:
        body = {"expression": HIMMELBLAU, "points": run["path"], "include": []}
        asked = answered(post, body, "/v1/functions/gradient")["points"]
        np.testing.assert_allclose(run["values"], [entry["value"] for entry in asked], rtol=1e-13)
        np.testing.assert_allclose(run["gradients"], [entry["gradient"] for entry in asked], rtol=1e-13)


def test_gradient_descent_by_hand(post: Post) -> None:
    answer = rolled(post, expression=DOUBLE_WELL, starts=[2, -2], optimizers=[sgd(0.02)], steps=30)
    for run, x in zip(answer["runs"], (2.0, -2.0), strict=True):
        path = [x]
        for _ in range(30):
            x -= 0.02 * (4 * x**3 - 6 * x + 1)
            path.append(x)
        np.testing.assert_allclose(run["path"], np.array(path)[:, None], rtol=1e-12)


def test_valleys_lowest_first(post: Post, schemas: dict[str, Any]) -> None:
    starts = {"grid": {"box": [-2, 2], "resolution": 21}}
    answer = rolled(post, expression=DOUBLE_WELL, starts=starts, optimizers=[sgd(0.03), "newton"], steps=400)
    valleys = answer["valleys"]
    assert [valley["classification"] for valley in valleys] == ["minimum", "minimum", "maximum"]
    assert [valley["value"] for valley in valleys] == sorted(valley["value"] for valley in valleys)
    for place, valley in enumerate(valleys):
        runs = [run for run in answer["runs"] if run["valley"] == place]
        assert valley["runs"] == len(runs) > 0
        (x,) = valley["point"]
        assert abs(4 * x**3 - 6 * x + 1) < 1e-12
        np.testing.assert_allclose(valley["eigenvalues"], [12 * x * x - 6], rtol=1e-12)
        for run in runs:
            assert abs(run["point"][0] - x) <= 1e-3 * (1 + abs(x))
    assert any("minimum 0" in run["reason"] for run in answer["runs"])
    best = answer["runs"][answer["best"]]
    assert best["value"] == min(run["value"] for run in answer["runs"]) and best["valley"] == 0


def test_a_ball_on_a_saddle_is_told_so(post: Post) -> None:
    answer = rolled(
        post, expression="x^2/2 + y^4/4 - y^2/2", starts=[[1, 0], [1, 0.1]], optimizers=[sgd(0.1)], steps=400
    )
    stuck, free = answer["runs"]
    assert "saddle" in stuck["reason"] and "minimum" in free["reason"]
    assert [valley["classification"] for valley in answer["valleys"]] == ["minimum", "saddle"]
    assert (free["valley"], stuck["valley"], answer["best"]) == (0, 1, 1)


def test_maximizing_has_its_best_at_the_top(post: Post) -> None:
    answer = rolled(post, expression="-x^2", starts=[[1], [0.5]], optimizers=[sgd(0.1, maximize=True)], steps=3)
    assert answer["best"] == 1


def test_valley_radius(post: Post) -> None:
    body: dict[str, Any] = {"expression": "x^2", "starts": [1.0, 0.05], "optimizers": [sgd(0.0)], "steps": 1}
    assert [run["valley"] for run in rolled(post, **body)["runs"]] == [None, None]
    assert [run["valley"] for run in rolled(post, **body, valley_radius=0.05)["runs"]] == [None, 0]
    assert [run["valley"] for run in rolled(post, **body, valley_radius=10)["runs"]] == [0, 0]
    answer = rolled(post, **body | {"starts": [0.0]}, valley_radius=0)
    assert answer["runs"][0]["valley"] == 0


# Starts.


def test_starts_in_each_of_their_forms(post: Post) -> None:
    lists = post(descent(), PATH).get_data()
    typed = encode(np.array(descent()["starts"], "float64"))
    assert post(descent(starts=typed), PATH).get_data() == lists
    bare = post(descent(expression=DOUBLE_WELL, starts=[1, 2]), PATH).get_data()
    assert post(descent(expression=DOUBLE_WELL, starts=[[1], [2]]), PATH).get_data() == bare


def test_starts_on_a_grid(post: Post) -> None:
    grid = {"box": [[-2, 2], [0, 3]], "resolution": [3, 2]}
    answer = rolled(post, starts={"grid": grid}, steps=1)
    assert [run["path"][0] for run in answer["runs"]] == [[x, y] for x in (-2, 0, 2) for y in (0, 3)]
    answer = rolled(post, starts={"grid": {"box": [-1, 1], "resolution": 1}}, steps=1)
    assert [run["path"][0] for run in answer["runs"]] == [[-1, -1]]
    assert len(rolled(post, starts={"grid": {"box": [-1, 1]}}, steps=1)["runs"]) == 25


def test_starts_at_random(post: Post) -> None:
    def starts(**how: Any) -> Any:
        answer = rolled(post, starts={"random": {"box": [[-2, -1], [3, 5]], "count": 40} | how}, steps=1)
        return np.array([run["path"][0] for run in answer["runs"]])

    drawn = starts(seed=5)
    assert drawn.shape == (40, 2)
    assert ((drawn > [-2, 3]) & (drawn < [-1, 5])).all() and len(np.unique(drawn)) == 80
    np.testing.assert_array_equal(drawn, starts(seed=5))
    assert (drawn != starts(seed=6)).all()
    np.testing.assert_array_equal(starts(), starts(seed=0))
    assert len(rolled(post, starts={"random": {"box": [0, 1]}}, steps=1)["runs"]) == 100


# Optimizers.


@every("name", sorted(set(optimizers.names) - {"adam"}))
def test_every_optimizer_goes_as_if_it_were_alone(post: Post, name: str) -> None:
    starts = [[3, 2.5], [-3, 3]]
    include = {"include": ["gradients", "state"]}
    both = rolled(post, starts=starts, optimizers=["adam", name], steps=8, trace=include)["runs"]
    for start in range(2):
        (alone,) = rolled(post, starts=[starts[start]], optimizers=[name], steps=8, trace=include)["runs"]
        mine = both[2 + start]
        assert (mine["optimizer"], mine["start"]) == (1, start)
        assert mine["status"] == alone["status"] and set(mine["state"]) == set(alone["state"])
        for key in ("path", "values", "gradients"):
            np.testing.assert_allclose(mine[key], alone[key], rtol=1e-12, atol=1e-12)


def test_a_schedule_changes_the_learning_rate(post: Post) -> None:
    schedule = {"type": "step_decay", "decay_steps": 2, "gamma": 0.5}
    (run,) = rolled(post, expression="3x", starts=[0], optimizers=[sgd(1.0)], steps=5, schedule=schedule)["runs"]
    np.testing.assert_allclose(np.diff(np.ravel(run["path"])), [-3, -3, -1.5, -1.5, -0.75], rtol=1e-14)


def test_gradients_are_cut(post: Post) -> None:
    body: dict[str, Any] = {"expression": "3x + 4y", "starts": [[0, 0], [1, 1]], "optimizers": [sgd(1.0)], "steps": 1}
    for clip, moved in (({"norm": 1}, [-0.6, -0.8]), ({"value": 3.5}, [-3, -3.5]), ({"norm": 99}, [-3, -4])):
        for run in rolled(post, **body, clip=clip)["runs"]:
            np.testing.assert_allclose(np.subtract(run["path"][1], run["path"][0]), moved, rtol=1e-6)


def test_noise_comes_from_its_seed(post: Post) -> None:
    def ways(**noise: Any) -> Any:
        answer = rolled(
            post, expression="0x + 0y", starts=[[0, 0]] * 300, optimizers=[sgd(1.0), sgd(2.0)], steps=4, noise=noise
        )
        return np.array([run["path"] for run in answer["runs"]])

    drawn = ways(scale=0.5, seed=3)
    steps = np.diff(drawn, axis=1)
    assert abs(steps[:300].std() - 0.5) < 0.02 and abs(steps.mean()) < 0.05
    np.testing.assert_allclose(2 * steps[:300], steps[300:], rtol=1e-9)  # the same for all optimizers
    np.testing.assert_array_equal(drawn, ways(scale=0.5, seed=3))
    assert (drawn[:, 1:] != ways(scale=0.5, seed=4)[:, 1:]).all()
    assert not ways(scale=0).any()


# Ends of runs.


def test_runs_stop_early(post: Post) -> None:
    body: dict[str, Any] = {"expression": "x^2", "starts": [4, 1, 0.01], "optimizers": [sgd(0.25)], "steps": 40}
    answer = rolled(post, **body, stop={"value_below": 0.5})
    assert [run["status"] for run in answer["runs"]] == ["stopped"] * 3
    assert [run["steps_done"] for run in answer["runs"]] == [3, 1, 0]
    assert [len(run["path"]) for run in answer["runs"]] == [4, 2, 1]
    assert "below 0.5" in answer["runs"][0]["reason"]
    answer = rolled(post, **body, stop={"gradient_norm_below": 0.3}, trace={"every": 4})
    assert [run["steps_done"] for run in answer["runs"]] == [5, 3, 0]
    for run in answer["runs"]:
        # The recorded places, the last of them the end.
        told = sorted({*range(0, run["steps_done"] + 1, 4), run["steps_done"]})
        np.testing.assert_allclose(run["path"], [[run["path"][0][0] / 2**step] for step in told], rtol=1e-13)
        assert run["path"][-1] == run["point"]


@every(
    ("changes", "words"),
    [
        ({"expression": "x^2", "optimizers": [sgd(1.5)]}, "learning rate"),
        ({"expression": "x^2", "optimizers": [sgd(1.5)], "stop": {"value_above": 50}}, "is above 50"),
        ({"expression": "-exp(x)"}, "there is no lowest value"),
        ({"expression": "log(x)", "optimizers": [sgd(10)]}, "log takes numbers above 0"),
    ],
)
def test_runs_that_diverge_say_why(post: Post, changes: dict[str, Any], words: str) -> None:
    answer = rolled(post, **{"starts": [[3.0]], "steps": 5000, "trace": {"every": 5000}} | changes)
    (run,) = answer["runs"]
    assert run["status"] == "diverged" and words in run["reason"] and run["valley"] is None
    assert 0 < run["steps_done"] < 5000
    assert answer["best"] is None and answer["valleys"] == []
    assert answer["status"] == "completed"


def test_a_diverged_run_does_not_disturb_the_others(post: Post) -> None:
    answer = rolled(post, expression="x^4", starts=[[0.5], [30.0]], optimizers=[sgd(0.1)], steps=50)
    (alone,) = rolled(post, expression="x^4", starts=[[0.5]], optimizers=[sgd(0.1)], steps=50)["runs"]
    fine, lost = answer["runs"]
    assert fine == alone and lost["status"] == "diverged" and answer["best"] == 0
    assert lost["steps_done"] == len(lost["path"]) - 1


def test_what_is_not_finite_is_told(post: Post) -> None:
    answer = rolled(post, expression="exp(x^2)", starts=[[25.0]], optimizers=[sgd(1.0)], steps=9)
    (run,) = answer["runs"]
    assert run["status"] == "diverged"
    answer = rolled(post, expression="1/x", starts=[[0.0]], steps=2)
    assert answer["finite"] is False and answer["runs"][0]["value"] is None
    assert answer["runs"][0]["steps_done"] == 0


@every("every", [1, 3, 7, 60, 1000])
def test_places_are_told_every_so_many_steps(post: Post, every: int) -> None:
    full = rolled(post)
    some = rolled(post, trace={"every": every})
    told = sorted({*range(0, 61, every), 60})
    assert some["steps"] == told
    for one, other in zip(some["runs"], full["runs"], strict=True):
        assert one["path"] == [other["path"][step] for step in told]
        assert one["values"] == [other["values"][step] for step in told]
    assert {**some, "steps": 0, "runs": 0} == {**full, "steps": 0, "runs": 0}


@every("name", presets.names)
def test_the_trials_of_presets_run(post: Post, name: str) -> None:
    """The tests make the first steps; tests/engine/descent/test_runs.py rolls to the ends."""
    preset = presets[name]
    steps = min(20, *(trial.steps for trial in preset.trials))
    answer = rolled(
        post, expression=preset.expression, variables=preset.variables, starts=preset.starts,
        optimizers=[{"type": trial.optimizer, **trial.options} for trial in preset.trials],
        steps=steps, trace={"every": steps},
    )  # fmt: skip
    assert len(answer["runs"]) == len(preset.trials) * len(preset.starts)
    assert all(run["reason"] for run in answer["runs"])


# Published numbers.


def answer_of(post: Post, case: dict[str, Any]) -> dict[str, Any]:
    optimizer = in_our_words(case["optimizer"])
    optimizer["type"] = optimizer.pop("name")
    return rolled(
        post, expression=case["expression"], variables=case["variables"], starts=case["starts"], steps=case["steps"],
        optimizers=[optimizer], trace={"include": ["gradients", "state"]},
    )  # fmt: skip


@every(("case", "tolerance"), of_kind("function_descent"))
def test_published_descents(post: Post, case: dict[str, Any], tolerance: dict[str, float]) -> None:
    answer = answer_of(post, case)
    state_names = OPTIMIZERS[case["optimizer"]["name"]][2]
    places = {each["label"]: each["at"] for each in case.get("minima", ())}
    for run, expected in zip(answer["runs"], case["expected"], strict=True):
        for number, wanted in enumerate(expected["trace"]):
            close(run["values"][number], wanted["value"], tolerance, f"value before step {number + 1}")
            close(run["gradients"][number], wanted["gradient"], tolerance, f"gradient before step {number + 1}")
            close(run["path"][number + 1], wanted["theta"], tolerance, f"place after step {number + 1}")
            for name, array in wanted["state"].items():
                ours = run["state"][state_names[name]][number + 1]
                close(ours, array, tolerance, f"{name} after step {number + 1}")
        close(run["values"][: case["steps"] : case["curve_every"]], expected["value_curve"], tolerance, "curve")
        close(run["point"], expected["final"], tolerance, "where it ends")
        close(run["value"], expected["final_value"], tolerance, "the last value")
        close(run["norm"], expected["gradient_norm_final"], tolerance, "the last gradient")
        if "basin" in expected:
            close(answer["valleys"][run["valley"]]["point"], places[expected["basin"]], tolerance, "valley")


# Streams.


def streamed(client: FlaskClient, body: dict[str, Any], accept: str) -> tuple[list[Any], Any]:
    """Return the records of a stream, and its summary."""
    response = client.post(PATH, json=body, headers={"Accept": accept}, buffered=True)
    assert response.status_code == 200, response.text
    if accept.startswith(NDJSON):
        *records, summary = lines(response.text)
        return records, summary
    found = events(response.text)
    assert [event["event"] for event in found] == ["step"] * (len(found) - 1) + ["end"]
    records = [strict_json(event["data"]) for event in found[:-1]]
    assert [event["id"] for event in found[:-1]] == [str(record["step"]) for record in records]
    return records, strict_json(found[-1]["data"])


@every("accept", [NDJSON, EVENTS, f"{NDJSON}; tensors=base64"])
@every(
    "changes",
    [
        {"trace": {"include": ["gradients"]}},
        {"trace": {"every": 7}, "optimizers": [sgd(), "adam", "l_bfgs"]},
        {"stop": {"value_below": 1.0}, "trace": {"every": 4, "include": ["gradients"]}},
        {"optimizers": [sgd(0.1), sgd()], "trace": {"every": 1}},
        {"noise": {"scale": 1.0, "seed": 4}, "steps": 9},
    ],
)
def test_a_stream_tells_what_the_document_tells(
    client: FlaskClient, post: Post, schemas: dict[str, Any], accept: str, changes: dict[str, Any]
) -> None:
    document = rolled(post, **changes)
    records, summary = streamed(client, descent(**changes), accept)
    if "base64" in accept:
        assert records[0]["points"]["dtype"] == "float64"
        records = plain(records) if document["finite"] else []
        summary = plain(summary) if document["finite"] else None
    if summary is None:
        return
    if "base64" not in accept:
        assert_described(schemas, "DescendSummary", summary)
        for record in records:
            assert_described(schemas, "DescentStep", record)
    runs = [{key: value for key, value in run.items() if key not in WAY} for run in document["runs"]]
    assert summary == document | {"runs": runs}
    last = max(run["steps_done"] for run in document["runs"])
    told = [step for step in document["steps"] if step < last]
    assert [record["step"] for record in records] == [*told, last]
    gradients = "gradients" in changes.get("trace", {}).get("include", ())
    for record in records:
        assert set(record) == {"step", "points", "values"} | ({"gradients"} if gradients else set())
    for number, run in enumerate(document["runs"]):
        for place, record in enumerate(records):
            if record["step"] <= run["steps_done"]:
                assert record["points"][number] == run["path"][place]
                assert record["values"][number] == run["values"][place]
                if gradients:
                    assert record["gradients"][number] == run["gradients"][place]
            else:  # it rests where it ended
                assert record["points"][number] == run["point"]


def test_a_stream_that_is_closed_early_gives_everything_back(make_client: MakeClient) -> None:
    client = make_client()
    memory = client.application.extensions["nabla"].memory
    body = descent(expression="sin(x)*y", steps=1_000_000, optimizers=["adam"], starts=[[1, 1]] * 200)
    response = client.post(PATH, json=body, headers={"Accept": NDJSON})
    first = next(response.iter_encoded())
    assert strict_json(first.splitlines()[0])["step"] == 0
    assert memory.free < memory.total
    response.close()
    assert memory.free == memory.total


@pytest.mark.parametrize("chosen", [["adam"], ["l_bfgs"], ["adam", "newton"]])
def test_time_runs_out(make_client: MakeClient, chosen: list[str]) -> None:
    client = make_client(max_seconds=0.3)
    body = descent(steps=1_000_000, optimizers=chosen, trace={"every": 100_000}, expression="sin(x) + cos(3y) + x*y/99")
    started = time.process_time()
    document = strict_json(client.post(PATH, json=body).get_data())
    _, summary = streamed(client, body, NDJSON)
    assert time.process_time() - started < 3.0
    for answer in (document, summary):
        assert answer["status"] == "cancelled"
        assert "cancelled" in [warning["code"] for warning in answer["warnings"]]
        assert "0.3 seconds" in answer["warnings"][0]["message"]
        statuses = {run["status"] for run in answer["runs"]}
        assert "cancelled" in statuses
        for run in answer["runs"]:
            assert 0 <= run["steps_done"] < 1_000_000 and run["reason"]
    for run in document["runs"]:
        assert run["path"][-1] == run["point"] and len(run["path"]) == len(run["values"])
    assert_no_silent_null(document)


# Limits.


@every(
    ("changes", "pointer", "asked", "allowed"),
    [
        ({"steps": 1_000_001}, "#/steps", 1_000_001, 1_000_000),
        ({"steps": 1_000_000}, "#/trace", None, 10_000_000),
        (
            {"starts": {"random": {"box": [0, 1], "count": 30_000}}, "optimizers": ["sgd", "adam"], "steps": 1},
            "#/starts",
            60_000,
            50_000,
        ),
        (
            {"starts": {"random": {"box": [0, 1], "count": 1001}}, "optimizers": ["sgd", "newton"]},
            "#/optimizers/1",
            1001,
            1000,
        ),
    ],
)
def test_limits_are_told_in_words(
    post: Post, changes: dict[str, Any], pointer: str, asked: int | None, allowed: int
) -> None:
    body = descent(**changes)
    document = assert_problem(post(body, PATH), "limit-exceeded", body)
    (error,) = document["errors"]
    assert error["pointer"] == pointer and error["allowed"] == [allowed]
    assert asked is None or error["asked"] == asked
    assert f"{allowed:,}" in error["detail"]


def test_a_stream_keeps_no_way(client: FlaskClient, make_client: MakeClient) -> None:
    """A stream does not keep its points, so it may be longer than a document."""
    body = descent(steps=4000, starts=[[3, 3]], trace={"every": 1})
    small = make_client(max_trace_elements=3000)
    assert_problem(small.post(PATH, json=body), "limit-exceeded", body)
    records, summary = streamed(small, body, NDJSON)
    assert len(records) == 4001 and summary["status"] == "completed"
    assert_problem(small.post(PATH, json=descent(starts=[[3, 3]] * 1001), headers={"Accept": NDJSON}), "limit-exceeded")


def test_operations_are_limited(make_client: MakeClient) -> None:
    client = make_client(max_operations=10**6)
    document = assert_problem(client.post(PATH, json=descent(steps=10_000)), "limit-exceeded")
    assert "operations" in document["detail"]


def test_many_balls_take_little_longer_than_one(post: Post) -> None:
    started = time.process_time()
    starts = {"grid": {"box": [-5, 5], "resolution": 100}}
    answer = rolled(post, starts=starts, steps=100, trace={"every": 100})
    assert time.process_time() - started < 5.0
    assert len(answer["runs"]) == 10_000 and sum(valley["runs"] for valley in answer["valleys"]) > 5_000


def test_the_same_request_has_the_same_bytes(post: Post) -> None:
    body = descent(optimizers=["adam", "l_bfgs"], starts={"random": {"box": [-4, 4], "count": 9, "seed": 3}}, steps=20)
    first = post(body, PATH).get_data()
    assert first == post(dict(reversed(body.items())), PATH).get_data()
    typed = answered(post, body, PATH, Accept=BASE64)
    assert plain(typed) == strict_json(first)


def test_presets_are_descended_by_their_own_words(client: FlaskClient, post: Post) -> None:
    """A preset's entry of the catalogue can be sent as it is."""
    preset = client.get("/v1/functions/presets/himmelblau").json
    body = {key: preset[key] for key in ("expression", "variables", "starts")}
    body |= {"optimizers": [trial["optimizer"] for trial in preset["trials"]], "steps": 50}
    assert len(answered(post, body, PATH)["runs"]) == len(preset["starts"]) * len(preset["trials"])
    wrong = body | {"starts": [start[:1] for start in preset["starts"]]}
    assert set(faults(assert_problem(post(wrong, PATH), "invalid", wrong))) == {"#/starts"}


# Basins and kinks.


@every("accept", [NDJSON, EVENTS])
def test_runs_tell_their_basins_in_documents_and_streams(post: Post, client: FlaskClient, accept: str) -> None:
    body = descent(optimizers=[sgd(0.0005)], steps=5)
    answer = rolled(post, **body)
    assert [run["valley"] for run in answer["runs"]] == [None] * 4
    for run, start in zip(answer["runs"], body["starts"], strict=True):
        valley = answer["valleys"][run["basin"]]
        assert valley["classification"] == "minimum" and valley["runs"] == 0
        assert np.sign(valley["point"]).tolist() == np.sign(start).tolist()
        assert run["reason"].endswith(f"but it lies in the basin of minimum {run['basin']}")
    _, summary = streamed(client, body, accept)
    assert summary["valleys"] == answer["valleys"]
    assert [run["basin"] for run in summary["runs"]] == [run["basin"] for run in answer["runs"]]


@every(
    ("expression", "words"),
    [("sqrt(x^2 + y^2)", "sqrt"), ("hypot(x, y)", "length"), ("cbrt(x) + y", "cbrt"), ("(x^2 + y^2)^0.4", "root")],
)
def test_a_start_on_a_kink_has_no_slope_to_follow(post: Post, client: FlaskClient, expression: str, words: str) -> None:
    body = descent(expression=expression, starts=[[0, 0], [1, 1]], steps=3, trace={"include": ["gradients"]})
    answer = rolled(post, **body)
    on_kink, other = answer["runs"]
    assert (on_kink["status"], other["status"]) == ("stopped", "completed")
    assert on_kink["reason"].startswith("it starts on a kink") and words in on_kink["reason"]
    assert on_kink["norm"] is None and on_kink["value"] == 0 and on_kink["steps_done"] == 0
    assert on_kink["path"] == [[0, 0]] and None in on_kink["gradients"][0]
    assert answer["finite"] is False
    (warning,) = answer["warnings"]
    assert warning["code"] == "non_finite"
    assert warning["message"] == "1 of 2 runs came to a kink, without a finite slope; null in lists"
    _, summary = streamed(client, body, NDJSON)
    assert (summary["warnings"], summary["finite"]) == (answer["warnings"], False)
    assert [run["status"] for run in summary["runs"]] == ["stopped", "completed"]


def test_a_slip_is_told_whoever_asked_before(post: Post) -> None:
    """A request that lists variables and one without the list may share a compiled function."""
    body = descent(expression="sinx + y", starts=[[1, 1]], steps=1)
    listed = rolled(post, **body, variables=["sinx", "y"])
    answer = rolled(post, **body)
    assert listed["runs"] == answer["runs"]
    assert listed["warnings"] == []
    assert [warning["code"] for warning in answer["warnings"]] == ["unusual_name"]
