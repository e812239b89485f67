"""Write the software bill of materials, CycloneDX 1.6 JSON, from the lock that the service is installed from.

python scripts/sbom.py [FILE]     by default sbom.json

It lists what the lock lists, so it needs no network and no environment, and the same lock gives the same bytes. A
package has several files, for other systems and versions of Python; each is a distribution with its hash.
Generators that read environments list what happens to be installed here instead of what is meant to be.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements" / "image.txt"
ENTRY = re.compile(
    r"^([A-Za-z0-9._-]+)==(\S+)(?: ; (.+?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def components(lock: str) -> list[dict[str, Any]]:
    """Return a component for each entry of a lock. Raises `ValueError` if it holds anything else."""
    rest = ENTRY.sub("", lock)
    if rest.strip():
        raise ValueError(f"{LOCK.name} holds what is no pinned and hashed package: {rest.strip()[:200]}")
    found = []
    for name, version, marker, hashes in ENTRY.findall(lock):
        purl = f"pkg:pypi/{name}@{version}"
        component: dict[str, Any] = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
            "externalReferences": [
                {"type": "distribution", "url": purl, "hashes": [{"alg": "SHA-256", "content": content}]}
                for content in re.findall("[0-9a-f]{64}", hashes)
            ],
        }
        if marker:
            component["scope"] = "optional"
            component["properties"] = [{"name": "nabla:environment-marker", "value": marker}]
        found.append(component)
    return found


def document() -> dict[str, Any]:
    """Return the whole bill of materials."""
    lock = LOCK.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r'^__version__ = "(.+)"', (ROOT / "service" / "__init__.py").read_text(), re.MULTILINE)
    own = f"pkg:pypi/{project['name']}@{version}"
    listed = components(lock)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own + lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": project["name"],
                "version": version,
                "purl": own,
                "licenses": [{"license": {"id": project["license"]}}],
            }
        },
        "components": listed,
        "dependencies": [{"ref": own, "dependsOn": [component["bom-ref"] for component in listed]}],
    }


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "sbom.json"
    path.write_text(json.dumps(document(), indent=1) + "\n")
    print(f"{path}: {len(document()['components'])} packages")


if __name__ == "__main__":
    main()
