"""A site on the loopback interface, and a package index that is a folder."""

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class Site:
    """Serves a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def place(self, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield Site(folder, f"http://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()


def without_pip_settings() -> dict[str, str]:
    """The environment, with none of the settings of this machine's pip."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    return {**clean, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}


@pytest.fixture
def pip_environment() -> dict[str, str]:
    return without_pip_settings()


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """The folder of `tests/conftest.py` for what is slow to get."""
    if named := os.environ.get("DEPLOYER_TEST_CACHE"):
        return Path(named)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "deployer-tests"
