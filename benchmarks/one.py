"""One case, in a process of its own: `python -m benchmarks` starts it.

So a case can be ended by its pid with all that it started, and can give up the network.
"""

import argparse
import ctypes
import fcntl
import signal
import socket
import struct
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks.cases import CASES, measure
from benchmarks.processes import MeasureError
from benchmarks.result import Run
from benchmarks.writing import write
from deployer.errors import DeployerError

_NEW_NETWORK = 0x40000000
"""CLONE_NEWNET."""
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1
"""SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP."""


def main() -> None:
    """Measure, and write what came of it."""
    options = _options()
    signal.signal(signal.SIGTERM, _end)
    offline = CASES[options.case].offline and leave_the_network()
    with tempfile.TemporaryDirectory(prefix="deployer-bench-") as folder:
        run = Run(
            case=options.case,
            rounds=options.rounds,
            folder=Path(folder).resolve(),
            cache=options.cache,
            peers=options.peers,
            offline=offline,
        )
        try:
            result = measure(run)
        except (MeasureError, DeployerError, AssertionError) as error:
            sys.exit(f"{options.case}: {error}")
        write(result, run, options.into)


def leave_the_network() -> bool:
    """Go where there is only a loopback interface; false where that is not allowed."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_NETWORK):
        return False
    with socket.socket() as any_socket:
        asked = fcntl.ioctl(any_socket, _GET_FLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", asked)[1] | _UP
        fcntl.ioctl(any_socket, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags))
    return True


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    """Leave by all `finally` blocks."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + signal.SIGTERM)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("case")
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--into", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
