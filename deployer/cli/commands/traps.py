"""traps: what is known to bite, and on which builds."""

import click

from deployer.cli.options import json_option
from deployer.cli.output import json_head, json_line, wrapped
from deployer.errors import UsageError
from deployer.llama.known.traps import NEWEST, Trap, markdown, themes, traps
from deployer.spelling import did_you_mean, shown
from deployer.stack.fields.values import JsonValue

_SIGNS = {"error": "✖", "warning": "▲", "note": "·"}


@click.command("traps", short_help="List the known traps, or explain one.")
@click.argument("trap", required=False, metavar="[ID]")
@click.option("--markdown", "as_page", is_flag=True, help="Print docs/traps.md.")
@json_option
def traps_command(trap: str | None, *, as_page: bool, as_json: bool) -> None:
    """List the known traps of llama.cpp, or explain one.

    `validate` and `plan` show those that a stack is in.

    \b
    Example:
      deployer traps
      deployer traps context-checkpoints
    """
    known = traps()
    if trap is not None and trap not in known:
        raise UsageError(
            f"there is no trap `{shown(trap)}`",
            hint=did_you_mean(trap, known) or "`deployer traps` lists them",
        )
    wanted = [known[trap]] if trap is not None else [*known.values()]
    if as_page:
        click.echo(markdown(), nl=False)
    elif as_json:
        json_head()
        for one in wanted:
            json_line(_data(one))
    elif trap is not None:
        _explain(known[trap])
    else:
        _list()


def _list() -> None:
    for theme, group in themes().items():
        click.echo(theme)
        for trap in group:
            sign = _SIGNS[trap.severity.value]
            click.echo(f"  {sign} {trap.id:<26}  {trap.builds}")
    click.echo("✖ refused  ▲ warning  · note   `deployer traps ID` explains one")


def _explain(trap: Trap) -> None:
    click.echo(f"{trap.id}: {trap.severity} on {trap.builds}")
    for word, text in (
        ("when", trap.when),
        ("happens", trap.what),
        ("write", trap.write),
        ("reference", trap.reference),
        ("ignore it", f"ignore: [{{trap: {trap.id}, reason: …}}]"),
    ):
        for line in wrapped(f"  {word:<10}  ", text):
            click.echo(line)


def _data(trap: Trap) -> dict[str, JsonValue]:
    return {
        "type": "trap",
        "id": trap.id,
        "severity": trap.severity.value,
        "since": trap.since or None,
        "until": trap.until if trap.until < NEWEST else None,
        "when": trap.when,
        "what": trap.what,
        "write": trap.write,
        "reference": trap.reference,
    }
