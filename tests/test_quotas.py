"""Quotas of clients, whichever worker answers."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from service.callers import quotas
from service.callers.quotas import Gate, Quota
from service.problems import Problem


def passes(quota: Quota, client: str) -> bool:
    refused = []
    try:
        quota.check(client)
    except Problem as problem:
        refused.append(problem)
    assert all(each.kind == "too-many-requests" and int(each.headers["Retry-After"]) >= 1 for each in refused)
    return not refused


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(quotas.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def forked() -> Callable[[Callable[[], int]], int]:
    """Return a function that runs a call in a forked process, as a worker is, and returns its exit status."""

    def run(work: Callable[[], int]) -> int:
        pid = os.fork()
        if pid == 0:
            status = 99
            with suppress(BaseException):
                status = work()
            os._exit(status)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_share_the_quota(clock: list[float], forked: Callable[[Callable[[], int]], int]) -> None:
    quota = Quota(10.0)
    counts = [forked(lambda: sum(passes(quota, "a") for _ in range(4))) for _ in range(4)]
    assert counts == [4, 4, 2, 0]
    clock[0] += 0.35
    assert forked(lambda: sum(passes(quota, "a") for _ in range(9))) == 3
    assert passes(quota, "b") and not passes(quota, "a")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_at_once_lose_no_count(clock: list[float]) -> None:
    quota = Quota(3000.0)
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(500):
                quota.check("a")
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert sum(passes(quota, "a") for _ in range(2000)) == 1000


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_stops_in_the_middle_stops_nobody_else(clock: list[float], number: int) -> None:
    quota = Quota(100.0, clients=8)
    quota.check("a")
    pid = os.fork()
    if pid == 0:
        quota._lock(0)
        os.kill(os.getpid(), number)
        os._exit(0)
    try:
        os.waitpid(pid, os.WUNTRACED)
        assert sum(passes(quota, "a") for _ in range(3)) == 3
    finally:
        if number == signal.SIGSTOP:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def test_the_longest_silent_client_is_forgotten_first(clock: list[float]) -> None:
    quota = Quota(1.0, clients=8)
    names = [f"client {number}" for number in range(8)]
    for name in names:
        assert passes(quota, name)
        clock[0] += 0.01
    assert not any(passes(quota, name) for name in names[1:])
    assert passes(quota, "one more")  # in the place of the first
    assert not passes(quota, names[1]) and not passes(quota, "one more")
    assert passes(quota, names[0])


def test_without_a_quota_there_is_no_table() -> None:
    quota = Quota(0.0)
    assert all(passes(quota, "a") for _ in range(100))
    assert not hasattr(quota, "_table")


def test_names_may_hold_anything(clock: list[float]) -> None:
    quota = Quota(1.0)
    for name in ("", "\x00", "é", "\udcff", "x" * 100_000):
        assert passes(quota, name) and not passes(quota, name)


def test_an_address_of_ipv6_counts_by_its_network(clock: list[float]) -> None:
    gate = Gate((), 1.0, 0.0)
    gate.check("2001:db8:0:1::1", None)
    with pytest.raises(Problem, match="one address"):
        gate.check("2001:db8:0:1:ffff::2", None)
    gate.check("2001:db8:0:2::1", None)
    gate.check("192.0.2.1", None)
    gate.check("192.0.2.2", None)
    with pytest.raises(Problem):
        gate.check("::ffff:192.0.2.2", None)


def test_a_key_counts_from_wherever_it_comes_and_only_if_it_is_one(clock: list[float]) -> None:
    from service.config import Settings

    settings = Settings(api_keys=("one", "two"))
    gate = Gate(settings.keys, 0.0, 2.0)
    assert gate.check("192.0.2.1", "Bearer one") == gate.check("192.0.2.2", "Bearer one") != ""
    with pytest.raises(Problem, match="one key"):
        gate.check("192.0.2.3", "Bearer one")
    for _ in range(5):
        with pytest.raises(Problem) as refusal:
            gate.check("192.0.2.3", "Bearer three")
        assert refusal.value.kind == "forbidden"
    gate.check("192.0.2.3", "Bearer two")


def test_guessing_keys_uses_up_the_quota_of_the_address(clock: list[float]) -> None:
    from service.config import Settings

    gate = Gate(Settings(api_keys=("one",)).keys, 3.0, 0.0)
    kinds = []
    for guess in range(5):
        with pytest.raises(Problem) as refusal:
            gate.check("192.0.2.1", f"Bearer {guess}")
        kinds.append(refusal.value.kind)
    assert kinds == ["forbidden"] * 3 + ["too-many-requests"] * 2
    assert gate.check("192.0.2.2", "Bearer one")
