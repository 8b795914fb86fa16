"""Image files of CRIU, as far as they are read and changed."""

import struct
from pathlib import Path

import pytest

from deployer.engines.local.snapshot.image import ImageError, frozen_seconds, rebind

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
