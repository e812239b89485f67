"""Readers and writers of files of named arrays: safetensors, and npz of NumPy.

Both formats hold arrays under flat names and are read without running code. Sizes are checked before anything is
expanded, and errors name the array. The libraries of the formats read the written files bit for bit.

Sources: https://huggingface.co/docs/safetensors (format), https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from marshmallow import ValidationError

from schemas.messages import Message, shown

Array = npt.NDArray[Any]

MOST_ARRAYS = 4096
LONGEST_HEADER = 2**20
"""Largest number of bytes of the JSON header of a safetensors file. The header of 4096 arrays is shorter."""
LONGEST_DIRECTORY = 2**20
"""Largest number of bytes of the list of files in an npz."""
MOST_EXPANDED = 4
"""Largest ratio between the expanded size of an npz and its compressed size."""
MOST_AXES = 16

READ = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1"}
READ |= {"U16": "<u2", "U32": "<u4"}
"""Number types of safetensors that are read, with their NumPy dtypes. BF16 is read separately."""
WRITTEN = {"float64": "F64", "float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8"}
KEPT = ("float64", "float32", "int64", "int32", "uint8")
"""The dtypes that are kept. Shorter floats become float32 and other integers int64, both without loss."""
METADATA = "__metadata__"


def refusal(text: str) -> ValidationError:
    """Return an error that gives this text as the reason for refusing a file."""
    return ValidationError([Message(text)])


# --- safetensors ----------------------------------------------------------------------------------


def load_safetensors(data: bytes | memoryview, may_be_empty: bool = False) -> dict[str, Array]:
    """Return the arrays of a safetensors file by name. Raises `ValidationError`."""
    header, body = _header_of(memoryview(data))
    arrays: dict[str, Array] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == METADATA:
            _check_metadata(entry)
            continue
        if len(arrays) >= MOST_ARRAYS:
            raise refusal(f"holds more than {MOST_ARRAYS:,} tensors")
        array, span = _tensor(name, entry, body)
        arrays[name] = array
        spans.append((*span, name))
    place = 0
    for start, stop, name in sorted(spans):
        if start != place:
            raise refusal(
                f"tensor {shown(name)} starts at byte {start} of the data; it should at {place}, without gaps"
            )
        place = stop
    if place != len(body):
        raise refusal(f"has {len(body):,} bytes of data; its tensors take {place:,}")
    if not (arrays or may_be_empty):
        raise refusal("has no tensors")
    return arrays


def _header_of(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """Return the JSON header of a safetensors file, and the bytes after the header. Raises `ValidationError`."""
    if len(data) < 8:
        raise refusal("is no safetensors file: it is shorter than its first number")
    (length,) = struct.unpack("<Q", data[:8])
    if length > min(LONGEST_HEADER, len(data) - 8):
        more = _kind_of(data)
        raise refusal(
            more or f"is no safetensors file: its header would be {length:,} bytes long; it has {len(data):,}"
        )
    try:
        text = bytes(data[8 : 8 + length]).decode()
        header = json.loads(text, object_pairs_hook=_unique)
        _check_text(header, text)
    except (ValueError, RecursionError) as error:
        raise refusal(f"is no safetensors file: its header is not JSON ({str(error)[:80]})") from None
    if not isinstance(header, dict):
        raise refusal("is no safetensors file: its header is no object")
    return header, data[8 + length :]


def _check_text(header: Any, text: str) -> None:
    """Refuse halves of characters, which JSON can write as escapes and UTF-8 cannot."""
    if "\\ud" in text.lower():
        for name in header if isinstance(header, dict) else ():
            _check_name(name)
        if not _is_text(json.dumps(header, ensure_ascii=False)):
            raise ValueError("it has an unpaired surrogate")


def _check_name(name: str) -> None:
    if not _is_text(name):
        raise refusal(f"tensor {name[:40]!a} has an unpaired surrogate in its name, which is no character")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_metadata(entry: Any) -> None:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise refusal(f"has {METADATA} {shown(entry)}; it takes an object of strings")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object as a dict. Raises `ValueError` for a repeated name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in it")
    return found


def _kind_of(data: memoryview) -> str:
    """Return a sentence that says which other kind of file this is. The sentence is empty for unknown kinds."""
    start = bytes(data[:8])
    if start.startswith(b"\x89HDF"):
        return "is an HDF5 file of Keras (.h5), which a server does not read; run: nabla convert model.h5"
    if start.startswith(b"PK"):
        return (
            "is a zip: for an npz send it as 'npz'; for a .keras file run: nabla convert model.keras; a .pt file is a "
            "pickle, which is never read: save it with safetensors.torch.save_file(model.state_dict(), …)"
        )
    if start.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return (
            "is a pickle, which can run code and is never read; in PyTorch save the weights with "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        )
    return ""


def _tensor(name: str, entry: Any, body: memoryview) -> tuple[Array, tuple[int, int]]:
    """Return an array of a safetensors file, and the start and end of its bytes. Raises `ValidationError`."""
    known = isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}
    if not known:
        raise refusal(f"tensor {shown(name)} has no dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    check_shape(name, shape)
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(n) is int and n >= 0 for n in offsets)):
        raise refusal(f"tensor {shown(name)} has data_offsets {shown(offsets)}; it takes two positions")
    start, stop = offsets
    if not isinstance(dtype, str) or not (dtype in READ or dtype == "BF16"):
        readable = ", ".join(sorted({*READ, "BF16"}))
        raise refusal(f"tensor {shown(name)} holds {shown(dtype)}; {readable} are read")
    size = 2 if dtype == "BF16" else np.dtype(READ[dtype]).itemsize
    if stop - start != math.prod(shape) * size or stop > len(body):
        raise refusal(
            f"tensor {shown(name)} of shape {shape} and {dtype} takes {math.prod(shape) * size:,} bytes; its place in "
            f"the file is {start:,} to {stop:,} of {len(body):,}"
        )
    part = body[start:stop]
    if dtype == "BF16":  # the upper half of a float32
        wide = np.frombuffer(part, "<u2").astype("<u4") << 16
        return checked(name, wide.view("<f4").reshape(shape)), (start, stop)
    return checked(name, np.frombuffer(part, READ[dtype]).reshape(shape)), (start, stop)


def check_shape(name: str, shape: Any) -> None:
    """Refuse a value that is no shape of an array."""
    if not isinstance(shape, list | tuple) or not all(type(n) is int and 0 <= n < 2**53 for n in shape):
        raise refusal(f"tensor {shown(name)} has shape {shown(shape)}; it takes a list of integers")
    if len(shape) > MOST_AXES or 0 in shape:
        raise refusal(
            f"tensor {shown(name)} has shape {shown(list(shape))}; at most {MOST_AXES} axes, none of them empty"
        )


def checked(name: str, array: Array) -> Array:
    """Return an array of finite numbers with a dtype that the service takes, or refuse the array."""
    if array.dtype.name not in KEPT:
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = [int(n) for n in np.argwhere(~np.isfinite(array))[0]]
        raise refusal(f"tensor {shown(name)} holds {float(array[tuple(place)])} at {place}; numbers must be finite")
    return array


def dump_safetensors(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> list[bytes]:
    """Return the pieces of a safetensors file. The widest numbers come first, so that all arrays are aligned."""
    ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
    header: dict[str, Any] = {METADATA: dict(metadata)}
    place = 0
    for name, array in ordered:
        header[name] = {
            "dtype": WRITTEN[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [place, place + array.nbytes],
        }
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [struct.pack("<Q", len(text)) + text, *(_little_endian(array).tobytes() for _, array in ordered)]


def _little_endian(array: Array) -> Array:
    """Return an array in little-endian byte order."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"))


# --- npz ------------------------------------------------------------------------------------------

BROKEN = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, ValueError, KeyError),
    *(NotImplementedError, RuntimeError, OverflowError, OSError, SyntaxError, TypeError, MemoryError),
)
"""The exceptions that zipfile and NumPy raise for a file that is not an npz."""
END = b"PK\x05\x06"


def load_npz(data: bytes | memoryview) -> dict[str, Array]:
    """Return the arrays of an npz file by name. Raises `ValidationError`."""
    whole = bytes(data)
    end = whole.rfind(END, max(0, len(whole) - 65_557))
    if end < 0 or len(whole) < end + 22:
        raise refusal(_kind_of(memoryview(whole)) or "is no npz file: it has no list of arrays at its end")
    (directory,) = struct.unpack("<L", whole[end + 12 : end + 16])
    if directory > LONGEST_DIRECTORY:
        raise refusal(f"lists its arrays in {directory:,} bytes; at most {LONGEST_DIRECTORY:,} are read")
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            return _members(archive, len(whole))
    except ValidationError:
        raise
    except BROKEN as error:
        raise refusal(f"is no npz file that can be read ({type(error).__name__}: {str(error)[:80]})") from None


def _members(archive: zipfile.ZipFile, length: int) -> dict[str, Array]:
    """Return the arrays in an npz archive of `length` bytes by name. Raises `ValidationError`."""
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > MOST_ARRAYS:
        raise refusal(f"holds {len(members):,} arrays; at most {MOST_ARRAYS:,} are read")
    if "config.json" in names and "model.weights.h5" in names:
        raise refusal("is a .keras file, which a server does not read; run: nabla convert model.keras")
    if any(name.endswith("data.pkl") for name in names):
        raise refusal(
            "is a file of torch.save, a pickle, which is never read; save the weights with "
            "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
        )
    expanded = sum(member.file_size for member in members)
    if expanded > MOST_EXPANDED * length:
        raise refusal(
            f"expands from {length:,} to {expanded:,} bytes, more than {MOST_EXPANDED} times; send it uncompressed, as "
            "numpy.savez writes it"
        )
    if len(set(names)) < len(names):
        raise refusal("holds two arrays of one name")
    arrays: dict[str, Array] = {}
    for member in members:
        if not member.filename.endswith(".npy"):
            raise refusal(f"holds {shown(member.filename)}, which is no array (.npy)")
        name = member.filename.removesuffix(".npy")
        with archive.open(member) as stream:
            content = stream.read(member.file_size + 1)
        if len(content) != member.file_size:
            raise refusal(f"array {shown(name)} is cut off or longer than the list says")
        _check_name(name)
        array = _npy(name, content)
        if array is not None:
            arrays[name] = array
    if not arrays:
        raise refusal("has no arrays of numbers")
    return arrays


def _npy(name: str, content: bytes) -> Array | None:
    """Return an array of an npz file.

    None: the entry is a text, which answers of this service hold beside their arrays.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise refusal(f"array {shown(name)} is of version {version} of the format; 1.0 and 2.0 are read")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(stream)
    if dtype.kind == "U":
        return None
    if dtype.hasobject or dtype.kind not in "fiu" or dtype.itemsize > 8 or dtype == np.dtype(np.uint64):
        raise refusal(f"array {shown(name)} holds {dtype}; floats and integers of at most 64 bits are read, no objects")
    check_shape(name, shape)
    rest = memoryview(content)[stream.tell() :]
    if len(rest) != math.prod(shape) * dtype.itemsize:
        raise refusal(f"array {shown(name)} of shape {list(shape)} has {len(rest):,} bytes")
    array: Array = np.frombuffer(rest, dtype).reshape(shape, order="F" if columns_first else "C")
    return checked(name, array.astype(dtype.newbyteorder("="), copy=False))


def dump_npz(arrays: Mapping[str, Array], texts: Mapping[str, str]) -> list[bytes]:
    """Return the pieces of an npz file, uncompressed and without a date, so that equal arrays give equal bytes.

    Texts are stored as arrays of one string.
    """
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, array in (*arrays.items(), *((name, np.array(text)) for name, text in texts.items())):
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getbuffer())
    return [target.getvalue()]
