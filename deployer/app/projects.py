"""What `deployer.yaml` says, for the stacks of its project."""

import os
from pathlib import Path

from deployer.core.project import StateOptions
from deployer.load.project import load_project
from deployer.state import KEPT
from deployer.state.places import StatePlace


def state_place(file: Path, below: Path) -> StatePlace | None:
    """Where the project keeps the states of the stacks in the folder ``below``.

    None where it does not say.

    Raises StackError with everything that is wrong in the file.
    """
    options = load_project(_shown(file)).state
    if options is None:
        return None
    if options.backend == "file":
        named = options.path or ".deployer/state"
        where = str(file.parent / named)
    else:
        parts = (options.account, options.bucket, options.prefix)
        where = "/".join(part.strip("/") for part in parts if part)
    place = StatePlace(options.backend, where, _extra(options), options.keep or KEPT)
    return place.below(below)


def _extra(options: StateOptions) -> dict[str, str]:
    found = {"region": options.region, "endpoint": options.endpoint}
    return {name: value for name, value in found.items() if value is not None}


def _shown(file: Path) -> Path:
    """As people would type it, for messages."""
    here = Path.cwd()
    return Path(os.path.relpath(file, here)) if file.is_relative_to(here) else file
