"""Chat templates by name: those beside the build, a user's file, built-in ones."""

import sys
from pathlib import Path

import pytest

from deployer.engines.local.templates import with_template
from deployer.errors import EngineError

HELP = """\
                                        list of built-in templates:
                                        bailing, chatml, command-r,
                                        gpt-oss (env: LLAMA_ARG_CHAT_TEMPLATE)
"""


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A program that has llama-server's help, with one template beside it."""
    program = tmp_path / "build" / "bin" / "llama-server"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nprint({HELP!r})\n")
    program.chmod(0o755)
    kept = tmp_path / "build" / "templates"
    kept.mkdir()
    (kept / "google-gemma.jinja").write_text("x")
    return program


def words(name: str, server: Path, folder: Path) -> list[str]:
    stated = ["-a", "--chat-template", name, "--metrics"]
    return with_template(stated, server, folder)


def test_a_template_of_the_source_tree_becomes_a_file(
    server: Path, tmp_path: Path
) -> None:
    file = str(tmp_path / "build" / "templates" / "google-gemma.jinja")
    found = words("google-gemma", server, tmp_path)
    assert found == ["-a", "--chat-template-file", file, "--metrics"]


def test_a_file_of_the_user_is_relative_to_the_stack(
    server: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.jinja").write_text("x")
    found = words("mine.jinja", server, tmp_path)
    assert found[1:3] == ["--chat-template-file", str(tmp_path / "mine.jinja")]


def test_a_built_in_template_stays_a_name(server: Path, tmp_path: Path) -> None:
    assert words("gpt-oss", server, tmp_path)[1:3] == ["--chat-template", "gpt-oss"]


def test_an_unknown_template_names_the_nearest(server: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no chat template `google-gema`") as raised:
        words("google-gema", server, tmp_path)
    assert "google-gemma" in raised.value.hint


def test_without_a_template_nothing_is_asked(tmp_path: Path) -> None:
    assert with_template(["-a"], tmp_path / "none", tmp_path) == ["-a"]
