"""The wire: bytes to Python and back. Nothing here knows what a request means.

    body.py          the bytes of a request's body, read within bounds and decompressed
    structure.py     counts of a body's parts, before it is parsed
    parsing.py       a JSON object out of the bytes
    large_json.py    arrays of numbers as NumPy arrays, without a Python object for each number
    long_text.py     long texts of base64, which stay in the body until they are decoded
    json_faults.py   the sentence that says why a body is not JSON
    negotiation.py   the form, the encoding and the language that a client's headers choose
    writing.py       JSON of a response, in pieces where it is long, and gzip

Functions take the WSGI environment as PEP 3333 defines it.
"""

from service.wire.body import announced_length, check_content_type, check_encoding, read_body
from service.wire.long_text import LongTexts
from service.wire.negotiation import (
    BINARY,
    EVENTS,
    FILES,
    JSON,
    LAYOUTS,
    MULTIPART,
    NDJSON,
    NPZ,
    SAFETENSORS,
    Form,
    accepts_gzip,
    check_accept,
    form_and_base64,
    form_of_steps,
    preferred_language,
    wanted_layout,
)
from service.wire.parsing import LARGE_BODY, Parsed, parse
from service.wire.writing import SMALLEST_COMPRESSED, compress, document, document_in_pieces

__all__ = [
    "BINARY",
    "EVENTS",
    "FILES",
    "JSON",
    "LARGE_BODY",
    "LAYOUTS",
    "MULTIPART",
    "NDJSON",
    "NPZ",
    "SAFETENSORS",
    "SMALLEST_COMPRESSED",
    "Form",
    "LongTexts",
    "Parsed",
    "accepts_gzip",
    "announced_length",
    "check_accept",
    "check_content_type",
    "check_encoding",
    "compress",
    "document",
    "document_in_pieces",
    "form_and_base64",
    "form_of_steps",
    "parse",
    "preferred_language",
    "read_body",
    "wanted_layout",
]
