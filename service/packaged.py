"""Files that stand at the root of the repository, where people and tools look for them, and that the service needs too.

A wheel carries them inside this package (`force-include` in pyproject.toml), so there is one copy in the repository.
"""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent


def packaged(name: str) -> Path:
    """Where such a file is: in this package if it is installed, else at the root of the repository."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE.parent / name
