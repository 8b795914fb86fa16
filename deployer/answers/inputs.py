"""What an answer was found from, and whether all of it is still so.

An input is a way of looking and a path; a look comes back with one word.  That nothing
is there is a word, too: a file that appears counts like one that changed.

Runs before everything else, so it imports next to nothing.
"""

import os
import sys
from hashlib import sha256
from stat import S_ISDIR, S_ISLNK, S_ISREG

Input = tuple[str, str]
"""How to look, and where."""

TEXT = "text"
"""Content, by its digest."""
STAMP = "stamp"
"""Size, times and inode: for what is too large to be read each time."""
KIND = "kind"
"""Whether it is a folder or a file."""
REAL = "real"
"""Where links lead to."""
STACKS = "stacks"
"""The names of the YAML files in a folder."""
LIBRARIES = "libraries"
"""The shared libraries in a folder, each by its stamp."""
WRITABLE = "writable"
"""Whether a folder lets us write into it."""
SHORT = "short"
"""Whether a log is short enough to be left alone."""
MEMORY = "memory"
"""How much there is: of the machine, and the limit that the path holds."""
PROCESS = "process"
"""When the process of this number began."""
HEALTH = "health"
"""What the server at `host:port:pid` answers when it is asked for its health."""

ABSENT = "-"
LONGEST_LOG = 32 * 1024 * 1024
"""Bytes from which on a log is cut."""
CGROUP = "/sys/fs/cgroup/memory.max"

_TICK = 20_000_000
"""Nanoseconds that the clock of a file system may be behind."""
_READ = (TEXT, STAMP, STACKS, LIBRARIES)


def look(how: str, path: str) -> str:
    """What is there now; raises OSError where nobody can tell."""
    match how:
        case "text":
            return _text(path)
        case "stamp":
            return _stamp(path)
        case "kind":
            return _kind(path)
        case "real":
            return os.path.realpath(path)
        case "stacks":
            return _stacks(path)
        case "libraries":
            return _libraries(path)
        case "writable":
            return "yes" if os.access(path, os.W_OK | os.X_OK) else "no"
        case "short":
            return "yes" if _size(path) <= LONGEST_LOG else "no"
        case "memory":
            return _memory(path)
        case "process":
            from deployer.answers.alive import began  # noqa: PLC0415 - only before an apply

            return began(path)
        case "health":
            from deployer.answers.alive import health  # noqa: PLC0415 - as above

            return health(path)
        case _:
            raise OSError(f"no way of looking: {how}")


def unchanged(inputs: tuple[Input, ...], since: int) -> bool:
    """Whether nothing has changed ``since``, in nanoseconds of the clock.

    An answer must not be kept for content that came after what it was found from.
    """
    latest = since - _TICK
    return all(_changed(how, path) < latest for how, path in inputs)


def code() -> str:
    """The state of our own files: another deployer may answer otherwise."""
    found: list[str] = []
    folders = [os.path.dirname(__file__)]
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name == "__pycache__":
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                    continue
                status = entry.stat()
                found.append(f"{entry.path}:{status.st_mtime_ns}:{status.st_size}")
    found += (f"{path}:{os.stat(path).st_mtime_ns}" for path in _packages())
    return digest(sys.version, *sorted(found))


def digest(*parts: str) -> str:
    """One digest of texts that hold no NUL."""
    return sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()


def _packages() -> list[str]:
    """Folders of installed packages: an upgrade of one renames a folder in there."""
    ends = ("site-packages", "dist-packages")
    return [path for path in sys.path if path.endswith(ends) and os.path.isdir(path)]


def _text(path: str) -> str:
    status = _status(path)
    if status is None:
        return ABSENT
    if not S_ISREG(status.st_mode):
        return "no-file"
    with open(path, "rb", buffering=0) as stream:
        return sha256(stream.read()).hexdigest()


def _stamp(path: str) -> str:
    status = _status(path)
    return ABSENT if status is None else _stamped(status)


def _stamped(status: os.stat_result) -> str:
    times = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
    return f"{status.st_size}:{times}:{status.st_ino}:{status.st_mode:o}"


def _kind(path: str) -> str:
    status = _status(path)
    if status is None:
        return ABSENT
    if S_ISDIR(status.st_mode):
        return "folder"
    return "file" if S_ISREG(status.st_mode) else "other"


def _stacks(folder: str) -> str:
    names = [n for n in os.listdir(folder) if n.endswith((".yaml", ".yml"))]
    return digest(*sorted(names))


def _libraries(folder: str) -> str:
    names = [n for n in os.listdir(folder) if n.startswith("lib")]
    stamps = (f"{name}:{_stamp(f'{folder}/{name}')}" for name in sorted(names))
    return digest(*stamps)


def _memory(limit: str) -> str:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return f"{pages}:{_text(limit)}"


def _size(path: str) -> int:
    status = _status(path)
    return 0 if status is None else status.st_size


def _changed(how: str, path: str) -> int:
    """When what was read changed last, or a link to it; if it is gone, its folder."""
    try:
        link = os.lstat(path)
        of_link = link.st_ctime_ns if S_ISLNK(link.st_mode) else 0
        return max(os.stat(path).st_ctime_ns, of_link) if how in _READ else of_link
    except (FileNotFoundError, NotADirectoryError):
        above = os.path.dirname(path)
        return _changed(how, above) if above != path else 0
    except OSError:
        return sys.maxsize


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
