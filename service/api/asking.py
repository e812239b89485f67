"""From a loaded request to the engine's task and numbers, and back to the places of what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from schemas.tensor import Array
from service.api.operation import Context
from service.engine.declarations import Selection
from service.engine.descent.objective import Compile
from service.engine.errors import Fault, InvalidRequest
from service.engine.graph.plan import WorkspacePool
from service.engine.limits import Limits
from service.engine.network.derivatives import Derivation, DerivativeTask, compile_derivative
from service.engine.network.evaluate import Evaluation, compile_task
from service.engine.network.feed import Feed
from service.engine.network.losses import Loss
from service.engine.network.parameters import ParameterVector
from service.engine.network.task import Task, prepare

T = TypeVar("T")
K = TypeVar("K", bound=Task | DerivativeTask)
C = TypeVar("C", bound=Evaluation | Derivation)


def ask(request: dict[str, Any], context: Context, answer: Callable[[Task, Feed], T]) -> T:
    """`answer` for the task and the numbers of a request; what is wrong with them is told in the request's terms."""
    definition = request["network"]
    faults: list[Fault] = []
    inputs = _by_name(request, "inputs", definition.inputs, "input", faults)
    targets = _by_name(request, "targets", definition.output_names, "output", faults)
    losses = _losses(request, definition.output_names, faults)
    weights = _loss_weights(request, definition.output_names, faults)
    if faults:
        if not any(fault.path[0] == "inputs" for fault in faults):
            # What is wrong with the network itself comes before anything that follows from it.
            prepare(_forward_task(request, inputs), context.runtime.settings.limits)
        raise InvalidRequest(faults)
    task = _forward_task(request, inputs)._replace(
        losses=losses,
        loss_weights=weights,
        targets=None if losses is None else tuple((name, array.shape) for name, array in targets.items()),
        reduction=request.get("reduction", "mean"),
        weighted=request.get("sample_weights") is not None,
        normalize_weights=request.get("normalize_weights"),
    )
    feed = Feed(inputs, request.get("parameters"), targets, request.get("sample_weights"), request["seed"])
    try:
        return answer(task, feed)
    except InvalidRequest as error:
        raise InvalidRequest([_in_terms_of(request, fault) for fault in error.faults]) from None


def compiled(
    key: K, make: Callable[[K, Limits, WorkspacePool], C], task: Task, feed: Feed, context: Context
) -> Evaluation | Derivation:
    """What `make` makes of the key, or made of it for an earlier request; timed, and its memory told."""
    runtime = context.runtime
    try:
        found: Evaluation | Derivation = runtime.compiled.get(
            key, lambda: make(key, runtime.settings.limits, runtime.workspaces)
        )
    except InvalidRequest as error:
        raise InvalidRequest([*error.faults, *_faults_of_parameters(task, feed, context)]) from None
    context.timer.mark("compile")
    context.timer.memory = found.program.nbytes
    return found


def compiler(context: Context) -> Compile:
    """What compiles for a training: as `compiled`, out of the memory of earlier requests."""
    runtime = context.runtime
    limits, workspaces = runtime.settings.limits, runtime.workspaces

    def find(key: Task | DerivativeTask) -> Evaluation | Derivation:
        def make() -> Evaluation | Derivation:
            if isinstance(key, Task):
                return compile_task(key, limits, workspaces)
            return compile_derivative(key, limits, workspaces)

        found: Evaluation | Derivation = runtime.compiled.get(key, make)
        return found

    return Compile(find)


def validation_of(request: dict[str, Any], task: Task) -> tuple[Task, Feed] | None:
    """The data that a training is validated on, as a task and its numbers."""
    validation = request.get("validation")
    if validation is None:
        return None
    faults: list[Fault] = []
    definition = task.definition
    inputs = _by_name(validation, "inputs", definition.inputs, "input", faults)
    targets = _by_name(validation, "targets", definition.output_names, "output", faults)
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


def _faults_of_parameters(task: Task, feed: Feed, context: Context) -> list[Fault]:
    """What else is wrong with a request whose targets do not fit, so that one answer tells all."""
    if feed.parameters is None or task.losses is None:
        return []
    try:
        forward = task._replace(losses=None, loss_weights=None, targets=None, weighted=False, include=frozenset())
        prepared = prepare(forward, context.runtime.settings.limits)
    except InvalidRequest:
        return []  # the network itself is wrong, which is already told
    return ParameterVector(task.definition, prepared.model.parameters).faults(feed.parameters)


def _forward_task(request: dict[str, Any], inputs: dict[str, Array]) -> Task:
    parameters = request["checkpoint"]["parameters"] if "checkpoint" in request else request.get("parameters")
    return Task(
        request["network"],
        request["dtype"],
        tuple([(name, array.shape) for name, array in inputs.items()]),
        training=request["training"],
        include=request.get("include", frozenset()),
        parameters=_unusual_shapes(parameters),
    )


def _by_name(
    request: dict[str, Any], key: str, names: tuple[str, ...], what: str, faults: list[Fault]
) -> dict[str, Array]:
    """Tensors in the order of the names they belong to; a single one need not be named."""
    given = request.get(key)
    if given is None:
        return {}
    if not isinstance(given, dict):
        if len(names) > 1:
            detail = f"takes one tensor for each {what}: an object with {', '.join(map(repr, names))}"
            faults.append(Fault((key,), detail, names))
        return {names[0]: given}
    wrong = [Fault((key, name), f"is no {what} of the network", names) for name in given if name not in names]
    wrong += [Fault((key, name), "is missing") for name in names if name not in given]
    faults += wrong
    return {} if wrong else {name: given[name] for name in names}


def _losses(request: dict[str, Any], names: tuple[str, ...], faults: list[Fault]) -> tuple[Selection[Loss], ...] | None:
    given = request.get("loss")
    if not isinstance(given, dict):
        return None if given is None else (given,) * len(names)
    faults += [Fault(("loss", name), "is no output of the network", names) for name in given if name not in names]
    faults += [Fault(("loss", name), "is missing: each output needs a loss") for name in names if name not in given]
    return tuple([given[name] for name in names if name in given])


def _loss_weights(request: dict[str, Any], names: tuple[str, ...], faults: list[Fault]) -> tuple[float, ...] | None:
    given = request.get("loss_weights")
    if given is None:
        return None
    wrong = [name for name in given if name not in names]
    faults += [Fault(("loss_weights", name), "is no output of the network", names) for name in wrong]
    return tuple([given.get(name, 1.0) for name in names])


def _in_terms_of(request: dict[str, Any], fault: Fault) -> Fault:
    """The engine names tensors by input and output; a request with but one need not."""
    path = fault.path
    if path[:1] == ("validation",):
        inner = _in_terms_of(request["validation"], replace(fault, path=path[1:]))
        return replace(fault, path=("validation", *inner.path))
    named = len(path) > 1 and path[0] in ("inputs", "targets", "loss")
    if named and not isinstance(request.get(str(path[0])), dict):
        return replace(fault, path=(path[0], *path[2:]))
    return fault


def _unusual_shapes(
    parameters: dict[str, dict[str, Array]] | None,
) -> tuple[tuple[tuple[str, str], tuple[int, ...]], ...]:
    """Shapes that decide between the forms a parameter may have: one number for all instead of one each."""
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
