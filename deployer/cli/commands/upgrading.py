"""upgrade: what another build means for a stack, and the change to its files."""

from collections.abc import Iterator
from pathlib import Path

import click

from deployer.cli.options import json_option, stack_argument
from deployer.cli.output import json_head, json_line, wrapped
from deployer.planning.progress import unwatched
from deployer.show.text import plan_text
from deployer.stack.fields.values import JsonValue
from deployer.stack.notices import notice_lines
from deployer.usecases.context.options import Options
from deployer.usecases.context.settings import settings_of
from deployer.usecases.plan import plan
from deployer.usecases.upgrade.builds import Upgrade, Wanted, upgrade, write


@click.command("upgrade", short_help="Say what another build means for a stack.")
@stack_argument
@click.option("--to", required=True, metavar="TAG", help="The build, or `latest`.")
@click.option("--write", "writes", is_flag=True, help="Change the files, then plan.")
@click.option(
    "--tree", is_flag=True, help="Fetch the source of the build to judge patches."
)
@json_option
def upgrade_command(
    stack: Path, to: str, *, writes: bool, tree: bool, as_json: bool
) -> None:
    """Say what another build means for a stack: patches, options, API, traps.

    Nothing is changed without `--write`, which edits the files in place and keeps
    their comments.  `--to latest` asks the repository of the stack; everything else
    works offline.  An older build works as well.

    \b
    Example:
      deployer upgrade stacks/prod.yaml --to b11434
      deployer upgrade stacks/prod.yaml --to b11434 --write
    """
    settings = settings_of()
    found = upgrade(stack, settings, Wanted(to, with_tree=tree), unwatched)
    if writes:
        write(found)
    if as_json:
        json_head()
        json_line(_data(found, written=writes))
        return
    for line in _lines(found):
        click.echo(line)
    if not found.files:
        click.echo("nothing to change in the files")
    elif not writes:
        click.echo("nothing is written: `--write` changes the files as shown")
    if writes:
        for file in found.files:
            click.echo(f"wrote {file.path}")
        click.echo("")
        planned = plan(stack, settings, Options())
        click.echo(plan_text(planned.plan, planned.places), nl=False)
        for line in notice_lines(planned.prepared.notices):
            click.echo(line)


def _lines(found: Upgrade) -> Iterator[str]:
    yield f"{found.stack}: {found.old} → {found.new}"
    topics = dict.fromkeys(line.topic for line in found.lines)
    for topic in topics:
        yield ""
        yield topic
        for line in found.lines:
            if line.topic == topic:
                yield from wrapped(f"  {line.sign} ", line.text)
                if line.hint:
                    yield from wrapped("      ", line.hint)
    yield ""
    for file in found.files:
        yield from file.diff.splitlines()
        yield ""


def _data(found: Upgrade, *, written: bool) -> dict[str, JsonValue]:
    return {
        "type": "upgrade",
        "stack": found.stack,
        "old": found.old,
        "new": found.new,
        "lines": [
            {"topic": n.topic, "sign": n.sign, "text": n.text, "hint": n.hint}
            for n in found.lines
        ],
        "files": [{"path": str(f.path), "diff": f.diff} for f in found.files],
        "written": written and bool(found.files),
    }
