"""The time that each stage of a request takes."""

from __future__ import annotations

import time


class Timer:
    """A stopwatch for the stages of one request, for the Server-Timing header."""

    __slots__ = ("_last", "memory", "stages", "started")

    def __init__(self, arrived: float | None = None) -> None:
        """Start now; `arrived` is the reading of `time.monotonic` at the first byte of the request, if it is known."""
        self._last = time.monotonic()
        self.started = self._last if arrived is None else arrived
        self.stages: list[tuple[str, float]] = []
        self.memory: int | None = None
        """Bytes that the computation takes at its peak."""

    def mark(self, stage: str) -> None:
        """End the present stage under this name."""
        now = time.monotonic()
        self.stages.append((stage, now - self._last))
        self._last = now

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def header(self) -> str:
        """Return the Server-Timing header: the milliseconds of each stage, and the memory of the computation."""
        entries = [f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in self.stages]
        if self.memory is not None:
            entries.append(f'memory;desc="{self.memory} bytes"')
        return ", ".join(entries)
