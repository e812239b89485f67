"""Findings: what is true of a network, its numbers or its training that its owner should know. See `table.py`."""

from service.engine.findings import table as _table  # noqa: F401 (declares them)
from service.engine.findings.declaration import SEVERITIES, Finding, Found, findings, found, found_if

__all__ = ["SEVERITIES", "Finding", "Found", "findings", "found", "found_if"]
