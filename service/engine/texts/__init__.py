"""The sentences of answers, in every language.

The engine makes a `Sentence`: the key of a text, and arguments for its places. A view turns it into the language of the
request with `telling(language)`. Each language has a file of texts beside this module, `en.toml` and `zh.toml`, for
translators to edit; the head of `en.toml` explains how. `say` is always called with a literal key, so that the tests
can compare the code with the files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Any

LANGUAGES = ("en", "zh")
"""The first language is the default."""
FOLDER = Path(__file__).parent
DIGITS = 6
"""Significant digits of numbers in sentences; answers hold the exact numbers as well."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """A text by its key, such as `explain.forward.sum`, with the arguments for its places.

    An argument is a word of code, which is the same in every language, a number, another sentence, or a list of
    sentences and words. The argument `count` chooses the plural.
    """

    key: str
    arguments: Mapping[str, Any]


Tell = Callable[[Sentence], str]


def say(key: str, /, **arguments: Any) -> Sentence:
    """Return the sentence with this key; the arguments fill the places in braces."""
    return Sentence(key, arguments)


CATEGORIES = frozenset(("zero", "one", "two", "few", "many", "other"))
PLURALS: Mapping[str, Callable[[int], str]] = {
    "en": lambda count: "one" if count == 1 else "other",
    "zh": lambda count: "other",
}
"""The category of a whole number in each language, by the rules of the Unicode CLDR."""


@cache
def texts_of(language: str) -> dict[str, dict[str, str]]:
    """Return the texts of a language by key, each by category of plurals; the category `other` always exists."""
    content = tomllib.loads((FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}

    def add(prefix: str, table: Mapping[str, Any]) -> None:
        for name, value in table.items():
            key = f"{prefix}{name}"
            if isinstance(value, str):
                found[key] = {"other": value}
            elif CATEGORIES.issuperset(value):
                found[key] = dict(value)
            else:
                add(f"{key}.", value)

    add("", content)
    return found


def places(text: str) -> list[str]:
    """Return the names in braces of a text, each once."""
    return list(dict.fromkeys(name for _, name, _, _ in Formatter().parse(text) if name is not None))


@cache
def telling(language: str) -> Tell:
    """Return a function that writes sentences in a language. It raises `KeyError` for an unknown key or an unfilled
    place."""
    texts = texts_of(language)
    plural = PLURALS[language]
    between_words, between_sentences, stop = (texts[f"list.{key}"]["other"] for key in ("words", "sentences", "stop"))

    def written(argument: Any) -> str:
        if isinstance(argument, str):
            return argument
        if isinstance(argument, Sentence):
            return tell(argument)
        if isinstance(argument, int):
            return f"{argument:,}"
        if isinstance(argument, float):
            return short(argument)
        parts = [written(part) for part in argument]
        return (between_sentences if parts and parts[0].endswith(stop) else between_words).join(parts)

    def tell(sentence: Sentence) -> str:
        arguments = sentence.arguments
        forms = texts[sentence.key]
        text = forms["other"]
        if len(forms) > 1:
            text = forms.get(plural(arguments["count"]), text)
        if not arguments:
            return text
        return text.format_map({name: written(argument) for name, argument in arguments.items()})

    return tell


def short(number: float) -> str:
    """Return a number as text with six significant digits, as in `-1.25e-7` where it is small."""
    text = f"{number:.{DIGITS}g}"
    if "e" not in text:
        return text
    digits, exponent = text.split("e")
    return f"{digits}e{int(exponent)}"
