"""Commands of a page, run in a shell as a reader would type them."""

import re
import shlex
import sys
from collections.abc import Mapping
from textwrap import dedent
from typing import Protocol

from tests.cli.project import ROOT, Done

DOCS = ROOT / "docs"
BLOCK = re.MULTILINE | re.DOTALL
RUN = re.compile(
    r"^ *<!-- run(?:: exits (\d+) at the last)? -->\n *```console\n(.*?)^ *```",
    BLOCK,
)
_CODE = re.compile(r"\0(\d+)\n")
"""What the shell prints after each line."""


class Shell(Protocol):
    """Where lines are run: a project of a test."""

    def shell(self, line: str) -> Done: ...


def parts(page: str) -> list[tuple[list[str], int]]:
    """Blocks that are marked to be run: their lines, and how the last one exits."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        (re.findall(r"(?m)^ *\$ ((?:.*\\\n)*.+)$", block), int(code or 0))
        for code, block in RUN.findall(text)
    ]


def play(
    project: Shell,
    page: str,
    blocks: slice = slice(None),
    values: Mapping[str, str] | None = None,
) -> list[str]:
    """Run every marked line, a shell for each block; returns what each printed.

    ``values`` are what a reader puts in the place of words of the page.  Where a
    command asks before it acts, the reader agrees.
    """
    deployer = f'deployer() {{ {shlex.quote(sys.executable)} -m deployer "$@"; }}'
    modal = f'modal() {{ {shlex.quote(sys.executable)} -m modal "$@"; }}'
    printed = []
    for lines, code in parts(page)[blocks]:
        script = [deployer, modal, "exec 2>&1"]
        for line in lines:
            for word, value in (values or {}).items():
                line = line.replace(word, value)  # noqa: PLW2901 - what is typed
            if re.match(r"deployer (?:apply|rollback) stacks/(?!.*--yes)", line):
                line += " --yes"  # noqa: PLW2901 - there is no terminal to agree at
            script += [line, r"printf '\0%s\n' $?"]
        *pairs, rest = _CODE.split(project.shell("\n".join(script)).out)
        assert len(pairs) == 2 * len(lines), rest
        for line, text, found in zip(lines, pairs[::2], pairs[1::2], strict=True):
            wanted = code if line == lines[-1] else 0
            assert int(found) == wanted, f"$ {line}\n{text}"
            printed.append(text)
    return printed


def yaml_of(page: str) -> list[str]:
    """The blocks of YAML of a page, in their order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        dedent(block) for block in re.findall(r"^ *```yaml\n(.*?)^ *```", text, BLOCK)
    ]
