"""Requests about networks as the engine takes them: a task and numbers; and the engine's faults at the request's
places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from schemas.evaluation import LoadedNetwork, Tensors, Tree
from schemas.training import LoadedTraining
from service.api.context import Context
from service.engine.arrays import Array
from service.engine.compiling import Compilable, Compiled
from service.engine.declarations import Selection
from service.engine.errors import Fault, InvalidRequest, LimitExceeded
from service.engine.graph.ir import sealing
from service.engine.limits import Limits
from service.engine.network.definition import Definition, KnownValues
from service.engine.network.derivatives import Derivation
from service.engine.network.evaluate import Evaluation
from service.engine.network.feed import Feed
from service.engine.network.losses import Loss
from service.engine.network.parameters import ParameterVector
from service.engine.network.prepare import prepare
from service.engine.network.task import Task
from service.engine.suggestions import translated

SHARDS_NEED_LESS = "With shards, the memory needs to hold only so many samples at a time."
MOST_KNOWN = 4096
"""Numbers of an input that are part of a task."""

C = TypeVar("C", bound=Evaluation | Derivation)
B = TypeVar("B", bound=Compiled)
B_co = TypeVar("B_co", bound=Compiled, covariant=True)


class NetworkTask(Compilable[B_co], Protocol[B_co]):
    """An engine task about a network that `built` can compile, such as an evaluation or a check."""

    @property
    def task(self) -> Task:
        """The network and its loss, with the shapes of all tensors."""


class in_terms_of:  # noqa: N801 (it reads as a statement; a generator would take four times as long)
    """A context manager that moves faults from the engine's places to those in the caller's request.

    If the request is one that may have shards but has none, a refusal for want of memory says so.
    """

    __slots__ = ("may_have_shards", "request")

    def __init__(self, request: Mapping[str, Any], *, may_have_shards: bool = False) -> None:
        self.request = request
        self.may_have_shards = may_have_shards

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, InvalidRequest):
            raise InvalidRequest([_told_in_terms_of(self.request, fault) for fault in error.faults]) from None
        if isinstance(error, LimitExceeded) and error.name == "workspace_bytes" and self.may_have_shards:
            error.advice = "" if "shards" in self.request else SHARDS_NEED_LESS


def task_and_feed(request: LoadedNetwork, limits: Limits, include: frozenset[str] = frozenset()) -> tuple[Task, Feed]:
    """Return the engine's task for a request about a network, and the numbers to compute with.

    `include` names the results to compute beside the usual ones. Raise `InvalidRequest` if names or keys do not fit.
    """
    definition = request["network"]
    outputs = definition.output_names
    faults: list[Fault] = []
    inputs = _by_name(request["inputs"], "inputs", definition.inputs, "input", faults)
    targets = _by_name(request.get("targets"), "targets", outputs, "output", faults)
    losses = losses_of(request.get("loss"), outputs, faults)
    weights = _loss_weights(request.get("loss_weights"), outputs, faults)
    task = Task(
        definition,
        request["dtype"],
        tuple([(name, array.shape) for name, array in inputs.items()]),
        training=request["training"],
        include=include,
        parameters=_unusual_shapes(request.get("parameters")),
        known=_known(definition, inputs, faults),
    )
    if faults:
        if not any(fault.path[0] == "inputs" for fault in faults):
            # Faults of the network come before faults that follow from them.
            with sealing():
                prepare(task, limits)
        raise InvalidRequest(faults)
    sample_weights = request.get("sample_weights")
    if losses is not None:
        task = task._replace(
            losses=losses,
            loss_weights=weights,
            targets=tuple([(name, array.shape) for name, array in targets.items()]),
            reduction=request.get("reduction", task.reduction),
            weighted=sample_weights is not None,
            normalize_weights=request.get("normalize_weights"),
        )
    parameters = with_defaults(definition, request.get("parameters"))
    return task, Feed(inputs, parameters, targets, sample_weights, request["seed"])


def with_defaults(definition: Definition, given: Tree | None) -> Tree | None:
    """Return the parameters of a request, with those of the definition in place of what it leaves out."""
    own = definition.parameters
    if own is None:
        return given
    if given is None:
        return {layer: dict(arrays) for layer, arrays in own.items()}
    return {layer: {**own.get(layer, {}), **given.get(layer, {})} for layer in {**own, **given}}


def _known(definition: Definition, inputs: Mapping[str, Array], faults: list[Fault]) -> KnownValues:
    """Return the numbers of those inputs whose values decide what is computed."""
    if not definition.known_inputs:
        return ()
    found = []
    for name in sorted(definition.known_inputs & inputs.keys()):
        array = inputs[name]
        if array.size > MOST_KNOWN:
            detail = f"holds {array.size:,} numbers; this input decides what is computed, and at most {MOST_KNOWN:,} do"
            faults.append(Fault(("inputs", name), detail))
        else:
            found.append((name, array.shape, tuple(array.reshape(-1).tolist())))
    return tuple(found)


def compiled(asked: NetworkTask[C], feed: Feed, context: Context) -> C:
    """Compile a task about a network, and end the timer's compile stage. Raise as `built` does."""
    found = built(asked, feed, context)
    context.mark_compiled(found.program.nbytes)
    return found


def built(asked: NetworkTask[B], feed: Feed, context: Context) -> B:
    """Compile a task about a network.

    Raise `LimitExceeded`, or `InvalidRequest`, which then also lists faults of the parameters, so that a caller sees
    all at once.
    """
    with also_parameters(asked.task, feed, context):
        return context.compiled(asked)


@contextmanager
def also_parameters(task: Task, feed: Feed, context: Context) -> Iterator[None]:
    """Add the faults of the parameters to those of a task that does not compile."""
    try:
        yield
    except InvalidRequest as error:
        limits = context.limits
        raise InvalidRequest([*error.faults, *_faults_of_parameters(task, feed, limits)]) from None


def validation_of(request: LoadedTraining, task: Task) -> tuple[Task, Feed] | None:
    """Return a training's validation data as a task and numbers, or None. Raise `InvalidRequest`."""
    validation = request.get("validation")
    if validation is None:
        return None
    faults: list[Fault] = []
    definition = task.definition
    inputs = _by_name(validation["inputs"], "inputs", definition.inputs, "input", faults)
    targets = _by_name(validation["targets"], "targets", definition.output_names, "output", faults)
    if faults:
        raise InvalidRequest(replace(fault, path=("validation", *fault.path)) for fault in faults)
    without = task._replace(
        inputs=tuple([(name, array.shape) for name, array in inputs.items()]),
        targets=tuple([(name, array.shape) for name, array in targets.items()]),
        training=False,
        weighted=False,
        normalize_weights=False,
        differentiated=False,
    )
    return without, Feed(inputs, None, targets)


def _faults_of_parameters(task: Task, feed: Feed, limits: Limits) -> list[Fault]:
    """Return the faults of the parameters, judged without the loss: the targets do not fit the network."""
    if feed.parameters is None or task.losses is None:
        return []
    try:
        forward = task._replace(losses=None, loss_weights=None, targets=None, weighted=False, include=frozenset())
        with sealing():
            prepared = prepare(forward, limits)
    except InvalidRequest:
        return []  # the network itself is at fault, which is reported already
    return ParameterVector(task.definition, prepared.model.parameters).faults(feed.parameters)


def _by_name(
    given: Tensors | None, key: str, names: tuple[str, ...], what: str, faults: list[Fault]
) -> dict[str, Array]:
    """Return the tensors under a request's key by the names of the inputs or outputs; append what is wrong to `faults`.

    A single tensor need not be named. `what` is the word for a name in messages: input or output.
    """
    if given is None:
        return {}
    if not isinstance(given, dict):
        if len(names) > 1:
            detail = f"takes one tensor for each {what}: an object with {', '.join(map(repr, names))}"
            faults.append(Fault((key,), detail, names))
        return {names[0]: given}
    one = "" if len(names) > 1 else f"; the network has one {what}: send one tensor, with a row for each sample"
    wrong = [Fault((key, name), f"is no {what} of the network{one}", names) for name in given if name not in names]
    wrong += [Fault((key, name), "is missing") for name in names if name not in given]
    faults += wrong
    return {} if wrong else {name: given[name] for name in names}


def losses_of(
    given: Selection[Loss] | dict[str, Selection[Loss]] | None, names: tuple[str, ...], faults: list[Fault]
) -> tuple[Selection[Loss], ...] | None:
    """Return the loss of each output, or None without a loss; append what is wrong to `faults`."""
    if not isinstance(given, dict):
        return None if given is None else (given,) * len(names)
    wrong = [name for name in given if name not in names]
    faults += [Fault(("loss", name), f"is no output of the network{_type_of_loss(name)}", names) for name in wrong]
    faults += [Fault(("loss", name), "is missing: each output needs a loss") for name in names if name not in given]
    return tuple([given[name] for name in names if name in given])


def _type_of_loss(key: str) -> str:
    """Return advice for a key that other libraries have in the place of `type`; "" for any other."""
    is_type = key == "name" or translated("key", key, ("type",)).name
    return "; the key for the name of a loss is 'type'" if is_type else ""


def _loss_weights(
    given: dict[str, float] | None, names: tuple[str, ...], faults: list[Fault]
) -> tuple[float, ...] | None:
    if given is None:
        return None
    wrong = [name for name in given if name not in names]
    faults += [Fault(("loss_weights", name), "is no output of the network", names) for name in wrong]
    return tuple([given.get(name, 1.0) for name in names])


def _told_in_terms_of(request: Mapping[str, Any], fault: Fault) -> Fault:
    """Return the fault at its place in the request: a single input or output has no name there."""
    path = fault.path
    places = getattr(request.get("network"), "places", ())
    if places and path[:2] == ("network", "layers") and len(path) > 2:
        place, words = places[int(path[2])]
        option = f"{path[3]}: " if len(path) > 3 else ""
        return replace(fault, path=("network", *place), detail=f"{words}: {option}{fault.detail}")
    if path[:1] == ("validation",):
        inner = _told_in_terms_of(request["validation"], replace(fault, path=path[1:]))
        return replace(fault, path=("validation", *inner.path))
    named = len(path) > 1 and path[0] in ("inputs", "targets", "loss")
    if named and not isinstance(request.get(str(path[0])), dict):
        return replace(fault, path=(path[0], *path[2:]))
    return fault


def _unusual_shapes(parameters: Tree | None) -> tuple[tuple[tuple[str, str], tuple[int, ...]], ...]:
    """Return the shapes of parameters that were sent as one number, which stands for all their entries."""
    if parameters is None:
        return ()
    return tuple(
        [
            ((layer, name), array.shape)
            for layer, arrays in parameters.items()
            for name, array in arrays.items()
            if array.size == 1
        ]
    )
