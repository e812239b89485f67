"""Many runs at once: each is as it would be alone, ends where it should, and is recorded."""

import math

import numpy as np
import pytest

from service.engine.descent.loop import Descent
from service.engine.descent.optimizers import optimizers
from service.engine.descent.runs import STATUS, Runs
from service.engine.descent.runs_plan import MOST_RUNS, MOST_SEARCHES
from service.engine.descent.schedules import schedules
from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.functions.expression import parse
from service.engine.functions.presets import presets
from service.engine.limits import Limits
from tests.engine.descent.building import recipe
from tests.engine.descent.test_optimizers import CHOICES
from tests.engine.functions.building import COMPILE, arrived, finish, function, plan, roll, rolled, rolling
from tests.support import every

BENT = "(1 - x)^2 + 3*(y - x^2)^2 + x*y/4"
"""A function of products and sums only, so that all digits of a run are the same in any column."""
STARTS = [(-1.2, 1.0), (0.5, -0.3), (2.0, 1.5), (0.0, 0.0), (-0.7, -1.1)]
STEPS = 25
SEARCHES = [each.name for each in optimizers if each.search]
RULES = [each.name for each in optimizers if not each.search]


class OnFunction:
    """A typed function as an objective of the loop."""

    steps_per_epoch = 1

    def __init__(self, text, start):
        self.text = text
        self.parameters = np.array(start, float)

    def begin(self, step):
        pass

    def evaluate(self):
        found = function(self.text, 1, 1).run(self.parameters[None])
        return float(found.values[0]), found.gradients[0]

    def hessian(self, most_work=math.inf):
        return function(self.text, 1, 2).run(self.parameters[None]).hessians[0]

    def finish(self):
        pass

    def validate(self):
        return None


def alone(text, start, steps, chosen, schedule=None, clip=None):
    """Make one run with the loop. Return its points before each step and after the last, values, states and status."""
    descent = Descent(OnFunction(text, start), recipe(chosen, schedule, clip))
    places, values = [], []
    for _ in range(steps + 1):  # the last evaluation also moves, which is not recorded
        places.append(descent.parameters.copy())
        state = {name: np.array(each) for name, each in vars(descent.state).items() if isinstance(each, np.ndarray)}
        values.append(descent.advance().loss)
        if descent.status is not None:
            break
    return np.array(places), np.array(values), state, descent.status or "completed"


def assert_as_alone(text, chosen, starts=STARTS, steps=STEPS, rtol=0.0, **details):
    running, _ = rolled(text, chosen, starts, steps, include=("gradients", "state"), **details)
    for run, start in enumerate(starts):
        places, values, state, status = alone(text, start, steps, chosen, **details)
        assert (STATUS[running.status[run]], running.ended_at[run]) == (status, len(places) - 1)
        way = running.path_of(run)
        np.testing.assert_allclose(way["path"], places, rtol=rtol, atol=0.0, err_msg=str(start))
        np.testing.assert_allclose(way["values"], values, rtol=rtol, atol=0.0)
        if running.rules.groups:
            assert set(state) <= set(way["state"])
            for name, array in state.items():
                np.testing.assert_allclose(way["state"][name][-1], array, rtol=rtol, atol=0.0, err_msg=name)


# --- as the loop --------------------------------------------------------------------------------


@every("chosen", CHOICES.values(), ids=CHOICES)
def test_runs_of_rules_are_those_of_the_loop(chosen):
    rate = min(chosen.options["learning_rate"], 0.02)
    if chosen.name in ("adadelta", "rprop"):
        rate = chosen.options["learning_rate"]
    usual = optimizers.select(chosen.name, **(dict(chosen.options) | {"learning_rate": rate}))
    assert_as_alone(BENT, usual)


@every("name", RULES)
@every(
    "more",
    [
        {"options": {"weight_decay": 0.1}},
        {"options": {"weight_decay": 0.1, "decoupled_weight_decay": True}},
        {"options": {"maximize": True}},
        {"clip": {"value": 0.3}},
        {"clip": {"norm": 0.5}},
        {"clip": {"value": 0.2, "norm": 2.0}},
        {"schedule": {"name": "cosine", "decay_steps": 11, "warmup_steps": 5}},
        {"schedule": {"name": "one_cycle", "total_steps": 20}},
        {"schedule": {"name": "cyclic", "max_learning_rate": 0.02, "steps_up": 4}},
    ],
    ids=str,
)
def test_clipping_and_decay_are_those_of_the_loop(name, more):
    known = {option.name for option in optimizers[name].options}
    options = {key: value for key, value in more.get("options", {}).items() if key in known}
    details = {key: value for key, value in more.items() if key != "options"}
    chosen = {"name": name, "learning_rate": 0.005, **options}
    assert_as_alone(BENT, chosen, STARTS[:3], 12, rtol=1e-12 if "clip" in more else 0.0, **details)


def test_zero_gradients_are_clipped_to_zero():
    for start in ((0.0, 0.0), (1e-200, 0.0)):
        running, _, outcome = roll("x^2 + y^2", {"name": "sgd", "learning_rate": 0.1}, [start], 3, clip={"norm": 1.0})
        assert outcome.status == ["completed"]
        np.testing.assert_allclose(running.paths.points[0, -1], np.multiply(start, 0.8**3), rtol=1e-14)


@every("name", SEARCHES)
@every("schedule", [None, {"name": "exponential", "gamma": 0.9}])
def test_runs_of_searches_are_those_of_the_loop(name, schedule):
    assert_as_alone(BENT, name, steps=6, schedule=schedule)


def test_a_search_with_options():
    assert_as_alone(BENT, {"name": "newton", "absolute_eigenvalues": True, "damping": 0.5}, steps=6)
    assert_as_alone(BENT, {"name": "l_bfgs", "iterations": 3, "history_size": 2, "line_search": "none"}, steps=6)


def test_shown_arrays_of_a_state_are_recorded_too():
    running, _ = rolled(BENT, "adam", STARTS, 3, include=("state",))
    state = running.path_of(0)["state"]
    np.testing.assert_allclose(
        state["corrected_first_moment"][2], state["first_moment"][2] / (1.0 - 0.9**2), rtol=1e-12
    )


def test_more_searches_than_are_moved_at_once():
    starts = np.random.default_rng(3).uniform(-2.0, 2.0, (21, 2))
    assert_as_alone(BENT, "l_bfgs", starts, 4)


# --- many balls ---------------------------------------------------------------------------------

SEVERAL = [
    {"name": "sgd", "learning_rate": 0.01},
    {"name": "nesterov", "learning_rate": 0.01},
    "l_bfgs",
    {"name": "adam", "learning_rate": 0.05},
    {"name": "nesterov", "learning_rate": 0.02, "momentum": 0.5},
    "newton",
]


def test_runs_together_are_as_one_by_one():
    starts = np.random.default_rng(4).uniform(-1.5, 1.5, (11, 2))
    together, _, outcome = roll(BENT, SEVERAL, starts, 20, include=("gradients", "state"))
    for number, chosen in enumerate(SEVERAL):
        for place, start in enumerate(starts):
            single, _ = rolled(BENT, chosen, [start], 20, include=("gradients", "state"))
            ours, theirs = together.path_of(number * len(starts) + place), single.path_of(0)
            for name in ("path", "values", "gradients"):
                np.testing.assert_array_equal(ours[name], theirs[name], f"{chosen} from {start}")
            assert set(ours["state"]) == set(theirs["state"])
            for name, array in theirs["state"].items():
                np.testing.assert_array_equal(ours["state"][name], array)
    assert outcome.points.shape == (len(SEVERAL) * len(starts), 2)


LOOK_AHEAD = {"name": "nesterov", "learning_rate": 0.01}


def test_snapshots_are_what_paths_keep():
    chosen = [{"name": "sgd", "learning_rate": 0.01}, "l_bfgs", LOOK_AHEAD, "adam", "newton"]
    running, recorded, outcome = roll(BENT, chosen, STARTS, 9, include=("gradients",), every=2)
    assert [step for step, *_ in recorded] == running.paths.steps.tolist() == [0, 2, 4, 6, 8, 9]
    others = [run for run in range(5 * len(STARTS)) if run // len(STARTS) != 2]
    for place, (_, points, values, gradients) in enumerate(recorded):
        np.testing.assert_array_equal(points, running.paths.points[:, place])
        np.testing.assert_array_equal(values, running.paths.values[:, place])
        np.testing.assert_array_equal(values, function(BENT, 64, 1).run(points).values)
        np.testing.assert_array_equal(gradients[others], running.paths.gradients[others, place])
    np.testing.assert_array_equal(outcome.points, recorded[-1][1])
    np.testing.assert_array_equal(outcome.values, recorded[-1][2])


def test_snapshots_and_paths_have_the_same_gradient_of_a_look_ahead():
    running, recorded = rolled(BENT, LOOK_AHEAD, STARTS, 9, include=("gradients",))
    for place, (*_, gradients) in enumerate(recorded):
        np.testing.assert_array_equal(gradients, running.paths.gradients[:, place])


def test_the_starts_stay_unchanged():
    described = plan("sgd", STARTS, 3)
    before = described.starts.copy()
    running = rolling(BENT, ["sgd", "newton"], described.starts, 3)
    finish(running)
    np.testing.assert_array_equal(described.starts, before)
    running.close()


# --- noise --------------------------------------------------------------------------------------


def noises(scale=0.5, seed=7, starts=((0.0, 0.0), (0.0, 0.0)), chosen="sgd", steps=6, text="0x + 0y"):
    """Return the noise of each step: the moves of runs with learning rate 1 on a constant function."""
    running, _ = rolled(
        text, {"name": chosen, "learning_rate": 1.0}, starts, steps, noise={"scale": scale, "seed": seed}
    )
    return -np.diff(running.paths.points, axis=1)


def test_noise_comes_from_the_seed():
    np.testing.assert_array_equal(noises(), noises())
    assert not np.isclose(noises(), noises(seed=8)).any()


def test_noise_differs_between_runs_and_between_steps():
    found = np.round(noises(starts=[(0.0, 0.0)] * 5, steps=40), 9)
    assert len(np.unique(found)) == found.size


def test_noise_is_normal():
    found = noises(scale=3.0, starts=[(0.0, 0.0)] * 200, steps=50)
    count = found.size
    assert abs(found.mean()) < 4.0 * 3.0 / math.sqrt(count)
    assert abs(found.std() / 3.0 - 1.0) < 4.0 / math.sqrt(2.0 * count)


def test_noise_is_the_same_for_all_optimizers():
    chosen = [{"name": "sgd", "learning_rate": 0.01}, {"name": "momentum", "learning_rate": 0.01, "momentum": 0.0}]
    running, _ = rolled(BENT, chosen, [(0.5, 0.5), (1.0, 0.0)], 5, noise={"scale": 0.1, "seed": 1})
    np.testing.assert_array_equal(running.paths.points[:2], running.paths.points[2:])
    more, _ = rolled(BENT, [*chosen, "adam"], [(0.5, 0.5), (1.0, 0.0)], 5, noise={"scale": 0.1, "seed": 1})
    np.testing.assert_array_equal(running.paths.points, more.paths.points[:4])


def test_noise_of_one_variable_does_not_depend_on_later_starts():
    few, many = (noises(text="0x", starts=[(0.0,)] * count) for count in (2, 5))
    np.testing.assert_array_equal(few, many[:2])


def test_noise_of_several_variables_does_not_depend_on_later_starts():
    few, many = (noises(starts=[(0.0, 0.0)] * count) for count in (2, 5))
    np.testing.assert_array_equal(few, many[:2])


def test_noise_does_not_depend_on_how_many_steps_follow():
    np.testing.assert_array_equal(noises(steps=3), noises(steps=9)[:, :3])


def test_noise_scales():
    np.testing.assert_allclose(noises(scale=2.0), 4.0 * noises(scale=0.5), rtol=1e-12)
    assert not noises(scale=0.0).any()


def test_recorded_gradients_are_without_noise():
    _, recorded, outcome = roll(
        BENT, "sgd", STARTS, 4, noise={"scale": 1.0, "seed": 0}, include=("gradients",), stop={"value_below": -1e9}
    )
    for _, points, values, gradients in recorded:
        expected = function(BENT, 64, 1).run(points)
        np.testing.assert_array_equal(values, expected.values)
        np.testing.assert_array_equal(gradients, expected.gradients)
    assert outcome.status == ["completed"] * len(STARTS)


def test_noise_is_clipped_with_the_gradient():
    running, _ = rolled(
        "0x",
        {"name": "sgd", "learning_rate": 1.0},
        [0.0, 0.0],
        30,
        noise={"scale": 9.0, "seed": 2},
        clip={"value": 0.5},
    )
    assert np.abs(np.diff(running.paths.points[..., 0])).max() <= 0.5 + 1e-12


# --- ends ---------------------------------------------------------------------------------------

HALVING = {"name": "sgd", "learning_rate": 0.25}
"""Each step of this optimizer on x^2 halves x."""


def test_a_run_stops_where_its_value_is_low_enough():
    running, recorded, outcome = roll("x^2", HALVING, [1.0, 8.0, 0.01], 10, stop={"value_below": 0.3})
    assert outcome.status == ["stopped", "stopped", "stopped"]
    assert outcome.steps_done == [1, 4, 0]
    assert outcome.points[:, 0].tolist() == [0.5, 0.5, 0.01]
    assert [step for step, *_ in recorded] == [0, 1, 2, 3, 4]
    assert running.path_of(1)["path"][:, 0].tolist() == [8.0, 4.0, 2.0, 1.0, 0.5]
    assert outcome.reasons[1].startswith("after 4 steps the value 0.25 is below 0.3; ")
    assert "the value 0.0001 is below 0.3; " in outcome.reasons[2]


def test_a_run_stops_where_its_gradient_is_short_enough():
    _, _, outcome = roll("x^2 + y^2", HALVING, [(3.0, 4.0), (0.0, 0.0)], 10, stop={"gradient_norm_below": 1.5})
    assert outcome.status == ["stopped", "stopped"]
    assert outcome.steps_done == [3, 0]
    assert outcome.norms.tolist() == [1.25, 0.0]
    assert outcome.reasons[0].startswith("after 3 steps the gradient norm 1.25 is below 1.5; ")


def test_other_runs_go_on_when_one_has_stopped():
    running, _, outcome = roll("x^2", HALVING, [1.0, 1024.0], 6, stop={"value_below": 0.3})
    assert outcome.status == ["stopped", "completed"]
    assert outcome.steps_done == [1, 6]
    assert outcome.points[:, 0].tolist() == [0.5, 16.0]
    assert running.paths.points[0, :, 0].tolist() == [1.0, *[0.5] * 6]
    assert outcome.reasons[1].startswith("all 6 steps are done; ")


@every("name", ["momentum", "adam", "nesterov", "rprop"])
def test_a_run_that_has_stopped_rests(name):
    running, _, outcome = roll(
        BENT, [{"name": name, "learning_rate": 0.01}, "sgd"], STARTS, 40, stop={"value_below": 0.7}
    )
    stopped = [run for run, status in enumerate(outcome.status) if status == "stopped"]
    assert stopped
    assert len(stopped) < len(outcome.status)
    for run in stopped:
        end = outcome.steps_done[run]
        assert (running.paths.points[run, end:] == running.paths.points[run, end]).all()
        assert (running.paths.values[run, end:] == running.paths.values[run, end]).all()
        assert running.paths.values[run, end] < 0.7
        assert (running.paths.values[run, :end] >= 0.7).all()


def test_a_run_that_diverges_rests_while_others_go_on():
    text = "x^4 - 3x^2 + x"
    running, recorded, outcome = roll(text, {"name": "sgd", "learning_rate": 0.05}, [0.5, 30.0, -0.5], 60)
    assert outcome.status == ["completed", "diverged", "completed"]
    calm, _ = rolled(text, {"name": "sgd", "learning_rate": 0.05}, [0.5, -0.5], 60)
    np.testing.assert_array_equal(running.paths.points[[0, 2]], calm.paths.points)
    end = outcome.steps_done[1]
    assert end == 2
    assert len(recorded) == 61
    assert (running.paths.points[1, end:] == running.paths.points[1, end]).all()
    way = running.path_of(1)
    assert len(way["path"]) == len(way["values"]) == end + 1
    first, last = way["values"][[0, -1]]
    assert abs(last) > 1e12 * first
    curvature = 12.0 * 30.0**2 - 6.0
    words = f"after 2 steps the value is {last:.6g}; it was {first:.6g} at the start; the learning rate is 0.05; "
    assert outcome.reasons[1].startswith(words)
    assert f"λmax, is {curvature:.4g}, and 0.05 > 2/λmax = {2.0 / curvature:.4g}" in outcome.reasons[1]
    assert outcome.valleys.of_run[1] == -1


def test_a_run_uphill_without_end_diverges():
    _, _, outcome = roll("x^2", {"name": "sgd", "learning_rate": 1.0, "maximize": True}, [1.0], 60)
    assert outcome.status == ["diverged"]
    assert "λmax" not in outcome.reasons[0]
    assert outcome.best is None


def test_an_infinite_value():
    _, _, outcome = roll("exp(x)", {"name": "sgd", "learning_rate": 1.0, "maximize": True}, [700.0], 60)
    assert outcome.status == ["diverged"]
    assert outcome.steps_done == [1]
    assert outcome.reasons[0].startswith("after 1 step")
    assert "the value is infinite" in outcome.reasons[0]
    assert not outcome.finite


def test_an_infinite_value_with_a_finite_gradient():
    _, _, outcome = roll("1e308*x", {"name": "sgd", "learning_rate": 0.0}, [10.0], 3)
    assert outcome.status == ["diverged"]


def test_a_value_above_a_bound_has_diverged():
    _, _, outcome = roll(
        "x^2", {"name": "sgd", "learning_rate": 1.5}, [1.0, 100.0, 0.0], 10, stop={"value_above": 50.0}
    )
    assert outcome.status == ["diverged", "diverged", "completed"]
    assert outcome.steps_done == [3, 0, 10]
    assert outcome.values.tolist() == [64.0, 10000.0, 0.0]
    assert outcome.reasons[0] == "after 3 steps the value 64 is above 50"


def test_a_bound_may_lie_beyond_the_value_that_has_run_away():
    _, _, outcome = roll("x^2", {"name": "sgd", "learning_rate": 1.5}, [1.0], 30, stop={"value_above": 1e300})
    assert outcome.status == ["completed"]
    assert outcome.values[0] == 4.0**30


@every("name", ["sgd", "newton"])
def test_leaving_the_domain(name):
    running, _, outcome = roll("x - log(x)", {"name": name, "learning_rate": 5.0}, [3.0, 1.0], 10)
    assert outcome.status == ["diverged", "completed"]
    assert outcome.steps_done == [1, 10]
    assert outcome.reasons[0].endswith("there is no value: log takes numbers above 0")
    assert math.isnan(outcome.values[0])
    assert outcome.best == 1
    assert not outcome.finite
    way = running.path_of(0)
    assert len(way["path"]) == 2
    assert way["path"][1, 0] < 0.0


def test_starting_outside_the_domain():
    _, recorded, outcome = roll("sqrt(x)", "sgd", [-1.0], 10)
    assert outcome.status == ["diverged"]
    assert outcome.steps_done == [0]
    assert len(recorded) == 1
    assert "sqrt takes numbers from 0 on" in outcome.reasons[0]
    assert outcome.valleys.counts == []


def test_a_gradient_that_is_not_finite():
    _, _, outcome = roll("sqrt(x)", "sgd", [0.0], 10)
    assert outcome.status == ["stopped"]
    assert "the gradient is not finite: the slope of sqrt is infinite at 0" in outcome.reasons[0]


# --- what is kept -------------------------------------------------------------------------------


@every(
    ("steps", "every", "recorded"),
    [(20, 7, [0, 7, 14, 20]), (21, 7, [0, 7, 14, 21]), (5, 100, [0, 5]), (3, 1, [0, 1, 2, 3]), (1, 1, [0, 1])],
)
def test_thinning(steps, every, recorded):
    running, seen = rolled(BENT, "adam", STARTS, steps, every=every, include=("state",))
    whole, _ = rolled(BENT, "adam", STARTS, steps, include=("state",))
    assert running.paths.steps.tolist() == recorded == [step for step, *_ in seen]
    for run in range(len(STARTS)):
        ours, theirs = running.path_of(run), whole.path_of(run)
        np.testing.assert_array_equal(ours["path"], theirs["path"][recorded])
        np.testing.assert_array_equal(ours["values"], theirs["values"][recorded])
        for name, array in theirs["state"].items():
            np.testing.assert_array_equal(ours["state"][name], array[recorded], name)


def test_a_path_ends_at_any_step():
    running, _, outcome = roll(
        "x^2", HALVING, [16.0, 1.0, 4096.0], 9, every=4, stop={"value_below": 1.5}, include=("gradients",)
    )
    assert outcome.steps_done == [4, 0, 9]
    assert running.path_of(0)["path"][:, 0].tolist() == [16.0, 1.0]
    assert running.path_of(1)["path"][:, 0].tolist() == [1.0]
    assert running.path_of(2)["path"][:, 0].tolist() == [4096.0, 256.0, 16.0, 8.0]
    running, _, outcome = roll("x^2", HALVING, [64.0, 4096.0], 9, every=4, stop={"value_below": 1.5})
    assert outcome.steps_done == [6, 9]
    way = running.path_of(0)
    assert way["path"][:, 0].tolist() == [64.0, 4.0, 1.0]
    assert way["values"].tolist() == [4096.0, 16.0, 1.0]


def test_without_keeping_paths_there_are_still_snapshots():
    kept, recorded, outcome = roll(BENT, SEVERAL, STARTS, 10, every=3)
    lean, seen, same = roll(BENT, SEVERAL, STARTS, 10, every=3, keep=False)
    assert lean.paths.points.size == lean.paths.values.size == 0
    assert lean.memory < kept.memory
    for ours, theirs in zip(seen, recorded, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, other)
    np.testing.assert_array_equal(same.points, outcome.points)
    assert same.reasons == outcome.reasons


def test_memory_is_reserved_before_it_is_taken():
    reserved = []

    def reserve(nbytes):
        reserved.append(nbytes)
        raise MemoryError

    with pytest.raises(MemoryError):
        Runs(COMPILE, parse(BENT), plan("sgd", STARTS, 10), Limits(), reserve)
    assert reserved[0] > 11 * len(STARTS) * 3 * 8


# --- cancelling ---------------------------------------------------------------------------------


def test_cancelling_in_the_middle():
    running = rolling(BENT, [{"name": "sgd", "learning_rate": 0.01}, "adam"], STARTS, 20)
    for _ in range(7):
        running.advance()
    running.cancel()
    assert running.finished
    outcome = arrived(running)
    assert outcome.status == ["cancelled"] * 10
    assert outcome.steps_done == [7] * 10
    whole, _ = rolled(BENT, [{"name": "sgd", "learning_rate": 0.01}, "adam"], STARTS, 20)
    for run in range(10):
        np.testing.assert_array_equal(running.path_of(run)["path"], whole.paths.points[run, :8])
    assert outcome.reasons[0].startswith("it was cut short after 7 steps; ")
    running.close()


def test_cancelling_before_the_first_step_and_after_the_last():
    running = rolling(BENT, "sgd", STARTS, 20)
    running.cancel()
    outcome = arrived(running)
    assert outcome.steps_done == [0] * len(STARTS)
    np.testing.assert_array_equal(outcome.points, STARTS)
    np.testing.assert_array_equal(running.path_of(0)["path"], STARTS[:1])
    running, _, outcome = roll(BENT, "sgd", STARTS, 3)
    running.cancel()
    assert arrived(running).status == ["completed"] * len(STARTS)


def test_cancelling_leaves_runs_that_have_ended():
    running = rolling("x^2", HALVING, [1.0, 4096.0], 20, every=3, stop={"value_below": 0.3})
    for _ in range(5):
        running.advance()
    running.cancel()
    outcome = arrived(running)
    assert outcome.status == ["stopped", "cancelled"]
    assert outcome.steps_done == [1, 5]
    assert running.path_of(1)["path"][:, 0].tolist() == [4096.0, 512.0, 128.0]
    running.close()


def test_cancelling_in_the_middle_of_a_step_of_searches():
    starts = np.linspace(1.0, 3.0, 20)
    chosen = [{"name": "sgd", "learning_rate": 0.1}, "l_bfgs"]
    running = rolling("x^2 + 1", chosen, starts, 5, stop={"value_below": 2.5})
    running.advance()
    running.advance()
    running.cancel()
    outcome = arrived(running)
    whole, _ = rolled("x^2 + 1", chosen, starts, 5, stop={"value_below": 2.5})
    for run, steps in enumerate(outcome.steps_done):
        np.testing.assert_array_equal(running.path_of(run)["path"], whole.paths.points[run, : steps + 1])
        np.testing.assert_array_equal(outcome.points[run], whole.paths.points[run, steps])
    running.close()


# --- refusals -----------------------------------------------------------------------------------


def refusal(*arguments, limits=None, **details):
    with pytest.raises((InvalidRequest, LimitExceeded)) as caught:
        rolling(BENT, *arguments, limits=limits or Limits(), **details)
    return caught.value


@every("name", [each.name for each in schedules if each.watch is not None])
def test_schedules_that_watch_a_loss_are_refused(name):
    error = refusal("sgd", STARTS, 5, schedule=name)
    assert [fault.path for fault in error.faults] == [("schedule",)]
    assert name in error.faults[0].detail


@every("name", SEARCHES)
def test_a_search_takes_no_noise(name):
    error = refusal(["sgd", name], STARTS, 5, noise={"scale": 1.0, "seed": 0})
    assert [fault.path for fault in error.faults] == [("optimizers", 1)]
    assert name in error.faults[0].detail


@every("name", SEARCHES)
def test_a_search_takes_no_clipping(name):
    error = refusal([name, "sgd"], STARTS, 5, clip={"norm": 1.0})
    assert [fault.path for fault in error.faults] == [("clip",)]


def test_too_many_searches():
    error = refusal(["sgd", "newton"], np.zeros((MOST_SEARCHES + 1, 2)), 5)
    assert (error.name, error.asked, error.allowed) == ("starts for newton", MOST_SEARCHES + 1, MOST_SEARCHES)
    assert error.path == ("optimizers", 1)


def test_too_many_runs():
    error = refusal(["sgd", "adam"], np.zeros((MOST_RUNS // 2 + 1, 2)), 5)
    assert (error.name, error.asked, error.allowed, error.path) == ("runs", MOST_RUNS + 2, MOST_RUNS, ("starts",))


def test_too_long_a_trace():
    small = Limits(trace_elements=500)
    rolling(BENT, "sgd", STARTS, 20, limits=small).close()
    error = refusal("sgd", STARTS, 40, limits=small)
    assert (error.name, error.path) == ("trace_elements", ("trace",))
    assert error.asked >= 41 * len(STARTS) * 3
    rolling(BENT, "sgd", STARTS, 40, every=4, limits=small).close()
    rolling(BENT, "sgd", STARTS, 40, keep=False, limits=small).close()
    assert refusal("sgd", STARTS, 20, include=("gradients",), limits=small).name == "trace_elements"


def test_too_many_steps_and_operations():
    assert refusal("sgd", STARTS, 11, limits=Limits(steps=10)).name == "steps"
    assert refusal("sgd", STARTS, 1000, limits=Limits(operations=1e4)).name == "operations"


# --- functions to learn with --------------------------------------------------------------------

ENDS = {
    "parabola": ["minimum0", "minimum0", "minimum0", "-", "diverged"],
    "shifted_parabola": ["minimum0", "minimum0"],
    "double_well": ["minimum1 minimum0 minimum1", "minimum0 minimum0 minimum1"],
    "x_squared_sine": ["minimum0 -"],
    "cubic": ["- -"],
    "log_barrier": ["minimum0 minimum0", "diverged diverged", "diverged minimum0"],
    "cliff": ["minimum0", "-", "minimum0"],
    "bowl": ["minimum0", "minimum0"],
    "ravine": ["-", "minimum0", "minimum0"],
    "saddle": ["saddle0 -", "saddle0 saddle0", "saddle0 -"],
    "stuck_saddle": ["saddle0 minimum0 minimum1"],
    "monkey_saddle": ["- -"],
    "quartic_bowl": ["-", "minimum0"],
    "absolute_value": ["-", "minimum0"],
    "booth": ["minimum0", "-", "minimum0"],
    "matyas": ["minimum0", "minimum0"],
    "rosenbrock": ["-", "minimum0", "-", "minimum0"],
    "beale": ["minimum0 -", "saddle0 saddle0"],
    "cosine_well": ["minimum0 minimum0"],
    "hill_and_valley": ["minimum0 -"],
    "plateau": ["- -", "minimum0 -", "minimum0 minimum1"],
    "peaks": ["minimum0 minimum1 minimum2 -"],
    "easom": ["minimum0 -", "minimum0 minimum1"],
    "himmelblau": ["minimum0 minimum1 minimum2 minimum3", "maximum0 maximum0 saddle2 saddle2"],
    "styblinski_tang": ["minimum0 minimum1 minimum2 minimum3"],
    "mccormick": ["minimum0 minimum1"],
    "goldstein_price": ["minimum0 diverged -", "minimum0 - minimum3"],
    "six_hump_camel": ["minimum0 minimum1 minimum4", "minimum0 minimum1 minimum2"],
    "three_hump_camel": ["minimum2 minimum1", "minimum0 minimum0"],
    "branin": ["- minimum1 minimum2 saddle0", "minimum0 minimum1 minimum2 saddle0"],
    "rastrigin": ["minimum24 minimum0", "minimum24 minimum0"],
    "ackley": ["minimum0 minimum16"],
    "griewank": ["minimum3 minimum0"],
    "levy_13": ["minimum0 minimum5", "minimum0 minimum2"],
    "bukin_6": ["-", "-"],
    "rosenbrock_3": ["minimum0", "minimum0", "minimum0", "minimum0"],
    "powell": ["-", "minimum0", "minimum0"],
}
"""The valley that each trial leads to from each start, as the texts of the functions say."""


def trial(name, number):
    preset = presets[name]
    chosen = preset.trials[number]
    return roll(
        preset.expression,
        {"name": chosen.optimizer, **chosen.options},
        preset.starts,
        chosen.steps,
        variables=preset.variables,
    )


def end(preset, outcome, run):
    if outcome.status[run] != "completed":
        return outcome.status[run]
    places = [(f"minimum{number}", minimum.point) for number, minimum in enumerate(preset.minima)]
    places += [(f"{place.kind}{number}", place.point) for number, place in enumerate(preset.stationary)]
    near = [name for name, point in places if np.abs(outcome.points[run] - point).max() < 0.05]
    if not near or near[0].startswith("degenerate"):
        return "-"
    return near[0]


@every(("name", "number"), [(name, number) for name, trials in ENDS.items() for number in range(len(trials))])
def test_trials_end_as_their_texts_say(name, number):
    preset = presets[name]
    _, _, outcome = trial(name, number)
    assert " ".join(end(preset, outcome, run) for run in range(len(preset.starts))) == ENDS[name][number]


def test_every_trial_is_tried():
    assert {preset.name: len(preset.trials) for preset in presets} == {name: len(each) for name, each in ENDS.items()}


def test_texts_are_right_about_paths():
    ways = [trial("parabola", number)[0].path_of(0)["path"][:, 0] for number in range(5)]
    for way, rate in zip(ways, (0.1, 0.5, 0.9, 1.0, 1.1), strict=True):
        np.testing.assert_allclose(way[1:], (1.0 - 2.0 * rate) * way[:-1], rtol=1e-12, atol=1e-15)
    assert ways[1][1] == 0.0
    zigzag = trial("shifted_parabola", 0)[0].paths.points[0, :40, 0] - 2.0
    np.testing.assert_allclose(zigzag[1:], -0.96 * zigzag[:-1], rtol=1e-12)
    flat = trial("quartic_bowl", 1)[0].paths.points[0]
    np.testing.assert_allclose(flat[1:], flat[:-1] * 2.0 / 3.0, rtol=1e-9)
    cliff = trial("cliff", 0)[0].paths.points[0, :, 0]
    assert cliff[1] < -8.0
    assert cliff[100] < -0.05
    hops = trial("absolute_value", 0)[0].paths.values[0, -20:]
    assert hops.min() > 0.01
    assert hops.max() < 0.2
    for number in (0, 1):
        branin = trial("branin", number)[0].paths.points[3]
        assert np.abs(branin - branin[0]).max() < 1e-12
    powell = trial("powell", 1)[0].paths.values[0]
    np.testing.assert_allclose(powell[11:] / powell[10:-1], (2.0 / 3.0) ** 4, rtol=1e-3)
    for faster, slower in ((1, 0), (2, 0), (3, 0)):
        for name in ("rosenbrock", "ravine")[: 2 if faster < 3 else 1]:
            assert trial(name, faster)[2].values[0] < trial(name, slower)[2].values[0]
    saddle = trial("saddle", 2)[0].paths.points[1, :, 1]
    np.testing.assert_allclose(saddle[1:], 2.0 * saddle[:-1], rtol=1e-12)
