"""Which values the generic tests try for an option: ordinary ones, and those at its bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from service.engine.declarations import Choice, Flag, Integer, Integers, Number, Numbers, Option, Reference

LARGEST = 1.7976931348623157e308
LARGEST_INTEGER = 2**63 - 1


def accepted(option: Option) -> Iterator[Any]:
    """Values that the option takes, as JSON has them: an ordinary one first, then those at its bounds."""
    match option:
        case Number():
            low = -math.inf if option.minimum is None else option.minimum
            high = math.inf if option.maximum is None else option.maximum
            if math.isfinite(low) and math.isfinite(high):
                yield (low + high) / 2
            else:
                yield low + 1 if math.isfinite(low) else min(0.5, high - 1)
            if option.minimum is not None:
                yield math.nextafter(low, math.inf) if option.open_minimum else low
            if option.maximum is not None:
                yield math.nextafter(high, -math.inf) if option.open_maximum else high
        case Integer():
            if option.minimum is None and option.maximum is None:
                yield 1
            yield from (bound for bound in (option.minimum, option.maximum) if bound is not None)
        case Flag():
            yield from (True, False)
        case Choice():
            yield from option.values
        case Integers():
            one = max(1, option.minimum)
            several = [one] * (option.length or 1)
            if option.length is not None or option.single:
                yield one
            yield several
            if option.pairs:
                yield [[one, one], *several[1:]]
        case Numbers():
            yield [1.0 if option.minimum is None else option.minimum + 1.0]
            yield [0.0 if option.minimum is None else option.minimum]
        case Reference():
            for name in option.registry.names:
                if not any(each.required for each in option.registry[name].options):
                    yield name
        case _:
            raise TypeError(option)


def others(option: Option) -> Iterator[Any]:
    """Accepted values besides the default: one near it where it is a number, an ordinary one, and the bounds."""
    near = [] if option.default is None or option.required else list(_near(option))
    yield from (value for value in (*near, *accepted(option)) if value != option.default)


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


def outermost(option: Option) -> Iterator[Any]:
    """The accepted values that are farthest out: the bounds, and the largest numbers where there is none."""
    match option:
        case Number():
            bounds = list(accepted(option))[1:]
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
        case _:
            yield from accepted(option)
