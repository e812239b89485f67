"""Answers in pieces: the same bytes as from one call, whatever is in them."""

import base64
from typing import Any

import numpy as np
import pytest

from service.wire import writing
from service.wire.writing import Written, dump, written
from tests.support import every

GENERATOR = np.random.default_rng(1986)
NUMBERS = GENERATOR.standard_normal(3001) * 10.0 ** GENERATOR.integers(-300, 300, 3001)
SPECIAL = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1.7976931348623157e308, 1e16, 1e-7, 123456789.0])
VALUES: dict[str, Any] = {
    "a number": 1.5,
    "an array": NUMBERS,
    "special numbers": np.tile(SPECIAL, 100),
    "a matrix": NUMBERS.reshape(-1, 3001 // 1)[:, :3000].reshape(600, 5),
    "wide rows": NUMBERS[:3000].reshape(3, 1000),
    "many axes": NUMBERS[:2880].reshape(2, 3, 4, 5, 24),
    "no numbers": np.zeros((0,)),
    "no rows": np.zeros((0, 3)),
    "empty rows": np.zeros((300, 0)),
    "a scalar array": np.array(0.1),
    "float32": NUMBERS.clip(-1e30, 1e30).astype(np.float32),
    "float32 that is not contiguous": NUMBERS.clip(-1e30, 1e30).astype(np.float32)[:3000].reshape(600, 5).T,
    "float32 with a step": NUMBERS.clip(-1e30, 1e30).astype(np.float32)[::2],
    "float32 in Fortran's order": np.asfortranarray(
        NUMBERS.clip(-1e30, 1e30).astype(np.float32)[:3000].reshape(300, 10)
    ),
    "one column of float32": NUMBERS.clip(-1e30, 1e30).astype(np.float32)[:3000].reshape(300, 10)[:, :1],
    "integers": np.arange(-1000, 1000),
    "bytes": np.arange(256, dtype=np.uint8).repeat(4),
    "truth values": NUMBERS > 0,
    "a list of arrays": [NUMBERS[:n] for n in range(80)],
    "a list of objects": [{"point": NUMBERS[n : n + 2], "value": n, "class": None} for n in range(900)],
    "a list of numbers": NUMBERS.tolist(),
    "a list of one": [NUMBERS],
    "a tuple": (1, (2.5, "x"), NUMBERS),
    "empty things": {"a": [], "b": {}, "c": "", "d": None, "e": NUMBERS[:0]},
    "texts": ["x" * n for n in range(200)],
    "strange keys": {'"\\\n\u0000ü😀': NUMBERS, "": {"": NUMBERS}},
    "a tree": {
        "loss": 0.5,
        "gradients": {f"dense_{n}": {"kernel": NUMBERS[: 7 * n], "bias": NUMBERS[:n]} for n in range(90)},
    },
    "an answer": {"steps": [{"step": n, "loss": float(n)} for n in range(2000)], "text": "é" * 5000, "finite": True},
}


@pytest.fixture(params=[1, 7, 64, 1000, writing.PART])
def part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    size: int = request.param
    monkeypatch.setattr(writing, "PART", size)
    monkeypatch.setattr(writing, "TYPED_PART", size)
    monkeypatch.setattr(writing, "BASE64_PART", 3 * size)
    monkeypatch.setattr(writing, "SMALLEST_PIECE", size)
    return size


@every("name", VALUES)
def test_pieces_are_what_one_call_writes(name: str, part: int) -> None:
    assert b"".join(written(VALUES[name])) == dump(VALUES[name])


def encoded(value: Any) -> Any:
    """Return a value with typed arrays for tensors, made with Python's own base64."""
    if isinstance(value, dict):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if not isinstance(value, np.ndarray):
        return value
    text = base64.b64encode(value.astype(value.dtype.newbyteorder("<")).tobytes()).decode()
    return {"dtype": value.dtype.name, "shape": list(value.shape), "base64": text}


@every("name", [name for name in VALUES if name != "a tuple"])
def test_pieces_with_typed_arrays_are_what_one_call_writes(name: str, part: int) -> None:
    assert b"".join(written(VALUES[name], base64=True)) == dump(encoded(VALUES[name]))


def test_what_is_written_already_is_taken_over_as_it_is(part: int) -> None:
    steps = Written([b"[", b"1", b",", b"2.0", b"]"])
    value = {"a": NUMBERS, "steps": steps, "b": [steps, 3]}
    assert dump({"steps": steps}) == b'{"steps":[1,2.0]}'
    assert b"".join(written(value)) == dump(value)
    assert steps.pieces == [b"[", b"1", b",", b"2.0", b"]"]


def test_pieces_are_short_and_looked_after() -> None:
    looks = []
    numbers = np.tile(NUMBERS, 200)
    for value in (numbers, numbers.reshape(-1, 1), {"a": [numbers, numbers]}):
        looks.clear()
        made = written(value, look=lambda: looks.append(1))
        assert max(map(len, made)) < 26 * writing.PART + writing.SMALLEST_PIECE
        assert len(looks) >= len(made) // 2 > 5


def test_a_look_ends_the_writing() -> None:
    class Left(Exception):
        pass

    def look() -> None:
        raise Left

    with pytest.raises(Left):
        written(np.tile(NUMBERS, 100), look=look)
