"""Types that openapi-typescript generates: a strict program compiles with them, and reads right answers."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.support import guide_command
from tests.support import Server

HERE = Path(__file__).parent
PACKAGES = ("package.json", "package-lock.json", ".npmrc")


def run(*command: str, cwd: Path) -> str:
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def installed(folder: Path) -> None:
    """Install what package-lock.json pins, unless that was done before."""
    done = folder / "done"
    wanted = (HERE / "package-lock.json").read_text()
    if not done.exists() or done.read_text() != wanted:
        for name in PACKAGES:
            shutil.copy(HERE / name, folder)
        run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
        done.write_text(wanted)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("npm") is None, reason="Node is not installed, so no TypeScript client is tested")
def test_a_typescript_program_compiles_and_reads_right_answers(server: Server, request: pytest.FixtureRequest) -> None:
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("typescript")
    installed(folder)
    for name in ("client.ts", "tsconfig.json"):
        shutil.copy(HERE / name, folder)
    run(*guide_command("openapi-typescript", server), cwd=folder)
    run(str(folder / "node_modules" / ".bin" / "tsc"), cwd=folder)
    answers = json.loads(run("node", "out/client.js", f"http://127.0.0.1:{server.port}", cwd=folder))
    assert answers["untyped"] is True
    assert answers["kernel"] == [[-9.0]]  # 2 (0.5 - 1) 1 + 2 (1 - 3) 2
    # Residuals 0.5 and 2, then 1/16 and 41/32: half their mean square.
    assert answers["losses"] == [1.0625, (0.0625**2 + 1.28125**2) / 4]
    # Each step of gradient descent halves the way from (1, 2) to (0, 0).
    assert answers["ends"][1] == {"status": "completed", "value": 5 / 64, "steps": 3}
