"""Chat templates: those of the source tree, a file of the user's, built-in ones."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deployer.engines.local.program import run_server
from deployer.errors import EngineError
from deployer.planning.argv import TEMPLATE, TEMPLATE_ENDING
from deployer.runtime.serve import with_template
from deployer.spelling import did_you_mean, one_of

_BUILT_IN: Final = re.compile(r"list of built-in templates:(?P<names>[^(]*)", re.DOTALL)


def known_template(argv: Sequence[str], server: Path) -> tuple[str, ...]:
    """Return the command line with a template of the build as the file that it is.

    Raises EngineError for a file that is not there, and for a name that is neither
    beside the build nor built into llama-server, with the nearest names.
    """
    from deployer.llama.build.compile import TEMPLATES  # noqa: PLC0415 - rarely needed

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
