"""Write the shipped tables of options and of models anew, from trees of llama.cpp.

    python -m scripts.catalogue b11434=TREE b11549=TREE …   # what is in folders
    python -m scripts.catalogue --fetch b11434 b11549 …     # from the package index

A build that is given is read; what the tables have of other builds stays.
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
from deployer.llama.description import MODELS, Description, describe_tree
from deployer.planning.progress import unwatched

OPTIONS = Path(__file__).parents[1] / "deployer/llama/data/server_flags.json"


def main(options_at: Path = OPTIONS, models_at: Path = MODELS) -> None:
    """Read the trees and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("builds", nargs="+", metavar="BUILD[=TREE]")
    parser.add_argument("--fetch", action="store_true", help="Get trees by package.")
    parser.add_argument("--date", help="Of the newest build.")
    asked = parser.parse_args()
    read: dict[int, Description] = {}
    for given in asked.builds:
        tag, _, folder = given.partition("=")
        found = _fetched(tag) if asked.fetch else _of_tree(Path(folder))
        read[int(tag.removeprefix("b"))] = found
        sys.stdout.write(
            f"{tag}: {len(found.options)} options, {len(found.architectures)}"
            f" architectures, {len(found.projectors)} projectors\n"
        )
    options = json.loads(options_at.read_text("utf-8"))
    options["date"] = asked.date or options["date"]
    known = {build: catalogue(build).options for build in options["builds"]}
    known |= {build: found.options for build, found in read.items()}
    entries = {build: [*map(entry_of, them)] for build, them in known.items()}
    options_at.write_text(written(options, entries), encoding="utf-8")
    models = json.loads(models_at.read_text("utf-8"))
    models_at.write_text(models_written(models, read), encoding="utf-8")


def models_written(table: Mapping[str, Any], read: Mapping[int, Description]) -> str:
    """The table of models with further builds: a name a line, in a stable order."""
    parts = [f' "source": {json.dumps(table["source"])}']
    for kind in ("architectures", "projectors"):
        builds = {
            build: _names_in(table[kind], build) for build in table[kind]["builds"]
        }
        builds |= {build: {*getattr(found, kind)} for build, found in read.items()}
        every, order = sorted(set[str]().union(*builds.values())), sorted(builds)
        lives = {it: [build for build in order if it in builds[build]] for it in every}
        lines = [
            f"   {json.dumps(name)}: {_life(found, order)}"
            for name, found in lives.items()
        ]
        parts.append(
            f' "{kind}": {{\n  "builds": {order},\n  "names": {{\n'
            + ",\n".join(lines)
            + "\n  }\n }"
        )
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _names_in(table: Mapping[str, Any], build: int) -> set[str]:
    lives = table["names"].items()
    return {name for name, life in lives if life[0] <= build < [*life, build + 1][1]}


def _life(found: list[int], builds: list[int]) -> list[int]:
    """The first build with a name, and the first without it after that, if any."""
    first, after = builds.index(found[0]), builds.index(found[-1]) + 1
    if found != builds[first:after]:
        raise SystemExit(f"a name went and came back: only {found} have it")
    return [found[0], *builds[after : after + 1]]


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


def _of_tree(folder: Path) -> Description:
    found = describe_tree(folder)
    if found is None:
        raise SystemExit(f"{folder} has no `common/arg.cpp` with options")
    return found


def _fetched(tag: str) -> Description:
    with tempfile.TemporaryDirectory() as folder:
        downloads = Path(folder) / "downloads"
        around = Surroundings(downloads, os.environ, unwatched)
        tree = Path(folder) / "tree"
        tree.mkdir()
        fetch_tree(pin_tree(SourceRequest("pypi", tag), (), around), tree, around)
        return _of_tree(tree)


if __name__ == "__main__":
    main()
