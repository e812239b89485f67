"""Compare derivatives of random typed functions, at ordinary and at special points, with mpmath.

See tests/engine/functions/reference.py.

    python scripts/fuzz_derivatives.py --expressions 20000 --seed 1

Prints each wrong number, and counts the derivatives that exist but are missing. Exits with 1 if a number is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from service.engine.errors import InvalidRequest, LimitExceeded
from service.engine.functions.calculus import analyse
from service.engine.functions.compiled import Function, FunctionTask
from service.engine.functions.expression import parse
from tests.engine.functions.reference import Judge, answers, random_cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--expressions", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--missing", action="store_true", help="print what is not told, too")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    for text, names, points in islice(random_cases(options.seed), options.expressions):
        try:
            expression = parse(text, tuple(names))
            function = Function(FunctionTask(expression, len(points), 2))
        except (InvalidRequest, LimitExceeded):
            counts["refused"] += 1
            continue
        calculus = analyse(function, np.array(points))
        for point, answer in zip(points, answers(calculus), strict=True):
            counts["points"] += 1
            counts["with a value"] += answer.value is not None
            counts["with problems"] += bool(answer.problems)
            verdict = Judge(expression, point).judge(answer)
            counts["wrong"] += bool(verdict.wrong)
            counts["incomplete"] += bool(verdict.missing)
            for message in verdict.wrong:
                print(f"WRONG   {text}  at {point}: {message}; {answer.problems}", flush=True)
            for message in verdict.missing if options.missing else ():
                print(f"missing {text}  at {point}: {message}; {answer.problems}", flush=True)
    print(dict(counts))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
