"""Send the worst requests, many at once, to a server with the limits of docker-compose.yml: no worker may be killed.

The server runs in a memory cgroup of the container's size where one can be made (as root, cgroup v1 or v2). The peak of
each worker is compared with the formula of docs/deployment.md. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import http.client
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.measure import free_port, table
from benchmarks.memory import resident
from benchmarks.service import JSON, ROOT
from schemas.tensor import encode
from service.config import Settings

BASE = 100 * 2**20
"""The memory of a worker itself, with the small requests that are not counted."""
SLACK = 0.4
"""Freed memory between objects in use, as a share of NABLA_MAX_MEMORY_BYTES."""
GZIP = JSON | {"Content-Encoding": "gzip"}
TYPED = JSON | {"Accept": "application/json; tensors=base64"}


def compose() -> tuple[dict[str, str], int]:
    """Return the service's environment variables and memory limit in bytes from docker-compose.yml."""
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["nabla"]
    limit = str(service["mem_limit"]).lower()
    variables = {key: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)) for key, value in service["environment"].items()}
    return variables, int(limit.rstrip("gb")) * 2**30


def network(*layers: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"network": {"layers": list(layers)}, "loss": "mse"} | more


def dense(units: int) -> dict[str, Any]:
    return {"type": "dense", "units": units, "activation": "tanh"}


def zeros(*shape: int) -> dict[str, Any]:
    return encode(np.zeros(shape, np.float32))


def valid() -> list[tuple[str, str, dict[str, str], bytes]]:
    """Return large valid requests, each as name, path, headers and body."""
    draw = random.Random(1986).random
    rows = [[draw() for _ in range(1000)] for _ in range(800)]
    wide = network(dense(1500), dense(1500), dense(1), inputs=zeros(4, 1500), targets=zeros(4, 1))
    image = {"type": "conv2d", "filters": 16, "kernel_size": 3, "padding": "same"}
    curved = network(dense(45), dense(1), inputs=[[0.1] * 40], targets=[[1.0]])
    start = network(dense(600), dense(1), inputs=zeros(8, 600), targets=zeros(8, 1))
    bodies: list[tuple[str, str, dict[str, str], Any]] = [
        ("800,000 numbers as lists", "/v1/forward", JSON, {"network": {"layers": [dense(2)]}, "inputs": rows}),
        ("gradients as lists", "/v1/gradients", JSON, wide | {"dtype": "float32"}),
        ("gradients as base64", "/v1/gradients", TYPED, wide),
        (
            "convolutions",
            "/v1/gradients",
            TYPED,
            network(image, image, {"type": "flatten"}, dense(1), inputs=zeros(64, 32, 32, 4), targets=zeros(64, 1)),
        ),
        ("a Hessian", "/v1/derivatives", JSON, curved | {"kind": "hessian", "of": "loss", "wrt": "parameters"}),
        ("a training", "/v1/train", TYPED, start | {"steps": 20, "optimizer": "adam", "trace": {"every": 1}}),
        ("a surface", "/v1/functions/surface", JSON, _plane(800)),
        ("balls", "/v1/functions/descend", JSON, _balls(20_000)),
        (
            "10,000 points",
            "/v1/functions/gradient",
            JSON,
            {"expression": "x^2+sin(y)*z", "points": [[draw(), draw(), draw()] for _ in range(10_000)]},
        ),
    ]
    return [(name, path, headers, json.dumps(body).encode()) for name, path, headers, body in bodies]


def _plane(side: int) -> dict[str, Any]:
    return {"expression": "x^2+y^2", "x": [-1, 1], "y": [-1, 1], "resolution": [side], "include": ["gradients"]}


def _balls(count: int) -> dict[str, Any]:
    starts = {"random": {"box": [-2, 2], "count": count}}
    return {"expression": "x^2+3*y^2", "starts": starts, "steps": 20, "optimizers": ["sgd"]}


def bombs(size: int) -> list[tuple[str, str, dict[str, str], bytes]]:
    """Return bombs, gzip bodies of about `size` bytes when decompressed, each as name, path, headers and body."""
    xor = network(dense(2), dense(1), inputs=[[0, 0]], targets=[[0]])

    def filled(key: str, opening: str, part: str, closing: str) -> bytes:
        text = json.dumps(xor | {key: "HERE"}).replace('"HERE"', opening + part * (size // len(part)) + closing)
        return gzip.compress(text.encode(), 6)

    made = {
        "ones and a word": filled("inputs", "[", "1,", '"x"]'),
        "floats and a word": filled("inputs", "[", "0.1,", '"x"]'),
        "empty lists": filled("inputs", "[", "[],", "[]]"),
        "ragged rows": filled("inputs", "[", "[1],", "[1,2]]"),
        "empty objects": filled("inputs", "[", "{},", "{}]"),
        "strings": filled("inputs", "[", '"x",', '"x"]'),
        "numbers below an unknown key": filled("foo", "[", "1,", "1]"),
        "a long text": filled("loss", '"', "x", '"'),
        "keys": gzip.compress(json.dumps({f"k{n}": 1 for n in range(size // 14)}).encode(), 6),
        "zeros": gzip.compress(bytes(size), 6),
        "more than a body may have": gzip.compress(b" " * (8 * size), 6),
    }
    return [(name, "/v1/gradients", GZIP, body) for name, body in made.items()]


@contextlib.contextmanager
def cgroup(limit: int) -> Iterator[Path | None]:
    """Yield the folder of a memory cgroup of `limit` bytes, or None if none can be made; remove it after the block."""
    for root, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        folder = Path("/sys/fs/cgroup") / root / f"nabla-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / name).write_text(str(limit))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield folder
        finally:
            time.sleep(0.5)
            with contextlib.suppress(OSError):
                folder.rmdir()
        return
    yield None


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def attack(port: int, requests: list[tuple[str, str, dict[str, str], bytes]], clients: int, seconds: float) -> Any:
    """Send all requests in turn from several clients for `seconds`; return the count of each (request name, status)."""
    counts: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + seconds

    def work(number: int) -> None:
        for name, path, headers, body in itertools.islice(itertools.cycle(requests), number, None):
            if time.monotonic() > end:
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
                while answer.read(2**16):
                    pass
                counts[name, str(answer.status)] += 1
            except (OSError, http.client.HTTPException) as error:
                counts[name, type(error).__name__] += 1
            finally:
                connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts


def measure(clients: int, seconds: float) -> bool:
    """Start a server, attack it in three rounds, and print a table of the answers and the memory.

    Return whether every worker survived, stayed below the promised memory, and never answered 500.
    """
    environment, limit = compose()
    port = free_port()
    settings = {"PORT": str(port), "HOST": "127.0.0.1", "NABLA_LOG_REQUESTS": "false", "NABLA_LOG_LEVEL": "error"}
    with cgroup(limit) as folder:
        start = [sys.executable, "-m", "gunicorn"]
        if folder is not None:  # the shell moves itself there, and becomes the server
            start = ["sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh", *start]
        server = subprocess.Popen(
            start, cwd=ROOT, env={**os.environ, **environment, **settings}, stderr=subprocess.DEVNULL
        )
        try:
            processes = int(environment["WEB_CONCURRENCY"]) + int(environment["NABLA_RUNNERS"])
            workers = _started(server.pid, processes, port)
            promised = BASE + (1 + SLACK) * int(environment.get("NABLA_MAX_MEMORY_BYTES", Settings().max_memory_bytes))
            rows, passed = [], True
            size = int(environment.get("NABLA_MAX_BODY_BYTES", Settings().max_body_bytes)) // 4
            for name, requests in (("bombs", bombs(size)), ("valid", valid()), ("both", bombs(size) + valid())):
                counts = attack(port, requests, clients, seconds)
                statuses = Counter[str]()
                for (_, status), count in counts.items():
                    statuses[status] += count
                alive = children(server.pid) == workers
                peak = (
                    max((resident(Path(f"/proc/{worker}"), "VmHWM") for worker in workers), default=0) if alive else 0
                )
                good = alive and peak <= promised and "500" not in statuses
                passed = passed and good
                told = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
                rows.append([name, told, f"{peak / 2**20:.0f} MiB" if alive else "killed", "ok" if good else "FAILED"])
                for (request, status), count in sorted(counts.items()):
                    print(f"  {name}: {request}: {status} x {count}")
            where = "in a cgroup" if folder is not None else "without a cgroup: none can be made here"
            title = (
                f"{clients} clients, {limit / 2**30:.0f} GiB {where}; each worker may take {promised / 2**20:.0f} MiB"
            )
            table(title, ("requests", "answers", "largest peak of a worker", ""), rows)
            if folder is not None:
                for file in ("memory.max_usage_in_bytes", "memory.peak", "memory.failcnt"):
                    with contextlib.suppress(OSError):
                        print(f"{file}: {int((folder / file).read_text()):,}")
        finally:
            server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(40)
            server.kill()
            server.wait()
    return passed


def _started(process: int, count: int, port: int) -> list[int]:
    """Return the process ids of the workers once `count` of them are there and one answers; exit after a minute."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        time.sleep(0.2)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health/ready")
            found = children(process)
            if connection.getresponse().status == 200 and len(found) >= count:
                return found
    raise SystemExit("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.container", description=__doc__)
    parser.add_argument("--clients", type=int, default=64, help="requests at once (default 64)")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each of three rounds (default 30)")
    options = parser.parse_args()
    raise SystemExit(0 if measure(options.clients, options.seconds) else 1)


if __name__ == "__main__":
    main()
