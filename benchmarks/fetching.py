"""Files over a network that is far away, imitated on the loopback interface.

A server answers each request after 50 ms, and sends 20 MB a second over a connection:
a download over one connection and in parts, and the header of a model whole, in pieces
of 1 MiB and of 64 KiB.  All in turn, in one process.

    python -m benchmarks.fetching
"""

import hashlib
import os
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from deployer.artefacts.sources.transfer import download, opened
from deployer.gguf.header import Stream, read_header, read_sizes
from deployer.gguf.reading import beginning, remote
from deployer.planning.progress import unwatched
from tests.gguf.files import header

ROUNDS = 5
SIZE = 96_000_000
LATENCY = 0.05
RATE = 20_000_000
_PIECE = 200_000


class _Far(BaseHTTPRequestHandler):
    """Parts of one body, late and slowly."""

    protocol_version = "HTTP/1.1"
    server: "_Place"

    def do_GET(self) -> None:
        body = self.server.bodies[self.path]
        time.sleep(LATENCY)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.send_response(200)
        else:
            start, last = int(asked[1]), min(int(asked[2] or 1 << 60), len(body) - 1)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(body)}")
            body = body[start : last + 1]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):  # hung up on
            for at in range(0, len(body), _PIECE):
                self.wfile.write(body[at : at + _PIECE])
                time.sleep(min(_PIECE, len(body) - at) / RATE)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Place(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, bodies: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Far)
        self.bodies = bodies


def main() -> None:
    """Print the medians, and each as a ratio to the way before it."""
    times = measured()
    print(f"{SIZE / 1e6:.0f} MB; {LATENCY * 1000:.0f} ms and {RATE / 1e6:.0f} MB/s.\n")
    print("| | median | best |\n|---|---|---|")
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, median in medians.items():
        print(f"| {name} | {median * 1000:.0f} ms | {min(times[name]) * 1000:.0f} ms |")
    one, parts, *headers = medians.values()
    print(f"\nIn parts: {one / parts:.1f} times as fast as over one connection.")
    print(
        f"One request: {headers[2] / headers[0]:.1f} times as fast as pieces of 64 KiB."
    )


def measured(rounds: int = ROUNDS) -> Mapping[str, list[float]]:
    """Wall seconds of every way."""
    body = b"GGUF" + os.urandom(SIZE - 4)
    model = header(
        {
            "general.architecture": "x",
            "x.block_count": ("u32", 2),
            "x.context_length": ("u32", 8),
            "x.embedding_length": ("u32", 4),
            "tokenizer.ggml.tokens": [f"token {n:09}" for n in range(262_144)],
        }
    )
    model += bytes(16_000_000)  # weights, which nobody wants
    with _serving({"/m.gguf": body, "/h.gguf": model}) as url:
        download = partial(_download, f"{url}/m.gguf", hashlib.sha256(body).hexdigest())
        ways: Mapping[str, Callable[[], object]] = {
            "download, one connection": lambda: download(None),
            "download, in parts": lambda: download(SIZE),
            "header, one request": lambda: _whole(f"{url}/h.gguf"),
            "header, pieces of 1 MiB": lambda: _pieces(f"{url}/h.gguf", 1 << 20),
            "header, pieces of 64 KiB": lambda: _pieces(f"{url}/h.gguf", 1 << 16),
            "keys that size a model": lambda: _sizes(f"{url}/h.gguf"),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, work in ways.items():
                begun = time.perf_counter()
                work()
                times[way].append(time.perf_counter() - begun)
    return times


@contextmanager
def _serving(bodies: Mapping[str, bytes]) -> Iterator[str]:
    with _Place(bodies) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def _download(url: str, sha256: str, size: int | None) -> None:
    """Without a size nobody can tell how to divide it."""
    with tempfile.TemporaryDirectory() as name:
        into = Path(name) / "m.gguf"
        download(url, into, sha256=sha256, size=size, progress=unwatched)


def _whole(url: str) -> None:
    with remote(url) as stream:
        read_header(stream)


def _pieces(url: str, piece: int) -> None:
    with opened(url) as ranges:
        first = ranges.fetch(0, piece)
        stream = Stream(ranges.fetch, ranges.size, piece=piece, largest=piece)
        stream.begin_with(first)
        read_header(stream)


def _sizes(url: str) -> None:
    with beginning(url) as stream:
        read_sizes(stream)


if __name__ == "__main__":
    main()
