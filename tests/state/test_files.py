import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer.errors import StalePlanError, StateError
from deployer.planning.resources import Kind
from deployer.planning.state import Begun, Record, State
from deployer.state import StateStore
from deployer.state.files import FileStateStore, from_json, list_stacks, to_json

Program = Callable[..., subprocess.Popen[str]]


def test_a_file_store_is_a_state_store(store: FileStateStore) -> None:
    kept: StateStore = store
    assert kept.read() is None


def test_what_was_written_is_read(store: FileStateStore, first: State) -> None:
    store.write(first, expect=0)
    assert store.read() == first


def test_the_file_is_the_text_of_the_state(store: FileStateStore, first: State) -> None:
    store.write(first, expect=0)
    assert store.path.read_text() == to_json(first)


def test_file_and_folder_are_for_the_user_alone(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    store.write(second, expect=1)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.backup is not None
    assert store.backup.parent.stat().st_mode & 0o777 == 0o700
    assert store.backup.stat().st_mode & 0o777 == 0o600


def test_changing_what_was_read_changes_nothing_stored(
    store: FileStateStore, first: State
) -> None:
    store.write(first, expect=0)
    read: Any = store.read()
    read.loose[0].record.fields["llama_cpp.tag"] = "b1"
    assert store.read() == first


def test_changing_what_was_written_changes_nothing_stored(
    store: FileStateStore, first: State
) -> None:
    before = from_json(to_json(first), "f")
    store.write(first, expect=0)
    fields: Any = first.loose[0].record.fields
    fields["llama_cpp.tag"] = "b1"
    assert store.read() == before


def test_the_version_before_is_kept(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    assert store.backup is None
    store.write(second, expect=1)
    assert store.backup is not None
    assert store.backup.read_text() == to_json(first)


def test_writing_the_same_again_touches_nothing(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    store.write(second, expect=1)
    before = store.path.stat()
    store.write(second, expect=1)
    assert os.path.samestat(store.path.stat(), before)
    assert store.backup is not None
    assert store.backup.read_text() == to_json(first)


@pytest.mark.parametrize("expect", [0, 2])
def test_a_write_after_another_serial_is_refused_and_changes_nothing(
    store: FileStateStore, first: State, second: State, expect: int
) -> None:
    store.write(first, expect=0)
    with pytest.raises(StalePlanError) as caught:
        store.write(replace(second, serial=9), expect=expect)
    assert caught.value.exit_code == 7
    assert caught.value.message == (
        f"the state of `demo` moved on: it was at serial {expect}, and is at 1"
    )
    assert store.read() == first


def test_of_two_writers_that_read_the_same_the_second_is_refused(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    other = replace(second, released=7)
    store.write(second, expect=1)
    with pytest.raises(StalePlanError):
        store.write(other, expect=1)
    assert store.read() == second


def test_a_state_of_another_lineage_is_refused(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    with pytest.raises(StalePlanError, match="is a new one now"):
        store.write(replace(second, lineage="l2"), expect=1)
    assert store.read() == first


def test_the_same_serial_with_other_content_is_a_mistake_of_the_caller(
    store: FileStateStore, first: State
) -> None:
    store.write(first, expect=0)
    with pytest.raises(ValueError, match="has a higher serial"):
        store.write(replace(first, released=7), expect=1)
    assert store.read() == first


def test_each_step_of_a_run_is_stored_in_turn(
    store: FileStateStore, first: State
) -> None:
    record = first.loose[0].record
    steps = [first, first.ready(record)]
    steps.append(steps[-1].begin(Begun.RETIRING, record))
    for state in steps:
        store.write(state, expect=state.serial - 1)
    assert store.read() == steps[-1]


def test_a_damaged_state_names_the_version_before_it(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    store.write(second, expect=1)
    store.path.write_text(to_json(second)[:-5])
    with pytest.raises(StateError, match="is damaged: not JSON at line") as caught:
        store.read()
    assert caught.value.hint == (
        "go on from the version before it (serial 1) with "
        f"`cp {store.backup} {store.path}`; the next `apply` "
        "fills in what it does not know"
    )


def test_a_damaged_state_without_a_version_before_asks_for_a_copy(
    store: FileStateStore, first: State
) -> None:
    store.write(first, expect=0)
    store.path.write_bytes(b"\0")
    with pytest.raises(StateError) as caught:
        store.read()
    assert caught.value.hint == (
        f"bring `{store.path}` back from a copy; none is kept beside it"
    )


def test_a_newer_state_keeps_its_own_hint(store: FileStateStore) -> None:
    store.folder.mkdir(parents=True)
    store.path.write_text('{"version": 5}')
    with pytest.raises(StateError, match="written by a newer deployer") as caught:
        store.read()
    assert caught.value.hint == "upgrade deployer"


def test_a_newer_state_is_never_written_over(
    store: FileStateStore, first: State
) -> None:
    store.folder.mkdir(parents=True)
    store.path.write_text('{"version": 5}')
    with pytest.raises(StateError, match="written by a newer deployer"):
        store.write(first, expect=0)
    assert store.path.read_text() == '{"version": 5}'


def test_the_state_of_another_stack_is_refused(
    store: FileStateStore, first: State
) -> None:
    store.write(first, expect=0)
    other = replace(store, stack="other")
    other.path.write_bytes(store.path.read_bytes())
    with pytest.raises(StateError, match="holds the state of the stack `demo`"):
        other.read()


def test_a_state_that_is_gone_is_not_taken_for_none(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    store.write(second, expect=1)
    store.path.unlink()
    with pytest.raises(StateError, match="is gone, though there was one") as caught:
        store.read()
    assert "(serial 1)" in caught.value.hint


def test_what_cannot_be_read_is_an_error_of_the_state(store: FileStateStore) -> None:
    store.path.mkdir(parents=True)
    with pytest.raises(StateError, match=r"cannot read `.*`: Is a directory"):
        store.read()


def test_stacks_are_listed_by_the_names_of_their_states(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    store.write(second, expect=1)
    replace(store, stack="b").write(replace(first, stack="b"), expect=0)
    for other in ("demo.lock", ".demo.state.json.new", "errored.x.state.json"):
        (store.folder / other).write_text("")
    assert list_stacks(store.folder) == ("b", "demo")


def test_no_folder_lists_no_stacks(tmp_path: Path) -> None:
    assert list_stacks(tmp_path / "none") == ()


def test_a_record_of_every_kind_survives(store: FileStateStore, first: State) -> None:
    made = {
        f"demo/{kind}": Record(f"demo/{kind}", kind, "k", {"ä": [1.5, None]}, {}, {})
        for kind in Kind
    }
    state = replace(first, made=made)
    store.write(state, expect=0)
    assert store.read() == state
