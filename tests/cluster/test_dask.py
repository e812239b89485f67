"""Workers of a Dask cluster: who serves, what is lost and computed again, what travels, and who is let in."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.cluster.dask_cluster import Cluster
from service.cluster.executors import executor_of
from service.cluster.pool import Pool
from service.config import ConfigurationError, Settings
from service.engine.errors import ExtraMissing, InvalidRequest, LimitExceeded
from service.engine.fingerprint import fingerprint
from service.engine.parallel import InTurn, results_of
from service.problems import Problem
from tests.cluster import tasks
from tests.cluster.test_pool import wait_for
from tests.support import ROOT

distributed = pytest.importorskip("distributed")
random = np.random.default_rng(7)


@pytest.fixture(scope="module")
def cluster(local: Any) -> Iterator[Cluster]:
    cluster = Cluster(Settings(cluster=local.scheduler_address))
    wait_for(lambda: cluster.width == 2)
    yield cluster
    cluster.close()


def sent_values(cluster: Cluster) -> list[tuple[str, str]]:
    session = cluster._session
    assert session is not None
    return [*session._values]


def test_workers_compute_the_bits_of_this_process(cluster: Cluster) -> None:
    left, right = random.random((40, 300)), random.random((300, 30))
    parts = [cluster.submit(tasks.product, left[start : start + 8], right) for start in range(0, 40, 8)]
    for place, block in enumerate(results_of(parts)):
        assert block.tobytes() == (left[8 * place : 8 * place + 8] @ right).tobytes()
    assert cluster.submit(fingerprint).result() == fingerprint()
    assert len(set(results_of([cluster.submit(tasks.process_id, 0.2) for _ in range(4)]))) == 2


def test_data_is_sent_once_to_each_worker(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    session = cluster._session
    assert session is not None
    sent: list[tuple[str, int]] = []
    scatter = session._scatter

    async def counted(value: Any, address: str) -> Any:
        sent.append((address, np.size(value)))
        return await scatter(value, address)

    monkeypatch.setattr(session, "_scatter", counted)
    array = random.random(200_000)
    for _ in range(3):
        token = cluster.share("numbers", array)
        sums = results_of([cluster.submit(np.sum, token) for _ in range(6)])
        assert {each.tobytes() for each in sums} == {array.sum().tobytes()}
    assert len(sent) == len(set(sent)) == 2


def test_arrays_begin_where_their_numbers_can(cluster: Cluster) -> None:
    """NumPy sums an array that begins at an odd byte in other blocks, with other bits."""
    arrays = [random.random(size) for size in (3, 1000, 300_000)]
    tokens = [cluster.share(f"aligned {array.size}", [array]) for array in arrays]
    for array, token in zip(arrays, tokens, strict=True):
        assert cluster.submit(tasks.aligned, array).result() == [True]
        assert cluster.submit(tasks.aligned_in, token).result() == [True]
        assert cluster.submit(tasks.large, array.size).result().flags.aligned


def test_values_used_long_ago_are_forgotten(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.cluster.dask_session.SHARED_BYTES", 100_000)
    for place in range(5):
        token = cluster.share(f"block {place}", random.random(5_000))
        results_of([cluster.submit(np.size, token) for _ in range(2)])
    kept = [name for _, name in sent_values(cluster)]
    assert 2 <= kept.count("block 4") + kept.count("block 3") <= 4 and "block 0" not in kept


def test_errors_of_the_engine_arrive_whole(cluster: Cluster) -> None:
    with pytest.raises(InvalidRequest) as refused:
        cluster.submit(tasks.refuse, "fault").result()
    assert refused.value.faults[0].path == ("network", 0)
    with pytest.raises(LimitExceeded) as exceeded:
        cluster.submit(tasks.refuse, "limit").result()
    assert exceeded.value.name == "steps"
    with pytest.raises(Exception, match="lambda"):
        cluster.submit(lambda: 1)


def test_a_large_call_arrives(cluster: Cluster) -> None:
    array = random.random(300_000)
    assert cluster.submit(np.sum, array).result() == array.sum()


def test_a_part_that_nobody_waits_for_ends(cluster: Cluster, tmp_path: Path) -> None:
    part = cluster.submit(tasks.last_until_unwanted, str(tmp_path / "unwanted"))
    time.sleep(0.2)
    assert part.cancel() and part.cancelled()
    wait_for((tmp_path / "unwanted").exists)


def test_the_parts_and_the_data_of_a_lost_worker_are_made_again(cluster: Cluster, tmp_path: Path) -> None:
    token = cluster.share("lost data", random.random(1000))
    first = results_of([cluster.submit(np.sum, token) for _ in range(4)])
    victim = cluster.submit(tasks.die_once, str(tmp_path / "dead"))
    others = [cluster.submit(np.sum, token) for _ in range(8)]
    assert victim.result() > 0
    assert [each.tobytes() for each in results_of(others)] == [first[0].tobytes()] * 8
    wait_for(lambda: cluster.width == 2)  # Dask starts another


def test_only_workers_with_the_same_numerics_serve(local: Any, cluster: Cluster, tmp_path: Path) -> None:
    other = subprocess.Popen(
        [
            *(sys.executable, "-m", "dask", "worker", local.scheduler_address, "--nthreads", "1", "--no-nanny"),
            *("--no-dashboard", "--local-directory", str(tmp_path)),
        ],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: len(local.scheduler.workers) == 3)
        session = cluster._session
        assert session is not None
        wait_for(lambda: bool(cluster.width) and len(session._threads) == 3)
        assert cluster.width == 2
        assert other.pid not in results_of([cluster.submit(os.getpid) for _ in range(6)])
        # Where no other is left, the problem names it and says what to do.
        stranger = next(address for address, said in session.reports.items() if said.fingerprint != fingerprint())
        monkey = pytest.MonkeyPatch()
        monkey.setattr(session, "_threads", {stranger: 1})
        monkey.setattr(session, "_served", 0.0)
        with pytest.raises(Problem) as problem:
            session.refuse_without_workers()
        monkey.undo()
        assert problem.value.status == 503 and stranger in problem.value.detail
        assert "OPENBLAS_CORETYPE" in problem.value.detail and fingerprint() in problem.value.detail
        # A worker that changed under its address says so where it computes.
        monkey.setitem(session.reports, stranger, session.reports[stranger]._replace(fingerprint=fingerprint()))
        assert other.pid not in results_of([cluster.submit(os.getpid) for _ in range(6)])
        monkey.undo()
    finally:
        other.kill()
        other.wait()
    wait_for(lambda: len(local.scheduler.workers) == 2)


class Wire:
    """A forwarder of TCP connections to an address, which can be cut and joined again at the same port."""

    def __init__(self, address: str) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self.there = host, int(port)
        self.port = 0
        self.ends: list[socket.socket] = []
        self.join()

    def join(self) -> None:
        self.server = socket.create_server(("127.0.0.1", self.port))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.server,), daemon=True).start()

    def cut(self) -> None:
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()
        for end in self.ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self.ends.clear()

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = server.accept()
                there = socket.create_connection(self.there)
                self.ends += [here, there]
                for source, target in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65536):
                target.sendall(piece)
            target.shutdown(socket.SHUT_RDWR)
        source.close()


def test_a_scheduler_that_goes_fails_its_parts_and_later_requests_at_once(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.cluster.dask_cluster.AGAIN_SECONDS", 0.2)
    wire = Wire(local.scheduler_address)
    cluster = Cluster(Settings(cluster=f"tcp://127.0.0.1:{wire.port}"))
    assert cluster.submit(tasks.large, 3).result().tolist() == [0.0, 1.0, 2.0]
    waiting = [cluster.submit(time.sleep, 1.0) for _ in range(4)]
    wire.cut()
    for part in waiting:
        with pytest.raises(Problem) as problem:
            part.result(120.0)
        assert problem.value.status == 503 and "Retry-After" in problem.value.headers
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(Problem, match="cannot be reached"):
            cluster.submit(tasks.large, 3)
    assert time.monotonic() - began < 25.0  # nothing listens: Dask itself would try for half a minute
    wire.join()
    time.sleep(0.3)
    assert cluster.submit(tasks.large, 3).result().tolist() == [0.0, 1.0, 2.0]
    cluster.close()
    wire.cut()


def test_without_the_package_requests_are_told_which_part_is_missing(
    local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ExtraMissing) as missing:
        _ = Cluster(Settings(cluster=local.scheduler_address)).width
    assert missing.value.extra == "cluster"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_certificates_let_this_server_in_and_nobody_else(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    for authority in ("ca", "stranger"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-keyout", f"{authority}.key", "-out", f"{authority}.pem", "-subj", f"/CN={authority}"),
        )
    openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "nabla.key"),
        *("-out", "nabla.csr", "-subj", "/CN=nabla"),
    )
    openssl(
        *("x509", "-req", "-in", "nabla.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"),
        *("-out", "nabla.pem"),
    )
    own = {"cluster_certificate": str(tmp_path / "nabla.pem"), "cluster_key": str(tmp_path / "nabla.key")}
    names = {
        f"tls_{role}_{what}": str(tmp_path / f"nabla.{end}")
        for role in ("scheduler", "worker", "client")
        for what, end in (("cert", "pem"), ("key", "key"))
    }
    security = distributed.Security(tls_ca_file=str(tmp_path / "ca.pem"), require_encryption=True, **names)
    with distributed.LocalCluster(
        n_workers=1, processes=False, dashboard_address=":0", security=security, protocol="tls://",
        host="127.0.0.1", silence_logs=logging.CRITICAL,
    ) as local:  # fmt: skip
        address = local.scheduler_address
        assert address.startswith("tls://")
        cluster = Cluster(Settings(cluster=address, cluster_ca=str(tmp_path / "ca.pem"), **own))
        assert cluster.submit(tasks.large, 3).result(120.0).tolist() == [0.0, 1.0, 2.0]
        cluster.close()
        stranger = {
            "cluster_certificate": str(tmp_path / "stranger.pem"),
            "cluster_key": str(tmp_path / "stranger.key"),
        }
        refused = Cluster(Settings(cluster=address, cluster_ca=str(tmp_path / "ca.pem"), **stranger))
        with pytest.raises(Problem, match="cannot be reached"):
            _ = refused.width


def test_settings_choose_the_executor_and_connect_to_nothing(tmp_path: Path) -> None:
    assert isinstance(executor_of(Settings()), InTurn)
    assert isinstance(executor_of(Settings(pool=3)), Pool) and executor_of(Settings(pool=3)).width == 3
    assert isinstance(executor_of(Settings(cluster="tcp://nowhere.invalid:8786")), Cluster)
    file = tmp_path / "file"
    file.touch()
    for wrong, said in (
        ({"pool": -1}, "NABLA_POOL takes 0 or more"),
        ({"pool": 1, "cluster": "tcp://host:1"}, "exclude each other"),
        ({"cluster": "scheduler:8786"}, "NABLA_CLUSTER takes the address"),
        ({"cluster": "tls://host:8786"}, "NABLA_CLUSTER_CA is missing for"),
        ({"cluster": "tcp://host:8786", "cluster_key": str(file)}, "NABLA_CLUSTER_KEY goes with"),
        (
            {
                "cluster": "tls://host:8786",
                "cluster_ca": str(file),
                "cluster_certificate": "/none",
                "cluster_key": "/n",
            },
            "cannot read the file /none",
        ),
    ):
        with pytest.raises(ConfigurationError, match=said):
            Settings(**wrong)  # type: ignore[arg-type]
