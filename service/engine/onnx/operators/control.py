"""ONNX operators with subgraphs: conditions, and loops, which are unrolled."""

from __future__ import annotations

import numpy as np

from service.engine.arrays import Array
from service.engine.graph.ir import Node
from service.engine.graph.operations import concatenate, reshape, slice_axis, where
from service.engine.onnx.analysis import makers_of, ordered
from service.engine.onnx.assembly import Call, Scope
from service.engine.onnx.composing import axis_of, elementwise, unsqueeze
from service.engine.onnx.file import Body
from service.engine.onnx.registry import operator
from service.engine.onnx.values import Value, known

MOST_REPETITIONS = 2048


def _body(call: Call, name: str) -> Body:
    """Return the subgraph in an attribute. Refuse a node without the attribute."""
    found = call.attr(name)
    if not isinstance(found, Body):
        call.refuse(f"has no subgraph {name!r}")
    return found


@operator("If", integers=True, static=())
def branch(call: Call, condition: Value) -> list[Value]:
    """Build If. Compute one branch for a known condition, else both and the choice between them."""
    then, other = _body(call, "then_branch"), _body(call, "else_branch")
    if condition.array is not None:
        return call.run(then if bool(condition.array.reshape(-1)[0]) else other, {})
    # Both branches are computed, and the condition chooses one when the graph runs.
    mask = reshape(call.x(condition), ())
    found = []
    for yes, no in zip(call.run(then, {}), call.run(other, {}), strict=True):
        if yes.shape != no.shape:
            call.refuse(
                f"its branches give shapes {list(yes.shape)} and {list(no.shape)}, and its condition only becomes "
                "known when the graph runs"
            )
        found.append(Value(None, elementwise(where, mask, call.x(yes), call.x(no)), yes.dtype))
    return found


def _stack(call: Call, parts: list[Value], axis: int = 0) -> Value:
    """Return values stacked along a new axis."""
    if all(part.array is not None for part in parts):
        return Value(np.stack([part.array for part in parts if part.array is not None], axis))
    return Value(None, concatenate([unsqueeze(call.x(part), [axis]) for part in parts], axis), parts[0].dtype)


def _check_written_out(call: Call, body: Body, trips: int) -> None:
    """Raise `Refusal` where a loop that does not end early is known to be too long, with the loops inside it."""
    if trips <= 0 or not _never_ends_early(call, body, [body]):
        return
    if trips > MOST_REPETITIONS:
        call.refuse(f"repeats {trips:,} times, more than {MOST_REPETITIONS}; loops are written out")
    call.assembly.check_runs(trips * _nodes_of(call, body, [body]))


def _nodes_of(call: Call, body: Body, bodies: list[Body]) -> int:
    """Return the fewest nodes that one run of a subgraph visits. `bodies` are the subgraphs around it, and itself."""
    count = 0
    for step in ordered(body, tuple(name for name, _ in body.outputs)):
        count += 1
        inner = step.attributes.get("body")
        if step.operation != "Loop" or not isinstance(inner, Body) or not (step.inputs and step.inputs[0]):
            continue
        trips = _known_number(call, step.inputs[0], bodies)
        starts = len(step.inputs) < 2 or not step.inputs[1] or _known_number(call, step.inputs[1], bodies)
        within = [*bodies, inner]
        if trips and trips > 0 and starts and _never_ends_early(call, inner, within):
            count += min(trips, MOST_REPETITIONS) * _nodes_of(call, inner, within)
    return count


def _never_ends_early(call: Call, body: Body, bodies: list[Body]) -> bool:
    """Return whether the condition of a loop is handed on as it came, or always true."""
    name = body.outputs[0][0] if body.outputs else ""
    makers = makers_of(body)
    for _ in range(8):
        step = makers.get(name)
        if step is None or step.operation != "Identity" or not step.inputs:
            break
        name = step.inputs[0]
    return (len(body.inputs) > 1 and name == body.inputs[1][0]) or bool(_known_number(call, name, bodies))


def _known_number(call: Call, name: str, bodies: list[Body]) -> int | None:
    """Return the number of a name inside subgraphs, where it is known before they run."""
    for body in reversed(bodies):
        if name in body.initializers:
            return _first(body.initializers[name])
        if name in makers_of(body) or any(name == own for own, _, _ in body.inputs):
            return None
    scope: Scope | None = call.scope
    while scope is not None:
        value = scope.values.get(name)
        if value is not None:
            return None if value.array is None else _first(value.array)
        if name in scope.body.initializers:
            return _first(scope.body.initializers[name])
        scope = scope.parent
    return None


def _first(array: Array) -> int | None:
    return int(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "iub" else None


@operator("Loop", integers=True, static=(0, 1))
def loop(call: Call, count: Value | None, condition: Value | None, *carried: Value) -> list[Value]:
    """Build Loop, unrolled. Return the last carried values and the stacked results of all repetitions."""
    body = _body(call, "body")
    most = MOST_REPETITIONS + 1 if count is None else int(call.known(count, "how often it repeats").reshape(-1)[0])
    goes_on = condition is None or bool(call.known(condition, "the condition").reshape(-1)[0])
    if goes_on and count is not None:
        _check_written_out(call, body, most)
    states = list(carried)
    collected: list[list[Value]] = [[] for _ in body.outputs[1 + len(states) :]]
    names = [name for name, _, _ in body.inputs]
    repetition = 0
    while goes_on and repetition < most:
        if repetition >= MOST_REPETITIONS:
            call.refuse(f"repeats more than {MOST_REPETITIONS} times; loops are written out")
        values = dict(zip(names, [known(repetition), Value(np.array(True)), *states], strict=False))
        results = call.run(body, values)
        goes_on = bool(call.known(results[0], "whether the loop goes on").reshape(-1)[0])
        states = results[1 : 1 + len(states)]
        for own, value in zip(collected, results[1 + len(states) :], strict=True):
            own.append(value)
        repetition += 1
    if collected and not repetition:
        call.refuse("does not repeat at all, so there is nothing to collect")
    return [*states, *(_stack(call, own) for own in collected)]


def _at(call: Call, x: Value, axis: int, place: int) -> Value:
    """Return the slice of x at one place of an axis, without this axis."""
    if x.array is not None:
        return Value(np.take(x.array, place, axis))
    node: Node = call.x(x)
    shape = (*node.shape[:axis], *node.shape[axis + 1 :])
    return Value(None, reshape(slice_axis(node, axis, place, place + 1), shape), x.dtype)


@operator("Scan", since=9, integers=True)
def scan(call: Call, *values: Value) -> list[Value]:
    """Build Scan, unrolled. Return the last states and the stacked results of all elements."""
    body = _body(call, "body")
    count = call.integer("num_scan_inputs")
    if not 0 < count <= len(values):
        call.refuse(f"scans {count} of {len(values)} inputs")
    states, sequences = list(values[: len(values) - count]), values[len(values) - count :]
    axes = call.integers("scan_input_axes", [0] * count)
    backwards = call.integers("scan_input_directions", [0] * count)
    outputs = len(body.outputs) - len(states)
    out_axes = call.integers("scan_output_axes", [0] * outputs)
    out_backwards = call.integers("scan_output_directions", [0] * outputs)
    places = [axis_of(axis, len(x.shape)) for axis, x in zip(axes, sequences, strict=True)]
    lengths = {x.shape[axis] for axis, x in zip(places, sequences, strict=True)}
    if len(lengths) != 1:
        call.refuse(f"scans sequences of different lengths: {sorted(lengths)}")
    (length,) = lengths
    if not 0 < length <= MOST_REPETITIONS:
        call.refuse(f"scans {length} elements; 1 to {MOST_REPETITIONS} are written out")
    names = [name for name, _, _ in body.inputs]
    collected: list[list[Value]] = [[] for _ in range(outputs)]
    for position in range(length):
        parts = [
            _at(call, x, axis, length - 1 - position if back else position)
            for x, axis, back in zip(sequences, places, backwards, strict=True)
        ]
        results = call.run(body, dict(zip(names, [*states, *parts], strict=True)))
        states = results[: len(states)]
        for own, value in zip(collected, results[len(states) :], strict=True):
            own.append(value)
    found = []
    for own, axis, back in zip(collected, out_axes, out_backwards, strict=True):
        parts = own[::-1] if back else own
        found.append(_stack(call, parts, axis_of(axis, len(parts[0].shape) + 1)))
    return [*states, *found]
