"""Chat templates: those of the source tree, a file of the user's, built-in ones."""

import re
from pathlib import Path
from typing import Final

from deployer.core.forms import is_file_name
from deployer.core.spelling import did_you_mean, one_of
from deployer.engines.local.program import run_server
from deployer.errors import EngineError

OPTION: Final = "--chat-template"
FILE_ENDING: Final = ".jinja"
"""What tells a file of the user's from a name."""

_BUILT_IN = re.compile(r"list of built-in templates:(?P<names>[^(]*)", re.DOTALL)


def with_template(words: list[str], server: Path, folder: Path) -> list[str]:
    """The argument list with the template it names, as the option that takes it.

    A name ending in ``.jinja`` is a file relative to ``folder``; else it is a template
    that was kept beside the build, or one that is built into llama-server.  Raises
    EngineError where it is none of these, with the nearest names.
    """
    if OPTION not in words:
        return words
    from deployer.llama.compile import TEMPLATES  # noqa: PLC0415 - rarely needed

    at = words.index(OPTION)
    name = words[at + 1]
    kept = server.parent.parent / TEMPLATES
    if name.endswith(FILE_ENDING):
        file = folder / name
    elif is_file_name(name) and (kept / f"{name}{FILE_ENDING}").is_file():
        file = kept / f"{name}{FILE_ENDING}"
    else:
        _refuse_unknown(name, server, kept)
        return words
    if not file.is_file():
        raise EngineError(f"there is no chat template `{file}`")
    return [*words[:at], f"{OPTION}-file", str(file), *words[at + 2 :]]


def _refuse_unknown(name: str, server: Path, kept: Path) -> None:
    """Raise EngineError unless llama-server lists the name in its help."""
    built_in = _BUILT_IN.search(run_server((str(server), "--help"), {}).stdout)
    names = re.findall(r"[\w.-]+", built_in["names"]) if built_in else []
    if name in names:
        return
    names += [file.stem for file in sorted(kept.glob(f"*{FILE_ENDING}"))]
    raise EngineError(
        f"there is no chat template `{name}` in this build",
        hint=did_you_mean(name, names) or f"there is {one_of(sorted(names))}",
    )
