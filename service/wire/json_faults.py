"""Sentences for bodies that are not JSON: what is wrong at which place, and what JSON has instead."""

from __future__ import annotations

import re

import orjson

from schemas.messages import NOT_FINITE
from service.wire.body import A_MODEL_FILE

SHOWN = 24
"""The number of characters shown from the place where parsing stopped."""

ITS_NUMBERS = "send its numbers as nested lists in a JSON object"
_FILES: tuple[tuple[bytes, str], ...] = (
    (rb"\x1f\x8b", "gzip; send it with the header 'Content-Encoding: gzip'"),
    (rb"PK\x03\x04", f"a zip archive, such as .keras or .npz; {A_MODEL_FILE}"),
    (rb"\x89HDF", f"an HDF5 file, such as .h5; {A_MODEL_FILE}"),
    (rb"\x93NUMPY", f"a .npy file; {ITS_NUMBERS}"),
    (rb"\x80[\x02-\x05]", f"a pickle of Python; {ITS_NUMBERS}"),
    (rb"\x89PNG|\xff\xd8\xff", "a picture; send its pixels as nested lists of numbers"),
)  # fmt: skip
"""Beginnings of files, as patterns, and what they are."""
_STARTS: tuple[tuple[str, str], ...] = (
    (r"```", "this is Markdown; send only what stands between the lines of ```"),
    (r"'\s*[{\[]", "the quotation marks around it came along: a shell on Windows needs double ones, or a file"),
    (r"@\S+$", "this is the name of a file; curl sends its content with --data @file or --json @file"),
    (r"%7[bB]", "this is percent-encoded; send the JSON itself"),
    (r"eyJ[\w+/=]*", "this is base64; send the JSON itself"),
    (r"(JSON\.stringify|json\.dumps)\(", "this is a call; send the text that it gives"),
    (r"(const|let|var)?\s*\w+\s=\s", "this is a line of a program; send only the value, which begins with {"),
    (r"--[\w-]+\r?\n", "this is a multipart form; send a JSON object, such as {\"key\": \"value\"}"),
    (r"[\w.%+\[\]-]+=", "this is a form; send a JSON object, such as {\"key\": \"value\"}"),
    (r"<", "this is XML or HTML; send a JSON object"),
    (r"---|[A-Za-z_]\w*:\s", "this is YAML; in JSON keys stand in double quotation marks and an object in { and }"),
)  # fmt: skip
"""Beginnings of bodies in other formats, as patterns, each with its sentence."""
_HERE: tuple[tuple[str, str], ...] = (
    (r"(?i:nan|inf(inity)?)\b", f"{NOT_FINITE}"),
    (r"undefined\b", "JSON has no undefined: write null, or leave the key out"),
    (r"None\b", "JSON has no None: write null, or leave the key out"),
    (r"(True|False|TRUE|FALSE)\b", "JSON writes true and false in lower case"),
    (r"(?i:null|nil)\b", "JSON writes null, in lower case"),
    (r"(?i:yes|no|on|off)\b", "JSON writes true or false"),
    (r"\\\"", "the quotation marks are escaped: the body was encoded twice"),
    (r"'", "JSON has no single quotation marks: strings and keys stand in double ones"),
    (r"[“”„‟«»‘’`]", 'JSON has one kind of quotation mark, "'),
    (r"//|/\*|#", "JSON has no comments: leave them out"),
    (r"(\w+\.)*[A-Za-z_]\w*\(", "JSON has no calls: write arrays as nested lists, such as [[1, 2], [3, 4]]"),
    (r"\(", "JSON writes lists in [ and ], not in parentheses"),
    (r"\.\d", "a number begins with a digit: 0.5, not .5"),
    (r"\+", "a positive number has no sign in JSON"),
    (r";", "JSON separates entries by commas"),
    (r"\.\.\.|…", "three dots stand for nothing in JSON: write everything out"),
)  # fmt: skip
"""Text at the place where parsing stopped, as patterns, each with the advice for it."""
_AFTER_NUMBER: tuple[tuple[str, str], ...] = (
    (r"[xXoObB][0-9a-fA-F]", "JSON writes numbers in decimal digits"),
    (r"_", "the digits of a number stand together: 1000, not 1_000"),
    (r"[-*/^+]", "JSON has no arithmetic: write the number itself"),
    (r"[a-zA-Z%]", "a number has nothing after its digits: no unit and no suffix"),
)  # fmt: skip


def _file(body: bytes) -> str:
    """Return what kind of file a body is; "" if it is none that is known."""
    if body[8:9] == b"{" and int.from_bytes(body[:8], "little") < len(body):
        return f"a safetensors file; {A_MODEL_FILE}"
    return next((what for beginning, what in _FILES if re.match(beginning, body)), "")


def json_fault(body: bytes, error: orjson.JSONDecodeError) -> str:
    """Return a sentence that says why a body is not JSON; `error` is orjson's."""
    file = _file(body)
    if file:
        return f"The body is no JSON, but {file}."
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or body[1:2] == b"\0" or body[:1] == b"\0":
        return "The body is in UTF-16 or UTF-32; send it in UTF-8."
    text, position = error.doc, error.pos
    if text.startswith("\ufeff"):
        return "The body begins with a byte order mark (BOM); send it in UTF-8 without one."
    if not text:
        return "The body is not in UTF-8; send the text encoded in UTF-8."
    if not text.strip():
        return "The body is empty; a JSON object is needed."
    rest = " ".join(text[position : position + SHOWN].split())
    more = "…" if len(text) > position + SHOWN else ""
    shown = f" ({rest}{more})" if rest else ""
    return (
        f"The body is not JSON at line {error.lineno}, column {error.colno}{shown}: {_why(text, position, error.msg)}."
    )


def _why(text: str, position: int, message: str) -> str:
    rest, before = text[position : position + 100], text[max(0, position - 20) : position]
    if before.strip() in ("", "-"):
        found = _matching(_STARTS, text[: position + 100].lstrip())
        if found:
            return found
        if re.match(r"\w[^{]*\{", text):
            return "words stand before it: send only the object, which begins with {"
    if re.search(r"\d$", before):
        found = _matching(_AFTER_NUMBER, rest)
        if found and not re.match(r"//|/\*", rest):
            return found
    if re.search(r"\d,$", before) and rest[:1].isdigit():
        return "a number has a decimal point, not a comma"
    found = _matching(_HERE, rest)
    if found:
        return found
    for part, sentence in (
        ("trailing comma", "a comma after the last entry is not allowed in JSON"),
        ("string key", "keys stand in double quotation marks in JSON"),
        ("leading zero", "a number has no leading zero in JSON"),
        ("after decimal point", "a digit follows the decimal point in JSON: 1.0, not 1."),
        ("infinity when parsed", "the number is too large: the largest is about 1.8e308"),
        ("end of data", "it ends too early: a bracket or a quotation mark is not closed"),
        ("control character", r"a line break or a tab inside a string is written as \n or \t"),
        ("after key", "a colon follows each key"),
        ("depth", "it is nested too deeply"),
    ):
        if part in message:
            return sentence
    if "after document" in message:
        extra = "there is a closing bracket too many" if rest[:1] in "}]" else "one object at a time"
        return f"something follows its end; {extra}"
    if "expected ','" in message and rest[:1] in ("}", "]"):
        return "this bracket does not close the one that is open"
    if "expected ','" in message and re.match(r'["{\[\d-]', rest):
        return "a comma is missing between two entries"
    return message


def _matching(table: tuple[tuple[str, str], ...], text: str) -> str:
    return next((sentence for pattern, sentence in table if re.match(pattern, text)), "")
