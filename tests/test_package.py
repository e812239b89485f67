"""The wheel: built from the repository, installed elsewhere, it serves everything; and the command `nabla`."""

import http.client
import importlib.metadata
import importlib.util
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from scripts import demo
from service import __version__, cli
from tests.support import LOOPBACK, ROOT, strict_json, xor

SECONDS = 30
"""More than any start takes."""


def build_wheel(folder: Path, **variables: str) -> Path:
    # In this environment, not in one that the build backend would be downloaded into.
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder]
    subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel as it is published, or without the demo where there is no Node to build that with."""
    try:
        demo.build()
    except demo.NoNode:
        return build_wheel(tmp_path_factory.mktemp("wheel"), NABLA_DEMO="off")
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of programs of a new environment with the wheel and its locked dependencies, nothing else."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    programs = environment / "bin"
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install", "--no-index"]
    if importlib.util.find_spec("pip") is None:  # as uv makes environments
        pip = ["uv", "pip", "install", "--offline", "--python", programs / "python"]
    subprocess.run([*pip, "--quiet", "--no-deps", wheel], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    lock = (ROOT / "requirements" / "runtime.txt").read_text()
    for name in set(re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)):
        # Links instead of copies; packages for other systems are not here.
        with suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.distribution(name)
            for top in {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
                (packages / top).symlink_to(found.locate_file(top))
    return programs


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a folder with files and packages of a user that have the names of ours."""
    for package in ("service", "schemas"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong package')")
    (tmp_path / "gunicorn.conf.py").write_text("raise SystemExit('the wrong settings')")
    (tmp_path / "openapi.yaml").write_text("wrong: file")
    return tmp_path


def variables(**more: str) -> dict[str, str]:
    """Return an environment without a trace of this repository."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "WEB_CONCURRENCY": "1"} | more


@contextmanager
def serving(*command: str | Path, cwd: Path, **more: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Run a server during the block, and yield the port it says it listens on, and the process."""
    process = subprocess.Popen(
        command, cwd=cwd, env=variables(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    try:
        assert select.select([process.stderr], [], [], SECONDS)[0], "the server does not start"
        said = process.stderr.readline()
        found = re.match(r"Nabla serves on http://\S+:(\d+), Swagger UI on http://\S+/docs$", said)
        assert found, said + (process.stderr.read() if process.poll() is not None else "")
        yield int(found[1]), process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            _, rest = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert process.returncode == 0, rest


def ask(port: int, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=SECONDS)
    content = None if body is None else json.dumps(body)
    headers |= {} if body is None else {"Content-Type": "application/json"}
    connection.request("GET" if body is None else "POST", path, content, headers)
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return result


def test_the_wheel_holds_what_the_service_reads_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        for name in ("openapi.yaml", "gunicorn.conf.py"):
            assert archive.read(f"service/{name}") == (ROOT / name).read_bytes()
        (license_file,) = (name for name in names if name.endswith("/LICENSE"))
        assert archive.read(license_file) == (ROOT / "LICENSE").read_bytes()
    files = {path.relative_to(ROOT).as_posix() for name in ("service", "schemas") for path in (ROOT / name).rglob("*")}
    ignored = ("__pycache__", "service/demo/")  # the demo has a test of its own
    wanted = {name for name in files if not any(part in name for part in ignored) and (ROOT / name).is_file()}
    assert wanted <= set(names)
    assert f"nabla_service-{__version__}" in wheel.name
    assert {name.split("/")[0] for name in names} == {"service", "schemas", f"nabla_service-{__version__}.dist-info"}


def test_the_wheel_holds_the_demo_with_the_notices_of_its_parts(wheel: Path, built_demo: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name.removeprefix("service/demo/") for name in archive.namelist() if name.startswith("service/demo/")}
    assert names == {path.relative_to(built_demo).as_posix() for path in built_demo.rglob("*") if path.is_file()}
    assert {"index.html", "assets/licenses.txt"} <= names


def test_a_wheel_can_be_built_without_the_demo(built_demo: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(tmp_path, NABLA_DEMO="off")) as archive:
        assert not [name for name in archive.namelist() if name.startswith("service/demo/")]
    assert (built_demo / "index.html").exists()


def test_the_installed_package_serves_everything_from_any_folder(installed: Path, elsewhere: Path) -> None:
    data = elsewhere / "openapi.yaml"  # a file, so nothing can be stored there
    command = (installed / "nabla", "serve", "--port", "0")
    with serving(*command, cwd=elsewhere, PORT="1", NABLA_DATA=str(data)) as (port, process):
        assert process.stderr is not None
        assert process.stderr.readline() == f"nabla: {nothing_stored_at(data)}\n"
        for path in (
            *("/", "/reference", "/docs", "/docs/swagger-ui-bundle.js", "/static/page.css", "/problems/invalid"),
            "/metrics",
        ):
            assert ask(port, path)[0] == 200, path
        status, _, description = ask(port, "/openapi.yaml")
        assert (status, description) == (200, (ROOT / "openapi.yaml").read_bytes())
        status, _, document = ask(port, "/openapi.json")
        assert status == 200
        assert strict_json(document)["info"]["version"] == __version__
        status, _, answer = ask(port, "/v1/gradients", xor())
        assert status == 200
        assert strict_json(answer)["loss"] == pytest.approx(0.15500779048137614, rel=1e-12)


def test_the_installed_package_is_the_one_that_runs(installed: Path, elsewhere: Path) -> None:
    """The test above shows nothing if Python finds this repository."""
    program = "import service, sys; print(service.__file__); print(*sys.path)"
    command = [installed / "python", "-I", "-c", program]
    output = subprocess.run(command, cwd=elsewhere, env=variables(), capture_output=True, text=True, check=True).stdout
    first, path = output.splitlines()
    assert Path(first).is_relative_to(installed.parent)
    assert str(ROOT) not in path.split()


def test_the_version_is_told_without_loading_anything(installed: Path, elsewhere: Path) -> None:
    command = [installed / "nabla", "--version"]
    output = subprocess.run(command, cwd=elsewhere, env=variables(), capture_output=True, text=True, check=True).stdout
    assert output == f"nabla {__version__}\n"
    program = (
        "import sys\nfrom service.cli import main\ntry:\n    main(['--version'])\n"
        "finally:\n    assert not {'numpy', 'flask', 'gunicorn', 'marshmallow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


def refused(*arguments: str, command: str = "serve", **more: str) -> str:
    """Return the one line that `nabla serve` prints when it does not start, and assert that it leaves nothing."""
    words = [sys.executable, "-m", "service", command, *arguments]
    with subprocess.Popen(
        words, cwd=ROOT, env=variables(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        said, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert said == ""
    assert errors.count("\n") == 1, errors
    for folder in ("/dev/shm", tempfile.gettempdir()):
        assert not list(Path(folder).glob(f"nabla-metrics-{process.pid}-*"))
    return errors.strip()


def test_a_busy_port_ends_the_start_with_one_line() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(PORT=str(port))
    found = re.fullmatch(rf"nabla: port {port} is in use; try PORT=(\d+) make serve, or nabla serve --port (\d+)", said)
    assert found, said
    assert found[1] == found[2] != str(port)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("NABLA_CORS_ORIGINS", "localhost:3000", "http://localhost:3000"),
        ("NABLA_MAX_LAYERS", "many", "takes a number"),
        ("WEB_CONCURRENCY", "many", "takes a number"),
        ("PORT", "http", "takes a number"),
        ("HOST", "192.0.2.1", "no address of this machine"),
    ],
)
def test_what_cannot_be_understood_ends_the_start_with_one_line(variable: str, value: str, told: str) -> None:
    said = refused(**{variable: value})
    assert said.startswith("nabla: ") and variable in said and told in said


def nothing_stored_at(file: Path) -> str:
    """Return what is said where `NABLA_DATA` is a file."""
    return f"nothing can be stored at {file / 'nabla.db'}, because {file} is no folder; NABLA_DATA names another place"


def test_a_worker_without_a_place_for_runs_ends_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert refused(command="worker", NABLA_DATA=str(file)) == f"nabla: {nothing_stored_at(file)}"


def test_options_go_before_variables() -> None:
    assert "PORT takes a number up to 65535, got 70000" in refused("--port=70000", PORT="1")
    assert "'no host'" in refused("--host", "no host", HOST=LOOPBACK)


def test_a_command_is_declared_in_one_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "COMMANDS", [*cli.COMMANDS])

    @cli.command(cli.argument("number", type=int), cli.argument("--twice", action="store_true"))
    def say_number(arguments: cli.Namespace) -> int:
        """Say a number."""
        return int(arguments.number) * (2 if arguments.twice else 1)

    assert cli.main(["say-number", "3"]) == 3
    assert cli.main(["say-number", "3", "--twice"]) == 6
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert re.search(r"say-number\s+Say a number\.", capsys.readouterr().out)


def test_a_command_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["sreve"], [], ["serve", "--prot", "1"]):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
    assert "serve" in capsys.readouterr().err
