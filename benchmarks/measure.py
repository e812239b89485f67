"""Interleaved timing, and tables of ratios.

Machines drift: a neighbour wakes up, a clock slows down. So contenders take turns (A B C, B C A, …), every contender
meets the same disturbances, and only ratios within one run are compared with a bar.
"""

from __future__ import annotations

import cProfile
import pstats
import socket
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec


@dataclass(frozen=True)
class Timing:
    """The times of one contender in seconds, one for each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def least(self) -> float:
        return min(self.seconds)

    def ratio_to(self, other: Timing) -> float:
        """Return the median over the rounds of the ratio to `other`; disturbances longer than a round cancel."""
        return typical_ratio(self.seconds, other.seconds)


def typical_ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of two contenders, round by round."""
    return statistics.median(mine / theirs for mine, theirs in zip(ours, others, strict=True))


@dataclass(frozen=True)
class Bar:
    """A bound that a ratio must not exceed (or, with `at_least`, not fall below)."""

    limit: float
    at_least: bool = False

    def verdict(self, ratio: float) -> str:
        met = ratio >= self.limit if self.at_least else ratio <= self.limit
        return f"{'>=' if self.at_least else '<='} {self.limit:g} {'met' if met else 'MISSED'}"


def torch_here() -> bool:
    """Return whether PyTorch is installed, and print its version and NumPy's."""
    if not installed("torch"):
        return False
    print(f"PyTorch {version('torch')}, NumPy {version('numpy')}")
    return True


def installed(module: str) -> bool:
    """Return whether a module can be imported, and print that it is skipped if it cannot."""
    if find_spec(module) is not None:
        return True
    print(f"skipped: {module} is not installed")
    return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def in_turns(contenders: Sequence[str], rounds: int, measure: Callable[[str], float]) -> dict[str, list[float]]:
    """Call `measure(name)` for each contender once a round, in rotating order; return the results by name."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        start = turn % len(contenders)
        for name in (*contenders[start:], *contenders[:start]):
            measured[name].append(measure(name))
    return measured


def time_in_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, seconds: float = 0.01
) -> dict[str, Timing]:
    """Return the seconds per call of each contender in each round; a turn repeats the call for about `seconds`."""
    repeats: dict[str, int] = {}
    for name, call in contenders.items():
        call()  # warm up
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(seconds / (time.perf_counter() - start)))

    def one_turn(name: str) -> float:
        call = contenders[name]
        turns = range(repeats[name])
        call()  # bring its data back into the caches
        start = time.perf_counter()
        for _ in turns:
            call()
        return (time.perf_counter() - start) / len(turns)

    return {name: Timing(tuple(values)) for name, values in in_turns(list(contenders), rounds, one_turn).items()}


def blas() -> str:
    """Return a line about the BLAS libraries of this process and the kernels they chose."""
    try:
        import threadpoolctl
    except ImportError:
        return "BLAS: unknown, threadpoolctl is not installed"
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    described = [
        f"{pool['internal_api']} {pool['version']}, kernel {pool.get('architecture', '?')}, "
        f"{pool['num_threads']} thread{'' if pool['num_threads'] == 1 else 's'}"
        for pool in pools
    ]
    return "BLAS: " + ("; ".join(described) or "none that threadpoolctl knows")


def duration(seconds: float) -> str:
    """Return a time as text, with three significant digits and a fitting unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:#.3g}".rstrip(".") + f" {unit}"
    return f"{seconds * 1e9:.0f} ns"


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column aligned to the left, the others to the right."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    print(f"\n{title}")
    for line in (header, ["-" * width for width in widths], *rows):
        cells = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    sys.stdout.flush()


def ratio_rows(timings: Mapping[str, Timing], ours: str, bars: Mapping[str, Bar]) -> list[list[str]]:
    """Return a table row per contender: its times, and the ratio of `ours` to it, which its bar judges."""
    mine = timings[ours]
    rows = []
    for name, timing in timings.items():
        ratio = mine.ratio_to(timing)
        bar = bars.get(name)
        rows.append(
            [
                name,
                duration(timing.median),
                duration(timing.least),
                f"{ratio:.2f}",
                f"{mine.least / timing.least:.2f}",
                "" if bar is None else bar.verdict(ratio),
            ]
        )
    return rows


RATIO_HEADER = ("contender", "median", "least", "ours/it", "of the least", "bar")


def profile(call: Callable[[], object], times: int) -> None:
    """Print the 25 functions in which `times` calls spend the most time, after one call that warms up."""
    call()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(times):
        call()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)
