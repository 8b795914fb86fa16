"""llama-server run for an answer, and not to serve."""

import os
import subprocess
from collections.abc import Mapping
from typing import Final

from deployer.engines.local.supervise.process import scrubbed
from deployer.errors import EngineError

_SECONDS: Final = 30
"""It answers in milliseconds; a hung loader must not hang us."""


def run_server(
    argv: tuple[str, ...], environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run llama-server for an answer, not to serve; raises EngineError."""
    try:
        return subprocess.run(  # noqa: S603 - no shell, and the plan's own argv
            argv,
            env={**scrubbed(os.environ), **environment},
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
