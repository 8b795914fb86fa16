"""A token of another workspace neither deploys a second server nor loses the first."""

from tests.modal.project import Project

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
    changes = {"AppPublish", "AppStop", "AppCreate", "FunctionCreate", "AppRollback"}
    assert not changes & live.cloud.calls().keys()
