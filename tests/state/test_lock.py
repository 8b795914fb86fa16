import errno
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployer.errors import LockedError, StateError
from deployer.state import lock
from deployer.state.files import FileStateStore
from deployer.system.files import Grip

Program = Callable[..., subprocess.Popen[str]]

pytestmark = pytest.mark.trust
ROUNDS = 200 if os.environ.get("DEPLOYER_LONG") else 50
PROCESSES = 8
NOON = datetime(2026, 11, 22, 12, 30, 5, tzinfo=UTC)


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, notes: list[str]) -> FileStateStore:
    return FileStateStore(
        tmp_path / "state", "demo", now=lambda: NOON, notify=notes.append
    )


@contextmanager
def held_elsewhere(
    program: Program, store: FileStateStore
) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the lock until the block ends."""
    with program("lock_holder.py", store.folder, store.stack) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def leave(store: FileStateStore, **fields: object) -> None:
    """A lock file with no living holder on this machine."""
    store.folder.mkdir(exist_ok=True)
    content = {
        "version": 1,
        "id": "0badcafe",
        "host": "elsewhere",
        "pid": 7,
        "user": "alice",
        "operation": "apply",
        "since": "2026-11-22T12:30:05+00:00",
        **fields,
    }
    (store.folder / "demo.lock").write_text(json.dumps(content))


def refused(store: FileStateStore) -> LockedError:
    """What somebody who wants the lock is told."""
    with pytest.raises(LockedError) as caught, store.lock(operation="apply"):
        pass
    return caught.value


def test_of_all_that_race_one_wins_also_for_the_lock_of_the_dead(
    program: Program, tmp_path: Path
) -> None:
    process = program("lock_race.py", tmp_path, ROUNDS, PROCESSES)
    said, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    assert json.loads(said) == [1] * ROUNDS
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over_with_a_note(
    program: Program, store: FileStateStore, notes: list[str]
) -> None:
    with held_elsewhere(program, store) as holder:
        pass
    with store.lock(operation="apply"):
        found = store.holder()
        assert found is not None
        assert found.pid == os.getpid()
    assert len(notes) == 1
    assert notes[0].startswith("took over the lock of ")
    assert f"(pid {holder.pid})" in notes[0]


def test_whoever_comes_second_is_told_who_holds_the_lock(
    program: Program, store: FileStateStore
) -> None:
    with held_elsewhere(program, store) as holder:
        error = refused(store)
    assert error.exit_code == 5
    assert re.fullmatch(
        rf"`demo` is locked by \S+@{re.escape(os.uname().nodename)} "
        rf"\(pid {holder.pid}\) since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC for apply",
        error.message,
    )
    assert error.hint == "wait for it, or stop it: the lock goes with its process"


def test_the_lock_names_the_time_and_the_operation(store: FileStateStore) -> None:
    with store.lock(operation="rollback"):
        assert refused(store).message.endswith(
            " since 2026-11-22 12:30:05 UTC for rollback"
        )


def test_the_lock_is_free_after_the_block(store: FileStateStore) -> None:
    with store.lock(operation="apply"):
        pass
    assert store.holder() is None
    assert list(store.folder.iterdir()) == []


def test_the_lock_is_free_after_an_error_in_the_block(store: FileStateStore) -> None:
    with pytest.raises(RuntimeError), store.lock(operation="apply"):
        raise RuntimeError
    with store.lock(operation="apply"):
        pass


def test_stacks_are_locked_one_by_one(store: FileStateStore) -> None:
    with store.lock(operation="apply"), replace(store, stack="b").lock(operation="x"):
        assert store.holder() != replace(store, stack="b").holder()


def test_the_lock_of_another_host_needs_its_id(store: FileStateStore) -> None:
    leave(store)
    error = refused(store)
    assert error.message == (
        "`demo` is locked by alice@elsewhere (pid 7) "
        "since 2026-11-22 12:30:05 UTC for apply"
    )
    assert error.hint == "if it runs no more: `deployer state unlock STACK 0badcafe`"


def test_the_right_id_breaks_a_lock_and_says_whose(store: FileStateStore) -> None:
    leave(store)
    assert store.unlock("0badcafe").user == "alice"
    with store.lock(operation="apply"):
        pass


def test_a_wrong_id_breaks_nothing(store: FileStateStore) -> None:
    leave(store)
    with pytest.raises(LockedError, match="has not the ID `1badcafe`"):
        store.unlock("1badcafe")
    assert store.holder() is not None


@pytest.mark.parametrize("folder_is_there", [True, False])
def test_what_is_not_locked_cannot_be_unlocked(
    store: FileStateStore, folder_is_there: object
) -> None:
    if folder_is_there:
        store.folder.mkdir()
    with pytest.raises(StateError, match="`demo` is not locked"):
        store.unlock("0badcafe")


def test_whose_lock_was_broken_leaves_that_of_the_next_alone(
    store: FileStateStore,
) -> None:
    with store.lock(operation="apply"):
        mine = store.holder()
        assert mine is not None
        store.unlock(mine.id)
        next_one = replace(store).lock(operation="destroy")
        next_one.__enter__()
    found = store.holder()
    assert found is not None
    assert found.operation == "destroy"
    next_one.__exit__(None, None, None)


def test_a_gone_holder_of_this_host_counts_as_free(store: FileStateStore) -> None:
    leave(store, host=os.uname().nodename)
    assert store.holder() is None


def test_nobody_holds_what_was_never_locked(store: FileStateStore) -> None:
    assert store.holder() is None


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', '{"version": 2}'])
def test_a_lock_that_says_nothing_is_left_to_people(
    store: FileStateStore, text: str
) -> None:
    store.folder.mkdir()
    path = store.folder / "demo.lock"
    path.write_text(text)
    error = refused(store)
    assert error.message.startswith(f"`{path}` does not say who holds the lock: ")
    assert error.hint == f"if nothing works on the stack: `rm {path}`"
    assert path.read_text() == text


def test_a_folder_that_cannot_be_made_is_an_error_of_the_state(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    store = FileStateStore(tmp_path / "state", "demo")
    with (
        pytest.raises(StateError, match="cannot make the folder"),
        store.lock(operation="apply"),
    ):
        pass


def test_the_lock_is_for_the_user_alone(store: FileStateStore) -> None:
    with store.lock(operation="apply"):
        status = (store.folder / "demo.lock").stat()
    assert status.st_mode & 0o777 == 0o600


def test_a_removed_folder_does_not_disturb_the_end(store: FileStateStore) -> None:
    with store.lock(operation="apply"):
        (store.folder / "demo.lock").unlink()
        store.folder.rmdir()
    assert not store.folder.exists()


def no_locks_here(_descriptor: int) -> Grip:
    return Grip.UNKNOWN


def test_where_the_kernel_knows_no_locks_only_people_break_one(
    store: FileStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "grip", no_locks_here)
    leave(store, host=os.uname().nodename)
    assert "state unlock STACK 0badcafe" in refused(store).hint
    store.unlock("0badcafe")
    with store.lock(operation="apply"):
        assert "state unlock" in refused(store).hint


def no_links_here(_path: Path, _target: Path) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_a_file_system_without_links_is_an_error_of_the_state(
    store: FileStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "hardlink_to", no_links_here)
    with (
        pytest.raises(StateError, match=r"cannot lock `.*demo\.lock`: Operation not"),
        store.lock(operation="apply"),
    ):
        pass
    assert list(store.folder.iterdir()) == []
