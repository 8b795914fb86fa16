"""Whatever is in a file, loading it ends in a stack or in problems with places."""

import os
import random
from pathlib import Path

import pytest
import yaml

from deployer.diagnostics import Diagnostic, diagnostics_text, in_order
from deployer.errors import StackError
from deployer.stack.load import load
from deployer.stack.yaml12 import LOADER, UnreadableError, parse

LONG = bool(os.environ.get("DEPLOYER_LONG"))
BYTES_MUTATED = 4000 if LONG else 1000
LINES_MUTATED = 1000 if LONG else 500
"""Files of each stack: 10,000 in all in the long run."""
STACKS = sorted((Path(__file__).parents[2] / "stacks").glob("*.yaml"))
BITS = [
    *("[", "]", "{", "}", ":", ": ", "- ", "&a ", "*a", "!", "!!str ", "|", ">", "?"),
    *("#", "@", "`", '"', "'", "\\", "%YAML 1.1\n", "---\n", "...\n", "\t", "\n", "~"),
    *("<<", "null", "true", "on", "1e3", "12e4567", ".inf", "0x", "\r", "\x00", "\x85"),
    *("\u2028", "\ufeff", "\ud7ff", "é", "🦙", ",", "  ", "=", "extends: ", "s.yaml"),
    *(
        "hf_aaaaaaaaaaaaaaaaaaaaa",
        "9" * 30,
        "a" * 200,
        "x: &x [*x]\n",
        "../",
        "\x1b[0m",
    ),
]
BYTES = [b"\xff", b"\xc3", b"\x00", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xfe\xff"]


pytestmark = pytest.mark.trust


def mutated(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(made) + 1)
        end = min(len(made), start + chance.choice((0, 0, 1, 3, 20)))
        bit = chance.choice(BITS).encode()
        made[start:end] = chance.choice((bit, bit, bit, b"", chance.choice(BYTES)))
    return bytes(made)


def moved(text: str, chance: random.Random) -> str:
    """The lines swapped, dropped, doubled and indented otherwise."""
    lines = text.splitlines()
    for _ in range(chance.randint(1, 5)):
        index = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[index]
            case 1:
                lines.insert(chance.randrange(len(lines) + 1), lines[index])
            case 2:
                lines[index] = " " * chance.randrange(5) + lines[index].lstrip()
            case _:
                key, colon, _ = lines[index].partition(":")
                lines[index] = key + colon + " " + chance.choice(BITS)
    return "\n".join(lines) + "\n"


def ends_well(path: Path) -> bool:
    """Whether it is a stack; else there are problems, each in a file with a line."""
    problems: tuple[Diagnostic, ...] = ()
    try:
        load(path)
    except StackError as error:
        problems = error.problems
    else:
        return True
    assert problems
    assert list(problems) == in_order(problems)
    for problem in problems:
        assert problem.place.file == str(path)
        assert problem.place.line >= 1
        assert problem.place.column >= 1
        assert problem.what
    assert "\x1b" not in diagnostics_text(problems)
    return False


def dice(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same mutations in every run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    (folder / ".git").mkdir()
    (folder / "red.png").write_bytes(b"")
    return folder


@pytest.mark.parametrize("stack", STACKS, ids=lambda path: path.stem)
def test_mutated_bytes_never_end_in_anything_else(stack: Path, folder: Path) -> None:
    path, original = folder / "s.yaml", stack.read_bytes()
    well = 0
    for seed in range(BYTES_MUTATED):
        path.write_bytes(mutated(original, dice(seed)))
        well += ends_well(path)
    assert 0 < well < 0.7 * BYTES_MUTATED


@pytest.mark.parametrize("stack", STACKS, ids=lambda path: path.stem)
def test_mutated_lines_never_end_in_anything_else(stack: Path, folder: Path) -> None:
    path, original = folder / "s.yaml", stack.read_text("utf-8")
    for seed in range(LINES_MUTATED):
        text = moved(original, dice(seed))
        path.write_text(text, "utf-8")
        ends_well(path)


def test_both_parsers_read_the_same() -> None:
    """Where libyaml is missing, stacks mean the same."""
    original, both = STACKS[0].read_text("utf-8"), 0
    for seed in range(300):
        text = moved(original, dice(seed))
        try:
            fast = parse(text, "s.yaml", loader=LOADER)
            slow = parse(text, "s.yaml", loader=yaml.SafeLoader)
        except UnreadableError:
            continue  # they differ in which tabs they allow
        both += 1
        assert fast == slow
    assert both > 50
