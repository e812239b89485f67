"""Tests of what runs survive: large states, kills, losses of power, full disks, and databases that are gone."""

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import event, exc, text
from sqlalchemy.engine import URL

from service.config import Settings
from service.store import run_keeping
from service.store import runs as runs_module
from service.store import upgrade as upgrading
from service.store.content import Content
from service.store.database import Database
from service.store.networks import Networks, Quotas, Told
from service.store.runs import NewRun, Runs, network_owner
from service.store.store import DAY, Store
from service.store.tables import records
from service.store.upgrade import upgrade
from service.store_errors import QuotaExceeded, StoreFull, StoreUnavailable
from tests.store.running import LIMITS, at, claimed, keep, lines, new, rows, within

NETWORK = Content("json", b'{"layers":[]}', b"parameters")
MANY_NETWORKS = Quotas(networks=10, owner_bytes=10**9, total_bytes=10**9)


def opened(folder: Path, **settings: Any) -> Store:
    """Return a store in a folder, with these settings. The first use opens the store."""
    return Store(Settings(data=str(folder), log_requests=False, **settings))


# --- large states -------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a part of a state hold 10 bytes."""
    monkeypatch.setattr(run_keeping, "PART_BYTES", 10)


@pytest.mark.usefixtures("small_parts")
def test_a_large_state_is_stored_in_parts_and_replaces_the_one_before(kept: Runs) -> None:
    name, _ = kept.add("", new())
    claim = claimed(kept, seconds=-1.0)
    for number, state in enumerate((bytes(range(95)), b"", b"0123456789", b"x" * 11, bytes(range(30)))):
        assert keep(kept, claim, number, number, state, lease=-1.0).alive
        assert rows(kept.database)["parts"] == max(-(-len(state) // 10), 1)
        claim = claimed(kept, seconds=-1.0)
        assert claim.state == state
        entry = kept.find("", name)
        assert entry is not None and entry.size == len(new().spec) + len(lines(0, number)) + len(state)
    result = bytes(range(44))
    assert kept.finish(claim, "completed", None, None, 0, 0, at(9), b"the last state", result)
    assert kept.result("", name) == result
    assert rows(kept.database)["parts"] == 2 + 5
    kept.resume("", name, 10)
    assert rows(kept.database)["parts"] == 2
    assert claimed(kept).state == b"the last state"
    assert kept.remove("", name)
    assert rows(kept.database) == {}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("stored", [0, 3])
def test_a_large_state_of_a_runner_that_is_killed_leaves_nothing(
    kept: Runs, monkeypatch: pytest.MonkeyPatch, stored: int
) -> None:
    kept.add("", new())
    first = claimed(kept, "a", seconds=-1.0)
    keep(kept, first, 0, 0, b"before", lease=-1.0)
    add = run_keeping.Keeping._add

    def killed(keeping: Any, connection: Any, written: Any, part: dict[str, Any]) -> bool:
        if part["number"] == stored:
            raise SystemExit
        return add(keeping, connection, written, part)

    with monkeypatch.context() as patch:
        patch.setattr(run_keeping.Keeping, "_add", killed)
        patch.setattr(run_keeping, "removing", lambda *_: None)  # a killed process removes nothing
        with pytest.raises(SystemExit):
            keep(kept, first, 1, 1, bytes(50), lease=-1.0)
    assert rows(kept.database)["parts"] == 1 + stored
    second = claimed(kept, "b")
    assert (second.state, second.last_record, rows(kept.database)["parts"]) == (b"before", 0, 1)
    assert keep(kept, first, 1, 1, bytes(50)).alive is False
    assert rows(kept.database)["parts"] == 1
    assert keep(kept, second, 1, 1, b"after").alive


@pytest.mark.usefixtures("small_parts")
def test_a_large_state_of_a_runner_that_is_shut_out_meanwhile_is_not_taken(
    kept: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.add("", new())
    first = claimed(kept, "a", seconds=-1.0)
    write, second = run_keeping.with_room, []

    def overtaken(*arguments: Any) -> Any:
        done = write(*arguments)
        if rows(kept.database).get("parts") == 3:
            second.append(claimed(kept, "b"))
        return done

    with monkeypatch.context() as patch:
        patch.setattr(run_keeping, "with_room", overtaken)
        lost = keep(kept, first, 0, 0, bytes(50), lease=-1.0)
    assert lost.alive is False
    assert second[0].state is None and "parts" not in rows(kept.database)
    assert keep(kept, second[0], 0, 0, bytes(50)).alive


# --- limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [10, 10**6], ids=["in parts", "at once"])
@pytest.mark.parametrize(
    ("limit", "shown"),
    [("run_bytes", "run_bytes"), ("owner_bytes", "stored_bytes_per_key"), ("total_bytes", "stored_bytes")],
)
def test_a_run_that_grows_beyond_a_limit_keeps_what_it_has(
    kept: Runs, monkeypatch: pytest.MonkeyPatch, limit: str, shown: str, parts: int
) -> None:
    monkeypatch.setattr(run_keeping, "PART_BYTES", parts)
    monkeypatch.setattr(run_keeping, "STRIDE", 1)
    limited = within(kept, **{limit: 250})
    name, _ = limited.add("alice", new())
    claim = claimed(limited)
    keep(limited, claim, 0, 4, bytes(100))
    before = limited.find("alice", name)
    for big in (bytes(200), bytes(1000)):
        with pytest.raises(QuotaExceeded) as refusal:
            keep(limited, claim, 5, 9, big)
        assert (refusal.value.name, refusal.value.allowed) == (shown, 250)
    after = limited.find("alice", name)
    assert before is not None and after is not None and after == before._replace(now=after.now)
    assert limited.records("alice", name, -1) == [(0, 4, lines(0, 4))]
    assert keep(limited, claim, 5, 5, bytes(90)).alive  # a smaller state makes room
    assert limited.finish(claim, "failed", "the run is full", None, 0, 0, at(5), None, None)
    assert limited.resume("alice", name, None)[1]
    assert claimed(limited).state == bytes(90)


# --- networks of runs ---------------------------------------------------------------------------


def test_a_run_keeps_its_networks_until_it_is_removed(kept: Runs) -> None:
    stored = Networks(kept.database)
    stored.add("alice", NETWORK, Told("{}", "{}"), MANY_NETWORKS, 1.0)
    first, _ = kept.add("alice", new(networks=(NETWORK.id, NETWORK.id)))
    second, _ = kept.add("alice", new(networks=(NETWORK.id,)))
    assert stored.usage("alice").networks == 1
    assert stored.remove("alice", NETWORK.id)
    assert stored.usage("alice") == (0, 0)
    stored.note_uses({(network_owner(first), NETWORK.id): time.time()})
    assert stored.forget(time.time() + 1000 * DAY) == 0
    for run in (first, second):
        assert stored.content(network_owner(run), NETWORK.id) == NETWORK
        assert stored.content("alice", NETWORK.id) is None
        assert kept.remove("alice", run)
        assert stored.content(network_owner(run), NETWORK.id) is None
    assert rows(kept.database) == {}


def test_a_run_cannot_keep_a_network_that_its_owner_has_not(kept: Runs) -> None:
    stored = Networks(kept.database)
    stored.add("bob", NETWORK, Told("{}", "{}"), MANY_NETWORKS, 1.0)
    with pytest.raises(StoreUnavailable, match="being removed"):
        kept.add("alice", new(networks=(NETWORK.id,)))
    assert kept.counts() == {} and rows(kept.database)["owners"] == 1


def test_networks_and_runs_count_together(kept: Runs) -> None:
    stored = Networks(kept.database)
    run, _ = kept.add("alice", new())
    keep(kept, claimed(kept), 0, 0, bytes(1000))
    with pytest.raises(QuotaExceeded, match="stored_bytes_per_key"):
        stored.add("alice", NETWORK, Told("{}", "{}"), MANY_NETWORKS._replace(owner_bytes=1000), 1.0)
    with pytest.raises(StoreFull):
        stored.add("bob", NETWORK, Told("{}", "{}"), MANY_NETWORKS._replace(total_bytes=1000), 1.0)
    stored.add("bob", NETWORK, Told("{}", "{}"), MANY_NETWORKS._replace(owner_bytes=1000), 1.0)
    with pytest.raises(QuotaExceeded, match="stored_bytes_per_key"):
        within(kept, owner_bytes=NETWORK.size).add("bob", new(1))
    kept.remove("alice", run)
    stored.add("alice", NETWORK, Told("{}", "{}"), MANY_NETWORKS._replace(owner_bytes=1000), 1.0)


def test_a_removal_of_many_records_lets_others_write_and_goes_on_after_a_failure(
    kept: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = kept.add("alice", new(idempotency_key="k"))
    claim = claimed(kept)
    keep(kept, claim, 0, 0, bytes(100))
    with kept.database.writing() as connection:
        some = [{"run": name, "first": step, "last": step, "lines": lines(step, step)} for step in range(1, 4500)]
        connection.execute(records.insert(), some)
    remaining = []
    remove = runs_module.removing

    def failing(database: Database, work: Any) -> Any:
        remaining.append(rows(database).get("records", 0))
        if len(remaining) == 3:
            raise StoreUnavailable("gone")
        return remove(database, work)

    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "removing", failing)
        assert kept.remove("alice", name)
    assert remaining == [4500, 2500, 500]
    assert kept.find("alice", name) is None and kept.records("alice", name, -1) == []
    assert kept.usage("alice") == (0, 0, 0) and kept.counts() == {} and kept.claim("b", 60.0) is None
    assert not keep(kept, claim, 5000, 5000).alive
    assert kept.add("alice", new(idempotency_key="k"))[1]
    assert kept.forget(0.0) == 1
    assert rows(kept.database) == {"blobs": 1, "runs": 1}


# --- many processes -----------------------------------------------------------------------------


def compute_all(address: URL, worker: str, barrier: Any, found: Any) -> None:
    """Claim runs and finish them until there are none. Runs in a process of its own, and puts the ids into `found`."""
    database = Database(address)
    kept, mine = Runs(database, LIMITS), []
    barrier.wait(30)
    while (claim := kept.claim(worker, 60.0)) is not None:
        mine.append(claim.id)
        assert keep(kept, claim, 0, 9, b"state").alive
        assert kept.finish(claim, "completed", None, lines(10, 19), 10, 19, at(19), None, worker.encode())
    found.put(mine)
    database.close()


def test_processes_that_claim_at_once_get_each_run_once(kept: Runs) -> None:
    names = {kept.add(f"owner {number % 3}", new(number))[0] for number in range(60)}
    kept.database.close()
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(4), context.Queue()
    workers = [context.Process(target=compute_all, args=(kept.database.url, f"w{n}", barrier, found)) for n in range(4)]
    for worker in workers:
        worker.start()
    claimed_ = [name for _ in workers for name in found.get(timeout=60)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(claimed_) == 60 and set(claimed_) == names
    assert kept.counts() == {"completed": 60}


def test_asking_for_work_waits_for_no_writer(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.runs.counts()
    with sqlite3.connect(tmp_path / "nabla.db", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        assert [store.runs.claim("a", 60.0) for _ in range(10)] == [None] * 10
        assert time.monotonic() - begin < 4.0  # a writer would wait for five seconds
    other.close()
    store.close()


# --- losses of power ----------------------------------------------------------------------------

INSTANTS = 8
"""Number of moments at which the test takes a copy."""
POWER_PART = 20_000
"""Size in bytes of one part of a state in this test."""


def state_at(step: int) -> bytes:
    """Return the state of a run at a step. Its size differs from step to step."""
    return random.Random(step).randbytes(50 + step % 7 * 9000)


def compute_for_ever(file: str) -> None:
    """Claim a run and keep it, 10 records at a time, for ever. Runs in a process of its own."""
    run_keeping.PART_BYTES = POWER_PART  # so that a copy may be taken between two parts
    kept = Runs(Database(URL.create("sqlite", database=file)), LIMITS)
    claim = claimed(kept, seconds=-1.0)
    for first in range(0, 10**9, 10):
        last = first + 9
        keep(kept, claim, first, last, state_at(last) if first % 30 == 0 else None, lease=-1.0)


def copy_with_lost_tail(source: Path, target: Path, chance: random.Random) -> None:
    """Copy a database as a loss of power may leave it: the log lacks what was not yet written to the disk."""
    target.mkdir()
    shutil.copy(source / "nabla.db", target)
    log = (source / "nabla.db-wal").read_bytes()
    index = (source / "nabla.db-shm").read_bytes()
    (on_disk,) = struct.unpack_from("=I", index, 128)  # frames that SQLite has synced, for it copies them to the file
    begin = min(32 + on_disk * (4096 + 24), len(log)) if log else 0
    (target / "nabla.db-wal").write_bytes(log[: chance.randint(begin, len(log))])


def check_copy(folder: Path) -> int:
    """Check that a copy of a database is whole, and that its run goes on. Return the step of its state."""
    with sqlite3.connect(folder / "nabla.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    raw.close()
    store = opened(folder)
    kept = store.runs
    claim = claimed(kept, "another")
    entry = kept.find("", claim.id)
    assert entry is not None
    assert (claim.state is None) == (entry.state_step is None)
    if entry.state_step is not None:
        assert claim.state == state_at(entry.state_step)
        assert claim.last_record in (entry.state_step, entry.state_step + 10, entry.state_step + 20)
    found, after = b"", -1
    while chunks := kept.records("", claim.id, after):
        found += b"".join(chunk for _, _, chunk in chunks)
        after = chunks[-1][1]
    assert found == lines(0, claim.last_record)
    assert claim.last_record == -1 or claim.last_record == entry.step
    assert rows(kept.database).get("parts", 0) == -(-len(claim.state or b"") // POWER_PART)
    size = len(new().spec) + len(lines(0, claim.last_record)) + len(claim.state or b"")
    assert entry.size == size
    assert keep(kept, claim, claim.last_record + 1, claim.last_record + 5, b"state").alive
    assert kept.finish(claim, "completed", None, None, 0, 0, at(claim.last_record + 5), None, b"result")
    store.close()
    return -1 if entry.state_step is None else entry.state_step


def test_a_run_goes_on_after_a_loss_of_power_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(0)
    source = tmp_path / "source"
    store = opened(source)
    name, _ = store.runs.add("", new())
    store.close()
    writer = multiprocessing.get_context("fork").Process(target=compute_for_ever, args=(str(source / "nabla.db"),))
    writer.start()
    assert writer.pid is not None
    try:
        while (entry := store.runs.find("", name)) is None or entry.state_step is None:
            assert writer.is_alive()
            time.sleep(0.01)
        store.close()
        for number in range(INSTANTS):
            time.sleep(chance.uniform(0.0, 0.05))
            os.kill(writer.pid, signal.SIGSTOP)
            copy_with_lost_tail(source, tmp_path / str(number), chance)
            os.kill(writer.pid, signal.SIGCONT)
            assert writer.is_alive()
    finally:
        writer.kill()
        writer.join()
    steps = [check_copy(tmp_path / str(number)) for number in range(INSTANTS)]
    assert max(steps) > 0
    assert check_copy(source) >= max(steps)  # the writer was killed, and nothing is lost then


# --- full disks ---------------------------------------------------------------------------------


def fill(database: Database) -> Callable[[], None]:
    """Let the file of a database not grow any more. Return what lifts this."""

    def small(connection: Any, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    def large(connection: Any, *_: object) -> None:
        connection.execute("PRAGMA max_page_count = 1000000")

    event.listen(database.engine, "checkout", small)

    def lift() -> None:
        event.remove(database.engine, "checkout", small)
        event.listen(database.engine, "checkout", large)

    return lift


@pytest.mark.parametrize("parts", [10_000, 10**7], ids=["in parts", "at once"])
def test_a_runner_on_a_full_disk_goes_on_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    monkeypatch.setattr(run_keeping, "PART_BYTES", parts)
    store = opened(tmp_path)
    name, _ = store.runs.add("", new())
    claim = claimed(store.runs)
    keep(store.runs, claim, 0, 9, bytes(30_000))
    before, stored = store.runs.find("", name), rows(store.runs.database)
    lift = fill(store.runs.database)
    for _ in range(2):
        with pytest.raises(StoreFull, match="full; nothing was stored"):
            keep(store.runs, claim, 10, 19, bytes(10**6))
        with pytest.raises(StoreFull):
            store.runs.finish(claim, "completed", None, None, 0, 0, at(19), None, bytes(10**6))
        with pytest.raises(StoreFull):
            store.runs.add("", NewRun("train", bytes(10**6), 5))
    after = store.runs.find("", name)
    assert before is not None and after is not None and after == before._replace(now=after.now)
    assert rows(store.runs.database) == stored
    assert store.runs.beat(claim, 60.0).alive  # what takes no room is still done
    lift()
    assert keep(store.runs, claim, 10, 19, bytes(10**6)).alive
    assert [(first, last) for first, last, _ in store.runs.records("", name, -1)] == [(0, 9), (10, 19)]
    store.close()


@pytest.mark.parametrize("has_room", [True, False], ids=["after a checkpoint", "never"])
def test_a_full_disk_lets_runs_be_removed_or_says_that_nothing_was_removed(tmp_path: Path, has_room: bool) -> None:
    store = opened(tmp_path)
    for number in range(2):
        name, _ = store.runs.add("", new(number))
        claim = claimed(store.runs)
        store.runs.finish(claim, "completed", None, lines(0, 9), 0, 9, at(9), b"state", b"result")
    before = rows(store.runs.database)

    @event.listens_for(store.runs.database.engine, "before_cursor_execute")
    def no_room(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("DELETE") and not (has_room and not (tmp_path / "nabla.db-wal").stat().st_size):
            full = sqlite3.OperationalError("database or disk is full")
            full.sqlite_errorname = "SQLITE_FULL"
            raise exc.OperationalError(statement, {}, full)

    if has_room:
        assert store.runs.remove("", name)
        assert store.runs.forget(time.time() + DAY) == 1
        assert rows(store.runs.database) == {}
    else:
        for removing in (lambda: store.runs.remove("", name), lambda: store.runs.forget(time.time() + DAY)):
            with pytest.raises(StoreFull, match="nothing was removed"):
                removing()
        assert rows(store.runs.database) == before
    store.close()


# --- databases that are gone --------------------------------------------------------------------


def test_a_file_that_is_removed_ends_its_claims_and_is_made_anew(tmp_path: Path) -> None:
    store = opened(tmp_path)
    name, _ = store.runs.add("", new())
    claim = claimed(store.runs)
    keep(store.runs, claim, 0, 9, b"state")
    for file in tmp_path.iterdir():
        file.unlink()
    assert keep(store.runs, claim, 10, 19).alive is False
    assert store.runs.find("", name) is None
    assert store.runs.claim("a", 60.0) is None
    assert store.runs.add("", new())[1]
    assert claimed(store.runs).state is None
    store.close()


@pytest.fixture
def lost_connections(kept: Runs) -> Iterator[Callable[[], None]]:
    """Return a function that ends all connections to a PostgreSQL database, as a restart of the server does."""
    other = Database(kept.database.url)

    def lose() -> None:
        with other.reading() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )

    yield lose
    other.close()


@pytest.mark.parametrize("empty", ["postgresql"], indirect=True)
def test_a_server_that_is_lost_while_something_is_kept_has_stored_nothing_of_it(
    kept: Runs, lost_connections: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _ = kept.add("", new())
    claim = claimed(kept)
    keep(kept, claim, 0, 9, b"state")
    lost_connections()
    assert keep(kept, claim, 10, 19).alive  # a connection that was lost before is renewed
    progress = run_keeping.Keeping.progress

    def lost(*arguments: Any) -> None:
        progress(*arguments)
        lost_connections()

    monkeypatch.setattr(run_keeping.Keeping, "progress", lost)
    with pytest.raises(StoreUnavailable):
        keep(kept, claim, 20, 29, b"next")
    monkeypatch.undo()
    with pytest.raises(StoreUnavailable):
        kept.find("", name)  # nobody asks at once
    kept.database._unreachable_until = 0.0
    entry = kept.find("", name)
    assert entry is not None and (entry.step, entry.state_step) == (19, 9)
    assert keep(kept, claim, 20, 29, b"next").alive
    assert [(first, last) for first, last, _ in kept.records("", name, -1)] == [(0, 9), (10, 19), (20, 29)]


# --- upkeep -------------------------------------------------------------------------------------


def test_a_database_without_runs_is_brought_up_to_date_with_its_networks(database: Database) -> None:
    with database.writing() as connection:
        command.upgrade(upgrading._config(connection), "0001")
    stored = Networks(database)
    with database.writing() as connection:
        for part in ("definition", "parameters"):
            values = {"id": part, "size": 3, "content": part.encode()}
            connection.execute(text("INSERT INTO blobs (id, size, content) VALUES (:id, :size, :content)"), values)
        connection.execute(
            text("INSERT INTO networks VALUES ('n', 'json', 'definition', 'parameters', 6, 1.0, '{}', '{}')")
        )
        connection.execute(text("INSERT INTO owners VALUES ('alice', 'n', 6, 1.0, 1.0)"))
    upgrade(database)
    assert stored.content("alice", "n") == Content("json", b"definition", b"parameters")
    assert Runs(database, LIMITS).add("alice", new(networks=("n",)))[1]


def test_a_store_removes_runs_that_ended_long_ago(tmp_path: Path) -> None:
    now = [time.time()]
    store = Store(Settings(data=str(tmp_path), run_days=2.0, stored_days=0.0), lambda: now[-1])
    for number in range(2):
        name, _ = store.runs.add("", new(number))
    store.runs.cancel("", name)
    assert store.tidy() == 0
    now.append(now[0] + 2.1 * DAY)
    assert store.tidy() == 1
    assert store.runs.counts() == {"queued": 1}  # what waits is kept
    assert Store(Settings(data=str(tmp_path), run_days=0.0, stored_days=0.0), lambda: 1e12).tidy() == 0
    store.close()
