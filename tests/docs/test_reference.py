"""What the product says of itself stands in the docs, and nothing else."""

import re

import click
import pytest

from deployer.gates import GATES
from deployer.llama.known.symptoms import symptoms
from deployer.llama.known.traps import traps
from deployer.stack.fields.marks import Section
from deployer.stack.fields.reference import Entry, entries
from scripts.docs.cli_page import calls
from scripts.docs.diagrams import DIAGRAMS
from scripts.docs.write import PAGES, stale
from tests.docs.pages import DOCS
from tests.planning.test_fields import EVERY_PATH


def written(*folders: str) -> str:
    """Every page of some folders below `docs/`, as one text."""
    files = (file for name in folders for file in sorted((DOCS / name).glob("*.md")))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


STACK = written("reference", "reference/stack", "gates")
CLI = written("reference/cli")
ENTRIES = entries()


@pytest.mark.parametrize("name", PAGES)
def test_the_committed_page_is_the_generated_one(name: str) -> None:
    committed = (DOCS / name).read_text(encoding="utf-8")
    assert committed == PAGES[name](), "run `python -m scripts.docs.write`"


def test_no_page_is_left_of_what_is_gone() -> None:
    assert stale() == [], "run `python -m scripts.docs.write`"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_every_diagram_stands_in_a_page(name: str) -> None:
    assert any(f"]({name})" in page.read_text("utf-8") for page in DOCS.glob("*.md"))


def test_every_explanation_has_one_diagram() -> None:
    nav = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r"- (?:.*: )?(\S+\.md)", nav.partition("- Explanations:")[2])
    assert len(pages) > 5
    drawn = {
        name: (DOCS / name).read_text("utf-8").count("](diagrams/") for name in pages
    }
    assert set(drawn.values()) == {1}, drawn


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", page, re.DOTALL | re.MULTILINE
    )
    assert found, f"no section `{heading}`"
    return found[1]


SHARED = {
    file.stem.partition(".")[0]
    for file in (DOCS / "reference" / "stack").glob("*.md")
    if "Unless a field says otherwise: " in file.read_text("utf-8")
}
"""Sections that state once what most of their fields have in common."""


@pytest.mark.parametrize("path", EVERY_PATH)
def test_every_field_has_its_section(path: str) -> None:
    """Where weights come from is told once, of the model."""
    path = re.sub(r"^model\.(mmproj|draft|vocoder)\.", "model.", path)
    gate, _, option = path.removeprefix("gates.").partition(".")
    told_once = path.startswith("gates.") and option in ("advisory", "timeout")
    text = section(STACK, f"gates.GATE.{option}" if told_once else path)
    assert gate
    assert re.search(r"(?m)^Type: ", text)
    assert "Example: `" in text, "two values each: `deployer/stack/fields/examples.py`"
    assert "A change: " in text or path.partition(".")[0] in SHARED


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.path)
def test_a_field_that_may_be_left_out_says_what_holds_then(entry: Entry) -> None:
    is_gate = entry.path.startswith("gates.") and entry.below is not None
    filled = entry.info.default_factory is not None
    assert entry.info.is_required() or entry.unset or is_gate or filled


def test_an_option_stands_with_the_builds_that_spell_it_so() -> None:
    text = section(STACK, "server.mmap")
    assert "`--mmap` or `--no-mmap` up to b10104; `--load-mode mmap` or" in text


def test_a_field_of_one_engine_says_so() -> None:
    only = {e.path for e in ENTRIES if e.marks.only and e.below is None}
    said = {path for path in only if "Engine: `" in section(STACK, path)}
    assert only
    assert said == only


@pytest.mark.parametrize("words", [words for words, _ in calls()], ids=" ".join)
def test_every_command_has_its_section_with_an_example(words: tuple[str, ...]) -> None:
    text = section(CLI, f"deployer {' '.join(words)}")
    assert f"\n$ deployer {' '.join(words)}" in text


def test_every_option_of_a_command_is_listed() -> None:
    for words, command in calls():
        text = section(CLI, f"deployer {' '.join(words)}")
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden:
                assert option.opts[-1] in text


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_has_its_page(gate: str) -> None:
    page = (DOCS / "gates" / f"{gate}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert page.startswith(f"# {gate}\n")
    assert headings[0] == "What it proves"
    for heading in ("What it proves", "What it costs", "When it fails"):
        below = section(page, heading).strip()
        assert below, f"docs/gates/{gate}.md says nothing below `{heading}`"


def test_the_list_of_gates_holds_them_in_the_order_in_which_they_run() -> None:
    """But for those that end the row: they measure, and run alone."""
    page = (DOCS / "gates" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\w+)\]\(\1\.md\)", page, re.MULTILINE) == [*GATES]


@pytest.mark.parametrize("trap", traps())
def test_every_trap_has_its_section(trap: str) -> None:
    text = section(written("traps"), trap)
    for word in ("When", "What happens", "Write", "Reference"):
        assert f"\n- {word}: " in text


def test_every_symptom_has_its_line() -> None:
    page = written("runbook")
    assert [s.id for s in symptoms() if f"| `{s.id}` |" not in page] == []


def test_every_section_of_a_stack_is_a_heading() -> None:
    held = [e for e in ENTRIES if "." not in e.path and e.below is not None]
    assert held
    assert all(issubclass(entry.below or object, Section) for entry in held)
    pages = [*re.findall(r"(?m)^# (\w+)", STACK)]
    assert [e.path for e in held if e.path not in pages] == []
