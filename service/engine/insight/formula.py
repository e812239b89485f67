"""Formulas of single numbers: a small tree over named numbers, and what can be done with it.

A `Formula` says how one number comes from others, which it names by keys. It can be evaluated, written as an expression
that a program reads, and seen with the sign of some names turned. How it looks in LaTeX is said in `notation.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from service.engine.graph.ir import OPERATIONS
from service.engine.graph.quiet import quietly

Key = Hashable
"""What a formula calls a number: an element of a node, as (node, place), or a name."""


class Formula:
    """A number, in terms of others. `size` counts the names in it, `depth` how deep it nests."""

    __slots__ = ("depth", "size")

    size: int
    depth: int

    @property
    def parts(self) -> tuple[Formula, ...]:
        return ()


class Ref(Formula):
    """Another number, by its key."""

    __slots__ = ("key",)

    def __init__(self, key: Key) -> None:
        self.key = key
        self.size, self.depth = 1, 0


class Number(Formula):
    """A constant."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value
        self.size, self.depth = 0, 0


class _Compound(Formula):
    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Formula]) -> None:
        self._parts = tuple(parts)
        self.size = sum([part.size for part in self._parts])
        self.depth = 1 + max([part.depth for part in self._parts])

    @property
    def parts(self) -> tuple[Formula, ...]:
        return self._parts


class Sum(_Compound):
    """Terms, each with whether it is subtracted."""

    __slots__ = ("minus",)

    def __init__(self, terms: Sequence[tuple[bool, Formula]]) -> None:
        super().__init__([term for _, term in terms])
        self.minus = tuple([minus for minus, _ in terms])

    @property
    def terms(self) -> list[tuple[bool, Formula]]:
        return list(zip(self.minus, self._parts, strict=True))


class Product(_Compound):
    """Factors."""

    __slots__ = ()


class Quotient(_Compound):
    """One number over another."""

    __slots__ = ()


class Square(_Compound):
    """A number times itself."""

    __slots__ = ()


class Call(_Compound):
    """A function by the name of its operation in the graph, or one of `FUNCTIONS`."""

    __slots__ = ("name",)

    def __init__(self, name: str, arguments: Sequence[Formula]) -> None:
        super().__init__(arguments)
        self.name = name


# --- building -----------------------------------------------------------------------------------


def total(terms: Sequence[tuple[bool, Formula]]) -> Formula:
    """A sum without sums inside it."""
    flat: list[tuple[bool, Formula]] = []
    for minus, term in terms:
        if isinstance(term, Sum):
            flat += [(minus != inner, part) for inner, part in term.terms]
        elif not isinstance(term, Number) or term.value or len(terms) == 1:
            flat.append((minus, term))
    if not flat:
        return Number(0.0)
    return flat[0][1] if len(flat) == 1 and not flat[0][0] else Sum(flat)


def negative(formula: Formula) -> Formula:
    if isinstance(formula, Number):
        return Number(-formula.value)
    return total([(True, formula)])


def product(factors: Sequence[Formula]) -> Formula:
    """A product without products inside it; signs of its factors come to the front."""
    flat: list[Formula] = []
    minus = False
    for given in factors:
        factor = given
        if isinstance(factor, Sum) and len(factor.minus) == 1:
            minus = not minus
            factor = factor.parts[0]
        if isinstance(factor, Product):
            flat += factor.parts
        elif not isinstance(factor, Number) or factor.value != 1.0:
            flat.append(factor)
    found = Number(1.0) if not flat else flat[0] if len(flat) == 1 else Product(flat)
    return negative(found) if minus else found


def quotient(top: Formula, bottom: Formula) -> Formula:
    if isinstance(top, Sum) and len(top.minus) == 1:
        return negative(quotient(top.parts[0], bottom))
    return Quotient((top, bottom))


# --- reading ------------------------------------------------------------------------------------


def names(formula: Formula) -> Iterator[Key]:
    """The keys of a formula, in the order in which it is written, repeated where it repeats them."""
    waiting = [formula]
    while waiting:
        here = waiting.pop()
        if isinstance(here, Ref):
            yield here.key
        else:
            waiting += reversed(here.parts)


def turned(formula: Formula, signed: Callable[[Key], bool]) -> Formula:
    """The negative of a formula, in terms of the negatives of all names that are `signed`.

    A formula that is linear in these names keeps its form, as deltas in terms of deltas do.
    """
    if isinstance(formula, Ref):
        return formula if signed(formula.key) else negative(formula)
    if isinstance(formula, Sum):
        return total([(minus, turned(term, signed)) for minus, term in formula.terms])
    if isinstance(formula, Product):
        factors = list(formula.parts)
        place = next((k for k, factor in enumerate(factors) if _any_signed(factor, signed)), None)
        if place is None:
            return negative(formula)
        factors[place] = turned(factors[place], signed)
        return product([factors[place] if k == place else kept(part, signed) for k, part in enumerate(factors)])
    if isinstance(formula, Quotient):
        top, bottom = formula.parts
        return quotient(turned(top, signed), kept(bottom, signed))
    if isinstance(formula, Call) and formula.name in ("gate", "weighted"):
        first, second = formula.parts
        return Call(formula.name, (kept(first, signed), turned(second, signed)))
    return negative(kept(formula, signed))


def kept(formula: Formula, signed: Callable[[Key], bool]) -> Formula:
    """The same number, in terms of the negatives of all names that are `signed`."""
    if not _any_signed(formula, signed):
        return formula
    if isinstance(formula, Ref):
        return negative(formula)
    parts = [kept(part, signed) for part in formula.parts]
    if isinstance(formula, Sum):
        return total(list(zip(formula.minus, parts, strict=True)))
    if isinstance(formula, Product):
        return product(parts)
    if isinstance(formula, Quotient):
        return quotient(*parts)
    if isinstance(formula, Square):
        return Square(parts)
    assert isinstance(formula, Call)
    return Call(formula.name, parts)


def _any_signed(formula: Formula, signed: Callable[[Key], bool]) -> bool:
    return any(signed(key) for key in names(formula))


# --- evaluating ---------------------------------------------------------------------------------


def _first_largest(place: float, *values: float) -> float:
    return float(values.index(max(values)) == int(place))


def _order(position: float, descending: float, *values: float) -> float:
    places = sorted(range(len(values)), key=lambda place: values[place] * (-1.0 if descending else 1.0))
    return float(places[int(position)])


FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "equal": lambda a, b: float(a == b),
    "first_largest": _first_largest,
    "order": _order,
}
"""Functions that are no operation of the graph as they stand here; the others are."""


def evaluate(formula: Formula, value: Callable[[Key], float]) -> float:
    """The number that a formula stands for, in float64."""
    if isinstance(formula, Ref):
        return value(formula.key)
    if isinstance(formula, Number):
        return formula.value
    parts = [evaluate(part, value) for part in formula.parts]
    if isinstance(formula, Sum):
        return sum([-part if minus else part for minus, part in zip(formula.minus, parts, strict=True)])
    if isinstance(formula, Product):
        return math.prod(parts)
    if isinstance(formula, Square):
        return parts[0] * parts[0]
    if isinstance(formula, Quotient):
        return quietly(_operate, "divide", parts)
    assert isinstance(formula, Call)
    function = FUNCTIONS.get(formula.name)
    return quietly(_operate, formula.name, parts) if function is None else function(*parts)


def _operate(name: str, values: Sequence[float]) -> float:
    """An elementwise operation of the graph on single numbers."""
    operation = OPERATIONS[name]
    out = np.empty(())
    scratch = [np.empty(()) for _ in range(2)]
    for call in operation.bind(
        out, [np.array(value) for value in values], (), scratch[:1] if operation.scratch else []
    ):
        call()
    return float(out)


# --- writing ------------------------------------------------------------------------------------

_SUM, _PRODUCT, _POWER, _ATOM = range(4)


def expression(formula: Formula, name: Callable[[Key], str]) -> str:
    """A formula for programs: Python's arithmetic, functions by the names of operations, whole digits of constants."""
    return _written(formula, name)[0]


def _written(formula: Formula, name: Callable[[Key], str]) -> tuple[str, int]:
    if isinstance(formula, Ref):
        return name(formula.key), _ATOM
    if isinstance(formula, Number):
        return _literal(formula.value)
    parts: list[Any] = [_written(part, name) for part in formula.parts]

    def wrap(part: tuple[str, int], level: int) -> str:
        return part[0] if part[1] >= level else f"({part[0]})"

    if isinstance(formula, Sum):
        text = "".join(
            f"{'-' if minus else '+'}{wrap(part, _PRODUCT)}" for minus, part in zip(formula.minus, parts, strict=True)
        )
        return text.removeprefix("+"), _SUM
    if isinstance(formula, Product):
        return "*".join(wrap(part, _PRODUCT if k == 0 else _POWER) for k, part in enumerate(parts)), _PRODUCT
    if isinstance(formula, Quotient):
        return f"{wrap(parts[0], _PRODUCT)}/{wrap(parts[1], _POWER)}", _PRODUCT
    if isinstance(formula, Square):
        return f"{wrap(parts[0], _ATOM)}**2", _POWER
    assert isinstance(formula, Call)
    return f"{formula.name}({','.join(text for text, _ in parts)})", _ATOM


def _literal(value: float) -> tuple[str, int]:
    if math.isinf(value):
        return ("-inf", _SUM) if value < 0 else ("inf", _ATOM)
    text = repr(value).removesuffix(".0")
    return text, _SUM if text.startswith("-") else _ATOM
