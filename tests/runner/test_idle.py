"""When a runner asks the database for a run: at changes, and from time to time for leases that are over."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from service.api.context import Runtime, runtime_of
from service.api.run_queue import FRESH_SECONDS, queue, runs_by_status
from service.config import Settings
from service.runner import loop
from service.runner.idle import QUIET_SECONDS, Idle
from service.runner.loop import Runner
from service.store.runs import Runs
from service.store_errors import NoStore, StoreUnavailable
from tests.conftest import wait_for
from tests.runner.support import add, compute, compute_all, entry_of, training
from tests.support import ROOT


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_sqlite_is_asked_after_changes_and_when_leases_may_be_over(tmp_path: Path) -> None:
    clock = Clock()
    runtime = runtime_of(Settings(data=str(tmp_path)))
    idle = Idle(runtime.settings, clock)
    assert not idle.is_worth_asking() and not list(tmp_path.iterdir())
    add(runtime, training(1))
    assert idle.is_worth_asking()
    assert not idle.is_worth_asking()
    add(runtime, training(1))
    assert idle.is_worth_asking() and not idle.is_worth_asking()
    idle.ask_soon()
    assert idle.is_worth_asking() and not idle.is_worth_asking()
    clock.now += QUIET_SECONDS
    assert idle.is_worth_asking() and not idle.is_worth_asking()


def test_a_claim_in_vain_changes_nothing(runtime: Runtime) -> None:
    """Otherwise each of several runners would wake the others for ever."""
    add(runtime, training(1))
    compute(runtime)
    idle = Idle(runtime.settings, Clock())
    assert idle.is_worth_asking()
    assert runtime.store.runs.claim("one", 1.0) is None
    assert not idle.is_worth_asking()


def test_the_address_of_a_file_is_read_as_sqlalchemy_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    for address in (f"sqlite:///{file}", f"sqlite:///{file}?timeout=3"):
        runtime = runtime_of(Settings(database=address))
        add(runtime, training(1))
        assert file.exists() and Idle(runtime.settings).is_worth_asking()
    assert Idle(Settings(database="postgresql://host/name")).is_worth_asking()


def test_an_idle_runner_imports_no_database(tmp_path: Path) -> None:
    script = (
        "import sys, threading, time\n"
        "from service.api.context import runtime_of\n"
        "from service.config import Settings\n"
        "from service.runner.loop import Runner\n"
        "stop = threading.Event()\n"
        "threading.Timer(0.5, stop.set).start()\n"
        f"Runner(runtime_of(Settings(data={str(tmp_path)!r})), 'one').run(stop)\n"
        "print([name for name in ('sqlalchemy', 'alembic', 'sqlite3') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_runner_goes_on_whatever_a_claim_raises(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> None:
    for name in ("UNAVAILABLE_SECONDS", "NO_STORE_SECONDS", "MISTAKE_SECONDS"):
        monkeypatch.setattr(loop, name, 0.01)
    errors = [StoreUnavailable("away"), NoStore("nowhere"), RuntimeError("a mistake"), MemoryError()]
    claim = Runs.claim

    def sometimes(*arguments: object) -> object:
        if errors:
            raise errors.pop()
        return claim(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Runs, "claim", sometimes)
    run = add(runtime, training(3))
    compute_all(runtime, run)
    assert entry_of(runtime, run).status == "completed" and not errors


def test_a_runner_stops_at_once_where_there_is_nothing_to_do(runtime: Runtime) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=Runner(runtime, "one").run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_the_queue_is_told_without_a_database_and_with_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("service.api.run_queue.FRESH_SECONDS", 0.0)
    assert FRESH_SECONDS > 0
    runtime = runtime_of(Settings(data=str(tmp_path)))
    wait_for(lambda: queue(runtime) == {"queued": 0, "running": 0, "runners": 0})
    assert not list(tmp_path.iterdir()) and runs_by_status(runtime.store) == {}
    add(runtime, training(1))
    add(runtime, training(1))
    assert runtime.store.runs.claim("one", 10.0) is not None
    wait_for(lambda: queue(runtime) == {"queued": 1, "running": 1, "runners": 1})
    counts = runs_by_status(runtime.store)
    assert counts["queued"] == counts["running"] == 1 and counts["failed"] == 0

    def away(*_: object) -> object:
        raise StoreUnavailable("away")

    monkeypatch.setattr(Runs, "counts", away)
    wait_for(lambda: queue(runtime) is None)
    assert runs_by_status(runtime.store) == {}
