"""What a finding says of itself: its name, when it is serious, whose threshold that is, what it means, what to try.

A finding is something true of a network, its numbers or its training that its owner should know. Answers of
`/v1/gradients/diagnose` hold findings whole; the warnings of other answers hold their sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

from service.engine.declarations import Declaration, Registry
from service.engine.texts import Sentence

SEVERITIES = ("note", "warning", "problem")
"""From mild to grave. A note is worth knowing, with a warning learning is slow or fragile, a problem prevents it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding(Declaration):
    """`build` makes the sentence of a finding from its words and numbers."""

    severities: Mapping[str, float | None]
    """The bound from which on a value has a severity, the mildest first; None: the finding has no number."""
    below: bool = False
    """A value is graver the smaller it is, not the larger."""
    advice: Callable[[], Sentence]
    """What to try."""

    def judge(self, value: float | None) -> tuple[str, float | None] | None:
        """The severity of a value and the bound that it crossed; None: it is fine."""
        for severity, bound in reversed(list(self.severities.items())):
            if bound is None:
                return severity, None
            if value is not None and not math.isnan(value) and (value <= bound if self.below else value >= bound):
                return severity, bound
        return None

    def bound(self, severity: str) -> float:
        """The value from which on it has this severity."""
        bound = self.severities[severity]
        assert bound is not None
        return bound


@dataclass(frozen=True)
class Found:
    """A finding about certain numbers."""

    finding: Finding
    severity: str
    text: Sentence
    value: float | None = None
    threshold: float | None = None
    layer: str | None = None
    quantity: str | None = None
    step: int | None = None
    """Of a training."""

    @property
    def code(self) -> str:
        return self.finding.name

    @property
    def rank(self) -> int:
        return SEVERITIES.index(self.severity)


findings: Registry[Finding] = Registry("finding", "findings", Finding, answers_only=True)


def found(
    code: str,
    /,
    *,
    value: float | None = None,
    severity: str | None = None,
    layer: str | None = None,
    quantity: str | None = None,
    step: int | None = None,
    **words: Any,
) -> Found:
    """The finding of this code, whatever its value. `severity` is given where it does not follow from the value alone.

    `words` are what its sentence names beside the layer and the step.
    """
    finding = findings[code]
    judged = finding.judge(value)
    threshold = judged[1] if judged is not None else next(iter(finding.severities.values()))
    if severity is not None:
        threshold = finding.severities[severity]
    elif judged is not None:
        severity = judged[0]
    else:
        severity = next(iter(finding.severities))
    given = {"layer": None if layer is None else repr(layer), "step": step}
    words |= {name: word for name, word in given.items() if name in _named(finding)}
    return Found(finding, severity, finding.build(**words), value, threshold, layer, quantity, step)


@cache
def _named(finding: Finding) -> frozenset[str]:
    """What the sentence of a finding names."""
    return frozenset(signature(finding.build).parameters)


def found_if(
    code: str,
    value: float,
    /,
    *,
    layer: str | None = None,
    quantity: str | None = None,
    step: int | None = None,
    **words: Any,
) -> list[Found]:
    """The finding of this code where its value crosses a threshold."""
    if findings[code].judge(value) is None:
        return []
    return [found(code, value=value, layer=layer, quantity=quantity, step=step, **words)]
