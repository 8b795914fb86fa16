"""Run folders: where the servers of a stack are found, in the state or not.

Light on purpose: a plan looks here before it imports the engine.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from deployer.engines.contract import Place
from deployer.planning.state import Record
from deployer.system.contained import contained

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
        return tuple(sorted(it for it in stack_folder.iterdir() if it.is_dir()))
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
