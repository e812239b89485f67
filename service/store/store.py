"""The store of a process: its place, and the opening of the database at the first use.

Nothing is imported, created or connected before the first request that needs the store. Then the folder is created, the
tables are brought up to date, and a thread starts that records uses and removes what nobody used for long.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from service.config import Settings
from service.store.loaded import LoadedNetworks
from service.store_errors import NoStore, StoreError

if TYPE_CHECKING:
    from service.store.database import Database
    from service.store.networks import Networks
    from service.store.runs import Runs

FILE = "nabla.db"
SQLITE = "sqlite:///"
"""The beginning of the address of a SQLite database; its path follows."""
DAY = 86400.0
NOTE_SECONDS = 60.0
"""Time in seconds between two writes of the recorded uses."""
CLEAN_SECONDS = 900.0
"""Approximate time in seconds between two searches for networks that nobody used for long."""

log = logging.getLogger("nabla.store")


class Opened(NamedTuple):
    """The repositories of an open database."""

    networks: Networks
    runs: Runs


class Store:
    """The store of a server as one process sees it. For many threads. The object may be made before a fork."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.clock = clock
        self.loaded: LoadedNetworks[Any] = LoadedNetworks(settings.loaded_bytes)
        self._lock = threading.Lock()
        self._process = 0
        """Id of the process that opened the store."""
        self._database: Database | None = None
        self._opened: Opened | None = None

    @property
    def networks(self) -> Networks:
        """Return the networks in the database, and open the database if needed. Raises `StoreError`."""
        return self._open().networks

    @property
    def runs(self) -> Runs:
        """Return the runs in the database, and open the database if needed. Raises `StoreError`.

        The file of a database may be removed and made anew, so ask for the runs each time.
        """
        return self._open().runs

    @property
    def is_open(self) -> bool:
        """Whether this process has opened the database."""
        return self._opened is not None and self._process == os.getpid()

    def _open(self) -> Opened:
        """Return the database of this process, and open it if needed. Raises `StoreError`."""
        found = self._opened
        if found is not None and self._process == os.getpid() and found.networks.database.is_there():
            return found
        with self._lock:
            return self._open_anew()

    def _open_anew(self) -> Opened:
        """Open the database of this process. Raises `StoreError`."""
        from service.store.networks import Networks
        from service.store.runs import RunLimits, Runs
        from service.store.upgrade import upgrade

        database = self._database
        if database is not None and self._process != os.getpid():
            database.forget()  # the connections belong to the process that this one was forked from
            database = None
        elif database is not None and not database.is_there():
            log.error("the file of the database was removed or replaced")
            database.close()
            database = None
        if database is None:
            self._database = self._opened = None
            self._database = database = self._find()
            self._process = os.getpid()
        if self._opened is None:
            upgrade(database)
            settings = self.settings
            limits = RunLimits(
                settings.max_runs,
                settings.max_unfinished_runs,
                settings.max_run_bytes,
                settings.max_stored_bytes_per_key,
                settings.max_stored_bytes,
            )
            self._opened = Opened(Networks(database), Runs(database, limits))
            threading.Thread(target=self._keep_tidy, name="nabla-store", daemon=True).start()
        return self._opened

    def _find(self) -> Database:
        """Return the database that the settings name, and create the file of a SQLite database. Raises `NoStore`."""
        from sqlalchemy import make_url
        from sqlalchemy.engine import URL
        from sqlalchemy.exc import ArgumentError

        from service.store.database import Database, make_file

        address = self.settings.database
        try:
            file = "" if address else str(data_folder(self.settings) / FILE)
            url = make_url(address) if address else URL.create("sqlite", database=file)
        except ArgumentError:
            log.error("NABLA_DATABASE is no address of a database")
            raise NoStore("This server has no database, so it stores nothing.") from None
        if url.get_backend_name() == "sqlite":
            assert url.database is not None
            make_file(Path(url.database))
        elif url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        return Database(url)

    def close(self) -> None:
        """Close the connections of this process. The next use opens them again."""
        with self._lock:
            if self._database is not None and self._process == os.getpid():
                self._database.close()
            self._database = self._opened = None

    def tidy(self) -> int:
        """Write the recorded uses, and remove the networks that nobody used for long and the runs that ended long ago.

        Return how many networks and runs were removed. Raises `StoreError`.
        """
        now = self.clock()
        uses = self.loaded.take_uses()
        if uses:
            self.networks.note_uses(dict.fromkeys(uses, now))
        days = self.settings.stored_days
        removed = self.networks.forget(now - days * DAY) if days else 0
        if removed:
            log.info("%d networks that nobody used for %g days are removed", removed, days)
        days = self.settings.run_days
        ended = self.runs.forget(now - days * DAY if days else 0.0)  # 0: what a removal that failed has left
        if ended:
            log.info("%d runs that ended %g days ago are removed", ended, days)
        return removed + ended

    def _keep_tidy(self) -> None:
        """Call `tidy` again and again, until the store is closed or opened anew."""
        mine = self._opened
        clean = time.monotonic() + CLEAN_SECONDS * random.uniform(
            0.05, 1.0
        )  # so that processes do not all clean at once
        while True:
            time.sleep(NOTE_SECONDS)
            if self._opened is not mine or mine is None:
                return
            try:
                if time.monotonic() >= clean:
                    clean = time.monotonic() + CLEAN_SECONDS
                    self.tidy()
                else:
                    uses = self.loaded.take_uses()
                    if uses:
                        mine.networks.note_uses(dict.fromkeys(uses, self.clock()))
            except StoreError:
                pass  # the error is logged, and the next attempt may succeed
            except Exception:
                log.exception("the store cannot be kept tidy")


def file_of(settings: Settings) -> Path | None:
    """Return the file of a SQLite database, whether it is there or not; None for a database server.

    The settings are read without SQLAlchemy, which takes tens of megabytes. Raises `NoStore` as `data_folder` does.
    """
    address = settings.database
    if not address:
        return data_folder(settings) / FILE
    return Path(address.removeprefix(SQLITE).partition("?")[0]) if address.startswith(SQLITE) else None


def why_nothing_is_stored(settings: Settings) -> str:
    """Return why a server with these settings can store nothing; "" where no reason shows.

    Nothing is made, opened or imported for that, so a database that cannot be reached shows no reason.
    """
    if settings.database.startswith("postgresql") and importlib.util.find_spec("psycopg") is None:
        return "NABLA_DATABASE needs the package psycopg; pip install 'nabla-service[postgresql]' brings it"
    try:
        file = file_of(settings)
    except NoStore:
        return "there is no home folder to store anything in; NABLA_DATA names another one"
    if file is None:
        return ""
    file = file.absolute()
    place = next(each for each in (file, *file.parents) if os.path.exists(each))
    folder = file.parent if place == file else place  # SQLite writes its log beside the file
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) and os.access(place, os.W_OK):
        return ""
    variable = "NABLA_DATABASE" if settings.database else "NABLA_DATA"
    what = "may not be written" if place in (file, folder) and folder.is_dir() else "is no folder"
    return f"nothing can be stored at {file}, because {place} {what}; {variable} names another place"


def data_folder(settings: Settings) -> Path:
    """Return the folder of the stored data. Raises `NoStore` where no folder is set and the user has no home."""
    if settings.data:
        return Path(settings.data).expanduser().absolute()
    home = os.environ.get("XDG_DATA_HOME", "")
    if home.startswith("/"):  # the XDG specification says to ignore relative paths
        return Path(home) / "nabla"
    try:
        return Path.home() / ".local" / "share" / "nabla"
    except RuntimeError:
        log.error("there is no home folder to store anything in; NABLA_DATA names another one")
        raise NoStore("This server has no folder that it may write to, so it stores nothing.") from None
