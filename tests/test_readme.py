"""What the README shows works as it stands."""

import re
from pathlib import Path

from deployer.load.stack import load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_stack_in_the_readme_is_right(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    stack = tmp_path / "stack.yaml"
    stack.write_text(block, encoding="utf-8")
    assert load(stack).stack.name == "demo"


def test_the_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^):#]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_there_are_two_commands_to_set_up_and_ci_runs_the_second() -> None:
    commands = re.findall(r"```console\n([^$].*?)\n```", README)
    assert len(commands) == 2
    assert commands[1].removeprefix(".venv/bin/") in (ROOT / ".ci/run").read_text()
