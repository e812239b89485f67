"""The ends of runs: arrivals at valleys, basins, kinks, and the sentences about them."""

import math

import numpy as np

from service.engine.descent.run_ends import RunEnds
from tests.engine.descent.claims import faults, faults_of_fit, fits, fitted, runs_on
from tests.engine.functions.building import finish, roll, rolling
from tests.engine.functions.claims import others, quadratics
from tests.support import every

DOUBLE_WELL = "x^4 - 2x^2 + y^2"
SLOW = {"name": "sgd", "learning_rate": 0.001}

# --- arriving -----------------------------------------------------------------------------------


def test_claims_on_random_functions():
    chance = np.random.default_rng(17)
    arrived = 0
    for case in [*quadratics(chance, 8), *others(chance, 4)]:
        wrong, there = faults(case, runs_on(case, chance))
        assert wrong == [], case.text
        arrived += there
    assert arrived > 20


def test_claims_on_fits():
    chance = np.random.default_rng(17)
    arrived = 0
    for points, line in fits(chance, 10):
        wrong, there = faults_of_fit(points, fitted(line, chance))
        assert wrong == [], points
        arrived += there
    assert arrived > 20


@every("condition", [1e0, 1e4, 1e8, 1e12])
def test_a_run_that_ends_at_the_optimum_has_arrived(condition):
    text = f"{condition}*(0.6*x + 0.8*y - 1)^2 + (0.8*x - 0.6*y - 0.3)^2"
    _, _, outcome = roll(text, ["newton"], [(3.0, -2.0)], 8)
    assert outcome.valleys.of_run == [0]
    assert outcome.valleys.classes == ["minimum"]
    np.testing.assert_allclose(outcome.valleys.points[0], (0.84, 0.62), rtol=1e-9)


@every("condition", [1e6, 1e10, 1e14])
def test_a_run_on_the_floor_of_a_narrow_valley_has_not_arrived(condition):
    """The gradient and the steps are short on the floor, but the minimum is still far along the flat direction."""
    text = f"{condition}*(x + y)^2 + (x - y - 2)^2"
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.2 / condition}, [(3.0, -2.9)], 60)
    assert outcome.valleys.of_run == [-1]
    assert "it has not arrived" in outcome.reasons[0]


def test_far_from_zero_the_size_of_a_function_counts():
    """Far from 0, several valleys lie within a thousandth of the distance from 0."""
    lowest = 31_831 * math.pi
    starts = [lowest + 0.7, lowest - 1.3, lowest + 2.0 * math.pi - 0.7]
    _, _, outcome = roll("cos(x)", {"name": "sgd", "learning_rate": 0.0}, starts, 1)
    assert outcome.valleys.of_run == [-1, -1, -1]
    assert outcome.valleys.basins in ([0, 0, 1], [1, 1, 0])
    _, _, outcome = roll("cos(x)", {"name": "sgd", "learning_rate": 0.5}, starts, 200)
    assert outcome.valleys.of_run == outcome.valleys.basins
    assert outcome.valleys.of_run in ([0, 0, 1], [1, 1, 0])
    np.testing.assert_allclose(np.sort(outcome.valleys.points[:, 0]), [lowest, lowest + 2.0 * math.pi], rtol=1e-14)


def test_small_functions_have_small_valleys():
    text = "(x/1e-4)^4 - 2*(x/1e-4)^2"
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.0}, [0.6e-4, -1e-4], 1)
    assert outcome.valleys.of_run == [-1, 0]
    assert outcome.valleys.points.shape == (2, 1)
    assert outcome.valleys.counts == [1, 0]
    assert outcome.valleys.basins == [1, 0]


def test_valleys_are_the_points_where_runs_end():
    text = "x^4 - 3x^2 + x"
    starts = np.linspace(-2.0, 2.0, 21)
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.02}, starts, 300)
    valleys = outcome.valleys
    np.testing.assert_allclose(valleys.points[:, 0], [-1.3008395659415772, 1.1309011226299859], rtol=1e-14)
    assert valleys.classes == ["minimum", "minimum"]
    expected = [0 if start < 0.1699384433 else 1 for start in starts]
    assert valleys.of_run == expected
    assert valleys.counts == [expected.count(0), expected.count(1)]
    assert outcome.reasons == [f"all 300 steps are done; it has arrived at minimum {place}" for place in expected]
    np.testing.assert_allclose(valleys.calculus.results.values, [-3.513905038934789, -1.0702301817761541], rtol=1e-14)


def test_a_run_on_a_saddle_point_stays_there():
    _, _, outcome = roll("x^2 - y^2", {"name": "sgd", "learning_rate": 0.1}, [(1.0, 0.0), (0.0, 0.0)], 100)
    assert outcome.valleys.points.tolist() == [[0.0, 0.0]]
    assert outcome.valleys.classes == ["saddle"]
    assert outcome.valleys.counts == [2]
    assert outcome.reasons[0].endswith("it sits on saddle point 0, where the gradient vanishes but a way leads down")


def test_a_run_on_a_hilltop():
    _, _, outcome = roll("-x^2", {"name": "sgd", "maximize": True, "learning_rate": 0.1}, [1.0], 100)
    assert outcome.reasons == ["all 100 steps are done; it has arrived at stationary point 0 (maximum)"]


def test_without_a_stationary_point_nearby_there_is_no_valley():
    _, _, outcome = roll("exp(-x)", {"name": "sgd", "learning_rate": 0.1}, [0.0, 3.0], 50)
    assert outcome.valleys.of_run == [-1, -1]
    assert (outcome.valleys.points.shape, outcome.valleys.counts, outcome.valleys.classes) == ((0, 1), [], [])
    norm = f"{outcome.norms[0]:.3g}"
    assert outcome.reasons[0] == f"all 50 steps are done; it has not arrived: the gradient norm is {norm}"


def test_at_kinks_a_gradient_need_not_vanish():
    _, _, outcome = roll("|x|", {"name": "sgd", "learning_rate": 0.1}, [0.55], 50)
    words = "it has not arrived: the gradient norm is 1; at the kinks of this function it need not vanish"
    assert outcome.reasons == [f"all 50 steps are done; {words}"]


def test_steps_that_move_nothing_are_counted():
    _, _, outcome = roll("x^2", ["newton", {"name": "sgd", "learning_rate": 0.5}], [1.0], 5)
    words = "it has arrived at minimum 0"
    assert outcome.reasons[0] == f"all 5 steps are done, the last 4 of which moved nothing; {words}"
    assert outcome.reasons[1] == f"all 5 steps are done; {words}"
    _, _, outcome = roll("x^2", ["newton"], [1.0], 1)
    assert outcome.reasons == [f"the one step is done; {words}"]


def test_a_function_without_a_lowest_value_is_named_as_the_reason():
    _, _, outcome = roll("x^3", {"name": "sgd", "learning_rate": 0.1}, [-1.0], 100)
    assert outcome.status == ["diverged"]
    assert outcome.reasons[0].endswith("there is no lowest value on this way, however small the steps")


def test_the_radius_decides_which_runs_have_arrived():
    starts = [1e-4, 0.05, 0.5]
    for radius, expected in ((1e-3, [0, -1, -1]), (0.1, [0, 0, -1]), (1.0, [0, 0, 0])):
        _, _, outcome = roll("x^2", {"name": "sgd", "learning_rate": 0.0}, starts, 1, arrived=radius)
        assert outcome.valleys.of_run == expected


def test_runs_in_one_valley_are_counted_together():
    starts = np.random.default_rng(5).uniform(-1.0, 1.0, (200, 2))
    chosen = [{"name": "sgd", "learning_rate": 0.2}, {"name": "momentum", "learning_rate": 0.05}]
    _, _, outcome = roll("x^2 + 2y^2", chosen, starts, 200)
    assert outcome.valleys.counts == [400]
    assert outcome.valleys.points.tolist() == [[0.0, 0.0]]


def test_valleys_do_not_merge_when_a_run_is_far_away():
    chosen = [{"name": "sgd", "learning_rate": 0.1}, {"name": "sgd", "learning_rate": 1e8}]
    _, _, outcome = roll("cos(x)", chosen, [2.0, 5.0, 9.0], 100)
    near = [outcome.valleys.points[place, 0] for place in outcome.valleys.of_run[:3]]
    np.testing.assert_allclose(near, [math.pi, math.pi, 3.0 * math.pi], rtol=1e-12)


@every("text", ["x^4", "x^4 + y^4", "x^2 + y^6"])
def test_a_run_arrives_at_a_degenerate_minimum(text):
    point = (3e-4, 2e-4) if "y" in text else (3e-4,)
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.0}, [point], 1)
    assert outcome.valleys.of_run == [0]


def test_the_best_of_small_values():
    _, _, outcome = roll("1e-14*(x^4 - 3x^2 + x)", {"name": "sgd", "learning_rate": 2e12}, [2.0, -2.0], 200)
    assert outcome.best == 1


def test_the_first_of_equally_good_runs_is_the_best():
    _, _, outcome = roll("x^2", {"name": "sgd", "learning_rate": 0.3}, [3.0, -2.0, 1.0], 60)
    assert outcome.best == 0


def test_the_best_run_ends_lowest_or_uphill_highest():
    text = "x^4 - 3x^2 + x"
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.02}, [2.0, 0.5, -0.5, -2.0], 5)
    assert outcome.best == int(outcome.values.argmin())
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.02, "maximize": True}, [0.1, 0.5, -0.2], 5)
    assert outcome.best == int(outcome.values.argmax())


# --- basins -------------------------------------------------------------------------------------


def test_a_run_that_has_not_arrived_has_a_basin():
    _, _, outcome = roll(DOUBLE_WELL, SLOW, [(0.5, 1.0), (-0.2, 0.4), (-1.0, 0.0)], 10)
    valleys = outcome.valleys
    np.testing.assert_allclose(valleys.points, [(-1.0, 0.0), (1.0, 0.0)], atol=1e-12)
    assert (valleys.of_run, valleys.basins, valleys.counts) == ([-1, -1, 0], [1, 0, 0], [1, 0])
    norm = f"{outcome.norms[0]:.3g}"
    words = f"it has not arrived: the gradient norm is {norm}, but it lies in the basin of minimum 1"
    assert outcome.reasons[0] == f"all 10 steps are done; {words}"


def test_a_run_on_a_ridge_is_in_no_basin():
    _, _, outcome = roll(DOUBLE_WELL, SLOW, [(0.0, 1.0)], 10)
    assert (outcome.valleys.of_run, outcome.valleys.basins) == ([-1], [-1])
    assert len(outcome.valleys.points) == 0


def test_a_run_on_a_saddle_point_is_in_no_basin():
    _, _, outcome = roll(DOUBLE_WELL, SLOW, [(0.0, 0.0)], 10)
    assert (outcome.valleys.of_run, outcome.valleys.basins) == ([0], [-1])


def test_a_run_uphill_is_in_the_basin_of_a_maximum():
    _, _, outcome = roll("-x^4 + 2x^2 - y^2", {**SLOW, "maximize": True}, [(0.5, 1.0)], 10)
    assert outcome.valleys.classes == ["maximum"]
    assert (outcome.valleys.of_run, outcome.valleys.basins) == ([-1], [0])
    assert outcome.reasons[0].endswith("but it lies in the basin of maximum 0")


def test_optimizers_that_climb_and_descend_at_once():
    chosen = [SLOW, {**SLOW, "maximize": True}]
    _, _, outcome = roll("cos(x)", chosen, [1.0, 4.0], 10)
    kinds = [outcome.valleys.classes[basin] for basin in outcome.valleys.basins]
    assert kinds == ["minimum", "minimum", "maximum", "maximum"]
    assert [round(float(outcome.valleys.points[basin, 0]) / math.pi) for basin in outcome.valleys.basins] == [
        1,
        1,
        0,
        2,
    ]


def test_runs_that_have_diverged_are_in_no_basin():
    _, _, outcome = roll("x^4 - 3x^2 + x", {"name": "sgd", "learning_rate": 0.05}, [0.5, 30.0], 60)
    assert outcome.status == ["completed", "diverged"]
    assert outcome.valleys.basins[1] == -1


def test_jumps_leave_basins_open():
    _, _, outcome = roll("x^2 + floor(x)", SLOW, [0.7], 3)
    assert outcome.valleys.basins == [-1]


def test_without_following_there_are_no_basins():
    running = rolling(DOUBLE_WELL, SLOW, [(0.5, 1.0)], 10)
    finish(running)
    arrival = RunEnds(running, following=False)
    while not arrival.finished:
        arrival.advance()
    assert (arrival.valleys.basins, len(arrival.valleys.points)) == ([-1], 0)


def test_a_cancelled_search_says_what_is_known():
    running = rolling(DOUBLE_WELL, SLOW, [(0.5, 1.0), (-1.0, 0.0)], 10)
    finish(running)
    arrival = RunEnds(running)
    while not arrival.valleys.counts:
        arrival.advance()
    arrival.advance()
    arrival.cancel()
    assert arrival.reasons[1].endswith("it has arrived at minimum 0")
    assert "it has not arrived" in arrival.reasons[0]


# --- kinks --------------------------------------------------------------------------------------

WITHOUT_SLOPE = [
    ("sqrt(x^2 + y^2)", (0.0, 0.0), "the slope of sqrt is infinite at 0"),
    ("hypot(x, y)", (0.0, 0.0), "a length has a kink at 0"),
    ("cbrt(x)", (0.0,), "the slope of cbrt is infinite at 0"),
    ("x^(1/3) + y^2", (0.0, 1.0), "the slope of a root is infinite at 0"),
    ("(x^2)^0.3", (0.0,), "the slope of a root is infinite at 0"),
    ("x^0.5", (0.0,), "the slope of a root is infinite at 0"),
]


@every("chosen", ["newton", {"name": "adam", "learning_rate": 0.1}], ids=str)
@every(("text", "start", "words"), WITHOUT_SLOPE)
def test_a_start_on_a_kink_has_not_diverged(text, start, words, chosen):
    other = tuple(number + 1.0 for number in start)
    _, _, outcome = roll(text, chosen, [start, other], 5)
    assert outcome.status == ["stopped", "completed"]
    assert outcome.steps_done == [0, 5]
    assert outcome.points[0].tolist() == list(start)
    assert outcome.reasons[0] == f"it starts on a kink, where the gradient is not finite: {words}"
    assert not outcome.finite
    assert (outcome.valleys.of_run[0], outcome.valleys.basins[0]) == (-1, -1)


def test_a_run_that_ends_on_a_kink():
    """The slope at 1 is 1/3, and the step leads to the kink at 0."""
    _, _, outcome = roll("cbrt(x)", {"name": "sgd", "learning_rate": 3.0}, [1.0], 9)
    assert outcome.status == ["stopped"]
    assert outcome.steps_done == [1]
    assert outcome.reasons[0].startswith("after 1 step it stands on a kink, where the gradient is not finite: ")


@every(
    ("text", "words"),
    [
        ("|x|", "it stands on a kink, so whether it has arrived is not known: abs has a kink at 0"),
        ("max(x, -x)", "it stands on a kink, so whether it has arrived is not known: max has a kink"),
        ("relu(x)", "it stands on a kink, so whether it has arrived is not known: relu has a kink at 0"),
        ("x^2 + floor(x)", "it stands on a jump, so whether it has arrived is not known: floor jumps"),
    ],
)
def test_a_slope_by_convention_proves_no_arrival(text, words):
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.1}, [0.0], 5)
    assert outcome.status == ["completed"]
    assert outcome.valleys.of_run == [-1]
    assert words in outcome.reasons[0]
    assert outcome.finite


def test_poles_and_domains_are_no_kinks():
    for text in ("log(x)", "exp(-1/x)", "1/x"):
        assert roll(text, "sgd", [0.0], 5)[2].status == ["diverged"]


@every("text", ["sqrt(x^2 + y^2)", "cbrt(x)^2 + y^2", "(x^2 + y^2)^0.3", "|x| + y^2"])
def test_kinks_are_noted_where_runs_have_not_arrived(text):
    _, _, outcome = roll(text, SLOW, [(3.0, 4.0)], 5)
    assert outcome.reasons[0].endswith("; at the kinks of this function it need not vanish")


def test_kinks_out_of_reach_are_not_noted():
    _, _, outcome = roll("sqrt(1 + x^2)^3 - 8x", SLOW, [3.0], 5)
    assert "kinks" not in outcome.reasons[0]
