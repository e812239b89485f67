"""Run the benchmarks, each in a process of its own: `python -m benchmarks [name] … [--quick]`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

NAMES = ("engine", "layers", "training", "streams", "compile", "functions", "service", "memory", "page")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which to run: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="a few turns only, to see that everything runs")
    options = parser.parse_args()
    for name in options.names:
        if name not in NAMES:
            parser.error(f"no benchmark is called {name!r}; there are {', '.join(NAMES)}")
    failed = []
    for name in options.names or NAMES:
        print(f"\n=== {name} ===", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if options.quick else [])]
        if subprocess.run(command, cwd=Path(__file__).resolve().parent.parent, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
