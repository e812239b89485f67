"""Checkpoints: an interrupted training that goes on gives the same bits as one that never stopped."""

import copy
from dataclasses import replace

import numpy as np
import orjson
import pytest

from service.engine.descent.checkpoint import Checkpoint
from service.engine.descent.optimizers import optimizers
from service.engine.descent.schedules import schedules
from service.engine.descent.trace import TRACED
from service.engine.errors import InvalidRequest
from tests.engine.descent.building import finish, train, training
from tests.engine.network.building import dense, layer, network
from tests.support import every

RNG = np.random.default_rng(11)
X, Y = RNG.standard_normal((10, 3)), RNG.standard_normal((10, 1))
OTHERS = RNG.standard_normal((4, 3)), RNG.standard_normal((4, 1))
SMALL = network(dense("hidden", 3, "tanh"), dense("out", 1))
RICH = network(
    dense("hidden", 4, "tanh", kernel_regularizer={"name": "l2", "l2": 0.01}),
    layer("norm", "batch_normalization", momentum=0.8),
    layer("drop", "dropout", rate=0.3),
    dense("out", 1),
)
CHOICES = [
    *({"name": each.name} for each in optimizers),
    {"name": "sgd", "momentum": 0.9},
    {"name": "sgd", "momentum": 0.9, "nesterov": True},
    {"name": "sgd", "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True},
    {"name": "sgd", "momentum": 0.9, "nesterov": True, "convention": "keras"},
    {"name": "adagrad", "initial_accumulator_value": 0.5, "learning_rate_decay": 0.3},
    {"name": "adagrad", "convention": "keras"},
    {"name": "rmsprop", "momentum": 0.8, "centered": True},
    {"name": "rmsprop", "momentum": 0.8, "convention": "keras"},
    {"name": "adadelta", "convention": "keras"},
    {"name": "adam", "amsgrad": True},
    {"name": "adam", "amsgrad": True, "convention": "keras"},
    {"name": "adamw", "convention": "keras"},
    {"name": "adamax", "convention": "keras"},
    {"name": "nadam", "convention": "keras"},
    {"name": "l_bfgs", "line_search": "none", "history_size": 3, "learning_rate": 0.1},
    {"name": "l_bfgs", "iterations": 4},
    {"name": "newton", "absolute_eigenvalues": True, "damping": 0.5},
]
PLATEAU = {"name": "plateau", "patience": 0, "factor": 0.5, "cooldown": 1}
ONE_CYCLE = {"name": "one_cycle", "total_steps": 12}
INTERRUPTED = (1, 5, 6, 10)
"""Three steps make an epoch: 6 is between two, 5 in the middle of one."""
STEPS = 11


def named(chosen):
    if chosen is None:
        return "constant"
    return "-".join(str(value) if key == "name" else f"{key}={value}" for key, value in chosen.items())


def through_json(checkpoint, dtype="float64"):
    """Return a checkpoint after a round trip through JSON."""
    text = orjson.dumps(vars(checkpoint), np.ndarray.tolist, orjson.OPT_SERIALIZE_NUMPY)
    read = orjson.loads(text)

    def arrays(tree):
        return {name: {own: np.array(x, dtype) for own, x in each.items()} for name, each in tree.items()}

    read["parameters"] = arrays(read["parameters"])
    read["state"] = {name: arrays(x) if isinstance(x, dict) else x for name, x in read["state"].items()}
    return Checkpoint(**read)


def same(ours, theirs, where=""):
    """Assert that two trees, arrays or numbers are equal, bit by bit, and have one type."""
    assert type(ours) is type(theirs), where
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for name in theirs:
            same(ours[name], theirs[name], f"{where}.{name}")
    elif isinstance(theirs, tuple):
        for position, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            same(one, other, f"{where}[{position}]")
    elif isinstance(theirs, np.ndarray):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        assert ours.tobytes() == theirs.tobytes(), where
    else:
        assert ours == theirs, where


def same_numbers(ours, theirs):
    """Assert that two checkpoints are equal. Numbers may have become integers on the way."""
    same(ours.parameters, theirs.parameters)
    assert (ours.step, ours.seed, ours.optimizer) == (theirs.step, theirs.seed, theirs.optimizer)
    assert (ours.progress, ours.schedule) == (theirs.progress, theirs.schedule)
    same({name: x for name, x in ours.state.items() if isinstance(x, dict)},
         {name: x for name, x in theirs.state.items() if isinstance(x, dict)})  # fmt: skip
    assert [ours.state[name] for name in ours.state if not isinstance(ours.state[name], dict)] == [
        theirs.state[name] for name in theirs.state if not isinstance(theirs.state[name], dict)
    ]


def assert_goes_on(steps, interrupted, dtype, *arguments, **details):
    """Assert that records and outcome do not depend on interruptions. Return those of the whole training."""
    task = {"dtype": dtype, **details.pop("task", {})}
    details |= {"include": TRACED, "task": task}
    records, outcome = train(*arguments, steps=steps, **details)
    pieces, checkpoint = [], None
    for start, end in zip((0, *interrupted), (*interrupted, steps), strict=True):
        # The parameters and the seed are those of the checkpoint, whatever the request says.
        seed = details["seed"] if checkpoint is None else 999
        piece, last = train(*arguments, steps=end - start, checkpoint=checkpoint, **{**details, "seed": seed})
        pieces += piece
        if last.status not in ("completed",):
            break
        checkpoint = through_json(last.checkpoint, dtype)
    assert len(pieces) == len(records)
    for ours, theirs in zip(pieces, records, strict=True):
        same(tuple(ours.step), tuple(theirs.step), f"step {theirs.step.number}")
        same(ours.more, theirs.more, f"step {theirs.step.number}")
    assert (last.loss, last.validation_loss) == (outcome.loss, outcome.validation_loss)
    assert (last.step, last.epoch, last.status) == (outcome.step, outcome.epoch, outcome.status)
    same(last.parameters, outcome.parameters)
    same_numbers(last.checkpoint, outcome.checkpoint)
    return records, outcome


@every(
    ("dtype", "schedule"),
    [("float64", PLATEAU), ("float64", ONE_CYCLE), ("float32", ONE_CYCLE)],
    ids=["float64-plateau", "float64-one_cycle", "float32-one_cycle"],
)
@every("chosen", CHOICES, ids=named)
def test_an_interrupted_training_goes_on_with_the_same_bits(chosen, schedule, dtype):
    clip = None if optimizers[chosen["name"]].search else {"norm": 1.5}  # searches take none
    _, outcome = assert_goes_on(
        STEPS, INTERRUPTED, dtype, RICH, X, Y, chosen, batch_size=4, seed=3, schedule=schedule, clip=clip,
        validation=OTHERS, stop={"patience": 50, "min_delta": 0.01},
    )  # fmt: skip
    assert outcome.step == STEPS and outcome.epoch == 4


def test_each_number_of_a_checkpoint_matters():
    """Without any one of the numbers in a checkpoint, the training goes on differently."""
    details = {
        "batch_size": 4, "schedule": PLATEAU, "stop": {"patience": 3, "min_delta": 1e3}, "validation": OTHERS
    }  # fmt: skip
    chosen = {"name": "nadam", "learning_rate": 0.05}
    _, half = train(RICH, X, Y, chosen, steps=8, seed=3, **details)
    whole, _ = train(RICH, X, Y, chosen, steps=8, checkpoint=half.checkpoint, **details)

    def differs(**changes):
        changed = replace(half.checkpoint, **changes)
        records, _ = train(RICH, X, Y, chosen, steps=8, checkpoint=changed, **details)
        return [step[:-1] for step, _ in records] != [step[:-1] for step, _ in whole]

    assert not differs()
    assert differs(seed=4)
    assert differs(step=9)
    assert differs(progress={})
    assert differs(schedule={})
    for name, value in half.checkpoint.state.items():
        zero = (
            0.5 if isinstance(value, float)
            else {each: {own: 0.5 * array for own, array in arrays.items()} for each, arrays in value.items()}
        )  # fmt: skip
        assert differs(state=half.checkpoint.state | {name: zero}), name
    for name in ("norm", "out"):
        moved = {own: array + 0.1 for own, array in half.checkpoint.parameters[name].items()}
        assert differs(parameters=half.checkpoint.parameters | {name: moved}), name


@every("interrupted", [(1,), (4,), (5,), (8,), (2, 3, 7)])
def test_a_checkpoint_keeps_the_patience(interrupted):
    """The loss stays the same, so the first of three epochs of three steps is the best."""
    details = {"batch_size": 4, "seed": 3, "stop": {"patience": 2}, "task": {"training": False}}
    still = {"name": "sgd", "learning_rate": 0.0}
    _, outcome = assert_goes_on(20, interrupted, "float64", RICH, X[[0] * 10], Y[[0] * 10], still, **details)
    assert (outcome.status, outcome.step) == ("stopped", 9)
    _, half = train(RICH, X[[0] * 10], Y[[0] * 10], still, steps=interrupted[-1], **details)
    _, rest = train(RICH, X[[0] * 10], Y[[0] * 10], still, steps=20, checkpoint=half.checkpoint, **details)
    assert (
        rest.reason
        == outcome.reason
        == (f"the loss has not improved for 2 epochs; its best was {outcome.loss:g} after step 3")
    )


def test_a_checkpoint_keeps_the_first_loss():
    """A loss runs away relative to the first loss."""
    away = {"name": "sgd", "learning_rate": 30.0}
    linear = network(dense("out", 1))
    details = {"seed": 3}
    _, outcome = assert_goes_on(100, (1, 2, 3, 5), "float64", linear, X, Y, away, **details)
    assert outcome.status == "diverged"


def test_listed_batches_and_thin_traces_go_on_at_the_same_step():
    plan = {"batches": [[0, 1], [2], [3, 4, 5], [6]], "every": 3, "include": ("batch",)}
    whole, _ = train(SMALL, X, Y, "adam", steps=10, **plan)
    first, half = train(SMALL, X, Y, "adam", steps=6, **plan)
    rest, outcome = train(SMALL, X, Y, "adam", steps=4, checkpoint=half.checkpoint, **plan)
    assert [step.number for step, _ in whole] == [1, 4, 7, 10]
    assert [step.number for step, _ in first] == [1, 4, 6]  # the last is always recorded
    assert [step.number for step, _ in rest] == [7, 10]
    assert [more["batch"].tolist() for _, more in rest] == [more["batch"].tolist() for _, more in whole[2:]]
    assert outcome.reason == "all 4 steps are done"


def test_epochs_count_from_the_checkpoint():
    _, half = train(SMALL, X, Y, "adam", steps=4, batch_size=4)
    records, outcome = train(SMALL, X, Y, "adam", epochs=2, batch_size=4, checkpoint=half.checkpoint)
    assert [step.epoch for step, _ in records] == [2, 2, 3, 3, 3, 4]
    assert outcome.step == 10


def test_a_cancelled_training_goes_on():
    running = training(RICH, X, Y, "adam", steps=100, batch_size=4)
    for _ in range(7):
        running.advance()
    running.cancel("for today")
    _, half = finish(running)
    assert half.checkpoint.step == 7
    _, ours = train(RICH, X, Y, "adam", steps=3, batch_size=4, checkpoint=through_json(half.checkpoint))
    _, theirs = train(RICH, X, Y, "adam", steps=10, batch_size=4)
    same_numbers(ours.checkpoint, theirs.checkpoint)


def test_frozen_parameters_have_no_part_in_the_state_and_go_on():
    frozen = {"frozen": ("hidden.kernel", "norm")}
    _, outcome = assert_goes_on(
        8, (3, 5), "float64", RICH, X, Y, "adam", batch_size=4, seed=3, task=frozen, validation=OTHERS
    )
    first = outcome.checkpoint.state["first_moment"]
    assert {(name, own) for name, arrays in first.items() for own in arrays} == {
        ("hidden", "bias"), ("out", "kernel"), ("out", "bias")
    }  # fmt: skip
    assert set(outcome.checkpoint.parameters) == {"hidden", "norm", "out"}


def test_a_checkpoint_outlasts_its_training():
    running = training(SMALL, X, Y, "adam", steps=3)
    _, outcome = finish(running)
    kept = copy.deepcopy(outcome.checkpoint)
    train(SMALL, X + 1.0, Y, "adam", steps=5)
    train(SMALL, X, Y, "adam", steps=5, checkpoint=outcome.checkpoint)
    same_numbers(outcome.checkpoint, kept)


@every("name", [each.name for each in schedules])
def test_another_schedule_may_follow(name):
    """The state of a schedule in a checkpoint does not reach another schedule."""
    _, half = train(SMALL, X, Y, "adam", steps=4, schedule={"name": "plateau", "patience": 0})
    required = {
        "step_decay": {"decay_steps": 2}, "multi_step": {"milestones": [2]}, "exponential": {"gamma": 0.9},
        "inverse_time": {"decay_steps": 2, "decay_rate": 0.5}, "polynomial": {"decay_steps": 9},
        "cosine": {"decay_steps": 9}, "cosine_restarts": {"first_decay_steps": 3}, "one_cycle": {"total_steps": 9},
        "cyclic": {"max_learning_rate": 0.1},
        "piecewise_constant": {"boundaries": [2], "values": [0.1, 0.2]},
    }  # fmt: skip
    chosen = {"name": name, **required.get(name, {})}
    _, outcome = train(SMALL, X, Y, "adam", steps=2, schedule=chosen, checkpoint=half.checkpoint)
    assert (outcome.status, outcome.step) == ("completed", 6)
    assert set(outcome.checkpoint.schedule) == set(schedules[name].numbers)


@every("name", ["sgd", "rmsprop"])
@every("highest", [0.0, 0.9])
def test_a_momentum_that_comes_and_goes_with_the_schedule(highest, name):
    """The momentum is 0 at the first step or at the fourth, and an interruption comes at either."""
    schedule = {
        "name": "cyclic", "max_learning_rate": 0.1, "steps_up": 3,
        "base_momentum": 0.9 - highest, "max_momentum": highest,
    }  # fmt: skip
    assert_goes_on(9, (1, 3, 4, 6), "float64", SMALL, X, Y, name, seed=3, schedule=schedule)


# --- what is wrong with a checkpoint ---------------------------------------------------------------------


def faults(checkpoint, chosen="adam", definition=SMALL):
    with pytest.raises(InvalidRequest) as caught:
        train(definition, X, Y, chosen, steps=2, checkpoint=checkpoint)
    return [(fault.path, fault.detail) for fault in caught.value.faults]


def made(chosen="adam", steps=4):
    return copy.deepcopy(train(SMALL, X, Y, chosen, steps=steps)[1].checkpoint)


def test_a_checkpoint_of_another_optimizer():
    assert faults(made("adam"), "nadam") == [
        (("checkpoint", "optimizer"), "is of the optimizer 'adam'; this request trains with 'nadam'")
    ]


def test_state_that_is_missing_or_unknown():
    checkpoint = made()
    del checkpoint.state["second_moment"]
    checkpoint.state["third_moment"] = 0.0
    assert sorted(faults(checkpoint)) == [
        (("checkpoint", "state", "second_moment"), "is missing: adam needs it"),
        (("checkpoint", "state", "third_moment"), "adam keeps no 'third_moment'"),
    ]
    with pytest.raises(InvalidRequest) as caught:
        train(SMALL, X, Y, "adam", steps=2, checkpoint=checkpoint)
    allowed = next(fault.allowed for fault in caught.value.faults if fault.path[-1] == "third_moment")
    assert allowed == ("first_moment", "second_moment")


@every("chosen", CHOICES, ids=named)
def test_every_optimizer_needs_its_whole_state(chosen):
    checkpoint = made(chosen)
    left_out = optimizers[chosen["name"]].histories
    needed = set(checkpoint.state) - set(left_out)
    checkpoint = replace(checkpoint, state={})
    if needed:
        assert {path for path, _ in faults(checkpoint, chosen)} == {("checkpoint", "state", name) for name in needed}
    else:
        train(SMALL, X, Y, chosen, steps=1, checkpoint=checkpoint)


def test_options_decide_which_state_is_needed():
    assert faults(made("adam"), {"name": "adam", "amsgrad": True}) == [
        (("checkpoint", "state", "largest_second_moment"), "is missing: adam needs it")
    ]
    assert faults(made({"name": "adam", "amsgrad": True}), "adam") == [
        (("checkpoint", "state", "largest_second_moment"), "adam keeps no 'largest_second_moment'")
    ]


def test_state_of_another_kind():
    checkpoint = made("nadam")
    checkpoint.state["momentum_product"] = checkpoint.state["first_moment"]
    checkpoint.state["first_moment"] = 1.5
    assert sorted(faults(checkpoint, "nadam")) == [
        (("checkpoint", "state", "first_moment"), "takes tensors by layer and parameter name"),
        (("checkpoint", "state", "momentum_product"), "takes a number"),
    ]


def test_tensors_of_state_that_do_not_fit():
    checkpoint = made()
    first = checkpoint.state["first_moment"]
    first["hidden"]["kernel"] = np.zeros((3, 4))
    del first["hidden"]["bias"]
    first["out"]["gamma"] = np.zeros(1)
    first["other"] = {"kernel": np.zeros(2)}
    checkpoint.state["second_moment"]["out"]["bias"] = np.zeros(())
    start = ("checkpoint", "state")
    assert sorted(faults(checkpoint)) == [
        ((*start, "first_moment", "hidden", "bias"), "bias of layer 'hidden' is missing; it has shape [3]"),
        ((*start, "first_moment", "hidden", "kernel"), "has shape [3, 4]; it takes [3, 3]"),
        ((*start, "first_moment", "other", "kernel"), "is no parameter that is trained"),
        ((*start, "first_moment", "out", "gamma"), "is no parameter that is trained"),
        ((*start, "second_moment", "out", "bias"), "has shape []; it takes [1]"),
    ]


def test_state_of_frozen_parameters_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        train(SMALL, X, Y, "adam", steps=2, checkpoint=made(), task={"frozen": ("hidden",)})
    assert {fault.path for fault in caught.value.faults} == {
        ("checkpoint", "state", name, "hidden", own)
        for name in ("first_moment", "second_moment")
        for own in ("kernel", "bias")
    }


def test_histories_that_do_not_fit():
    whole = made("l_bfgs")
    assert whole.state["steps"]["out"]["bias"].shape == (3, 1)
    checkpoint = copy.deepcopy(whole)
    checkpoint.state["steps"]["hidden"]["kernel"] = np.zeros((3, 3))
    checkpoint.state["changes"]["out"]["bias"] = np.zeros((2, 1))
    assert sorted(faults(checkpoint, "l_bfgs")) == [
        (("checkpoint", "state", "changes"), "has histories of different lengths"),
        (("checkpoint", "state", "steps", "hidden", "kernel"), "has shape [3, 3]; it takes [steps, 3, 3]"),
    ]


def shortened(tree, rows):
    return {name: {own: array[:rows] for own, array in arrays.items()} for name, arrays in tree.items()}


@every("rows", [0, 2])
def test_histories_that_do_not_fit_one_another(rows):
    checkpoint = made("l_bfgs")
    checkpoint.state["steps"] = shortened(checkpoint.state["steps"], rows)
    assert {path[:2] for path, _ in faults(checkpoint, "l_bfgs")} == {("checkpoint", "state")}
    del checkpoint.state["steps"]
    assert {path[:2] for path, _ in faults(checkpoint, "l_bfgs")} == {("checkpoint", "state")}


def test_impossible_pairs_of_a_history_are_skipped():
    checkpoint = made("l_bfgs")
    for name in ("steps", "changes"):
        for arrays in checkpoint.state[name].values():
            for array in arrays.values():
                array[...] = 0.0
    _, outcome = train(SMALL, X, Y, "l_bfgs", steps=2, checkpoint=checkpoint)
    assert outcome.finite


def test_numbers_outside_their_bounds():
    checkpoint = made("nadam")
    checkpoint.state["momentum_product"] = 4.0
    assert faults(checkpoint, "nadam") == [(("checkpoint", "state", "momentum_product"), "lies between 0 and 1, got 4")]


def test_histories_may_be_left_out_or_empty():
    for change in ({}, {"steps": 0, "changes": 0}):
        checkpoint = made("l_bfgs")
        rows = {name: shortened(checkpoint.state[name], n) for name, n in change.items()}
        rest = {name: x for name, x in checkpoint.state.items() if name not in ("steps", "changes")}
        checkpoint = replace(checkpoint, state=rest | rows)
        assert train(SMALL, X, Y, "l_bfgs", steps=3, checkpoint=checkpoint)[1].step == 7


def test_unknown_progress():
    checkpoint = made()
    checkpoint = replace(checkpoint, progress=checkpoint.progress | {"worst": 1.0, "step": 3.0})
    assert sorted(faults(checkpoint)) == [
        (("checkpoint", "progress", "step"), "is nothing that a training remembers"),
        (("checkpoint", "progress", "worst"), "is nothing that a training remembers"),
    ]


def test_parameters_that_do_not_fit():
    checkpoint = made()
    checkpoint.parameters["hidden"]["bias"] = np.zeros(4)
    del checkpoint.parameters["out"]["kernel"]
    checkpoint.parameters["more"] = {"kernel": np.zeros(1)}
    assert {path for path, _ in faults(checkpoint)} == {
        ("checkpoint", "parameters", "hidden", "bias"),
        ("checkpoint", "parameters", "out", "kernel"),
        ("checkpoint", "parameters", "more"),
    }


def test_there_is_no_checkpoint_of_numbers_that_are_not_finite():
    _, outcome = train(network(dense("out", 1)), X, Y, {"name": "sgd", "learning_rate": 1e200}, steps=1)
    assert outcome.checkpoint is None
