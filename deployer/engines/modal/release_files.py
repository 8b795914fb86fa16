"""The files that a server is deployed from: rendered now, or recorded when it was.

A release is rolled back to by deploying what was deployed then, whatever a newer
deployer would render.  So the files of a promoted server are kept on the Volume,
beside the binaries and weights they name.
"""

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from deployer.engines.contract import write_files
from deployer.engines.modal import apps
from deployer.engines.modal.drive import Account
from deployer.engines.modal.literals import literal
from deployer.engines.modal.lower import (
    assets_of,
    candidate_of,
    files_of,
    lower_server,
    tryout_of,
)
from deployer.engines.modal.render import (
    CANDIDATE_FILE,
    SERVER_FILE,
    TRYOUT_FILE,
    render_server,
    render_tryout,
    runtime_files,
)
from deployer.engines.modal.rendering import contents
from deployer.planning.resources import Node
from deployer.stack.fields.values import Flat

PROMOTED: Final = "promoted.json"
FOLDER: Final = "/releases"
"""Of the Volume: a folder for each key of a server, and in it one for each stack."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A server as values, and the files that it is deployed from."""

    server: apps.Server
    files: Mapping[str, bytes]


@contextmanager
def on_disk(files: Mapping[str, bytes], name: str) -> Iterator[Path]:
    """All files in a folder of their own, and in it the one that is named."""
    with tempfile.TemporaryDirectory(prefix="deployer-") as folder:
        write_files(files, Path(folder))
        yield Path(folder) / name


def render(node: Node, needs: Mapping[str, Flat], folder: Path) -> Rendering:
    """Return what today's deployer makes of a server or of a snapshot."""
    given = contents(files_of(node, needs), folder)
    server = lower_server(node, needs, given)
    texts = {
        TRYOUT_FILE: render_tryout(tryout_of(server)),
        CANDIDATE_FILE: render_server(candidate_of(server)),
        SERVER_FILE: render_server(server),
    }
    files = {name: text.encode() for name, text in texts.items()}
    given_files = {**assets_of(node, needs, given), **runtime_files()}
    return Rendering(server, {**files, **given_files})


def recorded(account: Account, stack: str, key: str) -> Mapping[str, bytes] | None:
    """The files that the server of this key was deployed from; None: it never was.

    Two stacks with the same content have servers of the same key, and apps of their
    own: so each has a folder below that of the key.
    """
    found = _files(account, _folder(stack, key))
    if found is not None:
        return found
    # Where deployer 0.1 kept them, of whichever stack was the last.
    found = _files(account, f"{FOLDER}/{key}")
    mine = f"STACK = {literal(stack)}\n".encode()
    return found if found is not None and mine in found[SERVER_FILE] else None


def record_files(
    account: Account, stack: str, key: str, files: Mapping[str, bytes]
) -> None:
    """Keep the files of a server, in place of those of an earlier try."""
    folder = _folder(stack, key)
    account.write(
        apps.VOLUME, {f"{folder}/{name}": content for name, content in files.items()}
    )


def mark_promoted(account: Account, stack: str, key: str) -> None:
    """From here on the files of this server are what a rollback deploys."""
    account.write(apps.VOLUME, {f"{_folder(stack, key)}/{PROMOTED}": b"{}\n"})


def promoted_files(
    account: Account, stack: str, key: str
) -> Mapping[str, bytes] | None:
    """The files of a server that was promoted once; None: it never was."""
    files = recorded(account, stack, key)
    return files if files is not None and PROMOTED in files else None


def _folder(stack: str, key: str) -> str:
    return f"{FOLDER}/{key}/{stack}"


def _files(account: Account, folder: str) -> Mapping[str, bytes] | None:
    paths = _listed(account, folder)
    if SERVER_FILE not in paths:
        return None
    with ThreadPoolExecutor() as pool:  # a file takes two requests, and there are many
        read = pool.map(lambda path: account.read(apps.VOLUME, path), paths.values())
        found = dict(zip(paths, read, strict=True))
    whole = {name: content for name, content in found.items() if content is not None}
    return whole if len(whole) == len(found) else None


def _listed(account: Account, folder: str) -> Mapping[str, str]:
    """The paths of all files of a folder, by their names in it."""
    entries = account.listed(apps.VOLUME, folder, deep=True) or ()
    paths = [PurePosixPath("/") / entry.path for entry in entries if not entry.folder]
    return {path.relative_to(folder).as_posix(): str(path) for path in paths}
