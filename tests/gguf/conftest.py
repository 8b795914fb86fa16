"""A real model's vocabulary, and a server of files that counts what it is asked."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.gguf import files


@dataclass
class Counts:
    """What a client did."""

    connections: int = 0
    requests: list[str] = field(default_factory=list)
    sent: int = 0
    tokens: list[str] = field(default_factory=list)


class FileServer(ThreadingHTTPServer):
    """Serves the files of a folder in parts, as object stores do."""

    daemon_threads = True

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.ranges, self.counts = folder, ranges, Counts()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may hang up."""

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def setup(self) -> None:
        super().setup()
        self.server.counts.connections += 1

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        size = (self.server.folder / self.path.strip("/")).stat().st_size
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def do_GET(self) -> None:
        counts = self.server.counts
        asked = self.headers.get("Range", "")
        counts.requests.append(asked)
        counts.tokens.append(self.headers.get("Authorization", ""))
        file = self.server.folder / urlsplit(self.path).path.strip("/")
        if not file.is_file():
            self.send_error(404)
            return
        size = file.stat().st_size
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if found is None or not self.server.ranges:
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            self.wfile.write(file.read_bytes() if size < 10_000_000 else b"")
            return
        start, end = int(found[1]), min(int(found[2]), size - 1)
        with file.open("rb") as stream:
            stream.seek(start)
            body = stream.read(end - start + 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        counts.sent += len(body)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[FileServer]:
    """A server of the files in ``tmp_path / "served"``."""
    folder = tmp_path / "served"
    folder.mkdir()
    with FileServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def vocabulary(real_model: Path) -> bytes:
    """The array of 262,144 tokens of a real file, as it stands in it."""
    with real_model.open("rb") as stream:
        head = stream.read(8 * 1024 * 1024)
    key = files.text("tokenizer.ggml.tokens")
    start = head.index(key) + len(key)
    end = head.index(files.text("tokenizer.ggml.scores"))
    return head[start:end]


@pytest.fixture(scope="session")
def large_model(vocabulary: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """17 GB of Gemma 4 26B-A4B, of which only the header takes room on the disk."""
    path = tmp_path_factory.mktemp("large") / "gemma-4-26B-A4B-it-UD-Q4_K_XL.gguf"
    files.gemma4_26b(path, vocabulary)
    return path
