"""Submit thousands of gradients to `/v1/gradients/verify`, and print how well they were judged.

Usage: `python -m benchmarks.verdicts`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.measure import table
from benchmarks.verdicts import claims, timing
from benchmarks.verdicts.judge import Judge, correct, erring, in_process, masks_from, over_http, patternless
from benchmarks.verdicts.networks import MAKERS

ON_PAIRS = ("classifier", "regression", "image", "deep")
HEADER = ("claims", "number", "what came of them")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--only", choices=("singles", "pairs", "right", "wrong", "small", "time"), action="append")
    parser.add_argument("--networks", nargs="+", choices=tuple(MAKERS), default=tuple(MAKERS))
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the right and of the wrong claims (default 1)"
    )
    parser.add_argument("--pairs", type=int, default=60, help="pairs of mistakes drawn for each network (default 60)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other numbers (default 0)")
    parser.add_argument("--url", help="a running service (default: the code of this checkout, in process)")
    parser.add_argument("--failures", type=Path, help="a folder for what was judged wrongly, a file each")
    parser.add_argument("--shown", type=int, default=40, help="confusions to print")
    options = parser.parse_args()
    send = over_http(options.url) if options.url else in_process()
    prepare = masks_from(send)
    kinds: Mapping[str, tuple[Callable[[], Iterable[claims.Claim]], Callable[..., list[str]]]] = {
        "singles": (lambda: claims.singles(prepare, options.networks, 1986 + options.seed), erring),
        "pairs": (lambda: claims.pairs(prepare, ON_PAIRS, options.pairs, 7 + options.seed), erring),
        "right": (lambda: claims.right(prepare, options.share, 100 + options.seed), correct),
        "wrong": (lambda: claims.unexplained(prepare, options.share, 500 + options.seed), patternless),
        "small": (lambda: claims.small(prepare, 900 + options.seed), patternless),
    }
    for kind, (made, judged) in kinds.items():
        if options.only and kind not in options.only:
            continue
        judge = Judge(send, options.failures and options.failures / kind)
        judge.judge(made(), judged)
        show(kind, judge, options.shown)
    if not options.only or "time" in options.only:
        header = ("network", "claim", "gradient ms", "verdict ms", "more ms", "bar")
        table("Time, warm, median", header, timing.times(send))


def show(kind: str, judge: Judge, shown: int) -> None:
    rows: list[list[Any]] = []
    for name, row in judge.rows.items():
        parts = (f"{what.removeprefix('+')} {count}" for what, count in sorted(row.counts.items()))
        rows.append([name, str(row.claims), ", ".join(parts)])
    table(kind, HEADER, rows)
    confusions = [(row, what, where) for row, each in judge.rows.items() for what, where in each.confusions.items()]
    for row, what, where in sorted(confusions, key=lambda each: -len(each[2]))[:shown]:
        print(f"  {len(where)} x {row}: {what} ({', '.join(dict.fromkeys(where))})")


if __name__ == "__main__":
    main()
