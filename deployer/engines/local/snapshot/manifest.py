"""What an image of a server depends on, and whether all of it is still the same.

Sizes and digests of the image files themselves are in the manifest of the store.
Here is the rest: every file that the process had mapped (binary, libraries, the model
under mmap), the kernel, the processor, the environment, and the API key, of which a
salted hash tells whether it is the same.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from deployer.artefacts.sources.digests import DigestCache, Stamp, stamp_of
from deployer.artefacts.store import Entry
from deployer.engines.local.snapshot.criu import fits_cpu
from deployer.engines.local.snapshot.proof import is_complete
from deployer.planning.keys import digest
from deployer.planning.progress import unwatched
from deployer.stack.fields.values import Flat, JsonValue

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
