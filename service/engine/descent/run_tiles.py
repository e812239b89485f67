"""Runs on a function, tile by tile: a tile has some of the starts, with all optimizers, and may run in any process.

Every operation on the matrix of all runs is elementwise, so the bits of a run do not depend on the tile that it is in.
Only sums over the variables of a single run are made in another order, so no tile has one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array
from service.engine.compiling import Compiler
from service.engine.descent.runs import Runs
from service.engine.descent.runs_plan import RunsPlan
from service.engine.float_warnings import without_float_warnings
from service.engine.functions.compiled import PointProblem
from service.engine.functions.expression import Expression
from service.engine.limits import Limits
from service.engine.watch import Watch

STARTS = 2_048
"""Starts of a tile."""
SEARCH_STARTS = 16
"""Starts of a tile where an optimizer searches: such runs move one after the other."""
SEARCH_SECONDS = 2e-4
"""Roughly the seconds that one run with a search takes for a step."""


class Tile(NamedTuple):
    """The ends of the runs of a tile, as arrays over its runs."""

    step: int
    """The steps until its last run ended."""
    positions: Array
    """(variables, runs)"""
    resting: Array
    status: Array
    ended_at: Array
    first: Array
    kinks: dict[int, tuple[str, str]]
    last_moves: dict[int, int]
    paths: list[Array]
    """The recorded points, values and perhaps gradients, (runs, recorded steps, …)."""


def tiles_of(plan: RunsPlan) -> list[range]:
    """Return the starts of a plan in tiles, by their numbers."""
    size = SEARCH_STARTS if searches_of(plan) else STARTS
    count = len(plan.starts)
    cuts = [*range(0, max(1, count - 1), size), count]  # the last start is never alone
    return [range(*pair) for pair in pairwise(cuts)]


def searches_of(plan: RunsPlan) -> int:
    """Return the number of optimizers that search."""
    return sum(optimizer.declaration.search is not None for optimizer in plan.optimizers)


def can_be_tiled(plan: RunsPlan) -> bool:
    """Return whether tiles give all that a plan asks for. States of optimizers are not collected."""
    return "state" not in plan.include


def run_tile(
    compile: Compiler,  # noqa: A002 (the verb fits)
    expression: Expression,
    plan: RunsPlan,
    tile: range,
    limits: Limits,
    watch: Watch,
) -> Tile:
    """Make the runs of one tile of a plan to their ends."""
    starts = plan.starts[tile.start : tile.stop]
    noise = None if plan.noise is None else plan.noise._replace(first=tile.start, of=len(plan.starts))
    runs = Runs(compile, expression, replace(plan, starts=starts, noise=noise), limits)
    try:
        while not runs.finished:
            watch.look()
            runs.advance()
        return Tile(
            runs.step,
            runs.positions.copy(),
            runs.resting,
            runs.status,
            runs.ended_at,
            runs.first,
            {run: (kink.kind, kink.text) for run, kink in runs.kinks.items()},
            runs.searches.last_moves,
            runs.paths.recorded,
        )
    finally:
        runs.close()


def take_tiles(runs: Runs, tiles: Sequence[Tile]) -> None:
    """Bring runs that have not begun to the ends that their tiles have reached."""
    starts = len(runs.plan.starts)
    optimizers = len(runs.plan.optimizers)
    first = np.empty(runs.plan.runs)
    kinks: dict[int, PointProblem] = {}
    begin = 0
    for tile in tiles:
        count = tile.positions.shape[1] // optimizers
        for place in range(optimizers):
            there = slice(place * starts + begin, place * starts + begin + count)
            here = slice(place * count, (place + 1) * count)
            runs.positions[:, there], runs.resting[:, there] = tile.positions[:, here], tile.resting[:, here]
            runs.status[there], runs.ended_at[there] = tile.status[here], tile.ended_at[here]
            first[there] = tile.first[here]
            for whole, part in zip(runs.paths.recorded, tile.paths, strict=True):
                whole[there] = part[here]

        def number_of(run: int, begin: int = begin, count: int = count) -> int:
            return run // count * starts + begin + run % count

        kinks |= {number_of(run): PointProblem(kind, None, text) for run, (kind, text) in tile.kinks.items()}
        runs.searches.last_moves |= {number_of(run): step for run, step in tile.last_moves.items()}
        begin += count
    runs.kinks = dict(sorted(kinks.items()))
    runs.take_ends(max(tile.step for tile in tiles), first)
    without_float_warnings(runs.evaluate)
