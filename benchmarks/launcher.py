"""Starts the programs that are measured, and says what each cost.

A process of its own, and a small one: Linux counts the memory of whoever forks as the
first peak of the child, so a large parent would be measured instead of its child.
Requests and answers are lines of JSON.  Only modules that cost little are imported.

    python -I -S benchmarks/launcher.py
"""

import json
import os
import signal
import sys
import time
from typing import Any

_READ = (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)


def main() -> None:
    """Answer every request until the input ends."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(launch(json.loads(line))) + "\n")
        sys.stdout.flush()


def launch(request: dict[str, Any]) -> dict[str, float]:
    """Run one program to its end: seconds, CPU seconds, peak bytes, exit code."""
    os.chdir(request["cwd"])
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions = [
        _READ,
        (os.POSIX_SPAWN_OPEN, 1, request["out"], write, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    begun = time.monotonic()
    pid = os.posix_spawn(
        request["argv"][0],
        request["argv"],
        request["environment"],
        file_actions=actions,
        setsid=True,
    )
    late = []

    def end(_number: int, _frame: object) -> None:
        late.append(pid)
        os.killpg(pid, signal.SIGKILL)

    signal.signal(signal.SIGALRM, end)
    signal.alarm(request["limit"])
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - begun
    signal.alarm(0)
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "code": os.waitstatus_to_exitcode(status),
        "late": bool(late),
    }


if __name__ == "__main__":
    main()
