"""Fixtures of the tests of training."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.api.training import PATH, Told, Train, training
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
