"""Kill runners and workers with -9 while a run is computed and a client follows it.

    python -m benchmarks.runs.kill [--steps 60000] [--kills 6] [--database sqlite|postgresql|both]

A training with Adam, dropout and shuffled batches is the most sensitive run: each step depends on the seed and on all
steps before. Afterwards every record must have come once, in order, and everything must be bit for bit as in a training
that nobody disturbed, which is computed in this process without any run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.runs.harness import DATABASES, Follower, Server, database, end_orderly, serving
from scripts.postgres import NotInstalled
from service.app import create_app
from service.config import Settings

STREAM = "application/x-ndjson; tensors=base64"


def training(steps: int, seed: int = 7) -> dict[str, Any]:
    """Return a training whose every step depends on the seed."""
    rng = random.Random(seed)
    inputs = [[rng.uniform(-1, 1) for _ in range(4)] for _ in range(64)]
    return {
        "network": {
            "layers": [
                {"type": "dense", "units": 16, "activation": "tanh"},
                {"type": "dropout", "rate": 0.2},
                {"type": "dense", "units": 1},
            ]
        },
        "inputs": inputs,
        "targets": [[x[0] * x[1] + x[2] - x[3] ** 2] for x in inputs],
        "loss": "mse",
        "optimizer": {"type": "adam", "learning_rate": 0.003},
        "steps": steps,
        "batch_size": 16,
        "shuffle": True,
        "seed": seed,
    }


@dataclass
class Outcome:
    """The end of one run, and the records that the client got of it."""

    runners_killed: int
    workers_killed: int
    attempts: int
    seconds: float
    attached: int
    lines: list[bytes]
    summary: dict[str, Any]
    stored: list[bytes]
    """The records as the server sends them afterwards."""


def undisturbed(request: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
    """Return the records and the summary of a training that is streamed in one process."""
    settings = replace(Settings(log_requests=False), max_seconds=3600.0)
    response = create_app(settings).test_client().post("/v1/train", json=request, headers={"Accept": STREAM})
    *lines, last = [line for line in response.data.splitlines(keepends=True) if line != b"{}\n"]
    return lines, json.loads(last)


def disturbed(server: Server, request: dict[str, Any], kills: int, seed: int = 1) -> Outcome:
    """Compute a training as a run, and kill a runner and, half as often, a worker at random steps of it."""
    steps = request["steps"]
    body = {"kind": "train", "request": request}
    status, made = server.ask("POST", "/v1/runs", body, Accept="application/json; tensors=base64")
    assert status == 202, made
    began = time.monotonic()
    follower = Follower(server.port, made["id"])
    follower.start()
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0.02, 0.95) * steps for _ in range(kills))
    killed = {True: 0, False: 0}
    for number, moment in enumerate(moments):
        while follower.last < moment and follower.summary is None:
            time.sleep(0.005)
        for runner in (True,) if number % 2 else (True, False):
            victims = server.of_role(runner)
            if victims:
                os.kill(chance.choice(victims), signal.SIGKILL)
                killed[runner] += 1
    follower.join(600)
    assert follower.summary is not None, "the run does not end"
    seconds = time.monotonic() - began
    again = Follower(server.port, made["id"])
    again.start()
    again.join(60)
    _, entry = server.ask("GET", f"/v1/runs/{made['id']}")
    return Outcome(
        killed[True],
        killed[False],
        entry["attempt"],
        seconds,
        follower.attached,
        follower.lines,
        json.loads(follower.summary),
        again.lines,
    )


def faults(outcome: Outcome, lines: list[bytes], summary: dict[str, Any]) -> list[str]:
    """Return what is wrong with a disturbed run, against the undisturbed training."""
    found = []
    for name, got in (("streamed", outcome.lines), ("stored", outcome.stored)):
        steps = [json.loads(line)["step"] for line in got]
        if steps != list(range(1, len(lines) + 1)):
            found.append(f"{name}: {len(steps)} records, {len(set(steps))} different ones, of {len(lines)}")
        elif got != lines:
            found.append(f"{name}: {sum(a != b for a, b in zip(got, lines, strict=True))} records have other bytes")
    for key, value in summary.items():
        if outcome.summary.get(key) != value:
            found.append(f"the result has another {key}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60_000)
    parser.add_argument("--kills", type=int, default=7, help="runners that are killed; a worker with every second one")
    parser.add_argument("--database", choices=(*DATABASES, "both"), default="both")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    options = parser.parse_args()
    end_orderly()
    request = training(options.steps)
    lines, summary = undisturbed(request)
    for kind in DATABASES if options.database == "both" else (options.database,):
        try:
            with database(kind) as environment, serving(environment) as server:
                outcome = disturbed(server, request, options.kills, options.seed)
        except NotInstalled as error:
            print(f"{kind}: {error}")
            continue
        wrong = faults(outcome, lines, summary)
        print(
            f"{kind}: {options.steps} steps in {outcome.seconds:.1f} s, {outcome.runners_killed} runners and "
            f"{outcome.workers_killed} workers killed, {outcome.attempts} attempts, client attached "
            f"{outcome.attached} times: {'; '.join(wrong) or 'every record once, all bits equal'}",
            flush=True,
        )
        if wrong:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
