"""Values of an option for the generic tests: near its default, and at the extremes."""

import math
from collections.abc import Callable, Iterator
from typing import Any

from service.engine.declarations import Declaration
from service.engine.options import LARGEST_INTEGER, Integer, Integers, Number, Numbers, Option, Refused, Value

LARGEST = 1.7976931348623157e308


def others(option: Option) -> Iterator[Any]:
    """Yield accepted values besides the default: one near a default that is a number, an ordinary one, the bounds."""
    near = () if option.default is None or option.required else _near(option)
    tried = (*(value for value in near if _takes(option, value)), *option.accepted())
    yield from (value for value in tried if value != option.default)


def _near(option: Option) -> Iterator[float]:
    if isinstance(option, Integer):
        yield option.default + (1 if option.maximum is None or option.default < option.maximum else -1)
    elif isinstance(option, Number):
        start: float = option.default
        if option.maximum is None or start + 0.25 < option.maximum:
            yield start + 0.25
        elif start < option.maximum:
            yield (start + option.maximum) / 2.0
        else:
            yield start - 0.25 if option.minimum is None else (option.minimum + start) / 2.0


def _takes(option: Option, value: Any) -> bool:
    assert isinstance(option, Value)
    try:
        option.read(value)
    except Refused:
        return False
    return True


def required_of(declaration: Declaration) -> dict[str, Any]:
    """Return an ordinary value for each option that has no default."""
    return {option.name: next(option.accepted()) for option in declaration.options if option.required}


def idle(declaration: Declaration, result: Callable[..., bytes]) -> list[str]:
    """Return the names of options that change nothing.

    `result(**options)` returns what the block computes. An option counts if another value of it changes that: alone, or
    together with another value of one more option.
    """
    required = required_of(declaration)
    found = []
    for option in declaration.options:
        also = ({}, *({other.name: value} for other in declaration.options for value in others(other)))
        counts = any(
            result(**{**required, **more, option.name: value}) != result(**{**required, **more})
            for more in also
            if option.name not in more
            for value in others(option)
        )
        if not counts:
            found.append(option.name)
    return found


def outermost(option: Option) -> Iterator[Any]:
    """Yield the extreme accepted values: the bounds, and the largest numbers where there is no bound."""
    if type(option) not in (Integer, Integers, Number, Numbers):
        yield from option.accepted()  # a kind that is derived from one of them may refuse its largest numbers
        return
    match option:
        case Number():
            bounds = list(option.accepted())[1:]
            yield from bounds
            if option.maximum is None:
                yield LARGEST
            if option.minimum is None:
                yield -LARGEST
            elif not option.open_minimum:
                yield math.nextafter(option.minimum, math.inf)
        case Integer():
            yield from (option.minimum, option.maximum)[option.minimum is None : 1 + (option.maximum is not None)]
            if option.maximum is None:
                yield LARGEST_INTEGER
            if option.minimum is None:
                yield -LARGEST_INTEGER
        case Integers():
            count = option.length or 1
            yield from ([option.minimum] * count, [LARGEST_INTEGER] * count)
        case Numbers():
            yield from ([LARGEST], [-LARGEST if option.minimum is None else option.minimum])
