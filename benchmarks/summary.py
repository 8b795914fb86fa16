"""The pages that show results, renewed from what was measured last.

Between two marks of a page stands what a run wrote; nobody copies a figure by hand.

    python -m benchmarks.summary
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import Table
from benchmarks.writing import rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE, README = ROOT / "docs" / "performance.md", ROOT / "README.md"
FAST = ROOT / "docs" / "fast.md"
SHOWN = ("plans", "commands", "helps", "start", "serving")
"""Cases on the page, in this order."""
GATES = "chat_gates"
"""The case on the page about what was made fast."""
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_TIMES_FLOOR = "× `python -c pass`"

Found = Mapping[str, Any]
"""The JSON of a case."""


def main() -> None:
    """Renew the pages."""
    if _file(GATES).exists():
        renew(FAST, "\n".join(_page({GATES: read(GATES)}, "###")))
    found = {name: read(name) for name in SHOWN if (_file(name)).exists()}
    if not found:
        return
    renew(PAGE, "\n".join(_page(found)))
    if "plans" in found:
        renew(README, "\n".join(_readme(found["plans"])))


def read(name: str) -> Found:
    """What a case wrote last."""
    content: Found = json.loads(_file(name).read_bytes())
    return content


def renew(page: Path, text: str) -> None:
    """Put a text between the marks of a page; a page without marks is left alone."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        content = f"{before}{BEGIN}\n{text}\n{END}{after}"
        page.write_text(content, encoding="utf-8")


def _file(name: str) -> Path:
    return RESULTS / f"{name}.json"


def _page(found: Mapping[str, Found], level: str = "##") -> Iterator[str]:
    for name, it in found.items():
        machine = it["machine"]
        yield from (f"{level} {it['title']}", "", *it["about"])
        yield (
            f"Measured {machine['date']} on {machine['cores']} cores"
            f" ({machine['processor']}), {machine['python']}, load {machine['load']};"
            f" [all of it](../benchmarks/results/{name}.md)."
        )
        for plot in it["plots"]:
            image = f"../benchmarks/results/{plot['name']}.svg"
            yield from ("", f"![{plot['title']}]({image})")
        for table in it["tables"]:
            title = table["title"]
            yield from ("", f"**{title}**", "") if title else ("",)
            yield from rows(Table(tuple(table["head"]), _cells(table["rows"])))
        yield from ("", *(f"- {note}" for note in it["notes"]), "")


def _cells(found: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(row) for row in found)


def _readme(plans: Found) -> Iterator[str]:
    """One plot, and the figures in a sentence."""
    table, date = plans["tables"][0], plans["machine"]["date"].split()[0]
    column = table["head"].index(_TIMES_FLOOR)
    costs = {row[0]: _times(float(row[column])) for row in table["rows"]}
    own = costs.pop("deployer plan")
    others = ", ".join(f"{name} {cost}" for name, cost in costs.items())
    yield f"![{plans['plots'][0]['title']}](benchmarks/results/plans.svg)"
    yield ""
    yield (
        f"A plan without changes costs {own} the CPU time of `python -c pass`"
        f" ({others or 'others were not measured'}), measured {date}."
    )


def _times(cost: float) -> str:
    return f"{cost:.1f} ×" if cost < 10 else f"{cost:.0f} ×"


if __name__ == "__main__":
    main()
