"""build and patches: llama-server from source."""

from pathlib import Path

import click

from deployer.cli.options import (
    engine_option,
    json_option,
    locked_option,
    stack_argument,
)
from deployer.cli.output import json_head, json_line
from deployer.cli.progress_display import Show
from deployer.llama.build.trees import Source
from deployer.llama.patches.verdicts import Outcome, PatchVerdict
from deployer.usecases.build import build, patches_over_tags
from deployer.usecases.context.options import Options
from deployer.usecases.context.settings import patches_folder, settings_of

_SIGNS = {
    Outcome.APPLY: "✔",
    Outcome.APPLIED: "✔",
    Outcome.UPSTREAM: "-",
    Outcome.NOT_APPLICABLE: "·",
    Outcome.CONFLICT: "✖",
}


@click.command("build", short_help="Put the llama-server of a stack into the store.")
@stack_argument
@engine_option
@locked_option
@click.option("--force", is_flag=True, help="Build again what is in the store.")
def build_command(
    stack: Path, engine: str | None, *, locked: bool, force: bool
) -> None:
    """Put the llama-server of a stack into the store: built, fetched or copied.

    The same source, patches and options are built once; what compilers made is kept,
    so that another patch recompiles only what it touches.

    \b
    Example:
      deployer build stacks/prod.yaml
    """
    options = Options(engine=engine, locked=locked)
    with Show(f"deployer build {stack}") as show:
        done = build(stack, settings_of(), options, show, force=force)
    click.echo(f"{done.path}\n  {done.version}")


@click.group("patches")
def patches_command() -> None:
    """Patches to llama.cpp: what each means for a build.

    \b
    Example:
      deployer patches check --tag b8672
    """


@patches_command.command("check")
@click.option("--tag", "tags", multiple=True, required=True, metavar="TAG")
@click.option("--patch", "names", multiple=True, metavar="NAME", help="Only this one.")
@click.option(
    "--source",
    type=click.Choice(["git", "pypi"]),
    default="git",
    show_default=True,
    help="Where the source trees come from.",
)
@json_option
def patches_check(
    tags: tuple[str, ...], names: tuple[str, ...], source: Source, *, as_json: bool
) -> None:
    """Try every patch on the source of every TAG; nothing is changed.

    \b
    Example:
      deployer patches check --tag b8672 --tag b8746
    """
    folder = patches_folder(Path("stacks/stack.yaml"))
    with Show("deployer patches check") as show:
        found = patches_over_tags(folder, names, tags, source, settings_of(), show)
    if as_json:
        json_head()
    conflicts = 0
    for tag, verdicts in found.items():
        for verdict in verdicts:
            conflicts += verdict.outcome is Outcome.CONFLICT
            _print(tag, verdict, as_json=as_json)
    if conflicts:
        raise click.exceptions.Exit(1)


def _print(tag: str, verdict: PatchVerdict, *, as_json: bool) -> None:
    outcome, patch = verdict.outcome, verdict.patch
    if as_json:
        json_line(
            {
                "type": "patch",
                "tag": tag,
                "patch": patch,
                "verdict": outcome.value,
                "evidence": verdict.evidence,
                "advice": verdict.advice,
            }
        )
        return
    sign = _SIGNS[outcome]
    click.echo(f"{sign} {tag:<8} {patch:<24} {outcome.value:<15} {verdict.evidence}")
    if verdict.advice:
        click.echo(f"  {'':<33} {verdict.advice}")
    if verdict.conflict is not None:
        click.echo(verdict.conflict.text)
