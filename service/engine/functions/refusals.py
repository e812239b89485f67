"""The sentences that refuse an expression: where it cannot be read, and what to write instead."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Sequence
from itertools import islice

from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest
from service.engine.functions.foreign_calls import advice
from service.engine.functions.slips import HINTS, of_a_function
from service.engine.functions.tokens import (
    CONSTANTS,
    FUNCTIONS,
    LONGEST_QUOTE,
    OPERATORS,
    SUPERSCRIPTS,
    TOKEN,
    Token,
    shown,
    tokens,
)
from service.engine.functions.vocabulary import Word

ALIKE = 0.65
"""Least similarity of a name that is suggested."""
MOST_SUGGESTIONS = 10
"""Most faults with a similar name: the search is slow, and the first few teach enough."""


class Refusing:
    """The tokens of a text, with methods that make the error about one of them. The parser inherits it."""

    __slots__ = ("at", "listed", "text", "tokens", "unknown")

    def __init__(self, text: str, listed: tuple[str, ...] | None) -> None:
        self.text = text
        self.listed = listed
        self.tokens = tokens(text)
        self.at = 0
        self.unknown: dict[str, tuple[Token, bool]] = {}
        """Unknown names, each with its first token and whether a parenthesis follows that."""

    def refused(self, token: Token, sentence: str) -> InvalidRequest:
        """Return the error about a token, after the faults about unknown names before this token."""
        return InvalidRequest([*self.unknown_names()[: MOST_ERRORS - 1], self.fault(token, sentence)])

    def fault(self, token: Token, sentence: str, allowed: Sequence[str] = ()) -> Fault:
        before = " ".join(self.text[: token.start].split())
        if before and self.text[token.start - 1].isspace():
            before += " "
        if len(before) > LONGEST_QUOTE // 2:
            before = "…" + before[-LONGEST_QUOTE // 2 :]
        after = f', after "{before}"' if before else ""
        return Fault(("expression",), f"at column {token.start + 1}{after}: {sentence}", tuple(allowed))

    def unexpected(self, token: Token, expected: str) -> InvalidRequest:
        if token.kind == "other":
            pair = self.text[token.start : token.start + 2]
            return self.refused(token, _no_meaning("≠" if pair in ("!=", "==") else token.text))
        if token.text == self.tokens[self.at - 1].text == "/":
            return self.refused(token, "there is no //: a whole quotient is floor(x/y), and comments have no place")
        got = "the end" if token.kind == "end" else f'"{shown(token.text)}"'
        return self.refused(token, f"expected {expected}, got {got}")

    def number_after_operand(self, token: Token) -> InvalidRequest:
        before = self.tokens[self.at - 1]
        if before.kind == "number" and before.stop == token.start:
            return self.refused(token, f"a number has one point; got {shown(before.text + token.text)}")
        got = shown(token.text)
        return self.refused(token, f"expected an operator, got the number {got}; for a product write *{got}")

    def not_called(self, token: Token, word: Word) -> InvalidRequest:
        name, following = token.text, self.tokens[self.at + 1]
        takes = f"{name} takes its argument{'s' if word.arguments > 1 else ''} in parentheses"
        exponent = ""
        if following.kind == "superscript":
            exponent = following.text.translate(SUPERSCRIPTS)
        elif following.text == "⁻" or (following.kind == "operator" and OPERATORS[following.text] == "power"):
            after = self.tokens[self.at + 2]
            inverse = f"a{word.name}"
            if inverse in FUNCTIONS and (after.kind == "operator" or following.text == "⁻"):
                return self.refused(token, f"{takes}; its inverse is {inverse}(x), its reciprocal 1/{name}(x)")
            exponent = after.text if after.text.isdecimal() else "n"
        if exponent and word.arguments == 1:
            return self.refused(token, f"{takes}; a power of it is written {name}(x)^{shown(exponent)}")
        return self.refused(token, f"{takes}: {call_of(name, word)}")

    def stray_comma(self) -> InvalidRequest:
        before, comma, after = self.tokens[self.at - 1 : self.at + 2]
        hint = decimal_comma(before.text, after.text) or "; a decimal number has a point, as in 0.5"
        return self.refused(comma, f"a comma separates the arguments of a function only{hint}")

    def unknown_names(self) -> list[Fault]:
        faults: list[Fault] = []
        for name, (token, called) in islice(self.unknown.items(), MOST_ERRORS):
            allowed = [*(self.listed or ()), *(FUNCTIONS if called else ())]
            if not self.listed and called:
                sentence = f'"{token.text}" is no function; for a product write {token.text}*(…)'
            elif not self.listed:
                sentence = f'"{token.text}" is no variable: none is listed'
            else:
                what = "neither a variable nor a function" if called else "no variable"
                sentence = f'"{token.text}" is {what}: the variables are {", ".join(self.listed)}'
            if len(faults) < MOST_SUGGESTIONS:
                sentence += self.instead(name, allowed, called)
            faults.append(self.fault(token, sentence, allowed))
        return faults

    def instead(self, name: str, allowed: Sequence[str], called: bool) -> str:
        """Return a hint at what an unknown name probably means, to append to a sentence; empty if there is none."""
        if called and (other := advice(name)):
            return f"; {other}"
        factors = [] if self.listed is None else _factors(name, {*self.listed, *CONSTANTS}, called)
        if factors:
            return f"; for a product write {'*'.join(factors)}{'(…)' if factors[-1] in FUNCTIONS else ''}"
        call = "" if called else of_a_function(name, FUNCTIONS)
        if call:
            return f"; did you mean {call}?"
        by_lower_case = {candidate.lower(): candidate for candidate in (*allowed, *(() if called else CONSTANTS))}
        close = difflib.get_close_matches(name.lower(), by_lower_case, 1, ALIKE if len(name) > 1 else 1.0)
        return f"; did you mean {by_lower_case[close[0]]}?" if close else ""


def _factors(name: str, known: set[str], called: bool) -> list[str]:
    """Return the fewest known names that spell `name` one after the other; an empty list if none do. With `called`, the
    last one may be a function."""
    best: list[list[str] | None] = [[], *([None] * len(name))]
    for stop in range(1, len(name) + 1):
        for start in range(stop):
            front, part = best[start], name[start:stop]
            fits = part in known or (called and stop == len(name) and part in FUNCTIONS)
            shortest = best[stop]
            if front is not None and fits and (shortest is None or len(front) < len(shortest) - 1):
                best[stop] = [*front, part]
    return best[-1] or []


def decimal_comma(before: str, after: str) -> str:
    """Return the hint to write a decimal point, if a comma between two digits stands for one; else an empty text."""
    if before.isdecimal() and after.isdecimal():
        return f"; write {shown(f'{before}.{after}')} with a point"
    return ""


def call_of(name: str, word: Word) -> str:
    return f"{name}({', '.join(['…'] * word.arguments)})"


def _no_meaning(character: str) -> str:
    plain = unicodedata.normalize("NFKC", character)
    hint = HINTS.get(character) or HINTS.get(plain)
    if hint:
        return hint
    token = TOKEN.fullmatch(plain)
    if token and token.lastgroup != "other":
        return f'"{shown(character)}" is a special form of "{plain}"; type it as {plain}'
    return f'"{shown(character)}" has no meaning in an expression'
