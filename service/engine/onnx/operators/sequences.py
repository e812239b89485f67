"""ONNX operators on sequences of tensors. Sequences exist only while the graph is built."""

from __future__ import annotations

from service.engine.graph.operations import concatenate, reshape, slice_axis
from service.engine.onnx.assembly import Call
from service.engine.onnx.composing import axis_of, unsqueeze
from service.engine.onnx.operators.shaping import node_of
from service.engine.onnx.registry import INT, operator
from service.engine.onnx.values import Sequences, Value, known

MOST_ITEMS = 4096


def _items(call: Call, value: Value) -> list[Value]:
    """Return the values in a sequence. Refuse any other value."""
    if not isinstance(value, Sequences):
        call.refuse("takes a sequence of tensors")
    return value.items


def _place(call: Call, position: Value | None, count: int, last: int) -> int:
    """Return a position in a sequence of `count` items, counted from the front; `last` without a position."""
    place = last if position is None else call.ints(position, "the position")[0]
    if not -count <= place < max(count, last + 1):
        call.refuse(f"asks for item {place} of {count}")
    return place + count if place < 0 else place


@operator("SequenceConstruct", integers=True)
def construct(call: Call, *values: Value) -> Sequences:
    """Build SequenceConstruct: return a sequence of the given values."""
    return Sequences(list(values))


@operator("SequenceEmpty", integers=True)
def empty(call: Call) -> Sequences:
    """Build SequenceEmpty: return a sequence without items."""
    return Sequences([])


@operator("SequenceAt", static=(1,), integers=True, sequences=True)
def at(call: Call, sequence: Value, position: Value) -> Value:
    """Build SequenceAt: return the item at a position."""
    items = _items(call, sequence)
    return items[_place(call, position, len(items), len(items) - 1)]


@operator("SequenceInsert", static=(2,), integers=True, sequences=True)
def insert(call: Call, sequence: Value, value: Value, position: Value | None = None) -> Sequences:
    """Build SequenceInsert: return the sequence with a value inserted at a position, by default at the end."""
    items = list(_items(call, sequence))
    if len(items) >= MOST_ITEMS:
        call.refuse(f"makes a sequence of more than {MOST_ITEMS} tensors")
    items.insert(_place(call, position, len(items), len(items)), value)
    return Sequences(items)


@operator("SequenceErase", static=(1,), integers=True, sequences=True)
def erase(call: Call, sequence: Value, position: Value | None = None) -> Sequences:
    """Build SequenceErase: return the sequence without the item at a position, by default the last."""
    items = list(_items(call, sequence))
    del items[_place(call, position, len(items), len(items) - 1)]
    return Sequences(items)


@operator("SequenceLength", integers=True, sequences=True, result=INT)
def length(call: Call, sequence: Value) -> Value:
    """Build SequenceLength: return the number of items."""
    return known(len(_items(call, sequence)))


@operator("SplitToSequence", static=(1,), integers=True)
def split(call: Call, x: Value, lengths: Value | None = None) -> Sequences:
    """Build SplitToSequence: return the parts of x along an axis as a sequence."""
    axis = axis_of(call.integer("axis"), len(x.shape))
    n = x.shape[axis]
    keeps = True
    if lengths is None:
        given, keeps = [1] * n, bool(call.integer("keepdims", 1))
    elif lengths.shape == ():
        each = call.ints(lengths, "the length")[0]
        if each < 1:
            call.refuse(f"splits into parts of {each}")
        given = [min(each, n - start) for start in range(0, n, each)]
    else:
        given = call.ints(lengths, "the lengths")
    if sum(given) != n or min(given, default=0) < 0 or len(given) > MOST_ITEMS:
        call.refuse(f"cannot split an axis of {n} into {given[:20]}")
    node, start, items = node_of(call, x), 0, []
    for each in given:
        part = slice_axis(node, axis, start, start + each)
        if not keeps:
            part = reshape(part, (*part.shape[:axis], *part.shape[axis + 1 :]))
        items.append(Value(None, part, x.dtype))
        start += each
    return Sequences(items)


@operator("ConcatFromSequence", integers=True, sequences=True)
def join(call: Call, sequence: Value) -> Value:
    """Build ConcatFromSequence: return the items joined along an axis."""
    items = _items(call, sequence)
    if not items:
        call.refuse("joins no tensors at all")
    new = bool(call.integer("new_axis"))
    rank = len(items[0].shape) + new
    axis = axis_of(call.integer("axis"), rank)
    nodes = [call.x(each) for each in items]
    return Value(None, concatenate([unsqueeze(x, [axis]) for x in nodes] if new else nodes, axis), items[0].dtype)
