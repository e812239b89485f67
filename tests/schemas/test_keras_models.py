"""Models of Keras through the API, against what Keras computed for them (scripts/record_keras_models.py)."""

import base64
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from service.cli import main
from tests.support import every

DATA = Path(__file__).parents[1] / "data" / "keras"
MODELS = json.loads((DATA / "models.json").read_text())["models"]
BY_TITLE = {record["title"]: record for record in MODELS}


def one_or_by_name(tensors):
    return tensors if len(tensors) > 1 else next(iter(tensors.values()))


def request_of(record, training=False, **more):
    return {
        "network": record["document"],
        "parameters": record["parameters"],
        "inputs": one_or_by_name(record["inputs"]),
        "targets": one_or_by_name(record["targets"]),
        "loss": "mean_squared_error",
        "training": training,
        **more,
    }


def flat(tree):
    return {f"{layer}.{name}": np.asarray(array) for layer, own in tree.items() for name, array in own.items()}


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        scale = max(1e-3, np.abs(array).max(initial=0.0))
        np.testing.assert_allclose(actual[name], array, rtol=1e-11, atol=1e-11 * scale, err_msg=name)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("record", MODELS, ids=lambda record: record["title"])
def test_outputs_loss_gradients_and_averages_are_those_of_keras(post, record, training):
    expected = record.get("training" if training else "inference")
    if expected is None:
        pytest.skip("random numbers are drawn in training")
    answer = post(request_of(record, training)).json
    outputs = answer["outputs"] if len(record["targets"]) > 1 else dict.fromkeys(record["targets"], answer["outputs"])
    assert_same(outputs, dict(zip(record["targets"], expected["outputs"], strict=True)))
    assert answer["loss"] == pytest.approx(expected["loss"], rel=1e-11)
    assert_same(flat(answer["gradients"]), flat(expected["gradients"]))
    assert_same(flat(answer.get("state", {})), flat(expected["state"]))


@every("path", ["/v1/forward", "/v1/train", "/v1/graph", "/v1/gradients/check", "/v1/derivatives"])
def test_a_document_is_taken_wherever_a_network_is(post, path):
    request = request_of(BY_TITLE["cnn"])
    if path == "/v1/train":
        request |= {"optimizer": "sgd", "steps": 1}
    if path == "/v1/derivatives":
        request = {key: request[key] for key in ("network", "parameters", "inputs")} | {"kind": "jacobian"}
    if path == "/v1/forward":
        request = {key: request[key] for key in ("parameters", "inputs")} | {"network": json.dumps(request["network"])}
    assert post(request, path).status_code == 200


def test_a_large_body_gives_the_same_answer(post):
    """Lists of numbers in large bodies are arrays; those within a document have to become lists again."""
    record = BY_TITLE["volume"]
    small = request_of(record)
    big = small | {"inputs": [one_or_by_name(record["inputs"])[0]] * 40, "targets": [small["targets"][0]] * 40}
    assert len(json.dumps(big)) > 2**16
    outputs = post(big).json["outputs"]
    np.testing.assert_allclose(outputs[0], record["inference"]["outputs"][0][0], rtol=1e-11)


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for file in DATA.glob("*.h5"):
        shutil.copy(file, tmp_path)
    for file in DATA.glob("*.keras"):
        shutil.copy(file, tmp_path)
    return tmp_path


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("title", ["siamese", "bidirectional", "mobile"])
def test_convert_gives_what_the_service_takes(post, folder, capsys, title, ending):
    pytest.importorskip("h5py")
    record = BY_TITLE[title]
    arguments = ["convert", str(folder / f"{title}{ending}")]
    if ending == ".weights.h5":
        (folder / "model.json").write_text(json.dumps(record["document"]))
        arguments += ["--network", str(folder / "model.json")]
    assert main(arguments) == 0
    assert f"{title}.nabla.safetensors" in capsys.readouterr().out
    network = json.loads((folder / f"{title}.nabla.json").read_text())
    content = (folder / f"{title}.nabla.safetensors").read_bytes()
    found = safetensors.numpy.load(content)
    expected = flat(record["parameters"])
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    file = {"safetensors": base64.b64encode(content).decode()}
    own = post(request_of(record, parameters=file, network=network)).json
    assert own["loss"] == pytest.approx(record["inference"]["loss"], rel=1e-11)
    assert own == post(request_of(record)).json


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.pt", b"PK", "save_file(model.state_dict()"),
        ("model.pkl", b"\x80\x04", "is a pickle"),
        ("model.keras", b"nothing", "is no .keras file"),
        ("model.h5", b"nothing", "is no HDF5 file"),
        ("model.json", b'{"class_name": "Lambda"}', "holds no model"),
        ("gone.keras", None, "there is no file"),
    ],
)
def test_what_cannot_be_converted_is_told(tmp_path, capsys, name, content, words):
    pytest.importorskip("h5py")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(["convert", str(tmp_path / name)]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors"))


def test_weights_alone_ask_for_the_model(folder, capsys):
    pytest.importorskip("h5py")
    assert main(["convert", str(folder / "mobile.weights.h5")]) == 1
    assert "--network model.json" in capsys.readouterr().err


# --- answers as files -----------------------------------------------------------------------------


@every("accept", [None, "header"])
def test_answers_as_files_hold_the_bits_of_the_answer(client, accept):
    request = request_of(BY_TITLE["siamese"], include=["parameters", "per_sample"])
    listed = client.post("/v1/gradients", json=request).get_json()
    forms = {"safetensors": "application/vnd.safetensors", "npz": "application/x-npz"}
    for form, media_type in forms.items():
        path, headers = ("/v1/gradients", {"Accept": media_type}) if accept else (f"/v1/gradients?format={form}", {})
        answer = client.post(path, json=request, headers=headers)
        assert answer.status_code == 200 and answer.content_type == media_type
        assert answer.headers["Content-Disposition"] == f'attachment; filename="answer.{form}"'
        if form == "npz":
            found = dict(np.load(io.BytesIO(answer.data), allow_pickle=False))
            text = str(found.pop("answer"))
            assert str(found.pop("layout")) == "nabla"
        else:
            found = safetensors.numpy.load(answer.data)
            length = int.from_bytes(answer.data[:8], "little")
            text = json.loads(answer.data[8 : 8 + length])["__metadata__"]["answer"]
        names = flat(listed["parameters"]) | {f"gradients/{k}": v for k, v in flat(listed["gradients"]).items()}
        for name, array in names.items():
            np.testing.assert_array_equal(found[name], array)
        rest = json.loads(text)
        assert rest["loss"] == listed["loss"] and rest["warnings"] == listed["warnings"]
        (name,) = (n for n in found if n.startswith("answer/outputs/") and n.endswith("maximum"))
        np.testing.assert_array_equal(found[name], listed["outputs"]["maximum"])
        assert rest["outputs"]["maximum"] == {"tensor": name}
        again = request | {"parameters": {form: base64.b64encode(answer.data).decode()}}
        assert client.post("/v1/gradients", json=again).get_json()["loss"] == listed["loss"]


def test_forms_and_layouts_that_are_none_are_refused(client):
    request = request_of(BY_TITLE["mlp"])
    for query in ("format=pickle", "layout=keras", "format=npz&format=json"):
        assert client.post(f"/v1/gradients?{query}", json=request).status_code == 400
    assert client.post("/v1/gradients", json=request, headers={"Accept": "application/x-npz2"}).status_code == 406
    answer = client.post("/v1/gradients?format=npz", json=request | {"loss": "nothing"})
    assert answer.status_code == 422 and answer.content_type == "application/problem+json"


def test_a_file_as_the_body_is_told_of_convert(client):
    answer = client.post("/v1/forward", data=b"PK", content_type="application/octet-stream")
    assert answer.status_code == 415 and "nabla convert" in answer.get_json()["detail"]


def test_corrupted_models_and_files_are_answered_at_once(client):
    from scripts.fuzz_models import requests

    for make in requests(75, seed=1):
        _, body = make()
        answer = client.post("/v1/forward", json=body)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.get_data(as_text=True)
