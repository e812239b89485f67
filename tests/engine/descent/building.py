"""Short ways to make compilers, recipes and trainings."""

import functools

import numpy as np

from service.engine.compiling import Compiler
from service.engine.declarations import Selection
from service.engine.descent.loop import Recipe, Stop
from service.engine.descent.optimizers import optimizers
from service.engine.descent.schedules import schedules
from service.engine.descent.training import Training
from service.engine.descent.training_plan import Plan
from service.engine.descent.update import Clip
from service.engine.graph.plan import WorkspacePool
from service.engine.network.feed import Feed
from service.engine.network.losses import losses
from tests.engine.network.building import ROOMY, as_arrays, by_input, by_output, select, task_for


def compiler(pool=None):
    """Return a compiler that compiles every task once."""
    return Compiler(ROOMY, 10**12, pool)


COMPILE = compiler(WorkspacePool())


@functools.cache
def loss_called(name):
    """Return the same selection each time, so that tasks with it are equal."""
    return losses.select(name)


def optimizer(chosen):
    return chosen if isinstance(chosen, Selection) else select(optimizers, chosen)


def recipe(chosen, schedule=None, clip=None, stop=None):
    """Make a recipe of names, or of mappings of a name and options. `clip` and `stop` map fields to values."""
    return Recipe(
        optimizer(chosen),
        None if schedule is None else select(schedules, schedule),
        None if clip is None else Clip(**clip),
        Stop(**(stop or {})),
    )


def training(
    definition,
    inputs,
    targets,
    chosen="sgd",
    loss="mean_squared_error",
    *,
    weights=None,
    parameters=None,
    seed=0,
    schedule=None,
    clip=None,
    stop=None,
    validation=None,
    checkpoint=None,
    include=(),
    compile=COMPILE,  # noqa: A002 (as the engine calls it)
    limits=ROOMY,
    reserve=lambda nbytes: None,
    batches=None,
    task=None,
    watch=None,
    spread=None,
    **plan,
):
    """Make a training that is ready for its first step. `task` holds more fields of the task, such as `frozen`."""
    details = {"training": True, **(task or {})}
    loss = {name: loss_called(each) for name, each in loss.items()} if isinstance(loss, dict) else loss_called(loss)
    asked = task_for(definition, inputs, loss, targets, weights, parameters, **details)
    feed = Feed(
        by_input(definition, inputs),
        None if parameters is None else as_arrays(parameters, asked.dtype),
        by_output(definition, targets),
        None if weights is None else np.asarray(weights, asked.dtype),
        seed,
    )
    validating = None
    if validation is not None:
        others, answers = validation
        details |= {"training": False, "differentiated": False}
        validating = (
            task_for(definition, others, loss, answers, None, parameters, **details),
            Feed(by_input(definition, others), None, by_output(definition, answers)),
        )
    described = Plan(
        recipe(chosen, schedule, clip, stop),
        batches=None if batches is None else [np.asarray(rows) for rows in batches],
        include=frozenset(include),
        **plan,
    )
    return Training(
        compile, limits, asked, feed, described, validating, checkpoint, reserve, watch=watch, spread=spread
    )


def finish(running):
    """Run a training to its end. Return all records and the outcome."""
    try:
        records = []
        while not running.finished:
            record = running.advance()
            if record is not None:
                records.append(record)
        return records, running.outcome()
    finally:
        running.close()


def train(*arguments, **details):
    return finish(training(*arguments, **details))


def assert_same_trees(ours, theirs):
    """Assert that two trees are equal, bit by bit."""
    assert set(ours) == set(theirs)
    for layer, arrays in theirs.items():
        assert set(ours[layer]) == set(arrays), layer
        for name, array in arrays.items():
            np.testing.assert_array_equal(ours[layer][name], array, f"{layer}.{name}", strict=True)
