"""Running git as nobody's: no settings of the user, no repository around the folder."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployer.children import GIT, find_program, variables
from deployer.errors import SourceError

_HINT = "install it: `apt install git`, `brew install git`"


def run_git(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    given: str | None = None,
    own_settings: bool = False,
) -> "subprocess.CompletedProcess[str]":
    """Run git inside ``folder``; the caller judges how it ended.

    git takes no repository above ``folder`` for its own: inside one, `git apply`
    would skip every file without an error.  With ``own_settings`` the user's
    configuration counts (credentials, proxies, mirrors).  Raises SourceError where
    there is no git.
    """
    git = find_program("git", environment)
    if git is None:
        raise SourceError("there is no `git` on this machine", hint=_HINT)
    plain = {} if own_settings else _unset()
    ceilings = {str(folder.absolute().parent), str(folder.resolve().parent)}
    return subprocess.run(  # noqa: S603 - a list, and no shell
        [git, *arguments],
        cwd=folder,
        env={
            **variables(environment, *GIT),
            **plain,
            "GIT_CEILING_DIRECTORIES": os.pathsep.join(sorted(ceilings)),
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        },
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def _unset() -> dict[str, str]:
    return {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
