"""`init`: what it writes, what it asks, and what it lets a stack read."""

import json
from pathlib import Path

import pytest

from deployer.stack.project_root import TRUSTED, trust, trusted_in
from tests.cli.project import COMMAND, Project
from tests.cli.terminal import terminal


@pytest.fixture
def own(paper: Project, tmp_path: Path) -> tuple[str, ...]:
    """A model outside of the project, as an option."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    model = folder / "My Model.gguf"
    model.write_bytes((paper.stack.parent / "tiny.gguf").read_bytes())
    return "--model", str(model)


def test_files_outside_are_read_once_they_are_trusted(
    paper: Project, own: tuple[str, ...]
) -> None:
    alone: dict[str, str | None] = {"DEPLOYER_ALLOW_OUTSIDE": None}
    done = paper.run("init", *own, env=alone)
    assert done.code == 0, done.err
    text = (paper.folder / "stacks/my-model.yaml").read_text()
    assert f"\n  path: {own[1]}\n  alias: my-model\n" in text
    assert "hint" not in done.out
    assert "export DEPLOYER_ALLOW_OUTSIDE=" in done.err
    assert paper.run("validate", "stacks/my-model.yaml", env=alone).code == 3

    again = paper.run("init", "stacks/other.yaml", *own, "--yes", env=alone)
    assert "trusted for " in again.err
    assert paper.run("validate", "stacks/my-model.yaml", env=alone).code == 0
    assert json.loads((paper.home / TRUSTED).read_text()) == {
        str(paper.stack.parent.resolve()): [str(Path(own[1]).parent)]
    }


def test_trust_is_of_one_project_and_not_of_a_file_that_others_may_write(
    tmp_path: Path,
) -> None:
    trust(tmp_path, Path("/one"), (Path("/models"),))
    trust(tmp_path, Path("/one"), (Path("/builds"),))
    assert trusted_in(tmp_path, Path("/one")) == (Path("/builds"), Path("/models"))
    assert trusted_in(tmp_path, Path("/two")) == ()
    (tmp_path / TRUSTED).chmod(0o622)
    assert trusted_in(tmp_path, Path("/one")) == ()


@pytest.mark.parametrize("content", ["[]", "{", '{"/one": 3}', '{"/one": ["a", 4]}'])
def test_a_record_of_trust_that_is_none_trusts_nothing(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / TRUSTED).write_text(content)
    (tmp_path / TRUSTED).chmod(0o600)
    assert trusted_in(tmp_path, Path("/one")) == ()


@pytest.mark.parametrize("template", ["local", "modal"])
def test_a_model_of_the_hub(paper: Project, template: str) -> None:
    words = ("--from-hub", "owner/Some-GGUF:Q8_0", "--template", template)
    assert paper.run("init", "new.yaml", *words).code == 0
    text = (paper.folder / "new.yaml").read_text()
    assert (
        "model:\n  repo: owner/Some-GGUF\n  quant: Q8_0\n  alias: some-gguf\n" in text
    )
    assert text.startswith("# yaml-language-server: $schema=schema/stack.schema.json\n")
    assert (paper.folder / "schema/stack.schema.json").exists()
    assert paper.run("validate", "new.yaml").code == 0


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--model", "no.gguf"), "there is no model `no.gguf`"),
        (("--from-hub", "what is this"), "is no repository of the hub"),
        (("--from-hub", "a/b", "--model", "x.gguf"), "one of the two"),
        (("--template", "none"), "no template `none`"),
    ],
)
def test_what_cannot_be_started_from_writes_nothing(
    paper: Project, words: tuple[str, ...], error: str
) -> None:
    done = paper.run("init", "new/x.yaml", *words)
    assert done.code == 3
    assert error in done.err
    assert not (paper.folder / "new").exists()


def test_it_says_which_key_to_set(paper: Project) -> None:
    said = paper.run("init", "new/x.yaml", env={"LLAMA_API_KEY": None}).out
    line = "(umask 077; echo LLAMA_API_KEY=$(openssl rand -hex 16) > new/.env)"
    assert f"  {line}\n" in said
    files = paper.run("init", "new/y.yaml", "--json").results()[0]["files"]
    assert files == ["new/y.yaml"]


def test_at_a_terminal_it_asks_for_model_and_trust(
    paper: Project, own: tuple[str, ...]
) -> None:
    _, model = own
    environment = paper.environment({"DEPLOYER_ALLOW_OUTSIDE": None})
    with terminal((*COMMAND, "init"), paper.folder, environment) as screen:
        screen.until("Start from [demo]: ")
        screen.type("local\n")
        screen.until("GGUF file, or owner/name:QUANT of the hub")
        screen.type(f"{model}\n")
        screen.until("outside of the project? [Y/n]")
        screen.type("\n")
        screen.until("deployer plan stacks/my-model.yaml")
        assert screen.end() == 0
    alone: dict[str, str | None] = {"DEPLOYER_ALLOW_OUTSIDE": None}
    assert paper.run("validate", "stacks/my-model.yaml", env=alone).code == 0


def test_at_a_terminal_the_first_answer_may_be_all(paper: Project) -> None:
    folder = paper.folder / "fresh"
    folder.mkdir()
    with terminal((*COMMAND, "init"), folder, paper.environment({})) as screen:
        screen.until("Start from [demo]: ")
        screen.type("dmo\n")
        screen.until("'dmo' is not one of")
        screen.until("Start from [demo]: ")
        screen.type("\n")
        screen.until("deployer apply stacks/demo.yaml")
        assert screen.end() == 0
    assert (folder / "stacks/demo.yaml").exists()
