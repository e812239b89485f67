"""Ask the Open Source Vulnerabilities database about every package of the lock that the service runs with.

python scripts/audit.py     status 1 if a version has a known weakness; 0 if none has, or if nobody can be asked

`make audit` runs it with pip-audit in an environment of its own, requirements/audit.txt.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements" / "image.txt"
# The lock is complete, so pip need not resolve it. The other source, the package index, may be a mirror without any.
COMMAND = ["-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off", "--format", "json"]
SOURCE = ["--vulnerability-service", "osv", "--timeout", "10", "--requirement", str(LOCK)]


def main() -> int:
    run = subprocess.run([sys.executable, *COMMAND, *SOURCE], capture_output=True, text=True)
    try:
        packages = json.loads(run.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (run.stderr.strip() or "no reason given").splitlines()[-1]
        print(f"Dependencies were NOT audited, because the source of advisories cannot be asked: {last[:300]}")
        return 0
    asked = [package for package in packages if "vulns" in package]
    for package in packages:
        if package not in asked:
            print(f"{package['name']} was not audited: {package.get('skip_reason', 'no reason given')}")
        for found in package.get("vulns", ()):
            mended = ", ".join(found["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']} has {found['id']}; mended in {mended}")
    weak = sum(bool(package["vulns"]) for package in asked)
    print(f"{len(asked)} of {len(packages)} packages were audited; {weak} of them have known weaknesses.")
    return int(weak > 0)


if __name__ == "__main__":
    sys.exit(main())
