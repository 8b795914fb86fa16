"""A keeper that traces a thread of its server and hangs, as CRIU may in a restore.

A thread that is traced stays, ended, until its tracer looks at it.
"""

import ctypes
import subprocess
import sys
import time
from pathlib import Path

SEIZE = 0x4206


def main() -> int:
    server = subprocess.Popen(sys.argv[1:], start_new_session=True)
    threads = Path(f"/proc/{server.pid}/task")
    seized: list[str] = []
    while not seized:
        time.sleep(0.01)
        seized = [it.name for it in threads.iterdir() if it.name != str(server.pid)]
    for thread in seized:
        if ctypes.CDLL(None).ptrace(SEIZE, int(thread), None, None) != 0:
            return 1
    while True:
        time.sleep(3600)


sys.exit(main())
