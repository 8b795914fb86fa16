"""The site is built without a warning, and asks nobody else for anything."""

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.conftest import build
from tests.docs.pages import DOCS

REQUEST = re.compile(
    r"<(?:script|img|link|iframe|source|object)\b[^>]*?"
    r"(?:src|href|data)=[\"']?((?:https?:)?//[^\"'\s>]+)"
)
IN_STYLE = re.compile(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)")


def requests(text: str) -> list[str]:
    """Addresses of others that a browser would ask on its own."""
    return [*REQUEST.findall(text), *IN_STYLE.findall(text)]


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    asked = [
        f"{file.name}: {address}"
        for file in site.rglob("*")
        if file.suffix in (".html", ".css", ".svg")
        for address in requests(file.read_text(encoding="utf-8"))
    ]
    assert asked == []


def test_requests_are_noticed() -> None:
    assert requests('<script async src="https://a.test/x.js">')
    assert requests('<link rel=stylesheet href="//a.test/x.css">')
    assert requests("@font-face { src: url('https://a.test/x.woff') }")


def test_pages_of_the_root_and_files_of_the_repository_are_on_it(site: Path) -> None:
    assert "invariant" in (site / "architecture" / "index.html").read_text("utf-8")
    assert (site / "changelog" / "index.html").is_file()
    assert (site / "repository" / "stacks" / "demo.yaml").is_file()
    page = (site / "quickstart" / "index.html").read_text("utf-8")
    assert 'href="../repository/stacks/demo.yaml"' in page


def test_it_can_be_searched_copied_from_and_made_dark(site: Path) -> None:
    page = (site / "quickstart" / "index.html").read_text("utf-8")
    assert (site / "search" / "search_index.json").is_file()
    assert "content.code.copy" in page
    assert 'data-md-color-scheme="slate"' in page


@pytest.mark.parametrize(
    "link",
    ["[x](nowhere.md)", "[x](plans.md#nowhere)", "[x](../stacks/nowhere.yaml)"],
)
def test_a_broken_link_ends_the_build(link: str, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    with (docs / "plans.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{link}\n")
    done = build(docs, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere" in done.stderr
