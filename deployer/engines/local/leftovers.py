"""Run folders that no state names and no process lives in: logs, and what was left."""

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from deployer.engines.local.folders import KEY_LENGTH, run_folders
from deployer.engines.local.holders import holder_of
from deployer.engines.local.supervise.guard import guard_of
from deployer.engines.local.supervise.process import is_alive
from deployer.engines.local.supervise.resident import recorded
from deployer.system.contained import contained


def unused_runs(
    home: Path, needed: Collection[str], held: Mapping[Path, int]
) -> tuple[Path, ...]:
    """Return the run folders of all stacks that no key of a state stands for."""
    names = {key[:KEY_LENGTH] for key in needed}
    found = (run for stack in run_folders(home / "run") for run in run_folders(stack))
    return tuple(
        run for run in found if run.name not in names and not _lives(run, held)
    )


def ended_runs(stack_folder: Path, held: Mapping[Path, int]) -> Iterator[Path]:
    """Yield the run folders of a stack that no process lives in."""
    yield from (run for run in run_folders(stack_folder) if not _lives(run, held))


def remove_runs(runs: Iterable[Path]) -> None:
    """Remove run folders with their logs, and the folder of a stack with the last."""
    for run in runs:
        shutil.rmtree(contained(run.parents[1], run), ignore_errors=True)
        with suppress(OSError):  # another server of the stack has its folder there
            run.parent.rmdir()


def _lives(run: Path, held: Mapping[Path, int]) -> bool:
    """Whether a process is recorded there, holds a file there, or stands for it."""
    running = recorded(run)
    if running is not None and is_alive(running):
        return True
    return guard_of(run) is not None or holder_of(run, held) is not None
