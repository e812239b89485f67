"""The folder and the file format of recorded data, shared by the recorders."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the scripts import the service and its tests
DATA = ROOT / "tests" / "data"
LARGEST_FILE = 300_000
"""Bytes."""


def write(path: str, key: str, records: Sequence[Mapping[str, Any]], count: str = "", **facts: Any) -> int:
    """Write records under a key, after facts about them, to a file of `tests/data`; return its size in bytes.

    `count` is what to print instead of the number of records. Raises AssertionError for a file that is too large.
    """
    text = json.dumps({**facts, key: records}, separators=(",", ":"), ensure_ascii=False) + "\n"
    if records and next(iter(records[0])) == "optimizer":
        text = text.replace('{"optimizer"', '\n{"optimizer"')
    size = len(text.encode())
    assert size < LARGEST_FILE, f"{path}: {size} bytes"
    (DATA / path).parent.mkdir(parents=True, exist_ok=True)
    (DATA / path).write_text(text, encoding="utf-8")
    print(f"{path}: {count or f'{len(records)} records'}, {size} bytes")
    return size
