"""Identify a process by the boot of the machine and the clock tick of its start.

A pid is used again, and a time of day moves when the clock is set; these two do not
(man 5 proc: ``/proc/sys/kernel/random/boot_id``, field 22 of ``/proc/PID/stat``).
Where there is no such file (another system), the start time in seconds stands in.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

_STARTTIME: Final = 22 - 3
"""Index of the start tick among the fields behind the name of the program."""
_CLOCK_SLACK: Final = 2.0
"""Seconds by which a start time of a record of deployer 0.1 may differ."""


def boot_id() -> str:
    """Return which start of the machine this is; empty where the system has no id."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def began(pid: int) -> str:
    """Return `<boot id>:<start tick>` of a process; empty when there is none."""
    if not (boot := boot_id()):
        return _by_clock(pid)
    try:
        # The name, in parentheses, may contain blanks and parentheses itself.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot}:{fields[_STARTTIME].decode()}"
    except (OSError, IndexError):  # there is none, or it ended while it was read
        return ""


def is_of_this_boot(identity: str) -> bool:
    """Return whether a process with this identity began since the machine started."""
    boot, _, start = identity.rpartition(":")
    if boot or not start:
        return boot == boot_id()
    import psutil  # noqa: PLC0415 - as below

    return float(start) >= psutil.boot_time()


def from_start_time(pid: int, started: float) -> str:
    """Return the identity of a process that is known by its start time alone.

    Records of deployer 0.1 hold seconds since the epoch.  Of a process that has ended
    only the boot can be derived.
    """
    import psutil  # noqa: PLC0415 - a plan asks, and psutil takes long to import

    with suppress(psutil.Error):
        if abs(psutil.Process(pid).create_time() - started) < _CLOCK_SLACK:
            return began(pid)
    if started < psutil.boot_time():
        return "earlier:"
    return f"{boot_id()}:ended" if boot_id() else f":{started}"


def _by_clock(pid: int) -> str:
    import psutil  # noqa: PLC0415 - as above

    try:
        return f":{psutil.Process(pid).create_time()}"
    except psutil.Error:
        return ""
