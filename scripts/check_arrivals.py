"""Check, with 50-digit numbers, where the service says that runs ended, on many random functions and fits.

    OPENBLAS_NUM_THREADS=1 python scripts/check_arrivals.py [quadratics] [others] [fits] [seed]

By default 2,000 quadratics with condition numbers up to 1e16, 200 functions that are not convex and 500 fits. Prints
each false statement, and how many runs have arrived.
"""

from __future__ import annotations

import sys
from itertools import chain
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.engine.descent.claims import faults, faults_of_fit, fits, fitted, runs_on  # noqa: E402
from tests.engine.functions.claims import others, quadratics  # noqa: E402


def main(bowls: int = 2_000, rest: int = 200, lines: int = 500, seed: int = 1) -> None:
    chance = np.random.default_rng(seed)
    short = arrived = balls = 0
    functions = (
        (case.text, runs_on(case, chance), case) for case in chain(quadratics(chance, bowls), others(chance, rest))
    )
    of_functions = ((text, outcome, faults(case, outcome)) for text, outcome, case in functions)
    of_fits = (
        (str(points), outcome, faults_of_fit(points, outcome))
        for points, line in fits(chance, lines)
        for outcome in [fitted(line, chance)]
    )
    for text, outcome, (wrong, there) in chain(of_functions, of_fits):
        for fault in wrong:
            print(f"{text}: {fault}", flush=True)
        short, arrived, balls = short + len(wrong), arrived + there, balls + len(outcome.status)
    print(f"{short} faults; {arrived:,} of {balls:,} balls have arrived at places known for certain")
    raise SystemExit(short > 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
