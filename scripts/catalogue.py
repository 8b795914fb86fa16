"""Write the shipped table of options anew, from source trees of llama.cpp.

    python -m scripts.catalogue b11434=TREE b11549=TREE …   # what is in folders
    python -m scripts.catalogue --fetch b11434 b11549 …     # from the package index

A build that is given is read; what the table has of other builds stays.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deployer.llama.build.trees import SourceRequest, Surroundings, fetch_tree, pin_tree
from deployer.llama.catalogue import catalogue, entry_of
from deployer.llama.description import describe_tree
from deployer.planning.progress import unwatched

TABLE = Path(__file__).parents[1] / "deployer/llama/data/server_flags.json"


def main() -> None:
    """Read the trees and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("builds", nargs="+", metavar="BUILD[=TREE]")
    parser.add_argument("--fetch", action="store_true", help="Get trees by package.")
    parser.add_argument("--date", help="Of the newest build.")
    asked = parser.parse_args()
    table = json.loads(TABLE.read_text("utf-8"))
    read = {build: _stated(build) for build in table["builds"]}
    for given in asked.builds:
        tag, _, folder = given.partition("=")
        entries = _fetched(tag) if asked.fetch else _of_tree(Path(folder))
        read[int(tag.removeprefix("b"))] = entries
        sys.stdout.write(f"{tag}: {len(entries)} options\n")
    table["date"] = asked.date or table["date"]
    TABLE.write_text(written(table, read), encoding="utf-8")


def written(table: Mapping[str, Any], read: Mapping[int, list[dict[str, Any]]]) -> str:
    """The table as it stands in the file: an option a line, in a stable order."""
    builds = sorted(read)
    rows: dict[str, list[int]] = {}
    for build in builds:
        for entry in read[build]:
            rows.setdefault(json.dumps(entry), []).append(build)
    lines = [
        json.dumps({**json.loads(row), "builds": _ranges(found, builds)})
        for row, found in sorted(rows.items(), key=_order)
    ]
    parts = [
        f'  "source": {json.dumps(table["source"])}',
        f'  "date": {json.dumps(table["date"])}',
        f'  "builds": {json.dumps(builds)}',
        '  "exact": [\n' + _listed(map(json.dumps, table["exact"])) + "\n  ]",
        '  "options": [\n' + _listed(lines) + "\n  ]",
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _order(row: tuple[str, list[int]]) -> tuple[str, list[int]]:
    names = json.loads(row[0])["names"]
    return next((it for it in names if it.startswith("--")), names[0]), row[1]


def _listed(lines: Iterable[str]) -> str:
    return ",\n".join(f"    {line}" for line in lines)


def _ranges(found: list[int], builds: list[int]) -> list[list[int]]:
    """The builds as runs of neighbours in the list of all builds."""
    runs: list[list[int]] = []
    for build in found:
        at = builds.index(build)
        if runs and at and runs[-1][1] == builds[at - 1]:
            runs[-1][1] = build
        else:
            runs.append([build, build])
    return runs


def _stated(build: int) -> list[dict[str, Any]]:
    return [dict(entry_of(option)) for option in catalogue(build).options]


def _of_tree(folder: Path) -> list[dict[str, Any]]:
    found = describe_tree(folder)
    if found is None:
        raise SystemExit(f"{folder} has no `common/arg.cpp` with options")
    return [dict(entry_of(option)) for option in found.options]


def _fetched(tag: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        downloads = Path(folder) / "downloads"
        around = Surroundings(downloads, os.environ, unwatched)
        tree = Path(folder) / "tree"
        tree.mkdir()
        fetch_tree(pin_tree(SourceRequest("pypi", tag), (), around), tree, around)
        return _of_tree(tree)


if __name__ == "__main__":
    main()
