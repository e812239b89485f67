"""Give the engine expressions that nobody should type, and check that each is computed or refused quickly.

    OPENBLAS_NUM_THREADS=1 python scripts/fuzz_expressions.py [count] [seed]

Each text is parsed, once with a list of its variables; what is understood is also compiled, differentiated twice,
computed at one point and written as formulas. Each of these must succeed or be refused within 50 ms of processor time.
Prints the slowest, and ends with an error if one fails.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from service.engine.errors import InvalidRequest, LimitExceeded  # noqa: E402
from service.engine.functions.backpropagation import ExpressionGraph  # noqa: E402
from service.engine.functions.calculus import analyse  # noqa: E402
from service.engine.functions.compiled import Function, FunctionTask  # noqa: E402
from service.engine.functions.expression import parse  # noqa: E402
from service.engine.functions.formulas import formulas_of  # noqa: E402
from tests.engine.functions.hostile import hostile_expressions  # noqa: E402

COUNT = 100_000
ALLOWED_SECONDS = 0.05
SLOWEST = 5


def compiled(text: str) -> object:
    """Compute value, gradient, Hessian and all that follows from them, at one point."""
    expression = parse(text)
    function = Function(FunctionTask(expression, 1, 2))
    return analyse(function, np.full((1, len(expression.variables)), 0.7)) if expression.variables else None


CHECKS: dict[str, Callable[[str], object]] = {
    "variables to be found": parse,
    "variables x and y": lambda text: parse(text, ("x", "y")),
    "compiled": compiled,
    "as a graph": lambda text: ExpressionGraph(parse(text)),
    "as formulas": lambda text: formulas_of(parse(text)),
}


def outcome(check: Callable[[str], object], text: str) -> tuple[str, float]:
    """Return what `check` does with a text (understood, refused, or an error), and the processor seconds it took."""
    before = time.thread_time()
    try:
        check(text)
        result = "understood"
    except InvalidRequest as refusal:
        result = "refused"
        for fault in refusal.faults:
            fault.detail.encode()
    except LimitExceeded:
        result = "refused"
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    return result, time.thread_time() - before


def shown(text: str) -> str:
    return f"{text[:60]!a}, {len(text):,} characters"


def main(count: int = COUNT, seed: int = 0) -> int:
    results: Counter[str] = Counter()
    times: list[tuple[float, str, str]] = []
    failures: list[str] = []
    for text in hostile_expressions(seed, count):
        for name, check in CHECKS.items():
            result, seconds = outcome(check, text)
            if seconds > ALLOWED_SECONDS:
                # Once more, in case it was the collector of garbage that took the time.
                seconds = min(seconds, outcome(check, text)[1])
            results[result] += 1
            times = sorted([*times, (seconds, name, shown(text))], reverse=True)[:SLOWEST]
            if result not in ("understood", "refused"):
                failures.append(f"{name}, {shown(text)}: {result}")
            if seconds > ALLOWED_SECONDS:
                failures.append(f"{name}, {shown(text)}: {1000 * seconds:.0f} ms")
    for result, number in results.most_common():
        print(f"{number:9,} {result}")
    print("slowest:")
    for seconds, name, text in times:
        print(f"{1000 * seconds:9.2f} ms  {name}, {text}")
    for failure in failures[:20]:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
