"""Print the formulas of random expressions, read them back, and compare their values with the engine's.

    OPENBLAS_NUM_THREADS=1 python scripts/check_formulas.py [count] [seed]

The tests do the same with fewer. Where plain numbers differ, many digits decide. Ends with an error if one is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.engine.functions.formula_checks import checked  # noqa: E402
from tests.engine.functions.random_expressions import random_expressions  # noqa: E402

COUNT = 20_000
SHOWN = 20


def main(count: int = COUNT, seed: int = 1) -> int:
    faults: list[str] = []
    formulas = values = 0
    for text in random_expressions(seed, count):
        report = checked(text)
        faults += report.faults
        formulas += report.formulas
        values += report.values
    for fault in faults[:SHOWN]:
        print(f"WRONG {fault}")
    print(f"{count:,} expressions, {formulas:,} formulas, {values:,} values, {len(faults):,} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
