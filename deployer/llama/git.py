"""Running git as nobody's: no settings of the user, no repository around the folder."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployer.errors import SourceError
from deployer.runtime.patching import PLAIN_GIT
from deployer.system.children import GIT, find_program, variables

_HINT = "install it: `apt install git`, `brew install git`"


def run_git(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    given: str | None = None,
    asked: str | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run git inside ``folder``; the caller judges how it ended.

    git takes no repository above ``folder`` for its own: inside one, `git apply`
    would skip every file without an error.  With ``asked``, the address of a
    repository, the user's configuration counts (credentials, proxies, mirrors), and
    nothing leads from the network to files.  Raises SourceError where there is no git.
    """
    git = find_program("git", environment)
    if git is None:
        raise SourceError("there is no `git` on this machine", hint=_HINT)
    plain = PLAIN_GIT if asked is None else _towards(asked)
    ceilings = {str(folder.absolute().parent), str(folder.resolve().parent)}
    return subprocess.run(  # noqa: S603 - a list, and no shell
        [git, *arguments],
        cwd=folder,
        env={
            **variables(environment, *GIT),
            **plain,
            "GIT_CEILING_DIRECTORIES": os.pathsep.join(sorted(ceilings)),
            "GIT_TERMINAL_PROMPT": PLAIN_GIT["GIT_TERMINAL_PROMPT"],
            "LC_ALL": "C",
        },
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def _towards(repo: str) -> dict[str, str]:
    """Let git speak what the address says and nothing else."""
    if not repo.startswith("file://"):
        return {"GIT_ALLOW_PROTOCOL": "https:ssh", "GIT_NO_LAZY_FETCH": "1"}
    # The longest name wins: no rewriting of the user's leads to another folder.
    return {
        "GIT_ALLOW_PROTOCOL": "file",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repo}.insteadOf",
        "GIT_CONFIG_VALUE_0": repo,
    }
