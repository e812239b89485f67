"""Suggestions for unknown names: the name that a caller probably meant.

Tried in this order: a known name in another spelling, the table of foreign names, a similar name.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeGuard

from service.engine.foreign import AFFIXES, FOREIGN, Foreign, fold

LONGEST = 60
"""The most characters of a name that may be a misspelling."""
MOST_KNOWN = 300
"""The most known names that are searched for a similar one: the time grows with them."""


CLOSE, VERY_CLOSE = 0.65, 0.85
"""The least similarity of a misspelling to a known name: of the place itself, and of other places."""
MOST_SUGGESTIONS = 20
"""The most suggestions for one object: the first few teach enough."""


class Suggestion(NamedTuple):
    """A known name with a note; or, without a name, a note that says what to do instead."""

    name: str
    note: str = ""

    def __str__(self) -> str:
        """Return the suggestion as the end of a sentence; empty if there is none."""
        if self.name:
            return f"; did you mean {self.name!r}?" + (f" {self.note}" if self.note else "")
        begins = self.note[:1] if self.note[1:2].isupper() else self.note[:1].lower()  # POST stays POST
        return f": {begins}{self.note[1:].rstrip('.')}" if self.note else ""


NOTHING = Suggestion("")


def suggest(kind: str, name: object, *known: Iterable[str]) -> Suggestion:
    """Return the known name that was probably meant by an unknown one, or `NOTHING`.

    `kind` is a table of `FOREIGN`, or empty. Earlier groups of known names go before later ones. A merely similar name
    counts only if no group has a certain one.
    """
    return _suggest(kind, name, tuple(map(tuple, known))) if _may_be_a_slip(name) else NOTHING


def translated(kind: str, name: object, known: Iterable[str]) -> Suggestion:
    """Return a suggestion as `suggest` does, but only if it is certain: never for a merely similar name."""
    return _translated(kind, name, tuple(known)) if _may_be_a_slip(name) else NOTHING


def _may_be_a_slip(name: object) -> TypeGuard[str]:
    return isinstance(name, str) and len(name) <= LONGEST


@lru_cache(maxsize=1024)  # a mistake is often made in every layer
def _suggest(kind: str, name: str, groups: tuple[tuple[str, ...], ...]) -> Suggestion:
    return next((found for found in _candidates(kind, name, groups) if found != NOTHING), NOTHING)


def _candidates(kind: str, name: str, groups: tuple[tuple[str, ...], ...]) -> Iterator[Suggestion]:
    """Yield suggestions, the most certain first; any may be `NOTHING`."""
    for known in groups:
        yield _translated(kind, name, known)
    yield _otherwise(kind, name)
    for place, known in enumerate(groups):
        yield _similar(kind, name, known, VERY_CLOSE if place else CLOSE)


def _otherwise(kind: str, name: str) -> Suggestion:
    """Return what to do with a foreign name that stands for nothing at any of the places."""
    foreign = FOREIGN.get(kind, {}).get(fold(name))
    return Suggestion("", foreign.otherwise) if foreign is not None else NOTHING


def _translated(kind: str, name: str, known: tuple[str, ...]) -> Suggestion:
    folded = fold(name)
    by_fold = _by_fold(known)
    table = FOREIGN.get(kind, {})
    for spelling in _spellings(kind, folded):
        if spelling in by_fold:
            return Suggestion(by_fold[spelling])
        if spelling in table:
            found = _here(table[spelling], known)
            if found != NOTHING:
                return found
    return NOTHING


@lru_cache(maxsize=256)  # one group of known names for each registry and schema
def _by_fold(known: tuple[str, ...]) -> dict[str, str]:
    return {fold(each): each for each in reversed(known)}


def _spellings(kind: str, folded: str) -> list[str]:
    """Return a folded name, and the name without the word of its kind, such as "layer", or without its number."""
    spellings = [folded, *(folded.removesuffix(affix) for affix in AFFIXES.get(kind, ()) if folded.endswith(affix))]
    return [*spellings, folded.rstrip("0123456789")] if kind == "parameter" else spellings  # W1 is a W


def _here(foreign: Foreign, known: tuple[str, ...]) -> Suggestion:
    if not foreign.here:
        return Suggestion("", foreign.note)
    name = next((name for name in foreign.here if name in known), None)
    return NOTHING if name is None else Suggestion(name, foreign.note)


def _similar(kind: str, name: str, known: tuple[str, ...], cutoff: float) -> Suggestion:
    folded = fold(name)
    swapped = [each for each in known[:MOST_KNOWN] if len(each) == len(folded) > 2 and sorted(each) == sorted(folded)]
    close = swapped or difflib.get_close_matches(name, known[:MOST_KNOWN], 1, cutoff)
    if close:
        return Suggestion(close[0])
    candidates = {fold(each): Suggestion(each) for each in known[:MOST_KNOWN]}
    if kind in AFFIXES:  # names of registries are long; keys are short, and any may resemble another
        foreign = {each: _here(meaning, known) for each, meaning in FOREIGN.get(kind, {}).items() if len(each) > 4}
        candidates = foreign | candidates
    close = difflib.get_close_matches(folded, candidates, 1, cutoff)
    return candidates[close[0]] if close else NOTHING
