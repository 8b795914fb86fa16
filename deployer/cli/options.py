"""Arguments and options that several commands share."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import click

from deployer.cli.output import begin_json
from deployer.errors import UsageError
from deployer.spelling import did_you_mean, one_of, shown
from deployer.stack.fields.values import seconds


def _known_engine(
    context: click.Context, option: click.Parameter, name: str | None
) -> str | None:
    """The name of an engine; raises UsageError for others."""
    del context, option
    if name is None:
        return None
    from deployer.engines.registry import ENGINES  # noqa: PLC0415 - only where it is named

    if name not in ENGINES:
        raise UsageError(
            f"there is no engine `{shown(name)}`",
            hint=did_you_mean(name, ENGINES) or f"write {one_of(ENGINES)}",
        )
    return name


def duration(context: click.Context, option: click.Parameter, text: str) -> float:
    """The seconds of a duration; raises UsageError for what is none."""
    del context, option
    try:
        return seconds(text)
    except ValueError as error:
        raise UsageError(str(error), hint="write `90s` or `5m`") from error


Completion: TypeAlias = Callable[[click.Context, click.Parameter, str], list[str]]
"""Offers a shell the words that begin so."""


def suggest(names: Iterable[str] | Callable[[], Iterable[str]]) -> Completion:
    """Return the completion of names; a callable is asked once a shell asks."""

    def begun(
        _context: click.Context, _option: click.Parameter, text: str
    ) -> list[str]:
        every = names() if callable(names) else names
        return [name for name in every if name.startswith(text)]

    return begun


def _tags() -> list[str]:
    from deployer.llama.catalogue import known_builds  # noqa: PLC0415 - a shell asks

    return ["latest", *(f"b{build}" for build in reversed(known_builds()))]


known_tags = suggest(_tags)


def releases(context: click.Context, argument: click.Parameter, text: str) -> list[str]:
    """Return the retained releases of the stack on the command line, for a shell."""
    del argument
    from deployer.usecases.context.deployed import deployed  # noqa: PLC0415 - as above
    from deployer.usecases.context.settings import settings_of  # noqa: PLC0415 - as above

    try:
        named = context.params.get("stack")
        stack = the_stack(named=None if named is None else Path(named))
        found = deployed(stack, settings_of(), anywhere=True).state.releases
    except Exception:  # noqa: BLE001 - a shell that completes shows no error
        return []
    return [n for it in found if (n := str(it.number)).startswith(text)]


def all_stacks() -> tuple[Path, ...]:
    """Return the stacks of this folder, where none is named."""
    from deployer.usecases.context.stack_files import recognised  # noqa: PLC0415 - as above

    return recognised(Path())


def the_stack(
    context: click.Context | None = None,
    argument: click.Parameter | None = None,
    named: Path | None = None,
) -> Path:
    """Return the stack that is named, or the only one of a folder or of this one.

    Raises UsageError where there are several, or none.
    """
    del context, argument
    if named is not None and not named.is_dir():
        return named
    from deployer.usecases.context.stack_files import stack_files  # noqa: PLC0415 - as above

    found = stack_files(all_stacks() if named is None else (named,))
    where = "here" if named is None else f"in `{named}`"
    match found:
        case [one]:
            return one
        case []:
            hint = "stack files end in `.yaml`; `deployer init` writes one"
            raise UsageError(f"there is no stack {where}", hint=hint)
        case _:
            names = one_of(map(str, found[:5]))
            raise UsageError(f"there are {len(found)} stacks {where}", f"name {names}")


named_stack_argument = click.argument(
    "stack", type=click.Path(path_type=Path), metavar="STACK", callback=the_stack
)
"""For commands with further arguments, which cannot leave it out."""
stack_argument = click.argument(
    "stack",
    type=click.Path(path_type=Path),
    metavar="[STACK]",
    required=False,
    callback=the_stack,
)
stacks_argument = click.argument(
    "paths",
    type=click.Path(path_type=Path),
    nargs=-1,
    metavar="[PATH…]",
    callback=lambda _context, _argument, given: given or all_stacks(),
)
"""For commands that do the same for several; default: those of this folder."""
engine_option = click.option(
    "--engine",
    metavar="NAME",
    callback=_known_engine,
    help="Use this engine instead of the one in the stack.",
)
locked_option = click.option(
    "--locked", is_flag=True, help="Refuse to change or outdate the lock file."
)
no_cache_option = click.option(
    "--no-cache",
    "cached",
    is_flag=True,
    callback=lambda _context, _option, given: not given,
    help="Read everything again, without the cache.",
)
yes_option = click.option("--yes", "-y", is_flag=True, help="Skip the confirmation.")


def _one_object(
    context: click.Context,
    _option: click.Parameter,
    given: bool,  # noqa: FBT001 - click's
) -> bool:
    if given:
        begin_json(context)
    return given


json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    is_eager=True,
    callback=_one_object,
    help="Print one JSON object.",
)
stream_option = click.option(
    "--json", "as_json", is_flag=True, help="Stream JSON lines, one an event."
)
since_option = click.option(
    "--changed-since",
    "since",
    metavar="REV",
    help="Only stacks that resolve differently than at this git revision.",
)
lock_timeout_option = click.option(
    "--lock-timeout",
    envvar="DEPLOYER_LOCK_TIMEOUT",
    callback=duration,
    default="0s",
    metavar="TIME",
    help="Wait this long for the lock of another run, for example `10m`.",
)


def _keep_message(_context: click.Context, _option: click.Parameter, text: str) -> None:
    """Let the history know, also where another module writes it."""
    os.environ["DEPLOYER_MESSAGE"] = text


message_option = click.option(
    "--message",
    "-m",
    envvar="DEPLOYER_MESSAGE",
    default="",
    metavar="TEXT",
    expose_value=False,
    callback=_keep_message,
    help="State why, for `deployer history`.",
)
