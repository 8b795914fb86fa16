from collections.abc import Iterator

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from deployer.cli.main import ALIASES, COMMANDS, GROUPS, main
from tests.cli.project import STACK, Project


def calls() -> Iterator[str]:
    """Every command there is, and the commands of groups."""
    context = click.Context(main)
    yield ""
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        yield name
        if isinstance(command, click.Group):
            yield from (f"{name} {below}" for below in command.commands)


@pytest.mark.parametrize("call", list(calls()))
def test_help_has_an_example_that_calls_the_command(call: str) -> None:
    done = CliRunner().invoke(main, [*call.split(), "--help"])

    assert done.exit_code == 0
    example = done.output.partition("Example:\n")[2]
    assert f"  deployer {call}".rstrip() in example


NO_JSON = {
    "",
    "chat",
    "completion",
    "explain",
    "lsp",
    "schema",
    "server",
    "state",
    "store",
}
"""Groups, a conversation, and what is for programs anyway."""


@pytest.mark.parametrize("call", sorted({*calls()} - NO_JSON - {"state show"}))
def test_a_command_that_reads_or_acts_takes_json(call: str) -> None:
    assert "--json " in CliRunner().invoke(main, [*call.split(), "--help"]).output


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        (["check", "--gate"], "str", {"stream"}),
        (["explain", "trap"], "budget-z", {"budget-zero"}),
        (["explain", "gate"], "lo", {"lora"}),
        (["explain", "flag"], "no-mma", {"no-mmap"}),
        (["init", "--template"], "m", {"modal"}),
        (["upgrade", "--to"], "lat", {"latest"}),
        (["upgrade", "--to"], "b1154", {"b11549"}),
    ],
)
def test_a_shell_completes_names(
    words: list[str], begun: str, offered: set[str]
) -> None:
    shell = ShellComplete(main, {}, "deployer", "_X")
    found = {it.value for it in shell.get_completions(words, begun)}
    assert offered <= found


def test_every_command_fits_on_its_line_of_the_overview() -> None:
    done = CliRunner().invoke(main, ["--help"])

    assert "..." not in done.output.partition(f"{next(iter(GROUPS))}:")[2]


def test_the_overview_lists_few_commands() -> None:
    assert sum(map(len, GROUPS.values())) <= 26


def test_the_overview_has_groups_the_everyday_one_first() -> None:
    done = CliRunner().invoke(main, ["--help"])
    at = [done.output.index(f"\n{title}:\n") for title in GROUPS]

    assert at == sorted(at)
    assert all(f"\n  {name}  " not in done.output for name in ALIASES)


@pytest.mark.parametrize("name", ALIASES)
def test_a_name_of_other_tools_is_the_command_here(name: str) -> None:
    context = click.Context(main)
    first, *below = ALIASES[name]
    meant = main.get_command(context, first)
    for word in below:
        assert isinstance(meant, click.Group)
        meant = meant.commands[word]
    assert main.get_command(context, name) is meant


@pytest.mark.parametrize("where", [(), ("stacks",)], ids=["here", "folder"])
@pytest.mark.parametrize("command", ["plan", "validate", "status", "render", "drift"])
def test_the_only_stack_need_not_be_named(
    paper: Project, command: str, where: tuple[str, ...]
) -> None:
    said = paper.run(command, "stacks/demo.yaml"), paper.run(command, *where)
    assert said[0] == said[1]


def test_of_several_stacks_one_has_to_be_named(paper: Project) -> None:
    paper.write(STACK.replace("name: demo", "name: other"), "other")
    done = paper.run("logs")
    assert (done.code, done.out, done.err) == (
        3,
        "",
        (
            "error: there are 2 stacks here\n"
            "  hint: name `stacks/demo.yaml` or `stacks/other.yaml`\n"
        ),
    )


def test_the_overview_says_what_the_commands_say_of_themselves() -> None:
    context = click.Context(main)
    for name, (_, told) in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert told == command.get_short_help_str(limit=99)
        assert not command.hidden


WRONG_CALLS = {
    "plann": """\
error: there is no command `plann`
  hint: did you mean `plan`?
""",
    "rollback stacks/demo.yaml one": """\
error: `[RELEASE]`: `one` is not a valid integer
  hint: `deployer rollback --help` shows how to call it
""",
    "plan stacks --zzz": """\
error: no such option `--zzz`
  hint: `deployer plan --help` shows how to call it
""",
    "history stacks/demo.yaml --diff 1 two": """\
error: `--diff`: `two` is not a valid integer
  hint: `deployer history --help` shows how to call it
""",
    "plan stacks --engine locl": """\
error: there is no engine `locl`
  hint: did you mean `local`?
""",
    "check stacks --url http://127.0.0.1:1": """\
error: give a stack or `--url`, one of the two
  hint: deployer check stacks/demo.yaml
""",
}


@pytest.mark.parametrize(("words", "message"), WRONG_CALLS.items())
def test_a_wrong_call_says_what_to_type_and_exits_3(
    paper: Project, words: str, message: str
) -> None:
    done = paper.run(*words.split())

    assert (done.code, done.out, done.err) == (3, "", message)
