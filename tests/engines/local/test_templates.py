"""Chat templates by name: those beside the build, a user's file, built-in ones."""

import sys
from pathlib import Path

import pytest

from deployer.engines.local.supervise.process import known_template
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


def words(name: str, server: Path) -> tuple[str, ...]:
    return known_template([str(server), "--chat-template", name, "--metrics"], server)


def test_a_template_of_the_source_tree_becomes_a_file(
    server: Path, tmp_path: Path
) -> None:
    file = str(tmp_path / "build" / "templates" / "google-gemma.jinja")
    found = words("google-gemma", server)
    assert found == (str(server), "--chat-template-file", file, "--metrics")


def test_a_file_that_is_not_there_is_named(server: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    given = [str(server), "--chat-template-file", str(file)]
    with pytest.raises(EngineError, match=r"no chat template `.*mine\.jinja`"):
        known_template(given, server)
    file.write_text("x")
    assert known_template(given, server) == tuple(given)


def test_a_built_in_template_stays_a_name(server: Path) -> None:
    assert words("gpt-oss", server)[1:3] == ("--chat-template", "gpt-oss")


def test_an_unknown_template_names_the_nearest(server: Path) -> None:
    with pytest.raises(EngineError, match="no chat template `google-gema`") as raised:
        words("google-gema", server)
    assert "google-gemma" in raised.value.hint


def test_without_a_template_nothing_is_asked(tmp_path: Path) -> None:
    assert known_template(["-a"], tmp_path / "none") == ("-a",)
