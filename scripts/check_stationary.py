"""Check the results of searches for stationary points with 50-digit numbers, on many random functions.

    OPENBLAS_NUM_THREADS=1 python scripts/check_stationary.py [quadratics] [others] [seed]

By default 2,000 quadratics with condition numbers up to 1e16 and 500 functions that are not convex; it takes a quarter
of an hour. Prints each false result, each minimum that is missing without a warning, and how often each outcome came.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.engine.functions.claims import check, others, quadratics  # noqa: E402


def main(bowls: int = 2_000, rest: int = 500, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    short = 0
    for cases in (quadratics(rng, bowls), others(rng, rest)):
        wrong, outcomes = check(cases)
        print("\n".join([*wrong, f"{len(wrong)} faults; {outcomes}"]))
        short += len(wrong)
    raise SystemExit(short > 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
