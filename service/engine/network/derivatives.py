"""Derivatives of a network's outputs or of its loss: Jacobians, Hessians and products with them.

Everything is the reverse mode of `differentiate`, in the graph:

* vjp: the gradient of the outputs times a cotangent u that is an input of the graph;
* jvp: a vjp is linear in u, so its own vjp with respect to u is the jvp. Nothing of u is left in it;
* hvp: the gradient of the product of the gradient and v;
* Jacobian and Hessian: such products with the rows of the identity matrix.

A program computes them for a block of vectors at once (`vectorize`); what does not depend on the
vectors is computed once for all of them. As many vectors make a block as its memory allows, and
the same program runs for block after block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from service.engine.arrays import Array, is_finite
from service.engine.cautions import Caution, caution
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest, LimitExceeded
from service.engine.float_warnings import without_float_warnings
from service.engine.graph.differentiate import dense, differentiate
from service.engine.graph.ir import Graph, Node, NoGradient, Shape, reachable
from service.engine.graph.operations import broadcast, reshape, sum_over
from service.engine.graph.plan import Program, Workspace, WorkspacePool
from service.engine.graph.vectorize import vectorize
from service.engine.limits import Limits
from service.engine.network.cautions import blocked, doubtful, first_non_finite, misread, to_be_read, unfit
from service.engine.network.feed import Feed, Feeder
from service.engine.network.parameters import tree_of
from service.engine.network.task import Prepared, Task, one_sample, prepare
from service.engine.network.vectors import Entry, LossSide, ParametersSide, Side, Space, TensorsSide
from service.engine.watch import Watch

KINDS = ("jacobian", "jvp", "vjp", "hessian", "hvp")
OF = ("outputs", "loss")
WRT = ("inputs", "parameters")
TAKES_VECTORS = frozenset(("jvp", "vjp", "hvp"))
BLOCK_BYTES = 64 * 2**20
"""Memory that the values of one block of vectors may take, if none were reused; a single vector may take more."""
FLOAT_BYTES = {"float64": 8, "float32": 4}
OBJECT_BYTES = 256
"""What a small array of an answer takes beside its numbers, roughly."""


class DerivativeTask(NamedTuple):
    """What is to be computed, for which shapes. Hashable: equal tasks share one derivation.

    `task` has losses exactly where the derivative is `of` the loss, and no `include`; its reduction is not `none`.
    """

    task: Task
    kind: str
    of: str
    wrt: str
    vectors: int = 0
    """How many vectors are sent."""

    @property
    def key(self) -> DerivativeTask:
        return self

    @property
    def effort(self) -> float:
        return 3.0 * self.task.effort  # differentiated twice

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Derivation:
        return compile_derivative(self, limits, pool, watch)


@dataclass
class Derivative:
    """The numbers of one run; all arrays belong to the caller.

    An entry pairs with inputs or outputs (arrays by name), parameters (their tree) or the loss (an array of shape
    `()`).
    """

    values: Entry
    """The outputs or the loss."""
    result: Entry
    """jvp, vjp, hvp: a list with an entry for each vector. Jacobian of the loss: an entry. Jacobian of outputs:
    by output `[sample][output]` and the shape of the parameter, or `[input]`. Hessian: a matrix; of outputs, by
    output, `[sample][output]` and a matrix."""
    labels: list[str] | None = None
    """What the rows and columns of a Hessian stand for."""
    parameters: dict[str, dict[str, Array]] | None = None
    """Present when the parameters were initialised here."""
    finite: bool = True
    warnings: list[Caution] = field(default_factory=list)


# Where the results of vectors `start` to `stop` go: (block, results of the block, of each piece).
Write = Callable[[int, int, Sequence[Array]], None]


@dataclass
class Sheet:
    """The arrays of an answer, and how they are filled block by block."""

    write: Write
    entry: Callable[[], Entry]
    """The filled arrays as the answer has them."""


@dataclass
class Sweep:
    """What becomes of one vector in the graph, and which vectors are swept through it."""

    results: list[Node]
    """What one vector gives."""
    vector: Node
    """The vector: flat, an input of the graph."""
    count: int
    """How many vectors there are."""
    sheet: Callable[[], Sheet]
    """Makes room for an answer."""
    cautions: list[Caution]
    pair: int = 0
    """Where no vectors are sent, unit vectors are swept. If this is not 0, a vector is two, the first one so long,
    and all pairs of unit vectors are swept, the second of a pair fastest."""
    labels: list[str] | None = None


class Derivation:
    """A derivative, planned. Immutable and safe to run from many threads."""

    def __init__(
        self,
        asked: DerivativeTask,
        prepared: Prepared,
        of: Side,
        sent: Side | None,
        size: int,
        sweep: Sweep,
        plan: _Plan,
    ) -> None:
        self.asked = asked
        self.task = asked.task
        self.model = prepared.model
        self.program = plan.program
        self.block = plan.block
        self.feeder = plan.feeder
        self.parameters = plan.feeder.parameters
        self.of = of
        self.sent = sent
        """What the vectors that callers send pair with."""
        self.sweep = sweep
        self.size = size
        """How many numbers an answer holds."""
        self.blocks = math.ceil(sweep.count / plan.block)
        self.work = self.program.work * self.blocks
        """Floating-point operations of a run, roughly."""
        self.weight = len(self.model.graph.nodes) + len(self.task.parameters)
        """How much of a cache it takes."""
        arrays = sweep.count * len(sweep.results) if sent is not None else 0
        self.result_bytes = size * FLOAT_BYTES[self.task.dtype] + arrays * OBJECT_BYTES
        """Memory that an answer takes, roughly."""

    def run(self, feed: Feed, vectors: Sequence[Entry] = (), watch: Watch | None = None) -> Derivative:
        """Compute. `vectors` are as many entries as the task says.

        Raises `InvalidRequest` when the numbers do not fit, and what `watch` raises.
        """
        return without_float_warnings(self._run, feed, vectors, watch)

    def _run(self, feed: Feed, vectors: Sequence[Entry], watch: Watch | None) -> Derivative:
        sheet = self.sweep.sheet()
        with self.program.workspace(watch) as workspace:
            rows = self._fill(workspace, feed, vectors, watch)
            read = workspace.outputs
            results = [read[f"result/{position}"] for position in range(len(self.sweep.results))]
            trouble: Caution | None = None
            for start in range(0, self.sweep.count, self.block):
                stop = min(start + self.block, self.sweep.count)
                self._place(workspace, rows, start, stop)
                workspace.run(watch)
                if watch is not None:
                    watch.look()
                if trouble is None and not all(map(is_finite, results)):
                    trouble = self._trouble(workspace, watch)
                sheet.write(start, stop, results)
            values = [read[f"values/{position}"].copy() for position in range(len(self.of.nodes))]
            answer = Derivative(self.of.nested(values), sheet.entry(), self.sweep.labels)
            if feed.parameters is None:
                answer.parameters = tree_of(self.parameters.parts, workspace.parameters.copy())
            if trouble is None and not (all(map(is_finite, values)) and is_finite(workspace.parameters)):
                trouble = self._trouble(workspace, watch)
            answer.finite = trouble is None
            answer.warnings = list(self.sweep.cautions)
            if self.task.losses is not None:
                outputs = {name: read[f"outputs/{name}"] for name in self.task.definition.output_names}
                answer.warnings += unfit(self.task, feed) + misread(to_be_read(self.task, self.model), outputs)
            if trouble is not None:
                answer.warnings.append(trouble)
        return answer

    def _trouble(self, workspace: Workspace, watch: Watch | None) -> Caution:
        return first_non_finite(self.program, workspace, self.model, self.parameters.parts, watch)

    def _fill(self, workspace: Workspace, feed: Feed, vectors: Sequence[Entry], watch: Watch | None) -> Array | None:
        """Write everything but the vectors, and give these as rows of a matrix; None where none are sent."""
        faults: list[Fault] = []
        if self.sent is not None:
            for position, entry in enumerate(vectors):
                if len(faults) >= MOST_ERRORS:
                    break
                faults += self.sent.faults(entry, ("vectors", position))
        try:
            self.feeder.fill(workspace, feed, watch)
        except InvalidRequest as error:
            faults = [*error.faults, *faults]
        if faults:
            raise InvalidRequest(faults)
        if self.sent is None:
            return None
        rows = np.empty((len(vectors), self.sent.size), self.task.dtype)
        for row, entry in zip(rows, vectors, strict=True):
            self.sent.write(entry, row)
        return rows

    def _place(self, workspace: Workspace, rows: Array | None, start: int, stop: int) -> None:
        """Put a block of vectors where the program reads them; what is left of a last, shorter block is 0."""
        block = workspace.inputs.get("vectors")
        if block is None:
            return  # the derivative is constant
        if rows is not None:
            block[: stop - start] = rows[start:stop]
            block[stop - start :] = 0.0
            return
        block.fill(0.0)
        places, each = np.arange(stop - start), np.arange(start, stop)
        if self.sweep.pair:
            first, each = np.divmod(each, block.shape[1] - self.sweep.pair)
            block[places, first] = 1.0
        block[places, self.sweep.pair + each] = 1.0


def compile_derivative(
    asked: DerivativeTask, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None
) -> Derivation:
    """Build, differentiate and plan; runs borrow their memory from `pool`.

    Raises `InvalidRequest` when the definition or the shapes do not fit or there is no such derivative,
    `LimitExceeded` when it would cost too much, and what `watch` raises.
    """
    task = asked.task
    prepared = prepare(task, limits, watch)
    model, graph = prepared.model, prepared.model.graph
    of, wrt = _of(asked, prepared), _wrt(asked, prepared)
    sweeps = _Sweeps(asked, prepared, of, wrt)
    if sweeps.size > limits.tensor_elements:
        raise LimitExceeded("tensor_elements", sweeps.size, limits.tensor_elements)
    sweep = sweeps.sweep()
    block = _block_of(sweep, task.dtype)
    vectors = graph.input("vectors", (block, sweep.vector.size))
    results = vectorize(sweep.results, {sweep.vector: vectors}, block)
    outputs = {f"result/{position}": node for position, node in enumerate(results)}
    outputs |= {f"values/{position}": node for position, node in enumerate(of.nodes)}
    if task.losses is not None:
        outputs |= {f"outputs/{name}": model.layers[name].output for name in task.definition.output_names}
    feeder = Feeder(prepared, limits)
    program = Program(outputs, feeder.parameters.nodes, pool=pool, watch=watch)
    limits.check_program(program)
    limits.check_operations(program.work * math.ceil(sweep.count / block))
    sent = {"jvp": wrt, "hvp": wrt, "vjp": of}.get(asked.kind)
    return Derivation(asked, prepared, of, sent, sweeps.size, sweep, _Plan(program, block, feeder))


class _Plan(NamedTuple):
    program: Program
    block: int
    """Vectors that one run of the program takes."""
    feeder: Feeder


def _of(asked: DerivativeTask, prepared: Prepared) -> Side:
    if prepared.objective is not None:
        return LossSide(prepared.objective.total)
    names = asked.task.definition.output_names
    return TensorsSide("output", {name: prepared.model.layers[name].output for name in names}, names)


def _wrt(asked: DerivativeTask, prepared: Prepared) -> Side:
    model = prepared.model
    if asked.wrt == "inputs":
        names = tuple(model.inputs)
        indices = [name for name, node in model.inputs.items() if node.dtype == "int64"]
        if len(indices) == len(names):
            which = ", ".join(map(repr, indices))
            detail = (
                f"there is no derivative with respect to indices, and input {which} holds them because a layer embeds "
                "them; ask for wrt: parameters"
            )
            raise InvalidRequest([Fault(("wrt",), detail, ("parameters",))])
        numbers = {name: node for name, node in model.inputs.items() if name not in indices}
        return TensorsSide("input", numbers, names, indices)
    side = ParametersSide(asked.task, model)
    if not side.size:
        raise InvalidRequest([Fault(("wrt",), "the network has no parameters that are trained; ask for wrt: inputs")])
    return side


def _block_of(sweep: Sweep, dtype: str) -> int:
    """How many vectors are taken at once: as many as memory allows, in blocks of nearly equal length."""
    depend = {sweep.vector.index}
    elements = sweep.vector.size
    for node in reachable(sweep.results):
        if any(x.index in depend for x in node.inputs):
            depend.add(node.index)
            if node.operation.view is None:
                elements += node.size
    most = max(1, BLOCK_BYTES // (elements * FLOAT_BYTES[dtype]))
    return math.ceil(sweep.count / math.ceil(sweep.count / most))


class _Sweeps:
    """Builds the graph of a derivative for one vector."""

    def __init__(self, asked: DerivativeTask, prepared: Prepared, of: Side, wrt: Side) -> None:
        self.asked = asked
        self.prepared = prepared
        self.graph = prepared.model.graph
        self.of, self.wrt = of, wrt
        self.dtype = asked.task.dtype
        self.samples = asked.task.samples
        self.cautions = doubtful(asked.task, prepared.model)
        whole = isinstance(of, LossSide)
        self.per_sample = isinstance(wrt, TensorsSide) and not whole
        """The answer tells samples apart that nothing connects: one vector serves all of them."""
        self.alone = isinstance(wrt, ParametersSide) and not (
            whole or prepared.model.couples_samples or self.samples == 1
        )
        """Samples share what is differentiated for, so that each is differentiated alone."""
        self.apart = self.samples if self.per_sample or self.alone else 1
        """Rows that one vector gives."""
        self.columns: Space = wrt.of_a_sample() if self.per_sample else wrt
        """What a row of a matrix is made of."""
        self.rows: Space = of.of_a_sample() if self.per_sample or self.alone else of
        """What one vector of cotangents is made of."""
        self.leads: list[Shape] = [
            () if whole else (self.samples, piece.stop - piece.start) for piece in of.of_a_sample().pieces
        ]
        """Of each output, the axes that come before those of a row."""

    @property
    def size(self) -> int:
        """How many numbers the answer holds."""
        match self.asked.kind:
            case "jvp":
                return self.asked.vectors * self.of.size
            case "vjp" | "hvp":
                return self.asked.vectors * self.wrt.size
            case "jacobian":
                return self.of.size * self.columns.size
        return self.of.size * self.columns.size**2

    def sweep(self) -> Sweep:
        """Raises `InvalidRequest` where there is no such derivative."""
        match self.asked.kind:
            case "vjp":
                vector = self.vector(self.of.size)
                return self.listed(self.pulled(self.of.nodes, self.of.cut(vector)), vector, self.wrt)
            case "jvp":
                vector = self.vector(self.wrt.size)
                return self.listed(self.pushed(self.wrt.cut(vector)), vector, self.of)
            case "hvp":
                vector = self.vector(self.wrt.size)
                return self.listed(self.curved(self.one_number(), self.wrt.cut(vector)), vector, self.wrt)
        if self.per_sample and self.prepared.model.couples_samples:
            detail = (
                "in training, normalization over the batch makes the outputs of a sample depend on all samples, so "
                f"there is no {self.asked.kind} for each sample; set training to false, or ask for "
                + ("vjp or jvp" if self.asked.kind == "jacobian" else "of: loss")
            )
            raise InvalidRequest([Fault(("training",), detail)])
        if self.asked.kind == "hessian":
            return self.hessian()
        return self.jacobian_by_columns() if self.columns.size < self.rows.size else self.jacobian_by_rows()

    # --- how a vector goes through the graph ---

    def vector(self, size: int) -> Node:
        return self.graph.input("vector", (size,))

    def gradients(self, output: Node) -> list[Node | NoGradient]:
        """The first derivative, with what there is to say of it."""
        found = differentiate(output, self.wrt.nodes)
        self.cautions += blocked(found.blocked_by, self.prepared.model)
        if isinstance(self.wrt, ParametersSide):
            for piece, gradient in zip(self.wrt.pieces, found.nodes, strict=True):
                if gradient is NoGradient.DISCONNECTED:
                    layer, name = piece.path
                    self.cautions.append(caution("disconnected", layer, "gradient", parameter=name, of=self.asked.of))
        return found.nodes

    def pulled(self, outputs: Sequence[Node], cotangents: Sequence[Node]) -> list[Node]:
        """vjp: what cotangents of the outputs are for the nodes that are differentiated for."""
        return dense(self.gradients(_product(self.graph, outputs, cotangents)), self.wrt.nodes)

    def pushed(self, tangents: Sequence[Node]) -> list[Node]:
        """jvp: what tangents are for the outputs."""
        if isinstance(self.of, LossSide):
            return [_product(self.graph, self.gradients(self.of.nodes[0]), tangents)]
        cotangents = [self.graph.input(f"cotangent/{n}", node.shape) for n, node in enumerate(self.of.nodes)]
        product = _product(self.graph, self.gradients(_product(self.graph, self.of.nodes, cotangents)), tangents)
        return dense(differentiate(product, cotangents).nodes, cotangents)

    def curved(self, number: Node, tangents: Sequence[Node]) -> list[Node]:
        """hvp: how the gradient of a number changes along tangents."""
        product = _product(self.graph, self.gradients(number), tangents)
        return dense(differentiate(product, self.wrt.nodes).nodes, self.wrt.nodes)

    def one_number(self) -> Node:
        if self.of.size != 1:
            detail = (
                f"a product with the Hessian takes the Hessian of one number, and the outputs hold {self.of.size}; "
                "ask for of: loss, or for kind: hessian, which tells samples and outputs apart"
            )
            raise InvalidRequest([Fault(("of",), detail, ("loss",))])
        return sum_over(self.of.nodes[0])

    def unit_cotangents(self, vector: Node) -> tuple[list[Node], list[Node], Mapping[Node, Node]]:
        """Outputs and their cotangents, for rows of matrices; and where the samples of these outputs lie."""
        outputs = self.of.nodes
        places: Mapping[Node, Node] = {}
        if self.alone:
            single, places = one_sample(self.prepared)
            outputs = [single.model.layers[piece.path[0]].output for piece in self.of.pieces]
        return outputs, self.spread(self.rows, vector, outputs), places

    def spread(self, space: Space, vector: Node, nodes: Sequence[Node], start: int = 0) -> list[Node]:
        """The arrays in a flat node, for the nodes they pair with: the same for all samples of these."""
        arrays = []
        for array, node in zip(space.cut(vector, start), nodes, strict=True):
            if array.size != node.size:
                array = broadcast(reshape(array, (1, *node.shape[1:])), node.shape)
            arrays.append(reshape(array, node.shape))
        return arrays

    # --- lists, and matrices by rows and by columns ---

    def listed(self, results: list[Node], vector: Node, space: Space) -> Sweep:
        """An answer with an entry of `space` for every vector."""
        count = self.asked.vectors

        def sheet() -> Sheet:
            arrays = [np.empty((count, *piece.shape), self.dtype) for piece in space.pieces]

            def write(start: int, stop: int, block: Sequence[Array]) -> None:
                for array, values in zip(arrays, block, strict=True):
                    array[start:stop] = values[: stop - start]

            return Sheet(write, lambda: [space.nested([array[n] for array in arrays]) for n in range(count)])

        return Sweep(results, vector, count, sheet, self.cautions)

    def jacobian_by_rows(self) -> Sweep:
        """A vjp for each output; of the loss, for the loss alone, which is its gradient."""
        vector = self.vector(self.rows.size)
        outputs, cotangents, places = self.unit_cotangents(vector)
        results = self.of_all_samples(self.pulled(outputs, cotangents), places)
        sizes = [piece.stop - piece.start for piece in self.columns.pieces]

        def sheet() -> Sheet:
            arrays = self.jacobians()
            targets = [
                [array.reshape(self.apart, -1, size) for array, size in zip(row, sizes, strict=True)] for row in arrays
            ]
            return Sheet(self.write_rows(targets, 1), lambda: self.of.nested(map(self.columns.nested, arrays)))

        return Sweep(results, vector, self.rows.size, sheet, self.cautions)

    def jacobian_by_columns(self) -> Sweep:
        """A jvp for each number that is differentiated for."""
        vector = self.vector(self.columns.size)
        results = self.pushed(self.spread(self.columns, vector, self.wrt.nodes))

        def sheet() -> Sheet:
            arrays = self.jacobians()

            def write(start: int, stop: int, block: Sequence[Array]) -> None:
                for row, lead, values in zip(arrays, self.leads, block, strict=True):
                    for array, (_, first, last, _shape) in zip(row, self.columns.pieces, strict=True):
                        low, high = max(start, first), min(stop, last)
                        if low < high:
                            part = values[low - start : high - start].reshape(-1, *lead)
                            array.reshape(*lead, -1)[..., low - first : high - first] = np.moveaxis(part, 0, -1)

            return Sheet(write, lambda: self.of.nested(map(self.columns.nested, arrays)))

        return Sweep(results, vector, self.columns.size, sheet, self.cautions)

    def hessian(self) -> Sweep:
        """An hvp for each number that is differentiated for; of outputs, for each of them.

        Both halves are computed and differ by rounding; the answer is their mean, which is no less exact and
        symmetric to the last bit, as those who factorise it expect.
        """
        width = self.columns.size
        places: Mapping[Node, Node] = {}
        if isinstance(self.of, LossSide):
            first = 0
            vector = self.vector(width)
            number = self.of.nodes[0]
        else:
            first = self.rows.size
            vector = self.vector(first + width)
            outputs, cotangents, places = self.unit_cotangents(vector)
            number = _product(self.graph, outputs, cotangents)
        tangents = self.spread(self.columns, vector, self.wrt.nodes, first)
        results = self.of_all_samples(self.curved(number, tangents), places)

        def sheet() -> Sheet:
            matrices = [np.empty((*lead, width, width), self.dtype) for lead in self.leads]
            targets = [
                [matrix.reshape(self.apart, -1, width)[..., piece.start : piece.stop] for piece in self.columns.pieces]
                for matrix in matrices
            ]

            def entry() -> Entry:
                for matrix in matrices:
                    matrix *= 0.5
                    matrix += matrix.swapaxes(-1, -2)
                return self.of.nested(matrices)

            return Sheet(self.write_rows(targets, width), entry)

        shapes = [node.shape[1:] for node in self.wrt.nodes] if self.per_sample else None
        labels = self.columns.labels(shapes)
        return Sweep(results, vector, self.rows.size * width, sheet, self.cautions, first, labels)

    def of_all_samples(self, results: list[Node], places: Mapping[Node, Node]) -> list[Node]:
        return vectorize(results, places, self.samples) if places else results

    def jacobians(self) -> list[list[Array]]:
        """Room for a Jacobian: of each output, for each thing that is differentiated for."""
        return [[np.empty((*lead, *piece.shape), self.dtype) for piece in self.columns.pieces] for lead in self.leads]

    def write_rows(self, targets: Sequence[Sequence[Array]], rows_of_each: int) -> Write:
        """Into arrays `(apart, rows, size)` of each output, for each piece of a row; so many rows for each number."""

        def write(start: int, stop: int, block: Sequence[Array]) -> None:
            for row, piece in zip(targets, self.rows.pieces, strict=True):
                first = piece.start * rows_of_each
                low, high = max(start, first), min(stop, piece.stop * rows_of_each)
                if low >= high:
                    continue
                for target, values in zip(row, block, strict=True):
                    part = values[low - start : high - start].reshape(high - low, self.apart, -1)
                    target[:, low - first : high - first] = part.swapaxes(0, 1)

        return write


def _product(graph: Graph, nodes: Sequence[Node | NoGradient], others: Sequence[Node]) -> Node:
    """The inner product of two lists of arrays; what has no gradient adds nothing."""
    total = graph.constant(0.0)
    for node, other in zip(nodes, others, strict=True):
        if not isinstance(node, NoGradient):
            total = total + sum_over(node * other)
    return total
