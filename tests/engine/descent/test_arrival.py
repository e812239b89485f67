"""What is claimed of balls in the end: that they have arrived, in which basin they are, that they stand on a kink."""

from __future__ import annotations

import math

import numpy as np
import pytest

from service.engine.descent.arrival import Arrival
from tests.engine.descent.claims import balls_on, faults, faults_of_fit, fits, fitted
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
        wrong, there = faults(case, balls_on(case, chance))
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


@pytest.mark.parametrize("condition", [1e0, 1e4, 1e8, 1e12])
def test_a_ball_that_has_come_to_the_optimum_says_so(condition):
    text = f"{condition}*(0.6*x + 0.8*y - 1)^2 + (0.8*x - 0.6*y - 0.3)^2"
    _, _, outcome = roll(text, ["newton"], [(3.0, -2.0)], 8)
    assert outcome.valleys.of_run == [0]
    assert outcome.valleys.classes == ["minimum"]
    np.testing.assert_allclose(outcome.valleys.points[0], (0.84, 0.62), rtol=1e-9)


@pytest.mark.parametrize("condition", [1e6, 1e10, 1e14])
def test_a_ball_on_the_floor_of_a_narrow_valley_has_not_arrived(condition):
    """The gradient and the steps are short there, but the flat direction has a way to go."""
    text = f"{condition}*(x + y)^2 + (x - y - 2)^2"
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.2 / condition}, [(3.0, -2.9)], 60)
    assert outcome.valleys.of_run == [-1]
    assert "it has not arrived" in outcome.reasons[0]


def test_far_from_zero_the_size_of_a_function_counts():
    """One valley after the other within a thousandth of the distance from 0."""
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


# --- basins -------------------------------------------------------------------------------------


def test_a_ball_on_its_way_tells_its_basin():
    _, _, outcome = roll(DOUBLE_WELL, SLOW, [(0.5, 1.0), (-0.2, 0.4), (-1.0, 0.0)], 10)
    valleys = outcome.valleys
    np.testing.assert_allclose(valleys.points, [(-1.0, 0.0), (1.0, 0.0)], atol=1e-12)
    assert (valleys.of_run, valleys.basins, valleys.counts) == ([-1, -1, 0], [1, 0, 0], [1, 0])
    norm = f"{outcome.norms[0]:.3g}"
    words = f"it has not arrived: the gradient norm is {norm}, but it lies in the basin of minimum 1"
    assert outcome.reasons[0] == f"all 10 steps are done; {words}"


def test_a_ball_on_a_ridge_is_in_no_basin():
    _, _, outcome = roll(DOUBLE_WELL, SLOW, [(0.0, 1.0)], 10)
    assert (outcome.valleys.of_run, outcome.valleys.basins) == ([-1], [-1])
    assert len(outcome.valleys.points) == 0


def test_a_ball_on_a_saddle_point_is_in_no_basin():
    _, _, outcome = roll(DOUBLE_WELL, SLOW, [(0.0, 0.0)], 10)
    assert (outcome.valleys.of_run, outcome.valleys.basins) == ([0], [-1])


def test_a_ball_that_climbs_is_below_a_maximum():
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


def test_balls_that_have_diverged_are_in_no_basin():
    _, _, outcome = roll("x^4 - 3x^2 + x", {"name": "sgd", "learning_rate": 0.05}, [0.5, 30.0], 60)
    assert outcome.status == ["completed", "diverged"]
    assert outcome.valleys.basins[1] == -1


def test_jumps_leave_basins_open():
    _, _, outcome = roll("x^2 + floor(x)", SLOW, [0.7], 3)
    assert outcome.valleys.basins == [-1]


def test_basins_are_not_asked_for_in_maps():
    running = rolling(DOUBLE_WELL, SLOW, [(0.5, 1.0)], 10)
    finish(running)
    arrival = Arrival(running, following=False)
    while not arrival.finished:
        arrival.advance()
    assert (arrival.valleys.basins, len(arrival.valleys.points)) == ([-1], 0)


def test_what_is_known_is_told_when_time_runs_out():
    running = rolling(DOUBLE_WELL, SLOW, [(0.5, 1.0), (-1.0, 0.0)], 10)
    finish(running)
    arrival = Arrival(running)
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


def test_a_ball_that_comes_to_a_kink():
    """The slope at 1 is 1/3, and the step leads to 0."""
    _, _, outcome = roll("cbrt(x)", {"name": "sgd", "learning_rate": 3.0}, [1.0], 9)
    assert outcome.status == ["stopped"]
    assert outcome.steps_done == [1]
    assert outcome.reasons[0].startswith("after 1 step it stands on a kink, where the gradient is not finite: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("|x|", "it stands on a kink, so whether it has arrived is not known: abs has a kink at 0"),
        ("max(x, -x)", "it stands on a kink, so whether it has arrived is not known: max has a kink"),
        ("relu(x)", "it stands on a kink, so whether it has arrived is not known: relu has a kink at 0"),
        ("x^2 + floor(x)", "it stands on a jump, so whether it has arrived is not known: floor jumps"),
    ],
)
def test_a_slope_by_convention_says_nothing_of_arriving(text, words):
    _, _, outcome = roll(text, {"name": "sgd", "learning_rate": 0.1}, [0.0], 5)
    assert outcome.status == ["completed"]
    assert outcome.valleys.of_run == [-1]
    assert words in outcome.reasons[0]
    assert outcome.finite


def test_poles_and_domains_are_no_kinks():
    for text in ("log(x)", "exp(-1/x)", "1/x"):
        assert roll(text, "sgd", [0.0], 5)[2].status == ["diverged"]


@pytest.mark.parametrize("text", ["sqrt(x^2 + y^2)", "cbrt(x)^2 + y^2", "(x^2 + y^2)^0.3", "|x| + y^2"])
def test_kinks_are_noted_where_balls_have_not_arrived(text):
    _, _, outcome = roll(text, SLOW, [(3.0, 4.0)], 5)
    assert outcome.reasons[0].endswith("; at the kinks of this function it need not vanish")


def test_kinks_out_of_reach_are_not_noted():
    _, _, outcome = roll("sqrt(1 + x^2)^3 - 8x", SLOW, [3.0], 5)
    assert "kinks" not in outcome.reasons[0]
