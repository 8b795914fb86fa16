"""The state in an object store: a real S3 server, and everything that can go wrong."""

import itertools
import os
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.errors import DeployerError, LockedError, StalePlanError, StateError
from deployer.planning.state import State
from deployer.state import StateStore
from deployer.state.files import from_json, to_json
from deployer.state.objects import MovedError, ObjectStateStore, stacks_in
from tests.state.s3 import Proxy, bucket_at

pytestmark = pytest.mark.trust
ROUNDS = 400 if os.environ.get("DEPLOYER_LONG") else 40
RACES = 200 if os.environ.get("DEPLOYER_LONG") else 10
FAULTS = ("500", "503", "409", "412", "500 after", "lost", "refused", "stale")
_FOLDERS = itertools.count()

S3 = tuple[Proxy, str]


@pytest.fixture
def remote(s3: S3, tmp_path: Path) -> ObjectStateStore:
    return fresh(s3, tmp_path)


def fresh(s3: S3, refuge: Path, **changes: int) -> ObjectStateStore:
    """A store in a folder of its own."""
    bucket = bucket_at(s3[1], f"f{os.getpid()}-{next(_FOLDERS)}")
    return ObjectStateStore(bucket, "demo", refuges=(refuge,), **changes)  # type: ignore[arg-type]


def states(first: State, count: int) -> list[State]:
    found = [first]
    while len(found) < count:
        found.append(replace(found[-1], serial=found[-1].serial + 1))
    return found


def test_an_object_store_is_a_state_store(
    remote: ObjectStateStore, first: State
) -> None:
    kept: StateStore = remote
    assert kept.read() is None
    kept.write(first, expect=0)
    assert kept.read() == first
    assert stacks_in(remote.bucket) == ("demo",)


def test_the_server_checks_what_a_write_expects(remote: ObjectStateStore) -> None:
    """Else none of these tests would show anything."""
    first = remote.bucket.put("x", b"1", None)
    with pytest.raises(MovedError):
        remote.bucket.put("x", b"2", None)
    second = remote.bucket.put("x", b"3", first)
    with pytest.raises(MovedError):
        remote.bucket.put("x", b"4", first)
    assert remote.bucket.get("x") == second


def test_versions_are_kept_and_the_oldest_go(
    s3: S3, tmp_path: Path, first: State
) -> None:
    store = fresh(s3, tmp_path, keep=3)
    every = states(first, 8)
    for state in every:
        store.write(state, expect=state.serial - 1)
    assert store.serials() == (5, 6, 7)
    assert store.kept(6) == every[5]


def test_of_two_writers_that_read_the_same_the_second_is_refused(
    remote: ObjectStateStore, first: State, second: State
) -> None:
    remote.write(first, expect=0)
    remote.write(second, expect=1)
    with pytest.raises(StalePlanError):
        remote.write(replace(second, released=7), expect=1)
    assert remote.read() == second


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", range(4))
def test_a_write_outlives_a_fault_wherever_it_comes(
    s3: S3, remote: ObjectStateStore, first: State, second: State, fault: str, at: int
) -> None:
    remote.write(first, expect=0)
    s3[0].faults.extend([*[""] * at, fault])
    remote.write(second, expect=1)
    s3[0].faults.clear()
    assert remote.read() == second
    assert remote.kept(1) == first


@pytest.mark.parametrize("fault", [*FAULTS, "truncated"])
def test_a_lock_outlives_a_fault(s3: S3, remote: ObjectStateStore, fault: str) -> None:
    for at in range(2):
        s3[0].faults.extend([*[""] * at, fault])
        with remote.lock(operation="apply"):
            s3[0].faults.clear()
            assert (holder := remote.holder()) is not None
            assert holder.pid == os.getpid()
            s3[0].faults.append(fault)
        s3[0].faults.clear()
        assert remote.holder() is None


@pytest.mark.parametrize("fault", ["500", "503", "refused", "truncated", "stale"])
def test_a_read_outlives_a_fault(
    s3: S3, remote: ObjectStateStore, first: State, fault: str
) -> None:
    remote.write(first, expect=0)
    s3[0].faults.append(fault)
    assert remote.read() == first


def test_a_store_that_stays_away_puts_the_state_aside(
    s3: S3, remote: ObjectStateStore, first: State, tmp_path: Path
) -> None:
    s3[0].faults.extend(["503"] * 100)
    with pytest.raises(StateError) as caught:
        remote.write(first, expect=0)
    place = tmp_path / "errored.demo.state.json"
    assert caught.value.message.endswith(f"it lies in `{place}`")
    assert caught.value.hint == (
        f"before anything else: `deployer state push STACK {place}`"
    )
    assert place.read_text() == to_json(first)
    assert len(s3[0].seen) == 10


def test_where_no_file_can_be_written_either_it_is_printed(
    s3: S3, remote: ObjectStateStore, first: State, capsys: pytest.CaptureFixture[str]
) -> None:
    s3[0].faults.extend(["503"] * 100)
    nowhere = replace(remote, refuges=(Path("/proc/nowhere"),))
    with pytest.raises(StateError, match="nor anywhere else"):
        nowhere.write(first, expect=0)
    assert from_json(capsys.readouterr().err, "stderr") == first


def test_a_lock_that_cannot_be_asked_for_is_refused(
    s3: S3, remote: ObjectStateStore
) -> None:
    s3[0].faults.extend(["refused"] * 100)
    with pytest.raises(StateError, match="cannot be reached"):
        enter(remote)


def enter(store: StateStore) -> None:
    with store.lock(operation="apply"):
        pass


def test_a_held_lock_says_by_whom_and_how_to_break_it(
    remote: ObjectStateStore,
) -> None:
    with remote.lock(operation="apply"):
        with pytest.raises(LockedError) as caught:
            enter(remote)
        assert f"(pid {os.getpid()})" in caught.value.message
        holder = remote.holder()
        assert holder is not None
        assert caught.value.hint.endswith(f"`deployer state unlock STACK {holder.id}`")
        with pytest.raises(LockedError, match="has not the ID `nobody`"):
            remote.unlock("nobody")
        assert remote.unlock(holder.id) == holder
        with remote.lock(operation="rollback"):
            pass
    assert remote.holder() is None


def test_whose_lock_was_broken_frees_nobody_elses(remote: ObjectStateStore) -> None:
    first = remote.lock(operation="apply")
    first.__enter__()
    holder = remote.holder()
    assert holder is not None
    remote.unlock(holder.id)
    with remote.lock(operation="rollback"):
        first.__exit__(None, None, None)
        assert (now := remote.holder()) is not None
        assert now.operation == "rollback"


def test_a_damaged_state_is_mended_from_its_versions(
    remote: ObjectStateStore, first: State, second: State
) -> None:
    remote.write(first, expect=0)
    remote.write(second, expect=1)
    with pytest.raises(StateError, match="is not damaged"):
        remote.mend(first)
    whole = remote.bucket.get("demo.state.json")
    remote.bucket.put("demo.state.json", b"{", whole)
    with pytest.raises(StateError, match="is damaged") as caught:
        remote.read()
    assert "`deployer state repair STACK`" in caught.value.hint
    remote.mend(remote.kept(1))
    assert remote.read() == first
    damaged = remote.bucket.get("demo.state.damaged.json")
    assert damaged is not None
    assert damaged.content == b"{"


def test_random_faults_lose_no_acknowledged_write(
    s3: S3, tmp_path: Path, first: State
) -> None:
    """F5: whatever goes wrong, what was acknowledged is there, and nothing else."""
    chance = random.Random(5)  # noqa: S311 - nothing secret
    acknowledged = 0
    for _ in range(ROUNDS):
        store = fresh(s3, tmp_path)
        before: State | None = None
        for state in states(first, 4):
            kinds = [*FAULTS, "truncated", *[""] * 9]
            s3[0].faults.extend(chance.choices(kinds, k=12))
            done = attempt(lambda: store.write(state, expect=state.serial - 1))  # noqa: B023
            s3[0].faults.clear()
            found = store.read()
            if done:
                acknowledged += 1
                assert found == state
            else:
                rescued = (tmp_path / "errored.demo.state.json").read_bytes()
                assert from_json(rescued, "rescued") == state
                assert found in (before, state)
                break
            before = state
    assert acknowledged > ROUNDS * 3


def attempt(write: Callable[[], None]) -> bool:
    try:
        write()
    except StateError:
        return False
    return True


def test_of_eight_that_want_the_lock_one_has_it(s3: S3, tmp_path: Path) -> None:
    """F4, remote: eight at once on one folder, round after round."""
    for _ in range(RACES):
        store = fresh(s3, tmp_path)
        start = threading.Barrier(8)
        over = threading.Barrier(8)
        won: list[str] = []

        def run(store: ObjectStateStore, start: threading.Barrier) -> None:
            start.wait(30)
            try:
                with store.lock(operation="apply"):
                    won.append("one")  # noqa: B023 - used before it changes
                    over.wait(30)  # noqa: B023 - as above
            except DeployerError:
                over.wait(30)  # noqa: B023 - as above

        threads = [threading.Thread(target=run, args=(store, start)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert won == ["one"]
        assert store.holder() is None
