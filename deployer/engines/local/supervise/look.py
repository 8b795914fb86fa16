"""A glance at a live server, for plans: one request, and few imports.

`Engine.observe` finds out more, and takes three times as long to import.
"""

import json
import socket
import time
from pathlib import Path
from typing import Final

from deployer.engines.local.folders import run_folder
from deployer.engines.local.ports import accepted_by, family_of
from deployer.engines.local.supervise import identity
from deployer.engines.place import Look, Place
from deployer.planning.state import Record

_SECONDS: Final = 2.0
"""For connecting, asking and being answered, all together."""
_LONGEST: Final = 4096


def look(record: Record, place: Place) -> Look:
    """Ask a live server for its health once, within two seconds.

    An answer counts only from the very process of the release.
    """
    try:
        host, port = (record.fields[name] for name in ("local.host", "local.port"))
        pid = _living(run_folder(record, place))
    except (OSError, ValueError, KeyError, TypeError):
        return Look.GONE
    try:
        well = _is_well(str(host), int(str(port)), pid)
    except (OSError, ValueError):
        well = False
    return Look.ANSWERS if well else Look.SILENT


def _living(folder: Path) -> int:
    """The recorded process; raises OSError where it ended or its pid is another's."""
    known = json.loads((folder / "process.json").read_bytes())
    pid = int(known["pid"])
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    ended = stat.rpartition(b")")[2].split()[0] in {b"Z", b"X"}
    began = identity.began(pid)
    then = known.get("began") or identity.from_start_time(pid, float(known["started"]))
    if ended or not began or began != then:
        raise ProcessLookupError(pid)
    return pid


def _is_well(host: str, port: int, pid: int) -> bool:
    until = time.monotonic() + _SECONDS
    # Linux takes the wildcard address as one of this machine.
    with socket.socket(family_of(host)) as connection:
        connection.settimeout(_SECONDS)
        connection.connect((host, port))
        own = connection.getsockname()[:2]
        connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        said = b""
        while b"\n" not in said and len(said) < _LONGEST:
            connection.settimeout(max(0.001, until - time.monotonic()))
            if not (more := connection.recv(_LONGEST)):
                return False
            said += more
        # The server keeps this connection open, so it can be looked up.
        well = said.startswith(b"HTTP/") and said.split()[1:2] == [b"200"]
        return well and accepted_by(pid, port, own)
