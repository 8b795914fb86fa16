"""Command lines as people write them, and the stack that says the same."""

import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deployer.llama.catalogue import Takes, catalogue, problems_of
from deployer.planning.argv import words_by_field
from deployer.stack.fields.marks import leaves
from deployer.testing import stack

LINES = json.loads(
    (Path(__file__).parent.parent / "data" / "command_lines.json").read_text()
)
DEFAULTS = {"--ctx-size": "0", "--threads": "-1", "--gpu-layers": "-1"}
"""What people write though it is what leaving it out means."""
OTHERS = {"cache-type-k", "cache-type-v"}
"""Options with values of a fork in these lines."""


def effective(words: Sequence[str], build: int) -> dict[str, Any]:
    """The options in force by their long names, whatever the order and the spelling."""
    known, found, rest = catalogue(build), dict[str, Any](), [*words]
    while rest:
        name = rest.pop(0)
        option = known.find(name)
        assert option is not None, name
        if option.takes is Takes.NOTHING:
            found[option.name] = name not in option.off
            continue
        count = 2 if option.takes is Takes.TWO else 1
        value = " ".join(_plain(rest.pop(0)) for _ in range(count))
        again = option.joined == "" and option.name in found
        found[option.name] = f"{found[option.name]} {value}" if again else value
    return {n: v for n, v in found.items() if DEFAULTS.get(n) != v}


def _plain(value: str) -> str:
    """A number in one spelling; JSON without blanks."""
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def rendered(row: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    asked = stack(
        {
            "version": 1,
            "name": "line",
            "engine": "local",
            "llama_cpp": {"tag": f"b{row['build']}"},
            "model": {"path": "m.gguf"},
            "server": row["server"],
        }
    )
    yield from words_by_field(leaves(asked), build=row["build"])


def test_there_are_twenty_of_them() -> None:
    assert len(LINES) == 20


@pytest.mark.parametrize("row", LINES, ids=lambda row: str(row["name"]))
def test_a_stack_says_what_the_command_line_says(row: Any) -> None:
    groups = [*rendered(row)]
    words = [word for _, group in groups for word in group]
    build = row["build"]
    assert effective(words, build) == effective(shlex.split(row["line"]), build)
    wrong = [it.path.rpartition(".")[2] for it in problems_of(groups, build)]
    assert {it.replace("_", "-") for it in wrong} <= OTHERS
