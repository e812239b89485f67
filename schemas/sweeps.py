"""The request of a sweep: one training for each combination of values, put into a request of `/v1/train`."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypedDict, cast

import numpy as np
from marshmallow import ValidationError, missing

from schemas.common import about
from schemas.components import Components, JSONSchema, by_name, list_of
from schemas.messages import Message, hint, plain, shown
from schemas.requests import MOST_DEPTH, TOO_DEEP, RequestSchema, containers_in, nesting
from schemas.strict import StrictField, object_schema
from schemas.training import LoadedTrain, TrainRequest, whole
from service.engine.errors import MOST_ERRORS, Path

MOST_VARIED = 16
"""Pointers of one sweep."""
MOST_VALUES = 1000
"""Values of one pointer."""
MOST_COMBINATIONS = 100_000
MOST_KNOWN = 64
"""Loaded keys of requests that are remembered for later combinations."""
MOST_CHECKED = 10_000
"""Objects and lists that are read to validate values, in about a second. Values beyond are validated when their turn
comes."""
NUMBERS = 100
"""Numbers of a list that take as long to read as an object, roughly."""
TRAIN = TrainRequest()


class Varied(NamedTuple):
    """One part of a request, and the values that a sweep gives it."""

    pointer: str
    """The JSON pointer to the part, as the caller wrote it."""
    path: Path
    values: tuple[Any, ...]


class Sweep:
    """The combinations of a sweep, counted from 0. The values of the last part change fastest."""

    def __init__(self, request: Mapping[str, Any], vary: tuple[Varied, ...]) -> None:
        """Take a request of `/v1/train` and what is varied in it. `check` validates both."""
        self.request, self.vary = request, vary
        self.count = math.prod(len(varied.values) for varied in vary)
        self._shared: dict[str, Any] = {}
        """The loaded keys that all combinations share."""
        self._known: OrderedDict[tuple[str, tuple[int, ...]], Any] = OrderedDict()
        """Other loaded keys of requests, by the positions of their values. Equal networks have to be one object:
        compiled networks are found by identity."""

    def places(self, number: int) -> tuple[int, ...]:
        """Return the position of the value of each part in a combination."""
        places = []
        for varied in reversed(self.vary):
            number, place = divmod(number, len(varied.values))
            places.append(place)
        return tuple(reversed(places))

    def values(self, number: int) -> dict[str, Any]:
        """Return the values of a combination by their pointers."""
        places = zip(self.vary, self.places(number), strict=True)
        return {varied.pointer: varied.values[place] for varied, place in places}

    def load(self, number: int) -> LoadedTrain:
        """Return the loaded request of a combination. Raises `ValidationError` if its values do not fit together."""
        places = self.places(number)
        loaded = dict(self._shared)
        for key in dict.fromkeys(str(varied.path[0]) for varied in self.vary):
            loaded[key] = self._part(key, places)
        return cast("LoadedTrain", TRAIN.finish(loaded))

    def _part(self, key: str, places: tuple[int, ...]) -> Any:
        """Return the loaded value of a key of the request with the values at these positions."""
        own = [(varied, place) for varied, place in zip(self.vary, places, strict=True) if varied.path[0] == key]
        name = key, tuple([place for _, place in own])
        if name in self._known:
            self._known.move_to_end(name)
            return self._known[name]
        part: Any = self.request
        for varied, place in own:
            part = _replaced(part, varied.path, varied.values[place])
        loaded = self._known[name] = TRAIN.load_fields[key].deserialize(part[key])
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return loaded

    def check(self) -> None:
        """Validate the first combination, and every other value in it.

        Values are validated each for itself, because there may be many combinations, and only as many as take about a
        second. Others, and values that do not fit together, make a training fail. Raises `ValidationError`.
        """
        start: Any = self.request
        for varied in self.vary:
            start = _replaced(start, varied.path, varied.values[0])
        try:
            TRAIN.read(start)
        except ValidationError as error:
            raise ValidationError(self._at_places(error.messages)) from None
        errors: dict[str, Any] = {}
        left = MOST_CHECKED
        for varied in self.vary:
            each = _effort(start[varied.path[0]])
            wrong = _wrong(start, varied, 1 + left // each)
            left = max(0, left - each * (len(varied.values) - 1))
            if wrong:
                errors[varied.pointer] = wrong
        if errors:
            raise ValidationError({"vary": errors})
        varying = {varied.path[0] for varied in self.vary}
        for key, field in TRAIN.load_fields.items():
            if key not in varying and key in start:
                self._shared[key] = field.deserialize(start[key])
            elif key not in varying and field.load_default is not missing:
                self._shared[key] = field.load_default() if callable(field.load_default) else field.load_default

    def _at_places(self, messages: Any) -> dict[str, Any]:
        """Return the errors of the first combination's request at their places in the request for the sweep."""
        errors: dict[str, Any] = {}
        for varied in self.vary:
            found = _taken(messages, varied.path)
            if found:
                errors.setdefault("vary", {})[varied.pointer] = {0: found}
        return errors | ({"request": messages} if messages else {})

    def moved(self, path: Path, number: int) -> Path:
        """Return a path in the request of a combination as one in the request for the sweep."""
        for varied, place in zip(self.vary, self.places(number), strict=True):
            if path[: len(varied.path)] == varied.path:
                return ("vary", varied.pointer, place, *path[len(varied.path) :])
        return ("request", *path)


class LoadedSweep(TypedDict):
    """A validated request for a sweep."""

    sweep: Sweep


def _replaced(value: Any, path: Path, new: Any) -> Any:
    if not path:
        return new
    key, rest = path[0], path[1:]
    value = copy.copy(value)
    value[key] = _replaced(value[key], rest, new) if rest else new
    return value


class TrainRequestField(StrictField):
    """A request of `/v1/train`. It stays as it was sent: only with the values of a combination it is whole."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.refuse("a request of /v1/train, an object", value)
        return value

    def json_schema(self, components: Components) -> JSONSchema:
        return components.refer("TrainRequest", lambda: object_schema(TRAIN, components))


class VaryField(StrictField):
    """Lists of values by JSON pointer."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> dict[str, list[Any]]:
        if not isinstance(value, Mapping) or not 0 < len(value) <= MOST_VARIED:
            takes = f"an object of 1 to {MOST_VARIED} lists of values by JSON pointer"
            raise self.refuse(takes, value, instead=', such as {"/optimizer/learning_rate": [0.1, 0.01]}')
        lists: dict[str, list[Any]] = {}
        errors: dict[str, Any] = {}
        for pointer, values in value.items():
            if not isinstance(values, list | np.ndarray) or not 0 < len(values) <= MOST_VALUES:
                errors[pointer] = [Message(f"takes a list of 1 to {MOST_VALUES} values, got {shown(plain(values))}")]
            else:
                lists[pointer] = whole(values) if isinstance(values, np.ndarray) else values
        if errors:
            raise ValidationError(errors)
        return lists

    def json_schema(self, components: Components) -> JSONSchema:
        values = list_of({}, minItems=1, maxItems=MOST_VALUES)
        return by_name(values, minProperties=1, maxProperties=MOST_VARIED)


class SweepRequest(RequestSchema[LoadedSweep]):
    """A request for a sweep: a training for each combination of values."""

    request = TrainRequestField(
        required=True, metadata=about("a request of `/v1/train`, in which a value of each pointer takes its place")
    )
    vary = VaryField(
        required=True,
        metadata=about(
            "values by JSON pointer into the request, such as `/optimizer/learning_rate`; every combination is a "
            f"training, at most {MOST_COMBINATIONS:,} of them, and the values of the last pointer change fastest"
        ),
    )

    def read(self, request: dict[str, Any]) -> LoadedSweep:
        """Validate and load a request. It is not remembered: nobody sends many equal ones. Raises `ValidationError`."""
        if nesting(request) > MOST_DEPTH:
            raise ValidationError(Message(TOO_DEEP))
        loaded: LoadedSweep = self.load(request)
        return loaded

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Follow the pointers, and validate every value in the first combination."""
        request, lists = loaded["request"], loaded["vary"]
        errors: dict[str, Any] = {}
        vary = []
        for pointer, values in lists.items():
            try:
                vary.append(Varied(pointer, _path(pointer, request), tuple(values)))
            except ValidationError as error:
                errors[pointer] = error.messages
        errors |= {} if errors else dict(_overlaps(vary))
        if errors:
            raise ValidationError({"vary": errors})
        sweep = Sweep(request, tuple(vary))
        if sweep.count > MOST_COMBINATIONS:
            detail = f"makes {sweep.count:,} combinations; a sweep has at most {MOST_COMBINATIONS:,}"
            raise ValidationError({"vary": [Message(detail)]})
        sweep.check()
        return {"sweep": sweep}


def _path(pointer: str, request: dict[str, Any]) -> Path:
    """Return the path that a pointer leads along. The last key of an object may be one that is not there. Raises
    `ValidationError`."""
    if not pointer.startswith("/"):
        meant = f"/{pointer.removeprefix('#').replace('.', '/').lstrip('/')}"
        raise ValidationError([Message(f"takes a JSON pointer, which begins with /; did you mean {meant[:80]!r}?")])
    words = [word.replace("~1", "/").replace("~0", "~") for word in pointer[1:].split("/")]
    path: list[str | int] = []
    here: Any = request
    for depth, word in enumerate(words):
        place = f"/{'/'.join(words[:depth])}" if depth else "the request"
        if isinstance(here, Mapping):
            if word not in here and depth < len(words) - 1:
                raise _nowhere(f"{place} has no {shown(word)}{hint(word, here)}", list(here))
            path.append(word)
            here = here.get(word)
            continue
        if not isinstance(here, list | np.ndarray):
            instead = f'; write {{"type": {shown(here)}}} there' if isinstance(here, str) else ""
            raise _nowhere(f"{place} is {shown(here)}, which has no parts{instead}")
        if any(not isinstance(entry, Mapping | str) for entry in here):
            raise _nowhere(f"{place} is a list of numbers, which is varied as a whole")
        if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) < len(here)):
            named = (at for at, each in enumerate(here) if isinstance(each, Mapping) and each.get("name") == word)
            at = next(named, None)
            meant = "" if at is None else f"; did you mean {at}?"
            raise _nowhere(f"{place} takes a position from 0 to {len(here) - 1}, got {shown(word)}{meant}")
        path.append(int(word))
        here = here[int(word)]
    return tuple(path)


def _nowhere(detail: str, allowed: list[str] | None = None) -> ValidationError:
    return ValidationError([Message(f"leads nowhere: {detail}", allowed or ())])


def _overlaps(vary: list[Varied]) -> Iterator[tuple[str, Any]]:
    """Yield errors about pointers to parts of what another pointer leads to."""
    for position, varied in enumerate(vary):
        for other in vary[:position]:
            shorter, longer = sorted((other, varied), key=lambda each: len(each.path))
            if longer.path[: len(shorter.path)] == shorter.path:
                yield varied.pointer, [Message(f"varies what {other.pointer!r} varies too")]


def _effort(value: Any) -> int:
    """Return about how many objects and lists are read to validate a JSON value."""
    effort, pending = 1, [value]
    while pending:
        item = pending.pop()
        effort += 1
        if isinstance(item, np.ndarray):
            effort += item.size // NUMBERS
        elif isinstance(item, dict | list):
            effort += len(item) // NUMBERS
            pending += containers_in(item)
    return effort


def _wrong(start: dict[str, Any], varied: Varied, most: int) -> dict[int, Any]:
    """Return the errors of the values after the first by their positions, each in the request `start`, up to a position
    of `most`."""
    key = str(varied.path[0])
    field = TRAIN.load_fields[key]
    wrong: dict[int, Any] = {}
    for place, value in enumerate(varied.values[1:most], 1):
        try:
            field.deserialize(_replaced(start, varied.path, value)[key])
        except ValidationError as error:
            wrong[place] = _below(error.messages, varied.path[1:])
            if len(wrong) >= MOST_ERRORS:
                break
    return wrong


def _taken(messages: Any, path: Path) -> Any:
    """Take the errors at a path out of nested errors, and return them; None if there are none."""
    if not isinstance(messages, dict) or path[0] not in messages:
        return None
    if len(path) == 1:
        return messages.pop(path[0])
    found = _taken(messages[path[0]], path[1:])
    if not messages[path[0]]:
        del messages[path[0]]
    return found


def _below(messages: Any, path: Path) -> Any:
    """Return the errors at a path in nested errors; what has an error elsewhere is at fault as a whole."""
    for key in path:
        if not isinstance(messages, dict) or key not in messages:
            break
        messages = messages[key]
    return messages
