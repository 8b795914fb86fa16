"""What deployer makes is closed to others, whatever the umask of the shell."""

import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployer.system.files import replace_file
from tests.cli.project import COMMAND, STACK, Project

pytestmark = pytest.mark.trust
DEMO = "stacks/demo.yaml"
STORE = ("build", "weights")
"""Files of the store may be linked and shared; its folders are closed."""


@pytest.mark.real
@pytest.mark.parametrize("umask", ["0", "022", "077", "0777"])
def test_everything_of_an_apply_is_private(project: Project, umask: str) -> None:
    project.write(f"{STACK}  auth: {{}}\n")
    for words in (
        ("plan", DEMO, "--out", "kept.plan"),
        ("apply", DEMO, "--yes"),
        ("check", DEMO),
        ("state", "pull", DEMO, "--out", "copy.json"),
    ):
        command = shlex.join((*COMMAND, *words))
        done = project.shell(f"umask {umask}; exec {command}")
        assert done.code == 0, done.out + done.err
    made = (project.home, project.stack.parent / ".deployer")
    found = [place for folder in made for place in folder.rglob("*")]
    found += [project.folder / name for name in ("kept.plan", "copy.json")]
    assert len(found) > 20
    assert list(open_to_others(project, found)) == []
    lock = project.stack.with_name("demo.lock.json").stat().st_mode
    assert stat.S_IMODE(lock) == 0o600 | (0o666 & ~int(umask, 8))


def open_to_others(project: Project, places: list[Path]) -> Iterator[tuple[str, str]]:
    for place in places:
        mode = place.lstat().st_mode
        inside = place.relative_to(project.folder).parts
        linked = stat.S_ISREG(mode) and "home" in inside and inside[1] in STORE
        wrong = mode & 0o077 and not linked and not stat.S_ISLNK(mode)
        unusable = stat.S_ISDIR(mode) and mode & 0o700 != 0o700
        if wrong or unusable:
            yield str(place), oct(stat.S_IMODE(mode))


@pytest.mark.parametrize("umask", ["0", "0777"])
def test_what_the_user_asks_for_has_his_mode(paper: Project, umask: str) -> None:
    command = shlex.join((*COMMAND, "init", "mine/stack.yaml"))
    assert paper.shell(f"umask {umask}; exec {command}").code == 0
    folder, file = paper.folder / "mine", paper.folder / "mine" / "stack.yaml"
    left = ~int(umask, 8)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 | (0o777 & left)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 | (0o666 & left)


def test_a_replaced_file_has_exactly_its_mode(tmp_path: Path) -> None:
    replace_file(tmp_path / "f", b"", mode=0o666)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666
