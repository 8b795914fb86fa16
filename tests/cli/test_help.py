import pytest

from deployer.cli.main import COMMANDS
from tests.cli.project import Project

GROUPS = {
    "store": ("ls",),
    "state": ("list", "show", "unlock"),
}
CALLS = [
    (),
    *((command,) for command in COMMANDS),
    *((group, command) for group, commands in GROUPS.items() for command in commands),
]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_help_has_an_example_that_calls_the_command(
    paper: Project, call: tuple[str, ...]
) -> None:
    done = paper.run(*call, "--help")

    assert done.code == 0
    example = done.out.partition("Example:\n")[2]
    assert f"  deployer {' '.join(call)}".rstrip() in example
    assert done.err == ""


def test_every_command_fits_on_its_line_of_the_overview(paper: Project) -> None:
    assert "..." not in paper.run("--help").out.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("plann",),
            "error: there is no command `plann`\n  hint: did you mean `plan`?\n",
        ),
        (
            ("plan",),
            "error: missing argument `PATH…`\n"
            "  hint: `deployer plan --help` shows how to call it\n",
        ),
        (
            ("plan", "stacks", "--nosuch"),
            "error: no such option `--nosuch`\n"
            "  hint: `deployer plan --help` shows how to call it\n",
        ),
        (
            ("diff", "stacks/demo.yaml", "1", "two"),
            "error: `AFTER`: `two` is not a valid integer\n"
            "  hint: `deployer diff --help` shows how to call it\n",
        ),
        (
            ("plan", "stacks", "--engine", "locl"),
            "error: there is no engine `locl`\n  hint: did you mean `local`?\n",
        ),
        (
            ("check",),
            "error: give a stack or `--url`, one of the two\n"
            "  hint: deployer check stacks/demo.yaml\n",
        ),
    ],
    ids=["command", "argument", "option", "value", "engine", "neither"],
)
def test_a_wrong_call_says_what_to_type_and_exits_3(
    paper: Project, words: tuple[str, ...], message: str
) -> None:
    done = paper.run(*words)

    assert (done.code, done.out, done.err) == (3, "", message)
