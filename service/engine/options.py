"""The kinds of options that building blocks have, one class each.

A kind checks values, words their refusal, has a JSON Schema, and gives the generic tests values to try. Validation, the
catalogue, OpenAPI and the tests read it: a new kind is one class here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.engine.foreign import NUMBERS
from service.engine.suggestions import suggest

__all__ = ["Choice", "Flag", "Integer", "Integers", "Number", "Numbers", "Option"]
"""The kinds, and their base. Blocks get them from `building.py`."""

LARGEST_INTEGER = 2**63 - 1
"""The largest integer that an option takes: JSON parsers of other languages read it exactly or nearly so."""
LARGEST_EXACT_INTEGER = 2**53 - 1
"""Up to this, every integer is exact as a float64, and in JavaScript."""
LONGEST_LIST = 16
"""The most integers in a list, unless its option says otherwise."""
MOST_NUMBERS = 10_000
"""The most numbers in a list."""


class Required:
    """The default of an option that a request must give."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = Required()


class Refused(ValueError):
    """A value that an option does not take.

    `takes` says in words what the option takes; `allowed` lists the values, where there are few; `instead` continues
    the sentence with what to write. The error text writes `bare` values without quotation marks. `parts` maps the
    positions of refused list entries to their errors; where it is empty, the error is about the whole list.
    """

    def __init__(
        self,
        takes: str,
        value: Any,
        *,
        allowed: Iterable[str] = (),
        instead: str = "",
        bare: bool = False,
        parts: Mapping[int, Refused] | None = None,
    ) -> None:
        super().__init__(takes)
        self.takes, self.value, self.allowed, self.instead, self.bare = takes, value, tuple(allowed), instead, bare
        self.parts = parts or {}


@dataclass(frozen=True, kw_only=True)
class Option(ABC):
    """One option of a declared block: its name, its meaning and its values."""

    name: str = ""
    default: Any = REQUIRED
    """None if the option may be null, which is then its default."""
    description: str = ""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @abstractmethod
    def accepted(self) -> Iterator[Any]:
        """Yield JSON values that the option takes: an ordinary one first, then those at its bounds."""

    @abstractmethod
    def refused(self) -> Iterator[Any]:
        """Yield JSON values that the option refuses: of other types, and just beyond its bounds; null is never one."""


class Value(Option):
    """An option that checks its own values. Without a name, it describes the values of a key of requests."""

    @abstractmethod
    def read(self, value: Any) -> Any:
        """Return the value of the option for a parsed JSON value. Raises `Refused`."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the values."""


@dataclass(frozen=True, kw_only=True)
class Number(Value):
    """An option that takes a finite number, within bounds where given; an `open_*` bound is itself excluded."""

    minimum: float | None = None
    maximum: float | None = None
    open_minimum: bool = False
    open_maximum: bool = False

    def read(self, value: Any) -> float:
        if type(value) not in (int, float):
            raise Refused(self.takes, value, bare=True)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise Refused("a number that float64 can hold", value)
        low, high = self.minimum, self.maximum
        if (low is not None and (number <= low if self.open_minimum else number < low)) or (
            high is not None and (number >= high if self.open_maximum else number > high)
        ):
            raise Refused(self.takes, value)
        return number

    @property
    def takes(self) -> str:
        bounds = []
        if self.minimum is not None:
            bounds.append(f"{'above' if self.open_minimum else 'at least'} {self.minimum:g}")
        if self.maximum is not None:
            bounds.append(f"{'below' if self.open_maximum else 'at most'} {self.maximum:g}")
        return "a number" + (" " + " and ".join(bounds) if bounds else "")

    def schema(self) -> dict[str, Any]:
        low = "exclusiveMinimum" if self.open_minimum else "minimum"
        high = "exclusiveMaximum" if self.open_maximum else "maximum"
        return {"type": "number"} | _given({low: self.minimum, high: self.maximum})

    def accepted(self) -> Iterator[Any]:
        low = -math.inf if self.minimum is None else self.minimum
        high = math.inf if self.maximum is None else self.maximum
        if math.isfinite(low) and math.isfinite(high):
            yield (low + high) / 2
        else:
            yield low + 1 if math.isfinite(low) else min(0.5, high - 1)
        if self.minimum is not None:
            yield math.nextafter(low, math.inf) if self.open_minimum else low
        if self.maximum is not None:
            yield math.nextafter(high, -math.inf) if self.open_maximum else high

    def refused(self) -> Iterator[Any]:
        yield from (True, "1", "", [], {}, [1.0], 10**400)
        if self.minimum is not None:
            yield self.minimum if self.open_minimum else math.nextafter(self.minimum, -math.inf)
        if self.maximum is not None:
            yield self.maximum if self.open_maximum else math.nextafter(self.maximum, math.inf)


@dataclass(frozen=True, kw_only=True)
class Integer(Value):
    """An option that takes an integer, within bounds where given."""

    minimum: int | None = None
    maximum: int | None = None

    def read(self, value: Any) -> int:
        low, high = self.minimum, self.maximum
        if type(value) is int and abs(value) > LARGEST_INTEGER:
            raise Refused(f"an integer of at most {LARGEST_INTEGER} in size", value)
        if type(value) is not int or (low is not None and value < low) or (high is not None and value > high):
            bounds = [f"at least {low}"] if low is not None else []
            bounds += [f"at most {high}"] if high is not None else []
            takes = "an integer" + (" " + " and ".join(bounds) if bounds else "")
            raise Refused(takes, value, instead=self._instead(value), bare=True)
        return value

    def _instead(self, value: Any) -> str:
        """Return advice for an accepted integer that came as 3.0 or alone in a list; "" for any other value."""
        if isinstance(value, list) and len(value) == 1:
            (value,) = value
        if type(value) is float and value.is_integer():
            value = int(value)
        low, high = self.minimum, self.maximum
        if type(value) is not int or abs(value) > LARGEST_INTEGER:
            return ""
        fits = (low is None or value >= low) and (high is None or value <= high)
        return f"; write {value}" if fits else ""

    def schema(self) -> dict[str, Any]:
        return {"type": "integer"} | _given({"minimum": self.minimum, "maximum": self.maximum})

    def accepted(self) -> Iterator[Any]:
        if self.minimum is None and self.maximum is None:
            yield 1
        yield from (bound for bound in (self.minimum, self.maximum) if bound is not None)

    def refused(self) -> Iterator[Any]:
        yield from (True, "1", 1.5, 1.0, [], {}, 1e300)
        if self.minimum is not None:
            yield self.minimum - 1
        if self.maximum is not None:
            yield self.maximum + 1


@dataclass(frozen=True, kw_only=True)
class Flag(Value):
    """An option that takes true or false."""

    def read(self, value: Any) -> bool:
        if type(value) is not bool:
            raise Refused("true or false", value, bare=True)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def accepted(self) -> Iterator[Any]:
        yield from (True, False)

    def refused(self) -> Iterator[Any]:
        yield from (0, 1, "true", [], {})


@dataclass(frozen=True, kw_only=True)
class Choice(Value):
    """An option that takes one of a few words."""

    values: tuple[str, ...]

    def read(self, value: Any) -> str:
        if isinstance(value, str) and value in self.values:
            return value
        instead = str(suggest("choice", value, self.values)) if isinstance(value, str) else ""
        if isinstance(value, int | list):
            instead = "".join(f"; {NUMBERS[word]}" for word in self.values if word in NUMBERS)
        raise Refused(f"one of {', '.join(map(repr, self.values))}", value, allowed=self.values, instead=instead)

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": list(self.values)}

    def accepted(self) -> Iterator[Any]:
        yield from self.values

    def refused(self) -> Iterator[Any]:
        yield from ("nonsense", 1, True, [], {}, [self.values[0]], self.values[0].upper())


@dataclass(frozen=True, kw_only=True)
class Integers(Value):
    """An option that takes a list of integers, such as a shape."""

    minimum: int = 1
    longest: int = LONGEST_LIST
    length: int | None = None
    """The number of integers, if it is fixed; a single integer then stands for all."""
    pairs: bool = False
    """With `length`: each entry is a pair (before, after), for which a single integer may stand."""
    single: bool = False
    """A bare integer may stand for a list of one."""

    def read(self, value: Any) -> tuple[Any, ...]:
        numbers = value
        if type(numbers) is int and (self.length is not None or self.single):
            numbers = [numbers] * (self.length or 1)
        if not isinstance(numbers, list) or len(numbers) > self.longest or self.length not in (None, len(numbers)):
            alone = self.length is None and self._fits(numbers)
            raise Refused(self.takes, numbers, instead=f"; write [{numbers}]" if alone else "")
        if self.pairs:
            numbers = [[number, number] if type(number) is int else number for number in numbers]
        entry = f"an integer at least {self.minimum}" + (" or a pair of them" if self.pairs else "")
        parts: dict[int, Refused] = {}
        entries: list[Any] = []
        for place, number in enumerate(numbers):
            pair = self.pairs and isinstance(number, list) and len(number) == 2
            if not all(map(self._fits, number if pair else [number])):
                parts[place] = Refused(entry, number)
            entries.append(tuple(number) if pair else number)
        if parts:
            raise Refused(self.takes, value, parts=parts)
        return tuple(entries)

    def _fits(self, number: Any) -> bool:
        return type(number) is int and self.minimum <= number <= LARGEST_INTEGER

    @property
    def takes(self) -> str:
        if self.length is None:
            return ("an integer or " if self.single else "") + f"a list of at most {self.longest} integers"
        if self.pairs:
            return f"an integer, or a list of {self.length} integers or pairs"
        return f"an integer, or a list of {self.length}"

    def schema(self) -> dict[str, Any]:
        one: dict[str, Any] = {"type": "integer", "minimum": self.minimum}
        pair = {"type": "array", "minItems": 2, "maxItems": 2, "items": one}
        several = {
            "type": "array",
            **_given({"minItems": self.length}),
            "maxItems": self.length or self.longest,
            "items": {"anyOf": [one, pair]} if self.pairs else one,
        }
        return {"anyOf": [one, several]} if self.length is not None or self.single else several

    def accepted(self) -> Iterator[Any]:
        one = max(1, self.minimum)
        several = [one] * (self.length or 1)
        if self.length is not None or self.single:
            yield one
        yield several
        if self.pairs:
            yield [[one, one], *several[1:]]

    def refused(self) -> Iterator[Any]:
        count = self.length or 1
        wrong = (self.minimum - 1, 1.0, True, "1", None, [1], [1, 2, 3])
        yield from ("1", {}, True, [1] * (self.longest + 1), *([value] * count for value in wrong))
        if self.length is None and not self.single:
            yield from (1, [LARGEST_INTEGER + 1])
        if self.length is not None:
            yield from ([1] * (count + 1), self.minimum - 1, [])
        if not self.pairs:
            yield [[1, 2]] * count


@dataclass(frozen=True, kw_only=True)
class Numbers(Value):
    """An option that takes a list of finite numbers with a common lower bound."""

    minimum: float | None = None
    single: bool = False
    """A bare number may stand for a list of one."""

    @property
    def entry(self) -> Number:
        """The option that each entry fulfils."""
        return Number(minimum=self.minimum)

    def read(self, value: Any) -> tuple[float, ...]:
        if self.single and type(value) in (int, float):
            value = [value]
        if not isinstance(value, list) or not value:
            raise Refused("a number or a list of numbers" if self.single else "a list of numbers", value)
        if len(value) > MOST_NUMBERS:
            raise Refused(f"a list of at most {MOST_NUMBERS:,} numbers", value)
        numbers: list[float] = []
        parts: dict[int, Refused] = {}
        entry = self.entry
        for place, number in enumerate(value):
            try:
                numbers.append(entry.read(number))
            except Refused as refused:
                parts[place] = refused
        if parts:
            raise Refused("a list of numbers", value, parts=parts)
        return tuple(numbers)

    def schema(self) -> dict[str, Any]:
        entry = self.entry.schema()
        several = {"type": "array", "minItems": 1, "maxItems": MOST_NUMBERS, "items": entry}
        return {"anyOf": [entry, several]} if self.single else several

    def accepted(self) -> Iterator[Any]:
        if self.single:
            yield from self.entry.accepted()
        yield from ([number] for number in self.entry.accepted())

    def refused(self) -> Iterator[Any]:
        yield from ("1", {}, True, [], [True], ["1"], [None], [[1]])
        if not self.single:
            yield 1
        if self.minimum is not None:
            yield [math.nextafter(self.minimum, -math.inf)]


def _given(facts: Mapping[str, float | None]) -> dict[str, float]:
    """Return the facts that are not None."""
    return {name: fact for name, fact in facts.items() if fact is not None}
