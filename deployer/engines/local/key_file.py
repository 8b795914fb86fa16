"""Lend a server its API key in a private file, that goes with whoever wrote it.

The writer locks the file as long as it is needed; the kernel drops the lock when the
writer dies.  So a key file without a lock was left by a run that was killed.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

NAME: Final = "api-key"
"""File in a run directory that llama-server reads its key from."""


@contextmanager
def lent(file: Path, key: str | None) -> Iterator[None]:
    """Keep a key in a file while the block runs; without a key there is none."""
    if key is None:
        yield
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{NAME}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, f"{key}\n".encode())
        draft.replace(file)
        yield
    finally:
        draft.unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        os.close(descriptor)


def remove_left(stack_dir: Path) -> None:
    """Remove the key files that runs which were killed left below a stack's folder."""
    for file in stack_dir.glob(f"*/{NAME}*"):
        with suppress(OSError), file.open("rb") as stream:
            # One that is empty is not locked yet, and contains no key.
            if os.fstat(stream.fileno()).st_size:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.unlink()
