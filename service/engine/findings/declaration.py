"""The declaration of findings: name, meaning, severities with their thresholds and sources, and advice.

A finding is a fact about a network, its numbers or its training that its owner should know. Answers of
`/v1/gradients/diagnose` hold whole findings; the warnings of other answers hold their sentences.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

from service.engine.declarations import Declaration, Registry
from service.engine.texts import Sentence

SEVERITIES = ("note", "warning", "problem")
"""From mild to grave: a note is worth knowing, a warning means slow or fragile learning, a problem prevents learning.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding(Declaration):
    """The declaration of a finding. Its `build` makes the finding's sentence from words and numbers."""

    severities: Mapping[str, float | None]
    """The bound from which on a value has a severity, the mildest first; None: the finding has no number."""
    below: bool = False
    """A value is graver the smaller it is, not the larger."""
    advised_as: str = ""
    """The name in the key of its advice, where several findings share one; else its own."""

    @property
    def advice(self) -> Sentence:
        """The sentence that advises how to mend what was found."""
        return Sentence(f"findings.{self.advised_as or self.name}.advice", {})

    def judge(self, value: float | None) -> tuple[str, float | None] | None:
        """Return the severity of a measured value, and the bound it crossed; None if the value is no finding."""
        for severity, bound in reversed(list(self.severities.items())):
            if bound is None:
                return severity, None
            if value is not None and not math.isnan(value) and (value <= bound if self.below else value >= bound):
                return severity, bound
        return None

    def bound(self, severity: str) -> float:
        """Return the threshold from which on the finding has this severity."""
        bound = self.severities[severity]
        assert bound is not None
        return bound


@dataclass(frozen=True)
class Found:
    """A finding that certain numbers have led to, with its severity and its sentence."""

    finding: Finding
    severity: str
    text: Sentence
    value: float | None = None
    threshold: float | None = None
    layer: str | None = None
    quantity: str | None = None
    step: int | None = None
    """The step of a training."""

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
    """Return the finding called `code` about a value, even if the value crosses no threshold. `severity` is given where
    the value does not decide it. `words` fill the places of its sentence beside layer and step."""
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
    """Return the names of the places in the sentence of a finding."""
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
    """Return a list of the finding called `code` if the value crosses a threshold, else an empty list. `words` fill the
    places of its sentence."""
    if findings[code].judge(value) is None:
        return []
    return [found(code, value=value, layer=layer, quantity=quantity, step=step, **words)]
