"""Pairs of stacks, and the plan from one to the other, as files that people read.

A file holds pairs; a pair is a title with the base, the lines that go (``-``) and come
(``+``), and below ``>`` the reasons by resource as JSON says them, then the text of
the plan without its heading and what is unchanged.

    python -m tests.planning.golden_plans    writes every file anew: read the difference
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from deployer.engines.place import costs_of
from deployer.show.data import plan_data
from deployer.show.text import plan_text
from tests.planning.checking import DROPS, KEEPS, LOCAL, MODAL, PLAIN, planned

FOLDER = Path(__file__).parent / "golden"

LARGE_LOCAL = (
    LOCAL.replace(
        "  ctx_size: 4096\n", "  ctx_size: 4096\n  parallel: 2\n  metrics: true\n"
    )
    + """\
auth:
  api_key: {env: KEY}
local:
  port: 8080
gates:
  chat: {}
  speed: {ttft: 2s}
rollout:
  keep: 3
"""
)
BASES = {
    "local": (LOCAL, PLAIN),
    "large": (LARGE_LOCAL, PLAIN),
    "modal": (MODAL, DROPS),
    "snapshot": (MODAL + "snapshot:\n  enabled: true\n", KEEPS),
    "dropping": (MODAL + "snapshot:\n  enabled: true\n", DROPS),
}


@dataclass(frozen=True)
class Pair:
    """Two stacks that differ in a few lines, and what is expected of the plan."""

    title: str
    base: str
    gone: tuple[str, ...]
    come: tuple[str, ...]
    expected: str

    @property
    def name(self) -> str:
        return f"{self.base}: {self.title}"

    def stacks(self) -> tuple[str, str]:
        """Before and after: lines come where others go, else at the end."""
        text = BASES[self.base][0]
        lines = text.splitlines()
        at = len(lines)
        for line in self.gone:
            at = lines.index(line)
            del lines[at]
        lines[at:at] = self.come
        return text, "\n".join(lines) + "\n"

    def plan(self) -> str:
        """What the plan says, for programs and for people."""
        before, after = self.stacks()
        made = planned(before, after, abilities=BASES[self.base][1])
        changes = cast("list[dict[str, Any]]", plan_data(made, {})["changes"])
        told = [
            f"> {change['kind']} {change['action']}"
            + "".join(
                f" {reason['cause']}:{reason['path']}" for reason in change["reasons"]
            )
            for change in changes
            if change["action"] != "keep"
        ]
        _, body = plan_text(made, {}, costs=costs_of(made)).split("\n\n", 1)
        shown = [x for x in body.splitlines() if x and not x.startswith("  ✔")]
        return "\n".join([*told, *shown])

    def text(self) -> str:
        """As it stands in the file."""
        lines = [f"=== {self.name}"]
        lines += [f"- {line}" for line in self.gone]
        lines += [f"+ {line}" for line in self.come]
        return "\n".join([*lines, self.plan()]) + "\n"


def pairs_in(file: Path) -> Iterator[Pair]:
    """The pairs of a file, in its order."""
    for block in file.read_text(encoding="utf-8").split("=== ")[1:]:
        title, *lines = block.rstrip("\n").splitlines()
        base, _, name = title.partition(": ")
        gone = tuple(line[2:] for line in lines if line.startswith("- "))
        come = tuple(line[2:] for line in lines if line.startswith("+ "))
        rest = [line for line in lines if line[:2] not in ("- ", "+ ")]
        yield Pair(name, base, gone, come, "\n".join(rest))


def files() -> list[Path]:
    """Every file of pairs."""
    return sorted(FOLDER.glob("*.txt"))


if __name__ == "__main__":
    for file in files():
        pairs = [pair.text() for pair in pairs_in(file)]
        file.write_text("\n".join(pairs), encoding="utf-8")
