"""The tiny model is the same file every time, and says what it is told to."""

from pathlib import Path

import gguf

from tests.models import tiny
from tests.models.vocabulary import Behaviour


def test_the_file_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny.write(tmp_path / f"{name}.gguf", tmp_path / f"{name}.mmproj")
    for suffix in (".gguf", ".mmproj"):
        one, two = ((tmp_path / name).with_suffix(suffix) for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_it_is_small_and_of_the_real_architecture(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    tiny.write(path)
    fields = gguf.GGUFReader(path).fields
    assert path.stat().st_size < 3_000_000
    assert fields["general.architecture"].contents() == "gemma4"
    assert "<|tool_call>call:" in fields["tokenizer.chat_template"].contents()


def test_a_short_behaviour_fits_too(tmp_path: Path) -> None:
    behaviour = Behaviour(thoughts=5, tool="look_up", argument="word", value="x")
    tiny.write(tmp_path / "short.gguf", behaviour=behaviour)
    tokens = gguf.GGUFReader(tmp_path / "short.gguf").fields["tokenizer.ggml.tokens"]
    assert "look_up" in tokens.contents()
