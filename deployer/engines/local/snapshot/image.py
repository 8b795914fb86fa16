"""The files of a CRIU image, as far as they are read or changed here.

An image file is a magic number of eight bytes, then records: a length of four bytes,
and a protobuf message.  Messages are taken apart into fields and put together again
without knowing more of them than is asked for, so what newer versions add is kept.
The numbers of fields are those of ``images/*.proto`` of CRIU 4.2.  (The package that
CRIU itself has for this, pycriu, is not on the package index.)

Sizes and digests of the image files themselves are in the manifest of the store.
Here is the rest: every file that the process had mapped (binary, libraries, the model
under mmap), the kernel, the processor, the environment, and the API key, of which a
salted hash tells whether it is the same.
"""

import hashlib
import hmac
import ipaddress
import mmap
import os
import re
import secrets
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeAlias

import psutil

from deployer.artefacts.sources.files import DigestCache, Stamp, stamp_of
from deployer.artefacts.store import Entry
from deployer.engines.local.snapshot.criu import fits_cpu
from deployer.engines.local.snapshot.proof import is_complete
from deployer.planning.progress import unwatched
from deployer.planning.resources import digest
from deployer.stack.fields.values import Flat, JsonValue

OTHER_KEY: Final = "the API key or a secret has changed since it was taken"
_SALT_BYTES: Final = 16
_PLACES: Final = frozenset({"PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR"})
"""Variables that a server is given, and that change nothing of what it answers."""


def mapped_files(pid: int, digests: DigestCache) -> list[JsonValue]:
    """Every file that a process has mapped, with size, time and digest."""
    names = {it.path for it in psutil.Process(pid).memory_maps(grouped=True)}
    files = sorted(Path(name) for name in names if Path(name).is_file())
    return [_identity(file, digests) for file in files]


def machine() -> Flat:
    """The kernel, the processor, and how many of its cores this process may use."""
    cores = len(os.sched_getaffinity(0))
    return {"kernel": os.uname().release, "cpu": _cpu(), "cores": cores}


def environment_digest(variables: Mapping[str, str]) -> str:
    """Digest of the variables that a server computes by."""
    kept = {k: v for k, v in variables.items() if k not in _PLACES}
    return digest(dict(kept))


def sealed(known: Sequence[str]) -> JsonValue:
    """Return what tells later whether secrets are the same, and not which ones."""
    if not known:
        return None
    salt = secrets.token_hex(_SALT_BYTES)
    return {"salt": salt, "sha256": _hash(known, salt)}


def flaw_of(
    entry: Entry,
    *,
    variables: Mapping[str, str],
    known: Sequence[str],
    every: int,
    program: str,
    digests: DigestCache,
) -> str:
    """Why an image must not be used; empty where everything is as it was.

    Unless ``every`` secret of the server is ``known`` to the environment, none can be
    compared, and so is no reason.
    """
    if problems := entry.problems():
        return f"the image is damaged: {problems[0]}"
    about = entry.about
    if not is_complete(about.get("proof")):
        return "its manifest contains no answers that would prove a restored server"
    for changed in (
        _other_machine(about.get("machine"), entry, program),
        _other_files(about.get("depends"), digests),
        _other_secrets(about.get("api_key"), known) if len(known) == every else "",
    ):
        if changed:
            return changed
    if about.get("environment") != environment_digest(variables):
        return "the environment of the server has changed since it was taken"
    return ""


def _other_machine(then: JsonValue, entry: Entry, program: str) -> str:
    if not isinstance(then, dict):
        return "its manifest does not name the machine"
    now = machine()
    if then.get("kernel") != now["kernel"]:
        return (
            f"it was taken under kernel {then.get('kernel')}, this is {now['kernel']}"
        )
    if then.get("cpu") != now["cpu"] and not fits_cpu(program, entry.folder):
        return "it was taken on another processor, and this one lacks what that had"
    # llama-server counts them when it starts, and has as many threads from then on.
    if then.get("cores") != now["cores"]:
        return f"it was taken with {then.get('cores')} cores, here are {now['cores']}"
    return ""


def _other_files(depends: JsonValue, digests: DigestCache) -> str:
    if not isinstance(depends, list) or not depends:
        return "its manifest names no files"
    for file in depends:
        match file:
            case {
                "path": str(path),
                "size": int(size),
                "mtime_ns": int(written),
                "ctime_ns": int(touched),
                "inode": int(inode),
                "sha256": str(sha256),
            }:
                stamp = Stamp(size, written, touched, inode)
                if changed := _changed(Path(path), stamp, sha256, digests):
                    return changed
            case _:
                return "its manifest is not one of ours"
    return ""


def _changed(path: Path, stamp: Stamp, sha256: str, digests: DigestCache) -> str:
    """Size and time first, and the content where these leave a doubt."""
    try:
        now = stamp_of(path)
        if now == stamp:
            return ""
        if now.size == stamp.size and digests.sha256_of(path, unwatched) == sha256:
            return ""
    except OSError as error:
        return f"`{path}`, which it depends on, is gone: {error.strerror}"
    return f"`{path}`, which it depends on, has changed since it was taken"


def _other_secrets(then: JsonValue, known: Sequence[str]) -> str:
    match then:
        case None:
            same = not known
        case {"salt": str(salt), "sha256": str(hashed)}:
            same = hmac.compare_digest(hashed, _hash(known, salt))
        case _:
            same = False
    return "" if same else OTHER_KEY


def _identity(file: Path, digests: DigestCache) -> JsonValue:
    stamp = stamp_of(file)
    return {
        "path": str(file),
        "size": stamp.size,
        "mtime_ns": stamp.mtime_ns,
        "ctime_ns": stamp.ctime_ns,
        "inode": stamp.inode,
        "sha256": digests.sha256_of(file, unwatched),
    }


def _hash(known: Sequence[str], salt: str) -> str:
    # Nothing slow: the image beside it holds the keys themselves.
    text = "\n".join(sorted(known)).encode()
    return hmac.new(bytes.fromhex(salt), text, hashlib.sha256).hexdigest()


def _cpu() -> str:
    """Name and features of the first processor, as one digest."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    wanted = re.findall(r"^(model name|flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return digest([[name, value] for name, value in dict(wanted).items()])


FILES: Final = "files.img"
"""The table of open files, sockets among them."""
PAGES: Final = "pages-1.img"
"""The memory."""

_BLOCK: Final = 4 * 1024 * 1024
_MAGIC_BYTES: Final = 8
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_FILE_ISK: Final = 4  # file_entry.isk
_ISK_FAMILY, _ISK_STATE, _ISK_SRC_PORT, _ISK_SRC_ADDR = 3, 6, 7, 11  # inet_sk_entry
_LISTEN: Final = 10  # include/net/tcp_states.h
_AF_INET: Final = 2

_VADDR, _PAGES_32, _PE_FLAGS, _PAGES_64 = 1, 2, 4, 5  # pagemap_entry
_PE_PRESENT: Final = 4  # criu/include/pagemap.h: its pages are in the image
_VMAS: Final = 14  # mm_entry.vmas
_START, _END, _STATUS = 1, 2, 7  # vma_entry
_ANON_PRIVATE: Final = 1 << 9  # criu/include/image.h
_ZEROS: Final = bytes(64 * 1024)
"""Left out as a whole: fewer would cut memory into more reads than they save."""

_STATS_DUMP: Final = 1  # stats_entry.dump
_FROZEN: Final = 2  # dump_stats_entry.frozen_time, in microseconds


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message, undecoded but for its number."""

    number: int
    wire: int
    value: int | bytes


Message: TypeAlias = tuple[Field, ...]


class ImageError(Exception):
    """A file is not what CRIU writes."""


def rebind(file: Path, *, port: int, to: tuple[str, int]) -> bytes:
    """The table of files with the listener on ``port`` at another address and port.

    Raises ImageError where there is not exactly one such IPv4 listener.
    """
    content = file.read_bytes()
    records = [_message(record) for record in _records(content)]
    moved = [tuple(_moved(it, port, to) for it in record) for record in records]
    changed = sum(old != new for old, new in zip(records, moved, strict=True))
    if changed != 1:
        raise ImageError(f"{changed} sockets listen on port {port} in `{file.name}`")
    return content[:_MAGIC_BYTES] + b"".join(map(_record, moved))


def frozen_seconds(folder: Path) -> float | None:
    """How long the process stood still while it was captured, as CRIU measured it."""
    try:
        content = (folder / "stats-dump").read_bytes()
        for record in _records(content):
            for entry in _message(record):
                if entry.number == _STATS_DUMP and isinstance(entry.value, bytes):
                    found = _value(_message(entry.value), _FROZEN)
                    return None if found is None else found / 1e6
    except (OSError, ImageError):
        return None
    return None


def leave_out_zeros(folder: Path) -> str:
    """Take zeros out of the memory of an image; why it was left as it is, or empty.

    Anonymous memory that the image does not mention is mapped and never touched, so
    the kernel gives zeros to the restored process that reads it.  An image of a form
    that is not known here, as of a CRIU of tomorrow, is larger, and as good.
    """
    try:
        for maps in folder.glob("pagemap-*[0-9].img"):
            _leave_out_zeros(maps)
    except ImageError as error:
        return str(error)
    return ""


def _leave_out_zeros(maps: Path) -> None:
    """Raise ImageError before anything is changed."""
    content = maps.read_bytes()
    head, *entries = [_message(record) for record in _records(content)]
    anonymous = _anonymous(maps.with_name(maps.name.replace("pagemap", "mm")))
    pages = maps.with_name(f"pages-{_value(head, 1)}.img")
    if pages.stat().st_size != sum(map(_size, entries)):
        raise ImageError(f"`{pages.name}` has not the size that `{maps.name}` says")
    kept = [head, *_compacted(pages, entries, anonymous)]
    maps.write_bytes(content[:_MAGIC_BYTES] + b"".join(map(_record, kept)))


def _compacted(
    pages: Path, entries: Sequence[Message], anonymous: Sequence[range]
) -> Iterator[Message]:
    """Move what is kept to the front of the file, and yield where it belongs."""
    with pages.open("r+b") as source, pages.open("r+b") as target:
        for entry in entries:
            if not (size := _size(entry)):
                yield entry
                continue
            at, data = _value(entry, _VADDR) or 0, memoryview(source.read(size))
            for start, stop in _kept(at, data, anonymous):
                target.write(data[start:stop])
                yield _part(entry, at + start, (stop - start) // mmap.PAGESIZE)
        target.truncate()


def _anonymous(memory: Path) -> list[range]:
    """Return the private mappings of a process that no file is behind."""
    (record,) = _records(memory.read_bytes())
    found = (_message(bytes(it.value)) for it in _message(record) if it.number == _VMAS)
    return [
        range(_value(it, _START) or 0, _value(it, _END) or 0)
        for it in found
        if (_value(it, _STATUS) or 0) & _ANON_PRIVATE
    ]


def _kept(
    at: int, data: memoryview, anonymous: Sequence[range]
) -> Iterator[tuple[int, int]]:
    """Yield the parts of the memory at an address that must be in the image."""
    begun = 0
    for start in range(0, len(data) - len(_ZEROS) + 1, len(_ZEROS)):
        stop = start + len(_ZEROS)
        if data[start:stop] != _ZEROS or not any(
            at + start in it and at + stop - 1 in it for it in anonymous
        ):
            continue
        if begun < start:
            yield begun, start
        begun = stop
    if begun < len(data):
        yield begun, len(data)


def _size(entry: Message) -> int:
    """Return the bytes of an entry in the image; CRIU 4.1 counts pages in 32 bits."""
    if not (_value(entry, _PE_FLAGS) or 0) & _PE_PRESENT:
        return 0
    count = _value(entry, _PAGES_64) or _value(entry, _PAGES_32) or 0
    return count * mmap.PAGESIZE


def _part(entry: Message, at: int, count: int) -> Message:
    """Return a part of an entry, with what else it says."""
    counter = _PAGES_64 if _value(entry, _PAGES_64) else _PAGES_32
    new = {_VADDR: at, counter: count}
    return tuple(replace(it, value=new.get(it.number, it.value)) for it in entry)


def checksum(file: Path) -> int:
    """The CRC-32 of a file: four times as fast as SHA-256, and enough for a disk.

    Raises OSError.
    """
    found = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            found = zlib.crc32(block, found)
    return found


def _moved(field: Field, port: int, to: tuple[str, int]) -> Field:
    """The field, rewritten where it is the socket that listens on the port."""
    if field.number != _FILE_ISK or not isinstance(field.value, bytes):
        return field
    socket = _message(field.value)
    listens = _value(socket, _ISK_STATE) == _LISTEN
    ours = listens and _value(socket, _ISK_SRC_PORT) == port
    if not ours or _value(socket, _ISK_FAMILY) != _AF_INET:
        return field
    # As the kernel keeps it: the bytes of the address, read as a number of this host.
    (address,) = struct.unpack("=I", ipaddress.IPv4Address(to[0]).packed)
    new = []
    for it in socket:
        match it.number:
            case number if number == _ISK_SRC_PORT:
                new.append(Field(number, _VARINT, to[1]))
            case number if number == _ISK_SRC_ADDR and it.wire == _VARINT:
                new.append(Field(number, _VARINT, address))
            case number if number == _ISK_SRC_ADDR:  # packed
                new.append(Field(number, _BYTES, _varint(address)))
            case _:
                new.append(it)
    return Field(field.number, _BYTES, _encoded(tuple(new)))


def _value(message: Message, number: int) -> int | None:
    found = (it.value for it in message if it.number == number)
    value = next(found, None)
    return value if isinstance(value, int) else None


def _records(content: bytes) -> Iterator[bytes]:
    at = _MAGIC_BYTES
    while at < len(content):
        if len(content) < at + 4:
            raise ImageError("a record is cut off")
        (length,) = struct.unpack_from("<I", content, at)
        at += 4 + length
        if at > len(content):
            raise ImageError("a record is cut off")
        yield content[at - length : at]


def _record(message: Message) -> bytes:
    encoded = _encoded(message)
    return struct.pack("<I", len(encoded)) + encoded


def _message(content: bytes) -> Message:
    return tuple(_fields(content))


def _fields(content: bytes) -> Iterator[Field]:
    at = 0
    while at < len(content):
        head, at = _read_varint(content, at)
        number, wire = head >> 3, head & 7
        if wire == _VARINT:
            value, at = _read_varint(content, at)
            yield Field(number, wire, value)
            continue
        match wire:
            case w if w == _FIXED64:
                length = 8
            case w if w == _FIXED32:
                length = 4
            case w if w == _BYTES:
                length, at = _read_varint(content, at)
            case _:
                raise ImageError(f"a field has wire type {wire}")
        at += length
        if at > len(content):
            raise ImageError("a field is cut off")
        yield Field(number, wire, content[at - length : at])


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content):
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
    raise ImageError("a number is cut off")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while True:
        byte, value = value & 0x7F, value >> 7
        encoded.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def _encoded(message: Message) -> bytes:
    parts = []
    for it in message:
        parts.append(_varint(it.number << 3 | it.wire))
        if isinstance(it.value, int):
            parts.append(_varint(it.value))
        else:
            length = _varint(len(it.value)) if it.wire == _BYTES else b""
            parts += [length, it.value]
    return b"".join(parts)
