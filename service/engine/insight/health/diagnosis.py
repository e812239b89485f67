"""The diagnosis of a network at its parameters: numbers are measured, judged, and summed up in a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from service.engine.findings import Found
from service.engine.insight.health.measures import Health, measure
from service.engine.insight.health.rules import Seen, judge
from service.engine.network.evaluate import Evaluation, Result
from service.engine.network.feed import Feed
from service.engine.texts import Sentence, say
from service.engine.watch import Watch

INCLUDE = frozenset(("layers", "input_gradients"))
"""The parts that an evaluation must include for a diagnosis."""
VERDICTS = ("healthy", "warning", "problem")
COPIES = 4
"""Arrays like the largest of a layer that rules make while they look at it."""


@dataclass
class Diagnosis:
    """The findings about a network, the gravest first, and the numbers behind them."""

    findings: list[Found]
    health: Health
    result: Result


def diagnose(evaluation: Evaluation, feed: Feed, watch: Watch | None = None) -> Diagnosis:
    """Run an evaluation that includes `INCLUDE`, and judge its numbers. Raises `InvalidRequest` when the numbers do not
    fit, and what `watch` raises."""
    result = evaluation.run(feed, watch)
    health = measure(evaluation, feed, result)
    if watch is not None:
        watch.look()
    return Diagnosis(judge(Seen(evaluation, feed, result, health)), health, result)


def bytes_of(evaluation: Evaluation) -> int:
    """Return roughly how many bytes a diagnosis takes, beside the program and its answer."""
    layers = evaluation.model.layers.values()
    return 8 * COPIES * max((layer.output.size + layer.pre_activation.size for layer in layers), default=0)


def verdict_of(findings: Sequence[Found]) -> tuple[str, Sentence]:
    """Return the verdict on all findings together: a word out of `VERDICTS`, and a sentence."""
    for severity in ("problem", "warning"):
        these = [each for each in findings if each.severity == severity]
        if these:
            codes = [f"`{code}`" for code in dict.fromkeys(each.code for each in these)][:3]
            if severity == "problem":
                return severity, say("findings.verdict.problem", count=len(these), codes=codes)
            return severity, say("findings.verdict.warning", count=len(these), codes=codes)
    return "healthy", say("findings.verdict.healthy")
