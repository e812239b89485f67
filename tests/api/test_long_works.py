"""Runs that are interrupted, and go on in works that are made anew from their states, have the bits of whole ones."""

import copy
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from marshmallow import ValidationError

from schemas import sweeps
from service import wire
from service.api.context import Context, Runtime, runtime_of
from service.api.long_work import LongWork
from service.api.run_kinds import KINDS
from service.api.state_file import state_bytes, state_of
from service.api.sweeps import computed
from service.config import Settings
from service.engine.descent import search_runs
from service.engine.descent.optimizers import optimizers
from service.engine.errors import InvalidRequest, LimitExceeded
from service.observing.timer import Timer
from service.problems import from_faults, from_validation
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
    return runtime_of(Settings(pooled_bytes=0))  # so that no work finds the memory of the one before


class Run:
    """A run of one kind on the bytes of its request, as a runner computes it."""

    def __init__(self, runtime: Runtime, kind: str, request: dict[str, Any]) -> None:
        self.runtime, self.kind = runtime, KINDS[kind]
        self.spec = orjson.dumps(request)

    def context(self) -> Context:
        ticket = self.runtime.admission.ticket("", time.monotonic())
        memory, limits = self.runtime.memory.reservation(), self.runtime.settings.run_limits
        return Context(
            self.runtime, Timer(), memory, 0, ticket, {"PATH_INFO": ""}, "ndjson", True, own_limits=limits
        )  # fmt: skip

    def loaded(self) -> Any:
        value, _, _ = wire.parse(self.spec, self.kind.takes.fresh, lambda nbytes: None)
        return self.kind.takes.read(value)

    def work(self, state: bytes | None = None, more_steps: int = 0) -> LongWork:
        """Make the work from the bytes of its request, and of its state."""
        context = self.context()
        try:
            return self.kind.works(self.loaded(), context, None if state is None else state_of(state), more_steps)
        finally:
            context.memory.release()

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
            has_ended, standing = work.finished, work.standing()
            state = state_bytes(work.state())
            work.close()
            work = self.work(state)
            assert text([*work.standing()]) == text([*standing])
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
    "misread at the first step": {
        **DIVERGING, "parameters": {"line": {"kernel": [[-0.5], [-0.5]]}}, "loss": "poisson", "steps": 3
    },
    "not finite in the trace": {
        **DIVERGING, "inputs": [[1e160, 1.0]], "targets": [[0.0]], "loss": "mean_absolute_error", "optimizer": "adam",
        "trace": {"include": ["state"]}, "steps": 2,
    },
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
    "a warning about the first one alone": {
        "network": LINE, "loss": "poisson", "seeds": [2, 8], "optimizers": ["sgd"], "inputs": [[1.0, 1.0]],
        "targets": [[1.0]],
    },
}  # fmt: skip


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
    "searches that have arrived": {"expression": "x^2 + y^2", "optimizers": ["newton", "sgd"], "steps": 5},
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
    "a warning about the first one": sweep(
        {"/seed": [2, 8]}, network=LINE, loss="poisson", inputs=[[1.0, 1.0]], targets=[[1.0]]
    ),
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


def test_a_sweep_can_be_computed_by_parts_in_any_order(runtime: Runtime) -> None:
    run = Run(runtime, "sweep", SWEEPS["some that fail"])
    ends = [computed(run.loaded()["sweep"], number, run.context()) for number in (2, 0, 3, 1)]
    assert sorted(text(end.record) for end in ends) == sorted(run.whole()[0])


@every(
    ("vary", "pointer", "detail"),
    [
        ({}, "#/vary", "takes an object of 1 to 16 lists"),
        ({"/seed": 3}, "#/vary/~1seed", "takes a list of 1 to 1000 values, got 3"),
        ({"/seed": []}, "#/vary/~1seed", "takes a list of 1 to 1000 values"),
        ({"seed": [3]}, "#/vary/seed", "did you mean '/seed'?"),
        ({"clip.norm": [3]}, "#/vary/clip.norm", "did you mean '/clip/norm'?"),
        ({"/sed": [3]}, "#/vary/~1sed/0", "did you mean 'seed'?"),
        ({"/optimiser/beta_1": [0.3]}, "#/vary/~1optimiser~1beta_1", "has no \"optimiser\"; did you mean 'optimizer'?"),
        ({"/optimizer/learning_rat": [0.3]}, "#/vary/~1optimizer~1learning_rat/0", "did you mean 'learning_rate'?"),
        ({"/loss/type": ["x"]}, "#/vary/~1loss~1type", "which has no parts; write {\"type\": \"half_squared_error\"}"),
        ({"/steps/more": [3]}, "#/vary/~1steps~1more", "/steps is 4, which has no parts"),
        ({"/network/layers/2/units": [3]}, "#/vary/~1network~1layers~12~1units", "from 0 to 1, got \"2\""),
        ({"/network/layers/hidden/units": [3]}, "#/vary/~1network~1layers~1hidden~1units", "did you mean 0?"),
        ({"/inputs/0/1": [3]}, "#/vary/~1inputs~10~11", "/inputs is a list of numbers, which is varied as a whole"),
        ({"/seed": [1, "2", -1]}, "#/vary/~1seed/1", "takes an integer"),
        ({"/optimizer/learning_rate": [1, 2, "fast"]}, "#/vary/~1optimizer~1learning_rate/2", "takes a number"),
        ({"/optimizer": ["adam", "adan"]}, "#/vary/~1optimizer/1", "did you mean 'adam'?"),
        ({"/network/layers/0/units": [0]}, "#/vary/~1network~1layers~10~1units/0", "takes an integer"),
        ({"/network/layers/0/units": [2, 0.5]}, "#/vary/~1network~1layers~10~1units/1", "takes an integer"),
        ({"/network/layers/0": [{"type": "dense", "units": -1}]}, "#/vary/~1network~1layers~10/0/units", "takes an"),
        ({"/seed": [1], "/optimizer/learning_rate": [1], "/optimizer": ["sgd"]}, "#/vary/~1optimizer", "varies what"),
        ({"/seed": [*range(1000)], "/steps": [*range(1, 102)]}, "#/vary", "makes 101,000 combinations"),
        ({"/epochs": [1]}, "#/request/steps", "came with epochs"),
        ({"/targets": [[[1.0]]]}, "#/vary/~1targets/0", "5"),
        ({"/frozen": [["hidden", "out.kernel"], ["nothing"]]}, "#/vary/~1frozen/0/1", "out.kernel"),
    ],
)  # fmt: skip
def test_a_sweep_is_refused_where_a_value_cannot_be(runtime: Runtime, vary: Any, pointer: str, detail: str) -> None:
    run = Run(runtime, "sweep", sweep(vary))
    value = orjson.loads(run.spec)
    with pytest.raises((ValidationError, InvalidRequest)) as refused:
        run.work().close()
    error = refused.value
    problem = from_faults(error, value) if isinstance(error, InvalidRequest) else from_validation(error, value)
    assert problem.errors[0]["pointer"] == pointer, problem.errors
    assert detail in problem.errors[0]["detail"], problem.errors


EXTENDED: dict[str, dict[str, Any]] = {
    "steps": {"steps": 5, "optimizer": {"type": "adam"}, "schedule": {"type": "plateau", "patience": 0}, **VALIDATED},
    "epochs": {"steps": ..., "epochs": 2, "batch_size": 2, "network": RICH, "training": True, "optimizer": "rmsprop"},
}


@every("name", EXTENDED)
def test_a_training_that_has_ended_takes_more_steps(runtime: Runtime, name: str) -> None:
    request = {key: value for key, value in train(**EXTENDED[name]).items() if value is not ...}
    run, longer = Run(runtime, "train", request), 7
    work = run.work()
    records = [*run.records(work)]
    ended(work)
    state = state_bytes(work.state())
    work = run.work(state, longer)
    assert (work.standing().step, work.standing().of) == (len(records), len(records) + longer)
    records += run.records(work)
    # One that had as many steps from the start.
    assert (records, ended(work)) == run.whole(longer)
    asked = request | ({"steps": 12} if "steps" in request else {"steps": 13, "epochs": ...})
    asked = {key: value for key, value in asked.items() if value is not ...}
    assert run.whole(longer) == Run(runtime, "train", asked).whole()


def test_a_training_that_was_stopped_goes_on_if_it_has_more_steps_and_one_that_diverged_does_not(
    runtime: Runtime,
) -> None:
    batches = {"batches": [[0, 1], [2, 3]], "targets": [[0.0], [0.0], [900.0], [900.0], [0.0]]}
    stopped = {"stop": {"loss_below": 1e3}, **batches, "optimizer": {"type": "sgd", "learning_rate": 0.0}}
    for changes, status, more in ((stopped, "stopped", 2), (TRAININGS["diverges late"], "diverged", 0)):
        run = Run(runtime, "train", train(**changes))
        work = run.work()
        assert [*run.records(work)]
        ended(work)
        state = state_bytes(work.state())
        for steps, expected in ((0, 0), (9, more)):
            work = run.work(state, steps)
            assert len([*run.records(work)]) == expected
            assert work.summary()["status"] == status
            work.close()


LONG: dict[str, tuple[str, dict[str, Any]]] = {
    "train": ("train", train(**TRAININGS["everything"])),
    "validation": ("train", train(validation={"inputs": [[1.0, 1.0]], "targets": [[1e200]]}, steps=9)),
    "compare": ("compare", compare(**COMPARISONS["rates and seeds"])),
    "descend": ("descend", descend(**DESCENTS["noise"])),
    "searches": ("descend", descend(**DESCENTS["searches"])),
    "sweep": ("sweep", SWEEPS["shapes"]),
}


@every("name", LONG)
def test_a_run_that_was_cancelled_goes_on_as_if_it_had_not_been(runtime: Runtime, name: str) -> None:
    run = Run(runtime, *LONG[name])
    work = run.work()
    records = [*run.records(work, 5)]
    work.cancel("enough")
    assert work.finished
    summary = work.summary()
    assert summary.get("status", "cancelled") == "cancelled"
    work.close()
    work = run.work(state_bytes(work.state()))
    records += run.records(work)
    assert (records, ended(work)) == run.whole()


@every("name", LONG)
def test_a_work_says_how_far_it_has_come(runtime: Runtime, name: str) -> None:
    run = Run(runtime, *LONG[name])
    work = run.work()
    standings = [work.standing()]
    while not work.finished:
        work.advance()
        standings.append(work.standing())
    work.close()
    assert standings[0] == (0, standings[0].of, None, None)
    assert all(one.step <= other.step and one.of == other.of for one, other in itertools.pairwise(standings))
    assert len({standing.step for standing in standings}) > 4
    assert standings[-1].step == standings[-1].of or name == "train"  # which stops early
    if name == "train":
        assert standings[5].loss == orjson.loads([*run.records(run.work(), 5)][-1])["loss"]


def test_a_run_may_be_larger_than_a_request_but_for_what_stays_in_memory(runtime: Runtime) -> None:
    settings = Settings(max_steps=10, max_trace_elements=100)
    small = runtime_of(settings)
    request = train(steps=10**6, trace={"include": EVERYTHING})
    work = Run(small, "train", request).work()
    assert work.standing().of == 10**6
    work.close()
    with pytest.raises(LimitExceeded, match="trace_elements"):
        Run(small, "compare", compare(steps=1000)).work()
    Run(small, "compare", compare(steps=1000, trace={"every": 500})).work().close()
    Run(small, "descend", descend(steps=10**4, trace={"include": ["gradients"]})).work().close()
    with pytest.raises(LimitExceeded, match="steps") as refused:
        Run(small, "sweep", sweep({"/steps": [10**6], "/seed": [*range(1000)]})).work()
    assert refused.value.path == ("vary",)


def test_searches_are_interrupted_in_the_middle_of_a_step(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_runs, "SEARCH_SECONDS", 0.0)
    run = Run(runtime, "descend", descend(**DESCENTS["searches"], stop={"gradient_norm_below": 30.0}))
    assert run.interrupted() == run.whole()
    for steps in (20, 25):
        one, other = run.work(), run.work()
        assert [*run.records(one, steps)] == [*run.records(other, steps)]
        assert one.state()["searches"]["moved"]
        other = run.work(state_bytes(other.state()))
        one.cancel("enough")
        other.cancel("enough")
        assert ended(one) == ended(other)


def test_values_that_take_long_to_validate_fail_when_their_turn_comes(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "MOST_CHECKED", 10)
    run = Run(runtime, "sweep", sweep({"/network/layers/0/units": [1, 2, 3, 4, "many"]}))
    ends = [orjson.loads(record) for record in run.whole()[0]]
    assert [end["status"] for end in ends] == ["completed"] * 4 + ["failed"]
    assert "takes an integer" in ends[-1]["reason"]
