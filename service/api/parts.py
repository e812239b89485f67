"""Parts of a computation that other processes compute: the functions they run, and what travels to them.

A network travels as the JSON of the request, and is validated and compiled once in each process. Parameters travel once
for each evaluation, and samples once for each request. A process gets an aligned block of shards, and sends its sum.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from schemas.evaluation import GradientsRequest, LoadedNetwork
from schemas.networks import ONNX
from schemas.stored import StoredNetwork, id_of
from service.api.context import Context
from service.api.network_request import losses_of
from service.api.sharing import Surroundings, part_context, surroundings_of
from service.api.stored import written
from service.engine.arrays import Array
from service.engine.declarations import Selection
from service.engine.network.definition import Definition
from service.engine.network.evaluate import EvaluationTask
from service.engine.network.feed import Feed
from service.engine.network.losses import Loss
from service.engine.network.shard_sums import Span, Spread, Sums, Workspaces, part_of, sums_over
from service.engine.network.task import Task
from service.engine.onnx import read as read_onnx
from service.engine.parallel import Executor, Future, InTurn

WORTH_OPERATIONS = 1e9
"""Floating-point operations of an evaluation below which no other process is asked: to ask costs some milliseconds for
each part, and as many for the parameters."""
MOST_RECIPES = 16
"""Recipes that a process remembers in the form of objects."""


class Recipe(NamedTuple):
    """A network and its losses as bytes, for another process to validate."""

    json: bytes
    """`network` and `loss` of a request."""
    onnx: bytes | None = None
    """The file of a stored network, in place of `network`."""


class Samples(NamedTuple):
    """The samples of a block of shards, or of all of them."""

    inputs: dict[str, Array]
    targets: dict[str, Array]
    weights: Array | None


@lru_cache(MOST_RECIPES)
def described(recipe: Recipe) -> tuple[Definition, tuple[Selection[Loss], ...]]:
    """Return the network and the losses of a recipe, the same objects for equal recipes."""
    request: dict[str, Any] = orjson.loads(recipe.json)
    if recipe.onnx is not None:
        name = hashlib.sha256(recipe.onnx).hexdigest()
        request["network"] = StoredNetwork(name, read_onnx(recipe.onnx).definition)
    loaded = GradientsRequest().read(request | {"inputs": [[0.0]], "targets": [[0.0]]})
    definition = loaded["network"]
    losses = losses_of(loaded["loss"], definition.output_names, [])
    assert losses is not None
    return definition, losses


def shard_sums(
    recipe: Recipe, task: Task, span: Span, flat: Array, samples: Samples, surroundings: Surroundings
) -> Sums:
    """Return the sums over a block of shards of a batch. `task` is that of the batch, without network and losses, which
    the recipe has; `flat` are the parameters. Raises `Abandoned` when nobody waits any more."""
    definition, losses = described(recipe)
    task = task._replace(definition=definition, losses=losses)
    feed = Feed(samples.inputs, None, samples.targets, samples.weights)
    with part_context(surroundings) as context:
        programs = {size: context.compiled(EvaluationTask(part_of(task, size))) for size in span.shards.sizes}
        with Workspaces(context.ticket) as memory:
            return sums_over(programs, memory, span, flat, feed, context.ticket)


class Workers(Spread):
    """The processes of an executor, as they compute blocks of shards of one request."""

    least_work = WORTH_OPERATIONS

    def __init__(self, executor: Executor, recipe: Recipe, surroundings: Surroundings) -> None:
        self._executor, self._surroundings = executor, surroundings
        name = hashlib.sha256(b"".join(hashlib.sha256(part or b"").digest() for part in recipe)).hexdigest()
        self._recipe = executor.share(f"recipe/{name}", recipe)
        self._name = secrets.token_hex(16)
        self._count = 0
        self._samples: dict[tuple[int, ...], tuple[Feed, Any]] = {}
        """The shared samples by the identity of the tensors of their feed, which is kept, and their place in it."""

    @property
    def width(self) -> int:
        return self._executor.width

    def submit(self, task: Task, spans: Sequence[Span], flat: Array, feed: Feed) -> Sequence[Future[Sums]]:
        # The definition and the losses hold functions. The recipe has them in a form that can travel.
        plain = task._replace(definition=None, losses=None)  # type: ignore[arg-type]
        parameters, around = self._share("parameters", flat), self._surroundings
        blocks = [(span, self._samples_of(task, span, feed)) for span in spans]
        return [
            self._executor.submit(shard_sums, self._recipe, plain, span, parameters, samples, around)
            for span, samples in blocks
        ]

    def _samples_of(self, task: Task, span: Span, feed: Feed) -> Any:
        """Return what stands for the samples of a block; for all samples, where the block names some of them."""
        whole = slice(0, None) if span.rows is not None else span.shards.rows(span.first, span.stop)
        key = id(feed.inputs), id(feed.targets), id(feed.sample_weights), whole.start, whole.stop or 0
        if key not in self._samples:
            weights = feed.sample_weights
            samples = Samples(
                {name: feed.inputs[name][whole] for name in feed.inputs.keys() - task.definition.known_inputs},
                {name: array[whole] for name, array in feed.targets.items()},
                None if weights is None else weights[whole],
            )
            self._samples[key] = feed, self._share("samples", samples)
        return self._samples[key][1]

    def _share(self, kind: str, value: Any) -> Any:
        # A name of its own says that the value is equal to no other one, without a hash of many megabytes.
        self._count += 1
        return self._executor.share(f"{kind}/{self._name}/{self._count}", value, keep=False)


def spread_of(request: LoadedNetwork, context: Context) -> Spread | None:
    """Return the processes that compute blocks of shards of a request. None: there are none, or it has no shards."""
    if "shards" not in request or isinstance(context.executor, InTurn):
        return None
    return Workers(context.executor, recipe_of(request), surroundings_of(context))


def recipe_of(request: LoadedNetwork) -> Recipe:
    """Return the network and the losses of a request with shards as bytes."""
    asked = orjson.loads(request["recipe"])
    network, onnx = asked["network"], None
    if id_of(network) is not None:
        kind, content = written[request["network"]]
        if kind == ONNX:
            onnx = content
        else:
            network = orjson.loads(content)
    return Recipe(orjson.dumps({"network": network, "loss": asked["loss"]}), onnx)
