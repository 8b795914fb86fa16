"""Which builds know which models: the shipped table, a tree, a binary."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from deployer.llama.catalogue import Known
from deployer.llama.description import (
    ARCHITECTURE,
    MODELS,
    PROJECTOR,
    known_by,
    known_in_binary,
)
from scripts import catalogue


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
        ("no-such-thing", 11549, "no"),
        ("no-such-thing", 11550, "uncertain"),
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


ARG = """
void init() {
    add_opt(common_arg({"--new"}, "N", "", [](common_params & p, int v) { p.n = v; }));
}
"""
ARCH = """
    { LLM_ARCH_LLAMA,   "llama"     },
    { LLM_ARCH_NEW,     "newest-1"  },
    { LLM_ARCH_UNKNOWN, "(unknown)" },
"""


def test_the_tables_are_written_from_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    for name, text in {
        "common/arg.cpp": ARG,
        "src/llama-arch.cpp": ARCH,
        "tools/mtmd/clip-impl.h": '{ PROJECTOR_TYPE_NEW, "newv" },',
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    options, models = tmp_path / "options.json", tmp_path / "models.json"
    shutil.copy(catalogue.OPTIONS, options)
    shutil.copy(MODELS, models)
    monkeypatch.setattr(sys, "argv", ["catalogue", f"b20000={tree}"])
    catalogue.main(options, models)

    before = catalogue.OPTIONS.read_text().splitlines()
    added = [it for it in options.read_text().splitlines() if it not in before]
    assert len(added) == 2  # the builds, and the option: no other one changed
    assert '"names": ["--new"]' in added[1]
    assert '"builds": [[20000, 20000]]' in added[1]

    was, now = json.loads(MODELS.read_text()), json.loads(models.read_text())
    assert now["source"] == was["source"]
    for kind, old, new in (
        ("architectures", "llama", "newest-1"),
        ("projectors", "", "newv"),
    ):
        assert now[kind]["builds"] == [*was[kind]["builds"], 20000]
        lives = {
            name: life if len(life) > 1 or name == old else [*life, 20000]
            for name, life in was[kind]["names"].items()
        }
        assert now[kind]["names"] == {**lives, new: [20000]}
        assert [*now[kind]["names"]] == sorted(now[kind]["names"])


def test_what_the_tables_say_is_written_as_it_is() -> None:
    written = catalogue.models_written(json.loads(MODELS.read_text()), {})
    assert written == MODELS.read_text()
