"""One file over HTTP: resumed, verified while it streams, published in one rename."""

import hashlib
from functools import partial
from pathlib import Path

from deployer.artefacts.sources.client import (
    file_name,
    new_client,
    refuse_address,
    refuse_status,
    shown,
    translated,
)
from deployer.artefacts.sources.digests import DigestCache
from deployer.artefacts.sources.download import Transfer
from deployer.artefacts.sources.space import sync_folder, writing
from deployer.artefacts.sources.transfer import transferred
from deployer.errors import SourceError
from deployer.planning.facts import Pin
from deployer.planning.progress import Watch
from deployer.system.contained import contained


def pin(
    url: str,
    *,
    sha256: str | None,
    downloads: Path,
    cache: DigestCache,
    progress: Watch,
) -> Pin:
    """Pin the file behind ``url``.

    Without ``sha256`` the file is downloaded to learn it, and stays in
    ``downloads`` under its digest, where `fetch` finds it; the ``cache`` remembers
    that it was hashed.  Raises SourceError.
    """
    refuse_address(url)
    name = file_name(url)
    if sha256 is None:
        arriving = downloads / f"{hashlib.sha256(url.encode()).hexdigest()}.new"
        sha256 = download(url, arriving, sha256=None, size=None, progress=progress)
        size: int | None = arriving.stat().st_size
        arriving.replace(downloads / sha256)
        cache.remember(downloads / sha256, sha256)
    else:
        size = size_of(url)
    return Pin(
        source="url",
        identity={"model": [sha256]},
        where={"url": url},
        about={"model": [name], "size": size},
    )


def fetch(
    pin: Pin, into: Path, *, downloads: Path, cache: DigestCache, progress: Watch
) -> None:
    """Put the pinned file into the folder ``into``, under its own name.

    What is on its way stays in ``downloads``: an interrupted run resumes there.
    """
    url, digest = pin.where["url"], pin.identity["model"]
    if not (isinstance(url, str) and isinstance(digest, list)):
        raise SourceError("the lock file has a `url` pin that is not one of ours")
    sha256 = str(digest[0])
    arrived = contained(downloads, downloads / sha256)
    size = pin.about.get("size")
    if not (arrived.is_file() and cache.sha256_of(arrived, progress) == sha256):
        download(
            url,
            arrived,
            sha256=sha256,
            size=size if isinstance(size, int) else None,
            progress=progress,
        )
    with writing(into, purpose=file_name(url)):
        arrived.replace(contained(into, into / file_name(url)))


def download(
    url: str,
    into: Path,
    *,
    sha256: str | None,
    size: int | None,
    progress: Watch,
    token: str = "",
) -> str:
    """Download ``url`` to the file ``into`` and return its SHA-256.

    It is hashed while it arrives, over several connections where digest and size are
    known.  Resumes from ``<into>.part`` where the server can and the digest is known
    (an unknown file could have changed in between).  Raises SourceError, AuthError,
    and StoreError where the disk is full.
    """
    refuse_address(url)
    into.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = into.with_name(f"{into.name}.part")
    if sha256 is None:
        part.unlink(missing_ok=True)
    start = partial(
        Transfer, url, part, sha256 is not None, size, progress, token=token
    )
    with writing(into.parent, purpose=file_name(url), needed=size):
        found = transferred(start, sha256)
        if sha256 is not None and found != sha256:
            part.unlink()
            raise SourceError(
                f"`{shown(url)}` is not the pinned file: sha256 is {found}, "
                f"expected {sha256}",
                hint="if the new file is wanted, correct `sha256` and lock again",
            )
        part.replace(into)
        sync_folder(into.parent)
    return found


def size_of(url: str) -> int | None:
    """Size in bytes that the server states, or ``None``; raises SourceError."""
    refuse_address(url)
    with new_client() as client, translated(url):
        answer = client.head(url, headers={"Accept-Encoding": "identity"})
        if answer.status_code in (401, 403, 404, 410):
            refuse_status(answer, url)
        stated = answer.headers.get("content-length", "")
        return int(stated) if answer.is_success and stated.isdigit() else None
