"""What the README shows works as it stands."""

import re
import subprocess
from pathlib import Path

from deployer.stack.load import load

ROOT = Path(__file__).parent.parent
CI = (ROOT / ".ci/run").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_stack_in_the_readme_is_right(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    stack = tmp_path / "stack.yaml"
    stack.write_text(block, encoding="utf-8")
    assert load(stack).stack.name == "gemma4"


def test_the_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\(([^):#]+)\)", README)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_ci_runs_the_two_commands_of_the_readme_as_they_stand_there() -> None:
    taker = re.search(r"^readme\(\) .*$", CI, re.MULTILINE)
    assert taker
    taken = [
        subprocess.run(
            ["/bin/bash", "-c", f"{taker[0]}; readme {name}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in re.findall(r'eval "\$\(readme (\w+)\)"', CI)
    ]
    assert taken == re.findall(r"```console\n([^$].*?)\n```", README)
    assert len(taken) == 2


def test_the_readme_is_short_and_says_what_a_newcomer_asks() -> None:
    """What it is, how to try it, a change, a stack on Modal, what was never run."""
    assert len(README.splitlines()) <= 120
    assert re.findall(r"(?m)^## (.*)$", README) == [
        "Try it",
        "A change, and its plan",
        "A stack on Modal",
        "What is proven, and what was never run",
        "More",
    ]
    assert "Terraform-style `plan` and `apply` for llama.cpp servers." in README
    assert "no release was deployed with an account" in README
    assert "nothing was measured on a GPU" in README
