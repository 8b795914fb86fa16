"""report: what is recorded of stacks, as one page."""

from pathlib import Path

import click

from deployer.artefacts.disk import guarded, replace_file
from deployer.cli.options import json_option
from deployer.cli.output import json_head, json_line
from deployer.errors import DeployerError, UsageError
from deployer.show.overview import Overview, overview_data
from deployer.spelling import harmless
from deployer.system.file_modes import users_mode
from deployer.usecases.context.settings import settings_of

_STACKS = Path("stacks")


@click.command("report", short_help="One page of stacks, releases, gates, latency.")
@click.argument(
    "paths",
    type=click.Path(path_type=Path, exists=True),
    nargs=-1,
    metavar="[PATH]…",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("deployer-report.html"),
    show_default=True,
    metavar="FILE",
    help="Where to write the page.",
)
@click.option("--open", "look", is_flag=True, help="Show it in the browser.")
@json_option
def report_command(
    paths: tuple[Path, ...], out: Path, *, look: bool, as_json: bool
) -> None:
    """Write one page of stacks, their releases, gates, latency and cost.

    It tells what is recorded, and asks no server: states, what runs led to, what
    `watch` saw.  Without a PATH of the folder `stacks`.  With --json no page is
    written.  A stack that cannot be read says so on the page, and the command exits
    1 once that is written.

    \b
    Example:
      deployer report stacks --out report.html --open
    """
    from deployer.usecases.history.collect import overviews  # noqa: PLC0415 - only here

    settings = settings_of()
    named = paths or (_STACKS if _STACKS.is_dir() else Path(),)
    found = tuple(overviews(named, settings))
    broken = [it for it in found if it.error]
    if as_json:
        _print(found)
    else:
        from deployer.usecases.context.settings import utc_now  # noqa: PLC0415 - as above
        from deployer.usecases.history.page import page  # noqa: PLC0415 - slow to import

        _write(out, page(found, utc_now()))
        click.echo(f"wrote {out}: {len(found)} stack{'s' * (len(found) != 1)}")
    for one in broken:
        click.echo(harmless(f"{one.file}: error: {one.error}"), err=True)
    if look and not as_json:
        click.launch(str(out))
    if broken:
        raise click.exceptions.Exit(DeployerError.exit_code)


def _print(found: tuple[Overview, ...]) -> None:
    json_head()
    for one in found:
        json_line({"type": "stack", **overview_data(one)})
    broken = sum(bool(one.error) for one in found)
    json_line({"type": "summary", "stacks": len(found), "not_readable": broken})


def _write(out: Path, text: str) -> None:
    """Replace the page, whole or not at all; raises UsageError where that fails."""
    try:
        with guarded(out.parent):
            replace_file(out, text.encode(), mode=users_mode())
    except OSError as error:
        raise UsageError(f"cannot write `{out}`: {error.strerror}") from error
