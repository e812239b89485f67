"""The tokens of an expression's text, and the names and signs that may occur in it."""

from __future__ import annotations

import re
from typing import NamedTuple

from service.engine.functions.vocabulary import Word, vocabulary

LONGEST_QUOTE = 40
"""Most characters of a text that a sentence quotes."""


class Token(NamedTuple):
    """A piece of the text that the parser reads as one: a number, a name, an operator or a mark."""

    kind: str
    """`number`, `name`, `operator`, `superscript`, `other`, `end`; a bracket, bar or comma is a kind of its own."""
    text: str
    start: int
    stop: int


OPERATORS = {alias: word.name for word in vocabulary if word.operator for alias in word.aliases}
NAMED: dict[str, Word] = {name: vocabulary[name] for name in vocabulary.names if not vocabulary[name].operator}
"""The functions and constants, by every name that they have."""
FUNCTIONS = {name: word for name, word in NAMED.items() if word.arguments}
CONSTANTS = {name: word for name, word in NAMED.items() if not word.arguments}

LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
)
GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", LETTERS.split(), strict=True))
GREEK |= {letter.upper(): name.capitalize() for letter, name in GREEK.items()}
GREEK |= {"ϵ": "epsilon", "ϑ": "theta", "ϰ": "kappa", "ϱ": "rho", "ς": "sigma", "ϕ": "phi"}
GREEK |= {"\N{MICRO SIGN}": "mu", "\N{OHM SIGN}": "Omega", "\N{INCREMENT}": "Delta"}

NAME = rf"[A-Za-z][A-Za-z0-9_]*|[{''.join(GREEK)}](?:[0-9]+|_[A-Za-z0-9_]+)?"
"""A Greek letter is a name by itself, at most with an index: 2πr is a product of three."""
TAKEN = sorted({*NAMED, *(letter for letter, name in GREEK.items() if name in NAMED)})
"""Names that no variable may have, for they are words."""
_SYMBOLS = [name for name in NAMED if not name.isascii() and name not in GREEK]
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SPACE = " \t\r\n\N{NO-BREAK SPACE}\u2000-\u200a\u202f\u3000"
TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    rf"|(?P<name>{'|'.join([NAME, *map(re.escape, _SYMBOLS)])})"
    rf"|(?P<operator>{'|'.join(map(re.escape, sorted(OPERATORS, key=len, reverse=True)))})"
    r"|(?P<mark>[(),|])"
    r"|(?P<superscript>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
    rf"|(?P<other>[^{_SPACE}])"
)
VALID_NAME = re.compile(NAME)


def tokens(text: str) -> list[Token]:
    """Return the tokens of a text; the last one has the kind `end`."""
    found_tokens = []
    for match in TOKEN.finditer(text):
        kind, found = match.lastgroup or "", match.group()
        found_tokens.append(Token(found if kind == "mark" else kind, found, *match.span()))
    found_tokens.append(Token("end", "", len(text), len(text)))
    return found_tokens


def latin(name: str) -> str:
    """Return a name with a Greek letter written out."""
    return name if name.isascii() else GREEK.get(name[0], name[0]) + name[1:]


def shown(text: str) -> str:
    """Return a text for a message: shortened, and with code points in place of characters that do not print."""
    if len(text) > LONGEST_QUOTE:
        text = text[: LONGEST_QUOTE - 1] + "…"
    return "".join(character if character.isprintable() else f"U+{ord(character):04X}" for character in text)
