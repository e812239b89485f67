"""The files of metrics: as many as workers at once, and gone with their server."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from service.observing import metric_files
from tests.conftest import ServerFactory, wait_for
from tests.support import ROOT

OPEN = "import os, sys, time\nfrom service.observing import metric_files\nmetric_files.open_folder(sys.argv[1])\n"


def owner(folder: Path, script: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key != metric_files.VARIABLE}
    command = [sys.executable, "-c", OPEN + script, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def status_of(folder: Path, script: str) -> int:
    with owner(folder, script) as process:
        return process.wait(20)


def test_a_folder_ends_with_its_server_or_with_the_next_start(tmp_path: Path) -> None:
    assert status_of(tmp_path, "") == 0
    assert list(tmp_path.iterdir()) == []
    for status in (1, 2):
        assert status_of(tmp_path, f"os._exit({status})") == status  # as if killed
        assert len(list(tmp_path.iterdir())) == 1
    assert status_of(tmp_path, "") == 0
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_living_server_is_left_alone(tmp_path: Path) -> None:
    script = "print(os.environ[metric_files.VARIABLE], flush=True)\ntime.sleep(60)"
    with owner(tmp_path, script) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        assert folder.parent == tmp_path and folder.is_dir()
        metric_files.remove_left_behind(str(tmp_path))
        assert folder.is_dir()
        process.kill()
        process.wait()
        metric_files.remove_left_behind(str(tmp_path))
        assert not folder.exists()


def test_workers_of_a_killed_master_still_own_the_folder(tmp_path: Path) -> None:
    script = "child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(60)"
    with owner(tmp_path, script) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        metric_files.remove_left_behind(str(tmp_path))
        assert len(list(tmp_path.iterdir())) == 1
        os.kill(child, signal.SIGKILL)

        def removed() -> bool:
            metric_files.remove_left_behind(str(tmp_path))
            return not list(tmp_path.iterdir())

        wait_for(removed)


def test_other_folders_are_not_touched(tmp_path: Path) -> None:
    for name in ("nabla-metrics-without-a-lock", "other", ".nabla-metrics-just-made"):
        (tmp_path / name).mkdir()
    (tmp_path / "nabla-metrics-file").write_text("x")
    metric_files.remove_left_behind(str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_worker_takes_the_first_place_that_is_free() -> None:
    workers = [SimpleNamespace() for _ in range(4)]
    for number in range(3):
        metric_files.reserve(workers[number], workers[:number])
    assert [worker.metrics_place for worker in workers[:3]] == [0, 1, 2]
    metric_files.reserve(workers[3], [workers[0], workers[2], SimpleNamespace()])
    assert workers[3].metrics_place == 1


def test_counts_stay_and_files_do_not_pile_up_when_workers_die(start_server: ServerFactory, tmp_path: Path) -> None:
    with start_server(WEB_CONCURRENCY="1", PROMETHEUS_MULTIPROC_DIR=str(tmp_path)) as server:
        files = None
        for death in range(4):
            if death:
                (worker,) = server.workers
                os.kill(worker, signal.SIGKILL)
                wait_for(lambda dead=worker: server.workers not in ([], [dead]))  # type: ignore[misc]
            assert server.get("/v1/losses").status_code == 200
            text = server.get("/metrics").body.decode()
            (count,) = re.findall(r'nabla_requests_total\{method="GET",route="/v1/losses",status="200"\} (\S+)', text)
            assert float(count) == death + 1
            (seen,) = re.findall(r'nabla_request_seconds_count\{route="/v1/losses"\} (\S+)', text)
            assert float(seen) == death + 1
            (resident,) = re.findall(r"^nabla_resident_bytes (\S+)", text, re.MULTILINE)
            assert 1e7 < float(resident) < 1e9  # of one worker, not of the dead
            now = sorted(path.name for path in tmp_path.glob("*.db"))
            assert files in (None, now)
            files = now
