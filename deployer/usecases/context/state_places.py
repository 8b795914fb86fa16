"""Which bucket a project file may name: what the environment or the base says.

A checkout may be a stranger's.  What it names gets requests that carry the cloud's
credentials, and answers what is deployed, so a bucket is believed only where the
environment allows it, or where the revision that the work is based on names the same.
"""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from deployer.errors import DeployerError, UsageError
from deployer.stack.fields.model import StateOptions
from deployer.stack.load import load_project, project_in
from deployer.stack.project_root import allowed_in, how_to_allow, may_read, root_of
from deployer.state import KEPT
from deployer.state.places import StatePlace, place_at
from deployer.usecases.context.git import commit_of, content_at, merge_base

ALLOW_STATE = "DEPLOYER_ALLOW_STATE"
"""Places for states, separated by commas, that a project file may name."""

_SERVICES: Mapping[str, tuple[str, str, str]] = {
    "GITHUB_ACTIONS": ("GITHUB_BASE_REF", "GITHUB_REF_PROTECTED", "GITHUB_SHA"),
    "GITLAB_CI": (
        *("CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "CI_COMMIT_REF_PROTECTED"),
        "CI_COMMIT_SHA",
    ),
}
"""Variables: target of a pull request, whether a branch is protected, its commit."""


def refuse_unknown(
    place: StatePlace,
    options: StateOptions,
    file: Path,
    environment: Mapping[str, str],
    revision: str,
) -> None:
    """Raise UsageError for a bucket that neither the environment nor the base names.

    ``revision`` is what the work is compared with, where the user names it.
    """
    if any(_covers(allowed, place) for allowed in _allowed(environment)):
        return
    plain = urlsplit(options.endpoint or "").scheme == "http"
    if not plain and any(
        _same_place(options, then) for then in _bases(file, environment, revision)
    ):
        return
    url = StatePlace(place.scheme, place.where, place.options).url
    raise UsageError(
        f"`{file}` names `{url}` for the states, which this environment does not"
        " allow: a checkout does not decide where credentials go",
        hint=f"if your states are there: `export {ALLOW_STATE}={shlex.quote(url)}`",
    )


def _allowed(environment: Mapping[str, str]) -> Iterator[StatePlace]:
    for url in environment.get(ALLOW_STATE, "").split(","):
        if url.strip():
            yield place_at(url.strip())


def _covers(allowed: StatePlace, place: StatePlace) -> bool:
    """Return whether a place is, or lies below, the allowed one, on the same server.

    The region decides nothing but which server of the same cloud is asked.
    """
    above, parts = allowed.where.split("/"), place.where.split("/")
    return (
        allowed.scheme == place.scheme
        and parts[: len(above)] == above
        and _endpoint(allowed) == _endpoint(place)
    )


def _endpoint(place: StatePlace) -> str:
    return place.options.get("endpoint", "").rstrip("/")


def _same_place(now: StateOptions, then: StateOptions | None) -> bool:
    return then is not None and now.model_copy(update={"keep": then.keep}) == then


def _bases(
    file: Path, environment: Mapping[str, str], revision: str
) -> Iterator[StateOptions | None]:
    """Yield what the project file says at the revisions that the work is based on."""
    for commit in _commits(file.parent, environment, revision):
        if commit is not None and (content := content_at(commit, file)) is not None:
            with suppress(DeployerError, UnicodeDecodeError):
                yield project_in(content.decode(), str(file)).state


def _commits(
    folder: Path, environment: Mapping[str, str], revision: str
) -> Iterator[str | None]:
    """Where the work left what the user names, or the branch that it is to go to.

    A run of GitHub or GitLab that is for no pull request is based on its own commit,
    where its branch is protected.
    """
    if revision:
        yield merge_base(folder, revision)
    for service, (target, protected, commit) in _SERVICES.items():
        if environment.get(service) != "true":
            continue
        if branch := environment.get(target):
            yield merge_base(folder, f"refs/remotes/origin/{branch}")
        elif environment.get(protected) == "true":
            yield commit_of(folder, environment.get(commit, ""))


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
