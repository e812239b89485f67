"""The worked derivation of a network's gradients: every number with its formula.

`ExplainTask.compile` builds the graph of the loss and its gradients, and draws the outline of the derivation;
`Explanation.run` computes the values with the interpreter and fills them in. No gradient is computed in a second way:
the formula of a step is the computation of the graph, read backwards from the gradient (see `elements.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from service.engine.arrays import Array
from service.engine.errors import Fault, InvalidRequest, LimitExceeded
from service.engine.graph.interpreter import steps as interpreted
from service.engine.graph.ir import Node, count_work, reachable
from service.engine.graph.plan import WorkspacePool
from service.engine.insight.elements import BY_INDICES
from service.engine.insight.formula import Key, evaluate
from service.engine.insight.meaning import Meaning, meaning_of
from service.engine.insight.notation import number
from service.engine.insight.outline import MEAN_SQUARE, MOST_STEPS, RATE, DerivationStep, Outline, Quantity, draw
from service.engine.insight.scene import Scene, build_scene, sliced
from service.engine.limits import Limits
from service.engine.network.feed import Feed, Feeder
from service.engine.network.flat import tree_of
from service.engine.network.task import Task
from service.engine.watch import Watch


@dataclass(frozen=True)
class ExplainTask:
    """The task of deriving gradients of a network, for given shapes."""

    task: Task
    parameter: str | None = None
    """A selector such as `hidden.kernel[0][1]`, a layer, or a whole parameter; None for all trained parameters."""
    sample: int | None = None
    depth: int | None = None
    """The count of steps back from the gradients; None for all."""
    convention: str = "standard"

    @property
    def key(self) -> tuple[object, ...]:
        return (self.task, self.parameter, self.sample, self.depth, self.convention)

    @property
    def effort(self) -> float:
        return 2.0 * self.task.effort

    def compile(self, limits: Limits, pool: WorkspacePool | None = None, watch: Watch | None = None) -> Explanation:
        """Build the outline of the derivation. Raises `InvalidRequest` for an unknown parameter or sample, or too many
        steps; and what `watch` raises."""
        return Explanation(self, build_scene(self.task, limits, self.parameter, self.sample, watch), limits)


@dataclass(frozen=True)
class WorkedDerivation:
    """A derivation with all its numbers filled in, as an answer shows it."""

    loss: float
    quantities: list[tuple[Quantity, float]]
    steps: list[tuple[DerivationStep, float, str]]
    """Each with its value, and its formula with the numbers put in."""
    meanings: list[Meaning]
    finite: bool
    lost: str | None
    """The id of the first step that is not finite."""
    parameters: dict[str, dict[str, Array]] | None
    """The parameters, if they were initialised here."""


class Explanation:
    """The derivation of some gradients without numbers. Immutable and safe to run from many threads."""

    def __init__(self, asked: ExplainTask, scene: Scene, limits: Limits) -> None:
        self.scene = scene
        self.depth, self.convention = asked.depth, asked.convention
        self.task = scene.task
        self.samples = asked.task.samples
        self.feeder = Feeder(scene.prepared, limits)
        self.nodes = reachable([*scene.outputs, *(parameter.node for parameter in scene.prepared.model.parameters)])
        self.work = sum(map(count_work, self.nodes))
        limits.check_operations(self.work)
        self.nbytes = sum(node.size for node in self.nodes) * np.dtype(self.task.dtype).itemsize
        if self.nbytes > limits.workspace_bytes:
            raise LimitExceeded("workspace_bytes", self.nbytes, limits.workspace_bytes)
        looked_up = any(node.operation.name in BY_INDICES for node in self.nodes)
        self._outline = None if looked_up else draw(scene, {}, self.depth, self.convention)
        self.most_steps = MOST_STEPS if self._outline is None else len(self._outline.places)
        """The count of steps and quantities, or its limit."""
        self.weight = len(scene.prepared.model.graph.nodes) + 10 * self.most_steps
        scene.prepared.model.graph.seal()

    def run(self, feed: Feed, learning_rate: float, watch: Watch | None = None) -> WorkedDerivation:
        """Compute all values with the numbers of a request, and fill them in. `feed` holds all samples, also where one
        was chosen. Raises `InvalidRequest` when the numbers do not fit, and what `watch` raises."""
        inputs, parameters = self._inputs(feed, watch)
        values: dict[int, Array] = {}
        for node, value in interpreted([*self.scene.outputs, *self.feeder.parameters.nodes], inputs):
            values[node.index] = value
            if watch is not None:
                watch.look()
        outline = self._outline
        if outline is None:
            integers = {node.index: array for node, array in inputs.items() if node.dtype == "int64"}
            outline = draw(self.scene, integers, self.depth, self.convention)
        return self._filled(outline, values, learning_rate, parameters)

    def _filled(
        self, outline: Outline, values: Mapping[int, Array], rate: float, parameters: dict[str, dict[str, Array]] | None
    ) -> WorkedDerivation:
        def held(key: Key) -> float:
            """Return the number in the graph at a key."""
            assert isinstance(key, tuple)
            return float(values[key[0]].item(key[1]))

        dtype = np.dtype(self.task.dtype).type
        shown: dict[Key, float] = {RATE: rate}
        for quantity in outline.quantities:
            if quantity.key != RATE:
                shown[quantity.key] = _signed(held(quantity.key), quantity.signed)
        later: list[DerivationStep] = []
        for step in outline.steps:
            if step.element is None:
                later.append(step)
            else:
                shown[step.key] = _signed(held(step.element), step.signed)
        # Shares come first, then gradients made of these, then updates.
        for step in sorted(later, key=lambda step: (MEAN_SQUARE, "share", "gradient", "update").index(step.quantity)):
            shown[step.key] = float(dtype(evaluate(step.formula, shown.__getitem__))) + 0.0
        ordered = [0.0] * len(outline.places)
        for key, place in outline.places.items():
            ordered[place] = shown[key]
        texts = [number(value) for value in ordered]
        steps = []
        lost = None
        for step in outline.steps:
            value = shown[step.key]
            assert step.template is not None
            text = step.template.fill(texts)
            steps.append((step, value, f"{text} = {texts[outline.places[step.key]]}"))
            if lost is None and not math.isfinite(value):
                lost = step.id
        heaton = self.convention == "heaton"
        meanings = [
            meaning_of(
                self.scene,
                outline,
                asked,
                (shown[asked.parameter], shown[asked.gradient], shown[asked.update]),
                heaton,
                held,
            )
            for asked in outline.asked
        ]
        objective = self.scene.prepared.objective
        assert objective is not None
        loss = float(values[objective.total.index].item())
        quantities = [(quantity, shown[quantity.key]) for quantity in outline.quantities]
        finite = lost is None and math.isfinite(loss) and all(math.isfinite(value) for _, value in quantities)
        return WorkedDerivation(loss, quantities, steps, meanings, finite, lost, parameters)

    def _inputs(self, feed: Feed, watch: Watch | None) -> tuple[dict[Node, Array], dict[str, dict[str, Array]] | None]:
        """Return the values of all inputs of the graph, and the parameters if they were initialised here."""
        scene, sample = self.scene, self.scene.sample
        prepared = scene.prepared
        model, dtype = prepared.model, self.task.dtype
        weights = feed.sample_weights
        if weights is not None and weights.shape != (self.samples,):
            detail = f"has shape {list(weights.shape)}; it takes {[self.samples]}, one per sample"
            raise InvalidRequest([Fault(("sample_weights",), detail)])
        own = Feed(
            {name: sliced(array, sample) for name, array in feed.inputs.items()},
            feed.parameters,
            {name: sliced(array, sample) for name, array in feed.targets.items()},
            None if weights is None else sliced(weights, sample),
            feed.seed,
        )
        self.feeder.check(own)
        vector = self.feeder.parameters
        flat = np.empty(sum(node.size for node in vector.nodes), dtype)
        self.feeder.fill_parameters(flat, own, watch)
        found: dict[Node, Array] = {}
        for parameter, part in zip(model.parameters, vector.pieces, strict=True):
            found[parameter.node] = flat[part.start : part.stop].reshape(part.shape)
        for name, node in model.inputs.items():
            found[node] = np.ascontiguousarray(own.inputs[name], node.dtype)
        for name, node in prepared.targets.items():
            found[node] = np.ascontiguousarray(own.targets[name], node.dtype)
        if prepared.weights is not None:
            assert own.sample_weights is not None
            found[prepared.weights] = np.ascontiguousarray(own.sample_weights, dtype)
        for place, (noise, drawn) in enumerate(zip(model.noises, scene.noises, strict=True)):
            generator = np.random.Generator(np.random.PCG64([feed.seed, 1, place]))
            found[noise.node] = np.ascontiguousarray(sliced(drawn.draw(generator), sample), dtype)
        initialised = tree_of(vector.pieces, flat) if feed.parameters is None else None
        return found, initialised


def _signed(value: float, negative: bool) -> float:
    return 0.0 - value if negative else value + 0.0
