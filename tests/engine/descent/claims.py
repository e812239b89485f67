"""Claims about the ends of runs, compared with 50-digit numbers on random functions and fits.

A claim is false if a run that has arrived is farther from a stationary point of the claimed class than the plan says,
or if steepest descent from the end of a run leads to another minimum than that of the claimed basin.
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from typing import Any

import mpmath as mp
import numpy as np

from service.engine.descent.run_ends import RunEnds
from service.engine.descent.runs_plan import ARRIVED
from service.engine.descent.valleys import Known
from service.engine.functions.calculus import DEGENERATE, MINIMUM
from service.engine.functions.expression import parse
from service.engine.functions.fit import Line, fit_line
from tests.engine.functions.building import finish, function, roll, rolling
from tests.engine.functions.claims import DIGITS, Case, class_of, classes_beside, true_point

SLACK = 1.01
"""The plan measures distances from the arrival, this test from the end of the run. The two differ by less than 1 %."""
SAME = 1e-6
"""Points closer than this, relative to 1 plus their distance from 0, are one."""
FLOW_STEPS = 2_000
NAMES = ("w", "b")


def runs_on(case: Case, chance: np.random.Generator) -> RunEnds:
    """Run several optimizers on a function, some of them for few steps."""
    size = case.high - case.low
    starts = case.low + size * chance.uniform(size=(3, len(size)))
    first, _, _ = roll(case.text, "newton", starts, 1, variables=case.names)
    slope = float(np.nan_to_num(np.abs(first.gradients)).max())
    chosen = [
        {"name": "sgd", "learning_rate": 0.01 * float(size.max()) / max(slope, 1e-3)},
        {"name": "adam", "learning_rate": 0.01 * float(size.min())},
        "newton",
        "l_bfgs",
    ]
    _, _, outcome = roll(case.text, chosen, starts, int(chance.choice([2, 20, 100])), variables=case.names)
    return outcome


def faults(case: Case, outcome: RunEnds) -> tuple[list[str], int]:
    """Return the false claims, and the number of runs that have arrived at points known for certain."""
    expression, size = parse(case.text, case.names), case.high - case.low
    valleys, wrong, arrived = outcome.valleys, [], 0
    with mp.workdps(DIGITS):
        exact = [true_point(expression, point.tolist(), size.tolist()) for point in valleys.points]
        for place, (true, point) in enumerate(zip(exact, valleys.points.tolist(), strict=True)):
            kind = valleys.classes[place]
            if kind == DEGENERATE and not case.quadratic:
                continue
            if true is None:
                wrong.append(f"{kind} {place} at {point}: Newton's method leads nowhere")
            elif kind not in {class_of(true[1])} | classes_beside(expression, true[0], size):
                wrong.append(f"{kind} {place} at {point}: it is a {class_of(true[1])}")
            elif not np.all(_distances(true[0], point) <= SAME * (1.0 + np.abs(point))):
                wrong.append(f"{kind} {place} at {point}: the true one is at {true[0].T}")
        if case.quadratic and len(valleys.points) > 1:
            wrong.append(f"{len(valleys.points)} places")
        for run, valley in enumerate(valleys.of_run):
            true = exact[valley] if valley >= 0 else None
            if true is None or valleys.classes[valley] == DEGENERATE:
                continue
            end = outcome.points[run]
            if not np.all(_distances(true[0], end.tolist()) <= SLACK * ARRIVED * (1.0 + np.abs(end))):
                wrong.append(f"{outcome.reasons[run]}, from {end.tolist()}, but it is at {true[0].T}")
            arrived += 1
        wrong += _strayed(case, outcome, exact)
    return wrong, arrived


def _distances(true: Any, point: list[float]) -> np.ndarray:
    return np.array([abs(float(there - mp.mpf(here))) for there, here in zip(true, point, strict=True)])


def _strayed(case: Case, outcome: RunEnds, exact: list[Any]) -> list[str]:
    """Return claimed basins from which gradient flow, in small steps, leads to another minimum."""
    valleys = outcome.valleys
    runs = [run for run, basin in enumerate(valleys.basins) if basin >= 0]
    wrong = [
        f"run {run} is in the basin of a {valleys.classes[valleys.basins[run]]}"
        for run in runs
        if valleys.classes[valleys.basins[run]] != MINIMUM
    ]
    runs = [run for run in runs if valleys.of_run[run] < 0]
    if case.quadratic or not runs:
        return wrong
    compiled = function(case.text, len(runs), 2, case.names)
    expression, size = parse(case.text, case.names), case.high - case.low
    for run, end in zip(runs, _flowed(compiled, outcome.points[runs]), strict=True):
        true, claimed = true_point(expression, end.tolist(), size.tolist()), exact[valleys.basins[run]]
        if true is None or claimed is None or class_of(true[1]) != MINIMUM:
            continue  # the flow has not come far enough to decide
        if not np.all(_distances(true[0], end.tolist()) <= 1e-2 * (1.0 + np.abs(end))):
            continue
        apart = np.array([abs(float(a - b)) for a, b in zip(true[0], claimed[0], strict=True)])
        if not np.all(apart <= SAME * (1.0 + np.abs(end))):
            wrong.append(f"run {run} at {outcome.points[run].tolist()} flows to {true[0].T}, not to {claimed[0].T}")
    return wrong


def _flowed(compiled: Any, points: np.ndarray) -> np.ndarray:
    """Follow gradient flow by the classical Runge-Kutta method, in steps far below the shortest time scale."""

    def slopes(places: np.ndarray) -> np.ndarray:
        return np.nan_to_num(-compiled.run(places).gradients)

    for _ in range(FLOW_STEPS):
        hessians = np.nan_to_num(compiled.run(points).hessians)
        first = slopes(points)
        fastest = np.abs(np.linalg.eigvalsh(hessians)).max(-1)
        lengths = np.linalg.norm(first, axis=-1)
        shortest = 0.01 * (1.0 + np.linalg.norm(points, axis=-1)) / np.maximum(lengths, 1e-300)
        times = np.minimum(0.5 / np.maximum(fastest, 1e-300), shortest)[:, None]
        second = slopes(points + 0.5 * times * first)
        third = slopes(points + 0.5 * times * second)
        fourth = slopes(points + times * third)
        moves = times / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
        points = points + moves
        if (np.abs(moves) <= 1e-9 * (1.0 + np.abs(points))).all():
            break
    return points


# --- fits ---------------------------------------------------------------------------------------


def fits(chance: np.random.Generator, count: int) -> Iterator[tuple[list[tuple[float, float]], Line]]:
    """Yield lines through points whose x lie at a distance from 0 of up to many times their spread."""
    for _ in range(count):
        size = int(chance.integers(2, 8))
        spread = 10.0 ** chance.uniform(-3, 3)
        offset = chance.choice([0.0, 1.0]) * spread * 10.0 ** chance.uniform(0, 7)
        xs = offset + spread * (np.arange(size) + chance.uniform(-0.3, 0.3, size))
        slope, level = chance.normal(size=2) * 10.0 ** chance.uniform(-2, 2, 2)
        ys = slope * (xs - offset) + level + chance.choice([0.0, 0.1]) * chance.normal(size=size)
        points = list(zip(xs.tolist(), ys.tolist(), strict=True))
        yield points, fit_line(points, str(chance.choice(["mean_squared_error", "squared_error"])), NAMES)


def fitted(line: Line, chance: np.random.Generator) -> RunEnds:
    """Run several optimizers on the loss of a line."""
    steepest = line.eigenvalues[1]
    chosen = [{"name": "sgd", "learning_rate": 1.0 / steepest}, {"name": "adam", "learning_rate": 0.1}]
    starts = [(0.0, 0.0), (line.slope * (1.0 + 1e-6), line.intercept), (line.slope, line.intercept + 0.1)]
    steps = int(chance.choice([2, 20, 200]))
    running = rolling(line.expression, [*chosen, "newton", "l_bfgs"], starts, steps, variables=NAMES)
    finish(running)
    known = Known(np.array([line.slope, line.intercept]), partial(line.near, radius=running.plan.arrived))
    outcome = RunEnds(running, known)
    while not outcome.finished:
        outcome.advance()
    return outcome


def faults_of_fit(points: list[tuple[float, float]], outcome: RunEnds) -> tuple[list[str], int]:
    """Return runs that have arrived although their loss is well above the least one, and the number of arrivals."""
    xs, ys = ([Fraction(number) for number in numbers] for numbers in zip(*points, strict=True))
    count = len(points)
    mean_x, mean_y = sum(xs) / count, sum(ys) / count
    spread_x, spread_y = sum((x - mean_x) ** 2 for x in xs), sum((y - mean_y) ** 2 for y in ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread_x
    wrong, arrived = [], 0
    for run, valley in enumerate(outcome.valleys.of_run):
        if valley < 0:
            continue
        arrived += 1
        w, b = map(Fraction, outcome.points[run].tolist())
        shift = float(abs(w * mean_x + b - mean_y))
        # In units of the standard deviation of y, plus the rounding of the line.
        tilt = float((w - slope) ** 2 * spread_x / spread_y) ** 0.5
        rounding = 16.0 * np.finfo(np.float64).eps * float(abs(w * mean_x) + abs(b) + abs(mean_y))
        if tilt > SLACK * ARRIVED or shift > SLACK * ARRIVED * float(spread_y / count) ** 0.5 + rounding:
            wrong.append(f"{outcome.reasons[run]}, with {outcome.points[run].tolist()}")
    return wrong, arrived
