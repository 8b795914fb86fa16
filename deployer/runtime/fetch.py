"""Fetch weights to a volume, each file verified."""

import http
import os
import shutil
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .volume import Volume, about, is_complete, room, sha256_of

_BLOCK = 1 << 20
_REFUSED = (401, 403, 404)


@dataclass(frozen=True)
class File:
    """A file of the weights."""

    path: str
    """Inside the repository, or its address."""
    name: str
    """On the volume."""
    sha256: str


@dataclass(frozen=True)
class Weights:
    """Which files, and where they come from."""

    key: str
    """The hash of the digests of the files."""
    files: Sequence[File]
    repo: str | None = None
    """Repository of the hub; None for files with a URL."""
    revision: str | None = None
    size: int | None = None
    """Bytes of all."""
    secret: str | None = None
    """Name of the Modal secret with the token of the hub."""


def fetch_weights(weights: Weights, volume: Volume) -> dict[str, str]:
    """Put the pinned files on the volume; what is complete stays as it is.

    The folder is named by content: another source may give its files other names, and
    what was fetched under one name is then copied to the other.
    """
    target = volume.folder / "weights" / weights.key
    if is_complete(target) and all(
        (target / it.name).is_file() for it in weights.files
    ):
        print(f"{target} is complete already", flush=True)
        return about(target)
    target.mkdir(parents=True, exist_ok=True)
    arriving = volume.folder / "arriving" / weights.key
    arriving.mkdir(parents=True, exist_ok=True)
    with progress(weights.size or 0, target, arriving), room():
        held = {sha256_of(path): path for path in target.iterdir() if path.is_file()}
        for file in weights.files:
            place = target / file.name
            if held.get(file.sha256) == place:
                continue
            if file.sha256 in held:
                shutil.copyfile(held[file.sha256], place)
                print(f"{file.name} is there as {held[file.sha256].name}", flush=True)
                continue
            by_address = weights.repo is None
            download = from_address if by_address else from_hub
            arrived = download(weights, file, arriving)
            found = sha256_of(arrived)
            if found != file.sha256:
                arrived.unlink()
                raise RuntimeError(
                    f"{file.name} is not the pinned file: its sha256 is {found}"
                )
            arrived.replace(place)
            print(f"{file.name} is there and verified", flush=True)
            # What is there stays, also when a later file fails.
            volume.commit()
    shutil.rmtree(arriving)
    return volume.complete(target, weights.revision or weights.files[0].path)


def from_hub(weights: Weights, file: File, arriving: Path) -> Path:
    """Download a file of the hub; what an earlier run got of it is used."""
    # Bars that redraw themselves make a log unreadable; `progress` prints lines.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    # Of the container's image, and it reads its settings when it is imported.
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    try:
        path = hf_hub_download(
            str(weights.repo), file.path, revision=weights.revision, local_dir=arriving
        )
    except HfHubHTTPError as error:
        if error.response.status_code not in _REFUSED:
            raise
        raise RuntimeError(_refusal(weights)) from error
    return Path(path)


def from_address(weights: Weights, file: File, arriving: Path) -> Path:
    """Download a file; what an earlier run got of it is used."""
    del weights
    part = arriving / file.name
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(file.path, headers={"Range": f"bytes={have}-"})
    try:
        answer = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        # All of it is there already: an earlier run ended before it was verified.
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return part
        raise
    with answer:
        # A server that knows no ranges sends the whole file again.
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        whole = int(answer.headers["Content-Length"]) + (have if goes_on else 0)
        with part.open("ab" if goes_on else "wb") as stream:
            shutil.copyfileobj(answer, stream, _BLOCK)
    if part.stat().st_size < whole:
        raise ConnectionError(f"{file.name} was cut off; another run goes on from here")
    return part


@contextmanager
def progress(size: int, *folders: Path) -> Iterator[None]:
    """While a block runs, print every ten seconds how much has arrived."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(10):
            arrived = 0
            for path in (path for folder in folders for path in folder.rglob("*")):
                # A file may be moved to its place between the listing and the look.
                with suppress(FileNotFoundError):
                    arrived += path.stat().st_size
            print(f"{arrived / 1e9:.1f} GB of {size / 1e9:.1f} GB", flush=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _refusal(weights: Weights) -> str:
    repo = weights.repo
    refused = f"the hub does not hand out {repo}: it is not there, private, or its "
    if weights.secret is not None:
        return (
            f"{refused}terms were not accepted by the owner of the token in the Modal"
            f" secret {weights.secret}.  Open https://huggingface.co/{repo}, accept"
            " them there, and look at `HF_TOKEN` in the secret."
        )
    return (
        f"{refused}terms have to be accepted.  Accept them at"
        f" https://huggingface.co/{repo}, then `modal secret create huggingface"
        " HF_TOKEN=…`, and write `hub_secret: huggingface` under `model:` of the stack."
    )
