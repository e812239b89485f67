"""The numbers of one request, and the feeder that checks them and writes them into a workspace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from service.engine.arrays import Array, first_true
from service.engine.errors import Fault, InvalidRequest, Path
from service.engine.limits import Limits
from service.engine.network.parameters import ParameterVector, Tree, misshapen
from service.engine.network.prepare import Prepared
from service.engine.network.task import Task
from service.engine.watch import Watch


@dataclass
class Feed:
    """The numbers of a request. Without parameters, the seed determines initial ones, like all random numbers."""

    inputs: Mapping[str, Array]
    parameters: Tree | None = None
    targets: Mapping[str, Array] = field(default_factory=dict)
    sample_weights: Array | None = None
    seed: int = 0
    step: int = 0
    """The step of a training: each step draws random numbers of its own."""


class Fillable(Protocol):
    """The arrays that a feed is written into: a workspace, or `Leaves`."""

    inputs: dict[str, Array]
    """The input arrays by the names of their nodes. Those on which nothing depends may be missing."""
    parameters: Array
    """The flat vector of all parameters."""


class Feeder:
    """A writer of feeds into workspaces, which first checks that they fit the prepared network."""

    def __init__(self, prepared: Prepared, limits: Limits) -> None:
        self.task = prepared.task
        self.model = prepared.model
        self.limits = limits
        self.parameters = ParameterVector(self.task.definition, self.model.parameters)

    def fill(self, workspace: Fillable, feed: Feed, watch: Watch | None) -> None:
        """Check a feed, and write everything that a run needs into a workspace. Raises `InvalidRequest` when the
        numbers do not fit, `DeadlineExceeded` while initialising."""
        self.check(feed)
        self.fill_parameters(workspace.parameters, feed, watch)
        self.fill_samples(workspace, feed)
        self.fill_noises(workspace, feed.seed, feed.step)

    def fill_parameters(self, flat: Array, feed: Feed, watch: Watch | None = None) -> None:
        """Write the parameters, sent or initialised, into a flat vector."""
        if feed.parameters is None:
            self.parameters.initialize(flat, feed.seed, self.limits, watch)
        else:
            self.parameters.fill(flat, feed.parameters)

    def fill_samples(self, workspace: Fillable, feed: Feed, rows: Array | slice | None = None) -> None:
        """Write inputs, targets and weights of all samples, or of those with the indices `rows`."""
        values = workspace.inputs
        tensors = {f"inputs/{name}": array for name, array in feed.inputs.items()}
        tensors |= {f"targets/{name}": array for name, array in feed.targets.items()}
        if feed.sample_weights is not None:
            tensors["sample_weights"] = feed.sample_weights
        for name, array in tensors.items():
            out = values.get(name)  # None where nothing depends on it
            if out is not None:
                out[...] = array if rows is None else array[rows]

    def fill_noises(self, workspace: Fillable, seed: int, step: int) -> None:
        """Draw the random numbers of layers. They depend only on the seed, the layer's place and the step."""
        for position, noise in enumerate(self.model.noises):
            out = workspace.inputs.get(noise.node.attributes[0])
            if out is not None:
                stream = [seed, 1, position, step] if step else [seed, 1, position]
                out[...] = noise.draw(np.random.Generator(np.random.PCG64(stream)))

    def streams(self, seed: int, step: int) -> list[np.random.Generator]:
        """Return the generators of the random numbers of layers, to draw them for one shard of a batch after another:
        `draw` then gives the rows of what `fill_noises` gives for the whole batch."""
        return [
            np.random.Generator(np.random.PCG64([seed, 1, position, step] if step else [seed, 1, position]))
            for position in range(len(self.model.noises))
        ]

    def draw(self, workspace: Fillable, streams: Sequence[np.random.Generator]) -> None:
        """Draw the random numbers of the next shard."""
        for noise, generator in zip(self.model.noises, streams, strict=True):
            out = workspace.inputs.get(noise.node.attributes[0])
            if out is not None:
                out[...] = noise.draw(generator)

    def skip(self, workspace: Fillable, streams: Sequence[np.random.Generator], shards: int) -> None:
        """Pass over the random numbers of so many shards of this size."""
        for noise, generator in zip(self.model.noises, streams, strict=True):
            if noise.node.attributes[0] in workspace.inputs:
                noise.skip(generator, shards)

    def check(self, feed: Feed, task: Task | None = None) -> None:
        """Raise `InvalidRequest` with every fault of the numbers. `task` is that of the whole batch, where the network
        is prepared for a part of it."""
        task = task or self.task
        faults = []
        if feed.parameters is not None and not self.parameters.fits(feed.parameters):
            faults += self.parameters.faults(feed.parameters)
        faults += self._faults_of_indices(feed)
        weights = feed.sample_weights
        if weights is not None and weights.shape != (task.samples,):
            detail = f"has shape {list(weights.shape)}; it takes {[task.samples]}, one per sample"
            detail += misshapen(weights.shape, (task.samples,))
            faults.append(Fault(("sample_weights",), detail))
        elif weights is not None and task.normalize_weights and task.reduction == "mean" and not weights.any():
            detail = "must not all be 0 with normalize_weights, which divides by their sum"
            faults.append(Fault(("sample_weights",), detail))
        if faults:
            raise InvalidRequest(faults)

    def _faults_of_indices(self, feed: Feed) -> list[Fault]:
        """Return the faults of targets and inputs that should hold indices and do not."""
        faults: list[Fault] = []
        for loss, name in zip(self.task.losses or (), self.task.definition.output_names, strict=False):
            if loss.declaration.indices and name in feed.targets:
                classes = self.model.layers[name].output.shape[-1]
                from_one = "; classes count from 0"
                faults += _faults_of(feed.targets[name], classes, ("targets", name), "a class index", from_one)
        for name, (layer, count) in self.model.vocabularies.items():
            what = f"an index for layer {layer!r}"
            faults += _faults_of(feed.inputs[name], count, ("inputs", name), what)
        for name in self.model.whole_inputs:
            array = feed.inputs[name]
            place = first_true(array != np.floor(array)) if array.dtype.kind == "f" else None
            if place is not None:
                detail = f"takes whole numbers, got {array[place].item()!r}"
                faults.append(Fault(("inputs", name, *place), detail))
        return faults


def _faults_of(array: Array, count: int, path: Path, what: str, from_one: str = "") -> list[Fault]:
    """Return a list with the fault of the first number that is no index below `count`; empty if all are.

    `from_one` is advice for indices that seem to count from 1.
    """
    wrong = array >= count
    if array.dtype.kind != "u":
        wrong |= array < 0
    if array.dtype.kind == "f":
        wrong |= array != np.floor(array)
    place = first_true(wrong)
    if place is None:
        return []
    came = repr(array[place].item()).removesuffix(".0")
    instead = from_one if came == str(count) and array.min() > 0 else ""
    return [Fault((*path, *place), f"takes {what} from 0 to {count - 1}, got {came}{instead}")]
