"""The header of a GGUF file: keys, values and the list of tensors.

Form: github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3.  Whatever
the bytes are, reading ends in a header or in a HeaderError that says what is wrong and
where; lengths are compared with the file before anything is allocated for them.

Numbers, names and block sizes: ``ggml_type`` of ggml/include/ggml.h and the traits in
ggml/src/ggml.c, llama.cpp b11434; the names of file types: ``llama_ftype`` of
include/llama.h of the same build.

A reader never holds more than one piece and what it is asked for, never asks beyond
its budget, and refuses a length that the file cannot hold before allocating for it.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NamedTuple

from deployer.errors import SourceError
from deployer.system.files import open_regular

Fetch = Callable[[int, int], bytes]
"""The bytes from an offset on: as many as asked for, fewer at the end of the file."""

FIRST = 4096
"""The keys that size a model lie in the first 4 KiB of every file seen so far."""
LOCAL_BUDGET = 256 * 1024 * 1024
REMOTE_BUDGET = 16_000_000
"""Most that is read over the network of a file of any size."""


class HeaderError(SourceError):
    """The file is not GGUF, or its header is broken: what, and at which byte."""


class BeyondBudgetError(HeaderError):
    """The header goes on where nothing is read any more; what came before is right."""


@dataclass(slots=True)
class Stream:
    """A place in a file, and the piece around it that was read."""

    fetch: Fetch
    size: int | None
    """Bytes of the file; None where unknown."""
    piece: int = FIRST
    """Size of the next piece; it grows fourfold up to ``largest``."""
    largest: int = 1024 * 1024
    budget: int = LOCAL_BUDGET
    at: int = 0
    read: int = 0
    """Bytes asked for so far."""
    _start: int = 0
    _held: bytes = field(default=b"", repr=False)

    def take(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes."""
        begin = self.need(count, what)
        self.at += count
        return self._held[begin : begin + count]

    def number(self, form: struct.Struct, what: str) -> int:
        """The next whole number."""
        begin = self.need(form.size, what)
        self.at += form.size
        found: int = form.unpack_from(self._held, begin)[0]
        return found

    def skip(self, count: int, what: str) -> None:
        """Go past bytes that nobody looks at; what lies ahead of them is not read."""
        self.refuse_beyond(count, what)
        self.at += count

    def need(self, count: int, what: str) -> int:
        """Hold the next ``count`` bytes; where in the piece they begin."""
        begin = self.at - self._start
        if begin >= 0 and begin + count <= len(self._held):
            return begin
        self.refuse_beyond(count, what)
        kept = self._held[begin:] if 0 <= begin <= len(self._held) else b""
        missing = count - len(kept)
        wanted = min(max(missing, self.piece), self._left(missing, what))
        self._held = kept + self.fetch(self.at + len(kept), wanted)
        self._start = self.at
        self.read += wanted
        self.piece = min(self.piece * 4, self.largest)
        if len(self._held) < count:
            self._refuse_more(what)
            raise self.broken(f"the file ends inside {what}")
        return 0

    def refuse_beyond(self, count: int, what: str) -> None:
        """Raise HeaderError where the file cannot hold ``count`` bytes more."""
        left = (1 << 62 if self.size is None else self.size) - self.at
        if count > left:
            raise self.broken(
                f"{what} takes {count} bytes, and the file has {left} left"
            )

    def begin_with(self, first: bytes) -> None:
        """Take the first piece from somebody who read it already."""
        self._held, self.read = first, len(first)

    def held(self) -> tuple[bytes, int]:
        """The piece in hand and where in it the next byte is; for tight loops."""
        return self._held, self.at - self._start

    def broken(self, what: str) -> HeaderError:
        """The error for what is wrong here."""
        return HeaderError(f"broken GGUF header at byte {self.at}: {what}")

    def _refuse_more(self, what: str) -> None:
        """Raise where the file goes on, and whoever reads it does not."""
        if self.size is not None and self._start + len(self._held) < self.size:
            raise BeyondBudgetError(f"{what} lies beyond what is read of a header")

    def _left(self, missing: int, what: str) -> int:
        left = self.budget - self.read
        if missing > left:
            raise BeyondBudgetError(
                f"{what} lies beyond the {self.budget} bytes that are read of a header"
            )
        return left


@contextmanager
def local(path: Path) -> Iterator[Stream]:
    """A file of this machine; raises SourceError where it cannot be read."""
    try:
        with open_regular(path) as opened:
            descriptor = opened.fileno()
            size = os.fstat(descriptor).st_size
            yield Stream(lambda at, count: os.pread(descriptor, count, at), size)
    except OSError as error:
        raise SourceError(f"`{path}` cannot be read: {error.strerror}") from error


def of_bytes(content: bytes) -> Stream:
    """Bytes in memory."""
    return Stream(lambda at, count: content[at : at + count], len(content))


class TensorType(NamedTuple):
    """A way to store numbers: so many of them in a block of so many bytes."""

    name: str
    block: int
    width: int


class Tensor(NamedTuple):
    """One tensor of a file."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int
    size: int | None
    """Bytes; None for a type that is not in the table."""


TYPES: Mapping[int, TensorType] = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    9: TensorType("Q8_1", 32, 36),
    10: TensorType("Q2_K", 256, 84),
    11: TensorType("Q3_K", 256, 110),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    15: TensorType("Q8_K", 256, 292),
    16: TensorType("IQ2_XXS", 256, 66),
    17: TensorType("IQ2_XS", 256, 74),
    18: TensorType("IQ3_XXS", 256, 98),
    19: TensorType("IQ1_S", 256, 50),
    20: TensorType("IQ4_NL", 32, 18),
    21: TensorType("IQ3_S", 256, 110),
    22: TensorType("IQ2_S", 256, 82),
    23: TensorType("IQ4_XS", 256, 136),
    24: TensorType("I8", 1, 1),
    25: TensorType("I16", 1, 2),
    26: TensorType("I32", 1, 4),
    27: TensorType("I64", 1, 8),
    28: TensorType("F64", 1, 8),
    29: TensorType("IQ1_M", 256, 56),
    30: TensorType("BF16", 1, 2),
    34: TensorType("TQ1_0", 256, 54),
    35: TensorType("TQ2_0", 256, 66),
    39: TensorType("MXFP4", 32, 17),
    40: TensorType("NVFP4", 64, 36),
    41: TensorType("Q1_0", 128, 18),
    42: TensorType("Q2_0", 64, 18),
}

CACHE_BITS: Mapping[str, tuple[int, int]] = {
    type_.name.lower(): (type_.block, type_.width)
    for type_ in TYPES.values()
    if type_.name
    in ["F32", "F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"]
}
"""Types of a KV cache, by the name in a stack: numbers in a block, and its bytes."""

FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
    41: "Q2_0",
}


def bytes_of(kind: int, shape: Sequence[int]) -> int | None:
    """Bytes of a tensor; None for a type that is not in the table."""
    if (found := TYPES.get(kind)) is None:
        return None
    return prod(shape) // found.block * found.width


MAX_PAIRS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_NAME = 1 << 16
MAX_TEXT = 8 * 1024 * 1024
"""Longest text that is kept, a chat template at most; longer ones are broken."""
KEPT_ITEMS = 4096
"""Longest array that is kept: one item a layer; vocabularies are only counted."""

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_TEXT, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_NAMES: Mapping[int, str] = dict(
    enumerate(
        "u8 i8 u16 i16 u32 i32 f32 bool text array u64 i64 f64".split()  # noqa: SIM905
    )
)

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array: what it holds, or only how much where it is long."""

    kind: str
    """Type of the items: ``u32``, ``text`` …"""
    count: int
    items: tuple[Scalar, ...] | None
    """None where there are more than `KEPT_ITEMS`, or texts."""


Value = Scalar | Array


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one file: keys, values and the list of tensors."""

    version: int
    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    length: int
    """Bytes up to the end of the list of tensors; 0 where reading stopped early."""
    size: int | None
    """Bytes of the file; None where unknown."""
    read: int
    """Bytes that were asked for."""

    @property
    def complete(self) -> bool:
        """Return whether the header was read to its end."""
        return self.length > 0

    @property
    def architecture(self) -> str:
        """The name that llama.cpp knows the model by; empty where none is given."""
        found = self.values.get("general.architecture")
        return found if isinstance(found, str) else ""

    def number(self, key: str) -> int | None:
        """A whole number under a key, where there is one."""
        found = self.values.get(key)
        if isinstance(found, bool) or not isinstance(found, int):
            return None
        return found

    def text(self, key: str) -> str:
        """A text under a key; empty where there is none."""
        found = self.values.get(key)
        return found if isinstance(found, str) else ""

    def per_layer(self, key: str) -> int | tuple[int, ...] | None:
        """A number for all layers, or one for each."""
        match self.values.get(key):
            case Array(items=tuple(items)) if all(isinstance(i, int) for i in items):
                return tuple(int(item) for item in items)
            case _:
                return self.number(key)


def read_header(stream: Stream) -> Header:
    """Read all of a header, or as much as the budget allows; raises HeaderError."""
    version, pairs, count = _begin(stream)
    values: dict[str, Value] = {}
    try:
        for _ in range(pairs):
            _pair(stream, values)
        tensors = tuple(_tensor(stream) for _ in range(count))
    except BeyondBudgetError:
        return Header(version, values, (), 0, stream.size, stream.read)
    length = stream.at
    _refuse_truncated(stream, tensors, _alignment(values))
    return Header(version, values, tensors, length, stream.size, stream.read)


def read_sizes(stream: Stream) -> Header:
    """Read only up to the tokenizer: the keys that size a model; raises HeaderError.

    Writers put the keys of the architecture first, in one piece of 4 KiB; where they
    do not, the rest is read too.
    """
    version, pairs, count = _begin(stream)
    values: dict[str, Value] = {}
    for _ in range(pairs):
        key = _pair(stream, values, stop="tokenizer.")
        if not key and _sized(values):
            return Header(version, values, (), 0, stream.size, stream.read)
        if not key:
            _pair(stream, values)
    tensors = tuple(_tensor(stream) for _ in range(count))
    return Header(version, values, tensors, stream.at, stream.size, stream.read)


def _sized(values: Mapping[str, Value]) -> bool:
    """Return whether everything that a size is computed from was seen."""
    architecture = values.get("general.architecture")
    needed = ("block_count", "context_length", "embedding_length")
    return all(f"{architecture}.{name}" in values for name in needed)


def _begin(stream: Stream) -> tuple[int, int, int]:
    """Version, number of keys and of tensors."""
    magic = stream.take(4, "the magic")
    if magic != b"GGUF":
        raise stream.broken(f"the file begins with {magic!r}, not with `GGUF`")
    version = stream.number(_U32, "the version")
    if version & 0xFFFF == 0 and version:
        raise _refused(stream, "it is big-endian", "take the little-endian file")
    if version == 1:
        hint = "convert the model again, or take a newer file"
        raise _refused(stream, "version 1 is not read by any llama.cpp of today", hint)
    if version not in (2, 3):
        raise stream.broken(f"version {version} is not known (2 and 3 are)")
    count = stream.number(_U64, "the number of tensors")
    pairs = stream.number(_U64, "the number of keys")
    if count > MAX_TENSORS:
        raise stream.broken(f"{count} tensors are more than {MAX_TENSORS}")
    if pairs > MAX_PAIRS:
        raise stream.broken(f"{pairs} keys are more than {MAX_PAIRS}")
    stream.refuse_beyond(pairs * 13 + count * 24, f"{pairs} keys and {count} tensors")
    return version, pairs, count


def _refused(stream: Stream, what: str, hint: str) -> HeaderError:
    error = stream.broken(what)
    error.hint = hint
    return error


def _pair(stream: Stream, values: dict[str, Value], stop: str = "") -> str:
    """Read one key with its value; empty, and back, where it begins with ``stop``."""
    before = stream.at
    key = _name(stream, "a key")
    if stop and key.startswith(stop):
        stream.at = before
        return ""
    if key in values:
        raise stream.broken(f"the key `{key}` is there twice")
    kind = stream.number(_U32, f"the type of `{key}`")
    values[key] = _value(stream, kind, key)
    return key


def _name(stream: Stream, what: str) -> str:
    length = stream.number(_U64, f"the length of {what}")
    if not 0 < length < MAX_NAME:
        raise stream.broken(f"{what} has a name of {length} bytes")
    raw = stream.take(length, what)
    try:
        found = raw.decode()
    except UnicodeDecodeError:
        raise stream.broken(f"{what} is not UTF-8: {raw[:40]!r}") from None
    if not found.isprintable():
        raise stream.broken(f"{what} has characters that do not print: {raw[:40]!r}")
    return found


def _value(stream: Stream, kind: int, key: str) -> Value:
    if kind == _TEXT:
        length = stream.number(_U64, f"the length of `{key}`")
        stream.refuse_beyond(length, f"`{key}`")
        if length > MAX_TEXT:
            raise stream.broken(f"`{key}` is a string of {length} bytes")
        return stream.take(length, f"`{key}`").decode(errors="replace")
    if kind == _ARRAY:
        return _array(stream, key)
    if (code := _SCALARS.get(kind)) is None:
        raise stream.broken(f"`{key}` has the unknown type {kind}")
    form = struct.Struct(f"<{code}")
    found: int | float | bool = form.unpack(stream.take(form.size, f"`{key}`"))[0]
    return found


def _array(stream: Stream, key: str) -> Array:
    kind = stream.number(_U32, f"the type of the items of `{key}`")
    count = stream.number(_U64, f"the length of `{key}`")
    if kind == _TEXT:
        stream.refuse_beyond(count * 8, f"`{key}` with {count} strings")
        _skip_texts(stream, count, key)
        return Array("text", count, None)
    if kind == _ARRAY:
        raise stream.broken(f"`{key}` is an array of arrays, which llama.cpp refuses")
    if (code := _SCALARS.get(kind)) is None:
        raise stream.broken(f"`{key}` has items of the unknown type {kind}")
    width = struct.calcsize(f"<{code}")
    if count > KEPT_ITEMS:
        stream.skip(count * width, f"`{key}` with {count} items")
        return Array(_NAMES[kind], count, None)
    raw = stream.take(count * width, f"`{key}` with {count} items")
    return Array(_NAMES[kind], count, struct.unpack(f"<{count}{code}", raw))


def _skip_texts(stream: Stream, count: int, key: str) -> None:
    """Walk over texts; half a million of them, so the loop looks into the piece."""
    what = f"a string of `{key}`"
    left = count
    while left:
        stream.need(8, what)
        held, begin = stream.held()
        end, at = len(held), begin
        while left and at + 8 <= end:
            after = at + 8 + int.from_bytes(held[at : at + 8], "little")
            if after > end:
                break
            at, left = after, left - 1
        stream.at += at - begin
        if left:
            stream.skip(stream.number(_U64, what), what)
            left -= 1


def _tensor(stream: Stream) -> Tensor:
    name = _name(stream, "a tensor")
    count = stream.number(_U32, f"the dimensions of `{name}`")
    if count > 4:
        raise stream.broken(f"`{name}` has {count} dimensions (at most 4)")
    shape = struct.unpack(f"<{count}Q", stream.take(count * 8, f"`{name}`"))
    kind = stream.number(_U32, f"the type of `{name}`")
    offset = stream.number(_U64, f"the place of `{name}`")
    size = bytes_of(kind, shape)
    if size is not None and size >= 1 << 50:
        raise stream.broken(f"`{name}` takes {size} bytes")
    return Tensor(name, shape, kind, offset, size)


def _alignment(values: Mapping[str, Value]) -> int:
    found = values.get("general.alignment")
    return found if isinstance(found, int) and 0 < found < 1 << 20 else 32


def _refuse_truncated(
    stream: Stream, tensors: tuple[Tensor, ...], alignment: int
) -> None:
    """Raise HeaderError where the file ends before its weights do."""
    start = -(-stream.at // alignment) * alignment
    for tensor in tensors:
        end = start + tensor.offset + (tensor.size or 0)
        if stream.size is not None and end > stream.size:
            error = stream.broken(
                f"`{tensor.name}` ends at byte {end}, and the file has {stream.size}"
            )
            error.hint = "the file is cut short: download it again"
            raise error
