"""The files of the demo, the page at `/`: where they are, how each is sent, and why they may be missing.

scripts/demo.py builds them from `demo/` into this package; a wheel contains them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import orjson

from service.packaged import PACKAGE

FOLDER = PACKAGE / "demo"
STATE = PACKAGE.parent / "demo" / ".build" / "state.json"
"""The state of the build: running, or the reason why the last one failed. scripts/demo.py writes it in a checkout."""
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".woff2": "font/woff2",
}
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
HASHED = re.compile(r"-[A-Za-z0-9_-]{8}\.[a-z0-9]+")
"""The end of file names that contain a hash of their content."""


@dataclass(frozen=True)
class Asset:
    """A file of the demo with the properties that decide its headers."""

    content: bytes
    media_type: str
    gzipped: bool
    immutable: bool


def asset(name: str, gzip: bool) -> Asset | None:
    """Return a file of the built demo, with `gzip` its compressed copy if there is one; None if it is unknown."""
    media_type = TYPES.get(Path(name).suffix)
    if media_type is None or not NAME.fullmatch(name):
        return None
    path = FOLDER / "assets" / name
    immutable = HASHED.search(name) is not None
    for candidate in (path.with_name(f"{name}.gz"), path) if gzip else (path,):
        try:
            return Asset(candidate.read_bytes(), media_type, candidate is not path, immutable)
        except OSError:
            continue
    return None


def page(root: str) -> str | None:
    """Return the HTML of the demo; None if it is not built. Links begin with `root`, where the service is mounted."""
    try:
        text = (FOLDER / "index.html").read_text()
    except OSError:
        return None
    return text.replace('="./', f'="{escape(root)}/')


def why_absent() -> dict[str, Any]:
    """Return why the demo is not there: `state` is `building`, `failed` or `absent`, `detail` the last message."""
    try:
        state: dict[str, Any] = orjson.loads(STATE.read_bytes())
    except (OSError, ValueError):
        return {"state": "absent", "detail": ""}
    if state.get("state") == "building" and not _runs(state.get("pid")):
        return {"state": "failed", "detail": "The build was interrupted."}
    return {"state": state.get("state", "absent"), "detail": state.get("detail", "")}


def _runs(pid: Any) -> bool:
    try:
        os.kill(pid, 0)
    except (OSError, TypeError):
        return False
    return True
