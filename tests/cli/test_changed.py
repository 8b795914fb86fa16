"""Plans and applies of what changed since a revision, in real git repositories."""

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cli.project import ROOT, Project

TEXT = """\
version: 1
name: NAME
extends: base.yaml
llama_cpp: {tag: b10434, binary: BINARY}
model: {path: tiny.gguf, alias: tiny}
local: {port: PORT}
"""
BASE = "server: {ctx_size: 1024}\n"


def git(project: Project, *words: str) -> None:
    name = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    argv = ["git", *name, *words]
    subprocess.run(argv, cwd=project.folder, check=True)


@pytest.fixture
def repository(paper: Project) -> Project:
    """Two stacks that share a base, locked and committed."""
    paper.stack.unlink()
    for name in ("one", "two"):
        paper.write(TEXT.replace("NAME", name), name)
    paper.write(BASE + "version: 1\nengine: local\n", "base")
    done = paper.run("lock", "stacks")
    assert done.code == 0, done.err
    (paper.folder / ".gitignore").write_text("home/\n")
    git(paper, "init", "-q")
    git(paper, "add", "-A")
    git(paper, "commit", "-qm", "stacks")
    return paper


def changed(project: Project, *paths: str) -> list[str]:
    """The stacks that a plan of what changed since HEAD shows."""
    words = paths or ("stacks",)
    done = project.run("plan", *words, "--changed-since", "HEAD", "--json")
    assert done.code == 0, done.out + done.err
    return [line["stack"] for line in done.results()]


def edit(project: Project, name: str, old: str, new: str) -> None:
    file = project.stack.with_name(name)
    file.write_text(file.read_text().replace(old, new))


def test_settings_that_never_end_are_not_waited_for(repository: Project) -> None:
    os.mkfifo(repository.folder / "held")
    git(repository, "config", "include.path", str(repository.folder / "held"))
    done = repository.run("plan", "stacks", "--changed-since", "HEAD")
    assert done.code == 3
    assert "did not end within 5 s" in done.err


def test_nothing_changed(repository: Project) -> None:
    assert changed(repository) == []


def test_comments_and_order_are_no_change(repository: Project) -> None:
    edit(repository, "one.yaml", "version: 1\n", "# a comment\nversion: 1\n")
    edit(repository, "two.yaml", "version: 1\nname: two\n", "name: two\nversion: 1\n")
    assert changed(repository) == []


def test_a_value_of_one_stack_changed(repository: Project) -> None:
    edit(repository, "one.yaml", "alias: tiny", "alias: other")
    assert changed(repository) == ["one"]


def test_a_base_that_both_extend_changed(repository: Project) -> None:
    edit(repository, "base.yaml", "1024", "2048")
    assert changed(repository) == ["one", "two"]


def test_a_lock_file_changed(repository: Project) -> None:
    file = repository.stack.with_name("two.lock.json")
    file.write_text(file.read_text() + "\n")
    assert changed(repository) == ["two"]


def test_a_patch_changed(repository: Project) -> None:
    """Of a stack that names it; planning says what is wrong with this one."""
    folder = repository.folder / "patches" / "fix"
    folder.mkdir(parents=True)
    edit(repository, "one.yaml", "b10434,", "b10434, patches: [fix],")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "patch")
    assert changed(repository) == []
    (folder / "fix.patch").write_text("--- a\n")
    done = repository.run("plan", "stacks", "--changed-since", "HEAD", "--json")
    assert [line.get("file") for line in done.results()] == ["stacks/one.yaml"]


def test_a_new_stack_changed(repository: Project) -> None:
    repository.write(TEXT.replace("NAME", "three"), "three")
    assert changed(repository) == ["three"]


def test_other_branches_do_not_count(repository: Project) -> None:
    """As with `git diff A...B`: the work is compared with where it began."""
    git(repository, "checkout", "-qb", "work")
    git(repository, "checkout", "-q", "-")
    edit(repository, "two.yaml", "alias: tiny", "alias: other")
    git(repository, "commit", "-qam", "elsewhere")
    git(repository, "branch", "elsewhere")
    git(repository, "checkout", "-q", "work")
    words = ("plan", "stacks", "--changed-since", "elsewhere", "--json")
    assert repository.run(*words).results() == []


def test_a_base_revision_that_does_not_parse(repository: Project) -> None:
    right = repository.stack.with_name("one.yaml").read_text()
    repository.stack.with_name("one.yaml").write_text("name: one\nserver: {a: [}\n")
    git(repository, "commit", "-qam", "broken")
    repository.stack.with_name("one.yaml").write_text(right)
    words = ("plan", "stacks", "--changed-since", "HEAD", "--format", "markdown")
    done = repository.run(*words)
    assert done.code == 0, done.err
    assert (
        "- `stacks/one.yaml: the base revision of it cannot be read, so it c"
        in done.out
    )


def test_a_deleted_stack_is_gone(repository: Project) -> None:
    repository.stack.with_name("one.yaml").unlink()
    assert changed(repository) == ["one"]
    assert changed(repository, "stacks/one.yaml") == ["one"]


def test_a_renamed_stack_is_gone_under_its_old_name(repository: Project) -> None:
    edit(repository, "one.yaml", "name: one", "name: uno")
    assert changed(repository, "stacks/one.yaml") == ["one", "uno"]


def test_a_moved_file_is_the_same_stack(repository: Project) -> None:
    repository.stack.with_name("one.yaml").rename(repository.stack.with_name("1.yaml"))
    assert changed(repository) == ["one"]
    done = repository.run(
        "plan", "stacks", "--changed-since", "HEAD", "--format", "text"
    )
    assert "no file asks for" not in done.out


def test_a_revision_that_git_does_not_know(repository: Project) -> None:
    done = repository.run("plan", "stacks", "--changed-since", "origin/nowhere")
    assert done.code == 3
    assert done.err.startswith("error: git says: ")
    assert "fetch-depth: 0" in done.err


def test_apply_destroys_only_where_it_is_allowed(live: Project) -> None:
    """Plan says destroy, apply refuses, and does it once it is allowed."""
    (live.folder / ".gitignore").write_text("home/\n.deployer/\n")
    git(live, "init", "-q")
    git(live, "add", "-A")
    git(live, "commit", "-qm", "stacks")
    live.stack.unlink()
    words = ("stacks", "--changed-since", "HEAD")
    plan = live.run("plan", *words, "--format", "markdown")
    assert "1 of 1 stack would change, 1 would be destroyed" in plan.out
    (command,) = re.findall(r"Next: `deployer (.*)`", plan.out)

    refused = live.run("apply", *words, "--yes")
    assert refused.code == 3
    assert "add `--allow-destroy`" in refused.err
    assert live.servers()

    assert command.endswith("--allow-destroy")
    done = live.run(*command.split(), "--yes")
    assert done.code == 0, done.err
    assert live.servers() == set()
    assert not Path(live.stack).exists()


def test_without_state_everything_is_new_and_nobody_is_asked(
    repository: Project,
) -> None:
    """As for the pull request of a fork: what could not be seen is said."""
    repository.stack.with_name("one.yaml").unlink()
    edit(repository, "two.yaml", "alias: tiny", "alias: other")
    far = {"DEPLOYER_STATE_URL": "s3://team/states?endpoint=http://127.0.0.1:9"}
    words = ("plan", "stacks", "--changed-since", "HEAD", "--without-state")
    done = repository.run(*words, "--format", "markdown", env=far)
    assert done.code == 0, done.err
    assert "the state was not read (--without-state) of stacks/two.yaml:" in done.out
    assert (
        "no file asks for `one` any more: what is live of it would be dest" in done.out
    )
    text = repository.run("plan", "stacks/two.yaml", "--without-state", env=far)
    assert "note: the state was not read (--without-state): all counts as" in text.out


def test_a_plan_without_state_is_not_kept(repository: Project) -> None:
    words = ("plan", "stacks/two.yaml", "--without-state", "--out", "two.plan")
    done = repository.run(*words)
    assert done.code == 3
    assert "a plan made without the state cannot be saved" in done.err


def test_a_clone_without_the_common_commit_says_what_it_cannot_see(
    repository: Project, tmp_path: Path
) -> None:
    """Two branches, each fetched with its last commit only."""
    git(repository, "branch", "-M", "main")
    git(repository, "checkout", "-qb", "work")
    edit(repository, "two.yaml", "alias: tiny", "alias: other")
    git(repository, "commit", "-qam", "work")
    origin, clone = f"file://{repository.folder}", tmp_path / "clone"
    git(repository, "clone", "-q", "--depth", "1", "-b", "work", origin, str(clone))
    shallow = replace(repository, folder=clone)
    git(shallow, "fetch", "-q", "--depth", "1", "origin", "main:origin/main")
    words = ("plan", "stacks", "--changed-since", "origin/main", "--format", "markdown")
    done = shallow.run(*words)
    assert "where the work left origin/main is not in this clone" in done.out
    assert "1 of 2 stacks would change" in done.out


def test_a_submodule_is_no_stack_and_in_nobodys_way(
    repository: Project, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    shared = replace(repository, folder=other)
    (other / "a.yaml").write_text("a: 1\n")
    git(shared, "init", "-q")
    git(shared, "add", "-A")
    git(shared, "commit", "-qm", "other")
    allowed = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    git(repository, *allowed, str(other), "stacks/shared")
    assert changed(repository) == []
    git(repository, "commit", "-qm", "submodule")
    edit(repository, "one.yaml", "alias: tiny", "alias: other")
    assert changed(repository) == ["one"]


def test_a_binary_and_a_huge_file_beside_the_stacks(repository: Project) -> None:
    """The broken ones are told, the others are planned."""
    repository.stack.with_name("binary.yaml").write_bytes(bytes(range(256)) * 64)
    huge = "name: huge\n" + "".join(f"k{n}: {'x' * 90}\n" for n in range(40_000))
    repository.stack.with_name("huge.yaml").write_text(huge)
    edit(repository, "one.yaml", "alias: tiny", "alias: other")
    words = ("plan", "stacks", "--changed-since", "HEAD", "--format", "markdown")
    done = repository.run(*words)
    assert done.code == 3
    assert "1 of 4 stacks would change, 2 cannot be planned" in done.out
    for name in ("binary", "huge"):
        assert re.search(rf"^- stacks/{name}.yaml.*: .*$", done.out, re.MULTILINE)


NO_NETWORK = """\
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise SystemExit(f"asked the network: {event} {arguments[1:]}")

sys.addaudithook(refuse)
"""
"""Run by Python before all else: ends the program that speaks to anybody."""


def test_a_plan_of_locked_stacks_asks_nobody(
    repository: Project, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    alone = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    caught = repository.run("check", "--url", "http://127.0.0.1:9", env=alone)
    assert "asked the network: socket.connect" in caught.out + caught.err
    edit(repository, "base.yaml", "1024", "2048")
    words = ("plan", "stacks", "--changed-since", "HEAD", "--format", "markdown")
    done = repository.run(*words, env=alone)
    assert done.code == 0, done.out + done.err
    assert "2 of 2 stacks would change" in done.out
