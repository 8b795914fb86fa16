"""Where an engine finds the things of a stack, its API keys, and how a server looks.

Every plan imports this; the contract of an engine only what asks one.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deployer.errors import UsageError
from deployer.stack.project_root import allowed_in, how_to_allow, leads_out
from deployer.system.files import read_regular

_MOST = 1 << 20
"""Bytes of an `.env`."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Looks keys up: in the environment, else in `.env` beside the stack.

    Only the variable that is asked for is taken from the file, which may have come
    with a pull request: no other variable of it reaches anything.
    """

    environment: Mapping[str, str]
    file: Path | None = None
    """The `.env`; None where there is no stack."""

    def get(self, name: str) -> str | None:
        """The key in a variable; raises UsageError for a file that cannot be read."""
        if name in self.environment or self.file is None:
            return self.environment.get(name)
        if leads_out(self.file, allowed_in(self.environment)):
            raise UsageError(
                f"`{self.file}` is a link out of the project",
                hint=f"run `export {name}=…`; or {how_to_allow(self.file)}",
            )
        try:
            content = read_regular(self.file, _MOST)
        except FileNotFoundError:
            return None
        except OSError as error:
            why = (error.strerror or "unknown trouble").lower()
            raise UsageError(
                f"`{self.file}` cannot be read: {why}", hint=f"or run `export {name}=…`"
            ) from error
        from dotenv import dotenv_values  # noqa: PLC0415 - only where there is one

        # Not interpolated: `${NAME}` would read any variable of the environment.
        text = io.StringIO(content.decode("utf-8", errors="replace"))
        return dotenv_values(stream=text, interpolate=False).get(name)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an engine keeps and finds things; picked by the app alone."""

    home: Path
    """The artefact store and the run directories."""
    folder: Path
    """Folder of the stack file; relative paths in it start here."""
    environment: Mapping[str, str]
    keys: Keys
    """API keys, by the variables that stacks name."""
    patches: Path
    """Folder of the patches that a build from source may name."""


class Look(StrEnum):
    """What a plan sees of a live server; an engine observes more."""

    ANSWERS = "answers"
    SILENT = "runs, but did not answer `/health` with 200 within 2 s"
    GONE = "does not run"
    UNSEEN = "was not looked at"
