import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

import pytest

from deployer.engines.local.reuseport import GATE_SOURCE, reachable, steer, supported
from deployer.errors import EngineError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="steering needs Linux")

LOOPBACK = "127.0.0.1"


@contextmanager
def listener(port: int = 0, host: str = LOOPBACK) -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((host, port))
        server.listen(128)
        server.settimeout(5)
        yield server


@contextmanager
def pair(host: str = LOOPBACK) -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """Two listeners of one port; the first is index 0."""
    with listener(host=host) as first:
        port = first.getsockname()[1]
        with listener(port, host) as second:
            yield port, first, second


def arrivals(
    port: int, servers: tuple[socket.socket, ...], source: str = "", count: int = 12
) -> list[int]:
    """Connect `count` times; how many connections each server got."""
    clients = [
        socket.create_connection(
            (LOOPBACK, port), timeout=5, source_address=(source, 0)
        )
        for _ in range(count)
    ]
    got = [drain_queue(server) for server in servers]
    for client in clients:
        client.close()
    return got


def drain_queue(server: socket.socket) -> int:
    server.settimeout(0)
    count = 0
    while True:
        try:
            server.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_clients_and_gates_reach_the_servers_named_by_index() -> None:
    with pair() as (port, first, second):
        steer(LOOPBACK, port, clients=0, gates=1)
        assert arrivals(port, (first, second)) == [12, 0]
        assert arrivals(port, (first, second), GATE_SOURCE) == [0, 12]


def test_steering_again_moves_all_new_connections() -> None:
    with pair() as (port, first, second):
        steer(LOOPBACK, port, clients=0, gates=1)
        steer(LOOPBACK, port, clients=1, gates=0)
        assert arrivals(port, (first, second)) == [0, 12]
        assert arrivals(port, (first, second), GATE_SOURCE) == [12, 0]


def test_a_server_that_comes_after_the_steering_gets_no_clients() -> None:
    with listener() as first:
        port = first.getsockname()[1]
        steer(LOOPBACK, port, clients=0, gates=1)
        with listener(port) as second:
            assert arrivals(port, (first, second)) == [12, 0]


def test_the_server_that_is_left_gets_everything() -> None:
    with pair() as (port, first, second):
        steer(LOOPBACK, port, clients=1, gates=0)
        first.close()
        assert arrivals(port, (second,)) == [12]
        assert arrivals(port, (second,), GATE_SOURCE) == [12]


def test_the_server_that_is_left_is_index_0_for_the_next_steering() -> None:
    with pair() as (port, first, second):
        steer(LOOPBACK, port, clients=1, gates=0)
        first.close()
        steer(LOOPBACK, port, clients=0, gates=1)
        with listener(port) as third:
            assert arrivals(port, (second, third)) == [12, 0]
            assert arrivals(port, (second, third), GATE_SOURCE) == [0, 12]


def test_servers_on_all_addresses_are_steered_by_requests_over_loopback() -> None:
    with pair("0.0.0.0") as (port, first, second):  # noqa: S104
        steer("0.0.0.0", port, clients=0, gates=1)  # noqa: S104
        assert arrivals(port, (first, second)) == [12, 0]
        assert arrivals(port, (first, second), GATE_SOURCE) == [0, 12]


def test_a_connection_stays_where_it_is_when_the_steering_changes() -> None:
    with pair() as (port, first, _second):
        steer(LOOPBACK, port, clients=0, gates=1)
        with socket.create_connection((LOOPBACK, port), timeout=5) as client:
            accepted, _ = first.accept()
            steer(LOOPBACK, port, clients=1, gates=0)
            with accepted:
                client.sendall(b"still you")
                assert accepted.recv(9) == b"still you"


def test_no_connection_fails_while_the_steering_changes() -> None:
    """The parker swallows a SYN at worst, which the client repeats 1 s later."""
    steered, asked = threading.Event(), threading.Event()
    failures: list[str] = []

    def serve(server: socket.socket) -> None:
        while not asked.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            with connection:
                connection.sendall(b"hello")

    def ask(port: int) -> None:
        while not steered.is_set():
            try:
                with socket.create_connection((LOOPBACK, port), timeout=20) as client:
                    if client.recv(5) != b"hello":
                        failures.append("no answer")
            except OSError as error:
                failures.append(repr(error))

    with listener() as server, ThreadPoolExecutor() as pool:
        port = server.getsockname()[1]
        server.settimeout(0.2)
        serving = pool.submit(serve, server)
        asking = [pool.submit(ask, port) for _ in range(4)]
        for number in range(300):
            steer(LOOPBACK, port, clients=number % 2, gates=0)
        steered.set()
        wait(asking)
        asked.set()
        serving.result()
    assert failures == []


def test_a_listener_that_does_not_share_its_port_is_named() -> None:
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        port = server.getsockname()[1]
        with pytest.raises(EngineError, match=rf"port {port} is in use by pid \d+ \("):
            steer(LOOPBACK, port, clients=0, gates=1)


def test_steering_a_port_that_nobody_has_changes_nothing() -> None:
    with listener() as server:
        port = server.getsockname()[1]
    steer(LOOPBACK, port, clients=0, gates=1)
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((LOOPBACK, port))


@pytest.mark.parametrize("host", [LOOPBACK, "0.0.0.0"])  # noqa: S104
def test_this_kernel_steers(host: str) -> None:
    assert supported(host) is None


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("::1", "sharing a port needs an IPv4 address, and `::1` is none"),
        ("localhost", "sharing a port needs an IPv4 address, and `localhost` is none"),
        (
            "192.0.2.77",
            "cannot listen on `192.0.2.77`: Cannot assign requested address",
        ),
    ],
)
def test_a_host_that_cannot_be_steered_has_a_reason(host: str, reason: str) -> None:
    assert supported(host) == reason


def test_a_server_on_all_addresses_is_reached_over_loopback() -> None:
    assert reachable("0.0.0.0") == "127.0.0.1"  # noqa: S104
    assert reachable("192.0.2.1") == "192.0.2.1"
