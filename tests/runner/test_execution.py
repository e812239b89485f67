"""One run: its records and its end, after crashes too, and what stops it."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from flask.testing import FlaskClient

from service.api.context import Context, Runtime, runtime_of
from service.api.long_work import Standing
from service.api.run_kinds import KINDS, RunKind
from service.config import Settings
from service.engine.errors import LimitExceeded
from service.problems import Problem
from service.runner import execution, lease, results
from service.runner.execution import Execution
from service.store.runs import Claim, Runs
from service.store_errors import StoreUnavailable
from tests.conftest import wait_for
from tests.runner.support import add, claim, compute, entry_of, lines_of, result_of, training, with_settings
from tests.support import every

COMPARE = {key: value for key, value in training(30).items() if key != "optimizer"} | {
    "optimizers": ["sgd", "adam"],
    "learning_rates": [0.01, 0.1],
}
DESCEND = {
    "expression": "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
    "starts": [[0, 0], [1, -1]],
    "optimizers": ["adam"],
    "steps": 40,
}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runners write to the database after every step, and a state with it."""
    for name in ("KEEP_SECONDS", "LONGEST_KEEP_SECONDS", "STATE_SECONDS", "SHARE", "LOOK_SECONDS"):
        monkeypatch.setattr(execution, name, 0.0)


# --- what is computed


def streamed(client: FlaskClient, path: str, request: dict[str, Any]) -> tuple[list[bytes], dict[str, Any]]:
    """Return the records and the summary with which an endpoint answers."""
    response = client.post(path, json=request, headers={"Accept": "application/x-ndjson"})
    assert response.status_code == 200, response.text
    *lines, last = [line for line in response.data.splitlines(keepends=True) if line != b"{}\n"]
    return lines, orjson.loads(last)


def plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    return orjson.loads(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


@every(
    ("kind", "path", "request_"), [("train", "/v1/train", training(50)), ("descend", "/v1/functions/descend", DESCEND)]
)
def test_a_run_has_the_records_and_the_result_of_the_endpoint(
    client: FlaskClient, tmp_path: Path, kind: str, path: str, request_: dict[str, Any]
) -> None:
    runtime = runtime_of(Settings(data=str(tmp_path / kind)))
    run = add(runtime, request_, kind)
    assert compute(runtime) == "completed"
    lines, summary = streamed(client, path, request_)
    assert lines_of(runtime, run) == lines
    result = result_of(runtime, run)
    assert plain({key: result[key] for key in summary}) == summary
    entry = entry_of(runtime, run)
    assert entry.status == "completed" and entry.step == entry.of and entry.worker is None


def test_a_comparison_ends_as_that_of_the_endpoint(client: FlaskClient, runtime: Runtime) -> None:
    run = add(runtime, COMPARE, "compare")
    assert compute(runtime) == "completed"
    answer = client.post("/v1/train/compare", json=COMPARE).get_json()
    result = plain(result_of(runtime, run))
    assert {key: result[key] for key in answer} == answer
    assert len(lines_of(runtime, run)) == 4


def test_records_are_typed_arrays_if_the_caller_wants_them(runtime: Runtime) -> None:
    request = training(3, trace={"include": ["gradients"]})
    wanted, plain_run = add(runtime, request, base64=True), add(runtime, request)
    for _ in range(2):
        compute(runtime)
    typed, listed = orjson.loads(lines_of(runtime, wanted)[1]), orjson.loads(lines_of(runtime, plain_run)[1])
    for layer, arrays in listed["gradients"].items():
        for name, array in arrays.items():
            assert typed["gradients"][layer][name]["shape"] == list(np.shape(array))


# --- crashes


@every(
    "kind_and_request",
    [("train", training(40)), ("compare", COMPARE | {"steps": 10}), ("descend", DESCEND | {"steps": 30})],
    ids=lambda case: case[0],
)
def test_after_crashes_anywhere_every_record_is_there_once_with_the_same_bits(
    often: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind_and_request: tuple[str, dict[str, Any]]
) -> None:
    kind, request = kind_and_request
    runtime = runtime_of(Settings(data=str(tmp_path / kind)))
    whole = add(runtime, request, kind)
    assert compute(runtime) == "completed"
    chance = random.Random(kind)
    for _ in range(2):
        run = add(runtime, request, kind)
        crashes = 0
        while entry_of(runtime, run).status != "completed":
            found = runtime.store.runs.claim("one", 15.0)
            if found is None:  # after five crashes without a new state
                assert entry_of(runtime, run).status == "failed"
                runtime.store.runs.resume("", run, None)
                continue
            _compute_and_crash(runtime, found, monkeypatch, chance)
            crashes += 1
            assert crashes < 200
        assert crashes > 2
        assert lines_of(runtime, run) == lines_of(runtime, whole)
        assert runtime.store.runs.result("", run) == runtime.store.runs.result("", whole)


class Crash(BaseException):
    """The sudden end of a process."""


def _compute_and_crash(runtime: Runtime, found: Claim, monkeypatch: pytest.MonkeyPatch, chance: random.Random) -> None:
    """Compute until a random write to the database, before or after which the process ends; few writes have a state."""
    left, before = chance.randrange(1, 9), chance.random() < 0.5
    keep = Runs.keep

    def crash_in(
        runs: Runs, claim: Any, lines: Any, first: int, last: int, progress: Any, state: Any, of: float
    ) -> Any:
        nonlocal left
        left -= 1
        if left <= 0 and before:
            raise Crash
        kept = keep(runs, claim, lines, first, last, progress, state if chance.random() < 0.3 else None, of)
        if left <= 0:
            raise Crash
        return kept

    with monkeypatch.context() as patch:
        patch.setattr(Runs, "keep", crash_in)
        with suppress(Crash):
            # The same name: a new process in the place of the one that ended. It need not wait for the lease.
            Execution(runtime, found, threading.Event()).compute()


# --- ends


class Fake:
    """A work of counted steps, each of which does what the test wants."""

    elsewhere = False

    def __init__(self, steps: int, do: Callable[[int], None], state: dict[str, Any] | None) -> None:
        self.steps, self.do = steps, do
        self.step = 0 if state is None else int(state["step"])
        self.reason = ""

    @property
    def finished(self) -> bool:
        return bool(self.reason) or self.step >= self.steps

    def advance(self) -> dict[str, Any]:
        self.do(self.step + 1)
        self.step += 1
        return {"step": self.step, "square": self.step**2}

    def cancel(self, reason: str) -> None:
        self.reason = reason

    def summary(self) -> dict[str, Any]:
        return {"status": "cancelled" if self.reason else "completed", "reason": self.reason, "done": self.step}

    def standing(self) -> Standing:
        return Standing(self.step, self.steps, None, None)

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def close(self) -> None:
        """Hold nothing."""


Do = Callable[[int, Context], None]
MakeFake = Callable[[int, Do], None]


@pytest.fixture
def make_fake(monkeypatch: pytest.MonkeyPatch) -> MakeFake:
    """Return a function that puts fake works in the place of trainings."""

    def make(steps: int, do: Do) -> None:
        def works(request: Any, context: Context, state: dict[str, Any] | None, more: int) -> Fake:
            return Fake(steps, lambda step: do(step, context), state)

        kind = RunKind(name="train", about="", takes=KINDS["train"].takes, works=works)  # type: ignore[arg-type]
        monkeypatch.setattr(execution, "KINDS", {"train": kind})

    return make


def test_records_and_states_of_long_steps_are_stored_before_the_next_step(
    make_fake: MakeFake, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    for name in ("KEEP_SECONDS", "LONGEST_KEEP_SECONDS", "STATE_SECONDS"):
        monkeypatch.setattr(execution, name, 0.02)
    monkeypatch.setattr(execution, "SHARE", 0.0)
    seen: list[tuple[int, int | None]] = []

    def do(step: int, context: Context) -> None:
        seen.append((len(lines_of(runtime, run)), entry_of(runtime, run).state_step))
        time.sleep(0.03)

    make_fake(4, do)
    run = add(runtime, training(4))
    assert compute(runtime) == "completed"
    assert seen == [(0, None), (1, 1), (2, 2), (3, 3)]


def raising(error: BaseException, at: int = 3) -> Do:
    def do(step: int, context: Context) -> None:
        if step == at:
            raise error

    return do


@every(
    ("error", "reason"),
    [
        (LimitExceeded("operations", 20, 10), "The request asks for 20 operations; the limit is 10."),
        (Problem("invalid", "This cannot be."), "This cannot be."),
        (MemoryError(), results.NO_MEMORY),
        (RuntimeError("secret"), results.INTERNAL),
        (ZeroDivisionError("secret"), results.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_run_that_fails_says_why_and_keeps_its_records(
    make_fake: MakeFake, runtime: Runtime, error: Exception, reason: str
) -> None:
    make_fake(5, raising(error))
    run = add(runtime, training(5))
    assert compute(runtime) == "failed"
    entry = entry_of(runtime, run)
    assert (entry.status, entry.reason, entry.step) == ("failed", reason, 2)
    assert len(lines_of(runtime, run)) == 2


def test_a_run_fails_where_there_is_no_room_for_its_last_records(make_fake: MakeFake, tmp_path: Path) -> None:
    runtime = runtime_of(Settings(data=str(tmp_path), max_run_bytes=1000))
    request = training(5)
    add(runtime, request)
    make_fake(200, raising(RuntimeError(), at=100))
    assert compute(with_settings(runtime, max_run_bytes=2**30)) == "failed"


def test_a_request_that_is_not_valid_here_fails_with_its_fault(runtime: Runtime) -> None:
    """The request was valid when it came; a machine with lower limits, or an earlier version, may think otherwise."""
    run = add(runtime, training(5, loss="mean_squard_error"))
    assert compute(runtime) == "failed"
    assert "#/loss" in (entry_of(runtime, run).reason or "")


def test_what_cannot_be_computed_now_goes_back_into_the_queue(make_fake: MakeFake, runtime: Runtime) -> None:
    make_fake(5, raising(Problem("busy", "The cluster is away.")))
    run = add(runtime, training(5))
    assert compute(runtime) == execution.POSTPONED
    assert entry_of(runtime, run).status == "queued"
    make_fake(5, lambda step, context: None)
    assert compute(runtime) == "completed"
    assert len(lines_of(runtime, run)) == 5


def test_the_owner_cancels_a_run_and_resumes_it(often: None, make_fake: MakeFake, runtime: Runtime) -> None:
    def do(step: int, context: Context) -> None:
        if step == 4:
            runtime.store.runs.cancel("", run)

    make_fake(10, do)
    run = add(runtime, training(10))
    assert compute(runtime) == "cancelled"
    entry = entry_of(runtime, run)
    assert (entry.status, entry.reason) == ("cancelled", execution.BY_OWNER)
    assert entry.step in (4, 5) and result_of(runtime, run)["done"] == entry.step
    make_fake(10, lambda step, context: None)
    runtime.store.runs.resume("", run, None)
    assert compute(runtime) == "completed"
    assert [orjson.loads(line)["square"] for line in lines_of(runtime, run)] == [step**2 for step in range(1, 11)]


def test_a_run_is_cancelled_after_it_has_caught_up_with_its_records(
    often: None, monkeypatch: pytest.MonkeyPatch, make_fake: MakeFake, runtime: Runtime
) -> None:
    """A crash left records up to step 6 and the state of step 2. No end may lie before what callers have seen."""
    keep = Runs.keep

    def crash(runs: Runs, claim: Any, lines: Any, first: int, last: int, progress: Any, state: Any, of: float) -> Any:
        kept = keep(runs, claim, lines, first, last, progress, state if progress.step <= 2 else None, of)
        if progress.step == 6:
            raise Crash
        return kept

    make_fake(10, lambda step, context: None)
    run = add(runtime, training(10))
    with monkeypatch.context() as patch, suppress(Crash):
        patch.setattr(Runs, "keep", crash)
        compute(runtime)
    entry = entry_of(runtime, run)
    assert (entry.step, entry.state_step, len(lines_of(runtime, run))) == (6, 2, 6)
    computed: list[int] = []

    def do(step: int, context: Context) -> None:
        if not computed:
            runtime.store.runs.cancel("", run)
        computed.append(step)

    make_fake(10, do)
    assert compute(runtime) == "cancelled"
    entry = entry_of(runtime, run)
    assert computed[0] == 3 and entry.step == len(lines_of(runtime, run)) == result_of(runtime, run)["done"]
    assert entry.step == entry.state_step == 6


def test_a_run_is_cancelled_at_the_limits_of_the_server(often: None, runtime: Runtime) -> None:
    short = with_settings(runtime, max_run_seconds=0.0)
    run = add(runtime, training(100_000))
    assert compute(short) == "cancelled"
    assert "0 seconds for one run" in (entry_of(runtime, run).reason or "")
    small = with_settings(runtime, max_run_bytes=20_000)
    run = add(runtime, training(2000))
    assert compute(small) == "cancelled"
    entry = entry_of(runtime, run)
    assert "20,000 bytes for one run" in (entry.reason or "") and 10_000 < entry.size < 30_000
    assert len(lines_of(runtime, run)) == entry.step == result_of(runtime, run)["steps_done"]


@pytest.mark.parametrize("most", [20_000, 30_000])
@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("train", training(3000)),
        ("train", training(90, trace={"include": ["parameters", "gradients"]})),
        ("sweep", {"request": training(2), "vary": {"/seed": list(range(1000))}}),
        (
            "descend",
            {
                "expression": "x^2+y^2",
                "starts": [[1, 2], [3, 4]],
                "optimizers": [{"type": "adam", "learning_rate": 1e-4}],
                "steps": 100_000,
            },
        ),
    ],
)
def test_a_run_that_reaches_its_room_has_left_enough_for_its_result(
    often: None, tmp_path: Path, kind: str, request_: dict[str, Any], most: int
) -> None:
    runtime = runtime_of(Settings(data=str(tmp_path), max_run_bytes=most))  # the store itself refuses more
    run = add(runtime, request_, kind)
    compute(runtime)
    entry = entry_of(runtime, run)
    assert entry.status == "cancelled", entry.reason
    assert f"{most:,} bytes for one run" in (entry.reason or "") and entry.size <= most
    assert entry.state_step is not None and result_of(runtime, run)["status"] == "cancelled"
    assert orjson.loads(lines_of(runtime, run)[-1])["step"] >= 1


def test_where_the_owner_has_no_more_room_a_run_ends_with_what_is_stored(often: None, tmp_path: Path) -> None:
    runtime = runtime_of(Settings(data=str(tmp_path), max_run_bytes=12_000))  # the store itself refuses more
    run = add(runtime, training(2000))
    assert compute(with_settings(runtime, max_run_bytes=2**30)) == "cancelled"
    entry = entry_of(runtime, run)
    assert "the limit of this server, 12,000 run bytes" in (entry.reason or "") and entry.size <= 12_000
    assert lines_of(runtime, run)


def test_a_process_that_stops_gives_its_run_back(often: None, make_fake: MakeFake, runtime: Runtime) -> None:
    stop = threading.Event()

    def do(step: int, context: Context) -> None:
        if step == 3:
            stop.set()

    make_fake(5, do)
    run = add(runtime, training(5))
    assert Execution(runtime, claim(runtime), stop).compute() == "released"
    entry = entry_of(runtime, run)
    assert (entry.status, entry.step, entry.state_step, entry.worker) == ("queued", 3, 3, None)
    assert compute(runtime, "two") == "completed"
    assert len(lines_of(runtime, run)) == 5


def test_a_long_step_is_given_up_when_the_process_stops(
    monkeypatch: pytest.MonkeyPatch, make_fake: MakeFake, runtime: Runtime
) -> None:
    monkeypatch.setattr(execution, "GRACE_SECONDS", 0.05)
    stop = threading.Event()

    def do(step: int, context: Context) -> None:
        stop.set()
        while True:
            context.ticket.look()
            time.sleep(0.005)

    make_fake(5, do)
    run = add(runtime, training(5))
    assert Execution(runtime, claim(runtime), stop).compute() == "released"
    assert (entry_of(runtime, run).status, entry_of(runtime, run).step) == ("queued", 0)


def test_a_long_step_is_given_up_when_the_owner_cancels(
    monkeypatch: pytest.MonkeyPatch, often: None, make_fake: MakeFake, runtime: Runtime
) -> None:
    monkeypatch.setattr(execution, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)

    def do(step: int, context: Context) -> None:
        if step == 3:
            runtime.store.runs.cancel("", run)
            while True:
                context.ticket.look()
                time.sleep(0.005)

    make_fake(5, do)
    run = add(runtime, training(5))
    assert compute(runtime) == "cancelled"
    assert result_of(runtime, run) == {"status": "cancelled", "reason": execution.BY_OWNER, "done": 2}
    assert len(lines_of(runtime, run)) == 2


def test_a_long_step_keeps_the_lease_and_shows_its_time(
    monkeypatch: pytest.MonkeyPatch, make_fake: MakeFake, runtime: Runtime
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "SECONDS", 1.5)
    seen: list[float] = []

    def do(step: int, context: Context) -> None:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            assert runtime.store.runs.claim("two", 1.0) is None
            seen.append(entry_of(runtime, run).seconds)
            time.sleep(0.1)

    make_fake(1, do)
    run = add(runtime, training(1))
    assert Execution(runtime, claim(runtime, seconds=1.5), threading.Event()).compute() == "completed"
    assert len(set(seen)) > 3 and seen == sorted(seen)


def test_a_runner_that_lost_its_lease_stops_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, make_fake: MakeFake, runtime: Runtime
) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    taken: list[str] = []

    def do(step: int, context: Context) -> None:
        if step == 3 and not taken:
            runtime.store.runs.remove("", run) if remove else taken.append(claim(runtime, "one").worker)
            while True:  # the beat learns it, and the next look says so
                context.ticket.look()
                time.sleep(0.005)

    make_fake(5, do)
    for remove in (False, True):
        run = add(runtime, training(5))
        assert compute(runtime) == "dropped"
        if remove:
            assert runtime.store.runs.find("", run) is None
        else:
            assert (entry_of(runtime, run).attempt, entry_of(runtime, run).step) == (2, 0)
            assert compute(runtime) == "completed"
            assert len(lines_of(runtime, run)) == 5
            taken.clear()


def test_a_database_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, often: None, make_fake: MakeFake, runtime: Runtime
) -> None:
    monkeypatch.setattr(execution, "RETRY_SECONDS", 0.02)
    computed: list[int] = []
    make_fake(8, lambda step, context: computed.append(step))
    away = 0
    for name in ("keep", "finish"):
        original = getattr(Runs, name)

        def sometimes(runs: Runs, *arguments: Any, original: Any = original) -> Any:
            nonlocal away
            away += 1
            if away % 4:
                raise StoreUnavailable("The database of this server cannot be reached now.")
            return original(runs, *arguments)

        monkeypatch.setattr(Runs, name, sometimes)
    run = add(runtime, training(8))
    assert compute(runtime) == "completed"
    assert computed == list(range(1, 9))  # nothing is computed twice, and nothing is lost
    assert len(lines_of(runtime, run)) == 8 and away > 20


def test_a_process_that_ends_while_the_database_is_away_leaves_the_run_to_others(
    monkeypatch: pytest.MonkeyPatch, often: None, make_fake: MakeFake, runtime: Runtime
) -> None:
    make_fake(8, lambda step, context: None)
    stop = threading.Event()

    def away(*arguments: Any) -> Any:
        stop.set()
        raise StoreUnavailable("The database of this server cannot be reached now.")

    run = add(runtime, training(8))
    with monkeypatch.context() as patch:
        patch.setattr(Runs, "keep", away)
        assert Execution(runtime, claim(runtime), stop).compute() == "dropped"
    assert entry_of(runtime, run).status == "running"
    assert compute(runtime) == "completed"
    assert len(lines_of(runtime, run)) == 8


def test_a_run_gives_its_place_to_one_that_waits(
    monkeypatch: pytest.MonkeyPatch, often: None, make_fake: MakeFake, runtime: Runtime
) -> None:
    monkeypatch.setattr(execution, "SLICE_SECONDS", 0.0)
    make_fake(6, lambda step, context: None)
    first, second = add(runtime, training(6)), add(runtime, training(6))
    assert compute(runtime) == "released"
    entries = [entry_of(runtime, run) for run in (first, second)]  # in the same millisecond, any of them is the first
    assert [entry.status for entry in entries] == ["queued", "queued"]
    assert 0 == min(entry.step for entry in entries) < max(entry.step for entry in entries) < 6
    assert compute(runtime) == "released"
    assert all(entry_of(runtime, run).step > 0 for run in (first, second))
    while entry_of(runtime, first).status != "completed" or entry_of(runtime, second).status != "completed":
        compute(runtime)
    assert len(lines_of(runtime, first)) == len(lines_of(runtime, second)) == 6


def test_a_run_that_takes_long_to_begin_makes_steps_although_others_wait(
    monkeypatch: pytest.MonkeyPatch, often: None, make_fake: MakeFake, runtime: Runtime
) -> None:
    make_fake(6, lambda step, context: None)
    first, second = add(runtime, training(6)), add(runtime, training(6))
    began = Execution._begin

    def begin_slowly(self: Execution, memory: Any) -> Any:
        work = began(self, memory)
        self.began -= 100.0  # as if it had compiled for so long
        self.lease.others_wait = True
        return work

    monkeypatch.setattr(Execution, "_begin", begin_slowly)
    assert [compute(runtime), compute(runtime)] == ["completed", "completed"]
    assert len(lines_of(runtime, first)) == len(lines_of(runtime, second)) == 6


def test_the_record_of_a_long_step_is_stored_before_the_next_step(
    monkeypatch: pytest.MonkeyPatch, make_fake: MakeFake, runtime: Runtime
) -> None:
    for name in ("KEEP_SECONDS", "LONGEST_KEEP_SECONDS"):
        monkeypatch.setattr(execution, name, 0.01)
    run = add(runtime, training(3))
    stored: list[int] = []

    def do(step: int, context: Context) -> None:
        stored.append(len(lines_of(runtime, run)))
        time.sleep(0.05)  # longer than the time between two writes

    make_fake(3, do)
    assert compute(runtime) == "completed"
    assert stored == [0, 1, 2]


def test_a_run_that_two_kinds_of_processors_computed_says_so(
    monkeypatch: pytest.MonkeyPatch, often: None, make_fake: MakeFake, runtime: Runtime
) -> None:
    def compute_as(kind: str, until: int) -> dict[str, Any] | None:
        stop = threading.Event()
        make_fake(6, lambda step, context: stop.set() if step == until else None)
        monkeypatch.setattr(execution, "fingerprint", lambda: kind)
        found = runtime.store.runs.claim("one", 15.0, kind)
        assert found is not None
        ended = Execution(runtime, found, stop).compute() == "completed"
        return result_of(runtime, run) if ended else None

    run = add(runtime, training(6))
    assert compute_as("a", 2) is None
    assert "warnings" not in (compute_as("a", 7) or {})
    run = add(runtime, training(6))
    for kind, until in (("a", 2), ("b", 4)):
        assert compute_as(kind, until) is None
    (warning,) = (compute_as("a", 7) or {})["warnings"]
    assert warning["code"] == "mixed_processors"


def test_the_store_is_asked_anew_after_its_file_was_removed(
    monkeypatch: pytest.MonkeyPatch, often: None, make_fake: MakeFake, runtime: Runtime, tmp_path: Path
) -> None:
    def do(step: int, context: Context) -> None:
        if step == 3:
            for file in tmp_path.glob("nabla.db*"):
                file.unlink()

    make_fake(8, do)
    add(runtime, training(8))
    assert compute(runtime) == "dropped"
    assert runtime.store.runs.claim("one", 1.0) is None
    wait_for(lambda: (tmp_path / "nabla.db").exists())
