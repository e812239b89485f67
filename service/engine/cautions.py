"""Warnings of the engine: findings about an answer that its caller should know."""

from __future__ import annotations

from collections.abc import Mapping
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

    def saved(self) -> dict[str, str | None]:
        """Return the caution without its finding, as `restored` takes it."""
        return {"code": self.code, "message": self.message, "layer": self.layer, "quantity": self.quantity}

    @classmethod
    def restored(cls, saved: Mapping[str, str | None] | None) -> Caution | None:
        """Return the caution that `saved` described; None for None."""
        return None if saved is None else cls(**saved)  # type: ignore[arg-type]


def caution(code: str, layer: str | None = None, quantity: str | None = None, **words: Any) -> Caution:
    """Make the caution of the finding called `code`, for findings without a number. `words` fill the places of the
    finding's sentence."""
    return Caution.of(found(code, layer=layer, quantity=quantity, **words))
