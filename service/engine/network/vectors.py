"""The two sides of a derivative, and the vectors that callers send for them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from service.engine.arrays import Array
from service.engine.errors import MOST_ERRORS, Fault, Path
from service.engine.graph.ir import Node
from service.engine.network.definition import INPUT
from service.engine.network.flat import Space
from service.engine.network.model import Model
from service.engine.network.parameters import ParameterVector
from service.engine.network.task import Task

Entry = Any
"""One vector in a request or an answer: an array, arrays by name, or arrays by layer and parameter name."""


def tensor_came(paths: Sequence[Sequence[str]]) -> str:
    """Return the error for a tensor where the tensors of a layer belong; `paths` name layers and parameters."""
    such = "".join(f', such as {{"{layer}": {{"{name}": …}}}}' for layer, name in paths[:1])
    return f"takes an object {{parameter: tensor}}; a tensor came: send it by layer{such}"


class Side(Space):
    """One side of a derivative: the nodes that are differentiated, or those that they are differentiated by. It checks
    the vectors that callers send for these nodes, and writes them into a flat vector."""

    def __init__(self, named: Sequence[tuple[tuple[str, ...], Node]]) -> None:
        super().__init__((path, node.shape) for path, node in named)
        self.nodes = [node for _, node in named]

    def faults(self, entry: Entry, path: Path) -> list[Fault]:
        """Return every fault of an entry that is no vector of this side."""
        raise NotImplementedError

    def write(self, entry: Entry, row: Array) -> None:
        """Copy an entry, which has no faults, into a flat vector."""
        for piece in self.pieces:
            array = entry
            for key in piece.path if isinstance(entry, Mapping) else ():
                array = array[key]
            row[piece.start : piece.stop] = array.reshape(-1)


class LossSide(Side):
    """The loss as one side of a derivative: one number."""

    def __init__(self, loss: Node) -> None:
        super().__init__([((), loss)])

    def faults(self, entry: Entry, path: Path) -> list[Fault]:
        if isinstance(entry, Mapping):
            return [Fault(path, "takes a number, because the loss is one; an object came")]
        if entry.shape:
            return [Fault(path, f"has shape {list(entry.shape)}; it takes a number, because the loss is one")]
        return []


class TensorsSide(Side):
    """The inputs or outputs of a network as one side of a derivative, by name. A network with a single one also takes
    the tensor alone."""

    def __init__(
        self, what: str, nodes: Mapping[str, Node], names: tuple[str, ...], left_out: Collection[str] = ()
    ) -> None:
        super().__init__([((name,), node) for name, node in nodes.items()])
        self.what, self.names, self.left_out = what, names, left_out

    def faults(self, entry: Entry, path: Path) -> list[Fault]:
        shapes = {piece.path[0]: piece.shape for piece in self.pieces}
        if not isinstance(entry, Mapping):
            if len(self.names) > 1:
                names = tuple(shapes)
                detail = f"takes one tensor for each {self.what}: an object with {', '.join(map(repr, names))}"
                return [Fault(path, detail, names)]
            return self._faults_of_shape(self.names[0], entry, path)
        faults: list[Fault] = []
        for name, array in entry.items():
            if len(faults) >= MOST_ERRORS:
                break
            if name in self.left_out:
                detail = f"{self.what} {name!r} holds indices, which have no derivative; leave it out"
                faults.append(Fault((*path, name), detail))
            elif name not in shapes:
                faults.append(Fault((*path, name), f"is no {self.what} of the network", tuple(shapes)))
            elif isinstance(array, Mapping):
                faults.append(Fault((*path, name), "takes a tensor; an object came"))
            else:
                faults += self._faults_of_shape(name, array, (*path, name))
        faults += [
            Fault((*path, name), f"is missing; it has shape {list(shape)}")
            for name, shape in shapes.items()
            if name not in entry
        ]
        return faults

    def _faults_of_shape(self, name: str, array: Array, path: Path) -> list[Fault]:
        (shape,) = (piece.shape for piece in self.pieces if piece.path == (name,))
        if array.shape == shape:
            return []
        if self.what == "output":
            why = f"the shape of the output of layer {name!r}"
        else:
            why = "the shape of the inputs" if name == INPUT else f"the shape of input {name!r}"
        return [Fault(path, f"has shape {list(array.shape)}; it takes {list(shape)}, {why}")]


class ParametersSide(Side):
    """The trainable parameters of a network as one side of a derivative, as a tree."""

    def __init__(self, task: Task, model: Model) -> None:
        trained = [parameter for parameter in model.parameters if parameter.trainable]
        super().__init__([((each.layer, each.name), each.node) for each in trained])
        self.vector = ParameterVector(task.definition, trained)
        self.fixed = {(each.layer, each.name) for each in model.parameters if not each.trainable}

    def faults(self, entry: Entry, path: Path) -> list[Fault]:
        if not isinstance(entry, Mapping):
            return [Fault(path, "takes an object {layer: {parameter: tensor}}, like the parameters; a tensor came")]
        faults: list[Fault] = []
        tree: dict[str, dict[str, Array]] = {}
        for layer, arrays in entry.items():
            if len(faults) >= MOST_ERRORS:
                return faults
            if not isinstance(arrays, Mapping):
                faults.append(Fault((*path, layer), tensor_came([piece.path for piece in self.pieces])))
                continue
            fixed = [name for name in arrays if (layer, name) in self.fixed]
            faults += [
                Fault((*path, layer, name), f"{name} of layer {layer!r} is not trained, so vectors have no part for it")
                for name in fixed
            ]
            rest = {name: array for name, array in arrays.items() if name not in fixed}
            if rest or not fixed:
                tree[layer] = rest
        known = {fault.path for fault in faults}
        for fault in self.vector.faults(tree):
            place = (*path, *fault.path[1:])
            if place not in known:
                faults.append(Fault(place, fault.detail, fault.allowed))
        return faults
