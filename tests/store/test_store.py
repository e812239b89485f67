"""Tests of the networks in a database, for SQLite and PostgreSQL alike."""

import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from safetensors.numpy import load
from sqlalchemy import event, exc, func, select, text
from sqlalchemy.engine import URL

from schemas.stored import ID
from service.config import ConfigurationError, Settings
from service.store import upgrade as upgrading
from service.store.content import ID_DIGITS, Content, packed, unpacked
from service.store.database import Database
from service.store.loaded import LEASE_SECONDS, USED_SECONDS, LoadedNetworks
from service.store.networks import AT_ONCE, Entry, Networks, Quotas, Told, Usage
from service.store.store import DAY, Store, data_folder, why_nothing_is_stored
from service.store.tables import blobs, metadata, networks
from service.store.upgrade import upgrade, version_of
from service.store_errors import NoStore, QuotaExceeded, StoreFull, StoreUnavailable

NOTHING = Told("{}", "{}")
MANY = Quotas(networks=10**6, owner_bytes=10**9, total_bytes=10**9)


def content(number: int = 0, size: int = 10, parameters: bytes | None = None) -> Content:
    """Return a content that differs for each number. `size` is the number of spaces that are added."""
    return Content("json", b'{"number":%d}' % number + b" " * size, parameters)


def rows(database: Database) -> tuple[int, int]:
    """Return the numbers of networks and of blobs in a database."""
    with database.reading() as connection:
        counts = [
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (networks, blobs)
        ]
    return counts[0], counts[1]


# --- content and ids ----------------------------------------------------------------------------


def test_an_id_is_made_of_all_of_the_content_and_has_the_form_that_requests_take() -> None:
    contents = [
        content(),
        content(1),
        content(parameters=b"x"),
        content(parameters=b""),
        content()._replace(format="onnx"),
    ]
    ids = [each.id for each in contents]
    assert len(set(ids)) == len(ids)
    assert all(ID.fullmatch(each) and len(each) == ID_DIGITS for each in ids)
    assert content().id == content().id


def test_parameters_survive_bit_for_bit_and_in_one_order() -> None:
    rng = np.random.default_rng(0)
    tree = {
        "encoder.layers.0": {"weight": rng.normal(size=(3, 4)), "bias": rng.normal(size=3).astype(np.float32)},
        "a": {"steps": np.array(7), "flags": np.array([[0, 255]], np.uint8), "b": np.array([-0.0, 5e-324])},
    }
    back = unpacked(packed(tree))
    assert list(back) == sorted(tree) and {name: list(back[name]) for name in back} == {
        name: sorted(tree[name]) for name in back
    }
    for layer, arrays in tree.items():
        for name, array in arrays.items():
            found = back[layer][name]
            assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()
            assert not found.flags.writeable
    theirs = load(packed(tree))  # as the library of the format reads it
    assert theirs["encoder.layers.0.bias"].tobytes() == tree["encoder.layers.0"]["bias"].tobytes()
    assert packed(tree) == packed({layer: dict(reversed(arrays.items())) for layer, arrays in reversed(tree.items())})


# --- migrations ---------------------------------------------------------------------------------


def test_migrations_make_the_tables_that_the_program_uses(database: Database) -> None:
    assert version_of(database) is None
    upgrade(database)
    assert version_of(database) == upgrading.LATEST
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_latest_version_is_that_of_the_last_migration() -> None:
    script = ScriptDirectory(str(upgrading.MIGRATIONS))
    assert script.get_heads() == [upgrading.LATEST]
    assert len(list(script.walk_revisions())) == int(upgrading.LATEST)


def test_a_database_of_a_later_version_is_left_alone(database: Database) -> None:
    upgrade(database)
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreUnavailable, match="another version"):
        upgrade(database)
    assert version_of(database) == "9999"


def start_and_add(address: URL, number: int, barrier: Any, found: Any) -> None:
    """Bring the tables up to date, then store one network that all processes share and five of its own.

    Runs in a process of its own, and puts the results into `found`.
    """
    database = Database(address)
    try:
        barrier.wait(30)
        upgrade(database)
        repository = Networks(database)
        added = [repository.add("", content(0, 50_000), NOTHING, MANY, 1.0)]
        added += [repository.add("", content(100 * number + each), NOTHING, MANY, 1.0) for each in range(1, 6)]
        found.put(added)
    except BaseException as error:
        found.put(repr(error))
        raise
    finally:
        database.close()


def test_processes_that_start_at_once_migrate_once_and_lose_nothing(address: URL) -> None:
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(4), context.Queue()
    workers = [context.Process(target=start_and_add, args=(address, number, barrier, found)) for number in range(4)]
    for worker in workers:
        worker.start()
    results = [found.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(result[0] for result in results) == [False, False, False, True]
    assert all(result[1:] == [True] * 5 for result in results)
    database = Database(address)
    assert Networks(database).usage("").networks == 21
    assert rows(database) == (21, 21)
    database.close()


# --- networks -----------------------------------------------------------------------------------


def test_a_network_is_found_by_its_owner_alone(stored: Networks) -> None:
    one = content(parameters=b"numbers")
    assert stored.add("alice", one, Told("{}", '{"a":1}'), MANY, 5.0) is True
    assert stored.find("alice", one.id) == Entry(one.id, "json", one.size, '{"a":1}', 5.0, 5.0)
    assert stored.content("alice", one.id) == one
    assert stored.definition("alice", one.id) == one.definition
    for owner in ("bob", "", "ALICE"):
        assert stored.find(owner, one.id) is None
        assert stored.content(owner, one.id) is None
        assert stored.definition(owner, one.id) is None
        assert stored.remove(owner, one.id) is False
    assert stored.find("alice", "0" * 40) is None


def test_what_is_sent_again_is_the_same_network_and_is_told_anew(stored: Networks) -> None:
    one = content()
    assert stored.add("", one, Told("old line", "old"), MANY, 1.0) is True
    assert stored.add("", one, Told("new line", "new"), MANY, 2.0) is False
    assert stored.find("", one.id) == Entry(one.id, "json", one.size, "new", 1.0, 2.0)
    assert [each.text for each in stored.listed("", 5)] == ["new line"]
    assert rows(stored.database) == (1, 1)


def test_bytes_are_stored_once_and_go_with_the_last_who_has_them(stored: Networks) -> None:
    plain, first, second = content(), content(parameters=b"p" * 10), content(1, parameters=b"p" * 10)
    for owner in ("alice", "bob"):
        for each in (plain, first, second):
            assert stored.add(owner, each, NOTHING, MANY, 1.0) is True
    assert rows(stored.database) == (3, 3)  # two definitions, and the parameters of both
    assert stored.usage("alice") == stored.usage("bob") == Usage(3, plain.size + first.size + second.size)
    assert stored.remove("alice", first.id) is True
    assert stored.remove("alice", first.id) is False
    assert stored.content("bob", first.id) == first
    assert stored.remove("bob", first.id) is True
    assert rows(stored.database) == (2, 3)
    assert stored.content("bob", plain.id) == plain
    assert stored.content("bob", second.id) == second
    for owner in ("alice", "bob"):
        for each in (plain, second):
            assert stored.remove(owner, each.id) is True
    assert rows(stored.database) == (0, 0)


def test_pages_of_a_listing_hold_every_network_once_the_newest_first(stored: Networks) -> None:
    names = []
    for number in range(7):
        one = content(number)
        stored.add("alice", one, NOTHING, MANY, float(number // 2))  # some networks have the same time
        names.append((float(number // 2), one.id))
    stored.add("bob", content(99), NOTHING, MANY, 9.0)
    found: list[tuple[float, str]] = []
    while page := stored.listed("alice", 2, found[-1] if found else None):
        found += [(each.created, each.id) for each in page]
    assert found == sorted(names, reverse=True)


def test_quotas_are_told_by_name_and_nothing_is_stored_beyond_them(stored: Networks) -> None:
    two = Quotas(networks=2, owner_bytes=10**6, total_bytes=10**6)
    assert stored.add("alice", content(0), NOTHING, two, 1.0)
    assert stored.add("alice", content(1), NOTHING, two, 1.0)
    with pytest.raises(QuotaExceeded) as refusal:
        stored.add("alice", content(2), NOTHING, two, 1.0)
    assert (refusal.value.name, refusal.value.asked, refusal.value.allowed) == ("stored_networks", 3, 2)
    assert stored.add("alice", content(1), NOTHING, two, 2.0) is False  # a stored network may be sent again
    assert stored.add("bob", content(2), NOTHING, two, 1.0)  # other owners have quotas of their own
    with pytest.raises(QuotaExceeded, match="stored_bytes_per_key"):
        stored.add("carol", content(3, 500), NOTHING, two._replace(owner_bytes=400), 1.0)
    with pytest.raises(StoreFull):
        stored.add("carol", content(3, 500), NOTHING, two._replace(total_bytes=500), 1.0)
    assert stored.add(
        "carol", content(0), NOTHING, two._replace(total_bytes=1), 1.0
    )  # bytes that are already stored take no room
    assert rows(stored.database) == (3, 3)
    assert stored.remove("alice", content(1).id)
    assert stored.add("alice", content(5), NOTHING, two, 1.0)


def test_what_nobody_used_for_long_is_forgotten_by_owner(stored: Networks) -> None:
    for number in range(AT_ONCE + 5):
        stored.add("alice", content(number), NOTHING, MANY, 100.0)
    stored.add("bob", content(0), NOTHING, MANY, 100.0)
    stored.note_uses({("alice", content(1).id): 300.0, ("bob", content(0).id): 300.0, ("bob", "unknown"): 300.0})
    stored.note_uses({("alice", content(1).id): 200.0})  # an older use changes nothing
    assert stored.forget(50.0) == 0
    assert stored.forget(250.0) == AT_ONCE + 4
    assert stored.usage("alice").networks == 1
    assert stored.content("bob", content(0).id) == content(0)
    assert rows(stored.database) == (2, 2)
    assert stored.forget(301.0) == 2
    assert rows(stored.database) == (0, 0)


def test_threads_that_add_and_remove_leave_nothing_half_done(stored: Networks) -> None:
    errors: list[BaseException] = []

    def work(owner: str) -> None:
        try:
            for turn in range(8):
                one = content(turn % 3, parameters=b"shared")
                stored.add(owner, one, NOTHING, MANY, 1.0)
                assert stored.content(owner, one.id) == one
                assert stored.remove(owner, one.id)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"owner {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert rows(stored.database) == (0, 0)


def test_a_transaction_that_fails_stores_nothing(stored: Networks) -> None:
    def add_and_fail() -> None:
        with stored.database.writing() as connection:
            connection.execute(blobs.insert().values(id="x", size=1, content=b"x"))
            raise KeyError

    with pytest.raises(KeyError):
        add_and_fail()
    assert rows(stored.database) == (0, 0)


# --- what may go wrong with a database ----------------------------------------------------------


def opened(folder: Path, **settings: Any) -> Store:
    """Return a store in a folder, with these settings. The first use opens the store."""
    return Store(Settings(data=str(folder), log_requests=False, **settings))


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path) -> None:
    store = opened(tmp_path)
    repository = store.networks
    repository.add("", content(0), NOTHING, MANY, 1.0)

    @event.listens_for(repository.database.engine, "checkout")
    def small(connection: Any, *_: object) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StoreFull, match="full; nothing was stored"):
        repository.add("", content(1, 10**6), NOTHING, MANY, 1.0)
    assert repository.content("", content(0).id) == content(0)
    assert repository.usage("").networks == 1
    store.close()


def test_a_removal_writes_little_however_much_it_removes(tmp_path: Path) -> None:
    store = opened(tmp_path)
    repository = store.networks
    repository.add("", content(0, 10**6), NOTHING, MANY, 1.0)
    repository.database.make_room()
    log = tmp_path / "nabla.db-wal"
    assert log.stat().st_size == 0
    assert repository.remove("", content(0, 10**6).id)
    assert log.stat().st_size < 10**5
    store.close()


@pytest.mark.parametrize("has_room", [True, False], ids=["after a checkpoint", "never"])
def test_a_removal_on_a_full_disk_makes_room_for_itself_or_says_that_nothing_was_removed(
    tmp_path: Path, has_room: bool
) -> None:
    store = opened(tmp_path)
    repository = store.networks
    repository.add("", content(0), NOTHING, MANY, 1.0)
    repository.add("", content(1), NOTHING, MANY, 1.0)

    @event.listens_for(repository.database.engine, "before_cursor_execute")
    def no_room(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("DELETE") and not (has_room and not (tmp_path / "nabla.db-wal").stat().st_size):
            full = sqlite3.OperationalError("database or disk is full")
            full.sqlite_errorname = "SQLITE_FULL"
            raise exc.OperationalError(statement, {}, full)

    if has_room:
        assert repository.remove("", content(0).id)
        assert repository.forget(2.0) == 1
        assert rows(repository.database) == (0, 0)
    else:
        for removing in (lambda: repository.remove("", content(0).id), lambda: repository.forget(2.0)):
            with pytest.raises(StoreFull, match="nothing was removed"):
                removing()
        assert rows(repository.database) == (2, 2)
    store.close()


@pytest.mark.parametrize("damage", [b"this is no database at all" * 100, None], ids=["another file", "zeros inside"])
def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path: Path, damage: bytes | None) -> None:
    store = opened(tmp_path)
    for number in range(30):
        store.networks.add("", content(number, 5000), NOTHING, MANY, 1.0)
    store.close()
    file = tmp_path / "nabla.db"
    whole = file.read_bytes()
    broken = damage or whole[:4096] + bytes(len(whole) - 4096)
    file.write_bytes(broken)
    for other in (tmp_path / "nabla.db-wal", tmp_path / "nabla.db-shm"):
        other.unlink(missing_ok=True)
    store = opened(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="cannot be read"):
            store.networks.find("", content(0, 5000).id)
    assert file.read_bytes() == broken
    store.close()
    file.write_bytes(whole)
    store = opened(tmp_path)
    assert store.networks.content("", content(0, 5000).id) == content(0, 5000)
    store.close()


def test_a_file_that_is_removed_is_made_anew(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.networks.add("", content(0), NOTHING, MANY, 1.0)
    for file in tmp_path.iterdir():
        file.unlink()
    assert store.networks.find("", content(0).id) is None
    assert store.networks.add("", content(0), NOTHING, MANY, 1.0) is True
    assert (tmp_path / "nabla.db").stat().st_size
    store.close()


def test_a_writer_waits_for_another_and_is_told_when_that_takes_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.database.BUSY_SECONDS", 0.2)
    store, other = opened(tmp_path), opened(tmp_path)
    repository = store.networks
    with other.networks.database.writing() as connection:
        connection.execute(blobs.insert().values(id="x", size=1, content=b"x"))
        assert repository.usage("").networks == 0  # readers do not wait
        with pytest.raises(StoreUnavailable, match="busy"):
            repository.add("", content(0), NOTHING, MANY, 1.0)
    assert repository.add("", content(0), NOTHING, MANY, 1.0)
    store.close()
    other.close()


def test_a_copy_of_the_files_at_any_moment_is_a_whole_database(tmp_path: Path) -> None:
    """Check copies taken as if power was lost: each is a valid database, which may lack the last transactions."""
    source = tmp_path / "source"
    store = opened(source)
    for number in range(5):
        store.networks.add("", content(number, 2000), NOTHING, MANY, float(number))
        copy = tmp_path / str(number)
        copy.mkdir()
        for name in ("nabla.db", "nabla.db-wal"):
            (copy / name).write_bytes((source / name).read_bytes())
        found = opened(copy)
        assert [each.id for each in found.networks.listed("", 10)] == [
            content(n, 2000).id for n in range(number, -1, -1)
        ]
        found.close()
    store.close()


@pytest.mark.parametrize("folder", ["/dev/null/nabla", "/proc/nabla", "file/nabla"])
def test_without_a_folder_to_write_to_nothing_is_stored(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    store = Store(Settings(data=folder))
    for _ in range(2):
        with pytest.raises(NoStore, match="no folder that it may write to"):
            _ = store.networks


def test_a_folder_that_becomes_writable_is_used_from_then_on(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    store = opened(tmp_path / "data")
    with pytest.raises(NoStore):
        _ = store.networks
    (tmp_path / "data").unlink()
    assert store.networks.usage("").networks == 0
    store.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read_is_no_folder_to_store_in(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(NoStore):
            _ = opened(tmp_path).networks
    finally:
        tmp_path.chmod(0o700)


def test_files_are_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    store = opened(folder)
    assert store.networks.usage("").networks == 0
    assert [oct(path.stat().st_mode & 0o077) for path in (folder, folder / "nabla.db")] == ["0o0", "0o0"]
    store.close()


def test_a_server_that_cannot_be_reached_is_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    store = Store(Settings(database="postgresql://nobody:secret@127.0.0.1:1/none"))
    with pytest.raises(StoreUnavailable, match="cannot be reached now") as refusal:
        _ = store.networks
    assert "secret" not in str(refusal.value)
    database = store._database
    assert database is not None and database.url.drivername == "postgresql+psycopg"
    monkeypatch.setattr(database.engine, "connect", lambda: pytest.fail("it was asked at once"))
    with pytest.raises(StoreUnavailable):
        _ = store.networks


def test_a_server_that_hangs_is_cut_off_and_one_that_is_back_is_used(
    postgresql: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.database.SILENT_SECONDS", 0.3)
    monkeypatch.setattr("service.store.database.GLANCE_SECONDS", 0.1)
    database = Database(postgresql)
    ask = text("SELECT pg_backend_pid()")
    with database.reading() as connection:
        process = connection.execute(ask).scalar_one()
    os.kill(process, signal.SIGSTOP)
    with database.reading() as connection:  # a connection that hangs before it is used is replaced
        other = connection.execute(ask).scalar_one()
    os.kill(process, signal.SIGCONT)
    assert other != process

    def hang() -> None:
        with database.reading() as connection:
            os.kill(other, signal.SIGSTOP)
            connection.execute(ask)

    with pytest.raises(StoreUnavailable):
        hang()
    os.kill(other, signal.SIGCONT)
    with pytest.raises(StoreUnavailable), database.reading():
        pytest.fail("nobody asks at once")
    database._unreachable_until = 0.0
    monkeypatch.undo()
    with database.reading() as connection:
        process = connection.execute(ask).scalar_one()
    os.kill(process, signal.SIGTERM)  # as a restart of the server does
    with database.reading() as connection:
        assert connection.execute(ask).scalar_one() != process
    database.close()


def test_a_forked_process_opens_connections_of_its_own(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.networks.add("", content(0), NOTHING, MANY, 1.0)
    before = store.networks
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            after = store.networks
            os.write(writer, b"1" if after is not before and after.find("", content(0).id) else b"0")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"1"
    assert store.networks is before and before.find("", content(0).id)
    os.close(reader)
    os.close(writer)
    store.close()


# --- what a process keeps -----------------------------------------------------------------------


def at(moments: list[float]) -> Callable[[], float]:
    """Return a clock that shows the last of these moments."""
    return lambda: moments[-1]


def test_what_was_read_is_believed_for_a_moment_and_by_owner() -> None:
    now = [100.0]
    loaded: LoadedNetworks[str] = LoadedNetworks(1000, at(now))
    assert loaded.find("alice", "a") is None
    assert loaded.keep("a", "network", 10) == "network"
    assert loaded.find("alice", "a") is None  # the database has not confirmed that she owns it
    loaded.believe("alice", "a")
    assert loaded.find("alice", "a") == "network"
    assert loaded.find("bob", "a") is None
    now.append(100.0 + LEASE_SECONDS + 0.01)
    assert loaded.find("alice", "a") is None
    assert loaded.read_before("a") == "network"
    loaded.believe("alice", "a")
    loaded.drop("alice", "a")
    assert loaded.find("alice", "a") is None


def test_uses_are_noted_once_an_hour() -> None:
    now = [100.0]
    loaded: LoadedNetworks[str] = LoadedNetworks(1000, at(now))
    loaded.keep("a", "network", 10)
    for moment, noted in ((100.0, [("", "a")]), (100.5, []), (100.0 + USED_SECONDS + 1, [("", "a")])):
        now.append(moment)
        loaded.believe("", "a")
        assert loaded.find("", "a") == "network"
        assert loaded.take_uses() == noted


def test_what_is_kept_is_bounded_in_bytes() -> None:
    loaded: LoadedNetworks[int] = LoadedNetworks(100)
    for number in range(20):
        loaded.keep(str(number), number, 30)
    assert loaded.nbytes <= 100
    assert loaded.keep("large", 1, 101) == 1
    assert loaded.read_before("large") is None
    assert loaded.keep("19", 5, 30) == 19  # all callers use the object that was read first
    loaded.shrink(1000)
    assert loaded.nbytes == 0


def test_a_store_notes_uses_and_removes_what_is_old(tmp_path: Path) -> None:
    now = [1000 * DAY]
    store = Store(Settings(data=str(tmp_path), stored_days=30), at(now))
    for number in range(2):
        store.networks.add("", content(number), NOTHING, MANY, now[-1])
    now.append(1020 * DAY)
    store.loaded.keep(content(0).id, "network", 10)
    store.loaded.believe("", content(0).id)
    assert store.loaded.find("", content(0).id)
    assert store.tidy() == 0
    now.append(1031 * DAY)
    assert store.tidy() == 1
    assert [each.id for each in store.networks.listed("", 10)] == [content(0).id]
    assert Store(Settings(data=str(tmp_path), stored_days=0), lambda: 9999 * DAY).tidy() == 0
    store.close()


# --- settings -----------------------------------------------------------------------------------


def test_the_folder_is_that_of_the_setting_or_where_programs_of_a_user_keep_their_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert data_folder(Settings(data="/srv/Nabla")) == Path("/srv/Nabla")
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    assert data_folder(Settings()) == Path("/x/nabla")
    monkeypatch.setenv("HOME", "/home/me")
    for other in ("", "relative/folder"):
        monkeypatch.setenv("XDG_DATA_HOME", other)
        assert data_folder(Settings()) == Path("/home/me/.local/share/nabla")
    assert data_folder(Settings(data="~/Data")) == Path("/home/me/Data")
    assert Settings.from_environment({"NABLA_DATA": "/srv/Nabla"}).data == "/srv/Nabla"


def test_the_start_says_why_nothing_will_be_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    because = f", because {file} is no folder; "
    assert because + "NABLA_DATA" in why_nothing_is_stored(Settings(data=f"{file}/data"))
    assert because + "NABLA_DATABASE" in why_nothing_is_stored(Settings(database=f"sqlite:///{file}/nabla.db"))
    for settings in (Settings(data=str(tmp_path / "a" / "b")), Settings(database=f"sqlite:///{file}")):
        assert why_nothing_is_stored(settings) == ""
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    server = Settings(database="postgresql://host/name")
    for found, missing in ((object(), ""), (None, "nabla-service[postgresql]")):
        monkeypatch.setattr("importlib.util.find_spec", lambda name, found=found: found)
        assert missing in why_nothing_is_stored(server)
        assert bool(missing) == bool(why_nothing_is_stored(server))


@pytest.mark.parametrize("address", ["mysql://host/name", "nabla.db", "sqlite://", "postgres://host/name"])
def test_an_address_of_another_database_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ConfigurationError, match="NABLA_DATABASE takes an address"):
        Settings.from_environment({"NABLA_DATABASE": address})


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Settings(database="postgresql://me:secret@host/name"))


def test_more_than_a_database_takes_at_once_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="NABLA_MAX_STORED_NETWORK_BYTES"):
        Settings.from_environment({"NABLA_MAX_STORED_NETWORK_BYTES": str(2**30)})
