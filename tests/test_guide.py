"""The requests of the guide and of the pages beside it, sent, and the answers they show, compared."""

import json
import re
from pathlib import Path

import pytest

from service.app import create_app
from service.config import Settings
from service.openapi import agree
from tests.support import every

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
BLOCK = re.compile(r"```json ([^\n]+)\n(.*?)```", re.DOTALL)
EXCHANGES = [
    pytest.param(*pair, id=f"{page.stem}-{place}")
    for page in PAGES
    for blocks in [BLOCK.findall(page.read_text())]
    for place, pair in enumerate(zip(blocks[::2], blocks[1::2], strict=True))
]


def test_the_guide_has_exchanges():
    assert len(EXCHANGES) >= 6


@every(("request_block", "answer_block"), EXCHANGES)
def test_guide_exchange(request_block, answer_block):
    (operation, body), (status, shown) = request_block, answer_block
    method, path = operation.split()
    client = create_app(Settings(log_requests=False)).test_client()
    answer = client.open(path, method=method, json=json.loads(body))
    assert answer.status_code == int(status)
    expected = json.loads(shown)
    assert agree({key: answer.json[key] for key in expected}, expected)
