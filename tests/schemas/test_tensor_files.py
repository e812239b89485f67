"""Files of arrays: what the libraries write is read, what is written the libraries read, and nothing hurts."""

import io
import json
import struct
import warnings
import zipfile

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from marshmallow import ValidationError

from schemas.tensor_files import dump_npz, dump_safetensors, load_npz, load_safetensors
from tests.support import every

RNG = np.random.default_rng(0)
ARRAYS = {
    "a.kernel": RNG.standard_normal((3, 4)),
    "a.bias": RNG.standard_normal(4).astype(np.float32),
    "encoder.0.kernel": np.asfortranarray(RNG.standard_normal((2, 3))),
    "scale": np.array(0.5),
    "counts": np.arange(6).reshape(2, 3),
    "ünïcode/名": np.array([1], np.uint8),
}


def assert_equal(found, expected=ARRAYS):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array)


def refused(load, content, word):
    with pytest.raises(ValidationError, match=word):
        load(content)


def test_the_library_reads_what_is_written_bit_for_bit(tmp_path):
    content = b"".join(dump_safetensors(ARRAYS, {"answer": '{"loss": 1}'}))
    assert_equal(safetensors.numpy.load(content))
    assert_equal(load_safetensors(content))
    file = tmp_path / "answer.safetensors"
    file.write_bytes(content)
    with safetensors.safe_open(file, framework="np") as opened:
        assert opened.metadata() == {"answer": '{"loss": 1}'}


def test_numpy_reads_what_is_written_bit_for_bit():
    content = b"".join(dump_npz(ARRAYS, {"answer": "{}"}))
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        assert str(found["answer"]) == "{}"
        assert_equal({name: found[name] for name in found.files if name != "answer"})
    assert content == b"".join(dump_npz(ARRAYS, {"answer": "{}"}))
    assert_equal(load_npz(content))


def test_what_the_libraries_write_is_read():
    assert_equal(load_safetensors(safetensors.numpy.save({n: np.asarray(a, order="C") for n, a in ARRAYS.items()})))
    for write in (np.savez, np.savez_compressed):
        target = io.BytesIO()
        write(target, **ARRAYS)
        assert_equal(load_npz(target.getvalue()))


def of(dtype, shape, data, name="a"):
    """A safetensors file of one tensor."""
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


def test_short_numbers_are_read_without_loss():
    values = np.array([1.5, -0.0078125, 3.0], np.float32)
    half = load_safetensors(of("F16", [3], values.astype("<f2").tobytes()))["a"]
    brain = load_safetensors(of("BF16", [3], (values.view(np.uint32) >> 16).astype("<u2").tobytes()))["a"]
    for found in (half, brain):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, values)
    assert load_safetensors(of("U16", [1], b"\xff\xff"))["a"].tolist() == [65535]


def headed(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


HEADER = b'{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}'


@every(
    ("content", "word"),
    [
        (b"", "shorter"),
        (b"\xff" * 64, "header would be"),
        (struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 8, "stands twice"),
        (struct.pack("<Q", 4) + b"[[[[" + b"\0" * 8, "not JSON"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "not JSON"),
        (of("F8_E4M3", [1], b"\0"), "F8_E4M3"),
        (of("F64", [2], b"\0" * 8), "takes 16 bytes"),
        (of("F64", [2**40, 2**40], b"\0" * 8), "takes"),
        (of("F64", [-1], b"\0" * 8), "takes a list of integers"),
        (of("F64", [0], b""), "none of them empty"),
        (of("F64", [1] * 17, b"\0" * 8), "at most 16 axes"),
        (of("F32", [1], struct.pack("<f", float("nan"))), "finite"),
        (of("F64", [1], b"\0" * 8) + b"more", "bytes of data"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 99, "nabla convert model.h5"),
        (b"\x80\x04" + b"\0" * 99, "pickle"),
        (b"PK\x03\x04" + b"\0" * 99, "nabla convert model.keras"),
        (headed(b"{}"), "has no tensors"),
        (headed(b'{"__metadata__":{"a":"b"}}'), "has no tensors"),
        (headed(b'{"__metadata__":5}'), "an object of strings"),
        (headed(b'{"__metadata__":{"a":5}}'), "an object of strings"),
        (
            headed(b'{"\\ud800.k":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"),
            "ud800.k' has an unpaired surrogate in its name",
        ),
        (headed(b'{"a":{"dtype":"\\uDFFF","shape":[1],"data_offsets":[0,1]}}', b"1"), "unpaired surrogate"),
        (headed(b'{"\xed\xa0\x80.k":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1"), "not JSON"),
    ],
)
def test_broken_safetensors_are_refused_in_words(content, word):
    refused(load_safetensors, content, word)


def test_overlapping_tensors_are_refused():
    place = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
    header = json.dumps({"a": place, "b": place}).encode()
    refused(load_safetensors, struct.pack("<Q", len(header)) + header + b"\0" * 8, "without gaps")


def zipped(*members, method=zipfile.ZIP_STORED):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, content in members:
            archive.writestr(name, content)
    return target.getvalue()


def npy(array):
    target = io.BytesIO()
    np.save(target, array, allow_pickle=True)
    return target.getvalue()


ZEROS = npy(np.zeros(100_000))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "no npz file"),
        (b"PK\x05\x06" + b"\xff" * 18, "lists its arrays in"),
        (zipped(("a.npy", ZEROS), method=zipfile.ZIP_DEFLATED), "more than 4 times; send it uncompressed"),
        (zipped(("a.npy", npy(np.zeros(2))), ("a.npy", npy(np.zeros(2)))), "two arrays of one name"),
        (zipped(("a.npy", npy(np.array([{}])))), "no objects"),
        (zipped(("a.npy", npy(np.array([1j])))), "holds complex128"),
        (zipped(("a.npy", npy(np.zeros(4))[:-1])), "bytes"),
        (zipped(("a.npy", b"not an array")), "cannot be read|can be read"),
        (zipped(("a.txt", b"x" * 99)), "no array"),
        (zipped(("config.json", b"{}"), ("model.weights.h5", b"")), "nabla convert model.keras"),
        (zipped(("archive/data.pkl", b"x" * 99)), "pickle"),
        (zipped(("a.npy", npy(np.array([np.inf])))), "finite"),
        (zipped(), "no arrays"),
        (zipped(("answer.npy", npy(np.array("text")))), "no arrays"),
    ],
)
def test_broken_npz_are_refused_in_words(content, word):
    refused(load_npz, content, word)
