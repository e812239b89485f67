"""Attack a server on the loopback interface, one family of attacks after the other.

Usage: `python -m benchmarks.attacks [family] …`. Each attack prints a line: its name, the bar, what was measured, and
whether the bar was held.
"""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.attacks import bombs, connections, fairness, heavy, kill, mutations, soak
from benchmarks.attacks.harness import ROOT, Options, Row

FAMILIES: dict[str, Callable[[Options], Iterator[Row]]] = {
    "connections": connections.run,
    "heavy": heavy.run,
    "fairness": fairness.run,
    "bombs": bombs.run,
    "kill": kill.run,
    "mutations": mutations.run,
    "soak": soak.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="family", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="whose server is attacked (default: this one)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of one attack (default 20)")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the soak (default 15)")
    parser.add_argument("--mutations", type=int, default=300_000, help="requests (default 300,000)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--addresses", type=int, default=64, help="from how many addresses attackers come (default 64)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only attacks with this in their names")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of the server")
    options = parser.parse_args()
    for name in options.families:
        if name not in FAMILIES:
            parser.error(f"no family is called {name!r}; there are {', '.join(FAMILIES)}")
    chosen = Options(
        checkout=options.checkout.resolve(),
        seconds=options.seconds,
        workers=options.workers,
        addresses=options.addresses,
        environment=dict(text.split("=", 1) for text in options.set),
        mutations=options.mutations,
        seed=options.seed,
        minutes=options.minutes,
        only=options.only,
    )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped
    failed = 0
    for name in options.families or FAMILIES:
        print(f"\n=== {name} === {time.strftime('%H:%M:%S')}", flush=True)
        for row in FAMILIES[name](chosen):
            verdict = {True: "held", False: "NOT HELD", None: ""}[row.held]
            failed += row.held is False
            print(f"{row.attack} | {row.bar} | {row.measured} | {verdict}", flush=True)
    print(f"\n{failed} bars were not held" if failed else "\nall bars were held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
