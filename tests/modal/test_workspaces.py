"""A token of another workspace neither deploys a second server nor loses the first."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.modal.emulated import emulator
from tests.modal.project import KEY, SECRET, Project

COMMANDS = (
    ("apply", "--yes"),
    ("destroy", "--yes"),
    ("stop",),
    ("start",),
    ("status",),
    ("logs",),
)


def test_another_workspace_is_refused_with_what_was_expected(live: Project) -> None:
    before = live.live()
    assert before["outputs"]["workspace"] == "tests"
    live.change("ctx_size: 1024", "ctx_size: 2048")
    live.cloud.forget()
    live.cloud.faults(workspace="other")
    for command, *more in COMMANDS:
        done = live.run(command, "stacks/tiny.yaml", *more)
        assert done.code == 4, command + done.out + done.err
        assert (
            "the token is for the Modal workspace `other`, and stack `tiny` was"
            " deployed to `tests`\n  hint: take a token of `tests`"
        ) in done.err
        assert live.live() == before
    told = live.run("apply", "stacks/tiny.yaml", "--yes", "--workspace", "third")
    assert told.code == 4
    assert "`other`, and `--workspace` names `third`" in told.err
    changes = {"AppPublish", "AppStop", "AppCreate", "FunctionCreate", "AppRollback"}
    assert not changes & live.cloud.calls().keys()


def test_a_stack_moves_to_another_workspace_on_purpose(
    live: Project, tmp_path: Path
) -> None:
    """What runs in the old one is left there, and that is said before it happens."""
    old, here = live.live(), live.cloud
    live.cloud.forget()
    with emulator(tmp_path / "other") as cloud:
        cloud.secret(SECRET, {"LLAMA_API_KEY": KEY})
        cloud.faults(workspace="other")
        _moves(replace(live, cloud=cloud), old)
    changes = {"AppPublish", "AppStop", "FunctionCreate"}
    assert not changes & here.calls().keys()


def _moves(live: Project, old: dict[str, Any]) -> None:
    done = live.run("apply", "stacks/tiny.yaml", "--yes", "--workspace", "other")
    assert done.code == 0, done.out + done.err
    assert (
        "note: `tiny` moves from workspace `tests` to `other`: what runs in `tests` is"
        " left there, serves on and is billed until it is stopped with a token of"
        " `tests` (`modal app stop tiny`)"
    ) in done.out
    assert old["outputs"]["workspace"] == "tests"
    assert live.live()["outputs"]["workspace"] == "other"
    assert live.run("plan", "stacks/tiny.yaml", "--detailed-exitcode").code == 0
    again = live.run("apply", "stacks/tiny.yaml", "--yes", "--workspace", "other")
    assert again.code == 0, again.out + again.err
    assert "No changes" in again.out
