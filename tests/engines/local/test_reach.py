import os

import pytest

from deployer.engines.local.reuseport import GATE_SOURCE, lead, reached
from deployer.engines.local.supervise.process import Running
from deployer.errors import EngineError
from tests.engines.local.conftest import Start

HOST = "127.0.0.1"


@pytest.fixture
def pair(listening: Start) -> tuple[Running, Running]:
    """Two servers on one port, the older one first."""
    return listening(key="old"), listening(key="new")


def test_the_process_that_takes_the_connections_is_found(listening: Start) -> None:
    server = listening()
    assert reached(HOST, server.port, ()) == {server.pid}


def test_nobody_is_found_where_nobody_listens(port: int) -> None:
    assert reached(HOST, port, ()) == {None}


def test_clients_and_gates_are_led_to_processes(
    pair: tuple[Running, Running],
) -> None:
    old, new = pair
    for clients, gates in ((old, new), (new, old), (new, new), (old, old)):
        lead(HOST, old.port, clients=clients.pid, gates=gates.pid)
        pids = (old.pid, new.pid)
        assert reached(HOST, old.port, pids) == {clients.pid}
        assert reached(HOST, old.port, pids, source=GATE_SOURCE) == {gates.pid}


def test_three_that_share_a_port_are_told_apart(listening: Start) -> None:
    servers = [listening(key=key) for key in ("a", "b", "c")]
    for server in servers:
        lead(HOST, server.port, clients=server.pid, gates=server.pid)
        assert reached(HOST, server.port, ()) == {server.pid}


def test_a_way_that_cannot_be_led_says_who_answers(listening: Start) -> None:
    server = listening()
    names = {server.pid: "demo/server 3f9a1c20"}
    with pytest.raises(EngineError) as caught:
        lead(HOST, server.port, clients=os.getpid(), gates=os.getpid(), names=names)
    assert f"pid {server.pid} (" in caught.value.message
    assert "demo/server 3f9a1c20)" in caught.value.message
    assert caught.value.message.endswith(f"not the server with pid {os.getpid()}")
