"""Links lead somewhere: to files and headings that are there, to addresses by form."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, inline_code, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
ADDRESS = re.compile(r"https?://[^\s)>`\"'\]]+")
HOST = re.compile(r"https://[a-z0-9-]+(\.[a-z0-9-]+)+(/[!-~]*)?")
OURS_BY_NAME = re.compile(r"(deployer|tests|scripts|docs)/[\w/.-]*[\w/](?=$|::)")
"""A file or a folder of the repository, alone in its code."""
OURS = re.compile(r"http://(127\.0\.0\.1|localhost)[:/]")


def links(page: Path) -> list[str]:
    return LINK.findall(prose(page))


def slugs(page: Path) -> set[str]:
    """The anchors of headings, as the site and code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", text) for text in headings)
    return {
        re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", text.lower()).strip())
        for text in plain
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_to_what_is_there(page: Path) -> None:
    inside = [link for link in links(page) if not re.match(r"[a-z]+:", link)]
    for link in inside:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name} links to `{link}`"
        assert target.is_relative_to(ROOT)
        assert target.is_file() or page.parent == ROOT, f"`{link}` is a folder"
        if anchor:
            assert anchor in slugs(target), f"{page.name} links to `{link}`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_addresses_are_whole_and_encrypted(page: Path) -> None:
    """Their form is all that can be looked at without the network."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    found = [link.rstrip(".,;:") for link in ADDRESS.findall(text)]
    wrong = [a for a in found if not HOST.fullmatch(a) and not OURS.match(a)]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_a_page_names_is_there(page: Path) -> None:
    """But in the changelog, which is about the past."""
    named = {match[0] for it in inline_code(page) if (match := OURS_BY_NAME.match(it))}
    gone = {name for name in named if not (ROOT / name).exists()}
    assert page.name == "CHANGELOG.md" or gone == set()


def test_there_are_links_of_every_kind() -> None:
    every = [link for page in PAGES for link in links(page)]
    assert sum("#" in link for link in every) > 5
    assert sum(link.startswith("https://") for link in every) > 20
    assert sum(link.startswith("../") for link in every) > 10


@pytest.mark.parametrize(
    "address", ["http://example.org/x", "https://nowhere", "https://a b.org"]
)
def test_an_address_of_another_form_is_noticed(address: str) -> None:
    assert not HOST.fullmatch(address)
