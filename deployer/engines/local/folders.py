"""Run folders: where the servers of a stack are found, in the state or not.

Light on purpose: a plan looks here before it imports the engine.

The writer locks the file as long as it is needed; the kernel drops the lock when the
writer dies.  So a key file without a lock was left by a run that was killed.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deployer.engines.place import Place
from deployer.planning.state import Record
from deployer.system.files import contained

FILES: Final = ".files"
"""Folder beside the run folders: the files of the stack, by their digests."""
KEY_LENGTH: Final = 16
"""Characters of a key in the name of a run folder."""
_MARK_LENGTH: Final = 6
"""Characters that distinguish stacks of one name in several folders."""


def stack_folder(home: Path, folder: Path, stack: str) -> Path:
    """Return the run folders' folder of a stack: names are unique in a folder only."""
    mark = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:_MARK_LENGTH]
    runs = home / "run"
    return contained(runs, runs / f"{stack}-{mark}")


def run_folder(record: Record, place: Place) -> Path:
    """Return where the log of a server lies, and what it is found again by."""
    stack = record.address.partition("/")[0]
    folder = stack_folder(place.home, place.folder, stack)
    return contained(folder, folder / record.key[:KEY_LENGTH])


def run_folders(stack_folder: Path) -> tuple[Path, ...]:
    """Return the run folders of a stack; none where it never ran."""
    try:
        found = (it for it in stack_folder.iterdir() if it.name != FILES)
        return tuple(sorted(it for it in found if it.is_dir()))
    except OSError:
        return ()


def may_live(stack_folder: Path) -> Iterator[str]:
    """Yield the names of run folders whose last process may still live."""
    for folder in run_folders(stack_folder):
        try:
            record = json.loads((folder / "process.json").read_bytes())
            os.kill(int(record["pid"]), 0)
        except PermissionError:  # alive, and of another user
            yield folder.name
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
        else:
            yield folder.name


def may_live_of(stack: str, place: Place) -> Iterator[str]:
    """Yield beginnings of the keys of servers of a stack that may live here."""
    return may_live(stack_folder(place.home, place.folder, stack))


NAME: Final = "api-key"
"""File in a run directory that llama-server reads its key from."""


@contextmanager
def lent(file: Path, key: str | None) -> Iterator[None]:
    """Keep a key in a file while the block runs; without a key there is none."""
    if key is None:
        yield
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{NAME}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, f"{key}\n".encode())
        draft.replace(file)
        yield
    finally:
        draft.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        os.close(descriptor)


def remove_left(stack_dir: Path) -> None:
    """Remove the key files that runs which were killed left below a stack's folder."""
    for file in stack_dir.glob(f"*/{NAME}*"):
        with suppress(OSError), file.open("rb") as stream:
            # One that is empty is not locked yet, and contains no key.
            if os.fstat(stream.fileno()).st_size:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
