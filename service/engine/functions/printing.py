"""The notations of formulas: LaTeX to be read, and text that can be typed again.

A formula is put together from fragments that know how tightly they bind, so parentheses stand only where they are
needed. Both notations have the same methods, so a printer need not know which one it uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

from service.engine.functions.expression import Expression, ExpressionStep
from service.engine.functions.tokens import LETTERS

Rational: TypeAlias = int | Fraction
HALF = Fraction(1, 2)

REMAINDER, SUM, QUOTIENT, PRODUCT, POWER, ATOM = range(6)
"""The binding of a fragment, from loose to tight. Readers disagree on x + y mod 2: a remainder is never part of a sum.
"""

LARGEST_DIGITS = 10**6
"""Fractions with more than this above or below are printed as decimals."""
LONGEST_DECIMALS = 12
LARGEST_WHOLE = 10**15
SMALLEST_PLAIN = Fraction(1, 10_000)
"""Numbers from here to `LARGEST_WHOLE` are printed without a power of ten."""

_GREEK = frozenset(f"{LETTERS} Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()) - {"omicron"}
"""Letters that LaTeX knows by their names."""
_NAME = re.compile(r"(?P<head>[A-Za-z]+?)(?:_?(?P<digits>[0-9]+)|_(?P<suffix>[A-Za-z0-9]+))?")
_PLAIN = {"sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_PLAIN |= {"sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "log": "ln", "log2": "log_2", "log10": "log_{10}"}
_HEADS = {name: "\\" + head for name, head in _PLAIN.items()}
_HEADS |= {f"a{name}h": rf"\operatorname{{ar{name}h}}" for name in ("sin", "cos", "tan")}
"""Functions whose argument may stand without parentheses and whose power is put on the name."""
_BEGINNINGS = tuple(_HEADS.values())
_NAMES = {"sigmoid": r"\sigma", "max": r"\max", "min": r"\min", "sign": r"\operatorname{sgn}"}
_COMPARISONS = {"less": "<", "greater": ">", "less_equal": r"\le", "greater_equal": r"\ge"}
_TYPED = {r"\le": "<=", r"\ge": ">="}
_TURNED = {">": "<", r"\ge": r"\le"}
_CALLABLE = frozenset(("f", "g", "h", "sigma", "phi", "psi", "zeta", "Gamma", "Phi", "Psi"))
"""Letters that a reader takes for functions where a parenthesis follows; σ is the logistic function."""
_OPENINGS = ("(", r"\left(", "[")
_FENCES = {"abs": ("|", "|"), "floor": (r"\lfloor ", r" \rfloor"), "ceil": (r"\lceil ", r" \rceil")}


@dataclass(frozen=True, slots=True)
class Fragment:
    """A written part of a formula, with what its neighbours must know to set parentheses."""

    text: str
    level: int = ATOM
    head: str = ""
    """For a function, the beginning of the text up to the place of an exponent: its name."""
    closed: str = ""
    """For a text that ends in an argument without parentheses, the same text with them."""
    bare: bool = False
    """True for an argument that needs no parentheses: a name, a whole number, or one times a name."""
    callable: bool = False
    """True if the text ends in a name that a parenthesis after it would make a function."""
    comparison: str = ""
    """For a comparison, the text of it as a condition."""
    negates: Fragment | None = None
    """The fragment without its sign, where this one is just its negative."""


class Text:
    """The notation of typed expressions, and what both notations have in common."""

    def __init__(self, decimals: bool = False) -> None:
        self.decimals = decimals
        """Write 0.52 rather than 13/25."""
        self._small: Text | None = None

    @property
    def small(self) -> Text:
        """The notation of exponents, in which LaTeX writes fractions with a slash."""
        return self._small or self

    def number(self, literal: str) -> Fragment:
        """Return the fragment of a positive number, given by its digits."""
        return Fragment(literal, bare=literal.isdecimal())

    def symbol(self, name: str) -> Fragment:
        return Fragment(name, bare=True)

    def group(self, text: str) -> str:
        return f"({text})"

    def wrap(self, piece: Fragment, level: int) -> str:
        """Return the text of a fragment as an operand, in parentheses if it binds less tightly than `level`."""
        return piece.text if piece.level >= level else self.group(piece.text)

    def total(self, parts: Sequence[tuple[bool, Fragment]]) -> Fragment:
        """Return the fragment of a sum; each part comes with whether it is subtracted."""
        (negative, first), *rest = parts
        if not rest and not negative:
            return first
        text = ("-" if negative else "") + self.wrap(first, QUOTIENT)
        for minus, piece in rest:
            text += f" {'-' if minus else '+'} {self.wrap(piece, QUOTIENT)}"
        return Fragment(text, SUM, negates=None if rest else first)

    def product(self, pieces: Sequence[Fragment]) -> Fragment:
        first, *rest = pieces
        if not rest:
            return first
        if first.negates:
            return self.total([(True, self.product([first.negates, *rest]))])
        return self._product(pieces)

    def _product(self, pieces: Sequence[Fragment]) -> Fragment:
        return Fragment("*".join(self.wrap(piece, PRODUCT) for piece in pieces), PRODUCT)

    def fraction(self, top: Fragment, bottom: Fragment) -> Fragment:
        if top.negates:
            return self.total([(True, self.fraction(top.negates, bottom))])
        return self._fraction(top, bottom)

    def _fraction(self, top: Fragment, bottom: Fragment) -> Fragment:
        return Fragment(f"{top.closed or self.wrap(top, PRODUCT)}/{self.wrap(bottom, POWER)}", QUOTIENT)

    def power(self, base: Fragment, exponent: Fragment) -> Fragment:
        return Fragment(f"{self.wrap(base, ATOM)}^{self.wrap(exponent, ATOM)}", POWER)

    def exponential(self, exponent: Fragment) -> Fragment:
        return self.call("exp", [exponent])

    def root(self, piece: Fragment) -> Fragment:
        return self.call("sqrt", [piece])

    def call(self, name: str, arguments: Sequence[Fragment]) -> Fragment:
        """Return the fragment of a function of arguments. A comparison has a last argument b - a or, for
        `greater_equal`, a - b."""
        if name == "greater":
            return Fragment(f"1 - step({arguments[-1].text})", SUM, comparison=self._condition(name, arguments))
        if name == "greater_equal":
            return Fragment(f"step({arguments[-1].text})", comparison=self._condition(name, arguments))
        if name == "where":
            condition, *others = arguments
            texts = [condition.comparison or condition.text, *[other.text for other in others]]
            return Fragment(f"{name}({', '.join(texts)})")
        return Fragment(f"{name}({', '.join(argument.text for argument in arguments)})")

    def _condition(self, name: str, arguments: Sequence[Fragment]) -> str:
        """Return a comparison as a condition, with a number on its right side."""
        a, b, *_ = arguments
        sign = _COMPARISONS[name]
        if sign in _TURNED and a.text.isdecimal() and not b.text.isdecimal():
            a, b, sign = b, a, _TURNED[sign]
        return f"{a.text} {self._sign(sign)} {b.text}"

    def _sign(self, sign: str) -> str:
        return _TYPED.get(sign, sign)

    def rational(self, value: Rational, *, divides: bool = False) -> tuple[str, int]:
        """Return a positive number as a numerator, which may be a decimal, and a denominator. With `divides`, there is
        a denominator in any case."""
        top, bottom = value.numerator, value.denominator
        if (value < SMALLEST_PLAIN and bottom > LARGEST_DIGITS) or value >= LARGEST_WHOLE:
            return _shortest(value), 1
        if bottom > (10 if divides else 1) and (self.decimals or bottom > 1000):
            digits = _decimal(top, bottom)
            if digits:
                return digits, 1
        if bottom > 1 and max(top, bottom) > LARGEST_DIGITS:
            return _shortest(value), 1
        return str(top), bottom


class Latex(Text):
    """The notation of LaTeX's mathematics mode, written so that it can be read in one way only."""

    def __init__(self, names: Mapping[str, str], decimals: bool = False, *, inline: bool = False) -> None:
        super().__init__(decimals)
        self.names = names
        """The LaTeX of each variable."""
        self.inline = inline
        """Within an exponent: fractions are written with a slash."""
        self._small = None if inline else Latex(names, decimals, inline=True)

    def number(self, literal: str) -> Fragment:
        mantissa, _, exponent = literal.lower().partition("e")
        whole, point, places = mantissa.partition(".")
        mantissa = (whole.lstrip("0") or "0") + (point + places if places else "")
        if not exponent:
            return Fragment(mantissa, bare=mantissa.isdecimal())
        power = f"10^{_braced(str(int(exponent)))}"
        return Fragment(power, POWER) if mantissa == "1" else Fragment(rf"{mantissa} \cdot {power}", PRODUCT)

    def symbol(self, name: str) -> Fragment:
        latex = self.names.get(name) or latex_name(name)
        return Fragment(latex, bare=True, callable=_callable(latex))

    def group(self, text: str) -> str:
        return rf"\left({text}\right)" if r"\frac" in text or r"\begin" in text else f"({text})"

    def _sign(self, sign: str) -> str:
        return sign

    def _product(self, pieces: Sequence[Fragment]) -> Fragment:
        text, callable_ = "", False
        for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
            factor = self._before(piece, following)
            text = _beside(text, factor, apart=callable_) if text else factor
            callable_ = piece.callable
        last = pieces[-1]
        closed = text.removesuffix(last.text) + last.closed if last.closed else ""
        bare = len(pieces) == 2 and pieces[0].text.isdecimal() and last.bare and not last.text[0].isdecimal()
        return Fragment(text, PRODUCT, closed=closed, bare=bare, callable=callable_)

    def _before(self, piece: Fragment, following: Fragment | None) -> str:
        """Return the text of a factor that stands before the factor `following`."""
        if piece.closed and following is not None and not self.wrap(following, PRODUCT).startswith(_BEGINNINGS):
            return self._closed(piece, PRODUCT)
        return self.wrap(piece, PRODUCT)

    def _closed(self, piece: Fragment, level: int) -> str:
        """Return the text of a fragment as an operand with the binding `level`, where more text follows."""
        return piece.closed if piece.closed and piece.level >= level else self.wrap(piece, level)

    def _fraction(self, top: Fragment, bottom: Fragment) -> Fragment:
        if self.inline:
            return super()._fraction(top, bottom)
        return Fragment(rf"\frac{{{top.text}}}{{{bottom.text}}}", PRODUCT)

    def power(self, base: Fragment, exponent: Fragment) -> Fragment:
        raised = f"^{_braced(exponent.text)}"
        if base.head and exponent.text.isdecimal():
            head = base.head + raised
            closed = base.closed and head + base.closed.removeprefix(base.head)
            return Fragment(head + base.text.removeprefix(base.head), POWER, closed=closed)
        return Fragment(self._closed(base, ATOM) + raised, POWER, callable=base.callable and base.level == ATOM)

    def exponential(self, exponent: Fragment) -> Fragment:
        return Fragment(f"e^{_braced(exponent.text)}", POWER)

    def root(self, piece: Fragment) -> Fragment:
        return Fragment(rf"\sqrt{{{piece.text}}}")

    def call(self, name: str, arguments: Sequence[Fragment]) -> Fragment:
        text = ", ".join(argument.text for argument in arguments)
        closed = self.group(text)
        if name in _HEADS:
            head = _HEADS[name]
            if arguments[0].bare:
                return Fragment(f"{head} {text}", head=head, closed=head + closed)
            return Fragment(head + closed, head=head)
        if name == "mod":
            a, b = arguments
            return Fragment(rf"{self._closed(a, POWER)} \bmod {self.wrap(b, POWER)}", REMAINDER)
        if name in _FENCES:
            left, right = _FENCES[name]
            if r"\frac" in text or "|" in text:
                left, right = rf"\left{left}", rf"\right{right.strip()}"
            return Fragment(f"{left}{text}{right}")
        if name in _COMPARISONS:
            text = f"[{arguments[0].text} {_COMPARISONS[name]} {arguments[1].text}]"
            return Fragment(text, comparison=self._condition(name, arguments))
        if name == "where":
            condition, a, b = arguments
            # After the end of a row, TeX takes a bracket for the distance to the next one.
            first, second = (self.group(each.text) if each.text[0] == "[" else each.text for each in (a, b))
            chosen = condition.comparison or rf"{condition.text} \ne 0"
            return Fragment(rf"\begin{{cases}} {first} & {chosen} \\ {second} & \text{{else}} \end{{cases}}", REMAINDER)
        if name == "cbrt":
            single = arguments[0].bare and arguments[0].level == ATOM
            return Fragment(rf"\sqrt[3]{{{text}}}", POWER, head=rf"\sqrt[3]{{{text}" if single else "")
        if name == "log1p":
            a = arguments[0]
            return self.call("log", [self.total([(False, _ONE), (a.negates is not None, a.negates or a)])])
        if name == "softplus":
            return self.call("log", [Fragment(f"1 + {self.exponential(arguments[0]).text}", SUM)])
        return Fragment(_NAMES.get(name, rf"\operatorname{{{_escaped(name)}}}") + closed)


@lru_cache(maxsize=256)
def latex_name(name: str) -> str:
    """Return the LaTeX of a variable: Greek letters by their names, and trailing digits or `_suffix` as an index."""
    match = _NAME.fullmatch(name)
    if match is None:
        return rf"\mathrm{{{_escaped(name)}}}"
    head, digits, suffix = match.group("head", "digits", "suffix")
    symbolic = len(head) == 1 or head in _GREEK
    if suffix and not symbolic:
        return rf"\mathrm{{{head}\_{suffix}}}"
    letter = head if len(head) == 1 else rf"\{head}" if symbolic else rf"\mathrm{{{head}}}"
    index = digits or (rf"\{suffix}" if suffix in _GREEK else suffix)
    return f"{letter}_{_braced(index)}" if index else letter


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def _braced(text: str) -> str:
    return text if len(text) == 1 else f"{{{text}}}"


@lru_cache(maxsize=256)
def _callable(latex: str) -> bool:
    """Return whether a reader would take a parenthesis after this name for a function's argument."""
    return latex.startswith(r"\mathrm") or latex.lstrip("\\").partition("_")[0] in _CALLABLE


def latex_names(names: Iterable[str]) -> dict[str, str]:
    """Return the LaTeX of each variable of an expression. Names that would look alike, as x1 and x_1, differ."""
    found = {name: latex_name(name) for name in names}
    latex = list(found.values())
    if len(set(latex)) < len(latex):
        alike = [name for name in found if "_" in name and latex.count(found[name]) > 1]
        found |= {name: rf"\mathrm{{{_escaped(name)}}}" for name in alike}
    return found


def _beside(left: str, right: str, *, apart: bool) -> str:
    """Return two LaTeX factors side by side, with a dot or a space between them where needed. With `apart`, a
    parenthesis after `left` would be read as its argument, so a dot comes before the parenthesis."""
    if (
        right[0].isdecimal()
        or (left[-1].isdecimal() and re.match(r"\\frac\{[0-9]", right))
        or (apart and right.startswith(_OPENINGS))
    ):
        return rf"{left} \cdot {right}"
    if r"\mathrm" in left[-40:] or right.startswith(r"\mathrm"):
        return rf"{left} \, {right}"
    return f"{left} {right}"


def _shortest(value: Rational) -> str:
    """Return the shortest decimal that reads as the same float."""
    mantissa, _, exponent = repr(float(value)).partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa.removesuffix(".0")


def _decimal(top: int, bottom: int) -> str:
    """Return the fraction top / bottom as a decimal; an empty text if it has more than `LONGEST_DECIMALS` places."""
    for places in range(1, LONGEST_DECIMALS + 1):
        if 10**places % bottom == 0:
            digits = str(top * (10**places // bottom)).rjust(places + 1, "0")
            return f"{digits[:-places]}.{digits[-places:]}"
    return ""


# --- an expression as it was typed --------------------------------------------------------------


def as_written(expression: Expression) -> str:
    """Return the LaTeX of an expression as it was typed, without simplification."""
    notation = Latex(latex_names(expression.variables))
    small = [False] * len(expression.steps)
    for place, step in reversed([*enumerate(expression.steps)]):
        for position, operand in enumerate(step.operands):
            small[operand] = small[place] or (step.word, position) in _RAISED
    pieces: list[Fragment] = []
    for step, is_small in zip(expression.steps, small, strict=True):
        operands = [pieces[place] for place in step.operands]
        pieces.append(_written(notation.small if is_small else notation, step, operands))
    return pieces[-1].text


_RAISED = frozenset((("power", 1), ("pow", 1), ("exp", 0), ("expm1", 0), ("gaussian", 0), ("softplus", 0)))
"""Words with the position of the argument that becomes an exponent."""


def _written(notation: Text, step: ExpressionStep, operands: list[Fragment]) -> Fragment:
    """Return the fragment of one step of an expression, given the fragments of its operands."""
    match step.word, operands:
        case "number", _:
            return notation.number(step.text)
        case word, []:
            return notation.symbol(step.text or word)
        case (("add" | "subtract"), [a, b]):
            return _chained(notation, a, step.word == "subtract", b)
        case "multiply", _:
            return notation.product(operands)
        case "divide", [a, b]:
            return notation.fraction(a, b)
        case "negate", [a]:
            return notation.total([(True, a)])
        case (("power" | "pow"), [a, b]):
            return notation.power(a, b)
        case "exp", [a]:
            return notation.exponential(a)
        case "expm1", [a]:
            return _chained(notation, notation.exponential(a), True, _ONE)
        case "log1p", [a]:
            return notation.call("log", [_chained(notation, _ONE, False, a)])
        case "sqrt", [a]:
            return notation.root(a)
        case "hypot", [a, b]:
            return notation.root(_chained(notation, notation.power(a, _TWO), False, notation.power(b, _TWO)))
        case "gaussian", [a]:
            return notation.exponential(notation.small.total([(True, notation.small.power(a, _TWO))]))
        case "relu", [a]:
            return notation.call("max", [_ZERO, a])
        case "step", [a]:
            return notation.call("greater_equal", [a, _ZERO, a])
    return notation.call(step.word, operands)


def _chained(notation: Text, left: Fragment, minus: bool, right: Fragment) -> Fragment:
    """Return the fragment of a sum or difference as typed. The right part keeps no parentheses of its own, unless it
    begins with a sign."""
    text = notation.group(right.text) if right.text[0] == "-" else notation.wrap(right, QUOTIENT if minus else SUM)
    return Fragment(f"{notation.wrap(left, SUM)} {'-' if minus else '+'} {text}", SUM)


_ZERO, _ONE, _TWO = Fragment("0"), Fragment("1"), Fragment("2")
