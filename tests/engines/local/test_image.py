"""Image files of CRIU, as far as they are read and changed."""

import mmap
import random
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from deployer.engines.local.snapshot.image import (
    ImageError,
    frozen_seconds,
    leave_out_zeros,
    rebind,
)

MAGIC = b"\x01\x02\x03\x04\x05\x06\x07\x08"
LOOPBACK, ANY = b"\xff\x80\x80\x08", b"\x00"
"""127.0.0.1 and 0.0.0.0 as varints of a number whose bytes are the address."""


def varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def socket(
    port: int, *, state: int = 10, family: int = 2, packed: bool = False
) -> bytes:
    """An entry of the table of files: a socket, with a field nobody knows."""
    address = varint(int.from_bytes(bytes([127, 0, 0, 1]), "little"))
    numbers = b"".join(
        varint(number << 3) + varint(value)
        for number, value in ((1, 21), (3, family), (6, state), (7, port))
    )
    where = varint(11 << 3) + address
    if packed:
        where = varint(11 << 3 | 2) + varint(len(address)) + address
    inside = numbers + where + varint(99 << 3 | 2) + varint(3) + b"new"
    entry = b"\x08\x02" + varint(4 << 3 | 2) + varint(len(inside)) + inside
    return struct.pack("<I", len(entry)) + entry


def write(folder: Path, *records: bytes) -> Path:
    file = folder / "files.img"
    file.write_bytes(MAGIC + b"".join(records))
    return file


@pytest.mark.parametrize("packed", [False, True])
def test_the_listener_is_moved_and_nothing_else(
    tmp_path: Path, *, packed: bool
) -> None:
    other, client = socket(9000), socket(8080, state=1)
    file = write(tmp_path, other, socket(8080, packed=packed), client)

    moved = rebind(file, port=8080, to=("127.0.0.1", 443))
    expected = write(tmp_path, other, socket(443, packed=packed), client)
    assert moved == expected.read_bytes()


def test_the_address_is_that_of_the_stack(tmp_path: Path) -> None:
    file = write(tmp_path, socket(8080))
    moved = rebind(file, port=8080, to=("0.0.0.0", 8080))  # noqa: S104 - written
    assert b"new" in moved
    assert varint(int.from_bytes(bytes([127, 0, 0, 1]), "little")) not in moved


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ((), "0 sockets listen on port 8080 in `files.img`"),
        ((socket(8080), socket(8080)), "2 sockets listen"),
        ((socket(8080, family=10),), "0 sockets listen"),
        ((socket(8080)[:-1],), "a record is cut off"),
        ((b"\x05\0\0",), "a record is cut off"),
        ((struct.pack("<I", 2) + b"\x0a\x09",), "a field is cut off"),
        ((struct.pack("<I", 2) + b"\x0c\x09",), "a field has wire type 4"),
        ((struct.pack("<I", 1) + b"\x80",), "a number is cut off"),
    ],
)
def test_what_is_not_understood_is_refused(
    tmp_path: Path, records: tuple[bytes, ...], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        rebind(write(tmp_path, *records), port=8080, to=("127.0.0.1", 1))


def test_the_time_it_stood_still_is_read_or_unknown(tmp_path: Path) -> None:
    assert frozen_seconds(tmp_path) is None
    inside = b"\x08\x01\x10" + varint(180_000)
    entry = b"\x0a" + varint(len(inside)) + inside
    content = MAGIC + struct.pack("<I", len(entry)) + entry
    (tmp_path / "stats-dump").write_bytes(content)
    assert frozen_seconds(tmp_path) == 0.18
    (tmp_path / "stats-dump").write_bytes(content[:-1])
    assert frozen_seconds(tmp_path) is None


PAGE = mmap.PAGESIZE
ZERO = bytes(PAGE)
HERE = 0x7F00_0000_0000
ANONYMOUS, OF_A_FILE = 0x201, 0x41
"""Status of mappings: private ones of memory, and of a file."""


def message(**fields: int | bytes) -> bytes:
    """A message by the numbers of its fields (`f5=7`)."""
    found = b""
    for name, value in fields.items():
        number = int(name[1:])
        if isinstance(value, int):
            found += varint(number << 3) + varint(value)
        else:
            found += varint(number << 3 | 2) + varint(len(value)) + value
    return found


def record(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def image_of(
    folder: Path, entries: list[tuple[int, list[bytes]]], *, counter: str = "f5"
) -> None:
    """An image: 64 pages of memory, then 64 of a file, then memory again."""
    maps = [record(message(f1=1))]
    for page, content in entries:
        fields = {"f1": HERE + page * PAGE, "f2": 0, "f4": 4, counter: len(content)}
        maps.append(record(message(**fields)))
    maps.append(record(message(f1=HERE - PAGE, f2=0, f4=1, f5=3)))  # not in the image
    (folder / "pagemap-7.img").write_bytes(MAGIC + b"".join(maps))
    (folder / "pages-1.img").write_bytes(b"".join(b"".join(c) for _, c in entries))
    ends = [(0, 64, ANONYMOUS), (64, 128, OF_A_FILE), (128, 1024, ANONYMOUS)]
    vmas = b"".join(
        message(f14=message(f1=HERE + a * PAGE, f2=HERE + b * PAGE, f7=status))
        for a, b, status in ends
    )
    (folder / "mm-7.img").write_bytes(MAGIC + record(message(f1=1) + vmas))


def memory_in(folder: Path) -> Mapping[int, bytes]:
    """The pages that an image holds, by number, read by another reader than ours."""
    content, at = (folder / "pagemap-7.img").read_bytes(), len(MAGIC)
    pages = (folder / "pages-1.img").read_bytes()
    found: dict[int, bytes] = {}
    read, head = 0, True
    while at < len(content):
        (length,) = struct.unpack_from("<I", content, at)
        body, at = content[at + 4 : at + 4 + length], at + 4 + length
        numbers = []
        value = shift = 0
        for byte in body:
            value, shift = value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                numbers.append(value)
                value = shift = 0
        values = {
            tag >> 3: it for tag, it in zip(numbers[::2], numbers[1::2], strict=True)
        }
        if not head and values[4] & 4:
            for it in range(values.get(5) or values[2]):
                number = (values[1] - HERE) // PAGE + it
                found[number] = pages[read : read + PAGE]
                read += PAGE
        head = False
    assert read == len(pages)
    return found


@pytest.mark.parametrize("counter", ["f5", "f2"])
def test_zeros_of_memory_are_left_out_and_nothing_else_changes(
    tmp_path: Path, counter: str
) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable
    for _ in range(50):
        entries, at = [], 0
        while at < 900:
            at += chance.randrange(3)
            length = chance.choice([1, 15, 16, 17, 40, 256])
            content = [
                ZERO if chance.random() < 0.97 else chance.randbytes(PAGE)
                for _ in range(length)
            ]
            entries.append((at, content))
            at += length
        image_of(tmp_path, entries, counter=counter)
        before = memory_in(tmp_path)

        assert leave_out_zeros(tmp_path) == ""

        after = memory_in(tmp_path)
        gone = before.keys() - after.keys()
        assert len(gone) > 100
        assert all(before[it] == ZERO for it in gone)
        assert not any(64 <= it < 128 for it in gone)
        assert after == {it: before[it] for it in after}
        assert leave_out_zeros(tmp_path) == ""
        assert memory_in(tmp_path) == after


def test_an_image_that_is_not_understood_is_left_as_it_is(tmp_path: Path) -> None:
    image_of(tmp_path, [(0, [ZERO] * 32)])
    pages = tmp_path / "pages-1.img"
    pages.write_bytes(pages.read_bytes()[:-1])
    before = {it.name: it.read_bytes() for it in tmp_path.iterdir()}
    why = leave_out_zeros(tmp_path)
    assert why == "`pages-1.img` has not the size that `pagemap-7.img` says"
    assert {it.name: it.read_bytes() for it in tmp_path.iterdir()} == before
