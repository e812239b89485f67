"""Values that several processes of this machine read: pickles in memory without a name, which a descriptor opens.

A descriptor is passed from process to process, so there is no file that could be left behind: the memory is free as
soon as nobody has it open. Arrays are read where they lie, without a copy for each process.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import pickle
import tempfile
import weakref
from typing import Any, NamedTuple

ALIGNMENT = 64
"""Arrays begin at multiples of so many bytes, as NumPy's own do for its fastest loops."""


def name_of(value: Any) -> str:
    """Return a name for a shared value: the digest of its content, which equal values have in common."""
    buffers: list[pickle.PickleBuffer] = []
    digest = hashlib.sha256(pickle.dumps(value, protocol=5, buffer_callback=buffers.append))
    for buffer in buffers:
        digest.update(buffer.raw())
    return digest.hexdigest()


class Span(NamedTuple):
    """A piece of the memory of a value."""

    start: int
    size: int


class Value:
    """A value in shared memory. The memory lives as long as this object, and as long as a process has it open."""

    def __init__(self, name: str, value: Any) -> None:
        """Write the value. Raises what pickle raises for a value that cannot be written."""
        self.name = name
        buffers: list[pickle.PickleBuffer] = []
        frame = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
        self.descriptor = _memory()
        weakref.finalize(self, os.close, self.descriptor)
        self.spans: list[Span] = []
        """The pickle, and then its arrays."""
        place = 0
        for piece in (memoryview(frame), *(buffer.raw() for buffer in buffers)):
            _write(self.descriptor, piece, place)
            self.spans.append(Span(place, piece.nbytes))
            place += -(-piece.nbytes // ALIGNMENT) * ALIGNMENT
        self.nbytes = max(place, 1)
        os.truncate(self.descriptor, self.nbytes)


def opened(descriptor: int, spans: list[Span]) -> Any:
    """Return the value that another process wrote, and close the descriptor. Its arrays are read-only."""
    try:
        size = max(1, *(span.start + span.size for span in spans))
        memory = memoryview(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)
    frame, *buffers = (memory[start : start + size] for start, size in spans)
    return pickle.loads(frame, buffers=buffers)


def _memory() -> int:
    """Return a descriptor of empty memory that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("nabla")
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())


def _write(descriptor: int, piece: memoryview, place: int) -> None:
    piece = piece.cast("B")
    while piece:
        written = os.pwrite(descriptor, piece, place)
        piece, place = piece[written:], place + written
