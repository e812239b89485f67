"""Parses the text of an expression into operations, by precedence.

The parser builds a flat list of steps and evaluates nothing. It takes bounded time for any text: length, nesting and
steps are capped, and only nesting recurses. Every refusal names the place and what to write instead.

    x < y, x >= y             bind least, and do not chain
    x + y, x - y              from the left
    x * y, x / y, 2x, x(y+1)  a product without a sign binds as one with it: 1/2x is (1/2)*x
    -x, +x                    -x^2 is -(x^2)
    x^y, x**y                 from the right; the exponent may have a sign: 2^-x
    x², x³                    bind most: 2^x² is 2^(x^2)

A bar where an operand is expected opens an absolute value. A bar where an operator could stand closes the innermost one
within the same parentheses; if none is open, it opens a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from service.engine.errors import Fault, InvalidRequest
from service.engine.functions.refusals import Refusing, call_of, decimal_comma
from service.engine.functions.slips import slips, translations
from service.engine.functions.tokens import FUNCTIONS, NAMED, OPERATORS, SUPERSCRIPTS, VALID_NAME, Token, latin, shown
from service.engine.functions.vocabulary import Word, vocabulary

LONGEST_EXPRESSION = 2000
DEEPEST_NESTING = 50
"""Most parentheses, bars and exponents within each other."""
MOST_STEPS = 500
MOST_VARIABLES = 20
LONGEST_NAME = 31


_COMPARISON, _SUM, _PRODUCT, _SIGN, _POWER = range(1, 6)
_BINDING = dict.fromkeys(("less", "greater", "less_equal", "greater_equal"), _COMPARISON)
_BINDING |= {"add": _SUM, "subtract": _SUM, "multiply": _PRODUCT, "divide": _PRODUCT, "power": _POWER}
_OPERAND = 'a number, a name or "("'


class ExpressionStep(NamedTuple):
    """One operation, number or variable of an expression. Its operands are positions of earlier steps."""

    word: str
    """`number`, `variable`, or the name of a word of the vocabulary."""
    operands: tuple[int, ...]
    start: int
    """The position of its text in the expression, counted from 0."""
    stop: int
    text: str = ""
    """The literal of a number, which `float` and `Fraction` read, or the name of a variable."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: its text, its variables and its operations."""

    text: str
    variables: tuple[str, ...]
    steps: tuple[ExpressionStep, ...]
    """The steps, each after its operands; the last one gives the value of the expression."""
    slips: tuple[str, ...] = ()
    """Sentences about names that are probably no variables; only where the caller listed none."""

    @property
    def key(self) -> tuple[str, tuple[str, ...]]:
        """The identity of an expression: equal for expressions with the same meaning; their slips may differ."""
        return self.text, self.variables

    @property
    def flat_words(self) -> list[str]:
        """The words whose derivative is 0 everywhere, so that no gradient flows back through them. Conditions do
        not count: nothing is expected of their gradients.
        """
        valued = [False] * len(self.steps)
        valued[-1] = True
        for place, step in reversed([*enumerate(self.steps)]):
            chooses = step.word in vocabulary and vocabulary[step.word].chooses
            for operand in step.operands[1:] if chooses else step.operands:
                valued[operand] |= valued[place]
        words = dict.fromkeys(step.word for step, counts in zip(self.steps, valued, strict=True) if counts)
        return [word for word in words if word in vocabulary and vocabulary[word].flat]

    def quoted(self, step: ExpressionStep) -> str:
        """Return the text of a step, shortened, to quote it in a message."""
        return shown(" ".join(self.text[step.start : step.stop].split()))


def parse(text: str, variables: Sequence[str] | None = None) -> Expression:
    """Parse an expression over these variables, in their order; None takes the variables of the text, sorted. Raises
    `InvalidRequest` with faults at ("expression",) or ("variables", position)."""
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
    found_slips: tuple[str, ...] = ()
    if listed is None:
        listed = tuple(sorted({step.text for step in parser.steps if step.word == "variable"}))
        if len(listed) > MOST_VARIABLES:
            names = shown(", ".join(listed))
            raise _refused(f"the expression has {len(listed)} variables, {names}; allowed are {MOST_VARIABLES}")
        found_slips = slips(text, listed, FUNCTIONS)
    return Expression(text, listed, tuple(parser.steps), found_slips)


def _read(text: str, listed: tuple[str, ...] | None) -> _Parser:
    parser = _Parser(text, listed)
    parser.whole()
    if parser.unknown:
        raise InvalidRequest(parser.unknown_names())
    return parser


def _translated(error: InvalidRequest, text: str, listed: tuple[str, ...] | None) -> InvalidRequest:
    """Return the error about a text, with what to type instead where a translation of it can be read."""
    fault = error.faults[-1]
    for found in translations(text, FUNCTIONS):
        if not found.text:
            return InvalidRequest([*error.faults[:-1], replace(fault, detail=f"{fault.detail}; {found.sentence}")])
        try:
            _read(found.text, listed)
        except InvalidRequest:
            continue
        before = found.sentence or fault.detail
        return InvalidRequest([replace(fault, detail=f"{before}{_joint(before)} {found.text}")])
    return error


def _joint(sentence: str) -> str:
    """Return what stands between a sentence about an expression and the text to type instead."""
    if sentence.endswith("?"):
        return " Write"
    if sentence.endswith(")") and " for " in sentence:  # write 1/tan(…) for cot(…)
        return ", that is"
    return "; or write" if "write" in sentence else "; write"


class _Parser(Refusing):
    """A parser that reads the tokens of a text once, and collects the steps of the expression."""

    __slots__ = ("bars", "depth", "steps")

    def __init__(self, text: str, listed: tuple[str, ...] | None) -> None:
        super().__init__(text, listed)
        self.depth = 0
        self.bars = 0
        """Bars that are open within the innermost parentheses."""
        self.steps: list[ExpressionStep] = []

    def whole(self) -> None:
        """Read the whole text, and refuse what is left over."""
        if self.tokens[0].kind == "end":
            raise _refused("the expression is empty; an expression is a formula such as x^2 + 3*sin(x)")
        self.value(_COMPARISON)
        token = self.tokens[self.at]
        if token.kind == ")":
            raise self.refused(token, 'this ")" closes nothing: no "(" is open')
        if token.kind == ",":
            raise self.stray_comma()

    def value(self, minimum: int) -> int:
        """Read an operand and every operator after it that binds at least as tightly as `minimum`; return its step."""
        tokens = self.tokens
        start = tokens[self.at].start
        left = self.operand()
        while True:
            token = tokens[self.at]
            kind = token.kind
            if kind == "operator":
                word = OPERATORS[token.text]
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
            following = tokens[self.at]
            if _BINDING[word] == _COMPARISON and _BINDING.get(OPERATORS.get(following.text, "")) == _COMPARISON:
                raise self.refused(following, "comparisons do not chain; write a product, as in (0 < x)*(x < 1)")

    def operand(self) -> int:
        """Read what stands beside an operator; return the position of its step. That is a number, a name, a call,
        parentheses, bars, or the negative of one of these."""
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
        if kind == "operator" and OPERATORS[token.text] in ("add", "subtract"):
            return self.signed()
        raise self.unexpected(token, _OPERAND)

    def signed(self) -> int:
        """Read any number of signs and their operand; return the position of its step."""
        minuses = []
        while (token := self.tokens[self.at]).kind == "operator":
            word = OPERATORS[token.text]
            if word == "subtract":
                minuses.append(token.start)
            elif word != "add":
                break
            self.at += 1
        position = self.value(_SIGN)
        for start in reversed(minuses):
            position = self.step("negate", (position,), start)
        return position

    def literal(self, token: Token) -> str:
        """Return the digits of a number, as `float` and `Fraction` read them."""
        text = token.text if token.kind == "number" else token.text.translate(SUPERSCRIPTS)
        value = float(text)
        if math.isinf(value):
            raise self.refused(token, f"{shown(token.text)} is too large: the largest number is about 1.8e308")
        # As a fraction, 1e-999999999 would fill the memory.
        return text if value else "0"

    def parentheses(self, opening: Token) -> int:
        if self.tokens[self.at + 1].kind == ")":
            raise self.refused(opening, "there is nothing in these parentheses")
        outer = self.open(opening)
        position = self.value(_COMPARISON)
        self.close(opening, ")", outer)
        return position

    def absolute(self, opening: Token) -> int:
        outer = self.open(opening)
        self.bars = outer + 1
        position = self.value(_COMPARISON)
        self.close(opening, "|", outer)
        return self.step("abs", (position,), opening.start)

    def name(self, token: Token) -> int:
        """Read a call, a constant or a variable; return the position of its step."""
        name = latin(token.text)
        word = NAMED.get(name)
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

    def call(self, token: Token, word: Word) -> int:
        self.at += 1
        operands = self.arguments()
        if len(operands) != word.arguments:
            plural = "" if word.arguments == 1 else "s"
            takes = f"{token.text} takes {word.arguments} argument{plural}, {call_of(token.text, word)}"
            steps = [self.steps[position] for position in operands]
            hints = [decimal_comma(before.text, after.text) for before, after in pairwise(steps)]
            raise self.refused(token, f"{takes}; got {len(operands)}{next(filter(None, hints), '')}")
        return self.step(word.name, operands, token.start)

    def arguments(self) -> tuple[int, ...]:
        """Read the arguments of a call with both parentheses; return the positions of their steps."""
        opening = self.tokens[self.at]
        outer = self.open(opening)
        operands: list[int] = []
        if self.tokens[self.at].kind != ")":
            operands.append(self.value(_COMPARISON))
            while self.tokens[self.at].kind == ",":
                self.at += 1
                operands.append(self.value(_COMPARISON))
        self.close(opening, ")", outer)
        return tuple(operands)

    def open(self, opening: Token) -> int:
        """Step into parentheses or bars; return the count of bars that were open outside."""
        self.descend(opening)
        self.at += 1
        outer, self.bars = self.bars, 0
        return outer

    def close(self, opening: Token, mark: str, outer: int) -> None:
        token = self.tokens[self.at]
        if token.kind != mark:
            if token.kind == "," and mark == ")":
                raise self.stray_comma()
            opened = f'the "{opening.text}" of column {opening.start + 1}'
            raise self.unexpected(token, f'an operator or "{mark}" to close {opened}')
        self.at += 1
        self.depth -= 1
        self.bars = outer

    def descend(self, token: Token) -> None:
        """Count a level of nesting, and refuse a text that nests too deep. Only nesting makes the parser recurse."""
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            nested = f"parentheses, bars and exponents are nested at least {self.depth} deep"
            raise self.refused(token, f"{nested}; allowed are {DEEPEST_NESTING}")

    def step(self, word: str, operands: tuple[int, ...], start: int, text: str = "") -> int:
        """Add a step that ends with the token before; return its position."""
        self.steps.append(ExpressionStep(word, operands, start, self.tokens[self.at - 1].stop, text))
        return len(self.steps) - 1


def _checked(variables: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the variables in Latin letters. Raises `InvalidRequest` with a fault for each wrong name."""
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
        elif not VALID_NAME.fullmatch(variable):
            form = 'a letter and then letters, digits or "_", such as x or x_1'
            sentence = f'"{shown(variable)}" is no name of a variable: a name is {form}'
        elif (name := latin(variable)) in NAMED:
            what = "function" if NAMED[name].arguments else "constant"
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


def _refused(sentence: str) -> InvalidRequest:
    return InvalidRequest([Fault(("expression",), sentence)])
