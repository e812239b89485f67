"""Runners under gunicorn: their number whatever happens, and runs that outlive every process."""

import os
import re
import signal
from pathlib import Path

import pytest

from benchmarks.runs import harness
from benchmarks.runs.kill import disturbed, faults, training, undisturbed
from tests.conftest import ServerFactory, wait_for
from tests.support import Server

STEPS, KILLS = (8000, 20_000, 60_000), 2


def of(server: Server) -> harness.Server:
    return harness.Server(server.pid, server.port)


def roles(server: Server) -> tuple[int, int]:
    """Return how many workers serve, and how many compute runs."""
    running = of(server)
    return len(running.of_role(False)), len(running.of_role(True))


@pytest.mark.long
def test_runs_outlive_runners_and_workers_whose_number_is_kept(start_server: ServerFactory, tmp_path: Path) -> None:
    """One test, for one server. benchmarks/runs/kill.py does the same with 60,000 steps, also at PostgreSQL."""
    variables = {"NABLA_DATA": str(tmp_path), "NABLA_LOG_LEVEL": "critical"}
    with start_server(WEB_CONCURRENCY="1", NABLA_RUNNERS="1", **variables) as server:
        check_idle_runner(server)
        assert not list(tmp_path.iterdir())  # nobody opens a database that is not there
        check_run(server)
        check_roles(server)
        check_idle_runner(server)


def check_idle_runner(server: Server) -> None:
    """Check that a runner takes no connections, and is counted in the metrics."""
    wait_for(lambda: roles(server) == (1, 1))
    (runner,) = of(server).of_role(True)
    assert not [file for file in Path(f"/proc/{runner}/fd").iterdir() if "socket:" in os.readlink(file)]
    wait_for(
        lambda: (
            re.search(r'^nabla_runners\{state="idle"\} 1\.0', server.get("/metrics").body.decode(), re.M) is not None
        )
    )


def check_roles(server: Server) -> None:
    """Check that the number of workers of each role is kept."""
    wait_for(lambda: roles(server) == (1, 1))
    for runner in (True, False):
        (victim,) = of(server).of_role(runner)
        others = of(server).of_role(not runner)
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda dead=victim: roles(server) == (1, 1) and dead not in of(server).workers())  # type: ignore[misc]
        assert of(server).of_role(not runner) == others
    (runner_before,) = of(server).of_role(True)
    os.kill(server.pid, signal.SIGTTIN)
    wait_for(lambda: roles(server) == (2, 1))
    for _ in range(2):  # one always serves
        os.kill(server.pid, signal.SIGTTOU)
        wait_for(lambda: roles(server) == (1, 1))
    assert of(server).of_role(True) == [runner_before]
    before = set(of(server).workers())
    os.kill(server.pid, signal.SIGHUP)
    wait_for(lambda: roles(server) == (1, 1) and not before & set(of(server).workers()))


def check_run(server: Server) -> None:
    for steps in STEPS:  # a quick machine makes few of them between two looks of the client
        outcome = disturbed(of(server), training(steps), KILLS)
        assert faults(outcome, *undisturbed(training(steps))) == []
        if outcome.attempts > 1 and outcome.attached > 1:
            return
    raise AssertionError("each run had ended before a kill hit it")
