"""Bodies that would become many objects: refused at once, or within the memory that was reserved for them."""

import functools
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.capacity import memory
from service.capacity.memory import Account, Reservation
from service.wire import structure
from service.wire.structure import structure_of
from tests.conftest import MakeClient, Post
from tests.support import assert_problem, network, pointers, replaced, xor

MEBI = 2**20
SIZE = 1_000_000
MARK = Path("/proc/self/clear_refs")


def filled(key: str, opening: str, part: str, closing: str, size: int = SIZE, **changes: Any) -> bytes:
    """Return the XOR request with a long text of JSON as the value of a key."""
    text = opening + part * max(1, size // len(part)) + closing
    return json.dumps(xor(**changes) | {key: "HERE"}).replace('"HERE"', text).encode()


def keys() -> str:
    return "{" + ",".join(f'"k{number}":1' for number in range(80_000)) + "}"


bomb = functools.partial(functools.partial, filled)
"""A bomb that is made when a test asks for it."""

BOMBS: dict[str, Callable[[], bytes]] = {
    "ones and a word": bomb("inputs", "[", "1,", '"x"]'),
    "floats and a word": bomb("inputs", "[", "0.1,", '"x"]'),
    "a word and ones": bomb("inputs", '["x",', "1,", "1]"),
    "rows and a word": bomb("inputs", "[", "[1,2],", '["x",1]]'),
    "empty lists": bomb("inputs", "[", "[],", "[]]"),
    "empty objects": bomb("inputs", "[", "{},", "{}]"),
    "small objects": bomb("inputs", "[", '{"a":1},', "{}]"),
    "ragged rows": bomb("inputs", "[", "[1],", "[1,2]]"),
    "lists of lists and a word": bomb("inputs", "[", "[[1]],", '[["x"]]]'),
    "deep lists": bomb("inputs", "[", "[" * 15 + "1" + "]" * 15 + ",", "1]"),
    "strings": bomb("inputs", "[", '"x",', '"x"]'),
    "words": bomb("include", "[", '"layers",', '"x"]'),
    "numbers below an unknown key": bomb("foo", "[", "1,", "1]"),
    "numbers as a loss": bomb("loss", "[", "0.5,", "1]"),
    "numbers as a network": bomb("network", "[", "1,", "1]"),
    "numbers as a seed": bomb("seed", "[", "1,", "1]"),
    "an input shape": bomb("network", '{"layers":[{"type":"dense","units":1}],"input_shape":[', "1,", "1]}"),
    "layers that are objects": bomb("network", '{"layers":[', "{},", "{}]}"),
    "layers that are lists": bomb("network", '{"layers":[', "[],", "[]]}"),
    "layers": bomb("network", '{"layers":[', '{"type":"dense","units":1},', '{"type":"dense","units":1}]}'),
    "keys": lambda: keys().encode(),
    "keys of parameters": lambda: filled("parameters", "", keys(), ""),
    "keys of a layer": lambda: filled("parameters", '{"hidden":', keys(), "}"),
    "keys of the network": lambda: filled("network", "", keys().replace("{", '{"layers":[],'), ""),
    "keys of loss_weights": lambda: filled("loss_weights", "", keys(), ""),
    "a long text": bomb("loss", '"', "x", '"'),
    "a long text with an emoji": bomb("loss", '"😀', "x", '"'),
    "a typed array with a long shape": bomb("inputs", '{"dtype":"float64","base64":"AAAA","shape":[', "1,", "1]}"),
    "a typed array with rows as dtype": bomb("inputs", '{"shape":[1],"base64":"AAAA","dtype":[', "[1,2],", "[1,2]]}"),
    "malformed at the end": bomb("inputs", "[", "1,", "]"),
}


@pytest.fixture
def reserved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the reserved bytes whenever a request reserves more."""
    held: list[int] = []
    before = Account._take

    def take(self: Account, share: Reservation, nbytes: int) -> bool:
        held.append(nbytes)
        return before(self, share, nbytes)

    monkeypatch.setattr(memory.Account, "_take", take)
    return held


def resident(which: str) -> int:
    """Return bytes of resident memory: `VmRSS` now, `VmHWM` at most since the mark was reset."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{which}:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not MARK.exists(), reason="this system does not tell the peak of a process")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_stays_within_what_is_reserved_for_it(post: Post, reserved: list[int], name: str) -> None:
    """Measured is the resident memory: pages that a parser reserves and never touches do not count."""
    body = BOMBS[name]()
    before = resident("VmRSS")
    MARK.write_text("5")
    answer = post(body)
    peak = resident("VmHWM") - before
    assert answer.status_code in (400, 422)
    assert len(answer.get_data()) < 100_000
    assert peak <= max(reserved) + 4 * MEBI


@pytest.mark.parametrize("name", ["ones and a word", "empty lists", "strings", "keys", "a long text"])
def test_compressed_bombs_are_reserved_before_they_are_there(
    make_client: MakeClient, reserved: list[int], name: str
) -> None:
    client = make_client()
    bomb = BOMBS[name]()
    body = gzip.compress(bomb)
    headers = {"Content-Encoding": "gzip"}
    answer = client.post("/v1/gradients", data=body, content_type="application/json", headers=headers)
    assert answer.status_code == 422
    assert max(reserved) >= 2 * len(bomb)
    tight = make_client(max_memory_bytes=len(bomb))
    answer = tight.post("/v1/gradients", data=body, content_type="application/json", headers=headers)
    assert assert_problem(answer, "limit-exceeded")["errors"][0]["limit"] == "memory_bytes"
    assert tight.application.extensions["nabla.memory"].held == 0


def test_a_stream_that_lies_about_its_length_is_counted_as_it_comes(
    make_client: MakeClient, reserved: list[int]
) -> None:
    body = gzip.compress(b" " * (8 * MEBI))[:-4] + bytes(4)  # it says that it is empty
    client = make_client()
    answer = client.post(
        "/v1/gradients", data=body, content_type="application/json", headers={"Content-Encoding": "gzip"}
    )
    assert answer.status_code == 400
    assert reserved == sorted(reserved) and len(reserved) >= 8 and max(reserved) >= 16 * MEBI


@pytest.mark.parametrize(
    ("name", "part", "most"),
    [("values", "1,", "MOST_VALUES"), ("lists", "[1],", "MOST_LISTS"), ("objects", "{},", "MOST_OBJECTS")],
)
def test_a_body_has_a_bounded_number_of_parts(
    post: Post, monkeypatch: pytest.MonkeyPatch, name: str, part: str, most: str
) -> None:
    body = filled("inputs", "[", part, "1]")
    counted = getattr(structure_of(body), name)
    monkeypatch.setattr(structure, most, counted)
    assert assert_problem(post(body), "invalid")
    monkeypatch.setattr(structure, most, counted - 1)
    error = assert_problem(post(body), "limit-exceeded")["errors"][0]
    assert (error["limit"], error["asked"], error["allowed"]) == (f"body_{name}", counted, [counted - 1])


def test_parts_are_never_counted_too_low() -> None:
    for value in (
        xor(),
        [[], {}, [[1, 2], "a,b[c{d"], {"x": [1.5, None], "y": {}}],
        network({"type": "dense", "units": 2}),
    ):

        def parts(item: Any) -> list[Any]:
            children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            return [item, *[part for child in children for part in parts(child)]]

        found = parts(value)
        counted = structure_of(json.dumps(value).encode())
        assert counted.values >= len(found) - 1
        assert counted.lists >= sum(isinstance(part, list) for part in found)
        assert counted.objects >= sum(isinstance(part, dict) for part in found)
        assert counted.strings >= sum(isinstance(part, str) for part in found)


def test_rows_of_numbers_may_stand_anywhere(post: Post) -> None:
    """In large bodies they are arrays, which compare element by element."""
    typed = {"dtype": "float64", "shape": [4, 2], "base64": "A" * 85 + "="}
    request = xor(inputs=typed, include=["layers"], sample_weights=[1, 1, 1, 1], loss={"type": "huber", "delta": 1.0})
    for place in pointers(request):
        for rows in ([[1, 2], [3, 4]], [0.5] * 100, [[[1]]]):
            body = b" " * 40_000 + json.dumps(replaced(request, place, rows)).encode()
            assert post(body).status_code in (200, 422), place
