"""`/v1/gradients/verify` on large networks: what the search may cost, and that a verdict comes all the same."""

from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from service.api import verify
from service.api.context import Context
from service.engine.insight.other_programs import OtherPrograms
from tests.api.test_verify import BODY, PATH, codes, scaled


@pytest.fixture(scope="module")
def right(client: FlaskClient) -> dict[str, Any]:
    found: dict[str, Any] = client.post("/v1/gradients", json=BODY).json["gradients"]
    return found


def drawn(tree: dict[str, Any]) -> dict[str, Any]:
    generator = np.random.default_rng(5)
    return {
        layer: {name: generator.normal(size=np.shape(tensor)).tolist() for name, tensor in tensors.items()}
        for layer, tensors in tree.items()
    }


def test_without_time_to_search_there_is_a_verdict_and_a_warning(client, right, monkeypatch):
    monkeypatch.setattr(verify, "MOST", 0.0)
    answer = client.post(PATH, json=BODY | {"claimed": drawn(right)})
    assert answer.status_code == 200
    assert answer.json["verdict"] == "mismatch" and answer.json["first_wrong"]["layer"] == "output"
    assert answer.json["diagnoses"] == []
    (warning,) = (each for each in answer.json["warnings"] if each["code"] == "mistakes_left_out")
    for family in ("single layers", "data", "pairs"):
        assert family in warning["message"]


def test_the_cheapest_mistakes_are_known_without_time_to_search(client, right, monkeypatch):
    monkeypatch.setattr(verify, "MOST", 0.0)
    assert codes(client.post(PATH, json=BODY | {"claimed": scaled(right, -1.0)}).json)[0] == ["sign"]
    turned = {layer: dict(tensors) for layer, tensors in right.items()}
    turned["hidden"]["kernel"] = np.transpose(right["hidden"]["kernel"]).tolist()
    assert codes(client.post(PATH, json=BODY | {"claimed": turned}).json)[0] == ["transposed"]


def test_a_search_that_was_complete_does_not_warn(client, right):
    answer = client.post(PATH, json=BODY | {"claimed": drawn(right)}).json
    assert "mistakes_left_out" not in {each["code"] for each in answer["warnings"]}


def test_equal_requests_get_equal_answers_whatever_is_compiled_already(app, client, right):
    body = BODY | {"claimed": drawn(right)}
    first = client.post(PATH, json=body).data
    app.extensions["nabla"].compiled.shrink(10**12)
    assert client.post(PATH, json=body).data == first == client.post(PATH, json=body).data


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_answer_of_the_service_is_right_before_rounding_is_measured(client, monkeypatch, dtype):
    body = BODY | {"dtype": dtype}
    gradients = client.post("/v1/gradients", json=body).json["gradients"]

    def refuse(*_: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(OtherPrograms, "spread", refuse)
    assert client.post(PATH, json=body | {"claimed": gradients}).json["verdict"] == "match"


def test_memory_is_reserved_for_each_family_before_it_runs(client, right, monkeypatch):
    asked: list[int] = []
    reserve = Context.reserve

    def noted(self: Context, program: Any, work: float, nbytes: int) -> None:
        assert nbytes > program.nbytes
        asked.append(nbytes)
        reserve(self, program, work, nbytes)

    monkeypatch.setattr(Context, "reserve", noted)
    assert client.post(PATH, json=BODY | {"claimed": drawn(right)}).status_code == 200
    assert len(asked) >= 2


def test_what_the_server_has_no_memory_for_is_left_out(app, client, right, monkeypatch):
    account = app.extensions["nabla"].memory
    monkeypatch.setattr(Context, "reserve", lambda *_: pytest.fail("reserved"))
    monkeypatch.setattr(account, "aside", account.total - 10_000)
    answer = client.post(PATH, json=BODY | {"claimed": scaled(right, 2.0)}).json
    assert codes(answer)[0] == ["factor_two"]
