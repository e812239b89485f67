"""Errors of the store. The HTTP layer turns each of them into a problem document."""

from __future__ import annotations


class StoreError(Exception):
    """A failed operation of the store. The text is shown to callers, so it names no path and no address."""


class NoStore(StoreError):
    """The error of a server that has no place to store anything. Waiting does not help."""


class StoreUnavailable(StoreError):
    """The error of a database that cannot be reached, is busy, or is damaged. The database may be back later."""


class StoreFull(StoreError):
    """The error of a full store: the disk is full, or the data of all owners together has reached its limit."""


class QuotaExceeded(StoreError):
    """The error of an owner who has reached a limit of the store."""

    def __init__(self, name: str, asked: int, allowed: int) -> None:
        """Name the limit that was reached. `name` is the name that `GET /v1` shows for the limit."""
        super().__init__(name)
        self.name = name
        self.asked = asked
        self.allowed = allowed


class KeyReused(StoreError):
    """The error of an owner who sends an `Idempotency-Key` again with another request."""
