"""Kill a process that writes states, again and again, and look what it left.

    kill_rounds.py FOLDER ROUNDS WRITER

WRITER is ``ours`` or ``plain`` (which opens the file and writes).  Prints JSON: how
many rounds left a file that cannot be read, or lost a write that had been reported.
"""

import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import time
from dataclasses import replace
from pathlib import Path

from deployer.errors import StateError
from deployer.planning.state import Release, State
from deployer.state.files import FileStateStore

SERIAL = struct.Struct("<q")
LARGE = Release(1, "", "", {}, ({"padding": "x" * 100_000},))
FIRST = State("demo", "local", lineage="l1", serial=1, promoting=LARGE)


def main(folder: Path, rounds: int, writer: str) -> None:
    """Run the rounds, and print what came of them."""
    chance = random.Random(7)  # noqa: S311 -- nothing secret
    store = FileStateStore(folder, "demo")
    if writer == "plain":
        store = replace(store, replace=write_plainly)
    counts = {"unreadable": 0, "lost": 0, "acknowledged": 0}
    state = afresh(store)
    for _ in range(rounds):
        acknowledged = killed_writer(store, state, chance.uniform(0, 3))
        counts["acknowledged"] += acknowledged - state.serial
        found = whole(store)
        if found is None:
            counts["unreadable"] += 1
        elif not acknowledged <= found.serial <= acknowledged + 1:
            counts["lost"] += 1
        state = found or afresh(store)
    print(json.dumps(counts))  # noqa: T201 -- that is its answer


def write_plainly(path: Path, content: bytes) -> None:
    """What a simpler program would do."""
    path.write_bytes(content)


def afresh(store: FileStateStore) -> State:
    """Begin with no files."""
    store.path.unlink(missing_ok=True)
    shutil.rmtree(store.folder / "history", ignore_errors=True)
    store.write(FIRST, expect=0)
    return FIRST


def killed_writer(store: FileStateStore, state: State, writes: float) -> int:
    """The last serial that was acknowledged before the kill.

    It comes the time of so many ``writes`` after the first one ended, so that it
    hits a busy machine in the middle of its work as well.
    """
    begun = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        while True:
            new = replace(state, serial=state.serial + 1)
            store.write(new, expect=state.serial)
            os.write(writing, SERIAL.pack(new.serial))
            state = new
    os.close(writing)
    said = os.read(reading, SERIAL.size)
    never, end = os.pipe()
    select.select([never], [], [], writes * (time.monotonic() - begun))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reading, "rb") as stream:  # noqa: PTH123 -- it owns a descriptor
        said += stream.read()
    os.close(never)
    os.close(end)
    (serial,) = SERIAL.unpack(said[-SERIAL.size :])
    return int(serial)


def whole(store: FileStateStore) -> State | None:
    """The state, where both it and the version before it can be read."""
    try:
        for serial in store.serials():
            store.kept(serial)
        return store.read()
    except StateError:
        return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
