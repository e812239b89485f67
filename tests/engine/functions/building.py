"""Expressions at points and balls on them, in few words."""

import functools

import numpy as np

from service.engine.compiling import Compiler
from service.engine.descent.run_ends import RunEnds
from service.engine.descent.runs import Runs
from service.engine.descent.runs_plan import Bounds, GradientNoise, RunsPlan
from service.engine.descent.schedules import schedules
from service.engine.descent.update import Clip
from service.engine.functions.calculus import STATIONARY, analyse
from service.engine.functions.compiled import FunctionTask
from service.engine.functions.expression import parse
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits
from tests.engine.descent.building import optimizer
from tests.engine.network.building import select

ROOMY = Limits()
COMPILE = Compiler(ROOMY, 10**12, WorkspacePool())


def function(text, points=1, order=2, variables=None):
    """Return the compiled expression, made only once."""
    return _function(text, points, order, None if variables is None else tuple(variables))


@functools.lru_cache(maxsize=2000)
def _function(text, points, order, variables):
    return COMPILE(FunctionTask(parse(text, variables), points, order))


def table(points):
    """Return points as rows; bare numbers are points of one variable."""
    rows = np.asarray(points, float)
    return rows[:, None] if rows.ndim == 1 else rows


def results(text, points, variables=None, order=2):
    rows = table(points)
    return function(text, len(rows), order, variables).run(rows)


def problems(text, points, variables=None, order=2):
    """Return the kinds of the problems at each point."""
    rows = table(points)
    compiled = function(text, len(rows), order, variables)
    found = compiled.problems(rows, compiled.run(rows))
    return [[problem.kind for problem in found.get(place, ())] for place in range(len(rows))]


def calculus(text, points, variables=None, order=2, tolerance=STATIONARY):
    rows = table(points)
    return analyse(function(text, len(rows), order, variables), rows, tolerance)


def plan(chosen, starts, steps, *, schedule=None, clip=None, stop=None, noise=None, include=(), **details):
    """Return a plan from names or mappings; `clip`, `stop` and `noise` are mappings of options."""
    several = chosen if isinstance(chosen, list) else [chosen]
    return RunsPlan(
        [optimizer(each) for each in several],
        table(starts),
        steps,
        schedule=None if schedule is None else select(schedules, schedule),
        clip=None if clip is None else Clip(**clip),
        stop=Bounds(**(stop or {})),
        noise=None if noise is None else GradientNoise(**noise),
        include=frozenset(include),
        **details,
    )


def rolling(text, *arguments, variables=None, limits=ROOMY, **details):
    """Return runs ready for its first step."""
    return Runs(COMPILE, parse(text, variables), plan(*arguments, **details), limits)


def finish(running):
    """Roll to the end; return copies of the snapshots, and the outcome."""
    return to_the_end(running), arrived(running)


def to_the_end(running):
    """Roll to the end; return copies of the snapshots."""
    snapshots = []
    while not running.finished:
        snapshot = running.advance()
        if snapshot is not None:
            snapshots.append((snapshot.step, *(np.array(part) for part in snapshot[1:])))
    return snapshots


def arrived(running):
    """Return the ends of the runs of finished runs."""
    arrival = RunEnds(running)
    while not arrival.finished:
        arrival.advance()
    return arrival


def roll(*arguments, **details):
    """Return the finished rolling, its snapshots, and its outcome."""
    running, snapshots = rolled(*arguments, **details)
    return running, snapshots, arrived(running)


def rolled(*arguments, **details):
    """Return the finished rolling and its snapshots, without the search for the ends, which takes most of the time."""
    running = rolling(*arguments, **details)
    return running, to_the_end(running)
