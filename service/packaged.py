"""Files such as openapi.yaml that stand at the root of the repository, where people and tools look for them.

The service needs them too, so a wheel contains them inside this package (`force-include` in pyproject.toml).
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def packaged(name: str) -> Path:
    """Return the path of such a file: in this package if it is installed, else at the root of the repository."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name
