"""Files of this machine: pinned by content, refused where they cannot work."""

import hashlib
import os
import re
import struct
import sys
from pathlib import Path

import pytest

from deployer.artefacts.sources import paths
from deployer.artefacts.sources.files import DigestCache
from deployer.artefacts.sources.paths import Platform
from deployer.errors import SourceError
from deployer.planning.facts import Pin
from deployer.planning.progress import Progress, unwatched

LINUX = Platform("Linux", "x86_64")
MODEL = b"GGUF weights"
SHA = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> DigestCache:
    return DigestCache(tmp_path / "home" / "digests.json")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(MODEL)
    return path


def pin_file(
    path: Path,
    cache: DigestCache,
    *,
    sha256: str | None = None,
    mmproj: Path | None = None,
    seen: list[Progress] | None = None,
) -> Pin:
    progress = seen.append if seen is not None else unwatched
    return paths.pin_file(
        path, sha256=sha256, mmproj=mmproj, cache=cache, progress=progress
    )


def test_a_file_is_pinned_by_its_digest(model: Path, cache: DigestCache) -> None:
    pin = pin_file(model, cache, sha256=SHA)
    assert pin.identity == {"model": [SHA]}
    assert pin.about == {"model": ["model.gguf"], "size": len(MODEL)}


def test_a_projector_is_pinned_too(model: Path, cache: DigestCache) -> None:
    projector = model.with_name("mmproj-F16.gguf")
    projector.write_bytes(b"GGUF projector")
    pin = pin_file(model, cache, mmproj=projector)
    assert pin.identity["mmproj"] == hashlib.sha256(b"GGUF projector").hexdigest()
    files = paths.referred(pin, cache=cache, progress=unwatched)
    assert sorted(files) == ["mmproj-F16.gguf", "model.gguf"]


def test_a_known_file_is_not_hashed_again(model: Path, cache: DigestCache) -> None:
    seen: list[Progress] = []
    pin_file(model, cache, seen=seen)
    pin_file(model, cache, seen=seen)
    assert len(seen) == 1


def test_a_changed_file_is_hashed_again(model: Path, cache: DigestCache) -> None:
    pin_file(model, cache)
    model.write_bytes(b"GGUF Weights")
    os.utime(model, ns=(1, 1))
    expected = hashlib.sha256(b"GGUF Weights").hexdigest()
    assert pin_file(model, cache).identity == {"model": [expected]}


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', "{"])
def test_a_damaged_cache_costs_one_hash(
    model: Path, cache: DigestCache, content: str
) -> None:
    cache.file.parent.mkdir()
    cache.file.write_text(content)
    assert pin_file(model, cache).identity == {"model": [SHA]}


def test_all_parts_of_a_split_model_are_pinned(
    tmp_path: Path, cache: DigestCache
) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(b"GGUF %d" % part)
    pin = pin_file(tmp_path / "m-00001-of-00002.gguf", cache)
    assert pin.about["model"] == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]


def test_another_digest_than_asked_for_is_refused(
    model: Path, cache: DigestCache
) -> None:
    with pytest.raises(SourceError, match="is not the pinned file"):
        pin_file(model, cache, sha256="0" * 64)


def test_a_file_that_changed_since_is_refused(model: Path, cache: DigestCache) -> None:
    pin = pin_file(model, cache)
    model.write_bytes(b"GGUF other weights")
    with pytest.raises(SourceError, match="changed since it was locked") as caught:
        paths.referred(pin, cache=cache, progress=unwatched)
    assert caught.value.hint.startswith("lock again")


def test_what_is_no_gguf_file_is_refused(tmp_path: Path, cache: DigestCache) -> None:
    (tmp_path / "web.gguf").write_bytes(b"<html>")
    for path, words in (
        (tmp_path / "web.gguf", "is not a GGUF file: it begins with b'<htm'"),
        (tmp_path / "none.gguf", "does not exist"),
        (tmp_path, "is a folder, not a GGUF file"),
    ):
        with pytest.raises(SourceError, match=words):
            pin_file(path, cache)


def elf(machine: int) -> bytes:
    head = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    return head + struct.pack("<HH", 3, machine) + bytes(44)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build of llama-server, as cmake leaves it."""
    folder = tmp_path / "build"
    folder.mkdir()
    program = folder / "llama-server"
    program.write_bytes(elf(62))
    program.chmod(0o755)
    (folder / "libllama.so.0.1").write_bytes(b"library")
    (folder / "libllama.so").symlink_to("libllama.so.0.1")
    (folder / "README").write_bytes(b"not part of it")
    return program


def pin_binary(path: Path, cache: DigestCache, here: Platform = LINUX) -> Pin:
    return paths.pin_binary(path, here=here, cache=cache, progress=unwatched)


def test_a_library_beside_it_is_part_of_a_binary(
    build: Path, cache: DigestCache
) -> None:
    before = pin_binary(build, cache)
    build.with_name("README").write_bytes(b"changed")
    assert pin_binary(build, cache) == before
    build.with_name("libllama.so.0.1").write_bytes(b"another library")
    assert pin_binary(build, cache).identity != before.identity


def test_a_link_is_counted_once(build: Path, cache: DigestCache) -> None:
    pin = pin_binary(build, cache)
    assert pin.about == {"binary": "llama-server", "files": 3, "size": 64 + 7}


def test_a_copy_has_the_digest_of_the_original(
    build: Path, cache: DigestCache, tmp_path: Path
) -> None:
    into = tmp_path / "into"
    into.mkdir()
    copied = paths.fetch_binary(pin_binary(build, cache), into, here=LINUX)
    assert copied == into / "llama-server"
    assert copied.stat().st_mode & 0o111
    assert sorted(p.name for p in into.iterdir()) == [
        "libllama.so",
        "libllama.so.0.1",
        "llama-server",
    ]


def test_a_rebuilt_binary_is_not_the_pinned_one(
    build: Path, cache: DigestCache, tmp_path: Path
) -> None:
    pin = pin_binary(build, cache)
    build.with_name("libllama.so.0.1").write_bytes(b"rebuilt")
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(SourceError, match="changed since it was locked"):
        paths.fetch_binary(pin, into, here=LINUX)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (elf(183), "built for Linux aarch64; this machine is Linux x86_64"),
        (elf(9999), "built for Linux machine 9999"),
        (
            b"\xcf\xfa\xed\xfe" + struct.pack("<I", 0x0100000C) + bytes(64),
            "built for Darwin aarch64",
        ),
        (
            b"\xca\xfe\xba\xbe"
            + struct.pack(">I", 2)
            + struct.pack(">IIIII", 0x01000007, 0, 0, 0, 0)
            + struct.pack(">IIIII", 0x0100000C, 0, 0, 0, 0),
            "built for Darwin x86_64, Darwin aarch64",
        ),
        (b"MZ" + bytes(64), "built for Windows x86_64"),
        (b"PK\x03\x04", "is not a program: it begins with b'PK"),
        (b"", "is not a program"),
    ],
)
def test_what_cannot_run_here_is_refused(
    build: Path, cache: DigestCache, head: bytes, words: str
) -> None:
    build.write_bytes(head)
    with pytest.raises(SourceError, match=re.escape(words)):
        pin_binary(build, cache)


def test_a_universal_binary_runs_on_either(build: Path, cache: DigestCache) -> None:
    build.write_bytes(
        b"\xca\xfe\xba\xbe"
        + struct.pack(">I", 2)
        + struct.pack(">IIIII", 0x01000007, 0, 0, 0, 0)
        + struct.pack(">IIIII", 0x0100000C, 0, 0, 0, 0)
    )
    assert pin_binary(build, cache, Platform("Darwin", "aarch64"))


def test_a_missing_a_folder_and_a_plain_file_are_told_apart(
    build: Path, cache: DigestCache
) -> None:
    plain = build.with_name("README")
    for path, words, hint in (
        (build.with_name("none"), "does not exist", "build it, or fix the path"),
        (build.parent, "is a folder, not a program", "name the file"),
        (plain, "is not executable", f"chmod +x {plain}"),
    ):
        with pytest.raises(SourceError, match=words) as caught:
            pin_binary(path, cache)
        assert caught.value.hint.startswith(hint)


def test_a_script_is_left_to_the_system(build: Path, cache: DigestCache) -> None:
    build.write_bytes(b"#!/bin/sh\nexec real-llama-server\n")
    assert pin_binary(build, cache)


def test_what_runs_this_test_runs_here() -> None:
    paths.check_binary(Path(sys.executable).resolve(), here=paths.this_platform())
