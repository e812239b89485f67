"""Comparisons of several trainings: curves over the same steps, a table of the ends, and memory that is given back."""

import math

import numpy as np
import pytest

from service.engine.descent.comparison import CURVES, MOST_TRAININGS, Comparison, Contender
from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits
from tests.engine.descent.building import COMPILE, assert_same_trees, compiler, optimizer, recipe, train, training
from tests.engine.network.building import ROOMY, dense, layer, network
from tests.support import every

RNG = np.random.default_rng(5)
X, Y = RNG.standard_normal((10, 3)), RNG.standard_normal((10, 1))
OTHERS = RNG.standard_normal((4, 3)), RNG.standard_normal((4, 1))
NETWORK = network(dense("hidden", 3, "tanh"), layer("drop", "dropout", rate=0.2), dense("out", 1))


def sgd(rate, **options):
    return {"name": "sgd", "learning_rate": rate, **options}


def compare(*chosen, seeds=(0,), limits=ROOMY, compile=COMPILE, **details):  # noqa: A002
    contenders = [Contender(optimizer(each), seed) for each in chosen for seed in seeds]

    def start(contender):
        return training(
            NETWORK, X, Y, contender.optimizer, seed=contender.seed, limits=limits, compile=compile, **details
        )

    shared = {key: details[key] for key in ("schedule", "clip", "stop") if key in details}
    return Comparison(contenders, recipe("sgd", **shared), start, limits)


def run(*chosen, **details):
    comparison = compare(*chosen, **details)
    while not comparison.finished:
        comparison.advance()
    comparison.close()
    return comparison


class Counting(WorkspacePool):
    """A pool that counts the workspaces that are lent."""

    def __init__(self):
        super().__init__()
        self.lent = self.most = 0

    def lend(self, program, watch=None):
        self.lent += 1
        self.most = max(self.most, self.lent)
        return super().lend(program, watch)

    def take_back(self, workspace):
        self.lent -= 1
        super().take_back(workspace)


def test_each_run_is_a_training_of_its_own():
    chosen = [sgd(0.1), "adam", {"name": "l_bfgs"}]
    details = {"batch_size": 4, "steps": 7, "validation": OTHERS}
    comparison = run(*chosen, seeds=(1, 2), **details)
    assert comparison.steps.tolist() == list(range(1, 8))
    assert len(comparison.rows) == len(comparison.curves) == 6
    pairs = [(each, seed) for each in chosen for seed in (1, 2)]
    for (each, seed), row, curves in zip(pairs, comparison.rows, comparison.curves, strict=True):
        records, outcome = train(NETWORK, X, Y, each, seed=seed, **details)
        steps = [step for step, _ in records]
        assert (row.contender.optimizer.name, row.contender.seed) == (optimizer(each).name, seed)
        assert (row.status, row.reason, row.steps_done) == (outcome.status, outcome.reason, outcome.step)
        assert (row.loss, row.validation_loss) == (outcome.loss, outcome.validation_loss)
        assert row.best_loss == min(step.loss for step in steps)
        assert steps[row.best_step - 1].loss == row.best_loss
        assert set(curves) == set(CURVES)
        for name in ("loss", "gradient_norm", "learning_rate"):
            np.testing.assert_array_equal(curves[name], [getattr(step, name) for step in steps], name)
        recorded = [math.nan if step.validation_loss is None else step.validation_loss for step in steps]
        np.testing.assert_array_equal(curves["validation_loss"], recorded)
        assert np.isfinite(curves["validation_loss"]).tolist() == [False, False, True, False, False, True, False]
    assert len({row.loss for row in comparison.rows}) == 6


def test_runs_follow_one_another():
    comparison = compare(sgd(0.1), "adam", steps=3)
    rows = []
    while not comparison.finished:
        rows.append(len(comparison.rows))
        comparison.advance()
    assert rows == [1, 1, 1, 2, 2, 2]


@every(
    ("every", "steps", "recorded"),
    [(1, 3, [1, 2, 3]), (3, 10, [1, 4, 7, 10]), (4, 10, [1, 5, 9, 10]), (50, 10, [1, 10]), (10, 10, [1, 10]),
     (7, 1, [1])],
)  # fmt: skip
def test_curves_have_the_steps_of_a_trace(every, steps, recorded):
    comparison = run(sgd(0.1), "adam", steps=steps, every=every)
    assert comparison.steps.tolist() == recorded
    for chosen, curves in zip((sgd(0.1), "adam"), comparison.curves, strict=True):
        records, _ = train(NETWORK, X, Y, chosen, steps=steps, every=every)
        assert [step.number for step, _ in records] == recorded
        np.testing.assert_array_equal(curves["loss"], [step.loss for step, _ in records])


def test_a_run_that_ends_early_leaves_its_curve_open():
    bound = train(NETWORK, X, Y, sgd(0.1), steps=12)[0][6].step.loss
    comparison = run(sgd(0.1), sgd(0.0), sgd(1e9), steps=12, every=4, stop={"loss_below": bound * (1.0 + 1e-12)})
    stopped, whole, diverged = comparison.rows
    assert comparison.steps.tolist() == [1, 5, 9, 12]
    assert stopped.status == "stopped" and 1 < stopped.steps_done <= 7
    assert (whole.status, whole.steps_done) == ("completed", 12)
    assert diverged.status == "diverged" and diverged.steps_done < 4
    for row, curves in zip(comparison.rows, comparison.curves, strict=True):
        recorded = comparison.steps <= row.steps_done
        np.testing.assert_array_equal(np.isfinite(curves["loss"]), recorded)
        np.testing.assert_array_equal(np.isfinite(curves["learning_rate"]), recorded)


def test_the_best_run_is_the_one_with_the_lowest_loss_in_the_end():
    comparison = run(sgd(0.0), sgd(0.1), sgd(0.01), steps=10)
    losses = [row.loss for row in comparison.rows]
    assert comparison.best == losses.index(min(losses)) == 1


def test_a_run_without_a_finite_loss_is_not_the_best():
    comparison = run(sgd(1e200), sgd(0.0), steps=1)
    assert not math.isfinite(comparison.rows[0].loss)
    assert comparison.rows[0].status == "diverged"
    assert comparison.best == 1
    comparison.rows[0].loss = math.nan
    assert comparison.best == 1
    assert run(sgd(1e200), steps=1).best is None


def test_a_comparison_that_is_cancelled():
    comparison = compare(sgd(0.1), "adam", "nadam", "lion", steps=5)
    for _ in range(7):
        comparison.advance()
    comparison.cancel("the time is over")
    assert comparison.finished
    first, second, *others = comparison.rows
    assert (first.status, first.steps_done) == ("completed", 5)
    assert (second.status, second.reason, second.steps_done) == ("cancelled", "the time is over", 2)
    assert second.loss == train(NETWORK, X, Y, "adam", steps=2)[1].loss
    assert [row.contender.optimizer.name for row in others] == ["nadam", "lion"]
    for row in others:
        assert (row.status, row.reason, row.steps_done, row.best_step) == ("cancelled", "the time is over", 0, 0)
        assert math.isnan(row.loss) and math.isnan(row.best_loss)
    assert [np.isfinite(curves["loss"]).sum() for curves in comparison.curves] == [5, 2, 0, 0]
    assert comparison.best in (0, 1)
    comparison.cancel("once more")
    assert len(comparison.rows) == 4 and second.reason == "the time is over"


def test_cancelled_before_the_first_step():
    comparison = compare(sgd(0.1), "adam", steps=5)
    comparison.cancel("no")
    assert [row.status for row in comparison.rows] == ["cancelled"] * 2
    assert len(comparison.curves) == 2
    assert comparison.rows[0].loss == train(NETWORK, X, Y, sgd(0.0), steps=1)[0][0].step.loss


def test_too_many_runs():
    with pytest.raises(LimitExceeded) as caught:
        compare("adam", seeds=range(MOST_TRAININGS + 1), steps=1)
    assert (caught.value.name, caught.value.asked, caught.value.allowed) == ("runs", MOST_TRAININGS + 1, MOST_TRAININGS)
    assert len(run("adam", seeds=range(MOST_TRAININGS), steps=1).rows) == MOST_TRAININGS


@every(
    ("limit", "enough", "asked"),
    [
        ("trace_elements", 4 * 3 * 6, 4 * 3 * 6),  # curves, runs, and steps 1, 3, 5, 7, 9, 10
        ("steps", 30, 30),
    ],
)
def test_all_runs_together_are_limited(limit, enough, asked):
    details = {"steps": 10, "every": 2}
    chosen = (sgd(0.1), "adam", "lion")
    assert len(run(*chosen, limits=Limits(**{limit: enough}), **details).rows) == 3
    pool = Counting()
    with pytest.raises(LimitExceeded) as caught:
        compare(*chosen, limits=Limits(**{limit: enough - 1}), compile=compiler(pool), **details)
    assert (caught.value.name, caught.value.asked, caught.value.allowed) == (limit, asked, enough - 1)
    assert pool.lent == 0 < pool.most


def test_the_work_of_all_runs_is_limited():
    running = training(NETWORK, X, Y, sgd(0.1), steps=10)
    work = running.cost.work(running.plan.recipe)
    running.close()
    assert len(run(sgd(0.1), sgd(0.2), steps=10, limits=Limits(operations=2 * work)).rows) == 2
    with pytest.raises(LimitExceeded) as caught:
        compare(sgd(0.1), sgd(0.2), steps=10, limits=Limits(operations=1.9 * work))
    assert caught.value.name == "operations"


def test_requests_that_do_not_fit_are_refused_before_anything_runs():
    pool = Counting()
    with pytest.raises(InvalidRequest) as caught:
        compare(sgd(0.1), "l_bfgs", steps=3, clip={"norm": 1.0}, compile=compiler(pool))
    assert [fault.path for fault in caught.value.faults] == [("clip",)]
    assert pool.most == 0


# --- memory ------------------------------------------------------------------------------------------------


def test_memory_is_given_back_after_each_run():
    pool = Counting()
    comparison = compare(sgd(0.1), "adam", sgd(1e9), steps=6, batch_size=4, validation=OTHERS, compile=compiler(pool))
    held = pool.lent  # programs of both sizes of batches, of all samples, and of validation
    assert held == 4
    while not comparison.finished:
        assert pool.lent == held
        comparison.advance()
    assert pool.lent == 0
    # Three runs used the memory of one. A Hessian explains why the last of them diverged.
    assert comparison.rows[-1].status == "diverged"
    assert pool.most == held + 1 == len(pool._idle)
    comparison.close()
    assert pool.lent == 0


def test_the_memory_of_a_comparison_is_that_of_its_largest_run():
    comparison = compare(sgd(0.1), "l_bfgs", "adam", steps=50)
    largest = training(NETWORK, X, Y, "l_bfgs", steps=50)
    smallest = training(NETWORK, X, Y, sgd(0.1), steps=50)
    assert comparison.nbytes == largest.cost.memory(largest.plan.recipe) > smallest.cost.memory(smallest.plan.recipe)
    for each in (comparison, largest, smallest):
        each.close()


@every("end", ["cancel", "close"])
def test_memory_is_given_back_at_every_end(end):
    pool = Counting()
    comparison = compare(sgd(0.1), "adam", steps=6, batch_size=4, compile=compiler(pool))
    comparison.advance()
    assert pool.lent == 3
    comparison.cancel("enough") if end == "cancel" else comparison.close()
    assert pool.lent == 0
    comparison.close()
    assert pool.lent == 0


def test_memory_is_given_back_when_a_later_run_cannot_start():
    pool = Counting()
    compile_ = compiler(pool)

    def start(contender):
        batches = [[0, 1]] if contender.seed == 0 else [[0, 99]]
        return training(NETWORK, X, Y, contender.optimizer, steps=2, batches=batches, compile=compile_)

    contenders = [Contender(optimizer("adam"), seed) for seed in (0, 1)]
    comparison = Comparison(contenders, recipe("adam"), start, ROOMY)
    comparison.advance()
    with pytest.raises(InvalidRequest):
        comparison.advance()
    comparison.close()
    assert pool.lent == 0


@every(
    "details",
    [
        {"steps": 5, "limits": Limits(operations=1.0)},
        {"steps": 5, "include": ("gradients",), "limits": Limits(trace_elements=10)},
        {"steps": 5, "task": {"frozen": ("hidden", "out")}},
    ],
)
def test_a_training_that_cannot_start_holds_no_memory(details):
    pool = Counting()
    with pytest.raises((InvalidRequest, LimitExceeded)):
        training(NETWORK, X, Y, "adam", compile=compiler(pool), **details)
    assert pool.lent == 0 < pool.most


def test_trainings_leave_nothing_in_the_memory_that_they_give_back():
    """Two trainings give the same one after the other, and step by step in turns."""
    compile_ = compiler(Counting())
    alone = [
        train(NETWORK, X, Y, each, steps=6, batch_size=4, compile=compiler(Counting()))[1] for each in ("adam", "lion")
    ]
    for _ in range(2):
        for each, wanted in zip(("adam", "lion"), alone, strict=True):
            assert_same_trees(
                train(NETWORK, X, Y, each, steps=6, batch_size=4, compile=compile_)[1].parameters, wanted.parameters
            )
    both = [training(NETWORK, X, Y, each, steps=6, batch_size=4, compile=compile_) for each in ("adam", "lion")]
    while not both[0].finished:
        for running in both:
            running.advance()
    for running, wanted in zip(both, alone, strict=True):
        outcome = running.outcome()
        running.close()
        assert_same_trees(outcome.parameters, wanted.parameters)
        assert outcome.loss == wanted.loss


def test_warnings_that_all_runs_share_are_given_once():
    details = {"loss": "binary_crossentropy", "parameters": {"o": {"kernel": [[0.0]] * 2, "bias": [1.5]}}}
    comparison = Comparison(
        [Contender(optimizer(chosen), 0) for chosen in (sgd(0.1), "adam")],
        recipe("sgd"),
        lambda contender: training(
            network(dense("o", 1)), np.ones((2, 2)), np.ones((2, 1)), contender.optimizer, steps=2, **details
        ),
        ROOMY,
    )
    while not comparison.finished:
        comparison.advance()
    assert [caution.code for caution in comparison.warnings] == ["no_probabilities"]
    for row in comparison.rows:
        assert "learning rate" not in row.reason
        assert "the outputs of layer 'o' are not all between 0 and 1" in row.reason
