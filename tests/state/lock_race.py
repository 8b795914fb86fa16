"""Let processes race for one lock, and count who got it.

    lock_race.py FOLDER ROUNDS PROCESSES

Every second round starts with the lock of a process that was killed.  Prints JSON:
for each round the number of winners.
"""

import json
import os
import signal
import sys
from pathlib import Path

from deployer.errors import LockedError
from deployer.state.files import FileStateStore


def main(folder: Path, rounds: int, processes: int) -> None:
    """Run the rounds, and print the winners of each."""
    store = FileStateStore(folder, "demo")
    winners = []
    for number in range(rounds):
        if number % 2:
            leave_a_lock_behind(store)
        winners.append(race(store, processes))
    print(json.dumps(winners))  # noqa: T201 -- that is its answer


def leave_a_lock_behind(store: FileStateStore) -> None:
    """Kill a process that holds the lock."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with store.lock(operation="apply"):
            os.write(writing, b"!")
            signal.pause()
    os.close(writing)  # so that a child that fails ends the read
    os.read(reading, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)


def race(store: FileStateStore, processes: int) -> int:
    """How many got the lock, each holding it until all have tried."""
    started, start = os.pipe()
    ended, end = os.pipe()
    answers, answer = os.pipe()
    children = []
    for _ in range(processes):
        child = os.fork()
        if child == 0:
            os.close(start)
            os.close(end)
            os.read(started, 1)
            try_once(store, answer, ended)
            os._exit(0)
        children.append(child)
    os.close(start)  # everybody begins
    os.close(answer)
    said = b""
    while len(said) < processes and (more := os.read(answers, processes)):
        said += more
    os.close(end)  # the winner lets go
    for child in children:
        os.waitpid(child, 0)
    for descriptor in (started, ended, answers):
        os.close(descriptor)
    return said.count(b"W")


def try_once(store: FileStateStore, answer: int, ended: int) -> None:
    """Say whether the lock was free, and hold it till the end of the round."""
    try:
        with store.lock(operation="apply"):
            os.write(answer, b"W")
            os.read(ended, 1)
    except LockedError:
        os.write(answer, b"L")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
