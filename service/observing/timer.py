"""Timing of the stages of a request, for the Server-Timing header."""

from __future__ import annotations

import time


class Timer:
    """A stopwatch for one request: it measures stages such as parse, compile and compute."""

    __slots__ = ("_last", "memory", "stages", "started")

    def __init__(self, arrived: float | None = None) -> None:
        """Start the first stage; `arrived` is the reading of `time.monotonic` at the request's first byte, if known."""
        self._last = time.monotonic()
        self.started = self._last if arrived is None else arrived
        self.stages: list[tuple[str, float]] = []
        self.memory: int | None = None
        """Bytes that the computation takes at its peak."""

    def mark(self, stage: str) -> None:
        """End the present stage, give it this name, and start the next one."""
        now = time.monotonic()
        self.stages.append((stage, now - self._last))
        self._last = now

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def header(self) -> str:
        """Return the value of Server-Timing: the milliseconds of each stage, and the memory of the computation."""
        entries = [f"{stage};dur={seconds * 1e3:.3f}" for stage, seconds in self.stages]
        if self.memory is not None:
            entries.append(f'memory;desc="{self.memory} bytes"')
        return ", ".join(entries)
