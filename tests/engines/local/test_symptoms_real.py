"""The table of symptoms against what the real llama-server says."""

import base64
import json
import shutil
import socket
import struct
import time
import urllib.request
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from deployer.engines.local.supervise.health import wait_healthy
from deployer.engines.local.supervise.process import spawn, stop, wait_for_end
from deployer.errors import EngineError
from deployer.llama.known.symptoms import symptoms_in

pytestmark = pytest.mark.real


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """Copy the model, for a test to damage."""
    return Path(shutil.copy(tiny_model, tmp_path / "model.gguf"))


def message(binary: Path, port: int, run_dir: Path, *arguments: str) -> str:
    """How a start fails; b10434 may end before its log is written, then once more."""
    until = time.monotonic() + 90
    while True:
        said = _message(binary, port, run_dir, *arguments)
        if "before it was healthy: " in said or time.monotonic() > until:
            return said


def _message(binary: Path, port: int, run_dir: Path, *arguments: str) -> str:
    running = spawn(
        [str(binary), "--host", "127.0.0.1", "--port", str(port), *arguments],
        run_dir=run_dir,
        address="stack/server",
        key="k1",
        port=port,
        environment={},
    )
    try:
        with pytest.raises(EngineError) as caught:
            wait_healthy(
                running,
                f"http://127.0.0.1:{port}",
                limit=30,
                source_address="",
                say=lambda _: None,
            )
    finally:
        stop(running, grace=5)
    return caught.value.message


def test_an_unknown_option_is_named(
    llama_server: Path, model: Path, tmp_path: Path, port: int
) -> None:
    arguments = ("--model", str(model), "--no-such-option")
    told = message(llama_server, port, tmp_path, *arguments)
    assert "does not know the option `--no-such-option`" in told


def test_a_bad_value_is_named(
    llama_server: Path, model: Path, tmp_path: Path, port: int
) -> None:
    arguments = ("--model", str(model), "--ctx-size", "many")
    told = message(llama_server, port, tmp_path, *arguments)
    assert "refuses the value of `--ctx-size`" in told


def test_a_model_cut_short_is_incomplete(
    llama_server: Path, model: Path, tmp_path: Path, port: int
) -> None:
    model.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    told = message(llama_server, port, tmp_path, "--model", str(model))
    assert "the model file is incomplete or damaged" in told


def test_a_page_saved_as_a_model_is_no_gguf(
    llama_server: Path, model: Path, tmp_path: Path, port: int
) -> None:
    model.write_text("<html>404 Not Found</html>")
    told = message(llama_server, port, tmp_path, "--model", str(model))
    assert "the model file is not a GGUF file" in told


def test_an_absent_model_is_named(
    llama_server: Path, tmp_path: Path, port: int
) -> None:
    told = message(llama_server, port, tmp_path, "--model", "/nowhere/model.gguf")
    assert "`/nowhere/model.gguf` cannot be opened" in told


def test_an_architecture_of_the_future_is_named(
    llama_server: Path, model: Path, tmp_path: Path, port: int
) -> None:
    model.write_bytes(model.read_bytes().replace(b"gemma4", b"gemma9"))
    told = message(llama_server, port, tmp_path, "--model", str(model))
    assert "does not know the architecture `gemma9`" in told


def test_a_port_of_another_program_is_named(
    llama_server: Path, model: Path, tmp_path: Path
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        told = message(
            llama_server, port, tmp_path, "--model", str(model), "--reuse-port"
        )
    named = (f"cannot listen on 127.0.0.1:{port}", f"port {port} is in use by pid")
    assert any(words in told for words in named)


def test_a_missing_library_is_named(
    llama_server: Path, model: Path, tmp_path: Path, port: int
) -> None:
    if not any(llama_server.parent.glob("*.so*")):
        pytest.skip("this llama-server has no libraries beside it")
    alone = Path(shutil.copy(llama_server, tmp_path / "llama-server"))
    told = message(alone, port, tmp_path, "--model", str(model))
    assert "the shared library `lib" in told


def picture(size: int) -> str:
    """A red square as a data URL."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    rows = (b"\0" + b"\xff\0\0" * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def test_a_picture_above_the_batch_ends_the_server_and_is_named(
    llama_server: Path, tiny_model: Path, tmp_path: Path, port: int
) -> None:
    projector = tiny_model.with_name("mmproj.gguf")
    sizes = ("--image-min-tokens", "1024", "--image-max-tokens", "1120")
    running = spawn(
        [
            *(str(llama_server), "--host", "127.0.0.1", "--port", str(port)),
            *("--model", str(tiny_model), "--mmproj", str(projector)),
            *("--ctx-size", "4096", "--parallel", "1"),
            *("--ubatch-size", "64", *sizes),
        ],
        run_dir=tmp_path,
        address="stack/server",
        key="k1",
        port=port,
        environment={"GGML_NO_BACKTRACE": "1"},
    )
    url = f"http://127.0.0.1:{port}"
    content = [{"type": "image_url", "image_url": {"url": picture(1024)}}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 4}
    try:
        wait_healthy(running, url, limit=30, source_address="", say=lambda _: None)
        request = urllib.request.Request(  # noqa: S310 - of this test
            f"{url}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with suppress(OSError):
            urllib.request.urlopen(request, timeout=30).close()  # noqa: S310
        ended = wait_for_end(running, 20)
    finally:
        stop(running, grace=5)

    assert ended is not None
    log = Path(running.log).read_text(encoding="utf-8").splitlines()
    assert "image-above-batch" in {seen.symptom.id for seen in symptoms_in(log)}
