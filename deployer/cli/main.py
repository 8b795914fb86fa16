"""The `deployer` command: commands are imported when they are called."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, cast

import click
from click.core import ParameterSource

from deployer import __version__, version_line
from deployer.cli.terminal import choose_colour, escape_streams
from deployer.system import files, interrupts

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Everyday": {
        "init": ("tools", "Write a stack file to start from."),
        "adopt": ("tools", "Write stacks from what starts llama-server now."),
        "validate": ("planning", "Check stack files, offline."),
        "plan": ("planning", "Show what `apply` would change, and why."),
        "apply": ("applying", "Carry out the plan: make, prove with gates, promote."),
        "status": ("releases", "Show what is live and its condition."),
        "drift": ("planning", "Report drift between the state and what runs."),
        "rollback": (
            "applying",
            "Promote an earlier release again, after its gates pass.",
        ),
        "destroy": ("applying", "Stop and remove what runs."),
    },
    "A live server": {
        "check": ("checking", "Run gates against a running server."),
        "watch": ("serving", "Probe a live stack, warm and after idle."),
        "logs": ("serving", "Print the log of the live server."),
        "chat": ("clients", "Chat with a live stack in the terminal."),
        "server": (
            "serving",
            "Start, stop, restart, scale and keep up the live server.",
        ),
    },
    "Releases": {
        "history": ("releases", "List what was done to a stack, by whom and why."),
        "report": ("releases", "Report on stacks, releases, gates and latency."),
    },
    "Stacks, builds and models": {
        "lock": ("planning", "Pin what stacks name, in their lock files."),
        "fetch": ("artefacts", "Fetch or build llama-server, fetch weights."),
        "render": (
            "fitting",
            "Show the apps, the command line or clients of a stack.",
        ),
        "fit": ("fitting", "Show whether a model fits, and on which GPU."),
        "upgrade": ("fitting", "Show what another build means for a stack."),
        "explain": ("explain", "Explain a known issue, option, gate or model."),
    },
    "When something is wrong": {
        "doctor": ("checking", "Report what is wrong, why, and what to do."),
        "bisect": ("fitting", "Find the build that made a gate fail."),
        "store": ("artefacts", "List, verify and clean the artefact store."),
        "state": ("states", "Show, move and repair recorded states."),
    },
}
"""Every command by group: the module of `deployer.cli` that has it, its short help."""

TOOLS: Mapping[str, tuple[str, str]] = {
    "completion": ("tools", "Print the completion script of a shell."),
    "lsp": ("tools", "Answer an editor, by the Language Server Protocol."),
    "schema": ("tools", "Print a JSON schema: of stacks, or of events."),
}
"""Commands that editors and shells call; the help names them in one line."""

SECTIONS = {**GROUPS, "Editors and shells": TOOLS}
"""Every command by group, with those that the help names in one line."""
COMMANDS: Mapping[str, tuple[str, str]] = {
    name: command for group in SECTIONS.values() for name, command in group.items()
}

ALIASES: Mapping[str, tuple[str, ...]] = {
    "up": ("apply",),
    "preview": ("plan",),
    "down": ("destroy",),
    "refresh": ("drift",),
    "start": ("server", "start"),
    "stop": ("server", "stop"),
    "restart": ("server", "restart"),
    "run": ("server", "run"),
    "scale": ("server", "scale"),
    "hold": ("state", "hold"),
}
"""Names that people type first, as other tools have them; not in the help."""


def _shared() -> list[click.Option]:
    """Return the options that every command takes, before and behind its name."""
    return [
        click.Option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            expose_value=False,
            callback=_colour,
            help="Colour the output; NO_COLOR and FORCE_COLOR say the same.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=_level,
            help="Print results and errors only.",
        ),
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            callback=_level,
            help="Print more: every gate of a plan.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            help="Show the traceback of an error.",
        ),
    ]


def _colour(context: click.Context, _option: click.Parameter, mode: str) -> None:
    if context.get_parameter_source("color") is ParameterSource.COMMANDLINE:
        choose_colour(mode)


def _level(context: click.Context, option: click.Parameter, given: object) -> None:
    if given and option.name is not None:
        context.meta[f"deployer.{option.name}"] = True


def _with_shared(command: click.Command) -> click.Command:
    """Let a command, and those below it, take the options that all take."""
    known = {name for option in command.params for name in option.opts}
    for option in _shared():
        if not known & {*option.opts}:
            option.hidden = True
            command.params.append(option)
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _with_shared(below)
    return command


class _Lazy(click.Group):
    """A group that imports a command only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are usually needed."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; raises UsageError where there is none."""
        cmd_name, *below = ALIASES.get(cmd_name, (cmd_name,))
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # a shell asks for completions
                return None
            from deployer.errors import UsageError  # noqa: PLC0415 - only on trouble
            from deployer.spelling import did_you_mean, shown  # noqa: PLC0415 - as above

            raise UsageError(
                f"there is no command `{shown(cmd_name)}`",
                hint=did_you_mean(cmd_name, COMMANDS)
                or "`deployer --help` lists the commands",
            )
        module, _ = COMMANDS[cmd_name]
        name = cmd_name.replace("-", "_")
        found = import_module(f"deployer.cli.commands.{module}")
        command = cast("click.Command", getattr(found, f"{name}_command"))
        for word in below:
            command = cast("click.Group", command).commands[word]
        return _with_shared(command)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; where its results are one JSON object, print that."""
        error = None
        try:
            return super().invoke(ctx)
        except BaseException as raised:
            error = raised
            raise
        finally:
            if ctx.meta:
                from deployer.cli.output import end_json  # noqa: PLC0415 - not for `--help`

                end_json(ctx, error)

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """Write every command with its short help, by group, in one column."""
        del ctx
        widest = max(map(len, COMMANDS))
        for title, group in GROUPS.items():
            with formatter.section(title):
                rows = [(f"{n:<{widest}}", told) for n, (_, told) in group.items()]
                formatter.write_dl(rows)
        formatter.write_paragraph()
        formatter.write_text(f"For editors and shells: {', '.join(TOOLS)}.")

    def shell_complete(
        self, ctx: click.Context, incomplete: str
    ) -> "list[CompletionItem]":
        """The commands and options that begin so."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - a shell

        options = click.Command.shell_complete(self, ctx, incomplete)
        begun = [name for name in COMMANDS if name.startswith(incomplete)]
        return [*(CompletionItem(n, help=COMMANDS[n][1]) for n in begun), *options]


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"]},
    params=_shared(),
)
@click.version_option(__version__, message=version_line())
def main() -> None:
    """Plan and apply for llama.cpp servers.

    A stack file says how a model is served; `plan` says what would change and why,
    `apply` does it, proves it with gates and promotes it.

    \b
    Example:
      deployer plan stacks/demo.yaml
      deployer apply stacks/demo.yaml
    """


def run() -> int:
    """Run the command line; returns the exit code that `deployer.errors` lists."""
    debug = "--debug" in sys.argv or bool(os.environ.get("DEPLOYER_DEBUG"))
    files.keep_private()
    _open_closed()
    escape_streams()
    try:
        interrupts.raise_from_now()
        code = main(prog_name="deployer", standalone_mode=False)
    except click.exceptions.Exit as stop:
        code = stop.exit_code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, it is told
        interrupts.ignore()
        from deployer.cli.print_error import tell  # noqa: PLC0415 - only on trouble

        code = tell(error, debug=debug)
    return code if isinstance(code, int) else 0


def _open_closed() -> None:
    """Lead nowhere what the caller closed (`>&-`): a file opened next would be it."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            nowhere = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - stays open
            setattr(sys, name, nowhere)
