"""Helpers of the tests of runners: requests, runs in a database, and what was stored of them."""

import threading
from dataclasses import replace
from typing import Any

import orjson

from service.api.context import Runtime
from service.api.state_file import state_of
from service.runner.execution import Execution
from service.runner.loop import Runner
from service.store.runs import Claim, NewRun, RunEntry
from tests.conftest import wait_for

ENDED = ("completed", "stopped", "diverged", "cancelled", "failed")


def training(steps: int, **changes: Any) -> dict[str, Any]:
    """Return a training whose every step depends on the seed: dropout, shuffled batches, Adam."""
    return {
        "network": {
            "layers": [
                {"type": "dense", "units": 8, "activation": "tanh"},
                {"type": "dropout", "rate": 0.25},
                {"type": "dense", "units": 1},
            ]
        },
        "inputs": [[0, 0], [0, 1], [1, 0], [1, 1]] * 4,
        "targets": [[0], [1], [1], [0]] * 4,
        "loss": "mse",
        "optimizer": {"type": "adam", "learning_rate": 0.01},
        "steps": steps,
        "batch_size": 4,
        "shuffle": True,
        "seed": 3,
    } | changes


def add(runtime: Runtime, request: dict[str, Any], kind: str = "train", owner: str = "", **more: Any) -> str:
    """Put a run into the queue and return its id."""
    new = NewRun(kind, orjson.dumps(request), request.get("steps", 0), **more)
    return runtime.store.runs.add(owner, new)[0]


def entry_of(runtime: Runtime, run: str, owner: str = "") -> RunEntry:
    entry = runtime.store.runs.find(owner, run)
    assert entry is not None
    return entry


def lines_of(runtime: Runtime, run: str, owner: str = "") -> list[bytes]:
    """Return the stored records of a run. Fail if one is missing or stored twice."""
    lines: list[bytes] = []
    after = -1
    while chunks := runtime.store.runs.records(owner, run, after):
        for first, last, content in chunks:
            of_chunk = content.splitlines(keepends=True)
            steps = [orjson.loads(line)["step"] for line in of_chunk]
            assert (steps[0], steps[-1]) == (first, last) and first > after
            assert steps == sorted(set(steps))
            lines += of_chunk
            after = last
    return lines


def result_of(runtime: Runtime, run: str, owner: str = "") -> dict[str, Any]:
    content = runtime.store.runs.result(owner, run)
    assert content is not None
    return state_of(content)


def claim(runtime: Runtime, name: str = "one", seconds: float = 15.0) -> Claim:
    found = runtime.store.runs.claim(name, seconds, "tests")
    assert found is not None
    return found


def compute(runtime: Runtime, name: str = "one") -> str:
    """Compute the next run until it ends or is given back; return what happened."""
    return Execution(runtime, claim(runtime, name), threading.Event()).compute()


def compute_all(runtime: Runtime, *runs: str, owner: str = "") -> None:
    """Compute runs with one runner until all of these have ended."""
    stop = threading.Event()
    thread = threading.Thread(target=Runner(runtime, "one").run, args=(stop,))
    thread.start()
    try:
        wait_for(lambda: all(entry_of(runtime, run, owner).status in ENDED for run in runs))
    finally:
        stop.set()
        thread.join()


def with_settings(runtime: Runtime, **changes: Any) -> Runtime:
    """Return a runtime at the same database with other settings."""
    return replace(runtime, settings=replace(runtime.settings, **changes))
