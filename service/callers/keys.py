"""API keys, which clients send as `Authorization: Bearer <key>`."""

from __future__ import annotations

import hashlib
import hmac

from service.problems import Problem


class Keys:
    """The accepted API keys, by their names and SHA-256 digests."""

    def __init__(self, keys: tuple[tuple[str, bytes], ...]) -> None:
        """Take names with digests, as `Settings.keys` gives them. Without keys, everyone may call."""
        self.keys = keys

    def name_of(self, authorization: str | None) -> str | None:
        """Return the name of the key in an Authorization header; None if there is no key, or an unknown one."""
        if not self.keys or authorization is None:
            return None
        key = _bearer(authorization)
        return self._name(key) if key else None

    def check(self, authorization: str | None) -> str:
        """Return the name of the key in the header, or "" if the server has no keys. Raise `Problem` 401 or 403."""
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
        # Every digest is compared, so that the time does not show which one was close.
        accepted = [name for name, known in self.keys if hmac.compare_digest(digest, known)]
        return accepted[0] if accepted else None


def _bearer(authorization: str | None) -> str:
    """Return the key in an Authorization header; "" if it has none."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""
