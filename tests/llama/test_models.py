"""Which builds know which models: the shipped table, a tree, a binary."""

from pathlib import Path

import pytest

from deployer.usecases.reading.weights import (
    ARCHITECTURE,
    PROJECTOR,
    Known,
    known_by,
    known_in_binary,
)


@pytest.mark.parametrize(
    ("name", "build", "known"),
    [
        ("llama", 6666, "yes"),
        ("llama", 11434, "yes"),
        ("llama", 20000, "yes"),  # what all builds knew, later ones will
        ("llama", 100, "uncertain"),
        ("gemma4", 8555, "no"),
        ("gemma4", 8600, "uncertain"),  # between two trees that differ
        ("gemma4", 8646, "yes"),
        ("qwen3next", 7058, "no"),
        ("no-such-thing", 11434, "no"),
        ("no-such-thing", 11435, "uncertain"),
        ("gemma4", None, "uncertain"),
    ],
)
def test_an_architecture_by_build(name: str, build: int | None, known: str) -> None:
    assert known_by(ARCHITECTURE, name, build).known == known


def test_the_first_build_is_told() -> None:
    assert known_by(ARCHITECTURE, "gemma4", 8555).since == 8646


def test_projectors_have_a_table_of_their_own() -> None:
    assert known_by(PROJECTOR, "gemma4v", 8672).known is Known.YES
    assert known_by(PROJECTOR, "gemma4uv", 8672).known is Known.NO
    assert known_by(PROJECTOR, "gemma4uv", 10435).known is Known.YES


def test_a_binary_is_searched(llama_server: Path) -> None:
    """b10434 keeps the names in a library beside the program."""
    assert known_in_binary(ARCHITECTURE, "gemma4", llama_server) is Known.YES
    assert known_in_binary(ARCHITECTURE, "kimi-k9", llama_server) is Known.NO
    assert known_in_binary(PROJECTOR, "gemma4v", llama_server) is Known.YES
    assert known_in_binary(PROJECTOR, "kimi-k9", llama_server) is Known.UNCERTAIN


def test_what_is_no_llama_server_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "llama-server").write_bytes(b"#!/bin/sh\n")
    found = known_in_binary(ARCHITECTURE, "llama", tmp_path / "llama-server")
    assert found is Known.UNCERTAIN
