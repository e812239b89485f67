"""From the text of an expression to its operations: a parser by precedence.

It builds a flat list of steps and evaluates nothing. Whatever it is given, it answers in bounded time: length, nesting
and steps are capped, and only what nests recurses. Every refusal says where, and what to write instead.

    x + y, x - y              bind least, from the left
    x * y, x / y, 2x, x(y+1)  a product without a sign binds as one with it: 1/2x is (1/2)*x
    -x, +x                    -x^2 is -(x^2)
    x^y, x**y                 from the right; the exponent may have a sign: 2^-x
    x², x³                    bind most: 2^x² is 2^(x^2)

A bar opens an absolute value where an operand is expected. Where an operator could stand it closes the innermost one
that was opened within the same parentheses; if there is none, it opens a factor.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import NamedTuple

from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest
from service.engine.functions.slips import ELSEWHERE, HINTS, of_a_function, slips, translation
from service.engine.functions.vocabulary import Word, vocabulary

LONGEST_EXPRESSION = 2000
DEEPEST_NESTING = 50
"""Parentheses, bars and exponents within each other."""
MOST_STEPS = 500
MOST_VARIABLES = 20
LONGEST_NAME = 31
_LONGEST_QUOTE = 40
_MOST_SUGGESTIONS = 10
"""Looking for a similar name takes long; the first few unknown names teach enough."""


class ExpressionStep(NamedTuple):
    """One operation of an expression; operands are positions of earlier steps."""

    word: str
    """`number`, `variable`, or the name of a word of the vocabulary."""
    operands: tuple[int, ...]
    start: int
    """Where its text begins in the expression, counted from 0."""
    stop: int
    text: str = ""
    """Of a number its literal, which `float` and `Fraction` take; of a variable its name."""


@dataclass(frozen=True, slots=True)
class Expression:
    """What was typed, and the operations that it means."""

    text: str
    variables: tuple[str, ...]
    steps: tuple[ExpressionStep, ...]
    """Operands before what takes them; the last is the value of the expression."""
    slips: tuple[str, ...] = ()
    """Sentences about variables that are probably none; only where nobody listed them."""

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """Equal for expressions that mean the same; their slips may differ."""
        return self.text, self.variables

    @property
    def flat_words(self) -> list[str]:
        """The words in it whose derivative is 0 everywhere, so that nothing flows back through them."""
        words = dict.fromkeys(step.word for step in self.steps)
        return [word for word in words if word in vocabulary and vocabulary[word].flat]

    def quoted(self, step: ExpressionStep) -> str:
        """The text of a step, shortened."""
        return _shown(" ".join(self.text[step.start : step.stop].split()))


class _Token(NamedTuple):
    kind: str
    """`number`, `name`, `operator`, `superscript`, `other`, `end`; a bracket, bar or comma is a kind of its own."""
    text: str
    start: int
    stop: int


_OPERATORS = {alias: word.name for word in vocabulary if word.operator for alias in word.aliases}
_NAMED: dict[str, Word] = {name: vocabulary[name] for name in vocabulary.names if not vocabulary[name].operator}
"""The functions and constants, by every name that they have."""
_FUNCTIONS = {name: word for name, word in _NAMED.items() if word.arguments}
_CONSTANTS = {name: word for name, word in _NAMED.items() if not word.arguments}

_SUM, _PRODUCT, _SIGN, _POWER = range(1, 5)
_BINDING = {"add": _SUM, "subtract": _SUM, "multiply": _PRODUCT, "divide": _PRODUCT, "power": _POWER}

_LETTERS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi "
    "psi omega"
)
_GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", _LETTERS.split(), strict=True))
_GREEK |= {letter.upper(): name.capitalize() for letter, name in _GREEK.items()}
_GREEK |= {"ϵ": "epsilon", "ϑ": "theta", "ϰ": "kappa", "ϱ": "rho", "ς": "sigma", "ϕ": "phi"}
_GREEK |= {"\N{MICRO SIGN}": "mu", "\N{OHM SIGN}": "Omega", "\N{INCREMENT}": "Delta"}

NAME = rf"[A-Za-z][A-Za-z0-9_]*|[{''.join(_GREEK)}](?:[0-9]+|_[A-Za-z0-9_]+)?"
"""A Greek letter is a name by itself, at most with an index: 2πr is a product of three."""
TAKEN = sorted({*_NAMED, *(letter for letter, name in _GREEK.items() if name in _NAMED)})
"""Names that no variable may have, for they are words."""
_SYMBOLS = [name for name in _NAMED if not name.isascii() and name not in _GREEK]
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_SPACE = " \t\r\n\N{NO-BREAK SPACE}\u2000-\u200a\u202f\u3000"
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    rf"|(?P<name>{'|'.join([NAME, *map(re.escape, _SYMBOLS)])})"
    rf"|(?P<operator>{'|'.join(map(re.escape, sorted(_OPERATORS, key=len, reverse=True)))})"
    r"|(?P<mark>[(),|])"
    r"|(?P<superscript>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)"
    rf"|(?P<other>[^{_SPACE}])"
)
_VALID_NAME = re.compile(NAME)

_OPERAND = 'a number, a name or "("'


def parse(text: str, variables: Sequence[str] | None = None) -> Expression:
    """The expression typed as `text`, over these variables in their order; None: those found in it, sorted.

    Raises `InvalidRequest` with faults at ("expression",) or ("variables", position).
    """
    listed = None if variables is None else _checked(variables)
    if len(text) > LONGEST_EXPRESSION:
        raise _refused(f"the expression has {len(text):,} characters; allowed are {LONGEST_EXPRESSION:,}")
    try:
        parser = _read(text, listed)
    except InvalidRequest as error:
        raise _translated(error, text, listed) from None
    if len(parser.steps) > MOST_STEPS:
        asked = f"the expression has {len(parser.steps):,} operations, numbers and names"
        raise _refused(f"{asked}; allowed are {MOST_STEPS}")
    told: tuple[str, ...] = ()
    if listed is None:
        listed = tuple(sorted({step.text for step in parser.steps if step.word == "variable"}))
        if len(listed) > MOST_VARIABLES:
            names = _shown(", ".join(listed))
            raise _refused(f"the expression has {len(listed)} variables, {names}; allowed are {MOST_VARIABLES}")
        told = slips(text, listed, _FUNCTIONS)
    return Expression(text, listed, tuple(parser.steps), told)


def _read(text: str, listed: tuple[str, ...] | None) -> _Parser:
    parser = _Parser(text, listed)
    parser.whole()
    if parser.unknown:
        raise InvalidRequest(parser.unknown_names())
    return parser


def _translated(error: InvalidRequest, text: str, listed: tuple[str, ...] | None) -> InvalidRequest:
    """The refusal of a text, with what to type instead if that can be read."""
    found = translation(text, _FUNCTIONS)
    if found is None:
        return error
    try:
        _read(found.text, listed)
    except InvalidRequest:
        return error
    fault = error.faults[-1]
    before = found.sentence or fault.detail
    joint = " Write" if before.endswith("?") else "; or write" if "write" in before else "; write"
    return InvalidRequest([replace(fault, detail=f"{before}{joint} {found.text}")])


class _Parser:
    """One pass over the tokens of a text."""

    __slots__ = ("at", "bars", "depth", "listed", "steps", "text", "tokens", "unknown")

    def __init__(self, text: str, listed: tuple[str, ...] | None) -> None:
        self.text = text
        self.listed = listed
        self.tokens = _tokens(text)
        self.at = 0
        self.depth = 0
        self.bars = 0
        """How many are open within the innermost parentheses."""
        self.steps: list[ExpressionStep] = []
        self.unknown: dict[str, tuple[_Token, bool]] = {}
        """Names that mean nothing: where first, and whether a parenthesis follows."""

    def whole(self) -> None:
        """Read the whole text."""
        if self.tokens[0].kind == "end":
            raise _refused("the expression is empty; an expression is a formula such as x^2 + 3*sin(x)")
        self.value(_SUM)
        token = self.tokens[self.at]
        if token.kind == ")":
            raise self.refused(token, 'this ")" closes nothing: no "(" is open')
        if token.kind == ",":
            raise self.stray_comma()

    def value(self, minimum: int) -> int:
        """Read an operand and every operator after it that binds at least so tightly."""
        tokens = self.tokens
        start = tokens[self.at].start
        left = self.operand()
        while True:
            token = tokens[self.at]
            kind = token.kind
            if kind == "operator":
                word = _OPERATORS[token.text]
                binding = _BINDING[word]
                if binding < minimum:
                    return left
                self.at += 1
                if binding == _POWER:
                    self.descend(token)
                    right = self.value(_POWER)
                    self.depth -= 1
                else:
                    right = self.value(binding + 1)
            elif kind == "name" or kind == "(" or (kind == "|" and not self.bars):
                if minimum > _PRODUCT:
                    return left
                word = "multiply"
                right = self.value(_PRODUCT + 1)
            elif kind == "superscript":
                self.at += 1
                word = "power"
                right = self.step("number", (), token.start, self.literal(token))
            elif kind == "number":
                raise self.number_after_operand(token)
            elif kind == "other":
                raise self.unexpected(token, "an operator")
            else:
                return left
            left = self.step(word, (left, right), start)

    def operand(self) -> int:
        """Read what an operator takes: a number, a name, a call, something in parentheses or bars, or its negative."""
        token = self.tokens[self.at]
        kind = token.kind
        if kind == "name":
            return self.name(token)
        if kind == "number":
            self.at += 1
            return self.step("number", (), token.start, self.literal(token))
        if kind == "(":
            return self.parentheses(token)
        if kind == "|":
            return self.absolute(token)
        if kind == "operator" and _OPERATORS[token.text] in ("add", "subtract"):
            return self.signed()
        raise self.unexpected(token, _OPERAND)

    def signed(self) -> int:
        """Read signs, as many as there are, and what they are of."""
        minuses = []
        while (token := self.tokens[self.at]).kind == "operator":
            word = _OPERATORS[token.text]
            if word == "subtract":
                minuses.append(token.start)
            elif word != "add":
                break
            self.at += 1
        position = self.value(_SIGN)
        for start in reversed(minuses):
            position = self.step("negate", (position,), start)
        return position

    def literal(self, token: _Token) -> str:
        """The text of a number that is known to be one."""
        text = token.text if token.kind == "number" else token.text.translate(_SUPERSCRIPTS)
        value = float(text)
        if math.isinf(value):
            raise self.refused(token, f"{_shown(token.text)} is too large: the largest number is about 1.8e308")
        # As a fraction, 1e-999999999 would fill the memory.
        return text if value else "0"

    def parentheses(self, opening: _Token) -> int:
        if self.tokens[self.at + 1].kind == ")":
            raise self.refused(opening, "there is nothing in these parentheses")
        outer = self.open(opening)
        position = self.value(_SUM)
        self.close(opening, ")", outer)
        return position

    def absolute(self, opening: _Token) -> int:
        outer = self.open(opening)
        self.bars = outer + 1
        position = self.value(_SUM)
        self.close(opening, "|", outer)
        return self.step("abs", (position,), opening.start)

    def name(self, token: _Token) -> int:
        """Read a call, a constant or a variable."""
        name = _latin(token.text)
        word = _NAMED.get(name)
        called = self.tokens[self.at + 1].kind == "("
        if word is not None and word.arguments:
            if not called:
                raise self.not_called(token, word)
            return self.call(token, word)
        self.at += 1
        if word is not None:
            return self.step(word.name, (), token.start)
        if len(name) > LONGEST_NAME:
            raise self.refused(token, f"this name has {len(name)} characters; allowed are {LONGEST_NAME}")
        position = self.step("variable", (), token.start, name)
        if called if self.listed is None else name not in self.listed:
            self.unknown.setdefault(name, (token, called))
            if called:
                self.arguments()
        return position

    def call(self, token: _Token, word: Word) -> int:
        self.at += 1
        operands = self.arguments()
        if len(operands) != word.arguments:
            plural = "" if word.arguments == 1 else "s"
            takes = f"{token.text} takes {word.arguments} argument{plural}, {_call(token.text, word)}"
            steps = [self.steps[position] for position in operands]
            hints = [_decimal_comma(before.text, after.text) for before, after in pairwise(steps)]
            raise self.refused(token, f"{takes}; got {len(operands)}{next(filter(None, hints), '')}")
        return self.step(word.name, operands, token.start)

    def arguments(self) -> tuple[int, ...]:
        """Read from the parenthesis that opens a call to the one that closes it."""
        opening = self.tokens[self.at]
        outer = self.open(opening)
        operands: list[int] = []
        if self.tokens[self.at].kind != ")":
            operands.append(self.value(_SUM))
            while self.tokens[self.at].kind == ",":
                self.at += 1
                operands.append(self.value(_SUM))
        self.close(opening, ")", outer)
        return tuple(operands)

    def open(self, opening: _Token) -> int:
        """Step into parentheses or bars; answers how many bars were open outside."""
        self.descend(opening)
        self.at += 1
        outer, self.bars = self.bars, 0
        return outer

    def close(self, opening: _Token, mark: str, outer: int) -> None:
        token = self.tokens[self.at]
        if token.kind != mark:
            if token.kind == "," and mark == ")":
                raise self.stray_comma()
            opened = f'the "{opening.text}" of column {opening.start + 1}'
            raise self.unexpected(token, f'an operator or "{mark}" to close {opened}')
        self.at += 1
        self.depth -= 1
        self.bars = outer

    def descend(self, token: _Token) -> None:
        """Only what nests recurses, and so deep at most."""
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            nested = f"parentheses, bars and exponents are nested at least {self.depth} deep"
            raise self.refused(token, f"{nested}; allowed are {DEEPEST_NESTING}")

    def step(self, word: str, operands: tuple[int, ...], start: int, text: str = "") -> int:
        """Add a step that ends with the token before; answers its position."""
        self.steps.append(ExpressionStep(word, operands, start, self.tokens[self.at - 1].stop, text))
        return len(self.steps) - 1

    def refused(self, token: _Token, sentence: str) -> InvalidRequest:
        """The text cannot be read on from a token; unknown names before it are told, too."""
        return InvalidRequest([*self.unknown_names()[: MOST_ERRORS - 1], self.fault(token, sentence)])

    def fault(self, token: _Token, sentence: str, allowed: Sequence[str] = ()) -> Fault:
        before = " ".join(self.text[: token.start].split())
        if before and self.text[token.start - 1].isspace():
            before += " "
        if len(before) > _LONGEST_QUOTE // 2:
            before = "…" + before[-_LONGEST_QUOTE // 2 :]
        after = f', after "{before}"' if before else ""
        return Fault(("expression",), f"at column {token.start + 1}{after}: {sentence}", tuple(allowed))

    def unexpected(self, token: _Token, expected: str) -> InvalidRequest:
        if token.kind == "other":
            pair = self.text[token.start : token.start + 2]
            return self.refused(token, _no_meaning("≠" if pair in ("!=", "==") else token.text))
        if token.text == self.tokens[self.at - 1].text == "/":
            return self.refused(token, "there is no //: a whole quotient is floor(x/y), and comments have no place")
        got = "the end" if token.kind == "end" else f'"{_shown(token.text)}"'
        return self.refused(token, f"expected {expected}, got {got}")

    def number_after_operand(self, token: _Token) -> InvalidRequest:
        before = self.tokens[self.at - 1]
        if before.kind == "number" and before.stop == token.start:
            return self.refused(token, f"a number has one point; got {_shown(before.text + token.text)}")
        got = _shown(token.text)
        return self.refused(token, f"expected an operator, got the number {got}; for a product write *{got}")

    def not_called(self, token: _Token, word: Word) -> InvalidRequest:
        name, following = token.text, self.tokens[self.at + 1]
        takes = f"{name} takes its argument{'s' if word.arguments > 1 else ''} in parentheses"
        exponent = ""
        if following.kind == "superscript":
            exponent = following.text.translate(_SUPERSCRIPTS)
        elif following.kind == "operator" and _OPERATORS[following.text] == "power":
            after = self.tokens[self.at + 2]
            inverse = f"a{word.name}"
            if inverse in _FUNCTIONS and after.kind == "operator":
                return self.refused(token, f"{takes}; its inverse is {inverse}(x), its reciprocal 1/{name}(x)")
            exponent = after.text if after.text.isdecimal() else "n"
        if exponent and word.arguments == 1:
            return self.refused(token, f"{takes}; a power of it is written {name}(x)^{_shown(exponent)}")
        return self.refused(token, f"{takes}: {_call(name, word)}")

    def stray_comma(self) -> InvalidRequest:
        before, comma, after = self.tokens[self.at - 1 : self.at + 2]
        hint = _decimal_comma(before.text, after.text) or "; a decimal number has a point, as in 0.5"
        return self.refused(comma, f"a comma separates the arguments of a function only{hint}")

    def unknown_names(self) -> list[Fault]:
        faults: list[Fault] = []
        for name, (token, called) in islice(self.unknown.items(), MOST_ERRORS):
            allowed = [*(self.listed or ()), *(_FUNCTIONS if called else ())]
            if not self.listed and called:
                sentence = f'"{token.text}" is no function; for a product write {token.text}*(…)'
            elif not self.listed:
                sentence = f'"{token.text}" is no variable: none is listed'
            else:
                what = "neither a variable nor a function" if called else "no variable"
                sentence = f'"{token.text}" is {what}: the variables are {", ".join(self.listed)}'
            if len(faults) < _MOST_SUGGESTIONS:
                sentence += self.instead(name, allowed, called)
            faults.append(self.fault(token, sentence, allowed))
        return faults

    def instead(self, name: str, allowed: Sequence[str], called: bool) -> str:
        """What may have been meant by an unknown name."""
        if called and name in ELSEWHERE:
            return f"; write {ELSEWHERE[name]} for {name}(…)"
        factors = [] if self.listed is None else _factors(name, {*self.listed, *_CONSTANTS}, called)
        if factors:
            return f"; for a product write {'*'.join(factors)}{'(…)' if factors[-1] in _FUNCTIONS else ''}"
        call = "" if called else of_a_function(name, _FUNCTIONS)
        if call:
            return f"; did you mean {call}?"
        by_lower_case = {candidate.lower(): candidate for candidate in (*allowed, *_CONSTANTS)}
        close = difflib.get_close_matches(name.lower(), by_lower_case, 1)
        return f"; did you mean {by_lower_case[close[0]]}?" if close else ""


def _tokens(text: str) -> list[_Token]:
    tokens = []
    for match in _TOKEN.finditer(text):
        kind, found = match.lastgroup or "", match.group()
        tokens.append(_Token(found if kind == "mark" else kind, found, *match.span()))
    tokens.append(_Token("end", "", len(text), len(text)))
    return tokens


def _checked(variables: Sequence[str]) -> tuple[str, ...]:
    """The variables by their Latin names, if each can be one."""
    faults = []
    if len(variables) > MOST_VARIABLES:
        sentence = f"{len(variables):,} variables are listed; allowed are {MOST_VARIABLES}"
        faults.append(Fault(("variables", MOST_VARIABLES), sentence))
    names: dict[str, int] = {}
    for position, variable in enumerate(variables[:MOST_VARIABLES]):
        name, sentence = "", ""
        if not isinstance(variable, str):
            sentence = f"a variable is a name such as x, got {type(variable).__name__}"
        elif len(variable) > LONGEST_NAME:
            sentence = f"this name has {len(variable):,} characters; allowed are {LONGEST_NAME}"
        elif not _VALID_NAME.fullmatch(variable):
            form = 'a letter and then letters, digits or "_", such as x or x_1'
            sentence = f'"{_shown(variable)}" is no name of a variable: a name is {form}'
        elif (name := _latin(variable)) in _NAMED:
            what = "function" if _NAMED[name].arguments else "constant"
            sentence = f"{variable} is a {what}; call the variable otherwise"
        elif name in names:
            sentence = f'"{variable}" is listed twice: at position {names[name]} already'
        if sentence:
            faults.append(Fault(("variables", position), sentence))
        else:
            names[name] = position
    if faults:
        raise InvalidRequest(faults)
    return tuple(names)


def _latin(name: str) -> str:
    """A name with a Greek letter written out."""
    return name if name.isascii() else _GREEK.get(name[0], name[0]) + name[1:]


def _factors(name: str, known: set[str], called: bool) -> list[str]:
    """The fewest known names that, one after the other, spell a name; the last may be a function if it is called."""
    best: list[list[str] | None] = [[], *([None] * len(name))]
    for stop in range(1, len(name) + 1):
        for start in range(stop):
            front, part = best[start], name[start:stop]
            fits = part in known or (called and stop == len(name) and part in _FUNCTIONS)
            shortest = best[stop]
            if front is not None and fits and (shortest is None or len(front) < len(shortest) - 1):
                best[stop] = [*front, part]
    return best[-1] or []


def _decimal_comma(before: str, after: str) -> str:
    """What to write if a comma between two texts stands for a decimal point."""
    if before.isdecimal() and after.isdecimal():
        return f"; write {_shown(f'{before}.{after}')} with a point"
    return ""


def _call(name: str, word: Word) -> str:
    return f"{name}({', '.join(['…'] * word.arguments)})"


def _no_meaning(character: str) -> str:
    plain = unicodedata.normalize("NFKC", character)
    hint = HINTS.get(character) or HINTS.get(plain)
    if hint:
        return hint
    token = _TOKEN.fullmatch(plain)
    if token and token.lastgroup != "other":
        return f'"{_shown(character)}" is a special form of "{plain}"; type it as {plain}'
    return f'"{_shown(character)}" has no meaning in an expression'


def _shown(text: str) -> str:
    """A text shortened, with what does not print as its code point."""
    if len(text) > _LONGEST_QUOTE:
        text = text[: _LONGEST_QUOTE - 1] + "…"
    return "".join(character if character.isprintable() else f"U+{ord(character):04X}" for character in text)


def _refused(sentence: str) -> InvalidRequest:
    return InvalidRequest([Fault(("expression",), sentence)])
