import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from deployer.errors import StateError
from deployer.planning.state import State
from deployer.state.files import FileStateStore, from_json, to_json
from deployer.system.files import replace_file

pytestmark = pytest.mark.trust
Program = Callable[..., subprocess.Popen[str]]


def typed(hint: str, cwd: Path) -> None:
    """Type the command of a hint."""
    command = hint.split("`")[1]
    subprocess.run(["/bin/sh", "-c", command], check=True, cwd=cwd)


def test_typing_the_hint_of_a_damaged_state_goes_on_from_there(
    tmp_path: Path, first: State, second: State
) -> None:
    store = FileStateStore(tmp_path / "it's here", "demo")
    store.write(first, expect=0)
    store.write(second, expect=1)
    store.path.write_bytes(b"")
    with pytest.raises(StateError) as caught:
        store.read()
    typed(caught.value.hint, tmp_path)
    assert store.read() == first
    store.write(second, expect=1)


@dataclass
class Disk:
    """A disk on which files of some names cannot be written."""

    full_for: tuple[str, ...]
    errno: int = errno.ENOSPC

    def __call__(self, path: Path, content: bytes) -> None:
        if path.name in self.full_for:
            raise OSError(self.errno, os.strerror(self.errno))
        replace_file(path, content)


@pytest.mark.parametrize("name", ["demo.state.json", "00000001.json"])
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.EDQUOT]
)
def test_a_state_that_cannot_be_written_is_put_aside(
    store: FileStateStore, first: State, second: State, name: str, number: int
) -> None:
    store.write(first, expect=0)
    broken = replace(store, replace=Disk((name,), number))
    with pytest.raises(StateError) as caught:
        broken.write(second, expect=1)
    assert store.refuges is not None
    place = store.refuges[0] / "errored.demo.state.json"
    assert caught.value.message == (
        f"the state could not be written to `{store.path}` ({os.strerror(number)}); "
        f"it lies in `{place}`"
    )
    assert place.read_text() == to_json(second)
    assert store.read() == first


def test_typing_the_hint_brings_a_state_back_that_was_put_aside(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    with pytest.raises(StateError) as caught:
        replace(store, replace=Disk((store.path.name,))).write(second, expect=1)
    typed(caught.value.hint, store.folder)
    assert store.read() == second
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_state_that_fits_nowhere_is_printed(
    store: FileStateStore, first: State, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Disk((store.path.name, "errored.demo.state.json"))
    with pytest.raises(StateError, match="nor anywhere else; it is printed") as caught:
        replace(store, replace=full).write(first, expect=0)
    assert capsys.readouterr().err == to_json(first)
    assert caught.value.hint == f"before anything else, save it as `{store.path}`"


def test_the_next_refuge_is_tried_where_the_first_is_gone(
    store: FileStateStore, first: State, tmp_path: Path
) -> None:
    full = replace(
        store,
        replace=Disk((store.path.name,)),
        refuges=(tmp_path / "gone", tmp_path),
    )
    with pytest.raises(StateError):
        full.write(first, expect=0)
    assert (tmp_path / "errored.demo.state.json").read_text() == to_json(first)


def test_the_current_folder_is_the_refuge_unless_told(
    tmp_path: Path, first: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    full = FileStateStore(
        tmp_path / "state", "demo", replace=Disk(("demo.state.json",))
    )
    with pytest.raises(StateError):
        full.write(first, expect=0)
    assert (tmp_path / "errored.demo.state.json").read_text() == to_json(first)


def test_temporary_files_are_the_refuge_where_the_current_folder_is_gone(
    tmp_path: Path, first: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "gone").rmdir()
    full = FileStateStore(
        tmp_path / "state", "demo", replace=Disk(("demo.state.json",))
    )
    with pytest.raises(StateError):
        full.write(first, expect=0)
    place = tmp_path / "tmp" / "errored.demo.state.json"
    assert place.read_text() == to_json(first)


def test_a_damaged_state_does_not_cost_what_the_run_knows(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    store.path.write_bytes(b"{")
    with pytest.raises(StateError, match=r"is damaged.*it lies in"):
        store.write(second, expect=1)
    assert store.refuges is not None
    place = store.refuges[0] / "errored.demo.state.json"
    assert place.read_text() == to_json(second)
    assert store.path.read_bytes() == b"{"


def test_a_file_in_place_of_the_folder_puts_the_state_aside(
    store: FileStateStore, first: State
) -> None:
    store.folder.parent.mkdir()
    store.folder.write_text("in the way")
    with pytest.raises(StateError, match=r"\(File exists\); it lies in"):
        store.write(first, expect=0)


def test_a_removed_folder_is_made_again(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    shutil.rmtree(store.folder.parent)
    store.write(second, expect=1)
    assert store.read() == second


def test_a_folder_removed_during_the_write_is_made_again(
    store: FileStateStore, first: State, second: State
) -> None:
    store.write(first, expect=0)
    removals = [store.folder]

    def remove_once(path: Path, content: bytes) -> None:
        if removals:
            shutil.rmtree(removals.pop())
        replace_file(path, content)

    replace(store, replace=remove_once).write(second, expect=1)
    assert store.read() == second


def test_what_a_killed_writer_left_is_used_up(
    store: FileStateStore, first: State
) -> None:
    store.folder.mkdir(parents=True)
    left = store.folder / ".demo.state.json.new"
    left.write_text("half a sta")
    store.write(first, expect=0)
    assert store.read() == first
    assert not left.exists()


def test_a_failed_write_leaves_no_half_file(
    store: FileStateStore, first: State
) -> None:
    store.path.mkdir(parents=True)
    with pytest.raises(OSError, match="Is a directory"):
        replace_file(store.path, to_json(first).encode())
    assert list(store.folder.iterdir()) == [store.path]


def test_no_write_follows_a_link_laid_in_its_way(
    store: FileStateStore, first: State, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    store.folder.mkdir(parents=True)
    (store.folder / ".demo.state.json.new").symlink_to(victim)
    store.write(first, expect=0)
    assert victim.read_text() == "mine"


def limited(program: Program, tmp_path: Path, limit: str) -> dict[str, str]:
    """What a writer under a limit of the system says; see the program."""
    process = program("limited_writer.py", limit, cwd=tmp_path)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return {**json.loads(said), "errors": errors}


def test_a_limit_on_the_size_of_files_keeps_the_old_state_and_prints_the_new(
    program: Program, tmp_path: Path
) -> None:
    said = limited(program, tmp_path, "file-size")
    assert "(File too large), nor anywhere else" in said["message"]
    assert from_json(said["errors"], "stderr").serial == 2
    kept = FileStateStore(tmp_path / "state", "demo").read()
    assert kept is not None
    assert kept.serial == 1
    names = {path.name for path in (tmp_path / "state").iterdir()}
    assert names == {"demo.state.json", "history"}


def test_a_folder_without_write_permission_puts_the_state_aside(
    program: Program, tmp_path: Path
) -> None:
    said = limited(program, tmp_path, "read-only")
    assert "(Permission denied); it lies in" in said["message"]
    place = tmp_path / "errored.demo.state.json"
    assert from_json(place.read_bytes(), "errored").serial == 2
