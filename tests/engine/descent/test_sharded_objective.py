"""Trainings in shards: the steps of trainings without shards, equal bits whoever computes, checkpoints and warnings."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.engine.compiling import Compiler
from service.engine.descent.optimizers import optimizers
from service.engine.errors import Abandoned, DeadlineExceeded, InvalidRequest, LimitExceeded
from service.engine.limits import Limits
from service.engine.parallel import InTurn
from tests.engine.descent.building import assert_same_trees, finish, train, training
from tests.engine.network.building import dense, layer, network
from tests.engine.network.test_sharded import Others
from tests.support import every

RNG = np.random.default_rng(11)
X = RNG.standard_normal((10, 3))
Y = RNG.standard_normal((10, 2))
WEIGHTS = RNG.uniform(0.5, 2.0, 10)
NOISY = network(
    dense("hidden", 5, "tanh", kernel_regularizer={"name": "l2", "l2": 0.01}),
    layer("drop", "dropout", rate=0.4),
    layer("noise", "gaussian_noise", stddev=0.1),
    dense("out", 2),
)
SMALL = network(dense("hidden", 4, "tanh"), dense("out", 2))
VALIDATION = (RNG.standard_normal((5, 3)), RNG.standard_normal((5, 2)))


def assert_alike(ours, theirs, relative=1e-12):
    """Assert that the records and the end of two trainings agree."""
    for record, other in zip(ours[0], theirs[0], strict=True):
        for name, value in other.step._asdict().items():
            if value is not None:
                np.testing.assert_allclose(getattr(record.step, name), value, relative, err_msg=name)
        for name, value in other.more.items():
            if isinstance(value, dict) and name != "state":
                for own, tree in value.items():
                    for key, array in tree.items():
                        np.testing.assert_allclose(record.more[name][own][key], array, relative, relative)
    mine, other = ours[1], theirs[1]
    assert (mine.status, mine.reason, mine.step, mine.finite) == (other.status, other.reason, other.step, other.finite)
    assert mine.warnings == other.warnings
    np.testing.assert_allclose(mine.loss, other.loss, relative)
    if other.validation_loss is not None:
        np.testing.assert_allclose(mine.validation_loss, other.validation_loss, relative)
    for name, tree in other.parameters.items():
        for key, array in tree.items():
            np.testing.assert_allclose(mine.parameters[name][key], array, relative, relative)


def told(records):
    """Return what the records say of loss, learning rate and gradient norm."""
    return [each.step[:6] for each in records]


@every(
    "plan",
    [
        {},
        {"batch_size": 4},
        {"batch_size": 4, "weights": WEIGHTS, "task": {"normalize_weights": True}},
        {"batches": [[0, 3, 5], [9, 8], [1, 2, 4, 6, 7]], "weights": WEIGHTS, "task": {"reduction": "sum"}},
        {"validation": VALIDATION, "task": {"frozen": ("hidden.bias",)}},
        {"batch_size": 3, "validation": VALIDATION, "schedule": {"name": "plateau", "patience": 1}},
    ],
)
def test_a_training_in_shards_makes_the_steps_of_one_without(plan):
    asked = {"parameters": None, "seed": 5, "epochs": 3, "include": ("gradients", "parameters"), **plan}
    theirs = train(NOISY, X, Y, {"name": "adam", "learning_rate": 0.05}, **asked)
    for size in (1, 2, 4, 100):
        assert_alike(train(NOISY, X, Y, {"name": "adam", "learning_rate": 0.05}, shards=size, **asked), theirs)


@every("declaration", optimizers, ids=lambda declaration: declaration.name)
def test_every_optimizer_trains_in_shards(declaration):
    steps = 1 if declaration.second_order else 4  # the steps of Newton's method make rounding errors much larger
    theirs = train(SMALL, X, Y, declaration.name, steps=steps, seed=1)
    assert_alike(train(SMALL, X, Y, declaration.name, steps=steps, seed=1, shards=3), theirs, 1e-9)


def test_the_bits_do_not_depend_on_who_computes():
    asked = {"epochs": 2, "seed": 2, "shards": 2, "validation": VALIDATION}
    for plan in ({"batch_size": 7}, {}):
        records, outcome = train(NOISY, X, Y, "adam", **asked, **plan)
        with ThreadPoolExecutor(3) as threads:
            for width, executor in ((1, InTurn()), (2, threads), (3, threads)):
                others = Others(executor, width)
                again, end = train(NOISY, X, Y, "adam", spread=others, **asked, **plan)
                assert others.spans
                assert told(again) == told(records)
                assert (end.loss, end.validation_loss) == (outcome.loss, outcome.validation_loss)
                assert_same_trees(end.parameters, outcome.parameters)


def test_a_training_goes_on_from_its_checkpoint_with_the_same_bits():
    whole, end = train(NOISY, X, Y, "adam", steps=6, batch_size=4, shards=3)
    first, middle = train(NOISY, X, Y, "adam", steps=2, batch_size=4, shards=3)
    rest, last = train(NOISY, X, Y, "adam", steps=4, batch_size=4, shards=3, checkpoint=middle.checkpoint)
    assert told(first + rest) == told(whole)
    assert_same_trees(last.parameters, end.parameters)
    assert last.loss == end.loss


def test_a_training_goes_on_from_what_it_saved_with_the_same_bits():
    asked = {"steps": 6, "batch_size": 4, "shards": 3, "validation": VALIDATION}
    whole, end = train(NOISY, X, Y, "adam", **asked)
    first = training(NOISY, X, Y, "adam", **asked)
    records = [first.advance(), first.advance()]
    second = training(NOISY, X, Y, "adam", **asked)
    second.restore(first.saved())
    first.close()
    rest, last = finish(second)
    assert told(records + rest) == told(whole)
    assert_same_trees(last.parameters, end.parameters)
    assert last.loss == end.loss


def test_dead_units_and_misread_outputs_are_told_as_without_shards():
    dead = network(dense("hidden", 3, "relu"), dense("out", 2))
    parameters = {
        "hidden": {"kernel": RNG.standard_normal((3, 3)), "bias": [0.0, -100.0, 0.5]},
        "out": {"kernel": RNG.standard_normal((3, 2)), "bias": [0.0, 0.0]},
    }
    codes = {"mean_squared_error": "dead_units", "categorical_crossentropy": "no_probabilities"}
    for loss, code in codes.items():
        asked = {"parameters": parameters, "steps": 2, "loss": loss, "weights": [2.0] * 10}
        for plan in ({}, {"batch_size": 4}):
            theirs = train(dead, X, Y, "sgd", **asked, **plan)
            if not plan:
                assert {each.code for each in theirs[1].warnings} >= {code, "normalize_weights"}
            assert_alike(train(dead, X, Y, "sgd", shards=3, **asked, **plan), theirs)


@every("value", [1e200, 1e-300])
def test_a_training_that_diverges_says_why_as_without_shards(value):
    inputs = X.copy()
    inputs[7, 1] = 1e308
    parameters = {
        "hidden": {"kernel": np.full((3, 4), 10.0 if value > 1.0 else value), "bias": np.zeros(4)},
        "out": {"kernel": np.full((4, 2), value), "bias": np.zeros(2)},
    }
    linear = network(dense("hidden", 4), dense("out", 2))
    _, theirs = train(linear, inputs, Y, "sgd", steps=3, parameters=parameters)
    _, ours = train(linear, inputs, Y, "sgd", steps=3, parameters=parameters, shards=3)
    assert (ours.status, ours.reason, ours.warnings) == (theirs.status, theirs.reason, theirs.warnings)
    assert ours.status == "diverged" or value < 1.0


def test_a_rate_that_is_too_high_is_compared_with_the_curvature_of_the_whole_batch():
    asked = {"steps": 60, "seed": 3}
    theirs = train(SMALL, 30.0 * X, Y, {"name": "sgd", "learning_rate": 1e5}, **asked)
    ours = train(SMALL, 30.0 * X, Y, {"name": "sgd", "learning_rate": 1e5}, shards=4, **asked)
    assert theirs[1].status == "diverged"
    assert ours[1].reason == theirs[1].reason


class Late:
    """A watch whose time is over at the n-th look."""

    def __init__(self, looks, error=DeadlineExceeded):
        self.left, self.error = looks, error

    def look(self):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return 0.0


def test_a_step_that_the_time_ends_between_two_shards_is_undone():
    running = training(SMALL, X, Y, "adam", steps=50, shards=1, watch=Late(35))
    records, outcome = finish(running)
    assert outcome.status == "cancelled"
    assert outcome.reason == "the time ran out in the middle of a step"
    assert len(records) == 3
    _, after = train(SMALL, X, Y, "adam", steps=3, shards=1)
    assert_same_trees(outcome.parameters, after.parameters)
    assert outcome.loss == after.loss
    with pytest.raises(Abandoned):
        finish(training(SMALL, X, Y, "adam", steps=50, shards=1, watch=Late(35, Abandoned)))


def test_shards_need_the_memory_of_a_shard():
    wide = network(dense("hidden", 64, "tanh"), dense("out", 1))
    inputs = RNG.standard_normal((1000, 8))
    needed = []
    for size in (None, 50):
        running = training(wide, inputs, inputs[:, :1], steps=1, reserve=needed.append, shards=size)
        running.close()
    assert needed[3] < needed[1] / 5
    limits = Limits(workspace_bytes=needed[0] // 5)
    with pytest.raises(LimitExceeded, match="workspace_bytes"):
        training(wide, inputs, inputs[:, :1], steps=1, compile=Compiler(limits, 10**12), limits=limits)
    _, whole = train(wide, inputs, inputs[:, :1], steps=2)
    _, outcome = train(wide, inputs, inputs[:, :1], steps=2, compile=Compiler(limits, 10**12), limits=limits, shards=50)
    np.testing.assert_allclose(outcome.loss, whole.loss, rtol=1e-13)


def test_what_shards_do_not_allow_is_refused_at_its_place():
    norm = network(layer("norm", "batch_normalization"), dense("out", 2))
    with pytest.raises(InvalidRequest) as refusal:
        training(norm, X, Y, steps=1, shards=4)
    assert [fault.path for fault in refusal.value.faults] == [("shards",)]
    assert train(norm, X, Y, steps=1, shards=4, task={"training": False})[1].step == 1
    with pytest.raises(InvalidRequest) as refusal:
        training(SMALL, X, Y, steps=1, shards=4, validation=(np.ones((5, 4)), np.ones((5, 2))))
    assert refusal.value.faults[0].path == ("validation", "inputs")
    with pytest.raises(InvalidRequest) as refusal:
        training(SMALL, X, Y, steps=1, shards=4, validation=(np.ones((5, 3)), np.ones((4, 2))))
    assert refusal.value.faults[0].path == ("validation", "targets", "out")
