"""Reverse-mode differentiation of the graph, into the graph.

`differentiate` appends the backward graph in the same primitives, so a gradient is a node like
any other: it can be planned, printed, differentiated again or batched. Every new node
names in `serves` the forward node whose derivative it passes on.

An input that a selection such as max does not choose has the derivative 0, also where 0 meets an infinite slope. A
number that happens to be 0 is no selection. So a gate stands where an infinite slope could meet a selection, and only
there: see docs/decisions/0014-zero-times-infinity.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import mul

from service.engine.graph.ir import Node, NoGradient
from service.engine.graph.operations import broadcast, gate, maximum, sum_over


@dataclass
class Gradients:
    """The result of `differentiate`: a gradient, or the reason for none, for each node of `wrt` in order."""

    nodes: list[Node | NoGradient]
    blocked_by: list[Node] = field(default_factory=list)
    """Nodes on a path to a target whose derivative is zero, so that nothing flows through them."""


@dataclass(frozen=True)
class Changes:
    """Wrong pullbacks for chosen nodes, in place of those of the table, to compute what a known mistake gives."""

    rules: Mapping[tuple[int, int], Callable[[Node], Node | None]] = field(default_factory=dict)
    """By the index of a node and the position of an input: a function of the cotangent of the node to the contribution
    of that use to the gradient of the input, or None for no contribution."""
    jumps: Mapping[int, Callable[[Node], Iterable[tuple[Node, Node]]]] = field(default_factory=dict)
    """By the index of a node: a function of its cotangent to earlier nodes, each with the contribution that it gets in
    place of the inputs."""

    def __or__(self, other: Changes) -> Changes:
        return Changes({**self.rules, **other.rules}, {**self.jumps, **other.jumps})

    def without(self, other: Changes) -> Changes:
        """Return these changes without those at places that `other` changes too."""
        rules = {place: rule for place, rule in self.rules.items() if place not in other.rules}
        return Changes(rules, {place: jump for place, jump in self.jumps.items() if place not in other.jumps})


NO_CHANGES = Changes()


def differentiate(
    output: Node,
    wrt: Sequence[Node],
    cotangent: Node | None = None,
    uses: dict[tuple[int, int], Node] | None = None,
    changes: Changes = NO_CHANGES,
) -> Gradients:
    """Build the gradient of `output` with respect to each node of `wrt`.

    `cotangent` has the shape of `output`; by default `output` is a scalar and the cotangent is 1. `uses` is filled with
    the contribution of each use of a value to its gradient, by the index of the using node and the position among its
    inputs. `changes` replaces some rules, for a wrong gradient. Where no cotangent arrives, the result is a
    `NoGradient`: `ZERO` if a path passes an operation whose derivative is zero, `DISCONNECTED` if there is no path.
    Raises `NotImplementedError` when a path passes an operation without a pullback.
    """
    graph = output.graph
    if cotangent is None:
        if output.shape != ():
            raise ValueError(f"the gradient of shape {output.shape} needs a cotangent")
        cotangent = graph.constant(1.0)
    first = min((node.index for node in wrt), default=0)
    leads = bytearray(output.index + 1)  # 1 where a node depends on a target
    for node in wrt:
        if node.index <= output.index:
            leads[node.index] = 1
    shared: set[tuple[int, str, int]] = set()  # uses of one value by several nodes of one operation with a joint rule
    read: set[tuple[int, str, int]] = set()
    for node in graph.nodes[first : output.index + 1]:
        for position, x in enumerate(node.inputs):
            if leads[x.index]:
                leads[node.index] = 1
                if node.operation.joint is None:
                    break
                use = (x.index, node.operation.name, position)
                (shared if use in read else read).add(use)

    arrived: dict[int, Node] = {output.index: cotangent}
    # Shared uses wait until all of them are known. Others must not wait: their memory would be held for longer.
    waiting: dict[int, dict[tuple[str, int], list[tuple[Node, Node]]]] = {}

    def arrive(x: Node, contribution: Node) -> None:
        if contribution.shape != x.shape:
            contribution = _fit(contribution, x)
        before = arrived.get(x.index)
        arrived[x.index] = contribution if before is None else before + contribution

    zero: set[int] = set()
    blocked: list[Node] = []
    reach: _Reach | None = None  # from the first selection or infinite slope on
    scope, serves = graph.scope, graph.serves
    for node in reversed(graph.nodes[first : output.index + 1]):
        if not leads[node.index]:
            continue
        for (_, position), several in waiting.pop(node.index, {}).items():
            for together in _pull_together(node, position, several):
                arrive(node, together)
        g = arrived.get(node.index)
        if g is None:
            if node.index in zero:
                zero.update(x.index for x in node.inputs if leads[x.index])
            continue
        graph.scope, graph.serves = node.scope, node.index
        jump = changes.jumps.get(node.index)
        if jump is not None:
            for x, another in jump(g):
                arrive(x, another)
                if reach is not None:
                    reach.everywhere[x.index] = 1
            continue
        operation = node.operation
        special = operation.selects is not None or operation.singular is not None
        if reach is not None:
            special = special or reach.steep[node.index] == 1 or node.index in reach.parts
        elif special:
            reach = _Reach(output, (*arrived, *waiting))
        for position, x in enumerate(node.inputs):
            if not leads[x.index]:
                continue
            changed = changes.rules.get((node.index, position))
            if changed is not None:
                instead = changed(g)
                if instead is not None:
                    arrive(x, instead)
                    if reach is not None:
                        reach.everywhere[x.index] = 1
                continue
            if (x.index, node.operation.name, position) in shared:
                of_x = waiting.setdefault(x.index, {})
                of_x.setdefault((node.operation.name, position), []).append((g, node))
                if reach is not None:
                    reach.everywhere[x.index] = 1
                continue
            contribution = node.operation.pullback(position)(g, node, *node.inputs)
            if not isinstance(contribution, NoGradient):
                if reach is not None:
                    if special:
                        mask = reach.guard(node, position, x)
                        if mask is not None:
                            contribution = gate(mask, contribution)
                    else:
                        reach.everywhere[x.index] = 1
                if uses is not None:
                    uses[node.index, position] = contribution
                arrive(x, contribution)
            elif contribution is NoGradient.ZERO:
                zero.add(x.index)
                blocked.append(node)
    graph.scope, graph.serves = scope, serves
    return Gradients(
        [
            arrived.get(node.index) or (NoGradient.ZERO if node.index in zero else NoGradient.DISCONNECTED)
            for node in wrt
        ],
        blocked,
    )


class _Part:
    """A part of the elements of a value: those that one selection chooses, or the union of two parts. A selection, such
    as max, passes a derivative to some elements only."""

    __slots__ = ("_mask", "above", "hides", "known", "node", "position")

    def __init__(self, above: Sequence[_Part], node: Node | None = None, position: int = 0) -> None:
        self.above = above
        self.node = node
        self.position = position
        self.hides: bool = (node is not None and _hides(node)) or any(part.hides for part in above)
        """True if a choice hides the other elements: these may have any values, infinite ones too."""
        self.known = False

    @property
    def mask(self) -> Node | None:
        """A node that is 1 in the part and 0 elsewhere, made at the first use; None if the part is the whole value."""
        if not self.known:
            masks = [mask for part in self.above if (mask := part.mask) is not None]
            if self.node is None:
                self._mask = maximum(*masks) if len(masks) == 2 else None
            else:
                assert self.node.operation.selects is not None
                own = self.node.operation.selects(self.position, self.node)
                self._mask = reduce(mul, masks if own is None else [own, *masks]) if masks or own else None
            self.known = True
        return self._mask


class _Reach:
    """The elements of each node that influence the output through selections, and nodes with infinite slopes. It
    decides where `differentiate` needs a gate."""

    def __init__(self, output: Node, reached: Iterable[int]) -> None:
        self.everywhere = bytearray(output.index + 1)
        """1 where every element may influence the output."""
        for index in reached:
            self.everywhere[index] = 1
        self.steep = bytearray(output.index + 1)
        """1 where the cotangent may be infinite, or not a number, though all values are finite."""
        self.parts: dict[int, _Part] = {}
        """The nodes of which only some elements influence the output."""

    def guard(self, node: Node, position: int, x: Node) -> Node | None:
        """Note that `node` uses `x`. Return the mask for the cotangent of `x`, or None if it needs none."""
        operation, here, there = node.operation, node.index, x.index
        singular = operation.singular is not None and operation.singular(node)
        if x.shape != node.shape or not (operation.elementwise or operation.name in _ELEMENT_BY_ELEMENT):
            self.everywhere[there] = 1
            if singular or (self.steep[here] and (operation.view is not None or operation.name == "sum")):
                self.steep[there] = 1
            return None
        part = None if self.everywhere[here] else self.parts[here]
        gated = self.steep[here] if operation.selects is not None else singular and part is not None
        if (singular and position not in operation.linear) or self.steep[here]:
            self.steep[there] = 1
        if operation.selects is not None:
            part = _Part((part,) if part else (), node, position)
        if part is None:
            self.everywhere[there] = 1
            return None
        before = self.parts.get(there)
        self.parts[there] = part if before in (None, part) else _Part((before, part))
        if part.hides and not gated:
            # A value that is hidden may be infinite, and so may any slope that is made of it.
            gated = operation.selects is None and operation.name not in _FINITE
        return part.mask if gated else None


def _hides(node: Node) -> bool:
    """Return whether a selection is a choice, or the gate of one in a derivative."""
    if node.operation.name == "gate":
        masks = [node.inputs[0]]
        while masks:
            mask = masks.pop()
            if mask.operation.name == _CHOICE:
                return True
            if mask.operation.name in ("multiply", "maximum"):
                masks += mask.inputs
    return node.operation.name == _CHOICE


_CHOICE = "where"
_FINITE = frozenset(("add", "subtract", "negate", "mark"))
"""Operations whose slopes are finite at any values."""
_ELEMENT_BY_ELEMENT = frozenset(("with_slope", "mark"))
"""Views that show each element at its index."""


def dense(found: Sequence[Node | NoGradient], targets: Sequence[Node]) -> list[Node]:
    """Return gradients as nodes, with zeros of the target's shape in place of each `NoGradient`."""
    return [
        broadcast(target.graph.constant(0.0), target.shape) if isinstance(node, NoGradient) else node
        for node, target in zip(found, targets, strict=True)
    ]


def _pull_together(x: Node, position: int, uses: Sequence[tuple[Node, Node]]) -> Iterator[Node]:
    """Yield the cotangents of `x` from several nodes of one operation that use it: a single one if possible."""
    graph, operation = x.graph, uses[0][1].operation
    assert operation.joint is not None
    if len(uses) > 1:
        graph.scope, graph.serves = x.scope, x.index
        together = operation.joint(position, [g for g, _ in uses], [node for _, node in uses])
        if together is not None:
            yield together
            return
    for g, node in uses:
        graph.scope, graph.serves = node.scope, node.index
        contribution = operation.pullback(position)(g, node, *node.inputs)
        assert not isinstance(contribution, NoGradient), "an operation with a joint rule always has a gradient"
        yield contribution


def _fit(cotangent: Node, x: Node) -> Node:
    """Return a cotangent summed or broadcast to the shape of `x`, as elementwise operations mix scalars and tensors."""
    return sum_over(cotangent) if x.shape == () else broadcast(cotangent, x.shape)
