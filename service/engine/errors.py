"""What can go wrong in the engine, in the terms of whoever called it.

    EngineError
    ├── InvalidRequest      what was asked cannot be computed; one `Fault` for each thing wrong
    ├── ExtraMissing        it needs an optional package that is not installed
    ├── LimitExceeded       it could be computed, but would cost more than allowed
    └── Stopped             it was being computed, between two steps
        ├── DeadlineExceeded    and the time ran out
        └── Abandoned           and whoever asked has left

A path names the offending part as a tuple of keys and positions, such as
`("network", "layers", 1, "units")`. How that is written for a client is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
MOST_ERRORS = 100
"""Errors told at once; a hundred teach as much as a million."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where, what was expected and what came."""

    path: Path
    detail: str
    allowed: tuple[object, ...] = ()


class EngineError(Exception):
    """Anything the engine refuses."""


class InvalidRequest(EngineError):
    """What was asked cannot be computed; `faults` says why, all at once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.detail for fault in self.faults))


class LimitExceeded(EngineError):
    """The work would exceed the limit called `name`."""

    def __init__(self, name: str, asked: float, allowed: float, path: Path = ()) -> None:
        self.name, self.asked, self.allowed, self.path = name, asked, allowed, path
        super().__init__(f"{name}: {asked} asked, {allowed} allowed")


class ExtraMissing(EngineError):
    """What was asked needs the optional extra `extra`, whose packages are not installed here."""

    def __init__(self, extra: str, reason: str) -> None:
        self.extra, self.reason = extra, reason
        super().__init__(f"{reason}; install 'nabla[{extra}]'")


class Stopped(EngineError):
    """The computation was stopped between two steps."""


class DeadlineExceeded(Stopped):
    """The time of the computation was over."""


class Abandoned(Stopped):
    """Nobody waits for the answer any more."""
