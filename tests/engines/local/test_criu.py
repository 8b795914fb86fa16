"""What this machine can do is found out once, and told."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from deployer.engines.local.snapshot.criu import Capability, capability, errors_in
from deployer.engines.place import abilities_of, machine_inputs


def program(folder: Path, script: str) -> Mapping[str, str]:
    """An environment whose CRIU is a script that keeps a diary of its calls."""
    file = folder / "criu"
    file.write_text(f'#!/bin/sh\necho "$1" >> {folder}/diary\n{script}\n')
    file.chmod(0o755)
    return {"DEPLOYER_CRIU": str(file), "PATH": os.environ["PATH"]}


def diary(folder: Path) -> list[str]:
    file = folder / "diary"
    return file.read_text().split() if file.exists() else []


def test_a_remembered_answer_runs_nothing(tmp_path: Path) -> None:
    environment = program(tmp_path, "echo Version: 3.17.1")
    first = capability(environment, tmp_path)
    assert diary(tmp_path) == ["--version"]

    assert capability(environment, tmp_path) == first
    assert not abilities_of("local", environment, tmp_path).snapshots
    assert diary(tmp_path) == ["--version"]


def test_another_program_is_asked_again(tmp_path: Path) -> None:
    environment = program(tmp_path, "echo Version: 3.17.1")
    capability(environment, tmp_path)
    os.utime(tmp_path / "criu", ns=(1, 1))
    capability(environment, tmp_path)
    assert diary(tmp_path) == ["--version", "--version"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"stamp": 1}'])
def test_a_damaged_memory_is_no_memory(tmp_path: Path, content: str) -> None:
    environment = program(tmp_path, "echo Version: 3.17.1")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "criu.json").write_text(content)
    assert "too old" in capability(environment, tmp_path).why


def test_a_memory_of_another_form_is_no_memory(tmp_path: Path) -> None:
    environment = program(tmp_path, "echo Version: 3.17.1")
    capability(environment, tmp_path)
    file = tmp_path / "cache" / "criu.json"
    known = json.loads(file.read_text())
    file.write_text(json.dumps({**known, "found": {"works": True, "more": 1}}))
    assert "too old" in capability(environment, tmp_path).why


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo Version: 4.1.1", "CRIU 4.1.1 is too old, 4.2 is needed"),
        ("echo GNU hello 2.12", "is not a CRIU that runs here"),
        ("exit 1", "is not a CRIU that runs here"),
    ],
)
def test_a_program_that_will_not_do_says_why(
    tmp_path: Path, script: str, why: str
) -> None:
    found = capability(program(tmp_path, script), tmp_path)
    assert not found.works
    assert why in found.why
    assert "scripts/install-criu.sh PREFIX" in found.hint


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    environment = {"DEPLOYER_CRIU": str(tmp_path / "none"), "PATH": ""}
    assert "is not a CRIU that runs here" in capability(environment, tmp_path).why
    found = capability({"PATH": str(tmp_path)}, tmp_path)
    assert found.why == "CRIU is not installed"
    assert found == Capability(
        works=False, program="", version="", why=found.why, hint=found.hint
    )


def test_what_other_engines_can_do_depends_on_no_machine(tmp_path: Path) -> None:
    assert abilities_of("modal", {}, tmp_path).snapshots
    assert machine_inputs("modal", {}) == ()


def test_the_errors_of_a_log_are_told_without_their_places(tmp_path: Path) -> None:
    log = tmp_path / "restore.log"
    assert errors_in(log) == ""
    log.write_text(
        "Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n"
        "(00.01) Error (criu/files-reg.c:2227): File usr/lib/x.so has bad size 1\n"
        "Warn  (criu/x.c:1): nothing\n"
    )
    assert errors_in(log) == "File usr/lib/x.so has bad size 1"
