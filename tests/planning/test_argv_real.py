"""The real llama-server takes every word that we write for it."""

import subprocess
from pathlib import Path

import pytest

from deployer.stack.fields.examples import SERVER
from tests.planning.test_argv import argv, stated_by

BUILD = 10434


@pytest.mark.real
@pytest.mark.parametrize("path", SERVER)
def test_an_option_is_accepted(path: str, llama_server: Path) -> None:
    """`--version` last makes it look at all words before it, and start nothing."""
    for options in stated_by(path.removeprefix("server."), BUILD):
        words = argv(options, BUILD)
        if any(word.startswith("CUDA") for word in words):
            continue  # names a GPU that only some machines have
        done = subprocess.run(
            [llama_server, *words, "--version"], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()


@pytest.mark.real
def test_an_unknown_option_is_refused(llama_server: Path) -> None:
    """The check above can fail."""
    done = subprocess.run(
        [llama_server, "--no-such-option", "--version"],
        capture_output=True,
        check=False,
    )
    assert done.returncode != 0
