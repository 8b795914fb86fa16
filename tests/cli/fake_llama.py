"""A program with the life of llama-server and nothing else: quick to start, small.

It takes any option, ends at once with ``--version``, listens with SO_REUSEPORT, and
answers every request with its pid and its context size.
"""

import json
import os
import selectors
import socket
import sys
from itertools import pairwise

NAME = "fake-llama-server"


def main(words: list[str]) -> None:
    if "--version" in words:
        sys.stderr.write("version: 10434 (7e4c0a9)\nbuilt with nothing for nobody\n")
        return
    options = dict(pairwise(words))
    with socket.socket() as server, selectors.DefaultSelector() as ready:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((options["--host"], int(options["--port"])))
        server.listen(128)
        said = {"pid": os.getpid(), "ctx_size": int(options["--ctx-size"])}
        serve(server, ready, json.dumps({"status": "ok", **said}).encode())


def serve(server: socket.socket, ready: selectors.DefaultSelector, body: bytes) -> None:
    """Answer whatever comes, and keep connections until the client closes them."""
    head = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\n" + head.encode() + body
    ready.register(server, selectors.EVENT_READ)
    while True:
        for key, _ in ready.select():
            if key.fileobj is server:
                client, _ = server.accept()
                ready.register(client, selectors.EVENT_READ)
                continue
            client = key.fileobj  # type: ignore[assignment]
            try:
                if client.recv(65536):
                    client.sendall(answer)
                    continue
            except OSError:
                pass
            ready.unregister(client)
            client.close()


if __name__ == "__main__":
    main(sys.argv[1:])
