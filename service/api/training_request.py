"""The training that a request asks for, of itself or as a part of a comparison, a sweep or a diagnosis."""

from __future__ import annotations

from collections.abc import Callable

from schemas.training import LoadedTraining
from service.api.context import Context
from service.api.network_request import validation_of
from service.engine.declarations import Selection
from service.engine.descent.checkpoint import Checkpoint
from service.engine.descent.cost import Admit
from service.engine.descent.loop import Recipe, Stop
from service.engine.descent.optimizers import Optimizer
from service.engine.descent.training import Training
from service.engine.descent.training_plan import Plan
from service.engine.errors import Path
from service.engine.network.feed import Feed
from service.engine.network.shard_sums import Spread
from service.engine.network.task import Task


def reserving(context: Context) -> Callable[[int], None]:
    """Return a function that reserves four times the given bytes of a training: for its response and its text too."""
    return lambda nbytes: context.memory.need(context.loaded_bytes + 4 * nbytes)


def start(
    request: LoadedTraining,
    context: Context,
    task: Task,
    feed: Feed,
    optimizer: Selection[Optimizer],
    reserve: Callable[[int], None],
    admit: Admit,
    checkpoint: Checkpoint | None = None,
    place: Path = ("optimizer",),
    more_steps: int = 0,
    spread: Spread | None = None,
) -> Training:
    """Return a training that is ready for its first step.

    `reserve` is called with the bytes it needs, `admit` waits for a slot, and `place` is the path of the optimizer in
    the request, for messages. It makes `more_steps` after those that the request asks for. `spread` computes blocks of
    shards.
    """
    task = task._replace(frozen=request["frozen"])
    return Training(
        context.compiled,
        context.limits,
        task,
        feed,
        plan_of(request, optimizer, more_steps),
        validation_of(request, task),
        checkpoint,
        reserve=reserve,
        admit=admit,
        watch=context.ticket,
        place=place,
        spread=spread,
    )


def plan_of(request: LoadedTraining, optimizer: Selection[Optimizer], more_steps: int = 0) -> Plan:
    """Return the engine's plan of a training with this optimizer, the request's other settings, and more steps."""
    trace = request["trace"]
    recipe = Recipe(optimizer, request.get("schedule"), request.get("clip"), request.get("stop", Stop()))
    return Plan(
        recipe,
        steps=request.get("steps"),
        epochs=request.get("epochs"),
        batch_size=request.get("batch_size"),
        shuffle=request["shuffle"],
        batches=request.get("batches"),
        every=trace.every,
        include=trace.include,
        checkpoint_every=trace.checkpoint_every,
        more_steps=more_steps,
        shards=request.get("shards"),
    )
