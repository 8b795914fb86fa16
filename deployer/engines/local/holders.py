"""Which files below a folder living processes hold: running, mapped, open, named."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psutil


def holders(home: Path) -> Mapping[Path, int]:
    """Return paths below ``home`` that processes hold, each with one such process.

    A process holds its program, what it has mapped or open, its working directory, and
    the files that its command line names: llama-server reads a model without `mmap`
    once, and needs it to be there when it is started again.  This process does not
    count, and of the processes of other users only what the system shows.
    """
    prefixes = {f"{path}{os.sep}" for path in (home.absolute(), home.resolve())}
    found: dict[Path, int] = {}
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        for text in _texts(process):
            for prefix in prefixes:
                if (begin := text.find(prefix)) >= 0:
                    below = text[begin + len(prefix) :]
                    found.setdefault(home / below, process.pid)
    return found


def holder_of(folder: Path, held: Mapping[Path, int]) -> int | None:
    """Return a process that holds a file of a folder, or the folder itself."""
    return next(
        (pid for path, pid in held.items() if path.is_relative_to(folder)), None
    )


def _texts(process: psutil.Process) -> Iterator[str]:
    with suppress(psutil.Error):
        yield from process.cmdline()
    kernel = Path(f"/proc/{process.pid}")
    if kernel.is_dir():
        yield from _links(kernel)
        with suppress(OSError):
            maps = (kernel / "maps").read_text(encoding="utf-8", errors="replace")
            # address, permissions, offset, device, inode, path
            yield from (line.split(maxsplit=5)[-1] for line in maps.splitlines())
        return
    for ask in (process.exe, process.cwd):
        with suppress(psutil.Error):
            yield ask()
    with suppress(psutil.Error):
        yield from (file.path for file in process.open_files())


def _links(kernel: Path) -> Iterator[str]:
    """Where program, folders and open files of a process lead to."""
    places = [kernel / name for name in ("exe", "cwd", "root")]
    with suppress(OSError):
        places += (kernel / "fd").iterdir()
    for place in places:
        with suppress(OSError):
            yield str(place.readlink())
