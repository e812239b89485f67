"""States as bytes: every value comes back with its type and its bits, and wrong bytes raise one error."""

import contextlib
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.state_file import MAGIC, UnreadableState, state_bytes, state_of
from tests.support import every

ARRAYS = [
    np.array(dtype(values)).reshape(shape)
    for dtype, values, shape in (
        (np.float64, [0.1, -0.0, math.nan, math.inf, 5e-324, 1e308], (2, 3)),
        (np.float32, [0.1, -0.0, math.nan], (3, 1)),
        (np.int64, [2**63 - 1, -(2**63)], (2,)),
        (np.uint8, [0, 255], (1, 2)),
        (np.bool_, [True, False, True], (3,)),
        (np.float64, 2.5, ()),
        (np.float64, [], (0, 4)),
    )
]


def same(one: Any, other: Any) -> None:
    """Assert that two values have one type and the same bits."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert [*one] == [*other]
        for first, second in zip([*one.items()], [*other.items()], strict=True):
            same(list(first), list(second))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            same(first, second)
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()
    elif isinstance(one, float):
        assert math.isnan(one) == math.isnan(other)
        assert math.isnan(one) or struct.pack("d", one) == struct.pack("d", other)
    else:
        assert one == other


@every(
    "state",
    [
        {},
        {"arrays": ARRAYS},
        {"bare": [array[()] for array in ARRAYS if not array.ndim], "scalars": (np.float32(0.1), np.int64(3))},
        {"order": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "strided": np.arange(9)[::2]},
        {"integers": [0, -1, 2**53 + 1, 2**64, -(10**40), True, None]},
        {"floats": [1.0, 0.1, -0.0, 1e308, 5e-324, math.inf, -math.inf, math.nan]},
        {"nested": {"a": [{"b": ({"c": ()},)}], "": "text \x00 \ud7ff é"}, "empty": [[], {}, ()]},
        {"keys": {1: "one", None: 2, "$array": 0, (1, 2): [3], 2.5: "x"}, "$tuple": [1], "x": {"$scalar": 0}},
    ],
)  # fmt: skip
def test_a_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    content = state_bytes(state)
    same(state_of(content), state)
    assert state_bytes(state_of(content)) == content


def test_arrays_are_views_that_nobody_changes() -> None:
    content = state_bytes({"a": np.arange(3.0)})
    array = state_of(content)["a"]
    assert not array.flags.writeable and not array.flags.owndata
    assert array.ctypes.data % 8 == 0


@every("value", [object(), np.array(["text"]), np.array([1j]), b"bytes", {1, 2}, np.array([None]), np.longdouble(1.0)])
def test_a_state_holds_nothing_else(value: Any) -> None:
    with pytest.raises(TypeError, match="a state holds no"):
        state_bytes({"value": [value]})


def _with_header(header: bytes, arrays: bytes = b"") -> bytes:
    header += b" " * (-(len(MAGIC) + 8 + len(header)) % 16)
    return MAGIC + len(header).to_bytes(8, "little") + header + arrays


WHOLE = state_bytes({"a": np.arange(5.0), "b": [1, (2.5, None)], "c": np.float32(1.5)})


@every(
    "content",
    [
        b"",
        b"{}",
        MAGIC,
        WHOLE[:-1],
        WHOLE + b"\x00" * 16,
        b"x" + WHOLE[1:],
        MAGIC + (2**64 - 1).to_bytes(8, "little") + b"{}",
        _with_header(b"[]"),
        _with_header(b'{"arrays":[],"state":[]}'),
        _with_header(b'{"arrays":[],"state":{"a":{"$array":0}}}'),
        _with_header(b'{"arrays":[["<f8",[1000000000000,1000000000000]]],"state":{}}'),
        _with_header(b'{"arrays":[["<f8",[-1]]],"state":{}}'),
        _with_header(b'{"arrays":[["<f8",[0,1' + b"0" * 400 + b']]],"state":{}}'),
        _with_header(b'{"arrays":[["|O8",[1]]],"state":{}}', bytes(16)),
        _with_header(b'{"arrays":[["<f8",[true]]],"state":{}}', bytes(16)),
        _with_header(b'{"arrays":[[["<f8"],[1]]],"state":{}}', bytes(16)),
        _with_header(b'{"arrays":[],"state":{"$items":[[{"$items":[]},1]]}}'),
        _with_header(b'{"arrays":[],"state":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    ],
)
def test_bytes_that_are_no_state_raise_one_error(content: bytes) -> None:
    with pytest.raises(UnreadableState):
        state_of(content)


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=3), st.integers(0, 4))
def test_damaged_bytes_raise_nothing_else(place: int, new: bytes, dropped: int) -> None:
    with contextlib.suppress(UnreadableState):
        assert isinstance(state_of(WHOLE[:place] + new + WHOLE[place + dropped :]), dict)
