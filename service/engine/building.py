"""The façade of the engine for building blocks: everything that they may use, in one import.

An activation, layer, loss, regularizer, optimizer or word of expressions takes from here its registry, its options, and
the functions that build nodes of the graph, such as `exp` and `reshape`. Building blocks never compile or run a graph.
"""

# ruff: noqa: F403

from service.engine.arrays import Array as Array
from service.engine.declarations import (
    Declaration as Declaration,
)
from service.engine.declarations import (
    Family as Family,
)
from service.engine.declarations import (
    Reference as Reference,
)
from service.engine.declarations import (
    Registry as Registry,
)
from service.engine.declarations import (
    Selection as Selection,
)
from service.engine.graph.ir import Node as Node
from service.engine.graph.ir import Shape as Shape
from service.engine.graph.operations import *
from service.engine.options import *
