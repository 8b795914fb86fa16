"""A token of another workspace neither deploys a second server nor loses the first."""

import pytest

from tests.modal.project import Project

STACK = "stacks/tiny.yaml"


@pytest.mark.parametrize(
    "command", ["apply", "destroy", "stop", "start", "status", "logs"]
)
def test_another_workspace_is_refused_with_what_was_expected(
    live: Project, command: str
) -> None:
    before = live.live()
    assert before["outputs"]["workspace"] == "tests"
    live.change("ctx_size: 1024", "ctx_size: 2048")
    live.cloud.forget()
    live.cloud.faults(workspace="other")
    yes = ("--yes",) if command in ("apply", "destroy") else ()
    done = live.run(command, STACK, *yes)
    assert done.code == 4, done.out + done.err
    said = "the token is for the Modal workspace `other`, and stack `tiny` was deployed"
    assert f"{said} to `tests`" in done.err
    assert "take a token of `tests`" in done.err
    assert live.live() == before
    changes = {"AppPublish", "AppStop", "AppCreate", "FunctionCreate", "AppRollback"}
    assert not changes & live.cloud.calls().keys()
