"""A third engine as its author writes it: nothing in `deployer/` knows of it.

    python -m tests.engines.fake COMMAND... [-- COMMAND...]

Runs commands of deployer one after the other in one process, where the world of the
engine lives, and prints the exit code of each.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from deployer.diagnostics import Diagnostic, Severity
from deployer.engines.contract import Rendering
from deployer.engines.place import Place
from deployer.engines.registry import ENGINES, Abilities, EngineInfo, Template
from deployer.planning.resources import Graph
from deployer.stack.fields.marks import Section
from deployer.stack.fields.server import Text

ENGINES["fake"] = EngineInfo(
    engine="tests.engines.fake_world:engine",
    section="tests.engines.fake:Fake",
    abilities=Abilities(snapshots=False, remote=True),
    render="tests.engines.fake:render_stack",
    checks="tests.engines.fake:checks",
    notes="tests.engines.fake:notes",
    doctor="tests.engines.fake:doctor",
    templates={"fake": Template("A stack in a fake world", "tests.engines:fake.yaml")},
)


class Fake(Section):
    """Where the server runs in the fake world."""

    zone: Text | None = None
    """Zone of the world; unset: the first."""


def checks(stack: object) -> Iterator[Diagnostic]:
    """Refuse the one zone that is not there."""
    if stack.fake.zone == "nowhere":  # type: ignore[attr-defined] # brought by the row
        yield Diagnostic("fake.zone", "no zone `nowhere`", "write `zone: here`")


def notes(stack: object) -> Iterator[str]:
    """Say that nothing is real."""
    del stack
    yield "nothing of a fake world is real"


def doctor(
    stack: object, environment: Mapping[str, str], home: Path
) -> Iterator[Diagnostic]:
    """Find the fake world in order."""
    del stack, environment, home
    yield Diagnostic("machine", "the fake world is there", severity=Severity.FINE)


def render_stack(graph: Graph, place: Place) -> Rendering:
    """Return a page that names what would be made."""
    del place
    page = "".join(f"{address}\n" for address in graph)
    return Rendering(("fake-server",), {"world.txt": page.encode()})


def _edit(file: str, old: str, new: str) -> int:
    path = Path(file)
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    return 0


def main() -> None:
    """Run the commands of the command line."""
    from deployer.cli.main import run  # noqa: PLC0415 - after the row

    words: list[str] = []
    for word in (*sys.argv[1:], "--"):
        if word != "--":
            words.append(word)
            continue
        code: object = 0
        try:
            sys.argv = ["deployer", *words]
            code = _edit(*words[1:]) if words[0] == "edit" else run()
        except SystemExit as ended:
            code = ended.code or 0
        print(f"[{' '.join(words)}: {code}]", flush=True)  # noqa: T201 - its output
        words = []


if __name__ == "__main__":
    sys.modules["tests.engines.fake"] = sys.modules["__main__"]
    main()
