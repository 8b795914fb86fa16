"""The real llama-server, started for a test and stopped after it."""

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.ports import quiet_port

KEY = "sk-real-0123456789"
_START_SECONDS = 60.0


@contextmanager
def serving(binary: Path, model: Path, *options: str, key: str = KEY) -> Iterator[str]:
    """The URL of a llama-server with this model; ends with it."""
    port = quiet_port()
    argv = [str(binary), "--model", str(model), "--port", str(port), *options]
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    server = subprocess.Popen(
        [*argv, "--host", "127.0.0.1", "--threads", "2", "--fit", "off"],
        env={**kept, "LLAMA_API_KEY": key},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    ready, lines = threading.Event(), list[str]()
    assert server.stderr is not None
    reader = threading.Thread(target=_read, args=(server.stderr, lines, ready))
    reader.start()
    try:
        in_time = ready.wait(_START_SECONDS)
        assert in_time and server.poll() is None, "".join(lines[-20:])  # noqa: PT018
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()  # b10434 may lose a SIGTERM that comes before its queue runs
        server.wait()
        reader.join()
        server.stderr.close()


def _read(log: IO[str], lines: list[str], ready: threading.Event) -> None:
    """Keep the pipe empty; llama-server says when it is ready, or ends its log."""
    for line in log:
        lines.append(line)
        if "listening on http" in line:
            ready.set()
    ready.set()
