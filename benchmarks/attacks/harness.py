"""The common parts of all attacks: the server under attack, normal clients, measurements and result rows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from benchmarks.attacks.client import FAILURES, HOST, Answer, ask, get
from benchmarks.measure import free_port

ROOT = Path(__file__).resolve().parent.parent.parent
CGROUPS = Path("/sys/fs/cgroup/memory")
LIVE_BAR, XOR_BAR = 0.1, 0.25
"""Seconds that 99 of 100 normal requests may take at most during an attack."""


@dataclass(frozen=True)
class Row:
    """One row of the results: the attack, the bar that must hold, and what was measured."""

    attack: str
    bar: str
    measured: str
    held: bool | None
    """None: measured for information."""


@dataclass(frozen=True)
class Options:
    """The options of a run, as the command line sets them."""

    checkout: Path = ROOT
    seconds: float = 20.0
    """The approximate seconds of one attack."""
    workers: int = 2
    addresses: int = 64
    """From how many addresses the attackers come."""
    environment: Mapping[str, str] = field(default_factory=dict)
    mutations: int = 300_000
    seed: int = 1
    minutes: float = 15.0
    """The minutes of the soak."""
    only: str = ""
    """A part of the names of the attacks that are run; empty: all."""

    def wants(self, name: str) -> bool:
        return self.only in name


class Cgroup:
    """A control group with a memory limit, which the kernel enforces. It needs cgroup v1 and root."""

    def __init__(self, limit: int) -> None:
        self.folder = CGROUPS / f"nabla-attack-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        (self.folder / "memory.limit_in_bytes").write_text(str(limit))

    @staticmethod
    def possible() -> bool:
        return (CGROUPS / "cgroup.procs").exists() and os.access(CGROUPS, os.W_OK) and os.geteuid() == 0

    def enter(self, pid: int) -> None:
        (self.folder / "cgroup.procs").write_text(str(pid))

    def forget_peak(self) -> None:
        """Start measuring the peak memory anew."""
        (self.folder / "memory.max_usage_in_bytes").write_text("0")

    @property
    def peak(self) -> int:
        return int((self.folder / "memory.max_usage_in_bytes").read_text())

    @property
    def kills(self) -> int:
        """The number of processes that the kernel has killed because the group was out of memory."""
        found = re.search(r"oom_kill (\d+)", (self.folder / "memory.oom_control").read_text())
        return int(found[1]) if found else 0

    def remove(self) -> None:
        for _ in range(50):
            try:
                self.folder.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used so far, in seconds; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watch(threading.Thread):
    """A thread that records the memory of a server's processes and counts dead workers, 20 times a second."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.over = threading.Event()
        self.peak = 0
        self.deaths = 0
        self.history: list[tuple[float, int]] = []
        """Moments and resident bytes of all processes."""

    def run(self) -> None:
        known: set[int] = set()
        while not self.over.wait(0.05):
            workers = set(self.server.workers)
            self.deaths += len(known - workers)
            known = workers
            total = sum(resident(pid) for pid in (self.server.pid, *workers))
            self.peak = max(self.peak, total)
            self.history.append((time.monotonic(), total))


@dataclass
class Server:
    """A running server of a checkout, which `serving` starts and stops."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    cgroup: Cgroup | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except OSError:
            return []

    @property
    def processor_seconds(self) -> float:
        return sum(processor_seconds(pid) for pid in self.workers)

    def logged(self, pattern: str) -> int:
        return len(re.findall(pattern, self.log.read_text(errors="replace")))

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    async def get(self, path: str) -> Answer:
        return await ask(self.port, get(path), timeout=30)

    async def gauge(self, name: str) -> float | None:
        """Return a metric of `/metrics`, summed over its labels; None if the server has none of that name."""
        text = (await self.get("/metrics")).body.decode()
        found = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found)) if found else None


@contextlib.contextmanager
def serving(
    options: Options, environment: Mapping[str, str] | None = None, memory: int | None = None, bare: str = ""
) -> Iterator[Server]:
    """Start the server of `options.checkout`, stop it after the block, and exit if it does not start.

    `environment` changes its default settings, `memory` limits it by a cgroup of so many bytes if one can be made, and
    `bare` names another WSGI application to serve in place of the service.
    """
    port = free_port()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("NABLA_", "PROMETHEUS_"))}
    settings = {"HOST": HOST, "PORT": str(port), "WEB_CONCURRENCY": str(options.workers), "NABLA_RUNNERS": "0"}
    settings |= {**options.environment, **(environment or {})}
    cgroup = Cgroup(memory) if memory is not None and Cgroup.possible() else None
    with tempfile.TemporaryDirectory(prefix="nabla-attack-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *([bare] if bare else [])],
                cwd=options.checkout,
                env=kept | settings,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=None if cgroup is None else lambda: cgroup.enter(os.getpid()),
            )
        server = Server(process, port, log, cgroup)
        try:
            _await_workers(server, int(settings["WEB_CONCURRENCY"]), "/" if bare else "/health/ready")
            yield server
        finally:
            _stop(server)
            if cgroup is not None:
                cgroup.remove()


def _await_workers(server: Server, count: int, path: str) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if server.process.poll() is not None:
            break
        with contextlib.suppress(*FAILURES):
            if asyncio.run(ask(server.port, get(path), timeout=5)).status == 200 and len(server.workers) == count:
                return
        time.sleep(0.1)
    raise SystemExit(f"the server did not start:\n{server.tail()}")


def _stop(server: Server) -> None:
    with contextlib.suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(6)
    except subprocess.TimeoutExpired:
        # All of its group: this server has a session of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.process.wait()


@dataclass
class Beside:
    """The response times and failures of the normal clients beside an attack, and what the server used meanwhile."""

    times: dict[str, list[float]] = field(default_factory=lambda: {"live": [], "xor": []})
    failures: Counter[str] = field(default_factory=Counter)
    peak: int = 0
    deaths: int = 0
    processor_seconds: float = 0.0
    seconds: float = 0.0

    def percentile(self, kind: str, share: float) -> float:
        times = sorted(self.times[kind])
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("inf")

    def served(self, live: float = LIVE_BAR, xor: float = XOR_BAR) -> bool:
        """Return whether no worker died and 99 % of the normal requests took at most `live` and `xor` seconds."""
        fast = self.percentile("live", 0.99) <= live and self.percentile("xor", 0.99) <= xor
        return fast and not self.deaths

    def __str__(self) -> str:
        texts = []
        for kind in ("live", "xor"):
            numbers = (*(self.percentile(kind, share) for share in (0.5, 0.99)), max(self.times[kind], default=0.0))
            texts.append(f"{kind} {'/'.join(f'{1e3 * number:.3g}' for number in numbers)} ms")
        texts.append(f"{self.peak / 2**20:.0f} MB")
        if self.failures:
            texts.append("failed: " + ", ".join(f"{name} x{count}" for name, count in self.failures.items()))
        if self.deaths:
            texts.append(f"{self.deaths} workers died")
        return "; ".join(texts)


NORMAL = f"live p99 <= {1e3 * LIVE_BAR:.0f} ms, XOR p99 <= {1e3 * XOR_BAR:.0f} ms"


@contextlib.asynccontextmanager
async def watched(server: Server, *, every: float = 0.05, source: str = HOST, key: str = "") -> AsyncIterator[Beside]:
    """Run normal clients and a `Watch` during the block, and yield a `Beside`, which is filled in when the block ends.

    `every` is the time between two normal requests in seconds, `source` the address and `key` the API key of the
    clients.
    """
    beside = Beside()
    watch = Watch(server)
    watch.start()
    command = [sys.executable, "-m", "benchmarks.attacks.probe", str(server.port), str(every), source, key]
    # Their output goes into a file: a pipe that nobody reads meanwhile would be full.
    with tempfile.TemporaryFile("w+") as output:
        probe = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, text=True)
        start, computed = time.monotonic(), server.processor_seconds
        try:
            await asyncio.sleep(0.5)
            yield beside
        finally:
            beside.seconds = time.monotonic() - start
            beside.processor_seconds = server.processor_seconds - computed
            watch.over.set()
            assert probe.stdin is not None
            probe.stdin.close()
            await asyncio.to_thread(_ended, probe)
            watch.join()
            beside.peak, beside.deaths = watch.peak, watch.deaths
            _read_probe(output, beside)


def _ended(probe: subprocess.Popen[str]) -> None:
    try:
        probe.wait(30)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.wait()


def _read_probe(output: TextIO, beside: Beside) -> None:
    output.seek(0)
    for line in output:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            beside.times = found["times"]
            beside.failures = Counter(found["failures"])
