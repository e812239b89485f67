"""The bill of materials, and the audit of the lock."""

import json
import re
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from scripts import audit, sbom
from service import __version__
from tests.support import ROOT, read_yaml, strict_json

LOCK = (ROOT / "requirements" / "image.txt").read_text()


def test_the_bill_lists_what_the_lock_installs() -> None:
    bill = sbom.document()
    pinned = re.findall(r"^(\S+)==(\S+)", LOCK, re.MULTILINE)
    assert [(part["name"], part["version"]) for part in bill["components"]] == pinned
    assert len({part["bom-ref"] for part in bill["components"]}) == len(pinned)
    hashes = [entry["hashes"][0]["content"] for part in bill["components"] for entry in part["externalReferences"]]
    assert hashes == re.findall(r"sha256:(\w+)", LOCK)
    assert bill["dependencies"][0]["dependsOn"] == [part["purl"] for part in bill["components"]]
    assert bill["metadata"]["component"]["version"] == __version__
    direct = re.findall(
        r'^    "([a-z0-9-]+)[>=]', (ROOT / "pyproject.toml").read_text().split("[project.scripts]")[0], re.M
    )
    assert len(direct) >= 10 and set(direct) <= {part["name"] for part in bill["components"]}


def test_the_image_with_dask_has_the_packages_of_the_image_and_dask() -> None:
    own, other = (
        dict(re.findall(r"^(\S+)==(\S+)(?: ;.*)? \\$", (ROOT / "requirements" / name).read_text(), re.MULTILINE))
        for name in ("image.txt", "cluster.txt")
    )
    assert own.items() <= other.items()
    assert {"dask", "distributed"} <= other.keys() - own.keys()


def test_the_scheduler_of_the_compose_file_can_be_reached_by_the_service_and_its_workers_alone() -> None:
    """Whoever reaches a scheduler of Dask runs code on all of its workers."""
    document = read_yaml((ROOT / "docker-compose.yml").read_text())
    services = document["services"]
    assert document["networks"]["dask"] == {"internal": True}
    there = {name for name, service in services.items() if "dask" in service.get("networks", ())}
    assert there == {"nabla", "runner", "scheduler", "dask"}
    for name in ("scheduler", "dask"):
        service = services[name]
        assert service["profiles"] == ["dask"] and service["networks"] == ["dask"] and "ports" not in service
        assert service["image"] == services["nabla"]["image"] and "build" not in service
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
    threads = services["dask"]["command"].index("--nthreads")
    assert services["dask"]["command"][threads + 1] == "1"


def test_the_same_lock_gives_the_same_bill(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sbom.sys, "argv", ["sbom", str(tmp_path / "bill.json")])
    sbom.main()
    first = (tmp_path / "bill.json").read_bytes()
    sbom.main()
    assert (tmp_path / "bill.json").read_bytes() == first
    assert strict_json(first) == sbom.document()


@pytest.mark.parametrize("line", ["flask>=3\n", "flask==3.1.3\n", "-e .\n", "flask @ https://example.org/x.whl\n"])
def test_a_lock_that_pins_less_has_no_bill(line: str) -> None:
    with pytest.raises(ValueError, match="pinned and hashed"):
        sbom.components(LOCK + line)


CLEAN = {"name": "flask", "version": "3.1.3", "vulns": []}
SKIPPED = {"name": "numpy", "skip_reason": "not found"}
WEAK = CLEAN | {"vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1.4"]}]}


@pytest.mark.parametrize(
    ("packages", "status", "told"),
    [
        ([CLEAN, CLEAN], 0, "2 of 2 packages were audited; 0 of them"),
        ([CLEAN, WEAK], 1, "flask 3.1.3 has PYSEC-1; mended in 3.1.4"),
        ([SKIPPED, CLEAN], 0, "numpy was not audited: not found\n1 of 2 packages were audited"),
        (None, 0, "NOT audited, because the source of advisories cannot be asked: ConnectionError: no route"),
    ],
)
def test_the_audit_fails_for_weaknesses_and_says_when_it_could_not_ask(
    packages: Any, status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    finished = SimpleNamespace(stdout=output, stderr="Traceback\nConnectionError: no route\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **_: finished)
    assert audit.main() == status
    assert told in capsys.readouterr().out
