"""Findings: facts about a network, its numbers or its training that its owner should know, each declared once.

`/v1/gradients/diagnose` answers with findings whole, the warnings of other operations with their sentences alone, and
`/v1/findings` lists them. Their sentences are in `service/engine/texts`. `network/` measures the numbers that every
answer needs, and `insight/health` the others.
"""

from service.engine.findings import of_network as _network  # noqa: F401, I001 (declared in the order of the catalogue)
from service.engine.findings import of_gradient as _gradient  # noqa: F401
from service.engine.findings import of_training as _training  # noqa: F401
from service.engine.findings.declaration import SEVERITIES, Finding, Found, findings, found, found_if

__all__ = ["SEVERITIES", "Finding", "Found", "findings", "found", "found_if"]
