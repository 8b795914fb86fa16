"""The header reader against the `gguf` package, and what it says of broken files."""

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

from deployer.gguf.header import (
    KEPT_ITEMS,
    TYPES,
    Array,
    Header,
    HeaderError,
    local,
    of_bytes,
    read_header,
)
from tests.gguf import files
from tests.gguf.files import Typed, header, text

ARCHITECTURES = ("llama", "gemma3", "qwen3moe", "deepseek2", "mamba", "gpt-oss", "clip")


def reading(path: Path) -> Header:
    with local(path) as stream:
        return read_header(stream)


def refusal(content: bytes) -> str:
    with pytest.raises(HeaderError) as refused:
        read_header(of_bytes(content))
    hint = f" | {refused.value.hint}" if refused.value.hint else ""
    return refused.value.message + hint


def theirs(field: Any) -> Any:
    """A value as the other reader gives it, in our form."""
    kind = field.types[0]
    if kind is GGUFValueType.STRING:
        return bytes(field.parts[field.data[0]]).decode(errors="replace")
    if kind is not GGUFValueType.ARRAY:
        return field.parts[field.data[0]][0].item()
    items = field.types[1]
    if items is GGUFValueType.STRING or len(field.data) > KEPT_ITEMS:
        return len(field.data), None
    return len(field.data), tuple(field.parts[at][0].item() for at in field.data)


def same_as_theirs(path: Path) -> None:
    ours, reader = reading(path), GGUFReader(path)
    found: dict[str, Any] = {
        name: (value.count, value.items) if isinstance(value, Array) else value
        for name, value in ours.values.items()
    }
    fields = {k: f for k, f in reader.fields.items() if not k.startswith("GGUF.")}
    assert found.keys() == fields.keys()
    for name, field in fields.items():
        assert found[name] == theirs(field), name
    assert [(t.name, t.shape, t.kind, t.size) for t in ours.tensors] == [
        (t.name, tuple(t.shape.tolist()), int(t.tensor_type), t.n_bytes)
        for t in reader.tensors
    ]
    offset = -(-ours.length // int(reader.alignment)) * int(reader.alignment)
    assert [offset + t.offset for t in ours.tensors] == [
        t.data_offset for t in reader.tensors
    ]


def test_the_tiny_model_and_its_projector_read_the_same(tiny_model: Path) -> None:
    same_as_theirs(tiny_model)
    same_as_theirs(tiny_model.with_name("mmproj.gguf"))


def test_a_real_model_reads_as_the_other_package_read_it(real_model: Path) -> None:
    """The other one takes most of a minute for it: DEPLOYER_LONG=1 lets it."""
    if os.environ.get("DEPLOYER_LONG"):
        same_as_theirs(real_model)
    found = reading(real_model)
    assert (len(found.values), len(found.tensors)) == (33, 236)
    assert found.length == 6_525_112
    assert found.values["tokenizer.ggml.tokens"] == Array("text", 262_144, None)
    assert found.values["gemma3.rope.freq_base"] == 1e6
    assert sum(tensor.size or 0 for tensor in found.tensors) == 246_587_904


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_written_by_the_other_package(name: str, tmp_path: Path) -> None:
    """Every type of value and of array, with tensors of several kinds."""
    writer = GGUFWriter(tmp_path / "it.gguf", name)
    writer.add_block_count(3)
    writer.add_string("text.empty", "")
    writer.add_string("text.odd", "é漢\0\n\x1b")
    writer.add_bool("flag", True)  # noqa: FBT003 - its signature
    writer.add_float32("float", 1e-6)
    writer.add_float64("double", 1e300)
    for kind, add in (
        ("uint8", writer.add_uint8),
        ("int8", writer.add_int8),
        ("uint16", writer.add_uint16),
        ("int16", writer.add_int16),
        ("uint32", writer.add_uint32),
        ("int32", writer.add_int32),
        ("uint64", writer.add_uint64),
        ("int64", writer.add_int64),
    ):
        limits = np.iinfo(kind)
        add(f"{kind}.least", int(limits.min))
        add(f"{kind}.most", int(limits.max))
    writer.add_array("list.flags", [True, False, True])
    writer.add_array("list.numbers", [1, -2, 3])
    writer.add_array("list.floats", [0.5, 1.5])
    writer.add_array("list.texts", ["a", "", "ö" * 500])
    writer.add_array("list.long", list(range(KEPT_ITEMS + 1)))
    writer.add_tensor("a", np.ones((3, 5), np.float32))
    writer.add_tensor("b", np.ones((2, 2, 4), np.float16))
    rows = np.zeros((4, 34 * 2), np.uint8)
    writer.add_tensor("c", rows, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    same_as_theirs(tmp_path / "it.gguf")


def test_sizes_of_all_types_are_those_of_the_other_package() -> None:
    from gguf.constants import GGML_QUANT_SIZES  # noqa: PLC0415 - only here

    for number, kind in TYPES.items():
        if kind.name == "Q8_1":  # in no file, and 40 bytes in early versions
            continue
        known = {int(other): size for other, size in GGML_QUANT_SIZES.items()}
        assert known.get(number, (kind.block, kind.width)) == (kind.block, kind.width)


def test_version_2_reads_like_version_3() -> None:
    content = header({"general.architecture": "llama"}, version=2)
    assert read_header(of_bytes(content)).architecture == "llama"


A = files.header({"general.architecture": "x"})
BROKEN: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "byte 0: the magic takes 4 bytes, and the file has 0 left"),
    "no GGUF": (b"PK\3\4" + bytes(60), "begins with b'PK\\x03\\x04', not with `GGUF`"),
    "big-endian": (
        b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + bytes(60),
        "it is big-endian | take the little-endian file",
    ),
    "version 1": (
        header({}, version=1),
        "version 1 is not read by any llama.cpp of today | convert the model again",
    ),
    "version 9": (header({}, version=9), "version 9 is not known (2 and 3 are)"),
    "keys beyond the file": (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 60000),
        "60000 keys and 0 tensors takes 780000 bytes, and the file has 0 left",
    ),
    "too many keys": (
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1 << 60),
        "1152921504606846976 keys are more than 65536",
    ),
    "too many tensors": (
        struct.pack("<4sIQQ", b"GGUF", 3, 1 << 40, 0),
        "1099511627776 tensors are more than 131072",
    ),
    "a text beyond the file": (
        header({"k": struct.pack("<IQ", 8, 1 << 62)}),
        "`k` takes 4611686018427387904 bytes, and the file has 0 left",
    ),
    "an array beyond the file": (
        header({"k": struct.pack("<IIQ", 9, 4, 1 << 61)}),
        "`k` with 2305843009213693952 items takes",
    ),
    "texts beyond the file": (
        header({"k": struct.pack("<IIQ", 9, 8, 1 << 60)}),
        "`k` with 1152921504606846976 strings takes",
    ),
    "a text in an array beyond the file": (
        header({"k": struct.pack("<IIQQ", 9, 8, 1, 1 << 50)}),
        "a string of `k` takes 1125899906842624 bytes, and the file has 0 left",
    ),
    "an array of arrays": (
        header({"k": struct.pack("<IIQ", 9, 9, 1)}),
        "`k` is an array of arrays, which llama.cpp refuses",
    ),
    "an unknown type": (header({"k": b"\x63\0\0\0"}), "`k` has the unknown type 99"),
    "an unknown type in an array": (
        header({"k": struct.pack("<IIQ", 9, 77, 1)}),
        "`k` has items of the unknown type 77",
    ),
    "a key twice": (
        A[:16] + struct.pack("<Q", 2) + A[24:] * 2,
        "the key `general.architecture` is there twice",
    ),
    "a key that is no text": (
        A.replace(b"general.architecture", b"\xff" * 20),
        "a key is not UTF-8: b'\\xff",
    ),
    "a key that does not print": (
        A.replace(b"general.architecture", b"general\x1b[2Jtecture"),
        "a key has characters that do not print",
    ),
    "a key without a name": (header({"": "x"}), "a key has a name of 0 bytes"),
    "cut in a number": (
        header({"k": ("u64", 1)})[:-3],
        "takes 8 bytes, and the file has 5 left",
    ),
    "five dimensions": (
        header({}, [("t", (1, 1, 1, 1, 1), 0, 0)]),
        "`t` has 5 dimensions (at most 4)",
    ),
    "a tensor of absurd size": (
        header({}, [("t", (1 << 40, 1 << 40), 0, 0)]),
        "`t` takes 4835703278458516698824704 bytes",
    ),
    "weights cut short": (
        header({}, [("t", (64,), 0, 0)]) + bytes(100),
        "ends at byte 320, and the file has 157 | the file is cut short: download",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_with_what_and_where(name: str) -> None:
    content, expected = BROKEN[name]
    found = refusal(content)
    assert expected in found
    assert found.startswith("broken GGUF header at byte ")


def test_every_cut_of_a_header_is_refused(tiny_model: Path) -> None:
    head = tiny_model.read_bytes()[:2000]
    for end in range(len(head)):
        refusal(head[:end])


def with_one(value: Typed) -> Callable[[], Header]:
    return lambda: read_header(of_bytes(header({"k": value})))


def test_what_is_no_text_reads_as_signs() -> None:
    raw = struct.pack("<I", 8) + text(b"\xff\xfeabc")
    assert with_one(raw)().values["k"] == "\ufffd\ufffdabc"


def test_long_arrays_are_counted_and_short_ones_kept() -> None:
    assert with_one(("u16", [7] * 3))().values["k"] == Array("u16", 3, (7, 7, 7))
    long = with_one(("i8", [1] * (KEPT_ITEMS + 1)))().values["k"]
    assert long == Array("i8", KEPT_ITEMS + 1, None)
