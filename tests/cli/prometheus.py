"""A real Prometheus, and what it scrapes beside a llama-server."""

import functools
import json
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from tests.cli.project import LIMIT
from tests.ports import quiet_port

PROMETHEUS = shutil.which("prometheus")


def configured(rendered: Path, key: str, exporter: str) -> Path:
    """The rendered configuration, every second, with what `watch` wrote beside it."""
    file = rendered.with_name("key")
    file.write_text(key)
    assert key not in rendered.read_text()
    config = yaml.safe_load(rendered.read_text())
    (job,) = config["scrape_configs"]
    job["scrape_interval"] = "1s"
    job["authorization"]["credentials_file"] = str(file)
    other = {"job_name": "node", "static_configs": [{"targets": [exporter]}]}
    config["scrape_configs"].append(other)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    rendered.write_text(yaml.safe_dump(config))
    return rendered


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder over HTTP, as an exporter serves the file of its textfile collector."""

    class Handler(SimpleHTTPRequestHandler):
        def guess_type(self, path: object) -> str:
            del path
            return "text/plain; version=0.0.4"

        def log_message(self, *said: object) -> None:
            del said

    make = functools.partial(Handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), make) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@contextmanager
def prometheus(config: Path, data: Path) -> Iterator[str]:
    """A real Prometheus on loopback, which ends with the test."""
    address = f"127.0.0.1:{quiet_port()}"
    argv = [
        str(PROMETHEUS),
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={address}",
    ]
    with (data.parent / "prometheus.log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            yield f"http://{address}"
        finally:
            process.terminate()
            process.wait(timeout=LIMIT)


def until(url: str, wanted: Any) -> dict[str, Any]:
    """Ask Prometheus until what is wanted is there."""
    deadline = time.monotonic() + LIMIT
    found: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - ours
                found = json.load(answer)["data"]
        except OSError:
            found = {}
        if found and wanted(found):
            return found
        threading.Event().wait(0.1)
    raise AssertionError(f"{url} never had it: {found}")
