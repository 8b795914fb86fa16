"""Reports of gates: kept as long as their release, and a few of other runs."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deployer.planning.state import State
from deployer.planning.verdict import Verdict
from deployer.system.contained import contained
from deployer.usecases.context.settings import utc_now

PAGE: Final = "report.html"
KEPT_RUNS: Final = 10
"""Reports kept of runs that led to no release: held back, or judged again."""
_RELEASE: Final = "release-"


def keep_report(
    home: Path, before: State, after: State, verdicts: Sequence[Verdict], plan: str
) -> Path | None:
    """Write what the gates saw, and remove what is not kept any more; the page to read.

    ``before`` and ``after`` are the states around the run: a new release has its report
    under its number.
    """
    if not verdicts:
        return None
    from deployer.gates.harness.report import write_report  # noqa: PLC0415 - only with gates

    now = utc_now()
    name, title = f"{now.replace(':', '')}-{plan}", f"{after.stack}: gates"
    if after.released > before.released:
        name = f"{_RELEASE}{after.released}"
        title = f"{after.stack}: gates of release {after.released}"
    about = f"plan {plan} on {after.engine}, {now[:16].replace('T', ' ')} UTC"
    folder = folder_of(home, after)
    page = write_report(verdicts, folder / name, title=title, about=about)
    _prune(folder, after)
    return page


def report_of(home: Path, state: State, number: int) -> Path | None:
    """The page of a kept release, if there is one."""
    page = folder_of(home, state) / f"{_RELEASE}{number}" / PAGE
    return page if page.is_file() else None


def folder_of(home: Path, state: State) -> Path:
    """Names of stacks are unique in a folder only, lineages everywhere."""
    reports = home / "reports"
    return contained(reports, reports / f"{state.stack}-{state.lineage[:6]}")


def _prune(folder: Path, state: State) -> None:
    kept = {f"{_RELEASE}{release.number}" for release in state.releases}
    names = sorted(path.name for path in folder.iterdir())
    runs = [name for name in names if not name.startswith(_RELEASE)]
    for name in names:
        if name not in kept and name not in runs[-KEPT_RUNS:]:
            shutil.rmtree(contained(folder, folder / name), ignore_errors=True)
