"""`/v1/gradients/verify` judged by gradients from outside: by hand in NumPy, by differences, and with real mistakes.

The backward passes are those of `benchmarks/verdicts`, which hands in thousands; here is a part of them.
"""

import itertools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from benchmarks.verdicts import claims
from benchmarks.verdicts.judge import Judge, Send, correct, erring, masks_from, patternless
from benchmarks.verdicts.networks import MAKERS, make
from tests.support import every

SHARE = 0.01


@pytest.fixture(scope="module")
def send(client: FlaskClient) -> Send:
    def post(path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        response = client.post(path, data=json.dumps(body), content_type="application/json")
        return response.status_code, response.get_json()

    return post


@every("name", MAKERS)
def test_the_gradients_by_hand_are_those_of_the_service_and_of_differences(name: str, send: Send) -> None:
    network = make(name)
    masks_from(send)(network)
    by_hand = claims.flat(network.gradients())
    by_differences = claims.differences(network, 1e-6, central=True)
    assert by_differences is not None
    for path, slope in claims.flat(by_differences).items():
        assert by_hand[path] == pytest.approx(slope, rel=1e-5, abs=1e-7), path
    status, answer = send("/v1/gradients", network.request())
    assert status == 200 and answer["loss"] == pytest.approx(network.loss(), rel=1e-13)
    for path, exact in claims.flat(answer["gradients"]).items():
        if path in by_hand:  # the statistics of a batch are no parameters of a student
            assert by_hand[path] == pytest.approx(np.asarray(exact), rel=1e-11, abs=1e-14), path


@every("name", MAKERS)
def test_real_mistakes_are_found(name: str, send: Send) -> None:
    judge = Judge(send)
    handed_in = [claim for claim in claims.singles(masks_from(send), [name]) if "beyond" not in claim.kind]
    judge.judge(handed_in[:: max(1, len(handed_in) // 4)], erring)
    for row in judge.rows.values():
        assert row.counts["+first"] + row.counts["among three"] == row.claims, row.confusions
        assert row.counts["+first layer"] == row.claims, row.confusions


def test_nothing_right_is_called_wrong(send: Send) -> None:
    judge = Judge(send)
    judge.judge(claims.right(masks_from(send), SHARE), correct)
    for row in judge.rows.values():
        assert row.counts["+right"] == row.claims, row.confusions


def test_nothing_wrong_is_called_right_or_excused(send: Send) -> None:
    judge = Judge(send)
    judge.judge(claims.unexplained(masks_from(send), SHARE), patternless)
    judge.judge(itertools.islice(claims.small(masks_from(send)), 0, None, 8), patternless)
    for row in judge.rows.values():
        assert row.counts["+wrong"] == row.counts["+first layer"] == row.claims, row.confusions
        assert not row.counts["false excuse"], row.confusions
