"""A verdict on claimed gradients, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from service.engine.arrays import Array
from service.engine.insight.verify.search import ClaimDiagnosis
from service.engine.insight.verify.variants import Path

VERDICTS = ("match", "mismatch")


@dataclass
class ClaimedEntry:
    """One entry of a claim beside the right number: a wrong entry, or the one that is farthest off."""

    index: tuple[int, ...]
    expected: float
    claimed: float


@dataclass
class TensorVerdict:
    """The verdict on one claimed tensor."""

    path: Path
    verdict: str
    shape: tuple[int, ...]
    """The shape of the claim."""
    error: float
    """The largest absolute difference."""
    relative: float
    """The length of the difference, as a share of the length of the right tensor."""
    tolerance: float
    """The error that the entry with the largest difference may have."""
    wrong: int
    """Entries that are off by more."""
    worst: list[ClaimedEntry] = field(default_factory=list)
    ratio: float | None = None
    """The ratio of all entries to the right ones, where it is one number."""


@dataclass
class Tolerance:
    """The distance that entries of a claim may be off, and the reason."""

    relative: float
    """The tolerance as a share of the entry."""
    noises: float
    """Times the measured noise of the entry."""
    precision: str
    """`float64` or `float32`."""
    step: float | None = None
    """The step, if the claim consists of differences."""


@dataclass
class FirstWrong:
    """The layer where a gradient first goes wrong, from the loss to the inputs."""

    layer: str
    parameters: list[Path]
    right: list[str]
    """Layers nearer to the loss with nothing but right tensors."""


@dataclass
class Verdict:
    """The verdict on one claim."""

    verdict: str
    tolerance: Tolerance
    missing: list[Path]
    tensors: list[TensorVerdict]
    first_wrong: FirstWrong | None = None
    diagnoses: list[ClaimDiagnosis] = field(default_factory=list)


@dataclass
class Verdicts:
    """The verdicts on all claims of a request."""

    value: float
    verdicts: list[Verdict]
    parameters: dict[str, dict[str, Array]] | None = None
    """The parameters, if they were initialised here."""
    finite: bool = True
    missed: Sequence[str] = ()
    """Families of mistakes that were not tried completely, as that would have taken too long."""
    spent: float = 0.0
    """The share of the budget that the search for mistakes took."""


def joined(parts: Sequence[Verdicts]) -> Verdicts | None:
    """Return the verdicts on all claims of a request, of which each part has judged some; None if the budget might not
    have sufficed for all together: then what was tried would depend on the parts."""
    if any(part.missed for part in parts) or sum(part.spent for part in parts) > 1.0:
        return None
    return replace(parts[0], verdicts=[verdict for part in parts for verdict in part.verdicts])
