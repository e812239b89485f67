"""The graph of a derivative for one vector: products with Jacobians and Hessians, made of reverse-mode gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from service.engine.cautions import Caution, caution
from service.engine.errors import Fault, InvalidRequest
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Graph, Node, NoGradient
from service.engine.graph.operations import broadcast, reshape, sum_over
from service.engine.graph.vectorize import vectorize
from service.engine.network.answer_warnings import blocked, doubtful
from service.engine.network.derivative_sheets import AnswerArrays, AnswerLayout
from service.engine.network.flat import Space
from service.engine.network.prepare import Prepared, one_sample
from service.engine.network.vectors import LossSide, ParametersSide, Side, TensorsSide


@dataclass
class DerivativeGraph:
    """The graph of a derivative for one vector, and which vectors are to go through it."""

    results: list[Node]
    """The results for one vector."""
    vector: Node
    """The vector: a flat input of the graph."""
    count: int
    """The number of vectors."""
    sheet: Callable[[], AnswerArrays]
    """Makes an empty answer."""
    cautions: list[Caution]
    pair: int = 0
    """Where no vectors are sent, all unit vectors are. If this is not 0, a vector is two unit vectors, the first of
    this length, and all pairs are sent, the second of a pair changing fastest."""
    labels: list[str] | None = None
    """Names of the rows and columns of a Hessian."""


class DerivativeBuilder:
    """A builder of the graph of a derivative of outputs or loss (`of`) by inputs or parameters (`wrt`)."""

    def __init__(self, kind: str, prepared: Prepared, of: Side, wrt: Side, vectors: int) -> None:
        """Prepare. `vectors` is the number of vectors that the caller sends."""
        self.kind, self.prepared, self.vectors = kind, prepared, vectors
        self.graph = prepared.model.graph
        self.of, self.wrt = of, wrt
        task = prepared.task
        self.samples = task.samples
        self.cautions = doubtful(task, prepared.model)
        whole = isinstance(of, LossSide)
        self.per_sample = isinstance(wrt, TensorsSide) and not whole
        """The answer tells samples apart that nothing connects: one vector serves all of them."""
        self.alone = isinstance(wrt, ParametersSide) and not (
            whole or prepared.model.couples_samples or self.samples == 1
        )
        """Samples share the parameters, so each sample is differentiated alone."""
        self.sheets = AnswerLayout(of, wrt, task.samples, task.dtype, per_sample=self.per_sample, alone=self.alone)
        self.columns, self.rows = self.sheets.columns, self.sheets.rows

    @property
    def size(self) -> int:
        """The number of numbers in the answer."""
        match self.kind:
            case "jvp":
                return self.vectors * self.of.size
            case "vjp" | "hvp":
                return self.vectors * self.wrt.size
            case "jacobian":
                return self.of.size * self.columns.size
        return self.of.size * self.columns.size**2

    def build(self) -> DerivativeGraph:
        """Return the graph. Raises `InvalidRequest` where there is no such derivative."""
        match self.kind:
            case "vjp":
                vector = self._vector(self.of.size)
                return self._listed(self._vjp(self.of.nodes, self.of.cut(vector)), vector, self.wrt)
            case "jvp":
                vector = self._vector(self.wrt.size)
                return self._listed(self._jvp(self.wrt.cut(vector)), vector, self.of)
            case "hvp":
                vector = self._vector(self.wrt.size)
                return self._listed(self._hvp(self._one_number(), self.wrt.cut(vector)), vector, self.wrt)
        if self.per_sample and self.prepared.model.couples_samples:
            detail = (
                "in training, normalization over the batch makes the outputs of a sample depend on all samples, so "
                f"there is no {self.kind} for each sample; set training to false, or ask for "
                + ("vjp or jvp" if self.kind == "jacobian" else "of: loss")
            )
            raise InvalidRequest([Fault(("training",), detail)])
        if self.kind == "hessian":
            return self._hessian()
        return self._jacobian_by_columns() if self.columns.size < self.rows.size else self._jacobian_by_rows()

    def _listed(self, results: list[Node], vector: Node, space: Space) -> DerivativeGraph:
        sheet = partial(self.sheets.listed, space, self.vectors)
        return DerivativeGraph(results, vector, self.vectors, sheet, self.cautions)

    def _jacobian_by_rows(self) -> DerivativeGraph:
        """Return the graph of a Jacobian from a vjp for each output; of the loss, its gradient."""
        vector = self._vector(self.rows.size)
        outputs, cotangents, places = self._unit_cotangents(vector)
        results = self._of_all_samples(self._vjp(outputs, cotangents), places)
        return DerivativeGraph(results, vector, self.rows.size, self.sheets.jacobian_by_rows, self.cautions)

    def _jacobian_by_columns(self) -> DerivativeGraph:
        """Return the graph of a Jacobian from a jvp for each number of `wrt`."""
        vector = self._vector(self.columns.size)
        results = self._jvp(self._spread(self.columns, vector, self.wrt.nodes))
        return DerivativeGraph(results, vector, self.columns.size, self.sheets.jacobian_by_columns, self.cautions)

    def _hessian(self) -> DerivativeGraph:
        """Return the graph of Hessians from an hvp for each number of `wrt` and, if any, each output."""
        width = self.columns.size
        places: Mapping[Node, Node] = {}
        if isinstance(self.of, LossSide):
            first = 0
            vector = self._vector(width)
            number = self.of.nodes[0]
        else:
            first = self.rows.size
            vector = self._vector(first + width)
            outputs, cotangents, places = self._unit_cotangents(vector)
            number = _product(self.graph, outputs, cotangents)
        tangents = self._spread(self.columns, vector, self.wrt.nodes, first)
        results = self._of_all_samples(self._hvp(number, tangents), places)
        shapes = [node.shape[1:] for node in self.wrt.nodes] if self.per_sample else None
        labels = self.columns.labels(shapes)
        count = self.rows.size * width
        return DerivativeGraph(results, vector, count, self.sheets.hessian, self.cautions, first, labels)

    # --- how a vector goes through the graph ---

    def _vector(self, size: int) -> Node:
        return self.graph.input("vector", (size,))

    def _gradients(self, output: Node) -> list[Node | NoGradient]:
        """Return the gradients of a node with respect to `wrt`, and note the cautions about them."""
        found = differentiate(output, self.wrt.nodes)
        self.cautions += blocked(found.blocked_by, self.prepared.model)
        if isinstance(self.wrt, ParametersSide):
            of = "loss" if isinstance(self.of, LossSide) else "outputs"
            for piece, gradient in zip(self.wrt.pieces, found.nodes, strict=True):
                if gradient is NoGradient.DISCONNECTED:
                    layer, name = piece.path
                    self.cautions.append(caution("disconnected", layer, "gradient", parameter=name, of=of))
        return found.nodes

    def _vjp(self, outputs: Sequence[Node], cotangents: Sequence[Node]) -> list[Node]:
        return dense(self._gradients(_product(self.graph, outputs, cotangents)), self.wrt.nodes)

    def _jvp(self, tangents: Sequence[Node]) -> list[Node]:
        """Return a jvp: the derivative of a vjp with respect to its cotangents, in which it is linear."""
        if isinstance(self.of, LossSide):
            return [_product(self.graph, self._gradients(self.of.nodes[0]), tangents)]
        cotangents = [self.graph.input(f"cotangent/{n}", node.shape) for n, node in enumerate(self.of.nodes)]
        product = _product(self.graph, self._gradients(_product(self.graph, self.of.nodes, cotangents)), tangents)
        return dense(differentiate(product, cotangents).nodes, cotangents)

    def _hvp(self, number: Node, tangents: Sequence[Node]) -> list[Node]:
        """Return an hvp: the gradient of the product of a number's gradient and the tangents."""
        product = _product(self.graph, self._gradients(number), tangents)
        return dense(differentiate(product, self.wrt.nodes).nodes, self.wrt.nodes)

    def _one_number(self) -> Node:
        if self.of.size != 1:
            detail = (
                f"a product with the Hessian takes the Hessian of one number, and the outputs hold {self.of.size}; "
                "ask for of: loss, or for kind: hessian, which tells samples and outputs apart"
            )
            raise InvalidRequest([Fault(("of",), detail, ("loss",))])
        return sum_over(self.of.nodes[0])

    def _unit_cotangents(self, vector: Node) -> tuple[list[Node], list[Node], Mapping[Node, Node]]:
        """Return outputs, cotangents that pick one row, and where the samples of these outputs lie."""
        outputs = self.of.nodes
        places: Mapping[Node, Node] = {}
        if self.alone:
            single, places = one_sample(self.prepared)
            outputs = [single.model.layers[piece.path[0]].output for piece in self.of.pieces]
        return outputs, self._spread(self.rows, vector, outputs), places

    def _spread(self, space: Space, vector: Node, nodes: Sequence[Node], start: int = 0) -> list[Node]:
        """Return a flat node cut into arrays of the shapes of `nodes`. All samples get the same numbers."""
        arrays = []
        for array, node in zip(space.cut(vector, start), nodes, strict=True):
            if array.size != node.size:
                array = broadcast(reshape(array, (1, *node.shape[1:])), node.shape)
            arrays.append(reshape(array, node.shape))
        return arrays

    def _of_all_samples(self, results: list[Node], places: Mapping[Node, Node]) -> list[Node]:
        return vectorize(results, places, self.samples) if places else results


def _product(graph: Graph, nodes: Sequence[Node | NoGradient], others: Sequence[Node]) -> Node:
    """Return the inner product of two lists of arrays, as a node. A node without a gradient adds nothing."""
    total = graph.constant(0.0)
    for node, other in zip(nodes, others, strict=True):
        if not isinstance(node, NoGradient):
            total = total + sum_over(node * other)
    return total
