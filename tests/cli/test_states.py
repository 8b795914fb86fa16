"""The state commands, and where deployer.yaml and DEPLOYER_STATE_URL put states."""

from dataclasses import replace
from pathlib import Path

import pytest

from deployer.planning.state import State
from deployer.state.files import from_json, to_json
from tests.applying import GATED, WIDER, Desk
from tests.cli.project import STACK, Project

DEMO = "stacks/demo.yaml"


def state() -> State:
    """A stack that was applied twice."""
    desk = Desk()
    desk.apply(GATED)
    desk.apply(WIDER)
    return desk.state


def file_of(project: Project, kept: State, name: str = "s.json") -> str:
    (project.folder / name).write_text(to_json(kept))
    return name


@pytest.fixture
def pushed(paper: Project) -> Project:
    done = paper.run("state", "push", DEMO, file_of(paper, state()))
    assert (done.code, done.out) == (0, f"`demo` is at serial {state().serial}\n")
    return paper


def newer(serial: int = 1) -> State:
    before = state()
    return replace(before, serial=before.serial + serial, made={})


def test_what_was_pushed_is_pulled(pushed: Project) -> None:
    assert pushed.run("state", "pull", DEMO).out == to_json(state())
    assert pushed.run("state", "show", DEMO).out == to_json(state())
    assert pushed.run("state", "pull", DEMO, "--out", "copy.json").code == 0
    copy = pushed.folder / "copy.json"
    assert copy.read_text() == to_json(state())
    assert copy.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (replace(state(), lineage="other"), "the file is of another state: their"),
        (replace(state(), serial=1), "the file is older: serial 1, stored is "),
        (replace(state(), made={}, released=9), "both are at serial "),
    ],
)
def test_push_refuses_what_does_not_follow(
    pushed: Project, other: State, told: str
) -> None:
    done = pushed.run("state", "push", DEMO, file_of(pushed, other))
    assert done.code == 7
    assert done.err.startswith(f"error: {told}")
    assert pushed.run("state", "pull", DEMO).out == to_json(state())


def test_a_forced_push_keeps_the_lineage_and_what_was_there(pushed: Project) -> None:
    other = replace(state(), lineage="other", serial=1, released=9)
    done = pushed.run("state", "push", DEMO, file_of(pushed, other), "--force")
    assert done.code == 0
    now = from_json(pushed.run("state", "pull", DEMO).out, "out")
    assert now == replace(other, lineage=state().lineage, serial=state().serial + 1)
    serial = str(state().serial)
    kept = pushed.run("state", "pull", DEMO, "--serial", serial).out
    assert kept == to_json(state())


def test_pushing_the_same_again_changes_nothing(pushed: Project) -> None:
    done = pushed.run("state", "push", DEMO, file_of(pushed, state()))
    assert done.code == 0
    assert pushed.run("state", "pull", DEMO).out == to_json(state())


def test_a_state_of_another_stack_is_not_pushed(pushed: Project) -> None:
    other = replace(state(), stack="other")
    done = pushed.run("state", "push", DEMO, file_of(pushed, other), "--force")
    assert done.code == 3
    assert "is the state of `other`, not of `demo`" in done.err


def test_versions_are_listed(pushed: Project) -> None:
    pushed.run("state", "push", DEMO, file_of(pushed, newer()))
    first, second = state().serial, newer().serial
    done = pushed.run("state", "versions", DEMO)
    assert done.out == f"{first:>6}  release 2\n{second:>6}  release 2\n"


def test_a_damaged_state_is_repaired_from_its_versions(pushed: Project) -> None:
    assert pushed.run("state", "repair", DEMO).out.startswith("nothing to repair")
    pushed.run("state", "push", DEMO, file_of(pushed, newer()))
    pushed.state.write_text(to_json(newer())[:-9])
    assert pushed.run("plan", DEMO).code == 1

    done = pushed.run("state", "repair", DEMO)
    assert done.out.startswith(f"`demo` goes on from serial {state().serial}\n")
    assert pushed.run("state", "pull", DEMO).out == to_json(state())
    damaged = pushed.state.with_name("demo.state.damaged.json")
    assert damaged.read_text() == to_json(newer())[:-9]


def test_a_repair_prefers_what_a_failed_write_put_aside(pushed: Project) -> None:
    file_of(pushed, newer(5), "errored.demo.state.json")
    pushed.run("state", "push", DEMO, file_of(pushed, newer()))
    pushed.state.write_text("")
    pushed.run("state", "repair", DEMO)
    assert pushed.run("state", "pull", DEMO).out == to_json(newer(5))


def test_a_repair_writes_only_what_is_whole(pushed: Project) -> None:
    pushed.state.write_text("")
    done = pushed.run("state", "repair", DEMO)
    assert done.code == 1
    assert "no version of it is whole" in done.err
    assert pushed.state.read_text() == ""


def test_a_repair_takes_no_state_that_does_not_go_on(pushed: Project) -> None:
    """Anybody may lay a file among temporary ones."""
    other = replace(newer(5), lineage="other")
    file_of(pushed, other, "errored.demo.state.json")
    pushed.state.write_text("")
    assert pushed.run("state", "repair", DEMO).code == 1
    pushed.run("state", "push", DEMO, file_of(pushed, other))
    assert pushed.state.read_text() == ""


def test_a_repair_leaves_a_newer_deployers_state_alone(pushed: Project) -> None:
    pushed.run("state", "push", DEMO, file_of(pushed, newer()))
    pushed.state.write_text('{"version": 99}')
    done = pushed.run("state", "repair", DEMO)
    assert done.code == 1
    assert pushed.state.read_text() == '{"version": 99}'


def test_a_state_is_migrated_with_its_history(pushed: Project, tmp_path: Path) -> None:
    pushed.run("state", "push", DEMO, file_of(pushed, newer()))
    url = f"file://{tmp_path}/other place"
    done = pushed.run("state", "migrate", DEMO, "--to", url)
    assert done.code == 0, done.err
    there = {"DEPLOYER_STATE_URL": url}
    # Stacks are told apart by their folder; this project is its stacks' folder.
    assert pushed.run("state", "pull", DEMO, env=there).out == to_json(newer())
    serial = str(state().serial)
    kept = pushed.run("state", "pull", DEMO, "--serial", serial, env=there)
    assert kept.out == to_json(state())
    again = pushed.run("state", "migrate", DEMO, "--to", url)
    assert again.code == 0


def test_a_migration_overwrites_no_other_state(pushed: Project, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/there"
    other = file_of(pushed, replace(state(), lineage="other"))
    pushed.run("state", "push", DEMO, other, env={"DEPLOYER_STATE_URL": url})
    done = pushed.run("state", "migrate", DEMO, "--to", url)
    assert done.code == 1
    assert "already contains another state" in done.err


def test_the_project_file_says_where_states_lie(paper: Project) -> None:
    project = "version: 1\nstate: {backend: file, path: ../kept, keep: 2}\n"
    (paper.stack.parent / "deployer.yaml").write_text(project)
    for serial in range(4):
        done = paper.run("state", "push", DEMO, file_of(paper, newer(serial)))
        assert done.code == 0, done.err
    kept = sorted(path.name for path in (paper.folder / "kept").iterdir())
    assert kept == ["demo.state.json", "history"]
    assert len(paper.run("state", "versions", DEMO).out.splitlines()) == 3
    assert paper.run("state", "list", "stacks").out == "demo\n"


def test_folders_of_a_project_have_states_of_their_own(paper: Project) -> None:
    (paper.folder / "deployer.yaml").write_text(
        "version: 1\nstate: {backend: file, path: kept}\n"
    )
    done = paper.run("state", "push", DEMO, file_of(paper, state()))
    assert done.code == 0
    assert (paper.folder / "kept/stacks/demo.state.json").is_file()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "state: {}\n",
            "deployer.yaml:1:1: error: `backend` is missing under `state`\n",
        ),
        (
            "version: 1\nstate: {backend: s3}\n",
            "deployer.yaml:2:1: error: `s3` needs `bucket`\n",
        ),
        (
            "version: 1\nstate:\n  backend: gs\n  bucket: b\n  region: eu\n",
            "error: `gs` takes no `region`\n  hint: it takes `bucket`, `prefix`,",
        ),
        (
            "version: 1\nstate: {backend: s3, bukcet: b}\n",
            "2:22: error: unknown key `bukcet` under `state`\n  hint: did you mean",
        ),
        ("version: 1\nstate: {\n", "deployer.yaml:3:1: error: "),
        (
            "version: 2\n",
            "deployer.yaml:1:1: error: version 2 of this file needs a newer deployer",
        ),
    ],
)
def test_a_wrong_project_file_says_where(paper: Project, text: str, told: str) -> None:
    (paper.folder / "deployer.yaml").write_text(text)
    done = paper.run("plan", DEMO)
    assert done.code == 3
    said = [line for line in done.err.splitlines() if " |" not in line]
    assert told in "\n".join(said) + "\n"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://b/f", "it begins with none of `file://`, `s3://`, `gs://`, `az://`"),
        ("s3://key:secret@b/f", "a credential has no place in it"),
        ("s3://b?colour=red", "`colour` is not known for s3"),
        ("s3://b?keep=0", "`keep` is not a number from 1"),
        ("file:///a/../b", "it names no folder"),
    ],
)
def test_a_wrong_url_says_why(paper: Project, url: str, told: str) -> None:
    done = paper.run("plan", DEMO, env={"DEPLOYER_STATE_URL": url})
    assert done.code == 3
    assert told in done.err
    assert "secret" not in done.err


def test_two_files_of_one_name_share_no_state(pushed: Project) -> None:
    owned = replace(newer(), file="demo.yaml")
    pushed.run("state", "push", DEMO, file_of(pushed, owned))
    pushed.write(STACK, "other")
    for command in ("plan", "status", "destroy", "rollback"):
        done = pushed.run(command, "stacks/other.yaml")
        assert done.code == 3
        assert done.err == (
            "error: `stacks/other.yaml` and `stacks/demo.yaml` both have the name"
            " `demo`, and what is deployed under it is `stacks/demo.yaml`'s\n"
            "  hint: give `stacks/other.yaml` another `name`\n"
        )


def test_a_renamed_file_takes_its_state_along(pushed: Project) -> None:
    owned = replace(newer(), file="demo.yaml")
    pushed.run("state", "push", DEMO, file_of(pushed, owned))
    pushed.stack.rename(pushed.stack.with_name("renamed.yaml"))
    assert pushed.run("plan", "stacks/renamed.yaml").code == 0
