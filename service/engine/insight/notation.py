"""LaTeX of number formulas: with symbols, and with the numbers put in.

The numbers come last and often: a formula is laid out once, with marks where numbers go, and each run fills them in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from service.engine.functions.printing import ATOM, POWER, PRODUCT, SUM, Fragment, Latex
from service.engine.insight.formula import Call, Constant, Key, NumberFormula, Product, Quotient, Ref, Square, TermSum

DIGITS = 6
"""Significant digits of numbers in formulas."""
SMALL_DENOMINATOR = 1000
LONG_DECIMALS = 8
"""A constant with more characters is written as a fraction where it is one."""
_OPEN, _BARE, _FACTOR, _BASE = "\ue000", "\ue001", "\ue002", "\ue003"
"""A place of a number is its position between `_OPEN` and one of the others: `_FACTOR` where a negative one needs
parentheses, `_BASE` where one with a power of ten needs them too."""
_PLACE = re.compile(f"{_OPEN}(\\d+)([{_BARE}{_FACTOR}{_BASE}])")
Leaf = Callable[[Key, str], Fragment]
"""Returns the fragment for a key, given one of these marks."""

_NAMES = {"absolute": "abs", "maximum": "max", "minimum": "min"}
_OPERATORS = {
    "logistic_slope": r"\sigma'",
    "tanh_slope": r"\tanh'",
    "normal_cdf": r"\Phi",
    "normal_density": r"\varphi",
}
_SPECIAL = frozenset(r"\{}$&#%_^~")
_PLAIN_TEXT = re.compile(r"[A-Za-z0-9_ -]+")


class _Numeric(Latex):
    """The notation of formulas with numbers, in which products need a dot."""

    def _product(self, pieces: Sequence[Fragment]) -> Fragment:
        return Fragment(r" \cdot ".join(self.wrap(piece, PRODUCT) for piece in pieces), PRODUCT)


_SYMBOLIC, _NUMERIC = Latex({}), _Numeric({})


def symbolic(formula: NumberFormula, symbol: Callable[[Key], str]) -> str:
    """Return the LaTeX of a formula, with a symbol for each number that it refers to."""
    return _piece(_SYMBOLIC, formula, lambda key, _: Fragment(symbol(key), POWER)).text


class Template:
    """The LaTeX of a formula with gaps for its numbers, which are filled in later."""

    __slots__ = ("_pieces", "_places")

    def __init__(self, formula: NumberFormula, place: Callable[[Key], int]) -> None:
        """Lay the formula out. `place` returns the position of a key's number in the list that `fill` gets."""

        def mark(key: Key, kind: str) -> Fragment:
            return Fragment(f"{_OPEN}{place(key)}{kind}")

        parts = _PLACE.split(_piece(_NUMERIC, formula, mark).text)
        self._pieces = parts[::3]
        self._places = [(int(position), kind) for position, kind in zip(parts[1::3], parts[2::3], strict=True)]

    def fill(self, numbers: Sequence[str]) -> str:
        """Return the LaTeX with these numbers, each as a text that `number` returns."""
        text = self._pieces[0]
        for (place, kind), after in zip(self._places, self._pieces[1:], strict=True):
            shown = numbers[place]
            wraps = (kind != _BARE and shown[0] == "-") or (kind == _BASE and "^" in shown)
            text += f"({shown}){after}" if wraps else shown + after
        return text


def number(value: float) -> str:
    """Return the LaTeX of a number, with six significant digits."""
    if not math.isfinite(value):
        return r"\mathrm{NaN}" if math.isnan(value) else r"\infty" if value > 0 else r"-\infty"
    text = f"{value:.{DIGITS}g}"
    if "e" not in text:
        return text
    digits, exponent = text.split("e")
    return rf"{digits} \cdot 10^{{{int(exponent)}}}"


def text(name: str) -> str:
    """Return the LaTeX of a name in upright letters."""
    escaped = "".join(
        rf"\{character}"
        if character in "{}$&#%_"
        else {"\\": r"\backslash ", "^": r"\wedge ", "~": r"\sim "}.get(character, character)
        for character in name
    )
    if _PLAIN_TEXT.fullmatch(name):
        return rf"\mathrm{{{escaped.replace(' ', '~')}}}"
    return rf"\text{{{name}}}" if _SPECIAL.isdisjoint(name) else rf"\mathrm{{{escaped}}}"


def _piece(notation: Latex, formula: NumberFormula, leaf: Leaf, kind: str = _BARE) -> Fragment:
    """Return the fragment of a formula. `kind` is the mark that a number in its place would get."""
    if isinstance(formula, Ref):
        return leaf(formula.key, kind)
    if isinstance(formula, Constant):
        return _constant(notation, formula.value)
    if isinstance(formula, TermSum):
        first = kind if not formula.minus[0] else _FACTOR
        kinds = [first, *[_FACTOR] * (len(formula.minus) - 1)]
        pieces = [_piece(notation, part, leaf, each) for part, each in zip(formula.parts, kinds, strict=True)]
        return notation.total(list(zip(formula.minus, pieces, strict=True)))
    if isinstance(formula, Product):
        kinds = [kind, *[_FACTOR] * (len(formula.parts) - 1)]
        return notation.product(
            [_piece(notation, *each) for each in zip(formula.parts, [leaf] * len(kinds), kinds, strict=True)]
        )
    if isinstance(formula, Quotient):
        top, bottom = (_piece(notation, part, leaf) for part in formula.parts)
        return notation.fraction(top, bottom)
    if isinstance(formula, Square):
        return notation.power(_piece(notation, formula.parts[0], leaf, _BASE), Fragment("2"))
    assert isinstance(formula, Call)
    return _call(notation, formula.name, formula.parts, leaf)


def _constant(notation: Latex, value: float) -> Fragment:
    if not math.isfinite(value):
        return Fragment(number(value), SUM if value < 0 else ATOM)
    if value < 0:
        return notation.total([(True, _constant(notation, -value))])
    literal = repr(value).removesuffix(".0")
    if len(literal) > LONG_DECIMALS:
        fraction = Fraction(value).limit_denominator(SMALL_DENOMINATOR)
        if float(fraction) == value:
            top, bottom = (notation.number(str(n)) for n in fraction.as_integer_ratio())
            return notation.fraction(top, bottom)
    return notation.number(literal)


def _call(notation: Latex, name: str, parts: Sequence[NumberFormula], leaf: Leaf) -> Fragment:
    if name == "weighted":
        return notation.product([_piece(notation, part, leaf, _FACTOR) for part in parts])
    if name == "first_largest":
        place, *values = parts
        assert isinstance(place, Constant)
        pieces = [_piece(notation, part, leaf) for part in values]
        largest = notation.call("max", pieces).text
        return Fragment(f"[{pieces[int(place.value)].text} = {largest}]")
    raised = name in ("power", "gaussian")
    arguments = [_piece(notation, part, leaf, _BASE if raised else _BARE) for part in parts]
    match name:
        case "exp":
            return notation.exponential(arguments[0])
        case "expm1":
            return notation.total([(False, notation.exponential(arguments[0])), (True, Fragment("1"))])
        case "gaussian":
            return notation.exponential(notation.total([(True, notation.power(arguments[0], Fragment("2")))]))
        case "sqrt":
            return notation.root(arguments[0])
        case "power":
            return notation.power(*arguments)
        case "xlogy":
            return notation.product([arguments[0], notation.call("log", arguments[1:])])
        case "equal":
            return Fragment(f"[{arguments[0].text} = {arguments[1].text}]")
        case "gate":
            return notation.product([Fragment(rf"[{arguments[0].text} \ne 0]"), arguments[1]])
        case "greater" | "greater_equal":
            return notation.call(name, arguments)
    if name in _OPERATORS:
        return Fragment(_OPERATORS[name] + notation.group(", ".join(each.text for each in arguments)))
    return notation.call(_NAMES.get(name, name), arguments)
