"""Write generated pages and schemas again: `python -m scripts.docs.write`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from deployer.llama.known import symptoms, traps
from deployer.show.data import schema_text
from deployer.stack.fields.reference import published_schema
from scripts.docs import cli_page, diagrams, gate_pages, modal_options, stack_page
from scripts.docs.parts import ROOT, cut, marked

DOCS: Final = ROOT / "docs"
_TRAPS: Final = {title: title.split()[0].strip(",").lower() for title in traps.themes()}
_SYMPTOMS: Final = {title: name for name, title in symptoms.THEMES.items()}
_WHOLE: Final = (
    *cut("runbook.md", symptoms.markdown(), _SYMPTOMS).items(),
    *cut("traps.md", traps.markdown(), _TRAPS).items(),
)

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    **{name: partial(str, text) for name, text in _WHOLE},
    **stack_page.pages(),
    **cli_page.pages(),
    **diagrams.DIAGRAMS,
    **gate_pages.pages(),
    **modal_options.pages(),
    "../schema/stack.schema.json": published_schema,
    "../schema/events.schema.json": schema_text,
    "../mkdocs.yml": marked(
        "mkdocs.yml",
        {
            "gates": gate_pages.nav,
            "fields": stack_page.nav,
            "commands": cli_page.nav,
        },
    ),
}
"""Every file that a program writes, or a part of it, by name below `docs/`."""
FOLDERS: Final = ("reference/stack", "reference/cli", "runbook", "traps")
"""Folders of `docs/` in which every page is a generated one."""


def stale() -> list[str]:
    """Return the pages of such folders that are written no more."""
    return [
        str(file.relative_to(DOCS))
        for folder in FOLDERS
        for file in sorted((DOCS / folder).glob("*.md"))
        if str(file.relative_to(DOCS)) not in PAGES
    ]


def main() -> None:
    """Write them all."""
    for name, page in PAGES.items():
        file = DOCS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page(), encoding="utf-8")
    for name in stale():
        (DOCS / name).unlink()


if __name__ == "__main__":
    main()
