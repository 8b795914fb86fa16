"""The pre-commit hook, and the files that it recognises as stacks.

DEPLOYER_LONG=1 lets pre-commit itself build the hook's environment from the index.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.project import ROOT, Done, Project

MANIFEST = ROOT / ".pre-commit-hooks.yaml"
LONG = bool(os.environ.get("DEPLOYER_LONG"))


def hook() -> dict[str, str]:
    (found,) = yaml.safe_load(MANIFEST.read_text())
    assert isinstance(found, dict)
    return found


@pytest.fixture
def repository(paper: Project) -> Project:
    """A stack in `stacks`, and one that its name tells."""
    text = paper.stack.read_text()
    (paper.folder / ".gitignore").write_text("home/\n")
    (paper.folder / "compose.yaml").write_text("services: {}\n")
    (paper.folder / "deep").mkdir()
    named = paper.folder / "deep" / "other.deployer.yaml"
    named.write_text(text.replace("name: demo", "name: other"))
    (paper.folder / "deep" / "tiny.gguf").symlink_to(paper.stack.parent / "tiny.gguf")
    assert paper.shell("git init -q && git add -A").code == 0
    return paper


def hooked(project: Project) -> Done:
    """What the entry of the hook says; pre-commit runs it in the repository."""
    _, *words = shlex.split(hook()["entry"])
    return project.run(*words)


def test_stacks_are_recognised_by_folder_and_by_name(repository: Project) -> None:
    done = hooked(repository)
    assert done.code == 0, done.err
    valid = "stacks/demo.yaml: valid\ndeep/other.deployer.yaml: valid\n"
    assert done.out == valid


def test_a_wrong_one_of_either_kind_stops_the_commit(repository: Project) -> None:
    for file in (repository.stack, repository.folder / "deep/other.deployer.yaml"):
        text = file.read_text()
        file.write_text(text.replace("engine: local", "engine: locl"))
        done = hooked(repository)
        assert done.code == 3
        place = file.relative_to(repository.folder)
        assert f"{place}:3:1: error: expected `local` or `modal`" in done.err
        file.write_text(text)


def test_a_base_that_a_named_stack_extends_is_no_stack(repository: Project) -> None:
    deep = repository.folder / "deep"
    (deep / "base.deployer.yaml").write_text("version: 1\nengine: local\n")
    file = deep / "other.deployer.yaml"
    file.write_text("extends: base.deployer.yaml\n" + file.read_text())
    done = hooked(repository)
    assert done.code == 0, done.err
    assert "base.deployer.yaml" not in done.out


def test_a_folder_of_others_yaml_and_of_the_project_file(repository: Project) -> None:
    """Hidden files and `deployer.yaml` are no stacks of the folder they lie in."""
    stacks = repository.stack.parent
    (stacks / ".yamllint.yaml").write_text("rules: {}\n")
    (stacks / "deployer.yaml").write_text("version: 1\n")
    assert repository.run("validate", "stacks").out == "stacks/demo.yaml: valid\n"


def test_nothing_is_recognised(paper: Project) -> None:
    shutil.rmtree(paper.stack.parent)
    done = paper.run("validate")
    assert done.code == 3
    assert "there is no folder `stacks` here, and no `*.deployer.yaml`" in done.err


def test_the_hook_runs_for_what_stacks_are_made_of() -> None:
    """Always: pre-commit hands over no file that goes away, such as a base."""
    assert str(hook()["always_run"]) == "True"
    assert "files" not in hook()


def test_the_entry_for_schemastore_names_what_is_recognised(
    repository: Project,
) -> None:
    page = (ROOT / "docs" / "editor.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (entry,) = (it for it in map(json.loads, blocks) if "fileMatch" in it)
    assert entry.keys() == {"name", "description", "fileMatch", "url"}
    schema = ROOT / "schema" / entry["url"].rpartition("/schema/")[2]
    assert entry["name"] == json.loads(schema.read_text())["title"]
    file = repository.folder / "deep" / "other.deployer.yaml"
    for pattern in entry["fileMatch"]:
        file = file.rename(file.with_name(pattern.replace("*", "renamed")))
        assert f"deep/{file.name}: valid" in repository.run("validate").out


def test_pre_commit_takes_the_manifest() -> None:
    assert pre_commit(ROOT, "validate-manifest", str(MANIFEST)).code == 0


if LONG:

    @pytest.mark.network
    def test_pre_commit_itself_lets_good_stacks_pass_and_no_bad_one(
        repository: Project, tmp_path: Path
    ) -> None:
        """In an environment that it builds from this checkout."""
        words = ("try-repo", str(ROOT), hook()["id"], "--all-files")
        done = pre_commit(repository.folder, *words, home=tmp_path / "cache")
        assert done.code == 0, done.out + done.err
        assert re.search(r"deployer validate\.+Passed", done.out)
        text = repository.stack.read_text()
        repository.stack.write_text(text.replace("engine: local", "engine: locl"))
        done = pre_commit(repository.folder, *words, home=tmp_path / "cache")
        assert done.code == 1
        assert re.search(r"deployer validate\.+Failed", done.out)
        assert "stacks/demo.yaml:3:1: error: expected `local` or `modal`" in done.out


def pre_commit(folder: Path, *words: str, home: Path | None = None) -> Done:
    more = {} if home is None else {"PRE_COMMIT_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", *words],
        cwd=folder,
        env={**os.environ, **more, "DEPLOYER_ALLOW_OUTSIDE": str(folder.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    return Done(done.returncode, done.stdout, done.stderr)
