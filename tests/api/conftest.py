"""Fixtures of the tests of training and of runs."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.config import Settings
from service.store.store import FILE, Store
from tests.api.training import PATH, Told, Train, training
from tests.conftest import MakeClient
from tests.support import strict_json


@pytest.fixture(scope="session")
def train(client: FlaskClient) -> Train:
    """Return a function that posts to `/v1/train`; a stream is read to its end and closed."""

    def send(body: Any, **headers: str) -> TestResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return client.post(PATH, json=body, headers=named, buffered=True)

    return send


@pytest.fixture(scope="session")
def told(train: Train) -> Told:
    """Return a function that posts a training, asserts status 200, and returns the answer."""

    def ask(**changes: Any) -> dict[str, Any]:
        response = train(training(**changes))
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = strict_json(response.get_data())
        return answer

    return ask


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with its tables and nothing in them: making them takes longer than most tests of runs."""
    folder = tmp_path_factory.mktemp("tables")
    made = Store(Settings(data=str(folder)))
    assert made.runs.usage("").runs == 0
    made.close()
    return folder / FILE


@pytest.fixture
def make_runs(make_client: MakeClient, tmp_path: Path, tables: Path) -> Iterator[MakeClient]:
    """Return a function that makes a client of an application with an empty store of its own."""
    shutil.copy(tables, tmp_path / FILE)
    made: list[FlaskClient] = []

    def make(**settings: Any) -> FlaskClient:
        made.append(make_client(data=str(tmp_path), **settings))
        return made[-1]

    yield make
    for client in made:
        client.application.extensions["nabla.store"].close()
