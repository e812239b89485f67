"""Warnings of the engine: findings about an answer that its caller should know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.engine.findings import Found, found
from service.engine.texts import telling


@dataclass(frozen=True)
class Caution:
    """A fact about a right answer that the caller should know. A response lists cautions as `warnings`."""

    code: str
    message: str
    layer: str | None = None
    quantity: str | None = None
    found: Found | None = field(default=None, compare=False)
    """The finding behind the warning, if the table of findings has it."""

    @classmethod
    def of(cls, finding: Found) -> Caution:
        """Make a caution from a finding, with the finding's sentence in English as its message."""
        return cls(finding.code, telling("en")(finding.text), finding.layer, finding.quantity, finding)


def caution(code: str, layer: str | None = None, quantity: str | None = None, **words: Any) -> Caution:
    """Make the caution of the finding called `code`, for findings without a number. `words` fill the places of the
    finding's sentence."""
    return Caution.of(found(code, layer=layer, quantity=quantity, **words))
