"""Runs that are interrupted, and go on in works that are made anew from their states, have the bits of whole ones."""

import copy
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from service import wire
from service.api.context import Context, Runtime, runtime_of
from service.api.long_work import LongWork
from service.api.run_kinds import KINDS
from service.api.state_file import state_bytes, state_of
from service.config import Settings
from service.engine.descent.optimizers import optimizers
from service.engine.errors import InvalidRequest
from service.observing.timer import Timer
from service.wire.writing import written
from tests.support import HIMMELBLAU, every, network

SAMPLES = [[0.2, 1.1], [1.3, 0.4], [-0.5, 0.9], [1.8, -0.6], [-1.2, 0.3]]
TARGETS = [[1.0], [0.5], [-0.25], [2.0], [0.0]]
SMALL = network({"type": "dense", "name": "hidden", "units": 2, "activation": "tanh"}, {"type": "dense", "units": 1})
RICH = network(
    {"type": "dense", "units": 3, "activation": "tanh"},
    {"type": "batch_normalization"},
    {"type": "dropout", "rate": 0.4},
    {"type": "dense", "units": 1},
)
LINE = network({"type": "dense", "name": "line", "units": 1, "use_bias": False})
DATA: dict[str, Any] = {"inputs": SAMPLES, "targets": TARGETS, "loss": "half_squared_error"}
EVERYTHING = ["gradients", "parameters", "state", "updates", "effective_learning_rate", "batch"]


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return runtime_of(Settings())


class Run:
    """A run of one kind on the bytes of its request, as a runner computes it."""

    def __init__(self, runtime: Runtime, kind: str, request: dict[str, Any]) -> None:
        self.runtime, self.kind = runtime, KINDS[kind]
        self.spec = orjson.dumps(request)

    def work(self, state: bytes | None = None, more_steps: int = 0) -> LongWork:
        """Make the work from the bytes of its request, and of its state."""
        memory = self.runtime.memory.reservation()
        ticket = self.runtime.admission.ticket("", time.monotonic())
        value, _, nbytes = wire.parse(self.spec, self.kind.takes.fresh, memory.need)
        context = Context(
            self.runtime, Timer(), memory, nbytes, ticket, {"PATH_INFO": ""}, "ndjson", True,
            own_limits=self.runtime.settings.run_limits,
        )  # fmt: skip
        loaded = self.kind.takes.read(value)
        try:
            return self.kind.works(loaded, context, None if state is None else state_of(state), more_steps)
        finally:
            memory.release()

    @staticmethod
    def records(work: LongWork, most: int | None = None) -> Iterator[bytes]:
        """Advance a work at most so often, and yield its records as they are stored."""
        while not work.finished and most != 0:
            record = work.advance()
            if record is not None:
                yield text(record)
            most = None if most is None else most - 1

    def whole(self, more_steps: int = 0) -> tuple[list[bytes], bytes]:
        """Compute without an interruption; return all records and the summary."""
        work = self.work(more_steps=more_steps)
        return [*self.records(work)], ended(work)

    def interrupted(self, every: int = 1) -> tuple[list[bytes], bytes]:
        """Compute `every` steps with each work, and then go on in a new one, also after the end."""
        work, records, has_ended = self.work(), [], False
        while not has_ended:
            records += self.records(work, every)
            has_ended = work.finished
            state = state_bytes(work.state())
            work.close()
            work = self.work(state)
        return [*records, *self.records(work)], ended(work)


def text(value: Any) -> bytes:
    """Return a record or a summary as JSON whose tensors show every bit."""
    return b"".join(written(value, base64=True))


def ended(work: LongWork) -> bytes:
    summary = text(work.summary())
    work.close()
    return summary


def train(**changes: Any) -> dict[str, Any]:
    return {"network": SMALL, "steps": 6, "optimizer": "sgd", "seed": 3, **DATA, **changes}


VALIDATED = {"validation": {"inputs": SAMPLES[:2], "targets": [[1.0], [0.0]]}}
DIVERGING = {"network": LINE, "parameters": {"line": {"kernel": [[0.5], [0.5]]}}}
TRAININGS: dict[str, dict[str, Any]] = {
    **{
        name: {"optimizer": {"type": name}, "trace": {"include": ["parameters", "state"]}, "steps": 4}
        for name in optimizers.names
        if name == optimizers[name].name
    },
    "everything": {
        "network": RICH, "training": True, "optimizer": {"type": "adam", "amsgrad": True}, "batch_size": 2,
        "schedule": {"type": "plateau", "patience": 0, "factor": 0.5}, "stop": {"patience": 2, "min_delta": 0.05},
        "clip": {"norm": 0.5}, "steps": 14, "trace": {"every": 4, "include": EVERYTHING, "checkpoint_every": 5},
        **VALIDATED,
    },
    "validation that no record holds yet": {"steps": 9, "batch_size": 2, "trace": {"every": 5}, **VALIDATED},
    "epochs of listed batches": {"steps": ..., "epochs": 3, "batches": [[0, 1], [2, 3, 4]], "optimizer": "nadam"},
    "float32": {"dtype": "float32", "optimizer": "rmsprop", "clip": {"value": 0.1}, "trace": {"include": EVERYTHING}},
    "frozen": {"frozen": ["hidden"], "optimizer": {"type": "sgd", "momentum": 0.9, "nesterov": True}},
    "a cycle of momentum": {"schedule": {"type": "one_cycle", "total_steps": 6}, "optimizer": "adamw"},
    "a long history": {"optimizer": {"type": "l_bfgs", "history_size": 2, "iterations": 2}, "steps": 8},
    "stopped": {"stop": {"loss_below": 10.0}},
    "diverges at once": {**DIVERGING, "inputs": [[1e200, 1.0]], "targets": [[0.0]]},
    "diverges late": {**DIVERGING, "optimizer": {"type": "sgd", "learning_rate": 3.0}, "steps": 60},
    "diverges at its end": {**DIVERGING, "optimizer": {"type": "sgd", "learning_rate": 1e160}, "steps": 1},
    "grows": {**DIVERGING, "optimizer": {"type": "sgd", "learning_rate": 2.0}, "steps": 5},
    "misread": {"network": network({"type": "dense", "units": 1, "activation": "tanh"}), "targets": [[1.0]] * 5,
                "loss": "binary_crossentropy"},
}  # fmt: skip


@every("name", TRAININGS)
def test_an_interrupted_training_has_the_bits_of_a_whole_one(runtime: Runtime, name: str) -> None:
    request = {key: value for key, value in train(**TRAININGS[name]).items() if value is not ...}
    run = Run(runtime, "train", request)
    assert run.interrupted() == run.whole()


def compare(**changes: Any) -> dict[str, Any]:
    return {"network": SMALL, "steps": 4, "optimizers": ["sgd", "adam"], "seed": 3, **DATA, **changes}


COMPARISONS: dict[str, dict[str, Any]] = {
    "rates and seeds": {"learning_rates": [0.1, 0.01], "seeds": [1, 2], "trace": {"every": 3}},
    "one that diverges": {
        **DIVERGING,
        "optimizers": ["sgd", {"type": "sgd", "learning_rate": 1e200}, "l_bfgs"],
        "batch_size": 2,
        **VALIDATED,
    },
}


@every("name", COMPARISONS)
def test_an_interrupted_comparison_has_the_bits_of_a_whole_one(runtime: Runtime, name: str) -> None:
    run = Run(runtime, "compare", compare(**COMPARISONS[name]))
    records, summary = run.whole()
    assert run.interrupted() == (records, summary)
    assert [orjson.loads(record) for record in records] == [
        {"step": place, **row} for place, row in enumerate(orjson.loads(summary)["table"], 1)
    ]


def descend(**changes: Any) -> dict[str, Any]:
    starts = {"grid": {"box": [[-4, 4], [-4, 4]], "resolution": [3]}}
    return {"expression": HIMMELBLAU, "starts": starts, "optimizers": ["sgd", "adam"], "steps": 9, **changes}


DESCENTS: dict[str, dict[str, Any]] = {
    "noise": {"noise": {"scale": 0.1, "seed": 4}, "clip": {"norm": 1.0}, "trace": {"every": 2}},
    "schedule": {
        "optimizers": [{"type": "sgd", "momentum": 0.9, "nesterov": True}, "nadam", "adagrad"],
        "schedule": {"type": "one_cycle", "total_steps": 8},
        "trace": {"include": ["gradients"]},
    },
    "searches": {"optimizers": ["l_bfgs", "sgd", "exact_line_search", "newton"], "steps": 5},
    "early ends": {"stop": {"gradient_norm_below": 20.0, "value_below": 5.0}, "optimizers": ["sgd"], "steps": 30},
    "divergence and kinks": {
        "expression": "abs(x) + 1e3*y^2", "starts": [[0.0, 0.0], [1.0, 1.0], [0.1, 1e-9]], "optimizers": ["sgd"],
        "steps": 300,
    },
    "sharp kinks": {"expression": "sqrt(abs(x))", "starts": [[0.0], [0.5]], "optimizers": ["sgd", "newton"]},
}  # fmt: skip


@every("name", DESCENTS)
def test_an_interrupted_descent_has_the_bits_of_a_whole_one(runtime: Runtime, name: str) -> None:
    run = Run(runtime, "descend", descend(**DESCENTS[name]))
    assert run.interrupted(3) == run.whole()


def sweep(vary: dict[str, Any], **changes: Any) -> dict[str, Any]:
    request = train(**{"optimizer": {"type": "sgd"}, "steps": 4} | changes)
    return {"request": {key: value for key, value in request.items() if value is not ...}, "vary": vary}


SWEEPS: dict[str, dict[str, Any]] = {
    "rates and seeds": sweep({"/optimizer/learning_rate": [0.1, 0.01, 1e200], "/seed": [1, 2]}, seed=...),
    "shapes": sweep({"/network/layers/0/units": [1, 3], "/batch_size": [2, 5]}, **VALIDATED),
    "some that fail": sweep({"/clip": [{"norm": 1.0}, {"value": 1.0}], "/optimizer": ["adam", "l_bfgs"]}),
    "lengths": sweep({"/epochs": [1, 3], "/optimizer/type": ["sgd", "nadam"]}, steps=..., batch_size=2),
}


@every("name", SWEEPS)
def test_an_interrupted_sweep_has_the_bits_of_a_whole_one(runtime: Runtime, name: str) -> None:
    run = Run(runtime, "sweep", SWEEPS[name])
    records, summary = run.whole()
    assert run.interrupted() == (records, summary)
    ends = [orjson.loads(record) for record in records]
    lists = SWEEPS[name]["vary"]
    assert [end["values"] for end in ends] == [
        dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())
    ]
    # Each record is the end of a training of its own, which a request alone gives as well.
    for end in ends:
        request = copy.deepcopy(SWEEPS[name]["request"])
        for pointer, value in end["values"].items():
            *parents, last = pointer[1:].split("/")
            part = request
            for key in parents:
                part = part[int(key)] if isinstance(part, list) else part[key]
            part[last] = value
        if end["status"] == "failed":
            with pytest.raises(InvalidRequest, match="leave it out"):
                Run(runtime, "train", request).work()
            continue
        work = Run(runtime, "train", request).work()
        losses = [orjson.loads(record)["loss"] for record in Run.records(work)]
        whole = work.summary()
        work.close()
        assert end["best_loss"] == min((loss for loss in losses if loss is not None), default=None)
        for key in ("status", "reason", "steps_done", "finite", "validation_loss"):
            assert end.get(key) == whole.get(key)
        assert end["loss"] == (whole["loss"] if math.isfinite(whole["loss"]) else None)
    told = orjson.loads(summary)
    scores = {end["step"]: end.get("validation_loss", end["loss"]) for end in ends}
    best = min((step for step in scores if scores[step] is not None), key=scores.__getitem__)
    assert (told["best"], told["best_values"]) == (best, ends[best - 1]["values"])
    assert (told["combinations"], told["done"]) == (len(ends), len(ends))
    assert told["failed"] == sum(end["status"] == "failed" for end in ends)
    assert sorted(told["table"], key=lambda end: end["step"]) == ends
