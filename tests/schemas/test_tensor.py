"""Tensors on the wire: what is taken bit by bit, and what is refused at which place."""

import base64
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from marshmallow import ValidationError

from schemas.tensor import MOST_AXES, TYPED_DTYPES, decode, encode, narrow
from service.wire.large_json import Unsure, parse_large
from tests.support import every

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64)
SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=5)


def typed(**changes: Any) -> dict[str, Any]:
    """Return the typed array [[1, 2]] with some keys changed; `...` leaves one out."""
    content = base64.b64encode(struct.pack("<2d", 1.0, 2.0)).decode()
    array = {"dtype": "float64", "shape": [1, 2], "base64": content} | changes
    return {key: value for key, value in array.items() if value is not ...}


def offence(value: Any) -> tuple[tuple[Any, ...], str]:
    """Return the place and the detail of the refusal of a tensor."""
    with pytest.raises(ValidationError) as caught:
        decode(value)
    messages, path = caught.value.messages, ()
    while isinstance(messages, dict):
        assert len(messages) == 1, messages
        ((key, messages),) = messages.items()
        path = (*path, key)
    return path, messages[0]


def nested(value: Any, axes: int) -> Any:
    for _ in range(axes):
        value = [value]
    return value


def test_a_bare_number_is_a_scalar() -> None:
    for value in (3, -0.5):
        array = decode(value)
        assert array.shape == () and array.dtype == np.float64 and array == value


def test_lists_are_float64_in_their_shape() -> None:
    array = decode([[1, 2.5, -3], [4, 5, 1e300]])
    assert array.dtype == np.float64
    assert array.tolist() == [[1.0, 2.5, -3.0], [4.0, 5.0, 1e300]]


@given(arrays.arrays(np.float64, SHAPES, elements=FLOATS))
def test_lists_keep_every_bit_through_json(array: Any) -> None:
    again = decode(orjson.loads(orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)))
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


@given(arrays.arrays(np.float64, SHAPES, elements=FLOATS))
def test_large_bodies_keep_every_bit(array: Any) -> None:
    body = orjson.dumps({"tensor": array}, option=orjson.OPT_SERIALIZE_NUMPY)
    again = decode(parse_large(body)["tensor"])
    assert again.shape == array.shape
    assert again.tobytes() == array.tobytes()


@every("dtype", TYPED_DTYPES)
def test_typed_arrays_keep_every_bit(dtype: str) -> None:
    elements = FLOATS if dtype == "float64" else None

    @given(arrays.arrays(np.dtype(dtype), SHAPES, elements=elements))
    def round_trip(array: Any) -> None:
        if not np.isfinite(array).all():
            return
        again = decode(orjson.loads(orjson.dumps(encode(array))))
        assert again.dtype == array.dtype and again.shape == array.shape
        assert again.tobytes() == array.tobytes()

    round_trip()


def test_typed_arrays_are_little_endian_whatever_the_array_was() -> None:
    array = np.array([[1.5, -2.0], [0.0, 3.0]], ">f8").T
    assert base64.b64decode(encode(array)["base64"]) == struct.pack("<4d", 1.5, 0.0, -2.0, 3.0)


def test_a_typed_scalar_has_the_empty_shape() -> None:
    array = decode(typed(shape=[], base64=base64.b64encode(struct.pack("<d", 7.0)).decode()))
    assert array.shape == () and array == 7.0


@every("value", ["x", True, False, None, "1.5"])
def test_what_is_no_tensor_is_refused(value: Any) -> None:
    path, detail = offence(value)
    assert path == ()
    assert detail.startswith("takes a tensor")


REFUSED_LISTS = [
    ([], (), "at least one number"),
    ([[], []], (), "at least one number"),
    ([[[]]], (), "at least one number"),
    ([1, "2"], (1,), "takes a number"),
    ([1, True], (1,), "takes a number"),
    ([False], (0,), "takes a number"),
    ([[1, 2], [3, None]], (1, 1), "takes a number, got null"),
    ([None], (0,), "takes a number, got null"),
    ([[1, 2], [3]], (1,), "has 1 entries; its neighbours have 2"),
    ([[1], [2, 3], [4, "x"]], (1,), "has 2 entries"),
    ([[1, 2], 3], (1,), "takes a list of 2"),
    ([1, [2]], (1,), "takes a number"),
    ([[[1]], [[2], [3]]], (1,), "has 2 entries"),
    ([[[1, 2]], [[3, {}]]], (1, 0, 1), "takes a number, got {}"),
    ([{"a": 1}], (0,), "takes a number"),
    ([[1], []], (1,), "has 0 entries"),
    ([10**400], (0,), "too large for float64"),
    ([[1.0, -(10**400)]], (0, 1), "too large for float64"),
    (10**400, (), "too large for float64"),
    (["x" * 10_000], (0,), "takes a number"),
]


@every(("value", "path", "detail"), REFUSED_LISTS, ids=lambda value: repr(value)[:30])
def test_lists_are_refused_at_the_first_offending_place(value: Any, path: tuple[int, ...], detail: str) -> None:
    where, why = offence(value)
    assert where == path
    assert detail in why
    assert len(why) < 200


@every(
    "value",
    [value for value, _, _ in REFUSED_LISTS if isinstance(value, list) and "0000" not in repr(value)],
    ids=lambda value: repr(value)[:30],
)
def test_large_bodies_leave_what_is_no_tensor_to_the_other_parser(value: Any) -> None:
    try:
        read = parse_large(orjson.dumps(value))
    except Unsure:
        return
    assert read == value


def test_of_two_offences_the_first_in_reading_order_is_named() -> None:
    assert offence([[1, None], ["x", 2]])[0] == (0, 1)
    assert offence([[[1], [2]], [[3], ["a"]], [["b"], [4]]])[0] == (1, 1, 0)


def test_a_tensor_has_at_most_sixteen_axes() -> None:
    assert decode(nested(1.0, MOST_AXES)).ndim == MOST_AXES == 16
    for axes in (17, 40, 900):
        path, detail = offence(nested(1.0, axes))
        assert path == ()
        assert "deeper than 16" in detail
    assert "deeper than 16" in offence(parse_large(b"[" * 17 + b"1" + b"]" * 17))[1]


@every(
    ("changes", "path", "detail"),
    [
        ({"dtype": ...}, ("dtype",), "is required"),
        ({"shape": ...}, ("shape",), "is required"),
        ({"base64": ...}, ("base64",), "is required"),
        ({"shapes": [1]}, ("shapes",), "did you mean 'shape'?"),
        ({"dtype": "float16"}, ("dtype",), "float64"),
        ({"dtype": "complex128"}, ("dtype",), "takes one of"),
        ({"dtype": "<f8"}, ("dtype",), "takes one of"),
        ({"dtype": ["float64"]}, ("dtype",), "takes one of"),
        ({"dtype": None}, ("dtype",), "takes one of"),
        ({"shape": 2}, ("shape",), "positive integers"),
        ({"shape": [1, 2.0]}, ("shape",), "positive integers"),
        ({"shape": [1, True]}, ("shape",), "positive integers"),
        ({"shape": [-1, 2]}, ("shape",), "positive integers"),
        ({"shape": [0]}, ("shape",), "positive integers"),
        ({"shape": [1] * 17}, ("shape",), "at most 16"),
        ({"shape": [2**60]}, ("shape",), "positive integers"),
        ({"shape": [3]}, ("base64",), "holds 16 bytes; shape [3] of float64 takes 24"),
        ({"shape": [2**40, 2**40]}, ("base64",), "holds 16 bytes"),
        ({"dtype": "float32"}, ("base64",), "takes 8"),
        ({"base64": "AAA"}, ("base64",), "is not base64"),
        ({"base64": "AAAA\nAAAA"}, ("base64",), "is not base64"),
        ({"base64": "ä" * 4}, ("base64",), "is not base64"),
        ({"base64": "____"}, ("base64",), "is not base64"),
        ({"base64": ""}, ("base64",), "holds 0 bytes"),
        ({"base64": [1]}, ("base64",), "takes a string"),
        ({"base64": None}, ("base64",), "takes a string"),
    ],
    ids=str,
)
def test_typed_arrays_are_refused_at_the_key_that_is_wrong(
    changes: dict[str, Any], path: tuple[str, ...], detail: str
) -> None:
    where, why = offence(typed(**changes))
    assert where == path
    assert detail in why


@every("value", [np.nan, np.inf, -np.inf])
@every("dtype", ["float64", "float32"])
def test_typed_arrays_hold_finite_numbers_only(value: float, dtype: str) -> None:
    array = np.array([[1.0, 2.0], [value, 3.0]], dtype)
    path, detail = offence(encode(array))
    assert path == ("base64",)
    assert "[1, 0]" in detail and "finite" in detail


def test_integers_keep_their_type_where_they_are_typed() -> None:
    assert decode(encode(np.array([1, 2**53 + 1]))).tolist() == [1, 2**53 + 1]


def test_float32_refuses_what_it_cannot_hold_at_its_place() -> None:
    with pytest.raises(ValidationError) as caught:
        narrow({"hidden": {"kernel": np.array([[1.0, 2.0], [3.0, 1e39]])}}, "parameters")
    (detail,) = caught.value.messages["parameters"]["hidden"]["kernel"][1][1]
    assert detail == "1e+39 is too large for float32"


def test_float32_rounds_what_it_can_hold() -> None:
    array = narrow(np.array([0.1, 3.4e38, 1e-50]), "inputs")
    assert array.dtype == np.float32
    assert array.tolist() == [np.float32(0.1), np.float32(3.4e38), 0.0]
    assert narrow(np.array([1, 2]), "inputs").dtype == np.int64
