"""Losses at many points at once against one run of `/v1/gradients`' own program at each of them."""

import numpy as np
import pytest

from service.engine.errors import DeadlineExceeded, LimitExceeded
from service.engine.insight import grid as module
from service.engine.insight.grid import GridTask
from service.engine.limits import Limits
from service.engine.network.evaluate import compile_task
from service.engine.network.feed import Feed
from service.engine.network.flat import tree_of
from tests.engine.network.building import ROOMY, dense, layer, network, task_for
from tests.support import every
from tests.watches import Looks

RANDOM = np.random.default_rng(4)
NETWORKS = {
    "dense": (network(dense("a", 4, "tanh"), dense("b", 3, "softmax")), (5, 3), "categorical_crossentropy"),
    "convolution": (
        network(
            layer("c", "conv2d", filters=2, kernel_size=[2, 2], activation="relu"),
            layer("p", "max_pooling2d", pool_size=[2, 2]),
            layer("f", "flatten"),
            dense("d", 2),
        ),
        (2, 5, 5, 1),
        "mean_squared_error",
    ),
    "normalization in training": (
        network(dense("a", 3), layer("n", "batch_normalization"), layer("o", "dropout", rate=0.4), dense("b", 2)),
        (6, 4),
        "mean_squared_error",
    ),
    "recurrent": (network(layer("r", "lstm", units=3), dense("b", 2)), (2, 4, 3), "mean_squared_error"),
    "attention": (
        network(layer("m", "multi_head_attention", num_heads=2, key_dim=2), layer("f", "flatten"), dense("b", 2)),
        (2, 3, 4),
        "mean_squared_error",
    ),
}


class Case:
    """A network with numbers, its evaluation, and two directions."""

    def __init__(self, name, dtype="float64"):
        definition, shape, loss = NETWORKS[name]
        inputs = RANDOM.standard_normal(shape)
        size = 3 if loss == "categorical_crossentropy" else 2
        targets = np.eye(size)[RANDOM.integers(0, size, shape[0])]
        training = "training" in name
        self.task = task_for(definition, inputs, loss, targets, dtype=dtype, training=training)
        self.evaluation = compile_task(self.task, ROOMY)
        self.vector = self.evaluation.feeder.parameters
        self.size = max(part.stop for part in self.vector.pieces)
        self.base = RANDOM.standard_normal(self.size) * 0.5
        for part in self.vector.pieces:
            if "variance" in part.name:
                self.base[part.start : part.stop] = 1.0
        self.directions = np.zeros((2, self.size))
        self.directions[:, : self.vector.trained_size] = RANDOM.standard_normal((2, self.vector.trained_size))
        self.output = definition.output_names[0]
        self.feed = Feed({"input": inputs}, None, {self.output: targets}, seed=3)

    def names(self, wanted=lambda part: True):
        return tuple(
            f"{part.layer}.{part.name}"
            for part in sorted(self.vector.pieces, key=lambda part: part.start)
            if wanted(part)
        )

    def run(self, order, coordinates, names=None, limits=ROOMY, watch=None):
        task = GridTask(self.task, names or self.names(), 2, len(coordinates), order)
        return task.compile(limits).run(self.feed, self.base, self.directions, coordinates, watch)

    def alone(self, at):
        """Compute the loss and the gradient at one point."""
        self.feed.parameters = tree_of(self.vector.pieces, self.base + at @ self.directions)
        found = self.evaluation.run(self.feed)
        gradient = np.zeros(self.size)
        for part in self.vector.trained:
            gradient[part.start : part.stop] = found.gradients[part.layer][part.name].ravel()
        return float(found.loss), gradient


@pytest.mark.parametrize("name", NETWORKS)
def test_losses_and_slopes_are_those_of_single_runs(name, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 40_000)  # several blocks, the last one shorter
    case = Case(name)
    coordinates = RANDOM.uniform(-1, 1, (23, 2))
    found = case.run(1, coordinates)
    assert found.caution is None
    for place, at in enumerate(coordinates):
        loss, gradient = case.alone(at)
        assert found.losses[place] == pytest.approx(loss, rel=1e-13)
        np.testing.assert_allclose(found.slopes[place], case.directions @ gradient, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(case.run(0, coordinates).losses, found.losses)


@every("name", NETWORKS)
def test_second_derivatives_are_differences_of_slopes(name):
    case = Case(name)
    at = np.array([0.3, -0.2])
    found = case.run(2, at[None])
    step = 1e-5
    for axis in range(2):
        away = step * np.eye(2)[axis]
        up, down = (case.directions @ case.alone(at + sign * away)[1] for sign in (1, -1))
        np.testing.assert_allclose(found.curvatures[0, axis], (up - down) / (2 * step), rtol=1e-5, atol=1e-7)


def test_nodes_that_do_not_move_are_computed_once():
    case = Case("dense")
    last = case.names(lambda part: part.layer == "b")
    whole = GridTask(case.task, case.names(), 2, 100).compile(ROOMY)
    part = GridTask(case.task, last, 2, 100).compile(ROOMY)
    assert part.work < 0.8 * whole.work
    case.directions[
        :, [n for each in case.vector.pieces if each.layer == "a" for n in range(each.start, each.stop)]
    ] = 0.0
    coordinates = RANDOM.uniform(-1, 1, (9, 2))
    np.testing.assert_allclose(
        case.run(1, coordinates, last).slopes, case.run(1, coordinates).slopes, rtol=1e-12, atol=1e-15
    )


def test_float32_is_computed_in_float32():
    case = Case("dense", "float32")
    coordinates = RANDOM.uniform(-1, 1, (5, 2))
    found = case.run(1, coordinates)
    assert found.losses.dtype == found.slopes.dtype == np.float32
    for place, at in enumerate(coordinates):
        assert found.losses[place] == pytest.approx(case.alone(at)[0], rel=1e-5)


def test_values_that_are_not_finite_are_reported():
    case = Case("dense")
    found = case.run(1, np.array([[0.0, 0.0], [1e308, 1e308]]))
    assert np.isfinite(found.losses[0])
    assert not np.isfinite(found.slopes[1]).all() or not np.isfinite(found.losses[1])
    assert found.caution is not None and found.caution.code == "non_finite"


def test_a_network_with_nothing_to_learn_from_has_a_flat_landscape():
    definition = network(dense("a", 1, "step"))
    inputs, targets = np.ones((3, 2)), np.ones((3, 1))
    task = task_for(definition, inputs, "mean_squared_error", targets)
    grid = GridTask(task, ("a.kernel",), 1, 4, 2).compile(ROOMY)
    feed = Feed({"input": inputs}, None, {"a": targets})
    found = grid.run(feed, np.ones(3), np.array([[1.0, 0.0, 0.0]]), np.linspace(0, 1, 4)[:, None])
    assert not found.slopes.any() and not found.curvatures.any() and not found.losses.any()


def test_time_and_work_are_bounded():
    case = Case("dense")
    coordinates = np.zeros((50, 2))
    with pytest.raises(DeadlineExceeded):
        case.run(1, coordinates, watch=Looks(3))
    with pytest.raises(LimitExceeded):
        case.run(1, coordinates, limits=Limits(operations=1000))
