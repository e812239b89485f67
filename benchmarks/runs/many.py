"""Many short runs and several runners: each run must be computed once, by one of them.

python -m benchmarks.runs.many [--runs 400] [--runners 8] [--database sqlite|postgresql|both]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter

import orjson

from benchmarks.runs.harness import DATABASES, ROOT, database, end_orderly
from benchmarks.runs.kill import training
from scripts.postgres import NotInstalled
from service.api.context import runtime_of
from service.config import Settings
from service.store.runs import NewRun, RunQuotas, Runs

STEPS = 5
OWNERS = 4
QUOTAS = RunQuotas(runs=10**6, unfinished=10**6, owner_bytes=10**10, total_bytes=10**10)


def measure(kind: str, count: int, runners: int) -> str:
    """Compute `count` runs with so many processes; return a line about it. Exits if a run was computed twice."""
    with database(kind) as environment:
        runs = runtime_of(Settings.from_environment(environment)).store.runs
        for number in range(count):
            new = NewRun("train", orjson.dumps(training(STEPS, seed=number % 10)), STEPS)
            runs.add(f"owner {number % OWNERS}", new, QUOTAS)
        began = time.monotonic()
        command = [sys.executable, "-m", "service", "worker"]
        workers = [
            subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL)
            for _ in range(runners)
        ]
        try:
            started = None
            while (counts := runs.counts()).get("completed", 0) < count:
                if started is None and counts.get("completed", 0):
                    started = time.monotonic()
                time.sleep(0.05)
            ended = time.monotonic()
        finally:
            for worker in workers:
                worker.terminate()
            statuses = [worker.wait(60) for worker in workers]
        attempts = Counter(entry.attempt for owner in range(OWNERS) for entry in _entries(runs, f"owner {owner}"))
        records = sum(
            orjson.loads(line)["step"] > 0
            for owner in range(OWNERS)
            for entry in _entries(runs, f"owner {owner}")
            for _, _, lines in runs.records(f"owner {owner}", entry.id, -1)
            for line in lines.splitlines()
        )
    whole = attempts == {1: count} and records == STEPS * count and not any(statuses)
    verdict = "each once" if whole else f"attempts {dict(attempts)}, {records} records, exits {statuses}"
    line = f"{kind}: {count} runs, {runners} runners: {ended - (started or began):.1f} s after the first, {verdict}"
    if not whole:
        sys.exit(line)
    return line


def _entries(runs: Runs, owner: str) -> list:  # type: ignore[type-arg]
    return runs.listed(owner, 10**6)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--runners", type=int, default=8)
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    options = parser.parse_args()
    end_orderly()
    for kind in DATABASES if options.database == "both" else (options.database,):
        try:
            print(measure(kind, options.runs, options.runners), flush=True)
        except NotInstalled as error:
            print(f"{kind}: {error}")


if __name__ == "__main__":
    main()
