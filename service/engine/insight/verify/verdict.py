"""What a verdict on a claimed gradient consists of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from service.engine.arrays import Array
from service.engine.insight.verify.search import ClaimDiagnosis
from service.engine.insight.verify.variants import Path

VERDICTS = ("match", "mismatch")


@dataclass
class ClaimedEntry:
    """One number of a claim that is wrong, or the one that is farthest off."""

    index: tuple[int, ...]
    expected: float
    claimed: float


@dataclass
class TensorVerdict:
    """Whether a claimed tensor is right."""

    path: Path
    verdict: str
    shape: tuple[int, ...]
    """As it was claimed."""
    error: float
    """The largest absolute difference."""
    relative: float
    """The length of the difference, as a share of the length of what is right."""
    tolerance: float
    """How far the entry with the largest difference may be off."""
    wrong: int
    """Entries that are off by more."""
    worst: list[ClaimedEntry] = field(default_factory=list)
    ratio: float | None = None
    """Of all entries to what they should be, where that is one number."""


@dataclass
class Tolerance:
    """How far entries may be off, and why."""

    relative: float
    """As a share of the entry."""
    noises: float
    """Times the measured noise of the entry."""
    precision: str
    """`float64` or `float32`."""
    step: float | None = None
    """Of the differences that a claim consists of."""


@dataclass
class FirstWrong:
    """Where a gradient first goes wrong, going from the loss to the inputs."""

    layer: str
    parameters: list[Path]
    right: list[str]
    """Layers nearer to the loss of which everything that is claimed is right."""


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
    """Where they were initialised here."""
    finite: bool = True
    missed: Sequence[str] = ()
    """Families of mistakes of which some were not tried, because that would have taken too long."""
