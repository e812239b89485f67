"""The view of `/v1/gradients/verify`, which judges claimed gradients and names their mistakes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

from flask import Blueprint

from schemas.evaluation import LoadedNetwork
from schemas.verify import LoadedVerify, VerifyRequest, VerifyResponse
from service.api.answers import listed, or_null
from service.api.context import Context
from service.api.endpoint import post
from service.api.examples import GRADIENTS, Example
from service.api.function_answers import cautions_of
from service.api.insight_examples import VERIFY
from service.api.network_request import built, in_terms_of, task_and_feed
from service.api.sharing import Surroundings, part_context, shared_by, surroundings_of
from service.cluster.values import name_of
from service.engine.cautions import Caution
from service.engine.graph.plan import Program
from service.engine.insight.verify.budget import MOST
from service.engine.insight.verify.formula import FunctionVerifyTask
from service.engine.insight.verify.search import ClaimDiagnosis
from service.engine.insight.verify.verdict import TensorVerdict, Verdict, Verdicts, joined
from service.engine.insight.verify.verified import (
    EVALUATIONS,
    NetworkVerify,
    NetworkVerifyTask,
    Submission,
    VerifyOptions,
)
from service.engine.insight.verify.words import changes_for, of_diagnosis, of_first_wrong, of_verdict, unexplained
from service.engine.network.feed import Feed
from service.engine.parallel import results_of
from service.engine.texts import Tell, say, telling

blueprint = Blueprint("verify", __name__)

MISSED = {"rules": say("verify.missed.rules"), "data": say("verify.missed.data"), "pairs": say("verify.missed.pairs")}
"""The sentence about families of mistakes that were not all tried."""
SUBMISSION_SECONDS = 0.005
"""Roughly the time that a verdict on a wrong submission takes, in a small network."""
SEARCHING = 0.15
"""The share of a request's time that the search for mistakes may take."""


@post(
    blueprint,
    "/v1/gradients/verify",
    takes=VerifyRequest(),
    gives=VerifyResponse(),
    summary="Why is my gradient wrong?",
    tag="Insight",
    examples=VERIFY,
    mistake=Example(
        "The layer has two units: no arrangement of its biases has three numbers.",
        **{key: value for key, value in GRADIENTS["xor"].items() if key != "include"}
        | {"claimed": {"hidden": {"bias": [0, 0, 0]}}},
    ),
)
def verify(request: LoadedVerify, context: Context) -> dict[str, Any]:
    """Compare a claimed gradient with the exact one, and name the mistake that produces its numbers.

    The request is that of `/v1/gradients`, or an `expression` and a `point`, and the gradient that you claim
    (`claimed`): all of it or a part, or `submissions` of a whole class. Each tensor gets a verdict; a wrong one is
    compared with the numbers that known mistakes produce, alone and in pairs. For a claim that no known mistake
    explains, the response says where it first goes wrong.
    """
    tell = telling(context.language)
    wanted = VerifyOptions(
        _submissions(request), request["layout"], request.get("tolerance"), request.get("learning_rate")
    )
    found, warnings = (_of_function if "expression" in request else _of_network)(request, wanted, context)
    context.timer.mark("compute")
    if found.missed:
        text = tell(say("verify.left_out", families=[MISSED[family] for family in found.missed]))
        warnings.append(Caution("mistakes_left_out", text, quantity="diagnoses"))
    answer: dict[str, Any] = {}
    if "submissions" in request:
        names = [submission.id for submission in request["submissions"]]
        answer["submissions"] = [
            {"id": name, **_verdict(verdict, tell)} for name, verdict in zip(names, found.verdicts, strict=True)
        ]
    else:
        answer = _verdict(found.verdicts[0], tell)
    answer["value"] = found.value
    if found.parameters is not None:
        answer["parameters"] = found.parameters
    return answer | {"finite": found.finite, "warnings": listed(warnings)}


def _submissions(request: LoadedVerify) -> list[Submission]:
    if "submissions" not in request:
        return [Submission(request["claimed"], ("claimed",))]
    return [
        Submission(each.claimed, ("submissions", place, "claimed")) for place, each in enumerate(request["submissions"])
    ]


def _of_function(request: LoadedVerify, wanted: VerifyOptions, context: Context) -> tuple[Verdicts, list[Caution]]:
    ready = context.compiled(FunctionVerifyTask(request["expression"]))
    context.mark_compiled(ready.nbytes)
    context.memory.need(context.loaded_bytes + ready.nbytes)
    return ready.run(request["point"], wanted, context.ticket), cautions_of(request["expression"])


def _of_network(request: LoadedVerify, wanted: VerifyOptions, context: Context) -> tuple[Verdicts, list[Caution]]:
    with in_terms_of(request):
        task, feed = task_and_feed(cast("LoadedNetwork", request), context.limits)
        ready = built(NetworkVerifyTask(task), feed, context)
        context.mark_compiled(ready.nbytes)
        work = (EVALUATIONS + len(wanted.submissions)) * ready.subject.work
        context.weigh(ready.subject.program, work, numbers=len(wanted.submissions) * ready.side.size)
        found = _shared(request, wanted, context)
        if found is None:
            found = _judged(ready, feed, wanted, context)
        return found, list(ready.warnings)


def _judged(
    ready: NetworkVerify, feed: Feed, wanted: VerifyOptions, context: Context, only: slice = slice(None)
) -> Verdicts:
    """Judge all submissions, or those at some places, in this process."""
    context.memory.need(context.loaded_bytes + ready.nbytes)

    def reserve(program: Program, work: float, nbytes: int) -> bool:
        if context.loaded_bytes + nbytes > context.memory.account.most:
            return False
        context.reserve(program, work, nbytes)
        return True

    most = min(MOST, SEARCHING * context.runtime.settings.max_seconds)
    return ready.run(feed, wanted, context.compiled, reserve, most, context.ticket, only)


def _shared(request: LoadedVerify, wanted: VerifyOptions, context: Context) -> Verdicts | None:
    """Let other processes judge the submissions; None if that is not worth while, or this process has to judge them
    together because the time for the search is short."""
    count = len(wanted.submissions)
    executor = shared_by(context, SUBMISSION_SECONDS * count) if count > 1 else None
    if executor is None:
        return None
    around = surroundings_of(context)
    data = executor.share(name_of(request), request)
    width = min(executor.width, count)
    ends = [count * place // width for place in range(width + 1)]
    futures = [executor.submit(verdicts_of, data, slice(start, stop), around) for start, stop in pairwise(ends)]
    found = joined(results_of(futures, context.ticket))
    if found is not None:
        context.hand_over()
    return found


def verdicts_of(request: LoadedVerify, only: slice, surroundings: Surroundings) -> Verdicts:
    """Judge the submissions at some places of a request in another process."""
    options = request["layout"], request.get("tolerance"), request.get("learning_rate")
    wanted = VerifyOptions(_submissions(request), *options)
    with part_context(surroundings) as context, in_terms_of(request):
        task, feed = task_and_feed(cast("LoadedNetwork", request), context.limits)
        return _judged(built(NetworkVerifyTask(task), feed, context), feed, wanted, context, only)


def _verdict(verdict: Verdict, tell: Tell) -> dict[str, Any]:
    sentences = [of_verdict(verdict), *unexplained(verdict)]
    tolerance = verdict.tolerance
    entry: dict[str, Any] = {
        "verdict": verdict.verdict,
        "text": _joined(sentences, tell),
        "tolerance": {
            "relative": tolerance.relative,
            "noise_factor": tolerance.noises,
            "precision": tolerance.precision,
        }
        | ({} if tolerance.step is None else {"step": tolerance.step}),
        "missing": [".".join(path) for path in verdict.missing],
        "tensors": [_tensor(tensor) for tensor in verdict.tensors],
        "diagnoses": [_diagnosis(diagnosis, tell) for diagnosis in verdict.diagnoses],
    }
    first = verdict.first_wrong
    if first is not None:
        entry["first_wrong"] = {
            "layer": first.layer,
            "parameters": [".".join(path) for path in first.parameters],
            "right": first.right,
            "text": tell(of_first_wrong(first)),
        }
    return entry


def _tensor(tensor: TensorVerdict) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "parameter": ".".join(tensor.path),
        "verdict": tensor.verdict,
        "shape": list(tensor.shape),
        "error": or_null(tensor.error),
        "relative": or_null(tensor.relative),
        "tolerance": tensor.tolerance,
        "wrong": tensor.wrong,
        "worst": [
            {"index": list(entry.index), "expected": entry.expected, "claimed": entry.claimed} for entry in tensor.worst
        ],
    }
    if tensor.ratio is not None:
        entry["ratio"] = tensor.ratio
    return entry


def _diagnosis(diagnosis: ClaimDiagnosis, tell: Tell) -> dict[str, Any]:
    facts = diagnosis.facts
    entry: dict[str, Any] = {
        "mistakes": list(dict.fromkeys(made.code for made in diagnosis.made)),
        "where": [{"mistake": made.code, "places": list(made.layers)} for made in diagnosis.made],
        "explains": [".".join(path) for path in diagnosis.explains],
        "precision": diagnosis.precision,
        "text": _joined(of_diagnosis(diagnosis), tell),
        "change": _joined(changes_for(diagnosis), tell),
        "equivalent": [list(codes) for codes in diagnosis.equivalent],
    }
    if "rate" in facts:
        entry["learning_rate"] = facts["rate"]
    if "step" in facts:
        entry["step"] = facts["step"]
    if "sample" in facts:
        entry["sample"] = int(facts["sample"])
    return entry


def _joined(sentences: list[Any], tell: Tell) -> str:
    return tell(say("verify.sentences", sentences=sentences))
