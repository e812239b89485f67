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
