"""Write a state in ``state`` under a limit, and print the message of the error.

limited_writer.py file-size|read-only
"""

import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

from deployer.errors import StateError
from deployer.planning.state import Release, State
from deployer.state.files import FileStateStore

NOBODY = 65534
LIMIT = 20_000
SMALL = State("demo", "local", lineage="l1", serial=1)
LARGE = replace(
    SMALL, serial=2, promoting=Release(1, "", "", {}, ({"padding": "x" * LIMIT},))
)


def main(limit: str) -> None:
    """Write a small state, then a large one under the limit."""
    store = FileStateStore(Path("state"), "demo")
    store.write(SMALL, expect=0)
    if limit == "file-size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))
    else:
        lock_out(store)
    try:
        store.write(LARGE, expect=1)
    except StateError as error:
        print(json.dumps({"message": error.message}))  # noqa: T201 -- its answer


def lock_out(store: FileStateStore) -> None:
    """Take the right to write the folder of the state; root becomes nobody."""
    store.path.chmod(0o644)
    store.folder.chmod(0o555)
    if os.getuid() == 0:
        Path().chmod(0o777)
        os.setuid(NOBODY)


if __name__ == "__main__":
    main(sys.argv[1])
