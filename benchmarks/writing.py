"""Results as files: Markdown to read, JSON with every measurement, plots as SVG."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import machine
from benchmarks.result import Result, Run, Table


def write(result: Result, run: Run, folder: Path) -> None:
    """Write what a case came to, under its name."""
    from benchmarks.plots import draw  # noqa: PLC0415 - matplotlib, once all is measured

    folder.mkdir(parents=True, exist_ok=True)
    about = machine()
    content = {"case": run.case, "rounds": run.rounds, "machine": about}
    text = json.dumps({**content, **asdict(result)}, indent=1, ensure_ascii=False)
    (folder / f"{run.case}.json").write_text(text + "\n", encoding="utf-8")
    for plot in result.plots:
        draw(plot, folder / f"{plot.name}.svg")
    lines = "\n".join(_markdown(result, about))
    (folder / f"{run.case}.md").write_text(lines + "\n", encoding="utf-8")


def _markdown(result: Result, about: Mapping[str, str]) -> Iterator[str]:
    yield from (f"# {result.title}", "", *result.about)
    for plot in result.plots:
        yield from ("", f"![{plot.title}]({plot.name}.svg)")
    for table in result.tables:
        yield ""
        if table.title:
            yield from (f"**{table.title}**", "")
        yield from rows(table)
    if result.notes:
        yield from ("", *(f"- {note}" for note in result.notes))
    if "|--" in result.text:
        yield from ("", result.text.strip())
    elif result.text:
        yield from ("", "```text", result.text.rstrip(), "```")
    yield from ("", "Measured on:", "")
    yield from (f"- {name}: {value}" for name, value in about.items())


def rows(table: Table) -> Iterator[str]:
    """A table in Markdown; all but the first column to the right."""
    yield _row(table.head)
    yield _row(("---", *("---:" for _ in table.head[1:])))
    for row in table.rows:
        yield _row(row)


def _row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
