"""Trainings of networks: steps on batches, frozen and carried parameters, validation, the trace and the outcome."""

import math

import numpy as np
import pytest

from service.engine.descent.cost import MOST_SECOND_ORDER, SCALARS
from service.engine.descent.optimizers import optimizers
from service.engine.descent.trace import TRACED
from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.limits import Limits
from service.engine.network.feed import Feed
from tests.engine.descent.building import assert_same_trees, finish, train, training
from tests.engine.network.building import as_arrays, by_input, by_output, compiled, dense, evaluate, layer, network
from tests.support import every

RNG = np.random.default_rng(7)
X = RNG.standard_normal((10, 3))
Y = RNG.standard_normal((10, 2))
SMALL = network(dense("hidden", 4, "tanh"), dense("out", 2))
NOISY = network(
    dense("hidden", 5, "tanh"),
    layer("norm", "batch_normalization", momentum=0.8),
    layer("drop", "dropout", rate=0.4),
    dense("out", 2, kernel_regularizer={"name": "l2", "l2": 0.1}),
)
SGD = {"name": "sgd", "learning_rate": 0.1}
ADAM = {"name": "adam", "learning_rate": 0.05}


# --- the whole, against plain NumPy ----------------------------------------------------------------


def by_hand(parameters, x, y):
    """Compute loss and gradients of tanh, sigmoid and softmax layers with cross-entropy, by backpropagation."""
    w1, b1, w2, b2, w3, b3 = parameters
    a1 = np.tanh(x @ w1 + b1)
    a2 = 1.0 / (1.0 + np.exp(-(a1 @ w2 + b2)))
    z3 = a2 @ w3 + b3
    e = np.exp(z3)
    p = e / e.sum(1, keepdims=True)
    loss = -(y * np.log(p)).sum(1).mean()
    d3 = (p - y) / len(x)
    d2 = d3 @ w3.T * a2 * (1.0 - a2)
    d1 = d2 @ w2.T * (1.0 - a1 * a1)
    return loss, [x.T @ d1, d1.sum(0), a1.T @ d2, d2.sum(0), a2.T @ d3, d3.sum(0)]


@every("batch_size", [None, 4])
def test_ten_steps_are_those_of_plain_numpy(batch_size):
    definition = network(dense("a", 5, "tanh"), dense("b", 4, "sigmoid"), dense("c", 3, "softmax"))
    names = [(name, own) for name in "abc" for own in ("kernel", "bias")]
    shapes = [(3, 5), (5,), (5, 4), (4,), (4, 3), (3,)]
    start = [RNG.standard_normal(shape) for shape in shapes]
    parameters = {name: {} for name in "abc"}
    for (name, own), array in zip(names, start, strict=True):
        parameters[name][own] = array
    targets = np.eye(3)[RNG.integers(3, size=10)]
    records, outcome = train(
        definition, X, targets, {"name": "sgd", "learning_rate": 0.5}, "categorical_crossentropy",
        parameters=parameters, batch_size=batch_size, steps=10, include=("gradients", "parameters", "batch"),
    )  # fmt: skip
    assert len(records) == 10
    now = start
    for step, more in records:
        rows = more["batch"]
        loss, gradients = by_hand(now, X[rows], targets[rows])
        now = [array - 0.5 * gradient for array, gradient in zip(now, gradients, strict=True)]
        np.testing.assert_allclose(step.loss, loss, rtol=1e-12)
        norm = math.sqrt(sum(np.sum(gradient**2) for gradient in gradients))
        np.testing.assert_allclose(step.gradient_norm, norm, rtol=1e-12)
        for (name, own), gradient, array in zip(names, gradients, now, strict=True):
            np.testing.assert_allclose(more["gradients"][name][own], gradient, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(more["parameters"][name][own], array, rtol=1e-12, atol=1e-14)
    assert_same_trees(outcome.parameters, records[-1].more["parameters"])
    np.testing.assert_allclose(outcome.loss, by_hand(now, X, targets)[0], rtol=1e-12)
    assert outcome.loss < records[0].step.loss


# --- each step is an evaluation of its batch ----------------------------------------------------------


def assert_steps_are_evaluations(definition, inputs, targets, loss, weights=None, seed=3, steps=9, task=None, **plan):
    """Assert that each step has the loss, gradients and carried state of `evaluate` on its samples, bit by bit."""
    details = {"training": True, **(task or {})}
    dtype = details.get("dtype", "float64")
    records, outcome = train(
        definition, inputs, targets, SGD, loss, weights=weights, seed=seed, steps=steps, task=task,
        include=("gradients", "parameters", "batch"), **plan,
    )  # fmt: skip
    inputs, targets = by_input(definition, inputs), by_output(definition, targets)
    now = train(
        definition, inputs, targets, {"name": "sgd", "learning_rate": 0.0}, loss, weights=weights, seed=seed, steps=1,
        task=details | {"training": False},
    )[1].parameters  # fmt: skip

    def evaluated(rows, step):
        some = {name: array[rows] for name, array in inputs.items()}
        wanted = {name: array[rows] for name, array in targets.items()}
        counted = None if weights is None else np.asarray(weights, dtype)[rows]
        evaluation = compiled(definition, some, loss, targets=wanted, weights=counted, **details)
        return evaluation.run(Feed(some, as_arrays(now, dtype), wanted, counted, seed, step))

    for step, more in records:
        result = evaluated(more["batch"], step.number - 1)
        assert step.loss == float(result.loss), step
        assert step.gradient_norm == result.gradient_norm
        assert_same_trees(more["gradients"], result.gradients)
        for name, arrays in now.items():
            for own, array in arrays.items():
                if own in result.gradients.get(name, {}):
                    wanted = array - 0.1 * result.gradients[name][own]
                else:
                    wanted = (result.state or {}).get(name, {}).get(own, array)
                np.testing.assert_array_equal(more["parameters"][name][own], wanted, f"{name}.{own}", strict=True)
        now = more["parameters"]
    assert len(records) == steps
    everything = evaluated(np.arange(len(next(iter(inputs.values())))), steps)
    np.testing.assert_allclose(outcome.loss, float(everything.loss), rtol=1e-6 if dtype == "float32" else 1e-13)
    assert_same_trees(outcome.parameters, now)
    return records, outcome


@every("dtype", ["float64", "float32"])
@every("batch_size", [None, 4])
@every("definition", [SMALL, NOISY], ids=["small", "noisy"])
def test_steps_are_evaluations(definition, batch_size, dtype):
    assert_steps_are_evaluations(definition, X, Y, "mean_squared_error", batch_size=batch_size, task={"dtype": dtype})


def test_steps_are_evaluations_of_listed_batches():
    assert_steps_are_evaluations(NOISY, X, Y, "mean_squared_error", batches=[[3, 0], [1, 2, 3, 4, 5, 6], [9, 8]])


@every("reduction", ["mean", "sum"])
@every("normalize_weights", [False, True])
def test_weights_of_samples_go_with_their_samples(normalize_weights, reduction):
    weights = np.linspace(0.1, 3.0, 10)
    task = {"normalize_weights": normalize_weights, "reduction": reduction}
    records, _ = assert_steps_are_evaluations(
        SMALL, X, Y, "mean_squared_error", weights=weights, batch_size=3, task=task
    )
    assert records[0].step.loss != train(SMALL, X, Y, SGD, batch_size=3, steps=1, seed=3)[0][0].step.loss


@every("dtype", ["float64", "float32"])
def test_class_indices_and_embeddings(dtype):
    definition = network(
        layer("words", "embedding", input_dim=6, output_dim=3), layer("flat", "flatten"), dense("out", 4, "softmax")
    )
    words = RNG.integers(6, size=(11, 2))
    classes = RNG.integers(4, size=11)
    records, _ = assert_steps_are_evaluations(
        definition, words, classes, "sparse_categorical_crossentropy", batch_size=4, task={"dtype": dtype}
    )
    # Only vectors of words in the batch can have a gradient.
    for _, more in records:
        gradient = more["gradients"]["words"]["embeddings"]
        assert set(np.flatnonzero(gradient.any(1))) <= set(words[more["batch"]].ravel())


def test_several_inputs_and_outputs():
    definition = network(
        dense("left", 3, "tanh", inputs=["numbers"]),
        layer("words", "embedding", input_dim=5, output_dim=3, inputs=["word"]),
        layer("both", "add", inputs=["left", "words"]),
        dense("value", 2, inputs=["both"]),
        dense("class", 3, "softmax", inputs=["both"]),
        outputs=["value", "class"],
        inputs=["numbers", "word"],
    )
    inputs = {"numbers": X, "word": RNG.integers(5, size=10)}
    targets = {"value": Y, "class": RNG.integers(3, size=10)}
    loss = {"value": "mean_squared_error", "class": "sparse_categorical_crossentropy"}
    assert_steps_are_evaluations(
        definition, inputs, targets, loss, weights=np.linspace(0.5, 2.0, 10), batch_size=4,
        task={"loss_weights": (0.3, 2.0)},
    )  # fmt: skip


def test_indices_that_are_none_are_found_in_all_samples():
    definition = network(
        layer("words", "embedding", input_dim=4, output_dim=2), layer("flat", "flatten"), dense("out", 1)
    )
    words = np.array([[0], [1], [2], [3], [4]])
    with pytest.raises(InvalidRequest) as caught:
        train(definition, words, np.zeros((5, 1)), SGD, steps=1, batches=[[0, 1]])
    assert [fault.path for fault in caught.value.faults] == [("inputs", "input", 4, 0)]


# --- what changes beside the gradient ------------------------------------------------------------------


def test_moving_averages_are_carried_from_step_to_step():
    definition = network(layer("norm", "batch_normalization", momentum=0.7), dense("out", 2))
    mean, variance = np.zeros(3), np.ones(3)
    records, outcome = train(
        definition, X, Y, SGD, batch_size=4, epochs=3, include=("parameters", "batch", "gradients", "updates")
    )
    assert {len(more["batch"]) for _, more in records} == {4, 2}
    for _, more in records:
        rows = X[more["batch"]]
        mean = 0.7 * mean + 0.3 * rows.mean(0)
        variance = 0.7 * variance + 0.3 * rows.var(0)
        np.testing.assert_allclose(more["parameters"]["norm"]["moving_mean"], mean, rtol=1e-12)
        np.testing.assert_allclose(more["parameters"]["norm"]["moving_variance"], variance, rtol=1e-12)
        assert set(more["gradients"]["norm"]) == set(more["updates"]["norm"]) == {"gamma", "beta"}
    np.testing.assert_allclose(outcome.parameters["norm"]["moving_mean"], mean, rtol=1e-12)
    assert {"gamma", "beta", "moving_mean", "moving_variance"} == set(outcome.checkpoint.parameters["norm"])


def test_each_step_draws_masks_of_its_own():
    """With a learning rate of 0, only the masks differ between steps."""
    definition = network(layer("drop", "dropout", rate=0.5), dense("out", 2))
    still = {"name": "sgd", "learning_rate": 0.0}
    records, outcome = train(definition, X, Y, still, steps=5, seed=8)
    losses = [step.loss for step, _ in records]
    assert len(set(losses)) == 5
    assert losses == [step.loss for step, _ in train(definition, X, Y, still, steps=5, seed=8)[0]]
    assert losses[0] != train(definition, X, Y, still, steps=1, seed=9, parameters=outcome.parameters)[0][0].step.loss
    # The first step gives what an evaluation with training on gives.
    seen = evaluate(definition, X, outcome.parameters, "mean_squared_error", Y, seed=8, training=True)
    assert losses[0] == float(seen.loss)
    # The loss at the end is that of a sixth step.
    assert outcome.loss == train(definition, X, Y, still, steps=6, seed=8)[0][5].step.loss


def test_without_training_there_are_no_masks():
    definition = network(layer("drop", "dropout", rate=0.5), dense("out", 2))
    records, outcome = train(definition, X, Y, {"name": "sgd", "learning_rate": 0.0}, steps=3, task={"training": False})
    assert len({step.loss for step, _ in records} | {outcome.loss}) == 1


@every(
    ("frozen", "fixed"),
    [
        (("hidden",), {("hidden", "kernel"), ("hidden", "bias")}),
        (("hidden.kernel",), {("hidden", "kernel")}),
        (("hidden.bias", "out.kernel"), {("hidden", "bias"), ("out", "kernel")}),
    ],
)
@every("chosen", [SGD, "adamw", "l_bfgs"])
def test_frozen_parameters_stay(frozen, fixed, chosen):
    details = {"steps": 4, "seed": 2, "task": {"frozen": frozen}}
    start = train(SMALL, X, Y, {"name": "sgd", "learning_rate": 0.0}, **details)[1].parameters
    include = ("gradients", "updates", "state", "parameters", "effective_learning_rate")
    records, outcome = train(SMALL, X, Y, chosen, include=include, **details)
    everything = {(name, own) for name, arrays in start.items() for own in arrays}
    recorded = {(name, own) for name, arrays in records[0].more["gradients"].items() for own in arrays}
    assert recorded == everything - fixed
    assert_same_trees(
        {name: {own: array.shape for own, array in arrays.items()} for name, arrays in
         records[-1].more["updates"].items()},
        {name: {own: array.shape for own, array in arrays.items()} for name, arrays in
         records[-1].more["gradients"].items()},
    )  # fmt: skip
    for name, own in everything:
        same = np.array_equal(outcome.parameters[name][own], start[name][own])
        assert same == ((name, own) in fixed), (name, own)


def test_frozen_parameters_have_no_part_in_the_gradient_norm():
    (record, *_), _ = train(SMALL, X, Y, SGD, steps=1, include=("gradients",), task={"frozen": ("hidden",)})
    arrays = record.more["gradients"]["out"].values()
    assert record.step.gradient_norm == pytest.approx(math.sqrt(sum(np.sum(array**2) for array in arrays)), rel=1e-14)


def test_layers_that_share_parameters_are_frozen_together():
    definition = network(
        dense("a", 3, "tanh"), dense("b", 3, "tanh", shares="a"), dense("c", 3, "tanh"), dense("out", 2)
    )
    records, outcome = train(definition, X, Y, SGD, steps=3, task={"frozen": ("a",)}, include=("gradients",))
    assert set(records[0].more["gradients"]) == {"c", "out"}
    start = train(definition, X, Y, {"name": "sgd", "learning_rate": 0.0}, steps=1)[1].parameters
    assert set(start) == {"a", "c", "out"}
    np.testing.assert_array_equal(outcome.parameters["a"]["kernel"], start["a"]["kernel"])
    with pytest.raises(InvalidRequest) as caught:
        train(definition, X, Y, SGD, steps=3, task={"frozen": ("out", "b", "a.gamma")})
    assert [fault.path for fault in caught.value.faults] == [("frozen", 1), ("frozen", 2)]


def test_a_layer_that_is_not_trainable_stays():
    definition = network(dense("hidden", 4, "tanh", trainable=False), dense("out", 2))
    records, _ = train(definition, X, Y, SGD, steps=2, include=("gradients",))
    assert set(records[0].more["gradients"]) == {"out"}


def test_a_training_needs_trained_parameters():
    with pytest.raises(InvalidRequest) as caught:
        train(SMALL, X, Y, SGD, steps=1, task={"frozen": ("hidden", "out")})
    (fault,) = caught.value.faults
    assert (fault.path, fault.detail) == (("frozen",), "leaves no parameters to train")
    still = network(dense("out", 1, trainable=False))
    with pytest.raises(InvalidRequest) as caught:
        train(still, X, Y[:, :1], SGD, steps=1)
    (fault,) = caught.value.faults
    assert (fault.path, fault.detail) == (("network",), "has no parameters that are trained")


def test_a_frozen_layer_is_one_that_is_not_trainable():
    other = network(dense("hidden", 3, "tanh"), layer("norm", "batch_normalization", trainable=False), dense("out", 2))
    same = network(dense("hidden", 3, "tanh"), layer("norm", "batch_normalization"), dense("out", 2))
    _, expected = train(other, X, Y, SGD, steps=3)
    _, outcome = train(same, X, Y, SGD, steps=3, task={"frozen": ("norm",)})
    assert_same_trees(outcome.parameters, expected.parameters)


def test_a_frozen_average_is_not_carried_along():
    definition = network(dense("hidden", 3, "tanh"), layer("norm", "batch_normalization"), dense("out", 2))
    _, outcome = train(definition, X, Y, SGD, steps=3, task={"frozen": ("norm.moving_mean",)})
    assert not outcome.parameters["norm"]["moving_mean"].any()
    assert (outcome.parameters["norm"]["moving_variance"] != 1.0).all()


# --- validation -----------------------------------------------------------------------------------------


@every("frozen", [(), ("hidden.kernel",), ("out", "norm.gamma")])
def test_the_loss_of_validation_is_that_of_an_evaluation_with_training_off(frozen):
    others, answers = RNG.standard_normal((6, 3)), RNG.standard_normal((6, 2))
    records, outcome = train(
        NOISY, X, Y, ADAM, batch_size=4, steps=8, seed=4, include=("parameters",), validation=(others, answers),
        task={"frozen": frozen},
    )  # fmt: skip

    def loss(parameters):
        return float(evaluate(NOISY, others, parameters, "mean_squared_error", answers).loss)

    recorded = [step.validation_loss for step, _ in records]
    assert [value is not None for value in recorded] == [False, False, True, False, False, True, False, False]
    for step, more in records:
        if step.validation_loss is not None:
            assert step.validation_loss == pytest.approx(loss(more["parameters"]), rel=1e-13)
    assert outcome.validation_loss == pytest.approx(loss(outcome.parameters), rel=1e-13)
    assert len({*recorded, outcome.validation_loss}) == 4


def test_validation_changes_nothing_else():
    plain, outcome = train(NOISY, X, Y, ADAM, batch_size=4, steps=8)
    records, other = train(NOISY, X, Y, ADAM, batch_size=4, steps=8, validation=(X[:3], Y[:3]))
    assert [step._replace(validation_loss=None)[:-1] for step, _ in records] == [step[:-1] for step, _ in plain]
    assert_same_trees(other.parameters, outcome.parameters)
    assert outcome.validation_loss is None


def test_thinning_does_not_hide_the_loss_of_validation():
    """The next recorded step holds the validation loss."""
    details = {"batch_size": 5, "steps": 11, "validation": (X[:3], Y[:3])}
    whole = {step.number: step.validation_loss for (step, _) in train(NOISY, X, Y, ADAM, **details)[0]}
    assert [number for number, loss in whole.items() if loss is not None] == [2, 4, 6, 8, 10]
    thin = {step.number: step.validation_loss for (step, _) in train(NOISY, X, Y, ADAM, every=3, **details)[0]}
    assert thin == {1: None, 4: whole[4], 7: whole[6], 10: whole[10], 11: None}


def test_faults_of_validation_name_their_place():
    for others, path in (((X[:4, :2], Y[:4]), ("validation", "inputs")), ((X[:4], Y[:3]), ("validation", "targets"))):
        with pytest.raises(InvalidRequest) as caught:
            train(SMALL, X, Y, SGD, steps=1, validation=others)
        assert {fault.path[:2] for fault in caught.value.faults} == {path}


# --- the trace ------------------------------------------------------------------------------------------


@every(
    ("every", "steps", "recorded"),
    [(1, 4, [1, 2, 3, 4]), (3, 10, [1, 4, 7, 10]), (4, 10, [1, 5, 9, 10]), (100, 10, [1, 10]), (2, 1, [1])],
)
def test_thinning(every, steps, recorded):
    records, outcome = train(SMALL, X, Y, SGD, steps=steps, every=every)
    assert [step.number for step, _ in records] == recorded
    assert outcome.step == steps
    whole, _ = train(SMALL, X, Y, SGD, steps=steps)
    assert [step for step, _ in records] == [whole[number - 1].step for number in recorded]


def test_the_last_step_is_recorded():
    bound = train(SMALL, X, Y, SGD, steps=20)[0][11].step.loss
    records, outcome = train(SMALL, X, Y, SGD, steps=20, every=5, stop={"loss_below": bound})
    assert [step.number for step, _ in records] == [1, 6, 11, 13]
    assert (outcome.status, outcome.step) == ("stopped", 13)
    assert outcome.reason.endswith(f"at step 13 is below {bound:g}")


def test_updates_are_the_differences_of_parameters_to_the_bit():
    include = ("updates", "parameters")
    records, _ = train(NOISY, X, Y, ADAM, batch_size=4, steps=7, include=include)
    start = train(NOISY, X, Y, {"name": "sgd", "learning_rate": 0.0}, steps=1, task={"training": False})
    before = start[1].parameters
    for _, more in records:
        for name, arrays in more["updates"].items():
            for own, array in arrays.items():
                np.testing.assert_array_equal(array, more["parameters"][name][own] - before[name][own])
        before = more["parameters"]
    thin, _ = train(NOISY, X, Y, ADAM, batch_size=4, steps=7, include=include, every=3)
    for (_, more), number in zip(thin, (1, 4, 7), strict=True):
        assert_same_trees(more["updates"], records[number - 1].more["updates"])


def test_a_trace_holds_what_the_plan_includes():
    for include in [(), *[(what,) for what in TRACED], TRACED]:
        (record,), _ = train(SMALL, X, Y, ADAM, steps=1, include=include)
        assert set(record.more) == set(include)
    assert set(record.more["state"]) == {
        "first_moment", "second_moment", "corrected_first_moment", "corrected_second_moment"
    }  # fmt: skip


def test_numbers_of_a_trace_stay_as_they_were():
    """The next step reuses the arrays of a step, so the trace must hold copies."""
    running = training(NOISY, X, Y, ADAM, batch_size=4, steps=6, include=TRACED)
    kept, copies = [], []
    while not running.finished:
        more = running.advance().more
        trees = [more["gradients"], more["parameters"], more["updates"], more["effective_learning_rate"]]
        trees += more["state"].values()
        arrays = [array for tree in trees for own in tree.values() for array in own.values()]
        kept += [*arrays, more["batch"]]
        copies += [array.copy() for array in [*arrays, more["batch"]]]
    parameters = running.outcome().parameters
    running.close()
    copied = {name: {own: array.copy() for own, array in arrays.items()} for name, arrays in parameters.items()}
    train(NOISY, X + 1.0, Y, ADAM, batch_size=4, steps=6)
    for array, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert_same_trees(parameters, copied)


def test_effective_learning_rates():
    (record,), _ = train(SMALL, X, Y, SGD, steps=1, include=("effective_learning_rate",))
    assert record.more["effective_learning_rate"] == 0.1
    records, _ = train(
        SMALL, X, Y, {"name": "rmsprop", "learning_rate": 0.1}, steps=3, include=(*TRACED,)
    )  # fmt: skip
    for _, more in records:
        for name, arrays in more["effective_learning_rate"].items():
            for own, rate in arrays.items():
                moved = -rate * more["gradients"][name][own]
                np.testing.assert_allclose(more["updates"][name][own], moved, rtol=1e-9, atol=1e-15)


def count_numbers(value):
    if isinstance(value, dict):
        return sum(map(count_numbers, value.values()))
    return np.size(value)


@every("chosen", [SGD, {**SGD, "momentum": 0.9}, "adagrad", "nadam", "newton", "l_bfgs"])
def test_a_trace_holds_no_more_numbers_than_are_counted_before(chosen):
    running = training(SMALL, X, Y, chosen, steps=6, include=TRACED)
    counted = running.trace_elements
    records, _ = finish(running)
    recorded = sum(len(step) - 2 + count_numbers(more) for step, more in records)
    assert recorded <= counted <= 4 * recorded


def test_the_size_of_a_trace_is_limited():
    size = 3 * 4 + 4 + 4 * 2 + 2
    asked = (SCALARS + 2 * size + 4) * 6
    details = {"steps": 9, "every": 2, "batch_size": 4, "include": ("gradients", "updates", "batch")}
    train(SMALL, X, Y, SGD, limits=Limits(trace_elements=asked), **details)
    with pytest.raises(LimitExceeded) as caught:
        train(SMALL, X, Y, SGD, limits=Limits(trace_elements=asked - 1), **details)
    error = caught.value
    assert (error.name, error.asked, error.allowed, error.path) == ("trace_elements", asked, asked - 1, ("trace",))


def test_the_number_of_steps_is_limited():
    for plan, asked in (({"steps": 101}, 101), ({"epochs": 26, "batch_size": 3}, 104)):
        with pytest.raises(LimitExceeded) as caught:
            train(SMALL, X, Y, SGD, limits=Limits(steps=100), **plan)
        error = caught.value
        assert (error.name, error.asked, error.allowed) == ("steps", asked, 100)
        assert error.path == (next(iter(plan)),)
    assert train(SMALL, X, Y, SGD, limits=Limits(steps=100), steps=100)[1].step == 100


def test_the_work_of_all_steps_is_limited():
    running = training(SMALL, X, Y, SGD, steps=50)
    work = running.cost.work(running.plan.recipe)
    running.close()
    assert train(SMALL, X, Y, SGD, steps=50, limits=Limits(operations=work))[1].step == 50
    with pytest.raises(LimitExceeded) as caught:
        train(SMALL, X, Y, SGD, steps=51, limits=Limits(operations=work))
    assert (caught.value.name, caught.value.allowed) == ("operations", work)
    once = running.objective.total_work  # the loss in the end
    assert caught.value.asked == pytest.approx((work - once) / 50 * 51 + once)


@every("name", [each.name for each in optimizers if each.search])
def test_searches_take_no_clipping(name):
    with pytest.raises(InvalidRequest) as caught:
        train(SMALL, X, Y, name, steps=1, clip={"norm": 1.0})
    assert [fault.path for fault in caught.value.faults] == [("clip",)]


def test_whole_hessians_are_limited():
    definition = network(dense("out", 1))
    wide = RNG.standard_normal((2, MOST_SECOND_ORDER))
    with pytest.raises(LimitExceeded) as caught:
        train(definition, wide, np.ones((2, 1)), "newton", steps=1)
    error = caught.value
    assert (error.name, error.asked, error.allowed) == ("parameters for newton", MOST_SECOND_ORDER + 1, 500)
    assert error.path == ("optimizer",)
    # Frozen parameters do not count.
    _, outcome = train(definition, wide, np.ones((2, 1)), "newton", steps=1, task={"frozen": ("out.kernel",)})
    assert outcome.status == "completed"


# --- the end ----------------------------------------------------------------------------------------------


def test_the_lowest_loss_is_kept():
    running = training(SMALL, X, Y, {"name": "sgd", "learning_rate": 3.0}, steps=12)
    records, _ = finish(running)
    losses = [step.loss for step, _ in records]
    assert running.lowest == (min(losses), 1 + losses.index(min(losses)))
    assert len(set(losses)) > 1


def test_a_training_that_diverges():
    details = {"batches": [[0], [1], [2], [3]], "steps": 30, "include": TRACED}
    records, outcome = train(SMALL, X, Y, {"name": "sgd", "learning_rate": 1e7}, **details)
    last, before = records[-1], records[-2]
    assert outcome.status == "diverged" and outcome.step == before.step.number == last.step.number - 1
    # The record has its batch and gradients, but no update, since none was made.
    assert set(last.more) == {"batch", "gradients"}
    assert last.more["batch"].tolist() == [(last.step.number - 1) % 4] != [0]
    assert_same_trees(outcome.parameters, before.more["parameters"])
    assert outcome.finite and outcome.checkpoint.step == outcome.step
    assert outcome.reason.startswith(f"at step {last.step.number} the loss has run away to {last.step.loss:.6g}; ")
    parameters = train(SMALL, X, Y, {"name": "sgd", "learning_rate": 0.0}, steps=1)[1].parameters
    hessian = curvature(SMALL, X[:1], Y[:1], parameters)
    assert f"λmax, is {hessian:.4g}, and 1e+07 > 2/λmax = {2.0 / hessian:.4g}" in outcome.reason


def curvature(definition, inputs, targets, parameters):
    """Return the largest eigenvalue of the Hessian, computed by differences of gradients."""

    def gradient(tree):
        found = evaluate(definition, inputs, tree, "mean_squared_error", targets).gradients
        return np.concatenate([array.ravel() for arrays in found.values() for array in arrays.values()])

    columns = []
    for name, arrays in parameters.items():
        for own, array in arrays.items():
            for place in np.ndindex(array.shape):
                moved = []
                for sign in (1.0, -1.0):
                    tree = {n: {o: a.copy() for o, a in arrays.items()} for n, arrays in parameters.items()}
                    tree[name][own][place] += sign * 1e-5
                    moved.append(gradient(tree))
                columns.append((moved[0] - moved[1]) / 2e-5)
    return np.linalg.eigvalsh(0.5 * (np.array(columns) + np.array(columns).T))[-1]


@every(("rate", "words"), [(1e160, "the loss is infinite"), (1e308, "the loss is ")])
def test_a_last_update_that_fails(rate, words):
    definition = network(dense("out", 2))
    records, outcome = train(definition, 10.0 * X, Y, {"name": "sgd", "learning_rate": rate}, steps=1)
    assert len(records) == 1 and math.isfinite(records[0].step.loss)
    assert outcome.status == "diverged" and outcome.step == 1
    assert not outcome.finite and outcome.checkpoint is None
    assert outcome.reason.startswith(f"at step 2 {words}")
    assert "2/λmax = " in outcome.reason


def test_a_training_that_is_cancelled():
    running = training(SMALL, X, Y, SGD, steps=10, batch_size=4)
    for _ in range(4):
        running.advance()
    running.cancel("enough")
    running.cancel("more than enough")
    assert running.finished
    outcome = running.outcome()
    running.close()
    running.close()
    assert (outcome.status, outcome.reason, outcome.step, outcome.epoch) == ("cancelled", "enough", 4, 2)
    assert_same_trees(outcome.parameters, train(SMALL, X, Y, SGD, steps=4, batch_size=4)[1].parameters)


def test_memory_is_reserved_before_it_is_taken():
    asked = []

    def refuse(nbytes):
        asked.append(nbytes)
        raise MemoryError

    with pytest.raises(MemoryError):
        training(NOISY, X, Y, SGD, steps=1, batch_size=4, reserve=refuse)
    (first,) = asked
    running = training(NOISY, X, Y, SGD, steps=1, batch_size=4)
    assert first == running.objective.nbytes > 0
    running.close()


def test_warnings_about_the_network_and_the_targets():
    assert not train(SMALL, X, Y, SGD, steps=1)[1].warnings
    definition = network(dense("hidden", 3, "step"), dense("out", 2, "sigmoid"))
    targets = np.clip(Y, 0.0, 1.0)
    targets[7] = 1.5  # a sample that no batch has
    _, outcome = train(definition, X, targets, SGD, "binary_crossentropy", steps=1, batches=[[0, 1]])
    assert [warning.code for warning in outcome.warnings] == ["gradient_blocked", "unusual_targets"]


@every("name", [each.name for each in optimizers])
def test_every_optimizer_trains(name):
    records, outcome = train(SMALL, X, Y, name, steps=6, include=TRACED)
    assert outcome.status == "completed" and len(records) == 6
    if not optimizers[name].counter_example:
        assert outcome.loss < records[0].step.loss
    assert (outcome.checkpoint.optimizer, outcome.checkpoint.step) == (name, 6)


# --- what has nothing to do with the optimizer ------------------------------------------------------------------

LINEAR = network(dense("o", 1))
XOR_X, XOR_Y = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([[0.0], [1.0], [1.0], [0.0]])
SLOPES = {"o": {"kernel": [[1.0], [-1.0]], "bias": [0.0]}}


@every("chosen", [{"name": "sgd", "learning_rate": 0.1}, "adam", "l_bfgs", "nesterov"])
def test_outputs_that_are_no_probabilities_explain_a_failed_first_step(chosen):
    records, outcome = train(LINEAR, XOR_X, XOR_Y, chosen, "binary_crossentropy", parameters=SLOPES, steps=5)
    assert outcome.status == "diverged" and outcome.step == 0 and len(records) == 1
    assert outcome.reason == (
        "at step 1 the loss is not a number, before anything has moved: the outputs of layer 'o' are not all between "
        "0 and 1, so binary_crossentropy of them means nothing"
    )
    assert [caution.code for caution in outcome.warnings] == ["no_probabilities", "non_finite"]


def test_the_first_value_that_is_not_finite_explains_a_failed_first_step():
    definition = network(dense("a", 1, "exponential"), dense("b", 1))
    parameters = {"a": {"kernel": [[800.0], [0.0]], "bias": [0.0]}, "b": {"kernel": [[1.0]], "bias": [0.0]}}
    _, outcome = train(definition, XOR_X, XOR_Y, "sgd", parameters=parameters, steps=5)
    assert outcome.reason == (
        "at step 1 the loss is infinite, before anything has moved: the output of layer 'a' is the first value that is "
        "not finite (infinite)"
    )


def test_a_training_without_moves_reports_a_loss_that_is_not_finite():
    running = training(LINEAR, XOR_X, XOR_Y, "sgd", "binary_crossentropy", parameters=SLOPES, steps=5)
    running.cancel("the time ran out")
    outcome = running.outcome()
    running.close()
    assert outcome.status == "diverged" and "learning rate" not in outcome.reason
    assert "the outputs of layer 'o' are not all between 0 and 1" in outcome.reason


def test_outputs_that_are_no_probabilities_are_reported_with_a_finite_loss():
    targets = np.array([[1.0, 0.0]] * 4)
    parameters = {"o": {"kernel": [[0.0, 0.0], [0.0, 0.0]], "bias": [2.0, 1.0]}}
    details = {"parameters": parameters, "steps": 2}
    _, outcome = train(network(dense("o", 2)), XOR_X, targets, "sgd", "categorical_crossentropy", **details)
    assert outcome.status == "completed" and outcome.finite
    assert [caution.code for caution in outcome.warnings] == ["no_probabilities"]
    _, outcome = train(network(dense("o", 2, "softmax")), XOR_X, targets, "sgd", "categorical_crossentropy", **details)
    assert not outcome.warnings


def test_a_divergence_after_a_step_keeps_its_explanation():
    parameters = {"o": {"kernel": [[0.1], [0.2]], "bias": [0.5]}}
    chosen = {"name": "sgd", "learning_rate": 10.0}
    _, outcome = train(LINEAR, XOR_X, XOR_Y, chosen, "binary_crossentropy", parameters=parameters, steps=5)
    assert outcome.status == "diverged" and outcome.step == 1
    assert outcome.reason.startswith("at step 2 the loss is not a number; the learning rate is 10")
    assert "no_probabilities" in [caution.code for caution in outcome.warnings]


@every(
    ("weights", "plan", "recorded"),
    [
        ([1.0, 2.0, 1.0, 1.0], {}, True),
        ([0.5, 1.5, 0.5, 1.5], {}, False),
        ([0.5, 1.5, 0.5, 1.5], {"batches": [[0], [1]]}, True),
        ([1.0, 1.0, 1.0, 1.0], {"batch_size": 2}, False),
        ([2.0, 2.0, 2.0, 2.0], {"batch_size": 2}, True),
    ],
)
def test_a_mean_that_other_frameworks_define_otherwise_is_reported(weights, plan, recorded):
    _, outcome = train(LINEAR, XOR_X, XOR_Y, "sgd", weights=weights, steps=2, **plan)
    assert ("normalize_weights" in [caution.code for caution in outcome.warnings]) is recorded
