"""The errors of the engine, in the terms of its callers.

    EngineError
    ├── InvalidRequest      the request cannot be computed; one `Fault` for each thing that is wrong
    ├── ExtraMissing        it needs an optional package that is not installed
    ├── LimitExceeded       it could be computed, but would cost more than allowed
    └── Stopped             its computation stopped between two steps, because
        ├── DeadlineExceeded    its time was over
        └── Abandoned           its client had left

A path names the offending part as a tuple of keys and positions, such as
`("network", "layers", 1, "units")`. The views write it as a JSON pointer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
MOST_ERRORS = 100
"""The most errors in one answer; a hundred teach as much as a million."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong in a request: its path, what was expected, and what came."""

    path: Path
    detail: str
    allowed: tuple[object, ...] = ()


class EngineError(Exception):
    """The base class of all errors by which the engine refuses or stops a computation. Pickle can write them, because a
    computation may be made in another process."""


class InvalidRequest(EngineError):
    """The request cannot be computed. `faults` holds every reason."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.detail for fault in self.faults))

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)


class LimitExceeded(EngineError):
    """The request would cost more than the limit called `name` allows."""

    def __init__(self, name: str, asked: float, allowed: float, path: Path = (), advice: str = "") -> None:
        self.name, self.asked, self.allowed, self.path = name, asked, allowed, path
        self.advice = advice
        """A sentence on how to ask for less."""
        super().__init__(f"{name}: {asked} asked, {allowed} allowed")

    def at(self, path: Path) -> LimitExceeded:
        """Return the same error at another path."""
        return LimitExceeded(self.name, self.asked, self.allowed, path, self.advice)

    def __reduce__(self) -> tuple[type[LimitExceeded], tuple[str, float, float, Path, str]]:
        return type(self), (self.name, self.asked, self.allowed, self.path, self.advice)


class ExtraMissing(EngineError):
    """A request needs the packages of the optional extra `extra`, which are not installed here."""

    def __init__(self, extra: str, reason: str) -> None:
        self.extra, self.reason = extra, reason
        super().__init__(f"{reason}; install 'nabla[{extra}]'")

    def __reduce__(self) -> tuple[type[ExtraMissing], tuple[str, str]]:
        return type(self), (self.extra, self.reason)


class Stopped(EngineError):
    """The computation was stopped between two steps."""


class DeadlineExceeded(Stopped):
    """The time for the computation is over."""


class Abandoned(Stopped):
    """The client no longer waits for the answer."""
