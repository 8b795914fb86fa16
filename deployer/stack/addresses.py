"""Hosts as clients understand them: this machine, and what clouds tell a machine.

git decodes `%` in an address, finds a repository beside the name that it was given, and
follows what lies in one to other places.  A stack may come from a stranger, so an
address of this machine says plainly where it leads, or is refused.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from deployer.stack.fields.values import HERE

_NAMES = ("metadata.google.internal", "metadata.goog", "metadata", "instance-data")
_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            *("169.254.0.0/16", "fe80::/10", "fd00:ec2::/32", "fd20:ce::/32"),
            *("100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32"),
        ),
    )
)
"""Link-local addresses, and those of AWS, Google, Alibaba, Azure and Oracle beyond."""
_HOST = re.compile(
    r"[A-Za-z+]+://(?:[^/?#@]*@)*(?P<url>\[[^]]*\]|[^/?#:@]*)|(?:[^/@:]*@)?(?P<git>[^/:]+):"
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def host_of(address: str) -> str:
    """The host of a URL, or of ``git@host:path``; empty where there is none."""
    found = _HOST.match(address)
    return (found["url"] or found["git"] or "") if found else ""


def is_loopback(host: str) -> bool:
    """Return whether a host is surely this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_metadata(host: str) -> bool:
    """Return whether a host is where a cloud gives a machine its credentials.

    Also as C libraries read it: ``0xA9FEA9FE``, ``2852039166``, ``169.254.43518``.
    """
    name = host.lower().strip("[]").rstrip(".").partition("%")[0]
    if name in _NAMES or name.startswith("instance-data."):
        return True
    return any(
        address.version == network.version and address in network
        for address in _addresses(name)
        for network in _NETWORKS
    )


def _addresses(name: str) -> Iterator[Address]:
    try:
        found: Address = ipaddress.ip_address(name)
    except ValueError:
        with suppress(
            OSError, ValueError
        ):  # one to four numbers, octal and hexadecimal too
            yield ipaddress.IPv4Address(socket.inet_aton(name))
        return
    yield found
    if isinstance(found, ipaddress.IPv6Address):
        inner = (found.ipv4_mapped, found.sixtofour, *(found.teredo or ()))
        yield from filter(None, inner)
        yield ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)  # 64:ff9b::a.b.c.d


_SCP = re.compile(r"\w[\w.-]*@\w[\w.-]*:[\w./][\w./-]*")
_ELSEWHERE = ("commondir", "objects/info/alternates", "objects/info/http-alternates")
"""Files by which a repository takes its content from another folder."""


def folder_of(repo: str) -> str | None:
    """The folder of this machine that an address names; None for the network's."""
    return repo.removeprefix(HERE) if repo.lower().startswith(HERE) else None


def trouble_of(repo: str) -> tuple[str, str] | None:
    """Return what is wrong with an address, and what to write; None for a good one."""
    if any(ord(character) < 0x20 or character == "\x7f" for character in repo):
        return "an address contains no control characters", ""
    if (folder := folder_of(repo)) is not None:
        return _trouble_here(repo, folder)
    try:
        parts = urlsplit(repo)
        host, user = parts.hostname or "", parts.username or ""
    except ValueError:
        return _unknown(repo)
    if parts.password or (parts.scheme == "https" and user):
        what = f"the address of `{host}` carries a user name or password"
        return what, "lock files are shared: let a git credential helper know it"
    known = repo.startswith(("https://", "ssh://")) and host and "\\" not in repo
    # ssh takes a host or a user that begins with a dash for an option.
    if known and not host.startswith("-") and not user.startswith("-"):
        return None
    return None if _SCP.fullmatch(repo) else _unknown(repo)


def places_of(folder: str) -> Iterator[Path]:
    """Every folder that git may take for the repository at a path."""
    for ending in ("", "/.git", ".git", ".git/.git"):
        yield Path(f"{folder.rstrip('/')}{ending}")


def leads_out(folder: Path) -> str:
    """Why the repository of a folder is not all in it; empty where it is."""
    inner = folder / ".git"
    if inner.is_symlink() or inner.is_file():
        return f"`{inner}` names a repository that lies elsewhere"
    place = inner if inner.is_dir() else folder
    for name in _ELSEWHERE:
        if (place / name).exists() or (place / name).is_symlink():
            return f"`{place / name}` takes what it has from elsewhere"
    for above, folders, files in os.walk(place):
        for name in (*folders, *files):
            if (link := Path(above, name)).is_symlink():
                return f"`{link}` is a link"
    return ""


def _trouble_here(repo: str, folder: str) -> tuple[str, str] | None:
    if not repo.startswith(HERE) or not folder.startswith("/"):
        what = f"`{repo}` names a host, and a file has none"
        return what, "write `file:///…`, three slashes and the path"
    for sign, why in (("%", "git decodes it"), ("\\", "it is no path"), ("~", "")):
        if sign in folder:
            what = f"`{repo}` contains `{sign}`{': ' if why else ''}{why}"
            return what, "write the path itself, as `ls` shows it"
    return None


def _unknown(repo: str) -> tuple[str, str]:
    return (
        f"`{repo}` is not an address of a git repository",
        "use `https://…`, `ssh://…`, `git@host:path` or `file:///…`",
    )
