"""Nothing is written or removed but below a folder that contains it."""

from pathlib import Path

import pytest

from deployer.errors import StoreError
from deployer.system.files import contained


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder/in").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path / "out")
    (tmp_path / "folder/loop").symlink_to("loop")
    (tmp_path / "folder/back").symlink_to(".")
    return tmp_path / "folder"


@pytest.mark.parametrize("name", ["in", "new", "in/new", "in/../new", "back/in"])
def test_what_lies_below_stays_as_it_is(folder: Path, name: str) -> None:
    assert contained(folder, folder / name) == folder / name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../out", "/etc", "link", "link/x", "in/../../out"),
        *("back", "loop", "a\0b"),
    ],
)
def test_what_does_not_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(StoreError):
        contained(folder, folder / name)


def test_the_folder_may_be_a_link_itself(folder: Path) -> None:
    linked = folder.with_name("linked")
    linked.symlink_to(folder)
    assert contained(linked, linked / "in") == linked / "in"
