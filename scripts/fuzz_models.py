"""Send corrupted models and files of arrays to the service, and check that it answers each fast and without failing.

    python scripts/fuzz_models.py [count]

Keras documents are cut, and their values and layers are exchanged or repeated. Files have bytes changed, removed and
inserted. Each answer must be 200 or a problem with a 4xx status, within a second and a limit of memory. The script
prints the slowest answers.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from schemas.tensor_files import dump_npz, dump_safetensors  # noqa: E402
from service.app import create_app  # noqa: E402
from service.config import Settings  # noqa: E402

MODELS = json.loads((ROOT / "tests" / "data" / "keras" / "models.json").read_text())["models"]
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        1e300,
        2**53,
        0.5,
        "",
        "x",
        "linear",
        "dense",
        [],
        {},
        [1],
        [[1]],
        [None, 4],
        "\u0000",
    ),
    *({"class_name": "Lambda", "config": {}}, {"class_name": 1, "config": 1}, ["dense", 0, 0], ["dense", -1, 10**9]),
)
SECONDS, MEBIBYTES = 1.0, 512


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every container within a value, once with each of its keys."""
    found, waiting = [], [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            found.append((item, key))
            waiting.append(item[key])
    return found


def corrupted(document: Any, rng: random.Random) -> Any:
    """Return a copy of a document with a few values exchanged, removed or repeated."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        there = places(document)
        if not there:
            break
        holder, key = rng.choice(there)
        match rng.randrange(5):
            case 0:
                holder[key] = copy.deepcopy(rng.choice(ODD))
            case 1:
                other, name = rng.choice(there)
                holder[key] = copy.deepcopy(other[name])
            case 2:
                del holder[key]
            case 3 if isinstance(holder, list):
                holder.extend(copy.deepcopy(holder[key]) for _ in range(rng.choice((1, 3, 50))))
            case _ if isinstance(holder, dict):
                holder[str(rng.choice(("name", "config", "units", "shares", "x")))] = holder.pop(key)
    return document


def broken(content: bytes, rng: random.Random) -> bytes:
    """Return a file with some bytes changed, removed or inserted."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        place = rng.randrange(len(data) or 1)
        match rng.randrange(4):
            case 0 if data:
                data[place] = rng.randrange(256)
            case 1:
                del data[place : place + rng.choice((1, 4, 100))]
            case 2:
                data[place:place] = rng.randbytes(rng.choice((1, 8, 64)))
            case _ if data:
                start = rng.randrange(min(400, len(data)))
                data[start] = rng.randrange(256)
    return bytes(data)


def requests(count: int, seed: int = 0) -> list[Callable[[], tuple[str, Any]]]:
    """Return functions that each make the kind and the body of a request, `count` of each kind."""
    rng = random.Random(seed)
    network = {"layers": [{"type": "dense", "units": 2}, {"type": "dense", "units": 1}]}
    arrays = {
        "dense_1.kernel": np.ones((3, 2)),
        "dense_1.bias": np.ones(2, np.float32),
        "dense_2.kernel": np.ones((2, 1)),
        "dense_2.bias": np.ones(1),
    }
    files = {
        "safetensors": b"".join(dump_safetensors(arrays, {"format": "np"})),
        "npz": b"".join(dump_npz(arrays, {"answer": "{}"})),
    }
    squeezed = io.BytesIO()
    np.savez_compressed(squeezed, **arrays)

    def document() -> tuple[str, Any]:
        """Return the kind and body of a request with a corrupted Keras document."""
        record = rng.choice(MODELS)
        found = corrupted(record["document"], rng)
        inputs = record["inputs"] if len(record["inputs"]) > 1 else next(iter(record["inputs"].values()))
        as_text = rng.random() < 0.2
        return "keras", {"network": json.dumps(found) if as_text else found, "inputs": inputs}

    def file(kind: str, content: bytes, layout: str) -> Callable[[], tuple[str, Any]]:
        """Return a function that makes the kind and body of a request with a corrupted file of arrays."""

        def make() -> tuple[str, Any]:
            text = base64.b64encode(broken(content, rng)).decode()
            return kind, {"network": network, "inputs": [[1, 2, 3]], "parameters": {kind: text, "layout": layout}}

        return make

    kinds = [
        document,
        file("safetensors", files["safetensors"], "nabla"),
        file("npz", files["npz"], "nabla"),
        file("npz", squeezed.getvalue(), "pytorch"),
    ]
    return [kind for kind in kinds for _ in range(count)]


def main(count: int) -> None:
    client = create_app(Settings(log_requests=False)).test_client()
    statuses: Counter[tuple[str, int]] = Counter()
    slowest: dict[str, float] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for make in requests(count):
        kind, body = make()
        content = json.dumps(body)
        began = time.process_time()
        answer = client.post("/v1/forward", data=content, content_type="application/json")
        seconds = time.process_time() - began
        slowest[kind] = max(slowest.get(kind, 0.0), seconds)
        statuses[kind, answer.status_code] += 1
        if not (answer.status_code == 200 or 400 <= answer.status_code < 500):
            Path("fuzz_failure.json").write_text(content)
            raise SystemExit(f"{kind}: {answer.status_code} {answer.get_data(as_text=True)[:500]}")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(dict(statuses), {kind: f"{seconds:.3f} s" for kind, seconds in slowest.items()}, f"{grown:.0f} MiB more")
    assert grown < MEBIBYTES and max(slowest.values()) < SECONDS


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1250)
