"""Checkpoints: all that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from service.engine.arrays import Array
from service.engine.descent.loop import Descent, Progress
from service.engine.descent.schedules import schedules
from service.engine.errors import MOST_ERRORS, Fault, InvalidRequest
from service.engine.network.flat import Piece, tree_of
from service.engine.network.parameters import Tree
from service.engine.options import LARGEST_EXACT_INTEGER


@dataclass
class Checkpoint:
    """The state of a training after some steps. A training that starts from it gives the same numbers, bit by bit."""

    step: int
    """Steps done."""
    seed: int
    """The seed. With the step it determines every random number to come."""
    parameters: Tree
    optimizer: str
    state: Mapping[str, Any]
    """The state of the optimizer: numbers, and trees of arrays. Arrays of a history have one more axis, the first."""
    progress: Mapping[str, float] = field(default_factory=dict)
    """The numbers of the loop: see `Progress`. What is missing is as at the start."""
    schedule: Mapping[str, float] = field(default_factory=dict)


def checkpoint_of(descent: Descent, seed: int, parameters: Tree, trained: Sequence[Piece]) -> Checkpoint:
    """Make a checkpoint of a training after the steps that it has made. `trained` are the places of the trained
    parameters in flat arrays."""
    standing = descent.progress
    return Checkpoint(
        step=standing.step,
        seed=seed,
        parameters=parameters,
        optimizer=descent.update.declaration.name,
        state={name: tree_or_number(trained, value) for name, value in vars(descent.state).items()},
        progress={
            item.name: getattr(standing, item.name) for item in fields(Progress) if _is_kept(item.name, standing)
        },
        schedule=dict(descent.update.scheduler.state) if descent.update.scheduler is not None else {},
    )


def tree_or_number(trained: Sequence[Piece], value: Any) -> Any:
    """Return a number unchanged, and a flat array as a tree of copies by layer and parameter name."""
    return tree_of(trained, value.copy()) if isinstance(value, np.ndarray) else value


def _is_kept(name: str, standing: Progress) -> bool:
    """Return whether a checkpoint holds the progress number called `name`. Infinity and None cannot be written as JSON
    numbers. They are left out, and stand for the value at the start."""
    value = getattr(standing, name)
    return name != "step" and value is not None and math.isfinite(value)


def progress_of(checkpoint: Checkpoint) -> Progress:
    """Return the progress that a checkpoint holds. Raises `InvalidRequest` for names that `Progress` does not have, and
    for numbers of steps that are none."""
    names = [item.name for item in fields(Progress) if item.name != "step"]
    faults = [
        Fault(("checkpoint", "progress", name), "is nothing that a training remembers", tuple(names))
        for name in checkpoint.progress
        if name not in names
    ]
    for name in ("best_step", "waited"):
        value = checkpoint.progress.get(name, 0)
        if not (isinstance(value, int) and 0 <= value <= LARGEST_EXACT_INTEGER):
            faults.append(Fault(("checkpoint", "progress", name), "takes an integer at least 0, a number of steps"))
    if faults:
        raise InvalidRequest(faults[:MOST_ERRORS])
    numbers: dict[str, Any] = dict(checkpoint.progress)
    return Progress(step=checkpoint.step, **numbers)


class StateReader:
    """A reader of an optimizer's state from a checkpoint, which collects all faults with their places."""

    def __init__(self, descent: Descent, trained: Sequence[Piece]) -> None:
        self.descent = descent
        self.optimizer = descent.update.declaration
        self.trained = trained
        self.size, self.dtype = descent.parameters.size, descent.parameters.dtype
        self.faults: list[Fault] = []

    def restore(self, checkpoint: Checkpoint) -> None:
        """Give the descent the state of a checkpoint. Raises `InvalidRequest` with everything that does not fit."""
        for name, value in self._read(checkpoint).items():
            setattr(self.descent.state, name, value)
        known = tuple(dict.fromkeys(name for schedule in schedules for name in schedule.numbers))
        unknown = [name for name in checkpoint.schedule if name not in known]
        if unknown:
            detail = "is nothing that a schedule remembers"
            faults = [Fault(("checkpoint", "schedule", name), detail, known) for name in unknown[:MOST_ERRORS]]
            raise InvalidRequest(faults)
        scheduler = self.descent.update.scheduler
        if scheduler is not None:
            # A schedule other than that of the checkpoint starts anew.
            scheduler.state |= {name: x for name, x in checkpoint.schedule.items() if name in scheduler.state}

    def _read(self, checkpoint: Checkpoint) -> dict[str, Array | float]:
        declaration = self.optimizer
        if checkpoint.optimizer != declaration.name:
            detail = f"is of the optimizer {checkpoint.optimizer[:64]!r}; this request trains with {declaration.name!r}"
            raise InvalidRequest([Fault(("checkpoint", "optimizer"), detail)])
        arrays = [name for name, value in vars(self.descent.state).items() if isinstance(value, np.ndarray)]
        known = (*arrays, *declaration.histories, *declaration.numbers)
        given = checkpoint.state
        for name in given:
            if name not in known:
                detail = f"{declaration.name} keeps no {name[:64]!r}"
                self.faults.append(Fault(("checkpoint", "state", name), detail, known))
        state: dict[str, Array | float] = {}
        for name in known:
            if name in given:
                value = given[name]
                is_number = name in declaration.numbers
                if is_number != isinstance(value, float | int):
                    takes = "a number" if is_number else "tensors by layer and parameter name"
                    self.faults.append(Fault(("checkpoint", "state", name), f"takes {takes}"))
                else:
                    state[name] = self.number(name, value) if is_number else self.array(name, value)
            elif name not in declaration.histories or any(other in given for other in declaration.histories):
                self.faults.append(Fault(("checkpoint", "state", name), f"is missing: {declaration.name} needs it"))
        if len({np.shape(state[name])[:1] for name in declaration.histories if name in state}) > 1:
            detail = f"{' and '.join(declaration.histories)} have different lengths"
            self.faults.append(Fault(("checkpoint", "state", declaration.histories[0]), detail))
        if self.faults:
            raise InvalidRequest(self.faults[:MOST_ERRORS])
        return state

    def number(self, name: str, value: float) -> float:
        """Return a number of the state. Add a fault if it is beyond the bounds that the optimizer declares."""
        low, high = self.optimizer.bounds.get(name, (-np.inf, np.inf))
        if not low <= value <= high:
            self.faults.append(
                Fault(("checkpoint", "state", name), f"lies between {low:g} and {high:g}, got {value:g}")
            )
        return value

    def array(self, name: str, tree: Mapping[str, Mapping[str, Array]]) -> Array:
        """Return a tree of the state as a flat array. Add faults for tensors that are missing, unknown or of wrong
        shape. A history has one more axis in front. After a fault the array is empty."""
        history = name in self.optimizer.histories
        wanted = {piece.path: piece for piece in self.trained}
        faults = [
            Fault(("checkpoint", "state", name, layer, own), "is no parameter that is trained")
            for layer, arrays in tree.items()
            for own in arrays
            if (layer, own) not in wanted
        ]
        lengths = set()
        for (layer, own), piece in wanted.items():
            array = tree.get(layer, {}).get(own)
            path = ("checkpoint", "state", name, layer, own)
            if array is None:
                faults.append(Fault(path, f"{own} of layer {layer!r} is missing; it has shape {list(piece.shape)}"))
            elif (array.shape[1:] if history else array.shape) != piece.shape:
                takes = f"[steps, {', '.join(map(str, piece.shape))}]" if history else list(piece.shape)
                faults.append(Fault(path, f"has shape {list(array.shape)}; it takes {takes}"))
            elif history:
                lengths.add(len(array))
        if len(lengths) > 1:
            faults.append(Fault(("checkpoint", "state", name), "has histories of different lengths"))
        self.faults += faults
        if faults:
            return np.empty(0)
        lead = tuple(lengths)
        flat = np.empty((*lead, self.size), self.dtype)
        for (layer, own), piece in wanted.items():
            flat[..., piece.start : piece.stop] = tree[layer][own].reshape((*lead, piece.stop - piece.start))
        return flat
