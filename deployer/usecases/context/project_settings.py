"""What `deployer.yaml` says, for the stacks of its project."""

import os
from collections.abc import Mapping
from pathlib import Path

from deployer.errors import UsageError
from deployer.stack.fields.project_fields import StateOptions
from deployer.stack.load_project import load_project
from deployer.stack.project_root import allowed_in, how_to_allow, may_read, root_of
from deployer.state import KEPT
from deployer.state.places import StatePlace
from deployer.usecases.context.state_places import refuse_unknown


def state_place(
    file: Path, below: Path, environment: Mapping[str, str], revision: str
) -> StatePlace | None:
    """Where the project keeps the states of the stacks in the folder ``below``.

    None where it does not say.

    Raises StackError with everything that is wrong in the file, and UsageError for a
    place that a project may not name, see `deployer.usecases.context.state_places`.
    """
    options = load_project(_shown(file)).state
    if options is None:
        return None
    if options.backend == "file":
        folder = file.parent / (options.path or ".deployer/state")
        if not may_read(folder, root_of(file), allowed_in(environment)):
            raise UsageError(
                f"`{_shown(file)}` keeps states in `{folder}`, outside of its project",
                hint=how_to_allow(folder),
            )
        where = str(folder)
    else:
        parts = (options.account, options.bucket, options.prefix)
        where = "/".join(part.strip("/") for part in parts if part)
    place = StatePlace(options.backend, where, _extra(options), options.keep or KEPT)
    if place.scheme != "file":
        refuse_unknown(place, options, _shown(file), environment, revision)
    return place.below(below)


def _extra(options: StateOptions) -> dict[str, str]:
    found = {"region": options.region, "endpoint": options.endpoint}
    return {name: value for name, value in found.items() if value is not None}


def _shown(file: Path) -> Path:
    """As people would type it, for messages."""
    here = Path.cwd()
    return Path(os.path.relpath(file, here)) if file.is_relative_to(here) else file
