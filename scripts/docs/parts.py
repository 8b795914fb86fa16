"""Pages made of parts: one written between marks, one cut in pages at its headings."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

from deployer.stack.fields.reference import Entry

ROOT: Final = Path(__file__).parents[2]


def marked(
    name: str, parts: Mapping[str, Callable[[], Iterator[str]]]
) -> Callable[[], str]:
    """Return a file of the repository with its parts between marks written again."""

    def page() -> str:
        text = (ROOT / name).read_text(encoding="utf-8")
        for part, lines in parts.items():
            pattern = rf"(?s)(?<={part}: begin)([^\n]*\n).*?([^\n]*{part}: end)"
            made = "".join(f"{line}\n" for line in lines())
            text, count = re.subn(pattern, partial(_around, made), text)
            if count != 1:
                raise ValueError(f"{name} has no part `{part}: begin`")
        return text

    return page


def _around(made: str, found: re.Match[str]) -> str:
    return f"{found[1]}{made}{found[2]}"


def cut(name: str, page: str, slugs: Mapping[str, str]) -> dict[str, str]:
    """Return a page cut at its second headings: a first page with links, and the rest.

    The page of a heading lies in a folder named after the first one, by its slug.
    """
    head, *sections = re.split(r"(?m)^## (?=.)", page)
    folder = name.removesuffix(".md")
    titles = [section.partition("\n")[0] for section in sections]
    links = "\n".join(
        f"- [{title}]({folder.rpartition('/')[2]}/{slugs[title]}.md)"
        for title in titles
    )
    found = {name: f"{head.rstrip()}\n\n{links}\n"}
    for title, section in zip(titles, sections, strict=True):
        body = re.sub(r"(?m)^##(#+ )", r"#\1", section.partition("\n")[2].strip())
        found[f"{folder}/{slugs[title]}.md"] = f"# {title}\n\n{body}\n"
    return found


def field(entry: Entry, heading: str, common: Collection[str] = ()) -> Iterator[str]:
    """Yield a field with its facts, but for those that its page states of all."""
    facts = [fact for fact in entry.facts() if fact not in common]
    yield from (f"{heading} {entry.path}", "", entry.said, "", " · ".join(facts))
