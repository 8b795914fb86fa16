"""What a kept stack depends on, and who is believed to have kept it."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deployer.diagnostics import Diagnostic, Place, Severity
from deployer.planning.resources import Kind, Node
from deployer.system.files import read, write
from deployer.usecases.context.settings import Options
from deployer.usecases.plan import plan
from deployer.usecases.reading.prepared import Cache, Prepared, look, this_code
from tests.prepared.world import is_kept, world

STACK = Path("stack.yaml")
NODE = Node("demo/build", Kind.BUILD, "k", {"a": [1]}, {"build": "y"}, {"b": None})
NOTICE = Diagnostic(
    "path", "what", "hint", Severity.NOTE, "id", Place("stack.yaml", 1, 2)
)
PREPARED = Prepared(
    "demo",
    "local",
    {NODE.address: NODE},
    {"server": Place("stack.yaml", 3)},
    ("a note",),
    notices=(NOTICE,),
)


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    STACK.write_text("name: demo\n")
    return {"DEPLOYER_HOME": str(tmp_path / "home"), "HOME": "/h", "PATH": "/bin"}


def keep(variables: dict[str, str], prepared: Prepared = PREPARED) -> Prepared:
    seen = {name: look(name) for name in ("stack.yaml", ".env")}
    found = replace(prepared, seen=seen)
    Cache(Path("home"), variables).keep(STACK, None, found)
    return found


def find(variables: dict[str, str]) -> Prepared | None:
    return Cache(Path("home"), variables).find(STACK, None)


@pytest.fixture
def kept(variables: dict[str, str]) -> dict[str, str]:
    """The variables under which a stack was kept."""
    keep(variables)
    assert find(variables) is not None
    return variables


def the_file() -> Path:
    (file,) = Path("home/cache/stacks").iterdir()
    return file


def test_it_comes_back_as_it_was(variables: dict[str, str]) -> None:
    assert find(variables) is None
    assert keep(variables) == find(variables)


def test_another_engine_is_another_stack(kept: dict[str, str]) -> None:
    assert Cache(Path("home"), kept).find(STACK, "modal") is None


def test_another_content_is_not_believed(kept: dict[str, str]) -> None:
    STACK.write_text("name: other\n")
    assert find(kept) is None
    STACK.write_text("name: demo\n")
    assert find(kept) is not None
    STACK.unlink()
    assert find(kept) is None


def test_a_file_that_appears_counts(kept: dict[str, str]) -> None:
    Path(".env").touch()
    assert find(kept) is None


def test_a_file_that_may_be_run_counts(kept: dict[str, str]) -> None:
    STACK.chmod(0o755)
    assert find(kept) is None


def test_a_link_to_the_same_content_counts(kept: dict[str, str]) -> None:
    STACK.rename("moved.yaml")
    STACK.symlink_to("moved.yaml")
    assert find(kept) is None


def test_a_large_file_is_known_by_its_stamp(tmp_path: Path) -> None:
    """Also where its size and the time that a program may set are the same."""
    file = tmp_path / "large"
    file.write_bytes(bytes(300_000))
    os.utime(file, ns=(1, 1))
    before = look(str(file))
    file.write_bytes(bytes(299_999) + b"1")
    os.utime(file, ns=(1, 1))
    assert look(str(file)) != before


def test_a_folder_is_known_by_its_names(tmp_path: Path) -> None:
    before = look(str(tmp_path))
    (tmp_path / "lib.so").touch()
    assert look(str(tmp_path)) != before


def test_a_pipe_is_not_waited_for(kept: dict[str, str]) -> None:
    STACK.unlink()
    os.mkfifo(STACK)
    assert find(kept) is None


def test_what_cannot_be_looked_at_is_not_believed(kept: dict[str, str]) -> None:
    STACK.unlink()
    STACK.symlink_to(STACK)
    assert find(kept) is None


@pytest.mark.parametrize(
    "change",
    [
        {"DEPLOYER_ALLOW_OUTSIDE": "/"},
        {"DEPLOYER_ANYTHING_NEW": "1"},
        {"PATH": "/usr/bin"},
        {"HOME": "/other"},
    ],
)
def test_a_variable_that_may_decide_counts(
    kept: dict[str, str], change: dict[str, str]
) -> None:
    assert find({**kept, **change}) is None
    assert find({**kept, "EDITOR": "vi", "COLUMNS": "40"}) is not None


def test_another_deployer_does_not_believe_it(
    kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was installed or upgraded since."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    this_code.cache_clear()
    try:
        assert find(kept) is None
    finally:
        this_code.cache_clear()


@pytest.mark.parametrize("cut", [1, 40, 70, -1])
def test_what_is_damaged_is_not_believed(kept: dict[str, str], cut: int) -> None:
    the_file().write_bytes(the_file().read_bytes()[:cut])
    assert find(kept) is None


def test_no_variable_and_no_content_is_kept(variables: dict[str, str]) -> None:
    secret = "sk-0123456789abcdef"
    keep({**variables, "DEPLOYER_KEY": secret})
    content = the_file().read_bytes()
    assert secret.encode() not in content
    assert b"name: demo" not in content


def test_what_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(tmp_path, 1)
    monkeypatch.chdir(tmp_path / "project")
    file = "stacks/demo.yaml"
    plan(Path(file), replace(made.settings, begun=0), Options())
    assert not is_kept(made, file)
    plan(Path(file), made.settings, Options())
    assert is_kept(made, file)


def test_it_is_closed_to_everybody_else(kept: dict[str, str]) -> None:
    del kept
    assert the_file().stat().st_mode & 0o777 == 0o600
    assert the_file().parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o755])
def test_a_folder_that_is_open_to_others_is_not_believed(
    kept: dict[str, str], mode: int
) -> None:
    the_file().parent.chmod(mode)
    assert find(kept) is None


def test_a_file_that_others_may_write_is_not_believed(kept: dict[str, str]) -> None:
    the_file().chmod(0o622)
    assert find(kept) is None


def test_a_folder_that_is_a_link_is_not_believed(kept: dict[str, str]) -> None:
    folder = the_file().parent
    moved = folder.rename(folder.with_name("moved"))
    folder.symlink_to(moved.name)
    assert find(kept) is None
    before = the_file().read_bytes()
    keep(kept, replace(PREPARED, name="planted"))
    assert the_file().read_bytes() == before


def test_a_file_that_is_a_link_is_not_believed(kept: dict[str, str]) -> None:
    file = the_file()
    planted = file.rename(file.parents[1] / "planted")
    file.symlink_to(planted.absolute())
    assert find(kept) is None


def test_what_belongs_to_somebody_else_is_not_believed(kept: dict[str, str]) -> None:
    del kept
    file = the_file()
    if os.geteuid() == 0:
        os.chown(file, 12345, 12345)
    else:  # only root gives files away, and everybody has some of his
        file = Path("/etc/passwd")
    with pytest.raises(PermissionError):
        read(str(file.parent), file.name)


def test_what_was_kept_longest_makes_room(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir(mode=0o700)
    for number in range(2000):
        (folder / f"{number}").touch()
        os.utime(folder / f"{number}", ns=(number, number))
    write(str(folder), "new", b"content")
    assert read(str(folder), "new") == b"content"
    assert len(list(folder.iterdir())) == 1801
    assert not (folder / "0").exists()
    assert (folder / "1999").exists()
