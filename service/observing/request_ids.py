"""The ids of requests, by which clients and operators find the log lines of a request."""

from __future__ import annotations

import random
import re

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def request_id(asked: str | None) -> str:
    """Return the id that the client asked for in X-Request-Id if it is valid, else a new one."""
    if asked is not None and REQUEST_ID.fullmatch(asked):
        return asked
    # It only has to be unique; the operating system's randomness would cost a call.
    return f"{random.getrandbits(128):032x}"
