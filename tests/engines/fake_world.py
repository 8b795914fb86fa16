"""The world of the fake engine: one for a process, with a server that is healthy."""

from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from deployer.engines.contract import Endpoint
from deployer.engines.place import Place
from deployer.planning.state import Record
from deployer.testing import FakeEngine


class _Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Say that all is well."""
        body = b'{"status": "ok"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write nothing."""


class World(FakeEngine):
    """A fake engine whose servers answer."""

    def __init__(self) -> None:
        super().__init__()
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Healthy)
        Thread(target=server.serve_forever, daemon=True).start()
        self.port = server.server_port

    def endpoint(self, record: Record, *, candidate: bool) -> Endpoint:
        """Return the address of the one server."""
        del record, candidate
        return Endpoint(f"http://127.0.0.1:{self.port}")


@cache
def _world() -> World:
    return World()


def engine(place: Place) -> World:
    """Return the engine of the one world."""
    del place
    return _world()
