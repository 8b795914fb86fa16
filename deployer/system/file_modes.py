"""Who may read what deployer makes: its user, whatever the umask of the shell.

Runs begin with `close`, so that every folder and file of theirs, of the libraries they
use and of the processes they start is private (0700, 0600).  What the user asked for
by name, such as a lock file, gets the mode that his own umask says.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

PRIVATE = 0o077
"""The umask of every run."""
_USERS: list[int] = []
"""The umask that this process was started with, once it was replaced."""


def close() -> None:
    """Keep others from all that this process makes from here on."""
    before = os.umask(PRIVATE)
    if not _USERS:
        _USERS.append(before)


def users_mode() -> int:
    """The mode of a file that the user asked for; he can always read and write it."""
    return 0o600 | (0o666 & ~_users_umask())


@contextmanager
def as_the_user() -> Iterator[None]:
    """Make files and folders that the user asked for, as his umask says."""
    before = os.umask(_users_umask() & ~0o700)
    try:
        yield
    finally:
        os.umask(before)


def _users_umask() -> int:
    if _USERS:
        return _USERS[0]
    now = os.umask(PRIVATE)
    os.umask(now)
    return now
