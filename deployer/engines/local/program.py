"""llama-server run for an answer, and not to serve."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from deployer.engines.local.supervise.process import scrubbed
from deployer.errors import EngineError
from deployer.planning.argv import TEMPLATE
from deployer.runtime.serve import with_template
from deployer.spelling import did_you_mean, one_of
from deployer.stack.fields.values import TEMPLATE_ENDING

_SECONDS: Final = 30
"""It answers in milliseconds; a hung loader must not hang us."""


def run_server(
    argv: tuple[str, ...],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run llama-server for an answer, not to serve; raises EngineError.

    ``folder`` is the working directory; for options it is that of the server.
    """
    try:
        return subprocess.run(  # noqa: S603 - no shell, and the plan's own argv
            argv,
            env={**scrubbed(os.environ), **environment},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
            start_new_session=True,  # Ctrl-C is for us to answer
        )
    except OSError as error:
        raise EngineError(
            f"`{argv[0]}` cannot be started: {error.strerror}",
            hint="it was built for another system: take a build for this one",
        ) from error
    except subprocess.TimeoutExpired:
        raise EngineError(
            f"`{argv[0]} {argv[-1]}` did not answer within {_SECONDS} s",
            hint="a driver or a network file system may hang: run it by hand",
        ) from None


_BUILT_IN: Final = re.compile(r"list of built-in templates:(?P<names>[^(]*)", re.DOTALL)


def known_template(argv: Sequence[str], server: Path) -> tuple[str, ...]:
    """Return the command line with a template of the build as the file that it is.

    Raises EngineError for a file that is not there, and for a name that is neither
    beside the build nor built into llama-server, with the nearest names.
    """
    from deployer.runtime.compile import TEMPLATES  # noqa: PLC0415 - rarely needed

    kept = server.parent.parent / TEMPLATES
    found = with_template(argv, kept)
    if TEMPLATE in found:
        _refuse_unknown(found[found.index(TEMPLATE) + 1], server, kept)
    elif f"{TEMPLATE}-file" in found:
        file = Path(found[found.index(f"{TEMPLATE}-file") + 1])
        if not file.is_file():
            raise EngineError(f"there is no chat template `{file}`")
    return tuple(found)


def _refuse_unknown(name: str, server: Path, kept: Path) -> None:
    """Raise EngineError unless llama-server lists the name in its help."""
    built_in = _BUILT_IN.search(run_server((str(server), "--help"), {}).stdout)
    names = re.findall(r"[\w.-]+", built_in["names"]) if built_in else []
    if name in names:
        return
    names += [file.stem for file in sorted(kept.glob(f"*{TEMPLATE_ENDING}"))]
    raise EngineError(
        f"there is no chat template `{name}` in this build",
        hint=did_you_mean(name, names) or f"there is {one_of(sorted(names))}",
    )
