"""A full disk does not keep `destroy` from stopping a server."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cli.project import Project, gone

pytestmark = pytest.mark.real

DEMO = "stacks/demo.yaml"


@pytest.fixture
def small(project: Project) -> Iterator[Path]:
    """A small file system of its own, where the state of the project lies."""
    folder = project.stack.parent / ".deployer"
    folder.mkdir()
    words = ("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder))
    if os.geteuid() or subprocess.run(words, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield folder
    subprocess.run(("umount", "-l", str(folder)), check=True)  # noqa: S607


def test_destroy_stops_a_server_though_the_disk_is_full(
    project: Project, small: Path
) -> None:
    assert project.run("apply", DEMO, "--yes").code == 0
    pid, rest = project.server(), small / "rest"
    with suppress(OSError), rest.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))

    asks = project.run("destroy", DEMO)
    assert project.server() == pid
    done = project.run("destroy", DEMO, "--yes")
    rest.unlink()
    again = project.run("destroy", DEMO, "--yes")

    assert asks.code == 3
    assert done.code == 1
    assert done.err.startswith("error: the disk is full: cannot lock `")
    assert "the servers of `demo` were stopped all the same" in done.err
    assert gone(pid)
    assert again.code == 0
    assert again.out.endswith("Destroyed: nothing of `demo` runs any more.\n")
