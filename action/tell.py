"""What an action did, as Markdown for the summary of its job: stdin, to stdout.

`applied` reads the events of `deployer apply --json`, and tells failures as annotations
too; `said` reads what a command printed, and whatever the text holds stays inside of
its indented block.  `neutral` passes a log on, in which no text of a stack is taken for
a command of the runner.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

SIGNS = {"pass": "✔", "fail": "✖"}
ANNOTATIONS = 10
"""Errors of a step that GitHub shows."""
LONGEST = 900_000
"""Bytes; GitHub drops a summary of more than 1,048,576, the comment's included."""


def main() -> None:
    """Print what the first argument asks for."""
    kind, *words = sys.argv[1:]
    text = sys.stdin.read()
    match kind:
        case "applied":
            code, said = int(words[0]), Path(words[1]).read_text("utf-8")
            events = [*map(json.loads, text.splitlines())]
            print("\n".join(applied(events, code, said)))
        case "said":
            kept = [it for it in text.splitlines() if not it.startswith("::")]
            print("\n".join([words[0], "", *block(kept)]))
        case _:
            for line in text.splitlines():
                print(neutral(line))


OURS = re.compile(r"::(error|warning) ([\w=,./%-]+,)?title=deployer::")


def neutral(line: str) -> str:
    """A line that is no command of the runner, unless deployer wrote it as one.

    A runner obeys `::word::` at the beginning of a line, and `##[word]` anywhere.
    """
    line = line.replace("##[", "## [")
    if OURS.match(line):
        return line
    return re.sub(r"^(\s*):(?=:)", r"\1: ", line)


def applied(
    events: Sequence[Mapping[str, object]], code: int, said: str
) -> Iterator[str]:
    """How many stacks were changed, what gates saw, and why others were not."""
    done = sum(it["type"] == "applied" and bool(it["changed"]) for it in events)
    failed = sum(it["type"] == "error" for it in events)
    errors = said.splitlines() if code else []
    yield f"#### deployer apply: {done} changed, {max(failed, bool(code))} failed"
    yield ""
    yield from block([*filter(None, map(line_of, events)), *errors])
    judged = (line_of(it) for it in events if it.get("outcome") == "fail")
    wrong = [*(it for it in errors if "error: " in it), *judged]
    for line in wrong[:ANNOTATIONS]:
        print(annotation(line), file=sys.stderr)


def line_of(event: Mapping[str, object]) -> str:
    """A verdict, or what became of a stack; nothing for other events."""
    match event["type"]:
        case "verdict":
            sign = SIGNS.get(str(event["outcome"]), "?")
            return f"{sign} {event['gate']}: {event['because']}"
        case "applied" if event["changed"]:
            return f"{event['file']}: release {event['release']}, {event['url']}"
        case "applied":
            return f"{event['file']}: nothing to do"
        case _:
            return ""


def annotation(line: str) -> str:
    """An error as GitHub shows it, at its place where it has one."""
    text = neutral(line).replace("%", "%25").replace("\r", "%0D")
    if found := re.fullmatch(r"([^:,]+):(\d+):(\d+): error: (.*)", text):
        file, row, column, text = found.groups()
        return f"::error file={file},line={row},col={column},title=deployer::{text}"
    return f"::error title=deployer::{text}"


def block(lines: Iterable[str]) -> Iterator[str]:
    """Lines as code, as many as a summary holds."""
    room = LONGEST
    for number, line in enumerate(known := list(lines)):
        room -= len(line.encode()) + 5
        if room < 0:
            yield f"\n{len(known) - number} more lines are in the log of this job."
            return
        yield f"    {line}"


if __name__ == "__main__":
    main()
