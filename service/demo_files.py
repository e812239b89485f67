"""The files of the demo, the page at `/`: where they are, how each is sent, and why there may be none.

They are built from `demo/` by scripts/demo.py, which puts them into this package; a wheel carries them.
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
"""Written by scripts/demo.py in a checkout: whether a build runs, or why the last one failed."""
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
"""How names end that change with their content."""


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    media_type: str
    gzipped: bool
    immutable: bool


def asset(name: str, gzip: bool) -> Asset | None:
    """A file of the build, compressed if `gzip` and if that was worth it; None where there is none of this name."""
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
    """The page, with the path that the service is mounted at before its links; None while it is not built."""
    try:
        text = (FOLDER / "index.html").read_text()
    except OSError:
        return None
    return text.replace('="./', f'="{escape(root)}/')


def why_absent() -> dict[str, Any]:
    """Why there is no page: `state` is `building`, `failed` or `absent`, `detail` what the build said last."""
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
