"""Runs whose parts others compute have the records and the bits of one process, and change between both at any time."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

import service.api.sharing
from service.api.context import runtime_of
from service.api.state_file import state_bytes
from service.config import Settings
from service.engine.parallel import InTurn
from service.problems import Problem
from tests.api.test_long_works import RICH, Run, ended, text, train

SWEEP = {
    "request": train(steps=5),
    "vary": {"/clip": [{"norm": 1.0}, {"value": 1.0}], "/optimizer": ["adam", "l_bfgs", "sgd"]},  # one fails
}
COMPARE = {key: value for key, value in train(steps=7, network=RICH).items() if key != "optimizer"} | {
    "optimizers": ["sgd", "adam", "l_bfgs"],
    "seeds": [1, 2],
}
KINDS = {"sweep": SWEEP, "compare": COMPARE}


class Threads:
    """An executor of threads, which can be out of reach for a while."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.away = 0
        """The number of submissions that fail from now on."""
        self.submitted = 0
        self._threads = ThreadPoolExecutor(width)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future[Any]:
        if self.away:
            self.away -= 1
            raise Problem("cluster-unavailable", "The cluster is away.")
        self.submitted += 1
        return self._threads.submit(function, *arguments)

    def share(self, name: str, value: Any, *, keep: bool = True) -> Any:
        return value


@pytest.fixture(autouse=True)
def everything_is_large() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.api.sharing, "LEAST_SECONDS", 0.0)
        patch.setattr(service.api.sharing, "TRIP_SECONDS", 0.0)
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 3])
def test_records_and_summary_are_those_of_one_process(kind: str, width: int) -> None:
    runtime, threads = runtime_of(Settings()), Threads(width)
    expected = Run(runtime, kind, KINDS[kind]).whole()
    assert Run(replace(runtime, executor=threads), kind, KINDS[kind]).whole() == expected
    assert threads.submitted == len(expected[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [InTurn(), Threads(2)], ids=["here", "elsewhere"])
def test_a_run_goes_on_elsewhere_and_back(kind: str, first: Any) -> None:
    """What one runner keeps another goes on from, whether it has other processes or not."""
    runtime = runtime_of(Settings())
    expected = Run(runtime, kind, KINDS[kind]).whole()
    executors = [first, Threads(2) if isinstance(first, InTurn) else InTurn()]
    records: list[bytes] = []
    state = None
    for turn in range(12):
        run = Run(replace(runtime, executor=executors[turn % 2]), kind, KINDS[kind])
        work = run.work(state)
        began = len(records)
        while not work.finished and len(records) < began + 1:
            record = work.advance()
            records += [] if record is None else [text(record)]
        state = state_bytes(work.state())
        if work.finished:
            break
        work.close()
    assert (records, ended(work)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_here_while_the_cluster_is_away(kind: str) -> None:
    runtime, threads = runtime_of(Settings()), Threads(1)
    expected = Run(runtime, kind, KINDS[kind]).whole()
    work = Run(replace(runtime, executor=threads), kind, KINDS[kind]).work()
    records: list[bytes] = []
    while not work.finished:
        record = work.advance()
        records += [] if record is None else [text(record)]
        if len(records) == 2 and not threads.away:
            threads.away = 1
    assert threads.submitted < len(expected[0])
    assert (records, ended(work)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_cancelled_run_tells_what_has_ended(kind: str) -> None:
    runtime = replace(runtime_of(Settings()), executor=Threads(2))
    work = Run(runtime, kind, KINDS[kind]).work()
    records = 0
    while records < 2:
        records += work.advance() is not None
    kept = state_bytes(work.state())
    work.cancel("enough")
    assert work.finished and state_bytes(work.state()) == kept
    summary = work.summary()
    if kind == "sweep":
        assert (summary["status"], summary["reason"], summary["done"]) == ("cancelled", "enough", 2)
    else:
        assert [row["status"] for row in summary["table"]] == ["completed"] * 2 + ["cancelled"] * 4
        assert {row["reason"] for row in summary["table"][2:]} == {"enough"}
    work.close()


def test_small_works_stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.api.sharing, "LEAST_SECONDS", 10.0)
    threads = Threads(2)
    Run(replace(runtime_of(Settings()), executor=threads), "sweep", SWEEP).whole()
    assert threads.submitted == 0
