"""Upstream's ready-made archives, from a site that is laid out like theirs."""

import hashlib
import io
import tarfile
from contextlib import nullcontext
from pathlib import Path

import pytest

from deployer.artefacts.sources.paths import Platform
from deployer.engines.local.artefacts import prove_release
from deployer.errors import EngineError, SourceError
from deployer.llama.build.archives import (
    Backend,
    fetch_release,
    pin_release,
    refuse_patches,
)
from deployer.planning.facts import Pin
from deployer.planning.progress import unwatched
from tests.llama.conftest import Site
from tests.llama.small_source import write_tar

LINUX = Platform("Linux", "x86_64")


def publish(site: Site, build: str, name: str) -> str:
    """Put an archive on the site; its digest."""
    link = tarfile.TarInfo(f"llama-{build}/libllama.so")
    link.type = tarfile.SYMTYPE
    link.linkname = "libllama.so.0"
    path = write_tar(
        site.place(f"{build}/llama-{build}-bin-{name}.tar.gz"),
        {
            f"llama-{build}/llama-server": b"run me",
            f"llama-{build}/llama-cli": b"not me",
            f"llama-{build}/libllama.so.0": b"code",
            "link": link,
        },
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pinned(
    site: Site,
    tmp_path: Path,
    tag: str,
    *,
    backend: Backend = "cpu",
    on: Platform = LINUX,
) -> Pin:
    return pin_release(
        tag=tag,
        backend=backend,
        here=on,
        downloads=tmp_path / "downloads",
        progress=unwatched,
        releases=site.url,
    )


@pytest.mark.parametrize(
    ("name", "backend", "on"),
    [
        ("ubuntu-x64", "cpu", LINUX),
        ("ubuntu-vulkan-x64", "vulkan", LINUX),
        ("ubuntu-arm64", "cpu", Platform("Linux", "aarch64")),
        ("macos-arm64", "cpu", Platform("Darwin", "aarch64")),
    ],
)
def test_the_archive_of_a_platform_is_pinned_by_its_digest(
    site: Site, tmp_path: Path, name: str, backend: Backend, on: Platform
) -> None:
    digest = publish(site, "b10434", name)
    found = pinned(site, tmp_path, "b10434", backend=backend, on=on)
    assert (found.source, found.identity) == ("release", {"archive": digest})
    assert found.about["number"] == 10434


def test_a_release_names_its_build(site: Site, tmp_path: Path) -> None:
    publish(site, "b10621", "ubuntu-x64")
    site.place("v0.3.0/nightly-tag.txt").write_text("b10621\n")
    assert pinned(site, tmp_path, "v0.3.0").about["number"] == 10621


def test_server_and_libraries_are_taken(site: Site, tmp_path: Path) -> None:
    publish(site, "b10434", "ubuntu-x64")
    into = tmp_path / "into"
    into.mkdir()
    found = pinned(site, tmp_path, "b10434")
    server = fetch_release(
        found, into, downloads=tmp_path / "downloads", progress=unwatched
    )
    assert server == into / "bin/llama-server"
    assert sorted(path.name for path in into.rglob("*")) == [
        *("bin", "libllama.so", "libllama.so.0", "llama-server")
    ]


def test_an_archive_that_changed_since_is_refused(site: Site, tmp_path: Path) -> None:
    publish(site, "b10434", "ubuntu-x64")
    found = pinned(site, tmp_path, "b10434")
    write_tar(site.place("b10434/llama-b10434-bin-ubuntu-x64.tar.gz"), {"x": b"evil"})
    with pytest.raises(SourceError, match="is not the pinned file"):
        fetch_release(found, tmp_path, downloads=tmp_path / "fresh", progress=unwatched)


def test_a_build_that_was_not_published(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="upstream has no archive for `b10435`"):
        pinned(site, tmp_path, "b10435")


def test_a_platform_without_archives(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no vulkan archive for Darwin on aarch64"):
        pinned(
            site,
            tmp_path,
            "b10434",
            backend="vulkan",
            on=Platform("Darwin", "aarch64"),
        )


def test_a_build_before_these_archives(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="older than the archives"):
        pinned(site, tmp_path, "b7000")


def test_patches_are_not_possible() -> None:
    with pytest.raises(SourceError, match="cannot be patched; the stack wants `fix`"):
        refuse_patches(("fix",))


def test_without_patches_nothing_is_refused() -> None:
    refuse_patches(())


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        (b"#!/bin/sh\necho version: 10434 \\(abc\\) >&2\n", ""),
        (
            b"#!/bin/sh\necho 'libgomp.so.1: cannot open' >&2; exit 127\n",
            "does not run",
        ),
        (b"#!/bin/sh\nexit 0\n", "is not a llama-server"),
    ],
)
def test_an_archive_is_tried_before_it_is_taken(
    site: Site, tmp_path: Path, script: bytes, wrong: str
) -> None:
    server = tarfile.TarInfo("llama-b10434/llama-server")
    server.mode, server.size = 0o755, len(script)
    with tarfile.open(
        site.place("b10434/llama-b10434-bin-ubuntu-x64.tar.gz"), "w:gz"
    ) as archive:
        archive.addfile(server, io.BytesIO(script))
    found = pinned(site, tmp_path, "b10434")
    context = pytest.raises(EngineError, match=wrong) if wrong else nullcontext()
    with context:
        prove_release(found, tmp_path / "downloads", unwatched)
    assert not [*(tmp_path / "downloads").glob(".trying-*")]


def test_a_commit_has_no_archive(site: Site, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="`0c1e57098` is a commit"):
        pinned(site, tmp_path, "0c1e57098")
