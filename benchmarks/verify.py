"""Weights that did not change: looked at, and what reading them would take.

250 MB in the store, found again by size, time and inode; beside it what hashing them
costs, from the page cache.  Both in turn, in one process.

    python -m benchmarks.verify
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from deployer.artefacts.store import Store
from deployer.stack.fields.values import JsonValue

ROUNDS = 15
SIZE = 250_000_000
_PIECE = 10_000_000


def main() -> None:
    """Print the medians, and their ratio."""
    times = measured()
    looked, read = (statistics.median(taken) for taken in times.values())
    print("| | median | best |\n|---|---|---|")
    for name, taken in times.items():
        median = statistics.median(taken) * 1000
        print(f"| {name} | {median:.2f} ms | {min(taken) * 1000:.2f} ms |")
    print(f"\nLooking is {read / looked:.0f} times as fast as reading.")


def measured(rounds: int = ROUNDS) -> Mapping[str, list[float]]:
    """Wall seconds of finding the weights, and of reading all of them."""
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        entry = store.publish(
            "weights",
            "k",
            _fill,
            now=lambda: datetime.now(tz=UTC),
            say=lambda _: None,
        )
        ways: Mapping[str, Callable[[], object]] = {
            "found in the store, unchanged": lambda: store.find("weights", "k"),
            "every byte hashed (`deployer store verify`)": lambda: store.verify(entry),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, work in ways.items():
                begun = time.perf_counter()
                work()
                times[way].append(time.perf_counter() - begun)
    return times


def _fill(folder: Path) -> Mapping[str, JsonValue]:
    with (folder / "model.gguf").open("wb") as stream:
        for _ in range(SIZE // _PIECE):
            stream.write(os.urandom(_PIECE))
    return {}


if __name__ == "__main__":
    main()
