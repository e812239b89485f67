"""Who may ask, and how much at once."""

from __future__ import annotations

import hashlib
import hmac
import threading

from service.problems import Problem


class Keys:
    """API keys: their names, and their SHA-256 digests, which keys are compared by."""

    def __init__(self, keys: tuple[tuple[str, bytes], ...]) -> None:
        """Take names with digests, as `Settings.keys` gives them; without any, everyone may ask."""
        self.keys = keys

    def name_of(self, authorization: str | None) -> str | None:
        """The name of the key in an Authorization header; None if there is none, or not one of these."""
        if not self.keys:
            return None
        key = _bearer(authorization)
        return self._name(key) if key else None

    def check(self, authorization: str | None) -> str:
        """The name of the key in an Authorization header, "" where none is needed. Raises `Problem` 401 or 403."""
        if not self.keys:
            return ""
        key = _bearer(authorization)
        if not key:
            raise Problem(
                "unauthorized", "Send a key as 'Authorization: Bearer <key>'.", headers={"WWW-Authenticate": "Bearer"}
            )
        name = self._name(key)
        if name is None:
            raise Problem("forbidden", "The key is not one of this server's keys.")
        return name

    def _name(self, key: str) -> str | None:
        digest = hashlib.sha256(key.encode("latin-1", "replace")).digest()
        # Every digest is compared, so that the time taken tells nothing about which was close.
        accepted = [name for name, known in self.keys if hmac.compare_digest(digest, known)]
        return accepted[0] if accepted else None


def _bearer(authorization: str | None) -> str:
    """The key in an Authorization header, or nothing."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


class Budget:
    """Memory that the requests of a worker share; who does not fit waits a little, then is sent away."""

    PATIENCE = 5.0
    """Seconds a request waits for others to give memory back."""

    def __init__(self, nbytes: int) -> None:
        self.total = self.free = nbytes
        self._changed = threading.Condition()

    def change(self, held: int, wanted: int) -> int:
        """Hold `wanted` bytes instead of `held`; returns what is held now.

        Raises `Problem` 503 when they do not come free. Everything there is satisfies any wish, so
        a request alone on its worker never waits.
        """
        wanted = min(wanted, self.total)
        with self._changed:
            if not self._changed.wait_for(lambda: self.free >= wanted - held, self.PATIENCE):
                raise Problem("busy", "Other requests hold the memory of this server.", headers={"Retry-After": "1"})
            self.free -= wanted - held
            self._changed.notify_all()
        return wanted


class Reservation:
    """The share of one request in a `Budget`. What is small is not worth counting."""

    SMALL = 64 * 1024

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.held = 0

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        if self.held:
            self.held = self.budget.change(self.held, 0)

    def need(self, nbytes: int) -> None:
        """Hold `nbytes` from now on, instead of what was held before. Raises `Problem` 503."""
        if self.held or nbytes > self.SMALL:
            self.held = self.budget.change(self.held, nbytes)
