"""Runs: started, watched, stopped, resumed and removed over HTTP, and everything that is refused."""

import base64
import gzip
import json
import math
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from schemas.runs import ENDED, RUN_STATUSES, TAKES
from service.api.examples import COMPARE, DESCEND, TRAIN
from service.api.run_kinds import KINDS
from service.api.run_requests import cut
from service.api.runs_examples import RUNS
from service.api.state_file import state_bytes
from tests.api.runs import LINE, NDJSON, PATH, UNKNOWN, Hand, compute, lines, run_of, runs_of, started
from tests.conftest import MakeClient
from tests.support import assert_described, assert_problem, every, faults, strict_json, xor

JSON = "application/json"
TYPED = "application/json; tensors=base64"


@pytest.fixture
def client(make_runs: MakeClient) -> FlaskClient:
    return make_runs()


def post(client: FlaskClient, content: bytes, **headers: str) -> Any:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return client.post(PATH, data=content, content_type=JSON, headers=named)


# --- what a run gives ---------------------------------------------------------------------------


def test_the_kinds_of_runs_are_those_of_their_schemas() -> None:
    assert list(KINDS) == list(TAKES)
    assert all(type(kind.takes) is type(TAKES[name]) for name, kind in KINDS.items())


@pytest.mark.parametrize(
    ("kind", "path", "example"),
    [
        ("train", "/v1/train", TRAIN["xor"]),
        ("train", "/v1/train", TRAIN["mini_batches"]),
        ("train", "/v1/train", TRAIN["divergence"]),
        ("descend", "/v1/functions/descend", DESCEND["double_well"]),
    ],
)
def test_a_run_gives_the_lines_of_a_stream(client: FlaskClient, kind: str, path: str, example: dict[str, Any]) -> None:
    stream = client.post(path, json=example, headers={"Accept": NDJSON}).get_data()
    name = started(client, {"kind": kind, "request": example})
    compute(client)
    assert client.get(f"{PATH}/{name}/steps", buffered=True).get_data() == stream
    *_, end = map(strict_json, stream.splitlines())
    told = client.get(f"{PATH}/{name}").json
    assert told["result"] == end
    assert (told["status"], told["kind"], told["attempt"]) == (end["status"], kind, 1)
    assert told["step"] <= told["of"] and told["remaining_seconds"] is None
    assert told["created"] <= told["started"] <= told["ended"]


def test_a_comparison_gives_the_document_of_its_endpoint(client: FlaskClient) -> None:
    document = client.post("/v1/train/compare", json=COMPARE["xor"]).json
    name = started(client, {"kind": "compare", "request": COMPARE["xor"]})
    compute(client)
    *rows, end = lines(client.get(f"{PATH}/{name}/steps"))
    assert end.pop("status") == "completed"
    assert {key: end[key] for key in document} == document
    assert [{key: row[key] for key in document["table"][0]} for row in rows] == document["table"]


def test_what_is_told_of_a_run_is_as_its_schema_says(client: FlaskClient, schemas: dict[str, Any]) -> None:
    body = RUNS["train"]
    first = post(client, json.dumps(body).encode())
    assert_described(schemas, "StartedRun", first.json)
    name = first.json["id"]
    assert first.json == {"id": name, "kind": "train", "status": "queued", "of": 200}
    waiting = client.get(f"{PATH}/{name}").json
    assert_described(schemas, "RunWithResult", waiting)
    assert (waiting["step"], waiting["rate"], waiting["started"], waiting["result"]) == (0, None, None, None)
    compute(client)
    told = client.get(f"{PATH}/{name}").json
    assert_described(schemas, "RunWithResult", told)
    assert told["rate"] == pytest.approx(200 / told["seconds"])
    assert told["bytes"] > len(json.dumps(body["request"]))
    page = client.get(PATH).json
    assert_described(schemas, "RunList", page)
    assert page["runs"] == [{key: value for key, value in told.items() if key != "result"}]
    assert (page["count"], page["bytes"], page["next"]) == (1, told["bytes"], None)
    steps = client.get(f"{PATH}/{name}/steps", headers={"Accept": JSON}).json
    assert_described(schemas, "RunPage", steps)


def test_tensors_are_lists_or_typed_arrays(client: FlaskClient) -> None:
    body = run_of(trace={"include": ["parameters"]})
    plain, typed = started(client, body), started(client, body, Accept=TYPED)
    compute(client)
    for name in (plain, typed):
        shown = client.get(f"{PATH}/{name}").json["result"]["parameters"]["line"]["kernel"]
        assert np.shape(shown) == (1, 1)
        array = client.get(f"{PATH}/{name}", headers={"Accept": TYPED})
        assert array.headers["Content-Type"] == TYPED
        assert array.json["result"]["parameters"]["line"]["kernel"]["shape"] == [1, 1]
    streams = {name: client.get(f"{PATH}/{name}/steps") for name in (plain, typed)}
    assert [each.headers["Content-Type"] for each in streams.values()] == [NDJSON, f"{NDJSON}; tensors=base64"]
    for name, is_typed in ((plain, False), (typed, True)):
        for record in lines(streams[name]):
            assert isinstance(record["parameters"]["line"]["kernel"], dict) is is_typed
    pages = {name: client.get(f"{PATH}/{name}/steps", headers={"Accept": JSON}) for name in (plain, typed)}
    assert [each.headers["Content-Type"] for each in pages.values()] == [JSON, TYPED]
    assert isinstance(pages[typed].json["steps"][0]["parameters"]["line"]["kernel"], dict)
    asked = lines(client.get(f"{PATH}/{plain}/steps", headers={"Accept": f"{NDJSON}; tensors=base64"}))
    assert isinstance(asked[-1]["parameters"]["line"]["kernel"], dict)


# --- bodies -------------------------------------------------------------------------------------


@every(
    "text",
    [
        '{"kind":"train","request":REQUEST}',
        '{"request":REQUEST,"kind":"train"}',
        ' \n{ "kind" : "train" , "request" : REQUEST \t}\r\n ',
        '{"request"\n:REQUEST\n,\t"kind":  "train"  }  ',
    ],
)
@every(
    "inner", ['{"a":1}', '{ "a" : {"kind":"x"} }', '{"a":"}\\"},"}', '{"b":[{}],"kind":"train"}', '{"a":"\\u00e9é"}']
)
def test_the_request_is_cut_out_of_a_body_as_it_was_sent(text: str, inner: str) -> None:
    found = cut(text.replace("REQUEST", inner).encode())
    assert found is not None
    kind, cut_out = found
    assert (kind, cut_out.content) == ("train", inner.encode())


@every(
    "text",
    ["", "{}", "[]", "{", "}", '{"kind":"train"}', '{"request":{}}', '{"request":{}}}', '{"kind":"train","request":5}'],
)
def test_what_is_no_request_for_a_run_is_not_cut(text: str) -> None:
    assert cut(text.encode()) is None


def test_the_request_is_stored_byte_for_byte(client: FlaskClient) -> None:
    inner = json.dumps(LINE, indent=3).replace("300", "3e2").encode()
    body = b'{"kind": "train",\n "request": ' + inner + b" }"
    response = client.post(PATH, data=gzip.compress(body), content_type=JSON, headers={"Content-Encoding": "gzip"})
    assert response.status_code == 202, response.text
    claim = runs_of(client).claim("test", 60)
    assert claim is not None and claim.spec == inner


def test_large_requests_are_runs_too(client: FlaskClient) -> None:
    """Bodies from 32 KB on go through another parser, and long texts of base64 through none."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(1500, 1)), rng.normal(size=(1500, 1))
    typed = {
        name: {"dtype": "float64", "shape": [1500, 1], "base64": base64.b64encode(array).decode()}
        for name, array in (("inputs", inputs), ("targets", targets))
    }
    names = [
        started(client, run_of(**sent)) for sent in ({"inputs": inputs.tolist(), "targets": targets.tolist()}, typed)
    ]
    compute(client)
    one, other = (client.get(f"{PATH}/{name}").json["result"] for name in names)
    assert one == other and one["status"] == "completed"


REQUEST = json.dumps(LINE)


@pytest.mark.parametrize(
    ("body", "place", "words"),
    [
        ("{}", "#/kind", "is required"),
        ('{"kind": "train"}', "#/request", "is required"),
        ('{"request": {}}', "#/kind", "is required"),
        ('{"kind": "train", "request": null}', "#/request", "may not be null"),
        ('{"kind": "train", "request": 5}', "#/request", "takes an object"),
        ('{"kind": "train", "request": [1]}', "#/request", "takes an object"),
        ('{"kind": "train", "request": "x"}', "#/request", "takes an object"),
        (f'{{"kind": "trian", "request": {REQUEST}}}', "#/kind", "did you mean 'train'"),
        (f'{{"kind": 5, "request": {REQUEST}}}', "#/kind", "takes"),
        (f'{{"kind": null, "request": {REQUEST}}}', "#/kind", "null"),
        (f'{{"kind": "train", "request": {REQUEST}, "priority": 1}}', "#/priority", "unknown key"),
        (f'{{"kind": "train", "request": {REQUEST}, "options": {{}}}}', "#/options", "unknown key"),
        (f'{{"kind": "train", "reqest": {REQUEST}}}', "#/reqest", "did you mean 'request'"),
        (REQUEST, "#/network", "it belongs into 'request'"),
        (f'{{"kind": "train", "request": {REQUEST}, "request": {REQUEST}}}', "#/request", "once each"),
        (f'{{"kind": "train", "kind": "train", "request": {REQUEST}}}', "#/request", "once each"),
        (f'{{"kind": "train", "re\\u0071uest": {REQUEST}}}', "#/request", "without escapes"),
        ('{"kind": "train", "request": {}}', "#/request/network", "is required"),
        (json.dumps(run_of(optimizer="adamm")), "#/request/optimizer", "did you mean 'adam'"),
        (json.dumps(run_of(optimiser="adam")), "#/request/optimiser", "did you mean 'optimizer'"),
        (json.dumps(run_of(targets=[[1], [2]])), "#/request/targets", ""),
        (json.dumps(run_of(inputs=[[1, 2], [3]])), "#/request/inputs", ""),
        (json.dumps(run_of(parameters={"line": {"kernel": [[1], [2]], "bias": [0]}})), "#/request/parameters", ""),
        (
            json.dumps(run_of(network={"layers": [{"type": "dense", "units": 0}]})),
            "#/request/network/layers/0/units",
            "",
        ),
        (json.dumps(run_of(network={"id": "x"})), "#/request/network/id", "takes the id"),
        (json.dumps(run_of("compare")), "#/request/optimizer", "did you mean 'optimizers'"),
        (json.dumps(run_of("descend")), "#/request/network", ""),
        (json.dumps({"kind": "train", "request": dict(DESCEND["double_well"])}), "#/request/expression", ""),
        (json.dumps(run_of(checkpoint={"step": 5})), "#/request/checkpoint", ""),
    ],
)
def test_what_does_not_fit_is_refused_at_once(client: FlaskClient, body: str, place: str, words: str) -> None:
    problem = assert_problem(post(client, body.encode()), "invalid", json.loads(body))
    found = {each: text for each, text in faults(problem).items() if each.startswith(place)}
    assert found and any(words in text for text in found.values()), problem
    assert client.get(PATH).json["count"] == 0


@every(
    ("content", "kind"),
    [
        (b"", "malformed-body"),
        (b"{", "malformed-body"),
        (b'{"kind": "train", "request": {"a": }}', "malformed-body"),
        (b'{"kind": "train", "request": {"a": NaN}}', "malformed-body"),
        (b'{"kind": "train", "request": {"a": "\xff"}}', "malformed-body"),
        (b'{"kind": "train", "request": {"a": 1}', "malformed-body"),
        (b'{"kind": "train", "request": ' + b'{"a":' * 2000 + b"1" + b"}" * 2001, "malformed-body"),
        (b"[]", "invalid"),
        (b"5", "invalid"),
        (b'"x"', "invalid"),
        (b'{"kind": "train", "request": {"a":[' + b"[" * 60 + b"1" + b"]" * 60 + b"]}}", "invalid"),
    ],
)
def test_bodies_that_are_no_json_of_a_run(app: Any, content: bytes, kind: str) -> None:
    problem = assert_problem(post(app.test_client(), content), kind)
    assert len(problem["detail"]) < 400


def test_errors_are_those_of_the_endpoint_one_level_below(client: FlaskClient) -> None:
    for path, kind, request in (
        ("/v1/train", "train", LINE | {"optimizer": {"type": "sgd", "beta_1": 0.9}, "steps": "x"}),
        ("/v1/train", "train", LINE | {"inputs": [[0, 1]] * 3, "loss": "mse"}),
        ("/v1/train/compare", "compare", dict(COMPARE["xor"]) | {"optimizers": ["adam", "rmsporp"]}),
        ("/v1/functions/descend", "descend", dict(DESCEND["double_well"]) | {"starts": [[1, 2]]}),
        ("/v1/functions/descend", "descend", dict(DESCEND["double_well"]) | {"expression": "x^"}),
    ):
        own = client.post(path, json=request).json
        run = assert_problem(client.post(PATH, json={"kind": kind, "request": request}), "invalid")
        moved = [error | {"pointer": f"#/request{error['pointer'][1:]}"} for error in own["errors"]]
        assert run["errors"] == moved
        assert run["detail"] == own["detail"].replace(own["errors"][0]["pointer"], moved[0]["pointer"], 1)


@pytest.mark.parametrize(
    ("settings", "changes", "limit", "place"),
    [
        ({"max_run_steps": 100}, {"steps": 101}, "steps", "#/request/steps"),
        ({"max_run_operations": 1000}, {"steps": 1000}, "operations", "#/request"),
        ({"max_run_bytes": 100}, {}, "run_bytes", "#/request"),
        ({"max_run_bytes": 1000}, {}, "run_bytes", "#/request"),
        ({"max_layers": 1}, {"network": {"layers": [{"type": "dense", "units": 1}] * 2}}, "layers", "#/request"),
    ],
)
def test_limits_of_runs_are_named(
    make_runs: MakeClient, settings: dict[str, Any], changes: dict[str, Any], limit: str, place: str
) -> None:
    client = make_runs(**settings)
    problem = assert_problem(client.post(PATH, json=run_of(**changes)), "limit-exceeded")
    (error,) = problem["errors"]
    assert error["limit"] == limit and error["pointer"].startswith(place)
    assert client.get(PATH).json["count"] == 0


def test_a_run_may_cost_more_than_a_request(make_runs: MakeClient) -> None:
    client = make_runs(max_steps=10, max_operations=10_000, max_trace_elements=100, max_seconds=1.0)
    body = run_of(steps=50_000, network={"layers": [{"type": "dense", "name": "line", "units": 1}]})
    assert_problem(client.post("/v1/train", json=body["request"]), "limit-exceeded")
    assert client.get(f"{PATH}/{started(client, body)}").json["of"] == 50_000
    compared = dict(COMPARE["xor"]) | {"steps": 20_000, "trace": {"every": 20_000}}
    assert client.get(f"{PATH}/{started(client, {'kind': 'compare', 'request': compared})}").json["of"] == 120_000


def test_a_result_is_read_within_the_memory_of_the_server(
    make_runs: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make_runs()
    name = started(client)
    Hand(client, name).finish(5, result=state_bytes({"status": "completed", "values": np.ones(200_000)}))
    account = client.application.extensions["nabla.memory"]
    monkeypatch.setattr(account, "total", account.aside + 2**20)
    assert_problem(client.get(f"{PATH}/{name}"), "limit-exceeded")
    (last,) = lines(client.get(f"{PATH}/{name}/steps"))
    assert last["problem"]["type"] == "/problems/limit-exceeded"
    assert client.get(PATH).json["runs"][0]["status"] == "completed"
    monkeypatch.undo()
    assert len(client.get(f"{PATH}/{name}").json["result"]["values"]) == 200_000
    assert account.held == 0


def test_nothing_stays_held_after_a_start(client: FlaskClient) -> None:
    started(client)
    client.post(PATH, json=run_of(optimizer="adma"))
    extensions = client.application.extensions
    assert extensions["nabla.memory"].held == 0
    assert not any(lane.running or lane.length for lane in extensions["nabla.admission"].lanes)


# --- idempotency --------------------------------------------------------------------------------


def test_the_same_key_gives_the_same_run(client: FlaskClient) -> None:
    first = client.post(PATH, json=run_of(), headers={"Idempotency-Key": "one"})
    again = client.post(PATH, json=run_of(), headers={"Idempotency-Key": "one"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json == again.json and first.headers["Location"] == again.headers["Location"]
    assert client.post(PATH, json=run_of()).json["id"] != first.json["id"]
    other = client.post(PATH, json=run_of(steps=6), headers={"Idempotency-Key": "one"})
    assert list(faults(assert_problem(other, "invalid", run_of(steps=6)))) == ["#"]
    kind = {"kind": "compare", "request": dict(COMPARE["xor"])}
    assert_problem(client.post(PATH, json=kind, headers={"Idempotency-Key": "one"}), "invalid")
    compute(client)
    ended = client.post(PATH, json=run_of(), headers={"Idempotency-Key": "one"})
    assert (ended.status_code, ended.json) == (200, first.json | {"status": "completed"})
    assert client.get(PATH).json["count"] == 2
    assert client.delete(ended.headers["Location"]).status_code == 204
    anew = client.post(PATH, json=run_of(steps=6), headers={"Idempotency-Key": "one"})
    assert anew.status_code == 202 and anew.json["id"] != first.json["id"]


@every("key", ["", " ", "a b", "x" * 256, "é", "a\tb", "\x7f"])
def test_keys_of_another_form_are_refused(app: Any, key: str) -> None:
    sent = app.test_client().post(PATH, json=run_of(), environ_base={"HTTP_IDEMPOTENCY_KEY": key})
    assert "Idempotency-Key" in assert_problem(sent, "bad-request")["detail"]


def test_a_key_may_have_all_visible_characters(client: FlaskClient) -> None:
    for key in ("x", "!" + "~" * 254, '"8e03978e-40d5-43dd-bc93-6894a57f9324"'):
        assert client.post(PATH, json=run_of(), headers={"Idempotency-Key": key}).status_code == 202


# --- stored networks ----------------------------------------------------------------------------


def test_a_run_keeps_the_networks_that_it_names(client: FlaskClient) -> None:
    network = LINE["network"] | {"input_shape": [1]}
    name = client.post("/v1/networks", json={"network": network, "parameters": LINE["parameters"]}).json["id"]
    rest = {key: value for key, value in LINE.items() if key not in ("network", "parameters")}
    body = {"kind": "train", "request": rest | {"network": {"id": name}, "parameters": {"id": name}}}
    by_id, inline = started(client, body), started(client, run_of(network=network))
    assert client.delete(f"/v1/networks/{name}").status_code == 204
    client.application.extensions["nabla.store"].loaded.shrink(2**40)
    gone = assert_problem(client.post(PATH, json=body), "not-found", body)
    assert set(faults(gone)) == {"#/request/network/id"} and gone["detail"].startswith("#/request/network/id: ")
    compute(client)
    one, other = (client.get(f"{PATH}/{run}").json for run in (by_id, inline))
    assert one["status"] == "completed", one["reason"]
    assert one["result"] == other["result"]
    assert client.get("/v1/networks").json["count"] == 0


def test_an_unknown_network_is_refused_in_every_kind(client: FlaskClient) -> None:
    unknown = {"id": UNKNOWN + UNKNOWN[:8]}
    for kind, request in (("train", LINE), ("compare", dict(COMPARE["xor"]))):
        for key in ("network", "parameters"):
            body = {"kind": kind, "request": request | {key: unknown}}
            problem = assert_problem(client.post(PATH, json=body), "not-found", body)
            assert list(faults(problem)) == [f"#/request/{key}/id"]


# --- owners -------------------------------------------------------------------------------------


def test_a_run_belongs_to_its_key(make_runs: MakeClient) -> None:
    client = make_runs(
        api_keys=tuple(f"{name}=sha256:{sha256(name.encode()).hexdigest()}" for name in ("alice", "bob"))
    )
    alice, bob = ({"Authorization": f"Bearer {key}"} for key in ("alice", "bob"))
    name = client.post(PATH, json=run_of(), headers=alice | {"Idempotency-Key": "k"}).json["id"]
    assert client.post(PATH, json=run_of(steps=9), headers=bob | {"Idempotency-Key": "k"}).status_code == 202
    paths = (
        ("GET", ""),
        ("GET", "/steps"),
        ("POST", "/cancel"),
        ("POST", "/resume"),
        ("DELETE", ""),
    )
    for method, rest in paths:
        foreign = client.open(f"{PATH}/{name}{rest}", method=method, headers=bob)
        unknown = client.open(f"{PATH}/{UNKNOWN}{rest}", method=method, headers=bob)
        assert_problem(foreign, "not-found")
        assert foreign.json["detail"].replace(name, UNKNOWN) == unknown.json["detail"]
        assert_problem(client.open(f"{PATH}/{name}{rest}", method=method), "unauthorized")
    assert [each["id"] for each in client.get(PATH, headers=alice).json["runs"]] == [name]
    assert client.get(f"{PATH}/{name}", headers=alice).json["status"] == "queued"


@every("name", ["x", UNKNOWN.upper(), UNKNOWN[:-1], UNKNOWN + "0", "%0a" + UNKNOWN, "é" * 32, "..", "a" * 2000])
@every(("method", "rest"), [("GET", ""), ("GET", "/steps"), ("POST", "/cancel"), ("POST", "/resume"), ("DELETE", "")])
def test_an_id_of_another_form_is_not_found(app: Any, name: str, method: str, rest: str) -> None:
    problem = assert_problem(app.test_client().open(f"{PATH}/{name}{rest}", method=method), "not-found")
    assert len(problem["detail"]) < 300


# --- stopping, going on, removing ---------------------------------------------------------------


def test_a_run_that_waits_is_cancelled_at_once_and_goes_on_later(client: FlaskClient) -> None:
    name = started(client)
    told = client.post(f"{PATH}/{name}/cancel")
    assert (told.status_code, told.json["status"]) == (200, "cancelled")
    assert lines(client.get(f"{PATH}/{name}/steps")) == [{"status": "cancelled", "reason": told.json["reason"]}]
    again = assert_problem(client.post(f"{PATH}/{name}/cancel"), "conflict")
    assert "cancelled" in again["detail"]
    resumed = client.post(f"{PATH}/{name}/resume")
    assert (resumed.status_code, resumed.json["status"]) == (202, "queued")
    compute(client)
    assert [line.get("step") for line in lines(client.get(f"{PATH}/{name}/steps"))] == [1, 2, 3, 4, 5, None]


def test_a_run_that_computes_is_told_to_stop(client: FlaskClient) -> None:
    name = started(client)
    hand = Hand(client, name)
    told = client.post(f"{PATH}/{name}/cancel")
    assert (told.status_code, told.json["status"]) == (200, "running")
    assert hand.keep(1, 2).cancel
    hand.finish(2, "cancelled")
    assert_problem(client.post(f"{PATH}/{name}/cancel"), "conflict")


def test_more_steps_give_what_a_longer_run_gives(client: FlaskClient) -> None:
    short, long = started(client, run_of(steps=5)), started(client, run_of(steps=12))
    compute(client)
    told = client.post(f"{PATH}/{short}/resume", json={"steps": 7})
    assert (told.status_code, told.json["status"], told.json["of"]) == (202, "queued", 12)
    compute(client)
    one, other = (client.get(f"{PATH}/{name}/steps", buffered=True).get_data() for name in (short, long))
    assert one == other
    assert client.get(f"{PATH}/{short}").json["attempt"] == 2


def test_one_of_two_clients_that_resume_a_run_at_once_is_told_that_it_did_not(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = started(client)
    Hand(client, name).finish(5)

    def check(*given: Any) -> None:
        runs_of(client).resume("", name, 3)  # the other client, between the look and the change

    monkeypatch.setattr("service.api.runs.check_resume", check)
    assert_problem(client.post(f"{PATH}/{name}/resume", json={"steps": 7}), "conflict", {"steps": 7})
    assert client.get(f"{PATH}/{name}").json["of"] == 8


def test_what_the_status_of_a_run_does_not_allow_is_a_conflict(client: FlaskClient) -> None:
    name = started(client)
    assert "queued" in assert_problem(client.post(f"{PATH}/{name}/resume"), "conflict")["detail"]
    hand = Hand(client, name)
    assert "running" in assert_problem(client.post(f"{PATH}/{name}/resume"), "conflict")["detail"]
    hand.finish(5)
    assert "'steps'" in assert_problem(client.post(f"{PATH}/{name}/resume"), "conflict")["detail"]
    for status in ("diverged", "failed", "stopped"):
        name = started(client)
        Hand(client, name).finish(3, status)
        answer = client.post(f"{PATH}/{name}/resume", json={"steps": 2} if status == "stopped" else {})
        if status == "diverged":
            assert "diverged" in assert_problem(answer, "conflict")["detail"]
        else:
            assert (answer.status_code, answer.json["status"]) == (202, "queued")
            assert client.delete(f"{PATH}/{name}").status_code == 204
    compared = started(client, {"kind": "compare", "request": dict(COMPARE["xor"])})
    Hand(client, compared).finish(3)
    assert "nothing left" in assert_problem(client.post(f"{PATH}/{compared}/resume"), "conflict")["detail"]
    more = {"steps": 2}
    refused = assert_problem(client.post(f"{PATH}/{compared}/resume", json=more), "invalid", more)
    assert "takes no more steps" in faults(refused)["#/steps"]


@every(
    ("content", "content_type", "kind"),
    [
        (b"{", JSON, "malformed-body"),
        (b"[]", JSON, "invalid"),
        (b'{"steps": 0}', JSON, "invalid"),
        (b'{"steps": -1}', JSON, "invalid"),
        (b'{"steps": 1.5}', JSON, "invalid"),
        (b'{"steps": "5"}', JSON, "invalid"),
        (b'{"steps": null}', JSON, "invalid"),
        (b'{"steps": 1e300}', JSON, "invalid"),
        (b'{"step": 5}', JSON, "invalid"),
        (b'{"steps": 5}', "text/plain", "unsupported-media-type"),
        (b'{"steps": 5}', "", "unsupported-media-type"),
        (b" " * 5000, JSON, "too-large"),
    ],
)
def test_requests_for_more_steps_of_another_form(app: Any, content: bytes, content_type: str, kind: str) -> None:
    sent = app.test_client().post(f"{PATH}/{UNKNOWN}/resume", data=content, content_type=content_type)
    assert_problem(sent, kind)


def test_more_steps_have_a_limit(make_runs: MakeClient) -> None:
    client = make_runs(max_run_steps=10)
    name = started(client)
    Hand(client, name).finish(5)
    problem = assert_problem(client.post(f"{PATH}/{name}/resume", json={"steps": 6}), "limit-exceeded", {"steps": 6})
    assert (problem["errors"][0]["limit"], problem["errors"][0]["asked"]) == ("run_steps", 11)
    assert client.post(f"{PATH}/{name}/resume", json={"steps": 5}).status_code == 202


def test_a_run_is_removed_with_everything(client: FlaskClient) -> None:
    name = started(client)
    hand = Hand(client, name)
    assert hand.keep(1, 2).alive
    removed = client.delete(f"{PATH}/{name}")
    assert (removed.status_code, removed.get_data()) == (204, b"")
    assert not hand.keep(3, 3).alive
    for method, rest in (("GET", ""), ("GET", "/steps"), ("POST", "/cancel"), ("POST", "/resume"), ("DELETE", "")):
        assert_problem(client.open(f"{PATH}/{name}{rest}", method=method), "not-found")
    page = client.get(PATH).json
    assert (page["runs"], page["count"], page["bytes"]) == ([], 0, 0)


# --- listing ------------------------------------------------------------------------------------


def test_pages_of_the_listing(client: FlaskClient) -> None:
    names = [started(client, run_of(steps=steps)) for steps in range(1, 6)]
    found, after = [], ""
    for _ in range(3):
        page = client.get(f"{PATH}?limit=2{after}").json
        found += [each["id"] for each in page["runs"]]
        after = f"&after={page['next']}"
    assert found == names[::-1] and page["next"] is None and page["count"] == 5
    client.post(f"{PATH}/{names[2]}/cancel")
    assert [each["id"] for each in client.get(f"{PATH}?status=cancelled").json["runs"]] == [names[2]]
    first = client.get(f"{PATH}?status=queued&limit=3").json
    rest = client.get(f"{PATH}?status=queued&limit=3&after={first['next']}").json
    assert [each["id"] for each in first["runs"] + rest["runs"]] == [each for each in found if each != names[2]]
    assert {
        status: len(client.get(f"{PATH}?status={status}").json["runs"]) for status in RUN_STATUSES
    } == dict.fromkeys(RUN_STATUSES, 0) | {"queued": 4, "cancelled": 1}


@every(
    ("path", "name"),
    [
        *((PATH, each) for each in ("limit=0", "limit=201", "limit=x", "limit=1&limit=2", "limit=%D9%A1", "page=2")),
        *(
            (PATH, each)
            for each in ("after=x", f"after=nan_{UNKNOWN}", f"after=1_{UNKNOWN[:-1]}", "after=", "after=1e999_x")
        ),
        *((PATH, each) for each in ("status=done", "status=", "status=queued,running", "status=queued&status=queued")),
        *((f"{PATH}/{UNKNOWN}", each) for each in ("limit=1", "steps=1")),
        *((f"{PATH}/{UNKNOWN}/steps", each) for each in ("after=x", "after=-2", "after=1.5", "after=", "after=9e9")),
        *((f"{PATH}/{UNKNOWN}/steps", each) for each in (f"after={2**53}", "after=1&after=2", "limit=5", "from=1")),
    ],
)
def test_query_parameters_of_another_form(app: Any, path: str, name: str) -> None:
    problem = assert_problem(app.test_client().get(f"{path}?{name}"), "invalid")
    assert problem["errors"][0]["pointer"] == f"#/query/{name.partition('=')[0]}"


@every("rest", ["/cancel?now=1", "/resume?steps=5", "?all=1"])
def test_changes_take_no_query(app: Any, rest: str) -> None:
    method = "DELETE" if rest.startswith("?") else "POST"
    assert_problem(app.test_client().open(f"{PATH}/{UNKNOWN}{rest}", method=method), "invalid")


# --- quotas and the store -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "limit", "advice"),
    [
        ({"max_runs": 1}, "runs", "DELETE /v1/runs/{id}"),
        ({"max_unfinished_runs": 1}, "unfinished_runs", "/cancel"),
        ({"max_stored_bytes_per_key": 500}, "stored_bytes_per_key", "DELETE /v1/networks/{id} and /v1/runs/{id}"),
    ],
)
def test_quotas_of_a_key_name_the_limit(
    make_runs: MakeClient, settings: dict[str, int], limit: str, advice: str
) -> None:
    client = make_runs(**settings)
    first = started(client, run_of(), Idempotency_Key="k")
    problem = assert_problem(client.post(PATH, json=run_of(steps=6)), "limit-exceeded")
    assert problem["errors"][0]["limit"] == limit and advice in problem["detail"]
    # What is there already is not refused.
    assert client.post(PATH, json=run_of(), headers={"Idempotency-Key": "k"}).json["id"] == first
    assert client.delete(f"{PATH}/{first}").status_code == 204
    started(client, run_of(steps=6))


def test_a_full_server_says_so(make_runs: MakeClient) -> None:
    client = make_runs(max_stored_bytes=100)
    assert_problem(client.post(PATH, json=run_of()), "store-full")
    assert client.get(PATH).json["count"] == 0


def test_without_a_folder_everything_else_works(make_client: MakeClient) -> None:
    client = make_client(data="/dev/null/nowhere")
    for method, rest in (("GET", ""), ("POST", "/cancel"), ("POST", "/resume"), ("GET", "/steps"), ("DELETE", "")):
        assert_problem(client.open(f"{PATH}/{UNKNOWN}{rest}", method=method), "nothing-stored")
    for answer in (client.post(PATH, json=run_of()), client.get(PATH)):
        problem = assert_problem(answer, "nothing-stored")
        assert "nowhere" not in problem["detail"]
    assert_problem(client.post(PATH, json=run_of(optimizer="adma")), "invalid")
    assert client.post("/v1/train", json=LINE).status_code == 200
    about = client.get("/v1")
    assert about.status_code == 200 and about.json["queue"] is None
    assert client.get("/health/ready").status_code == client.get("/metrics").status_code == 200


def test_a_database_that_is_gone_stops_nothing_else(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    name = started(client)
    database = runs_of(client).database
    monkeypatch.setattr(database, "_unreachable_until", math.inf)
    for answer in (
        client.post(PATH, json=run_of()),
        client.get(PATH),
        *(client.get(f"{PATH}/{name}{rest}") for rest in ("", "/steps")),
        *(client.post(f"{PATH}/{name}/{rest}") for rest in ("cancel", "resume")),
        client.delete(f"{PATH}/{name}"),
    ):
        assert_problem(answer, "store-unavailable")
        assert answer.headers["Retry-After"] == "5"
    assert client.post("/v1/gradients", json=xor()).status_code == 200
    assert client.get("/v1").status_code == 200
    monkeypatch.setattr(database, "_unreachable_until", 0.0)
    assert client.get(f"{PATH}/{name}").json["status"] == "queued"


def test_the_service_tells_its_queue(client: FlaskClient) -> None:
    Hand(client, started(client))
    started(client)
    assert client.get("/v1").json["queue"] == {"queued": 1, "running": 1, "runners": 1}
    assert client.get("/v1").json["links"]["list_runs"] == PATH


# --- HTTP ---------------------------------------------------------------------------------------


def test_methods_and_headers(make_runs: MakeClient) -> None:
    client = make_runs(cors_origins=("https://page.example",))
    name = started(client)
    page = {"Origin": "https://page.example"}
    for path, allowed in (
        (PATH, {"GET", "POST"}),
        (f"{PATH}/{name}", {"GET", "DELETE"}),
        (f"{PATH}/{name}/steps", {"GET"}),
        (f"{PATH}/{name}/cancel", {"POST"}),
        (f"{PATH}/{name}/resume", {"POST"}),
    ):
        preflight = client.options(path, headers=page)
        assert set(preflight.headers["Access-Control-Allow-Methods"].split(", ")) - {"HEAD", "OPTIONS"} == allowed
        headers = preflight.headers["Access-Control-Allow-Headers"].lower()
        assert "last-event-id" in headers and "idempotency-key" in headers
        if "GET" in allowed:
            with client.head(path, headers=page) as response:
                assert (response.status_code, response.get_data()) == (200, b"")
                assert response.headers["Access-Control-Allow-Origin"] == page["Origin"]
                assert "Location" in response.headers["Access-Control-Expose-Headers"]
        else:
            assert_problem(client.get(path), "method-not-allowed")
    assert client.head(f"{PATH}/{UNKNOWN}/steps").status_code == 404
    assert not any(lane.running for lane in client.application.extensions["nabla.admission"].lanes)


@every(
    ("accept", "kind"),
    [
        ("text/html", "not-acceptable"),
        ("application/json; tensors=x", "not-acceptable"),
        ("image/png", "not-acceptable"),
    ],
)
def test_forms_that_there_are_not(app: Any, accept: str, kind: str) -> None:
    client = app.test_client()
    for path in (f"{PATH}/{UNKNOWN}", f"{PATH}/{UNKNOWN}/steps"):
        assert_problem(client.get(path, headers={"Accept": accept}), kind)


def test_every_status_is_told() -> None:
    assert {"queued", "running"} == set(RUN_STATUSES) - ENDED
