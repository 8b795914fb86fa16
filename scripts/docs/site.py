"""Hook of MkDocs: files of the repository that pages link to become part of the site.

Pages link as on a code host: `../stacks/demo.yaml`.  On the site such a file lies
below `repository/`, and ARCHITECTURE.md and CHANGELOG.md are pages.
"""

import logging
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import indent
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[2]

PAGES: Final[Mapping[str, str]] = {
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the site that lie at the root of the repository."""
COPIES: Final = "repository"
"""Where the other files of the repository lie on the site."""

LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])[^)#\s]+(?=[)#])")
"""A relative link of Markdown, without its anchor."""

log = logging.getLogger("mkdocs.hooks.site")  # its warnings end a strict build


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, and every file that a page links to."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        if name == "CHANGELOG.md":
            text = _folded(text)
        files.append(File.generated(config, page, content=text))
    waiting = [*files.documentation_pages()]
    while waiting:
        for file in [*_linked(waiting.pop(), files, config)]:
            files.append(file)
            if file.is_documentation_page():
                waiting.append(file)
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Let links to files of the repository lead to where they lie on the site."""
    del config, files
    here = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        there = _place(_target(here, link[0]))
        return posixpath.relpath(there, posixpath.dirname(here) or ".")

    return LINK.sub(moved, markdown)


def _folded(changelog: str) -> str:
    """Fold each group of changes, and leave the page out of the search."""
    head, *groups = re.split(r"(?m)^### ", changelog)
    folded = "".join(
        f'??? note "{title}"\n\n{indent(text, "    ")}\n'
        for title, _, text in (group.partition("\n") for group in groups)
    )
    return f"---\nsearch: {{exclude: true}}\n---\n\n{head}{folded}"


def _linked(page: File, known: Files, config: MkDocsConfig) -> Iterator[File]:
    """Files of the repository that a page links to, and the site does not have yet."""
    for link in LINK.findall(page.content_string):
        name = _target(page.src_uri, link)
        place = _place(name)
        if name.startswith("docs/") or known.get_file_from_path(place):
            continue
        if not (ROOT / name).is_file():
            log.warning("`%s` links to `%s`, which is no file", page.src_uri, name)
            continue
        yield File.generated(
            config,
            place,
            abs_src_path=str(ROOT / name),
            inclusion=InclusionLevel.NOT_IN_NAV,
        )


def _target(page: str, link: str) -> str:
    """The path in the repository that a link of a page of the site leads to."""
    origins = {place: name for name, place in PAGES.items()}
    inside = page.removeprefix(f"{COPIES}/")
    origin = origins.get(page, inside if inside != page else f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _place(name: str) -> str:
    """Where a file of the repository lies on the site."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return PAGES.get(name, f"{COPIES}/{name}")
