"""Batches of a training: mini-batches in an order from the seed, listed batches, and the count of steps."""

import itertools

import numpy as np
import pytest

from service.engine.descent.batches import MiniBatches
from service.engine.descent.training_plan import MOST_BATCH_SIZES
from service.engine.errors import InvalidRequest, LimitExceeded
from tests.engine.descent.building import assert_same_trees, train
from tests.engine.network.building import dense, evaluate, network
from tests.support import every

RNG = np.random.default_rng(7)
X = RNG.standard_normal((10, 3))
Y = RNG.standard_normal((10, 2))
SMALL = network(dense("hidden", 4, "tanh"), dense("out", 2))
SGD = {"name": "sgd", "learning_rate": 0.1}


def batches_of(steps, **plan):
    records, outcome = train(SMALL, X, Y, SGD, steps=steps, include=("batch",), **plan)
    return [more["batch"].tolist() for _, more in records], outcome


def joined(batches):
    return list(itertools.chain.from_iterable(batches))


def test_each_epoch_has_each_sample_once_in_an_order_of_its_own():
    batches, _ = batches_of(12, batch_size=3)
    assert [len(rows) for rows in batches] == [3, 3, 3, 1] * 3
    epochs = [joined(batches[start : start + 4]) for start in (0, 4, 8)]
    assert all(sorted(order) == list(range(10)) for order in epochs)
    assert len({tuple(order) for order in epochs}) == 3
    assert list(range(10)) not in epochs


def test_orders_come_from_the_seed_alone():
    batches, _ = batches_of(12, batch_size=3, seed=5)
    assert batches == batches_of(12, batch_size=3, seed=5)[0]
    assert batches != batches_of(12, batch_size=3, seed=6)[0]
    # The order does not depend on the size of batches either.
    assert joined(batches_of(5, batch_size=2, seed=5)[0]) == joined(batches[:4])


def test_orders_have_a_stream_of_random_numbers_of_their_own():
    """The same request must give the same bytes for ever, so the stream is fixed."""
    rows = MiniBatches(6, 4, 12, shuffle=True)
    for epoch in range(3):
        order = np.random.Generator(np.random.PCG64([12, 2, epoch])).permutation(6)
        assert [*rows.rows(2 * epoch), *rows.rows(2 * epoch + 1)] == order.tolist()


def test_any_step_may_be_asked_for_at_any_time():
    forth = MiniBatches(10, 3, 4, shuffle=True)
    rows = [forth.rows(step).tolist() for step in range(40)]
    back = MiniBatches(10, 3, 4, shuffle=True)
    assert [back.rows(step).tolist() for step in reversed(range(40))] == rows[::-1]


def test_without_shuffling_samples_keep_their_order():
    assert batches_of(5, batch_size=4, shuffle=False)[0] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3], [4, 5, 6, 7]
    ]  # fmt: skip


@every("size", [None, 10, 11, 1000])
def test_a_batch_of_all_samples_is_the_full_batch(size):
    records, outcome = train(SMALL, X, Y, SGD, steps=3, batch_size=size, include=("batch",))
    assert [more["batch"].tolist() for _, more in records] == [list(range(10))] * 3
    assert [step.epoch for step, _ in records] == [1, 2, 3]
    assert_same_trees(outcome.parameters, train(SMALL, X, Y, SGD, steps=3)[1].parameters)


def test_listed_batches_repeat():
    listed = [[3, 0], [5], [2, 4, 2]]
    batches, outcome = batches_of(7, batches=listed)
    assert batches == [*listed, *listed, listed[0]]
    assert outcome.epoch == 3


def test_a_listed_sample_counts_as_often_as_it_is_listed():
    (record,), _ = train(SMALL, X, Y, SGD, steps=1, batches=[[2, 4, 2]], include=("gradients",))
    parameters = train(SMALL, X, Y, {"name": "sgd", "learning_rate": 0.0}, steps=1)[1].parameters
    wanted = evaluate(SMALL, X[[2, 4, 2]], parameters, "mean_squared_error", Y[[2, 4, 2]], training=True)
    assert record.step.loss == float(wanted.loss)
    assert_same_trees(record.more["gradients"], wanted.gradients)


@every(
    ("plan", "steps", "epochs"),
    [
        ({"epochs": 3}, 3, [1, 2, 3]),
        ({"epochs": 2, "batch_size": 4}, 6, [1, 1, 1, 2, 2, 2]),
        ({"epochs": 2, "batches": [[0], [1, 2]]}, 4, [1, 1, 2, 2]),
        ({"steps": 4, "batch_size": 4}, 4, [1, 1, 1, 2]),
    ],
)
def test_steps_and_epochs(plan, steps, epochs):
    records, outcome = train(SMALL, X, Y, SGD, **plan)
    assert [step.number for step, _ in records] == list(range(1, steps + 1))
    assert [step.epoch for step, _ in records] == epochs
    assert (outcome.status, outcome.step, outcome.epoch) == ("completed", steps, epochs[-1])
    assert outcome.reason == f"all {steps} steps are done"


def test_listed_indices_have_to_exist():
    with pytest.raises(InvalidRequest) as caught:
        train(SMALL, X, Y, SGD, steps=2, batches=[[0, 9], [1, 10, -3], [-1]])
    assert [(fault.path, fault.detail) for fault in caught.value.faults] == [
        (("batches", 1, 1), "takes the index of a sample, from 0 to 9, got 10"),
        (("batches", 2, 0), "takes the index of a sample, from 0 to 9, got -1"),
    ]


def test_batches_of_too_many_sizes():
    sizes = [[0] * (1 + size) for size in range(MOST_BATCH_SIZES)]
    assert train(SMALL, X, Y, SGD, steps=1, batches=sizes)[1].status == "completed"
    with pytest.raises(LimitExceeded) as caught:
        train(SMALL, X, Y, SGD, steps=1, batches=[*sizes, [0] * 50])
    assert caught.value.args == (f"different batch sizes: {MOST_BATCH_SIZES + 1} asked, {MOST_BATCH_SIZES} allowed",)
    assert caught.value.path == ("batches",)
