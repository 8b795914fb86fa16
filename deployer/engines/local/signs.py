"""What shows that a live server is well, without the engine: see `deployer.answers`."""

import ipaddress

from deployer.answers.inputs import (
    HEALTH,
    PROCESS,
    SHORT,
    TEXT,
    Input,
    look,
)
from deployer.core.state import Record
from deployer.engines import Place
from deployer.engines.local import steer
from deployer.engines.local.server import Server

_HEALTHY = "200"


def signs_of(record: Record, place: Place) -> tuple[tuple[Input, str], ...]:
    """Its process and its answer; nothing where it is not well, or not plainly so."""
    server = Server(record, place)
    running = server.running()
    host = steer.reachable(server.host)
    if running is None or not _is_address(host):
        return ()
    file = str(server.run_dir / "process.json")
    process = (PROCESS, str(running.pid))
    return (
        ((TEXT, file), look(TEXT, file)),
        (process, look(*process)),
        ((SHORT, str(server.log)), "yes"),
        ((HEALTH, f"{host}:{server.port}:{running.pid}"), _HEALTHY),
    )


def _is_address(host: str) -> bool:
    """Whether nobody has to be asked what a host is."""
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True
