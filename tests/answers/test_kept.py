"""Which calls are answered without a run, from what, and for whom."""

import os
import sys
from pathlib import Path

import pytest

from deployer.answers.inputs import TEXT, look, unchanged
from deployer.answers.kept import call_of, find, folder_of, keep
from deployer.answers.private import read, write

CALL = ("plan", "stack.yaml")
INPUTS = ((TEXT, "stack.yaml"),)


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    Path("stack.yaml").write_text("name: demo\n")
    return {"DEPLOYER_HOME": str(tmp_path / "home"), "HOME": "/h", "PATH": "/bin"}


@pytest.fixture
def kept(variables: dict[str, str]) -> dict[str, str]:
    """The variables under which an answer was kept."""
    keep(CALL, variables, INPUTS, "No changes.\n")
    assert find(CALL, variables) == "No changes.\n"
    return variables


def the_file(variables: dict[str, str]) -> Path:
    (file,) = Path(folder_of(variables["DEPLOYER_HOME"])).iterdir()
    return file


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("plan a.yaml", "plan a.yaml"),
        ("plan a.yaml b", "plan a.yaml b"),
        ("apply a.yaml", "apply a.yaml"),
        ("apply --yes a.yaml", "apply a.yaml"),
        ("apply a.yaml -y", "apply a.yaml"),
    ],
)
def test_a_plain_call_may_be_answered(words: str, call: str) -> None:
    assert call_of(words.split()) == tuple(call.split())


@pytest.mark.parametrize(
    "words",
    [
        *("", "plan", "apply", "plan --json a.yaml", "plan a.yaml --no-cache"),
        *("plan a.yaml --refresh", "plan -- a.yaml", "plan -", "apply a.yaml b.plan"),
        *("apply a.yaml --json", "apply --yes", "status a.yaml", "--debug plan a.yaml"),
        *("plan --engine modal a.yaml", "apply --refresh a.yaml", "destroy a.yaml"),
    ],
)
def test_any_other_call_is_not(words: str) -> None:
    assert call_of(words.split()) == ()


def test_another_content_is_not_answered(kept: dict[str, str]) -> None:
    Path("stack.yaml").write_text("name: other\n")
    assert find(CALL, kept) is None
    Path("stack.yaml").write_text("name: demo\n")
    assert find(CALL, kept) == "No changes.\n"
    Path("stack.yaml").unlink()
    assert find(CALL, kept) is None


def test_a_file_that_is_no_file_any_more_is_not_waited_for(
    kept: dict[str, str],
) -> None:
    Path("stack.yaml").unlink()
    os.mkfifo("stack.yaml")
    assert find(CALL, kept) is None


def test_a_file_that_cannot_be_looked_at_is_no_answer(kept: dict[str, str]) -> None:
    Path("stack.yaml").unlink()
    Path("stack.yaml").symlink_to("stack.yaml")
    assert find(CALL, kept) is None


@pytest.mark.parametrize(
    "change",
    [
        {"DEPLOYER_ALLOW_OUTSIDE": "/"},
        {"DEPLOYER_STATE_URL": "file:///elsewhere"},
        {"DEPLOYER_ANYTHING_NEW": "1"},
        {"PATH": "/usr/bin"},
        {"HOME": "/other"},
    ],
)
def test_a_variable_that_may_decide_is_an_input(
    kept: dict[str, str], change: dict[str, str]
) -> None:
    assert find(CALL, {**kept, **change}) is None
    assert find(CALL, {**kept, "EDITOR": "vi", "COLUMNS": "40"}) is not None


def test_the_folder_that_it_is_called_in_is_an_input(
    kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "stack.yaml").write_text("name: demo\n")
    monkeypatch.chdir(other)
    assert find(CALL, kept) is None


def test_another_deployer_does_not_believe_it(
    kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was installed or upgraded since."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    assert find(CALL, kept) is None


@pytest.mark.parametrize("cut", [1, 40, 70, -1])
def test_what_is_damaged_is_not_believed(kept: dict[str, str], cut: int) -> None:
    file = the_file(kept)
    file.write_bytes(file.read_bytes()[:cut])
    assert find(CALL, kept) is None


def test_no_variable_and_no_content_is_kept(variables: dict[str, str]) -> None:
    secret = "sk-0123456789abcdef"
    keep(CALL, {**variables, "DEPLOYER_KEY": secret}, INPUTS, "No changes.\n")
    content = the_file(variables).read_bytes()
    assert secret.encode() not in content
    assert b"name: demo" not in content


def test_it_is_closed_to_everybody_else(kept: dict[str, str]) -> None:
    file = the_file(kept)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o755])
def test_a_folder_that_is_open_to_others_is_not_believed(
    kept: dict[str, str], mode: int
) -> None:
    the_file(kept).parent.chmod(mode)
    assert find(CALL, kept) is None


def test_a_file_that_others_may_write_is_not_believed(kept: dict[str, str]) -> None:
    the_file(kept).chmod(0o622)
    assert find(CALL, kept) is None


def test_a_folder_that_is_a_link_is_not_believed(kept: dict[str, str]) -> None:
    folder = the_file(kept).parent
    moved = folder.rename(folder.with_name("moved"))
    folder.symlink_to(moved)
    assert find(CALL, kept) is None
    before = the_file({"DEPLOYER_HOME": kept["DEPLOYER_HOME"]}).read_bytes()
    keep(CALL, kept, INPUTS, "planted")
    assert the_file(kept).read_bytes() == before


def test_a_file_that_is_a_link_is_not_believed(kept: dict[str, str]) -> None:
    file = the_file(kept)
    planted = file.rename(file.parents[1] / "planted")
    file.symlink_to(planted)
    assert find(CALL, kept) is None


def test_what_belongs_to_somebody_else_is_not_believed(kept: dict[str, str]) -> None:
    file = the_file(kept)
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


def test_what_changes_while_it_is_read_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "stack.yaml"
    file.write_text("one")
    changed = file.stat().st_ctime_ns
    assert not unchanged(((TEXT, str(file)),), since=changed)
    assert unchanged(((TEXT, str(file)),), since=changed + 10**9)


def test_a_link_that_moved_while_it_was_read_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "stack.yaml").symlink_to("/etc/hostname")
    moved = (tmp_path / "stack.yaml").lstat().st_ctime_ns
    inputs = (("real", str(tmp_path / "stack.yaml")),)
    assert not unchanged(inputs, since=moved)
    assert unchanged(inputs, since=moved + 10**9)


def test_a_way_of_looking_that_is_not_known_is_no_answer() -> None:
    with pytest.raises(OSError, match="no way of looking"):
        look("sideways", "stack.yaml")
