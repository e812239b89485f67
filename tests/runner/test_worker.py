"""`nabla worker`: a runner alone, stopped, killed, beside others, and without power."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.api.context import Runtime, runtime_of
from service.config import Settings
from tests.conftest import wait_for
from tests.runner.support import add, compute, entry_of, lines_of, training
from tests.support import ROOT

STEPS = 9000
FRAME = 4096 + 24
"""Bytes of a page in SQLite's log."""


@contextmanager
def working(runtime: Runtime, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `nabla worker` for a database."""
    environment = os.environ | {"NABLA_LOG_FORMAT": "text"}
    environment |= (
        {"NABLA_DATABASE": runtime.settings.database}
        if runtime.settings.database
        else {"NABLA_DATA": runtime.settings.data}
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "worker", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_workers_compute_each_run_once_and_one_that_is_stopped_gives_its_run_back(anywhere: Runtime) -> None:
    """One test, for a process takes longer to start than to compute these. benchmarks/runs/many.py has 400 runs."""
    with working(anywhere, "--name", "my-machine") as process:
        with working(anywhere) as other:
            for each in (process, other):
                assert each.stdout is not None
                assert any("computes runs" in line for line in each.stdout)  # they compete from the first run on
            runs = [add(anywhere, training(20, seed=number % 3), owner=f"owner {number % 2}") for number in range(24)]
            wait_for(lambda: set(anywhere.store.runs.counts()) == {"completed"}, pause=0.05)
            other.send_signal(signal.SIGTERM)
            output, _ = other.communicate(timeout=30)
            assert other.returncode == 0 and "Traceback" not in output, output
        entries = [entry_of(anywhere, run, f"owner {number % 2}") for number, run in enumerate(runs)]
        assert [(entry.status, entry.attempt) for entry in entries] == [("completed", 1)] * len(runs)
        contents = [b"".join(lines_of(anywhere, run, f"owner {number % 2}")) for number, run in enumerate(runs)]
        assert all(content == contents[number % 3] for number, content in enumerate(contents))

        run = add(anywhere, training(1_000_000))
        wait_for(lambda: entry_of(anywhere, run).step > 100, pause=0.05)
        assert entry_of(anywhere, run).worker == "my-machine"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0, output
    entry = entry_of(anywhere, run)
    assert (entry.status, entry.worker) == ("queued", None) and entry.state_step == entry.step > 100
    assert len(lines_of(anywhere, run)) == entry.step
    assert re.search(rf"INFO run {run} is given back at step {entry.step}\n", output), output
    assert "Traceback" not in output


def test_after_a_loss_of_power_the_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    runtime = runtime_of(Settings(data=str(tmp_path / "first")))
    run = add(runtime, training(STEPS))
    copies: list[Path] = []

    def has_ended() -> bool:
        return entry_of(runtime, run).status == "completed"

    with working(runtime, "--name", "one") as process:
        for number in range(2):
            before = entry_of(runtime, run).step
            wait_for(lambda step=before: entry_of(runtime, run).step > step or has_ended())  # type: ignore[misc]
            if has_ended():  # on a quick machine
                break
            os.kill(process.pid, signal.SIGSTOP)
            copies.append(tmp_path / f"copy {number}")
            shutil.copytree(tmp_path / "first", copies[-1])
            os.kill(process.pid, signal.SIGCONT)
        wait_for(has_ended)
    lines, result = lines_of(runtime, run), runtime.store.runs.result("", run)
    assert len(lines) == STEPS and copies
    for number, copy in enumerate(copies):
        (copy / "nabla.db-shm").unlink()  # it was in memory alone
        log = copy / "nabla.db-wal"
        with log.open("r+b") as file:  # the last writes had not reached the disk, the last of these not whole
            file.truncate(max(0, log.stat().st_size - number * (2 * FRAME + 2000)))
        after = runtime_of(Settings(data=str(copy)))
        assert compute(after, "one") == "completed"
        assert entry_of(after, run).attempt == 2
        assert lines_of(after, run) == lines
        assert after.store.runs.result("", run) == result
