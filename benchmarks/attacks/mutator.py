"""A generator of wrong requests: documented examples with types swapped, keys dropped, extreme numbers and so on.

A `Mutator` is deterministic: the same seed gives the same requests in the same order. It takes paths, examples and
words from the OpenAPI description of the server under attack.
"""

from __future__ import annotations

import base64
import copy
import gzip
import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, -0.0, 1, -1, 2, 3, 7, 0.5, -0.5, 1e-9, 1e-300, 5e-324, 1e9, 1e16, 1e300, 1.7976931348623157e308),
    *(-1e308, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 1e-16, 0.1, 100, 1000, 255, 1.0),
)
RAW_NUMBERS = ("1e400", "-1e400", "NaN", "Infinity", "-Infinity", "01", "+1", "1.", ".5", "0x1F", "9" * 40, "1e", "-")
"""Written into the text as they are; most are no JSON."""
STRINGS = (
    *("", " ", "0", "1", "NaN", "null", "true", "x", "input", "mean", "\u0000", "é", "\u202e", "😀" * 9, "a" * 300),
    *("{0.__class__}", "%s%n", "../..", "__proto__", "x" * 5000, "\ud800", "dense", "adam", "relu", "inputs", "hidden"),
)
EXPRESSION_PARTS = (
    *("x", "y", "z", "1", "0", "2", "e", "pi", "+", "-", "*", "/", "^", "(", ")", "|", ",", ".", "e9", "**", "=", " "),
    *("sin(", "log(", "sqrt(", "max(", "abs(", "exp(", "x^x", "1/0", "!", "'", "if", "[", "∂", "²", "π", "·", "0.1.2"),
)
DTYPES = ("float64", "float32", "int64", "int8", "uint8", "float16", "bool", "<f8", ">f8", "complex128", "object", "O")
HEADERS: dict[str, tuple[str, ...]] = {
    "Content-Type": (
        *("application/json", "application/json; charset=utf-8", "text/plain", "", "application/xml", "json"),
        *("application/json; charset=utf-16", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"),
    ),
    "Accept": (
        *("*/*", "application/json", "application/json; tensors=base64", "application/x-ndjson", "text/event-stream"),
        *(
            "text/html",
            "",
            "application/json;q=0",
            "a/b;q=nan",
            ",,,",
            "application/x-ndjson; tensors=base64",
            "*/*;q=9",
        ),
    ),
    "Accept-Encoding": ("gzip", "identity", "gzip;q=0", "br", "*", "", "gzip, gzip", "identity;q=0", "deflate"),
    "X-Request-Id": ("abc-1", "", "a b", "x" * 200, "é", "../"),
    "Authorization": ("Bearer x", "Basic eA==", "Bearer", "", "Bearer " + "k" * 3000),
    "X-Forwarded-For": ("1.2.3.4", "1.2.3.4, 5.6.7.8", "x" * 500, "::1", "127.0.0.1"),
    "X-Forwarded-Proto": ("https", "http", "x"),
    "X-Forwarded-Prefix": ("/nabla", "//evil", "/" + "x" * 500),
    "Origin": ("http://localhost:1", "https://evil.example", "null", "x", ""),
    "Expect": ("100-continue",),
    "Range": ("bytes=0-1",),
    "If-None-Match": ("*",),
    "Cookie": ("a=b",),
    "Accept-Language": ("zh-CN", "zh;q=nan", "*", ""),
    "Idempotency-Key": ("one", "", "a b", "x" * 300, "é"),
    "Last-Event-ID": ("7", "", "-1", "x", "9" * 40),
}
PAD = 40_000
"""More spaces than a small body has: the server reads large bodies in another way."""


@dataclass(frozen=True)
class Attempt:
    """One generated request, with the mutations that it had."""

    method: str
    path: str
    body: bytes | None
    headers: dict[str, str]
    value: Any = None
    """The value of the body, if it is JSON as it was meant."""
    kinds: tuple[str, ...] = ()
    """The names of its mutations."""


@dataclass(frozen=True)
class Described:
    """The examples, paths and words that an OpenAPI description has for requests."""

    examples: list[tuple[str, Any]]
    """Paths of POST requests with bodies."""
    paths: list[str]
    """The paths of GET requests."""
    words: list[str]
    """Names of keys and all words that requests may use."""
    streamed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Described:
        examples, paths, streamed = [], [], set()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if method == "get":
                    paths.append(path.replace("{name}", "relu").replace("{id}", "0" * 32))
                content = operation.get("requestBody", {}).get("content", {})
                for media in content.values():
                    examples += [(path, example["value"]) for example in media.get("examples", {}).values()]
                if "application/x-ndjson" in operation.get("responses", {}).get("200", {}).get("content", {}):
                    streamed.add(path)
        return cls(examples, paths, sorted(set(_words(document["components"]))), streamed)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("properties"), dict):
            yield from value["properties"]
        for key in ("enum", "const"):
            found = value.get(key, ())
            yield from (word for word in (found if isinstance(found, list) else [found]) if isinstance(word, str))
        for inner in value.values():
            yield from _words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _words(inner)


class Raw(str):
    """Text to write into the JSON document as it is, such as NaN, which is no valid JSON."""


class Mutator:
    """An endless iterator of wrong requests."""

    def __init__(self, described: Described, seed: int) -> None:
        self.described = described
        self.random = random.Random(seed)

    def __iter__(self) -> Iterator[Attempt]:
        while True:
            yield self.attempt()

    def attempt(self) -> Attempt:
        """Generate the next request, usually wrong: an example with one to five random changes."""
        dice = self.random
        if dice.random() < 0.03:
            return self._without_body()
        path, example = dice.choice(self.described.examples)
        value = copy.deepcopy(example)
        kinds: list[str] = []
        for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5))):
            value = self._mutated(value, kinds)
        headers = {"Content-Type": "application/json"}
        if path in self.described.streamed and dice.random() < 0.2:
            headers["Accept"] = dice.choice(("application/x-ndjson", "text/event-stream"))
        if dice.random() < 0.1:
            name = dice.choice(list(HEADERS))
            headers[name] = dice.choice(HEADERS[name])
            kinds.append(f"header {name}")
        if dice.random() < 0.02:
            path = self._path(path)
            kinds.append("path")
        method = "POST"
        if dice.random() < 0.01:
            method = dice.choice(("PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "GET", "TRACE", "BREW"))
            kinds.append("method")
        text, exact = self._text(value, kinds)
        body = self._bytes(text, headers, kinds)
        exact = exact and "bytes" not in kinds
        return Attempt(method, path, body, headers, value if exact else None, tuple(kinds))

    def _without_body(self) -> Attempt:
        dice = self.random
        path = dice.choice(self.described.paths)
        if dice.random() < 0.5:
            path = self._path(path)
        headers = {}
        for _ in range(dice.randrange(3)):
            name = dice.choice(list(HEADERS))
            headers[name] = dice.choice(HEADERS[name])
        method = dice.choice(("GET", "GET", "GET", "HEAD", "OPTIONS", "DELETE", "POST"))
        return Attempt(method, path, None, headers, None, ("no body",))

    def _path(self, path: str) -> str:
        dice = self.random
        choices = (
            lambda: path + "/",
            lambda: "/" + path,
            lambda: path.upper(),
            lambda: path[: dice.randrange(1, len(path) + 1)],
            lambda: (
                path + dice.choice(("?", "?a=b", "?%", "?name=%00", "%00", "%ff", "%2e%2e", ";x", "/../metrics", "/é"))
            ),
            lambda: path.replace("/", "//"),
            lambda: path + "/" + "x" * dice.choice((1, 100, 3000)),
            lambda: "/problems/" + dice.choice(self.described.words),
            lambda: "/v1/" + dice.choice(("layers", "losses", "optimizers")) + "/" + dice.choice(self.described.words),
        )
        return dice.choice(choices)().replace(" ", "%20")

    # --- the document ---------------------------------------------------------------------------

    def _places(self, value: Any) -> list[tuple[Any, Any]]:
        """Return all `(container, key)` pairs within a JSON value, with at most five entries of each long list."""
        found: list[tuple[Any, Any]] = []
        pending = [value]
        while pending:
            inner = pending.pop()
            if isinstance(inner, dict):
                found += [(inner, key) for key in inner]
                pending += inner.values()
            elif isinstance(inner, list):
                # Of long lists some places are enough, or most mutations would be one number of many.
                some = range(len(inner)) if len(inner) < 6 else self.random.sample(range(len(inner)), 5)
                found += [(inner, index) for index in some]
                pending += [inner[index] for index in some]
        return found

    def _mutated(self, value: Any, kinds: list[str]) -> Any:
        places = self._places(value)
        if not places or self.random.random() < 0.005:
            kinds.append("root")
            return self._other(value)
        container, key = self.random.choice(places)
        kind = self.random.choices(*self.KINDS)[0]
        kinds.append(f"{kind} {key}")
        getattr(self, f"_{kind}")(container, key)
        return value

    KINDS = (
        (
            "retype",
            "drop",
            "rename",
            "extreme",
            "nest",
            "swap",
            "resize",
            "typed",
            "add",
            "word",
            "expression",
            "tweak",
        ),
        (14, 7, 5, 14, 4, 6, 8, 7, 8, 12, 9, 26),
    )

    def _other(self, value: Any) -> Any:
        """Return a random value of a random type; some contain `value`."""
        dice = self.random
        return dice.choice(
            (
                None,
                True,
                False,
                dice.choice(NUMBERS),
                dice.choice(STRINGS),
                dice.choice(self.described.words),
                Raw(dice.choice(RAW_NUMBERS)) if dice.random() < 0.3 else 1,
                [],
                {},
                [value],
                {"type": value},
                [[1, 2], [3]],
                [None],
                {"l2": -1},
                str(value)[:200],
                [dice.choice(NUMBERS) for _ in range(dice.randrange(5))],
            )
        )

    def _retype(self, container: Any, key: Any) -> None:
        container[key] = self._other(container[key])

    def _drop(self, container: Any, key: Any) -> None:
        del container[key]

    def _rename(self, container: Any, key: Any) -> None:
        if isinstance(container, dict):
            name = str(key)
            place = self.random.randrange(len(name) + 1)
            renamed = (
                name[:place] + self.random.choice(("", "s", "_", "X")) + name[place + 1 :],
                self.random.choice(self.described.words),
                name.upper(),
                name + " ",
            )
            container[self.random.choice(renamed)] = container.pop(key)
        else:
            container.insert(key, copy.deepcopy(container[key]))

    def _extreme(self, container: Any, key: Any) -> None:
        numbers = [place for place in self._places(container) if _is_number(place[0][place[1]])]
        inner, place = self.random.choice(numbers) if numbers else (container, key)
        inner[place] = self.random.choice(NUMBERS)

    def _tweak(self, container: Any, key: Any) -> None:
        """Change a value a little, so that the request may stay valid."""
        dice = self.random
        value = container[key]
        if isinstance(value, bool):
            container[key] = not value
        elif _is_number(value):
            container[key] = dice.choice((value + 1, value - 1, -value, value * 2, value / 2, float(value), int(value)))
        elif isinstance(value, str):
            container[key] = dice.choice((value, dice.choice(self.described.words), {"type": value}))
        elif isinstance(value, list):
            dice.shuffle(value)

    def _nest(self, container: Any, key: Any) -> None:
        value = container[key]
        for _ in range(self.random.choice((1, 1, 2, 3, 40, 200))):
            value = [value] if self.random.random() < 0.7 else {self.random.choice(self.described.words): value}
        container[key] = value

    def _swap(self, container: Any, key: Any) -> None:
        _, donor = self.random.choice(self.described.examples)
        inner, place = self.random.choice(self._places(donor))
        container[key] = copy.deepcopy(inner[place])

    def _resize(self, container: Any, key: Any) -> None:
        dice = self.random
        lists = [place for place in self._places(container) if isinstance(place[0][place[1]], list)]
        inner, place = dice.choice(lists) if lists else (container, key)
        value = inner[place] if isinstance(inner[place], list) else [inner[place]]
        times = dice.choice((0, 2, 3, 17, 300 if len(str(value)) < 200 else 2))
        inner[place] = dice.choice((value[:-1], value[1:], value[:1], [copy.deepcopy(v) for v in value * times]))

    def _typed(self, container: Any, key: Any) -> None:
        """Replace a list, if there is one, by a random typed array, valid or not."""
        dice = self.random
        shape: Any = [dice.choice((0, 1, 2, 3, 4)) for _ in range(dice.randrange(4))]
        count = 1
        for length in shape:
            count *= length
        data = base64.b64encode(bytes(dice.choice((0, 63, 127, 128, 255)) for _ in range(8 * count))).decode()
        array = {"dtype": dice.choice(DTYPES), "shape": shape, "base64": data}
        if dice.random() < 0.5:
            array["dtype"] = "float64"
        if dice.random() < 0.4:
            part = dice.choice(("dtype", "shape", "base64"))
            rows = dice.choice(([[1, 2], [3, 4]], [1, 2], [[]], [[1, 2], [3]], [[1e300]], [True]))
            array[part] = dice.choice(
                (self._other(array[part]), rows, data[:-1], data + "=", "!!!!", [2**40] * 3, None)
            )
        if dice.random() < 0.1:
            array.pop(dice.choice(list(array)))
        lists = [place for place in self._places(container) if isinstance(place[0][place[1]], list)]
        inner, place = dice.choice(lists) if lists else (container, key)
        inner[place] = array

    def _add(self, container: Any, key: Any) -> None:
        name = self.random.choice(self.described.words)
        target = container[key] if isinstance(container[key], dict) else container
        if isinstance(target, dict):
            target[name] = self._other(self.random.choice(NUMBERS))
        else:
            target.append(self._other(name))

    def _word(self, container: Any, key: Any) -> None:
        """Replace a string, if there is one, by a random word that requests may contain."""
        words = [place for place in self._places(container) if isinstance(place[0][place[1]], str)]
        inner, place = self.random.choice(words) if words else (container, key)
        inner[place] = self.random.choice(self.described.words)

    def _expression(self, container: Any, key: Any) -> None:
        dice = self.random
        value = container.get("expression") if isinstance(container, dict) else None
        if not isinstance(value, str):
            self._word(container, key)
            return
        for _ in range(dice.randrange(1, 4)):
            place = dice.randrange(len(value) + 1)
            value = value[:place] + dice.choice(("", *EXPRESSION_PARTS)) + value[place + dice.randrange(3) :]
        if dice.random() < 0.05:
            value = dice.choice(("(" * 60 + value, value * 40, "-" * 500 + value, "^".join("x" * 60)))
        container["expression"] = value

    # --- the bytes ------------------------------------------------------------------------------

    def _text(self, value: Any, kinds: list[str]) -> tuple[str, bool]:
        """Return `value` as JSON text, and whether it still means `value`: `Raw` parts and repeated keys change it."""
        raws: list[str] = []

        def marked(inner: Any) -> Any:
            if isinstance(inner, Raw):
                raws.append(str(inner))
                return f"@raw{len(raws) - 1}@"
            if isinstance(inner, dict):
                return {str(key): marked(item) for key, item in inner.items()}
            if isinstance(inner, list):
                return [marked(item) for item in inner]
            return inner

        text = json.dumps(marked(value), ensure_ascii=self.random.random() < 0.5)
        for number, raw in enumerate(raws):
            text = text.replace(f'"@raw{number}@"', raw)
        exact = not raws
        if self.random.random() < 0.04 and text.startswith("{") and len(text) > 2:
            kinds.append("same key twice")
            text = text[:-1] + ', "inputs": 1, "inputs": [[2]]}'
            exact = False
        if self.random.random() < 0.15:
            kinds.append("large")
            text = " " * PAD + text
        return text, exact

    def _bytes(self, text: str, headers: dict[str, str], kinds: list[str]) -> bytes:
        dice = self.random
        body = text.encode("utf-8", "surrogatepass")
        if dice.random() < 0.04:
            kinds.append("bytes")
            place = dice.randrange(len(body) + 1)
            body = dice.choice(
                (
                    body[:place],
                    body[:place] + bytes([dice.randrange(256)]) + body[place + 1 :],
                    body[:place] + dice.choice((b"\0", b",", b"]", b"}", b'"', b"\\", b"\xff", b"{")) + body[place:],
                    text.encode("utf-16", "surrogatepass"),
                    b"\xef\xbb\xbf" + body,
                    body + body,
                    b"",
                )
            )
        if dice.random() < 0.05:
            kinds.append("encoding")
            packed = gzip.compress(body, 1, mtime=0)
            encoding, body = dice.choice(
                (
                    ("gzip", packed),
                    ("gzip", packed),
                    ("gzip", packed[: len(packed) // 2]),
                    ("gzip", packed + b"x"),
                    ("gzip", packed + packed),
                    ("gzip", body),
                    ("gzip", zlib.compress(body)),
                    ("deflate", zlib.compress(body)),
                    ("gzip, gzip", gzip.compress(packed, mtime=0)),
                    ("identity", body),
                    ("br", body),
                    ("x-gzip", packed),
                )
            )
            headers["Content-Encoding"] = encoding
        return body


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
