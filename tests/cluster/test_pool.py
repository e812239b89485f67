"""A pool of processes: it computes what this process would, replaces processes that die, and leaves none behind."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from service.cluster.pool import Pool
from service.engine.errors import Abandoned, InvalidRequest, LimitExceeded
from service.engine.fingerprint import fingerprint
from service.engine.parallel import results_of
from service.problems import Problem
from tests.cluster import tasks
from tests.support import ROOT

random = np.random.default_rng(5)


def wait_for(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    pool = Pool(2)
    yield pool
    pool.close()


def test_it_computes_the_bits_of_this_process(pool: Pool) -> None:
    left, right = random.random((40, 300)), random.random((300, 30))
    parts = [pool.submit(tasks.product, left[start : start + 8], right) for start in range(0, 40, 8)]
    blocks = results_of(parts)
    for place, block in enumerate(blocks):
        assert block.tobytes() == (left[8 * place : 8 * place + 8] @ right).tobytes()
    assert pool.submit(fingerprint).result() == fingerprint()


def test_several_processes_compute_at_once(pool: Pool) -> None:
    assert len(set(results_of([pool.submit(tasks.process_id, 0.5) for _ in range(2)]))) == 2


def test_a_shared_value_is_read_where_it_lies(pool: Pool) -> None:
    array = random.random(100_000)
    token = pool.share("numbers", {"one": array})
    assert pool.share("numbers", None) is token  # equal names mean equal values
    found = results_of([pool.submit(sorted, token) for _ in range(4)])
    assert found == [["one"]] * 4
    alone = pool.share("alone", array)
    for _, writeable, offset, shared in results_of([pool.submit(tasks.about, alone) for _ in range(4)]):
        assert not writeable and offset == 0 and shared
    assert pool.submit(np.sum, alone).result() == array.sum()
    assert pool.nbytes >= 2 * array.nbytes


def test_values_that_nobody_keeps_are_forgotten(pool: Pool) -> None:
    token = pool.share("short-lived", random.random(1000))
    assert pool.submit(np.size, token).result() == 1000
    pool.shrink(2**40)
    assert pool.nbytes == 0
    assert pool.submit(np.size, token).result() == 1000  # the token still holds it
    del token

    def forgotten() -> bool:
        found = results_of([pool.submit(tasks.descriptors) for _ in range(4)])
        return not any("memfd" in each for each in chain.from_iterable(found))

    wait_for(forgotten)


def test_errors_of_the_engine_arrive_whole(pool: Pool) -> None:
    with pytest.raises(InvalidRequest) as refused:
        pool.submit(tasks.refuse, "fault").result()
    assert refused.value.faults[0].path == ("network", 0) and refused.value.faults[0].allowed == ("one", "two")
    with pytest.raises(LimitExceeded) as exceeded:
        pool.submit(tasks.refuse, "limit").result()
    assert (exceeded.value.name, exceeded.value.asked, exceeded.value.path) == ("steps", 5, ("steps",))
    with pytest.raises(RuntimeError, match="LocalError: of this process alone"):
        pool.submit(tasks.refuse, "other").result()


def test_what_cannot_travel_is_refused_at_once(pool: Pool) -> None:
    with pytest.raises(Exception, match="lambda"):
        pool.submit(lambda: 1)


def test_a_process_that_dies_is_replaced_and_its_part_computed_again(pool: Pool, tmp_path: Path) -> None:
    token = pool.share("kept", random.random(10))
    assert pool.submit(tasks.die_once, str(tmp_path / "dead")).result() > 0
    assert results_of([pool.submit(np.size, token) for _ in range(3)]) == [10] * 3


def test_a_part_that_kills_its_processes_is_given_up(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cluster.pool.ATTEMPTS", 2)
    with pytest.raises(Problem) as problem:
        pool.submit(tasks.die).result()
    assert problem.value.status == 503 and "Retry-After" in problem.value.headers
    assert pool.submit(tasks.product, np.eye(2), np.eye(2)).result().tolist() == np.eye(2).tolist()


def test_a_part_that_nobody_waits_for_ends(pool: Pool, tmp_path: Path) -> None:
    marker = tmp_path / "unwanted"
    parts = [pool.submit(tasks.last_until_unwanted, str(marker)) for _ in range(3)]
    wait_for(lambda: parts[1].running())
    assert parts[2].cancel()
    assert not parts[0].cancel() and not parts[1].cancel()
    with pytest.raises(Abandoned):
        parts[0].result(120.0)
    assert marker.exists()


def test_processes_share_no_socket_and_no_signal_with_the_server(pool: Pool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        fresh = Pool(1)
        os.set_inheritable(server.fileno(), True)
        try:
            open_there = fresh.submit(tasks.descriptors).result()
            session, threads, deaf = fresh.submit(tasks.surroundings).result()
        finally:
            fresh.close()
    assert len([each for each in open_there if each.startswith("socket:")]) == 1  # the one to the pool
    assert session != os.getsid(0) and threads == os.environ["OPENBLAS_NUM_THREADS"] and deaf


SERVER = """
import sys, time
from service.cluster.pool import Pool
from tests.cluster import tasks
pool = Pool(2)
busy = [pool.submit(tasks.process_id, 0.3) for _ in range(2)]
print(*{part.result() for part in busy}, flush=True)
pool.submit(time.sleep, 60)
time.sleep(60)
"""


def test_processes_end_with_a_server_that_is_killed() -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    children = [int(each) for each in server.stdout.readline().split()]
    assert len(children) == 2 and all(Path(f"/proc/{each}").exists() for each in children)
    server.kill()
    server.communicate()
    wait_for(lambda: not any(_runs(each) for each in children))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"  # nobody may reap it here
    except OSError:
        return False


def test_nothing_starts_before_the_first_part() -> None:
    pool = Pool(2)
    pool.share("value", [1])
    assert not pool._threads
    pool.close()
