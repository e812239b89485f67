"""Why the store does not do what it was asked. The HTTP layer makes a problem document of each."""

from __future__ import annotations


class StoreError(Exception):
    """The store does not do what it was asked. The text is for callers: it names no path and no address."""


class NoStore(StoreError):
    """This server has no place to store anything. Waiting does not help."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, is busy, or is damaged. It may be back later."""


class StoreFull(StoreError):
    """There is no room left: the disk is full, or all that the server stores has reached its limit."""


class QuotaExceeded(StoreError):
    """The owner stores as much as one may."""

    def __init__(self, name: str, asked: int, allowed: int) -> None:
        """`name` is that of the limit, as `GET /v1` shows it."""
        super().__init__(name)
        self.name = name
        self.asked = asked
        self.allowed = allowed
