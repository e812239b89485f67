"""docs/examples: every file is sent, its answer is compared with what the README says, and proved in another way."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from tests.engine.insight.walking import evaluated
from tests.support import ROOT, every, strict_json

FOLDER = ROOT / "docs" / "examples"
README = (FOLDER / "README.md").read_text()
FILES = sorted(path.name for path in FOLDER.glob("*.json"))
SECTION = re.compile(
    r"\[(?P<name>\w+\.json)\]\((?P=name)\).*?```sh\n(?P<command>[^`]*)```\n\n```json\n(?P<excerpt>[^`]*)```", re.DOTALL
)
EXCERPTS = {found["name"]: (found["command"], found["excerpt"]) for found in SECTION.finditer(README)}
PATHS = {name: re.findall(r"localhost:8000(\S+)", command)[0] for name, (command, _) in EXCERPTS.items()}
"""The address that each file is sent to, as its command says."""
LARGEST_BYTES = 30_000


def sent_to(path: str) -> list[str]:
    """Return the files that are sent to an address."""
    return [name for name in FILES if PATHS.get(name) == path]


def ask(client: FlaskClient, body: Any, path: str = "/v1/gradients") -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = strict_json(response.get_data())
    return answer


def test_the_readme_tells_of_every_file_and_of_no_other() -> None:
    assert len(FILES) >= 5
    assert sorted(EXCERPTS) == FILES
    assert set(re.findall(r"\w+\.json", README)) == set(FILES)


@every("name", FILES)
def test_an_example_answers_as_the_readme_says(name: str, client: FlaskClient) -> None:
    command, excerpt = EXCERPTS[name]
    sends = f"-d @docs/examples/{name}\n"
    assert command == f"curl -s localhost:8000{PATHS[name]} -H 'Content-Type: application/json' {sends}"
    text = (FOLDER / name).read_text()
    assert len(text) < LARGEST_BYTES
    assert max(map(len, text.splitlines())) <= 120
    answer = ask(client, strict_json(text), PATHS[name])
    assert answer.get("finite", True) is True
    assert answer.get("warnings", []) == []
    expected = strict_json(excerpt)
    assert {"loss", "table", "runs", "nodes", "verdict"} & expected.keys()
    assert_holds(answer, expected)


def assert_holds(found: Any, expected: Any) -> None:
    """Assert that `found` has all of `expected`, numbers to the digits that are shown."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_holds(found[key], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_holds(one, other)
    else:
        assert found == (expected if isinstance(expected, str | None) else pytest.approx(expected, rel=1e-7, abs=1e-12))


def arrays(tree: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, np.ndarray[Any, Any]]]:
    """Yield the tensors of a tree of parameters."""
    for layer, tensors in tree.items():
        for name, tensor in tensors.items():
            yield layer, name, np.array(tensor)


@pytest.mark.parametrize("name", sent_to("/v1/gradients"))
def test_the_gradients_of_an_example_are_right(name: str, client: FlaskClient) -> None:
    """Along a random direction the slope of the loss is the gradient's product with it."""
    body = json.loads((FOLDER / name).read_text())
    answer = ask(client, body)
    generator = np.random.default_rng(1986)
    direction = {
        (layer, key): generator.standard_normal(array.shape) for layer, key, array in arrays(answer["gradients"])
    }

    def loss_at(distance: float) -> float:
        shifted = copy.deepcopy(answer["parameters"])
        for layer, key, array in arrays(answer["parameters"]):
            shifted[layer][key] = (array + distance * direction[layer, key]).tolist()
        return float(ask(client, body | {"parameters": shifted})["loss"])

    step = 1e-6  # small: a window whose largest element changes on the way has a kink
    near, far = (loss_at(distance) - loss_at(-distance) for distance in (step, 2 * step))
    slope = (8 * near - far) / (12 * step)  # the error is of the fourth order of the step
    expected = sum(float((array * direction[layer, key]).sum()) for layer, key, array in arrays(answer["gradients"]))
    assert slope == pytest.approx(expected, rel=1e-6)


def test_there_are_trainings_comparisons_and_descents() -> None:
    assert sent_to("/v1/train")
    assert sent_to("/v1/train/compare")
    assert sent_to("/v1/functions/descend")
    assert sent_to("/v1/graph")
    assert sent_to("/v1/gradients/check")
    assert sent_to("/v1/gradients/explain")
    assert {"/v1/gradients", "/v1/train", "/v1/train/compare", "/v1/functions/descend"} < set(PATHS.values())


@pytest.mark.parametrize("name", sent_to("/v1/gradients/explain"))
def test_the_steps_of_an_example_are_what_their_formulas_say(name: str, client: FlaskClient) -> None:
    body = json.loads((FOLDER / name).read_text())
    answer = ask(client, body, "/v1/gradients/explain")
    known = {quantity["id"]: quantity["value"] for quantity in answer["quantities"]}
    for step in answer["steps"]:
        used = [(known[key], 0.0) for key in step["uses"]]
        assert step["value"] == pytest.approx(
            evaluated(step["expression"], used, "float64").value, rel=1e-13, abs=1e-17
        )
        known[step["id"]] = step["value"]


@pytest.mark.parametrize("name", sent_to("/v1/train"))
def test_a_training_of_an_example_goes_on_where_it_was_left(name: str, client: FlaskClient) -> None:
    """In two parts it is the same training, and it ends where `/v1/gradients` finds the loss that it tells."""
    body = json.loads((FOLDER / name).read_text()) | {"trace": {"every": 1}}
    whole = ask(client, body, "/v1/train")
    done = whole["steps_done"]
    by_steps = {key: value for key, value in body.items() if key != "epochs"}
    first = ask(client, by_steps | {"steps": done // 2 + 1}, "/v1/train")
    second = ask(client, by_steps | {"steps": done - done // 2 - 1, "checkpoint": first["checkpoint"]}, "/v1/train")
    assert first["steps"] + second["steps"] == whole["steps"]
    assert second["checkpoint"] == whole["checkpoint"]
    task = {key: body[key] for key in ("network", "inputs", "targets", "loss")}
    assert ask(client, task | {"parameters": whole["parameters"]})["loss"] == pytest.approx(whole["loss"], rel=1e-12)


@pytest.mark.parametrize("name", sent_to("/v1/train/compare"))
def test_a_row_of_a_comparison_is_a_training(name: str, client: FlaskClient) -> None:
    body = json.loads((FOLDER / name).read_text())
    answer = ask(client, body, "/v1/train/compare")
    losses = [row["loss"] for row in answer["table"]]
    assert answer["best"] == losses.index(min(losses))
    alone = {key: value for key, value in body.items() if key not in ("optimizers", "seeds")}
    for row, curves in zip(answer["table"], answer["curves"], strict=True):
        training = ask(client, alone | {"optimizer": row["optimizer"], "seed": row["seed"]}, "/v1/train")
        assert training["loss"] == row["loss"]
        assert [step["loss"] for step in training["steps"]] == curves["loss"]


@pytest.mark.parametrize("name", sent_to("/v1/functions/descend"))
def test_the_runs_of_a_descent_end_where_it_says(name: str, client: FlaskClient) -> None:
    """Valleys have no gradient, values are those of the places, and runs that arrived are next to their valleys."""
    body = json.loads((FOLDER / name).read_text())
    answer = ask(client, body, "/v1/functions/descend")

    def looked_at(points: list[list[float]]) -> list[dict[str, Any]]:
        asked = {"expression": body["expression"], "points": points, "include": ["hessian"]}
        found: list[dict[str, Any]] = ask(client, asked, "/v1/functions/gradient")["points"]
        return found

    valleys = answer["valleys"]
    for valley, found in zip(valleys, looked_at([valley["point"] for valley in valleys]), strict=True):
        assert found["norm"] <= 1e-8
        assert found["classification"] == valley["classification"]
    assert [valley["runs"] for valley in valleys] == [
        sum(run["valley"] == place for run in answer["runs"]) for place in range(len(valleys))
    ]
    for run in answer["runs"]:
        assert run["path"][0] == body["starts"][run["start"]]
        assert run["path"][-1] == run["point"]
        assert [found["value"] for found in looked_at(run["path"])] == pytest.approx(run["values"], rel=1e-12)
        if run["valley"] is not None:
            assert run["point"] == pytest.approx(valleys[run["valley"]]["point"], abs=3e-3)


@pytest.mark.parametrize("name", sent_to("/v1/landscape"))
def test_a_landscape_of_an_example_is_made_of_losses_and_of_the_hessian(name: str, client: FlaskClient) -> None:
    """Its points are those of `/v1/gradients`, and its eigenvalues those of the whole matrix of `/v1/derivatives`."""
    body = json.loads((FOLDER / name).read_text())
    answer = ask(client, body | {"include": ["directions"]}, "/v1/landscape")
    task = {key: body[key] for key in ("network", "inputs", "targets", "loss")}
    task["parameters"] = answer["parameters"]
    matrix = np.array(ask(client, task | {"kind": "hessian"}, "/v1/derivatives")["result"])
    np.testing.assert_allclose(answer["spectrum"]["eigenvalues"], np.linalg.eigvalsh(matrix)[::-1], atol=1e-13)
    first, second = answer["axes"]
    for row, across in enumerate(second["values"]):
        for column, along in enumerate(first["values"]):
            moved = copy.deepcopy(answer["parameters"])
            for layer, key, array in arrays(answer["parameters"]):
                vectors = (np.array(axis["vector"][layer][key]) for axis in (first, second))
                moved[layer][key] = (array + sum(x * v for x, v in zip((along, across), vectors, strict=True))).tolist()
            loss = ask(client, task | {"parameters": moved})["loss"]
            assert answer["losses"][row][column] == pytest.approx(loss, rel=1e-12)
