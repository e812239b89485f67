"""The layout of the trees in an answer: the layout of this service or of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas.evaluation import LoadedNetwork
from schemas.parameter_files import PyTorchTree
from service.api.context import Context
from service.engine.layouts.pytorch import to_pytorch, unlike_pytorch
from service.engine.network.definition import Definition
from service.engine.network.layered import NetworkDefinition
from service.engine.network.parameters import Tree
from service.problems import Problem


@dataclass(frozen=True)
class Layout:
    """A layout for the trees of an answer, with methods that convert each kind of tree."""

    name: str = "nabla"
    definition: NetworkDefinition | None = None
    modules: Mapping[str, str] = field(default_factory=dict)
    """The PyTorch module name of each layer, where the request had parameters in that layout."""

    def parameters(self, tree: Tree) -> Tree:
        """Return a tree of parameters, or of values like updates and running statistics, in this layout."""
        return tree if self.definition is None else to_pytorch(self.definition, tree, self.modules)

    def gradients(self, tree: Tree) -> Tree:
        """Return a tree of gradients with respect to parameters in this layout."""
        return tree if self.definition is None else to_pytorch(self.definition, tree, self.modules, gradient=True)

    def per_sample(self, tree: Tree) -> Tree:
        """Return a tree of gradients with a leading axis of samples in this layout."""
        if self.definition is None:
            return tree
        count = next((len(array) for own in tree.values() for array in own.values()), 0)
        each = [
            self.gradients({layer: {name: array[k] for name, array in own.items()} for layer, own in tree.items()})
            for k in range(count)
        ]
        return {
            module: {name: np.stack([one[module][name] for one in each]) for name in own}
            for module, own in (each[0] if each else {}).items()
        }

    @property
    def warnings(self) -> list[dict[str, str]]:
        """Return warnings about options that a state_dict lacks and whose values differ from PyTorch defaults."""
        if self.definition is None:
            return []
        return [
            {
                "code": "pytorch_default",
                "message": f"layer {layer!r} has {option} {value:g}; a module of PyTorch has {theirs:g} unless it was "
                "made with another, which its weights do not say",
                "layer": layer,
            }
            for layer, option, value, theirs in unlike_pytorch(self.definition)
        ]


OWN = Layout()
"""The layout of this service. Most responses use it, so the object is made once."""


def layout_of(request: LoadedNetwork, context: Context) -> Layout:
    """Return the layout for an answer: the one that the query asks for, else that of the parameters.

    Raises `Problem`.
    """
    sent: Any = request.get("parameters")
    modules = sent.modules if isinstance(sent, PyTorchTree) else None
    wanted = context.layout or ("pytorch" if modules is not None else "nabla")
    return layout_named(wanted, request["network"], modules)


def layout_named(wanted: str, definition: Definition, modules: Mapping[str, str] | None = None) -> Layout:
    """Return the layout with this name for a network. Raises `Problem`."""
    if wanted == "nabla":
        return OWN
    if not isinstance(definition, NetworkDefinition):
        raise Problem("bad-request", "layout=pytorch is for networks made of layers; this one has names of its own.")
    return Layout("pytorch", definition, modules or {})
