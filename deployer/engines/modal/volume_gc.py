"""What lies on the Volume and is needed by nobody any more."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from deployer.engines.modal import apps
from deployer.engines.modal.drive import Account
from deployer.engines.modal.release_files import FOLDER as RELEASES
from deployer.engines.modal.rollout import TRIED

FOLDERS: Final = ("/build", "/weights", RELEASES, TRIED, "/arriving")
"""Each holds folders that are named by a key."""


@dataclass(frozen=True, slots=True)
class Left:
    """A folder of the Volume that can go."""

    path: str
    size: int
    """Bytes."""


def unused(account: Account, needed: Collection[str]) -> tuple[Left, ...]:
    """Return what no known state needs, and no app that is deployed was made from.

    States on other machines are not known here: what they serve is seen by the tags of
    their apps, what they keep for a rollback is made again when it is asked for.
    """
    served = tuple(_served(account))
    found = []
    for folder in FOLDERS:
        for entry in account.listed(apps.VOLUME, folder) or ():
            key = PurePosixPath(entry.path).name
            live = any(key.startswith(prefix) for prefix in served)
            if key not in needed and not live:
                found.append(Left(f"/{entry.path}", _size(account, entry.path)))
    return tuple(found)


def remove(account: Account, left: Collection[Left]) -> None:
    """Remove folders from the Volume."""
    for it in left:
        account.remove(apps.VOLUME, it.path)


def _served(account: Account) -> Iterator[str]:
    """The beginnings of the keys that deployed apps carry as tags."""
    for name in account.program.deployed():
        found = account.app(name)
        tags = {} if found is None else found.tags
        for tag, value in tags.items():
            if tag.startswith("deployer-") and tag != "deployer-stack":
                yield value


def _size(account: Account, path: str) -> int:
    entries = account.listed(apps.VOLUME, path, deep=True) or ()
    return sum(entry.size for entry in entries if not entry.folder)
