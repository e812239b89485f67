"""Tests of the runs in a database, for SQLite and PostgreSQL alike."""

import time

import pytest
from sqlalchemy import text

from service.store.runs import Kept, Progress, Runs, RunUsage
from service.store_errors import KeyReused, QuotaExceeded, StoreFull
from tests.store.running import at, claimed, keep, lines, new, rows, within


def test_a_run_is_claimed_kept_and_finished(kept: Runs) -> None:
    name, is_new = kept.add("alice", new(base64=True))
    assert is_new and len(name) == 32
    entry = kept.find("alice", name)
    assert entry is not None and (entry.status, entry.of, entry.attempt, entry.worker) == ("queued", 100, 0, None)
    assert entry.started is None and abs(entry.now - entry.created) < 60

    claim = claimed(kept)
    assert (claim.id, claim.owner, claim.kind, claim.attempt, claim.of) == (name, "alice", "train", 1, 100)
    assert (claim.spec, claim.state, claim.last_record, claim.cancel, claim.base64) == (
        new().spec,
        None,
        -1,
        False,
        True,
    )
    assert kept.claim("b", 60.0) is None
    assert keep(kept, claim, 0, 4) == Kept(alive=True, cancel=False, others_wait=False)
    assert keep(kept, claim, 5, 9, b"state at 9") == Kept(True, False, False)
    entry = kept.find("alice", name)
    assert entry is not None and (entry.status, entry.step, entry.state_step, entry.loss) == ("running", 9, 9, 0.1)
    assert entry.size == len(new().spec) + len(lines(0, 9)) + len(b"state at 9")
    assert kept.counts() == {"running": 1}

    assert kept.finish(claim, "completed", "all steps are done", lines(10, 10), 10, 10, at(10), b"end", b"result")
    entry = kept.find("alice", name)
    assert entry is not None and (entry.status, entry.reason) == ("completed", "all steps are done")
    assert entry.ended is not None and entry.started is not None and entry.ended >= entry.started
    assert entry.size == len(new().spec) + len(lines(0, 10)) + len(b"end") + len(b"result")
    assert kept.result("alice", name) == b"result"
    assert b"".join(chunk for _, _, chunk in kept.records("alice", name, -1)) == lines(0, 10)
    assert kept.usage("alice") == RunUsage(1, 0, entry.size)
    assert keep(kept, claim, 11, 11).alive is False
    assert kept.finish(claim, "failed", None, None, 0, 0, at(10), None, None) is False
    assert kept.remove("alice", name) is True
    assert rows(kept.database) == {}


def test_a_run_is_found_by_its_owner_alone(kept: Runs) -> None:
    name, _ = kept.add("alice", new())
    keep(kept, claimed(kept), 0, 3, b"state")
    for owner in ("bob", "", "ALICE"):
        assert kept.find(owner, name) is None
        assert kept.result(owner, name) is None
        assert kept.records(owner, name, -1) == []
        assert kept.cancel(owner, name) is None
        assert kept.resume(owner, name, 5) == (None, False)
        assert kept.remove(owner, name) is False
        assert kept.listed(owner, 10) == []
    assert kept.find("alice", "0" * 32) is None


def test_records_are_read_from_any_step_in_chunks(kept: Runs) -> None:
    name, _ = kept.add("", new())
    claim = claimed(kept)
    for first in range(0, 100, 10):
        keep(kept, claim, first, first + 9)
    everything = kept.records("", name, -1)
    assert [(first, last) for first, last, _ in everything] == [(first, first + 9) for first in range(0, 100, 10)]
    for after in (-1, 0, 8, 9, 10, 42, 89, 98):
        chunks = kept.records("", name, after)
        assert chunks == [each for each in everything if each[1] > after]
        assert kept.records("", name, after, most_bytes=1) == chunks[:1]
    assert kept.records("", name, 99) == []
    two = len(lines(10, 29))
    assert kept.records("", name, 9, two) == everything[1:3]


def test_a_lease_that_is_over_lets_another_runner_go_on_and_shuts_out_the_first(kept: Runs) -> None:
    name, _ = kept.add("", new())
    first = claimed(kept, "a", seconds=-1.0)
    assert keep(kept, first, 0, 4, b"state", lease=-1.0).alive  # nobody else has claimed it yet
    second = claimed(kept, "b")
    assert (second.attempt, second.step, second.state, second.last_record) == (2, 4, b"state", 4)
    assert keep(kept, first, 5, 9, b"wrong") == Kept(False, False, False)
    assert kept.beat(first, 60.0).alive is False
    kept.release(first)
    kept.fail(first, "wrong")
    assert kept.finish(first, "completed", None, None, 0, 0, at(9), None, b"wrong") is False
    entry = kept.find("", name)
    assert entry is not None and (entry.status, entry.worker, entry.step) == ("running", "b", 4)
    assert kept.beat(second, 60.0) == Kept(True, False, False)
    assert keep(kept, second, 5, 9, b"next").alive


def test_a_runner_that_claims_again_does_not_mix_its_attempts(kept: Runs) -> None:
    kept.add("", new())
    first = claimed(kept, "a", seconds=-1.0)
    second = claimed(kept, "a")
    assert not keep(kept, first, 0, 1).alive
    assert keep(kept, second, 0, 1).alive


def test_a_runner_takes_back_the_run_of_a_killed_process_with_its_name_at_once(kept: Runs) -> None:
    name, _ = kept.add("", new())
    killed = claimed(kept, "a")
    keep(kept, killed, 0, 1, b"state")
    assert kept.claim("b", 60.0) is None
    again = claimed(kept, "a")
    assert (again.id, again.attempt, again.state) == (name, 2, b"state")
    assert not keep(kept, killed, 2, 3).alive
    assert kept.runners() == 1
    for _ in range(4):
        claimed(kept, "a")
    assert kept.claim("a", 60.0) is None  # it is no use
    assert kept.counts() == {"failed": 1} and kept.runners() == 0


def test_a_claim_tells_the_numerics_of_the_runner_before(kept: Runs) -> None:
    name, _ = kept.add("", new())
    for before, fingerprint in (("", "x"), ("x", "x"), ("x", "y"), ("y", "x")):
        claim = kept.claim("a", 60.0, fingerprint)
        assert claim is not None and claim.fingerprint == before
        entry = kept.find("", name)
        assert entry is not None and entry.fingerprint == fingerprint


def add_later(kept: Runs, owner: str) -> str:
    """Add a run whose time differs from those before."""
    time.sleep(0.002)  # SQLite's clock has a resolution of a millisecond
    return kept.add(owner, new())[0]


def test_owners_with_few_running_runs_come_first_and_then_those_that_wait_longest(kept: Runs) -> None:
    def add(owner: str) -> str:
        return add_later(kept, owner)

    alice, bob = [add("alice") for _ in range(3)], [add("bob") for _ in range(2)]
    order = [claimed(kept, f"runner {number}") for number in range(3)]
    assert [claim.id for claim in order] == [alice[0], bob[0], alice[1]]
    assert keep(kept, order[0], 0, 0).others_wait
    kept.release(order[0])
    assert [claimed(kept, f"next {number}").id for number in range(3)] == [bob[1], alice[2], alice[0]]
    assert kept.claim("a", 60.0) is None
    released = kept.find("alice", alice[0])
    assert released is not None and released.attempt == 2


@pytest.mark.parametrize("runs_end", [False, True])
def test_an_owner_with_many_runs_has_one_turn_before_that_of_another(kept: Runs, runs_end: bool) -> None:
    alice = [add_later(kept, "alice") for _ in range(4)]
    turns: list[str] = []

    def turn(runs_end: bool) -> None:
        time.sleep(0.002)
        claim = claimed(kept)
        turns.append(claim.id)
        if runs_end:
            kept.finish(claim, "completed", None, None, 0, 0, at(1), None, None)
        else:
            kept.release(claim)

    turn(runs_end)
    bob = add_later(kept, "bob")
    for _ in range(3):
        turn(runs_end=False)
    carol = add_later(kept, "carol")
    for _ in range(3):
        turn(runs_end=False)
    assert turns == [alice[0], bob, alice[1], bob, carol, alice[2], bob]


def test_the_same_idempotency_key_gives_the_same_run(kept: Runs) -> None:
    name, is_new = kept.add("alice", new(idempotency_key="k"))
    assert is_new
    assert within(kept, runs=1).add("alice", new(idempotency_key="k")) == (name, False)
    for other in (new(1, idempotency_key="k"), new(idempotency_key="k")._replace(kind="descend")):
        with pytest.raises(KeyReused):
            kept.add("alice", other)
    assert kept.add("bob", new(1, idempotency_key="k"))[1]
    assert kept.add("alice", new(1, idempotency_key="l"))[1]
    assert kept.add("alice", new())[1] and kept.add("alice", new())[1]  # runs without a key are all new
    assert kept.remove("alice", name)
    assert kept.add("alice", new(1, idempotency_key="k"))[1]


def test_a_run_that_waits_is_cancelled_at_once_and_one_that_computes_by_its_runner(kept: Runs) -> None:
    waiting, _ = kept.add("", new(0))
    entry = kept.cancel("", waiting)
    assert entry is not None and entry.status == "cancelled" and entry.ended is not None
    assert kept.claim("a", 60.0) is None

    running, _ = kept.add("", new(1))
    claim = claimed(kept)
    entry = kept.cancel("", running)
    assert entry is not None and entry.status == "running" and entry.cancel
    assert kept.beat(claim, 60.0) == Kept(alive=True, cancel=True, others_wait=False)
    assert keep(kept, claim, 0, 3).cancel
    assert kept.finish(claim, "cancelled", "cancelled by its owner", None, 0, 0, at(3), b"state", b"result")
    before, after = kept.find("", running), kept.cancel("", running)
    assert before is not None and after == before._replace(now=after.now)

    released, _ = kept.add("", new(2))
    claim = claimed(kept)
    kept.cancel("", released)
    kept.release(claim)
    entry = kept.find("", released)
    assert entry is not None and entry.status == "cancelled" and not entry.cancel

    lost, _ = kept.add("", new(3))
    claim = claimed(kept, seconds=-1.0)
    entry = kept.cancel("", lost)  # nobody computes it, so nobody else could end it
    assert entry is not None and entry.status == "cancelled"
    assert not keep(kept, claim, 0, 1).alive


@pytest.mark.parametrize("status", ["completed", "stopped", "cancelled", "failed"])
def test_a_run_that_ended_is_resumed_from_its_state(kept: Runs, status: str) -> None:
    name, _ = kept.add("", new())
    claim = claimed(kept)
    kept.finish(claim, status, "why", lines(0, 99), 0, 99, at(99), b"state", b"result")
    entry, resumed = kept.resume("", name, 20)
    assert entry is not None and resumed
    assert (entry.status, entry.reason, entry.ended, entry.of, entry.extra_steps) == ("queued", None, None, 120, 20)
    assert kept.result("", name) is None
    claim = claimed(kept)
    assert (claim.state, claim.last_record, claim.of, claim.extra_steps) == (b"state", 99, 120, 20)
    assert claim.size == len(new().spec) + len(lines(0, 99)) + len(b"state")
    unchanged, resumed = kept.resume("", name, 5)
    assert unchanged is not None and unchanged.of == 120 and not resumed
    assert kept.finish(claim, status, None, lines(100, 119), 100, 119, at(119), b"end", b"result 2")
    assert kept.result("", name) == b"result 2"


def test_a_run_that_diverged_or_waits_is_not_resumed(kept: Runs) -> None:
    name, _ = kept.add("", new())
    waiting, resumed = kept.resume("", name, 5)
    assert waiting is not None and waiting.of == 100 and not resumed
    kept.finish(claimed(kept), "diverged", "infinite loss", None, 0, 0, Progress(3, float("nan"), 0.1, 1.0), b"s", b"r")
    entry, resumed = kept.resume("", name, 5)
    assert entry is not None and (entry.status, entry.of, entry.loss) == ("diverged", 100, None) and not resumed
    assert kept.result("", name) == b"r"


def test_a_run_whose_attempts_come_to_nothing_fails(kept: Runs) -> None:
    name, _ = kept.add("", new())
    for attempt in range(1, 4):
        assert claimed(kept, seconds=-1.0).attempt == attempt
    keep(kept, claimed(kept, seconds=-1.0), 0, 1, b"state", lease=-1.0)  # the state moves on
    for _ in range(5):
        claim = claimed(kept, seconds=-1.0)
        if claim.last_record == 1:
            keep(kept, claim, 2, 3, lease=-1.0)  # records alone do not help an attempt that ends before its state
    assert kept.claim("a", 60.0) is None
    entry = kept.find("", name)
    assert entry is not None and entry.status == "failed" and "5 attempts" in (entry.reason or "")
    kept.resume("", name, None)
    assert claimed(kept).attempt == 10


def test_a_run_that_is_handed_back_again_and_again_does_not_fail(kept: Runs) -> None:
    kept.add("", new())
    for attempt in range(1, 9):
        claim = claimed(kept)
        assert claim.attempt == attempt
        kept.release(claim)


def test_a_run_is_removed_with_all_that_is_its_own_while_it_computes(kept: Runs) -> None:
    name, _ = kept.add("", new())
    claim = claimed(kept)
    kept.add("", new())  # has the same request
    keep(kept, claim, 0, 9, b"state")
    assert kept.remove("", name) is True
    assert kept.remove("", name) is False
    assert rows(kept.database) == {"blobs": 1, "runs": 1}
    assert keep(kept, claim, 10, 19).alive is False
    assert claimed(kept).spec == new().spec


def test_records_are_never_stored_twice(kept: Runs) -> None:
    name, _ = kept.add("", new())
    claim = claimed(kept)
    keep(kept, claim, 0, 4)
    keep(kept, claim, 5, 9)
    for first, last, content in ((0, 4, lines(0, 4)), (0, 12, lines(0, 12)), (9, 12, lines(9, 12)), (5, 9, b"{}\n")):
        with pytest.raises(ValueError, match="after record 9"):
            kept.keep(claim, content, first, last, at(last), b"state", 60.0)
    entry = kept.find("", name)
    assert entry is not None and (entry.step, entry.state_step) == (9, None)
    assert keep(kept, claim, 10, 12).alive


def test_a_run_that_repeats_steps_after_a_kill_shows_the_step_that_it_had_reached(kept: Runs) -> None:
    name, _ = kept.add("", new())
    first = claimed(kept, "a", seconds=-1.0)
    keep(kept, first, 0, 20, b"state", lease=-1.0)
    keep(kept, first, 21, 40, lease=-1.0)
    before = kept.find("", name)
    second = claimed(kept, "b")
    assert kept.keep(second, None, 0, 0, at(30, seconds=0.7), b"state at 30", 60.0).alive
    entry = kept.find("", name)
    assert before is not None and entry is not None
    assert (entry.step, entry.loss, entry.learning_rate) == (40, before.loss, before.learning_rate)
    assert (entry.state_step, entry.seconds) == (30, 0.7)
    assert keep(kept, second, 41, 41).alive
    entry = kept.find("", name)
    assert entry is not None and (entry.step, entry.loss) == (41, at(41).loss)


@pytest.mark.parametrize("last", [9, 12], ids=["the same", "with later ones"])
def test_records_may_be_sent_again_after_a_commit_whose_answer_was_lost(kept: Runs, last: int) -> None:
    name, _ = kept.add("", new())
    claim = claimed(kept)
    keep(kept, claim, 0, 4)
    keep(kept, claim, 5, 9)
    assert keep(kept, claim, 5, last, b"state").alive
    chunks = kept.records("", name, -1)
    assert b"".join(chunk for _, _, chunk in chunks) == lines(0, last)
    assert [(first, last) for first, last, _ in chunks] == [(0, 4), (5, 9), (10, 12)][: len(chunks)]
    entry = kept.find("", name)
    assert entry is not None and (entry.step, entry.state_step) == (last, last)
    assert entry.size == len(new().spec) + len(lines(0, last)) + len(b"state")


def test_quotas_are_told_by_name(kept: Runs) -> None:
    size = len(new().spec)
    two = within(kept, unfinished=2, runs=3)
    for number in range(2):
        two.add("alice", new(number))
    with pytest.raises(QuotaExceeded) as refusal:
        two.add("alice", new(2))
    assert (refusal.value.name, refusal.value.asked, refusal.value.allowed) == ("unfinished_runs", 3, 2)
    two.add("bob", new(2))
    kept.fail(claimed(kept), "over")
    two.add("alice", new(2))
    kept.fail(claimed(kept), "over")
    kept.fail(claimed(kept), "over")
    with pytest.raises(QuotaExceeded, match=r"^runs$"):
        two.add("alice", new(3))
    with pytest.raises(QuotaExceeded, match="stored_bytes_per_key"):
        within(kept, owner_bytes=4 * size - 1).add("alice", new(3))
    with pytest.raises(StoreFull, match="reached its limit"):
        within(kept, total_bytes=4 * size - 1).add("carol", new(9))
    strict = within(kept, unfinished=0)
    ended = kept.listed("alice", 1, status="failed")[0]
    with pytest.raises(QuotaExceeded, match="unfinished_runs"):
        strict.resume("alice", ended.id, None)
    found = kept.find("alice", ended.id)
    assert found is not None and found.status == "failed"


def test_pages_of_a_listing_hold_every_run_once_the_newest_first(kept: Runs) -> None:
    names = [kept.add("alice", new(number))[0] for number in range(7)]
    kept.add("bob", new())
    with kept.database.writing() as connection:  # some have the same time
        connection.execute(text("UPDATE runs SET created = 1.0 WHERE id IN (:a, :b)"), {"a": names[0], "b": names[1]})
    found: list[tuple[float, str]] = []
    while page := kept.listed("alice", 2, found[-1] if found else None):
        found += [(each.created, each.id) for each in page]
    assert found == sorted(found, reverse=True) and sorted(each for _, each in found) == sorted(names)
    kept.cancel("alice", names[3])
    assert [each.id for each in kept.listed("alice", 9, status="cancelled")] == [names[3]]
    assert len(kept.listed("alice", 9, status="queued")) == 6
    assert kept.listed("alice", 9, found[-1], "queued") == []
    assert kept.counts() == {"queued": 7, "cancelled": 1}


def test_runs_that_ended_long_ago_are_forgotten(kept: Runs) -> None:
    names = [kept.add("", new(number))[0] for number in range(9)]
    for name in names[:7]:
        kept.cancel("", name)
    with kept.database.writing() as connection:
        connection.execute(
            text("UPDATE runs SET ended = 100.0 WHERE ended IS NOT NULL AND id <> :id"), {"id": names[0]}
        )
    assert kept.forget(100.0) == 0
    assert kept.forget(101.0) == 6
    assert sorted(each.id for each in kept.listed("", 50)) == sorted([names[0], *names[7:]])
