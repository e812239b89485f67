"""Fixtures of the tests of runners: a runtime at a database of its own."""

from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from service.api.context import Runtime, runtime_of
from service.config import Settings


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """Return what a process of runners shares, at a new SQLite database."""
    return runtime_of(Settings(data=str(tmp_path)))


@pytest.fixture
def anywhere(server_address: URL) -> Runtime:
    """Return what runners of several machines share, at a new database of a server."""
    return runtime_of(Settings(database=server_address.render_as_string(hide_password=False)))
