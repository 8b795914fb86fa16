"""What stands in the pages: fences, links and headings, read as Markdown."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.rglob("*.md")),
)


@dataclass(frozen=True)
class Fence:
    """A block of code, its language, and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def fences() -> tuple[Fence, ...]:
    """Every block of code of every page."""
    return tuple(fence for page in PAGES for fence in _fences(page))


def in_language(*languages: str) -> list[Fence]:
    return [fence for fence in fences() if fence.language in languages]


def commands(text: str) -> Iterator[str]:
    """The calls of `deployer` in a block for a console, less what is around them.

    Where some lines have a prompt, the others are what was printed.
    """
    lines = text.replace("\\\n", " ").splitlines()
    for line in [it for it in lines if it.startswith("$ ")] or lines:
        typed = line.removeprefix("$ ").partition(" #")[0]
        for part in re.split(r"&&|\|\s|;|(?<!\d)>>?", typed):
            words = part.strip()
            if match := re.match(r"(?:\.venv/bin/)?deployer (?=\S)", words):
                yield words[match.end() :]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", _text(page), flags=re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> Iterator[str]:
    """Code within sentences and tables."""
    text = prose(page).replace("\\|", "|")
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _fences(page: Path) -> Iterator[Fence]:
    for token in MarkdownIt().parse(_flat(_text(page))):
        if token.type == "fence" and token.map is not None:
            language = token.info.split()[0] if token.info else ""
            yield Fence(page, token.map[0] + 1, language, token.content)


def _flat(text: str) -> str:
    """Tabs of the site (`=== "uv"`) hold their content indented."""
    if '\n=== "' not in text:
        return text
    return re.sub(r"^ {4}", "", text, flags=re.MULTILINE)
