"""Time typed functions: derivatives at a point, a new expression, many balls, a map of basins, stationary points."""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from itertools import count
from typing import Any

import numpy as np

from benchmarks.measure import (
    RATIO_HEADER,
    Bar,
    Timing,
    blas,
    duration,
    profile,
    ratio_rows,
    table,
    time_in_turns,
    torch_here,
)
from benchmarks.networks import Array
from service.engine.compiling import Compiler
from service.engine.descent.end_points import BLOCK_POINTS
from service.engine.descent.optimizers import optimizers
from service.engine.descent.run_ends import RunEnds
from service.engine.descent.runs import Runs
from service.engine.descent.runs_plan import RunsPlan
from service.engine.functions.backpropagation import ExpressionGraph
from service.engine.functions.calculus import analyse
from service.engine.functions.compiled import Function, FunctionTask
from service.engine.functions.expression import parse
from service.engine.functions.formulas import formulas_of
from service.engine.functions.presets import presets
from service.engine.functions.stationary import search
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits

HEADER = ("", "median", "least", "bar")
BALLS, STEPS, RATE = 1_000, 500, 0.05
SIDE, BASIN_STEPS, BASIN_RATE = 200, 300, 0.005
STARTS = 400
"""Places from which stationary points are searched."""
POINT = np.array([[-1.2, 1.0]])
LIMITS = Limits(operations=float("inf"))

DERIVATIVES, ANALYSED, TWICE, FUNCTIONAL = (
    "value, gradient and Hessian",
    "… with eigenvalues and class",
    "torch.autograd twice",
    "torch.func.hessian",
)
NEW, FORMULAS, GRAPH = "parsed, compiled, run", "formulas", "graph, and its numbers"
ADAM, KEPT, TOLD = "places at the end", "… and of every step", "… given out, not kept"
TORCH, FUSED = "torch.optim.Adam", "… fused"
BARS = {DERIVATIVES: 30e-6, NEW: 1e-3}
"""Seconds."""
BALLS_BAR = Bar(0.5)


def plain_rows(timings: Mapping[str, Timing]) -> list[list[str]]:
    """Return one table row per contender; where `BARS` has a bar, it is compared with the median."""
    rows = []
    for name, timing in timings.items():
        verdict = ""
        if name in BARS:
            verdict = f"<= {duration(BARS[name])} {'met' if timing.median <= BARS[name] else 'MISSED'}"
        rows.append([name, duration(timing.median), duration(timing.least), verdict])
    return rows


def agree(what: str, ours: Array, theirs: Any, tolerance: float) -> None:
    """Exit the process if PyTorch's numbers differ from ours by more than the relative `tolerance`."""
    difference = np.abs(ours - np.asarray(theirs)).max()
    if not difference <= tolerance * max(1.0, float(np.abs(ours).max())):
        raise SystemExit(f"{what}: PyTorch's numbers differ by {difference:g}")


def compiled(preset: str, points: int, order: int) -> Function:
    return Function(FunctionTask(parse(presets[preset].expression), points, order))


# --- one point ----------------------------------------------------------------------------------


def rosenbrock(p: Any) -> Any:
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def torch_derivatives() -> dict[str, Callable[[], tuple[Any, Any, Any]]]:
    """Return two ways to get value, gradient and Hessian in PyTorch, as its manual shows them."""
    torch: Any = import_module("torch")
    torch.set_num_threads(1)
    place = torch.tensor(POINT[0], requires_grad=True)
    fixed = torch.tensor(POINT[0])
    both, second = torch.func.grad_and_value(rosenbrock), torch.func.hessian(rosenbrock)

    def twice() -> tuple[Any, Any, Any]:
        value = rosenbrock(place)
        (gradient,) = torch.autograd.grad(value, place, create_graph=True)
        rows = [torch.autograd.grad(derivative, place, retain_graph=True)[0] for derivative in gradient]
        return value.detach(), gradient.detach(), torch.stack(rows)

    def functional() -> tuple[Any, Any, Any]:
        gradient, value = both(fixed)
        return value, gradient, second(fixed)

    return {TWICE: twice, FUNCTIONAL: functional}


def one_point(rounds: int, with_torch: bool) -> None:
    function = compiled("rosenbrock", 1, 2)
    contenders: dict[str, Callable[[], object]] = {
        DERIVATIVES: lambda: function.run(POINT),
        ANALYSED: lambda: analyse(function, POINT),
    }
    if with_torch:
        ours = [np.asarray(part)[0] for part in function.run(POINT)]
        for name, call in torch_derivatives().items():
            contenders[name] = call
            for mine, theirs in zip(ours, call(), strict=True):
                agree(name, mine, theirs, 1e-14)
    timings = time_in_turns(contenders, rounds)
    table("Rosenbrock at one point, warm", RATIO_HEADER, ratio_rows(timings, DERIVATIVES, {}))
    table("… in seconds", HEADER, plain_rows({name: timings[name] for name in (DERIVATIVES, ANALYSED)}))


# --- a new expression ---------------------------------------------------------------------------


def unseen() -> Iterator[str]:
    """Return an iterator of expressions that all differ, so that each has to be compiled."""
    return (f"(1 - x)^2 + {number}*(y - x^2)^2" for number in count(100))


def creating() -> dict[str, Callable[[], object]]:
    texts = unseen()
    return {
        NEW: lambda: Function(FunctionTask(parse(next(texts)), 1, 2), LIMITS).run(POINT),
        FORMULAS: lambda: formulas_of(parse(next(texts))),
        GRAPH: lambda: ExpressionGraph(parse(next(texts))).run(POINT[0]),
    }


def new_expression(rounds: int) -> None:
    table("Rosenbrock, never seen before", HEADER, plain_rows(time_in_turns(creating(), rounds)))


# --- many balls ---------------------------------------------------------------------------------


def rolling(starts: Array, optimizer: str, rate: float, steps: int, every: int, keep: bool) -> Callable[[], Runs]:
    """Return a function that starts the same descent anew at each call; the expression is compiled only once.

    `every` and `keep` say which steps are recorded and whether the records are kept.
    """
    pool = WorkspacePool()
    expression = parse(presets["himmelblau"].expression)
    compile_once = Compiler(LIMITS, 10**12, pool)
    chosen = optimizers.select(optimizer, learning_rate=rate)
    plan = RunsPlan([chosen], starts, steps, every=every, keep=keep)
    return lambda: Runs(compile_once, expression, plan, LIMITS)


def to_the_end(make: Callable[[], Runs]) -> Runs:
    running = make()
    while not running.finished:
        running.advance()
    running.close()
    return running


def arrived(running: Runs) -> RunEnds:
    """Find the valley at which each finished run ended."""
    arrival = RunEnds(running)
    while not arrival.finished:
        arrival.advance()
    return arrival


def spread() -> Array:
    return np.random.default_rng(1986).uniform(-5.0, 5.0, (BALLS, 2))


def torch_balls(starts: Array, threads: int, **options: Any) -> Callable[[], Any]:
    """Return a call that runs Adam in PyTorch from all starts, which are the rows of one tensor."""
    torch: Any = import_module("torch")

    def roll() -> Any:
        torch.set_num_threads(threads)
        places = torch.tensor(starts, requires_grad=True)
        optimizer = torch.optim.Adam([places], lr=RATE, **options)
        for _ in range(STEPS):
            optimizer.zero_grad()
            x, y = places[:, 0], places[:, 1]
            values = (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2
            values.sum().backward()
            optimizer.step()
        return places.detach().numpy()

    return roll


def many_balls(rounds: int, with_torch: bool) -> None:
    starts = spread()
    ours = {
        ADAM: rolling(starts, "adam", RATE, STEPS, STEPS, keep=False),
        KEPT: rolling(starts, "adam", RATE, STEPS, 1, keep=True),
        TOLD: rolling(starts, "adam", RATE, STEPS, 1, keep=False),
    }
    contenders: dict[str, Callable[[], object]] = {name: partial(to_the_end, make) for name, make in ours.items()}
    if with_torch:
        threads = len(os.sched_getaffinity(0))
        contenders[TORCH] = torch_balls(starts, 1)
        contenders[f"… on {threads} threads"] = torch_balls(starts, threads)
        contenders[FUSED] = torch_balls(starts, 1, fused=True)
        agree(TORCH, to_the_end(ours[ADAM]).positions.T, contenders[TORCH](), 1e-10)
    timings = time_in_turns(contenders, rounds)
    bars = {TORCH: BALLS_BAR}
    title = f"{BALLS:,} balls, {STEPS} steps of Adam on Himmelblau's function"
    table(title, RATIO_HEADER, ratio_rows(timings, ADAM, bars))
    if with_torch:
        chosen = {name: timings[name] for name in (KEPT, TORCH)}
        table("With the place after every step", RATIO_HEADER, ratio_rows(chosen, KEPT, bars))


# --- a basin map --------------------------------------------------------------------------------


def basin_map() -> Callable[[], Runs]:
    axis = np.linspace(-5.0, 5.0, SIDE)
    starts = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return rolling(starts, "sgd", BASIN_RATE, BASIN_STEPS, BASIN_STEPS, keep=False)


def basins(rounds: int) -> None:
    make = basin_map()
    seconds: dict[str, list[float]] = {"rolled": [], "… where each ended": []}
    for _ in range(rounds):
        start = time.perf_counter()
        running = to_the_end(make)
        rolled = time.perf_counter()
        outcome = arrived(running)
        ended = time.perf_counter()
        for name, took in zip(seconds, (rolled - start, ended - rolled), strict=True):
            seconds[name].append(took)
    rows = plain_rows({name: Timing(tuple(values)) for name, values in seconds.items()})
    tracemalloc.start()
    running = to_the_end(make)
    rolled_peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    arrived(running)
    peaks = rolled_peak, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    header = ("", "median", "least", "peak memory")
    title = f"{SIDE} × {SIDE} balls, {BASIN_STEPS} steps of gradient descent on Himmelblau's function"
    table(title, header, [[*row[:3], f"{peak / 1e6:.0f} MB"] for row, peak in zip(rows, peaks, strict=True)])
    valleys = ", ".join(f"{number:,}" for number in outcome.valleys.counts)
    print(f"reserved {running.memory / 1e6:.0f} MB; ended in each valley: {valleys}")


# --- stationary points --------------------------------------------------------------------------


def searching(preset: str) -> Callable[[], int]:
    function = compiled(preset, BLOCK_POINTS, 2)
    low, high = np.array(presets[preset].domain).T
    return lambda: len(search(function, low, high, STARTS).points)


def stationary_points(rounds: int) -> None:
    calls = {name: searching(name) for name in ("himmelblau", "rosenbrock", "rastrigin")}
    contenders = {f"{name}: {call()} found": call for name, call in calls.items()}
    title = f"Stationary points, from {STARTS} places"
    table(title, HEADER[:3], [row[:3] for row in plain_rows(time_in_turns(contenders, rounds))])


# --- profiles -----------------------------------------------------------------------------------


def profiled() -> dict[str, tuple[Callable[[], object], int]]:
    """Return the calls that `--profile` offers, each with the number of repetitions."""
    function = compiled("rosenbrock", 1, 2)
    new = creating()
    return {
        "point": (lambda: function.run(POINT), 20_000),
        "analyse": (lambda: analyse(function, POINT), 2_000),
        "new": (new[NEW], 300),
        "formulas": (new[FORMULAS], 100),
        "balls": (lambda: to_the_end(rolling(spread(), "adam", RATE, STEPS, 1, keep=True)), 3),
        "basins": (lambda: arrived(to_the_end(basin_map())), 1),
        "search": (searching("himmelblau"), 10),
    }


def main() -> None:
    cases = profiled()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.functions", description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="turns of each contender (default 31)")
    parser.add_argument("--quick", action="store_true", help="a few turns only, to see that it runs")
    parser.add_argument("--profile", choices=list(cases), help="profile one of them instead of timing all")
    options = parser.parse_args()
    if options.profile:
        return profile(*cases[options.profile])
    rounds = 5 if options.quick else options.rounds
    few = max(3, rounds // 4)
    with_torch = torch_here()
    print(blas())
    one_point(rounds, with_torch)
    new_expression(rounds)
    many_balls(few, with_torch)
    basins(2 if options.quick else 3)
    stationary_points(few)
    return None


if __name__ == "__main__":
    main()
