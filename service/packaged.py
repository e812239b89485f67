"""Files at the root of the repository, where people and tools look for them, that the service needs too.

A wheel contains them inside this package (`force-include` in pyproject.toml), so the repository has one copy.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def packaged(name: str) -> Path:
    """Return the path of such a file: in this package if it is installed, else at the root of the repository."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name
