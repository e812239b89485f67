"""Costs and gains of sharing large requests among processes and machines.

    python -m benchmarks.runs.cluster [--rounds 5] [--widths 1,2,3] [--only gradient|sweep]

Contenders take turns: this process, a pool of processes, and a Dask cluster whose scheduler and workers are processes
of this machine. All must give the same bits. Every round sends its data anew, as a new request does. On a machine with
few cores more workers cannot be faster; what counts there is the overhead of one worker.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import orjson

import service.app  # noqa: F401 (all endpoints)
from benchmarks.measure import Timing, blas, duration, free_port, in_turns, installed, table, typical_ratio
from schemas.evaluation import GradientsRequest
from schemas.sweeps import SweepRequest
from service.api.context import Context, Runtime, runtime_of
from service.api.network_request import task_and_feed
from service.api.parts import Recipe, Workers
from service.api.sharing import surroundings_of
from service.api.sweeps import SweepWork
from service.cluster.dask_cluster import Cluster
from service.cluster.pool import Pool
from service.config import Settings
from service.engine.fingerprint import describe
from service.engine.network.feed import Feed
from service.engine.network.sharded import Sharded
from service.engine.parallel import Executor
from service.observing.timer import Timer
from service.packaged import packaged
from service.problems import Problem

ALONE = "in process"
SAMPLES, SHARD = 8192, 1024
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "268435456",
    "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
    "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "1s",
}
"""Variables that the image sets for all its processes; all contenders have them."""
OVERHEAD_SECONDS, OVERHEAD_SHARE = 0.3, 0.05
"""The most that one Dask worker may add to a gradient, in seconds, and to a sweep, as a share."""


@contextmanager
def dask(width: int) -> Iterator[Cluster]:
    """Start a scheduler and workers on the loopback interface, and connect to them."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": str(packaged("openapi.yaml").parent)}
    address = f"tcp://127.0.0.1:{port}"
    commands = [["scheduler", "--host", "127.0.0.1", "--port", str(port), "--dashboard-address", ":0"]]
    commands += [["worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]] * width
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    processes = [subprocess.Popen([sys.executable, "-m", "dask", *command], **quiet) for command in commands]
    cluster = Cluster(Settings(cluster=address))
    try:
        end = time.monotonic() + 60.0
        while _width_of(cluster) < width:
            if time.monotonic() > end:
                raise SystemExit("the Dask cluster did not start")
            time.sleep(0.2)
        yield cluster
    finally:
        cluster.close()
        for process in processes:
            process.kill()
            process.wait()


def _width_of(cluster: Cluster) -> int:
    try:
        return cluster.width
    except Problem:
        return 0


@contextmanager
def pool(width: int) -> Iterator[Pool]:
    """Start a pool of processes."""
    found = Pool(width)
    yield found
    found.close()


def gradient() -> Callable[[Executor | None], tuple[float, str]]:
    """Return a function that times the gradient of 784-1024-10 on 8,192 samples with an executor, or without one."""
    layers = [
        {"type": "dense", "name": "hidden", "units": 1024, "activation": "relu"},
        {"type": "dense", "name": "output", "units": 10, "activation": "softmax"},
    ]
    asked = {"network": {"layers": layers}, "loss": "sparse_categorical_crossentropy"}
    random = np.random.default_rng(0)
    inputs, targets = random.random((SAMPLES, 784)), random.integers(0, 10, SAMPLES)
    loaded = GradientsRequest().read({**asked, "inputs": inputs, "targets": targets, "shards": SHARD})
    runtime = runtime_of(Settings())
    context = _context(runtime)
    task, feed = task_and_feed(loaded, context.limits)
    parameters = Sharded(runtime.compiled, task, SHARD, context.limits).run(replace(feed)).parameters
    sharded = Sharded(runtime.compiled, task, SHARD, context.limits)
    recipe, around = Recipe(orjson.dumps(asked)), surroundings_of(context)

    def measure(executor: Executor | None) -> tuple[float, str]:
        own = Feed(feed.inputs, parameters, feed.targets, None, feed.seed)
        began = time.perf_counter()
        result = sharded.run(own, spread=None if executor is None else Workers(executor, recipe, around))
        seconds = time.perf_counter() - began
        digest = hashlib.sha256(np.asarray(result.loss).tobytes())
        for layer in result.gradients.values():
            for array in layer.values():
                digest.update(array.tobytes())
        return seconds, digest.hexdigest()

    return measure


def sweep(trainings: int) -> Callable[[Executor | None], tuple[float, str]]:
    """Return a function that times a sweep of trainings with an executor, or without one."""
    random = np.random.default_rng(0)
    request = {
        "network": {"layers": [{"type": "dense", "units": 64, "activation": "tanh"}, {"type": "dense", "units": 1}]},
        "inputs": random.normal(size=(256, 16)).tolist(),
        "targets": random.normal(size=(256, 1)).tolist(),
        "loss": "mean_squared_error",
        "optimizer": {"type": "adam", "learning_rate": 0.01},
        "steps": 300,
    }
    rates, seeds = np.geomspace(1e-4, 1e-1, trainings // 8).tolist(), list(range(8))
    runtime = runtime_of(Settings())

    def measure(executor: Executor | None) -> tuple[float, str]:
        vary = {"/optimizer/learning_rate": rates, "/seed": seeds, "/network/layers/0/name": [secrets.token_hex(4)]}
        named = {**request, "network": {"layers": [{**request["network"]["layers"][0], "name": "a"}]}}  # type: ignore[index]
        named["network"]["layers"].append(request["network"]["layers"][1])  # type: ignore[index]
        own = runtime if executor is None else replace(runtime, executor=executor)
        began = time.perf_counter()
        work = SweepWork(SweepRequest().read({"request": named, "vary": vary}), _context(own))
        digest = hashlib.sha256()
        while not work.finished:
            record = work.advance()
            if record is not None:
                digest.update(repr([record[key] for key in ("step", "loss", "best_loss", "reason")]).encode())
        seconds = time.perf_counter() - began
        work.close()
        return seconds, digest.hexdigest()

    return measure


def _context(runtime: Runtime) -> Context:
    ticket = runtime.admission.ticket("", time.monotonic() + 1e6)
    memory, limits = runtime.memory.reservation(), runtime.settings.run_limits
    return Context(runtime, Timer(), memory, 0, ticket, {"PATH_INFO": ""}, "ndjson", False, own_limits=limits)


def compare(
    title: str, measure: Callable[[Executor | None], tuple[float, str]], rounds: int, widths: list[int]
) -> None:
    """Let this process, pools and Dask clusters of several widths take turns, and print what each took."""
    with ExitStack() as stack:
        contenders: dict[str, Executor | None] = {ALONE: None}
        for width in widths:
            contenders[f"pool of {width}"] = stack.enter_context(pool(width))
        if installed("distributed"):
            for width in widths:
                contenders[f"Dask, {width} worker{'s' * (width > 1)}"] = stack.enter_context(dask(width))
        bits = {name: measure(executor)[1] for name, executor in contenders.items()}  # and everything is warm
        seconds = in_turns(list(contenders), rounds, lambda name: measure(contenders[name])[0])
    alone = seconds[ALONE]
    rows = []
    for name, own in seconds.items():
        ratio = typical_ratio(own, alone)
        more = Timing(tuple(mine - theirs for mine, theirs in zip(own, alone, strict=True))).median
        bar = ""
        if name == "Dask, 1 worker":
            met = more <= OVERHEAD_SECONDS if title.startswith("gradient") else ratio <= 1.0 + OVERHEAD_SHARE
            limit = f"+{OVERHEAD_SECONDS} s" if title.startswith("gradient") else f"{1.0 + OVERHEAD_SHARE:.2f}"
            bar = f"<= {limit} {'met' if met else 'MISSED'}"
        same = "same" if bits[name] == bits[ALONE] else "OTHERS"
        rows.append([name, duration(Timing(tuple(own)).median), f"{ratio:.2f}", f"{more:+.3f} s", same, bar])
    table(title, ("contender", "median", "ratio", "difference", "bits", "bar"), rows)


def main() -> None:
    if not ENVIRONMENT.items() <= os.environ.items():  # the allocator reads it when a process starts
        command = [sys.executable, "-m", "benchmarks.runs.cluster", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **ENVIRONMENT})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--widths", default="1,2,3")
    parser.add_argument("--trainings", type=int, default=64, help="of the sweep, a multiple of 8")
    parser.add_argument("--only", choices=("gradient", "sweep"))
    options = parser.parse_args()
    widths = [int(each) for each in options.widths.split(",")]
    print(blas())
    print(f"numerics {describe()}, {os.cpu_count()} cores")
    if options.only != "sweep":
        compare(
            f"gradient of 784-1024-10 on {SAMPLES:,} samples in shards of {SHARD:,}", gradient(), options.rounds, widths
        )
    if options.only != "gradient":
        compare(f"sweep of {options.trainings} trainings", sweep(options.trainings), options.rounds, widths)


if __name__ == "__main__":
    main()
