"""What a rendered app starts in place of llama-server: it tells how it was started.

It writes its argument list, its environment and what it is asked to the first folder
of PATH, and behaves as the files there say.
"""

import http.server
import json
import os
import sys
from pathlib import Path

REPORT = Path(os.environ["PATH"].partition(os.pathsep)[0])
"""The first folder of PATH: one of the few variables that reach llama-server."""


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


class Handler(http.server.BaseHTTPRequestHandler):
    left = int((REPORT / "unhealthy").read_text())

    def do_GET(self) -> None:
        Handler.left -= 1
        self._answer(200 if Handler.left < 0 else 503)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        asked = {"key": self.headers["Authorization"], "body": body}
        with (REPORT / "asked").open("a") as stream:
            stream.write(json.dumps(asked) + "\n")
        self._answer(200 if not (REPORT / "refuses").exists() else 400)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int) -> None:
        self.send_response(status)
        body = (
            b'{"choices": [{}]}' if status == 200 else b'{"error": {"message": "no"}}'
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> int:
    if sys.argv[-1] == "--version":
        return 1 if "--wrong" in sys.argv else 0
    key = Path(option("--api-key-file"))
    told = {
        "argv": sys.argv,
        "environment": dict(os.environ),
        "key": key.read_text(),
        "key_mode": oct(key.stat().st_mode & 0o777),
    }
    (REPORT / "started").write_text(json.dumps(told))
    if (REPORT / "dies").exists():
        sys.stderr.write("error loading model\n")
        return 3
    address = (option("--host"), int(option("--port")))
    with http.server.ThreadingHTTPServer(address, Handler) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
