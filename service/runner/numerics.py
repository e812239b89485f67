"""The fingerprint of this process's arithmetic: equal fingerprints give equal bits."""

from __future__ import annotations

try:
    from service.engine.fingerprint import fingerprint
except ModuleNotFoundError:  # until that module is there, all processes count as equal

    def fingerprint() -> str:
        """Return the same word for every process."""
        return ""


__all__ = ["fingerprint"]
