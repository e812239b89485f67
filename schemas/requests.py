"""The base of all request schemas, which validates the recipe of a request only once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

import numpy as np
import orjson
from marshmallow import ValidationError, missing, post_load
from marshmallow.exceptions import ValidationError as MarshmallowError

from schemas.documents import recognised
from schemas.messages import LONGEST_PLAIN, Message
from schemas.stored import by_id
from schemas.strict import KnownWrong, StrictField, StrictSchema
from service.engine.cache import LeastRecentlyUsed

MOST_DEPTH = 64
TOO_DEEP = f"is nested deeper than {MOST_DEPTH} levels"
RECIPES_BYTES = 32 * 2**20
"""Bytes of the recipes that are remembered, for all endpoints together."""
RECIPE_BYTES, RECIPE_FACTOR = 6144, 16
"""Bytes of a remembered recipe: a constant, and a multiple of its JSON, for itself and the objects made of it."""


recipes: LeastRecentlyUsed[tuple[type, bytes], dict[str, Any]] = LeastRecentlyUsed(
    RECIPES_BYTES, lambda key, _: RECIPE_BYTES + RECIPE_FACTOR * len(key[1])
)
"""The recipes of this process: one cache, because schemas exist once."""

R = TypeVar("R")
"""The type of a loaded request: a `TypedDict`."""


class RequestSchema(StrictSchema, Generic[R]):
    """The schema of a request: a recipe, which says what to compute, and fresh values to compute it with.

    A recipe that came before is recognised by its bytes and not validated again: only the `fresh` keys are. Equal
    recipes give the same objects, so that whatever is compiled for them is found by identity.
    """

    fresh: frozenset[str] = frozenset()
    """Keys with values that differ from request to request: tensors and seeds."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._fresh_fields: dict[str, StrictField] = {key: self.load_fields[key] for key in self.fresh}  # type: ignore[misc]

    def read(self, request: dict[str, Any]) -> R:
        """Validate and load a request, with the recipe from memory if it came before. Raise `ValidationError`."""
        fresh = self.fresh
        recipe = {key: value for key, value in request.items() if key not in fresh}
        for value in recipe.values():
            if type(value) is np.ndarray and value.size > LONGEST_PLAIN:
                self.load(request)  # raises: no valid recipe has as many numbers
        try:
            # Equal recipes have equal bytes, whatever their order of keys and white space.
            name = orjson.dumps(recipe, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY, default=by_id)
        except (TypeError, ValueError):
            raise ValidationError(Message(TOO_DEEP)) from None
        known = recipes.find((type(self), name))
        if known is None:
            if nesting(recipe) > MOST_DEPTH:
                raise ValidationError(Message(TOO_DEEP))
            loaded: dict[str, Any] = self.load(request)
            recipe = {key: value for key, value in loaded.items() if key not in self.fresh}
            if "shards" in recipe:
                recipe["recipe"] = name  # other processes read it as well
            return cast("R", loaded | recipes.get((type(self), name), lambda: recipe))
        loaded = dict(known)
        refused: dict[str, Any] = {}
        try:
            for key, field in self._fresh_fields.items():
                if key in request:
                    try:
                        loaded[key] = field.read(request[key])
                    except ValidationError as error:
                        refused = {key: KnownWrong(error.messages)}
                        raise
                elif field.required:
                    return cast("R", self.load(request))
                elif field.load_default is not missing:
                    loaded[key] = field.load_default
            return cast("R", self.finish(loaded))
        except ValidationError:
            self.load(request | refused)  # raises again, with all faults
            raise

    def file_bytes(self, request: Mapping[str, Any]) -> int:
        """Bytes that files within a request take while they are read, beyond their text."""
        return 0

    def handle_error(self, error: MarshmallowError, data: Any, *, many: bool, **kwargs: Any) -> None:
        """Raise the error as every schema does, but for a model of another library one that says so."""
        super().handle_error(error, data, many=many, **kwargs)
        foreign = recognised(data) if "network" not in data and "expression" not in data else ""
        if foreign:
            error.messages = {"_schema": [Message(foreign)]}

    def finish(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """Check and convert the request once all its fields are valid; subclasses override this."""
        return loaded

    @post_load
    def _finish(self, loaded: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return self.finish(loaded)


CONTAINERS = frozenset((dict, list))


def containers_in(item: Any) -> list[Any]:
    """Return the lists and objects that are direct entries of a list or an object."""
    children = item.values() if type(item) is dict else item
    # Most lists are long and contain none: then no list is made.
    if CONTAINERS.isdisjoint(map(type, children)):
        return []
    return [child for child in children if type(child) in CONTAINERS]


def nesting(value: Any) -> int:
    """Return how deeply lists and objects are nested in a value, counted up to one more than allowed."""
    depth, level = 0, [value] if type(value) in CONTAINERS else []
    while level and depth <= MOST_DEPTH:
        depth += 1
        level = [child for item in level for child in containers_in(item)]
    return depth
