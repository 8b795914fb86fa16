"""Hold the lock of a stack until standard input ends.

lock_holder.py FOLDER STACK
"""

import sys
from pathlib import Path

from deployer.state.files import FileStateStore

if __name__ == "__main__":
    store = FileStateStore(Path(sys.argv[1]), sys.argv[2])
    with store.lock(operation="apply"):
        print("held", flush=True)  # noqa: T201 -- that is its answer
        sys.stdin.read()
