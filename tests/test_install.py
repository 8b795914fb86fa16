"""What docs and recipes say of installing deployer is so."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deployer import DISTRIBUTION
from tests.docs.pages import commands

ROOT = Path(__file__).parent.parent
WRITTEN = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = WRITTEN["project"]
WHEEL = WRITTEN["tool"]["hatch"]["build"]["targets"]["wheel"]
EXTRAS = PROJECT["optional-dependencies"]
PAGE = (ROOT / "docs" / "install.md").read_text("utf-8")
RECIPE = (ROOT / "Containerfile").read_text("utf-8")
INSTRUCTIONS = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", RECIPE, flags=re.MULTILINE))


SPELLED = re.compile(
    r"(?<![\w/-])deployer\[[a-z]"  # an extra of the other project
    r"|\b(?:pip|pipx|tool|uv) (?:install|upgrade|add|run)"
    r"(?: +--?[\w-]+)* +[\"']?deployer(?![\w/-])"
    r"|[\"']deployer *(?:[=<>~!]=|@)",
)
"""Ways to install the project that has the name of the command on the index."""


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.*)$", INSTRUCTIONS, re.MULTILINE)


def test_the_distribution_has_one_name_and_the_command_another() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert [*PROJECT["scripts"]] == ["deployer"]


def test_nothing_says_to_install_what_another_project_has_on_the_index() -> None:
    listed = subprocess.run(
        ["/usr/bin/env", "git", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout.decode()
    texts = {".md", ".py", ".toml", ".yml", ".yaml", ".html", ".j2", ".sh", ".txt", ""}
    wrong = []
    for name in filter(None, listed.split("\0")):
        file = ROOT / name
        if file.suffix in texts and file.is_file() and file != Path(__file__):
            lines = file.read_text("utf-8", errors="replace").splitlines()
            wrong += [f"{name}: {it}" for it in lines if SPELLED.search(it)]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "pip install 'deployer[modal]'",
        "pipx upgrade deployer",
        "python -m pip install --upgrade deployer",
        "install: deployer[remote]",
        '"deployer==0.3.10"',
        "uv tool install deployer",
    ],
)
def test_a_line_that_installs_the_other_project_is_seen(line: str) -> None:
    assert SPELLED.search(line)
    assert not SPELLED.search(line.replace("deployer", DISTRIBUTION))


def test_the_page_lists_the_extras_that_there_are() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| ", PAGE, re.MULTILINE)) >= {*EXTRAS}


@pytest.mark.parametrize("text", [PAGE, INSTRUCTIONS], ids=["page", "recipe"])
def test_extras_that_are_asked_for_exist(text: str) -> None:
    named = re.findall(r"(?:deployer|\.|\.whl|\)|the\.whl)\[([a-z,]+)\]", text)
    named += re.findall(r"EXTRAS=([a-z,]+)", text)
    assert named
    assert {extra for names in named for extra in names.split(",")} <= {*EXTRAS}


def test_the_page_and_the_images_have_a_python_that_is_new_enough() -> None:
    (oldest,) = re.findall(r">=3\.(\d+)", PROJECT["requires-python"])
    (base,) = re.findall(
        r"^ARG BASE=\S+python:3\.(\d+)\.\d+-slim", RECIPE, re.MULTILINE
    )
    assert f"Python 3.{oldest} or newer" in PAGE
    assert int(base) >= int(oldest)


def test_images_are_pinned_and_do_not_run_as_root() -> None:
    stages = [
        part.split("\n")
        for part in re.split(r"^FROM ", INSTRUCTIONS, flags=re.MULTILINE)
    ]
    users = {lines[0].split()[-1]: lines for lines in stages[1:]}
    for target in ("cli", "serve"):
        named = [line for line in users[target] if line.startswith("USER ")]
        assert named[-1] == "USER 10001"
    bases = {stage.split()[0] for stage in instructions("FROM")}
    assert bases == {"${BASE}", "environment", "cli"}
    assert "HEALTHCHECK" not in RECIPE


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """The wheel needs what pyproject names; everything else stays outside."""
    copied = {"pyproject.toml", "README.md", "LICENSE", "deployer", "containers/serve"}
    copied |= {*WHEEL["force-include"]}
    assert {name for line in instructions("COPY") for name in line.split()} >= copied
    let = (ROOT / ".containerignore").read_text("utf-8").splitlines()
    assert [name for name in copied if f"!{name}" not in let] == []
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert PROJECT["readme"] in copied
    assert {*PROJECT["license-files"]} <= copied


def test_the_script_that_serves_is_one_and_calls_what_there_is() -> None:
    script = ROOT / "containers" / "serve"
    subprocess.run(["/bin/sh", "-n", script], check=True)
    called = [c.split()[0] for c in commands(script.read_text("utf-8"))]
    assert script.stat().st_mode & 0o111
    assert called == ["apply", "logs", "server"]


def completion(shell: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "deployer", "completion", shell],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_the_completion_of_bash_completes(tmp_path: Path) -> None:
    program = tmp_path / "deployer"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m deployer "$@"\n')
    program.chmod(0o755)
    asked = f"""{completion("bash")}
COMP_WORDS=(deployer pl) COMP_CWORD=1
_deployer_completion {program}
echo "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["/bin/bash", "-c", asked],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.split() == ["plan"]


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("bash", "complete -o nosort -F _deployer_completion deployer"),
        ("zsh", "#compdef deployer"),
        ("fish", "complete --no-files --command deployer"),
    ],
)
def test_a_completion_script_is_of_its_shell(shell: str, line: str) -> None:
    script = completion(shell)
    assert line in script
    assert f"_DEPLOYER_COMPLETE={shell}_complete" in script
    if shell == "bash":
        subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=True)
