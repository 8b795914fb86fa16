"""How little of a file is read: bytes, calls, requests and connections are counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deployer.errors import SourceError
from deployer.gguf.facts import from_json, to_json
from deployer.gguf.header import HeaderError, local, read_header, read_sizes
from deployer.gguf.reading import (
    WINDOW,
    beginning,
    facts_of_addresses,
    facts_of_files,
    header_in,
)
from tests.gguf.conftest import FileServer
from tests.gguf.files import Typed, header, text

MOST = 16_000_000


def calls(work: Callable[[], object]) -> tuple[int, int]:
    """System calls that read, and bytes that they read, of this process."""

    def counters() -> tuple[int, int]:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
        found = dict(line.split(": ") for line in lines)
        return int(found["syscr"]), int(found["rchar"])

    idle = counters(), counters()
    before = counters()
    work()
    after = counters()
    own = [late - early for early, late in zip(*idle, strict=True)]
    return after[0] - before[0] - own[0], after[1] - before[1] - own[1]


def test_what_sizes_a_real_model_is_one_read_of_4_kib(real_model: Path) -> None:
    def work() -> None:
        with local(real_model) as stream:
            assert read_sizes(stream).number("gemma3.block_count") == 18

    number, size = calls(work)
    assert number == 1
    assert size == pytest.approx(4096, abs=8)  # the counters' own text varies


def test_a_whole_header_is_read_once_and_little_beyond(real_model: Path) -> None:
    with local(real_model) as stream:
        found = read_header(stream)
    assert found.length < found.read < found.length + 1024 * 1024


def test_sizes_are_the_same_whoever_stops_where(real_model: Path) -> None:
    with local(real_model) as stream:
        early = read_sizes(stream)
    with local(real_model) as stream:
        whole = read_header(stream)
    assert not early.complete
    assert {key: whole.values[key] for key in early.values} == early.values


def test_keys_of_the_architecture_behind_the_tokenizer_are_found(
    tmp_path: Path,
) -> None:
    values: dict[str, Typed] = {
        "general.architecture": "x",
        "tokenizer.ggml.tokens": ["a"] * 9000,
        "x.block_count": ("u32", 2),
        "x.context_length": ("u32", 8),
        "x.embedding_length": ("u32", 4),
    }
    (tmp_path / "odd.gguf").write_bytes(header(values))
    with local(tmp_path / "odd.gguf") as stream:
        assert read_sizes(stream).number("x.block_count") == 2


def test_the_whole_header_of_17_gb_is_one_request(
    served: FileServer, large_model: Path
) -> None:
    (served.folder / "it.gguf").symlink_to(large_model)
    facts = facts_of_addresses([served.url("it.gguf")])
    assert facts.model.size == large_model.stat().st_size > 17_000_000_000
    assert (facts.model.vocabulary, facts.model.experts) == (262_144, 128)
    assert served.counts.connections == 1
    assert served.counts.requests == [f"bytes=0-{WINDOW - 1}"]


def test_what_sizes_17_gb_is_one_request(served: FileServer, large_model: Path) -> None:
    (served.folder / "it.gguf").symlink_to(large_model)
    url = served.url("it.gguf")
    found = header_in(lambda: beginning(url), "it.gguf", read_sizes)
    assert found.number("gemma4.block_count") == 30
    assert len(served.counts.requests) == 1
    assert served.counts.sent == 64 * 1024


def test_no_more_than_16_mb_are_read_of_a_header_that_goes_on(
    served: FileServer,
) -> None:
    """What came before is kept; what may come later is told as not read."""
    values: dict[str, Typed] = {
        "general.architecture": "x",
        "x.block_count": ("u32", 2),
        "x.context_length": ("u32", 8),
        "x.embedding_length": ("u32", 4),
        "tokenizer.ggml.tokens": ["t" * 1000] * 20_000,
        "tokenizer.chat_template": "{{ messages }}",
    }
    (served.folder / "it.gguf").write_bytes(header(values))
    facts = facts_of_addresses([served.url("it.gguf")])
    assert facts.model.block_count == 2
    assert not facts.model.whole
    assert served.counts.sent <= MOST
    assert len(served.counts.requests) == 2


def test_parts_and_projector(served: FileServer, tiny_model: Path) -> None:
    first = header({"general.architecture": "x", "split.count": ("u16", 2)})
    second = header({"split.count": ("u16", 2), "split.no": ("u16", 1)})
    (served.folder / "a-1.gguf").write_bytes(first)
    (served.folder / "a-2.gguf").write_bytes(second)
    projector = tiny_model.with_name("mmproj.gguf")
    (served.folder / "mmproj.gguf").write_bytes(projector.read_bytes())
    urls = [served.url("a-1.gguf"), served.url("a-2.gguf")]
    facts = facts_of_addresses(urls, served.url("mmproj.gguf"))
    assert facts.model.files == 2
    assert facts.model.size == len(first) + len(second)
    assert facts.projector == facts_of_files([tiny_model], projector).projector
    with pytest.raises(HeaderError, match="has 2 parts, and 1 are here"):
        facts_of_addresses(urls[:1])
    with pytest.raises(HeaderError, match="part 1 of the model says it is 2"):
        facts_of_addresses(urls[::-1])


def test_a_server_without_parts_is_told(served: FileServer, tiny_model: Path) -> None:
    (served.folder / "it.gguf").write_bytes(tiny_model.read_bytes())
    served.ranges = False
    with pytest.raises(SourceError, match="does not serve parts of files"):
        facts_of_addresses([served.url("it.gguf")])


def test_a_missing_file_is_told(served: FileServer) -> None:
    with pytest.raises(SourceError, match=r"none\.gguf` cannot be read \(HTTP 404\)"):
        facts_of_addresses([served.url("none.gguf")])


def test_a_broken_file_is_told_by_its_address(served: FileServer) -> None:
    (served.folder / "it.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(HeaderError, match=r"`http://.*/it\.gguf`: broken GGUF header"):
        facts_of_addresses([served.url("it.gguf")])


def test_the_token_goes_with_every_request(
    served: FileServer, large_model: Path
) -> None:
    (served.folder / "it.gguf").symlink_to(large_model)
    facts_of_addresses([served.url("it.gguf")], token="hf_x")
    assert set(served.counts.tokens) == {"Bearer hf_x"}


def test_facts_are_the_same_after_a_lock_file(tiny_model: Path) -> None:
    facts = facts_of_files([tiny_model], tiny_model.with_name("mmproj.gguf"))
    assert from_json(dict(to_json(facts))) == facts
    assert facts.model.template is not None


@pytest.mark.parametrize(
    "content", [None, 1, {}, {"model": {"later": 1}}, {"model": 2}]
)
def test_facts_of_another_version_are_none(content: object) -> None:
    assert from_json(content) is None  # type: ignore[arg-type] # read from a file


def test_a_projector_is_no_model(tiny_model: Path) -> None:
    projector = tiny_model.with_name("mmproj.gguf")
    with pytest.raises(SourceError, match="is a multimodal projector, not a model"):
        facts_of_files([projector])
    with pytest.raises(SourceError, match=r"no multimodal projector.*`gemma4`"):
        facts_of_files([tiny_model], tiny_model)


def test_texts_in_pieces(tmp_path: Path) -> None:
    """Texts that end at, before and behind the edge of every piece."""
    words = ["x" * (n % 700) for n in range(3000)]
    values = {"general.architecture": "x", "w": words, "last": "end"}
    content = header(values)
    assert text("end") in content
    (tmp_path / "it.gguf").write_bytes(content)
    with local(tmp_path / "it.gguf") as stream:
        found = read_header(stream)
    assert found.values["last"] == "end"
    assert found.length == len(content)
