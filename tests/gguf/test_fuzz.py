"""Whatever the bytes, reading ends in a header or a HeaderError, in little memory.

DEPLOYER_LONG=1 tries 1,000,000 headers; each process of it may hold 400 MiB.
"""

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from deployer.errors import SourceError
from deployer.gguf.facts import model_of, projector_of
from deployer.gguf.header import of_bytes, read_header, read_sizes
from tests.gguf.files import Typed, header

ROOT = Path(__file__).parents[2]
ROUNDS = 1_000_000 if os.environ.get("DEPLOYER_LONG") else 4_000

NAMES = st.sampled_from(
    (
        *("general.architecture", "x.block_count", "x.embedding_length"),
        *("x.attention.head_count", "x.attention.head_count_kv", "x.ssm.inner_size"),
        *("x.attention.sliding_window_pattern", "tokenizer.ggml.tokens", "split.count"),
        *("general.alignment", "general.file_type", "tokenizer.chat_template"),
    )
)
NUMBERS: st.SearchStrategy[Typed] = st.one_of(
    st.tuples(st.just("u32"), st.integers(0, 2**32 - 1)),
    st.tuples(st.just("i64"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("bool"), st.booleans()),
    st.tuples(st.just("f32"), st.floats(width=32)),
)
VALUES: st.SearchStrategy[Typed] = st.one_of(
    st.sampled_from(("x", "clip", "", "gemma4")),
    NUMBERS,
    st.tuples(st.just("u32"), st.lists(st.integers(0, 2**32 - 1), max_size=40)),
    st.tuples(st.just("bool"), st.lists(st.booleans(), max_size=40)),
    st.lists(st.text(max_size=5), max_size=5),
    st.binary(max_size=40),
)
TENSORS = st.lists(
    st.tuples(
        st.sampled_from(
            ("blk.0.ffn_up_exps.w", "blk.99999999.a", "token_embd.weight", "t")
        ),
        st.lists(st.integers(0, 2**64 - 1), max_size=5).map(tuple),
        st.integers(0, 45),
        st.integers(0, 2**64 - 1),
    ),
    max_size=4,
)


def survives(content: bytes) -> None:
    """Anything but a refusal is a defect."""
    for read in (read_header, read_sizes):
        try:
            found = read(of_bytes(content))
            model_of([found])
        except SourceError:
            continue
        try:
            projector_of(found)
        except SourceError:
            continue


@given(st.dictionaries(NAMES, VALUES, max_size=8), TENSORS, st.integers(0, 2**20))
@settings(max_examples=600)
def test_headers_of_odd_content(
    values: dict[str, Typed],
    tensors: list[tuple[str, tuple[int, ...], int, int]],
    room: int,
) -> None:
    listed = [(name, shape, kind, at % 4096) for name, shape, kind, at in tensors]
    survives(header(values, listed) + bytes(room % 4096))
    survives(header(values, tensors))


@given(st.binary(max_size=300))
def test_bytes_that_are_no_header(content: bytes) -> None:
    survives(content)
    survives(b"GGUF\3\0\0\0" + content)


def test_mutated_headers_in_bounded_memory(tiny_model: Path) -> None:
    """Bytes of real headers changed, cut, doubled and swapped, within 400 MiB."""
    seeds = [tiny_model, tiny_model.with_name("mmproj.gguf")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.gguf.mutate", str(ROUNDS), *map(str, seeds)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]
    count, refused, peak = map(int, done.stdout.split())
    assert count == ROUNDS
    assert 0 < refused < count  # neither all nor none of it is broken
    assert peak < 8 * 1024 * 1024
