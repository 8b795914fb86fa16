"""A small program that behaves like llama-server while it starts, serves and dies.

It listens at once with SO_REUSEPORT, answers 503 until the file of `--ready` exists,
then 200, and keeps connections open.
"""

import argparse
import http.server
import os
import signal
import socket
import socketserver
import sys
import threading
from pathlib import Path


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ready", type=Path)
    parser.add_argument("--deadlock", action="store_true")
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--last-words")
    parser.add_argument("--exit-code", type=int, default=1)
    parser.add_argument("--killed-by", type=int)
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--print-environment", action="store_true")
    options = parser.parse_args()
    if options.print_environment:
        sys.stdout.write("".join(f"{n}={v}\n" for n, v in sorted(os.environ.items())))
        sys.stdout.flush()
    if options.last_words is not None:
        sys.stderr.write(options.last_words + "\n")
        return int(options.exit_code)
    if options.killed_by is not None:
        os.kill(os.getpid(), options.killed_by)
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.busy:
        threading.Thread(target=busy, daemon=True).start()
    answers = handler(options.ready, deadlock=options.deadlock or options.busy)
    with Server(("127.0.0.1", options.port), answers) as server:
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        threading.Thread(target=server.serve_forever).start()
        threading.Event().wait()
    return 0


def busy() -> None:
    while True:
        sum(range(10_000))


def handler(
    ready: Path | None, *, deadlock: bool
) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if deadlock:
                threading.Event().wait()
            healthy = ready is None or ready.exists()
            answer = b"ok" if healthy else b"loading"
            self.send_response(200 if healthy else 503)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    return Handler


if __name__ == "__main__":
    sys.exit(main())
