"""Keeping what a whole run said, for the next one that would say the same.

See `deployer.answers`: only what is plainly so is kept, every doubt is left to the full
run.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from deployer.answers.inputs import (
    ABSENT,
    KIND,
    REAL,
    STACKS,
    STAMP,
    TEXT,
    WRITABLE,
    Input,
    look,
    unchanged,
)
from deployer.answers.kept import keep
from deployer.app.planning import Planned
from deployer.app.settings import Settings
from deployer.core.resources import Kind
from deployer.engines import signs_of_life
from deployer.load.roots import ALLOW_OUTSIDE, project_file


class SaidPlans:
    """What a plan of several stacks says, put together stack by stack.

    Of each only the text and what it came from stay: a plan is larger.
    """

    def __init__(self, call: tuple[str, ...], settings: Settings) -> None:
        """``call`` is what was typed, where the next one may be answered by this."""
        self._call, self._settings = call, settings
        self._inputs: dict[Input, None] = {}
        self._texts: list[str] = []

    def add(self, stack_file: Path, planned: Planned, text: str) -> None:
        """The next stack; one that is about more than files ends it."""
        if not self._call:
            return
        try:
            found = _inputs(stack_file, planned, self._settings)
        except OSError:
            found = ()
        if not found:
            self._call = ()
        self._inputs.update(dict.fromkeys(found))
        self._texts.append(text)

    def keep(self) -> None:
        """Keep it, once every stack was told."""
        if not self._call:
            return
        paths = self._call[1:]
        found: list[Input] = [(how, path) for path in paths for how in (KIND, REAL)]
        found += [(STACKS, path) for path in paths if Path(path).is_dir()]
        with suppress(OSError):
            said = "".join(self._texts)
            _keep(self._call, self._settings, [*found, *self._inputs], said)


def remember_apply(
    call: tuple[str, ...],
    settings: Settings,
    stack_file: Path,
    planned: Planned,
    text: str,
) -> None:
    """Keep what an apply said that had nothing to do, and found the server well."""
    with suppress(OSError):
        _remember_apply(call, settings, stack_file, planned, text)


def _remember_apply(
    call: tuple[str, ...],
    settings: Settings,
    stack_file: Path,
    planned: Planned,
    text: str,
) -> None:
    inputs, server = _inputs(stack_file, planned, settings), planned.state.server
    if not inputs or server is None or not planned.plan.is_empty:
        return
    if any(it.kind is Kind.SNAPSHOT for it in planned.state.live.values()):
        return  # what an image depends on is too much for a look
    folder = Path(settings.state_place(stack_file).where)
    place = settings.place(stack_file)
    signs = (
        ((KIND, str(folder / f"{planned.plan.stack}.lock")), ABSENT),
        ((WRITABLE, str(folder)), "yes"),
        *signs_of_life(planned.plan.engine, server, place),
    )
    well = len(signs) > 2 and all(look(*sign) == word for sign, word in signs)
    if well:
        _keep(call, settings, [*inputs, *(sign for sign, _ in signs)], text)


def _inputs(
    stack_file: Path, planned: Planned, settings: Settings
) -> tuple[Input, ...]:
    """What a plan depends on; nothing where it is about more than files."""
    prepared, state = planned.prepared.inputs, planned.state
    unusual = planned.facts, planned.plan.drift, state.loose, state.promoting
    frozen = any(it.kind is Kind.SNAPSHOT for it in state.live.values())
    if not prepared or any(unusual) or frozen:  # an image may be gone
        return ()
    stored = _state_inputs(stack_file, settings, planned.plan.stack)
    return (*prepared, *stored) if stored else ()


def _state_inputs(
    stack_file: Path, settings: Settings, stack: str
) -> tuple[Input, ...] | None:
    """What decides about the state; None where that is not on this machine."""
    place = settings.state_place(stack_file)
    if place.scheme != "file":
        return None
    folder = Path(place.where)
    state = folder / f"{stack}.state.json"
    stored = settings.states(stack_file, stack).read()
    allowed = settings.environment.get(ALLOW_OUTSIDE, "").split(os.pathsep)
    found = [
        (TEXT, str(state)),
        (REAL, str(state)),
        (REAL, str(folder)),
        *((REAL, str(Path(name).expanduser())) for name in allowed if name),
    ]
    if (project := project_file(stack_file)) is not None:  # else its absence is known
        found.append((TEXT, str(project)))
    if stored is None:
        found.append((STAMP, str(folder / "history" / stack)))
    elif stored.file != stack_file.name:
        other = stack_file.with_name(Path(stored.file or stack_file.name).name)
        found.append((KIND, str(other)))
    return tuple(found)


def _keep(
    call: tuple[str, ...], settings: Settings, found: Sequence[Input], text: str
) -> None:
    inputs = tuple(dict.fromkeys(found))
    if unchanged(inputs, settings.begun):
        keep(call, dict(settings.environment), inputs, text)
