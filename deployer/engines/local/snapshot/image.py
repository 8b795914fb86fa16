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

The only module that knows the program.  What a look at the machine finds is
remembered under the program, the kernel and the user it was found with, so a plan
that changes nothing runs nothing.

CRIU before 4.2 fails on current kernels: 3.17 at the vDSO, 4.1.1 at SO_PASSCRED on
TCP sockets.
"""

import hashlib
import hmac
import ipaddress
import json
import os
import re
import secrets
import signal
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import psutil

from deployer.artefacts.sources.files import DigestCache, Stamp, stamp_of
from deployer.artefacts.store import Entry
from deployer.engines.local.snapshot.proof import is_complete
from deployer.engines.registry import Abilities
from deployer.planning.events import unwatched
from deployer.planning.resources import digest
from deployer.stack.fields.values import Flat, JsonValue
from deployer.system.children import find_program, search_path, variables

if TYPE_CHECKING:
    import subprocess


VARIABLE: Final = "DEPLOYER_CRIU"
"""Names the program, where it is not the `criu` on PATH."""
RESTORE_LOG: Final = "restore.log"
"""File in the folder of a restored server that holds what CRIU says."""
OLDEST: Final = (4, 2)
OWN_PIDS: Final = ("--pid", "--fork", "--kill-child", "--mount-proc")
"""Options of `unshare`: the pids of the image are free in there, whoever has them."""
OWN_CLOCK: Final = ("--time", "--fork", "--kill-child")
"""The clocks of the image go on where they stood: else a server that sleeps when idle
would take the time that the image lay on the disk for idleness."""

_INSTALL: Final = (
    "`scripts/install-criu.sh PREFIX` installs it on Debian-like systems; then"
    f" `export {VARIABLE}=PREFIX/bin/criu`"
)
_PRIVILEGES: Final = (
    "run deployer as root (in a container: with CAP_SYS_ADMIN, CAP_SYS_PTRACE,"
    " CAP_CHECKPOINT_RESTORE and CAP_NET_ADMIN)"
)
_SECONDS: Final = 20
_CAPTURE_SECONDS: Final = 600
_ERROR_LINES: Final = 3


@dataclass(frozen=True, slots=True)
class Capability:
    """Whether snapshots work on this machine."""

    works: bool
    program: str
    version: str
    why: str = ""
    """Why they do not."""
    hint: str = ""
    """What to do about it."""


def capability(environment: Mapping[str, str], home: Path) -> Capability:
    """Whether snapshots work here; found out once, and remembered below ``home``."""
    now = stamp(environment)
    file = home / "cache" / "criu.json"
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["stamp"] == now:
            return Capability(**known["found"])
    found = _found(environment)
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.new")
        draft.write_text(json.dumps({"stamp": now, "found": asdict(found)}), "utf-8")
        draft.replace(file)
    return found


def abilities_here(
    abilities: Abilities, environment: Mapping[str, str], home: Path
) -> Abilities:
    """Return the abilities of the local engine, as far as this machine has them."""
    found = capability(environment, home)
    return replace(abilities, snapshots=found.works, why_not=found.why, hint=found.hint)


def stamp(environment: Mapping[str, str]) -> str:
    """Return what the answer depends on: program, kernel, user."""
    program = _program(environment)
    try:
        status = Path(program).stat()
        of_program = f"{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_size}"
    except OSError:
        of_program = ""
    return f"1:{program}:{of_program}:{os.uname().release}:{os.geteuid()}"


def candidates(environment: Mapping[str, str]) -> Iterator[str]:
    """The files that decide which program it is: the first that is one."""
    if named := environment.get(VARIABLE):
        yield named
        return
    found = _program(environment)
    for folder in search_path(environment):
        yield (path := os.path.join(folder, "criu"))  # noqa: PTH118 - as `which` does
        if path == found:
            return


def dump(program: str, pid: int, images: Path) -> str:
    """Freeze a process into a folder and end it; the reason where that fails.

    Connections of clients are closed, not captured.  A process that could not be
    frozen goes on.
    """
    options = ("--tcp-close", "-v2", "-o", "dump.log")
    argv = (program, "dump", "-t", str(pid), "-D", str(images), *options)
    done = _run(argv, _CAPTURE_SECONDS)
    if done is None:
        return f"it did not end within {_CAPTURE_SECONDS} s"
    if done.returncode:
        return errors_in(images / "dump.log") or f"exit code {done.returncode}"
    _run((program, "cpuinfo", "dump", "-D", str(images)), _SECONDS)
    return ""


def fits_cpu(program: str, images: Path) -> bool:
    """Return whether this processor can do what that of the image could."""
    done = _run((program, "cpuinfo", "check", "-D", str(images)), _SECONDS)
    return done is not None and done.returncode == 0


def restoring(program: str, images: Path, folder: Path, log: str) -> tuple[str, ...]:
    """The command that brings a process back, and lasts as long as that.

    What the process wrote to the file ``log`` goes to stdout of the command.
    """
    # With a descriptor the file itself need not be there, nor be the same.
    inherit = ("--inherit-fd", f"fd[1]:{log.lstrip('/')}")
    where = ("-D", str(images), "-W", str(folder), "-o", RESTORE_LOG, "-v2")
    return (program, "restore", "--tcp-close", *where, *inherit)


def errors_in(log: Path) -> str:
    """Return what CRIU says went wrong."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    # That it may not raise its own limit of files is said in every run, and harmless.
    wrong = [line for line in lines if "Error" in line and "RLIMIT" not in line]
    plain = [re.sub(r"^.*Error \([^)]*\): ", "", line).strip() for line in wrong]
    return "; ".join(plain[:_ERROR_LINES])


def _program(environment: Mapping[str, str]) -> str:
    return environment.get(VARIABLE) or find_program("criu", environment) or ""


def _found(environment: Mapping[str, str]) -> Capability:
    program = _program(environment)
    if not sys.platform.startswith("linux"):
        return Capability(
            works=False, program=program, version="", why="CRIU needs Linux"
        )
    if not program:
        why = "CRIU is not installed"
        return Capability(works=False, program="", version="", why=why, hint=_INSTALL)
    version = _version(program)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    why = hint = ""
    if not numbers:
        why, hint = f"`{program}` is not a CRIU that runs here", _INSTALL
    elif numbers < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        why, hint = f"CRIU {version} is too old, {wanted} is needed", _INSTALL
    elif why := _refusal(program):
        hint = _PRIVILEGES
    return Capability(not why, program, version, why, hint)


def _version(program: str) -> str:
    done = _run((program, "--version"), _SECONDS)
    found = re.search(r"Version: ([\d.]+)", done.stdout) if done is not None else None
    return found[1] if found else ""


def _refusal(program: str) -> str:
    """Return what this machine or its user lacks; empty where all is there."""
    unshare = find_program("unshare", os.environ)
    if unshare is None or find_program("setsid", os.environ) is None:
        return "`unshare` and `setsid` of util-linux are missing"
    for options in (OWN_PIDS, OWN_CLOCK):
        done = _run((unshare, *options, "true"), _SECONDS)
        if done is None or done.returncode:
            said = "it hangs" if done is None else _last_line(done.stderr)
            return f"processes cannot be set apart here: {said}"
    done = _run((program, "check"), _SECONDS)
    if done is None:
        return "`criu check` hangs"
    if done.returncode:
        return f"`criu check` says: {_last_line(done.stdout + done.stderr)}"
    return ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"


def _run(
    argv: Sequence[str], seconds: float
) -> "subprocess.CompletedProcess[str] | None":
    """Run to the end; None where it takes too long, an exit code where it cannot.

    A CRIU that is killed leaves helpers, stopped for ever: they end with it, and hold
    no pipe that would be read until they do.
    """
    import subprocess  # noqa: PLC0415 - who asks for the stamp alone needs none
    from tempfile import TemporaryFile  # noqa: PLC0415 - as above

    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as out,
        TemporaryFile("w+", encoding="utf-8", errors="replace") as err,
    ):
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell, and an argv of our own
                argv,
                env=variables(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # Ctrl-C is for us to answer
            )
        except OSError as error:
            return subprocess.CompletedProcess(argv, 127, "", error.strerror or "")
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(argv, code, out.read(), err.read())


OTHER_KEY: Final = "the API key has changed since it was taken"
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
    """Of the variables that a server computes by."""
    kept = {k: v for k, v in variables.items() if k not in _PLACES}
    return digest(dict(kept))


def sealed(api_key: str | None) -> JsonValue:
    """Return what tells later whether a key is the same, and not which one it is."""
    if api_key is None:
        return None
    salt = secrets.token_hex(_SALT_BYTES)
    return {"salt": salt, "sha256": _hash(api_key, salt)}


def flaw_of(
    entry: Entry,
    *,
    variables: Mapping[str, str],
    api_key: str | None,
    key_is_known: bool,
    program: str,
    digests: DigestCache,
) -> str:
    """Why an image must not be used; empty where everything is as it was.

    A key that the environment does not hold cannot be compared, and so is no reason.
    """
    if problems := entry.problems():
        return f"the image is damaged: {problems[0]}"
    about = entry.about
    if not is_complete(about.get("proof")):
        return "its manifest holds no answers that would prove a restored server"
    for changed in (
        _other_machine(about.get("machine"), entry, program),
        _other_files(about.get("depends"), digests),
        _other_key(about.get("api_key"), api_key) if key_is_known else "",
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


def _other_key(then: JsonValue, api_key: str | None) -> str:
    match then:
        case None:
            same = api_key is None
        case {"salt": str(salt), "sha256": str(hashed)}:
            same = api_key is not None and hmac.compare_digest(
                hashed, _hash(api_key, salt)
            )
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


def _hash(api_key: str, salt: str) -> str:
    # Nothing slow: the image beside it holds the key itself.
    return hmac.new(bytes.fromhex(salt), api_key.encode(), hashlib.sha256).hexdigest()


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
