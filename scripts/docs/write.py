"""Write the generated pages again: `python -m scripts.docs.write`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from deployer.llama.known import traps
from deployer.llama.known.symptoms import markdown
from scripts.docs import cli_page, diagrams, gate_pages, stack_page

DOCS: Final = Path(__file__).parents[2] / "docs"

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/stack.md": stack_page.page,
    "reference/cli.md": cli_page.page,
    "runbook.md": markdown,
    "traps.md": traps.markdown,
    **diagrams.DIAGRAMS,
    **gate_pages.pages(),
}
"""Every page that a program writes, or a part of it, by name below `docs/`."""


def main() -> None:
    """Write them all."""
    for name, page in PAGES.items():
        file = DOCS / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
