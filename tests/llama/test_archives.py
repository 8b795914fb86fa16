"""Unpacking what strangers packed."""

import os
import tarfile
from pathlib import Path

import pytest

from deployer.errors import SourceError
from deployer.llama.build.archives import refuse_links_outside, unpack_tar
from deployer.planning.progress import unwatched
from tests.llama.small_source import write_tar


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member


def unpacked(folder: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    into = folder / "into"
    into.mkdir()
    unpack_tar(write_tar(folder / "x.tar.gz", members), into, unwatched, "x.tar.gz")
    return into


def test_files_links_and_executable_bits_are_kept(tmp_path: Path) -> None:
    into = unpacked(
        tmp_path,
        {
            "top/bin/llama-server": b"run me",
            "top/bin/libllama.so.0": b"code",
            "link": link("top/bin/libllama.so", "libllama.so.0"),
        },
    )
    assert (into / "top/bin/libllama.so").read_bytes() == b"code"
    assert os.access(into / "top/bin/llama-server", os.X_OK)
    assert not os.access(into / "top/bin/libllama.so.0", os.X_OK)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\..\\x"])
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match="would write outside its folder"):
        unpacked(tmp_path, {"good": b"", name: b"bad"})
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("target", ["/etc/passwd", "../../x", "a/../../../x"])
def test_a_link_that_leaves_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(SourceError, match="a link that leaves it: `a/x`"):
        unpacked(tmp_path, {"link": link("a/x", target)})


def test_links_that_leave_together_are_refused(tmp_path: Path) -> None:
    """Each one alone stays inside; over the first, the second does not.

    Neither is made, not even for a moment.
    """
    with pytest.raises(SourceError, match="a link that leaves it: `a/out`"):
        unpacked(
            tmp_path,
            {"1": link("a/b/up", "../.."), "2": link("a/out", "b/up/../..")},
        )
    assert list((tmp_path / "into").iterdir()) == []


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has `a/x` below `a`, which is no folder"):
        unpacked(tmp_path, {"1": link("a", "b"), "b/y": b"", "a/x": b"bad"})
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize(
    "names", [("a", "a"), ("a", "./a"), ("a", "a/b"), ("a/b", "a")]
)
def test_one_name_is_one_thing(tmp_path: Path, names: tuple[str, str]) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    (tmp_path / "into").mkdir()
    with pytest.raises(SourceError, match=r"twice|which is no folder"):
        unpack_tar(path, tmp_path / "into", unwatched, "x.tar")
    assert list((tmp_path / "into").iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(SourceError, match="not a plain file"):
        unpacked(tmp_path, {"link": link("x", "y", kind)})


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "af2bdb", {"big": os.urandom(100_000)})
    path.write_bytes(path.read_bytes()[:50_000])
    with pytest.raises(SourceError, match=r"`x\.tar\.gz` is damaged"):
        unpack_tar(path, tmp_path, unwatched, "x.tar.gz")


def test_a_link_in_a_folder_must_stay_in_it(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/etc")
    with pytest.raises(SourceError, match="`x` is a symbolic link that leaves"):
        refuse_links_outside(tmp_path)
