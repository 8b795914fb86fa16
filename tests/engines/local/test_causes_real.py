"""The table of causes against what the real llama-server says."""

import shutil
import socket
from pathlib import Path

import pytest

from deployer.engines.local.health import wait_healthy
from deployer.engines.local.process import spawn, stop
from deployer.errors import EngineError

pytestmark = pytest.mark.real


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """Copy the model, for a test to damage."""
    return Path(shutil.copy(tiny_model, tmp_path / "model.gguf"))


def message(binary: Path, port: int, run_dir: Path, *arguments: str) -> str:
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
