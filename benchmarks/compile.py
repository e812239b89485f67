"""Time what the first request with a new network costs: building the graph, differentiating, planning and binding."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.measure import Bar, Timing, blas, duration, profile, table, time_in_turns
from benchmarks.networks import DIGITS, WIDE, XOR, Case
from service.engine.graph.plan import Workspace
from service.engine.limits import Limits
from service.engine.network.evaluate import compile_task

BAR_SECONDS = 0.5e-3


def compiling(case: Case) -> Callable[[], object]:
    limits = Limits()

    def compile_once() -> Workspace:
        return Workspace(compile_task(case.task("float64"), limits).program)

    return compile_once


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile", description=__doc__)
    parser.add_argument("--rounds", type=int, default=31, help="turns of each contender (default 31)")
    parser.add_argument("--quick", action="store_true", help="a few turns only, to see that it runs")
    parser.add_argument("--profile", action="store_true", help="profile compiling XOR instead of timing it")
    options = parser.parse_args()
    if options.profile:
        return profile(compiling(XOR), 300)
    print(blas())
    contenders = {case.name: compiling(case) for case in (XOR, DIGITS, WIDE)}
    timings = time_in_turns(contenders, 5 if options.quick else options.rounds)

    def row(name: str, timing: Timing) -> list[str]:
        ratio = timing.median / BAR_SECONDS
        verdict = Bar(1.0).verdict(ratio) if name == XOR.name else ""
        return [name, duration(timing.median), duration(timing.least), f"{ratio:.2f}", verdict]

    header = ("a new definition", "median", "least", f"of {duration(BAR_SECONDS)}", "bar")
    table("Compiling, float64", header, [row(name, timing) for name, timing in timings.items()])
    return None


if __name__ == "__main__":
    main()
