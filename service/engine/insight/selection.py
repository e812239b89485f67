"""Selectors: parameters named in one string, as `hidden`, `hidden.kernel` or `hidden.kernel[0][1]`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from service.engine.errors import Fault, InvalidRequest, Path
from service.engine.network.flat import Piece
from service.engine.suggestions import suggest

LONGEST_SELECTOR = 256
"""Characters of a selector: a name of a layer, one of a parameter and some indices."""
MOST_ALLOWED = 20
"""Names that one refusal lists."""
SELECTOR = re.compile(r"(?P<path>[^\[\]]+)(?P<indices>(\[[^\[\]]*\])*)")
EXAMPLE = "'hidden.kernel[0][1]'"


@dataclass(frozen=True)
class SelectedNumbers:
    """Some numbers of one parameter, which a selector names."""

    part: Piece
    """The parameter."""
    index: tuple[int, ...]
    """Positions along its first axes; () selects the whole parameter."""

    @property
    def size(self) -> int:
        """The count of selected numbers."""
        return math.prod(self.part.shape[len(self.index) :])

    @property
    def start(self) -> int:
        """The place of the first number in the flat vector of all parameters. The others follow it."""
        offset = 0
        for position, length in enumerate(self.part.shape):
            offset = offset * length + (self.index[position] if position < len(self.index) else 0)
        return self.part.start + offset

    @property
    def label(self) -> str:
        """The selector that names these numbers."""
        return f"{self.part.layer}.{self.part.name}" + "".join(f"[{n}]" for n in self.index)


def split(path: str, layers: Collection[str]) -> tuple[str, str | None]:
    """Split a path without indices into the layer and the parameter, if it names one. Layer names may have dots."""
    layer, dot, name = path.rpartition(".")
    return (layer, name) if dot and (layer in layers or path not in layers) else (path, None)


def select(text: str, parts: Sequence[Piece], path: Path) -> list[SelectedNumbers]:
    """Return the numbers that a selector names: all parameters of a layer, one of them, or a part of one. `path` is the
    place of the selector in the request. Raises `InvalidRequest` with the possible names."""
    found = SELECTOR.fullmatch(text)
    layer, name = split(found["path"] if found is not None else "", {part.layer for part in parts})
    if found is None or not layer or name == "" or (name is None and found["indices"]):
        detail = f"takes a layer, a parameter and indices counted from 0, such as {EXAMPLE}, got {text[:60]!r}"
        raise InvalidRequest([Fault(path, detail, _labels(parts))])
    of_layer = [part for part in parts if part.layer == layer]
    if not of_layer:
        layers = tuple(dict.fromkeys(part.layer for part in parts))
        detail = f"no layer with parameters of its own is called {layer[:64]!r}{suggest('', layer, layers)}"
        raise InvalidRequest([Fault(path, detail, layers[:MOST_ALLOWED])])
    if name is None:
        return [SelectedNumbers(part, ()) for part in of_layer]
    part = next((part for part in of_layer if part.name == name), None)
    if part is None:
        names = [part.name for part in of_layer]
        detail = f"layer {layer!r} has no parameter {name[:64]!r}{suggest('parameter', name, names)}"
        raise InvalidRequest([Fault(path, detail, _labels(of_layer))])
    return [SelectedNumbers(part, _read_indices(found["indices"], part, path))]


def select_one(text: str, parts: Sequence[Piece], path: Path) -> SelectedNumbers:
    """Return the one number that a selector names. Raises `InvalidRequest` also where it names several."""
    selected = select(text, parts, path)
    if len(selected) == 1 and len(selected[0].index) == len(selected[0].part.shape):
        return selected[0]
    one = selected[0]
    label = replace(one, index=one.index + (0,) * (len(one.part.shape) - len(one.index))).label
    shape = list(one.part.shape)
    if len(selected) == 1:
        detail = f"names {one.size} numbers, because {one.part.name} has shape {shape}; name one of them, as {label!r}"
    else:
        detail = f"names a whole layer; name one number, as {label!r}"
    raise InvalidRequest([Fault(path, detail, _labels(each.part for each in selected))])


def _read_indices(text: str, part: Piece, path: Path) -> tuple[int, ...]:
    written = re.findall(r"\[([^\[\]]*)\]", text)
    label = f"{part.layer}.{part.name}"
    indices = []
    for position, item in enumerate(written):
        if position >= len(part.shape):
            detail = f"has {len(written)} indices; {label} has shape {list(part.shape)}, so it takes {len(part.shape)}"
            raise InvalidRequest([Fault(path, detail)])
        length = part.shape[position]
        if not re.fullmatch(r"[0-9]{1,12}", item):
            each = "".join(f"[{number.strip()}]" for number in item.split(",")) if "," in item else ""
            instead = f"; write {label}{each}" if re.fullmatch(r"(\[[0-9]{1,12}\])+", each) else ""
            detail = f"takes an integer from 0 to {length - 1} in each pair of brackets, got [{item[:40]}]{instead}"
            raise InvalidRequest([Fault(path, detail)])
        index = int(item)
        if index >= length:
            axis = f"axis {position}" if len(part.shape) > 1 else "its axis"
            detail = f"index {index} is out of range: {axis} of {label} has {length}, so it takes 0 to {length - 1}"
            raise InvalidRequest([Fault(path, detail)])
        indices.append(index)
    return tuple(indices)


def _labels(parts: Iterable[Piece]) -> tuple[str, ...]:
    """Return selectors of these parameters, for the names that an error allows."""
    return tuple(f"{part.layer}.{part.name}" for part in islice(parts, MOST_ALLOWED))
