"""Sentences that tell the verdicts on claims."""

from __future__ import annotations

from collections.abc import Sequence

from service.engine.insight.mistakes import mistakes
from service.engine.insight.verify.judging import HARMLESS
from service.engine.insight.verify.search import ClaimDiagnosis
from service.engine.insight.verify.verdict import FirstWrong, Verdict
from service.engine.texts import Sentence, say


def of_verdict(verdict: Verdict) -> Sentence:
    """Return the sentence about the whole claim."""
    if verdict.verdict == "match":
        return say("verify.within") if verdict.diagnoses else say("verify.match")
    names = [f"`{'.'.join(each.path)}`" for each in verdict.tensors if each.verdict == "mismatch"]
    return say("verify.mismatch", count=len(names), names=names)


def of_first_wrong(first: FirstWrong) -> Sentence:
    """Return the sentence about the layer where the gradient first goes wrong."""
    if not first.right:
        return say("verify.first", layer=first.layer)
    return say("verify.first_after", layer=first.layer, right=[f"`{name}`" for name in first.right])


def of_diagnosis(diagnosis: ClaimDiagnosis) -> list[Sentence]:
    """Return the sentences about the mistakes of a diagnosis."""
    sentences = []
    for made in diagnosis.made:
        what = mistakes[made.code].what
        if made.layers and made.code not in HARMLESS:
            sentences.append(say("verify.at", places=[f"`{name}`" for name in made.layers], what=what))
        else:
            sentences.append(what)
    facts = diagnosis.facts
    if "rate" in facts:
        sentences.append(say("verify.rate", rate=facts["rate"]))
    if "step" in facts:
        sentences.append(say("verify.step", step=facts["step"]))
    if "sample" in facts:
        sentences.append(say("verify.sample", sample=int(facts["sample"])))
    return sentences


def changes_for(diagnosis: ClaimDiagnosis) -> list[Sentence]:
    """Return sentences that say how to change the code, one for each mistake of a diagnosis."""
    return [mistakes[code].change for code in dict.fromkeys(made.code for made in diagnosis.made)]


def unexplained(verdict: Verdict) -> Sequence[Sentence]:
    """Return the sentence that no known mistake explains a wrong claim; none if one does."""
    return [] if verdict.diagnoses or verdict.verdict == "match" else [say("verify.unexplained")]
