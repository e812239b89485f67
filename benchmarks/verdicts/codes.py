"""By which codes the service may call the mistakes of the hand-written backward passes."""

from __future__ import annotations

from collections import defaultdict

CODES: dict[str, tuple[tuple[str, ...], ...]] = defaultdict(tuple)
NOISE: frozenset[str] = frozenset()
