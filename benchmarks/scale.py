"""A thousand stacks, a hundred releases each, fifty CI jobs on one bucket.

Requests and bytes are counted, and seconds pass in virtual time, over the product's own
store, lock, plan and loop of an apply; `tests/state/test_requests.py` shows that the
bucket in memory is asked and answers as a real S3 server.  The same seed gives the same
table on any machine.

    python -m benchmarks.scale [--write]

`--write` renews benchmarks/results/scale.md.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import median

from benchmarks.ci_jobs import Pace, Yard, lost, must
from deployer.stack.fields.values import show_bytes, show_seconds
from deployer.state.files import to_json
from deployer.state.objects import stacks_in
from deployer.usecases.context.stack_files import AT_ONCE

RESULTS = Path(__file__).parent / "results" / "scale.md"
STACKS = 1_000
RELEASES = 100
JOBS = 50
WINDOW = 600.0
"""Seconds within which the jobs come."""
DOLLARS = {"PUT": 5e-6, "LIST": 5e-6, "GET": 4e-7, "DELETE": 5e-6}
"""A request to S3 Standard: docs/scale.md says where that stands.

`obstore` removes an object by a POST, which is counted as such.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below a head."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def main() -> None:
    """Print the tables; with --write, keep them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew the results")
    write = parser.parse_args().write
    text = "\n".join(map(markdown, tables()))
    print(text)
    if write:
        head = "# A thousand stacks on one bucket\n\n`python -m benchmarks.scale`:"
        told = f"{head} seed 1, requests of 20 to 60 ms, in virtual time.\n"
        RESULTS.write_text(f"{told}\n{text}", encoding="utf-8")


def rows() -> list[tuple[str, ...]]:
    """Every row of every table, its title first."""
    return [(table.title, *row) for table in tables() for row in table.rows]


def tables() -> list[Table]:
    """All of it; some minutes."""
    return [commands(), growth(), waits(), day()]


def commands() -> Table:
    """What one command asks for, of stacks of which three releases are kept."""
    names = [f"s{number:03}" for number in range(STACKS)]
    yard = Yard(1)
    state = yard.found("demo", RELEASES)
    yard.copies(state, names)
    live, store = 1024 + RELEASES - 1, yard.store("demo")

    def versions() -> None:
        for serial in store.serials():
            store.kept(serial)
        store.read()

    cases: dict[str, Callable[[], object]] = {
        "plan, 1 stack": partial(yard.plan, ["demo"]),
        f"plan, {STACKS:,} stacks": partial(yard.plan, names),
        f"the same, not {AT_ONCE} at once": partial(yard.plan, names, 1),
        "apply, nothing to do": partial(yard.job, "demo", live, 0.0),
        "apply, another server": partial(yard.job, "demo", live + 1, 0.0),
        f"state list, {STACKS:,} stacks": lambda: stacks_in(store.bucket),
        "status, history, diff": store.read,
        "state versions": versions,
    }
    found = [(name, *_counted(yard, do)) for name, do in cases.items()]
    head = ("command", "GET", "PUT", "DELETE", "LIST", "sent", "received", "waited for")
    return Table("Requests of one command", head, found)


def _counted(yard: Yard, do: Callable[[], object]) -> tuple[str, ...]:
    """Requests by method, bytes both ways, and the seconds that requests took."""
    del yard.requests[:]
    worked, yard.pace = yard.pace, Pace(start=(0, 0), gates=(0, 0), hand_over=(0, 0))
    begun = yard.time.now
    yard.time.spawn(do)
    yard.time.run()
    took, yard.pace = yard.time.now - begun, worked
    count = Counter(it.method for it in yard.requests)
    sent = sum(it.sent for it in yard.requests)
    received = sum(it.received for it in yard.requests)
    numbers = (str(count[name]) for name in ("GET", "PUT", "DELETE", "LIST"))
    shown = f"{took * 1000:.0f} ms" if took < 1 else show_seconds(took)
    return (*numbers, show_bytes(sent), show_bytes(received), shown)


def growth() -> Table:
    """The size of a state, by the releases that it keeps and that it had."""
    found = []
    for keep in (1, 3, 10, RELEASES):
        yard = Yard(1, keep=keep)
        sizes: dict[int, int] = {}
        for number in range(1, RELEASES + 1):
            yard.found("demo", 1) if number == 1 else _more(yard, number)
            sizes[number] = len(to_json(yard.applied["demo"][-1]))
        each = (sizes[keep] - sizes[1]) / (keep - 1) if keep > 1 else 0
        del yard.requests[:]
        _more(yard, RELEASES + 1)
        sent = sum(it.sent for it in yard.requests)
        plans = show_bytes(sizes[RELEASES] * STACKS)
        cells = (sizes[1], sizes[10], sizes[RELEASES], each, sent)
        found.append((str(keep), *map(show_bytes, cells), plans))
    head = (
        "`rollout.keep`",
        "after 1 release",
        "after 10",
        f"after {RELEASES}",
        "a release",
        "sent by an apply",
        f"read by a plan of {STACKS:,}",
    )
    return Table("Size of a state", head, found)


def _more(yard: Yard, number: int) -> None:
    yard.time.spawn(partial(yard.job, "demo", 1024 + number, 0.0))
    yard.time.run()


def waits() -> Table:
    """How long jobs wait for locks, by how many stacks they are spread over."""
    found = []
    for stacks in (1, 5, 25, STACKS):
        yard = Yard(1)
        chance = Random(1)  # noqa: S311 - nothing secret
        comes = [
            (chance.randrange(stacks), chance.uniform(0, WINDOW)) for _ in [0] * JOBS
        ]
        for number in {number for number, _ in comes}:
            yard.found(f"s{number:03}", 1)
        del yard.requests[:], yard.moments[:]
        for job, (number, at) in enumerate(comes):
            do = partial(yard.job, f"s{number:03}", 4096 + job, 24 * 3600.0)
            yard.time.spawn(do, at=at)
        yard.time.run()
        must(not lost(yard) and not yard.refused, "a job did not get its turn")
        waited = sorted(yard.waits)
        found.append(
            (
                f"{stacks:,}",
                str(sum(it > 1 for it in waited)),
                show_seconds(median(waited)),
                show_seconds(waited[int(JOBS * 0.95)]),
                show_seconds(waited[-1]),
                str(max(yard.overtaken)),
                f"{yard.looks / JOBS:.0f}",
                f"{_peak(yard)} /s",
            )
        )
    head = (
        "stacks",
        "jobs that waited",
        "median",
        "p95",
        "longest",
        "most overtaken",
        "looks a job",
        "peak of requests",
    )
    title = f"{JOBS} applies within {WINDOW / 60:.0f} minutes, 26 to 93 s each"
    return Table(title, head, found)


def day() -> Table:
    """Fifty jobs that begin together: plans and drift checks of all, and applies."""
    names = [f"s{number:03}" for number in range(STACKS)]
    yard = Yard(1)
    chance = Random(1)  # noqa: S311 - nothing secret
    hot = [f"hot{number}" for number in range(10)]
    for name in hot:
        state = yard.found(name, 3)
    yard.copies(state, names)
    del yard.requests[:], yard.moments[:]
    begun, ends = yard.time.now, []

    def plans() -> None:
        yard.plan(names)
        ends.append(yard.time.now - begun)

    for job in range(JOBS):
        apply = partial(yard.job, chance.choice(hot), 4096 + job, 24 * 3600.0)
        yard.time.spawn(apply if job % 5 < 2 else plans, at=chance.uniform(0, 1))
    yard.time.run()
    must(not lost(yard) and not yard.refused, "a job did not get its turn")
    count = Counter(it.method for it in yard.requests)
    price = sum(DOLLARS[name] * number for name, number in count.items())
    row = (
        f"{sum(count.values()):,}",
        f"{_peak(yard):,} /s",
        show_bytes(sum(it.received for it in yard.requests)),
        show_seconds(max(ends)),
        show_seconds(max(yard.waits)),
        f"{price:.3f} $",
    )
    head = (
        "requests",
        "peak",
        "received",
        f"slowest plan of {STACKS:,}",
        "longest wait for a lock",
        "price of the requests",
    )
    title = (
        f"{JOBS} jobs at once: 30 plans of {STACKS:,} stacks, 20 applies on 10 stacks"
    )
    return Table(title, head, [row])


def _peak(yard: Yard) -> int:
    """The most requests of any second."""
    per_second = Counter(int(it) for it in yard.moments)
    return max(per_second.values()) // 2


def markdown(table: Table) -> str:
    """A table as Markdown, numbers to the right."""
    lines: list[Sequence[str]] = [table.head, ["---", *["--:"] * (len(table.head) - 1)]]
    text = "\n".join(f"| {' | '.join(row)} |" for row in [*lines, *table.rows])
    return f"## {table.title}\n\n{text}\n"


if __name__ == "__main__":
    main()
