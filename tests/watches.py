"""Watches for tests: they count looks, and end a computation at one of them."""

import math

from service.engine.errors import DeadlineExceeded


class Looks:
    """A watch that counts how often it is looked at, and raises at the look after `most` of them."""

    def __init__(self, most: float = math.inf, error: type[Exception] = DeadlineExceeded) -> None:
        self.most = most
        self.error = error
        self.count = 0

    def look(self) -> float:
        self.count += 1
        if self.count > self.most:
            raise self.error
        return 0.0
