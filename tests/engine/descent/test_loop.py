"""The loop of a descent on small functions: its work around a rule, its bounds, and its reasons in words."""

import math
import re

import numpy as np
import pytest

from service.engine.descent import update
from service.engine.descent.loop import CURVATURE_PARAMETERS, Descent
from service.engine.descent.optimizers import optimizers
from service.engine.descent.scheduler import Scheduler
from service.engine.descent.schedules import schedules
from service.engine.errors import EngineError
from tests.engine.descent.building import recipe
from tests.engine.network.building import select
from tests.support import every

RULES = [each.name for each in optimizers if not each.search]
ALL = [each.name for each in optimizers]


class Function:
    """A function that gives its value and its gradient, as an objective. Keeps where it was looked at."""

    steps_per_epoch = 1

    def __init__(self, function, start, hessian=None, validation=None, dtype=np.float64):
        self.function, self.hessian_at, self.validation = function, hessian, validation
        self.parameters = np.array(start, dtype)
        self.gradient = np.empty_like(self.parameters)
        self.looked_at = []
        self.begun = []
        self.finished = 0

    def begin(self, step):
        self.begun.append(step)

    def evaluate(self):
        self.looked_at.append(self.parameters.copy())
        loss, self.gradient[...] = self.function(self.parameters)
        return float(loss), self.gradient

    def hessian(self, most_work=math.inf):
        if self.hessian_at is None:
            raise EngineError("no Hessian here")
        return np.asarray(self.hessian_at(self.parameters))

    def finish(self):
        self.finished += 1

    def validate(self):
        return None if self.validation is None else self.validation(self.parameters)


class Scripted(Function):
    """An objective with losses from a list, and a gradient of 1."""

    def __init__(self, losses, steps_per_epoch=1, validation=None):
        super().__init__(lambda x: (next(self.losses), np.ones_like(x)), [0.0])
        self.losses = iter(losses)
        self.steps_per_epoch = steps_per_epoch
        self.validation_losses = None if validation is None else iter(validation)

    def validate(self):
        return None if self.validation_losses is None else next(self.validation_losses)


def quadratic(curvatures):
    return lambda x: (0.5 * np.sum(curvatures * x * x), curvatures * x)


def rosenbrock(x):
    bend = x[1] - x[0] ** 2
    gradient = np.array([-2.0 * (1.0 - x[0]) - 400.0 * x[0] * bend, 200.0 * bend])
    return (1.0 - x[0]) ** 2 + 100.0 * bend**2, gradient


def hessian_of_rosenbrock(x):
    return np.array([[2.0 - 400.0 * (x[1] - 3.0 * x[0] ** 2), -400.0 * x[0]], [-400.0 * x[0], 200.0]])


def double_well(x):
    return np.sum((x * x - 1.0) ** 2), 4.0 * x * (x * x - 1.0)


def descend(objective, chosen, steps=1, **details):
    """Make at most so many steps. Return their records and the descent."""
    descent = Descent(objective, recipe(chosen, **details))
    taken = []
    while len(taken) < steps and descent.status is None:
        taken.append(descent.advance())
    return taken, descent


def sgd(rate=0.1, **options):
    return {"name": "sgd", "learning_rate": rate, **options}


CURVATURES = np.array([1.0, 3.0, 10.0])
START = np.array([3.0, -4.0, 1.0])


# --- one step after the other --------------------------------------------------------------------


def test_a_record_holds_the_numbers_before_the_update():
    objective = Function(quadratic(CURVATURES), START)
    (first, second), descent = descend(objective, sgd(0.05), 2)
    x = START
    for number, step in enumerate((first, second), start=1):
        gradient = CURVATURES * x
        assert (step.number, step.epoch, step.learning_rate) == (number, number, 0.05)
        assert step.loss == 0.5 * np.sum(CURVATURES * x * x)
        assert step.gradient_norm == pytest.approx(math.sqrt(np.sum(gradient**2)), rel=1e-15)
        assert step.effective_learning_rate == 0.05
        assert step.validation_loss is None
        last, x = gradient, x - 0.05 * gradient
    np.testing.assert_array_equal(descent.parameters, x)
    np.testing.assert_array_equal(descent.gradient, last)
    assert objective.begun == [0, 1]
    assert objective.finished == 2
    assert len(objective.looked_at) == 2  # once a step
    assert descent.status is None


def test_epochs_are_counted_in_their_steps():
    objective = Scripted(range(7), steps_per_epoch=3)
    steps, _ = descend(objective, sgd(), 7)
    assert [step.epoch for step in steps] == [1, 1, 1, 2, 2, 2, 3]
    assert objective.begun == list(range(7))


@every("name", ALL)
def test_every_optimizer_descends_and_leaves_the_gradient_alone(name):
    objective = Function(quadratic(CURVATURES), START, lambda x: np.diag(CURVATURES))
    steps, descent = descend(objective, name, 5)
    assert descent.status is None and descent.progress.step == 5
    if name in RULES:
        np.testing.assert_array_equal(descent.gradient, CURVATURES * objective.looked_at[-1])
    assert steps[-1].gradient_norm == pytest.approx(np.linalg.norm(descent.gradient))
    if not optimizers[name].counter_example:
        assert objective.function(descent.parameters)[0] < steps[0].loss


@every("name", ["l_bfgs", "newton", "exact_line_search"])
def test_a_record_of_a_search_holds_the_gradient_before_it(name):
    objective = Function(rosenbrock, [-1.2, 1.0], hessian_of_rosenbrock)
    before = objective.parameters.copy()
    (step,), descent = descend(objective, name)
    np.testing.assert_array_equal(descent.gradient, rosenbrock(before)[1])
    assert step.loss == rosenbrock(before)[0]
    assert (descent.parameters != before).any()


@every(("chosen", "steps"), [({"name": "l_bfgs", "tolerance_change": 0.0}, 60), ("newton", 10)])
def test_searches_find_the_minimum_of_rosenbrock(chosen, steps):
    objective = Function(rosenbrock, [-1.2, 1.0], hessian_of_rosenbrock)
    _, descent = descend(objective, chosen, steps, stop={"gradient_norm_below": 1e-6})
    assert descent.status == "stopped"
    np.testing.assert_allclose(descent.parameters, [1.0, 1.0], atol=1e-5)


def test_where_a_double_well_leads_depends_on_the_start():
    objective = Function(double_well, [0.1, -0.1, 2.0, -2.0])
    _, descent = descend(objective, sgd(0.02), 500)
    np.testing.assert_allclose(descent.parameters, [1.0, -1.0, 1.0, -1.0], atol=1e-12)


def test_ascent_climbs_the_hill_between_the_wells():
    objective = Function(double_well, [0.5, -0.9])
    _, descent = descend(objective, sgd(0.02, maximize=True), 500)
    np.testing.assert_allclose(descent.parameters, 0.0, atol=1e-12)


@every("name", RULES)
def test_float32_stays_float32(name):
    objective = Function(quadratic(CURVATURES.astype(np.float32)), START, dtype=np.float32)
    steps, descent = descend(
        objective,
        {"name": name, "weight_decay": 0.1},
        3,
        schedule={"name": "one_cycle", "total_steps": 5},
        clip={"value": 2.0, "norm": 3.0},
    )
    effective = steps[-1].effective_learning_rate
    assert isinstance(effective, float) or effective.dtype == np.float32
    assert descent.parameters.dtype == np.float32
    arrays = [value for value in vars(descent.state).values() if isinstance(value, np.ndarray)]
    assert all(array.dtype == np.float32 for array in arrays)


# --- clipping, decay, ascent -----------------------------------------------------------------------


def moved(chosen, clip=None, start=START):
    """Return the vector that one step subtracts."""
    objective = Function(quadratic(CURVATURES), start)
    _, descent = descend(objective, chosen, clip=clip)
    return start - descent.parameters


@every("largest", [0.5, 5.0, 11.0, 100.0])
def test_clipping_by_value_cuts_each_number(largest):
    gradient = CURVATURES * START
    cut = np.array([min(max(g, -largest), largest) for g in gradient])
    np.testing.assert_allclose(moved(sgd(), {"value": largest}), 0.1 * cut, rtol=1e-14)


@every("largest", [1e-3, 1.0, 10.0])
def test_clipping_by_norm_has_the_epsilon_of_pytorch(largest):
    gradient = CURVATURES * START
    norm = math.sqrt(np.sum(gradient**2))
    assert norm > largest
    found = moved(sgd(1.0), {"norm": largest})
    np.testing.assert_allclose(found, gradient * (largest / (norm + 1e-6)), rtol=1e-12)
    assert np.linalg.norm(found) < largest * (1.0 - 1e-8)


@every("largest", [1e-3, 1.0, 10.0])
def test_clipping_by_norm_has_no_epsilon_with_keras(largest):
    gradient = CURVATURES * START
    found = moved(sgd(1.0, convention="keras"), {"norm": largest})
    np.testing.assert_allclose(found, gradient * (largest / math.sqrt(np.sum(gradient**2))), rtol=1e-11)
    assert np.linalg.norm(found) == pytest.approx(largest, rel=1e-11)


def test_short_gradients_are_not_clipped():
    gradient = CURVATURES * START
    norm = math.sqrt(np.sum(gradient**2))
    np.testing.assert_array_equal(moved(sgd(1.0), {"norm": norm + 1e-5, "value": 13.0}), START - (START - gradient))
    np.testing.assert_array_equal(moved(sgd(), {"norm": 1.0}, np.zeros(3)), 0.0)  # and 0 stays 0


def test_the_recorded_norm_is_that_before_clipping():
    (step,), descent = descend(Function(quadratic(CURVATURES), START), sgd(), clip={"norm": 1.0})
    assert step.gradient_norm == pytest.approx(np.linalg.norm(CURVATURES * START), rel=1e-15)
    np.testing.assert_array_equal(descent.gradient, CURVATURES * START)


def test_clipping_comes_before_coupled_decay():
    gradient = np.clip(CURVATURES * START, -2.0, 2.0)
    np.testing.assert_allclose(
        moved(sgd(0.1, weight_decay=0.7), {"value": 2.0}), 0.1 * (gradient + 0.7 * START), rtol=1e-13
    )


def test_coupled_and_decoupled_decay():
    def plain(decoupled):
        x, m, v = START.copy(), np.zeros(3), np.zeros(3)
        for t in range(1, 6):
            g = CURVATURES * x
            if decoupled:
                x = x - 0.01 * 0.3 * x
            else:
                g = g + 0.3 * x
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            x = x - 0.01 * (m / (1.0 - 0.9**t)) / (np.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
        return x

    ends = []
    for decoupled in (False, True):
        chosen = {
            "name": "adam", "learning_rate": 0.01, "weight_decay": 0.3, "decoupled_weight_decay": decoupled
        }  # fmt: skip
        _, descent = descend(Function(quadratic(CURVATURES), START), chosen, 5)
        np.testing.assert_allclose(descent.parameters, plain(decoupled), rtol=1e-13)
        ends.append(descent.parameters)
    assert np.abs(ends[0] - ends[1]).max() > 1e-4


def test_decoupled_decay_follows_the_schedule():
    chosen = sgd(0.1, weight_decay=0.5, decoupled_weight_decay=True)
    schedule = {"name": "exponential", "gamma": 0.5}
    _, descent = descend(Function(quadratic(CURVATURES), START), chosen, 3, schedule=schedule)
    x = START
    for rate in (0.1, 0.05, 0.025):
        x = x * (1.0 - rate * 0.5) - rate * CURVATURES * x
    np.testing.assert_allclose(descent.parameters, x, rtol=1e-13)


def test_ascent_turns_the_gradient_and_not_the_decay():
    gradient = CURVATURES * START
    found = moved(sgd(0.1, maximize=True, weight_decay=0.5))
    np.testing.assert_allclose(found, 0.1 * (-gradient + 0.5 * START), rtol=1e-13)
    found = moved(sgd(0.1, maximize=True, weight_decay=0.5, decoupled_weight_decay=True))
    np.testing.assert_allclose(found, -0.1 * gradient + 0.1 * 0.5 * START, rtol=1e-13)


def test_the_effective_learning_rate_is_the_factor_of_the_gradient():
    objective = Function(quadratic(CURVATURES), START)
    steps, descent = descend(objective, {"name": "adagrad", "learning_rate": 0.3}, 4)
    moves = np.diff([*objective.looked_at, descent.parameters], axis=0)
    for step, x, move in zip(steps, objective.looked_at, moves, strict=True):
        np.testing.assert_allclose(-step.effective_learning_rate * CURVATURES * x, move, rtol=1e-12)


# --- looking ahead ---------------------------------------------------------------------------------


def test_nesterov_records_the_loss_here_and_the_gradient_ahead():
    objective = Function(double_well, [0.3, -1.7])
    rate, momentum, steps = 0.01, 0.8, 6
    taken, descent = descend(objective, {"name": "nesterov", "learning_rate": rate, "momentum": momentum}, steps)
    x, v = np.array([0.3, -1.7]), np.zeros(2)
    for step, here, ahead in zip(taken, objective.looked_at[::2], objective.looked_at[1::2], strict=True):
        np.testing.assert_allclose(here, x, rtol=1e-14)
        np.testing.assert_allclose(ahead, x + momentum * v, rtol=1e-14)
        gradient = double_well(x + momentum * v)[1]
        assert step.loss == pytest.approx(double_well(x)[0], rel=1e-13)
        assert step.gradient_norm == pytest.approx(np.linalg.norm(gradient), rel=1e-13)
        v = momentum * v - rate * gradient
        x = x + v
    np.testing.assert_allclose(descent.parameters, x, rtol=1e-13)
    np.testing.assert_allclose(descent.gradient, gradient, rtol=1e-13)


def test_looking_ahead_puts_the_parameters_back_to_the_bit():
    """Far ahead the small digits of the parameters are lost, so subtracting the offset would not restore them."""
    start, velocity = np.array([0.1, 7.0, -1e-17]), np.array([1e17, -1e-3, 1e3])
    objective = Function(lambda x: (0.0, np.where(x == start, 1.0, np.nan)), start)
    descent = Descent(objective, recipe({"name": "nesterov", "momentum": 0.5}))
    descent.state.velocity[...] = velocity
    descent.advance()
    here, ahead = objective.looked_at
    np.testing.assert_array_equal(here, start)
    np.testing.assert_array_equal(ahead, start + 0.5 * velocity)
    assert ((ahead - 0.5 * velocity) != start).any()
    # The gradient ahead ended the descent, so nothing else has moved the parameters.
    assert descent.status == "diverged"
    np.testing.assert_array_equal(descent.parameters, start)
    np.testing.assert_array_equal(descent.state.velocity, velocity)


# --- schedules ---------------------------------------------------------------------------------------


def rates_of(schedule, base, steps):
    scheduler = Scheduler(select(schedules, schedule), base, 1)
    return [scheduler.rate(step) for step in range(steps)]


@every(
    "schedule",
    [
        {"name": "cosine", "decay_steps": 6},
        {"name": "exponential", "gamma": 0.7, "warmup_steps": 3},
        {"name": "one_cycle", "total_steps": 8, "cycle_momentum": False},
    ],
)
def test_each_step_has_the_rate_of_the_schedule(schedule):
    objective = Function(quadratic(CURVATURES), START)
    taken, descent = descend(objective, sgd(0.05), 8, schedule=schedule)
    x = START.copy()
    for step, rate in zip(taken, rates_of(schedule, 0.05, 8), strict=True):
        assert step.learning_rate == step.effective_learning_rate == rate.learning_rate
        x = x - rate.learning_rate * (CURVATURES * x)
    np.testing.assert_allclose(descent.parameters, x, rtol=1e-13)
    assert len({step.learning_rate for step in taken}) > 5


CYCLES = [
    {"name": "one_cycle", "total_steps": 9, "base_momentum": 0.5, "max_momentum": 0.9},
    {"name": "cyclic", "max_learning_rate": 0.05, "steps_up": 3, "base_momentum": 0.2, "max_momentum": 0.8},
]


@every("schedule", CYCLES, ids=lambda schedule: schedule["name"])
def test_a_schedule_cycles_momentum(schedule):
    """The learning rate of sgd scales the whole history. The momentum is that of the schedule."""
    _, descent = descend(Function(quadratic(CURVATURES), START), sgd(0.02, momentum=0.99), 8, schedule=schedule)
    rates = rates_of(schedule, 0.02, 8)
    assert len({rate.momentum for rate in rates}) > 3
    x, buffer = START.copy(), np.zeros(3)
    for step, rate in enumerate(rates):
        gradient = CURVATURES * x
        buffer = rate.momentum * buffer + gradient if step else gradient
        x = x - rate.learning_rate * buffer
    np.testing.assert_allclose(descent.parameters, x, rtol=1e-13)


@every("schedule", CYCLES, ids=lambda schedule: schedule["name"])
def test_a_schedule_cycles_beta_1_where_there_is_no_momentum(schedule):
    _, descent = descend(Function(quadratic(CURVATURES), START), {"name": "adam", "learning_rate": 0.02}, 8,
                         schedule=schedule)  # fmt: skip
    x, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for t, rate in enumerate(rates_of(schedule, 0.02, 8), start=1):
        beta = rate.momentum
        g = CURVATURES * x
        m, v = beta * m + (1.0 - beta) * g, 0.999 * v + 0.001 * g * g
        x = x - rate.learning_rate * (m / (1.0 - beta**t)) / (np.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(descent.parameters, x, rtol=1e-12)
    # The shown moments are corrected with the momentum of the step, too.
    np.testing.assert_allclose(descent.shown()["corrected_first_moment"], m / (1.0 - beta**8), rtol=1e-12)


def test_a_schedule_cycles_how_far_nesterov_looks_ahead():
    objective = Function(quadratic(CURVATURES), START)
    descend(objective, {"name": "nesterov", "learning_rate": 0.02, "momentum": 0.99}, 5, schedule=CYCLES[0])
    x, v = START.copy(), np.zeros(3)
    for ahead, rate in zip(objective.looked_at[1::2], rates_of(CYCLES[0], 0.02, 5), strict=True):
        np.testing.assert_allclose(ahead, x + rate.momentum * v, rtol=1e-13)
        v = rate.momentum * v - rate.learning_rate * (CURVATURES * ahead)
        x = x + v


def test_a_momentum_of_the_schedule_alone_is_used():
    _, descent = descend(Function(quadratic(CURVATURES), START), sgd(0.02), 2, schedule=CYCLES[0])
    first, second = rates_of(CYCLES[0], 0.02, 2)
    g = CURVATURES * START
    x = START - first.learning_rate * g
    x = x - second.learning_rate * (second.momentum * g + CURVATURES * x)
    np.testing.assert_allclose(descent.parameters, x, rtol=1e-13)


def test_plateau_lowers_the_rate_when_epochs_bring_no_better_loss():
    """Each epoch has two steps. The third and the fourth epoch are no better than the second."""
    epochs = [4.0, 2.0, 2.0, 2.5, 1.0, 1.0]
    objective = Scripted([loss for mean in epochs for loss in (mean - 0.5, mean + 0.5)], steps_per_epoch=2)
    schedule = {"name": "plateau", "factor": 0.5, "patience": 1}
    taken, _ = descend(objective, sgd(0.8), 12, schedule=schedule)
    assert [step.learning_rate for step in taken] == [0.8] * 8 + [0.4] * 4


def test_plateau_watches_validation_where_there_is_any():
    objective = Scripted([9.0 - step for step in range(6)], validation=[3.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    taken, _ = descend(objective, sgd(0.8), 6, schedule={"name": "plateau", "factor": 0.5, "patience": 0})
    assert [step.learning_rate for step in taken] == [0.8, 0.8, 0.8, 0.4, 0.2, 0.1]


# --- stopping ----------------------------------------------------------------------------------------


def assert_whole(taken, descent, objective, steps):
    """Assert that the step that met a bound was made like every other."""
    assert descent.status == "stopped"
    assert len(taken) == steps == descent.progress.step == objective.finished
    _, other = descend(Function(objective.function, START), sgd(0.05), steps)
    np.testing.assert_array_equal(descent.parameters, other.parameters)


@every(("watched", "bound"), [("loss", 3.0), ("gradient_norm", 2.0)])
def test_a_loss_or_a_gradient_norm_below_its_bound_stops(watched, bound):
    objective = Function(quadratic(CURVATURES), START)
    taken, descent = descend(objective, sgd(0.05), 100, stop={f"{watched}_below": bound})
    last = getattr(taken[-1], watched)
    assert last < bound <= getattr(taken[-2], watched)
    assert_whole(taken, descent, objective, len(taken))
    assert descent.reason == f"the {watched.replace('_', ' ')} {last:g} at step {len(taken)} is below {bound:g}"


def test_a_bound_that_is_met_exactly_does_not_stop():
    objective = Scripted([2.0, 2.0])
    _, descent = descend(objective, sgd(), 2, stop={"loss_below": 2.0, "gradient_norm_below": 1.0})
    assert descent.status is None


@every(
    ("losses", "patience", "min_delta", "steps", "best", "best_step"),
    [
        ([3.0, 2.0, 2.0, 2.0, 1.0, 1.0], 2, 0.0, 4, 2.0, 2),
        ([3.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.0], 2, 0.0, 6, 1.0, 4),
        ([3.0, 2.9, 2.8, 2.7, 2.6], 3, 0.5, 4, 3.0, 1),
        ([3.0, 2.9, 2.8, 2.4, 2.3, 2.2, 2.1], 3, 0.5, 7, 2.4, 4),  # 0.5 less than the best, not than the last
        ([3.0, 4.0], 1, 0.0, 2, 3.0, 1),
    ],
)
def test_patience(losses, patience, min_delta, steps, best, best_step):
    taken, descent = descend(Scripted(losses), sgd(), 100, stop={"patience": patience, "min_delta": min_delta})
    assert len(taken) == steps == descent.progress.step
    assert descent.reason == (
        f"the loss has not improved for {patience} epochs; its best was {best:g} after step {best_step}"
    )


def test_patience_uphill_waits_for_higher_losses():
    climbing = {"name": "sgd", "learning_rate": 0.0, "maximize": True}
    taken, descent = descend(Scripted([1.0, 2.0, 3.0, 2.0, 2.5, 0.0]), climbing, 100, stop={"patience": 2})
    assert len(taken) == 5
    assert descent.reason == "the loss has not improved for 2 epochs; its best was 3 after step 3"


def test_patience_counts_epochs_and_watches_their_mean():
    # The means are 2, 1.5, 1.6, 1.5: the last two are no better, although single steps are.
    objective = Scripted([3.0, 1.0, 2.0, 1.0, 2.7, 0.5, 3.0, 0.0, 9.0], steps_per_epoch=2)
    taken, descent = descend(objective, sgd(), 9, stop={"patience": 2})
    assert len(taken) == 8
    assert (descent.progress.best, descent.progress.best_step) == (1.5, 4)


def test_patience_watches_validation_where_there_is_any():
    objective = Scripted([5.0, 4.0, 3.0, 2.0, 1.0], validation=[1.0, 0.5, 0.6, 0.7, 0.8])
    taken, descent = descend(objective, sgd(), 5, stop={"patience": 2})
    assert [step.validation_loss for step in taken] == [1.0, 0.5, 0.6, 0.7]
    assert descent.reason == "the loss has not improved for 2 epochs; its best was 0.5 after step 2"


def test_validation_follows_the_last_step_of_an_epoch():
    objective = Scripted(range(5), steps_per_epoch=2, validation=[7.0, 8.0])
    taken, _ = descend(objective, sgd(), 5)
    assert [step.validation_loss for step in taken] == [None, 7.0, None, 8.0, None]


# --- divergence ----------------------------------------------------------------------------------------

ROTATION = np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2 - 7.0 * np.eye(3))[0]
STEEP = ROTATION @ np.diag([0.5, 4.0, 64.5]) @ ROTATION.T


def steep(x):
    return 0.5 * x @ STEEP @ x, STEEP @ x


def numbers(text):
    return [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def assert_untouched(descent, objective, last):
    """Assert that the step that ended a descent changed neither parameters nor state."""
    assert descent.status == "diverged"
    assert descent.progress.step == last.number - 1 == objective.finished
    assert last.effective_learning_rate is None and last.validation_loss is None
    np.testing.assert_array_equal(descent.parameters, objective.looked_at[-1])


def test_words_on_a_descent_that_runs_away():
    objective = Function(steep, START, lambda x: STEEP)
    taken, descent = descend(objective, sgd(0.2), 1000)
    last = taken[-1]
    assert_untouched(descent, objective, last)
    assert math.isfinite(last.loss) and last.loss > 1e12 * taken[0].loss
    assert taken[-2].loss <= 1e12 * taken[0].loss
    assert descent.reason == (
        f"at step {last.number} the loss has run away to {last.loss:.6g}; it was {taken[0].loss:.6g} at the first step"
        "; the learning rate is 0.2; the largest curvature of the loss where the descent started, λmax, is 64.5, and "
        "0.2 > 2/λmax = 0.03101"
    )


LIMITS = [
    (sgd(momentum=0.9), 2.0 * 1.9, "3.8/λmax"),
    (sgd(momentum=0.5, convention="keras"), 2.0 * 1.5, "3/λmax"),
    ({"name": "momentum", "momentum": 0.9}, 2.0 * 1.9, "3.8/λmax"),
    (sgd(momentum=0.9, nesterov=True), 2.0 * 1.9 / 2.8, "1.357/λmax"),
    (sgd(momentum=0.9, dampening=0.5), 2.0 * 1.9 / 0.5, "7.6/λmax"),
    (sgd(momentum=0.9, dampening=0.5, nesterov=True), 2.0 * 1.9 / 2.35, "1.617/λmax"),
    (sgd(momentum=0.9, nesterov=True, convention="keras"), 2.0 * 1.9 / 2.8, "1.357/λmax"),
    ({"name": "nesterov", "momentum": 0.6}, 2.0 * 1.6 / 2.2, "1.455/λmax"),
]


@every(("chosen", "factor", "said"), LIMITS)
def test_words_on_momentum(chosen, factor, said):
    objective = Function(steep, START, lambda x: STEEP)
    taken, descent = descend(objective, {**chosen, "learning_rate": 1.5 * factor / 64.5}, 5000)
    assert descent.status == "diverged"
    words = descent.reason.rsplit(", and ", 1)[1]
    assert f" > {said} = " in words
    rate, named, limit = numbers(words)
    assert rate == pytest.approx(taken[0].learning_rate, rel=1e-5)
    assert named == pytest.approx(factor, rel=1e-3)
    assert limit == pytest.approx(factor / 64.5, rel=1e-3)


@every(("chosen", "factor", "said"), [(sgd(), 2.0, ""), *LIMITS])
def test_descents_run_away_above_the_limit_in_the_reason(chosen, factor, said):
    for part, status in ((0.98, None), (1.02, "diverged")):
        objective = Function(quadratic(np.array([64.5])), [1.0], lambda x: [[64.5]])
        _, descent = descend(objective, {**chosen, "learning_rate": part * factor / 64.5}, 2000)
        assert descent.status == status, part
    assert descent.reason.endswith(f"/λmax = {factor / 64.5:.4g}")


def test_a_rate_below_the_limit_is_not_blamed():
    """A quartic is flat at its start, so the curvature there does not explain the divergence."""
    objective = Function(lambda x: (-np.sum(x**4) + 1e-3 * np.sum(x * x), -4.0 * x**3 + 2e-3 * x), [0.5],
                         lambda x: np.diag(np.array([1.0])))  # fmt: skip
    _, descent = descend(objective, sgd(0.5), 1000)
    assert descent.status == "diverged"
    assert descent.reason.endswith("λmax, is 1, and 0.5 < 2/λmax = 2")


def test_the_curvature_is_that_at_the_start():
    asked = []
    objective = Function(steep, START, lambda x: asked.append(x.copy()) or STEEP)
    taken, descent = descend(objective, sgd(0.2), 1000)
    (place,) = asked
    np.testing.assert_array_equal(place, START)
    np.testing.assert_array_equal(descent.parameters, objective.looked_at[-1])
    # Afterwards the objective has the batch of the failed step again.
    assert objective.begun[-2:] == [0, len(taken) - 1]


@every(
    ("start", "hessian", "chosen"),
    [
        (
            np.ones(CURVATURE_PARAMETERS + 1),
            lambda x: np.diag(np.full(CURVATURE_PARAMETERS + 1, 64.5)),
            sgd(1.0),
        ),  # too many parameters
        (START, None, sgd(10.0)),  # no Hessian
        (START, lambda x: np.full((3, 3), np.nan), sgd(10.0)),
        (START, lambda x: -np.eye(3), sgd(10.0)),  # no curvature upwards
    ],
)
def test_words_without_a_curvature(start, hessian, chosen):
    objective = Function(quadratic(64.5), start, hessian)
    taken, descent = descend(objective, chosen, 1000)
    assert_untouched(descent, objective, taken[-1])
    assert descent.reason.endswith(f"the learning rate is {chosen['learning_rate']:g}")


def test_words_for_a_rule_that_has_no_limit():
    objective = Function(steep, START, lambda x: STEEP)
    _, descent = descend(objective, {"name": "adam_as_printed", "learning_rate": 1e3}, 1000)
    assert descent.status == "diverged"
    assert descent.reason.endswith("; the largest curvature of the loss where the descent started, λmax, is 64.5")


def test_the_learning_rate_in_a_reason_is_that_of_the_schedule():
    objective = Function(steep, START, lambda x: STEEP)
    taken, descent = descend(objective, sgd(0.4), 1000, schedule={"name": "constant_factor", "factor": 0.5})
    assert [step.learning_rate for step in taken] == [0.2] * 5 + [0.4] * (len(taken) - 5)
    assert len(taken) > 5
    assert "; the learning rate is 0.4; " in descent.reason and ", and 0.4 > 2/λmax = 0.03101" in descent.reason


def log_barrier(x):
    return -np.sum(np.log(x)) + 5.0 * np.sum(x * x), -1.0 / x + 10.0 * x


@every(
    ("function", "start", "chosen", "words"),
    [
        (log_barrier, [2.0], sgd(0.3), "the loss is not a number"),
        (lambda x: (np.exp(-x).sum(), -np.exp(-x)), [-5.0], sgd(-6.0), "the loss is infinite"),
        (lambda x: (np.sqrt(x).sum(), 0.5 / np.sqrt(x)), [0.25], sgd(0.25), "the gradient is not finite"),
        (lambda x: (np.abs(x).sum(), np.where(x > 0.5, 1.0, np.nan)), [1.0], sgd(1.0), "the gradient is not finite"),
    ],
)
def test_a_number_that_is_not_finite_ends_a_descent(function, start, chosen, words):
    objective = Function(function, start)
    taken, descent = descend(objective, chosen, 1000)
    assert_untouched(descent, objective, taken[-1])
    assert taken[-1].number == 2
    rate = chosen["learning_rate"]
    assert descent.reason == f"at step 2 {words}; the learning rate is {rate:g}"


def test_a_start_that_is_not_finite():
    objective = Function(log_barrier, [-1.0])
    taken, descent = descend(objective, "adam", 5)
    assert descent.reason.startswith("at step 1 the loss is not a number")
    assert_untouched(descent, objective, taken[-1])


def test_a_large_loss_may_stay_large():
    """A loss runs away relative to the first loss, or to 1 if that is more."""
    objective = Scripted([1e200, 9.9e211, 1e199, 1.1e212])
    taken, descent = descend(objective, sgd(), 10)
    assert len(taken) == 4 and descent.status == "diverged"
    objective = Scripted([1e-9, 0.99e12, -0.99e12, -1.1e12])
    taken, descent = descend(objective, sgd(), 10)
    assert len(taken) == 4 and descent.status == "diverged"


@every("name", RULES)
def test_divergence_leaves_the_state_as_it_was(name):
    losses = iter([1.0, 1.0, math.inf])
    objective = Function(lambda x: (next(losses) if len(objective.looked_at) % per_step == 1 or per_step == 1 else 0.0,
                                    np.array([1.0, -2.0])), [0.5, 3.0])  # fmt: skip
    per_step = 2 if optimizers[name].look_ahead else 1
    descent = Descent(objective, recipe(name))
    descent.advance()
    descent.advance()
    before = {key: np.copy(value) for key, value in vars(descent.state).items()}
    parameters = descent.parameters.copy()
    descent.advance()
    assert descent.status == "diverged"
    np.testing.assert_array_equal(descent.parameters, parameters)
    assert set(before) == set(vars(descent.state))
    for key, value in before.items():
        np.testing.assert_array_equal(getattr(descent.state, key), value)


def test_a_gradient_that_is_not_finite_ahead_puts_the_parameters_back():
    objective = Function(lambda x: (1.0, np.where(x < 0.0, np.nan, 1.0)), [1.0])
    taken, descent = descend(objective, {"name": "nesterov", "learning_rate": 0.5, "momentum": 0.9}, 10)
    # From 1 to 0.5; ahead is 0.05. Then to -0.45 with a velocity of -0.95: the record has the loss there, and the
    # gradient ahead is not finite.
    assert descent.status == "diverged" and descent.reason.startswith("at step 3 the gradient is not finite")
    np.testing.assert_array_equal(descent.parameters, objective.looked_at[-2])
    assert len(taken) == 3


def test_words_when_the_last_update_failed():
    objective = Function(steep, START, lambda x: STEEP)
    taken, descent = descend(objective, sgd(0.2), 3)
    assert descent.status is None
    for loss, words in ((math.inf, "the loss is infinite"), (math.nan, "the loss is not a number")):
        reason = descent.why_diverged_at_the_end(loss)
        assert reason.startswith(f"at step {len(taken) + 1} {words}; the learning rate is 0.2; ")
        assert reason.endswith("0.2 > 2/λmax = 0.03101")
    assert descent.why_diverged_at_the_end(0.5).startswith("at step 4 the gradient is not finite; ")


# --- blocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("details", [{}, {"clip": {"norm": 2.0}}, {"schedule": CYCLES[0], "clip": {"value": 1.0}}])
@pytest.mark.parametrize("name", RULES)
def test_rules_give_the_same_bits_in_blocks(name, details, monkeypatch):
    curvatures = np.linspace(0.1, 3.0, 20)
    start = np.linspace(-2.0, 1.0, 20)
    ends = []
    for size in (1 << 17, 20, 7, 3):
        monkeypatch.setattr(update, "RULE_BLOCK", size)
        objective = Function(quadratic(curvatures), start)
        ends.append(descend(objective, {"name": name, "weight_decay": 0.01}, 7, **details))
    steps, whole = ends[0]
    for others, descent in ends[1:]:
        np.testing.assert_array_equal(descent.parameters, whole.parameters)
        assert set(vars(descent.state)) == set(vars(whole.state))
        for key, value in vars(whole.state).items():
            np.testing.assert_array_equal(getattr(descent.state, key), value)
        for step, other in zip(steps, others, strict=True):
            np.testing.assert_array_equal(other.effective_learning_rate, step.effective_learning_rate)
            assert other[:-1] == step[:-1]


# --- the place of the penalty ------------------------------------------------------------------------------


@every("clip", [None, {"norm": 1e9}])
def test_nesterov_takes_the_gradient_of_the_penalty_ahead(clip):
    """Coupled weight decay is the gradient of λ/2 ‖θ‖² in the objective, so both descend alike."""
    decay = 0.3
    chosen = {"name": "nesterov", "learning_rate": 0.01, "momentum": 0.8}

    def penalised(x):
        loss, gradient = double_well(x)
        return loss + 0.5 * decay * float(x @ x), gradient + decay * x

    plain, coupled = Function(penalised, [0.3, -1.7]), Function(double_well, [0.3, -1.7])
    _, expected = descend(plain, chosen, 30, clip=clip)
    _, found = descend(coupled, chosen | {"weight_decay": decay}, 30, clip=clip)
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=1e-13)
    np.testing.assert_allclose(found.state.velocity, expected.state.velocity, rtol=1e-12)


def test_decoupled_decay_of_nesterov_is_at_the_parameters():
    objective = Function(quadratic(CURVATURES), START)
    options = {"name": "nesterov", "learning_rate": 0.01, "momentum": 0.8, "weight_decay": 0.3}
    _, descent = descend(objective, options | {"decoupled_weight_decay": True}, 3)
    x, v = np.array(START, float), np.zeros(len(START))
    for _ in range(3):
        v = 0.8 * v - 0.01 * CURVATURES * (x + 0.8 * v)
        x = x * (1.0 - 0.01 * 0.3) + v
    np.testing.assert_allclose(descent.parameters, x, rtol=1e-13)


# --- before anything has moved ------------------------------------------------------------------------------


@every(
    ("loss", "gradient", "words"),
    [
        (math.nan, 1.0, "the loss is not a number"),
        (math.inf, 1.0, "the loss is infinite"),
        (1.0, math.nan, "the gradient is not finite"),
        (1.0, math.inf, "the gradient is not finite"),
    ],
)
@every("name", ["sgd", "nesterov", "adam", "l_bfgs", "exact_line_search"])
def test_the_learning_rate_is_not_blamed_for_a_start_that_is_not_finite(name, loss, gradient, words):
    objective = Function(lambda x: (loss, np.full(2, gradient)), [0.5, 3.0])
    taken, descent = descend(objective, name, 5)
    assert descent.status == "diverged" and len(taken) == 1
    assert descent.reason == f"at step 1 {words}, before anything has moved"
