"""Project files that name where states are, in a network where every address is ours.

Run in a network namespace of its own: whatever is connected to lands in a listener that
notes it, the addresses of metadata services too.  Prints a JSON line a case.
"""

import itertools
import json
import random
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.security.harness import Outcome, World, started

PORTS = (80, 443, 8080, 9000)
COMMANDS = (
    ("plan", "stacks/demo.yaml", "--locked"),
    ("plan", "stacks", "--format", "markdown"),
    ("status", "stacks/demo.yaml"),
    ("state", "list", "stacks"),
    ("history", "stacks/demo.yaml"),
    ("refresh", "stacks/demo.yaml"),
    ("destroy", "stacks/demo.yaml", "--yes"),
)
HOSTS = (
    *("127.0.0.1", "localhost", "[::1]", "0.0.0.0", "203.0.113.7", "evil.example"),  # noqa: S104
    *("169.254.169.254", "[fd00:ec2::254]", "metadata.google.internal"),
    *("[::ffff:169.254.169.254]", "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376"),
    *("169.254.43518", "169.254.169.254.", "100.100.100.200", "168.63.129.16"),
)
"""Who would answer; the first is the control of the listeners."""
ODD = (
    *("http://me:pw@203.0.113.7", "https://203.0.113.7#@s3.amazonaws.com", "http:///x"),
    *(
        "https://s3.amazonaws.com\\\\@203.0.113.7",
        "https://203.0.113.7%2fs3",
        "http://",
    ),
    *(
        "https://203.0.113.7/%2e%2e/",
        "ftp://203.0.113.7",
        "file:///etc",
        "//203.0.113.7",
    ),
    *("https://203.0.113.7:99999", "https://203.0.113.7:80:80", "HTTP://203.0.113.7"),
    *(
        "https://xn--80ak6aa92e.example",
        "https://\uff45vil.example",
        "https://203\u30020\u3002113\u30027",
    ),
    *("https://evil.example\u202e", "https://evil.example\\n", " http://203.0.113.7"),
)
"""Endpoints that clients and checks may read differently."""
PLACES = (
    "{backend: s3, bucket: team, prefix: prod-evil}",
    "{backend: s3, bucket: team, prefix: prod/../other}",
    "{backend: s3, bucket: team-evil, prefix: prod}",
    "{backend: s3, bucket: team/../evil, prefix: prod}",
    "{backend: s3, bucket: team, region: '203.0.113.7/#'}",
    "{backend: s3, bucket: team, region: 'x@203.0.113.7'}",
    "{backend: gs, bucket: team, prefix: prod}",
    "{backend: gs, bucket: 'team@203.0.113.7'}",
    "{backend: az, account: '203.0.113.7/', bucket: c}",
    "{backend: az, account: 'evil#', bucket: c}",
    "{backend: az, account: team, bucket: prod}",
    "{backend: file, path: /tmp}",
    "{backend: file, path: ../../outside}",
    "{backend: file, path: 's3://team/evil'}",
    "{backend: http, bucket: x}",
    "{backend: s3}",
    "s3://team/evil",
    "[s3]",
)
"""Places that are near the allowed one, or none."""
CREDENTIALS = ("AWS_", "AZURE_", "GOOGLE_")


@dataclass(frozen=True)
class Case:
    """One project file, and whether the job has the credentials of a cloud."""

    state: str
    words: tuple[str, ...]
    credentials: bool
    allowed: str = "s3://team/prod"


def cases() -> tuple[Case, ...]:
    """At least 80 of them, the same ones each time."""
    choose = random.Random(15)  # noqa: S311 - the same ones each time
    stores = ("s3, bucket: b", "az, account: acc, bucket: c", "s3, bucket: team")
    shapes = itertools.product(HOSTS, ("http", "https"))
    urls = [f"{scheme}://{host}:{choose.choice(PORTS)}" for host, scheme in shapes]
    states = [
        f'{{backend: {choose.choice(stores)}, endpoint: "{url}"}}'
        for url in (*urls, *urls[::3], *ODD)
    ]
    return tuple(
        Case(state, choose.choice(COMMANDS), choose.random() < 2 / 3)
        for state in (*states, *PLACES)
    )


class Network:
    """Every address of the namespace, and who was connected to."""

    def __init__(self) -> None:
        for words in (
            ("link", "set", "lo", "up"),
            ("route", "add", "local", "0.0.0.0/0", "dev", "lo"),
            ("-6", "route", "add", "local", "::/0", "dev", "lo"),
        ):
            subprocess.run(
                ("ip", *words),  # noqa: S607 - the system's own
                check=True,
                capture_output=True,
            )
        self.met: list[str] = []
        self._waiting = selectors.DefaultSelector()
        for port in PORTS:
            listening = socket.create_server(
                ("::", port), family=socket.AF_INET6, dualstack_ipv6=True
            )
            self._waiting.register(listening, selectors.EVENT_READ)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            for key, _ in self._waiting.select():
                assert isinstance(key.fileobj, socket.socket)
                client, _ = key.fileobj.accept()
                host, port = client.getsockname()[:2]
                self.met.append(f"{host}:{port}")
                client.close()


def told(world: World, network: Network, case: Case) -> dict[str, object]:
    """Run a case, and what came of it."""
    world.changes = {"DEPLOYER_ALLOW_STATE": case.allowed}
    if not case.credentials:
        taken = [name for name in world.environment() if name.startswith(CREDENTIALS)]
        world.changes |= dict.fromkeys(taken, "")
    world.write("deployer.yaml", f"version: 1\nstate: {case.state}\n".encode())
    begun, heard = len(network.met), len(world.listener.heard)
    outcome: Outcome = world.run(*case.words)
    return {
        "state": case.state,
        "words": case.words,
        "code": outcome.code,
        "harm": outcome.harm,
        "met": network.met[begun:],
        "heard": len(world.listener.heard) - heard,
        "said": outcome.said,
    }


def lines(folder: Path) -> Iterator[dict[str, object]]:
    """The control, which reaches the listener, then every case."""
    network = Network()
    with started() as shared:
        world = World(folder / "world", *shared)
        world.stack()
        url = "http://127.0.0.1:9000"
        control = Case(
            f'{{backend: s3, bucket: b, endpoint: "{url}"}}',
            ("state", "list", "stacks"),
            credentials=True,
            allowed=f"s3://b?endpoint={url}",
        )
        for case in (control, *cases()):
            yield told(world, network, case)


if __name__ == "__main__":
    for line in lines(Path(sys.argv[1])):
        sys.stdout.write(f"{json.dumps(line)}\n")
