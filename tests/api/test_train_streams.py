"""Streams of `/v1/train` say what its documents say."""

import json
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.api.training import EVENTS, EVERYTHING, LINE, NDJSON, PATH, VALIDATION, Train, lines, training
from tests.conftest import MakeClient
from tests.support import assert_described, assert_problem, every, strict_json


def events(response: TestResponse) -> list[dict[str, str]]:
    """Return the events of a stream by field."""
    assert response.headers["Content-Type"].split(";")[0] == EVENTS
    text = response.get_data().decode()
    assert text.endswith("\n\n")
    blocks = [block for block in text[:-2].split("\n\n") if not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


STREAMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "everything": {"optimizer": "nadam", "trace": {"include": EVERYTHING}, "validation": VALIDATION, "batch_size": 3},
    "thin": {"steps": 100, "trace": {"every": 30}},
    "long": {"steps": 3000},
    "float32": {"dtype": "float32", "trace": {"include": EVERYTHING}},
    "diverged": {"network": LINE, "parameters": ..., "optimizer": {"type": "sgd", "learning_rate": 1e9}},
    "not finite": {
        "network": LINE,
        "parameters": ...,
        "inputs": [[1e200, 1.0]] * 4,
        "trace": {"include": ["gradients"]},
    },
    "stopped": {"stop": {"loss_below": 1.0}},
}


@every("tensors", ["", "; tensors=base64"])
@every("name", STREAMED)
def test_streams_say_what_the_document_says(train: Train, schemas: dict[str, Any], name: str, tensors: str) -> None:
    body = training(**STREAMED[name])
    document = train(body, Accept="application/json" + tensors).json
    steps = document.pop("steps")
    *records, summary = lines(train(body, Accept=NDJSON + tensors))
    assert records == steps
    assert summary == document
    *told, end = events(train(body, Accept=EVENTS + tensors))
    assert [event["event"] for event in told] == ["step"] * len(steps)
    assert [int(event["id"]) for event in told] == [step["step"] for step in steps]
    assert [strict_json(event["data"]) for event in told] == steps
    assert end["event"] == "end" and strict_json(end["data"]) == document
    for record in records[:5]:
        assert_described(schemas, "TrainingStep", record)
    assert_described(schemas, "TrainSummary", summary)


@every(
    ("accept", "content_type"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        (NDJSON, NDJSON),
        (EVENTS, EVENTS),
        ("text/*", EVENTS),
        (f"{NDJSON}; q=0.5, {EVENTS}", EVENTS),
        (f"{EVENTS}; q=0.5, {NDJSON}; q=0.8, application/json; q=0.6", NDJSON),
        (f"{NDJSON}; q=0, */*; q=0.1", "application/json"),
        (f"{NDJSON}, */*; q=0.1", NDJSON),
        (f"text/html, {EVENTS}; q=0.2", EVENTS),
        ("application/x-NDJSON", NDJSON),
    ],
)
def test_the_accept_header_chooses_the_form(train: Train, accept: str, content_type: str) -> None:
    response = train(training(), Accept=accept)
    assert response.status_code == 200
    assert response.headers["Content-Type"].split(";")[0] == content_type
    if content_type != "application/json":
        assert "Content-Length" not in response.headers
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("accept", ["text/html", f"{NDJSON}; q=0", f"{NDJSON}; tensors=hex", "application/xml"])
def test_other_forms_cannot_be_had_and_those_there_are_are_named(train: Train, accept: str) -> None:
    detail = assert_problem(train(training(), Accept=accept), "not-acceptable")["detail"]
    for form in ("application/json", NDJSON, EVENTS):
        assert form in detail


@pytest.mark.parametrize("accept", [NDJSON, EVENTS])
def test_what_is_wrong_before_the_start_is_an_ordinary_problem(make_client: MakeClient, accept: str) -> None:
    client = make_client(streams=1)  # one stream at once, which a refusal must not keep

    def ask(body: Any) -> TestResponse:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Accept": accept, "Content-Type": "application/json"}
        return client.post(PATH, data=content, headers=headers, buffered=True)

    for _ in range(2):
        assert_problem(ask(b"{"), "malformed-body")
        assert_problem(ask(training(optimizer="adamm")), "invalid")
        assert_problem(ask(training(batches=[[9]])), "invalid")
        assert_problem(ask(training(steps=2_000_000)), "limit-exceeded")
        assert ask(training()).get_data().count(b"completed") == 1


@every("accept", [NDJSON, EVENTS])
def test_a_stream_that_runs_out_of_time_leaves_a_checkpoint_to_go_on_from(
    make_client: MakeClient, train: Train, accept: str
) -> None:
    def records(response: TestResponse) -> list[Any]:
        return lines(response) if accept == NDJSON else [strict_json(event["data"]) for event in events(response)]

    changes: dict[str, Any] = {"optimizer": "adam", "batch_size": 3}
    endless = training(**changes, steps=1_000_000, trace={"every": 1_000_000})
    first, summary = records(make_client(max_seconds=0.1).post(PATH, json=endless, headers={"Accept": accept}))
    assert first["step"] == 1
    assert summary["status"] == "cancelled" and "0.1 seconds" in summary["reason"]
    done = summary["steps_done"]
    assert 0 < done < 1_000_000
    rest = training(**changes, parameters=..., steps=5, checkpoint=summary["checkpoint"])
    *steps, end = records(train(rest, Accept=accept))
    assert [step["step"] for step in steps] == [done + number for number in range(1, 6)]
    assert end["parameters"] == train(endless | {"steps": done + 5}).json["parameters"]
