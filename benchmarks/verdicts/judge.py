"""Submit claims to a service, and compare its verdicts with what is known about the claims."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.verdicts.claims import Claim
from benchmarks.verdicts.codes import CODES, NOISE
from benchmarks.verdicts.network import Network
from benchmarks.verdicts.slips import Slip

PATH = "/v1/gradients/verify"
Send = Callable[[str, Mapping[str, Any]], tuple[int, Any]]
"""Posts an object to a path; gives the status and the answer."""


def in_process() -> Send:
    """Return a function that posts to this checkout's service, without a server."""
    from service.app import create_app
    from service.config import Settings

    client = create_app(Settings(log_requests=False)).test_client()

    def send(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        response = client.post(path, data=json.dumps(body), content_type="application/json")
        return response.status_code, response.get_json(force=True)

    return send


def over_http(address: str) -> Send:
    """Return a function that posts to a running service, such as the one at `http://127.0.0.1:8000`."""

    def send(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        content = json.dumps(body).encode()
        request = urllib.request.Request(address + path, content, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null")

    return send


def masks_from(send: Send) -> Callable[[Network], None]:
    """Return a function that gives a network its dropout masks, which the service draws from the request's seed."""

    def prepare(network: Network) -> None:
        if network.seed:
            body = network.request()
            asked = {key: body[key] for key in ("network", "parameters", "inputs", "dtype", "training", "seed")}
            _, answer = send("/v1/forward", asked | {"include": ["layers"]})
            network.read_masks(answer["layers"])

    return prepare


# --- what is right ------------------------------------------------------------------------------


def codes_of(slips: Sequence[Slip]) -> list[tuple[frozenset[str], ...]]:
    """Return, for each mistake, the sets of codes with which the service may name it."""
    return [CODES[slip.mistake] for slip in slips]


def names(said: Iterable[str], claim: Claim) -> bool:
    """Return whether the codes `said` name the mistakes of a claim, or others that give the same numbers."""
    codes = frozenset(said)
    for made in (claim.made, *claim.equal):
        options = codes_of(made)
        if len(options) == 1 and codes in options[0]:
            return True
        if len(options) == 1 and codes and codes <= frozenset().union(*options[0]):
            return True  # the mistake in each tensor has a name of its own
        if len(options) == 2 and any(codes == a | b for a in options[0] for b in options[1]):
            return True
    return False


def alternatives(diagnosis: Mapping[str, Any]) -> list[list[str]]:
    """Return the codes of a diagnosis, followed by the sets of codes that would explain the same numbers."""
    return [diagnosis["mistakes"], *diagnosis.get("equivalent", ())]


def first_of(answer: Mapping[str, Any]) -> str | None:
    first = answer.get("first_wrong")
    return first.get("layer") if isinstance(first, dict) else first


@dataclass
class Row:
    """A summary of the verdicts on all claims of one kind."""

    claims: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    confusions: defaultdict[str, list[str]] = field(default_factory=partial(defaultdict, list))
    """By what was said of them, the networks of the claims that were judged wrongly."""


@dataclass
class Judge:
    """Submits claims, several of one network per request, counts the results and keeps what failed."""

    send: Send
    failures: Path | None = None
    rows: dict[str, Row] = field(default_factory=dict)

    def judge(self, claims: Iterable[Claim], judged: Callable[[Claim, Mapping[str, Any]], list[str]]) -> None:
        """Submit the claims, and count the results that `judged(claim, answer)` names; a + marks the good ones."""
        for batch in _batches(claims):
            network, dtype = batch[0].network, batch[0].dtype
            body = network.request(dtype)
            listed = [{"id": str(place), "claimed": _lists(claim)} for place, claim in enumerate(batch)]
            status, answer = self.send(PATH, body | {"submissions": listed})
            if status == 503 and len(batch) > 1:  # too much for one request of this machine
                alone = [self.send(PATH, body | {"submissions": [each]}) for each in listed]
                status = max(each for each, _ in alone)
                answer = {"submissions": [each for code, part in alone if code == 200 for each in part["submissions"]]}
            if status != 200:
                for claim in batch:
                    self.note(claim, [f"status {status}"], {"answer": answer}, body)
                continue
            for claim, found in zip(batch, answer["submissions"], strict=True):
                self.note(claim, judged(claim, found), found, body)

    def note(self, claim: Claim, results: list[str], answer: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        row = self.rows.setdefault(claim.kind, Row())
        row.claims += 1
        for result in results:
            row.counts[result] += 1
        bad = [result for result in results if not result.startswith("+")]
        if not bad:
            return
        what = " + ".join(slip.mistake for slip in claim.made) or claim.kind
        said = [" + ".join(each["mistakes"]) for each in answer.get("diagnoses", ())][:3]
        row.confusions[f"{', '.join(bad)}: {what} → {answer.get('verdict')} {said}"].append(claim.network.name)
        if self.failures is not None:
            self.failures.mkdir(parents=True, exist_ok=True)
            number = len(list(self.failures.iterdir()))
            path = self.failures / f"{claim.kind}-{claim.network.name}-{number}.json".replace(" ", "_")
            content = {
                "wrong": bad,
                "made": list(map(str, claim.made)),
                "equal": [list(map(str, each)) for each in claim.equal],
                "expected": {"wrong": sorted(claim.wrong), "first": sorted(claim.first)},
                "answer": answer,
                "request": {**body, "claimed": _lists(claim)},
            }
            path.write_text(json.dumps(content, indent=1))


def _lists(claim: Claim) -> dict[str, Any]:
    return {name: {key: array.tolist() for key, array in tree.items()} for name, tree in claim.claimed.items()}


def _batches(claims: Iterable[Claim], size: int = 12) -> Iterator[list[Claim]]:
    batch: list[Claim] = []
    for claim in claims:
        if batch and (claim.network is not batch[0].network or claim.dtype != batch[0].dtype or len(batch) == size):
            yield batch
            batch = []
        batch.append(claim)
    if batch:
        yield batch


def erring(claim: Claim, answer: Mapping[str, Any]) -> list[str]:
    """Return the names of what was right and wrong in the verdict on a claim with known mistakes."""
    found = []
    if answer["verdict"] == "match":
        found.append("called right")
    diagnoses = answer["diagnoses"]
    place, explained = named_at(claim, diagnoses)
    if place is None:
        found.append("missed")
    elif place == 0:
        found.append("+first")
    elif place < 3:
        found.append("among three")
    else:
        found.append("beyond three")
    if place is not None and not claim.wrong <= explained:
        found.append("explains too little")
    if any(not (each["text"] and each["change"] and each["precision"] >= 0.0) for each in diagnoses):
        found.append("without a sentence")
    return found + places_of(claim, answer)


def named_at(claim: Claim, diagnoses: Sequence[Mapping[str, Any]]) -> tuple[int | None, set[str]]:
    """Return the index of the diagnosis that first names the claim's mistakes, and the parameters it explains.

    A diagnosis may be about some tensors only. Those that follow then explain others, and count together with it.
    Return None and an empty set if no diagnosis names the mistakes.
    """
    for place in range(len(diagnoses)):
        codes: set[str] = set()
        explained: set[str] = set()
        best: set[str] | None = None
        for diagnosis in diagnoses[place:]:
            if explained & set(diagnosis["explains"]):
                break
            explained |= set(diagnosis["explains"])
            if any(names(codes | set(each), claim) for each in alternatives(diagnosis)):
                best = set(explained)
            codes |= set(diagnosis["mistakes"])
        if best is not None:
            return place, best
    return None, set()


def places_of(claim: Claim, answer: Mapping[str, Any]) -> list[str]:
    """Return the names of what was right and wrong about the tensors and the first layer that a verdict calls wrong."""
    found = []
    said = {each["parameter"] for each in answer["tensors"] if each["verdict"] != "match"}
    if said - claim.wrong - claim.unclear:
        found.append("right tensor called wrong")
    if claim.wrong - said:
        found.append("wrong tensor called right")
    found.append("+first layer" if first_of(answer) in claim.first else "wrong first layer")
    return found


def correct(claim: Claim, answer: Mapping[str, Any]) -> list[str]:
    """Return the names of what was right and wrong in the verdict on a claim without a mistake."""
    found = ["+right" if answer["verdict"] == "match" else "false alarm"]
    said = {code for diagnosis in answer.get("diagnoses", ()) for code in diagnosis["mistakes"]}
    if said - NOISE:
        found.append("mistake seen in it")
    if said & NOISE:
        found.append("+noise named")
    if answer.get("missing"):
        found.append("parameter called missing")
    return found


def patternless(claim: Claim, answer: Mapping[str, Any]) -> list[str]:
    """Return the names of what was right and wrong in the verdict on a claim that no known mistake explains."""
    found = ["called right" if answer["verdict"] == "match" else "+wrong"]
    if answer["diagnoses"]:
        found.append("false excuse")
    return found + places_of(claim, answer)
