import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from deployer.engines.local.ports import (
    Listener,
    accepted_by,
    established,
    free_port,
    in_use,
    listeners,
    listens,
    refused,
)
from deployer.errors import EngineError

SELF = os.getpid()


@contextmanager
def listener(family: int = socket.AF_INET) -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(family) as server:
        server.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        server.listen()
        server.settimeout(5)
        yield server, server.getsockname()[1]


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_listener_is_seen_with_its_process_and_user() -> None:
    with listener() as (_, port):
        assert listeners(port) == (
            Listener(
                address="127.0.0.1",
                port=port,
                user=getpass.getuser(),
                pid=SELF,
                program=psutil.Process().name(),
            ),
        )


@pytest.mark.skipif(not socket.has_ipv6, reason="IPv6 is off")
def test_an_ipv6_listener_is_seen() -> None:
    with listener(socket.AF_INET6) as (_, port):
        assert [found.address for found in listeners(port)] == ["::1"]


def test_a_port_that_nobody_has_has_no_listeners() -> None:
    assert listeners(free_port("127.0.0.1")) == ()


def test_a_connected_socket_is_no_listener() -> None:
    with listener() as (_, port), connect(port) as client:
        assert listeners(client.getsockname()[1]) == ()


@pytest.mark.parametrize(
    ("pid", "program", "expected"),
    [
        (123, "nginx", "port 8080 is in use by pid 123 (nginx, user www)"),
        (123, "", "port 8080 is in use by pid 123 (user www)"),
        (None, "", "port 8080 is in use by a process of user www"),
    ],
)
def test_the_owner_of_a_port_is_named(
    pid: int | None, program: str, expected: str
) -> None:
    found = Listener("0.0.0.0", 8080, "www", pid, program)  # noqa: S104
    assert in_use(8080, (found, found)) == expected


def test_an_unseen_owner_is_not_invented() -> None:
    assert in_use(8080, ()) == "port 8080 is in use"


def test_a_free_port_can_be_listened_on() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", free_port("127.0.0.1")))


def test_a_free_port_of_a_foreign_address_is_refused() -> None:
    with pytest.raises(EngineError, match=r"cannot listen on `192\.0\.2\.77`"):
        free_port("192.0.2.77")


def test_a_port_of_another_program_is_refused() -> None:
    with listener() as (_, port):
        reason = refused("127.0.0.1", port)
    assert reason is not None
    assert reason.startswith(f"port {port} is in use by pid {SELF} (")


def test_an_address_of_another_machine_is_refused() -> None:
    assert refused("192.0.2.77", 80) == (
        "cannot listen on 192.0.2.77:80: Cannot assign requested address"
    )


def test_a_free_port_is_not_refused() -> None:
    assert refused("127.0.0.1", free_port("127.0.0.1")) is None


def test_a_shared_port_is_not_refused() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert refused("127.0.0.1", server.getsockname()[1]) is None


def test_listens_is_true_of_the_process_that_listens_only() -> None:
    with listener() as (_, port):
        assert listens(SELF, port)
        assert not listens(os.getppid(), port)
    assert not listens(SELF, port)


def test_accepted_and_waiting_connections_count() -> None:
    with listener() as (server, port):
        assert established(SELF, port) == 0
        with connect(port), connect(port), server.accept()[0]:
            assert established(SELF, port) == 2


def test_a_closed_connection_does_not_count() -> None:
    with listener() as (server, port):
        client = connect(port)
        with server.accept()[0] as accepted:
            client.close()
            assert accepted.recv(1) == b""
            assert established(SELF, port) == 0


def test_connections_of_another_process_do_not_count() -> None:
    with listener() as (server, port), connect(port), server.accept()[0]:
        assert established(os.getppid(), port) == 0


def test_the_process_that_accepted_a_connection_is_known() -> None:
    with listener() as (server, port), connect(port) as client, server.accept()[0]:
        assert accepted_by(SELF, port, client.getsockname())
        assert not accepted_by(os.getppid(), port, client.getsockname())
        assert not accepted_by(SELF, port, ("127.0.0.1", 1))
