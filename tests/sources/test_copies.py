"""Copies: the same content, and a file of its own."""

import os
from pathlib import Path

from deployer.artefacts.sources.files import copy

CONTENT = os.urandom(3_000_000)


def test_a_copy_is_the_content_and_the_mode(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(CONTENT)
    (tmp_path / "old").chmod(0o750)
    copy(tmp_path / "old", tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == CONTENT
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o750


def test_what_is_edited_in_place_later_does_not_show_in_a_copy(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(CONTENT)
    copy(tmp_path / "old", tmp_path / "new")
    with (tmp_path / "old").open("r+b") as stream:
        stream.write(b"linked anew")
    assert (tmp_path / "new").read_bytes() == CONTENT
    assert (tmp_path / "new").stat().st_nlink == 1


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "lib.so.1").write_bytes(CONTENT)
    (tmp_path / "lib.so").symlink_to("lib.so.1")
    copy(tmp_path / "lib.so", tmp_path / "copied.so")
    assert (tmp_path / "copied.so").readlink() == Path("lib.so.1")


def test_a_file_that_the_kernel_does_not_copy_is_read(tmp_path: Path) -> None:
    """Its size is 0 until somebody reads it."""
    copy(Path("/proc/self/status"), tmp_path / "new")
    assert (tmp_path / "new").read_text(encoding="ascii").startswith("Name:")


def test_a_copy_over_to_another_disk(tmp_path: Path) -> None:
    """Memory is one: nothing can be shared with it."""
    (tmp_path / "old").write_bytes(CONTENT)
    target = Path("/dev/shm") / f"deployer-copy-{os.getpid()}"  # noqa: S108 - a disk
    try:
        copy(tmp_path / "old", target)
        assert target.read_bytes() == CONTENT
    finally:
        target.unlink(missing_ok=True)
