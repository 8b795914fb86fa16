"""The versions that stay beside a state, and putting one in its place."""

import os
from dataclasses import dataclass, replace
from datetime import UTC
from pathlib import Path

import pytest

from deployer.artefacts.json_files import FormError, NewerError, decoded, encoded
from deployer.errors import LockedError, StalePlanError, StateError
from deployer.planning.state import VERSION, State
from deployer.stack.fields.values import JsonValue
from deployer.state.files import FileStateStore, is_newer, rescued, to_json, utc_now
from deployer.system.files import replace_file, sync_folder, write_new

AGAIN = "run `deployer plan` again"


def written(store: FileStateStore, first: State, count: int) -> list[State]:
    """As many states, each stored after the one before."""
    states = [replace(first, serial=number) for number in range(1, count + 1)]
    for state in states:
        store.write(state, expect=state.serial - 1)
    return states


def test_the_newest_versions_stay_and_the_oldest_go(
    store: FileStateStore, first: State
) -> None:
    states = written(replace(store, keep=3), first, 9)
    assert store.serials() == (6, 7, 8)
    assert [store.kept(serial) for serial in store.serials()] == states[5:8]


def test_a_version_that_went_is_named(store: FileStateStore, first: State) -> None:
    written(store, first, 2)
    gone = store.folder / "history" / "demo" / "00000007.json"
    with pytest.raises(StateError) as caught:
        store.kept(7)
    assert caught.value.message == f"cannot read `{gone}`: No such file or directory"


def test_a_damaged_version_is_named(store: FileStateStore, first: State) -> None:
    written(store, first, 2)
    assert store.backup is not None
    store.backup.write_text("{")
    with pytest.raises(StateError, match=f"^`{store.backup}` is damaged: not JSON"):
        store.kept(1)


def test_the_way_back_passes_over_a_damaged_version(
    store: FileStateStore, first: State
) -> None:
    written(store, first, 4)
    assert store.backup is not None
    store.backup.write_text("{")
    store.path.write_text("{")
    with pytest.raises(StateError) as caught:
        store.read()
    assert caught.value.message.startswith(f"`{store.path}` is damaged: ")
    assert "(serial 2)" in caught.value.hint


def test_the_state_of_another_stack_has_a_way_back(
    store: FileStateStore, first: State
) -> None:
    written(store, first, 2)
    store.path.write_text(to_json(replace(first, stack="other")))
    with pytest.raises(StateError) as caught:
        store.read()
    assert caught.value.message == (
        f"`{store.path}` holds the state of the stack `other`"
    )
    assert caught.value.hint.startswith("go on from the version before it (serial 1)")


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1}', "other"])
def test_a_damaged_state_is_mended_and_kept_beside(
    store: FileStateStore, first: State, damage: str
) -> None:
    states = written(store, first, 3)
    text = to_json(replace(first, stack="other")) if damage == "other" else damage
    store.path.write_text(text)
    store.mend(states[1])
    assert store.read() == states[1]
    assert store.path.with_name("demo.state.damaged.json").read_text() == text
    store.write(replace(states[1], serial=9), expect=2)


def test_a_state_that_is_gone_is_mended(store: FileStateStore, first: State) -> None:
    states = written(store, first, 2)
    store.path.unlink()
    store.mend(states[0])
    assert store.read() == states[0]
    assert not store.path.with_name("demo.state.damaged.json").exists()


@pytest.mark.parametrize("newer", [False, True])
def test_a_state_that_is_not_damaged_is_left_alone(
    store: FileStateStore, first: State, *, newer: bool
) -> None:
    states = written(store, first, 2)
    if newer:
        store.path.write_text(f'{{"version": {VERSION + 1}}}')
    before = store.path.read_text()
    with pytest.raises(StateError) as caught:
        store.mend(states[0])
    assert caught.value.message == (
        f"`{store.path}` is not damaged: it is left as it is"
    )
    assert store.path.read_text() == before


def test_mending_that_cannot_be_done_says_why(
    store: FileStateStore, first: State
) -> None:
    store.folder.parent.mkdir()
    store.folder.write_text("a file where the folder should be")
    with pytest.raises(StateError) as caught:
        store.mend(first)
    assert caught.value.message == f"cannot mend `{store.path}`: File exists"


def test_what_only_a_newer_deployer_reads_is_known() -> None:
    assert is_newer(f'{{"version": {VERSION + 1}}}'.encode())
    assert not is_newer(f'{{"version": {VERSION}}}'.encode())
    assert not is_newer(b'{"version": 1}')
    assert not is_newer(b'{"version": 0}')
    assert not is_newer(b"{")


def test_states_that_were_put_aside_are_found(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    assert rescued("demo", (one, other)) == ()
    place = other / "errored.demo.state.json"
    place.write_text("{}")
    (one / "errored.else.state.json").write_text("{}")
    (one / "errored.demo.state.json").symlink_to(place)
    assert rescued("demo", (one, other)) == (place,)


def test_they_are_looked_for_here_and_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
        (folder / "errored.demo.state.json").write_text("{}")
    monkeypatch.chdir(here)
    monkeypatch.setenv("TMPDIR", str(there))
    found = rescued("demo", None)
    assert [path.resolve().parent for path in found] == [here, there]
    monkeypatch.delenv("TMPDIR")
    folders = {path.resolve().parent for path in rescued("demo", None)}
    assert folders <= {here, Path("/tmp")}  # noqa: S108 - what it falls back to


def test_a_refused_write_says_what_to_do(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    for other, expect in ((replace(second, lineage="l2"), 1), (second, 7)):
        with pytest.raises(StalePlanError) as caught:
            store.write(other, expect=expect)
        assert caught.value.hint == AGAIN
    with pytest.raises(ValueError, match=r"^a state that changed has a higher serial$"):
        store.write(replace(first, released=3), expect=1)


def test_a_wrong_id_is_answered_with_the_right_one(store: FileStateStore) -> None:
    with store.lock(operation="apply"):
        holder = store.holder()
        assert holder is not None
        assert len(holder.id) == 8
        with pytest.raises(LockedError) as caught:
            store.unlock("nobody")
        assert caught.value.hint == f"its ID is `{holder.id}`"


def test_times_are_utc() -> None:
    assert utc_now().tzinfo is UTC


def test_files_are_for_the_user_alone_unless_said(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_new(tmp_path / "one", b"")
        replace_file(tmp_path / "two", b"")
        replace_file(tmp_path / "three", b"", 0o666)
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("one", "two")]
    assert modes == [0o600, 0o600]
    assert (tmp_path / "three").stat().st_mode & 0o777 == 0o666


def test_only_a_folder_is_synced_as_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")


@dataclass(frozen=True)
class Made:
    """A little of everything that an annotation can say."""

    ready: bool
    share: tuple[int, str]
    name: str | None
    limit: float


def test_a_dataclass_is_its_own_form() -> None:
    made = Made(ready=True, share=(1, "a"), name=None, limit=2.5)
    content: dict[str, JsonValue] = {
        "ready": True,
        "share": [1, "a"],
        "name": None,
        "limit": 2.5,
    }
    assert encoded(made) == content
    assert decoded(Made, content) == made
    assert str(NewerError(7)) == "version 7"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ready", 1, "`ready` is the number 1, expected a boolean"),
        ("share", [True, "a"], "`share[0]` is true, expected an integer from 0"),
        ("name", [], "`name` is a list, expected a string"),
        ("limit", "1", "`limit` is the string `1`, expected a number"),
        ("limit", False, "`limit` is false, expected a number"),
    ],
)
def test_a_value_of_another_type_is_refused(
    name: str, value: JsonValue, message: str
) -> None:
    content: dict[str, JsonValue] = {
        "ready": True,
        "share": [1, "a"],
        "name": None,
        "limit": 1,
    }
    assert decoded(Made, content).limit == 1
    with pytest.raises(FormError) as caught:
        decoded(Made, {**content, name: value})
    assert str(caught.value) == message
