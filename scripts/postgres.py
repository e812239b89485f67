"""A PostgreSQL server of one's own, in a folder, reached through a socket there: for development and measurements.

    python scripts/postgres.py .postgres        runs until Ctrl-C, and prints the value for NABLA_DATABASE

It needs the programs of PostgreSQL (`apt install postgresql`), no rights, and no port. What is stored stays in the
folder. PostgreSQL does not run as root: then the folder is given to the user `postgres`, who must be able to reach it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NotInstalled(Exception):
    """The programs of PostgreSQL are not on this machine."""


def programs() -> Path:
    """Return the folder of the programs, of the latest version. Raises `NotInstalled`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    initdb = shutil.which("initdb") or (found[-1] if found else None)
    if initdb is None:
        raise NotInstalled("PostgreSQL is not installed; on Debian: apt install postgresql")
    return Path(initdb).resolve().parent


@contextmanager
def running(folder: Path, *options: str) -> Iterator[str]:
    """Run a server with its data in a folder, and yield its address. `options` are settings such as `fsync=off`."""
    folder = folder.absolute()
    user = next((each.pw_name for each in pwd.getpwall() if each.pw_name == "postgres"), "nobody")
    own = {"user": user} if os.geteuid() == 0 else {}
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if own:
        shutil.chown(folder, user)
    data = folder / "data"
    if not (data / "PG_VERSION").exists():
        command = [programs() / "initdb", "-D", data, "-U", "nabla", "-A", "trust", "-E", "UTF8"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder, **own)  # type: ignore[call-overload]
    settings = ("listen_addresses=", f"unix_socket_directories={folder}", *options)
    command = [programs() / "postgres", "-D", data, *(part for setting in settings for part in ("-c", setting))]
    with (folder / "log").open("ab") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **own)  # type: ignore[call-overload]
    try:
        for _ in range(300):
            if any(folder.glob(".s.PGSQL.*")) and server.poll() is None:
                break
            if server.poll() is not None:
                sys.exit(f"PostgreSQL does not start; {folder / 'log'} says why")
            time.sleep(0.1)
        yield f"postgresql+psycopg://nabla@/postgres?host={folder}"
    finally:
        server.send_signal(signal.SIGINT)  # end the sessions, and stop
        server.wait(60)


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".postgres")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the server ends too
    try:
        with running(folder) as address:
            print(
                f"PostgreSQL runs until Ctrl-C. For make serve and make worker:\n\n  export NABLA_DATABASE='{address}'"
            )
            signal.pause()
    except NotInstalled as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
